//! Sets of keys that verify and sign, shared by all workers, filters and snapshots that name the same source.

mod jwk;
mod key;
mod pem;
mod refresh;
mod source;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rustls_pki_types::CertificateDer;
use tokio::sync::Notify;

use self::key::{Algorithm, Key};
pub use self::refresh::{Get, keep_fresh};
pub use self::source::check as check_source;
use self::source::{RemoteSource, Source};
use super::addresses::Reach;
use super::crypto::check_size;
use super::grants::{GrantedOrigin, Origins};
use super::{Clock, Outbound, ServiceError};

/// The keys tried for one signature that names no key.
const MAX_TRIES: usize = 8;

/// How a verification ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verification {
    /// The signature is good.
    Valid,
    /// It is not. A set from a URL will look for a newer key in the background.
    Invalid,
    /// The set has no key of this id for this algorithm; a set from a URL will look for it in the background.
    UnknownKey,
}

/// Which set it is: where it may be fetched from, and its source.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct SetKey {
    reach: Reach,
    source: Box<str>,
    /// Of a set that is found by its issuer: where its keys may be. Who may fetch less must not have the keys of who may fetch more.
    origins: Option<Origins>,
}

/// All key sets in use, by their source and by where they may be fetched from.
pub struct KeySets {
    clock: Clock,
    sets: Mutex<HashMap<SetKey, Weak<KeySet>>>,
    fetches: Arc<Fetches>,
    outbound: Arc<dyn Outbound>,
}

/// Fetches of all sets that there were: a sum over those that are held would fall.
#[derive(Debug, Default)]
struct Fetches {
    succeeded: AtomicU64,
    failed: AtomicU64,
}

impl KeySets {
    /// No sets. Those that have a URL are fetched by `outbound`.
    pub fn new(clock: Clock, outbound: Arc<dyn Outbound>) -> Self {
        KeySets { clock, sets: Mutex::default(), fetches: Arc::default(), outbound }
    }

    /// The set that this source declares (see `crypto.key-set` in the WIT package), made if nobody holds it yet. Never blocks: a new set from a
    /// URL is fetched in the background, and has the keys of a held one from the same URL until then. Errors: `Invalid` for a source that is
    /// not as documented, `NotGranted` for a URL whose origin is not granted.
    pub fn resolve(&self, source: &str, origins: &Origins) -> Result<Arc<KeySet>, ServiceError> {
        for origins_of in [None, Some(origins)] {
            for reach in Reach::ALL {
                let key = SetKey { reach, source: source.into(), origins: origins_of.cloned() };
                if let Some(set) = self.known(&key)
                    && set.check_grant(origins)? == reach
                {
                    return Ok(set);
                }
            }
        }
        let set = match source::parse(source).map_err(ServiceError::Invalid)? {
            Source::Keys(keys) => KeySet { keys: ArcSwap::from_pointee(keys), remote: None },
            Source::Remote(remote) => {
                let reach = origins.check(&remote.origin)?;
                let key_origins = remote.issuer.is_some().then(|| origins.clone());
                let remote = Remote::new(remote, reach, key_origins, self.clock.clone(), Arc::clone(&self.fetches));
                let same = self.held().into_iter().find(|held| held.is_from(&remote));
                let keys = same.map_or_else(ArcSwap::default, |same| {
                    remote.fetched_us.store(same.fetched_us(), Ordering::Release);
                    ArcSwap::new(same.keys.load_full())
                });
                KeySet { keys, remote: Some(remote) }
            }
        };
        let key_origins = set.remote.as_ref().and_then(|remote| remote.key_origins.clone());
        let key = SetKey { reach: set.check_grant(origins)?, source: source.into(), origins: key_origins };
        let set = {
            let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
            // Another thread may have been faster; then its set is the one that is fetched.
            if let Some(other) = sets.get(&key).and_then(Weak::upgrade) {
                return Ok(other);
            }
            sets.retain(|_, set| set.strong_count() > 0);
            let set = Arc::new(set);
            sets.insert(key, Arc::downgrade(&set));
            set
        };
        if set.remote.is_some() {
            self.outbound.keep_fresh(&set)?;
        }
        Ok(set)
    }

