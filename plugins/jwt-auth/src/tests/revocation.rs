//! The list of revoked tokens, and the endpoint that changes it.

use super::*;

fn listed(extra: &Value) -> Harness<JwtAuth> {
    let mut config = json!({ "revocation": { "endpoint": true }, "rules": [{ "roles": ["admin"] }] });
    config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    filter(config)
}

fn with(change: &Value) -> String {
    let mut claims = good();
    claims["iat"] = json!(NOW - 100);
    claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    sign(&claims)
}

/// Sends a change with a token, and answers with the status.
fn change(filter: &Harness<JwtAuth>, method: &str, token: &str, body: &str) -> u16 {
    let mut exchange = Exchange::new(method, "/revocations")
        .header("authorization", &format!("Bearer {token}"))
        .body("application/json", body);
    match filter.on_request(&mut exchange).unwrap() {
        Verdict::Respond => {
            let is_method = exchange.response.reason.as_deref() == Some("bad-method");
            assert_eq!(is_method, exchange.response.status == 405);
            assert_eq!(exchange.response.headers.get("cache-control"), Some("no-store"));
            return exchange.response.status;
        }
        Verdict::Continue => assert!(exchange.request.wanted_body, "nothing is passed on"),
    }
    assert_eq!(filter.on_request_body(&mut exchange), Ok(Verdict::Respond));
    if exchange.response.status == 400 {
        assert_eq!(exchange.response.reason.as_deref(), Some("bad-revocation"));
    }
    exchange.response.status
}

/// Why a token is refused; the endpoint itself uses the list, too.
fn refused(filter: &Harness<JwtAuth>, token: &str) -> Option<String> {
    let mut exchange = Exchange::new("POST", "/").header("authorization", &format!("Bearer {token}"));
    match filter.on_request(&mut exchange).unwrap() {
        Verdict::Continue => None,
        Verdict::Respond => {
            assert_eq!(exchange.response.status, 401);
            exchange.response.reason
        }
    }
}

#[test]
fn a_token_is_revoked_by_its_id() {
    let filter = listed(&json!({}));
    let (admin, one, other) = (with(&json!({})), with(&json!({ "jti": "one" })), with(&json!({ "jti": "other" })));
    assert_eq!(refused(&filter, &one), None);
    assert_eq!(change(&filter, "POST", &admin, &json!({ "jti": "one", "expires": NOW + 60 }).to_string()), 204);
    assert_eq!(refused(&filter, &one).as_deref(), Some("token-revoked"));
    assert_eq!(refused(&filter, &other), None);
    assert_eq!(change(&filter, "DELETE", &admin, r#"{"jti": "one"}"#), 204);
    assert_eq!(refused(&filter, &one), None);
    let long = "x".repeat(5000);
    assert_eq!(change(&filter, "POST", &admin, &json!({ "jti": long }).to_string()), 204);
    assert_eq!(refused(&filter, &with(&json!({ "jti": long }))).as_deref(), Some("token-revoked"));
}

#[test]
fn all_tokens_of_a_subject_are_revoked_by_when_they_were_issued() {
    let filter = listed(&json!({}));
    let admin = with(&json!({ "sub": "root" }));
    assert_eq!(change(&filter, "POST", &admin, &json!({ "sub": "alice", "issued_before": NOW - 50 }).to_string()), 204);
    assert_eq!(refused(&filter, &with(&json!({}))).as_deref(), Some("token-revoked"));
    assert_eq!(refused(&filter, &with(&json!({ "iat": NOW - 50 }))), None);
    assert_eq!(refused(&filter, &sign(&good())).as_deref(), Some("token-revoked"), "it may be an old one");
    assert_eq!(refused(&filter, &admin), None);
    assert_eq!(change(&filter, "POST", &admin, r#"{"sub": "alice"}"#), 204);
    assert_eq!(refused(&filter, &with(&json!({ "iat": NOW - 50 }))).as_deref(), Some("token-revoked"), "until now");
}

#[test]
fn an_entry_is_kept_as_long_as_its_token_passes() {
    let filter = listed(&json!({ "leeway": "2h" }));
    let token = with(&json!({ "jti": "one" }));
    assert_eq!(change(&filter, "POST", &token, &json!({ "jti": "one", "expires": NOW + 60 }).to_string()), 204);
    filter.set_now(NOW + 60 + 7190);
    assert_eq!(refused(&filter, &token).as_deref(), Some("token-revoked"));
}

#[test]
fn an_entry_is_of_one_issuer() {
    let filter = listed(&json!({ "issuer": ["me", "me2"] }));
    let admin = with(&json!({ "sub": "root" }));
    assert_eq!(change(&filter, "POST", &admin, r#"{"jti": "one"}"#), 400, "of which issuer?");
    assert_eq!(change(&filter, "POST", &admin, r#"{"issuer": "me", "jti": "2one"}"#), 204);
    assert_eq!(refused(&filter, &with(&json!({ "iss": "me2", "jti": "one" }))), None);
    assert_eq!(refused(&filter, &with(&json!({ "jti": "2one" }))).as_deref(), Some("token-revoked"));
}

#[test]
fn the_endpoint_is_for_those_whom_a_rule_names() {
    let filter = listed(&json!({}));
    let admin = with(&json!({}));
    assert_eq!(change(&filter, "POST", &with(&json!({ "roles": ["user"] })), r#"{"jti": "x"}"#), 403);
    assert_eq!(change(&filter, "GET", &admin, ""), 405);
    for body in [
        "",
        "[]",
        "{}",
        r#"{"jti": 1}"#,
        r#"{"jti": "a", "sub": "b"}"#,
        r#"{"jti": "a", "issued_before": 1}"#,
        r#"{"sub": "a", "expires": 1}"#,
        r#"{"jti": "a", "x": 1}"#,
    ] {
        assert_eq!(change(&filter, "POST", &admin, body), 400, "{body}");
    }
    for rules in [json!([]), json!([{ "public": true }]), json!([{ "methods": ["GET"], "roles": ["admin"] }])] {
        let open = listed(&json!({ "rules": rules }));
        assert_eq!(change(&open, "POST", &admin, r#"{"jti": "x"}"#), 403, "{rules}");
    }
    let needs = filter.needs().unwrap();
    assert_eq!(needs["kv"], json!(["revoked"]));
    assert!(!super::filter(json!({ "revocation": {} })).wants("on-request-body"));
    let refused = Harness::<JwtAuth>::new(json!({ "secret": SECRET, "revocation": { "keep": "0s" } })).err().unwrap();
    assert!(refused.starts_with("revocation.keep: expected 1s to 366d"), "{refused}");
}
