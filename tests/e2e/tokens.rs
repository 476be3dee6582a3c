//! Signed tokens: of several issuers, in cookies and queries, bound to certificates, revoked, and with keys that an issuer's metadata name.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::{digest, hmac};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::version::TLS13;
use serde_json::{Value, json};
use sluice_harness::certs::{Certs, Leaf};
use sluice_harness::redis::Redis;
use sluice_harness::wait::eventually;
use sluice_harness::{Client, Gateway, Origin, Reply};

use crate::support::{filter, gateway, route, with_base};

/// A token of HS256 with these claims, and an end far away.
fn token(secret: &str, claims: &Value) -> String {
    let encode = |text: String| URL_SAFE_NO_PAD.encode(text);
    let mut payload = json!({ "exp": 4_102_444_800_u64, "sub": "ann" });
    payload.as_object_mut().expect("an object").extend(claims.as_object().expect("an object").clone());
    let signed =
        format!("{}.{}", encode(json!({ "alg": "HS256", "kid": "1" }).to_string()), encode(payload.to_string()));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes())))
}

fn ask(gateway: &Gateway, token: &str) -> u16 {
    gateway.request("GET", "/", &[("authorization", &format!("Bearer {token}"))], b"").status
}

/// What the filter needs of instances, in both modes.
fn in_mode(mode: &str) -> String {
    format!("[plugins.jwt-auth]\ninstances = {{ mode = \"{mode}\" }}\n")
}

const GRANTS: &str = "grants = { read_headers = [\"authorization\"] }";

#[test]
fn no_issuer_signs_for_another() {
    let origin = Origin::named("o");
    let (a, b) = ("a".repeat(32), "b".repeat(32));
    let set = |secret: &str| json!({ "keys": [{ "kty": "oct", "kid": "1", "k": URL_SAFE_NO_PAD.encode(secret) }] });
    let config = json!({ "issuers": [
        { "issuer": "https://a.test", "jwks": set(&a).to_string(), "consumer_prefix": "" },
        { "issuer": "https://b.test", "jwks": set(&b).to_string(), "audience": "partners" },
    ]});
    for mode in ["reused", "fresh"] {
        let gateway = gateway(
            &(route(&origin.url(), &["auth"]) + &filter("auth", "jwt-auth", GRANTS, config.clone()) + &in_mode(mode)),
        );
        let of = |secret: &str, issuer: &str| token(secret, &json!({ "iss": issuer, "aud": ["partners"] }));
        assert_eq!(ask(&gateway, &of(&a, "https://a.test")), 200, "{mode}");
        gateway.wait_access("the caller", |line| line["consumer"] == "ann");
        assert_eq!(ask(&gateway, &of(&b, "https://b.test")), 200, "{mode}");
        gateway.wait_access("the other caller", |line| line["consumer"] == "https://b.test ann");
        assert_eq!([ask(&gateway, &of(&a, "https://b.test")), ask(&gateway, &of(&b, "https://a.test"))], [401, 401]);
        gateway.wait_access("the mix-up", |line| line["reason"] == "bad-signature");
        assert_eq!(ask(&gateway, &of(&a, "https://c.test")), 401);
        gateway.wait_access("nobody", |line| line["reason"] == "wrong-issuer");
    }
}

#[test]
fn claims_bring_no_header_and_no_member_of_a_list() {
    let (origin, secret) = (Origin::named("o"), "s".repeat(32));
    let toml = route(&origin.url(), &["auth"]) + &filter("auth", "jwt-auth", GRANTS, json!({ "secret": secret }));
    for mode in ["reused", "fresh"] {
        let gateway = gateway(&(toml.clone() + &in_mode(mode)));
        for claims in [
            json!({ "sub": "ann\r\nx-user-roles: admin" }),
            json!({ "sub": "ann\n" }),
            json!({ "sub": " ann" }),
            json!({ "sub": "ann\0" }),
            json!({ "roles": ["user,admin"] }),
            json!({ "roles": ["user", "admin\r\nx: 1"] }),
        ] {
            assert_eq!(ask(&gateway, &token(&secret, &claims)), 401, "{mode}: {claims}");
        }
        gateway.wait_access("why", |line| line["reason"] == "bad-claims");
        assert_eq!(ask(&gateway, &token(&secret, &json!({ "sub": "Doe, Ann", "roles": ["a", "b"] }))), 200, "{mode}");
        let seen = origin.last();
        assert_eq!((seen.header("x-user-id"), seen.header("x-user-roles")), (Some("Doe, Ann"), Some("a,b")));
    }
    assert_eq!(origin.count(), 2);
}

