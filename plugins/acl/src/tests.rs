use serde_json::{Value, json};
use sluice_filter::context;
use sluice_filter::testing::{Exchange, Harness, KnownConsumer, config_keys, wrong_defaults};

use super::*;

fn filter(rules: Value) -> Harness<Acl> {
    Harness::new(json!({ "rules": rules })).unwrap()
}

/// What the request is refused for; none where it passes.
fn refusal(filter: &Harness<Acl>, mut exchange: Exchange) -> Option<String> {
    match filter.on_request(&mut exchange).unwrap() {
        Verdict::Continue => None,
        Verdict::Respond => {
            assert_eq!(exchange.response.status, 403);
            Some(exchange.response.reason.unwrap_or_default())
        }
    }
}

fn acme(mut exchange: Exchange) -> Exchange {
    exchange.consumer = Some("acme".into());
    let labels = vec![("region".into(), "eu".into()), ("tier".into(), "partner".into())];
    exchange.known_consumer = Some(KnownConsumer { plan: Some("gold".into()), labels, method: "key".into() });
    exchange
}

fn with_claims(mut exchange: Exchange, claims: &Value) -> Exchange {
    exchange.consumer = Some("subject".into());
    exchange.context.insert("auth.claims".into(), (context::Value::Json(claims.to_string()), "jwt".into()));
    exchange
}

fn denied(rule: &str) -> Option<String> {
    Some(format!("acl-denied:{rule}"))
}

#[test]
fn the_first_rule_that_holds_decides() {
    let filter = filter(json!([
        {"name": "blocked", "effect": "deny", "if": {"labels": {"region": ["us", "eu"], "tier": "partner"}, "methods": "DELETE"}},
        {"name": "gold", "effect": "allow", "if": {"plans": ["silver", "gold"]}},
        {"effect": "deny", "if": {"methods": "POST"}},
    ]));
    assert_eq!(refusal(&filter, acme(Exchange::get("/"))), None);
    assert_eq!(refusal(&filter, acme(Exchange::new("DELETE", "/"))), denied("blocked"));
    assert_eq!(refusal(&filter, Exchange::new("POST", "/")), denied("rule2"));
    assert_eq!(refusal(&filter, Exchange::get("/")), denied("default"));
}

#[test]
fn a_name_that_a_token_brings_has_neither_plan_nor_labels() {
    let filter = filter(json!([
        {"effect": "allow", "if": {"plans": "gold"}},
        {"effect": "allow", "if": {"labels": {"tier": "partner"}}},
        {"effect": "allow", "if": {"consumers": "acme"}},
    ]));
    assert_eq!(refusal(&filter, acme(Exchange::get("/"))), None);
    let mut named = Exchange::get("/");
    named.consumer = Some("acme".into());
    assert_eq!(refusal(&filter, named), denied("default"));
}

#[test]
fn requests_by_method_route_and_path() {
    let filter = filter(json!([
        {"name": "read", "effect": "allow", "if": {"methods": ["GET"], "paths": ["/a", "/open/*"]}},
        {"name": "route", "effect": "allow", "if": {"routes": ["orders"], "authenticated": true, "consumers": ["acme", "b"]}},
    ]));
    for (method, path) in [("GET", "/a"), ("HEAD", "/a"), ("GET", "/open/"), ("GET", "/open/x?y")] {
        assert_eq!(refusal(&filter, Exchange::new(method, path)), None, "{method} {path}");
    }
    for (method, path) in [("POST", "/a"), ("GET", "/a/b"), ("GET", "/open"), ("GET", "/")] {
        assert_eq!(refusal(&filter, Exchange::new(method, path)), denied("default"), "{method} {path}");
    }
    let of_route = |mut exchange: Exchange| {
        exchange.route.name = "orders".into();
        exchange
    };
    assert_eq!(refusal(&filter, of_route(acme(Exchange::new("PUT", "/")))), None);
    assert_eq!(refusal(&filter, acme(Exchange::new("PUT", "/"))), denied("default"));
    assert_eq!(refusal(&filter, of_route(Exchange::new("PUT", "/"))), denied("default"));
}

#[test]
fn roles_scopes_and_claims_in_every_form() {
    let filter = filter(json!([
        {"name": "role", "effect": "allow", "if": {"roles": ["admin", "owner"]}},
        {"name": "scopes", "effect": "allow", "if": {"scopes": ["read", "write"]}},
        {"name": "claims", "effect": "allow", "if": {"claims": {"org.id": "7", "https://a.example/teams": ["x", "y"], "ok": "true"}}},
    ]));
    let asked = |claims: Value| refusal(&filter, with_claims(Exchange::get("/"), &claims));
    assert_eq!(asked(json!({"roles": ["user", "owner"]})), None);
    assert_eq!(asked(json!({"roles": "admin"})), None);
    assert_eq!(asked(json!({"roles": "user admin"})), None);
    assert_eq!(asked(json!({"roles": ["administrator"]})), denied("default"));
    assert_eq!(asked(json!({"scope": "write read other"})), None);
    assert_eq!(asked(json!({"scope": ["read", "write"]})), None);
    assert_eq!(asked(json!({"scope": "read"})), denied("default"));
    let teams = "https://a.example/teams";
    assert_eq!(asked(json!({"org": {"id": 7.0}, teams: ["y", "z"], "ok": true})), None);
    assert_eq!(asked(json!({"org.id": "7", teams: "x", "ok": true})), None);
    assert_eq!(asked(json!({"org": {"id": 8}, teams: ["y"], "ok": true})), denied("default"));
    assert_eq!(asked(json!({"org": {"id": 7}, "ok": true})), denied("default"));
}

