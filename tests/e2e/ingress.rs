//! Where a request comes in, and what that decides: listeners, schemes, server names, redirects to https; and methods.

use std::fmt::Write;

use rustls::version::{TLS12, TLS13};
use sluice_harness::{Certs, Client, Gateway, Origin};

use crate::support::{gateway, route, setup};

/// Two plain listeners and one with TLS for `a.test` and `b.test`, then `rest`.
fn three_listeners(certs: &Certs, plain: &str, rest: &str) -> String {
    let leaf = certs.leaf(&["a.test", "b.test"]);
    let mut toml = format!(
        "[listeners.http]\nbind = \"127.0.0.1:0\"\n{plain}\n[listeners.internal]\nbind = \"127.0.0.1:0\"\n\
         [listeners.https]\nbind = \"127.0.0.1:0\"\ntls = {{ certificates = [\"main\"] }}\n"
    );
    let (cert, key) = (leaf.cert.display(), leaf.key.display());
    write!(toml, "[certificates.main]\ncert = \"${{file:{cert}}}\"\nkey = \"${{file:{key}}}\"\n{rest}")
        .expect("a string");
    toml
}

fn over_tls(gateway: &Gateway, certs: &Certs, name: &str) -> Client {
    let config = certs.client_config(&["http/1.1"], &[&TLS12, &TLS13]);
    Client::connect_tls(gateway.address_of("https"), name, config).expect("a handshake")
}

fn answering(name: &str, condition: &str) -> String {
    format!("[routes.{name}]\nmatch = {{ {condition} }}\nrespond = {{ status = 200, body = \"{name}\" }}\n")
}

#[test]
fn routes_by_listener_scheme_and_server_name() {
    let certs = Certs::new();
    let routes = answering("all", "path = \"/**\"")
        + &answering("internal", "listener = \"internal\", path = \"/admin/**\"")
        + &answering("plain", "scheme = \"http\", listener = [\"http\"], path = \"/scheme\"")
        + &answering("tls", "scheme = \"https\", path = \"/scheme\"")
        + &answering("b", "sni = [\"b.test\"], path = \"/sni/exact/more\"")
        + &answering("any_sni", "sni = \"*.test\", path = \"/sni/**\"");
    let gateway = Gateway::start(&three_listeners(&certs, "", &routes));
    let asked = |listener: &str, target: &str| Client::connect(gateway.address_of(listener)).get(target).text();
    assert_eq!(asked("internal", "/admin/x"), "internal");
    assert_eq!(asked("http", "/admin/x"), "all", "no other listener has the route");
    assert_eq!(asked("http", "/scheme"), "plain");
    assert_eq!(asked("http", "/sni/x"), "all", "no TLS, no server name");
    let (mut a, mut b) = (over_tls(&gateway, &certs, "a.test"), over_tls(&gateway, &certs, "b.test"));
    assert_eq!([a.get("/scheme").text(), a.get("/admin/x").text()], ["tls", "all"]);
    assert_eq!([a.get("/sni/exact/more").text(), b.get("/sni/exact/more").text()], ["any_sni", "b"]);
}

#[test]
fn a_listener_that_is_not_there_is_an_error() {
    let listener = "[listeners.internal]\nbind = \"127.0.0.1:0\"\n";
    let refused = Gateway::setup().refused(&(listener.to_owned() + &answering("r", "listener = \"internl\"")));
    assert!(refused.stderr.contains("unknown listener `internl`, did you mean `internal`?"), "{}", refused.stderr);
}