#[test]
fn a_token_of_a_url_or_a_cookie_is_in_no_log_and_reaches_no_upstream() {
    let origin = Origin::named("o");
    let secret = "s".repeat(32);
    let config =
        json!({ "secret": secret, "places": ["header:authorization", "cookie:session", "query:access_token"] });
    let grants = "grants = { read_headers = [\"authorization\", \"cookie\"], write_headers = [\"cookie\"] }";
    let gateway = gateway(&(route(&origin.url(), &["auth"]) + &filter("auth", "jwt-auth", grants, config)));
    let good = token(&secret, &json!({}));
    let page = gateway.request(
        "GET",
        &format!("/page?q=1&access_token={good}&r=%20"),
        &[("referer", &format!("http://me.test/page?access_token={good}"))],
        b"",
    );
    assert_eq!((page.status, page.header("referrer-policy")), (200, Some("no-referrer")));
    assert_eq!(page.header("cache-control"), Some("private"));
    let seen = origin.last();
    assert_eq!((seen.target.as_str(), seen.header("referer")), ("/page?q=1&r=%20", Some("http://me.test/page")));
    let cookie = format!("a=b; session={good}");
    let image = gateway.request("GET", "/image", &[("cookie", &cookie)], b"");
    assert_eq!((image.status, image.header("referrer-policy")), (200, None));
    assert_eq!(origin.last().header("cookie"), Some("a=b"));
    let two = gateway.request("GET", "/?access_token=x.y.z", &[("cookie", &cookie)], b"");
    assert_eq!((two.status, origin.count()), (400, 2));
    assert_eq!(gateway.get("/bad?access_token=secret.bad.token").status, 401);
    gateway.wait_access("the last one", |line| line["path"] == "/bad");
    let log: String = gateway.log().iter().chain(&gateway.access()).map(Value::to_string).collect();
    assert!(!log.contains(&good) && !log.contains("secret.bad"), "{log}");
}

#[test]
fn a_bound_token_needs_the_certificate_of_its_client() {
    let certs = Certs::new();
    let (server, alice, eve) = (certs.leaf(&["localhost"]), certs.leaf(&["alice"]), certs.leaf(&["eve"]));
    let (origin, secret) = (Origin::named("o"), "s".repeat(32));
    let path = |path: &std::path::Path| path.display().to_string();
    let toml = format!(
        "[gateway]\nworkers = 1\nreload = false\n[admin]\nbind = \"127.0.0.1:0\"\n[listeners.https]\nbind = \"127.0.0.1:0\"\n\
         [listeners.https.tls]\ncertificates = [\"a\"]\nclient_auth = {{ ca = \"{}\", mode = \"optional\" }}\n\
         [certificates.a]\ncert = \"{}\"\nkey = \"{}\"\n{}{}",
        path(&certs.ca()),
        path(&server.cert),
        path(&server.key),
        route(&origin.url(), &["auth"]),
        filter("auth", "jwt-auth", GRANTS, json!({ "secret": secret })),
    );
    let gateway = Gateway::start(&toml);
    let thumbprint = |leaf: &Leaf| URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, &leaf.der()));
    let bound = token(&secret, &json!({ "cnf": { "x5t#S256": thumbprint(&alice) } }));
    let ask = |config, token: &str| {
        let mut client = Client::connect_tls(gateway.address_of("https"), "localhost", config).expect("a connection");
        let authorization = format!("Bearer {token}");
        client.request("GET", "/", &[("host", "localhost"), ("authorization", &authorization)], b"").status
    };
    assert_eq!(ask(certs.client_config_showing(&alice, &[]), &bound), 200);
    assert_eq!(ask(certs.client_config_showing(&eve, &[]), &bound), 401);
    gateway.wait_access("a stolen token", |line| line["reason"] == "wrong-certificate");
    assert_eq!(ask(certs.client_config(&[], &[&TLS13]), &bound), 401);
    gateway.wait_access("without a certificate", |line| line["reason"] == "certificate-missing");
    assert_eq!(ask(certs.client_config(&[], &[&TLS13]), &token(&secret, &json!({}))), 200, "it is bound to none");
    gateway.reload(&toml.replace("\"secret\" =", "\"certificate_bound\" = \"required\", \"secret\" ="));
    assert_eq!(ask(certs.client_config_showing(&alice, &[]), &token(&secret, &json!({}))), 401);
}

