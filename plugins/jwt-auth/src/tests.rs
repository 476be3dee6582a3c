use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sluice_filter::crypto::KeySet;
use sluice_filter::testing::{Exchange, Harness, config_keys, wrong_defaults};

use super::*;

mod binding;
mod issuers;
mod partners;
mod places;
mod revocation;

const NOW: u64 = 1_700_000_000;

/// Signs with a key set of the harness itself: `on_request` runs inside a call.
struct Signer(KeySet);

#[derive(Deserialize)]
struct Secret {
    secret: String,
}

impl Filter for Signer {
    type Config = Secret;
    fn new(config: Secret, setup: &mut Setup) -> Result<Self, ConfigError> {
        Ok(Self(setup.key_set(&json!({ "secret": config.secret }))?))
    }
}

impl OnRequest for Signer {
    fn on_request(&self, request: &Request) -> Result<Verdict, Error> {
        let message = request.header("message")?.unwrap_or_default();
        let signature = self.0.sign("HS256", None, message.as_bytes())?;
        request.set_header("signature", &URL_SAFE_NO_PAD.encode(signature))?;
        Ok(Verdict::Continue)
    }
}

/// RFC 7518 §3.2: as long as the hash.
const SECRET: &str = "a secret of thirty-two bytes, or so";

fn sign_with(secret: &str, head: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(head), part(claims));
    let signer = Harness::<Signer>::new(json!({ "secret": secret })).unwrap();
    let mut exchange = Exchange::get("/").header("message", &message);
    signer.on_request(&mut exchange).unwrap();
    format!("{message}.{}", exchange.request.headers.get("signature").unwrap())
}

fn sign(claims: &Value) -> String {
    sign_with(SECRET, &json!({"alg": "HS256", "typ": "JWT"}), claims)
}

fn good() -> Value {
    json!({"iss": "me", "sub": "alice", "exp": NOW + 60, "aud": ["a", "b"], "roles": ["user", "admin"], "scope": "read write"})
}

fn filter(extra: Value) -> Harness<JwtAuth> {
    let mut config = json!({"secret": SECRET, "issuer": "me"});
    for (key, value) in extra.as_object().unwrap() {
        config[key] = value.clone();
    }
    let filter = Harness::new(config).unwrap();
    filter.set_now(NOW);
    filter
}

fn call(filter: &Harness<JwtAuth>, token: &str) -> Exchange {
    let mut exchange = Exchange::get("/").header("authorization", &format!("Bearer {token}"));
    let verdict = filter.on_request(&mut exchange).unwrap();
    if verdict == Verdict::Continue {
        exchange.response.status = 0;
    }
    exchange
}

fn challenge(exchange: &Exchange) -> &str {
    exchange.response.headers.get("www-authenticate").unwrap_or_default()
}

#[test]
fn admits_and_hands_on() {
    let filter = filter(json!({"strip_headers": ["x-user-email"]}));
    let token = sign(&good());
    let mut exchange = Exchange::get("/")
        .header("authorization", &format!("bearer {token}"))
        .header("x-user-id", "root")
        .header("x-user-email", "root@example.com");
    assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Continue));
    assert_eq!(exchange.request.headers.all("x-user-id"), ["alice"]);
    assert_eq!(exchange.request.headers.get("x-user-roles"), Some("user,admin"));
    assert_eq!(exchange.request.headers.get("x-user-email"), None);
    assert_eq!(exchange.consumer.as_deref(), Some("alice"));
    assert!(matches!(&exchange.context["auth.claims"].0, context::Value::Json(text) if text.contains("alice")));
}

