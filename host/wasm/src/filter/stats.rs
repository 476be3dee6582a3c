//! What calls cost: counters for each filter and hook. Each worker's pool has its own, written by it alone; a reader adds them up.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::filter::{FailureKind, FilterError, Hook};
use sluice_services::log_limit::LogLimit;

/// The accounts of all filters by name. They outlive the filters, so that counters survive a reload.
#[derive(Default)]
pub(crate) struct Accounts(Mutex<HashMap<Arc<str>, Arc<Account>>>);

impl Accounts {
    pub(crate) fn of(&self, filter: &Arc<str>) -> Arc<Account> {
        let mut accounts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.entry(filter.clone()).or_default().clone()
    }
}

/// The calls of one filter: those of pools that are gone, and the counters of those that live.
#[derive(Default)]
pub(crate) struct Account {
    calls: Mutex<(FilterStats, Vec<Arc<Counters>>)>,
    log: Arc<LogLimit>,
}

impl Account {
    /// Counters for one worker. Closed by [`Account::close`].
    pub(crate) fn open(&self) -> Arc<Counters> {
        let counters = Arc::new(Counters::default());
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).1.push(counters.clone());
        counters
    }

    /// How many lines the filter may write. A reload does not change it.
    pub(crate) fn log(&self) -> Arc<LogLimit> {
        Arc::clone(&self.log)
    }

    pub(crate) fn close(&self, counters: &Arc<Counters>) {
        let mut inner = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let (retired, open) = &mut *inner;
        open.retain(|other| !Arc::ptr_eq(other, counters));
        counters.add_to(retired);
    }

    pub(crate) fn sum(&self) -> FilterStats {
        let inner = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sum = FilterStats { instances: 0, log_lines_dropped: self.log.dropped(), ..inner.0.clone() };
        inner.1.iter().for_each(|counters| {
            counters.add_to(&mut sum);
            sum.instances += counters.instances.load(Ordering::Relaxed);
        });
        sum
    }
}

/// What one filter has cost since the start of the process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilterStats {
    /// In the order of [`Hook::ALL`].
    pub hooks: [HookStats; Hook::COUNT],
    /// The most linear memory that one instance has had, in bytes.
    pub peak_memory: u64,
    /// Instances made.
    pub started: u64,
    /// Instances that live now.
    pub instances: u64,
    /// Of those made: before a call needed them.
    pub prewarmed: u64,
    /// Calls that found no instance ready, and waited until one was made.
    pub waits: u64,
    /// Bodies that the filter asked for and did not get.
    pub bodies: UnreadBodies,
    /// Log lines over the filter's rate.
    pub log_lines_dropped: u64,
}

/// Why a filter did not get a body that it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum UnreadReason {
    /// It is larger than the filter takes.
    TooLarge,
    /// Its content coding is unknown or its content is damaged.
    Coding,
    /// The gateway had no memory left for it.
    OutOfMemory,
}

impl UnreadReason {
    /// How many there are.
    pub const COUNT: usize = 3;

    /// All of them.
    pub const ALL: [UnreadReason; UnreadReason::COUNT] =
        [UnreadReason::TooLarge, UnreadReason::Coding, UnreadReason::OutOfMemory];

    /// As metrics show it.
    pub fn name(self) -> &'static str {
        match self {
            UnreadReason::TooLarge => "too-large",
            UnreadReason::Coding => "coding",
            UnreadReason::OutOfMemory => "out-of-memory",
        }
    }
}

/// Bodies that a filter asked for and did not get, in the order of [`UnreadReason::ALL`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnreadBodies {
    /// Responses that were passed on without the filter having seen their body.
    pub passed: [u64; UnreadReason::COUNT],
    /// Requests that were refused.
    pub refused_requests: [u64; UnreadReason::COUNT],
    /// Responses in the place of which the client got an error.
    pub refused_responses: [u64; UnreadReason::COUNT],
}

