//! State that gateways share: limits and values in Redis or Valkey instead of the memory of this process. A [`Store`] is one such service, a single
//! server, a group with Sentinels or a cluster; it outlives reloads. The `redis` crate speaks the protocol, here is what a gateway adds: each
//! worker has a connection of its own that its requests share (`link`), calls are bounded in number and time, and while the store is away
//! the answer is what the operator has chosen ([`Away`]), at once.
//!
//! Limits are exact ([`exact`]: each decision is the store's) or leased ([`leased`]: decided here, told the store behind the request). Limits of
//! requests at the same time are the store's ([`places`]).

mod address;
mod blobs;
mod connect;
pub mod exact;
mod journal;
pub mod leased;
mod link;
pub mod places;
mod records;
mod script;
mod store;
pub mod values;

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::Clock;
use crate::places::PlaceSpace;

pub use self::address::{BadAddress, ServerAddress};
pub use self::blobs::Blobs;
pub use self::exact::ExactCounters;
pub use self::journal::{Due as JournalDue, Identity as JournalIdentity, Journal, Reader as JournalReader};
pub use self::leased::LeasedCounters;
use self::leased::Ledger;
pub(crate) use self::places::SharedPlace;
pub use self::places::SharedPlaces;
pub use self::records::{News, RecordError, Records, Seen};
pub use self::store::{Outcome, Store};
pub use self::values::RemoteValues;

/// What a store is: two with the same specification are the same.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreSpec {
    /// Its name in the configuration.
    pub name: Box<str>,
    /// The servers, or the Sentinels, or some nodes of the cluster.
    pub servers: Vec<ServerAddress>,
    pub topology: Topology,
    pub login: Login,
    /// Of the Sentinels.
    pub sentinel_login: Login,
    /// Not in a cluster, which has one.
    pub database: i64,
    pub tls: TlsFiles,
    /// Of one call, from when it is made to its answer.
    pub timeout: Duration,
    pub connect_timeout: Duration,
    /// Calls of a worker that may wait for an answer at a time.
    pub max_waiting: usize,
    pub away: Away,
    /// What all keys begin with.
    pub prefix: Box<str>,
}

/// What kind of service it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topology {
    Single,
    /// The servers are Sentinels, which know the master of this name.
    Sentinel {
        master: Box<str>,
    },
    Cluster,
}

/// Who the gateway is there.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Login {
    pub username: Option<Box<str>>,
    pub password: Option<Box<str>>,
}

/// PEM texts for connections with TLS.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct TlsFiles {
    /// Instead of the authorities of the system.
    pub authorities: Option<Box<[u8]>>,
    /// The certificate and key of the gateway.
    pub identity: Option<Identity>,
}

/// A certificate chain and its key, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    pub certificate: Box<[u8]>,
    pub key: Box<[u8]>,
}

/// What becomes of a call while the store does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Away {
    /// Each gateway counts and keeps for itself.
    Local,
    /// Limits allow, nothing is kept.
    Open,
    /// The call fails with `unavailable`.
    Closed,
}

/// How limits are decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limits {
    /// By the store, in a call for each decision.
    Exact,
    /// Here; what is let through before the store knows of it is at most this much of each limit.
    Leased { most: u64 },
    /// By each gateway for itself.
    Local,
}

/// Where values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// In the store.
    Shared,
    /// In each gateway.
    Local,
}

/// Where the limits and values of a plugin are.
#[derive(Clone)]
pub struct Place {
    pub store: Arc<Store>,
    pub limits: Limits,
    pub values: Values,
}

impl Place {
    /// Whether requests at the same time are counted in the store: where a call of the plugin may wait for it.
    pub fn shares_places(&self) -> bool {
        self.limits == Limits::Exact || self.values == Values::Shared
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Place) -> bool {
        Arc::ptr_eq(&self.store, &other.store) && self.limits == other.limits && self.values == other.values
    }
}

impl fmt::Debug for StoreSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreSpec").field("name", &self.name).field("servers", &self.servers).finish_non_exhaustive()
    }
}

/// Work behind the requests.
type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// All stores of the gateway.
pub struct Stores {
    clock: Clock,
    open: Mutex<Vec<Weak<Store>>>,
    leased: Mutex<Vec<Known>>,
    places: Mutex<Vec<KnownPlaces>>,
    /// Starts a task that is no request.
    start: OnceLock<Box<dyn Fn(Task) + Send + Sync>>,
}

/// Leased counters that are in use.
struct Known {
    plugin: Box<str>,
    store: u64,
    most: u64,
    counters: Weak<LeasedCounters>,
    /// Lives until the store has been told everything.
    ledger: Weak<Ledger>,
}

