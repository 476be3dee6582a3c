//! A clock with a precision of a few milliseconds, for limits of seconds and longer. It costs a fifth of a precise reading.

use std::time::Duration;

/// The most that the clock lags behind: one tick of a kernel with a slow tick.
pub const LAG: Duration = Duration::from_millis(10);

/// Milliseconds of a monotonic clock.
pub fn now_ms() -> u64 {
    // Its own cache would be one cache line that all workers write.
    coarsetime::Duration::from_ticks(coarsetime::Instant::now_without_cache_update().as_ticks()).as_millis()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

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
