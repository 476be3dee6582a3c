//! Conditional requests and what answers to them do, by section of RFC 9111.

use std::time::UNIX_EPOCH;

use super::*;
use crate::freshness::Times;

const BORN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(784_111_777 + seconds)
}

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    map
}

#[test]
fn conditions_are_the_validators_of_the_stored_response() {
    // RFC 9111 §4.3.1, RFC 9110 §13.1.2 and §13.1.3.
    type Fields<'a> = &'a [(&'static str, &'a str)];
    let table: [(Fields, Fields); 8] = [
        (&[("etag", "\"a\"")], &[("if-none-match", "\"a\"")]),
        (&[("etag", "W/\"a\"")], &[("if-none-match", "W/\"a\"")]),
        (&[("etag", "a")], &[("if-none-match", "a")]),
        (&[("last-modified", BORN)], &[("if-modified-since", BORN)]),
        (&[("etag", "\"a\""), ("last-modified", BORN)], &[("if-none-match", "\"a\""), ("if-modified-since", BORN)]),
        (&[("last-modified", "yesterday")], &[]),
        (&[("etag", "a, b")], &[]),
        (&[], &[]),
    ];
    for (stored, conditions) in table {
        let mut request = headers(&[
            ("if-none-match", "\"client\""),
            ("if-modified-since", BEFORE),
            ("range", "bytes=0-1"),
            ("if-range", "\"client\""),
            ("abc", "123"),
        ]);
        assert_eq!(make_conditional(&mut request, &headers(stored)), !conditions.is_empty(), "{stored:?}");
        let mut expected = headers(conditions);
        expected.insert("abc", HeaderValue::from_static("123"));
        assert_eq!(request, expected, "{stored:?}");
    }
}

#[test]
fn a_304_identifies_stored_responses() {
    // RFC 9111 §4.3.4. The most recent comes first.
    type Fields<'a> = &'a [(&'static str, &'a str)];
    let strong_time: Fields = &[("last-modified", BEFORE), ("date", BORN)];
    let weak_time: Fields = &[("last-modified", BORN), ("date", BORN)];
    let (a, b, weak_a): (Fields, Fields, Fields) = (&[("etag", "\"a\"")], &[("etag", "\"b\"")], &[("etag", "W/\"a\"")]);
    let table: [(Fields, &[Fields], &[usize]); 16] = [
        // Strong validators: all that have one of them, or none.
        (a, &[a], &[0]),
        (a, &[b, a, a], &[1, 2]),
        (a, &[b], &[]),
        (a, &[weak_a], &[]),
        (a, &[&[]], &[]),
        (&[("etag", "\"a\""), ("last-modified", BEFORE)], &[strong_time], &[]),
        (&[("last-modified", BEFORE)], &[strong_time, strong_time], &[0, 1]),
        (&[("last-modified", BORN)], &[strong_time], &[]),
        // Weak validators: the most recent.
        (weak_a, &[b, weak_a, weak_a], &[1]),
        (weak_a, &[a], &[0]),
        (weak_a, &[b], &[]),
        (&[("last-modified", BORN)], &[weak_time, weak_time], &[0]),
        // None: the only one.
        (&[], &[&[]], &[0]),
        (&[], &[a], &[0]),
        (&[], &[&[], &[]], &[]),
        (&[], &[], &[]),
    ];
    for (new, stored, expected) in table {
        let stored: Vec<_> = stored.iter().map(|fields| headers(fields)).collect();
        let stored: Vec<_> = stored.iter().collect();
        assert_eq!(identify(&headers(new), &stored).as_slice(), expected, "{new:?} {stored:?}");
    }
}

#[test]
fn a_newer_head_updates_a_stored_one() {
    // RFC 9111 §3.2.
    let mut stored = headers(&[
        ("cache-control", "max-age=1"),
        ("content-length", "36"),
        ("content-encoding", "gzip"),
        ("x-many", "1"),
        ("x-many", "2"),
        ("x-kept", "1"),
    ]);
    let newer = headers(&[
        ("cache-control", "max-age=3600"),
        ("content-length", "10"),
        ("content-encoding", "br"),
        ("content-range", "bytes 0-1/2"),
        ("x-many", "3"),
        ("content-foo", "1"),
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("keep-alive", "1"),
        ("proxy-authenticate", "x"),
        ("upgrade", "h2c"),
    ]);
    update(&mut stored, &newer);
    let expected = headers(&[
        ("cache-control", "max-age=3600"),
        ("content-length", "36"),
        ("content-encoding", "gzip"),
        ("x-many", "3"),
        ("x-kept", "1"),
        ("content-foo", "1"),
    ]);
    assert_eq!(stored, expected);
}

