//! What must not happen with a cache in front of an upstream: one client gets what is another's, or takes away what is not its own.

use std::sync::atomic::{AtomicUsize, Ordering};

use sluice_harness::{Client, Gateway, Origin, Reply, Response};

use crate::cache::{counting, get, route, status};
use crate::support::{BASE, gateway};

const TOKEN: &str = "a-token-of-some-length";

fn purge(gateway: &Gateway, token: Option<&str>, body: &str) -> Response {
    let authorization = token.map(|token| format!("Bearer {token}"));
    let mut headers = vec![("content-type", "application/json")];
    headers.extend(authorization.as_deref().map(|value| ("authorization", value)));
    Client::connect(gateway.address_of("admin")).request("POST", "/api/v1/cache/purge", &headers, body.as_bytes())
}

#[test]
fn poisoning_by_a_field_that_is_not_in_the_key() {
    let origin = Origin::serve(|request| {
        let reply = Reply::text(request.header("x-other").unwrap_or("none")).with("cache-control", "max-age=60");
        if request.target == "/vary" { reply.with("vary", "x-other") } else { reply }
    });
    let evil = [("x-other", "evil")];
    // The upstream says that its response depends on it; without that, the field has to be named in `headers`.
    for (target, cache, second) in [("/vary", "", "none"), ("/", "headers = [\"x-other\"]", "none"), ("/", "", "evil")]
    {
        let gateway = gateway(&route(&origin, cache));
        assert_eq!(get(&gateway, target, &evil).text(), "evil", "it reaches the upstream");
        assert_eq!(gateway.get(target).text(), second, "{target} {cache}");
    }
}

#[test]
fn poisoning_by_what_a_trusted_proxy_passes_on() {
    let host = |request: &sluice_harness::origin::Request| {
        let fields = ["x-forwarded-host", "x-forwarded-prefix", "forwarded"];
        fields.map(|name| request.header(name).unwrap_or("-").to_owned()).join(" ")
    };
    let origin = Origin::serve(move |request| Reply::text(host(request)).with("cache-control", "max-age=60"));
    let listener = "[listeners.http]\n";
    let trusting = BASE.replace(listener, &format!("{listener}trusted_proxies = [\"127.0.0.1\"]\n"));
    let evil: [&[(&str, &str)]; 3] = [
        &[("x-forwarded-host", "evil.example")],
        &[("x-forwarded-prefix", "/evil")],
        &[("x-forwarded-for", "192.0.2.1"), ("forwarded", "for=192.0.2.1;host=evil.example")],
    ];
    for fields in evil {
        let gateway = Gateway::start(&format!("{trusting}{}", route(&origin, "")));
        assert!(get(&gateway, "/", fields).text().contains("evil"), "{fields:?} reaches the upstream");
        assert!(!gateway.get("/").text().contains("evil"), "{fields:?}");
        // It is stored for those who say the same.
        assert!(status(&get(&gateway, "/", fields)).starts_with("sluice;hit"), "{fields:?}");
        // From a stranger they are taken out, so they change nothing.
        let gateway = self::gateway(&route(&origin, ""));
        assert!(!get(&gateway, "/", fields).text().contains("evil"), "{fields:?}");
        assert!(status(&gateway.get("/")).starts_with("sluice;hit"), "{fields:?}");
    }
}

#[test]
fn a_fat_get_is_not_stored() {
    let origin = Origin::serve(|request| Reply::text(request.text()).with("cache-control", "max-age=60"));
    let gateway = gateway(&route(&origin, ""));
    let fat = gateway.request("GET", "/", &[], b"evil");
    assert_eq!((&*fat.text(), status(&fat)), ("evil", "sluice;fwd=bypass"));
    assert_eq!(gateway.get("/").text(), "");
}

#[test]
fn a_parameter_cannot_be_cloaked() {
    let origin = counting("max-age=60");
    let gateway = gateway(&route(&origin, "ignore_query = [\"utm\"]"));
    gateway.get("/?a=1&utm=x;a=evil");
    assert_eq!(gateway.get("/?a=1").text(), "2");
}

