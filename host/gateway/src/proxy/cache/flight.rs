//! One fetch for many requests: who asks the upstream for a key, and what becomes of it, for the requests of all workers that wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{HeaderMap, StatusCode};
use sluice_cache::freshness::{Failure, Stored};
use sluice_cache::key::Key;
use sluice_cache::store::{Generation, Object, Tags};
use sluice_cache::vary::Variant;
use tokio::sync::watch;

use super::fill::Fill;
use super::uncollapsible::Uncollapsible;
use crate::proxy::error::ProxyError;

const SHARDS: usize = 64;

/// What a fetch is for. Responses to requests with credentials are often for nobody else: those without do not wait for them. Nor do
/// requests that select different responses, as soon as it is known what those vary by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Target {
    pub(super) key: Key,
    pub(super) variant: Option<[u8; 16]>,
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
    /// Of the store, before the request was sent.
    pub born: Generation,
    /// What purges can reach it by.
    pub tags: Tags,
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
    /// It fetches for itself: the key's responses are for nobody else.
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
    /// `born` is the generation of the store now, `now` a time in seconds. `is_purged` says whether a purge since a generation has reached what
    /// a fetch came to: its response is for those who came before then. Who comes now fetches anew, for all who come from now on.
    pub(super) fn join(
        flights: &Arc<Flights>,
        target: Target,
        born: Generation,
        now: u64,
        is_purged: impl FnOnce(Generation, &State) -> bool,
    ) -> Role {
        if flights.alone.has(&target, now) {
            return Role::Apart;
        }
        let mut shard = flights.shard(&target);
        if let Some(known) = shard.get(&target)
            && (known.born == born || !is_purged(known.born, &known.state.borrow()))
        {
            return Role::Follower(known.state.subscribe());
        }
        let state = Arc::new(watch::Sender::new(State::Waiting));
        shard.insert(target, Flight { born, state: Arc::clone(&state) });
        Role::Leader(Lead { flights: Some((Arc::clone(flights), target)), state })
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
            let mut shard = flights.shard(target);
            // After a purge, another one may have taken its place.
            if shard.get(target).is_some_and(|known| Arc::ptr_eq(&known.state, &self.state)) {
                shard.remove(target);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use sluice_cache::digest::Secret;
    use sluice_cache::key::{KeyInput, KeyRule};
    use sluice_cache::store::{Limits, Purge, Store, Strength};

    use super::*;

    fn target() -> Target {
        let headers = HeaderMap::new();
        let input = KeyInput {
            group: "",
            upstream: "",
            scheme: "http",
            host: "shop.example",
            path: "/a",
            query: None,
            headers: &headers,
            consumer: None,
            parts: &[],
        };
        Target { key: KeyRule::default().key(&input, &Secret::new([1; 16])), variant: None, has_credentials: false }
    }

    #[test]
    fn a_purge_of_something_else_ends_no_flight() {
        let store = Store::new(Limits { bytes: 1 << 20, object: 1 << 17, variants: 4 }, Secret::new([1; 16]));
        let flights = Arc::new(Flights::default());
        let tags = Tags::new("shop.example", "/a", None, [], store.secret());
        let join =
            || Flights::join(&flights, target(), store.generation(), 0, |born, _| store.is_purged_since(born, &tags));
        let purge = |path, strength| {
            let now = std::time::SystemTime::now();
            store.purge(&Purge::Url { host: "shop.example", path, query: None }, strength, now);
        };
        let Role::Leader(first) = join() else { panic!("the first one leads") };
        purge("/b", Strength::Hard);
        assert!(matches!(join(), Role::Follower(_)));
        let mut leads = vec![first];
        for strength in [Strength::Hard, Strength::Soft] {
            purge("/a", strength);
            // One begins anew, and all who come then follow that one.
            let Role::Leader(next) = join() else { panic!("{strength:?}: nobody leads") };
            leads.push(next);
            assert!(matches!(join(), Role::Follower(_)), "{strength:?}");
        }
        // The end of those before it takes nothing of the last one away.
        let last = leads.pop();
        drop(leads);
        assert!(matches!(join(), Role::Follower(_)));
        drop(last);
        assert!(matches!(join(), Role::Leader(_)));
    }
}