fn freshened(stored: &[(&'static str, &str)], new: &[(&'static str, &str)], policy: &Policy) -> Freshened {
    let (request, response) = (HeaderMap::new(), headers(new));
    let received = Received {
        method: &Method::GET,
        request: &request,
        status: StatusCode::NOT_MODIFIED,
        response: &response,
        times: Times { request: at(100), response: at(100) },
    };
    freshen(StatusCode::OK, &headers(stored), None, received, policy)
}

#[test]
fn a_304_makes_a_stored_response_fresh() {
    // RFC 9111 §4.3.4.
    let stored = [("cache-control", "max-age=60"), ("etag", "\"a\""), ("date", BORN), ("x", "1")];
    let found = freshened(&stored, &[("etag", "\"a\""), ("age", "7")], &Policy::default());
    let storable = found.storable.unwrap();
    assert_eq!(storable.stored.age(at(101)), Duration::from_secs(8));
    assert_eq!(found.head["x"], "1");
    assert_eq!(found.head["date"], "Sun, 06 Nov 1994 08:51:17 GMT");
    assert!(!storable.head(&found.head).contains_key("age"));
    assert_eq!(found.head["age"], "7", "a cache behind must not take it for younger");

    let found = freshened(&stored, &[("cache-control", "max-age=3600"), ("x", "2")], &Policy::default());
    assert_eq!(found.storable.unwrap().stored.lifetime(), Duration::from_secs(3600));
    assert_eq!(found.head["x"], "2");

    let found = freshened(&stored, &[("cache-control", "no-store")], &Policy::default());
    assert_eq!(found.storable, Err(Refusal::NoStore));
    assert_eq!(found.head["x"], "1");
}

#[test]
fn a_cookie_of_a_304_is_for_one_client() {
    let stored = [("cache-control", "max-age=60"), ("etag", "\"a\"")];
    for (set_cookie, kept) in [(SetCookie::Refuse, false), (SetCookie::Omit, false), (SetCookie::Store, true)] {
        let policy = Policy { set_cookie, ..Policy::default() };
        let found = freshened(&stored, &[("set-cookie", "a=b")], &policy);
        assert_eq!(found.head["set-cookie"], "a=b");
        let head = found.storable.unwrap().head(&found.head);
        assert_eq!(head.contains_key("set-cookie"), kept, "{set_cookie:?}");
    }
}

#[test]
fn a_client_with_credentials_keeps_a_shared_response_fresh() {
    // It was stored for a client without them, and the upstream says that it is the same for this one.
    let policy = Policy { default_lifetime: Some(Duration::from_secs(60)), ..Policy::default() };
    let stored = headers(&[("etag", "\"a\"")]);
    let new = headers(&[("etag", "\"a\"")]);
    let freshened_for = |request: &[(&'static str, &str)]| {
        let received = Received {
            method: &Method::GET,
            request: &headers(request),
            status: StatusCode::NOT_MODIFIED,
            response: &new,
            times: Times { request: at(100), response: at(100) },
        };
        freshen(StatusCode::OK, &stored, None, received, &policy).storable.map(|storable| storable.stored.lifetime())
    };
    assert_eq!(freshened_for(&[("cookie", "session=1")]), Ok(Duration::from_secs(60)));
    // RFC 9111 §3.5 is about these.
    assert_eq!(freshened_for(&[("authorization", "x")]), Err(Refusal::Authorization));
}

#[test]
fn the_response_to_a_head_updates_or_outdates() {
    // RFC 9111 §4.3.5.
    let stored = headers(&[("etag", "\"a\""), ("last-modified", BORN)]);
    type Fields<'a> = &'a [(&'static str, &'a str)];
    let table: [(u16, Fields, HeadUpdate); 9] = [
        (200, &[], HeadUpdate::Update),
        (200, &[("etag", "\"a\"")], HeadUpdate::Update),
        (200, &[("etag", "\"b\"")], HeadUpdate::Outdated),
        (200, &[("last-modified", BORN), ("content-length", "5")], HeadUpdate::Update),
        (200, &[("last-modified", BEFORE)], HeadUpdate::Outdated),
        (200, &[("etag", "\"a\""), ("last-modified", BEFORE)], HeadUpdate::Outdated),
        (200, &[("content-length", "6")], HeadUpdate::Outdated),
        (200, &[("content-length", "x")], HeadUpdate::Outdated),
        (410, &[("etag", "\"b\"")], HeadUpdate::Nothing),
    ];
    for (status, response, expected) in table {
        let status = StatusCode::from_u16(status).unwrap();
        assert_eq!(head_update(&stored, 5, status, &headers(response)), expected, "{status} {response:?}");
    }
}
