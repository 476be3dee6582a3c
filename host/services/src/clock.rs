//! Time for the services and for filters, so that tests can hold it still.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A source of time.
#[derive(Debug, Clone)]
pub enum Clock {
    /// The machine's clocks.
    System(SystemClock),
    /// Microseconds since the Unix epoch, set by a test; all readings follow it.
    Manual(Arc<AtomicU64>),
}

/// Where the machine's clocks stood when the process started to look at them.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    wall_us: u64,
    started: Instant,
}

impl Clock {
    /// The machine's clocks, anchored now.
    pub fn system() -> Self {
        Clock::System(SystemClock { wall_us: wall_us(), started: Instant::now() })
    }

    /// A clock that stands at `us` microseconds since the Unix epoch, and the handle that moves it.
    pub fn manual(us: u64) -> (Self, Arc<AtomicU64>) {
        let time = Arc::new(AtomicU64::new(us));
        (Clock::Manual(time.clone()), time)
    }

    /// Microseconds since the Unix epoch, as the machine's calendar has it; it may step back.
    pub fn now_us(&self) -> u64 {
        match self {
            Clock::System(_) => wall_us(),
            Clock::Manual(time) => time.load(Ordering::Acquire),
        }
    }

    /// Microseconds since the Unix epoch that never go back: the calendar at the anchor plus the monotonic time since.
    /// Counters and expiry use this, so that a calendar that is set back doesn't freeze them.
    pub fn steady_us(&self) -> u64 {
        match self {
            Clock::System(clock) => clock.wall_us.saturating_add(micros(clock.started.elapsed().as_micros())),
            Clock::Manual(time) => time.load(Ordering::Acquire),
        }
    }

    /// Nanoseconds of a clock that never goes back, from an arbitrary start.
    pub fn monotonic_ns(&self) -> u64 {
        match self {
            Clock::System(clock) => micros(clock.started.elapsed().as_nanos()),
            Clock::Manual(time) => time.load(Ordering::Acquire).saturating_mul(1_000),
        }
    }
}

fn wall_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| micros(d.as_micros()))
}

fn micros(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_is_of_this_century_and_moves_on() {
        let clock = Clock::system();
        let (now, steady, mono) = (clock.now_us(), clock.steady_us(), clock.monotonic_ns());
        assert!(now > 1_700_000_000_000_000);
        assert!(steady.abs_diff(now) < 60_000_000);
        assert!(clock.steady_us() >= steady);
        assert!(clock.monotonic_ns() >= mono);
    }

    #[test]
    fn a_manual_clock_stands_where_it_is_put() {
        let (clock, time) = Clock::manual(7);
        assert_eq!((clock.now_us(), clock.steady_us(), clock.monotonic_ns()), (7, 7, 7_000));
        time.store(9, Ordering::Release);
        assert_eq!(clock.now_us(), 9);
    }
}