#[test]
fn revoked_tokens_are_refused_by_all_filters_of_the_plugin() {
    let (origin, secret) = (Origin::named("o"), "s".repeat(32));
    for mode in ["reused", "fresh"] {
        let keys = format!("secret = \"{secret}\", issuer = \"me\"");
        let toml = route(&origin.url(), &["auth"])
            + &format!(
                "[routes.revocations]\nmatch = {{ path = \"/revocations\" }}\nrespond = {{ status = 404 }}\npipeline = [\"revoke\"]\n\
                 [plugins.jwt-auth]\ngrants = {{ read_headers = [\"authorization\"], kv = [\"revoked\"] }}\ninstances = {{ mode = \"{mode}\" }}\n\
                 [filters.auth]\nplugin = \"jwt-auth\"\nconfig = {{ {keys}, revocation = {{}} }}\n\
                 [filters.revoke]\nplugin = \"jwt-auth\"\n\
                 config = {{ {keys}, revocation = {{ endpoint = true }}, rules = [{{ scopes = [\"tokens:revoke\"] }}] }}\n"
            );
        let gateway = gateway(&toml);
        let of = |claims: Value| {
            let mut all = json!({ "iss": "me", "iat": 1_000 });
            all.as_object_mut().expect("an object").extend(claims.as_object().expect("an object").clone());
            token(&secret, &all)
        };
        let (one, other, admin) = (
            of(json!({ "jti": "1" })),
            of(json!({ "jti": "2" })),
            of(json!({ "sub": "root", "scope": "tokens:revoke" })),
        );
        let change = |method: &str, token: &str, body: &Value| {
            let headers = [("authorization", &*format!("Bearer {token}")), ("content-type", "application/json")];
            gateway.request(method, "/revocations", &headers, body.to_string().as_bytes()).status
        };
        assert_eq!([ask(&gateway, &one), ask(&gateway, &other)], [200, 200], "{mode}");
        assert_eq!(change("POST", &one, &json!({ "jti": "2" })), 403, "{mode}: who may not");
        assert_eq!(change("POST", &admin, &json!({ "jti": "1", "expires": 4_102_444_800_u64 })), 204, "{mode}");
        assert_eq!([ask(&gateway, &one), ask(&gateway, &other)], [401, 200], "{mode}");
        gateway.wait_access("the reason", |line| line["reason"] == "token-revoked");
        gateway.reload(&with_base(&toml));
        assert_eq!(ask(&gateway, &one), 401, "{mode}: the list is kept over a reload");
        assert_eq!(change("POST", &admin, &json!({ "sub": "ann" })), 204, "{mode}");
        assert_eq!([ask(&gateway, &other), ask(&gateway, &admin)], [401, 200], "{mode}");
        assert_eq!(change("DELETE", &admin, &json!({ "sub": "ann" })), 204);
        assert_eq!(ask(&gateway, &other), 200, "{mode}");
        assert_eq!(change("POST", &admin, &json!({ "jti": "x".repeat(9_000) })), 413);
        assert_eq!(change("GET", &admin, &json!({})), 405);
        gateway.reload(&with_base(&toml.replace("kv = [\"revoked\"]", "kv = [\"revoked\"], kv_quota = \"1KiB\"")));
        eventually("the list is full", || change("POST", &admin, &json!({ "sub": fresh_name() })) == 507);
        gateway.wait_access("why", |line| line["reason"] == "revocations-full");
    }
}

