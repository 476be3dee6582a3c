//! Taking responses away: tags, the method PURGE and who may use it, and the admin API's answer to "why is this a miss".

use serde_json::Value;
use sluice_harness::{Client, Gateway, Origin, Reply, Response};

use crate::cache::{counting, get, route, status};
use crate::support::{BASE, gateway, setup};

const TOKEN: &str = "a-token-of-some-length";

/// The hash of `the-key`.
const KEY: &str = "sha256:ad44dc8e51cfbfa55e81ddbb626b466241069045066846e7e4cd096131505290";

fn purge(gateway: &Gateway, target: &str, headers: &[(&str, &str)]) -> Response {
    gateway.request("PURGE", target, headers, b"")
}

fn lookup(gateway: &Gateway, query: &str) -> (u16, Value) {
    let target = format!("/api/v1/cache/lookup?{query}");
    let response = Client::connect(gateway.address_of("admin")).get(&target);
    (response.status, serde_json::from_slice(&response.body).expect("JSON"))
}

#[test]
fn tags_are_for_caches() {
    let origin = Origin::serve(|_| {
        Reply::text("x").with("cache-control", "max-age=60").with("surrogate-key", "a b").with("cache-tag", "c,d")
    });
    for (cache, expected) in [("", [None, None]), ("tag_fields = true", [Some("a b"), Some("c,d")])] {
        let gateway = gateway(&route(&origin, cache));
        for result in ["fwd=uri-miss", "hit"] {
            let response = gateway.get("/");
            assert!(status(&response).contains(result), "{}", status(&response));
            assert_eq!([response.header("surrogate-key"), response.header("cache-tag")], expected, "{cache} {result}");
        }
        // Nor on what passes by the cache.
        let passed = gateway.request("POST", "/", &[], b"");
        assert_eq!([passed.header("surrogate-key"), passed.header("cache-tag")], expected, "{cache}");
    }
}

#[test]
fn a_response_with_too_many_tags_is_not_stored() {
    let many = (0..300).map(|at| at.to_string()).collect::<Vec<_>>().join(" ");
    let origin =
        Origin::serve(move |_| Reply::text("x").with("cache-control", "max-age=60").with("surrogate-key", &many));
    let gateway = gateway(&route(&origin, ""));
    gateway.get("/");
    assert_eq!(status(&gateway.get("/")), "sluice;fwd=uri-miss");
}

#[test]
fn purge_without_right() {
    let origin = counting("max-age=60");
    let gateway = gateway(&route(&origin, ""));
    assert_eq!(gateway.get("/").text(), "1");
    for headers in [&[][..], &[("authorization", "Bearer x")], &[("x-http-method-override", "PURGE")]] {
        let refused = purge(&gateway, "/", headers);
        assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD")), "{headers:?}");
    }
    assert_eq!((&*gateway.get("/").text(), origin.count()), ("1", 1), "it is still there, and nothing was sent on");
    gateway.wait_access("the reason", |line| line["error"] == "method-not-allowed" && line["cache"] == "purge");
}

