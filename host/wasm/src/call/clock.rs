//! The clocks that guests read: those of the machine, but where the services have one that a test moves.

use std::time::{Duration, Instant, SystemTime};

use sluice_services::Clock;

/// Not from zero: some runtimes take zero for "not yet known".
const FIRST_NS: u64 = 1_000_000_000;

/// Time since 1970.
pub(crate) fn since_epoch(clock: Option<&Clock>) -> Duration {
    match clock {
        Some(clock @ Clock::Manual(_)) => Duration::from_micros(clock.now_us()),
        Some(Clock::System(_)) | None => SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
    }
}

/// Nanoseconds since the first call in this process.
pub(crate) fn monotonic_ns(clock: Option<&Clock>) -> u64 {
    if let Some(clock @ Clock::Manual(_)) = clock {
        return clock.monotonic_ns().saturating_add(FIRST_NS);
    }
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    FIRST_NS + START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}
