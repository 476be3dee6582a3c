//! HTTP dates as caches read them: RFC 9110 §5.6.7, with the leniency and the strictness of RFC 9111 §4.2.

use std::time::SystemTime;

/// Longer than each of the three formats.
const LONGEST: usize = 40;

/// The time that a field's value says. All three formats of HTTP count, in any case (RFC 9111 §4.2: a cache should match without
/// regard to case), and whatever day of the week they claim. A zone that is not GMT, dashes in the wrong format or a missing digit make the
/// value invalid.
pub fn parse(value: &[u8]) -> Option<SystemTime> {
    let value = value.trim_ascii();
    let mut text = [0; LONGEST];
    let text = text.get_mut(..value.len())?;
    text.copy_from_slice(value);
    for word in text.split_mut(|byte| !byte.is_ascii_alphabetic()) {
        word.make_ascii_lowercase();
        if *word == *b"gmt" {
            word.make_ascii_uppercase();
        } else if let Some(first) = word.first_mut() {
            first.make_ascii_uppercase();
        }
    }
    let text = str::from_utf8(text).ok()?;
    httpdate::parse_http_date(text).ok().or_else(|| on_another_day(text))
}

/// The parser wants the day of the week to be the right one, and says no more than that something is wrong.
fn on_another_day(text: &str) -> Option<SystemTime> {
    const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
    let (claimed, rest) = text.split_at(text.find(|letter: char| !letter.is_ascii_alphabetic())?);
    let length = |day: &str| if claimed.len() == 3 { 3 } else { day.len() };
    if !DAYS.iter().any(|day| day[..length(day)] == *claimed) {
        return None;
    }
    DAYS.iter().find_map(|day| httpdate::parse_http_date(&format!("{}{rest}", &day[..length(day)])).ok())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn all_formats_count_in_any_case_and_nothing_else() {
        // RFC 9110 §5.6.7: three formats; RFC 9111 §4.2: case does not matter, zones other than GMT are invalid.
        let table = [
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(784_111_777)),
            ("Sun Nov  6 08:49:37 1994", Some(784_111_777)),
            ("SUN, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Sun, 06 NOV 1994 08:49:37 GMT", Some(784_111_777)),
            ("Sun, 06 Nov 1994 08:49:37 gMT", Some(784_111_777)),
            (" Sun, 06 Nov 1994 08:49:37 GMT ", Some(784_111_777)),
            ("Thursday, 18-Aug-50 02:01:18 GMT", Some(2_544_400_878)),
            ("Thu, 18 Aug 2050 02:01:18 GMT", Some(2_544_400_878)),
            ("Sun, 21 Nov 2286 04:46:39 GMT", Some(10_000_039_599)),
            ("Thu Aug  8 02:01:18 2050", Some(2_543_536_878)),
            ("Mon, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Wednesday, 06-Nov-94 08:49:37 GMT", Some(784_111_777)),
            ("Xyz, 06 Nov 1994 08:49:37 GMT", None),
            ("Sunda, 06-Nov-94 08:49:37 GMT", None),
            ("Sun, 31 Feb 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49:37 UTC", None),
            ("Sun, 06 Nov 1994 08:49:37 AEST", None),
            ("Sun, 06 Nov 94 08:49:37 GMT", None),
            ("Sun 06 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06  Nov 1994 08:49:37 GMT", None),
            ("Sun, 06-Nov-1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08.49.37 GMT", None),
            ("Sun, 06 Nov 1994 8:49:37 GMT", None),
            ("0", None),
            ("-1", None),
            ("", None),
            ("Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:38 GMT", None),
            ("S\u{fc}n, 06 Nov 1994 08:49:37 GMT", None),
        ];
        for (text, seconds) in table {
            let expected = seconds.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(parse(text.as_bytes()), expected, "{text}");
        }
    }
}
