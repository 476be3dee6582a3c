use serde_json::{Value, json};
use sluice_filter::testing::{Consumer, Exchange, Harness, ResponseMessage, config_keys, wrong_defaults};

use super::*;

fn filter(config: Value) -> Harness<ApiKey> {
    let filter = Harness::new(config).unwrap();
    filter.consumers(&[
        Consumer::new("acme").plan("gold").label("tier", "partner").key("key of acme").key("k+2"),
        Consumer::new("umbrella").key("key of umbrella"),
    ]);
    filter
}

/// The status and the reason of a refusal; none where the request passes.
fn refusal(filter: &Harness<ApiKey>, exchange: &mut Exchange) -> Option<(u16, String)> {
    let verdict = filter.on_request(exchange).unwrap();
    (verdict == Verdict::Respond)
        .then(|| (exchange.response.status, exchange.response.reason.clone().unwrap_or_default()))
}

#[test]
fn a_key_makes_its_consumer_the_caller_and_goes_no_further() {
    let filter = filter(json!({}));
    let mut exchange = Exchange::get("/").header("X-Api-Key", "key of acme");
    assert_eq!(refusal(&filter, &mut exchange), None);
    assert_eq!(exchange.consumer.as_deref(), Some("acme"));
    let known = exchange.known_consumer.as_ref().unwrap();
    assert_eq!((known.plan.as_deref(), &*known.method), (Some("gold"), "key"));
    assert_eq!(known.labels, [("tier".to_owned(), "partner".to_owned())]);
    assert!(!exchange.request.headers.has("x-api-key"));
}

#[test]
fn a_key_is_found_and_removed_in_every_place() {
    let filter = filter(json!({ "places": ["header:x-key", "query:key", "cookie:key"] }));
    let mut query = Exchange::get("/a?x=%6b&k%65y=k%2B2&z");
    assert_eq!(refusal(&filter, &mut query), None);
    assert_eq!(query.request.query.as_deref(), Some("x=%6b&z"), "the rest is as it was sent");
    let mut cookie = Exchange::get("/").header("cookie", "a=b; key=k+2; c=\"d;e\"").header("cookie", "key=k+2");
    assert_eq!(refusal(&filter, &mut cookie), None);
    assert_eq!(cookie.request.headers.get("cookie"), Some("a=b; c=\"d; e\""));
    let mut alone = Exchange::get("/?key=k%2B2").header("cookie", "key=k+2").header("x-key", "k+2");
    assert_eq!(refusal(&filter, &mut alone), None, "the same key three times");
    assert_eq!((alone.request.query.as_deref(), alone.request.headers.has("cookie")), (None, false));
    assert!(!alone.request.headers.has("x-key"));
}

#[test]
fn a_key_in_a_url_is_not_sent_on_by_the_page() {
    let filter = filter(json!({ "places": ["header:x-key", "query:key"] }));
    let asked = |mut exchange: Exchange| {
        assert_eq!(refusal(&filter, &mut exchange), None);
        exchange.respond(ResponseMessage::new(200).header("referrer-policy", "unsafe-url"));
        assert_eq!(filter.on_response(&mut exchange), Ok(Verdict::Continue));
        exchange
    };
    let page = asked(Exchange::get("/?key=k%2B2"));
    assert_eq!(page.response.headers.all("referrer-policy"), ["no-referrer"]);
    let image =
        asked(Exchange::get("/a").header("x-key", "k+2").header("referer", "https://a.example/p?a=1&k%65y=k%2B2"));
    assert_eq!(image.request.headers.get("referer"), Some("https://a.example/p?a=1"));
    assert_eq!(image.response.headers.all("referrer-policy"), ["unsafe-url"]);
    let other = asked(Exchange::get("/a").header("x-key", "k+2").header("referer", "https://a.example/p?a=1"));
    assert_eq!(other.request.headers.get("referer"), Some("https://a.example/p?a=1"));
    assert!(!self::filter(json!({})).wants("on-response") && filter.wants("on-response"));
}

#[test]
fn several_keys_are_refused() {
    let filter = filter(json!({ "places": ["header:x-key", "query:key"] }));
    let several = Some((400, "several-keys".to_owned()));
    let two = || Exchange::get("/").header("x-key", "key of acme").header("x-key", "key of umbrella");
    assert_eq!(refusal(&filter, &mut two()), several);
    let mut apart = Exchange::get("/?key=key+of+umbrella").header("x-key", "key of acme");
    assert_eq!(refusal(&filter, &mut apart), several);
    assert_eq!(refusal(&filter, &mut Exchange::get("/?key=a&key=b")), several);
    let cookies = self::filter(json!({ "places": ["cookie:key"] }));
    assert_eq!(refusal(&cookies, &mut Exchange::get("/").header("cookie", "key=k+2; key=other")), several);
}

