use std::collections::BTreeMap;

use serde_json::{Value, json};
use sluice_filter::testing::{Exchange, Harness, ResponseMessage, config_keys, wrong_defaults};

use super::*;

fn filter(config: Value) -> Harness<TrafficSplit> {
    Harness::new(config).unwrap()
}

fn split() -> Value {
    json!([{"upstream": "stable", "weight": 90}, {"upstream": "canary", "weight": 10}])
}

fn request() -> Exchange {
    Exchange::get("/").upstreams(&["stable", "canary"])
}

fn chosen(filter: &Harness<TrafficSplit>, exchange: &mut Exchange) -> Option<String> {
    filter.select_upstream(exchange).unwrap();
    exchange.choice.upstream.clone()
}

#[test]
fn splits_by_weight() {
    let filter = filter(json!({ "split": split() }));
    assert!(!filter.wants("on-response"));
    let mut counts = BTreeMap::new();
    for _ in 0..10_000 {
        *counts.entry(chosen(&filter, &mut request()).unwrap()).or_insert(0) += 1;
    }
    assert!((850..=1150).contains(&counts["canary"]), "{counts:?}");
}

#[test]
fn rules_come_first() {
    let filter = filter(json!({
        "split": [{"upstream": "stable", "weight": 1}],
        "rules": [
            {"when": "header:X-Canary", "value": "always", "upstream": "canary"},
            {"when": "cookie:beta", "upstream": "canary"},
        ],
    }));
    assert_eq!(chosen(&filter, &mut request()).as_deref(), Some("stable"));
    assert_eq!(chosen(&filter, &mut request().header("x-canary", "never")).as_deref(), Some("stable"));
    assert_eq!(chosen(&filter, &mut request().header("x-canary", "always")).as_deref(), Some("canary"));
    assert_eq!(chosen(&filter, &mut request().header("cookie", "a=b; beta=1")).as_deref(), Some("canary"));
}

#[test]
fn a_cookie_keeps_the_caller_where_it_is() {
    let filter =
        filter(json!({"split": split(), "sticky": {"cookie": "ab", "max_age": "1d"}, "response_header": "x-variant"}));
    let mut first = request();
    let upstream = chosen(&filter, &mut first).unwrap();
    assert_eq!(chosen(&filter, &mut first).as_ref(), Some(&upstream), "a retry");
    first.respond(ResponseMessage::new(200));
    filter.on_response(&mut first).unwrap();
    assert_eq!(first.response.headers.get("x-variant"), Some(upstream.as_str()));
    let cookie = first.response.headers.get("set-cookie").unwrap();
    assert!(cookie.ends_with("; Path=/; Max-Age=86400; HttpOnly; SameSite=Lax"), "{cookie}");
    let pair = cookie.split(';').next().unwrap();
    for _ in 0..20 {
        let mut again = request().header("cookie", pair);
        assert_eq!(chosen(&filter, &mut again).as_ref(), Some(&upstream));
        again.respond(ResponseMessage::new(200));
        filter.on_response(&mut again).unwrap();
        assert_eq!(again.response.headers.get("set-cookie"), None);
    }
}

#[test]
fn a_growing_share_moves_nobody_back() {
    let with = |stable: u32, canary: u32| {
        let split = json!([{"upstream": "stable", "weight": stable}, {"upstream": "canary", "weight": canary}]);
        filter(json!({"split": split, "by": "header:x-user", "salt": "1"}))
    };
    let (small, large) = (with(90, 10), with(50, 50));
    let mut moved = 0;
    for user in 0..1000 {
        let of = |filter| chosen(filter, &mut request().header("x-user", &user.to_string())).unwrap();
        let (before, after) = (of(&small), of(&large));
        assert_eq!(before, of(&small));
        assert!(before != "canary" || after == "canary");
        moved += usize::from(before != after);
    }
    assert!((300..500).contains(&moved), "{moved}");
}

