//! Instances that are made before a call needs them. An interpreter takes many milliseconds to start, and no request is to wait for that: not
//! the first one after a start or a reload, and not the one behind a call that trapped or was the last of its instance.
//!
//! The first of each worker are made on the loader's thread, before the snapshot goes live ([`Spares`]). From then on some are kept ready on
//! each worker beside those that are in use ([`Pool::replenish`]). A thread of low priority makes them, within the time that a worker may have for
//! replacing instances ([`Pace`]).
//!
//! [`Pace`]: super::pace::Pace

use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::debug;

use super::instance::Instance;
use super::{Inner, Pool};
use crate::call::cpu::thread_time;
use crate::filter::FilterError;
use crate::filter::stats::Live;

/// CPU time of making an instance from which on one is kept ready. What is quicker is made while a request waits: it takes a small part of the
/// time that this request takes anyway. A debug build makes them several times slower.
const WORTH: Duration = Duration::from_micros(if cfg!(debug_assertions) { 5_000 } else { 500 });

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
    #[expect(clippy::vec_box, reason = "an instance is large and moves on as a box")]
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

/// What a pool that is short of instances does.
enum Step {
    Enough,
    /// Replacing instances has used up its time until then.
    Later(Instant),
    /// One is being made, and was expected to take so much, if that is charged.
    Making(Option<Duration>, oneshot::Receiver<Made>),
}

/// An instance, or why there is none, and the CPU time that it took.
type Made = (Result<Box<Instance>, FilterError>, Duration);

impl Pool {
    /// Takes an instance that was made at load.
    pub(super) fn take_spare(&self) {
        if let Some(instance) = self.inner.program.spares.take() {
            self.adopt(instance);
        }
    }

    /// Has instances made, if fewer than enough are ready.
    #[inline]
    pub(super) fn replenish(&self) {
        if self.inner.warm > 0 {
            self.replenish_if_short();
        }
    }

    fn replenish_if_short(&self) {
        let inner = &self.inner;
        if !inner.is_replenishing.get() && self.is_short() {
            tokio::task::spawn_local(Replenishing::new(inner).run());
        }
    }

    fn is_short(&self) -> bool {
        let inner = &self.inner;
        let ready = inner.idle.borrow().len();
        is_short(ready, inner.busy(ready), inner.warm, inner.program.shared.limits.max_instances)
    }

    /// Has one made, if it is needed and there is time for it.
    fn make_ahead(&self) -> Step {
        if !self.is_short() {
            return Step::Enough;
        }
        let expected = match self.pace(|pace| pace.begin(Instant::now(), self.is_reused())) {
            Ok(expected) => expected,
            Err(at) => return Step::Later(at),
        };
        let program = self.inner.program.clone();
        let (sender, made) = oneshot::channel();
        self.inner.program.plugin.runtime.aside.run(Box::new(move || {
            let begun = thread_time();
            let instance = program.start_ahead();
            // Fails where the pool is gone.
            let _ = sender.send((instance, thread_time().saturating_sub(begun)));
        }));
        Step::Making(expected, made)
    }

    /// Takes what was made, or says why there is nothing.
    fn take_made(&self, expected: Option<Duration>, (instance, took): Made) -> Result<(), FilterError> {
        if let Some(expected) = expected {
            self.pace(|pace| pace.end(expected, took));
        }
        match instance {
            Ok(instance) => self.adopt(instance),
            Err(error) => {
                self.lose();
                return Err(error);
            }
        }
        Ok(())
    }

    /// It is this worker's from now on.
    fn adopt(&self, mut instance: Box<Instance>) {
        let inner = &self.inner;
        instance.live = Some(Live::new(&inner.counters));
        inner.counters.prewarmed();
        // Behind those that have been called: their memory is warm.
        inner.idle.borrow_mut().insert(0, instance);
        if inner.starved.get() > 0 {
            inner.came_idle.notify_one();
        }
    }
}

/// The task of a worker that has instances made ahead of need. It does not keep the pool.
struct Replenishing(Weak<Inner>);

impl Replenishing {
    fn new(inner: &Rc<Inner>) -> Replenishing {
        inner.is_replenishing.set(true);
        Replenishing(Rc::downgrade(inner))
    }

    fn pool(&self) -> Option<Pool> {
        self.0.upgrade().map(|inner| Pool { inner })
    }

    async fn run(self) {
        while let Some(step) = self.pool().map(|pool| pool.make_ahead()) {
            match step {
                Step::Enough => return,
                Step::Later(at) => tokio::time::sleep_until(at.into()).await,
                Step::Making(expected, made) => {
                    let gone =
                        |_| (Err(FilterError::Instantiate("the thread for it has ended".into())), Duration::ZERO);
                    let made = made.await.unwrap_or_else(gone);
                    let Some(pool) = self.pool() else { return };
                    // The next call tries again, within the time that there is for that.
                    if let Err(error) = pool.take_made(expected, made) {
                        let filter = pool.program().name();
                        return debug!(%filter, %error, "no instance could be made ahead of need");
                    }
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
        assert_eq!([Duration::ZERO, WORTH / 10, WORTH - Duration::from_micros(1)].map(by_cost), [0; 3]);
        assert_eq!([WORTH, 40 * WORTH].map(by_cost), [1; 2]);
    }
}