#[test]
fn a_listener_sends_its_clients_to_https() {
    let certs = Certs::new();
    let redirect = "https_redirect = { listener = \"https\", port = 8443, status = 301, except = [\"/.well-known/acme-challenge/**\", \"/up\"] }";
    let routes = answering("all", "path = \"/**\"") + &answering("first", "path = \"/**\"") + "priority = 9\n";
    let gateway = Gateway::start(&three_listeners(&certs, redirect, &routes));
    let ask = |method: &str, target: &str| {
        let response = gateway.request(method, target, &[("host", "a.test:8080")], b"");
        (response.status, response.header("location").unwrap_or_default().to_owned())
    };
    let to = |target: &str| (301, format!("https://a.test:8443{target}"));
    assert_eq!(ask("GET", "/x/a%2Fb?q=1"), to("/x/a%2Fb?q=1"));
    assert_eq!(ask("POST", "/"), to("/"));
    assert_eq!(ask("GET", "/.well-known/acme-challenge-x"), to("/.well-known/acme-challenge-x"));
    for served in ["/.well-known/acme-challenge/token", "/up"] {
        assert_eq!(ask("GET", served).0, 200, "{served}");
    }
    let stranger = gateway.request("GET", "/", &[("x-forwarded-proto", "https")], b"");
    assert_eq!(stranger.status, 301, "a stranger does not say that he came by TLS");
    assert_eq!(over_tls(&gateway, &certs, "a.test").get("/").text(), "first", "no loop");
    assert_eq!(Client::connect(gateway.address_of("internal")).get("/").status, 200, "only where it is asked for");
    gateway.wait_access("the redirect in the access log", |line| line["status"] == 301 && line["path"] == "/x/a%2Fb");

    // As short as it can be. Behind a proxy that speaks TLS, the client has it already.
    let plain = "https_redirect = true\ntrusted_proxies = [\"127.0.0.1\"]";
    let gateway = Gateway::start(&three_listeners(&certs, plain, &routes));
    let response = gateway.request("GET", "/x", &[("host", "a.test")], b"");
    assert_eq!((response.status, response.header("location")), (308, Some("https://a.test/x")));
    assert_eq!(gateway.get("/.well-known/acme-challenge/token").status, 200);
    let behind = gateway.request("GET", "/x", &[("host", "a.test"), ("x-forwarded-proto", "https")], b"");
    assert_eq!(behind.status, 200);
}

#[test]
fn https_redirect_needs_somewhere_to_go() {
    let certs = Certs::new();
    let leaf = certs.leaf(&["a.test"]);
    let tls = format!(
        "tls = {{ certificates = [\"main\"] }}\n[certificates.main]\ncert = \"${{file:{}}}\"\nkey = \"${{file:{}}}\"\n",
        leaf.cert.display(),
        leaf.key.display()
    );
    let refused = |listeners: &str| Gateway::setup().refused(&format!("{listeners}{tls}")).stderr;
    let own = refused("[listeners.https]\nbind = \"127.0.0.1:0\"\nhttps_redirect = true\n");
    assert!(own.contains("here it would lead back to itself"), "{own}");
    let two = refused(
        "[listeners.http]\nbind = \"127.0.0.1:0\"\nhttps_redirect = true\n[listeners.one]\nbind = \"127.0.0.1:0\"\n\
         tls = { certificates = [\"main\"] }\n[listeners.two]\nbind = \"127.0.0.1:0\"\n",
    );
    assert!(two.contains("there are several listeners with TLS"), "{two}");
}

#[test]
fn check_warns_of_a_redirect_that_leads_to_itself() {
    let certs = Certs::new();
    let warnings = |routes: &str| {
        let output = Gateway::setup().command_output(&three_listeners(&certs, "", routes), &["check"]);
        assert!(output.status.success(), "{}", output.stderr);
        output.stdout.lines().filter(|line| line.contains("leads to itself")).map(str::to_owned).collect::<Vec<_>>()
    };
    let route = |condition: &str, to: &str| format!("[routes.r]\nmatch = {{ {condition} }}\nredirect = {{ {to} }}\n");
    let found = warnings(&route("path = \"/**\"", "scheme = \"https\""));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("route `r`") && found[0].contains("listener `https`"), "{found:?}");
    for (condition, to) in [
        ("host = \"a.test\"", "scheme = \"https\", host = \"a.test\""),
        ("path = \"/blog/**\"", "path = \"/blog/x\""),
        ("", "host = \"www.a.test\""),
        ("listener = \"https\", methods = [\"POST\"]", "scheme = \"https\""),
    ] {
        assert_eq!(warnings(&route(condition, to)).len(), 1, "{condition} to {to}");
    }
    let secure = "[routes.secure]\nmatch = { scheme = \"https\", path = \"/**\" }\nrespond = { status = 200 }\n";
    for (condition, to, more) in [
        ("scheme = \"http\"", "scheme = \"https\"", ""),
        ("listener = [\"http\", \"internal\"]", "scheme = \"https\"", ""),
        ("path = \"/**\"", "scheme = \"https\"", secure),
        ("path = \"/old/{id}\"", "path = \"/new/{id}\"", ""),
        ("host = \"a.test\"", "host = \"b.test\"", ""),
        ("path = \"/blog/**\"", "host = \"blog.test\", replace_prefix = \"/\"", ""),
    ] {
        assert_eq!(warnings(&(route(condition, to) + more)), [""; 0], "{condition} to {to}");
    }
}

