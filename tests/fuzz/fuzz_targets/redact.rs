//! Documents and texts through redact: no panic, JSON stays JSON without what its pointers lead to, and a text in pieces becomes what the whole text does.
#![no_main]

#[path = "../../../plugins/redact/src/lib.rs"]
mod plugin;

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use sluice_filter::Verdict;
use sluice_filter::testing::{Exchange, Harness, ResponseMessage};

fn response(of: &str, body: &[u8]) -> Exchange {
    let mut exchange = Exchange::get("/");
    let mut response = ResponseMessage::new(200).header("content-type", of);
    response.body = body.to_vec();
    exchange.respond(response);
    exchange
}

fn has_x(value: &Value) -> bool {
    match value {
        Value::Object(members) => members.contains_key("x") || members.values().any(has_x),
        Value::Array(elements) => elements.iter().any(has_x),
        _ => false,
    }
}

// The first byte says where the rest is cut.
fuzz_target!(|data: &[u8]| {
    let Some((cut, text)) = data.split_first() else { return };
    let rules = json!([
        { "pointers": ["/**/x"], "action": "remove" }, { "detect": "card" }, { "detect": "email" }, { "detect": "iban" },
        { "detect": "token" }, { "pattern": r"\bid-[0-9]{2,9}\b", "action": "remove" },
    ]);
    let filter = Harness::<plugin::Redact>::new(json!({ "rules": rules, "mask": "-" })).expect("a config");
    let mut exchange = response("application/json", text);
    let verdict = filter.on_response_body(&mut exchange).expect("no failure");
    // Half a surrogate and a number beyond what serde takes are JSON, too.
    if serde_json::from_slice::<Value>(text).is_ok() {
        assert_eq!(verdict, Verdict::Continue);
        let out = serde_json::from_slice::<Value>(&exchange.response.body).expect("it is still JSON");
        assert!(!has_x(&out));
    }
    let whole = filter.response_chunks(&mut response("text/plain", b""), &[text]).expect("no failure").concat();
    let (first, second) = text.split_at(text.len() * usize::from(*cut) / 255);
    let cut = filter.response_chunks(&mut response("text/plain", b""), &[first, second]).expect("no failure").concat();
    assert_eq!(whole, cut);
    filter.response_events(&mut response("text/event-stream", b""), text).expect("no failure");
});
