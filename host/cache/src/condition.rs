//! The conditions of a client against a stored response: RFC 9111 §4.3.2, RFC 9110 §13.

use std::time::SystemTime;

use http::header::{self, HeaderMap};
use http::{Method, StatusCode};

use crate::etag::{self, EntityTag};
use crate::{date, fields};

/// What a client gets whose request a stored response answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The stored response.
    Send,
    /// A 304 with [`not_modified`] as its head.
    NotModified,
}

/// RFC 9110 §13.2.2, as far as it applies to a cache. `If-Match` and `If-Unmodified-Since` are for origins: §13.1.1 and §13.1.4 have caches
/// ignore them. `received` is when the stored response came.
pub fn evaluate(
    method: &Method,
    request: &HeaderMap,
    status: StatusCode,
    stored: &HeaderMap,
    received: SystemTime,
) -> Outcome {
    // RFC 9110 §13.2.1: conditions are about a representation that there is.
    if status != StatusCode::OK || !matches!(*method, Method::GET | Method::HEAD) {
        return Outcome::Send;
    }
    // §13.1.3: with `If-None-Match`, the date does not count.
    let unchanged = match request.contains_key(header::IF_NONE_MATCH) {
        true => none_match_fails(request, stored),
        false => is_unmodified(request, stored, received),
    };
    if unchanged { Outcome::NotModified } else { Outcome::Send }
}

/// RFC 9110 §13.2.2, steps 1 and 2: whether the client wants its request to fail, for an origin whose answer has these fields. A cache ignores
/// these conditions. The request is for a representation that there is.
pub fn precondition_fails(request: &HeaderMap, current: &HeaderMap) -> bool {
    if request.contains_key(header::IF_MATCH) {
        let tag = current.get(header::ETAG).and_then(|value| EntityTag::parse(value.as_bytes()));
        // §13.1.1: compared strongly.
        return !request.get_all(header::IF_MATCH).iter().any(|line| {
            line.as_bytes().trim_ascii() == b"*"
                || tag.is_some_and(|tag| etag::list(line.as_bytes()).any(|wanted| wanted.matches_strongly(&tag)))
        });
    }
    // §13.1.4: what is no date does not count, nor one of several.
    let mut lines = request.get_all(header::IF_UNMODIFIED_SINCE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return false };
    match (date::parse(line.as_bytes()), fields::last_modified(current)) {
        (Some(since), Some(modified)) => modified > since,
        (None, _) | (_, None) => false,
    }
}

/// RFC 9110 §13.1.2: `*` or one of the tags, compared weakly.
fn none_match_fails(request: &HeaderMap, stored: &HeaderMap) -> bool {
    let tag = stored.get(header::ETAG).and_then(|value| EntityTag::parse(value.as_bytes()));
    request.get_all(header::IF_NONE_MATCH).iter().any(|line| {
        line.as_bytes().trim_ascii() == b"*"
            || tag.is_some_and(|tag| etag::list(line.as_bytes()).any(|wanted| wanted.matches_weakly(&tag)))
    })
}

/// RFC 9110 §13.1.3. RFC 9111 §4.3.2: without `Last-Modified`, the date of the response or of its receipt counts.
fn is_unmodified(request: &HeaderMap, stored: &HeaderMap, received: SystemTime) -> bool {
    let mut lines = request.get_all(header::IF_MODIFIED_SINCE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return false };
    let Some(since) = date::parse(line.as_bytes()) else { return false };
    let modified = match stored.contains_key(header::LAST_MODIFIED) {
        true => fields::last_modified(stored),
        false => Some(fields::date(stored).unwrap_or(received)),
    };
    modified.is_some_and(|modified| modified <= since)
}