#[test]
fn path_normalisation() {
    let origin = Origin::serve(|request| Reply::text(request.target.clone()).with("cache-control", "max-age=60"));
    let gateway = gateway(&route(&origin, ""));
    assert_eq!(gateway.get("/a/../b").text(), "/b");
    assert!(status(&gateway.get("/b")).starts_with("sluice;hit"));
    assert_eq!(gateway.get("/b/").text(), "/b/");
    assert_eq!(gateway.get("/B").text(), "/B");
    assert_eq!(get(&gateway, "/b", &[("host", "other.example")]).header("age"), None, "another host is another key");
}

#[test]
fn deception_by_what_a_path_looks_like() {
    // The path ends as that of a static file does.
    let origin = Origin::serve(|request| Reply::text(request.header("cookie").unwrap_or("nobody").to_owned()));
    let gateway = gateway(&route(&origin, "ttl = \"1m\""));
    get(&gateway, "/account/x.css", &[("cookie", "ada")]);
    assert_eq!(gateway.get("/account/x.css").text(), "nobody");
    let authorised = counting("max-age=60");
    let gateway = self::gateway(&route(&authorised, ""));
    get(&gateway, "/", &[("authorization", "Bearer ada")]);
    assert_eq!(gateway.get("/").text(), "2");
}

#[test]
fn vary_explosion() {
    let varies = Origin::serve(|_| Reply::text("x").with("cache-control", "max-age=60").with("vary", "x-any"));
    let gateway = gateway(&route(&varies, ""));
    let mut client = gateway.client();
    for number in 0..200 {
        client.request("GET", "/", &[("x-any", &number.to_string())], b"");
    }
    assert_eq!(gateway.metric("sluice_cache_objects", &[]), Some(1.0));
    assert!(gateway.metric("sluice_cache_bytes", &[]).is_some_and(|bytes| bytes < 64.0 * 1024.0));
}

#[test]
fn range_flood() {
    let origin = Origin::serve(|_| Reply::text("x".repeat(10_000)).with("cache-control", "max-age=60"));
    let gateway = gateway(&route(&origin, ""));
    gateway.get("/");
    // They don't touch each other, so that they stay as many.
    let ranges: Vec<String> = (0..500).map(|at| format!("{0}-{0}", at * 3)).collect();
    let flood = get(&gateway, "/", &[("range", &format!("bytes={}", ranges.join(",")))]);
    assert_eq!((flood.status, flood.body.len()), (200, 10_000), "the whole");
    assert!(status(&flood).starts_with("sluice;hit"));
}

