use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sluice_filter::testing::{Exchange, Harness, config_keys};

use super::*;

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

fn sign_with(secret: &str, head: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(head), part(claims));
    let signer = Harness::<Signer>::new(json!({ "secret": secret })).unwrap();
    let mut exchange = Exchange::get("/").header("message", &message);
    signer.on_request(&mut exchange).unwrap();
    format!("{message}.{}", exchange.request.headers.get("signature").unwrap())
}

fn sign(claims: &Value) -> String {
    sign_with("key", &json!({"alg": "HS256", "typ": "JWT"}), claims)
}

fn good() -> Value {
    json!({"iss": "me", "sub": "alice", "exp": NOW + 60, "aud": ["a", "b"], "roles": ["user", "admin"], "scope": "read write"})
}

fn filter(extra: Value) -> Harness<JwtAuth> {
    let mut config = json!({"secret": "key", "issuer": "me"});
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
    let head = |head: Value| sign_with("key", &head, &good());
    let token = sign(&good());
    let (rest, signature) = token.rsplit_once('.').unwrap();
    let refused = [
        with("exp", json!(NOW - 31)),
        with("exp", json!("soon")),
        with("nbf", json!(NOW + 31)),
        with("iss", json!("you")),
        with("aud", json!("c")),
        sign(&json!({"iss": "me", "aud": "b"})),
        sign_with("other", &json!({"alg": "HS256"}), &good()),
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

#[test]
fn duplicate_members_are_refused() {
    let filter = filter(json!({}));
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let claims = format!(r#"{{"iss":"me","exp":{},"sub":"a","sub":"b"}}"#, NOW + 60);
    let message = format!("{}.{}", part(r#"{"alg":"HS256"}"#), part(&claims));
    let signer = Harness::<Signer>::new(json!({ "secret": "key" })).unwrap();
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
    assert!(refusal(json!({"jwks": {"keys": []}})).starts_with("jwks: no key"));
}

#[test]
fn the_schema_has_every_key() {
    let schema: Value = serde_json::from_str(include_str!("../schema.json")).unwrap();
    let keys = schema["properties"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(config_keys::<JwtAuth>(), keys);
}
