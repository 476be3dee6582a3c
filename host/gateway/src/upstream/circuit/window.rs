//! What a circuit counts: the last outcomes, or those of a while. All workers note theirs here, without a lock.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::config::model::MAX_OUTCOMES;

/// Parts of a window of time. A failure counts for the window, less at most one part.
const PARTS: usize = 10;

/// The last outcomes, of which at most [`MAX_OUTCOMES`] are looked at: a bit for each failure.
#[derive(Debug, Default)]
pub(super) struct LastOutcomes {
    next: AtomicU32,
    /// The bits that are set, so that a success reads one word. A change follows that of its bit: for a moment it may be wrong, and
    /// below 0.
    failures: AtomicU32,
    failed: [AtomicU64; MAX_OUTCOMES.div_ceil(64) as usize],
}

impl LastOutcomes {
    pub(super) fn has_no_failure(&self) -> bool {
        self.failures.load(Relaxed) == 0
    }

    /// Takes the place of the oldest outcome of the last `of`. Answers how many of them have failed, for a failure; nothing of use for a
    /// success.
    pub(super) fn note(&self, of: u32, failed: bool) -> u32 {
        let of = of.max(1);
        let at = self.next.fetch_add(1, Relaxed) % of;
        let (word, bit) = (&self.failed[at as usize / 64], 1 << (at % 64));
        if failed {
            if word.fetch_or(bit, Relaxed) & bit == 0 {
                self.failures.fetch_add(1, Relaxed);
            }
            return self.count(of);
        }
        if word.fetch_and(!bit, Relaxed) & bit != 0 {
            self.failures.fetch_sub(1, Relaxed);
        }
        0
    }

    /// A success that was noted already turns out to be a failure: the last one that there is. Answers the failures as [`Self::note`] does.
    pub(super) fn note_late(&self, of: u32) -> u32 {
        let (of, next) = (of.max(1), self.next.load(Relaxed));
        for back in 1..=of {
            let at = next.wrapping_sub(back) % of;
            let (word, bit) = (&self.failed[at as usize / 64], 1 << (at % 64));
            if word.fetch_or(bit, Relaxed) & bit == 0 {
                self.failures.fetch_add(1, Relaxed);
                break;
            }
        }
        self.count(of)
    }

    /// The failures of the last `of`. What requests have noted beyond, by settings of before a reload, nobody would take the place of.
    fn count(&self, of: u32) -> u32 {
        let counted = |(word, first): (&AtomicU64, u32)| {
            let within = match of.saturating_sub(first) {
                0 => 0,
                bits @ 1..64 => (1 << bits) - 1,
                64.. => u64::MAX,
            };
            let bits = word.load(Relaxed);
            if bits & !within != 0 {
                let beyond = word.fetch_and(within, Relaxed) & !within;
                self.failures.fetch_sub(beyond.count_ones(), Relaxed);
            }
            (bits & within).count_ones()
        };
        self.failed.iter().zip((0..).step_by(64)).map(counted).sum()
    }

    /// Not at one instant: an outcome that is noted meanwhile may stay.
    pub(super) fn clear(&self) {
        for word in &self.failed {
            self.failures.fetch_sub(word.swap(0, Relaxed).count_ones(), Relaxed);
        }
    }
}

/// Outcomes by time, in [`PARTS`] parts. Each is one word: the number of the part, then all outcomes, then the failures.
#[derive(Debug, Default)]
pub(super) struct TimeWindow([AtomicU64; PARTS]);

/// Bits of each count.
const COUNT: u32 = 22;
const MOST: u64 = (1 << COUNT) - 1;
const PART_BITS: u64 = (1 << (64 - 2 * COUNT)) - 1;

impl TimeWindow {
    /// Answers the failures and all outcomes of the window, for a failure; nothing of use for a success.
    pub(super) fn note(&self, window: Duration, failed: bool, now: u64) -> (u32, u32) {
        self.add(window, (1, u64::from(failed)), now)
    }

    /// A success that was noted already turns out to be a failure.
    pub(super) fn note_late(&self, window: Duration, now: u64) -> (u32, u32) {
        self.add(window, (0, 1), now)
    }

    fn add(&self, window: Duration, (more, more_failures): (u64, u64), now: u64) -> (u32, u32) {
        let part = now / (window.as_millis() as u64 / PARTS as u64).max(1);
        let number = part & PART_BITS;
        let count = |word: u64| {
            let (all, failures) =
                if word >> (2 * COUNT) == number { (word >> COUNT & MOST, word & MOST) } else { (0, 0) };
            // A part that is full keeps its proportion.
            let full = all == MOST;
            let (all, failures) = if full { (all, failures) } else { (all + more, failures + more_failures) };
            // The success of a late failure may be in a part before.
            let all = all.max(failures);
            Some(number << (2 * COUNT) | all << COUNT | failures)
        };
        let _ = self.0[part as usize % PARTS].fetch_update(Relaxed, Relaxed, count);
        if more_failures == 0 {
            return (0, 0);
        }
        let words = self.0.iter().map(|word| word.load(Relaxed));
        let counted = words.filter(|word| (number.wrapping_sub(word >> (2 * COUNT)) & PART_BITS) < PARTS as u64);
        let (all, failures) =
            counted.fold((0, 0), |(all, failures), word| (all + (word >> COUNT & MOST), failures + (word & MOST)));
        (failures as u32, all as u32)
    }

    pub(super) fn clear(&self) {
        self.0.iter().for_each(|word| word.store(0, Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_note_and_clear_leave_the_count_right() {
        let last = LastOutcomes::default();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let last = &last;
                scope.spawn(move || {
                    for n in 0..20_000 {
                        let failures = last.note(3, (n + thread) % 2 == 0);
                        assert!(failures <= 3, "{failures} of 3");
                        if n % 8 == 0 {
                            last.clear();
                        }
                    }
                });
            }
        });
        last.clear();
        assert!(last.has_no_failure());
        assert_eq!((last.note(3, true), last.note(3, true)), (1, 2));
    }

    #[test]
    fn only_the_last_outcomes_of_the_settings_count() {
        let last = LastOutcomes::default();
        for _ in 0..100 {
            last.note(100, true);
        }
        assert_eq!(last.note(70, true), 70);
        (0..70).for_each(|_| _ = last.note(70, false));
        assert!(last.has_no_failure(), "those beyond are forgotten");
        assert_eq!(last.note(64, true), 1);
    }
}
