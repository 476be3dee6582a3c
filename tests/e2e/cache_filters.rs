//! What filters see of the cache and tell it: its status, parts of the key, tags and freshness.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use sluice_harness::{Client, Gateway, Origin, Reply, eventually};

use crate::cache::{counting, get, route, status};
use crate::support::{gateway, probe};

/// A gateway with a cache and a filter with this config.
fn filtering(origin: &Origin, cache: &str, config: Value) -> Gateway {
    gateway(&(route(origin, cache) + "pipeline = [\"tells\"]\n" + &probe("tells", config)))
}

fn functions(calls: Value) -> Value {
    json!({"do": "functions", "calls": calls, "to": "x-said"})
}

fn purge(gateway: &Gateway, tag: &str) {
    let mut admin = Client::connect(gateway.address_of("admin"));
    let body = json!({ "tag": tag }).to_string();
    let authorization = [("authorization", "Bearer a-token-of-some-length")];
    assert_eq!(admin.request("POST", "/api/v1/cache/purge", &authorization, body.as_bytes()).status, 200);
}

const ADMIN: &str = "bind = \"127.0.0.1:0\"\n[admin]\nbind = \"127.0.0.1:0\"\n";

/// The same with a token for the admin API.
fn with_token(origin: &Origin, cache: &str, config: Value) -> Gateway {
    let rest = route(origin, cache) + "pipeline = [\"tells\"]\n" + &probe("tells", config);
    let toml = crate::support::with_base(&rest).replace(ADMIN, &format!("{ADMIN}token = \"a-token-of-some-length\"\n"));
    crate::support::setup().start(&toml)
}

#[test]
fn response_hooks_see_what_the_cache_has_done() {
    let origin = counting("max-age=60");
    let asks = functions(json!([["response.cache-status"]]));
    let gateway = filtering(&origin, "", json!({"on-request": [asks], "on-response": [asks]}));
    let said = |response: &sluice_harness::Response| response.header("x-said").unwrap_or_default().to_owned();
    for (method, headers, word) in [
        ("GET", &[][..], "miss"),
        ("GET", &[], "hit"),
        ("GET", &[("cache-control", "only-if-cached")], "hit"),
        ("PURGE", &[], "purge"),
        ("POST", &[], "bypass"),
    ] {
        let response = gateway.request(method, "/", headers, b"");
        assert!(said(&response).contains(&format!("Some(\"{word}\")")), "{method} {word}: {}", said(&response));
    }
    let missing = get(&gateway, "/none", &[("cache-control", "only-if-cached")]);
    assert!(missing.status == 504 && said(&missing).contains("not-stored"), "{}", said(&missing));
    // Without a cache, and in a request hook, there is nothing to say.
    let plain = crate::support::route(&origin.url(), &["tells"]);
    let asks = functions(json!([["response.cache-status"]]));
    let gateway = crate::support::gateway(&(plain + &probe("tells", json!({"on-response": [asks]}))));
    assert!(said(&gateway.get("/")).contains("ok None"), "{}", said(&gateway.get("/")));
}

#[test]
fn a_filter_adds_parts_to_the_key() {
    let origin = counting("max-age=60");
    let part = |header: &str, value: &str| json!({"do": "functions", "if-header": header, "calls": [["cache.set-key-part", "plan", value]], "to": "x-said"});
    let gateway = filtering(&origin, "", json!({"on-request": [part("x-gold", "gold"), part("x-free", "free")]}));
    let ask = |header: &str| get(&gateway, "/", &[(header, "1")]).text();
    assert_eq!([ask("x-gold"), ask("x-free"), ask("x-none")], ["1", "2", "3"]);
    assert_eq!([ask("x-gold"), ask("x-free"), ask("x-none")], ["1", "2", "3"]);
    // The lookup can be told of it.
    let of = |more: &str| {
        let target = format!("/api/v1/cache/lookup?url=http://{}/{more}", gateway.address());
        let body = gateway.admin(&target).text();
        serde_json::from_str::<Value>(&body).unwrap()["upstreams"][0]["variants"][0]["content"].clone()
    };
    assert_eq!((of(""), of("&key-part=plan%3Dgold"), of("&key-part=plan%3Dnone")), (1.into(), 1.into(), Value::Null));
}

#[test]
fn request_and_response_hooks_add_tags() {
    for hook in ["on-request", "on-response"] {
        let origin = counting("max-age=60");
        let gateway = with_token(&origin, "", json!({hook: [functions(json!([["cache.add-tag", "red"]]))]}));
        assert_eq!(gateway.get("/").text(), "1");
        eventually("it is stored", || status(&gateway.get("/")).starts_with("sluice;hit"));
        purge(&gateway, "blue");
        assert!(status(&gateway.get("/")).starts_with("sluice;hit"), "{hook}");
        purge(&gateway, "red");
        assert!(status(&gateway.get("/")).starts_with("sluice;fwd=uri-miss"), "{hook}");
    }
}

