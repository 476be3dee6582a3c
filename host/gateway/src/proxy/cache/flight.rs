//! One fetch for many requests: who asks the upstream for a key, and what becomes of it, for the requests of all workers that wait.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{HeaderMap, StatusCode};
use sluice_cache::freshness::{Failure, Stored};
use sluice_cache::key::Key;
use sluice_cache::store::{Generation, Object};
use sluice_cache::vary::Variant;
use tokio::sync::watch;

use super::fill::Fill;
use super::uncollapsible::Uncollapsible;
use crate::proxy::error::ProxyError;

const SHARDS: usize = 64;

/// What a fetch is for. Responses to requests with credentials are often for nobody else: those without do not wait for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Target {
    pub(super) key: Key,
    pub(super) has_credentials: bool,
}

/// The fetches under way. A lock is held for a look only.
pub struct Flights {
    shards: Box<[Mutex<HashMap<Target, Flight>>]>,
    alone: Uncollapsible,
}

struct Flight {
    born: Generation,
    state: Arc<watch::Sender<State>>,
}

/// How far a fetch is.
#[derive(Clone)]
pub(super) enum State {
    /// The upstream has not answered.
    Waiting,
    /// The head of a response is there that others may have.
    Streaming(Arc<Live>),
    /// The response is stored.
    Stored(Arc<Object>),
    /// There is no response, or one that a stale response may take the place of.
    Failed(Arc<Failed>),
    /// The response is for its request alone.
    Alone,
}

/// A response whose content is on its way.
pub(super) struct Live {
    pub status: StatusCode,
    pub head: HeaderMap,
    pub stored: Stored,
    pub variant: Variant,
    pub fill: Arc<Fill>,
}

/// A fetch without a good response.
pub(super) struct Failed {
    pub failure: Failure,
    /// None where the upstream has answered.
    pub error: Option<ProxyError>,
}

/// What a request is to a fetch.
pub(super) enum Role {
    /// It begins one.
    Leader(Lead),
    /// It waits for one.
    Follower(watch::Receiver<State>),
    /// It fetches for itself: a purge came after the fetch had begun, or the key's responses are for nobody else.
    Apart,
}

/// The right to fetch for a key. Others wait until it is dropped, and begin anew where it has told them nothing.
pub(super) struct Lead {
    flights: Option<(Arc<Flights>, Target)>,
    state: Arc<watch::Sender<State>>,
}

impl Default for Flights {
    fn default() -> Self {
        Flights { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), alone: Uncollapsible::default() }
    }
}

impl Flights {
    /// `born` is the generation of the store now, `now` a time in seconds.
    pub(super) fn join(flights: &Arc<Flights>, target: Target, born: Generation, now: u64) -> Role {
        if flights.alone.has(&target, now) {
            return Role::Apart;
        }
        match flights.shard(&target).entry(target) {
            Entry::Occupied(known) if known.get().born == born => Role::Follower(known.get().state.subscribe()),
            Entry::Occupied(_) => Role::Apart,
            Entry::Vacant(place) => {
                let state = Arc::new(watch::Sender::new(State::Waiting));
                place.insert(Flight { born, state: Arc::clone(&state) });
                Role::Leader(Lead { flights: Some((Arc::clone(flights), target)), state })
            }
        }
    }

    /// The response was for its request alone.
    pub(super) fn note_alone(&self, target: &Target, now: u64) {
        self.alone.note(target, now);
    }

    fn shard(&self, target: &Target) -> MutexGuard<'_, HashMap<Target, Flight>> {
        let shard = &self.shards[usize::from(target.key.to_bytes()[15]) % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lead {
    /// A fetch that nobody waits for.
    pub(super) fn apart() -> Lead {
        Lead { flights: None, state: Arc::new(watch::Sender::new(State::Waiting)) }
    }

    pub(super) fn publish(&self, state: State) {
        self.state.send_replace(state);
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if let Some((flights, target)) = &self.flights {
            flights.shard(target).remove(target);
        }
    }
}