#[test]
fn a_purge_without_right_does_nothing() {
    let origin = counting("max-age=60");
    let base = BASE.replace("[admin]\n", &format!("[admin]\ntoken = \"{TOKEN}\"\n"));
    let gateway = Gateway::start(&(base + &route(&origin, "")));
    gateway.get("/");
    for (token, body, status) in [
        (None, r#"{"everything": true}"#, 401),
        (Some("another-token-of-length"), r#"{"everything": true}"#, 401),
        (Some(TOKEN), "{}", 422),
        (Some(TOKEN), r#"{"host": "a", "tag": "b"}"#, 422),
        (Some(TOKEN), r#"{"url": "not a url"}"#, 422),
        (Some(TOKEN), "not json", 400),
    ] {
        assert_eq!(purge(&gateway, token, body).status, status, "{body}");
    }
    let by_client = gateway.request("PURGE", "/", &[], b"");
    assert_eq!(by_client.status, 405, "the route grants it to nobody");
    assert_eq!((&*gateway.get("/").text(), origin.count()), ("1", 1));
}

#[test]
fn a_session_that_the_gateway_begins_is_not_stored() {
    let origin = Origin::serve(|request| {
        let reply = Reply::text("x").with("cache-control", "max-age=60");
        if request.target == "/own" { reply.with("set-cookie", "a=b") } else { reply }
    });
    let config = route(&origin, "set_cookie = \"store\"");
    let stored = gateway(&config);
    for _ in 0..2 {
        assert_eq!(stored.get("/own").header("set-cookie"), Some("a=b"), "each hit sets it");
    }
    assert_eq!(origin.count(), 1);
    let sticky = gateway(&config.replacen("[routes.shop]", "sticky = { cookie = \"session\" }\n[routes.shop]", 1));
    for count in [2, 3] {
        assert!(sticky.get("/").header("set-cookie").is_some_and(|cookie| cookie.starts_with("session=")));
        assert_eq!(origin.count(), count);
    }
}

#[test]
fn a_change_that_names_another_host_takes_nothing_of_it_away() {
    let count = AtomicUsize::new(0);
    let origin = Origin::serve(move |request| {
        let number = count.fetch_add(1, Ordering::Relaxed) + 1;
        let reply = Reply::text(number.to_string());
        match &*request.method {
            "GET" => reply.with("cache-control", "max-age=60"),
            _ => reply.with("location", "/b").with("content-location", "http://other.example/a"),
        }
    });
    let gateway = gateway(&route(&origin, ""));
    let text = |host: &str, target: &str| get(&gateway, target, &[("host", host)]).text();
    let all = || [text("shop.example", "/a"), text("shop.example", "/b"), text("other.example", "/a")];
    assert_eq!(all(), ["1", "2", "3"]);
    gateway.request("POST", "/change", &[("host", "shop.example")], b"x");
    assert_eq!(all(), ["1", "5", "3"]);
}

#[test]
fn what_is_purged_is_gone_or_stale() {
    let count = AtomicUsize::new(0);
    let origin = Origin::serve(move |request| {
        let number = count.fetch_add(1, Ordering::Relaxed) + 1;
        if request.header("if-none-match").is_some() {
            return Reply::status(304).with("cache-control", "max-age=60").with("etag", "\"x\"");
        }
        let reply = Reply::text(number.to_string()).with("cache-control", "max-age=60").with("etag", "\"x\"");
        reply.with("surrogate-key", &format!("all of{}", request.target.replace('/', "-")))
    });
    let base = BASE.replace("[admin]\n", &format!("[admin]\ntoken = \"{TOKEN}\"\n"));
    let gateway = Gateway::start(&(base + &route(&origin, "")));
    let host = [("host", "shop.example")];
    let text = |target: &str| get(&gateway, target, &host).text();
    let all = || [text("/a"), text("/a/b"), text("/ab?c")];
    assert_eq!(all(), ["1", "2", "3"]);
    assert_eq!(purge(&gateway, Some(TOKEN), r#"{"url": "http://shop.example/x/../ab?c"}"#).status, 200);
    assert_eq!(all(), ["1", "2", "4"]);
    let purged = purge(&gateway, Some(TOKEN), r#"{"prefix": "https://SHOP.example/a"}"#);
    assert_eq!(purged.json()["purged"], "prefix shop.example/a");
    assert_eq!(all(), ["5", "6", "4"]);
    purge(&gateway, Some(TOKEN), r#"{"tag": "of-a-b"}"#);
    assert_eq!(all(), ["5", "7", "4"]);
    purge(&gateway, Some(TOKEN), r#"{"host": "shop.example", "soft": true}"#);
    assert_eq!(all(), ["5", "7", "4"], "they were validated");
    assert_eq!(origin.count(), 10);
    purge(&gateway, Some(TOKEN), r#"{"everything": true}"#);
    assert_eq!(all(), ["11", "12", "13"]);
}

#[test]
fn a_canary_never_mixes_with_the_rest() {
    let (blue, green) = (Origin::named("blue"), Origin::named("green"));
    let config = format!(
        "[upstreams.blue]\nendpoints = [\"{}\"]\n[upstreams.green]\nendpoints = [\"{}\"]\n[routes.shop]\n\
         match = {{ path = \"/**\" }}\nupstreams = {{ blue = 1, green = 1 }}\nsticky = {{ by = \"header:x-user\" }}\n\
         [routes.shop.cache]\nttl = \"1m\"\n",
        blue.url(),
        green.url()
    );
    let gateway = gateway(&config);
    let side = |user: usize| get(&gateway, "/", &[("x-user", &user.to_string())]).text();
    let sides: Vec<String> = (0..40).map(side).collect();
    assert!(sides.iter().any(|side| side == "blue") && sides.iter().any(|side| side == "green"));
    assert_eq!((0..40).map(side).collect::<Vec<_>>(), sides);
    assert_eq!((blue.count(), green.count()), (1, 1));
}
