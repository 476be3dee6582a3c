//! How many retries an upstream gets. A retry is more load for servers that may have failed for too much load, so all retries together
//! are held to a share of the requests, as in Finagle and linkerd: 20 % more load at worst, and not three times as much.
//!
//! One for each upstream, for all workers, and kept over reloads. Without a lock: two rows of counters, a counter for each second.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::config::model::RetryBudget;

/// The seconds that count.
const WINDOW: usize = 10;

/// The requests and the retries of the last ten seconds.
// A line of its own: all workers write it.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct RetryLoad {
    requests: Counts,
    retries: Counts,
}

/// A second and its count in each word, by the second modulo [`WINDOW`].
#[derive(Debug, Default)]
struct Counts([AtomicU64; WINDOW]);

impl RetryLoad {
    /// Counts the first attempt of a request, `now` in milliseconds of a monotonic clock.
    pub fn note_request(&self, now: u64) {
        self.requests.add(second(now));
    }

    /// Counts a retry, if there is room for it: it is within the percentage, or one of the few that each second has anyway.
    #[must_use]
    pub fn withdraw(&self, budget: RetryBudget, now: u64) -> bool {
        let second = second(now);
        // Counted before it is compared, so that two workers don't take the last one both.
        let of_second = self.retries.add(second);
        let (retries, requests) = (self.retries.sum(second), self.requests.sum(second));
        let fits =
            retries * 100 <= requests * u64::from(budget.percent) || of_second <= u64::from(budget.min_per_second);
        if !fits {
            self.retries.take_back(second);
        }
        fits
    }

    /// How many retries there is room for now.
    pub fn left(&self, budget: RetryBudget, now: u64) -> u32 {
        let second = second(now);
        let share = self.requests.sum(second) * u64::from(budget.percent) / 100;
        let of_window = share.saturating_sub(self.retries.sum(second));
        let of_second = u64::from(budget.min_per_second).saturating_sub(self.retries.of(second));
        u32::try_from(of_window.max(of_second)).unwrap_or(u32::MAX)
    }
}

fn second(now: u64) -> u32 {
    // 32 bits are 136 years.
    (now / 1000) as u32
}

impl Counts {
    /// The count of this second, this one included.
    fn add(&self, second: u32) -> u64 {
        let cell = &self.0[second as usize % WINDOW];
        let word = cell.load(Relaxed);
        if word >> 32 == u64::from(second) {
            return (cell.fetch_add(1, Relaxed) + 1) & u64::from(u32::MAX);
        }
        // Ten seconds ago it was another second's. Who is late with an older second counts in the newer one.
        let begun = u64::from(second) << 32 | 1;
        match cell.compare_exchange(word, begun, Relaxed, Relaxed) {
            Ok(_) => 1,
            Err(_) => (cell.fetch_add(1, Relaxed) + 1) & u64::from(u32::MAX),
        }
    }

    fn take_back(&self, second: u32) {
        let less = |word: u64| (word >> 32 == u64::from(second) && word as u32 > 0).then(|| word - 1);
        let _ = self.0[second as usize % WINDOW].fetch_update(Relaxed, Relaxed, less);
    }

    fn of(&self, second: u32) -> u64 {
        let word = self.0[second as usize % WINDOW].load(Relaxed);
        if word >> 32 == u64::from(second) { word & u64::from(u32::MAX) } else { 0 }
    }

    fn sum(&self, second: u32) -> u64 {
        let words = self.0.iter().map(|cell| cell.load(Relaxed));
        let counts = words.filter(|word| second.saturating_sub((word >> 32) as u32) < WINDOW as u32);
        counts.map(|word| word & u64::from(u32::MAX)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: RetryBudget = RetryBudget { percent: 20, min_per_second: 3 };
    /// Any time: clocks do not begin at 0.
    const START: u64 = 5_000_000;

    #[test]
    fn retries_are_a_share_of_the_requests() {
        let load = RetryLoad::default();
        let mut retries = 0;
        for request in 0..10_000 {
            let now = START + request * 3;
            load.note_request(now);
            retries += (0..2).filter(|_| load.withdraw(BUDGET, now)).count();
        }
        assert!((1_900..=2_100).contains(&retries), "{retries} of 10,000");
    }

    #[test]
    fn each_second_has_a_few_however_rare_requests_are() {
        let load = RetryLoad::default();
        for second in 0..30 {
            let now = START + second * 1000;
            assert_eq!((0..20).filter(|_| load.withdraw(BUDGET, now)).count(), 3, "second {second}");
        }
        let none = RetryBudget { percent: 0, min_per_second: 0 };
        assert!(!load.withdraw(none, START + 60_000));
    }

    #[test]
    fn what_is_older_than_the_window_does_not_count() {
        let load = RetryLoad::default();
        (0..100).for_each(|_| load.note_request(START));
        assert_eq!(load.left(BUDGET, START), 20);
        assert_eq!((0..50).filter(|_| load.withdraw(BUDGET, START + 9_000)).count(), 20);
        assert_eq!((load.left(BUDGET, START + 9_000), load.left(BUDGET, START + 10_000)), (0, 3));
        assert_eq!((0..50).filter(|_| load.withdraw(BUDGET, START + 10_000)).count(), 3);
    }

    #[test]
    fn workers_never_take_more_than_there_is_together() {
        let load = RetryLoad::default();
        (0..1000).for_each(|_| load.note_request(START));
        let taken: usize = std::thread::scope(|scope| {
            let take = || (0..500).filter(|_| load.withdraw(BUDGET, START)).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert!((190..=200).contains(&taken), "{taken} of 200");
    }
}
