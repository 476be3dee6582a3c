//! How fast a worker replaces instances that have failed. Instantiating and configuring can take far longer than a call, and a caller who
//! can make a filter trap would have the worker do nothing else: replacing may take a tenth of the worker's time.

use std::time::{Duration, Instant};

/// Of so many parts of the worker's time, one is for replacing instances of a filter.
const PARTS: u32 = 10;
/// What may be used at once.
const BURST: Duration = Duration::from_millis(50);
/// What is faster is not slower than many a call: it never waits.
const SLOW: Duration = Duration::from_millis(1);

/// What was lost so long ago, and was not replaced since, was not needed.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// The time that replacing instances of one filter has used on one worker.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Instances that have failed and were not replaced.
    lost: u32,
    /// When all that was used will have been earned; not before the last loss.
    even: Instant,
    /// What the last replacement took: the guess for the next.
    last: Duration,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Pace {
        Pace { lost: 0, even: now, last: Duration::ZERO }
    }

    pub(super) fn lose(&mut self, now: Instant) {
        self.forget(now);
        self.lost = self.lost.saturating_add(1);
        self.even = self.even.max(now);
    }

    fn forget(&mut self, now: Instant) {
        if now.saturating_duration_since(self.even) > FORGOTTEN {
            self.lost = 0;
        }
    }

    /// Begins to make an instance. Answers what it is expected to take if it replaces one, or when to try again. Of instances that
    /// are reused, every one counts as that while something is to be earned: several may be wanted because of one that is lost.
    pub(super) fn begin(&mut self, now: Instant, is_reused: bool) -> Result<Option<Duration>, Instant> {
        self.forget(now);
        if self.lost == 0 && (self.even <= now || !is_reused) {
            return Ok(None);
        }
        self.even = self.even.max(now);
        let free = BURST * PARTS;
        if self.even > now + free {
            return Err(self.even - free);
        }
        self.lost = self.lost.saturating_sub(1);
        self.even += self.last * PARTS;
        Ok(Some(self.last))
    }

    /// A replacement that was expected to take so much has taken so much.
    pub(super) fn end(&mut self, expected: Duration, took: Duration) {
        let charged = if took < SLOW { Duration::ZERO } else { took };
        self.even += charged.saturating_sub(expected) * PARTS;
        self.last = charged;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// How many instances are replaced in a second if each takes this long and as many fail as can.
    fn replaced(took: Duration) -> usize {
        let begun = Instant::now();
        let (mut now, mut count) = (begun, 0);
        let mut pace = Pace::new(now);
        while now < begun + 1000 * MS {
            pace.lose(now);
            match pace.begin(now, true) {
                Ok(expected) => {
                    now += took;
                    pace.end(expected.expect("a replacement"), took);
                    count += 1;
                }
                Err(at) => now = at,
            }
        }
        count
    }

    #[test]
    fn replacing_takes_a_tenth_of_the_time() {
        assert_eq!(replaced(25 * MS), 6, "75 ms at once, and then one each 250 ms");
        assert!((145..=155).contains(&replaced(MS)), "{}", replaced(MS));
        assert_eq!(replaced(MS / 10), 10_000, "what is quick is not slowed down");
    }

    #[test]
    fn instances_that_replace_none_are_free() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        assert_eq!(pace.begin(now, true), Ok(None), "the demand has grown");
        pace.lose(now);
        assert_eq!(pace.begin(now, true), Ok(Some(Duration::ZERO)));
        pace.end(Duration::ZERO, 20 * MS);
        assert_eq!(pace.begin(now + 200 * MS, true), Ok(None), "all is earned");
    }

    #[test]
    fn one_that_is_lost_gives_no_others_for_nothing() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        pace.lose(now);
        assert_eq!(pace.begin(now, true), Ok(Some(Duration::ZERO)));
        pace.end(Duration::ZERO, 1000 * MS);
        assert_eq!(pace.begin(now, false), Ok(None), "where every exchange has a new one, it replaces none");
        let at = now + 9500 * MS;
        assert_eq!(pace.begin(now, true), Err(at));
        assert_eq!(pace.begin(at, true), Ok(Some(1000 * MS)));
        assert_eq!(pace.begin(at, true), Err(at + 10_000 * MS), "of those that have waited together, one goes on");
    }

    #[test]
    fn a_loss_of_long_ago_is_forgotten() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        now += 3600 * 1000 * MS;
        pace.lose(now);
        pace.lose(now);
        assert_eq!(pace.begin(now + FORGOTTEN, true), Ok(Some(Duration::ZERO)));
        pace.lose(now);
        assert_eq!(pace.begin(now + FORGOTTEN + MS * 10_001, true), Ok(None));
    }
}