#[test]
fn refuses_bad_tokens() {
    let filter = filter(json!({"audience": "b"}));
    assert_eq!(call(&filter, &sign(&good())).response.status, 0);
    let with = |name: &str, value: Value| {
        let mut claims = good();
        claims[name] = value;
        sign(&claims)
    };
    let head = |head: Value| sign_with(SECRET, &head, &good());
    let token = sign(&good());
    let (rest, signature) = token.rsplit_once('.').unwrap();
    let refused = [
        with("exp", json!(NOW - 31)),
        with("exp", json!("soon")),
        with("nbf", json!(NOW + 31)),
        with("iss", json!("you")),
        with("aud", json!("c")),
        sign(&json!({"iss": "me", "aud": "b"})),
        sign_with("another secret of thirty-two bytes, or so", &json!({"alg": "HS256"}), &good()),
        head(json!({"alg": "none"})),
        head(json!({"alg": "HS512"})),
        head(json!({"alg": "RS256"})),
        head(json!({"alg": "HS256", "crit": ["exp"]})),
        head(json!({"alg": "HS256", "crit": null})),
        format!("{rest}."),
        format!("{rest}.{signature}="),
        format!("{rest}.{signature}.x"),
        rest.to_owned(),
        String::new(),
        format!("{token} "),
    ];
    for token in refused {
        let exchange = call(&filter, &token);
        assert_eq!(exchange.response.status, 401, "{token}");
        assert!(challenge(&exchange).contains("error=\"invalid_token\""), "{token}: {}", challenge(&exchange));
        assert!(exchange.consumer.is_none());
    }
    let within_leeway = call(&filter, &with("exp", json!(NOW - 29)));
    assert_eq!(within_leeway.response.status, 0);
}

#[test]
fn asks_for_a_token_without_an_error_code() {
    let filter = filter(json!({"realm": "api"}));
    for mut exchange in [Exchange::get("/"), Exchange::get("/").header("authorization", "Basic eDp5")] {
        assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Respond));
        assert_eq!(exchange.response.status, 401);
        assert_eq!(challenge(&exchange), "Bearer realm=\"api\"");
    }
    let mut twice = Exchange::get("/").header("authorization", "Bearer a").header("authorization", "Bearer b");
    assert_eq!(filter.on_request(&mut twice), Ok(Verdict::Respond));
    assert_eq!(twice.response.status, 400);
}

#[test]
fn rules_by_route_and_method() {
    let filter = filter(json!({
        "roles_claim": "realm_access.roles",
        "rules": [
            {"routes": ["test"], "methods": ["DELETE"], "roles": ["owner", "admin"]},
            {"methods": ["GET"], "scopes": ["read", "list"]},
            {"routes": ["test"], "methods": ["OPTIONS"], "public": true},
        ],
    }));
    let call = |method: &str, claims: Value| {
        let mut claims = claims;
        claims["iss"] = json!("me");
        claims["exp"] = json!(NOW + 60);
        let mut exchange = Exchange::new(method, "/").header("authorization", &format!("Bearer {}", sign(&claims)));
        match filter.on_request(&mut exchange).unwrap() {
            Verdict::Continue => (0, String::new()),
            Verdict::Respond => (exchange.response.status, challenge(&exchange).to_owned()),
        }
    };
    assert_eq!(call("DELETE", json!({"realm_access": {"roles": ["admin"]}})).0, 0);
    assert_eq!(call("DELETE", json!({"roles": ["admin"]})).0, 403);
    assert_eq!(call("GET", json!({"scope": "list read"})).0, 0);
    let (status, challenge) = call("HEAD", json!({"scope": "read"}));
    assert_eq!(status, 403);
    assert!(challenge.contains("error=\"insufficient_scope\", scope=\"read list\""), "{challenge}");
    assert_eq!(call("PUT", json!({})).0, 0);
    let mut spoofed = Exchange::new("OPTIONS", "/").header("x-user-id", "root");
    assert_eq!(filter.on_request(&mut spoofed), Ok(Verdict::Continue));
    assert_eq!(spoofed.request.headers.get("x-user-id"), None);
}

fn writing(extra: Value) -> Harness<JwtAuth> {
    let mut config = json!({"secret": SECRET, "issuer": "me"});
    for (key, value) in extra.as_object().unwrap() {
        config[key] = value.clone();
    }
    let grants = json!({"read_headers": ["authorization"], "write_headers": ["authorization"]});
    let filter = Harness::with_grants(config, grants).unwrap();
    filter.set_now(NOW);
    filter
}

/// The credentials that may come to a public route: none, good, expired, forged, of another scheme, not UTF-8.
fn credentials() -> Vec<Option<Vec<u8>>> {
    let mut expired = good();
    expired["exp"] = json!(NOW - 100);
    let bearer = |token: String| Some(format!("Bearer {token}").into_bytes());
    vec![
        None,
        bearer(sign(&good())),
        bearer(sign(&expired)),
        bearer(sign_with("another secret of thirty-two bytes, or so", &json!({"alg": "HS256"}), &good())),
        Some(b"Basic eDp5".to_vec()),
        Some(b"Bearer \xff".to_vec()),
    ]
}

