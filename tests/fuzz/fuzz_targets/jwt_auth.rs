//! Tokens of several issuers: no failure on what nobody has signed, a token passes only by the keys of the issuer that it names, for its
//! audience, in its time and with its certificate, by another reader of JSON, and what it says breaks no head.
#![no_main]

#[path = "../../../plugins/jwt-auth/src/lib.rs"]
mod plugin;

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use http::uri::PathAndQuery;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use sluice_filter::testing::{Exchange, Harness, ResponseMessage};
use sluice_filter::{ClientCertificate, Verdict};
use sluice_services::outbound::Offline;
use sluice_services::{Clock, KeySet, Services};

const NOW: u64 = 1_700_000_000;
const LEEWAY: f64 = 30.0;
/// Issuers, their audiences, and what is in front of the names of their callers.
const ISSUERS: [(&str, &str, &str); 2] =
    [("https://a.test", "api", ""), ("https://b.test", "partners", "https://b.test ")];
/// What upstreams are told.
const HEADERS: [&str; 3] = ["x-user-id", "x-user-roles", "x-org"];

struct Known {
    filter: Harness<plugin::JwtAuth>,
    keys: [Arc<KeySet>; 2],
}

thread_local! {
    static KNOWN: Known = known();
}

fn secret(issuer: usize) -> String {
    ["a", "b"][issuer].repeat(32)
}

fn known() -> Known {
    let issuers = [0, 1].map(|at| {
        let (issuer, audience, _) = ISSUERS[at];
        let keys = json!({ "keys": [{ "kty": "oct", "kid": "k", "k": URL_SAFE_NO_PAD.encode(secret(at)) }] });
        let mut issuer = json!({ "issuer": issuer, "audience": audience, "jwks": keys });
        if at == 0 {
            issuer["consumer_prefix"] = "".into();
        }
        issuer
    });
    let config = json!({
        "issuers": issuers, "max_lifetime": "1h", "places": ["header:authorization", "query:access_token", "cookie:token"],
        "headers": {
            "x-user-id": "sub", "x-user-roles": "realm_access.roles", "x-org": ["https://example.com/org", "id"],
        },
    });
    let filter = Harness::new(config).expect("a config");
    filter.set_now(NOW);
    let services = Services::new(Clock::system(), Arc::new(Offline));
    let key = |at| {
        let source = json!({ "secret": secret(at) }).to_string();
        services.key_sets.resolve_trusted(&source).expect("a key")
    };
    Known { filter, keys: [key(0), key(1)] }
}

/// A request that claims to be somebody by itself.
fn request(target: &str) -> Exchange {
    let mut exchange = Exchange::get(target).header("x-user-id", "root").header("x_user_id", "root");
    let mut certificate = ClientCertificate::default();
    certificate.sha256 = "ab".repeat(32);
    exchange.request.client_certificate = Some(certificate);
    exchange
}

fn is_refused(filter: &Harness<plugin::JwtAuth>, exchange: &mut Exchange) -> bool {
    let verdict = filter.on_request(exchange).expect("whatever is sent is no failure");
    if verdict == Verdict::Continue {
        return false;
    }
    assert!([400, 401, 431].contains(&exchange.response.status), "{}", exchange.response.status);
    assert!(exchange.consumer.is_none());
    let challenges = exchange.response.headers.all("www-authenticate");
    assert!(challenges.iter().all(|value| !value.contains(char::is_control)));
    true
}

// The first byte says whose key signs, and the second one where the token is (`h`, `q`, `c`); then a head and a payload, divided by a line feed.
// Other first bytes: lines with `Authorization`, a target and `Cookie`, where nobody has signed anything.
fuzz_target!(|data: &[u8]| KNOWN.with(|known| match data {
    [signer @ (b'a' | b'b'), place, rest @ ..] => signed(known, usize::from(signer - b'a'), *place, rest),
    _ => unsigned(known, data),
}));

fn unsigned(known: &Known, data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let authorization = line();
    let target = PathAndQuery::try_from(line()).unwrap_or(PathAndQuery::from_static("/"));
    let mut exchange = request(target.as_str());
    for (name, value) in [("authorization", authorization), ("cookie", line())] {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            exchange.request.headers.append(name, value.as_bytes().trim_ascii());
        }
    }
    // HMAC-SHA-256 can't be found by chance.
    assert!(is_refused(&known.filter, &mut exchange), "a token that nobody has signed");
}

fn signed(known: &Known, signer: usize, place: u8, data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let (head, payload) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(head), URL_SAFE_NO_PAD.encode(payload));
    let signature = known.keys[signer].sign("HS256", None, message.as_bytes()).expect("a key that signs");
    let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature));
    let mut exchange = match place {
        b'q' => request(&format!("/?a=1&access_token={token}")),
        b'c' => request("/").header("cookie", &format!("a=1; token={token}")),
        _ => request("/").header("authorization", &format!("Bearer {token}")),
    };
    if is_refused(&known.filter, &mut exchange) {
        return;
    }
    let claims: Value = serde_json::from_slice(payload).expect("claims");
    let (issuer, audience, prefix) = ISSUERS[signer];
    assert_eq!(claims["iss"], issuer, "a token passed by the key of another issuer");
    assert!(match &claims["aud"] {
        Value::String(one) => one == audience,
        Value::Array(many) => many.iter().any(|one| one == audience),
        _ => false,
    });
    let date = |name: &str| claims[name].as_f64().expect("a date");
    let now = NOW as f64;
    assert!(date("exp") + LEEWAY > now && date("iat") <= now + LEEWAY && date("exp") - date("iat") <= 3600.0);
    assert!(claims.get("nbf").is_none_or(|_| date("nbf") <= now + LEEWAY));
    if let Some(bound) = claims.get("cnf") {
        assert_eq!(bound["x5t#S256"], URL_SAFE_NO_PAD.encode([0xab; 32]));
        assert!(bound.get("jkt").is_none());
    }

    let headers = &exchange.request.headers;
    for name in HEADERS {
        let values = headers.all(name);
        assert!(values.len() <= 1, "{name}: {values:?}");
        assert!(values.iter().all(|value| !value.contains(|c: char| c.is_ascii_control() && c != '\t')));
    }
    assert!(!headers.has("x_user_id"));
    match claims.get("sub").and_then(Value::as_str) {
        Some(name) => {
            assert_eq!(headers.get("x-user-id"), Some(name));
            let (consumer, name) = (exchange.consumer.as_deref().unwrap_or_default(), format!("{prefix}{name}"));
            assert!(if name.len() <= 1024 { consumer == name } else { consumer.starts_with("sha256:") }, "{consumer}");
        }
        None => assert_ne!(headers.get("x-user-id"), Some("root"), "the client's own"),
    }
    assert_eq!(exchange.request.query.as_deref(), (place == b'q').then_some("a=1"));
    assert_eq!(headers.get("cookie"), (place == b'c').then_some("a=1"));
    exchange.respond(ResponseMessage::new(200));
    known.filter.on_response(&mut exchange).expect("no failure");
    assert_eq!(exchange.response.headers.has("referrer-policy"), place == b'q');
}
