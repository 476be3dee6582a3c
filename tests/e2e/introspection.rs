//! `introspection` with authorization servers behind it: what they are asked, what becomes of their answers, and what is done while they are away.

use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_harness::tools::{Server, need, scripts, tools};
use sluice_harness::wait::eventually;
use sluice_harness::{Gateway, Origin, Reply};

use crate::support::{filter, gateway, route};

/// A filter `token` that asks a server at this URL.
fn asking(upstream: &Origin, server: &str, more: Value, lines: &str) -> Gateway {
    let mut config = json!({ "url": format!("{server}/introspect"), "client_id": "gateway" });
    config.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let grants = format!(
        "grants = {{ http = [\"{server}\"], kv = [\"introspection\"], read_headers = [\"authorization\"], secrets = {{ client_secret = \"a secret\" }} }}\n\
         {lines}"
    );
    gateway(&(route(&upstream.url(), &["token"]) + &filter("token", "introspection", &grants, config)))
}

fn in_mode(mode: &str) -> String {
    format!("instances = {{ mode = \"{mode}\" }}")
}

/// The answer of a server that gives none.
const AWAY: &[u8] = b"away";

/// A server whose answer can be changed.
fn server() -> (Origin, Arc<Mutex<Vec<u8>>>) {
    let answer = Arc::new(Mutex::new(br#"{"active": true, "sub": "ann", "scope": "read"}"#.to_vec()));
    let said = Arc::clone(&answer);
    let origin = Origin::serve(move |_| {
        let body = said.lock().expect("no panic").clone();
        if body == AWAY {
            return Reply::Close;
        }
        Reply::Full(200, vec![("content-type".into(), "application/json".into())], body)
    });
    (origin, answer)
}

fn ask(gateway: &Gateway, method: &str, token: &str) -> u16 {
    gateway.request(method, "/", &[("authorization", &format!("Bearer {token}"))], b"").status
}

#[test]
fn a_token_is_asked_about_once_and_is_in_no_log() {
    for mode in ["reused", "fresh"] {
        let (upstream, (server, answer)) = (Origin::named("o"), server());
        let gateway =
            asking(&upstream, &server.url(), json!({ "scopes": ["read"], "cache": { "ttl": "1d" } }), &in_mode(mode));
        assert_eq!([(); 3].map(|()| ask(&gateway, "POST", "opaque-1")), [200; 3], "{mode}");
        gateway.wait_access("the caller", |line| line["consumer"] == "ann");
        let asked = server.last();
        assert_eq!((server.count(), asked.method.as_str(), asked.target.as_str()), (1, "POST", "/introspect"));
        assert_eq!(asked.text(), "token=opaque-1&token_type_hint=access_token");
        assert_eq!(asked.header("authorization"), Some("Basic Z2F0ZXdheTphJTIwc2VjcmV0"));
        *answer.lock().expect("no panic") = br#"{"active": false}"#.to_vec();
        assert_eq!([(); 2].map(|()| ask(&gateway, "GET", "opaque-2")), [401; 2], "{mode}");
        gateway.wait_access("the reason", |line| line["reason"] == "token-inactive");
        assert_eq!((server.count(), upstream.count()), (2, 3), "{mode}");
        *answer.lock().expect("no panic") = br#"{"active": true, "sub": "ann", "scope": "reader"}"#.to_vec();
        assert_eq!(ask(&gateway, "GET", "opaque-3"), 403);
        assert_eq!((gateway.get("/").status, ask(&gateway, "GET", "no{token}")), (401, 401));
        assert_eq!(server.count(), 3, "{mode}");
        let log: String = gateway.log().iter().chain(&gateway.access()).map(Value::to_string).collect();
        assert!(!log.contains("opaque-") && !log.contains("a secret"), "{log}");
    }
}

#[test]
fn one_request_asks_for_all_that_have_the_token() {
    for mode in ["reused", "fresh"] {
        let upstream = Origin::named("o");
        let open = Arc::new((Mutex::new(false), Condvar::new()));
        let gate = Arc::clone(&open);
        let server = Origin::serve(move |_| {
            let (is_open, changed) = &*gate;
            let _open = changed.wait_while(is_open.lock().expect("no panic"), |is_open| !*is_open).expect("no panic");
            Reply::json(&json!({ "active": true, "sub": "ann" }))
        });
        let lines = in_mode(mode) + "\nlimits = { wall = \"30s\" }";
        let gateway = asking(&upstream, &server.url(), json!({ "timeout": "20s" }), &lines);
        std::thread::scope(|scope| {
            let asking: Vec<_> = (0..8).map(|_| scope.spawn(|| ask(&gateway, "POST", "one"))).collect();
            // Each that asks or waits has an instance.
            let labels = [("filter", "token"), ("plugin", "introspection")];
            let instances = || gateway.metric("sluice_filter_instances", &labels);
            eventually("all are there", || instances().is_some_and(|count| count >= 8.0));
            eventually("the server is asked", || server.count() == 1);
            *open.0.lock().expect("no panic") = true;
            open.1.notify_all();
            let statuses: Vec<u16> = asking.into_iter().map(|one| one.join().expect("no panic")).collect();
            assert_eq!(statuses, [200; 8], "{mode}");
        });
        assert_eq!((server.count(), upstream.count()), (1, 8), "{mode}");
    }
}

#[test]
fn answers_that_decide_nothing_let_nobody_pass() {
    let (upstream, (server, answer)) = (Origin::named("o"), server());
    let gateway = asking(&upstream, &server.url(), json!({ "circuit": { "failures": 0 } }), "");
    let large = json!({ "active": true, "x": "x".repeat(2 << 20) }).to_string();
    let deep = format!(r#"{{"active": true, "x": {}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let cases = ["", "<html>", "{}", r#"{"active": "true"}"#, r#"{"active": 1}"#, "[true]", &large, &deep];
    for (number, body) in cases.into_iter().enumerate() {
        *answer.lock().expect("no panic") = body.as_bytes().to_vec();
        let refused = gateway.request("GET", "/", &[("authorization", &format!("Bearer t{number}"))], b"");
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("2")), "{body:.40}");
        assert_eq!(refused.header("content-type"), Some("application/problem+json"));
    }
    gateway.wait_access("the reason", |line| line["reason"] == "introspection-unavailable");
    gateway.wait_log("why", |line| line.to_string().contains("does not say whether the token is active"));
    assert_eq!(upstream.count(), 0);
}

#[test]
fn a_server_that_is_away_is_left_alone_and_old_answers_count_where_that_is_allowed() {
    let (upstream, (server, answer)) = (Origin::named("o"), server());
    let config = json!({
        "cache": { "ttl": "1ms" }, "stale_if_error": "1d", "circuit": { "failures": 2, "open": "1h" },
    });
    let gateway = asking(&upstream, &server.url(), config, "");
    assert_eq!(ask(&gateway, "GET", "seen"), 200);
    *answer.lock().expect("no panic") = AWAY.to_vec();
    assert_eq!([ask(&gateway, "POST", "new"), ask(&gateway, "POST", "other")], [503, 503]);
    let asked = server.count();
    eventually("the answer is old", || ask(&gateway, "POST", "seen") == 503);
    assert_eq!(
        [ask(&gateway, "GET", "seen"), ask(&gateway, "HEAD", "seen"), ask(&gateway, "GET", "new")],
        [200, 200, 503]
    );
    assert_eq!(server.count(), asked, "it is left alone");
}

#[test]
fn the_circuit_saves_a_server_that_fails() {
    let upstream = Origin::named("o");
    let server = Origin::serve(|_| Reply::status(500));
    for mode in ["reused", "fresh"] {
        let before = server.count();
        let config = json!({ "circuit": { "failures": 3, "open": "1h" } });
        let gateway = asking(&upstream, &server.url(), config, &in_mode(mode));
        for number in 0..10 {
            assert_eq!(ask(&gateway, "GET", &format!("t{number}")), 503);
        }
        assert_eq!((server.count() - before, upstream.count()), (3, 0), "{mode}");
    }
}

/// The filters of a plugin share its spaces of `kv`.
#[test]
fn a_server_that_fails_is_left_alone_and_no_other() {
    let (upstream, (away, fails), (well, _)) = (Origin::named("o"), server(), server());
    *fails.lock().expect("no panic") = AWAY.to_vec();
    let mut toml = format!("[upstreams.all]\nendpoints = [\"{}\"]\n", upstream.url());
    for (name, server, more) in [("a", &away, ""), ("b", &well, ""), ("c", &well, "cache = { ttl = \"1ms\" }")] {
        toml += &format!(
            "[routes.{name}]\nmatch = {{ path = \"/{name}\" }}\nupstream = \"all\"\npipeline = [\"{name}\"]\n\
             [filters.{name}]\nplugin = \"introspection\"\ngrants = {{ http = [\"{url}\"], kv = [\"introspection\"], \
             read_headers = [\"authorization\"], secrets = {{ client_secret = \"s\" }} }}\n[filters.{name}.config]\n\
             url = \"{url}/introspect\"\nclient_id = \"gateway\"\ncircuit = {{ failures = 2, open = \"1h\" }}\n{more}\n",
            url = server.url(),
        );
    }
    let gateway = gateway(&toml);
    let ask = |path: &str, token: &str| {
        gateway.request("GET", path, &[("authorization", &format!("Bearer {token}"))], b"").status
    };
    assert_eq!(["1", "2", "3"].map(|token| ask("/a", token)), [503; 3]);
    let asked = away.count();
    assert_eq!((ask("/b", "one"), ask("/a", "4")), (200, 503));
    assert_eq!((away.count(), well.count()), (asked, 1), "a server that is well says nothing of the other");
    // The same server: one answer for both, and the time of each.
    assert_eq!((ask("/b", "one"), well.count()), (200, 1));
    eventually("a shorter time holds for what another filter has kept", || ask("/c", "one") == 200 && well.count() > 1);
}

#[test]
fn nobody_waits_for_a_client_that_has_left() {
    let upstream = Origin::named("o");
    let open = Arc::new((Mutex::new(false), Condvar::new()));
    let gate = Arc::clone(&open);
    let server = Origin::serve(move |_| {
        let (is_open, changed) = &*gate;
        let _open = changed.wait_while(is_open.lock().expect("no panic"), |is_open| !*is_open).expect("no panic");
        Reply::json(&json!({ "active": true, "sub": "ann" }))
    });
    // The reservation outlives the wait: who has waited for so long asks itself.
    let gateway = asking(&upstream, &server.url(), json!({ "timeout": "2s" }), "limits = { wall = \"60s\" }");
    let mut leaves = gateway.client();
    leaves.send("GET / HTTP/1.1\r\nhost: x\r\nauthorization: Bearer one\r\n\r\n");
    eventually("the server is asked", || server.count() == 1);
    drop(leaves);
    gateway.wait_access("it has left", |line| line["error"] == "client-aborted");
    *open.0.lock().expect("no panic") = true;
    open.1.notify_all();
    assert_eq!([ask(&gateway, "GET", "one"), ask(&gateway, "GET", "one")], [200, 200]);
    assert_eq!(server.count(), 2);
}

/// `limits.wall` is for both. Who is cut off gets a 500, and its old answer is of no use.
#[test]
fn who_waits_for_a_call_has_time_for_one_of_its_own() {
    let upstream = Origin::named("o");
    let open = Arc::new((Mutex::new(true), Condvar::new()));
    let gate = Arc::clone(&open);
    let server = Origin::serve(move |_| {
        let (is_open, changed) = &*gate;
        let _open = changed.wait_while(is_open.lock().expect("no panic"), |is_open| !*is_open).expect("no panic");
        Reply::json(&json!({ "active": true, "sub": "ann" }))
    });
    // As the defaults are.
    let config = json!({ "timeout": "2s", "cache": { "ttl": "1ms" }, "stale_if_error": "1d" });
    let gateway = asking(&upstream, &server.url(), config, "limits = { wall = \"5s\" }");
    assert_eq!(ask(&gateway, "GET", "one"), 200);
    let kept = Instant::now();
    eventually("the answer is old", || kept.elapsed() > Duration::from_millis(5));
    *open.0.lock().expect("no panic") = false;
    let mut leaves = gateway.client();
    leaves.send("GET / HTTP/1.1\r\nhost: x\r\nauthorization: Bearer one\r\n\r\n");
    eventually("the server is asked", || server.count() == 2);
    drop(leaves);
    gateway.wait_access("it has left", |line| line["error"] == "client-aborted");
    assert_eq!([ask(&gateway, "GET", "one"), ask(&gateway, "POST", "one")], [200, 503], "an old answer is for GET");
    gateway.wait_access("the reason", |line| line["reason"] == "introspection-unavailable");
    *open.0.lock().expect("no panic") = true;
    open.1.notify_all();
}

#[test]
fn a_server_can_be_an_upstream_by_name() {
    let (upstream, (server, _)) = (Origin::named("o"), server());
    let gateway = gateway(&format!(
        "{}[upstreams.login]\nendpoints = [\"http://{}\", \"{}\"]\n[filters.token]\nplugin = \"introspection\"\n\
         grants = {{ upstreams = [\"login\"], kv = [\"introspection\"], read_headers = [\"authorization\"], secrets = {{ client_secret = \"s\" }} }}\n\
         config = {{ url = \"upstream://login/introspect\", client_id = \"gateway\" }}\n",
        route(&upstream.url(), &["token"]),
        sluice_harness::origin::nobody(),
        server.url(),
    ));
    for number in 0..4 {
        assert_eq!(ask(&gateway, "GET", &format!("t{number}")), 200, "one of its endpoints is away");
    }
}

/// oidc-provider, certified by the OpenID Foundation: its metadata, its signed tokens, its opaque tokens, and what becomes of them when they are revoked.
#[test]
fn a_real_provider_with_signed_and_opaque_tokens() {
    let Some([node]) = need(["node"]) else { return };
    // Node looks for packages beside the script.
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::copy(scripts().join("oidc_server.mjs"), dir.path().join("oidc_server.mjs")).expect("a copy");
    std::os::unix::fs::symlink(tools().join("node/node_modules"), dir.path().join("node_modules")).expect("a link");
    let (mut provider, port) = Server::start(Command::new(node).arg(dir.path().join("oidc_server.mjs")));
    let url = format!("http://127.0.0.1:{port}");
    let upstream = Origin::named("o");
    let signed = json!({ "issuer": url, "discovery": true, "audience": "https://api.test/orders", "typ": "at+jwt", "max_lifetime": "1h" });
    let opaque = json!({
        "url": format!("{url}/token/introspection"), "client_id": "gateway", "issuer": url, "audience": "https://api.test/opaque",
        "scopes": ["read"], "consumer_claim": "client_id", "cache": { "ttl": "2s" },
    });
    let toml = format!("[upstreams.o]\nendpoints = [\"{}\"]\n", upstream.url())
        + "[routes.signed]\nmatch = { path = \"/signed\" }\nupstream = \"o\"\npipeline = [\"signed\"]\n\
           [routes.opaque]\nmatch = { path = \"/opaque\" }\nupstream = \"o\"\npipeline = [\"opaque\"]\n"
        + &filter(
            "signed",
            "jwt-auth",
            &format!("grants = {{ read_headers = [\"authorization\"], http = [\"{url}\"] }}"),
            signed,
        )
        + &filter(
            "opaque",
            "introspection",
            &format!(
                "grants = {{ read_headers = [\"authorization\"], http = [\"{url}\"], kv = [\"introspection\"], secrets = {{ client_secret = \"secret of the gateway\" }} }}"
            ),
            opaque,
        );
    let gateway = gateway(&toml);
    let ask = |path: &str, token: &str| {
        gateway.request("GET", path, &[("authorization", &format!("Bearer {token}"))], b"").status
    };

    let jwt = provider.ask("jwt https://api.test/orders");
    eventually("the keys to be found by discovery", || ask("/signed", &jwt) == 200);
    gateway.wait_access("the caller", |line| line["consumer"] == "app");
    let elsewhere = provider.ask("jwt https://api.test/invoices");
    assert_eq!(ask("/signed", &elsewhere), 401, "a token for another audience");
    gateway.wait_access("the audience", |line| line["reason"] == "wrong-audience");

    let token = provider.ask("opaque");
    assert_eq!(ask("/signed", &token), 401, "it is not signed");
    assert_eq!([(); 5].map(|()| ask("/opaque", &token)), [200; 5]);
    assert_eq!(ask("/opaque", "no-such-token"), 401);
    assert_eq!(ask("/opaque", &elsewhere), 401, "a token for another audience");
    assert_eq!(provider.ask(&format!("revoke {token}")), "revoked");
    eventually("the revoked token to be refused after the time of the cache", || ask("/opaque", &token) == 401);
    gateway.wait_access("that it is not active", |line| line["reason"] == "token-inactive");

    let fresh = provider.ask("opaque");
    assert_eq!(ask("/opaque", &fresh), 200);
    provider.kill();
    eventually("what is kept to be too old", || ask("/opaque", &fresh) == 503);
    assert_eq!(ask("/signed", &jwt), 200, "signed tokens outlive their server");
}

#[test]
fn who_guesses_tokens_is_slowed_down_and_costs_the_server_no_calls() {
    let (upstream, (server, answer)) = (Origin::named("o"), server());
    let throttle = json!({ "throttle": { "failures": 3, "window": "1h" } });
    let gateway = asking(&upstream, &server.url(), throttle, "");
    assert_eq!(ask(&gateway, "GET", "right"), 200);
    *answer.lock().expect("no panic") = br#"{"active": false}"#.to_vec();
    let statuses: Vec<_> = (0..6).map(|guess| ask(&gateway, "GET", &format!("guess{guess}"))).collect();
    assert_eq!((statuses, server.count()), (vec![401, 401, 401, 429, 429, 429], 4));
    let refused = gateway.request("GET", "/", &[("authorization", "Bearer right")], b"");
    assert_eq!(
        (refused.status, refused.header("retry-after")),
        (429, Some("1200")),
        "an active token tells nothing, either"
    );
    gateway.wait_access("the reason", |line| line["reason"] == "throttled");
}
