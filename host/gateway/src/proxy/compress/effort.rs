//! How much work a worker puts into compression: less, the more of its time is asked for. A worker that is busy for 70 % of the time lets requests
//! wait for as long again as it serves them, so it turns to faster levels there, before its loop is late.

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::http::coding::{Coding, Level};

/// How long a measurement takes at least.
const WINDOW: Duration = Duration::from_millis(100);
/// Percent of a worker's time from which on it works at half of the levels, and at the fastest ones.
const HALF: u32 = 70;
const LEAST: u32 = 90;
/// So many percent below its beginning a step ends.
const HYSTERESIS: u32 = 15;
/// Numbers of `schedstat`: three of up to twenty digits.
const LINE: usize = 80;

/// The levels that a worker compresses at.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::proxy) enum Effort {
    #[default]
    Configured,
    Half,
    Least,
}

impl Effort {
    /// After a measurement, in percent of the worker's time.
    fn after(self, busy: u32) -> Effort {
        let of = |busy: u32| match busy {
            LEAST.. => Effort::Least,
            HALF.. => Effort::Half,
            _ => Effort::Configured,
        };
        // It rises at once, and falls to what holds with some more to do.
        of(busy).max(self.min(of(busy.saturating_add(HYSTERESIS))))
    }

    pub(in crate::proxy) fn lower(self, configured: Level) -> Level {
        let Level { coding, level } = configured;
        // The level 0 of Brotli is hardly faster than 1.
        let least = match coding {
            Coding::Gzip | Coding::Deflate | Coding::Brotli | Coding::Zstd => level.min(1),
        };
        let level = match self {
            Effort::Configured => level,
            Effort::Half => (level + least) / 2,
            Effort::Least => least,
        };
        Level { coding, level }
    }
}

/// What a worker has measured of itself.
pub(in crate::proxy) struct Busyness {
    state: RefCell<State>,
}

struct State {
    effort: Effort,
    /// What the kernel counts for this thread; none where it does not.
    counts: Option<File>,
    /// The last measurement, and what was asked for until then.
    last: (Instant, Duration),
}

impl Busyness {
    /// Of the calling thread.
    pub(in crate::proxy) fn of_this_thread() -> Busyness {
        let counts = File::open("/proc/thread-self/schedstat").ok();
        let asked = counts.as_ref().and_then(asked).unwrap_or_default();
        Busyness { state: RefCell::new(State { effort: Effort::default(), counts, last: (Instant::now(), asked) }) }
    }

    pub(in crate::proxy) fn effort(&self) -> Effort {
        let mut state = self.state.borrow_mut();
        let State { effort, counts, last } = &mut *state;
        let now = Instant::now();
        let passed = now.saturating_duration_since(last.0);
        if passed >= WINDOW
            && let Some(asked) = counts.as_ref().and_then(asked)
        {
            *effort = effort.after(percent(asked.saturating_sub(last.1), passed));
            *last = (now, asked);
        }
        *effort
    }
}

/// The time for which a thread has run or would have run had it had a processor.
fn asked(counts: &File) -> Option<Duration> {
    let mut line = [0; LINE];
    let length = counts.read_at(&mut line, 0).ok()?;
    parse(line.get(..length)?)
}

/// Nanoseconds on a processor, and nanoseconds of waiting for one.
fn parse(line: &[u8]) -> Option<Duration> {
    let mut numbers = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let (ran, waited): (u64, u64) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
    Some(Duration::from_nanos(ran.saturating_add(waited)))
}

fn percent(of: Duration, whole: Duration) -> u32 {
    let percent = of.as_nanos() * 100 / whole.as_nanos().max(1);
    u32::try_from(percent).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effort_falls_with_the_load_and_comes_back_later() {
        let mut effort = Effort::default();
        for (busy, expected) in [
            (69, Effort::Configured),
            (70, Effort::Half),
            (60, Effort::Half),
            (56, Effort::Half),
            (54, Effort::Configured),
            (200, Effort::Least),
            (89, Effort::Least),
            (75, Effort::Least),
            (74, Effort::Half),
            (0, Effort::Configured),
        ] {
            effort = effort.after(busy);
            assert_eq!(effort, expected, "{busy}");
        }
    }

    #[test]
    fn levels_never_rise() {
        for coding in [Coding::Gzip, Coding::Brotli, Coding::Zstd] {
            for level in Level::range(coding) {
                let at = |effort: Effort| effort.lower(Level { coding, level }).level;
                let (configured, half, least) = (at(Effort::Configured), at(Effort::Half), at(Effort::Least));
                assert!(configured == level && half <= configured && least <= half, "{coding:?} {level}");
                assert!(Level::range(coding).contains(&least));
            }
        }
        let of = |level| Effort::Half.lower(Level { coding: Coding::Gzip, level }).level;
        assert_eq!((of(9), of(6), of(1)), (5, 3, 1));
    }

    #[test]
    fn what_the_kernel_counts_is_read() {
        assert_eq!(parse(b"1500 500 7\n"), Some(Duration::from_nanos(2000)));
        assert_eq!(parse(b"1500"), None);
        assert_eq!(parse(b"a b c"), None);
        assert_eq!(percent(Duration::from_millis(70), Duration::from_millis(100)), 70);
        assert_eq!(percent(Duration::MAX, Duration::ZERO), u32::MAX);
        // A thread that never rests.
        let busyness = Busyness::of_this_thread();
        let until = Instant::now() + 4 * WINDOW;
        let mut effort = Effort::Configured;
        while Instant::now() < until {
            effort = busyness.effort();
        }
        let counts = busyness.state.borrow().counts.is_some();
        assert!(!counts || effort == Effort::Least, "{effort:?}");
    }
}
