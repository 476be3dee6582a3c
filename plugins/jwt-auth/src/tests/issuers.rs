//! Several issuers in one filter: whose keys verify, and who the callers are.

use super::*;

const OTHER: &str = "another secret of thirty-two bytes, or so";

fn of_two(extra: &Value) -> Harness<JwtAuth> {
    let key = |secret: &str| json!({"keys": [{"kty": "oct", "kid": "k1", "k": URL_SAFE_NO_PAD.encode(secret)}]});
    let mut config = json!({ "audience": "api", "issuers": [
        { "issuer": "https://a.test", "jwks": key(SECRET), "consumer_prefix": "" },
        { "issuer": "https://b.test", "jwks": key(OTHER), "audience": "partners" },
    ]});
    config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let filter = Harness::new(config).unwrap();
    filter.set_now(NOW);
    filter
}

fn token(secret: &str, issuer: &Value, audience: &str) -> String {
    let claims = json!({ "iss": issuer, "sub": "ann", "aud": audience, "exp": NOW + 60 });
    sign_with(secret, &json!({ "alg": "HS256", "kid": "k1" }), &claims)
}

#[test]
fn each_issuer_has_its_keys_its_audience_and_its_callers() {
    let filter = of_two(&json!({}));
    let a = call(&filter, &token(SECRET, &json!("https://a.test"), "api"));
    assert_eq!((a.response.status, a.consumer.as_deref()), (0, Some("ann")));
    let b = call(&filter, &token(OTHER, &json!("https://b.test"), "partners"));
    assert_eq!(
        (b.response.status, b.consumer.as_deref()),
        (0, Some("https://b.test ann")),
        "the same `sub`, another caller"
    );
    assert_eq!(b.request.headers.get("x-user-id"), Some("ann"));
}

/// Both issuers have a key of the same id: nothing but `iss` may choose.
#[test]
fn no_issuer_signs_for_another() {
    let filter = of_two(&json!({}));
    for (secret, issuer, audience, reason) in [
        (SECRET, json!("https://b.test"), "partners", "bad-signature"),
        (OTHER, json!("https://a.test"), "api", "bad-signature"),
        (SECRET, json!("https://c.test"), "api", "wrong-issuer"),
        (SECRET, json!("https://a.test/"), "api", "wrong-issuer"),
        (SECRET, json!(null), "api", "wrong-issuer"),
        (SECRET, json!(["https://a.test", "https://b.test"]), "api", "bad-claims"),
        (SECRET, json!("https://a.test"), "partners", "wrong-audience"),
        (OTHER, json!("https://b.test"), "api", "wrong-audience"),
    ] {
        let exchange = call(&filter, &token(secret, &issuer, audience));
        assert_eq!(exchange.response.reason.as_deref(), Some(reason), "{issuer} {audience}");
        assert_eq!((exchange.response.status, &exchange.consumer), (401, &None));
    }
}

/// Two values of `iss`: one to choose the keys by, and another one to be believed.
#[test]
fn an_issuer_named_twice_is_none() {
    let filter = of_two(&json!({}));
    let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","kid":"k1"}"#);
    for claims in [
        r#"{"iss":"https://a.test","iss":"https://b.test","aud":"partners","exp":1800000000}"#,
        r#"{"iss":"https://a.test","\u0069ss":"https://b.test","aud":"partners","exp":1800000000}"#,
        r#"["https://a.test"]"#,
    ] {
        let message = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims));
        let signer = Harness::<Signer>::new(json!({ "secret": SECRET })).unwrap();
        let mut exchange = Exchange::get("/").header("message", &message);
        signer.on_request(&mut exchange).unwrap();
        let token = format!("{message}.{}", exchange.request.headers.get("signature").unwrap());
        assert_eq!(call(&filter, &token).response.reason.as_deref(), Some("bad-claims"), "{claims}");
    }
    for broken in ["", "a", "a.b", "a.!.c", &format!("{head}.e30.x.y")] {
        assert_eq!(call(&filter, broken).response.status, 401, "{broken}");
    }
}

