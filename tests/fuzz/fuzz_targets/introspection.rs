//! Answers of an introspection server: no failure whatever it says, nobody passes whose token is not active now and for this gateway, by another
//! reader of JSON, and an answer that is kept lets nobody pass for longer.
#![no_main]

#[path = "../../../plugins/introspection/src/lib.rs"]
mod plugin;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use sluice_filter::http::Incoming;
use sluice_filter::testing::{Exchange, Harness};
use sluice_filter::{ClientCertificate, Error, Verdict};

const NOW: u64 = 1_700_000_000;
/// Past every time for which an answer is kept.
const STALE: Duration = Duration::from_secs(60 + 3600);

fn filter() -> Harness<plugin::Introspection> {
    let config = json!({
        "url": "https://as.test/introspect", "client_id": "gateway", "issuer": "https://as.test", "audience": "api", "scopes": ["read"],
        "stale_if_error": "1h",
    });
    let filter = Harness::new(config).expect("a config");
    filter.set_now(NOW);
    filter.secret("client_secret", "secret");
    filter
}

fn is_text(value: &Value, wanted: &str) -> bool {
    match value {
        Value::String(one) => one == wanted,
        Value::Array(many) => many.iter().any(|one| one == wanted),
        _ => false,
    }
}

/// Whether the answer says that a token may be used at this second.
fn is_good(answer: &Value, now: f64) -> bool {
    let bound = answer.get("cnf");
    answer["active"] == true
        && answer.get("exp").is_none_or(|exp| exp.as_f64().is_some_and(|exp| exp > now))
        && answer.get("nbf").is_none_or(|nbf| nbf.as_f64().is_some_and(|nbf| nbf <= now))
        && answer["iss"] == "https://as.test"
        && is_text(&answer["aud"], "api")
        && answer["token_type"].as_str().is_none_or(|kind| kind.eq_ignore_ascii_case("bearer"))
        && bound.is_none_or(|cnf| {
            cnf.get("jkt").is_none() && cnf["x5t#S256"] == URL_SAFE_NO_PAD.encode([0xab; 32]).as_str()
        })
        && match &answer["scope"] {
            Value::String(scope) => scope.split(' ').any(|one| one == "read"),
            list => is_text(list, "read"),
        }
}

/// Asks, and checks what both outcomes have in common.
fn passes(filter: &Harness<plugin::Introspection>, mut exchange: Exchange, answer: &Value) -> bool {
    let verdict = filter.on_request(&mut exchange).expect("whatever the server says is no failure");
    if verdict == Verdict::Respond {
        assert!([400, 401, 403, 503].contains(&exchange.response.status));
        assert!(exchange.consumer.is_none() && !exchange.context.contains_key("auth.claims"));
        for name in ["www-authenticate", "cache-control", "retry-after"] {
            assert!(exchange.response.headers.all(name).iter().all(|value| !value.contains(char::is_control)));
        }
        return false;
    }
    if let Some(name) = answer["sub"].as_str() {
        let consumer = exchange.consumer.as_deref().unwrap_or_default();
        assert!(if name.len() <= 1024 { consumer == name } else { consumer.starts_with("sha256:") }, "{consumer}");
    }
    true
}

// Lines: `Authorization`, the status, and the answer in all that follows.
fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(3, |byte| *byte == b'\n');
    let mut part = || parts.next().unwrap_or_default();
    let token = HeaderValue::from_bytes(part());
    let status = std::str::from_utf8(part()).ok().and_then(|text| text.parse().ok()).unwrap_or(200);
    let body = part().to_vec();
    let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
    let request = |method: &str| {
        let mut exchange = Exchange::new(method, "/");
        if let Ok(token) = &token {
            exchange.request.headers.append("authorization", token.as_bytes().trim_ascii());
        }
        let mut certificate = ClientCertificate::default();
        certificate.sha256 = "ab".repeat(32);
        exchange.request.client_certificate = Some(certificate);
        exchange
    };

    let filter = filter();
    let is_away = Rc::new(Cell::new(false));
    let away = Rc::clone(&is_away);
    filter.outbound(move |_| match away.get() {
        true => Err(Error::Timeout),
        false => Ok(Incoming { status, headers: Vec::new(), body: body.clone() }),
    });
    let first = passes(&filter, request("POST"), &answer);
    assert!(!first || status == 200 && is_good(&answer, NOW as f64), "{answer}");
    is_away.set(true);
    // The kept answer, if there is one. It need not be: one that is good for less than a millisecond is not kept.
    assert!(!passes(&filter, request("POST"), &answer) || first);
    // What is kept for an outage: never for what changes something, and not past the end of the token.
    filter.advance(Duration::from_secs(61));
    assert!(!passes(&filter, request("POST"), &answer));
    let later = (NOW + 61) as f64;
    assert!(!passes(&filter, request("GET"), &answer) || is_good(&answer, later), "{answer}");
    filter.advance(STALE);
    assert!(!passes(&filter, request("GET"), &answer));
});
