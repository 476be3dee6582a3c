//! How an address has answered: a counter for each worker, which alone writes it, and the sum for those who ask.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::upstream::health::outliers::{Failure, Tally};

/// Classes of statuses: 1xx to 5xx.
pub(super) const CLASSES: usize = 5;

/// The responses of one address on one worker, which alone writes it.
#[derive(Debug, Default)]
pub(crate) struct Responses {
    /// By the class of their status.
    classes: [AtomicU64; CLASSES],
    /// Requests that the address has failed without a response, and with one whose status does not say so. Counted only where the
    /// upstream has outlier detection.
    unanswered: AtomicU64,
    failed: AtomicU64,
}

/// What [`Responses`] have counted.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    classes: [u64; CLASSES],
    unanswered: u64,
    failed: u64,
}

/// The responses of one address on all workers.
#[derive(Debug, Default)]
pub(super) struct AllResponses(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    /// Those of workers that no longer have connections there.
    gone: Counts,
    open: Vec<Arc<Responses>>,
    /// What there was when the addresses of the upstream were last compared.
    compared: Tally,
}

impl Responses {
    pub(crate) fn count(&self, status: u16) {
        if let Some(count) = self.classes.get(usize::from(status / 100).wrapping_sub(1)) {
            add(count);
        }
    }

    /// A request that the address has failed, and whether it was answered.
    pub(crate) fn count_failure(&self, failure: Failure) {
        match failure {
            // The class of its status says so.
            Failure::Status(_) => {}
            Failure::Grpc(_) | Failure::Body => add(&self.failed),
            Failure::Timeout | Failure::Reset | Failure::Malformed => add(&self.unanswered),
        }
    }

    fn add_to(&self, sum: &mut Counts) {
        sum.classes.iter_mut().zip(&self.classes).for_each(|(sum, count)| *sum += count.load(Relaxed));
        sum.unanswered += self.unanswered.load(Relaxed);
        sum.failed += self.failed.load(Relaxed);
    }
}

/// One writer: no locked instruction.
fn add(count: &AtomicU64) {
    count.store(count.load(Relaxed).wrapping_add(1), Relaxed);
}

impl Counted {
    fn sum(&self) -> Counts {
        let mut sum = self.gone;
        self.open.iter().for_each(|counter| counter.add_to(&mut sum));
        sum
    }
}

impl Counts {
    fn tally(&self) -> Tally {
        Tally {
            requests: self.classes.iter().sum::<u64>() + self.unanswered,
            failures: self.classes[CLASSES - 1] + self.unanswered + self.failed,
        }
    }
}

impl AllResponses {
    /// A counter for the pool of one worker.
    pub(super) fn open(&self) -> Arc<Responses> {
        let opened = Arc::new(Responses::default());
        self.lock().open.push(Arc::clone(&opened));
        opened
    }

    /// The pool of a counter is gone; what it has counted stays.
    pub(super) fn close(&self, counter: &Arc<Responses>) {
        let Counted { gone, open, .. } = &mut *self.lock();
        open.retain(|other| !Arc::ptr_eq(other, counter));
        counter.add_to(gone);
    }

    /// By the class of their status.
    pub(super) fn by_class(&self) -> [u64; CLASSES] {
        self.lock().sum().classes
    }

    /// What was counted since this was last asked.
    pub(super) fn tally_of_interval(&self) -> Tally {
        let mut counted = self.lock();
        let now = counted.sum().tally();
        now.since(std::mem::replace(&mut counted.compared, now))
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_outlive_the_pools_that_count_them() {
        let all = AllResponses::default();
        let (first, second) = (all.open(), all.open());
        for status in [101, 200, 204, 302, 404, 503, 999, 0] {
            first.count(status);
        }
        second.count(200);
        assert_eq!(all.by_class(), [1, 3, 1, 1, 1]);
        all.close(&first);
        drop(first);
        second.count(500);
        assert_eq!(all.by_class(), [1, 3, 1, 1, 2]);
    }
}
