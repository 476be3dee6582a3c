use serde_json::{Value, json};
use sluice_filter::testing::{Exchange, Harness, config_keys, wrong_defaults};

use super::*;

fn filter(config: Value) -> Harness<IpFilter> {
    Harness::new(config).unwrap()
}

/// The reason of a refusal; none where the request passes.
fn refusal(filter: &Harness<IpFilter>, address: &str) -> Option<String> {
    let mut exchange = Exchange::get("/");
    exchange.request.client_address = address.to_owned();
    match filter.on_request(&mut exchange).unwrap() {
        Verdict::Continue => None,
        Verdict::Respond => {
            let response = &exchange.response;
            assert_eq!((response.status, response.headers.get("cache-control")), (403, Some("no-store")));
            exchange.response.reason
        }
    }
}

#[test]
fn deny_wins_over_allow() {
    let filter = filter(json!({ "allow": ["10.0.0.0/8", "2001:db8::/32"], "deny": ["10.66.0.0/16"] }));
    assert_eq!(refusal(&filter, "10.1.2.3"), None);
    assert_eq!(refusal(&filter, "2001:db8::1"), None);
    assert_eq!(refusal(&filter, "10.66.0.1").as_deref(), Some("ip-denied"));
    assert_eq!(refusal(&filter, "::ffff:10.66.0.1").as_deref(), Some("ip-denied"));
    assert_eq!(refusal(&filter, "192.0.2.1").as_deref(), Some("ip-not-allowed"));
    let only = self::filter(json!({ "deny": ["10.66.0.0/16"] }));
    assert_eq!((refusal(&only, "192.0.2.1"), refusal(&only, "10.66.0.9").as_deref()), (None, Some("ip-denied")));
}

#[test]
fn lists_can_be_the_lines_of_a_file() {
    let filter = filter(json!({ "deny": "# blocked\n192.0.2.0/24 # a network\n\n  2001:db8::1\r\n" }));
    assert_eq!(refusal(&filter, "192.0.2.9").as_deref(), Some("ip-denied"));
    assert_eq!(refusal(&filter, "2001:db8::1").as_deref(), Some("ip-denied"));
    assert_eq!(refusal(&filter, "2001:db8::2"), None);
}

#[test]
fn clients_over_a_unix_socket_have_no_address() {
    let config = |unix: &str| json!({ "allow": ["10.0.0.0/8"], "unix": unix });
    assert_eq!(refusal(&filter(config("allow")), "unix:"), None);
    assert_eq!(refusal(&filter(config("deny")), "unix:").as_deref(), Some("ip-unknown"));
    assert_eq!(refusal(&filter(config("allow")), "10.0.0.1%eth0").as_deref(), Some("ip-unknown"));
}

#[test]
fn a_dry_run_counts_and_refuses_nobody() {
    let filter = filter(json!({ "deny": ["192.0.2.0/24"], "dry_run": true }));
    assert_eq!(refusal(&filter, "192.0.2.9"), None);
    assert_eq!(filter.metric("would_refuse_total{reason=\"ip-denied\"}"), Some(1.0));
}

#[test]
fn bad_configs_name_their_key() {
    for (config, expected) in [
        (json!({}), "allow: expected addresses or prefixes here or in `deny`"),
        (json!({ "allow": ["10.0.0.0/8", "x"] }), "allow[1]: `x` is neither an address nor a prefix"),
        (json!({ "deny": ["10.0.0.1/8"] }), "deny[0]: `10.0.0.1/8` has bits behind"),
        (json!({ "deny": "10.0.0.0/8\n\nfoo" }), "deny: line 3: `foo` is neither"),
        (json!({ "deny": "# nothing\n" }), "deny: has no addresses"),
        (json!({ "allow": [], "deny": ["::1"] }), "allow: has no addresses"),
        (json!({ "deny": ["::1"], "status": 200 }), "status: expected 400 to 499"),
        (json!({ "deni": [] }), "deni: unknown key"),
    ] {
        let refused = Harness::<IpFilter>::new(config).err().expect("a bad config");
        assert!(refused.starts_with(expected), "{refused}");
    }
}

#[test]
fn the_schema_has_every_key() {
    let schema: Value = serde_json::from_str(include_str!("../schema.json")).unwrap();
    let keys: std::collections::BTreeSet<_> = schema["properties"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, config_keys::<IpFilter>());
}

#[test]
fn the_defaults_of_the_schema_are_those_of_the_config() {
    assert_eq!(wrong_defaults::<IpFilter>(&json!({"allow": ["10.0.0.0/8"]})), Vec::<String>::new());
}

#[test]
fn a_refusal_is_what_the_config_says() {
    let filter = filter(json!({ "deny": ["0.0.0.0/0", "::/0"], "status": 404, "message": "nothing here" }));
    let mut exchange = Exchange::get("/");
    assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Respond));
    assert_eq!(exchange.response.status, 404);
    assert!(String::from_utf8_lossy(&exchange.response.body).contains("nothing here"));
}
