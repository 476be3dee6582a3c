//! API keys in headers, queries and cookies: no failure of the filter, and no spelling of a key reaches the upstream.
#![no_main]

#[path = "../../../plugins/api-key/src/lib.rs"]
mod plugin;

use http::HeaderValue;
use http::uri::PathAndQuery;
use libfuzzer_sys::fuzz_target;
use sluice_filter::Verdict;
use sluice_filter::testing::{Consumer, Exchange, Harness};

const KEY: &str = "k+2";

thread_local! {
    static FILTER: Harness<plugin::ApiKey> = {
        let places = ["header:x-key", "query:key", "cookie:key"];
        let filter = Harness::new(serde_json::json!({ "places": places, "throttle": null })).expect("a config");
        filter.consumers(&[Consumer::new("acme").key(KEY)]);
        filter
    };
}

/// The pairs of a query as an upstream reads them, by another decoder, but for the key.
fn others(query: Option<&str>) -> Vec<(String, String)> {
    let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned();
    pairs.filter(|(name, _)| name != "key").collect()
}

fn has_key(query: Option<&str>) -> bool {
    url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).any(|(name, _)| name == "key")
}

/// The names of the cookies, as a lenient server reads them: it trims them, also of what is a blank in Unicode.
fn names(cookie: &str) -> impl Iterator<Item = &str> {
    cookie.split(';').filter_map(|pair| pair.split_once('=')).map(|(name, _)| name.trim())
}

// Lines: the target, then `Cookie` fields and, behind a `:`, fields with a key, behind a `<`, `Referer` fields. What is not valid as such is left out.
fuzz_target!(|data: &[u8]| {
    let mut lines = data.split(|byte| *byte == b'\n');
    let target = PathAndQuery::try_from(lines.next().unwrap_or_default()).unwrap_or(PathAndQuery::from_static("/"));
    let mut exchange = Exchange::get(target.as_str());
    for line in lines {
        let (name, value) = match line {
            [b':', key @ ..] => ("x-key", key),
            [b'<', page @ ..] => ("referer", page),
            cookie => ("cookie", cookie),
        };
        if let Ok(value) = HeaderValue::from_bytes(value) {
            exchange.request.headers.append(name, value.as_bytes().trim_ascii());
        }
    }
    let before = exchange.clone();
    let verdict = FILTER.with(|filter| filter.on_request(&mut exchange)).expect("whatever is sent is no failure");
    if verdict == Verdict::Respond {
        assert!([400, 401].contains(&exchange.response.status));
        return;
    }
    assert_eq!(exchange.consumer.as_deref(), Some("acme"));
    let (request, sent) = (&exchange.request, &before.request);
    assert!(!has_key(request.query.as_deref()), "{:?}", request.query);
    assert_eq!(others(request.query.as_deref()), others(sent.query.as_deref()));
    assert!(!request.headers.has("x-key"));
    for page in request.headers.all("referer") {
        assert!(!has_key(page.split_once('?').map(|(_, query)| query)), "{page}");
    }
    for cookie in request.headers.all("cookie") {
        assert!(names(cookie).all(|name| name != "key"), "{cookie}");
    }
});
