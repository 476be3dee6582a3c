//! The CPU time of one call. A guest is charged only for the slices in which it ran: on a fiber, other tasks use the thread
//! between two slices, and a worker that the kernel has set aside uses none.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cpu_time::ThreadTime;

use crate::load::ticker::Ticker;

/// No slice has begun.
const NONE: u64 = u64::MAX;

/// What this thread has used so far; nothing where the kernel doesn't know.
pub(crate) fn thread_time() -> Duration {
    ThreadTime::try_now().map_or(Duration::ZERO, |time| time.as_duration())
}

/// The same in nanoseconds.
fn thread_ns() -> u64 {
    thread_time().as_nanos() as u64
}

/// Adds up the slices of a call. Shared with the futures that resume the guest; always on one thread.
pub(crate) struct CpuMeter {
    ticker: Arc<Ticker>,
    slice_start: AtomicU64,
    spent: AtomicU64,
}

impl CpuMeter {
    pub(crate) fn new(ticker: Arc<Ticker>) -> CpuMeter {
        CpuMeter { ticker, slice_start: AtomicU64::new(NONE), spent: AtomicU64::new(0) }
    }

    /// A call begins. Its first slice is measured from the first tick on: reading the clock costs as much as a short call.
    pub(crate) fn reset(&self) {
        self.ticker.keep_going();
        self.slice_start.store(NONE, Ordering::Relaxed);
        self.spent.store(0, Ordering::Relaxed);
    }

    /// The guest goes on after it was suspended: maybe for so long that the ticker has gone to sleep.
    pub(crate) fn resume(&self) {
        self.ticker.keep_going();
        self.slice_start.store(thread_ns(), Ordering::Relaxed);
    }

    /// The guest is interrupted: what it has spent in all.
    pub(crate) fn tick(&self) -> Duration {
        self.ticker.hurry();
        let now = thread_ns();
        let start = self.slice_start.swap(now, Ordering::Relaxed);
        let slice = if start == NONE { 0 } else { now.saturating_sub(start) };
        Duration::from_nanos(self.spent.fetch_add(slice, Ordering::Relaxed) + slice)
    }
}
