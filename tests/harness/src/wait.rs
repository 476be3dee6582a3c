//! Waiting for a condition: the only place of the tests that lets time pass.

use std::time::{Duration, Instant};

/// How long a condition may take before the test fails; generous, since a passing test never waits for it, and a cold build machine with two cores runs several servers at once.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Polls until the condition holds; panics with `what` after [`PATIENCE`].
#[track_caller]
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    eventually_within(PATIENCE, what, condition);
}

/// Polls until the condition holds; panics with `what` after `limit`.
#[track_caller]
pub fn eventually_within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < end, "did not happen within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Polls until there is a value; panics with `what` after [`PATIENCE`].
#[track_caller]
pub fn eventually_some<T>(what: &str, mut value: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = value() {
            return value;
        }
        assert!(Instant::now() < end, "did not happen within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Does something again until it took less than `limit`, for tests of what holds only so long: on a machine that stalls it may be over before the test
/// has looked. The attempt begins anew each time, and tells what it found and how long that took.
#[track_caller]
pub fn within<T>(limit: Duration, mut attempt: impl FnMut() -> (Duration, T)) -> T {
    for _ in 0..20 {
        let (took, found) = attempt();
        if took < limit {
            return found;
        }
    }
    panic!("the machine has stalled for {limit:?} in each of 20 attempts");
}
