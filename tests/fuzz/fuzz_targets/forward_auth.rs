//! URLs and answers of forward-auth: no failure whatever the service says, no field that was not asked for, and no value that would
//! break a head.
#![no_main]

#[path = "../../../plugins/forward-auth/src/lib.rs"]
mod plugin;

use http::HeaderValue;
use http::uri::PathAndQuery;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use sluice_filter::Verdict;
use sluice_filter::http::{Field, Incoming};
use sluice_filter::testing::{Exchange, Harness, ResponseMessage};

const LISTED: [&str; 4] = ["x-user", "set-cookie", "location", "www-authenticate"];

fn config(url: &str, is_cached: bool) -> Value {
    let mut config = json!({
        "url": url,
        "upstream_headers": ["X-User"],
        "client_headers": ["set-cookie"],
        "refusal_headers": ["location", "www-authenticate"],
        "consumer_header": "x-user",
    });
    if is_cached {
        config["cache"] = json!({ "key": ["header:authorization", "cookie:s"], "refusals": [401, 403] });
    }
    config
}

/// The grant that a URL needs is what another parser finds in it.
fn check_url(text: &str) {
    let Ok(filter) = Harness::<plugin::ForwardAuth>::new(config(text, false)) else { return };
    let needs = filter.needs().expect("grants");
    // What can't be parsed as a URL is refused with the grant, or at the call.
    let Ok(url) = url::Url::parse(text) else { return };
    match needs["upstreams"][0].as_str() {
        Some(name) => assert_eq!(url.host_str(), Some(name.split(':').next().unwrap_or_default())),
        None => {
            let granted = needs["http"][0].as_str().expect("an origin");
            if let Ok(granted) = url::Url::parse(granted) {
                assert_eq!(granted.origin(), url.origin(), "{text}");
            }
        }
    }
}

// Lines: a URL, a target, `Authorization`, `Cookie`, the status, then fields of the answer as `name:value`; its body behind an empty line.
fuzz_target!(|data: &[u8]| {
    let mut lines = data.split(|byte| *byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    if let Ok(url) = std::str::from_utf8(line()) {
        check_url(url);
    }
    let target = PathAndQuery::try_from(line()).unwrap_or(PathAndQuery::from_static("/"));
    let mut exchange = Exchange::get(target.as_str());
    for name in ["authorization", "cookie"] {
        let value = HeaderValue::from_bytes(line()).ok().filter(|value| !value.is_empty());
        value.into_iter().for_each(|value| exchange.request.headers.append(name, value.as_bytes().trim_ascii()));
    }
    exchange.request.headers.append("x-user", "root");
    let status = std::str::from_utf8(line()).ok().and_then(|text| text.parse().ok()).unwrap_or(200);
    let mut headers = Vec::new();
    for field in lines.by_ref().take_while(|line| !line.is_empty()) {
        let text = String::from_utf8_lossy(field);
        let (name, value) = text.split_once(':').unwrap_or((&text, ""));
        // Carriage returns and NUL stay: what HTTP/1 can't carry may come another way.
        headers.push(Field { name: name.to_owned(), value: value.to_owned() });
    }
    let body: Vec<u8> = lines.next().unwrap_or_default().to_vec();
    let answered = headers.clone();
    let filter =
        Harness::<plugin::ForwardAuth>::new(config("http://auth.test/", data.len() % 2 == 0)).expect("a config");
    filter.outbound(move |_| Ok(Incoming { status, headers: headers.clone(), body: body.clone() }));

    let said = |value: &str| answered.iter().any(|field| field.value == value);
    // The second one may get a kept answer.
    let fresh = exchange.clone();
    for mut exchange in [exchange, fresh] {
        let verdict = filter.on_request(&mut exchange).expect("whatever the service says is no failure");
        if verdict == Verdict::Respond {
            let response = &exchange.response;
            assert!(response.status == 503 || response.status == status && (300..=499).contains(&status));
            assert!(response.headers.all("set-cookie").is_empty() && response.headers.all("x-user").is_empty());
            continue;
        }
        assert!((200..=299).contains(&status));
        for value in exchange.request.headers.all("x-user") {
            assert!(said(value), "the client's value was passed on");
            assert!(!value.contains(|c: char| c.is_control() && c != '\t'));
        }
        exchange.respond(ResponseMessage::new(200));
        filter.on_response(&mut exchange).expect("no failure");
        for name in LISTED {
            for value in exchange.response.headers.all(name) {
                assert!(name == "set-cookie" && said(value) && !value.contains(['\r', '\n', '\0']));
            }
        }
    }
});
