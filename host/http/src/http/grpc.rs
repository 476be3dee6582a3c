//! The deadline of a gRPC call as its head has it ("gRPC over HTTP2": `Timeout`).

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

/// How long the call may take, from its head on.
pub const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// `TimeoutValue` has at most eight digits.
const MAX_VALUE: u128 = 99_999_999;

/// How long a call may take, as its client says. A malformed value says nothing.
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

/// The value for a time, in milliseconds where they fit. It never grows.
pub fn timeout_value(left: Duration) -> HeaderValue {
    let (millis, seconds) = (left.as_millis(), u128::from(left.as_secs()));
    let text = match (millis <= MAX_VALUE, seconds <= MAX_VALUE) {
        (true, _) => format!("{millis}m"),
        (false, true) => format!("{seconds}S"),
        (false, false) => format!("{}H", (seconds / 3600).min(MAX_VALUE)),
    };
    HeaderValue::try_from(text).expect("digits and a letter")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_in_all_units() {
        let of = |text: &str| timeout(&HeaderMap::from_iter([(TIMEOUT, HeaderValue::from_str(text).unwrap())]));
        let cases = [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("250m", Duration::from_millis(250)),
            ("99999999u", Duration::from_micros(99_999_999)),
            ("0n", Duration::ZERO),
        ];
        for (text, expected) in cases {
            assert_eq!(of(text), Some(expected), "{text}");
        }
        for wrong in ["", "S", "1", "1s", "-1S", "+1S", "1.5S", "123456789S", " 1S", "1 S", "1\u{e9}"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_time_becomes_a_value_that_is_no_longer() {
        let cases = [
            (Duration::from_micros(1999), "1m"),
            (Duration::from_secs(60), "60000m"),
            (Duration::from_millis(100_000_999), "100000S"),
            (Duration::MAX, "99999999H"),
        ];
        for (time, expected) in cases {
            assert_eq!(timeout_value(time), expected);
        }
    }
}
