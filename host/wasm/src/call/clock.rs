//! The clocks that guests read.

use std::time::{Duration, Instant, SystemTime};

/// Time since 1970.
pub(crate) fn since_epoch() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// Nanoseconds since the first call in this process.
pub(crate) fn monotonic_ns() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    // Not from zero: some runtimes take zero for "not yet known".
    1_000_000_000 + START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}
