//! Tables of stored responses, requests and times, by section of RFC 9111.

use std::time::UNIX_EPOCH;

use http::HeaderValue;
use http::header::HeaderName;

use super::*;
use crate::policy::Heuristic;

/// Sun, 06 Nov 1994 08:49:37 GMT.
const BORN: u64 = 784_111_777;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(BORN + seconds)
}

fn http_date(seconds: i64) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(BORN.strict_add_signed(seconds)))
}

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())).collect()
}

fn stored_by(fields: &[(&'static str, &str)], policy: &Policy) -> Stored {
    let headers = headers(fields);
    let times = Times { request: at(0), response: at(0) };
    Stored::new(StatusCode::OK, &headers, &ResponseDirectives::of(&headers), times, policy)
}

fn stored(cache_control: &str) -> Stored {
    stored_by(&[("cache-control", cache_control), ("etag", "\"a\"")], &Policy::default())
}

fn asking() -> Policy {
    Policy { request_directives: true, ..Policy::default() }
}

fn reuse_of(stored: &Stored, request: &str, age: u64, policy: &Policy) -> Reuse {
    let request = RequestDirectives::of(&headers(&[("cache-control", request)]));
    reuse(&request, Some(Candidate { stored, marked_stale: None }), at(age), policy)
}

#[test]
fn lifetimes() {
    // RFC 9111 §4.2.1 and §4.2.2: `Date` is the time of receipt where it is not given.
    let policy = Policy {
        heuristic: Some(Heuristic { percent: 10, limit: Duration::from_secs(3600) }),
        default_lifetime: Some(Duration::from_secs(9)),
        ..Policy::default()
    };
    type Fields<'a> = &'a [(&'static str, &'a str)];
    let (hour, past, day_ago) = (http_date(3600), http_date(-30), http_date(-86_400));
    let (fast, year_ago) = (http_date(400), http_date(-31_536_000));
    let table: [(Fields, u64, Source); 16] = [
        (&[("cache-control", "s-maxage=5, max-age=60")], 5, Source::Explicit),
        (&[("cache-control", "max-age=0, s-maxage=60"), ("expires", &past)], 60, Source::Explicit),
        (&[("cache-control", "max-age=60"), ("expires", &past)], 60, Source::Explicit),
        (&[("cache-control", "max-age=60"), ("expires", "0")], 60, Source::Explicit),
        (&[("cache-control", "max-age=0"), ("expires", &hour)], 0, Source::Explicit),
        (&[("expires", &hour)], 3600, Source::Explicit),
        (&[("expires", &hour), ("date", &past)], 3630, Source::Explicit),
        (&[("expires", &hour), ("date", "foo")], 3600, Source::Explicit),
        (&[("expires", &past)], 0, Source::Explicit),
        (&[("expires", "0"), ("last-modified", &day_ago)], 0, Source::Explicit),
        (&[("expires", &http_date(300)), ("date", &fast)], 0, Source::Explicit),
        (&[("last-modified", &http_date(-100))], 10, Source::Heuristic),
        (&[("last-modified", &day_ago), ("cache-control", "max-age=x")], 0, Source::Explicit),
        (&[("last-modified", &year_ago)], 3600, Source::Heuristic),
        (&[("last-modified", &http_date(100))], 0, Source::Heuristic),
        (&[], 9, Source::Default),
    ];
    for (fields, seconds, source) in table {
        let stored = stored_by(fields, &policy);
        assert_eq!((stored.lifetime(), stored.source()), (Duration::from_secs(seconds), source), "{fields:?}");
    }
    // RFC 9213 §2.2: `Expires` does not count beside a targeted field.
    let targeted = stored_by(&[("cdn-cache-control", "must-revalidate"), ("expires", &hour)], &Policy::default());
    assert_eq!((targeted.lifetime(), targeted.source()), (Duration::ZERO, Source::None));
}

#[test]
fn heuristics_are_for_some_statuses() {
    // RFC 9110 §15.1, RFC 9111 §4.2.2 and §5.2.2.9.
    let policy =
        Policy { heuristic: Some(Heuristic { percent: 10, limit: Duration::from_secs(86_400) }), ..Policy::default() };
    let source = |status: u16, cache_control: &str| {
        let headers = headers(&[("last-modified", &http_date(-86_400)), ("cache-control", cache_control)]);
        let directives = ResponseDirectives::of(&headers);
        lifetime(StatusCode::from_u16(status).unwrap(), &headers, &directives, at(0), &policy).1
    };
    for status in [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501] {
        assert_eq!(source(status, ""), Source::Heuristic, "{status}");
    }
    for status in [201, 202, 302, 303, 307, 400, 403, 500, 502, 503, 504, 599] {
        assert_eq!(source(status, ""), Source::None, "{status}");
        assert_eq!(source(status, "public"), Source::Heuristic, "{status}");
    }
}

#[test]
fn ages() {
    // RFC 9111 §4.2.3: (Age, Date, delay of the response, time since) and the age without and with `Date`.
    let table = [
        (None, 0, 0, 0, 0, 0),
        (None, 0, 0, 7, 7, 7),
        (Some("30"), 0, 0, 5, 35, 35),
        (Some("30"), 0, 4, 5, 39, 39),
        (None, -7200, 0, 1, 1, 7201),
        (Some("25"), -10, 0, 0, 25, 25),
        (Some("15"), 10, 0, 0, 15, 15),
        (Some("abc"), 0, 0, 3, 3, 3),
    ];
    for (age, date, delay, since, expected, with_date) in table {
        let mut head = headers(&[("date", &http_date(date))]);
        if let Some(age) = age {
            head.insert("age", HeaderValue::from_static(age));
        }
        let times = Times { request: at(0) - Duration::from_secs(delay), response: at(0) };
        for (age_from_date, expected) in [(false, expected), (true, with_date)] {
            let policy = Policy { age_from_date, ..Policy::default() };
            let stored = Stored::new(StatusCode::OK, &head, &ResponseDirectives::of(&head), times, &policy);
            assert_eq!(stored.age(at(since)), Duration::from_secs(expected), "{age:?} {date} {delay} {since}");
        }
    }
    // A clock that was set back.
    assert_eq!(stored("max-age=5").age(at(0) - Duration::from_secs(9)), Duration::ZERO);
}

#[test]
fn requests_meet_stored_responses() {
    use Decision::*;
    // (stored, request, age) and the decision with its reason.
    let table = [
        // RFC 9111 §4.2: fresh while the age is below the lifetime.
        ("max-age=60", "", 0, Fresh, Reason::Fresh),
        ("max-age=60", "", 59, Fresh, Reason::Fresh),
        ("max-age=60", "", 60, Revalidate, Reason::Stale),
        ("max-age=0", "", 0, Revalidate, Reason::Stale),
        // §5.2.2.4.
        ("max-age=60, no-cache", "", 0, Revalidate, Reason::NoCache),
        ("max-age=60, no-cache", "max-stale", 0, Revalidate, Reason::NoCache),
        ("max-age=60, no-cache=\"a\"", "", 0, Fresh, Reason::Fresh),
        // §5.2.1.4.
        ("max-age=60", "no-cache", 0, Revalidate, Reason::Request),
        ("max-age=60, immutable", "no-cache", 0, Revalidate, Reason::Request),
        // §5.2.1.1.
        ("max-age=60", "max-age=0", 1, Revalidate, Reason::Request),
        ("max-age=60", "max-age=5", 5, Fresh, Reason::Fresh),
        ("max-age=60", "max-age=5", 6, Revalidate, Reason::Request),
        // RFC 8246 §2.
        ("max-age=60, immutable", "max-age=0", 1, Fresh, Reason::Fresh),
        ("max-age=60, immutable", "max-age=0", 60, Revalidate, Reason::Stale),
        // §5.2.1.3.
        ("max-age=60", "min-fresh=20", 40, Fresh, Reason::Fresh),
        ("max-age=60", "min-fresh=20", 41, Revalidate, Reason::Request),
        ("max-age=60, stale-while-revalidate=60", "min-fresh=0", 61, Revalidate, Reason::Stale),
        // §5.2.1.2.
        ("max-age=60", "max-stale", 1000, Stale, Reason::Stale),
        ("max-age=60", "max-stale=10", 70, Stale, Reason::Stale),
        ("max-age=60", "max-stale=10", 71, Revalidate, Reason::Stale),
        ("max-age=60", "max-stale=10, max-age=65", 66, Revalidate, Reason::Stale),
        // §4.2.4: nobody's wish counts against these.
        ("max-age=60, must-revalidate", "max-stale", 61, Revalidate, Reason::Stale),
        ("max-age=60, proxy-revalidate", "max-stale", 61, Revalidate, Reason::Stale),
        ("s-maxage=60", "max-stale", 61, Revalidate, Reason::Stale),
        ("max-age=60, must-revalidate", "", 59, Fresh, Reason::Fresh),
        // RFC 5861 §3.
        ("max-age=60, stale-while-revalidate=10", "", 60, StaleWhileRevalidate, Reason::Stale),
        ("max-age=60, stale-while-revalidate=10", "", 70, StaleWhileRevalidate, Reason::Stale),
        ("max-age=60, stale-while-revalidate=10", "", 71, Revalidate, Reason::Stale),
        ("max-age=60, stale-while-revalidate=10", "max-age=60", 65, Revalidate, Reason::Stale),
        ("max-age=60, stale-while-revalidate=10, must-revalidate", "", 61, Revalidate, Reason::Stale),
        ("max-age=60, stale-while-revalidate=0", "", 60, Revalidate, Reason::Stale),
        ("s-maxage=60, stale-while-revalidate=10", "", 61, StaleWhileRevalidate, Reason::Stale),
        // §5.2.1.7.
        ("max-age=60", "only-if-cached", 5, Fresh, Reason::Fresh),
        ("max-age=60", "only-if-cached", 60, GatewayTimeout, Reason::Stale),
        ("max-age=60", "only-if-cached, max-stale", 60, Stale, Reason::Stale),
        ("max-age=60, no-cache", "only-if-cached", 0, GatewayTimeout, Reason::NoCache),
    ];
    for (response, request, age, decision, reason) in table {
        let found = reuse_of(&stored(response), request, age, &asking());
        assert_eq!((found.decision, found.reason), (decision, reason), "{response} | {request} | {age}");
        assert_eq!(found.age, Duration::from_secs(age));
    }
}

#[test]
fn a_miss_asks_the_upstream_unless_the_client_does_not_want_it() {
    let miss = |request: &str| {
        let request = RequestDirectives::of(&headers(&[("cache-control", request)]));
        reuse(&request, None, at(0), &Policy::default()).decision
    };
    assert_eq!(miss(""), Decision::Fetch);
    assert_eq!(miss("only-if-cached"), Decision::GatewayTimeout);
}

#[test]
fn without_a_validator_there_is_nothing_to_validate() {
    let plain = stored_by(&[("cache-control", "max-age=60")], &Policy::default());
    assert_eq!(reuse_of(&plain, "", 60, &Policy::default()).decision, Decision::Fetch);
}

#[test]
fn directives_of_requests_count_where_the_policy_says_so() {
    let stored = stored("max-age=60");
    for request in ["no-cache", "max-age=0", "min-fresh=100"] {
        assert_eq!(reuse_of(&stored, request, 1, &Policy::default()).decision, Decision::Fresh, "{request}");
    }
    assert_eq!(reuse_of(&stored, "max-stale", 61, &Policy::default()).decision, Decision::Revalidate);
    assert_eq!(reuse_of(&stored, "only-if-cached", 61, &Policy::default()).decision, Decision::GatewayTimeout);
}

#[test]
fn the_policy_gives_windows_to_responses_that_name_none() {
    let policy = Policy {
        stale_while_revalidate: Duration::from_secs(30),
        stale_if_error: Duration::from_secs(300),
        ..Policy::default()
    };
    let decision = |cache_control, age| {
        let stored = stored_by(&[("cache-control", cache_control), ("etag", "\"a\"")], &policy);
        let candidate = Candidate { stored: &stored, marked_stale: None };
        let failed = on_error(&RequestDirectives::default(), candidate, Failure::NoResponse, at(age), &policy);
        (reuse_of(&stored, "", age, &policy).decision, failed != OnError::PassOn)
    };
    use Decision::*;
    let table = [
        ("max-age=60", 90, (StaleWhileRevalidate, true)),
        ("max-age=60", 91, (Revalidate, true)),
        ("max-age=60", 361, (Revalidate, false)),
        ("max-age=60, stale-while-revalidate=0, stale-if-error=0", 61, (Revalidate, false)),
        // RFC 9111 §4.2.4.
        ("max-age=60, must-revalidate", 61, (Revalidate, false)),
        ("max-age=60, proxy-revalidate", 61, (Revalidate, false)),
        ("s-maxage=60", 61, (Revalidate, false)),
        ("max-age=60, no-cache", 61, (Revalidate, false)),
        ("s-maxage=60, stale-if-error=9", 69, (Revalidate, true)),
    ];
    for (cache_control, age, expected) in table {
        assert_eq!(decision(cache_control, age), expected, "{cache_control} {age}");
    }
}

#[test]
fn errors_are_hidden_within_the_window() {
    // RFC 5861 §4.
    let table = [
        ("max-age=60, stale-if-error=10", "", None, 70, true),
        ("max-age=60, stale-if-error=10", "", None, 71, false),
        ("max-age=60, stale-if-error=10", "", Some(500), 65, true),
        ("max-age=60, stale-if-error=10", "", Some(502), 65, true),
        ("max-age=60, stale-if-error=10", "", Some(503), 65, true),
        ("max-age=60, stale-if-error=10", "", Some(504), 65, true),
        ("max-age=60, stale-if-error=10", "", Some(501), 65, false),
        ("max-age=60, stale-if-error=10", "", Some(404), 65, false),
        ("max-age=60", "", Some(503), 65, false),
        ("max-age=60", "stale-if-error=10", Some(503), 65, true),
        ("max-age=60", "stale-if-error=10", Some(503), 71, false),
        ("max-age=60, must-revalidate", "stale-if-error=10", None, 65, false),
        ("max-age=60, must-revalidate, stale-if-error=10", "", None, 65, false),
        ("max-age=60, no-cache, stale-if-error=10", "", None, 5, false),
        ("s-maxage=60", "stale-if-error=10", None, 65, false),
    ];
    for (response, request, status, age, served) in table {
        let failure = status.map_or(Failure::NoResponse, |code| Failure::Status(StatusCode::from_u16(code).unwrap()));
        let request = RequestDirectives::of(&headers(&[("cache-control", request)]));
        let stored = stored(response);
        let found = on_error(&request, Candidate { stored: &stored, marked_stale: None }, failure, at(age), &asking());
        let expected = match served {
            true => OnError::ServeStale { age: Duration::from_secs(age), ttl: 60 - i64::try_from(age).unwrap() },
            false => OnError::PassOn,
        };
        assert_eq!(found, expected, "{response} | {request:?} | {failure:?} | {age}");
    }
}

#[test]
fn a_soft_purge_makes_stale() {
    let decision = |cache_control: &str, request: &str, marked, age| {
        let stored = stored(cache_control);
        let request = RequestDirectives::of(&headers(&[("cache-control", request)]));
        let candidate = Candidate { stored: &stored, marked_stale: Some(at(marked)) };
        let found = reuse(&request, Some(candidate), at(age), &asking());
        (found.decision, found.reason, found.ttl)
    };
    assert_eq!(decision("max-age=60", "", 0, 1), (Decision::Revalidate, Reason::Purged, -1));
    assert_eq!(decision("max-age=60", "max-stale", 0, 1), (Decision::Revalidate, Reason::Purged, -1));
    let window = "max-age=60, stale-while-revalidate=10";
    assert_eq!(decision(window, "", 0, 1), (Decision::StaleWhileRevalidate, Reason::Purged, -1));
    assert_eq!(decision(window, "", 0, 71), (Decision::Revalidate, Reason::Purged, -71));
    // The window begins with the purge, and not with the end of the lifetime.
    assert_eq!(decision(window, "", 20, 30), (Decision::StaleWhileRevalidate, Reason::Purged, -10));
    assert_eq!(decision(window, "", 20, 31), (Decision::Revalidate, Reason::Purged, -11));
    // Where that came first, it counts.
    assert_eq!(decision(window, "", 70, 71), (Decision::Revalidate, Reason::Purged, -11));
}

#[test]
fn a_soft_purge_begins_the_window_for_errors() {
    let stored = stored("max-age=86400, stale-if-error=30");
    let candidate = Candidate { stored: &stored, marked_stale: Some(at(60)) };
    let at_age = |age| on_error(&RequestDirectives::default(), candidate, Failure::NoResponse, at(age), &asking());
    assert_eq!(at_age(90), OnError::ServeStale { age: Duration::from_secs(90), ttl: -30 });
    assert_eq!(at_age(91), OnError::PassOn);
}
