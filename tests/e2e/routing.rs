//! Which route answers, and with what.

use sluice_harness::{Gateway, Origin};

use crate::support::{gateway, setup, statuses, with_base};

/// Routes that answer by themselves: `NAME`, its other keys, and its name as the body.
fn answering(routes: &[(&str, &str)]) -> Gateway {
    let toml: String = routes
        .iter()
        .map(|(name, keys)| format!("[routes.{name}]\n{keys}\nrespond = {{ status = 200, body = \"{name}\" }}\n"))
        .collect();
    gateway(&toml)
}

#[track_caller]
fn asked(gateway: &Gateway, host: &str, target: &str) -> String {
    let response = gateway.request("GET", target, &[("host", host)], b"");
    if response.status == 200 { response.text() } else { response.status.to_string() }
}

#[test]
fn hosts() {
    let gateway = answering(&[
        ("exact", r#"match = { host = "a.example.test", path = "/**" }"#),
        ("wildcard", r#"match = { host = "*.example.test", path = "/**" }"#),
        ("several", r#"match = { host = ["b.test", "c.test"], path = "/**" }"#),
    ]);
    assert_eq!(asked(&gateway, "a.example.test", "/"), "exact");
    assert_eq!(asked(&gateway, "A.EXAMPLE.test:8080", "/"), "exact", "neither case nor port matter");
    assert_eq!(asked(&gateway, "b.example.test", "/"), "wildcard");
    assert_eq!(asked(&gateway, "x.y.example.test", "/"), "wildcard");
    assert_eq!(asked(&gateway, "example.test", "/"), "404", "a wildcard is for at least one label more");
    assert_eq!(asked(&gateway, "c.test", "/"), "several");
    assert_eq!(asked(&gateway, "d.test", "/"), "404");
}

#[test]
fn paths() {
    let gateway = answering(&[
        ("exact", r#"match = { path = "/users" }"#),
        ("param", r#"match = { path = "/users/{id}" }"#),
        ("star", r#"match = { path = "/files/*/raw" }"#),
        ("deep", r#"match = { path = "/files/**" }"#),
        ("regex", r#"match = { path_regex = "/v[0-9]+/items" }"#),
    ]);
    assert_eq!(asked(&gateway, "x", "/users"), "exact");
    assert_eq!(asked(&gateway, "x", "/users?page=2"), "exact");
    assert_eq!(asked(&gateway, "x", "/users/42"), "param");
    assert_eq!(asked(&gateway, "x", "/users/42/more"), "404");
    assert_eq!(asked(&gateway, "x", "/files/a/raw"), "star");
    assert_eq!(asked(&gateway, "x", "/files/a/b/raw"), "deep");
    assert_eq!(asked(&gateway, "x", "/files"), "deep", "`**` is also for none");
    assert_eq!(asked(&gateway, "x", "/filesystem"), "404", "a prefix ends at a segment");
    assert_eq!(asked(&gateway, "x", "/v12/items"), "regex");
    assert_eq!(asked(&gateway, "x", "/v12/items/3"), "404", "a regex is for the whole path");
}

#[test]
fn methods_headers_query_cookie_client_ip() {
    let gateway = answering(&[
        ("method", r#"match = { path = "/m", methods = ["POST", "PUT"] }"#),
        ("header", r#"match = { path = "/h", headers = { x-tier = "gold" } }"#),
        ("header_regex", r#"match = { path = "/h", headers = { x-tier = { regex = "silver-.*" } } }"#),
        ("present", r#"match = { path = "/p", headers = { x-any = { present = true } } }"#),
        ("query", r#"match = { path = "/q", query = { v = "2" } }"#),
        ("cookie", r#"match = { path = "/c", cookies = { beta = "yes" } }"#),
        ("inside", r#"match = { path = "/i", client_ip = ["127.0.0.0/8"] }"#),
        ("outside", r#"match = { path = "/o", client_ip = ["10.0.0.0/8"] }"#),
    ]);
    let ask = |method: &str, target: &str, headers: &[(&str, &str)]| {
        let response = gateway.request(method, target, headers, b"");
        if response.status == 200 { response.text() } else { response.status.to_string() }
    };
    assert_eq!(ask("POST", "/m", &[]), "method");
    assert_eq!(ask("GET", "/m", &[]), "405");
    assert_eq!(ask("GET", "/h", &[("x-tier", "gold")]), "header");
    assert_eq!(ask("GET", "/h", &[("x-tier", "silver-2")]), "header_regex");
    assert_eq!(ask("GET", "/h", &[("x-tier", "lead")]), "404");
    assert_eq!(ask("GET", "/p", &[("x-any", "")]), "present");
    assert_eq!(ask("GET", "/p", &[]), "404");
    assert_eq!(ask("GET", "/q?a=1&v=2", &[]), "query");
    assert_eq!(ask("GET", "/q?v=22", &[]), "404");
    assert_eq!(ask("GET", "/c", &[("cookie", "a=b; beta=yes")]), "cookie");
    assert_eq!(ask("GET", "/c", &[("cookie", "beta=no")]), "404");
    assert_eq!(ask("GET", "/i", &[]), "inside");
    assert_eq!(ask("GET", "/o", &[]), "404");
}

/// What a deny rule looks at is seen whatever its bytes.
#[test]
fn a_byte_that_is_not_utf_8_hides_nothing_from_a_route() {
    let gateway = answering(&[
        ("any", r#"match = { path = "/**" }"#),
        ("bots", r#"match = { path = "/**", headers = { user-agent = { regex = "(?i).*badbot.*" } } }"#),
        ("beta", r#"match = { path = "/**", cookies = { beta = "yes" } }"#),
    ]);
    let ask = |field: &[u8]| {
        let text = gateway.raw([b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n", field, b"\r\n\r\n"].concat());
        text.rsplit("\r\n\r\n").next().unwrap_or_default().to_owned()
    };
    assert_eq!(ask(b"user-agent: Mozilla/5.0 (caf\xe9) BadBot/2"), "bots");
    assert_eq!(ask(b"user-agent: Mozilla/5.0 (caf\xe9)"), "any");
    assert_eq!(ask(b"cookie: name=caf\xe9; beta=yes"), "beta");
}

#[test]
fn several_matches_of_a_route() {
    let gateway = answering(&[("both", r#"match = [{ path = "/a/{id}" }, { path = "/b", methods = ["PUT"] }]"#)]);
    assert_eq!(asked(&gateway, "x", "/a/1"), "both");
    assert_eq!(gateway.request("PUT", "/b", &[], b"").text(), "both");
    assert_eq!(asked(&gateway, "x", "/b"), "405");
}

#[test]
fn the_more_precise_route_wins_and_priority_beats_it() {
    let gateway = answering(&[
        ("all", r#"match = { path = "/**" }"#),
        ("short", r#"match = { path = "/a/**" }"#),
        ("long", r#"match = { path = "/a/b/**" }"#),
        ("exact", r#"match = { path = "/a/b/c" }"#),
        ("post", r#"match = { path = "/a/b/c", methods = ["POST"] }"#),
        ("first", "match = { path = \"/a/b/urgent/**\" }\npriority = 10"),
        ("exact_but_late", r#"match = { path = "/a/b/urgent/x" }"#),
        ("host", r#"match = { host = "h.test", path = "/**" }"#),
    ]);
    assert_eq!(asked(&gateway, "x", "/z"), "all");
    assert_eq!(asked(&gateway, "x", "/a/z"), "short");
    assert_eq!(asked(&gateway, "x", "/a/b/z"), "long");
    assert_eq!(asked(&gateway, "x", "/a/b/c"), "exact");
    assert_eq!(gateway.request("POST", "/a/b/c", &[], b"").text(), "post");
    assert_eq!(asked(&gateway, "x", "/a/b/urgent/x"), "first");
    assert_eq!(asked(&gateway, "h.test", "/a/b/c"), "host", "the host goes before the path");
}

#[test]
fn equal_routes_are_an_error() {
    let refused = Gateway::setup().refused(
        r#"
[listeners.http]
bind = "127.0.0.1:0"
[routes.one]
match = { path = "/x/{a}" }
respond = { status = 200 }
[routes.two]
match = { path = "/x/{b}" }
respond = { status = 200 }
"#,
    );
    assert!(!refused.status.success());
    assert!(refused.stderr.contains("one") && refused.stderr.contains("two"), "{}", refused.stderr);
}

#[test]
fn redirects() {
    let gateway = gateway(
        r#"
[routes.tls]
match = { path = "/secure/**" }
redirect = { scheme = "https", host = "www.example.test", port = 8443, status = 308 }
[routes.moved]
match = { path = "/old/{id}" }
redirect = { path = "/new/{id}" }
"#,
    );
    let response = gateway.get("/secure/a%20b?x=1");
    assert_eq!(
        (response.status, response.header("location")),
        (308, Some("https://www.example.test:8443/secure/a%20b?x=1"))
    );
    let response = gateway.request("GET", "/old/7", &[("host", "h.test")], b"");
    assert_eq!(response.status, 302);
    assert!(response.header("location").is_some_and(|l| l.ends_with("/new/7")), "{response:?}");
}

#[test]
fn a_redirect_to_another_host_keeps_what_is_below_its_prefix() {
    let gateway = gateway(
        r#"
[routes.blog]
match = { path = "/blog/**" }
redirect = { host = "blog.test", replace_prefix = "/", status = 301 }
[routes.shop]
match = { path = "/old/shop/**" }
redirect = { scheme = "https", host = "shop.test", strip_prefix = "/old" }
[routes.rest]
match = { path = "/docs/{version}/{page=**}" }
redirect = { host = "docs.test", path = "/{page}/of/{version}" }
[routes.regex]
match = { path_regex = "/wiki-(?<page>.*)" }
redirect = { path = "/w/{page}" }
"#,
    );
    let location = |target: &str| {
        let response = gateway.request("GET", target, &[("host", "www.test:8080")], b"");
        response.header("location").unwrap_or_else(|| panic!("{target}: {response:?}")).to_owned()
    };
    assert_eq!(location("/blog/2024/a%2Fb/c?x=1&y"), "http://blog.test:8080/2024/a%2Fb/c?x=1&y");
    assert_eq!(location("/blog"), "http://blog.test:8080/");
    assert_eq!(location("/old/shop/cart?x"), "https://shop.test/shop/cart?x");
    assert_eq!(location("/docs/v1/a/b%20c/d"), "http://docs.test:8080/a/b%20c/d/of/v1");
    assert_eq!(location("/wiki-a/b%2Fc/d?x"), "http://www.test:8080/w/a/b%2Fc/d?x");
}

#[test]
fn direct_responses() {
    let gateway = gateway(
        r#"
[routes.teapot]
match = { path = "/**" }
respond = { status = 418, headers = { content-type = "text/plain", x-kind = "pot" }, body = "short and stout" }
"#,
    );
    let response = gateway.get("/");
    assert_eq!(
        (response.status, response.text().as_str(), response.header("x-kind")),
        (418, "short and stout", Some("pot"))
    );
    let response = gateway.request("HEAD", "/", &[], b"");
    assert_eq!((response.status, response.body.len()), (418, 0));
}

#[test]
fn rewrites() {
    let origin = Origin::named("origin");
    let url = origin.url();
    let gateway = gateway(&format!(
        r#"
[routes.strip]
match = {{ path = "/api/**" }}
rewrite = {{ strip_prefix = "/api" }}
upstream = "{url}"
[routes.replace]
match = {{ path = "/old/**" }}
rewrite = {{ replace_prefix = "/new" }}
upstream = "{url}"
[routes.rest]
match = {{ path = "/t/{{tenant}}/{{rest=**}}" }}
rewrite = {{ path = "/tenants/{{tenant}}/files/{{rest}}" }}
upstream = "{url}"
[routes.partial]
match = {{ path_regex = "/p/x(?<name>.*)" }}
rewrite = {{ path = "/tenant/{{name}}/end" }}
upstream = "{url}"
[routes.template]
match = {{ path = "/u/{{user}}/o/{{order}}" }}
rewrite = {{ path = "/orders/{{order}}/of/{{user}}" }}
upstream = "{url}"
"#
    ));
    let seen = |target: &str| {
        assert_eq!(gateway.get(target).status, 200, "{target}");
        origin.last().target
    };
    assert_eq!(seen("/api/users?x=1"), "/users?x=1");
    assert_eq!(seen("/api"), "/");
    assert_eq!(seen("/api/a%2Fb"), "/a%2Fb", "an encoded slash stays one");
    assert_eq!(seen("/old/x"), "/new/x");
    assert_eq!(seen("/u/ann/o/12?full"), "/orders/12/of/ann?full");
    assert_eq!(seen("/u/a%20b/o/1"), "/orders/1/of/a%20b");
    assert_eq!(seen("/t/acme/a/b%2Fc/d?x"), "/tenants/acme/files/a/b%2Fc/d?x", "what `**` took keeps its slashes");
    assert_eq!(seen("/t/acme"), "/tenants/acme/files/");
    assert_eq!(seen("/p/xa/b"), "/tenant/a/b/end");
    let before = origin.count();
    for target in ["/p/x..", "/p/x..%2F..", "/p/x.", "/t/acme/..%2F..%2Fadmin"] {
        assert_eq!(gateway.get(target).status, 400, "{target} leads out of the place that the rewrite names");
    }
    assert_eq!(origin.count(), before);
}

#[test]
fn a_query_may_have_what_other_servers_take() {
    let origin = Origin::named("o");
    let gateway = Gateway::before(&origin.url());
    let seen = |target: &str| {
        assert_eq!(gateway.get(target).status, 200, "{target}");
        origin.last().target
    };
    assert_eq!(seen(r#"/a?filter={"a":1}&q=<x>"#), "/a?filter={%22a%22:1}&q=%3Cx%3E");
    assert_eq!(seen("/a?a[]=1&b={c}|^`\\"), "/a?a[]=1&b={c}|^`\\", "what a query can hold stays as it came");
    assert_eq!(seen("/<a>`"), "/%3Ca%3E%60");
    let raw = gateway.raw(b"GET /caf\xe9?q=\xe9 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    assert!(raw.starts_with("HTTP/1.1 200"), "{raw}");
    assert_eq!(origin.last().target, "/caf%E9?q=%E9");
    for refused in ["GET /a?b\x01 HTTP/1.1", "GET /a?b c HTTP/1.1", "GET /a?b#<c HTTP/1.1", "GET /a?b\x7f HTTP/1.1"] {
        let raw = gateway.raw(format!("{refused}\r\nhost: a\r\n\r\n"));
        assert!(raw.starts_with("HTTP/1.1 400"), "{refused:?}: {raw}");
    }
}

#[test]
fn ambiguous_paths_are_refused_or_normalised() {
    let origin = Origin::named("origin");
    let gateway = gateway(&format!(
        "[routes.open]\nmatch = {{ path = \"/open/**\" }}\nupstream = \"{0}\"\n[routes.closed]\nmatch = {{ path = \"/closed/**\" }}\nrespond = {{ status = 403 }}\n",
        origin.url()
    ));
    for target in ["/open/../closed/x", "/open/%2e%2e/closed/x", "/open/./../closed/x"] {
        let status = gateway.get(target).status;
        assert!([400, 403].contains(&status), "{target}: {status}");
    }
    assert_eq!(origin.count(), 0);
    assert_eq!(statuses(&gateway, &["/open/a", "/closed/a", "/neither"]), [200, 403, 404]);
}

/// A reload does not begin the turn anew: a small share would get nothing.
#[test]
fn a_small_share_of_the_traffic_survives_reloads() {
    let (heavy, light) = (Origin::named("heavy"), Origin::named("light"));
    let toml = with_base(&format!(
        "[upstreams.heavy]\nendpoints = [{:?}]\n[upstreams.light]\nendpoints = [{:?}]\n[routes.split]\nmatch = {{ path = \"/**\" }}\n\
         upstreams = {{ heavy = 90, light = 10 }}\n",
        heavy.url(),
        light.url()
    ));
    let gateway = setup().start(&toml);
    for reload in 0..10 {
        gateway.reload(&format!("{toml}# {reload}\n"));
        let mut client = gateway.client();
        for _ in 0..20 {
            assert_eq!(client.get("/").status, 200);
        }
    }
    assert_eq!(heavy.count() + light.count(), 200);
    assert!((17..=23).contains(&light.count()), "{} of 200", light.count());
}

#[test]
fn weights_split_the_traffic() {
    let (heavy, light) = (Origin::named("heavy"), Origin::named("light"));
    let gateway = gateway(&format!(
        r#"
[upstreams.heavy]
endpoints = ["{}"]
[upstreams.light]
endpoints = ["{}"]
[routes.split]
match = {{ path = "/**" }}
upstreams = {{ heavy = 3, light = 1 }}
"#,
        heavy.url(),
        light.url()
    ));
    let mut client = gateway.client();
    for _ in 0..400 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(heavy.count() + light.count(), 400);
    assert!((250..=350).contains(&heavy.count()), "{} of 400", heavy.count());
}
