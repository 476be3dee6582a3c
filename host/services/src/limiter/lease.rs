//! Counters that follow those of a store: each lets through a little that the store does not know of yet, and a task tells it behind the
//! requests. The counters count in the time of the store.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::{Algorithm, Limit, Standing};

/// When a caller may come again who was refused only because the store does not know enough yet. It is told all the time.
const AGAIN_MS: u64 = 50;

/// What the counters of a space owe the store.
#[derive(Debug)]
pub(crate) struct Lease {
    /// What each counter may let through before the store knows of it.
    most: u64,
    /// The store's clock less this gateway's.
    ahead_us: AtomicI64,
    due: Mutex<Due>,
    /// There is nothing to tell any more.
    all_told: Condvar,
    /// There is something to tell.
    pub(crate) wake: Notify,
    /// There is so much to tell that it can't wait.
    pub(crate) hurry: Notify,
}

/// What the store is to be told.
#[derive(Debug, Default)]
struct Due {
    /// The counters of which there is something to tell, but for those in the hands of the task. One may be in here twice.
    queue: VecDeque<Report>,
    /// How many the task is telling it of.
    in_hand: usize,
}

impl Due {
    fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.in_hand == 0
    }
}

/// Which counter the store is to be told of.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Report {
    key: Box<str>,
    algorithm: Algorithm,
    amount: u64,
    window_ms: u64,
    burst: u64,
}

/// What the store is owed of a counter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owed {
    /// All that it does not know of.
    pub(super) all: u64,
    /// What of that still counts.
    pub(crate) cost: u64,
}

impl Report {
    pub(crate) fn limit(&self) -> Limit<'_> {
        let Report { key, algorithm, amount, window_ms, burst } = self;
        Limit { key, algorithm: *algorithm, amount: *amount, window_ms: *window_ms, burst: *burst }
    }
}

impl Lease {
    pub(crate) fn new(most: u64) -> Lease {
        Lease {
            most,
            ahead_us: AtomicI64::new(0),
            due: Mutex::default(),
            all_told: Condvar::new(),
            wake: Notify::new(),
            hurry: Notify::new(),
        }
    }

    /// Refuses what would be more than may go unreported. One request may be more than that by itself: then it goes alone.
    pub(super) fn bound(&self, standing: &mut Standing, unreported: u64, cost: u64) {
        if standing.allowed && unreported > 0 && unreported.saturating_add(cost) > self.most {
            standing.allowed = false;
            standing.retry_after_ms = AGAIN_MS;
        }
    }

    /// Notes that a counter has taken `cost`. Answers what it has taken that the store does not know of.
    pub(super) fn taken(&self, limit: &Limit<'_>, unreported: u64, cost: u64) -> u64 {
        let now = unreported.saturating_add(cost);
        if unreported == 0 {
            let Limit { key, algorithm, amount, window_ms, burst } = *limit;
            self.put_off(Report { key: key.into(), algorithm, amount, window_ms, burst });
        }
        if now > self.most / 2 {
            self.hurry.notify_one();
        }
        now
    }

    /// The store is to be told of it later.
    pub(crate) fn put_off(&self, report: Report) {
        self.lock().queue.push_back(report);
        self.wake.notify_one();
    }

    /// Up to `most` of what is to be told, in the order in which it came. They are in the hands of the task then, until [`Self::told`].
    pub(crate) fn due(&self, most: usize) -> Vec<Report> {
        let mut due = self.lock();
        let many = due.queue.len().min(most);
        due.in_hand = many;
        due.queue.drain(..many).collect()
    }

    /// The task has nothing in its hands any more.
    pub(crate) fn told(&self) {
        let mut due = self.lock();
        due.in_hand = 0;
        if due.is_empty() {
            self.all_told.notify_all();
        }
    }

    /// Drops the reports of counters that owe nothing any more, and all but one of the same counter. While the store is away nothing else takes
    /// them out. Only for the task, and while it has nothing in its hands.
    pub(crate) fn forget(&self, owes: impl Fn(&Report) -> bool) {
        // Without the lock: looking at a counter takes that of its shard, under which reports come in.
        let waiting = {
            let mut due = self.lock();
            due.in_hand = due.queue.len();
            std::mem::take(&mut due.queue)
        };
        let kept: HashSet<Report> = waiting.into_iter().filter(owes).collect();
        let mut due = self.lock();
        due.queue.extend(kept);
        due.queue.shrink_to_fit();
        drop(due);
        self.told();
    }

    /// How many counters there is something to tell of, but for those that it is being told of.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().queue.len()
    }

    /// How many counters there is something to tell of.
    pub(crate) fn unreported(&self) -> usize {
        let due = self.lock();
        due.queue.len() + due.in_hand
    }

    /// Blocks until there is nothing to tell, at most so long.
    pub(crate) fn wait_until_told(&self, most: Duration) {
        let waited = self.all_told.wait_timeout_while(self.lock(), most, |due| !due.is_empty());
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn lock(&self) -> MutexGuard<'_, Due> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Both clocks, read at the same time.
    pub(crate) fn set_clocks(&self, store_us: u64, here_us: u64) {
        let ahead = i128::from(store_us) - i128::from(here_us);
        self.ahead_us.store(i64::try_from(ahead).unwrap_or_default(), Ordering::Relaxed);
    }

    pub(super) fn to_store_time(&self, here_us: u64) -> u64 {
        here_us.saturating_add_signed(self.ahead_us.load(Ordering::Relaxed))
    }
}