    /// As [`KeySets::resolve`], for a source that the operator has given: its URL needs no grant. What the metadata of an issuer name has to
    /// be of the same origin. Sets without a URL are not shared.
    pub fn resolve_trusted(&self, source: &str) -> Result<Arc<KeySet>, ServiceError> {
        match source::parse(source).map_err(ServiceError::Invalid)? {
            Source::Keys(keys) => Ok(Arc::new(KeySet { keys: ArcSwap::from_pointee(keys), remote: None })),
            Source::Remote(remote) => {
                let granted = GrantedOrigin { origin: remote.origin, allow_private: true };
                self.resolve(source, &Origins::from_iter([granted]))
            }
        }
    }

    fn known(&self, key: &SetKey) -> Option<Arc<KeySet>> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner).get(key).and_then(Weak::upgrade)
    }

    /// The sets that somebody holds now.
    pub fn held(&self) -> Vec<Arc<KeySet>> {
        let sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        sets.values().filter_map(Weak::upgrade).collect()
    }

    /// Whether every set that is held has keys.
    pub fn ready(&self) -> bool {
        self.held().iter().all(|set| set.ready())
    }

    /// **Blocks** until every set that is held has keys, for at most `wait` in all. Answers why those that have none do not.
    pub fn wait_until_ready(&self, wait: Duration) -> Vec<String> {
        let until = Instant::now() + wait;
        let waited = self.held().into_iter().map(|set| set.wait(until, Awaited::Keys));
        waited.filter_map(Result::err).collect()
    }

    /// Fetches that brought a set and those that did not, of sets that nobody holds any more, too.
    pub fn fetches(&self) -> [u64; 2] {
        [&self.fetches.succeeded, &self.fetches.failed].map(|count| count.load(Ordering::Relaxed))
    }

    /// The fetched sets and how their refresh goes, for the metrics.
    pub fn statistics(&self) -> Vec<KeySetStatistics> {
        self.held().iter().filter_map(|set| set.remote.as_ref().map(|remote| remote.statistics(set.len()))).collect()
    }
}

/// How the refresh of one fetched set goes.
#[derive(Debug, Clone)]
pub struct KeySetStatistics {
    /// Without its query.
    pub url: String,
    pub keys: usize,
    /// Fetches that brought a set.
    pub succeeded: u64,
    /// Fetches that did not.
    pub failed: u64,
    /// Since the last fetch that brought a set; `None` before the first.
    pub age: Option<Duration>,
}

/// A set of keys. Reading it takes no lock.
#[derive(Debug)]
pub struct KeySet {
    keys: ArcSwap<Vec<Key>>,
    remote: Option<Remote>,
}

impl KeySet {
    /// Whether there are keys to ask: false for a set from a URL that could not be fetched yet.
    pub fn ready(&self) -> bool {
        self.remote.as_ref().is_none_or(|remote| remote.fetched_us.load(Ordering::Acquire) != 0)
    }

    /// **Blocks** until the first attempt to fetch the set is over, at most until then. `Err` says why there are no keys.
    pub fn wait_for_first_attempt(&self, until: Instant) -> Result<(), String> {
        self.wait(until, Awaited::Attempt)
    }