#[test]
fn one_scope_of_several_and_headers() {
    let filter = filter(json!([
        {"name": "scopes", "effect": "allow", "if": {"scopes_any": ["read", "write"], "scopes": "api"}},
        {"name": "tool", "effect": "allow", "if": {"headers": {"X-Tool": ["cli", "ci"], "x-zone": "a"}}},
    ]));
    let asked = |scope: &str| refusal(&filter, with_claims(Exchange::get("/"), &json!({ "scope": scope })));
    assert_eq!((asked("api write"), asked("other read api")), (None, None));
    assert_eq!((asked("api"), asked("read write")), (denied("default"), denied("default")));
    let sent = |tool: &str, zone: &str| {
        refusal(&filter, Exchange::get("/").header("x-tool", "x").header("x-tool", tool).header("x-zone", zone))
    };
    assert_eq!((sent("ci", "a"), sent("ci", "b"), sent("ci, cli", "a")), (None, denied("default"), denied("default")));
    assert_eq!(filter.needs(), Some(json!({"authentication": true, "read_headers": ["X-Tool", "x-zone"]})));
}

#[test]
fn strangers_are_told_how_to_authenticate_where_that_would_help() {
    let filter = filter(json!([
        {"name": "frozen", "effect": "deny", "if": {"methods": "DELETE"}},
        {"name": "known", "effect": "allow", "if": {"authenticated": true}},
        {"name": "write", "effect": "deny", "if": {"methods": "POST"}},
    ]));
    let stranger = |method: &str, challenges: &[&str]| {
        let mut exchange = Exchange::new(method, "/");
        if !challenges.is_empty() {
            let challenges = challenges.iter().map(|one| (*one).to_owned()).collect();
            exchange.context.insert("auth.challenges".into(), (context::Value::Texts(challenges), "key".into()));
        }
        assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Respond));
        let challenge = exchange.response.headers.get("www-authenticate").map(str::to_owned);
        (exchange.response.status, challenge, exchange.response.reason.unwrap_or_default())
    };
    let both = Some("ApiKey realm=\"a\", Basic realm=\"a\"".to_owned());
    let offered = ["ApiKey realm=\"a\"", "Basic realm=\"a\""];
    assert_eq!(stranger("GET", &offered), (401, both.clone(), "acl-denied:default".into()));
    assert_eq!(stranger("POST", &offered), (401, both, "acl-denied:write".into()), "a caller would have passed before");
    assert_eq!(stranger("DELETE", &offered), (403, None, "acl-denied:frozen".into()), "no caller may");
    assert_eq!(stranger("GET", &[]), (403, None, "acl-denied:default".into()), "nobody takes credentials");
}

#[test]
fn a_claim_that_is_no_text_is_not_taken_for_absent() {
    // A rule that denies by a claim has to hold whatever form the claim has.
    let filter = Harness::<Acl>::new(json!({
        "rules": [{"name": "banned", "effect": "deny", "if": {"claims": {"banned": ["true", "1", "yes"]}}}],
        "default": "allow",
    }))
    .unwrap();
    for claim in
        [json!(true), json!("true"), json!(1), json!(1.0), json!(["no", "yes"]), json!([true]), json!(["no", 1])]
    {
        assert_eq!(refusal(&filter, with_claims(Exchange::get("/"), &json!({ "banned": claim }))), denied("banned"));
    }
    assert_eq!(refusal(&filter, with_claims(Exchange::get("/"), &json!({"banned": false}))), None);
}

#[test]
fn a_member_of_a_list_is_one_role_whatever_is_beside_it() {
    let filter = filter(json!([{"effect": "allow", "if": {"roles": "admin"}}]));
    let asked = |roles: Value| refusal(&filter, with_claims(Exchange::get("/"), &json!({ "roles": roles })));
    assert_eq!(asked(json!(["admin", 7])), None);
    assert_eq!(asked(json!([["admin"], {"admin": true}])), denied("default"));
    assert_eq!(asked(json!(["user admin"])), denied("default"), "the name of one role");
}

#[test]
fn a_dry_run_counts_and_refuses_nobody() {
    let filter = Harness::<Acl>::new(json!({
        "rules": [{"name": "write", "effect": "deny", "if": {"methods": ["POST"]}}], "default": "allow", "dry_run": true,
    }))
    .unwrap();
    assert_eq!(refusal(&filter, Exchange::new("POST", "/")), None);
    assert_eq!(filter.metric("would_refuse_total{rule=\"write\"}"), Some(1.0));
}

