use base64::Engine;
use serde_json::{Value, json};
use sluice_filter::testing::{Consumer, Exchange, Harness, config_keys, wrong_defaults};

use super::*;

fn filter(config: Value) -> Harness<BasicAuth> {
    let filter = Harness::new(config).unwrap();
    filter.consumers(&[Consumer::new("acme").plan("gold").password("alice", "open sesame: ä")]);
    filter
}

fn with(user: &str, password: &str) -> Exchange {
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    Exchange::get("/").header("authorization", &format!("Basic {pair}"))
}

/// The status and the reason of a refusal; none where the request passes.
fn refusal(filter: &Harness<BasicAuth>, exchange: &mut Exchange) -> Option<(u16, String)> {
    let verdict = filter.on_request(exchange).unwrap();
    (verdict == Verdict::Respond)
        .then(|| (exchange.response.status, exchange.response.reason.clone().unwrap_or_default()))
}

#[test]
fn the_right_password_makes_the_consumer_the_caller() {
    let filter = filter(json!({}));
    for _ in 0..2 {
        let mut exchange = with("alice", "open sesame: ä");
        assert_eq!(refusal(&filter, &mut exchange), None);
        assert_eq!(exchange.consumer.as_deref(), Some("acme"));
        let known = exchange.known_consumer.as_ref().unwrap();
        assert_eq!((known.plan.as_deref(), &*known.method), (Some("gold"), "password"));
        assert!(!exchange.request.headers.has("authorization"), "the upstream does not get the password");
    }
}

#[test]
fn wrong_names_and_wrong_passwords_look_the_same() {
    let filter = filter(json!({ "realm": "reports" }));
    let answer = |user: &str, password: &str| {
        let mut exchange = with(user, password);
        assert_eq!(refusal(&filter, &mut exchange), Some((401, "credentials-wrong".to_owned())), "{user}");
        assert_eq!(exchange.consumer, None);
        let headers = &exchange.response.headers;
        assert_eq!(headers.get("www-authenticate"), Some("Basic realm=\"reports\", charset=\"UTF-8\""));
        assert_eq!(headers.get("cache-control"), Some("no-store"));
        (exchange.response.body.clone(), headers.clone())
    };
    let wrong_password = answer("alice", "open sesame");
    assert_eq!(answer("bob", "open sesame: ä"), wrong_password);
    assert_eq!(answer("", ""), wrong_password);
    assert_eq!(answer("alice", &"x".repeat(10_000)), wrong_password);
}

#[test]
fn odd_fields_are_refused_and_other_schemes_are_no_credentials() {
    let filter = filter(json!({}));
    for (field, status, reason) in [
        ("Basic", 400, "bad-authorization"),
        ("Basic ???", 400, "bad-authorization"),
        ("Basic YWxpY2U=", 400, "bad-authorization"),
        ("basic YWxpY2U6YQBi", 400, "bad-authorization"),
        ("Basic /zph", 400, "bad-authorization"),
        ("Bearer abc", 401, "credentials-missing"),
        ("Basica YWxpY2U6eA==", 401, "credentials-missing"),
    ] {
        let mut exchange = Exchange::get("/").header("authorization", field);
        assert_eq!(refusal(&filter, &mut exchange), Some((status, reason.to_owned())), "{field}");
    }
    let mut twice = with("alice", "open sesame: ä").header("authorization", "Basic YWxpY2U6eA==");
    assert_eq!(refusal(&filter, &mut twice), Some((400, "bad-authorization".to_owned())));
    assert_eq!(refusal(&filter, &mut Exchange::get("/")), Some((401, "credentials-missing".to_owned())));
    let optional = self::filter(json!({ "optional": true, "forward_credentials": true }));
    assert_eq!(refusal(&optional, &mut Exchange::get("/")), None);
    assert_eq!(refusal(&optional, &mut with("alice", "x")), Some((401, "credentials-wrong".to_owned())));
    let mut exchange = with("alice", "open sesame: ä");
    assert_eq!(refusal(&optional, &mut exchange), None);
    assert!(exchange.request.headers.has("authorization"));
}

