//! An address that is ejected: until when, and how often it was, since each ejection takes longer than the one before.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::config::model::OutlierDetection;

/// Times are in milliseconds of the records' clock. Written by who ejects, under the lock of the upstream, and by its sweep; requests end
/// what is over.
#[derive(Debug, Default)]
pub(super) struct Ejection {
    until: AtomicU64,
    /// Ejections of late: one more with each, and one less with each interval without.
    times: AtomicU32,
    /// Held while an ejection begins or ends, so that its time and the state of the address change together.
    changing: Mutex<()>,
}

impl Ejection {
    pub(super) fn change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an ejection. Answers how long it takes.
    pub(super) fn begin(&self, policy: &OutlierDetection, now: u64) -> Duration {
        let times = self.times.load(Relaxed).saturating_add(1);
        self.times.store(times, Relaxed);
        let takes = policy.base_ejection_time.saturating_mul(times).min(policy.max_ejection_time);
        self.until.store(now.saturating_add(u64::try_from(takes.as_millis()).unwrap_or(u64::MAX)), Relaxed);
        takes
    }

    pub(super) fn until(&self) -> u64 {
        self.until.load(Relaxed)
    }

    pub(super) fn is_over(&self, now: u64) -> bool {
        self.until.load(Relaxed) <= now
    }

    /// An interval has passed without an ejection.
    pub(super) fn relax(&self) {
        self.times.store(self.times.load(Relaxed).saturating_sub(1), Relaxed);
    }
}
