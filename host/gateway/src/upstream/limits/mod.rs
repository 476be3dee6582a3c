//! Limits of requests under way (bulkheads), each one number for all workers. What is over a limit waits in a queue, if there is
//! one, or is refused. Nothing here counts against an endpoint. `connections` has the limits of open connections.

mod admission;
mod connections;
mod queue;
mod state;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant};

pub use self::admission::{Admitted, Eligible, EndpointPermit, Unadmitted};
pub(in crate::upstream) use self::connections::ConnectionLimits;
pub(crate) use self::connections::{ConnectionPermit, Connections};
pub(in crate::upstream) use self::queue::Target;
use self::queue::{Queue, SINGLE, Wanted};
pub(super) use self::state::upstream_breaker;
pub use self::state::{CircuitPass, CircuitState, UpstreamState};
pub use crate::config::model::CircuitAnswer;
use crate::deadline;

/// A limit on what is under way at a time.
#[derive(Debug)]
pub struct Bulkhead {
    count: Count,
    limit: AtomicU32,
    max_pending: AtomicU32,
    queue: Queue<Permit>,
    waits: Waits,
}

/// Written by each request that is limited.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Count(AtomicU32);

/// What has come of waiting.
#[derive(Debug, Default)]
struct Waits {
    waited: AtomicU64,
    waited_us: AtomicU64,
    full: AtomicU64,
    timed_out: AtomicU64,
}

/// Something under way that a limit counts, until this is dropped.
#[derive(Debug)]
pub struct Permit(Arc<Bulkhead>);

/// Why there is no permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Busy {
    /// The limit is reached, and so many wait already.
    Full { limit: u32, pending: u32 },
    /// So long was waited for it.
    TimedOut(Duration),
}

/// The numbers of a bulkhead, for metrics and the admin API.
#[derive(Debug, Clone, Copy, Default)]
pub struct BulkheadState {
    /// `None`: that is counted elsewhere.
    pub active: Option<u32>,
    /// `None` where there is no limit.
    pub limit: Option<u32>,
    pub pending: u32,
    /// What has waited and got a permit, and how long in all.
    pub waited: u64,
    pub waited_time: Duration,
    /// What was refused: with a full queue, and after waiting.
    pub full: u64,
    pub timed_out: u64,
}

impl BulkheadState {
    /// Two with the same limit, added up.
    pub(in crate::upstream) fn and(self, other: Self) -> Self {
        BulkheadState {
            active: self.active.zip(other.active).map(|(one, other)| one + other),
            limit: self.limit,
            pending: self.pending + other.pending,
            waited: self.waited + other.waited,
            waited_time: self.waited_time + other.waited_time,
            full: self.full + other.full,
            timed_out: self.timed_out + other.timed_out,
        }
    }
}

impl Default for Bulkhead {
    fn default() -> Self {
        Bulkhead {
            count: Count::default(),
            limit: AtomicU32::new(u32::MAX),
            max_pending: AtomicU32::new(0),
            queue: Queue::default(),
            waits: Waits::default(),
        }
    }
}

impl Bulkhead {
    /// A bulkhead with these limits; `None` is no limit.
    pub(crate) fn new(limit: Option<u32>, max_pending: u32) -> Self {
        let bulkhead = Bulkhead::default();
        bulkhead.limit.store(limit.unwrap_or(u32::MAX), Relaxed);
        bulkhead.max_pending.store(max_pending, Relaxed);
        bulkhead
    }

    /// Changes its limits. What is under way counts.
    pub fn set(self: &Arc<Self>, limit: Option<u32>, max_pending: u32) {
        self.limit.store(limit.unwrap_or(u32::MAX), SeqCst);
        self.max_pending.store(max_pending, Relaxed);
        self.admit_waiting();
    }

    /// A permit, if there is one and nobody waits for it.
    pub fn try_enter(self: &Arc<Self>) -> Option<Permit> {
        (self.queue.waiting() == 0 && self.count()).then(|| Permit(Arc::clone(self)))
    }

    /// A permit, waited for in the queue for at most `patience`.
    pub async fn enter(self: &Arc<Self>, patience: Duration) -> Result<Permit, Busy> {
        if let Some(permit) = self.try_enter() {
            return Ok(permit);
        }
        // Waiting is rare, and its future is large.
        Box::pin(self.wait(patience, self.max_pending())).await
    }

    /// Its limits, as [`Self::set`] takes them.
    fn limits(&self) -> (Option<u32>, u32) {
        let limit = self.limit.load(SeqCst);
        ((limit != u32::MAX).then_some(limit), self.max_pending())
    }

    fn max_pending(&self) -> u32 {
        self.max_pending.load(Relaxed)
    }

    async fn wait(self: &Arc<Self>, patience: Duration, max_pending: u32) -> Result<Permit, Busy> {
        let Some(mut place) = self.queue.join(max_pending, Wanted::Any(1)) else {
            self.waits.full.fetch_add(1, Relaxed);
            return Err(Busy::Full { limit: self.limit.load(Relaxed), pending: max_pending });
        };
        let begun = Instant::now();
        // A permit may have come back before this joined.
        self.admit_waiting();
        let permit = deadline::timeout(patience, place.wait()).await.ok().flatten();
        // It may have come at the last moment.
        match permit.or_else(|| place.take()) {
            Some(permit) => {
                self.waits.note(begun);
                Ok(permit)
            }
            None => {
                self.waits.timed_out.fetch_add(1, Relaxed);
                Err(Busy::TimedOut(patience))
            }
        }
    }

    /// Whether more are under way than a limit allows that was lowered.
    fn is_exceeded(&self) -> bool {
        self.count.0.load(Relaxed) > self.limit.load(Relaxed)
    }

    /// Counts one more, if the limit allows it.
    fn count(&self) -> bool {
        let more = |active: u32| (active < self.limit.load(Relaxed)).then_some(active + 1);
        self.count.0.fetch_update(SeqCst, Relaxed, more).is_ok()
    }

    /// Gives permits to those who have waited longest, as long as there are any.
    fn admit_waiting(self: &Arc<Self>) {
        while self.queue.waiting() > 0 {
            let Some(next) = self.queue.pop_if(SINGLE, || self.count()) else { return };
            // Who has left meanwhile sends it back, and dropping it looks for the next one.
            let _ = next.send(Permit(Arc::clone(self)));
        }
    }

    /// Its numbers now.
    pub fn state(&self) -> BulkheadState {
        let limit = self.limit.load(Relaxed);
        BulkheadState {
            active: Some(self.count.0.load(Relaxed)),
            limit: (limit != u32::MAX).then_some(limit),
            pending: self.queue.waiting(),
            ..self.waits.state()
        }
    }
}

impl Waits {
    fn note(&self, begun: Instant) {
        self.waited.fetch_add(1, Relaxed);
        self.waited_us.fetch_add(begun.elapsed().as_micros() as u64, Relaxed);
    }

    fn state(&self) -> BulkheadState {
        BulkheadState {
            waited: self.waited.load(Relaxed),
            waited_time: Duration::from_micros(self.waited_us.load(Relaxed)),
            full: self.full.load(Relaxed),
            timed_out: self.timed_out.load(Relaxed),
            ..BulkheadState::default()
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.count.0.fetch_sub(1, SeqCst);
        self.0.admit_waiting();
    }
}

#[cfg(test)]
mod tests;
