//! A clock with a precision of a few milliseconds, for limits of seconds and longer. It costs a fifth of a precise reading.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// The most that the clock lags behind: one tick of a kernel with a slow tick.
pub const LAG: Duration = Duration::from_millis(10);

/// Milliseconds of a monotonic clock.
pub fn now_ms() -> u64 {
    // Its own cache would be one cache line that all workers write.
    coarsetime::Duration::from_ticks(coarsetime::Instant::now_without_cache_update().as_ticks()).as_millis()
}

/// Milliseconds of a limit, less up to a tenth: what begins at the same time does not end together.
pub fn jittered_ms(limit: Duration) -> u64 {
    let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    limit - RandomState::new().hash_one(limit) % (limit / 10 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn limits_differ_and_are_never_longer_than_allowed() {
        let limits: Vec<u64> = (0..100).map(|_| jittered_ms(Duration::from_secs(1000))).collect();
        assert!(limits.iter().all(|limit| (900_000..=1_000_000).contains(limit)), "{limits:?}");
        assert!(limits.iter().any(|limit| *limit != limits[0]));
    }

    #[test]
    fn it_goes_with_the_precise_clock() {
        let (precise, coarse) = (Instant::now(), now_ms());
        while precise.elapsed() < 5 * LAG {
            std::hint::spin_loop();
        }
        let passed = Duration::from_millis(now_ms() - coarse);
        assert!(passed >= 3 * LAG && passed <= precise.elapsed() + 2 * LAG, "{passed:?}");
    }
}