/// RFC 9110 §13.1.5: whether the client's range applies to the stored response. Only strong validators count: parts of two representations
/// must not be combined.
pub fn range_applies(request: &HeaderMap, stored: &HeaderMap) -> bool {
    let Some(condition) = request.get(header::IF_RANGE) else { return true };
    let condition = condition.as_bytes();
    if let Some(wanted) = date::parse(condition) {
        let strong = fields::date(stored).is_some_and(|date| date > wanted);
        return strong && fields::last_modified(stored) == Some(wanted);
    }
    let tag = stored.get(header::ETAG).and_then(|value| EntityTag::parse(value.as_bytes()));
    match (EntityTag::parse(condition), tag) {
        (Some(wanted), Some(tag)) => wanted.matches_strongly(&tag),
        (None, _) | (_, None) => false,
    }
}

/// The head of a 304: RFC 9110 §15.4.5. What describes the content is left out; the client has it.
pub fn not_modified(stored: &HeaderMap) -> HeaderMap {
    let mut head = stored.clone();
    for name in [
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
        header::CONTENT_LANGUAGE,
        header::CONTENT_RANGE,
        header::CONTENT_DISPOSITION,
        header::TRAILER,
    ] {
        head.remove(name);
    }
    head
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use http::HeaderValue;
    use http::header::HeaderName;

    use super::*;

    const BORN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const BORN_850: &str = "Sunday, 06-Nov-94 08:49:37 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:49:39 GMT";

    type Fields<'a> = &'a [(&'static str, &'a str)];

    fn headers(fields: Fields) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        map
    }

    fn received() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(784_111_777)
    }

    #[test]
    fn conditions_of_clients() {
        // RFC 9110 §13.2.2; RFC 9111 §4.3.2. True: 304.
        let tag: Fields = &[("etag", "\"abcdef\""), ("last-modified", BORN)];
        let table: [(Fields, Fields, bool); 28] = [
            (tag, &[("if-none-match", "\"abcdef\"")], true),
            (tag, &[("if-none-match", "W/\"abcdef\"")], true),
            (tag, &[("if-none-match", "\"other\"")], false),
            (tag, &[("if-none-match", "\"abcdef\", \"1234\", \"5678\"")], true),
            (tag, &[("if-none-match", "\"1234\", \"abcdef\", \"5678\"")], true),
            (tag, &[("if-none-match", "\"1234\", \"5678\", \"abcdef\"")], true),
            (tag, &[("if-none-match", "\"1234\""), ("if-none-match", "\"abcdef\"")], true),
            (tag, &[("if-none-match", "*")], true),
            (&[], &[("if-none-match", "*")], true),
            (&[], &[("if-none-match", "\"abcdef\"")], false),
            (&[("etag", "W/\"a\"")], &[("if-none-match", "W/\"a\"")], true),
            (&[("etag", "w/\"a\"")], &[("if-none-match", "w/\"a\"")], true),
            (&[("etag", "abcdef")], &[("if-none-match", "abcdef")], true),
            (&[("etag", "\"\u{fc}\"")], &[("if-none-match", "\"\u{fc}\"")], true),
            // §13.1.3: the date does not count beside the tag.
            (tag, &[("if-none-match", "\"abcdef\""), ("if-modified-since", BEFORE)], true),
            (tag, &[("if-none-match", "\"other\""), ("if-modified-since", BORN)], false),
            (tag, &[("if-modified-since", BORN)], true),
            (tag, &[("if-modified-since", BORN_850)], true),
            (tag, &[("if-modified-since", LATER)], true),
            (tag, &[("if-modified-since", BEFORE)], false),
            (tag, &[("if-modified-since", "yesterday")], false),
            (tag, &[("if-modified-since", BORN), ("if-modified-since", BORN)], false),
            (&[("date", BORN)], &[("if-modified-since", BORN)], true),
            (&[("date", LATER)], &[("if-modified-since", BORN)], false),
            (&[], &[("if-modified-since", BORN)], true),
            (&[], &[("if-modified-since", BEFORE)], false),
            // For origins only.
            (tag, &[("if-match", "\"other\"")], false),
            (tag, &[("if-unmodified-since", BEFORE)], false),
        ];
        for (stored, request, unchanged) in table {
            let expected = if unchanged { Outcome::NotModified } else { Outcome::Send };
            for method in [Method::GET, Method::HEAD] {
                let found = evaluate(&method, &headers(request), StatusCode::OK, &headers(stored), received());
                assert_eq!(found, expected, "{stored:?} {request:?}");
            }
        }
        // §13.2.1.
        let (request, stored) = (headers(&[("if-none-match", "*")]), headers(tag));
        let not_found = StatusCode::from_u16(404).unwrap();
        assert_eq!(evaluate(&Method::GET, &request, not_found, &stored, received()), Outcome::Send);
        assert_eq!(evaluate(&Method::POST, &request, StatusCode::OK, &stored, received()), Outcome::Send);
    }

    #[test]
    fn preconditions_of_origins() {
        // RFC 9110 §13.1.1, §13.1.4. True: 412.
        let tag: Fields = &[("etag", "\"a\""), ("last-modified", BORN)];
        let table: [(Fields, Fields, bool); 13] = [
            (tag, &[], false),
            (tag, &[("if-match", "\"a\"")], false),
            (tag, &[("if-match", "\"b\", \"a\"")], false),
            (tag, &[("if-match", "*")], false),
            (tag, &[("if-match", "\"b\"")], true),
            (tag, &[("if-match", "W/\"a\"")], true),
            (&[("etag", "W/\"a\"")], &[("if-match", "W/\"a\"")], true),
            (tag, &[("if-unmodified-since", BORN)], false),
            (tag, &[("if-unmodified-since", BEFORE)], true),
            (tag, &[("if-unmodified-since", "yesterday")], false),
            (tag, &[("if-unmodified-since", BEFORE), ("if-unmodified-since", BEFORE)], false),
            (tag, &[("if-match", "\"a\""), ("if-unmodified-since", BEFORE)], false),
            (&[("etag", "\"a\"")], &[("if-unmodified-since", BEFORE)], false),
        ];
        for (current, request, fails) in table {
            assert_eq!(precondition_fails(&headers(request), &headers(current)), fails, "{current:?} {request:?}");
        }
    }

    #[test]
    fn if_range_needs_a_strong_validator() {
        // RFC 9110 §13.1.5.
        let table: [(Fields, &str, bool); 9] = [
            (&[("etag", "\"a\"")], "\"a\"", true),
            (&[("etag", "\"a\"")], "\"b\"", false),
            (&[("etag", "W/\"a\"")], "W/\"a\"", false),
            (&[("etag", "\"a\"")], "W/\"a\"", false),
            (&[], "\"a\"", false),
            (&[("last-modified", BORN), ("date", LATER)], BORN, true),
            (&[("last-modified", BORN), ("date", BORN)], BORN, false),
            (&[("last-modified", BORN), ("date", LATER)], BEFORE, false),
            (&[("last-modified", BORN)], BORN, false),
        ];
        for (stored, condition, applies) in table {
            let request = headers(&[("if-range", condition)]);
            assert_eq!(range_applies(&request, &headers(stored)), applies, "{stored:?} {condition}");
        }
        assert!(range_applies(&HeaderMap::new(), &HeaderMap::new()));
    }

    #[test]
    fn a_304_has_what_the_client_updates() {
        // RFC 9110 §15.4.5.
        let kept: Fields = &[
            ("etag", "\"a\""),
            ("date", BORN),
            ("cache-control", "max-age=1"),
            ("content-location", "/a"),
            ("expires", LATER),
            ("vary", "accept"),
            ("access-control-allow-origin", "*"),
        ];
        let mut stored = headers(kept);
        for name in ["content-type", "content-length", "content-encoding", "content-language"] {
            stored.insert(name, HeaderValue::from_static("1"));
        }
        assert_eq!(not_modified(&stored), headers(kept));
    }
}