#[test]
fn missing_and_unknown_keys() {
    let filter = filter(json!({ "realm": "orders" }));
    let mut missing = Exchange::get("/");
    assert_eq!(refusal(&filter, &mut missing), Some((401, "key-missing".to_owned())));
    assert_eq!(missing.response.headers.get("www-authenticate"), Some("ApiKey realm=\"orders\""));
    for key in ["key of acm", "", "KEY OF ACME", &"k".repeat(20_000)] {
        let mut unknown = Exchange::get("/").header("x-api-key", key);
        assert_eq!(refusal(&filter, &mut unknown), Some((401, "key-unknown".to_owned())), "{key:.20}");
        assert_eq!(unknown.consumer, None);
    }
    let optional = self::filter(json!({ "optional": true, "forward_key": true }));
    let mut stranger = Exchange::get("/");
    assert_eq!(refusal(&optional, &mut stranger), None);
    let challenges = context::into_texts(stranger.context["auth.challenges"].0.clone());
    assert_eq!(challenges, Some(vec!["ApiKey realm=\"api\"".to_owned()]));
    assert_eq!(refusal(&optional, &mut Exchange::get("/").header("x-api-key", "x")).unwrap().0, 401);
    let mut known = Exchange::get("/").header("x-api-key", "k+2");
    assert_eq!(refusal(&optional, &mut known), None);
    assert_eq!(known.request.headers.get("x-api-key"), Some("k+2"));
}

#[test]
fn guessing_is_slowed_down() {
    let filter = filter(json!({ "throttle": { "failures": 2 } }));
    let with = |key: &str| Exchange::get("/").header("x-api-key", key);
    assert_eq!(refusal(&filter, &mut with("a")).unwrap().0, 401);
    assert_eq!(refusal(&filter, &mut with("b")).unwrap().0, 401);
    let mut right = with("k+2");
    assert_eq!(
        refusal(&filter, &mut right),
        Some((429, "throttled".to_owned())),
        "right or wrong: it is not looked at"
    );
    assert!(right.response.headers.get("retry-after").is_some());
    filter.advance(std::time::Duration::from_secs(60));
    for _ in 0..10 {
        assert_eq!(refusal(&filter, &mut with("k+2")), None, "a good key is no attempt");
    }
}

#[test]
fn bad_configs_name_their_key() {
    for (config, expected) in [
        (json!({ "places": [] }), "places: expected at least one place"),
        (json!({ "places": ["header:x-a", "header:host"] }), "places[1]: expected `header:NAME`"),
        (json!({ "places": ["body:x"] }), "places[0]: expected `header:NAME`"),
        (json!({ "realm": "a\"b" }), "realm: expected visible ASCII"),
        (json!({ "throttle": { "window": "0s" } }), "throttle.window: expected 1ms to 366d"),
        (json!({ "place": [] }), "place: unknown key"),
    ] {
        let refused = Harness::<ApiKey>::new(config).err().expect("a bad config");
        assert!(refused.starts_with(expected), "{refused}");
    }
}

#[test]
fn the_schema_has_every_key() {
    let schema: Value = serde_json::from_str(include_str!("../schema.json")).unwrap();
    let keys: std::collections::BTreeSet<_> = schema["properties"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, config_keys::<ApiKey>());
}

#[test]
fn the_defaults_of_the_schema_are_those_of_the_config() {
    assert_eq!(wrong_defaults::<ApiKey>(&json!({"throttle": {}})), Vec::<String>::new());
}

#[test]
fn one_network_of_ipv6_is_one_address() {
    let filter = filter(json!({ "throttle": { "failures": 1 } }));
    let from = |address: &str| {
        let mut exchange = Exchange::get("/").header("x-api-key", "wrong");
        exchange.request.client_address = address.to_owned();
        exchange
    };
    assert_eq!(refusal(&filter, &mut from("2001:db8::1")).unwrap().0, 401);
    assert_eq!(refusal(&filter, &mut from("2001:db8::2")).unwrap().0, 429);
    assert_eq!(refusal(&filter, &mut from("2001:db8:0:1::1")).unwrap().0, 401);
    let accounts = self::filter(json!({ "throttle": { "account_failures": 1 } }));
    assert!((0..9).all(|_| refusal(&accounts, &mut from("192.0.2.1")).unwrap().0 == 401), "a key has no account");
}

#[test]
fn a_key_in_a_referer_stays_where_keys_are_forwarded() {
    let filter = filter(json!({ "places": ["header:x-key", "query:key"], "forward_key": true }));
    let referer = "https://a.example/p?key=k%2B2";
    let mut exchange = Exchange::get("/?key=k%2B2").header("referer", referer);
    assert_eq!(refusal(&filter, &mut exchange), None);
    assert_eq!(exchange.request.query.as_deref(), Some("key=k%2B2"));
    assert_eq!(exchange.request.headers.get("referer"), Some(referer));
}
