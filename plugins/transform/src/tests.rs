use serde_json::{Value, json};
use sluice_filter::testing::{Exchange, Harness, ResponseMessage, config_keys, wrong_defaults};

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
    let mut exchange = Exchange::get("/").header("x-name", "x/a b?");
    assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Continue));
    assert_eq!(exchange.request.path, "/u/x%2Fa%20b%3F");
    // Servers that decode the slash would walk up.
    for name in ["..", ".", "../a", "a/..", "..\\a", "a/./b"] {
        let mut exchange = Exchange::get("/").header("x-name", name);
        assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Respond), "{name}");
        assert_eq!(exchange.response.status, 400, "{name}");
    }
    let mut missing = Exchange::get("/");
    assert_eq!(filter.on_request(&mut missing), Ok(Verdict::Respond));
    assert_eq!(missing.response.status, 400);
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
    let of_loops = refusal(json!({"response": {"headers": {"set": {"CDN-Loop": "x"}}}}));
    assert_eq!(of_loops, "response.headers: `CDN-Loop` frames or routes the message and is set by the gateway");
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
            "write_headers": [
                "accept-ranges", "content-digest", "content-md5", "content-range", "cookie", "digest", "etag", "repr-digest",
                "set-cookie", "x-a", "x-new", "x-old",
            ],
        }))
    );
    let filter = Harness::<Transform>::new(json!({"response": {"body": {"remove": ["/a"]}}})).unwrap();
    let written = filter.needs().unwrap()["write_headers"].clone();
    assert!(
        ["range", "if-range", "etag"].iter().all(|name| written.as_array().unwrap().contains(&json!(name))),
        "{written}"
    );
}

#[test]
fn what_a_client_sends_is_no_failure() {
    let holes = ["{param.x}", "{claim.sub}", "{consumer}", "{context.k}"];
    for hole in holes {
        let config = json!({
            "request": {"headers": {"set": {"x-a": hole}}},
            "response": {"headers": {"set": {"x-a": hole}, "add": {"x-b": hole}}},
        });
        let filter = filter(config);
        for value in ["a\nb", "a\r\nx-admin: 1", "\u{0}", "\u{7f}", "\u{1b}[0m", " a", "a ", "\ta", " "] {
            let mut exchange = Exchange::get("/");
            exchange.route.params.insert("x".to_owned(), value.to_owned());
            exchange.consumer = Some(value.to_owned());
            let claims = context::Value::Json(json!({"sub": value}).to_string());
            exchange.context.insert("auth.claims".to_owned(), (claims, "auth".to_owned()));
            exchange.context.insert("k".to_owned(), (context::Value::Text(value.to_owned()), "auth".to_owned()));
            let mut asked = exchange.clone();
            assert_eq!(filter.on_request(&mut asked), Ok(Verdict::Respond), "{hole} {value:?}");
            assert_eq!(asked.response.status, 400);
            exchange.respond(ResponseMessage::new(200));
            assert_eq!(filter.on_response(&mut exchange), Ok(Verdict::Continue), "{hole} {value:?}");
            let set = exchange.response.headers.get("x-a").unwrap();
            assert!(set.contains('%') && exchange.response.headers.get("x-b") == Some(set), "{set}");
        }
    }
    let blanks = filter(
        json!({"request": {"headers": {"set": {"x-a": " <{consumer} {consumer}> ", "x-b": "{consumer} "}, "add": {"x-c": " "}}}}),
    );
    let mut exchange = Exchange::get("/");
    exchange.consumer = Some("a".to_owned());
    assert_eq!(blanks.on_request(&mut exchange), Ok(Verdict::Continue), "blanks of the rule itself are the operator's");
    assert_eq!((exchange.request.headers.get("x-a"), exchange.request.headers.get("x-b")), (Some("<a a>"), Some("a")));
    let filter = filter(json!({"request": {"query": {"set": {"q": "{param.x}"}}, "path": {"set": "/{param.x}"}}}));
    let mut exchange = Exchange::get(r#"/?f={"a":1}&g=%zz"#);
    exchange.route.params.insert("x".to_owned(), "a\n\u{e9}".to_owned());
    assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Continue));
    assert_eq!(exchange.request.path, "/a%0A%C3%A9");
    assert_eq!(exchange.request.query.as_deref(), Some("f=%7B%22a%22:1%7D&g=%25zz&q=a%0A%C3%A9"));
}

#[test]
fn a_header_that_is_not_utf_8_is_kept() {
    let filter = filter(json!({"request": {
        "headers": {"rename": {"x-old": "x-new", "x-many": "x-all"}, "set": {"x-copy": "{header.x-name}"}},
        "query": {"set": {"q": "{header.x-name}"}},
    }}));
    let mut exchange = Exchange::get("/");
    for (name, value) in [("x-old", b"\xe9".as_slice()), ("x-many", b"a"), ("x-many", b"\xff"), ("x-name", b"caf\xe9%")]
    {
        exchange.request.headers.append(name, value);
    }
    assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Continue));
    let request = &exchange.request;
    assert_eq!(request.query.as_deref(), Some("q=caf%E9%25"));
    assert_eq!(request.headers.get("x-copy"), Some("caf%E9%25"));
    assert!(!request.headers.has("x-old") && request.headers.has("x-new"));
    assert!(!request.headers.has("x-many") && request.headers.has("x-all"));
}