/// Who revokes a token is not told that it is revoked where nothing was kept.
#[test]
fn a_revocation_that_the_state_does_not_keep_is_no_success() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let (origin, secret) = (Origin::named("o"), "s".repeat(32));
    let gateways = ["open", "closed"].map(|word| {
        gateway(&format!(
            "{}[state.shared]\nredis = [\"{}\"]\nprefix = \"{word}:\"\ntimeout = \"1s\"\non_unavailable = \"{word}\"\n\
             [plugins.jwt-auth]\nstate = \"shared\"\nlimits.wall = \"8s\"\n\
             grants = {{ read_headers = [\"authorization\"], kv = [\"revoked\"] }}\n\
             [filters.revoke]\nplugin = \"jwt-auth\"\nconfig = {{ secret = \"{secret}\", issuer = \"me\", \
             revocation = {{ endpoint = true }}, rules = [{{ scopes = [\"tokens:revoke\"] }}] }}\n",
            route(&origin.url(), &["revoke"]),
            redis.url(),
        ))
    });
    let admin = format!("Bearer {}", token(&secret, &json!({ "iss": "me", "scope": "tokens:revoke" })));
    let revoke = |gateway: &Gateway| {
        let headers = [("authorization", &*admin), ("content-type", "application/json")];
        gateway.request("POST", "/", &headers, br#"{"jti": "1"}"#).status
    };
    gateways.iter().for_each(|gateway| eventually("the state is there", || revoke(gateway) == 204));
    redis.kill();
    for gateway in &gateways {
        assert_eq!(revoke(gateway), 503);
        gateway.wait_access("the reason", |line| line["reason"] == "revocations-unavailable");
    }
}

/// A subject that no token has.
fn fresh_name() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("nobody-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A token of RFC 7515, appendix A.3, of the issuer `joe`, and the key that it was signed with.
const TOKEN: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
const KEY: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;

#[test]
fn the_metadata_of_an_issuer_say_where_its_keys_are() {
    let origin = Origin::named("o");
    let keys = Origin::serve(|_| Reply::json(&serde_json::from_str(&format!(r#"{{"keys": [{KEY}]}}"#)).expect("JSON")));
    let metadata = Arc::new(Mutex::new(json!({ "issuer": "joe", "jwks_uri": format!("{}/keys", keys.url()) })));
    let answer = Arc::clone(&metadata);
    let login = Origin::serve(move |_| Reply::json(&answer.lock().expect("no panic")));
    let url = format!("{}/.well-known/oauth-authorization-server", login.url());
    let toml = |granted: &[String], refresh: &str| {
        let config = json!({ "issuer": "joe", "discovery": url, "leeway": "36500d", "refresh": refresh });
        let grants = format!("grants = {{ read_headers = [\"authorization\"], http = {granted:?} }}");
        with_base(&(route(&origin.url(), &["auth"]) + &filter("auth", "jwt-auth", &grants, config)))
    };
    let both = [login.url(), keys.url()];
    let gateway = Gateway::start(&toml(&both, "5m"));
    eventually("the keys are there", || ask(&gateway, TOKEN) == 200);
    assert_eq!(
        (login.last().target.as_str(), keys.last().target.as_str()),
        ("/.well-known/oauth-authorization-server", "/keys")
    );

    // A new source, whose metadata decide nothing: the configuration is refused, and the running keys stay.
    let refuse = |change: Value, why: &str| {
        let before = metadata.lock().expect("no panic").clone();
        metadata
            .lock()
            .expect("no panic")
            .as_object_mut()
            .expect("an object")
            .extend(change.as_object().expect("an object").clone());
        // Another issuer of the same filter, so that no set that is held has the keys already.
        let other = toml(&both, "7m").replace("\"joe\"", "\"jim\"");
        let line = gateway.try_reload(&other).to_string();
        assert!(line.contains("configuration refused") && line.contains(why), "{line}");
        assert_eq!(ask(&gateway, TOKEN), 200);
        *metadata.lock().expect("no panic") = before;
    };
    refuse(json!({}), "the metadata are of the issuer");
    refuse(json!({ "issuer": "jim", "jwks_uri": "file:///etc/passwd" }), "`jwks_uri`");
    refuse(
        json!({ "issuer": "jim", "jwks_uri": format!("http://{}/", sluice_harness::origin::nobody()) }),
        "grants.http",
    );
    let one = toml(&[login.url()], "5m");
    let line = gateway.try_reload(&one).to_string();
    assert!(
        line.contains("configuration refused") && line.contains("grants.http"),
        "without the grant of the keys: {line}"
    );
    // The last good keys outlive both servers.
    drop((login, keys));
    gateway.reload(&toml(&both, "9m"));
    assert_eq!(ask(&gateway, TOKEN), 200);
}
