//! Ranges out of a complete stored response: RFC 9110 §14. Parts are never stored.

use std::ops::Range;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use smallvec::SmallVec;

use crate::condition::range_applies;

/// RFC 9110 §14.2: a server may ignore a request for many ranges. More than this, and the whole response is sent.
pub const MOST_RANGES: usize = 16;

/// RFC 9110 §15.3.7.2: parts that are closer to each other than the head of a part are sent as one.
const HEAD_OF_PART: u64 = 80;

pub type Ranges = SmallVec<[Range<u64>; 1]>;

/// What of a stored response a request gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// A 200 with all of it.
    Whole,
    /// A 206: these parts, at least one, none of them empty, without overlaps.
    Parts(Ranges),
    /// A 416.
    Unsatisfiable,
}

/// RFC 9110 §14.2. A range that is malformed, of another unit, or not for this representation is ignored.
pub fn select(method: &Method, request: &HeaderMap, status: StatusCode, stored: &HeaderMap, length: u64) -> Selection {
    let mut lines = request.get_all(header::RANGE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return Selection::Whole };
    if *method != Method::GET || status != StatusCode::OK || !range_applies(request, stored) {
        return Selection::Whole;
    }
    match parse(line.as_bytes(), length) {
        None => Selection::Whole,
        Some(parts) if parts.is_empty() => Selection::Unsatisfiable,
        Some(parts) => Selection::Parts(coalesced(parts)),
    }
}

/// The satisfiable ones of the ranges (RFC 9110 §14.1.2). `None`: not well-formed, or too many.
fn parse(line: &[u8], length: u64) -> Option<Ranges> {
    let (unit, set) = line.split_at_checked(b"bytes=".len())?;
    if !unit.eq_ignore_ascii_case(b"bytes=") {
        return None;
    }
    let mut parts = Ranges::new();
    let mut count = 0;
    for member in set.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty()) {
        count += 1;
        if count > MOST_RANGES {
            return None;
        }
        let dash = member.iter().position(|byte| *byte == b'-')?;
        let part = match (&member[..dash], &member[dash + 1..]) {
            (b"", suffix) => length - number(suffix)?.min(length)..length,
            (first, b"") => number(first)?..length,
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                if first > last {
                    return None;
                }
                first..last.saturating_add(1).min(length)
            }
        };
        if part.start < part.end {
            parts.push(part);
        }
    }
    (count > 0).then_some(parts)
}

fn number(digits: &[u8]) -> Option<u64> {
    let digit = |sum: u64, byte: &u8| {
        byte.is_ascii_digit().then(|| sum.saturating_mul(10).saturating_add(u64::from(byte - b'0')))
    };
    if digits.is_empty() { None } else { digits.iter().try_fold(0, digit) }
}

/// Parts in the order of the request, where those that overlap or nearly touch are one, at the place of the first.
fn coalesced(parts: Ranges) -> Ranges {
    let mut done = Ranges::new();
    for mut part in parts {
        let mut place = done.len();
        // One part may join several earlier ones.
        while let Some(at) = done.iter().position(|other| are_near(other, &part)) {
            let other = done.remove(at);
            part = part.start.min(other.start)..part.end.max(other.end);
            place = place.min(at);
        }
        done.insert(place.min(done.len()), part);
    }
    done
}

fn are_near(one: &Range<u64>, other: &Range<u64>) -> bool {
    let gap = one.start.max(other.start).saturating_sub(one.end.min(other.end));
    gap < HEAD_OF_PART
}

/// The head of a 206 with one part (RFC 9110 §15.3.7.1).
pub fn part_head(stored: &HeaderMap, part: &Range<u64>, length: u64) -> HeaderMap {
    let mut head = stored.clone();
    head.insert(header::CONTENT_LENGTH, HeaderValue::from(part.end - part.start));
    let range = format!("bytes {}-{}/{length}", part.start, part.end - 1);
    head.insert(header::CONTENT_RANGE, HeaderValue::try_from(range).expect("digits are a value"));
    head
}

/// The fields of a 416 (RFC 9110 §15.5.17): what the client may ask for, and of which representation.
pub fn unsatisfiable_head(stored: &HeaderMap, length: u64) -> HeaderMap {
    let range = HeaderValue::try_from(format!("bytes */{length}")).expect("digits are a value");
    let mut head = HeaderMap::from_iter([(header::CONTENT_RANGE, range)]);
    for name in [header::DATE, header::ETAG, header::LAST_MODIFIED, header::VARY] {
        if let Some(value) = stored.get(&name) {
            head.insert(name, value.clone());
        }
    }
    head
}

