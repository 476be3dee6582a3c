//! A filter reaches what it was granted, and nothing else.

use std::collections::BTreeMap;

use serde_json::json;
use sluice_harness::Origin;

use crate::support::{filter, gateway, probe, route, setup, with_base};

#[test]
fn credentials_are_hidden_unless_granted() {
    let origin = Origin::named("o");
    let config = || {
        json!({"on-request": [
            {"do": "request-header", "name": "authorization", "to": "x-seen"},
            {"do": "request-header", "name": "cookie", "to": "x-cookie"},
            {"do": "request-header", "name": "x-api-key", "to": "x-key"},
            {"do": "headers", "to": "x-all"},
        ]})
    };
    let ask = |lines: &str| {
        let gateway = gateway(&(route(&origin.url(), &["a"]) + &filter("a", "probe", lines, config())));
        let headers = [("authorization", "Bearer t"), ("cookie", "a=b"), ("x-api-key", "k"), ("x-plain", "1")];
        assert_eq!(gateway.request("GET", "/", &headers, b"").status, 200);
        origin.last()
    };
    let hidden = ask("");
    assert_eq!(
        (hidden.header("x-seen"), hidden.header("x-cookie"), hidden.header("x-key")),
        (Some("none"), Some("none"), Some("none"))
    );
    let all = hidden.header("x-all").expect("the names");
    let has = |name: &str| all.split(' ').any(|n| n == name);
    assert!(has("x-plain") && !has("authorization") && !has("cookie") && !has("x-api-key"), "{all}");
    assert_eq!(hidden.header("authorization"), Some("Bearer t"), "the origin still gets it");
    let granted = ask("grants = { read_headers = [\"authorization\"] }");
    assert_eq!((granted.header("x-seen"), granted.header("x-cookie")), (Some("Bearer t"), Some("none")));
}

#[test]
fn host_is_seen_in_no_hook_whatever_the_upstream_gets() {
    let origin = Origin::named("o");
    let look = json!([{"do": "request-header", "name": "Host", "to": "x-seen"}, {"do": "headers", "to": "x-all"}]);
    for (policy, sent) in [("keep", "shop.test"), ("upstream", origin.url().trim_start_matches("http://"))] {
        for hooks in [&["on-request", "on-response"][..], &["on-request", "on-response", "on-complete"]] {
            let config = json!(hooks.iter().map(|hook| (*hook, look.clone())).collect::<BTreeMap<_, _>>());
            let route = route(&origin.url(), &["a"]) + &format!("host = \"{policy}\"\n");
            let gateway = gateway(&(route + &filter("a", "probe", "grants = { read_headers = [\"*\"] }", config)));
            let response = gateway.request("GET", "/", &[("host", "shop.test"), ("x-plain", "1")], b"");
            let seen = origin.last();
            assert_eq!(seen.header("host"), Some(sent), "{policy}");
            let last = hooks.contains(&"on-complete").then(|| {
                ["x-seen", "x-all"].map(|name| {
                    let said = |line: &serde_json::Value| {
                        Some(line["message"].as_str()?.strip_prefix(name)?.strip_prefix(": ")?.to_owned())
                    };
                    said(&gateway.wait_log(name, |line| said(line).is_some())).expect("it was waited for")
                })
            });
            for (one, all) in
                [(seen.header("x-seen"), seen.header("x-all")), (response.header("x-seen"), response.header("x-all"))]
                    .into_iter()
                    .chain(last.as_ref().map(|[one, all]| (Some(one.as_str()), Some(all.as_str()))))
            {
                let names: Vec<_> = all.expect("the names").split(' ').collect();
                assert_eq!(one, Some("none"), "{policy}, {hooks:?}");
                assert!(names.contains(&"x-plain") && !names.contains(&"host"), "{policy}, {hooks:?}: {names:?}");
            }
        }
    }
}

#[test]
fn credentials_cannot_be_set_unless_granted() {
    let origin = Origin::named("o");
    let config = || json!({"on-request": [{"do": "try-set-header", "name": "authorization", "value": "Basic x", "to": "x-result"}]});
    let refused = gateway(&(route(&origin.url(), &["a"]) + &probe("a", config())));
    refused.get("/");
    assert!(
        origin.last().header("x-result").is_some_and(|v| v.starts_with("not-granted") && v.contains("write_headers"))
    );
    assert_eq!(origin.last().header("authorization"), None);
    let lines = "grants = { write_headers = [\"authorization\"] }";
    let granted = gateway(&(route(&origin.url(), &["a"]) + &filter("a", "probe", lines, config())));
    granted.get("/");
    assert_eq!(
        (origin.last().header("x-result"), origin.last().header("authorization")),
        (Some("done"), Some("Basic x"))
    );
}