/// An id_token of the same issuer is signed with the same keys: audience and type tell it from an access token.
#[test]
fn a_token_for_something_else_is_no_access_token() {
    let filter = of_two(&json!({ "typ": "at+jwt" }));
    let ask = |typ: &str, audience: &str| {
        let claims = json!({ "iss": "https://a.test", "sub": "ann", "aud": audience, "exp": NOW + 60, "nonce": "n" });
        let token = sign_with(SECRET, &json!({ "alg": "HS256", "typ": typ }), &claims);
        call(&filter, &token).response.reason
    };
    assert_eq!(ask("at+jwt", "api"), None);
    assert_eq!(ask("at+jwt", "the-web-client").as_deref(), Some("wrong-audience"));
    assert_eq!(ask("JWT", "api").as_deref(), Some("wrong-type"));
}

#[test]
fn configs_that_mix_issuers_are_refused() {
    let entry = json!({ "issuer": "https://a.test", "secret": SECRET });
    for (config, expected) in [
        (json!({ "issuers": [entry, entry] }), "issuers[1].issuer: `https://a.test` is listed twice"),
        (json!({ "issuers": [{ "issuer": "x" }] }), "issuers[0]: no key: give one of"),
        (json!({ "issuers": [{ "secret": SECRET }] }), "issuers[0].issuer: missing"),
        (json!({ "issuers": [entry], "secret": SECRET }), "secret: has no meaning beside `issuers`"),
        (json!({ "issuers": [entry], "issuer": "x" }), "issuer: has no meaning beside `issuers`"),
        (json!({ "issuers": [entry], "consumer_keys": true }), "issuers: has no meaning beside `consumer_keys`"),
        (
            json!({ "issuers": [{ "issuer": "x", "secret": SECRET, "algorithms": ["RS256"] }] }),
            "issuers[0].algorithms[0]: `RS256` can't be used with `secret`",
        ),
        (json!({ "issuers": [{ "issuer": "x", "jwks": "[" }] }), "issuers[0].jwks: "),
        (json!({ "issuers": [{ "issuer": "x", "discovery": true }] }), "issuers[0].discovery: "),
        (json!({ "discovery": true }), "discovery: needs `issuer`"),
        (json!({ "discovery": 1, "issuer": "https://a.test" }), "discovery: expected a boolean or the URL"),
        (json!({ "discovery": true, "secret": SECRET }), "secret: only one of discovery, secret"),
        (
            json!({ "discovery": true, "issuer": "https://a.test", "algorithms": ["HS256"] }),
            "algorithms[0]: `HS256` can't be used with `discovery`",
        ),
    ] {
        let refused = Harness::<JwtAuth>::with_grants(config.clone(), json!({ "consumers": true }));
        let refused = refused.err().expect("a bad config");
        assert!(refused.starts_with(expected), "{config}: {refused}");
    }
}

#[test]
fn a_lifetime_has_an_upper_bound() {
    let filter = filter(json!({ "max_lifetime": "1h" }));
    let ask = |change: Value| {
        let mut claims = good();
        claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        call(&filter, &sign(&claims)).response.reason
    };
    assert_eq!(ask(json!({ "iat": NOW - 10 })), None);
    assert_eq!(ask(json!({ "iat": NOW, "exp": NOW + 3600 })), None);
    for (change, reason) in [
        (json!({ "iat": NOW, "exp": NOW + 3601 }), "lifetime-too-long"),
        (json!({ "iat": NOW - 4000, "exp": NOW + 10 }), "lifetime-too-long"),
        (json!({}), "claim-missing"),
        (json!({ "iat": "now" }), "bad-claims"),
        (json!({ "iat": NOW + 90_000, "exp": NOW + 90_010 }), "token-not-yet-valid"),
    ] {
        assert_eq!(ask(change.clone()).as_deref(), Some(reason), "{change}");
    }
}
