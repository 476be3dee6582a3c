//! What the gateway takes out of a head, what it adds, and whom it believes.

use sluice_harness::h2::H2;
use sluice_harness::{Gateway, Origin};

use crate::support::{gateway, route};

#[test]
fn a_426_says_which_protocols_the_client_needs() {
    let origin = Origin::serve(|r| {
        let status = if r.target == "/426" { 426 } else { 400 };
        sluice_harness::Reply::status(status).with("connection", "upgrade").with("upgrade", "TLS/1.3, HTTP/2.0")
    });
    let respond = "[routes.own]\nmatch = { path = \"/own\" }\n\
                   respond = { status = 426, headers = { upgrade = \"websocket\" } }\n";
    let gateway = gateway(&(route(&origin.url(), &[]) + respond));
    for (path, want) in [("/426", Some("TLS/1.3, HTTP/2.0")), ("/400", None), ("/own", Some("websocket"))] {
        let response = gateway.request("GET", path, &[], b"");
        assert_eq!(response.header("upgrade"), want, "{path}");
        let connection = response.header("connection").unwrap_or_default();
        assert_eq!(connection.split(", ").any(|option| option == "upgrade"), want.is_some(), "{path}");
        // RFC 9113 §8.2.2.
        let answer = H2::connect(gateway.address()).get(path);
        assert_eq!((answer.status, answer.header("upgrade")), (response.status, None), "{path}");
    }
}