#[test]
fn it_says_whether_it_needs_to_know_the_caller() {
    let by_caller = filter(json!([{"effect": "allow", "if": {"plans": "gold"}}]));
    assert_eq!(by_caller.needs(), Some(json!({"authentication": true, "read_headers": []})));
    let by_request = filter(json!([{"effect": "allow", "if": {"methods": "GET"}}]));
    assert_eq!(by_request.needs(), Some(json!({"authentication": false, "read_headers": []})));
}

#[test]
fn bad_configs_name_their_key() {
    let rules = |rule: Value| json!({ "rules": [rule] });
    for (config, expected) in [
        (json!({ "rules": [] }), "rules: expected at least one rule"),
        (rules(json!({"effect": "allow", "if": {"plans": []}})), "rules[0].if.plans: expected at least one value"),
        (
            rules(json!({"effect": "allow", "if": {"labels": {"a": []}}})),
            "rules[0].if.labels.a: expected at least one value",
        ),
        (rules(json!({"effect": "allow", "if": {"paths": "a/*"}})), "rules[0].if.paths: `a/*` is neither a path"),
        (rules(json!({"effect": "allow", "if": {"paths": "/*/a"}})), "rules[0].if.paths: `/*/a` is neither a path"),
        (
            rules(json!({"effect": "allow", "if": {"headers": {"Host": "a"}}})),
            "rules[0].if.headers.Host: expected the name",
        ),
        (
            rules(json!({"effect": "deny", "if": {"methods": "delete"}})),
            "rules[0].if.methods: `delete` is not a method",
        ),
        (rules(json!({"effect": "deny", "if": {"methods": ["GET", ""]}})), "rules[0].if.methods: `` is not a method"),
        (rules(json!({"effect": "allow", "name": "a b"})), "rules[0].name: expected 1 to 48 letters"),
        (rules(json!({"effect": "maybe"})), "rules[0].effect: "),
        (rules(json!({"effect": "allow", "if": {"plan": "x"}})), "rules[0].if.plan: unknown key"),
    ] {
        let refused = Harness::<Acl>::new(config).err().expect("a bad config");
        assert!(refused.starts_with(expected), "{refused}");
    }
}

#[test]
fn the_schema_has_every_key() {
    let schema: Value = serde_json::from_str(include_str!("../schema.json")).unwrap();
    let keys: std::collections::BTreeSet<_> = schema["properties"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, config_keys::<Acl>());
}

#[test]
fn the_defaults_of_the_schema_are_those_of_the_config() {
    assert_eq!(wrong_defaults::<Acl>(&json!({"rules": [{"effect": "allow"}]})), Vec::<String>::new());
}

#[test]
fn the_default_and_the_text_of_a_refusal_can_be_chosen() {
    let rules = json!([{"effect": "deny", "if": {"methods": "DELETE"}}]);
    let filter = Harness::<Acl>::new(json!({"rules": rules, "default": "allow", "message": "read only"})).unwrap();
    assert_eq!(refusal(&filter, Exchange::get("/")), None);
    let mut refused = Exchange::new("DELETE", "/");
    assert_eq!(filter.on_request(&mut refused), Ok(Verdict::Respond));
    assert_eq!(refused.response.headers.get("cache-control"), Some("no-store"));
    assert!(String::from_utf8_lossy(&refused.response.body).contains("read only"));
}

#[test]
fn roles_and_scopes_are_where_the_config_says() {
    let config = json!({
        "rules": [{"effect": "allow", "if": {"roles": "admin"}}, {"effect": "allow", "if": {"scopes": ["read", "write"]}}],
        "roles_claim": ["https://example.com/app", "roles"], "scope_claim": "scp",
    });
    let filter = Harness::<Acl>::new(config).unwrap();
    let with = |claims: &Value| refusal(&filter, with_claims(Exchange::get("/"), claims));
    assert_eq!(with(&json!({"https://example.com/app": {"roles": ["admin"]}})), None);
    assert_eq!(with(&json!({"scp": "write read"})), None);
    assert_eq!(with(&json!({"roles": ["admin"], "scope": "read write", "scp": "read"})), denied("default"));
}

/// A byte that is not UTF-8 in one field does not hide another one.
#[test]
fn a_field_is_seen_beside_one_that_is_not_utf_8() {
    let filter =
        filter(json!([{"name": "mark", "effect": "deny", "if": {"headers": {"x-mark": ["bad", "caf\u{e9}"]}}},
        {"effect": "allow"}]));
    let with = |values: &[&[u8]]| {
        let mut exchange = Exchange::get("/");
        values.iter().for_each(|value| exchange.request.headers.append("x-mark", *value));
        refusal(&filter, exchange)
    };
    assert_eq!(with(&[b"\xff", b"bad"]), denied("mark"));
    assert_eq!(with(&["caf\u{e9}".as_bytes()]), denied("mark"));
    assert_eq!(with(&[b"caf\xe9"]), None, "the field as a whole");
}
