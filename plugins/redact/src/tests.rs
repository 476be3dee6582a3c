use serde_json::{Value, json};
use sluice_filter::testing::{Exchange, Harness, ResponseMessage, config_keys, wrong_defaults};

use super::*;

mod detectors;
mod documents;
mod pieces;

const KEY: &str = "a key of some length";

/// The rules of a config.
fn rules(config: Value) -> Rules {
    let mut config: Config = serde_json::from_value(config).expect("a config");
    config.rules().map_err(|error| format!("{}: {error}", error.path())).expect("rules")
}

/// A response with a JSON body that went through the filter, and its verdict.
fn respond(filter: &Harness<Redact>, body: &str) -> (Verdict, ResponseMessage) {
    let mut exchange = Exchange::get("/");
    let mut response = ResponseMessage::new(200).header("content-type", "application/json").header("etag", "\"a\"");
    response.body = body.as_bytes().to_vec();
    exchange.respond(response);
    let verdict = filter.on_response_body(&mut exchange).expect("no failure");
    (verdict, exchange.response)
}

fn text(response: &ResponseMessage) -> &str {
    str::from_utf8(&response.body).expect("text")
}

#[test]
fn what_the_rules_find_is_masked_removed_or_hashed() {
    let filter = Harness::<Redact>::new(json!({
        "rules": [
            { "name": "password", "pointers": ["/**/password"], "action": "remove" },
            { "name": "user", "pointers": ["/user/id"], "action": "hash" },
            { "name": "card", "detect": "card" },
        ],
        "hash_key": KEY,
    }))
    .expect("a config");
    let body = r#"{ "user": {"id":"ada", "password": "x"}, "note" : "paid by 4111 1111 1111 1111.", "n": 1.50 }"#;
    let (verdict, response) = respond(&filter, body);
    assert_eq!(verdict, Verdict::Continue);
    let digest = sluice_services_hmac("ada");
    let expected = format!(r#"{{ "user": {{"id":"{digest}"}}, "note" : "paid by [redacted].", "n": 1.50 }}"#);
    assert_eq!(text(&response), expected);
    assert_eq!(response.headers.get("etag"), None, "it was of other bytes");
    for rule in ["password", "user", "card"] {
        assert_eq!(filter.metric(&format!("redacted_total{{rule=\"{rule}\"}}")), Some(1.0), "{rule}");
    }
    assert_eq!(filter.log(), Vec::<String>::new(), "no value is ever logged");
}

/// The digest that the gateway makes.
fn sluice_services_hmac(subject: &str) -> String {
    let filter = Harness::<Redact>::new(json!({
        "rules": [{ "pointers": [""], "action": "hash" }], "hash_key": KEY,
    }));
    let (_, response) = respond(&filter.expect("a config"), &json!(subject).to_string());
    let digest: String = serde_json::from_slice(&response.body).expect("a string");
    assert!(digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()));
    digest
}