#[test]
fn refuses_bad_configs() {
    let refusal = |config: Value| Harness::<TrafficSplit>::new(config).err().unwrap_or_default();
    assert!(refusal(json!({})).starts_with("nothing to do"));
    assert!(refusal(json!({"split": [{"upstream": "a", "weight": 0}]})).starts_with("split: "));
    assert!(refusal(json!({"split": split(), "by": "ipp"})).starts_with("by: unknown key `ipp`, expected"));
    assert!(refusal(json!({"split": split(), "by": "ip", "sticky": {}})).starts_with("sticky: "));
    assert!(
        refusal(json!({"rules": [{"when": "path:/", "upstream": "a"}]}))
            .starts_with("rules[0].when: unknown key `path:/`")
    );
    let unseen = "no filter sees the field `host`";
    assert_eq!(
        refusal(json!({"rules": [{"when": "header:Host", "upstream": "a"}]})),
        format!("rules[0].when: {unseen}")
    );
    assert_eq!(refusal(json!({"split": split(), "by": "header:host"})), format!("by: {unseen}"));
    let filter = filter(json!({"split": [{"upstream": "other", "weight": 1}]}));
    assert!(filter.select_upstream(&mut request()).is_err_and(|reason| reason.contains("other")));
}

#[test]
fn the_schema_has_every_key() {
    let schema: Value = serde_json::from_str(include_str!("../schema.json")).unwrap();
    let keys = schema["properties"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(config_keys::<TrafficSplit>(), keys);
}

#[test]
fn says_what_its_rules_look_at() {
    let split = json!([{"upstream": "a", "weight": 1}]);
    let needs = |config: Value| filter(config).needs().unwrap_or_default();
    assert_eq!(needs(json!({ "split": split })), json!({"read_headers": [], "write_headers": []}));
    assert_eq!(
        needs(json!({ "split": split, "sticky": {} })),
        json!({"read_headers": ["cookie"], "write_headers": ["set-cookie"]})
    );
    let rules = json!([
        {"when": "header:x-beta", "upstream": "a"}, {"when": "header:Cookie", "upstream": "a"}, {"when": "cookie:x", "upstream": "a"},
    ]);
    assert_eq!(
        needs(json!({ "rules": rules, "split": split, "by": "header:x-user" })),
        json!({"read_headers": ["cookie", "x-beta", "x-user"], "write_headers": []})
    );
}

#[test]
fn a_retry_stays_where_it_was_placed_at_random() {
    let filter = filter(json!({"split": [{"upstream": "a", "weight": 1}, {"upstream": "b", "weight": 1}]}));
    for _ in 0..20 {
        let mut exchange = Exchange::get("/").upstreams(&["a", "b"]);
        let first = chosen(&filter, &mut exchange);
        assert!(first.is_some());
        assert_eq!(chosen(&filter, &mut exchange), first);
    }
}

/// What a client sends is a value, in whatever bytes: the same bytes get the same share.
#[test]
fn a_value_that_is_not_utf_8_keeps_its_place() {
    for (by, name) in [("header:x-user", "x-user"), ("cookie:user", "cookie")] {
        let grants = json!({"read_headers": ["cookie"]});
        let filter = Harness::<TrafficSplit>::with_grants(json!({"split": split(), "by": by}), grants).unwrap();
        let placed = |value: &[u8]| {
            let mut exchange = request();
            exchange.request.headers.append(name, value);
            chosen(&filter, &mut exchange)
        };
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..200 {
            let value = [b"other=1; user=caf\xe9".as_slice(), number.to_string().as_bytes()].concat();
            let first = placed(&value);
            assert!((0..5).all(|_| placed(&value) == first), "{by}");
            seen.insert(first);
        }
        assert_eq!(seen.len(), 2, "{by}: not all in one place");
    }
    let rule = json!({"rules": [{"when": "header:x-user", "upstream": "canary"}]});
    let mut exchange = request();
    exchange.request.headers.append("x-user", b"\xff");
    assert_eq!(chosen(&filter(rule), &mut exchange).as_deref(), Some("canary"));
}

#[test]
fn a_claim_of_any_kind_places_its_caller() {
    let filter = filter(json!({"split": split(), "by": {"claim": ["https://example.com/org", "id"]}}));
    assert_eq!(filter.needs().unwrap()["authentication"], json!(true));
    for id in [json!("a"), json!(7.0), json!(["a", "b"]), json!(9_223_372_036_854_775_809_u64)] {
        let placed = || {
            let mut exchange = request();
            let claims = json!({"https://example.com/org": {"id": id}}).to_string();
            exchange.context.insert("auth.claims".to_owned(), (context::Value::Json(claims), "auth".to_owned()));
            chosen(&filter, &mut exchange)
        };
        let first = placed();
        assert!((0..40).all(|_| placed() == first), "{id}");
    }
}

#[test]
fn the_defaults_of_the_schema_are_those_of_the_config() {
    assert_eq!(wrong_defaults::<TrafficSplit>(&json!({"sticky": {}})), Vec::<String>::new());
}