fn with_credentials(value: Option<Vec<u8>>) -> Exchange {
    let mut exchange = Exchange::get("/").header("x-user-id", "root");
    if let Some(value) = value {
        exchange.request.headers.append("authorization", value);
    }
    exchange
}

#[test]
fn strangers_who_pass_can_be_told_what_would_help() {
    for way in [json!({"rules": [{"public": true}], "realm": "api"}), json!({"optional": true, "realm": "api"})] {
        let mut stranger = Exchange::get("/");
        assert_eq!(filter(way.clone()).on_request(&mut stranger), Ok(Verdict::Continue));
        let challenges = context::into_texts(stranger.context["auth.challenges"].0.clone());
        assert_eq!(challenges, Some(vec!["Bearer realm=\"api\"".to_owned()]), "{way}");
    }
    let mut known = Exchange::get("/").header("authorization", &format!("Bearer {}", sign(&good())));
    assert_eq!(filter(json!({"optional": true})).on_request(&mut known), Ok(Verdict::Continue));
    assert!(!known.context.contains_key("auth.challenges"));
}

#[test]
fn no_token_is_forwarded_when_none_is_to_be() {
    let ways = [json!({"rules": [{"public": true}]}), json!({"optional": true}), json!({})];
    for mut way in ways {
        way["forward_token"] = json!(false);
        let filter = writing(way.clone());
        for value in credentials() {
            let mut exchange = with_credentials(value);
            if filter.on_request(&mut exchange) == Ok(Verdict::Continue) {
                assert!(!exchange.request.headers.has("authorization"), "{way}");
                assert_ne!(exchange.request.headers.get("x-user-id"), Some("root"), "{way}");
            } else {
                assert!(way["rules"].is_null(), "a public route goes on");
            }
        }
    }
}

#[test]
fn a_public_route_forwards_only_what_it_does_not_understand_or_has_checked() {
    let public = json!({"rules": [{"public": true}]});
    let forwarded: Vec<bool> = credentials()
        .into_iter()
        .map(|value| {
            let mut exchange = with_credentials(value);
            assert_eq!(writing(public.clone()).on_request(&mut exchange), Ok(Verdict::Continue));
            exchange.request.headers.has("authorization")
        })
        .collect();
    assert_eq!(forwarded, [false, true, false, false, true, false]);
    // Without the grant a bad token can't be removed, and is refused.
    let statuses: Vec<u16> = credentials()
        .into_iter()
        .map(|value| {
            let mut exchange = with_credentials(value);
            let verdict = filter(public.clone()).on_request(&mut exchange).unwrap();
            if verdict == Verdict::Continue { 0 } else { exchange.response.status }
        })
        .collect();
    assert_eq!(statuses, [0, 0, 401, 401, 0, 401]);
}

#[test]
fn a_second_value_that_is_not_text_counts() {
    let mut exchange = with_credentials(Some(format!("Bearer {}", sign(&good())).into_bytes()));
    exchange.request.headers.append("authorization", b"Bearer \xff");
    assert_eq!(filter(json!({})).on_request(&mut exchange), Ok(Verdict::Respond));
    assert_eq!(exchange.response.status, 400);
}

#[test]
fn other_spellings_of_identity_headers_are_removed() {
    let filter = writing(json!({
        "optional": true, "strip_headers": ["X-User-Email"],
        "headers": {"x-user-id": "sub", "x_user_roles": "roles", "x-tenant": "iss", "x_tenant": "iss"},
    }));
    let forged = ["x_user_id", "x-user_id", "x_user-id", "x-user-roles", "x_user_email", "x-user-email"];
    let bearer = format!("Bearer {}", sign(&good()));
    for token in [Some(&bearer), None] {
        let mut exchange = forged.iter().fold(Exchange::get("/"), |e, name| e.header(name, "root"));
        if let Some(token) = token {
            exchange = exchange.header("authorization", token);
        }
        assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Continue));
        let headers = &exchange.request.headers;
        for name in forged {
            assert!(!headers.has(name), "{name}");
        }
        let is = |name: &str| headers.get(name).is_some();
        assert_eq!([is("x-user-id"), is("x_user_roles"), is("x-tenant"), is("x_tenant")], [token.is_some(); 4]);
    }
}