#[test]
fn get_stands_for_head_and_another_method_is_told_which_are_allowed() {
    let gateway = gateway(
        &(answering("read", "path = \"/a\", methods = [\"GET\"]")
            + &answering("write", "path = \"/a\", methods = [\"POST\", \"DELETE\"], headers = { x-key = \"1\" }")),
    );
    assert_eq!(gateway.request("HEAD", "/a", &[], b"").status, 200);
    let refused = |headers: &[(&str, &str)]| {
        let response = gateway.request("PATCH", "/a", headers, b"");
        assert_eq!((response.status, response.header("content-type")), (405, Some("application/problem+json")));
        response.header("allow").expect("an Allow").to_owned()
    };
    assert_eq!(refused(&[]), "GET, HEAD");
    assert_eq!(refused(&[("x-key", "1")]), "GET, HEAD, POST, DELETE", "all else has to match");
    let nowhere = gateway.request("PATCH", "/b", &[], b"");
    assert_eq!((nowhere.status, nowhere.header("allow")), (404, None));
    gateway.wait_access("the reason", |line| line["status"] == 405 && line["error"] == "method-not-allowed");
}

#[test]
fn a_preflight_reaches_the_cors_filter_of_the_route_that_it_announces() {
    let origin = Origin::named("o");
    let gateway = gateway(&format!(
        "[filters.cors]\nplugin = \"cors\"\nconfig = {{ origins = [\"https://shop.test\"], methods = [\"PUT\"] }}\n\
         [routes.put]\nmatch = {{ path = \"/a\", methods = [\"PUT\"] }}\nupstream = \"{0}\"\npipeline = [\"cors\"]\n\
         [routes.bare]\nmatch = {{ path = \"/bare\", methods = [\"PUT\"] }}\nupstream = \"{0}\"\npipeline = []\n\
         [routes.rest]\nmatch = {{ path = \"/**\" }}\nupstream = \"{0}\"\npipeline = []\n",
        origin.url()
    ));
    let preflight = |target: &str, method: &str| {
        let fields = [("origin", "https://shop.test"), ("access-control-request-method", method)];
        gateway.request("OPTIONS", target, &fields, b"")
    };
    let answer = preflight("/a", "PUT");
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (204, Some("https://shop.test")));
    assert_eq!(origin.count(), 0, "no upstream is asked");
    assert_eq!(preflight("/a", "DELETE").text(), "o", "another route is for DELETE");
    assert_eq!(preflight("/bare", "PUT").text(), "o", "no filter could answer: the route that takes OPTIONS does");
    assert_eq!(gateway.request("OPTIONS", "/a", &[], b"").text(), "o", "no preflight");
}

#[test]
fn a_preflight_that_no_filter_answers_goes_to_no_upstream() {
    let origin = Origin::named("o");
    let gateway = setup().start(&format!(
        "[listeners.http]\nbind = \"127.0.0.1:0\"\n[filters.add]\nplugin = \"transform\"\nconfig.response = {{ headers = {{ set = {{ x-seen = \"1\" }} }} }}\n\
         [routes.put]\nmatch = {{ path = \"/a\", methods = [\"PUT\"] }}\nupstream = \"{}\"\npipeline = [\"add\"]\n",
        origin.url()
    ));
    let fields = [("origin", "https://shop.test"), ("access-control-request-method", "PUT")];
    let answer = gateway.request("OPTIONS", "/a", &fields, b"");
    assert_eq!((answer.status, answer.header("allow"), answer.header("x-seen")), (405, Some("PUT"), Some("1")));
    assert_eq!(origin.count(), 0);
}

#[test]
fn max_forwards_is_counted_down_and_ends_at_the_gateway() {
    let origin = Origin::named("o");
    let routes = route(&origin.url(), &[]) + &answering("own", "path = \"/own\"");
    let gateway = gateway(&routes);
    let ask = |method: &str, left: &str| gateway.request(method, "/", &[("max-forwards", left)], b"").status;
    assert_eq!((ask("OPTIONS", "3"), origin.last().header("max-forwards")), (200, Some("2")));
    assert_eq!((ask("GET", "3"), origin.last().header("max-forwards")), (200, Some("3")), "GET has no such field");
    assert_eq!((ask("OPTIONS", "many"), origin.last().header("max-forwards")), (200, Some("many")));
    let before = origin.count();
    assert_eq!((ask("OPTIONS", "0"), ask("TRACE", "0")), (204, 501));
    let own = gateway.request("OPTIONS", "/own", &[("max-forwards", "0")], b"");
    assert_eq!(own.text(), "own", "the gateway is the last recipient anyway");
    assert_eq!(origin.count(), before);
}
