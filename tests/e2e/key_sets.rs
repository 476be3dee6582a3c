//! Key sets that are fetched: what the gateway does before it has them, and when they can't be had.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::json;
use sluice_harness::certs::Certs;
use sluice_harness::{Origin, Reply, eventually};

use crate::support::{filter, gateway, with_base};

/// A token of RFC 7515, appendix A.3, and the key that it was signed with.
const TOKEN: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
const KEY: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;

/// A server that takes connections and never answers.
fn hanging() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    (listener, url)
}

/// A route `/NAME` that lets in who has a token, with the keys of this server.
fn guarded(name: &str, upstream: &str, keys: &str, refresh: &str) -> String {
    let config = json!({"jwks_url": format!("{keys}/jwks"), "refresh": refresh, "leeway": "36500d"});
    let grants = format!("grants = {{ read_headers = [\"authorization\"], http = [\"{keys}\"] }}");
    format!("[routes.{name}]\nmatch = {{ path = \"/{name}\" }}\nupstream = \"{upstream}\"\npipeline = [\"{name}\"]\n")
        + &filter(name, "jwt-auth", &grants, config)
}

#[test]
fn servers_that_hang_cost_the_start_nothing_and_readiness_one_wait() {
    let origin = Origin::named("o");
    let servers: Vec<_> = (0..3).map(|_| hanging()).collect();
    let begun = Instant::now();
    let toml: String =
        servers.iter().enumerate().map(|(i, (_, url))| guarded(&format!("r{i}"), &origin.url(), url, "5m")).collect();
    let open = format!("[routes.open]\nmatch = {{ path = \"/open\" }}\nupstream = \"{}\"\n", origin.url());
    let gateway = gateway(&(toml + &open));
    // Listening, and not ready.
    assert_eq!((gateway.admin("/readyz").status, gateway.get("/open").status), (503, 200));
    let authorization = [("authorization", &*format!("Bearer {TOKEN}"))];
    let early = gateway.request("GET", "/r0", &authorization, b"");
    assert_eq!((early.status, early.header("retry-after")), (503, Some("2")));
    gateway.wait_access("why", |line| line["reason"] == "no-keys");
    assert_eq!(gateway.get("/r1").status, 401, "who has no token is told so");
    eventually("the gateway is ready", || gateway.admin("/readyz").status == 200);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(12), "the waits add up: {took:?}");
    gateway.wait_log("which set is missing", |line| {
        line["message"].as_str().is_some_and(|text| text.contains("/jwks can't be fetched"))
    });
}

#[test]
fn a_reload_to_keys_that_cannot_be_fetched_leaves_the_running_ones() {
    let origin = Origin::named("o");
    let keys = Origin::serve(|_| {
        Reply::Full(
            200,
            vec![("content-type".into(), "application/json".into())],
            format!(r#"{{"keys": [{KEY}]}}"#).into_bytes(),
        )
    });
    let toml = |keys: &str, refresh: &str| with_base(&guarded("r", &origin.url(), keys, refresh));
    let gateway = sluice_harness::Gateway::start(&toml(&keys.url(), "5m"));
    let ask = || gateway.request("GET", "/r", &[("authorization", &format!("Bearer {TOKEN}"))], b"").status;
    eventually("the keys are there", || ask() == 200);
    eventually("the gateway is ready", || gateway.admin("/readyz").status == 200);
    let (_server, hangs) = hanging();
    let dead = format!("http://{}", sluice_harness::origin::nobody());
    for url in [dead, hangs] {
        let line = gateway.try_reload(&toml(&url, "5m")).to_string();
        assert!(line.contains("configuration refused") && line.contains("can't be fetched"), "{line}");
        assert_eq!(ask(), 200, "{url}");
    }
    // What the running configuration has is not fetched again, and a set from the same URL begins with its keys.
    let stopped = keys.url();
    drop(keys);
    gateway.reload(&toml(&stopped, "10m"));
    assert_eq!(ask(), 200);
}

#[test]
fn keys_from_a_server_with_an_authority_of_its_own() {
    let origin = Origin::named("o");
    let certs = Certs::new();
    let set = || {
        let body = format!(r#"{{"keys": [{KEY}]}}"#).into_bytes();
        Reply::Full(200, vec![("content-type".into(), "application/json".into())], body)
    };
    let keys = Origin::serve_tls(certs.leaf(&["localhost"]).server_config(&["http/1.1"]), move |_| set());
    let url = format!("https://localhost:{}", keys.address().port());
    let ask = |ca: &Certs| {
        let ca = format!("jwks_ca = \"${{file:{}}}\", ", ca.ca().display());
        let toml = guarded("r", &origin.url(), &url, "5m").replace("\"jwks_url\"", &format!("{ca}jwks_url"));
        let gateway = gateway(&toml);
        eventually("the gateway is ready", || gateway.admin("/readyz").status == 200);
        gateway.request("GET", "/r", &[("authorization", &format!("Bearer {TOKEN}"))], b"").status
    };
    assert_eq!((ask(&certs), ask(&Certs::new())), (200, 503));
}