#[test]
fn what_the_route_asks_for_has_to_hold() {
    let filter = "[filters.key]\nplugin = \"api-key\"\ngrants = { consumers = true, read_headers = [\"x-api-key\"], \
                  write_headers = [\"x-api-key\"] }\nconfig = { places = [\"header:x-api-key\"] }\n";
    let callers = format!("[consumers.ada]\nkeys = [\"{KEY}\"]\n");
    let token = &[("authorization", "Bearer a-token-of-some-length")][..];
    let of_ada = &[("x-api-key", "the-key")][..];
    let (wrong, none) = (&[("authorization", "Bearer a-token-of-some-lengtH")][..], &[][..]);
    let with = |grant: &str, pipeline: &str, good: &[(&str, &str)], bad: &[(&str, &str)], refused: u16| {
        let origin = counting("max-age=60, public");
        let config = route(&origin, &format!("purge = {{ {grant} }}")) + pipeline + filter + &callers;
        let gateway = setup().start(&format!("{BASE}{config}"));
        assert_eq!(get(&gateway, "/", good).text(), "1");
        assert_eq!(purge(&gateway, "/", bad).status, refused, "{grant}");
        assert_eq!(get(&gateway, "/", good).text(), "1", "{grant}: nothing is taken away");
        let done = purge(&gateway, "/", good);
        assert_eq!((done.status, &*done.text(), origin.count()), (204, "", 1), "{grant}");
        assert_eq!(get(&gateway, "/", good).text(), "2", "{grant}");
        // Another URL is another matter.
        get(&gateway, "/other", good);
        purge(&gateway, "/", good);
        assert_eq!(get(&gateway, "/other", good).text(), "3", "{grant}");
    };
    with(&format!("token = \"{TOKEN}\""), "", token, wrong, 403);
    with("addresses = [\"127.0.0.0/8\"], token = \"a-token-of-some-length\"", "", token, none, 403);
    with("consumers = [\"ada\"]", "pipeline = [\"key\"]\n", of_ada, none, 401);
    let origin = counting("max-age=60");
    for grant in ["addresses = [\"10.0.0.0/8\"]", "consumers = [\"ada\"]"] {
        let gateway = gateway(&route(&origin, &format!("purge = {{ {grant}, token = \"{TOKEN}\" }}")));
        assert_eq!(purge(&gateway, "/", token).status, 403, "{grant}");
        gateway.wait_access("the reason", |line| line["error"] == "purge-forbidden");
    }
}

#[test]
fn a_soft_purge_leaves_something_to_validate() {
    let origin = Origin::serve(|request| match request.header("if-none-match") {
        Some("\"one\"") => Reply::status(304).with("etag", "\"one\""),
        _ => Reply::text("x").with("etag", "\"one\"").with("cache-control", "max-age=60"),
    });
    let gateway = gateway(&route(&origin, "purge = { addresses = [\"127.0.0.1\"] }"));
    gateway.get("/");
    assert_eq!(purge(&gateway, "/", &[("fastly-soft-purge", "1")]).status, 204);
    assert!(status(&gateway.get("/")).starts_with("sluice;fwd=stale;fwd-status=304"));
    assert!(status(&gateway.get("/")).starts_with("sluice;hit"));
}

