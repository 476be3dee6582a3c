//! Instances that are made before a call needs them. An interpreter takes many milliseconds to start, and no request is to wait for that: not
//! the first one after a start or a reload, and not the one behind a call that trapped or was the last of its instance.
//!
//! The first of each worker are made on the loader's thread, before the snapshot goes live ([`Spares`]). From then on each worker keeps
//! some ready beside those that are in use ([`Pool::replenish`]): a task of the worker makes them on a fiber, so that requests run
//! between its slices of one or two milliseconds, and within the time that a worker may spend on replacing instances ([`Pace`]).
//!
//! [`Pace`]: super::pace::Pace

use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::debug;

use super::instance::Instance;
use super::make::{Making, timed};
use super::risk::AtRisk;
use super::{Inner, Pool};
use crate::filter::FilterError;
use crate::filter::stats::Live;

/// CPU time of making an instance from which on one is kept ready. What is quicker is made while a request waits: it takes a small part of the
/// time that this request takes anyway.
pub(super) const WORTH: Duration = Duration::from_micros(500);

/// How many instances to keep ready, if the operator does not say so.
pub(super) fn by_cost(cost: Duration) -> usize {
    usize::from(cost >= WORTH)
}

/// Whether another instance is to be made ahead. `ready` are idle and `busy` serve exchanges: beside one for each call that is made at
/// once, and one for the next call where there is none, `warm` are kept ready.
fn is_short(ready: usize, busy: usize, warm: usize, most: usize) -> bool {
    let all = ready + busy;
    all < busy.max(1).saturating_add(warm) && all < most
}

/// Instances of a filter that were made at load, for the first calls of each worker.
#[derive(Default)]
pub(crate) struct Spares {
    instances: Mutex<Vec<Box<Instance>>>,
    /// How many instances each worker keeps ready; none before the filter goes live, since not all that is loaded does.
    warm: AtomicUsize,
}

impl Spares {
    pub(super) fn warm(&self) -> usize {
        self.warm.load(Ordering::Relaxed)
    }

    pub(super) fn go_live(&self, warm: usize) {
        self.warm.store(warm, Ordering::Relaxed);
    }

    pub(super) fn push(&self, instance: Box<Instance>) {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner).push(instance);
    }

    pub(super) fn take(&self) -> Option<Box<Instance>> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    pub(super) fn count(&self) -> usize {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// What became of an attempt to make an instance ahead of need.
enum Attempt {
    Made,
    NotNeeded,
    /// Replacing instances has used up its time until then.
    Later(Instant),
    Failed(FilterError),
}

impl Pool {
    /// Takes an instance that was made at load.
    pub(super) fn take_spare(&self) {
        let inner = &self.inner;
        if let Some(mut instance) = inner.program.spares.take() {
            instance.live = Some(Live::new(&inner.counters));
            inner.counters.prewarmed();
            inner.idle.borrow_mut().push(instance);
        }
    }

    /// Has instances made, in a task of this worker, if fewer than enough are ready.
    pub(super) fn replenish(&self) {
        let inner = &self.inner;
        if inner.warm > 0 && self.is_short() && !inner.is_replenishing.get() {
            let task = Replenishing::new(inner);
            tokio::task::spawn_local(task.run());
        }
    }

    fn is_short(&self) -> bool {
        let inner = &self.inner;
        let ready = inner.idle.borrow().len();
        is_short(ready, inner.busy(ready), inner.warm, inner.program.shared.limits.max_instances)
    }

    async fn make_ahead(&self) -> Attempt {
        let inner = &self.inner;
        // A call that makes one looks again itself, when it has ended.
        if !self.is_short() || inner.is_making.get() {
            return Attempt::NotNeeded;
        }
        let expected = match self.pace(|pace| pace.begin(Instant::now(), self.is_reused())) {
            Ok(expected) => expected,
            Err(at) => return Attempt::Later(at),
        };
        let risk = AtRisk::new(self, expected, true);
        let making = Making::new(inner);
        let instance = match timed(&risk.busy, self.start()).await {
            Ok(instance) => Box::new(instance),
            Err(error) => return Attempt::Failed(error),
        };
        risk.survives();
        inner.counters.prewarmed();
        // Behind those that have been called: their memory is warm.
        inner.idle.borrow_mut().insert(0, instance);
        // Tells a call that waits.
        drop(making);
        Attempt::Made
    }
}

/// The task that makes instances ahead of need. It does not keep the pool.
struct Replenishing(Weak<Inner>);

impl Replenishing {
    fn new(inner: &Rc<Inner>) -> Replenishing {
        inner.is_replenishing.set(true);
        Replenishing(Rc::downgrade(inner))
    }

    async fn run(self) {
        while let Some(inner) = self.0.upgrade() {
            let pool = Pool { inner };
            match pool.make_ahead().await {
                Attempt::Made => tokio::task::yield_now().await,
                Attempt::NotNeeded => return,
                Attempt::Later(at) => {
                    drop(pool);
                    tokio::time::sleep_until(at.into()).await;
                }
                // The next call tries again, within the time that there is for that.
                Attempt::Failed(error) => {
                    return debug!(filter = %pool.inner.program.name(), %error, "no instance could be made ahead of need");
                }
            }
        }
    }
}

impl Drop for Replenishing {
    fn drop(&mut self) {
        if let Some(inner) = self.0.upgrade() {
            inner.is_replenishing.set(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_kept_ready_as_were_asked_for_beside_those_in_use() {
        let ready = |busy, warm, most| (0..).find(|ready| !is_short(*ready, busy, warm, most)).expect("a number");
        assert_eq!(ready(0, 0, 64), 1, "not asked for where none are to be kept");
        assert_eq!(
            [0, 1, 2, 5].map(|busy| ready(busy, 1, 64)),
            [2, 1, 1, 1],
            "one for the next call, and one behind it"
        );
        assert_eq!([0, 1, 2, 5].map(|busy| ready(busy, 3, 64)), [4, 3, 3, 3]);
        assert_eq!([0, 1, 2, 5].map(|busy| ready(busy, 3, 2)), [2, 1, 0, 0], "within the limit");
        assert_eq!(ready(1, usize::MAX, 4), 3);
    }

    #[test]
    fn what_is_made_quickly_is_made_when_it_is_needed() {
        assert_eq!([0, 50, 499].map(|us| by_cost(Duration::from_micros(us))), [0; 3]);
        assert_eq!([500, 20_000].map(|us| by_cost(Duration::from_micros(us))), [1; 2]);
    }
}