/// The content of a 206 with several parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    Text(Bytes),
    /// These bytes of the stored content.
    Content(Range<u64>),
}

/// RFC 9110 §14.6: a 206 with several parts. `boundary` is of letters and digits and stands nowhere in the content: it is random.
pub fn multipart(stored: &HeaderMap, parts: &[Range<u64>], length: u64, boundary: &str) -> (HeaderMap, Vec<Segment>) {
    const NAME: HeaderName = header::CONTENT_TYPE;
    let mut segments = Vec::with_capacity(2 * parts.len() + 1);
    let mut total = 0_u64;
    for (at, part) in parts.iter().enumerate() {
        let mut text = Vec::with_capacity(128);
        let line_end: &[u8] = if at == 0 { b"" } else { b"\r\n" };
        text.extend_from_slice(line_end);
        text.extend_from_slice(format!("--{boundary}\r\n").as_bytes());
        if let Some(kind) = stored.get(NAME) {
            text.extend_from_slice(b"Content-Type: ");
            text.extend_from_slice(kind.as_bytes());
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(
            format!("Content-Range: bytes {}-{}/{length}\r\n\r\n", part.start, part.end - 1).as_bytes(),
        );
        total = (part.end - part.start).saturating_add(text.len() as u64).saturating_add(total);
        segments.push(Segment::Text(text.into()));
        segments.push(Segment::Content(part.clone()));
    }
    let end = format!("\r\n--{boundary}--\r\n");
    total = total.saturating_add(end.len() as u64);
    segments.push(Segment::Text(end.into()));

    let mut head = stored.clone();
    // RFC 9110 §15.3.7.2: the parts have it.
    head.remove(header::CONTENT_RANGE);
    head.insert(header::CONTENT_LENGTH, HeaderValue::from(total));
    let kind = format!("multipart/byteranges; boundary={boundary}");
    // A boundary that is no value of a field is a bug of the caller, and not worth a broken exchange.
    head.insert(NAME, HeaderValue::try_from(kind).unwrap_or(HeaderValue::from_static("multipart/byteranges")));
    (head, segments)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    fn selected(range: &str, length: u64) -> Selection {
        let request = headers(&[("range", range)]);
        select(&Method::GET, &request, StatusCode::OK, &HeaderMap::new(), length)
    }

    fn parts(ranges: &[(u64, u64)]) -> Selection {
        Selection::Parts(ranges.iter().map(|(start, end)| *start..*end).collect())
    }

    #[test]
    fn ranges_select_parts() {
        // RFC 9110 §14.1.2 and §14.2.
        use Selection::{Unsatisfiable, Whole};
        let table = [
            ("bytes=0-1", 11, parts(&[(0, 2)])),
            ("Bytes=0-1", 11, parts(&[(0, 2)])),
            ("bytes=1-", 11, parts(&[(1, 11)])),
            ("bytes=-1", 11, parts(&[(10, 11)])),
            ("bytes=-99", 11, parts(&[(0, 11)])),
            ("bytes=5-99", 11, parts(&[(5, 11)])),
            ("bytes=5-99999999999999999999999", 11, parts(&[(5, 11)])),
            ("bytes= 0-1 ,, ", 11, parts(&[(0, 2)])),
            ("bytes=0-0", 1, parts(&[(0, 1)])),
            ("bytes=11-", 11, Unsatisfiable),
            ("bytes=99999999999999999999999-", 11, Unsatisfiable),
            ("bytes=-0", 11, Unsatisfiable),
            ("bytes=0-", 0, Unsatisfiable),
            ("bytes=0-1, 11-12", 11, parts(&[(0, 2)])),
            ("bytes=2-1", 11, Whole),
            ("bytes=0-1, 2-1", 11, Whole),
            ("bytes=", 11, Whole),
            ("bytes=a-b", 11, Whole),
            ("bytes=1", 11, Whole),
            ("bytes=--1", 11, Whole),
            ("bytes=+1-2", 11, Whole),
            ("bytes 0-1", 11, Whole),
            ("items=0-1", 11, Whole),
            ("", 11, Whole),
            ("b", 11, Whole),
        ];
        for (range, length, expected) in table {
            assert_eq!(selected(range, length), expected, "{range}");
        }
    }

    #[test]
    fn parts_that_overlap_or_touch_are_one() {
        // RFC 9110 §15.3.7.2: in the order of the request.
        let table: [(&str, &[(u64, u64)]); 6] = [
            ("bytes=0-9, 1000-1009", &[(0, 10), (1000, 1010)]),
            ("bytes=1000-1009, 0-9", &[(1000, 1010), (0, 10)]),
            ("bytes=0-9, 5-20", &[(0, 21)]),
            ("bytes=0-9, 50-60", &[(0, 61)]),
            ("bytes=1000-1009, 0-9, 500-509, 5-1005", &[(0, 1010)]),
            ("bytes=0-, 0-, 0-, -1", &[(0, 2000)]),
        ];
        for (range, expected) in table {
            assert_eq!(selected(range, 2000), parts(expected), "{range}");
        }
    }

    #[test]
    fn range_floods_get_the_whole() {
        let many = |count: usize| {
            let ranges: Vec<_> = (0..count).map(|at| format!("{}-{}", at * 1000, at * 1000)).collect();
            selected(&format!("bytes={}", ranges.join(",")), 1_000_000)
        };
        assert!(matches!(many(MOST_RANGES), Selection::Parts(parts) if parts.len() == MOST_RANGES));
        assert_eq!(many(MOST_RANGES + 1), Selection::Whole);
        // However they are written, no more is sent than the content and the heads of the parts.
        let Selection::Parts(found) = selected(&format!("bytes={}", vec!["0-"; MOST_RANGES].join(",")), 5) else {
            panic!("no parts");
        };
        assert_eq!(Selection::Parts(found), parts(&[(0, 5)]));
    }

    #[test]
    fn ranges_are_for_gets_of_a_200_and_one_line() {
        let request = headers(&[("range", "bytes=0-1")]);
        let whole = |method, request: &HeaderMap, status: u16, stored: &HeaderMap| {
            let status = StatusCode::from_u16(status).unwrap();
            select(&method, request, status, stored, 11) == Selection::Whole
        };
        let stored = headers(&[("etag", "\"a\"")]);
        assert!(!whole(Method::GET, &request, 200, &stored));
        assert!(whole(Method::HEAD, &request, 200, &stored));
        assert!(whole(Method::GET, &request, 404, &stored));
        assert!(whole(Method::GET, &headers(&[("range", "bytes=0-1"), ("if-range", "\"b\"")]), 200, &stored));
        assert!(!whole(Method::GET, &headers(&[("range", "bytes=0-1"), ("if-range", "\"a\"")]), 200, &stored));
        let mut twice = request;
        twice.append("range", HeaderValue::from_static("bytes=2-3"));
        assert!(whole(Method::GET, &twice, 200, &stored));
    }

    #[test]
    fn heads_of_parts() {
        // RFC 9110 §15.3.7.1 and §15.5.17.
        let stored = headers(&[("content-length", "11"), ("content-type", "text/plain"), ("etag", "\"a\"")]);
        let expected = headers(&[
            ("content-length", "2"),
            ("content-range", "bytes 0-1/11"),
            ("content-type", "text/plain"),
            ("etag", "\"a\""),
        ]);
        assert_eq!(part_head(&stored, &(0..2), 11), expected);
        let unsatisfiable = headers(&[("content-range", "bytes */11"), ("etag", "\"a\"")]);
        assert_eq!(unsatisfiable_head(&stored, 11), unsatisfiable);
    }

    #[test]
    fn several_parts_are_a_multipart() {
        // RFC 9110 §14.6.
        let stored = headers(&[("content-length", "11"), ("content-type", "text/plain")]);
        let (head, segments) = multipart(&stored, &[0..2, 9..11], 11, "B");
        let mut text = Vec::new();
        for segment in segments {
            match segment {
                Segment::Text(bytes) => text.extend_from_slice(&bytes),
                Segment::Content(part) => {
                    text.extend_from_slice(&b"hello world"[part.start as usize..part.end as usize])
                }
            }
        }
        let expected = "--B\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/11\r\n\r\nhe\
            \r\n--B\r\nContent-Type: text/plain\r\nContent-Range: bytes 9-10/11\r\n\r\nld\r\n--B--\r\n";
        assert_eq!(String::from_utf8(text).unwrap(), expected);
        assert_eq!(head["content-length"], expected.len().to_string());
        assert_eq!(head["content-type"], "multipart/byteranges; boundary=B");
    }
}