/// What the calls of one hook have cost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HookStats {
    pub calls: u64,
    /// Time on the worker: for a call that doesn't wait, all of it; measured by the monotonic clock.
    pub cpu: Duration,
    /// Time from the call to its answer, with the wait for an instance and for host calls.
    pub wall: Duration,
    /// By kind, in the order of [`FailureKind::ALL`].
    pub failures: [u64; FailureKind::COUNT],
}

#[derive(Default)]
struct HookCounters {
    calls: AtomicU64,
    cpu_ns: AtomicU64,
    wall_ns: AtomicU64,
    failures: [AtomicU64; FailureKind::COUNT],
}

/// The counters of one worker.
#[derive(Default)]
pub(crate) struct Counters {
    hooks: [HookCounters; Hook::COUNT],
    peak_memory: AtomicU64,
    started: AtomicU64,
    instances: AtomicU64,
    prewarmed: AtomicU64,
    waits: AtomicU64,
    bodies: [[AtomicU64; UnreadReason::COUNT]; 3],
}

/// What became of a message whose body a filter did not get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Unread {
    /// The response was passed on.
    Passed,
    RequestRefused,
    ResponseRefused,
}

/// Counts an instance while it lives.
pub(crate) struct Live(Arc<Counters>);

impl Live {
    pub(crate) fn new(counters: &Arc<Counters>) -> Live {
        add(&counters.started, 1);
        add(&counters.instances, 1);
        Live(counters.clone())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        add(&self.0.instances, 1_u64.wrapping_neg());
    }
}

/// Only one thread writes, so no atomic addition is needed.
fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

impl Counters {
    /// Instances that are alive.
    pub(crate) fn instances(&self) -> u64 {
        self.instances.load(Ordering::Relaxed)
    }

    pub(crate) fn called(&self, hook: Hook, cpu: Duration, wall: Duration, failure: Option<&FilterError>) {
        let counters = &self.hooks[hook.index()];
        add(&counters.calls, 1);
        add(&counters.cpu_ns, cpu.as_nanos() as u64);
        add(&counters.wall_ns, wall.as_nanos() as u64);
        if let Some(error) = failure {
            add(&counters.failures[error.kind() as usize], 1);
        }
    }

    /// An instance was made before a call needed it.
    pub(crate) fn prewarmed(&self) {
        add(&self.prewarmed, 1);
    }

    /// A call has waited for an instance to be made.
    pub(crate) fn waited(&self) {
        add(&self.waits, 1);
    }

    pub(crate) fn unread_body(&self, what: Unread, reason: UnreadReason) {
        add(&self.bodies[what as usize][reason as usize], 1);
    }

    pub(crate) fn memory(&self, bytes: usize) {
        if bytes as u64 > self.peak_memory.load(Ordering::Relaxed) {
            self.peak_memory.store(bytes as u64, Ordering::Relaxed);
        }
    }

    fn add_to(&self, sum: &mut FilterStats) {
        for (into, from) in sum.hooks.iter_mut().zip(&self.hooks) {
            into.calls += from.calls.load(Ordering::Relaxed);
            into.cpu += Duration::from_nanos(from.cpu_ns.load(Ordering::Relaxed));
            into.wall += Duration::from_nanos(from.wall_ns.load(Ordering::Relaxed));
            for (into, from) in into.failures.iter_mut().zip(&from.failures) {
                *into += from.load(Ordering::Relaxed);
            }
        }
        sum.peak_memory = sum.peak_memory.max(self.peak_memory.load(Ordering::Relaxed));
        sum.started += self.started.load(Ordering::Relaxed);
        sum.prewarmed += self.prewarmed.load(Ordering::Relaxed);
        sum.waits += self.waits.load(Ordering::Relaxed);
        let UnreadBodies { passed, refused_requests, refused_responses } = &mut sum.bodies;
        for (into, from) in [passed, refused_requests, refused_responses].into_iter().zip(&self.bodies) {
            for (into, from) in into.iter_mut().zip(from) {
                *into += from.load(Ordering::Relaxed);
            }
        }
    }
}
