//! Tells the workers that the state of an address of an upstream has changed. They keep what they have made of the states until then, so a
//! request reads one number and not the state of every address.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// One for all records of an upstream's name.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Changes {
    count: AtomicU64,
    /// Requests that were balanced in panic.
    panic_requests: AtomicU64,
    /// Requests that have left the gateway's own zone, as that had too many under way.
    spilled_requests: AtomicU64,
    /// What is in panic: the labels of a subset, or nothing for the whole upstream. Read and written only when states have changed.
    panics: Mutex<BTreeSet<String>>,
}

impl Changes {
    /// How many there were. Who reads a number sees the states that led to it.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// A state has changed, and is written.
    pub(super) fn add(&self) {
        self.count.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn panic_requests(&self) -> u64 {
        self.panic_requests.load(Ordering::Relaxed)
    }

    pub(crate) fn count_panic_request(&self) {
        self.panic_requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn spilled_requests(&self) -> u64 {
        self.spilled_requests.load(Ordering::Relaxed)
    }

    pub(crate) fn count_spilled_request(&self) {
        self.spilled_requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes whether a subset is in panic. True if that is new: one worker tells it for all.
    pub(crate) fn note_panic(&self, subset: &str, is_in_panic: bool) -> bool {
        let mut panics = self.panics.lock().unwrap_or_else(PoisonError::into_inner);
        match is_in_panic {
            true => panics.insert(subset.to_owned()),
            false => panics.remove(subset),
        }
    }
}
