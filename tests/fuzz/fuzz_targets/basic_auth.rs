//! Basic credentials: no failure of the filter, and who passes has shown a name and a password that another decoder finds, too.
#![no_main]

#[path = "../../../plugins/basic-auth/src/lib.rs"]
mod plugin;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use libfuzzer_sys::fuzz_target;
use sluice_filter::Verdict;
use sluice_filter::testing::{Consumer, Exchange, Harness};

const PAIR: &str = "ann:p:w";

thread_local! {
    static FILTER: Harness<plugin::BasicAuth> = {
        // One attempt in a year: a password costs 20 ms, and the right one is remembered.
        let config = serde_json::json!({ "throttle": { "failures": 1, "account_failures": 0, "window": "366d" } });
        let filter = Harness::new(config).expect("a config");
        let (user, password) = PAIR.split_once(':').expect("a pair");
        filter.consumers(&[Consumer::new("acme").password(user, password)]);
        let mut good = Exchange::get("/").header("authorization", &format!("Basic {}", STANDARD.encode(PAIR)));
        assert_eq!(filter.on_request(&mut good), Ok(Verdict::Continue));
        filter
    };
}

fuzz_target!(|data: &[u8]| {
    let mut exchange = Exchange::get("/");
    // Bytes alone hardly ever are base64: behind a `:`, what is to be encoded.
    for line in data.split(|byte| *byte == b'\n') {
        let value = match line.strip_prefix(b":") {
            Some(pair) => format!("bAsIc {}", STANDARD.encode(pair)).into_bytes(),
            None => line.to_vec(),
        };
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            exchange.request.headers.append("authorization", value.as_bytes().trim_ascii());
        }
    }
    let sent = exchange.request.headers.clone();
    let verdict = FILTER.with(|filter| filter.on_request(&mut exchange)).expect("whatever is sent is no failure");
    if verdict == Verdict::Respond {
        assert!([400, 401, 429].contains(&exchange.response.status), "{}", exchange.response.status);
        return;
    }
    assert_eq!(exchange.consumer.as_deref(), Some("acme"));
    assert!(!exchange.request.headers.has("authorization"));
    let [field] = sent.all("authorization")[..] else { panic!("{sent:?} has one field") };
    let text = field[5..].trim().trim_end_matches('=');
    let decoded = base64::engine::general_purpose::STANDARD_NO_PAD.decode(text).expect("base64");
    assert_eq!(decoded, PAIR.as_bytes());
});