#[test]
fn guessing_is_slowed_down_and_the_answers_tell_nothing() {
    let filter = filter(json!({ "throttle": { "failures": 3, "window": "1m" } }));
    let from = |address: &str, password: &str| {
        let mut exchange = with("alice", password);
        exchange.request.client_address = address.to_owned();
        exchange
    };
    for guess in 0..3 {
        assert_eq!(refusal(&filter, &mut from("192.0.2.1", &guess.to_string())).unwrap().0, 401);
    }
    let mut wrong = from("192.0.2.1", "4");
    let mut right = from("192.0.2.1", "open sesame: ä");
    assert_eq!(refusal(&filter, &mut wrong), Some((429, "throttled".to_owned())));
    assert_eq!(
        refusal(&filter, &mut right),
        Some((429, "throttled".to_owned())),
        "right or wrong: it is not looked at"
    );
    assert_eq!(right.response.headers, wrong.response.headers);
    assert!(right.response.headers.get("retry-after").is_some());
    assert_eq!(refusal(&filter, &mut from("192.0.2.2", "open sesame: ä")), None, "somebody else");
    // What was verified is still not looked at for who is over the limit: it would tell which guess is right.
    assert_eq!(refusal(&filter, &mut from("192.0.2.1", "open sesame: ä")).unwrap().0, 429);
    filter.advance(std::time::Duration::from_secs(60));
    assert_eq!(refusal(&filter, &mut from("192.0.2.1", "open sesame: ä")), None);
    for _ in 0..50 {
        assert_eq!(refusal(&filter, &mut from("192.0.2.1", "open sesame: ä")), None, "no attempt: it was verified");
    }
}

#[test]
fn an_account_is_slowed_down_whether_it_exists_or_not() {
    let filter = filter(json!({ "throttle": { "failures": 0, "account_failures": 2 } }));
    for user in ["alice", "nobody"] {
        for address in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
            let mut exchange = with(user, "guess");
            exchange.request.client_address = address.to_owned();
            let expected = if address == "192.0.2.3" { 429 } else { 401 };
            assert_eq!(refusal(&filter, &mut exchange).unwrap().0, expected, "{user} {address}");
        }
    }
}

#[test]
fn bad_configs_name_their_key() {
    for (config, expected) in [
        (json!({ "realm": "a\"b" }), "realm: expected visible ASCII"),
        (json!({ "throttle": { "window": "0s" } }), "throttle.window: expected 1ms to 366d"),
        (json!({ "throttle": { "failures": 1_000_001 } }), "throttle.failures: expected 0 to 1000000"),
        (json!({ "relm": "x" }), "relm: unknown key"),
    ] {
        let refused = Harness::<BasicAuth>::new(config).err().expect("a bad config");
        assert!(refused.starts_with(expected), "{refused}");
    }
}

#[test]
fn the_schema_has_every_key() {
    let schema: Value = serde_json::from_str(include_str!("../schema.json")).unwrap();
    let keys: std::collections::BTreeSet<_> = schema["properties"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, config_keys::<BasicAuth>());
}

#[test]
fn the_defaults_of_the_schema_are_those_of_the_config() {
    assert_eq!(wrong_defaults::<BasicAuth>(&json!({"throttle": {}})), Vec::<String>::new());
}

#[test]
fn strangers_who_pass_are_told_what_would_help_and_keep_another_scheme() {
    let filter = filter(json!({ "optional": true }));
    let mut exchange = Exchange::get("/").header("authorization", "Bearer abc");
    assert_eq!(refusal(&filter, &mut exchange), None);
    assert_eq!(exchange.request.headers.get("authorization"), Some("Bearer abc"));
    let challenges = context::into_texts(exchange.context["auth.challenges"].0.clone());
    assert_eq!(challenges, Some(vec!["Basic realm=\"api\", charset=\"UTF-8\"".to_owned()]));
}

/// A right password that has not been verified counts as well: else an answer would tell who is right.
#[test]
fn an_attempt_counts_whether_it_is_right_or_wrong() {
    let filter = filter(json!({ "throttle": { "failures": 1 } }));
    assert_eq!(refusal(&filter, &mut with("alice", "open sesame: ä")), None);
    assert_eq!(refusal(&filter, &mut with("alice", "open sesame: ä")).unwrap().1, "throttled");
}

#[test]
fn one_network_of_ipv6_is_one_address_and_a_limit_of_0_is_none() {
    let from = |address: &str| {
        let mut exchange = with("alice", "guess");
        exchange.request.client_address = address.to_owned();
        exchange
    };
    let filter = filter(json!({ "throttle": { "failures": 1 } }));
    assert_eq!(refusal(&filter, &mut from("2001:db8::1")).unwrap().0, 401);
    assert_eq!(refusal(&filter, &mut from("2001:db8::2")).unwrap().0, 429);
    assert_eq!(refusal(&filter, &mut from("2001:db8:0:1::1")).unwrap().0, 401);
    let free = self::filter(json!({ "throttle": { "failures": 0, "account_failures": 0 } }));
    assert!((0..200).all(|_| refusal(&free, &mut from("192.0.2.1")).unwrap().0 == 401));
}
