use serde_json::{Value, json};
use sluice_filter::testing::{Exchange, Harness, ResponseMessage, config_keys};

use super::*;

fn filter(config: Value) -> Harness<Transform> {
    Harness::with_grants(config, json!({"read_headers": ["authorization"], "write_headers": ["authorization"]}))
        .unwrap()
}

#[test]
fn edits_the_heads() {
    let filter = filter(json!({
        "request": {
            "headers": {
                "set": {"x-user": "{claim.sub}", "x-tier": "{context.tier}", "x-trace": "{{{request_id}}}"},
                "add": {"via": "sluice"}, "remove": ["authorization", "X-Remove-Me"], "rename": {"x-old": "x-new"},
            },
            "query": {"set": {"user": "{claim.sub}"}, "remove": ["debug"]},
            "path": {"remove_prefix": "/api", "add_prefix": "/v2/"},
        },
        "response": {"headers": {"set": {"x-gw": "1"}, "remove": ["x-upstream-secret"]}, "status": 203},
    }));
    let mut exchange = Exchange::get("/api/orders?debug=1&page=%32")
        .header("authorization", "Bearer x")
        .header("x-tier", "gold")
        .header("x-old", "a")
        .header("x-old", "b")
        .header("x-remove-me", "1");
    let claims = context::Value::Json(r#"{"sub":"alice"}"#.to_owned());
    exchange.context.insert("auth.claims".to_owned(), (claims, "auth".to_owned()));
    assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Continue));
    let request = &exchange.request;
    assert_eq!((request.path.as_str(), request.query.as_deref()), ("/v2/orders", Some("page=%32&user=alice")));
    assert_eq!(request.headers.get("x-user"), Some("alice"));
    assert_eq!(request.headers.get("x-tier"), None, "a client's own must not stand in for a missing value");
    assert_eq!(request.headers.get("x-trace"), Some("{test-request}"));
    assert_eq!(request.headers.all("x-new"), ["a", "b"]);
    for gone in ["authorization", "x-remove-me", "x-old"] {
        assert_eq!(request.headers.get(gone), None, "{gone}");
    }
    exchange.respond(ResponseMessage::new(200).header("x-upstream-secret", "s").header("x-other", "o"));
    assert_eq!(filter.on_response(&mut exchange), Ok(Verdict::Continue));
    let response = &exchange.response;
    assert_eq!((response.status, response.headers.get("x-gw")), (203, Some("1")));
    assert_eq!((response.headers.get("x-upstream-secret"), response.headers.get("x-other")), (None, Some("o")));
}

#[test]
fn edits_bodies_in_place() {
    let filter = filter(json!({
        "request": {"body": {"set": {"/meta/by": "{client_address}"}, "remove": ["/items/*/cost"], "rename": {"/qty": "quantity"}}},
        "response": {"body": {"add": {"/api": 2}}},
    }));
    assert!(filter.request_bodies().is_some_and(|(max, types)| max == 1 << 20 && types.len() == 2));
    let mut exchange = Exchange::new("POST", "/")
        .body("application/json", r#"{"qty": 1.50, "items": [{"cost": 1, "id": 10000000000000000000001}]}"#);
    assert_eq!(filter.on_request_body(&mut exchange), Ok(Verdict::Continue));
    assert_eq!(
        String::from_utf8_lossy(&exchange.request.body),
        r#"{"quantity": 1.50, "items": [{ "id": 10000000000000000000001}],"meta":{"by":"192.0.2.1"}}"#
    );
    let mut bad = Exchange::new("POST", "/").body("application/json", "{");
    assert_eq!(filter.on_request_body(&mut bad), Ok(Verdict::Respond));
    assert_eq!(bad.response.status, 400);
    exchange.respond(ResponseMessage::new(200).header("etag", "\"a\"").body("application/json", "[1, 2]"));
    assert_eq!(filter.on_response_body(&mut exchange), Ok(Verdict::Continue));
    assert_eq!(
        (exchange.response.body.as_slice(), exchange.response.headers.get("etag")),
        (&b"[1, 2]"[..], Some("\"a\""))
    );
    exchange.respond(ResponseMessage::new(200).header("etag", "\"a\"").body("application/json", "{}"));
    assert_eq!(filter.on_response_body(&mut exchange), Ok(Verdict::Continue));
    assert_eq!((exchange.response.body.as_slice(), exchange.response.headers.get("etag")), (&b"{\"api\":2}"[..], None));
}

#[test]
fn hooks_without_rules_are_off() {
    let filter = filter(json!({"response": {"headers": {"remove": ["server"]}}}));
    assert!(filter.wants("on-response"));
    for hook in ["on-request", "on-request-body", "on-response-body"] {
        assert!(!filter.wants(hook), "{hook}");
    }
}

#[test]
fn path_values_are_encoded() {
    let filter = filter(json!({"request": {"path": {"set": "/u/{header.x-name}"}}}));
    let mut exchange = Exchange::get("/").header("x-name", "../a b?");
    assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Continue));
    assert_eq!(exchange.request.path, "/u/..%2Fa%20b%3F");
    assert!(filter.on_request(&mut Exchange::get("/").header("x-name", "..")).is_err());
}

