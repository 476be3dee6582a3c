//! Durations and sizes as they are written: `"250ms"`, `"64KiB"`.

use std::time::Duration;

use super::model::ByteSize;

/// Reads `"250ms"`, `"2s"`, `"5m"`, `"1h"` or `"1d"`; none for anything else or more than 10,000 days.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let unit = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        "d" => 24 * 60 * 60 * 1000,
        _ => return None,
    };
    let millis = number.checked_mul(unit)?;
    (millis <= 10_000 * 24 * 60 * 60 * 1000).then_some(Duration::from_millis(millis))
}

/// A duration as `duration` reads it, in the largest unit that has no rest.
pub(super) fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [("d", 24 * 60 * 60 * 1000), ("h", 60 * 60 * 1000), ("m", 60 * 1000), ("s", 1000), ("ms", 1)];
    let fits = units.iter().find(|(_, unit)| millis >= *unit && millis.is_multiple_of(*unit));
    fits.map_or_else(|| "0s".to_owned(), |(name, unit)| format!("{}{name}", millis / unit))
}

/// Reads `"10B"`, `"10kB"`, `"10MB"`, `"10GB"`, `"64KiB"`, `"1MiB"` or `"1GiB"`.
pub fn size(text: &str) -> Option<ByteSize> {
    let (number, unit) = split(text)?;
    let unit = match unit {
        "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1000 * 1000,
        "GB" => 1000 * 1000 * 1000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit).map(ByteSize)
}

/// A whole number and its unit. No sign, no fraction, no space: one way to write each value.
fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let cases = [("250ms", 250), ("2s", 2000), ("5m", 300_000), ("1h", 3_600_000), ("1d", 86_400_000), ("0s", 0)];
        for (text, millis) in cases {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for wrong in ["", "5", "s", "-5s", "1.5s", "5 s", "5sec", "5M", "99999999999999999999s", "10001d", "٣s"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn durations_are_shown_as_they_are_written() {
        for text in ["250ms", "75s", "5m", "1h", "1d", "1001ms", "0s"] {
            assert_eq!(duration(text).map(show_duration).as_deref(), Some(text));
        }
    }

    #[test]
    fn sizes() {
        let cases = [("10B", 10), ("1KB", 1000), ("10MB", 10_000_000), ("64KiB", 65_536), ("2GiB", 2 << 30)];
        for (text, bytes) in cases {
            assert_eq!(size(text), Some(ByteSize(bytes)), "{text}");
        }
        for wrong in ["", "5", "MiB", "-1B", "1.5MiB", "1 MiB", "1mib", "1Mb", "99999999999999GiB"] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes_are_shown_as_they_are_written() {
        for text in ["64KiB", "1MiB", "3GiB", "1500B", "0B"] {
            assert_eq!(size(text).map(|size| size.to_string()).as_deref(), Some(text));
        }
    }
}
