//! How a route releases: who stays on which side of a split, what gets a copy of its requests, which faults it injects.

use std::time::Duration;

use http::{HeaderName, StatusCode};

use super::{ByteSize, HashKey, Name};
use crate::route::FieldSpec;

/// A share of requests, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(u32);

impl Share {
    pub const ALL: Share = Share(Share::WHOLE);
    const WHOLE: u32 = 1_000_000;

    /// A percentage from 0 to 100, to four decimal places.
    pub fn percent(percent: f64) -> Option<Share> {
        let millionths = (percent * f64::from(Share::WHOLE / 100)).round();
        (0.0..=f64::from(Share::WHOLE)).contains(&millionths).then_some(Share(millionths as u32))
    }

    /// Whether a random number falls into the share.
    pub fn takes(self, random: u64) -> bool {
        (u128::from(random) * u128::from(Share::WHOLE)) >> 64 < u128::from(self.0)
    }

    /// In percent.
    pub fn as_percent(self) -> f64 {
        f64::from(self.0) / f64::from(Share::WHOLE / 100)
    }
}

/// A split whose callers stay where they are while weights change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sticky {
    /// What a caller is known by, at least one: the first that the request has.
    pub by: Vec<HashKey>,
    /// How long a browser keeps the cookie that it got here; none: until it is closed.
    pub max_age: Option<Duration>,
}

/// A copy of requests for another upstream, whose responses nobody reads.
#[derive(Debug, Clone, PartialEq)]
pub struct Mirror {
    pub upstream: Name,
    pub percent: Share,
    /// For a whole mirrored exchange.
    pub timeout: Duration,
    /// Mirrored requests of this route under way at the same time, on all workers.
    pub max_requests: u32,
    /// A request with a larger body is not mirrored.
    pub max_body: ByteSize,
}

/// Faults that a route injects, to try how its callers take them.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Only requests with all of these; empty for all requests.
    pub headers: Vec<FieldSpec<HeaderName>>,
    pub delay: Option<Delay>,
    pub abort: Option<Abort>,
    pub slow_body: Option<SlowBody>,
}

/// A wait before the request is sent.
#[derive(Debug, Clone, Copy)]
pub struct Delay {
    pub duration: Duration,
    pub percent: Share,
}

/// An answer in place of the upstream's.
#[derive(Debug, Clone, Copy)]
pub struct Abort {
    pub with: AbortWith,
    pub percent: Share,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbortWith {
    /// A status of HTTP.
    Status(StatusCode),
    /// A status of gRPC.
    Grpc(u8),
}

/// A response body that comes slowly.
#[derive(Debug, Clone, Copy)]
pub struct SlowBody {
    pub bytes_per_second: u64,
    pub percent: Share,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_takes_its_part_of_all_numbers() {
        for (percent, expected) in [(0.0, 0), (100.0, 10_000), (50.0, 5000), (0.25, 25)] {
            let share = Share::percent(percent).expect("a share");
            let taken = (0..10_000u64).filter(|i| share.takes(i * (u64::MAX / 10_000))).count();
            assert!(taken.abs_diff(expected) <= 1, "{percent}: {taken}");
            assert_eq!(share.as_percent(), percent);
        }
        assert!([-0.1, 100.1, f64::NAN].iter().all(|wrong| Share::percent(*wrong).is_none()));
    }
}
