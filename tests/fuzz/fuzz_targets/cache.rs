//! The rules of the cache: no panic whatever fields say; a response is one for its own request; what is fresh is younger than its lifetime;
//! parts lie within the content; a packed head comes back.
#![no_main]

use std::time::{Duration, UNIX_EPOCH};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use libfuzzer_sys::fuzz_target;
use sluice_cache::digest::Secret;
use sluice_cache::directives::RequestDirectives;
use sluice_cache::freshness::{Candidate, Decision, Failure, Times, on_error, reuse};
use sluice_cache::policy::{Heuristic, Normalise, Policy, SetCookie};
use sluice_cache::range::{self, Selection};
use sluice_cache::storable::{Received, storable};
use sluice_cache::store::PackedHead;
use sluice_cache::validate::{freshen, head_update, identify, make_conditional};
use sluice_cache::vary::Variant;
use sluice_cache::{condition, fields};

/// The fields of the lines that begin with a letter: request, response, or a newer response.
fn headers(data: &[u8], which: u8) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(64) {
        let Some((name, value)) = line.strip_prefix(&[which, b' ']).and_then(|field| {
            let colon = field.iter().position(|byte| *byte == b':')?;
            Some((HeaderName::from_bytes(&field[..colon]).ok()?, HeaderValue::from_bytes(&field[colon + 1..]).ok()?))
        }) else {
            continue;
        };
        headers.append(name, value);
    }
    headers
}

fn policy() -> Policy {
    Policy {
        heuristic: Some(Heuristic { percent: 10, limit: Duration::from_secs(86_400) }),
        stale_while_revalidate: Duration::from_secs(10),
        stale_if_error: Duration::from_secs(60),
        set_cookie: SetCookie::Store,
        request_directives: true,
        implied_with_credentials: true,
        normalise: Normalise { accept_encoding: true, accept_language: true },
        ..Policy::default()
    }
}

fuzz_target!(|data: &[u8]| {
    let (request, response, newer) = (headers(data, b'q'), headers(data, b'r'), headers(data, b'n'));
    let (policy, secret) = (policy(), Secret::new([7; 16]));
    let born = UNIX_EPOCH + Duration::from_secs(784_111_777);
    let times = Times { request: born, response: born };
    let received =
        Received { method: &Method::GET, request: &request, status: StatusCode::OK, response: &response, times };
    if let Ok(storable) = storable(received, &policy) {
        let head = storable.head(&response);
        assert_eq!(PackedHead::pack(StatusCode::OK, &head).expect("a small head").unpack(), head);
        let variant = Variant::new(&storable.vary, &request, &head, policy.normalise, &secret);
        assert!(variant.matches(&request, &secret));
        let directives = RequestDirectives::of(&request);
        let candidate = Candidate { stored: &storable.stored, marked_stale: None };
        for later in [0, 1, 59, 60, 61, 86_400, 1 << 40] {
            let now = born + Duration::from_secs(later);
            let found = reuse(&directives, Some(candidate), now, &policy);
            if found.decision == Decision::Fresh {
                assert!(found.age < storable.stored.lifetime());
            }
            on_error(&directives, candidate, Failure::NoResponse, now, &policy);
        }
        freshen(StatusCode::OK, &head, None, Received { response: &newer, ..received }, &policy);
        make_conditional(&mut request.clone(), &head);
        condition::evaluate(&Method::GET, &request, StatusCode::OK, &head, born);
    }
    let _ = fields::tags(&response);
    identify(&newer, &[&response]);
    head_update(&response, 5, StatusCode::OK, &newer);
    for length in [0, 1, 1000, u64::MAX] {
        if let Selection::Parts(parts) = range::select(&Method::GET, &request, StatusCode::OK, &response, length) {
            assert!(!parts.is_empty() && parts.len() <= range::MOST_RANGES);
            for (at, part) in parts.iter().enumerate() {
                assert!(part.start < part.end && part.end <= length);
                assert!(parts[..at].iter().all(|other| other.end <= part.start || part.end <= other.start));
            }
        }
    }
});
