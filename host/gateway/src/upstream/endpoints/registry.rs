//! The records of all endpoints, by what they belong to. It outlives snapshots, so that a reload finds what is known of an address; a
//! record goes when nobody uses it any more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use super::changes::Changes;
use super::record::{Key, Record};
use crate::upstream::limits::{Bulkhead, UpstreamState};
use crate::upstream::spec::UpstreamSpec;

/// Who has a record. One for the process, asked only while endpoints are listed, never by a request.
#[derive(Debug, Default)]
pub struct EndpointRegistry {
    records: Mutex<HashMap<Key, Weak<Record>>>,
    upstreams: Mutex<HashMap<Arc<str>, Weak<UpstreamState>>>,
    routes: Mutex<HashMap<Arc<str>, Weak<Bulkhead>>>,
    /// By the name of the upstream.
    changes: Mutex<HashMap<Arc<str>, Weak<Changes>>>,
    session_key: OnceLock<[u8; 32]>,
}

impl EndpointRegistry {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The changes of all records of an upstream's name.
    pub(super) fn changes(&self, upstream: &Arc<str>) -> Arc<Changes> {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = changes.get(upstream).and_then(Weak::upgrade) {
            return known;
        }
        // An upstream is seldom new: time to forget those that are gone.
        changes.retain(|_, changes| changes.strong_count() > 0);
        let new = Arc::default();
        changes.insert(upstream.clone(), Arc::downgrade(&new));
        new
    }

    /// What cookies of sessions are signed with if no key is given: random, the same until the process ends.
    pub(super) fn session_key(&self) -> &[u8] {
        self.session_key.get_or_init(|| {
            let mut key = [0; 32];
            // Without randomness there is no TLS either; a key of zeros would let anybody make cookies.
            aws_lc_rs::rand::fill(&mut key).expect("the system has random numbers");
            key
        })
    }

    /// The record of this key, new if nobody has it.
    pub(super) fn record(self: &Arc<Self>, key: Key) -> Arc<Record> {
        let changes = self.changes(&key.upstream);
        let mut records = self.lock();
        if let Some(known) = records.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        let record = Arc::new(Record::new(key.clone(), Arc::downgrade(self), changes));
        records.insert(key, Arc::downgrade(&record));
        record
    }

    /// The state of an upstream as a whole. It stays as long as a request or a snapshot has it.
    pub(in crate::upstream) fn upstream(&self, spec: &UpstreamSpec) -> Arc<UpstreamState> {
        known(&self.upstreams, &spec.name, || UpstreamState::new(spec))
    }

    /// The limit of a route, in the same way.
    pub fn route(&self, name: &Arc<str>, new: impl FnOnce() -> Bulkhead) -> Arc<Bulkhead> {
        known(&self.routes, name, new)
    }

    /// The last user of a record has gone. Another one may have asked for a new record meanwhile: that one stays.
    pub(super) fn sign_off(&self, key: &Key) {
        let mut records = self.lock();
        if records.get(key).is_some_and(|record| record.strong_count() == 0) {
            records.remove(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Weak<Record>>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn known<T>(all: &Mutex<HashMap<Arc<str>, Weak<T>>>, name: &Arc<str>, new: impl FnOnce() -> T) -> Arc<T> {
    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = all.get(name).and_then(Weak::upgrade) {
        return known;
    }
    all.retain(|_, other| other.strong_count() > 0);
    let made = Arc::new(new());
    all.insert(name.clone(), Arc::downgrade(&made));
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_found_as_long_as_it_is_used() {
        let registry = EndpointRegistry::new();
        let key = |port| Key {
            upstream: "orders".into(),
            endpoint: "a:80".into(),
            address: Some(std::net::SocketAddr::from(([10, 0, 0, 1], port)).into()),
        };
        let first = registry.record(key(80));
        first.enter();
        assert!(Arc::ptr_eq(&first, &registry.record(key(80))));
        assert!(!Arc::ptr_eq(&first, &registry.record(key(81))), "the other one is gone at once");
        assert_eq!(registry.lock().len(), 1);
        drop(first);
        assert_eq!(registry.lock().len(), 0);
        assert_eq!(registry.record(key(80)).active(), 0);
    }
}