/// Places of requests that are in use.
struct KnownPlaces {
    plugin: Box<str>,
    store: u64,
    places: Weak<SharedPlaces>,
    ledger: Weak<places::Ledger>,
}

impl Stores {
    /// Without stores.
    pub fn new(clock: Clock) -> Self {
        let (open, leased, places) = Default::default();
        Stores { clock, open, leased, places, start: OnceLock::new() }
    }

    /// Says how work behind the requests is started. Before that, leased counters tell the store nothing.
    pub fn start_with(&self, start: impl Fn(Task) + Send + Sync + 'static) {
        let _ = self.start.set(Box::new(start));
    }

    /// The store of this specification: the one that is in use, or a new one. Nothing is connected before a call is made. Errors: a
    /// certificate or key that can't be used.
    pub fn open(&self, spec: StoreSpec) -> Result<Arc<Store>, String> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|store| store.strong_count() > 0);
        if let Some(known) = open.iter().filter_map(Weak::upgrade).find(|store| *store.spec() == spec) {
            return Ok(known);
        }
        let store = Arc::new(Store::new(spec).map_err(|error| error.to_string())?);
        open.push(Arc::downgrade(&store));
        Ok(store)
    }

    /// Has a journal read and written behind the requests. Answers nothing where no task can be started, as in `check`.
    pub fn follow(&self, journal: Journal, reader: Weak<impl JournalReader>) {
        if let Some(start) = self.start.get() {
            start(Box::pin(journal.run(reader)));
        }
    }

    /// Those that are in use.
    pub fn in_use(&self) -> Vec<Arc<Store>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter().filter_map(Weak::upgrade).collect()
    }

    /// The leased counters of a plugin: those that are in use, or new ones.
    pub fn leased(&self, plugin: &str, store: &Arc<Store>, most: u64) -> Arc<LeasedCounters> {
        let mut leased = self.leased.lock().unwrap_or_else(PoisonError::into_inner);
        leased.retain(|known| known.ledger.strong_count() > 0);
        let is_same = |known: &&Known| *known.plugin == *plugin && known.store == store.id() && known.most == most;
        if let Some(known) = leased.iter().find(is_same).and_then(|known| known.counters.upgrade()) {
            return known;
        }
        let counters = Arc::new(LeasedCounters::new(store.clone(), plugin, self.clock.clone(), most));
        if let Some(start) = self.start.get() {
            start(Box::pin(Arc::clone(counters.ledger()).report()));
        }
        let (of, ledger) = (Arc::downgrade(&counters), Arc::downgrade(counters.ledger()));
        leased.push(Known { plugin: plugin.into(), store: store.id(), most, counters: of, ledger });
        counters
    }

    /// The places of a plugin: those that are in use, or new ones.
    pub fn places(&self, plugin: &str, store: &Arc<Store>, local: Arc<PlaceSpace>) -> Arc<SharedPlaces> {
        let mut known = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|known| known.ledger.strong_count() > 0);
        let is_same = |known: &&KnownPlaces| *known.plugin == *plugin && known.store == store.id();
        if let Some(found) = known.iter().find(is_same).and_then(|known| known.places.upgrade()) {
            return found;
        }
        let places = Arc::new(SharedPlaces::new(store.clone(), plugin, local));
        if let Some(start) = self.start.get() {
            start(Box::pin(Arc::clone(places.ledger()).report()));
        }
        let (of, ledger) = (Arc::downgrade(&places), Arc::downgrade(places.ledger()));
        known.push(KnownPlaces { plugin: plugin.into(), store: store.id(), places: of, ledger });
        places
    }

    /// Waits until what was taken from leased counters is told, and which places are free again, at most so long. For the end of the process, while its tasks still run: what
    /// is not told would pass once more after the restart.
    pub fn flush(&self, most: Duration) {
        let until = Instant::now() + most;
        let leased = self.leased.lock().unwrap_or_else(PoisonError::into_inner);
        let ledgers: Vec<Arc<Ledger>> = leased.iter().filter_map(|known| known.ledger.upgrade()).collect();
        drop(leased);
        for ledger in ledgers {
            ledger.flush(until);
        }
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let ledgers: Vec<_> = places.iter().filter_map(|known| known.ledger.upgrade()).collect();
        drop(places);
        for ledger in ledgers {
            ledger.flush(until);
        }
    }

    /// Counters of a store that it is to be told of.
    pub fn unreported(&self, store: &Arc<Store>) -> usize {
        let leased = self.leased.lock().unwrap_or_else(PoisonError::into_inner);
        let of_store = leased.iter().filter(|known| known.store == store.id());
        of_store.filter_map(|known| known.ledger.upgrade()).map(|ledger| ledger.unreported()).sum()
    }
}
