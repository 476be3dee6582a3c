//! Fields that nobody should send. Bytes from a peer never panic, and never cost more than their length.

#![allow(clippy::unwrap_used, reason = "a test that fails should fail at the place")]

use std::time::{Duration, UNIX_EPOCH};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use sluice_cache::digest::Secret;
use sluice_cache::directives::{RequestDirectives, ResponseDirectives};
use sluice_cache::freshness::{Times, reuse};
use sluice_cache::key::{KeyInput, KeyRule, QueryRule};
use sluice_cache::policy::{Heuristic, Normalise, Policy, SetCookie};
use sluice_cache::storable::{Received, storable};
use sluice_cache::validate::{freshen, head_update, identify, make_conditional};
use sluice_cache::vary::Variant;
use sluice_cache::{condition, invalidate, range};

/// A generator that gives the same numbers each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    /// Pieces of what caches read, in any order, with any bytes between them.
    fn value(&mut self, name: &str) -> HeaderValue {
        const PIECES: [&str; 44] = [
            "max-age",
            "s-maxage",
            "no-cache",
            "private",
            "public",
            "=",
            "=\"",
            "\"",
            ",",
            ", ",
            ";",
            "-",
            "*",
            "\\",
            "0",
            "1",
            "60",
            "99999999999999999999999999",
            "-1",
            "bytes=",
            "0-",
            "-5",
            "1-2",
            "W/",
            "\"a\"",
            "gzip",
            "br;q=0.5",
            "q=1.",
            "en-GB",
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "Fri, 31 Dec 9999 23:59:59 GMT",
            "Thu, 01 Jan 1970 00:00:00 GMT",
            " ",
            "\t",
            "/x",
            "https://example.com/",
            "http://[",
            "stale-while-revalidate",
            "must-revalidate",
            "()",
            "?1",
            "\u{e9}",
        ];
        let mut value = if name == "range" { b"bytes=".to_vec() } else { Vec::new() };
        for _ in 0..self.below(8) {
            match self.below(12) {
                0 => value.push(b' ' + self.below(0x5f) as u8),
                1 => value.push(0x80 + self.below(0x80) as u8),
                _ => value.extend_from_slice(PIECES[self.below(PIECES.len())].as_bytes()),
            }
        }
        HeaderValue::from_bytes(&value).unwrap()
    }

    fn headers(&mut self, names: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for _ in 0..self.below(10) {
            let name = names[self.below(names.len())];
            headers.append(HeaderName::from_static(name), self.value(name));
        }
        headers
    }
}

const REQUEST: [&str; 12] = [
    "cache-control",
    "pragma",
    "range",
    "if-range",
    "if-none-match",
    "if-modified-since",
    "accept-encoding",
    "accept-language",
    "cookie",
    "authorization",
    "vary",
    "foo",
];
const RESPONSE: [&str; 17] = [
    "cache-control",
    "cdn-cache-control",
    "age",
    "date",
    "expires",
    "last-modified",
    "etag",
    "vary",
    "surrogate-key",
    "cache-tag",
    "set-cookie",
    "content-length",
    "content-encoding",
    "content-language",
    "connection",
    "location",
    "content-location",
];

#[test]
fn any_fields_are_read_without_a_panic() {
    let mut numbers = Numbers(42);
    let secret = Secret::new([1; 16]);
    let born = UNIX_EPOCH + Duration::from_secs(784_111_777);
    let target = url::Url::parse("https://example.com/a?b").unwrap();
    let policies = [
        Policy::default(),
        Policy {
            heuristic: Some(Heuristic { percent: 200, limit: Duration::MAX }),
            default_lifetime: Some(Duration::MAX),
            stale_while_revalidate: Duration::MAX,
            stale_if_error: Duration::MAX,
            set_cookie: SetCookie::Store,
            request_directives: true,
            age_from_date: true,
            normalise: Normalise { accept_encoding: true, accept_language: true },
            ..Policy::default()
        },
    ];
    let (mut stored_ones, mut parts) = (0, 0);
    for round in 0..10_000 {
        let (request, response, newer) =
            (numbers.headers(&REQUEST), numbers.headers(&RESPONSE), numbers.headers(&RESPONSE));
        let policy = &policies[round % policies.len()];
        let times = Times { request: born, response: born + Duration::from_secs(numbers.below(5) as u64) };
        let received =
            Received { method: &Method::GET, request: &request, status: StatusCode::OK, response: &response, times };
        if let Ok(storable) = storable(received, policy) {
            stored_ones += 1;
            let head = storable.head(&response);
            let variant = Variant::new(&storable.vary, &request, &head, policy.normalise, &secret);
            assert!(variant.matches(&request, &secret), "a response is one for its own request");
            let candidate = sluice_cache::freshness::Candidate {
                stored: &storable.stored,
                marked_stale: (round % 3 == 0).then_some(born),
            };
            for later in [0, 1, 60, 1 << 40] {
                reuse(&RequestDirectives::of(&request), Some(candidate), born + Duration::from_secs(later), policy);
            }
            freshen(StatusCode::OK, &head, None, Received { response: &newer, ..received }, policy);
        }
        ResponseDirectives::of(&response);
        identify(&newer, &[&response]);
        head_update(&response, 5, StatusCode::OK, &newer);
        make_conditional(&mut request.clone(), &response);
        condition::evaluate(&Method::GET, &request, StatusCode::OK, &response, born);
        invalidate::others(&target, &response);
        for length in [0, 1, 1000, u64::MAX] {
            if let range::Selection::Parts(found) =
                range::select(&Method::GET, &request, StatusCode::OK, &response, length)
            {
                parts += 1;
                assert!(found.iter().all(|part| part.start < part.end && part.end <= length), "{found:?} of {length}");
                range::multipart(&response, &found, length, "B");
            }
        }
    }
    // They are not all nonsense.
    assert!(stored_ones > 500 && parts > 20, "{stored_ones} stored, {parts} with parts");
}

#[test]
fn any_query_has_a_key() {
    let mut numbers = Numbers(7);
    let (secret, headers) = (Secret::new([1; 16]), HeaderMap::new());
    let rules = [QueryRule::All, QueryRule::Only(vec!["a".into()]), QueryRule::Except(vec!["a".into()])];
    for _ in 0..10_000 {
        let query: String = (0..numbers.below(12))
            .map(|_| ["a", "=", "&", "%", "%6", "%61", "+", ";", "[", "]", "\u{fc}"][numbers.below(11)])
            .collect();
        for query_rule in &rules {
            let rule = KeyRule { query: query_rule.clone(), ..KeyRule::default() };
            let input = KeyInput {
                group: "",
                upstream: "",
                scheme: "https",
                host: "example.com",
                path: "/",
                query: Some(&query),
                headers: &headers,
                consumer: None,
                parts: &[],
            };
            assert_eq!(rule.key(&input, &secret), rule.key(&input, &secret));
        }
    }
}
