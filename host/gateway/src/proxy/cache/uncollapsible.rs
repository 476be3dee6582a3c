//! Keys whose responses were not for others. Requests for them do not wait for each other: each would wait in vain.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use sluice_cache::key::Key;

/// How long a key is remembered, in seconds.
const FOR: u64 = 10;

/// A table of fixed size. Keys that share a place displace each other, which costs a wait.
const PLACES: usize = 4096;

/// The low bits of a place have the time, in seconds; the others are of the key.
const TIME: u64 = 0xffff;

pub(super) struct Uncollapsible(Box<[AtomicU64]>);

impl Default for Uncollapsible {
    fn default() -> Self {
        Uncollapsible((0..PLACES).map(|_| AtomicU64::new(0)).collect())
    }
}

fn of(key: &Key) -> u64 {
    // Half of a keyed hash.
    u64::from_be_bytes(key.to_bytes()[..8].try_into().expect("eight of sixteen bytes"))
}

impl Uncollapsible {
    /// `now` is in seconds, from anywhere.
    pub(super) fn note(&self, key: &Key, now: u64) {
        let key = of(key);
        self.0[key as usize % PLACES].store((key & !TIME) | (now & TIME), Relaxed);
    }

    pub(super) fn has(&self, key: &Key, now: u64) -> bool {
        let key = of(key);
        let noted = self.0[key as usize % PLACES].load(Relaxed);
        // The time wraps around: after 18 hours, a key may be remembered once more.
        noted & !TIME == key & !TIME && (now.wrapping_sub(noted) & TIME) < FOR
    }
}