#[test]
fn bodies_can_be_withheld() {
    let origin = Origin::named("o");
    let config = json!({"on-request-body": [{"do": "set-header", "name": "x-seen", "value": "yes"}], "ask": true,
        "on-request": [{"do": "set-header", "name": "x-head", "value": "yes"}]});
    let toml = with_base(&(route(&origin.url(), &["a"]) + &filter("a", "probe", "grants = { body = false }", config)));
    let gateway = setup().start(&toml);
    gateway.request("POST", "/", &[], b"private");
    assert_eq!((origin.last().header("x-head"), origin.last().header("x-seen")), (Some("yes"), None));
}

#[test]
fn secrets_by_name() {
    let origin = Origin::named("o");
    let config = json!({"on-request": [
        {"do": "secret", "name": "token", "to": "x-secret"},
        {"do": "secret", "name": "other", "to": "x-other"},
    ]});
    let lines = "grants = { secrets = { token = \"${env:SLUICE_TEST_TOKEN}\" } }";
    let toml = with_base(&(route(&origin.url(), &["a"]) + &filter("a", "probe", lines, config)));
    let gateway = setup().env("SLUICE_TEST_TOKEN", "s3cret").start(&toml);
    assert_eq!(gateway.get("/").status, 200);
    assert_eq!(origin.last().header("x-secret"), Some("s3cret"));
    assert!(origin.last().header("x-other").is_some_and(|v| v.starts_with("not-granted")));
    let log: String = gateway.log().iter().chain(&gateway.access()).map(ToString::to_string).collect();
    assert!(!log.contains("s3cret"), "a secret in the log: {log}");
}

#[test]
fn spaces_of_the_key_value_store_and_their_quota() {
    let origin = Origin::named("o");
    let config = json!({"on-request": [
        {"do": "kv-set", "space": "mine", "name": "k", "value": "v", "to": "x-set"},
        {"do": "kv-get", "space": "mine", "name": "k", "to": "x-got"},
        {"do": "kv-get", "space": "theirs", "name": "k", "to": "x-theirs"},
        {"do": "kv-set", "space": "mine", "name": "big", "value": "x".repeat(5000), "to": "x-big"},
    ]});
    let lines = "grants = { kv = [\"mine\"], kv_quota = \"4KiB\" }";
    let gateway = gateway(&(route(&origin.url(), &["a"]) + &filter("a", "probe", lines, config)));
    assert_eq!(gateway.get("/").status, 200);
    let seen = origin.last();
    assert_eq!((seen.header("x-set"), seen.header("x-got")), (Some("()"), Some("v")));
    assert!(seen.header("x-theirs").is_some_and(|v| v.starts_with("not-granted")), "{seen:?}");
    assert!(seen.header("x-big").is_some_and(|v| v.starts_with("too-large")), "{seen:?}");
}

#[test]
fn what_needs_no_grant_works() {
    let origin = Origin::named("o");
    let config = json!({"on-request": [
        {"do": "random", "to": "x-random"},
        {"do": "hash", "value": "a", "to": "x-hash"},
        {"do": "count", "name": "things", "to": "x-count"},
        {"do": "route", "to": "x-route"},
        {"do": "client-address", "to": "x-client"},
    ]});
    let gateway = gateway(&(route(&origin.url(), &["a"]) + &probe("a", config)));
    assert_eq!(gateway.get("/").status, 200);
    let seen = origin.last();
    assert_eq!(
        (seen.header("x-random"), seen.header("x-hash"), seen.header("x-route")),
        (Some("4"), Some("32"), Some("all"))
    );
    assert_eq!(seen.header("x-client"), Some("127.0.0.1"));
    assert_eq!(gateway.metric("sluice_filter_things", &[("filter", "a")]), Some(1.0));
}

#[test]
fn a_plugin_narrowed_on_the_filter() {
    let origin = Origin::named("o");
    let config = || json!({"on-request": [{"do": "request-header", "name": "authorization", "to": "x-seen"}]});
    let toml = format!(
        "[plugins.probe]\ngrants = {{ read_headers = [\"authorization\"] }}\n{}{}{}",
        route(&origin.url(), &["wide", "narrow"]),
        probe("wide", config()),
        filter(
            "narrow",
            "probe",
            "grants = { read_headers = [] }",
            json!({"on-request": [{"do": "request-header", "name": "authorization", "to": "x-narrow"}]})
        )
    );
    let gateway = gateway(&toml);
    gateway.request("GET", "/", &[("authorization", "Basic x")], b"");
    assert_eq!((origin.last().header("x-seen"), origin.last().header("x-narrow")), (Some("Basic x"), Some("none")));
}
