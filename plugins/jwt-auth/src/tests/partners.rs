//! Tokens that partners sign with keys of their own: what they say is not what the upstream is told of who they are.

use sluice_filter::testing::Consumer;

use super::*;

fn partners(extra: &Value) -> Harness<JwtAuth> {
    let mut config = json!({ "consumer_keys": true, "algorithms": ["HS256"] });
    config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let filter = Harness::<JwtAuth>::new(config).unwrap();
    filter.set_now(NOW);
    filter.consumers(&[
        Consumer::new("acme").tokens("https://acme.test", &json!({ "secret": "a".repeat(32) })),
        Consumer::new("umbrella").tokens("https://umbrella.test", &json!({ "secret": "u".repeat(32) })),
    ]);
    filter
}

fn token(of: &str) -> String {
    let claims = json!({
        "iss": format!("https://{of}.test"), "sub": "umbrella", "roles": ["admin"], "scope": "all", "exp": NOW + 60,
    });
    sign_with(&of[..1].repeat(32), &json!({ "alg": "HS256" }), &claims)
}

fn ask(filter: &Harness<JwtAuth>, of: &str) -> (Verdict, Exchange) {
    let mut exchange = Exchange::get("/").header("authorization", &format!("Bearer {}", token(of)));
    for name in ["x-user-id", "X_User-Id", "x-user-roles", "x_user_roles", "x-user-scopes"] {
        exchange = exchange.header(name, "eve");
    }
    (filter.on_request(&mut exchange).unwrap(), exchange)
}

#[test]
fn the_upstream_is_told_the_consumer_and_no_claim_of_a_partner() {
    let filter = partners(&json!({}));
    for _ in 0..2 {
        for of in ["acme", "umbrella"] {
            let (verdict, exchange) = ask(&filter, of);
            let headers = &exchange.request.headers;
            assert_eq!((verdict, headers.all("x-user-id")), (Verdict::Continue, vec![of]));
            for name in ["x_user-id", "x-user-roles", "x_user_roles", "x-user-scopes"] {
                assert!(!headers.has(name), "{name}");
            }
        }
    }
    assert_eq!(filter.needs().unwrap()["write_headers"], json!(["x-user-id"]));
    // Claims are passed on where the operator says so.
    let (_, exchange) = ask(&partners(&json!({ "headers": { "x-partner-user": "sub" } })), "acme");
    let headers = &exchange.request.headers;
    assert_eq!((headers.get("x-partner-user"), headers.get("x-user-id")), (Some("umbrella"), Some("eve")));
}

/// An upstream may take a request without the header for one from inside.
#[test]
fn a_consumer_whose_name_can_be_no_header_is_refused() {
    let filter = partners(&json!({}));
    filter.consumers(&[Consumer::new(" acme").tokens("https://acme.test", &json!({ "secret": "a".repeat(32) }))]);
    let (verdict, exchange) = ask(&filter, "acme");
    assert_eq!((verdict, exchange.response.reason.as_deref()), (Verdict::Respond, Some("bad-claims")));
    assert_eq!(exchange.known_consumer, None);
    assert!(filter.log().concat().contains("\" acme\" is refused"), "{:?}", filter.log());
    // Where the upstream is told something else, the name need not be a header.
    let others = partners(&json!({ "headers": { "x-partner-user": "sub" } }));
    others.consumers(&[Consumer::new(" acme").tokens("https://acme.test", &json!({ "secret": "a".repeat(32) }))]);
    assert_eq!(ask(&others, "acme").0, Verdict::Continue);
}

#[test]
fn a_rule_can_ask_for_an_issuer() {
    let filter = partners(&json!({ "rules": [{ "roles": ["admin"], "issuers": ["https://umbrella.test"] }] }));
    assert_eq!(ask(&filter, "umbrella").0, Verdict::Continue);
    let (verdict, exchange) = ask(&filter, "acme");
    assert_eq!((verdict, exchange.response.status), (Verdict::Respond, 403));
    assert_eq!(exchange.response.reason.as_deref(), Some("not-allowed"));
    let issuers = json!([{ "issuer": "a", "secret": SECRET }, { "issuer": "b", "secret": SECRET }]);
    for (config, expected) in [
        (
            json!({ "issuers": issuers, "rules": [{ "issuers": ["c"] }] }),
            "rules[0].issuers[0]: `c` is none of `issuers`",
        ),
        (
            json!({ "issuers": issuers, "revocation": { "endpoint": true }, "rules": [{ "roles": ["admin"] }] }),
            "rules[0].issuers: expected the issuers whose tokens may revoke",
        ),
        (
            json!({ "issuers": issuers, "revocation": { "endpoint": true }, "rules": [{ "issuers": ["a"] }] }),
            "rules[0]: expected `roles` or `scopes`",
        ),
        (
            json!({ "secret": SECRET, "rules": [{ "public": true, "issuers": ["c"] }] }),
            "rules[0].public: a public rule",
        ),
    ] {
        let refused = Harness::<JwtAuth>::new(config).err().expect("a bad config");
        assert!(refused.starts_with(expected), "{refused}");
    }
}
