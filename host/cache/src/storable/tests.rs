//! A table of responses by section of RFC 9111.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;

use super::*;

const NOW: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(784_111_777)
}

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())).collect()
}

fn store(
    status: u16,
    request: &[(&'static str, &str)],
    response: &[(&'static str, &str)],
    policy: &Policy,
) -> Result<Storable, Refusal> {
    storable(
        Received {
            method: &Method::GET,
            request: &headers(request),
            status: StatusCode::from_u16(status).unwrap(),
            response: &headers(response),
            times: Times { request: now(), response: now() },
        },
        policy,
    )
}

fn refusal(status: u16, request: &[(&'static str, &str)], response: &[(&'static str, &str)]) -> Option<Refusal> {
    store(status, request, response, &Policy::default()).err()
}

const CACHE_CONTROL: &str = "cache-control";
const FRESH: (&str, &str) = (CACHE_CONTROL, "max-age=60");
const TAG: (&str, &str) = ("etag", "\"a\"");

#[test]
fn what_may_be_stored() {
    type Case = (&'static str, u16, Option<(&'static str, &'static str)>, Vec<(&'static str, &'static str)>);
    let cc = |value| vec![(CACHE_CONTROL, value)];
    let table: Vec<(Case, Option<Refusal>)> = vec![
        (("§3 max-age", 200, None, cc("max-age=60")), None),
        (("§3 s-maxage", 200, None, cc("s-maxage=60")), None),
        (("§3 Expires", 200, None, vec![("expires", "Sun, 06 Nov 1994 09:49:37 GMT")]), None),
        (("§3 nothing said", 200, None, vec![]), Some(Refusal::NoFreshness)),
        (("§3 a validator says nothing", 200, None, vec![TAG]), Some(Refusal::NoFreshness)),
        (("§3 public and a validator", 200, None, vec![(CACHE_CONTROL, "public"), TAG]), None),
        (("§3 public alone", 200, None, cc("public")), Some(Refusal::Useless)),
        (("§3 any status with freshness", 599, None, vec![FRESH]), None),
        (("§3 an error with freshness", 500, None, vec![FRESH]), None),
        (("§3 no-cache is no permission", 599, None, vec![(CACHE_CONTROL, "no-cache"), TAG]), {
            Some(Refusal::NoFreshness)
        }),
        (("§3 interim", 103, None, vec![FRESH]), Some(Refusal::Status)),
        (("§3.4 partial", 206, None, vec![FRESH]), Some(Refusal::Status)),
        (("§3 not modified", 304, None, vec![FRESH]), Some(Refusal::Status)),
        (("RFC 9110 §15.5.17 range", 416, None, vec![FRESH]), Some(Refusal::Status)),
        (("RFC 6585 §4", 429, None, vec![FRESH]), Some(Refusal::Status)),
        (("§5.2.2.5 no-store", 200, None, cc("no-store, max-age=60")), Some(Refusal::NoStore)),
        (("§5.2.2.3 understood", 200, None, cc("no-store, must-understand, max-age=60")), None),
        (("§5.2.2.3 not understood", 599, None, cc("no-store, must-understand, max-age=60")), {
            Some(Refusal::NotUnderstood)
        }),
        (("§5.2.2.3 alone", 599, None, cc("must-understand, max-age=60")), Some(Refusal::NotUnderstood)),
        (("§5.2.2.7 private", 200, None, cc("private, max-age=60")), Some(Refusal::Private)),
        (("§5.2.2.7 qualified", 200, None, cc("private=\"a\", max-age=60")), None),
        (("§5.2.1.5 no-store", 200, Some((CACHE_CONTROL, "no-store")), vec![FRESH]), Some(Refusal::RequestNoStore)),
        (("§3.5", 200, Some(("authorization", "x")), vec![FRESH]), Some(Refusal::Authorization)),
        (("§3.5 public", 200, Some(("authorization", "x")), cc("public, max-age=60")), None),
        (("§3.5 must-revalidate", 200, Some(("authorization", "x")), cc("must-revalidate, max-age=60")), None),
        (("§3.5 s-maxage", 200, Some(("authorization", "x")), cc("s-maxage=60")), None),
        (("§3.5 proxy-revalidate", 200, Some(("authorization", "x")), cc("proxy-revalidate, max-age=60")), {
            Some(Refusal::Authorization)
        }),
        (("§7.3 cookie of the request", 200, Some(("cookie", "a=b")), vec![FRESH]), None),
        (("§7.3 Set-Cookie", 200, None, vec![FRESH, ("set-cookie", "a=b")]), Some(Refusal::SetCookie)),
        (
            ("§5.2.2.4 Set-Cookie named", 200, None, {
                vec![(CACHE_CONTROL, "no-cache=\"set-cookie\", max-age=60"), ("set-cookie", "a=b")]
            }),
            None,
        ),
        (("§4.1 *", 200, None, vec![FRESH, ("vary", "*")]), Some(Refusal::Vary)),
        (("§5.2.2.4 no-cache", 200, None, cc("no-cache")), Some(Refusal::Useless)),
        (("§5.2.2.4 no-cache and a validator", 200, None, vec![(CACHE_CONTROL, "no-cache"), TAG]), None),
        (("§4.2 stale when it came", 200, None, vec![FRESH, ("age", "60")]), Some(Refusal::Useless)),
        (("§4.2 stale, but a validator", 200, None, vec![FRESH, ("age", "60"), TAG]), None),
        (
            ("RFC 5861 §4 stale, but of use", 200, None, {
                vec![(CACHE_CONTROL, "max-age=60, stale-if-error=90"), ("age", "60")]
            }),
            None,
        ),
        (
            ("RFC 9213 §2.2 instead of no-store", 200, None, {
                vec![(CACHE_CONTROL, "no-store"), ("cdn-cache-control", "max-age=60")]
            }),
            None,
        ),
        (("RFC 9213 §2.2 private", 200, None, vec![FRESH, ("cdn-cache-control", "private")]), {
            Some(Refusal::Private)
        }),
    ];
    for ((what, status, request, response), expected) in table {
        assert_eq!(refusal(status, request.as_slice(), &response), expected, "{what}: {response:?}");
    }
}

#[test]
fn only_responses_to_get_are_stored() {
    // RFC 9111 §3 and §4.
    for method in [Method::HEAD, Method::POST, Method::PUT, Method::OPTIONS] {
        let (request, response) = (HeaderMap::new(), headers(&[FRESH]));
        let times = Times { request: now(), response: now() };
        let received =
            Received { method: &method, request: &request, status: StatusCode::OK, response: &response, times };
        assert_eq!(storable(received, &Policy::default()), Err(Refusal::Method), "{method}");
    }
}

#[test]
fn the_policy_gives_freshness_where_there_is_none() {
    // RFC 9111 §4.2.2; the statuses are those of RFC 9110 §15.1.
    let policy = Policy {
        default_lifetime: Some(Duration::from_secs(7)),
        negative: vec![(StatusCode::from_u16(404).unwrap(), Duration::from_secs(3)), {
            (StatusCode::from_u16(503).unwrap(), Duration::from_secs(1))
        }],
        ..Policy::default()
    };
    let lifetime = |status, fields: &[_]| {
        store(status, &[], fields, &policy).map(|storable| storable.stored.lifetime().as_secs()).ok()
    };
    for (status, expected) in
        [(200, Some(7)), (203, Some(7)), (404, Some(3)), (410, Some(7)), (503, Some(1)), (500, None), (201, None)]
    {
        assert_eq!(lifetime(status, &[]), expected, "{status}");
    }
    // What the response says comes first.
    assert_eq!(lifetime(404, &[FRESH]), Some(60));
    assert_eq!(lifetime(404, &[(CACHE_CONTROL, "no-store")]), None);
    assert_eq!(lifetime(200, &[("expires", "0")]), None);
    assert_eq!(lifetime(200, &[("expires", NOW), TAG]), Some(0));
}

#[test]
fn cache_deception() {
    // `/account/x.css` gets the page of an account, and a default that was meant for files would share it.
    let heuristic = crate::policy::Heuristic { percent: 10, limit: Duration::from_secs(60) };
    let implied = |implied_with_credentials| Policy {
        heuristic: Some(heuristic),
        default_lifetime: Some(Duration::from_secs(60)),
        negative: vec![(StatusCode::from_u16(404).unwrap(), Duration::from_secs(60))],
        implied_with_credentials,
        ..Policy::default()
    };
    let silent: [(u16, &[_]); 3] =
        [(200, &[]), (200, &[("last-modified", "Sun, 06 Nov 1994 07:49:37 GMT")]), (404, &[])];
    for (status, response) in silent {
        for credential in [("cookie", "session=1"), ("x-api-key", "1")] {
            let refusal = |policy| store(status, &[credential], response, &policy).err();
            assert_eq!(refusal(implied(false)), Some(Refusal::Credentials), "{status} {credential:?}");
            assert_eq!(refusal(implied(true)), None, "{status} {credential:?}");
        }
        assert_eq!(store(status, &[], response, &implied(false)).err(), None, "{status}");
    }
    // What the response says of itself counts.
    assert_eq!(store(200, &[("cookie", "a=b")], &[FRESH], &implied(false)).err(), None);
}

#[test]
fn cookies_are_stored_when_told() {
    let response = [FRESH, ("set-cookie", "a=b"), ("set-cookie2", "a=b")];
    let head = |set_cookie| {
        let policy = Policy { set_cookie, ..Policy::default() };
        store(200, &[], &response, &policy).map(|storable| storable.head(&headers(&response)).len())
    };
    assert_eq!(head(SetCookie::Refuse), Err(Refusal::SetCookie));
    // And the date of receipt.
    assert_eq!(head(SetCookie::Omit), Ok(2));
    assert_eq!(head(SetCookie::Store), Ok(4));
}

#[test]
fn all_but_a_few_fields_are_stored() {
    // RFC 9111 §3.1.
    let response = headers(&[
        ("cache-control", "max-age=60, no-cache=\"a\", private=\"b, x-c\""),
        ("a", "1"),
        ("b", "1"),
        ("x-c", "1"),
        ("age", "5"),
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("keep-alive", "1"),
        ("te", "trailers"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("proxy-connection", "close"),
        ("proxy-authenticate", "x"),
        ("proxy-authentication-info", "x"),
        ("proxy-authorization", "x"),
        ("content-type", "text/plain"),
        ("x-unknown", "1"),
        ("vary", "accept"),
        ("surrogate-key", "k"),
    ]);
    let times = Times { request: now(), response: now() };
    let request = HeaderMap::new();
    let received =
        Received { method: &Method::GET, request: &request, status: StatusCode::OK, response: &response, times };
    let head = storable(received, &Policy::default()).unwrap().head(&response);
    let mut names: Vec<_> = head.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["cache-control", "content-type", "date", "surrogate-key", "vary", "x-unknown"]);
    // RFC 9110 §6.6.1.
    assert_eq!(head["date"], NOW);
}

#[test]
fn requests_that_pass_the_cache_by() {
    let plain = HeaderMap::new();
    assert_eq!(looks_up(&Method::GET, &plain, false), Ok(()));
    assert_eq!(looks_up(&Method::HEAD, &plain, false), Ok(()));
    assert_eq!(looks_up(&Method::POST, &plain, true), Err(Bypass::Method));
    assert_eq!(looks_up(&Method::OPTIONS, &plain, false), Err(Bypass::Method));
    assert_eq!(looks_up(&Method::GET, &headers(&[("upgrade", "websocket")]), false), Err(Bypass::Upgrade));
}

#[test]
fn fat_get() {
    // The upstream may read the content, and the key has none of it. Neither is such a request answered from the store, nor its response kept.
    assert_eq!(looks_up(&Method::GET, &HeaderMap::new(), true), Err(Bypass::Content));
    assert_eq!(looks_up(&Method::HEAD, &HeaderMap::new(), true), Err(Bypass::Content));
}

#[test]
fn a_response_with_too_many_tags_is_not_stored() {
    let tags = vec!["t"; fields::MOST_TAGS + 1].join(" ");
    assert_eq!(refusal(200, &[], &[FRESH, ("surrogate-key", &tags)]), Some(Refusal::Tags));
}