#[test]
fn the_path_is_not_encoded_twice() {
    let config = json!({"request": {"path": {"set": "/v2{path}"}, "query": {"set": {"from": "{path}"}}}});
    let mut exchange = Exchange::get("/a%20b/c;d=1");
    assert_eq!(filter(config).on_request(&mut exchange), Ok(Verdict::Continue));
    assert_eq!(exchange.request.path, "/v2/a%20b/c;d=1");
    assert_eq!(exchange.request.query.as_deref(), Some("from=%2Fv2%2Fa%2520b%2Fc%3Bd%3D1"));
}

#[test]
fn refuses_bad_configs() {
    let refusal = |config: Value| Harness::<Transform>::new(config).err().unwrap_or_default();
    assert!(
        refusal(json!({"request": {"headers": {"set": {"x": "{nobody}"}}}}))
            .starts_with("request.headers.set.x: unknown value")
    );
    assert!(refusal(json!({"request": {"headers": {"sett": {}}}})).contains("did you mean `set`"));
    assert!(
        refusal(json!({"request": {"body": {"remove": ["a"]}}})).starts_with("request.body.remove[0]: expected a path")
    );
    assert!(refusal(json!({"response": {"status": 99}})).starts_with("response.status: "));
    assert!(refusal(json!({"response": {"headers": {"remove": ["a b"]}}})).starts_with("response.headers: "));
    let framing = refusal(json!({"request": {"headers": {"rename": {"Host": "x-host"}}}}));
    assert_eq!(framing, "request.headers: `Host` frames or routes the message and is set by the gateway");
    for (hole, why) in
        [("{header.host}", "no filter sees the field `host`"), ("{header.a b}", "`a b` is not a header name")]
    {
        let refused = refusal(json!({"request": {"query": {"set": {"q": hole}}}}));
        assert_eq!(refused, format!("request.query.set.q: {why}"));
    }
}

#[test]
fn the_schema_has_every_key() {
    let schema: Value = serde_json::from_str(include_str!("../schema.json")).unwrap();
    let keys = schema["properties"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(config_keys::<Transform>(), keys);
}

#[test]
fn says_which_headers_it_takes_from_and_writes() {
    let config = json!({
        "request": {
            "headers": {"remove": ["Cookie"], "rename": {"X-Old": "x-new"}, "set": {"x-a": "{header.X-From}"}},
            "query": {"set": {"q": "{header.x-query}"}},
            "path": {"set": "/{header.x-path}"},
            "body": {"set": {"/a": "{header.x-body}", "/b": 1}},
        },
        "response": {"headers": {"add": {"set-cookie": "a=b"}}},
    });
    let filter = Harness::<Transform>::new(config).unwrap();
    assert_eq!(
        filter.needs(),
        Some(json!({
            "read_headers": ["x-body", "x-from", "x-old", "x-path", "x-query"],
            "write_headers": ["cookie", "set-cookie", "x-a", "x-new", "x-old"],
        }))
    );
}