    fn wait(&self, until: Instant, awaited: Awaited) -> Result<(), String> {
        let Some(remote) = &self.remote else { return Ok(()) };
        let mut failure = remote.failure.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.ready() && (awaited == Awaited::Keys || failure.is_none()) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            failure = remote.attempted.wait_timeout(failure, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        if self.ready() {
            return Ok(());
        }
        let why = failure.as_deref().unwrap_or("no answer yet");
        Err(format!("the key set {} can't be fetched: {why}", remote.source.name()))
    }

    /// The authorities that its server may be certified by, beside those of the system.
    pub fn authorities(&self) -> &[CertificateDer<'static>] {
        self.remote.as_ref().map_or(&[], |remote| &remote.source.authorities)
    }

    /// Whether it has been fetched from where the other one is, by the same authorities and from addresses of this kind.
    fn is_from(&self, other: &Remote) -> bool {
        let is_same = |own: &Remote| {
            let (a, b) = (&own.source, &other.source);
            (own.reach, &own.key_origins) == (other.reach, &other.key_origins)
                && (&a.url, &a.issuer, &a.authorities) == (&b.url, &b.issuer, &b.authorities)
        };
        self.remote.as_ref().is_some_and(is_same) && self.ready()
    }

    fn fetched_us(&self) -> u64 {
        self.remote.as_ref().map_or(0, |remote| remote.fetched_us.load(Ordering::Acquire))
    }

    /// How many keys the set has now.
    pub fn len(&self) -> usize {
        self.keys.load().len()
    }

    /// Which keys the set has now: another one whenever they were fetched.
    pub(super) fn version(&self) -> Version {
        Version(self.keys.load_full())
    }

    /// Whether the set has no key now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Verifies a signature. An algorithm that is not supported answers `Invalid`. A key without an id fits any id, unless
    /// the set has a key of that very id. Errors: `TooLarge` past 1 MiB, `Unavailable` for a set that is not
    /// [`ready`](KeySet::ready).
    pub fn verify(
        &self,
        algorithm: &str,
        key_id: Option<&str>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<Verification, ServiceError> {
        check_size(message)?;
        check_size(signature)?;
        let Some(algorithm) = Algorithm::parse(algorithm) else { return Ok(Verification::Invalid) };
        let keys = self.keys.load();
        let fits = |key: &&Key| key.verifies && key.fits(algorithm);
        let mut tried = 0;
        for key in candidates(&keys, key_id, fits).take(MAX_TRIES) {
            tried += 1;
            if key.verify(algorithm, message, signature) {
                return Ok(Verification::Valid);
            }
        }
        // A key may have been replaced since, also under its old id. A flood of bad signatures brings one fetch in each cooldown, as a flood
        // of invented ids does.
        if let Some(remote) = &self.remote {
            remote.demand();
        }
        if tried > 0 {
            return Ok(Verification::Invalid);
        }
        self.check_ready()?;
        Ok(Verification::UnknownKey)
    }

    /// Signs with the first private or secret key that fits. Errors: `TooLarge` past 1 MiB, `Invalid` for an unknown
    /// algorithm or when no key of the set can, `Unavailable` for a set that is not [`ready`](KeySet::ready).
    pub fn sign(&self, algorithm: &str, key_id: Option<&str>, message: &[u8]) -> Result<Vec<u8>, ServiceError> {
        check_size(message)?;
        let Some(parsed) = Algorithm::parse(algorithm) else {
            return Err(ServiceError::Invalid(format!("unknown algorithm `{algorithm}`")));
        };
        self.check_ready()?;
        let keys = self.keys.load();
        let fits = |key: &&Key| key.signs && key.fits(parsed);
        let Some(key) = candidates(&keys, key_id, fits).next() else {
            let id = key_id.map(|id| format!(" of id `{id}`")).unwrap_or_default();
            return Err(ServiceError::Invalid(format!("the set has no private key{id} for `{algorithm}`")));
        };
        key.sign(parsed, message).ok_or_else(|| ServiceError::Other(format!("signing with `{algorithm}` failed")))
    }

    fn check_ready(&self) -> Result<(), ServiceError> {
        match &self.remote {
            Some(remote) if !self.ready() => {
                Err(ServiceError::Unavailable(format!("the key set {} has not been fetched yet", remote.source.name())))
            }
            _ => Ok(()),
        }
    }

    /// Where it may be fetched from by these grants.
    fn check_grant(&self, origins: &Origins) -> Result<Reach, ServiceError> {
        self.remote.as_ref().map_or(Ok(Reach::Any), |remote| origins.check(&remote.source.origin))
    }
}

/// The keys of a set at one time.
pub(super) struct Version(Arc<Vec<Key>>);

impl Version {
    /// Whether they are the same.
    pub(super) fn is(&self, other: &Version) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Drop for KeySet {
    fn drop(&mut self) {
        // Its refresh looks whether the set is still there, and ends.
        if let Some(remote) = &self.remote {
            remote.wake.notify_one();
        }
    }
}

/// The keys of this id, or those without an id when there are none of it.
fn candidates<'a>(
    keys: &'a [Key],
    key_id: Option<&'a str>,
    fits: impl Fn(&&Key) -> bool + Copy + 'a,
) -> impl Iterator<Item = &'a Key> + 'a {
    let named = has_id(keys, key_id, fits);
    keys.iter().filter(fits).filter(move |key| match key_id {
        None => true,
        Some(id) if named => key.kid.as_deref() == Some(id),
        Some(_) => key.kid.is_none(),
    })
}

/// Whether a key that fits has this very id; none has it when there is no id.
fn has_id<'a>(keys: &'a [Key], key_id: Option<&str>, fits: impl Fn(&&'a Key) -> bool + Copy) -> bool {
    key_id.is_some_and(|id| keys.iter().filter(fits).any(|key| key.kid.as_deref() == Some(id)))
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    Attempt,
    Keys,
}

/// What a fetched set has beside its keys.
#[derive(Debug)]
struct Remote {
    source: RemoteSource,
    reach: Reach,
    /// Where the keys of an issuer may be, which its metadata say.
    key_origins: Option<Origins>,
    clock: Clock,
    /// Wakes the refresh: a key is missing, or the set is gone.
    wake: Arc<Notify>,
    demanded: AtomicBool,
    /// Why the last attempt has failed; `None` before the first and after a good one.
    failure: Mutex<Option<String>>,
    /// An attempt is over.
    attempted: Condvar,
    succeeded: AtomicU64,
    failed: AtomicU64,
    /// Of all sets.
    fetches: Arc<Fetches>,
    /// Microseconds since the Unix epoch; 0 before the first success.
    fetched_us: AtomicU64,
}

impl Remote {
    fn new(
        source: RemoteSource,
        reach: Reach,
        key_origins: Option<Origins>,
        clock: Clock,
        fetches: Arc<Fetches>,
    ) -> Self {
        Remote {
            source,
            reach,
            key_origins,
            clock,
            wake: Arc::default(),
            demanded: AtomicBool::new(false),
            failure: Mutex::default(),
            attempted: Condvar::new(),
            succeeded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            fetches,
            fetched_us: AtomicU64::new(0),
        }
    }

    /// Asks for a refresh; the refresh itself holds to the cooldown.
    fn demand(&self) {
        if !self.demanded.swap(true, Ordering::AcqRel) {
            self.wake.notify_one();
        }
    }

    fn attempt_over(&self, result: Result<(), String>) {
        // Under the lock, so that nobody waits for what has just come.
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if result.is_ok() {
            self.succeeded.fetch_add(1, Ordering::Relaxed);
            self.fetches.succeeded.fetch_add(1, Ordering::Relaxed);
            self.fetched_us.store(self.clock.steady_us().max(1), Ordering::Release);
        } else {
            self.failed.fetch_add(1, Ordering::Relaxed);
            self.fetches.failed.fetch_add(1, Ordering::Relaxed);
        }
        *failure = result.err();
        drop(failure);
        self.attempted.notify_all();
    }

    fn statistics(&self, keys: usize) -> KeySetStatistics {
        let fetched = self.fetched_us.load(Ordering::Acquire);
        KeySetStatistics {
            url: self.source.name(),
            keys,
            succeeded: self.succeeded.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            age: (fetched != 0).then(|| Duration::from_micros(self.clock.steady_us().saturating_sub(fetched))),
        }
    }
}