#[test]
fn hop_by_hop_fields_stay_on_their_hop() {
    let origin = Origin::serve(|_| {
        sluice_harness::Reply::text("x")
            .with("connection", "x-secret-hop")
            .with("x-secret-hop", "1")
            .with("keep-alive", "timeout=5")
            .with("proxy-authenticate", "Basic")
            .with("x-kept", "1")
    });
    let gateway = Gateway::before(&origin.url());
    let response = gateway.request(
        "GET",
        "/",
        &[
            ("connection", "keep-alive, x-hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "gzip"),
            ("x-kept", "1"),
        ],
        b"",
    );
    let seen = origin.last();
    for name in ["x-hop", "keep-alive", "proxy-connection", "te"] {
        assert_eq!(seen.header(name), None, "{name} went to the origin");
    }
    assert_eq!(seen.header("x-kept"), Some("1"));
    for name in ["x-secret-hop", "keep-alive"] {
        assert_eq!(response.header(name), None, "{name} went to the client");
    }
    assert_eq!(response.header("x-kept"), Some("1"));
}

#[test]
fn forwarded_fields_of_strangers_are_replaced() {
    let origin = Origin::named("o");
    let gateway = Gateway::before(&origin.url());
    gateway.request(
        "GET",
        "/",
        &[
            ("host", "shop.test"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil.test"),
            ("x-real-ip", "6.6.6.6"),
            ("forwarded", "for=6.6.6.6"),
        ],
        b"",
    );
    let seen = origin.last();
    assert_eq!(seen.head.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.head.all("x-forwarded-proto"), ["http"]);
    assert_eq!(seen.head.all("x-forwarded-host"), ["shop.test"]);
    assert!(!format!("{:?}", seen.head).contains("6.6.6.6"), "{:?}", seen.head);
}

#[test]
fn routes_see_what_the_gateway_says_of_a_stranger() {
    let toml = |listener: &str| {
        format!(
            "[listeners.http]\nbind = \"127.0.0.1:0\"\n{listener}\n\
             [routes.all]\nmatch = {{ path = \"/**\" }}\nrespond = {{ status = 200, body = \"all\" }}\n\
             [routes.proto]\nmatch = {{ path = \"/**\", headers = {{ x-forwarded-proto = \"https\" }} }}\nrespond = {{ status = 200, body = \"proto\" }}\n\
             [routes.ip]\nmatch = {{ path = \"/**\", headers = {{ x-real-ip = {{ present = true }} }} }}\nrespond = {{ status = 200, body = \"ip\" }}\n\
             [routes.ours]\nmatch = {{ path = \"/ours\", headers = {{ x-forwarded-for = \"127.0.0.1\" }} }}\nrespond = {{ status = 200, body = \"ours\" }}\n\
             [routes.ws]\nmatch = {{ path = \"/**\", headers = {{ upgrade = \"websocket\" }} }}\nrespond = {{ status = 200, body = \"ws\" }}\n"
        )
    };
    let gateway = Gateway::start(&toml(""));
    let asked =
        |gateway: &Gateway, target: &str, fields: &[(&str, &str)]| gateway.request("GET", target, fields, b"").text();
    for name in ["x-forwarded-proto", "X_Forwarded_Proto", "x_forwarded-proto"] {
        assert_eq!(asked(&gateway, "/", &[(name, "https")]), "all", "{name}");
    }
    assert_eq!(asked(&gateway, "/", &[("x-real-ip", "10.0.0.1")]), "all");
    assert_eq!(asked(&gateway, "/ours", &[("x-forwarded-for", "6.6.6.6")]), "ours");
    assert_eq!(asked(&gateway, "/", &[("connection", "upgrade"), ("upgrade", "websocket")]), "ws");
    let trusting = Gateway::start(&toml("trusted_proxies = [\"127.0.0.1\"]"));
    assert_eq!(asked(&trusting, "/", &[("x-forwarded-proto", "https")]), "proto");
    assert_eq!(asked(&trusting, "/", &[("x-real-ip", "10.0.0.1")]), "ip");
}

#[test]
fn no_spelling_with_underscores_stands_for_a_field_that_upstreams_trust() {
    let origin = Origin::named("o");
    let fields = [
        ("X_Forwarded_For", "6.6.6.6"),
        ("x_forwarded-proto", "6.6.6.6"),
        ("x-forwarded_host", "6.6.6.6"),
        ("x_real_ip", "6.6.6.6"),
        ("x_request_id", "6.6.6.6"),
        ("x_user_id", "6.6.6.6"),
        ("Content_Length", "6.6.6.6"),
        ("x_set", "6.6.6.6"),
        ("api_key", "kept"),
        ("x_other", "kept"),
    ];
    for trusted in ["", "\"127.0.0.1\""] {
        let gateway = Gateway::setup().start(&format!(
            "[listeners.http]\nbind = \"127.0.0.1:0\"\ntrusted_proxies = [{trusted}]\n\
             [filters.set]\nplugin = \"transform\"\nconfig.request = {{ headers = {{ set = {{ x-set = \"ours\" }} }} }}\n{}",
            route(&origin.url(), &["set"])
        ));
        assert_eq!(gateway.request("GET", "/", &fields, b"").status, 200);
        let seen = origin.last();
        assert!(!format!("{:?}", seen.head).contains("6.6.6.6"), "{:?}", seen.head);
        let kept = [seen.header("api_key"), seen.header("x_other"), seen.header("x-set")];
        assert_eq!(kept, [Some("kept"), Some("kept"), Some("ours")]);
    }
}

#[test]
fn an_expectation_that_needs_no_answer_ends_here() {
    let origin = Origin::named("o");
    let gateway = Gateway::before(&origin.url());
    for (value, body) in [("100-continue", "all of it"), ("100-continue", ""), ("something-else", "body")] {
        let head = format!("POST / HTTP/1.1\r\nhost: a\r\nexpect: {value}\r\ncontent-length: {}\r\n", body.len());
        let raw = gateway.raw(format!("{head}connection: close\r\n\r\n{body}"));
        assert!(raw.starts_with("HTTP/1.1 200"), "{raw}");
        assert_eq!((origin.last().header("expect"), origin.last().text()), (None, body.to_owned()), "{value}");
    }
}

#[test]
fn trusted_proxies_are_believed() {
    let origin = Origin::named("o");
    let toml = format!(
        "[listeners.http]\nbind = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]\n[routes.all]\nmatch = {{ path = \"/**\" }}\nupstream = \"{0}\"\n[routes.office]\nmatch = {{ path = \"/**\", client_ip = [\"203.0.113.0/24\"] }}\nupstream = \"{0}\"\nrewrite = {{ path = \"/office\" }}\n",
        origin.url()
    );
    let gateway = Gateway::start(&toml);
    gateway.request(
        "GET",
        "/",
        &[("x-forwarded-for", "6.6.6.6, 203.0.113.9, 10.1.1.1"), ("x-forwarded-proto", "https")],
        b"",
    );
    let seen = origin.last();
    assert_eq!(seen.target, "/office", "the first address from the right that is no trusted proxy is the client");
    assert!(
        seen.header("x-forwarded-for").is_some_and(|v| v.ends_with("203.0.113.9, 10.1.1.1, 127.0.0.1")),
        "{seen:?}"
    );
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
}

#[test]
fn host_policies() {
    let origin = Origin::named("o");
    let own = origin.address().to_string();
    for (policy, expected) in
        [("\"keep\"", "shop.test"), ("\"upstream\"", own.as_str()), ("\"inner.test\"", "inner.test")]
    {
        let gateway = gateway(&format!("{}host = {policy}\n", route(&origin.url(), &[])));
        gateway.request("GET", "/", &[("host", "shop.test")], b"");
        assert_eq!(origin.last().head.all("host"), [expected], "{policy}");
    }
}

/// A gateway that believes its clients' headers, or not.
fn trusting(origin: &Origin, trusted: &str, gateway: &str) -> Gateway {
    Gateway::start(&format!(
        "[gateway]\nworkers = 1\n{gateway}\n[listeners.http]\nbind = \"127.0.0.1:0\"\ntrusted_proxies = [{trusted}]\n{}",
        route(&origin.url(), &[])
    ))
}

#[test]
fn request_ids_are_made_and_those_of_trusted_proxies_passed_on() {
    let origin = Origin::named("o");
    let gateway = Gateway::before(&origin.url());
    let id = |headers: &[(&str, &str)], gateway: &Gateway| {
        gateway.request("GET", "/", headers, b"");
        origin.last().header("x-request-id").expect("an id").to_string()
    };
    let made = id(&[], &gateway);
    assert!(made.len() >= 16, "{made}");
    assert_ne!(id(&[], &gateway), made);
    assert_ne!(id(&[("x-request-id", "mine-1")], &gateway), "mine-1", "strangers don't name our log lines");
    gateway.wait_access("the id in the access log", |l| l["request_id"] == made.as_str());

    let trusting = trusting(&origin, "\"127.0.0.1\"", "");
    assert_eq!(id(&[("x-request-id", "mine-1")], &trusting), "mine-1");
    trusting.wait_access("the id in the access log", |l| l["request_id"] == "mine-1");
}

#[test]
fn the_name_of_the_request_id_header() {
    let origin = Origin::named("o");
    let gateway = trusting(&origin, "\"127.0.0.1\"", "request_id_header = \"x-trace\"");
    gateway.get("/");
    assert!(origin.last().header("x-trace").is_some());
    assert_eq!(origin.last().header("x-request-id"), None);
    gateway.request("GET", "/", &[("x-trace", "mine-1")], b"");
    assert_eq!(origin.last().header("x-trace"), Some("mine-1"));
}

#[test]
fn traceparent_is_made_or_continued() {
    let origin = Origin::named("o");
    let gateway = Gateway::before(&origin.url());
    gateway.get("/");
    let made = origin.last().header("traceparent").expect("a traceparent").to_string();
    let parts: Vec<&str> = made.split('-').collect();
    assert_eq!((parts.len(), parts[0], parts[1].len(), parts[2].len()), (4, "00", 32, 16), "{made}");
    let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    gateway.request("GET", "/", &[("traceparent", given), ("tracestate", "a=b")], b"");
    let seen = origin.last();
    assert!(
        seen.header("traceparent").is_some_and(|t| t.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-")),
        "{seen:?}"
    );
    assert_eq!(seen.header("tracestate"), Some("a=b"));
    gateway.request("GET", "/", &[("traceparent", "00-zz-00f067aa0ba902b7-01")], b"");
    let fresh = origin.last().header("traceparent").expect("a new one").to_string();
    assert!(!fresh.contains("zz"), "{fresh}");
}

#[test]
fn values_that_are_not_utf8_pass() {
    let origin = Origin::named("o");
    let gateway = Gateway::before(&origin.url());
    gateway.request("GET", "/", &[("x-bytes", "\u{ff}\u{80}a")], b"");
    assert_eq!(origin.last().header("x-bytes"), Some("\u{ff}\u{80}a"));
}