#[test]
fn a_body_in_which_nothing_is_found_is_not_touched() {
    let filter = Harness::<Redact>::new(json!({ "rules": [{ "detect": "iban" }] })).expect("a config");
    let (verdict, response) = respond(&filter, r#"{"a": "DE00 3704 0044 0532 0130 00"}"#);
    assert_eq!(verdict, Verdict::Continue);
    assert_eq!(text(&response), r#"{"a": "DE00 3704 0044 0532 0130 00"}"#);
    assert_eq!(response.headers.get("etag"), Some("\"a\""));
}

#[test]
fn what_cannot_be_read_is_refused_unless_the_operator_lets_it_pass() {
    let rules = json!([{ "pointers": ["/a"] }]);
    let filter = Harness::<Redact>::new(json!({ "rules": rules, "messages": ["request", "response"] }));
    let filter = filter.expect("a config");
    for bad in ["{", "{\"a\":1,}", "\u{0}", "{\"a\":1}x", "[1 2]", "nul", "01", "\"\\x\"", "{\"a\" 1}", "\"\n\""] {
        let (verdict, response) = respond(&filter, bad);
        assert_eq!((verdict, response.status), (Verdict::Respond, 502), "{bad}");
        assert_eq!(response.headers.get("cache-control"), Some("no-store"));
        assert!(!text(&response).contains(bad) || bad.len() < 4);
        let mut exchange = Exchange::new("POST", "/").body("application/json", bad);
        assert_eq!(filter.on_request_body(&mut exchange), Ok(Verdict::Respond));
        assert_eq!(exchange.response.status, 400);
    }
    assert_eq!(filter.metric("not_json_total"), Some(20.0));
    let filter = Harness::<Redact>::new(json!({ "rules": rules, "not_json": "pass" })).expect("a config");
    let (verdict, response) = respond(&filter, "{");
    assert_eq!((verdict, text(&response)), (Verdict::Continue, "{"));
}

#[test]
fn requests_are_redacted_where_the_operator_says_so() {
    let config = json!({ "rules": [{ "detect": "email", "action": "remove" }], "messages": ["request"] });
    let filter = Harness::<Redact>::new(config).expect("a config");
    let mut exchange = Exchange::new("POST", "/").body("application/json", r#"{"by":"ada@example.org, 7"}"#);
    assert_eq!(filter.on_request_body(&mut exchange), Ok(Verdict::Continue));
    assert_eq!(exchange.request.body, br#"{"by":", 7"}"#);
    assert!(!filter.wants("on-response-body") && filter.response_bodies().is_none());
}

#[test]
fn no_client_gets_a_part_that_the_rules_have_not_seen() {
    let filter = Harness::<Redact>::new(json!({ "rules": [{ "pointers": ["/a"] }] })).expect("a config");
    let mut exchange = Exchange::get("/").header("range", "bytes=0-3").header("if-range", "\"a\"");
    assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Continue));
    assert_eq!((exchange.request.headers.get("range"), exchange.request.headers.get("if-range")), (None, None));
    let mut part = ResponseMessage::new(206).header("content-type", "application/json").header("expires", "x");
    part.body = b"{\"a\"".to_vec();
    exchange.respond(part);
    assert_eq!(filter.on_response_body(&mut exchange), Ok(Verdict::Respond));
    assert_eq!((exchange.response.status, exchange.response.headers.get("expires")), (502, None));
}

/// A response of a type that streams.
fn streamed(of: &str) -> Exchange {
    let mut exchange = Exchange::get("/");
    exchange.respond(ResponseMessage::new(200).header("content-type", of));
    exchange
}

#[test]
fn texts_are_searched_while_they_stream() {
    let rules = json!([{ "detect": "card" }, { "name": "mail", "detect": "email", "action": "hash" }]);
    let filter = Harness::<Redact>::new(json!({ "rules": rules, "hash_key": KEY })).expect("a config");
    let pieces: [&[u8]; 4] = [b"pay 4111 1111", b" 1111 1111 now, ", b"ada@exam", b"ple.org"];
    let sent = filter.response_chunks(&mut streamed("text/plain"), &pieces).expect("no failure");
    let digest = sluice_services_hmac("ada@example.org");
    assert_eq!(String::from_utf8_lossy(&sent.concat()), format!("pay [redacted] now, {digest}"));
    assert_eq!((sent[0].as_slice(), sent[1].as_slice()), (&b"pay "[..], &b"[redacted] now, "[..]));
    assert_eq!(filter.metric("redacted_total{rule=\"mail\"}"), Some(1.0));
    let unbounded = json!({ "rules": [{ "pattern": "a+" }] });
    let refusal = Harness::<Redact>::new(unbounded).err().expect("a refusal");
    assert!(refusal.starts_with("rules[0].pattern: a text in pieces needs a pattern"), "{refusal}");
    assert!(Harness::<Redact>::new(json!({ "rules": [{ "pattern": "a+" }], "text": [] })).is_ok());
    let places = Harness::<Redact>::new(json!({ "rules": [{ "pointers": ["/a"] }], "events": [] })).expect("a config");
    assert!(
        ["on-response-chunk", "on-response-event", "on-request-chunk", "on-response"]
            .iter()
            .all(|hook| !places.wants(hook))
    );
}

#[test]
fn events_are_documents_of_their_own_or_texts() {
    let config = json!({ "rules": [{ "pointers": ["/password"], "action": "remove" }, { "detect": "email" }] });
    let filter = Harness::<Redact>::new(config).expect("a config");
    let events = ": ada@example.org\n\nid: 1\ndata: {\"password\":\"x\",\ndata: \"n\":1}\n\ndata: nonsense\n\ndata: [DONE]\n\ndata\n\n";
    let sent = filter.response_events(&mut streamed("text/event-stream"), events).expect("no failure").concat();
    let expected = ": ada@example.org\n\nid: 1\ndata: {\"n\":1}\n\ndata: [DONE]\n\ndata\n\n";
    assert_eq!(String::from_utf8_lossy(&sent), expected);
    assert_eq!(filter.metric("not_json_total"), Some(1.0));
    let config = json!({ "rules": [{ "detect": "email" }] });
    let filter = Harness::<Redact>::new(config).expect("a config");
    let lines = "{\"a\":\"ada@example.org\"}\r\nask ada@example.org\n\n\u{ff}";
    let sent = filter.response_events(&mut streamed("application/x-ndjson"), lines).expect("no failure").concat();
    assert_eq!(String::from_utf8_lossy(&sent), "{\"a\":\"[redacted]\"}\r\nask [redacted]\n\n\u{ff}");
    let sent = filter.response_events(&mut streamed("application/x-ndjson"), b"\xff\n{}\n").expect("no failure");
    assert_eq!(sent.concat(), b"{}\n", "what is no text is left out");
}

#[test]
fn a_part_of_what_streams_is_refused_before_it_does() {
    let filter = Harness::<Redact>::new(json!({ "rules": [{ "detect": "card" }] })).expect("a config");
    for (of, verdict) in [
        ("text/plain; charset=utf-8", Verdict::Respond),
        ("Text/Event-Stream", Verdict::Respond),
        ("video/mp4", Verdict::Continue),
        ("text/html", Verdict::Continue),
    ] {
        let mut exchange = streamed(of);
        exchange.response.status = 206;
        assert_eq!(filter.on_response(&mut exchange), Ok(verdict), "{of}");
        assert_eq!(exchange.response.reason.as_deref(), (verdict == Verdict::Respond).then_some("unasked-part"));
    }
    for (pattern, of, fits) in
        [("*/*", "a/b", true), ("a/*", "a/b", true), ("*/*+json", "a/b+json", true), ("a/b", "b", false)]
    {
        assert_eq!(is_of_type(pattern, of), fits, "{pattern} {of}");
    }
}

#[test]
fn an_error_names_its_key() {
    let refusals = [
        (json!({ "rules": [] }), "rules: expected 1 to 64 rules"),
        (json!({ "rules": [{}] }), "rules[0]: expected one of"),
        (json!({ "rules": [{ "detect": "card", "pattern": "x" }] }), "rules[0]: expected one of"),
        (json!({ "rules": [{ "detect": "phone" }] }), "rules[0].detect: "),
        (json!({ "rules": [{ "pointers": ["a"] }] }), "rules[0].pointers[0]: `a` is no JSON pointer"),
        (json!({ "rules": [{ "pointers": ["/a~3"] }] }), "rules[0].pointers[0]: `/a~3` has a `~`"),
        (json!({ "rules": [{ "pointers": [] }] }), "rules[0].pointers: expected at least one"),
        (json!({ "rules": [{ "pattern": "a(" }] }), "rules[0].pattern: unclosed group"),
        (json!({ "rules": [{ "pattern": "a*" }] }), "rules[0].pattern: `a*` fits nothing, or an empty text"),
        (json!({ "rules": [{ "pattern": "(?-u:\\xff)" }] }), "rules[0].pattern: "),
        (json!({ "rules": [{ "detect": "card", "name": "a b" }] }), "rules[0].name: expected 1 to 48"),
        (json!({ "rules": [{ "detect": "card", "action": "hash" }] }), "rules[0].action: `hash` needs `hash_key`"),
        (
            json!({ "rules": [{ "detect": "card", "action": "hash" }], "hash_key": "short" }),
            "hash_key: expected at least 16 bytes",
        ),
        (json!({ "rules": [{ "detect": "card" }], "messages": [] }), "messages: expected"),
        (json!({ "rules": [{ "detect": "card" }], "mask": "x".repeat(257) }), "mask: expected at most 256"),
        (json!({ "rules": [{ "detect": "card" }], "json": [] }), "json: expected at least one"),
        (json!({ "rules": [{ "detect": "card" }], "masc": "" }), "masc: unknown key `masc`"),
    ];
    for (config, expected) in refusals {
        let refusal = Harness::<Redact>::new(config).err().expect(expected);
        assert!(refusal.starts_with(expected), "{refusal}");
    }
}

#[test]
fn the_schema_has_the_keys_of_the_config() {
    let schema: Value = serde_json::from_str(include_str!("../schema.json")).expect("JSON");
    let keys = schema["properties"].as_object().expect("an object").keys().cloned().collect();
    assert_eq!(config_keys::<Redact>(), keys);
}

#[test]
fn the_defaults_of_the_schema_are_those_of_the_config() {
    assert_eq!(wrong_defaults::<Redact>(&json!({"rules": [{"detect": "card"}]})), Vec::<String>::new());
}