#[test]
fn duplicate_members_are_refused() {
    let filter = filter(json!({}));
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let claims = format!(r#"{{"iss":"me","exp":{},"sub":"a","sub":"b"}}"#, NOW + 60);
    let message = format!("{}.{}", part(r#"{"alg":"HS256"}"#), part(&claims));
    let signer = Harness::<Signer>::new(json!({ "secret": SECRET })).unwrap();
    let mut exchange = Exchange::get("/").header("message", &message);
    signer.on_request(&mut exchange).unwrap();
    let token = format!("{message}.{}", exchange.request.headers.get("signature").unwrap());
    assert_eq!(call(&filter, &token).response.status, 401);
}

/// RFC 7515, appendix A.3: an ES256 signature made by somebody else.
#[test]
fn verifies_the_example_of_the_standard() {
    let jwks = r#"{"keys":[{"kty":"EC","crv":"P-256",
        "x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
    let token = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    let filter = Harness::<JwtAuth>::new(json!({"jwks": jwks, "issuer": "joe"})).unwrap();
    filter.set_now(1_300_819_000);
    assert_eq!(call(&filter, token).response.status, 0);
    assert_eq!(call(&filter, &format!("{}A", &token[..token.len() - 1])).response.status, 401);
}

#[test]
fn refuses_bad_configs() {
    let refusal = |config: Value| Harness::<JwtAuth>::new(config).err().unwrap_or_default();
    assert!(refusal(json!({})).starts_with("no key"));
    assert!(refusal(json!({"secret": "a", "pem": "b"})).starts_with("secret: only one of"));
    assert!(refusal(json!({"secret": "a", "isuer": "b"})).contains("did you mean `issuer`"));
    assert!(refusal(json!({"secret": "a", "algorithms": ["none"]})).starts_with("algorithms[0]: unknown algorithm"));
    assert!(refusal(json!({"secret": "a", "algorithms": ["RS256"]})).starts_with("algorithms[0]: `RS256` can't"));
    let pem = "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----";
    assert!(refusal(json!({"pem": pem, "algorithms": ["HS256"]})).starts_with("algorithms[0]: `HS256` can't"));
    for method in ["", "get", "Get", "GET POST", "GET,"] {
        let config = json!({"secret": "a", "rules": [{}, {"methods": ["PUT", method]}]});
        assert!(refusal(config).starts_with(&format!("rules[1].methods[1]: `{method}` is not a method")), "{method}");
    }
    assert!(refusal(json!({"secret": "a", "strip_headers": ["a-b-c-d-e-f-g-h"]})).starts_with("strip_headers: "));
    assert!(refusal(json!({"jwks": {"keys": []}})).starts_with("jwks: no key"));
    assert!(refusal(json!({"secret": "a", "jwks_ca": "b"})).starts_with("jwks_ca: has a meaning only beside"));
    let ca = refusal(json!({"jwks_url": "https://a.example/", "jwks_ca": "b"}));
    assert!(ca.starts_with("jwks_ca: ") && ca.contains("no certificate"), "{ca}");
}

#[test]
fn the_schema_has_every_key() {
    let schema: Value = serde_json::from_str(include_str!("../schema.json")).unwrap();
    let keys = schema["properties"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(config_keys::<JwtAuth>(), keys);
}

#[test]
fn says_what_it_reads_and_writes() {
    let needs = |more: Value| {
        let mut config = json!({"secret": "a secret of at least thirty-two bytes"});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Harness::<JwtAuth>::new(config).unwrap().needs().unwrap_or_default()
    };
    let written = |needs: Value, name: &str| needs["write_headers"].as_array().unwrap().iter().any(|n| n == name);
    assert_eq!(needs(json!({}))["read_headers"], json!(["authorization"]));
    assert!(!written(needs(json!({})), "authorization"));
    assert!(written(needs(json!({"forward_token": false})), "authorization"));
    assert!(written(needs(json!({"strip_headers": ["x-api-key"]})), "x-api-key"));
}

/// Whoever issues tokens decides what is in them: nothing of it fails the filter.
#[test]
fn claims_that_cannot_be_sent_on_are_refused() {
    let filter = filter(json!({"headers": {"x-user-id": "sub", "x-org": ["https://example.com/org", "id"]}}));
    let with = |name: &str, value: Value| {
        let mut claims = good();
        claims[name] = value;
        call(&filter, &sign(&claims))
    };
    for text in ["a\nb", "a\r\nx-admin: 1", "\u{0}", "\u{7f}", " a", "a ", "\ta"] {
        for exchange in [with("sub", json!(text)), with("https://example.com/org", json!({"id": text}))] {
            assert_eq!(exchange.response.status, 401, "{text:?}");
            assert!(exchange.consumer.is_none() && !exchange.request.headers.has("x-user-id"));
        }
    }
    assert_eq!(with("sub", json!(1e300)).response.status, 401);
    // It would read as the list of `user` and `admin`.
    assert_eq!(with("sub", json!(["user,admin"])).response.status, 401);
    assert_eq!(with("filler", json!("x".repeat(70_000))).response.status, 431);
    assert_eq!(with("sub", json!("x".repeat(70_000))).response.status, 431);
    assert_eq!(with("sub", json!("x".repeat(70_000))).response.reason.as_deref(), Some("token-too-large"));
}

#[test]
fn every_claim_that_names_a_caller_is_a_consumer() {
    let filter = filter(json!({"consumer_claim": "https://example.com/id", "headers": {}}));
    let named = |id: Value| {
        let mut claims = good();
        claims["https://example.com/id"] = id;
        call(&filter, &sign(&claims)).consumer.unwrap()
    };
    let long = named(json!("x".repeat(1100)));
    assert!(long.starts_with("sha256:") && long.len() == 71, "{long}");
    assert_ne!(long, named(json!("x".repeat(1101))));
    assert_eq!((named(json!(7.0)), named(json!(["a", "b"]))), ("7".to_owned(), r#"["a","b"]"#.to_owned()));
    assert_eq!(named(json!(u64::MAX)), u64::MAX.to_string());
    assert_eq!(named(json!("a\nb")), "a\nb");
}

#[test]
fn keys_that_have_not_come_yet_are_no_fault_of_the_filter() {
    let grants = json!({"read_headers": ["authorization"], "write_headers": ["authorization"]});
    for public in [false, true] {
        let config = json!({"jwks_url": "https://keys.example/", "rules": [{"public": public}]});
        let filter = Harness::<JwtAuth>::with_grants(config, grants.clone()).unwrap();
        let token = sign_with(SECRET, &json!({"alg": "RS256"}), &good());
        let exchange = call(&filter, &token);
        if public {
            assert_eq!(exchange.response.status, 0);
            assert!(!exchange.request.headers.has("authorization"), "it was not verified");
        } else {
            assert_eq!((exchange.response.status, exchange.response.headers.get("retry-after")), (503, Some("2")));
        }
    }
}

/// RFC 9864: the fully-specified name of EdDSA over Curve25519. The key is that of RFC 8037, appendix A.
#[test]
fn ed25519_has_two_names() {
    for alg in [None, Some("EdDSA"), Some("Ed25519")] {
        let mut key = json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
        if let Some(alg) = alg {
            key["alg"] = json!(alg);
        }
        let filter = Harness::<JwtAuth>::new(json!({"jwks": {"keys": [key]}})).unwrap();
        for name in ["EdDSA", "Ed25519"] {
            let head = URL_SAFE_NO_PAD.encode(json!({"alg": name}).to_string());
            let refused = call(&filter, &format!("{head}.e30.{}", URL_SAFE_NO_PAD.encode([0; 64])));
            assert!(challenge(&refused).contains("the signature is not valid"), "{name}: {}", challenge(&refused));
        }
    }
}

#[test]
fn no_consumer_can_sign_as_another() {
    use sluice_filter::testing::Consumer;
    let config = json!({ "consumer_keys": true, "algorithms": ["HS256"], "forward_token": false });
    let grants = json!({ "consumers": true, "read_headers": ["authorization"], "write_headers": ["authorization"] });
    let filter = Harness::<JwtAuth>::with_grants(config, grants).unwrap();
    filter.set_now(NOW);
    let secret = |letter: &str| letter.repeat(32);
    filter.consumers(&[
        Consumer::new("acme").plan("gold").tokens("https://acme.test", &json!({ "secret": secret("a") })),
        Consumer::new("umbrella").tokens("https://umbrella.test", &json!({ "secret": secret("u") })),
    ]);
    let ask = |letter: &str, issuer: &str, exp: u64| {
        let claims = json!({ "iss": issuer, "sub": "umbrella", "exp": exp });
        let token = sign_with(&secret(letter), &json!({ "alg": "HS256" }), &claims);
        let mut exchange = Exchange::get("/").header("authorization", &format!("bearer {token}"));
        let verdict = filter.on_request(&mut exchange).unwrap();
        (verdict, exchange)
    };
    let (verdict, exchange) = ask("a", "https://acme.test", NOW + 60);
    assert_eq!((verdict, exchange.consumer.as_deref()), (Verdict::Continue, Some("acme")), "by its key, not by `sub`");
    let known = exchange.known_consumer.unwrap();
    assert_eq!((known.plan.as_deref(), &*known.method), (Some("gold"), "jwt"));
    assert!(!exchange.request.headers.has("authorization"));
    for (letter, issuer, exp, reason) in [
        ("a", "https://umbrella.test", NOW + 60, "bad-signature"),
        ("u", "https://acme.test", NOW + 60, "bad-signature"),
        ("a", "https://other.test", NOW + 60, "wrong-issuer"),
        ("a", "https://acme.test", NOW - 60, "token-expired"),
    ] {
        let (verdict, exchange) = ask(letter, issuer, exp);
        assert_eq!(
            (verdict, exchange.response.reason.as_deref()),
            (Verdict::Respond, Some(reason)),
            "{letter} {issuer}"
        );
        assert_eq!((exchange.consumer, exchange.known_consumer), (None, None));
    }
    let missing = &mut Exchange::get("/").header("authorization", "Basic eDp5");
    assert_eq!(filter.on_request(missing), Ok(Verdict::Respond));
    assert_eq!(missing.response.reason.as_deref(), Some("token-missing"));
}

#[test]
fn keys_of_consumers_stand_alone() {
    for (config, expected) in [
        (json!({ "consumer_keys": true, "secret": SECRET }), "secret: has no meaning beside `consumer_keys`"),
        (json!({ "consumer_keys": true, "algorithms": ["none"] }), "algorithms[0]: unknown algorithm"),
    ] {
        let refused = Harness::<JwtAuth>::new(config).err().expect("a bad config");
        assert!(refused.starts_with(expected), "{refused}");
    }
}

#[test]
fn the_defaults_of_the_schema_are_those_of_the_config() {
    let base = json!({ "issuers": [{ "issuer": "a" }], "rules": [{}], "revocation": {} });
    // A `false` is kept as it is written; `Discovery::is_on` takes it for none.
    let wrong: Vec<String> = wrong_defaults::<JwtAuth>(&base);
    let pointers: Vec<_> = wrong.iter().filter_map(|one| one.split(':').next()).collect();
    assert_eq!(pointers, ["/discovery", "/issuers/0/discovery"], "{wrong:?}");
}

/// The reason of a refusal of a token with these claims besides the good ones; `null` takes one away.
fn reason_of(filter: &Harness<JwtAuth>, more: Value) -> Option<String> {
    let mut claims = good();
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        }
    }
    call(filter, &sign(&claims)).response.reason
}

#[test]
fn a_lifetime_can_be_bounded() {
    let filter = filter(json!({"max_lifetime": "5m"}));
    assert_eq!(reason_of(&filter, json!({"iat": NOW - 200, "exp": NOW + 100})), None);
    assert_eq!(reason_of(&filter, json!({"iat": NOW - 200, "exp": NOW + 101})).as_deref(), Some("lifetime-too-long"));
    assert_eq!(reason_of(&filter, json!({})).as_deref(), Some("claim-missing"), "no iat");
    let without_exp = self::filter(json!({"max_lifetime": "5m", "required_claims": []}));
    assert_eq!(reason_of(&without_exp, json!({"iat": NOW, "exp": null})).as_deref(), Some("claim-missing"));
    assert_eq!(reason_of(&self::filter(json!({"required_claims": []})), json!({"exp": null})), None);
    // A time of issue in the future makes no lifetime a short one.
    assert!(reason_of(&filter, json!({"iat": NOW + 1000, "exp": NOW + 1100})).is_some());
}

#[test]
fn required_claims_are_there_and_are_not_null() {
    let filter = filter(json!({"required_claims": ["exp", "jti", "org.id"]}));
    assert_eq!(reason_of(&filter, json!({"jti": "1", "org": {"id": 0}})), None);
    for more in [json!({"org": {"id": 1}}), json!({"jti": "1"}), json!({"jti": "1", "org": {"id": null}})] {
        assert_eq!(reason_of(&filter, more.clone()).as_deref(), Some("claim-missing"), "{more}");
    }
}

#[test]
fn leeway_is_for_both_ends() {
    let filter = filter(json!({"leeway": "5s"}));
    for (more, reason) in [
        (json!({"exp": NOW - 4}), None),
        (json!({"exp": NOW - 5}), Some("token-expired")),
        (json!({"nbf": NOW + 5}), None),
        (json!({"nbf": NOW + 6}), Some("token-not-yet-valid")),
    ] {
        assert_eq!(reason_of(&filter, more.clone()).as_deref(), reason, "{more}");
    }
}

#[test]
fn a_type_of_token_can_be_asked_for() {
    let filter = filter(json!({"typ": "at+jwt"}));
    let of = |head: Value| call(&filter, &sign_with(SECRET, &head, &good())).response.status;
    assert_eq!(of(json!({"alg": "HS256", "typ": "at+jwt"})), 0);
    assert_eq!([of(json!({"alg": "HS256", "typ": "JWT"})), of(json!({"alg": "HS256"}))], [401; 2]);
}

/// RFC 8705 §3, RFC 9449 §7.1: neither mode takes a bound token as if it were not bound.
#[test]
fn a_bound_token_is_refused_without_its_key() {
    let (optional, required) = (filter(json!({})), filter(json!({"certificate_bound": "required"})));
    for (cnf, of_optional, of_required) in [
        (json!(null), None, Some("not-bound")),
        (json!({"x5t#S256": "AAAA"}), Some("certificate-missing"), Some("certificate-missing")),
        (json!({"jkt": "AAAA"}), Some("bound-otherwise"), Some("bound-otherwise")),
        (json!({"x5t#S256": "AAAA", "jkt": "AAAA"}), Some("bound-otherwise"), Some("bound-otherwise")),
    ] {
        assert_eq!(reason_of(&optional, json!({"cnf": cnf})).as_deref(), of_optional, "{cnf}");
        assert_eq!(reason_of(&required, json!({"cnf": cnf})).as_deref(), of_required, "{cnf}");
    }
}

#[test]
fn claims_stay_with_the_filter_where_the_context_is_off() {
    let mut exchange = Exchange::get("/").header("authorization", &format!("Bearer {}", sign(&good())));
    assert_eq!(filter(json!({"context": false})).on_request(&mut exchange), Ok(Verdict::Continue));
    assert_eq!(exchange.consumer.as_deref(), Some("alice"));
    assert!(!exchange.context.contains_key("auth.claims"));
}

#[test]
fn a_header_has_what_can_be_told_apart() {
    let filter = filter(json!({"headers": {"x-claim": "claim"}}));
    let header = |claim: Value| {
        let mut claims = good();
        claims["claim"] = claim.clone();
        let exchange = call(&filter, &sign(&claims));
        assert_eq!(exchange.response.status, 0, "{claim}");
        exchange.request.headers.get("x-claim").map(str::to_owned)
    };
    for (claim, expected) in [
        (json!("a, b"), "a, b"),
        (json!(-7), "-7"),
        (json!(9_007_199_254_740_993_u64), "9007199254740993"),
        (json!(true), "true"),
        (json!(0.5), "0.5"),
        (json!(7.0), "7"),
        (json!(["a", "b"]), "a,b"),
    ] {
        assert_eq!(header(claim.clone()).as_deref(), Some(expected), "{claim}");
    }
    for claim in [json!(null), json!({"a": 1}), json!([1, 2])] {
        assert_eq!(header(claim.clone()), None, "{claim}");
    }
}

#[test]
fn an_object_of_too_many_members_is_no_claims() {
    let filter = filter(json!({}));
    let members = |count: usize| -> Value {
        (0..count).map(|i| (format!("m{i}"), json!(i))).collect::<serde_json::Map<_, _>>().into()
    };
    assert_eq!(reason_of(&filter, json!({"more": members(1024)})), None);
    assert_eq!(reason_of(&filter, json!({"more": members(1025)})).as_deref(), Some("bad-claims"));
}

/// A filter that looks for tokens in a header of its own, in a cookie and in the query.
fn of_places() -> Harness<JwtAuth> {
    let places = json!(["header:authorization", "header:x-token", "cookie:session", "query:access_token"]);
    let config = json!({"secret": SECRET, "issuer": "me", "places": places});
    let grants = json!({"read_headers": ["authorization", "cookie"], "write_headers": ["cookie"]});
    let filter = Harness::<JwtAuth>::with_grants(config, grants).unwrap();
    filter.set_now(NOW);
    filter
}

#[test]
fn a_token_is_found_in_every_place_and_goes_no_further_from_some() {
    let (filter, token) = (of_places(), sign(&good()));
    let admitted = |mut exchange: Exchange| {
        assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Continue));
        assert_eq!(exchange.consumer.as_deref(), Some("alice"));
        exchange
    };
    for value in [token.clone(), format!("Bearer {token}")] {
        let header = admitted(Exchange::get("/").header("x-token", &value));
        assert_eq!(header.request.headers.get("x-token"), Some(&*value), "a header is forwarded");
    }
    let cookie = admitted(Exchange::get("/").header("cookie", &format!("a=1; session ={token}; b=2")));
    assert_eq!(cookie.request.headers.get("cookie"), Some("a=1; b=2"), "blanks hide nothing");
    let mut query = admitted(
        Exchange::get(&format!("/?a=1&access_token={token}&b=2"))
            .header("referer", &format!("https://h.test/?access_token={token}&c=3")),
    );
    assert_eq!(query.request.query.as_deref(), Some("a=1&b=2"));
    assert_eq!(query.request.headers.get("referer"), Some("https://h.test/?c=3"));
    query.respond(sluice_filter::testing::ResponseMessage::new(200));
    assert_eq!(filter.on_response(&mut query), Ok(Verdict::Continue));
    assert_eq!(query.response.headers.get("referrer-policy"), Some("no-referrer"));
    assert_eq!(query.response.headers.get("cache-control"), Some("private"));
    let public = sluice_filter::testing::ResponseMessage::new(200).header("cache-control", "max-age=5");
    query.respond(public);
    assert_eq!(filter.on_response(&mut query), Ok(Verdict::Continue));
    assert_eq!(query.response.headers.all("cache-control"), ["max-age=5"], "the upstream's own word stays");
}

#[test]
fn two_different_tokens_are_refused_wherever_they_are() {
    let (filter, one) = (of_places(), sign(&good()));
    let other = sign(&json!({"iss": "me", "exp": NOW + 60, "sub": "bob"}));
    let status = |mut exchange: Exchange| match filter.on_request(&mut exchange).unwrap() {
        Verdict::Continue => 0,
        Verdict::Respond => exchange.response.status,
    };
    let bearer = |token: &str| Exchange::get("/").header("authorization", &format!("Bearer {token}"));
    assert_eq!(status(bearer(&one).header("cookie", &format!("session={one}"))), 0, "one token twice is one");
    assert_eq!(status(bearer(&one).header("cookie", &format!("session={other}"))), 400);
    assert_eq!(status(bearer(&one).header("x-token", &other)), 400);
    assert_eq!(status(Exchange::get("/").header("cookie", &format!("session={one}; session={other}"))), 400);
    assert_eq!(status(Exchange::get(&format!("/?access_token={one}&access_token={other}"))), 400);
}

#[test]
fn a_rule_is_public_or_asks_for_something() {
    for more in [json!({"roles": ["a"]}), json!({"scopes": ["a"]}), json!({"issuers": ["me"]})] {
        let mut rule = more.clone();
        rule["public"] = json!(true);
        let refused = Harness::<JwtAuth>::new(json!({"secret": SECRET, "rules": [rule]})).err().unwrap_or_default();
        assert!(refused.starts_with("rules[0]"), "{more}: {refused}");
    }
}