#[test]
fn a_response_hook_says_how_long_a_response_is_fresh() {
    // The upstream says nothing, or that it is stale at once.
    for cache_control in ["", "max-age=0"] {
        let origin = counting(cache_control);
        let hour = functions(json!([["cache.set-freshness", 3_600_000, false, 60_000]]));
        let gateway = filtering(&origin, "", json!({"on-response": [hour]}));
        gateway.get("/");
        eventually("it is stored", || status(&gateway.get("/")).starts_with("sluice;hit"));
        let ttl: u64 = status(&gateway.get("/")).rsplit_once("ttl=").unwrap().1.parse().unwrap();
        assert!(ttl > 3_500, "{ttl}");
    }
    // It does not make public what is private.
    for head in [("cache-control", "private"), ("cache-control", "no-store"), ("set-cookie", "a=b")] {
        let origin = Origin::serve(move |_| Reply::text("x").with(head.0, head.1));
        let hour = functions(json!([["cache.set-freshness", 3_600_000, false, false]]));
        let gateway = filtering(&origin, "", json!({"on-response": [hour]}));
        for _ in 0..3 {
            assert!(status(&gateway.get("/")).starts_with("sluice;fwd=uri-miss"), "{head:?}");
        }
    }
    let origin = counting("");
    let hour = functions(json!([["cache.set-freshness", 3_600_000, false, false]]));
    let gateway = filtering(&origin, "", json!({"on-response": [hour]}));
    for number in ["1", "2"] {
        assert_eq!(get(&gateway, "/", &[("authorization", "Bearer ada")]).text(), number);
    }
}

#[test]
fn a_filter_keeps_a_response_out_of_the_store() {
    for hook in ["on-request", "on-response", "on-response-body"] {
        let origin = counting("max-age=60");
        let gateway = filtering(&origin, "", json!({hook: [functions(json!([["cache.no-store"]]))]}));
        for number in ["1", "2", "3"] {
            assert_eq!(gateway.get("/").text(), number, "{hook}");
        }
    }
}

#[test]
fn what_a_hook_says_of_a_body_counts() {
    // The hook waits for the whole of what the fetch waits to store.
    let origin = counting("");
    let hour = functions(json!([["cache.set-freshness", 3_600_000, false, false]]));
    let gateway = filtering(&origin, "", json!({"on-response-body": [hour]}));
    assert_eq!(gateway.get("/").text(), "1");
    eventually("it is stored", || status(&gateway.get("/")).starts_with("sluice;hit"));
}

#[test]
fn a_validation_keeps_what_filters_have_said() {
    let origin = Origin::serve(|request| {
        let reply = match request.header("if-none-match") {
            Some(_) => Reply::status(304),
            None => Reply::text("x"),
        };
        reply.with("etag", "\"one\"").with("cache-control", "max-age=60")
    });
    let gateway = with_token(&origin, "", json!({"on-response": [functions(json!([["cache.add-tag", "red"]]))]}));
    gateway.get("/");
    eventually("it is stored", || status(&gateway.get("/")).starts_with("sluice;hit"));
    let soft = json!({ "everything": true, "soft": true }).to_string();
    let authorization = [("authorization", "Bearer a-token-of-some-length")];
    Client::connect(gateway.address_of("admin")).request(
        "POST",
        "/api/v1/cache/purge",
        &authorization,
        soft.as_bytes(),
    );
    assert!(status(&gateway.get("/")).contains("fwd-status=304"));
    assert!(status(&gateway.get("/")).starts_with("sluice;hit"));
    purge(&gateway, "red");
    assert!(status(&gateway.get("/")).starts_with("sluice;fwd=uri-miss"));
}

#[test]
fn what_comes_in_the_background_is_not_stored_without_what_filters_say() {
    let windows = "max-age=0, stale-while-revalidate=600";
    let count = AtomicUsize::new(0);
    // Each response is another one, with a validator.
    let origin = Origin::serve(move |_| {
        let number = (count.fetch_add(1, Ordering::Relaxed) + 1).to_string();
        Reply::text(number.clone()).with("cache-control", windows).with("etag", &format!("\"{number}\""))
    });
    let gateway = filtering(&origin, "", json!({"on-response": [functions(json!([["cache.add-tag", "red"]]))]}));
    assert_eq!(gateway.get("/").text(), "1");
    let stale = || status(&gateway.get("/")).contains("stale-while-revalidate");
    eventually("it is stored", stale);
    eventually("it makes way for a response that the hooks see", || {
        status(&gateway.get("/")).starts_with("sluice;fwd=uri-miss")
    });
    // Without a validator, nothing is asked in the background.
    let origin = counting(windows);
    let gateway = filtering(&origin, "", json!({"on-response": [functions(json!([["cache.no-store"]]))]}));
    for number in ["1", "2", "3"] {
        assert_eq!(gateway.get("/").text(), number);
    }
    let origin = counting(windows);
    let gateway = filtering(&origin, "", json!({"on-response": [functions(json!([["cache.add-tag", "red"]]))]}));
    assert_eq!(gateway.get("/").text(), "1");
    eventually("it is stored", || gateway.metric("sluice_cache_objects", &[]) == Some(1.0));
    let second = gateway.get("/");
    assert_eq!((&*second.text(), status(&second).starts_with("sluice;fwd=stale")), ("2", true), "{}", status(&second));
}

#[test]
fn a_hook_that_fails_has_nothing_stored() {
    let origin = counting("max-age=60");
    let trap = json!({"do": "trap", "if-header": "x-trap"});
    let gateway = filtering(&origin, "", json!({"on-response": [functions(json!([["cache.add-tag", "a"]])), trap]}));
    assert_eq!(get(&gateway, "/", &[("x-trap", "1")]).status, 500);
    assert!(status(&gateway.get("/")).starts_with("sluice;fwd=uri-miss"));
}
