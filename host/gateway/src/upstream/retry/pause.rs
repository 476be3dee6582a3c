//! How long a retry waits: a random time, so that the requests that have failed together do not come back together, and at least as long
//! as the upstream asks for.

use std::time::{Duration, SystemTime};

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName};

use crate::config::model::Backoff;

/// gRPC proposal A6: milliseconds, or less than nothing for "do not retry".
const GRPC_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// What an upstream says of the time for another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushback {
    Nothing,
    After(Duration),
    Never,
}

/// The wait before an attempt that is the `retry`-th retry of its request, counted from 1: full jitter.
pub fn pause(backoff: Backoff, retry: u32, random: u64) -> Duration {
    let doublings = retry.saturating_sub(1).min(20);
    let longest = backoff.base.saturating_mul(1 << doublings).min(backoff.max);
    // A fraction of 2^32.
    longest.mul_f64((random >> 32) as f64 / f64::from(u32::MAX))
}

/// What the head of a response says of another attempt (RFC 9110 §10.2.3).
pub fn pushback(headers: &HeaderMap, is_grpc: bool, now: SystemTime) -> Pushback {
    if is_grpc && let Some(value) = headers.get(GRPC_PUSHBACK) {
        let millis = value.to_str().ok().and_then(|text| text.parse::<u64>().ok());
        return millis.map_or(Pushback::Never, |millis| Pushback::After(Duration::from_millis(millis)));
    }
    let Some(text) = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()) else { return Pushback::Nothing };
    if let Ok(seconds) = text.trim().parse::<u64>() {
        return Pushback::After(Duration::from_secs(seconds));
    }
    match httpdate::parse_http_date(text.trim()) {
        Ok(date) => Pushback::After(date.duration_since(now).unwrap_or_default()),
        Err(_) => Pushback::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_bound_and_are_random() {
        let backoff = Backoff { base: Duration::from_millis(25), max: Duration::from_millis(250) };
        let longest = [1, 2, 3, 4, 5, 99].map(|retry| pause(backoff, retry, u64::MAX).as_millis());
        assert_eq!(longest, [25, 50, 100, 200, 250, 250]);
        assert_eq!(pause(backoff, 3, 0), Duration::ZERO);
        assert_eq!(pause(backoff, 3, u64::MAX / 2).as_millis(), 50);
    }

    #[test]
    fn an_upstream_says_when_to_come_again() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let says = |name: &'static str, value: &'static str, is_grpc| {
            let headers = HeaderMap::from_iter([(HeaderName::from_static(name), value.parse().unwrap())]);
            pushback(&headers, is_grpc, now)
        };
        let after = |seconds| Pushback::After(Duration::from_secs(seconds));
        assert_eq!(says("retry-after", "120", false), after(120));
        assert_eq!(says("retry-after", "Sun, 06 Nov 1994 08:49:47 GMT", false), after(10));
        assert_eq!(says("retry-after", "Sun, 06 Nov 1994 08:40:00 GMT", false), after(0), "it has passed");
        for nonsense in ["", "-1", "soon", "1.5", "99999999999999999999999"] {
            assert_eq!(says("retry-after", nonsense, false), Pushback::Nothing, "{nonsense}");
        }
        assert_eq!(says("grpc-retry-pushback-ms", "1500", true), Pushback::After(Duration::from_millis(1500)));
        for never in ["-1", "x"] {
            assert_eq!(says("grpc-retry-pushback-ms", never, true), Pushback::Never, "{never}");
        }
        assert_eq!(says("grpc-retry-pushback-ms", "1500", false), Pushback::Nothing, "of gRPC only");
    }
}