#[test]
fn claims_are_found_whatever_their_name_and_value() {
    let set = json!({
        "x-tenant": "{claim.https://example.com/tenant}", "x-id": r#"{claim.["https://example.com/org","id"]}"#,
        "x-roles": "{claim.roles}", "x-number": "{claim.number}",
    });
    let filter = filter(json!({"request": {"headers": {"set": set}}}));
    assert_eq!(filter.needs().unwrap()["authentication"], json!(true));
    let mut exchange = Exchange::get("/");
    let claims = json!({
        "https://example.com/tenant": "acme", "https://example.com/org": {"id": 7.0}, "roles": ["a", "b"],
        "number": 9_223_372_036_854_775_809_u64,
    });
    exchange.context.insert("auth.claims".to_owned(), (context::Value::Json(claims.to_string()), "auth".to_owned()));
    assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Continue));
    for (name, value) in
        [("x-tenant", "acme"), ("x-id", "7"), ("x-roles", r#"["a","b"]"#), ("x-number", "9223372036854775809")]
    {
        assert_eq!(exchange.request.headers.get(name), Some(value), "{name}");
    }
}

#[test]
fn no_part_of_a_body_is_asked_for_or_let_through() {
    let filter = filter(json!({"response": {"body": {"remove": ["/cost"]}}}));
    assert!(filter.response_bodies().is_some_and(|(_, types)| types.contains(&"multipart/byteranges".to_owned())));
    let mut exchange = Exchange::get("/").header("range", "bytes=0-9").header("if-range", "\"a\"").header("x-a", "1");
    assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Continue));
    assert!(!exchange.request.headers.has("range") && !exchange.request.headers.has("if-range"));
    assert!(exchange.request.headers.has("x-a"));
    for media_type in ["application/json", "multipart/byteranges; boundary=x"] {
        let of_the_part = [
            ("content-range", "bytes 0-13/99"),
            ("accept-ranges", "bytes"),
            ("etag", "W/\"a\""),
            ("repr-digest", "sha-256=:x:"),
            ("last-modified", "x"),
            ("expires", "x"),
            ("cdn-cache-control", "max-age=60"),
        ];
        let mut part = ResponseMessage::new(206).body(media_type, r#"{"cost": 1, "a"#);
        for (name, value) in of_the_part {
            part = part.header(name, value);
        }
        exchange.respond(part.header("cache-control", "public, max-age=60").header("x-b", "1"));
        assert_eq!(filter.on_response_body(&mut exchange), Ok(Verdict::Respond));
        assert_eq!(exchange.response.status, 502);
        assert_eq!(exchange.response.reason.as_deref(), Some("unasked-part"));
        let headers = &exchange.response.headers;
        assert!(of_the_part.iter().all(|(name, _)| !headers.has(name)), "{headers:?}");
        assert_eq!((headers.get("cache-control"), headers.get("x-b")), (Some("no-store"), Some("1")));
        assert!(!String::from_utf8_lossy(&exchange.response.body).contains("cost"));
    }
}

#[test]
fn what_was_said_of_the_old_bytes_goes_with_them() {
    let filter = filter(json!({"request": {"body": {"remove": ["/a"]}}, "response": {"body": {"remove": ["/a"]}}}));
    let fields = [
        ("content-digest", "sha-256=:x:"),
        ("repr-digest", "sha-256=:x:"),
        ("digest", "sha-256=x"),
        ("content-range", "bytes 0-1/2"),
        ("accept-ranges", "bytes"),
        ("etag", "\"a\""),
    ];
    for (body, stays) in [(r#"{"a":1}"#, false), (r#"{"b":1}"#, true)] {
        let mut exchange = Exchange::new("POST", "/").body("application/json", body);
        let mut response = ResponseMessage::new(200).body("application/json", body).header("last-modified", "x");
        for (name, value) in fields {
            exchange = exchange.header(name, value);
            response = response.header(name, value);
        }
        assert_eq!(filter.on_request_body(&mut exchange), Ok(Verdict::Continue));
        exchange.respond(response);
        assert_eq!(filter.on_response_body(&mut exchange), Ok(Verdict::Continue));
        for (name, _) in fields {
            assert_eq!(exchange.request.headers.has(name), stays, "{name}");
            assert_eq!(exchange.response.headers.has(name), stays, "{name}");
        }
        assert!(exchange.response.headers.has("last-modified"));
    }
}

#[test]
fn the_defaults_of_the_schema_are_those_of_the_config() {
    assert_eq!(wrong_defaults::<Transform>(&json!({})), Vec::<String>::new());
}
