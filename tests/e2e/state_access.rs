//! The plugins of access with their state in Redis, which is killed: callers are told to come again, and no filter counts as failed.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;
use sluice_harness::redis::Redis;
use sluice_harness::{Origin, Reply, eventually};

use crate::support::gateway;

const SECRET: &str = "a made-up secret of more than 32 bytes";

fn token(claims: &str) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode("{\"alg\":\"HS256\"}"), URL_SAFE_NO_PAD.encode(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    format!("Bearer {signed}.{}", URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes())))
}

#[test]
fn a_state_that_is_away_is_a_503_with_a_reason() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let (origin, server) =
        (Origin::named("o"), Origin::serve(|_| Reply::json(&json!({ "active": true, "sub": "ann" }))));
    let mut toml = format!(
        "[state.shared]\nredis = [\"{}\"]\ntimeout = \"2s\"\non_unavailable = \"closed\"\n\
         [upstreams.all]\nendpoints = [\"{}\"]\n",
        redis.url(),
        origin.url()
    );
    for plugin in ["basic-auth", "api-key", "jwt-auth", "introspection"] {
        toml += &format!("[plugins.{plugin}]\nstate = \"shared\"\nlimits.wall = \"8s\"\n");
    }
    let mut add = |name: &str, plugin: &str, grants: &str, config: &str| {
        toml += &format!(
            "[routes.{name}]\nmatch = {{ path = \"/{name}\" }}\nupstream = \"all\"\npipeline = [\"{name}\"]\n\
             [filters.{name}]\nplugin = \"{plugin}\"\ngrants = {{ {grants} }}\nconfig = {{ {config} }}\n"
        );
    };
    let signed =
        format!("secret = \"{SECRET}\", issuer = \"me\", rules = [{{ methods = [\"POST\"], roles = [\"admin\"] }}]");
    add("basic", "basic-auth", "consumers = true, read_headers = [\"authorization\"]", "");
    add("key", "api-key", "consumers = true", "throttle = {}");
    let jwt = "kv = [\"revoked\"], read_headers = [\"authorization\"]";
    add("jwt", "jwt-auth", jwt, &format!("{signed}, revocation = {{}}"));
    add("revoke", "jwt-auth", jwt, &format!("{signed}, revocation = {{ endpoint = true }}"));
    let asks = format!(
        "http = [\"{}\"], kv = [\"introspection\"], read_headers = [\"authorization\"], secrets = {{ client_secret = \"s\" }}",
        server.url()
    );
    let asked = format!("url = \"{}/introspect\", client_id = \"gateway\"", server.url());
    add("opaque", "introspection", &asks, &asked);
    add("slow", "introspection", &asks, &format!("{asked}, throttle = {{}}"));
    let gateway = gateway(&toml);
    let claims = r#"{"iss":"me","sub":"ann","jti":"1","roles":["admin"],"exp":4102444800}"#;
    let basic = format!("Basic {}", STANDARD.encode("ann:wrong"));
    let ask = |path: &str| {
        let (method, name, value) = match path {
            "/basic" => ("GET", "authorization", basic.clone()),
            "/key" => ("GET", "x-api-key", "wrong".to_owned()),
            "/opaque" | "/slow" => ("GET", "authorization", "Bearer opaque".to_owned()),
            "/revoke" => ("POST", "authorization", token(claims)),
            _ => ("GET", "authorization", token(claims)),
        };
        gateway.request(method, path, &[(name, &value)], br#"{"jti": "2"}"#)
    };
    let paths = ["/basic", "/key", "/jwt", "/revoke", "/opaque", "/slow"];
    assert_eq!(paths.map(|path| ask(path).status), [401, 401, 200, 204, 200, 200]);
    redis.kill();
    let reasons = [
        "throttle-unavailable",
        "throttle-unavailable",
        "revocations-unavailable",
        "revocations-unavailable",
        "introspection-unavailable",
        "throttle-unavailable",
    ];
    for (path, reason) in paths.into_iter().zip(reasons) {
        let refused = ask(path);
        assert_eq!((refused.status, refused.header("retry-after").is_some()), (503, true), "{path}");
        assert_eq!(refused.header("cache-control"), Some("no-store"), "{path}");
        gateway.wait_access("the reason", |line| line["reason"] == reason && line["path"] == path);
    }
    assert_eq!((origin.count(), server.count()), (3, 1), "nothing has passed");
    assert!(redis.start_again());
    eventually("it is found again", || paths.map(|path| ask(path).status) == [401, 401, 200, 204, 200, 200]);
}