#[test]
fn the_admin_api_says_why_something_is_a_miss() {
    let origin = Origin::serve(|request| match request.target.as_str() {
        "/private" => Reply::text("x").with("cache-control", "private"),
        "/large" => Reply::text("x".repeat(2000)).with("cache-control", "max-age=60"),
        _ => Reply::text("hello")
            .with("cache-control", "max-age=60, stale-if-error=30")
            .with("vary", "x-who")
            .with("surrogate-key", "red blue"),
    });
    let gateway = gateway(&route(&origin, "max_object = \"1KiB\", query = []"));
    let at = |path: &str, more: &str| lookup(&gateway, &format!("url=http://{}{path}{more}", gateway.address()));
    let of = |path: &str, more: &str| {
        let (status, body) = at(path, more);
        assert_eq!((status, &body["route"], &body["bypass"]), (200, &"shop".into(), &Value::Null), "{body}");
        let upstream = body["upstreams"][0].clone();
        assert_eq!(upstream["upstream"], "shop");
        upstream
    };
    let nothing = of("/a", "");
    assert_eq!((&nothing["decision"], &nothing["reason"]), (&"fetch".into(), &"missing".into()));
    get(&gateway, "/a?x=1", &[("x-who", "ada")]);
    let other = of("/a", "");
    assert_eq!((&other["decision"], &other["reason"]), (&"fetch".into(), &"vary".into()));
    let hers = of("/a?y=2", "&header=x-who%3A+ada");
    assert_eq!((&hers["decision"], &hers["reason"]), (&"serve".into(), &"fresh".into()));
    assert_eq!(hers["key"], other["key"]);
    let variant = &hers["variants"][0];
    assert_eq!(variant["tags"], serde_json::json!(["red", "blue"]));
    assert_eq!((&variant["vary"], &variant["content"]), (&serde_json::json!(["x-who"]), &5.into()));
    assert_eq!((&variant["lifetime_seconds"], &variant["lifetime_from"]), (&60.into(), &"response".into()));
    assert_eq!((&variant["stale_if_error_seconds"], &variant["purged"]), (&30.into(), &"no".into()));
    gateway.get("/private");
    assert_eq!(of("/private", "")["not_stored"]["reason"], "the response is private");
    gateway.get("/large");
    let large = of("/large", "")["not_stored"]["reason"].as_str().unwrap_or_default().to_owned();
    assert!(large.contains("`max_object`"), "{large}");
    // It has changed nothing.
    assert!(status(&get(&gateway, "/a", &[("x-who", "ada")])).starts_with("sluice;hit"));

    assert_eq!(at("/a", "&method=POST").1["bypass"], "the method is neither GET nor HEAD");
    for (query, expected) in [
        ("", "expected the parameter `url`"),
        ("url=shop", "`url`: `shop` is not a URL"),
        ("url=http://a/&header=x", "`header`: `x` is not a field"),
        ("url=http://a/&method=%20", "`method`: ` ` is not a method"),
        ("url=http://a/&host=b", "unknown parameter `host`"),
    ] {
        let (status, body) = lookup(&gateway, query);
        let detail = body["detail"].as_str().unwrap_or_default();
        assert!(status == 422 && detail.starts_with(expected), "{query}: {status} {detail}");
    }
    assert_eq!(lookup(&gateway, "url=http://a/&listener=none").0, 404);
}

#[test]
fn a_cache_that_cannot_work_is_warned_of() {
    let filter = "[filters.chooser]\nplugin = \"probe\"\nconfig = { select-upstream = [{ do = \"hash-key\", name = \"x-a\" }] }\n";
    let route = |matches: &str, cache: &str, more: &str| {
        format!(
            "[upstreams.shop]\nendpoints = [\"http://127.0.0.1:9\"]\n[routes.shop]\nmatch = {{ path = \"/**\"{matches} }}\n\
             upstream = \"shop\"\ncache = {{ {cache} }}\n{more}"
        )
    };
    let key = "[filters.key]\nplugin = \"api-key\"\ngrants = { consumers = true, read_headers = [\"x-api-key\"], \
               write_headers = [\"x-api-key\"] }\nconfig = { places = [\"header:x-api-key\"] }\n";
    let with_key = format!("pipeline = [\"key\"]\n{key}[consumers.ada]\nkeys = [\"{KEY}\"]\n");
    let chooses = format!("pipeline = [\"chooser\"]\n{filter}");
    let checked = |config: &str| setup().command_output(&format!("{BASE}{config}"), &["check"]).stdout;
    let table = [
        (route(", methods = [\"POST\"]", "", ""), "does not match the method GET"),
        (route(", methods = [\"GET\"]", "purge = { addresses = [\"::1\"] }", ""), "does not match the method PURGE"),
        (route("", "max_object = \"1GiB\"", ""), "an eighth of `cache.memory` at most"),
        (route("", "ttl = \"1m\", ttl_with_credentials = true", &with_key), "mixes callers: the filter `key`"),
        (route("", "", &chooses), "the filter `chooser` chooses the upstream"),
    ];
    for (config, expected) in table {
        let printed = checked(&config);
        assert!(
            printed.contains("the cache of the route `shop`") && printed.contains(expected),
            "{expected}: {printed}"
        );
    }
    let fine = checked(&route("", "ttl = \"1m\", consumer = true", &with_key));
    assert!(!fine.contains("the cache of the route"), "{fine}");
}
