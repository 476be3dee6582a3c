use serde_json::{Value, json};
use sluice_filter::testing::{Exchange, Harness, ResponseMessage, config_keys, wrong_defaults};

use super::*;

fn filter(config: Value) -> Harness<Cors> {
    Harness::new(config).unwrap()
}

fn preflight(filter: &Harness<Cors>, origin: &str, method: &str, headers: &str) -> Exchange {
    let mut exchange = Exchange::new("OPTIONS", "/")
        .header("origin", origin)
        .header("access-control-request-method", method)
        .header("access-control-request-headers", headers);
    assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Respond));
    assert_eq!(exchange.response.status, 204);
    exchange
}

fn allowed(exchange: &Exchange) -> Option<&str> {
    exchange.response.headers.get("access-control-allow-origin")
}

#[test]
fn answers_preflights() {
    let filter = filter(json!({
        "origins": ["https://app.example.com", "https://*.example.org"], "headers": ["X-Token"], "methods": ["PUT"],
        "credentials": true, "max_age": "1h",
    }));
    let yes = preflight(&filter, "https://app.example.com", "PUT", "x-token");
    assert_eq!(allowed(&yes), Some("https://app.example.com"));
    let headers = &yes.response.headers;
    assert_eq!(headers.get("access-control-allow-methods"), Some("PUT"));
    assert_eq!(headers.get("access-control-allow-headers"), Some("X-Token"));
    assert_eq!(headers.get("access-control-allow-credentials"), Some("true"));
    assert_eq!(headers.get("access-control-max-age"), Some("3600"));
    assert!(headers.get("vary").is_some_and(|vary| vary.starts_with("origin")));
    assert!(allowed(&preflight(&filter, "https://a.b.example.org", "GET", "")).is_some());
    for (origin, method, names) in [
        ("https://evil.com", "PUT", ""),
        ("https://example.org", "PUT", ""),
        ("https://evil.com/.example.org", "PUT", ""),
        ("http://app.example.com", "PUT", ""),
        ("null", "PUT", ""),
        ("https://app.example.com", "DELETE", ""),
        ("https://app.example.com", "PUT", "x-token, x-other"),
    ] {
        assert_eq!(allowed(&preflight(&filter, origin, method, names)), None, "{origin} {method} {names}");
    }
}

#[test]
fn any_header_is_named() {
    let filter = filter(json!({"origins": ["*"], "headers": ["*"], "methods": ["*"], "private_network": true}));
    let mut exchange = Exchange::new("OPTIONS", "/")
        .header("origin", "https://a.example")
        .header("access-control-request-method", "PURGE")
        .header("access-control-request-headers", "authorization")
        .header("access-control-request-private-network", "true");
    assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Respond));
    assert_eq!(allowed(&exchange), Some("*"));
    let headers = &exchange.response.headers;
    assert_eq!(headers.get("access-control-allow-headers"), Some("authorization"));
    assert_eq!(headers.get("access-control-allow-methods"), Some("PURGE"));
    assert_eq!(headers.get("access-control-allow-private-network"), Some("true"));
}

#[test]
fn marks_responses_of_any_maker() {
    let filter = filter(json!({"origins": ["https://a.example"], "expose": ["x-total"]}));
    for origin in [None, Some("https://a.example"), Some("https://b.example")] {
        let mut exchange = Exchange::get("/");
        if let Some(origin) = origin {
            exchange = exchange.header("origin", origin);
        }
        assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Continue));
        exchange.respond(ResponseMessage::new(502).header("access-control-allow-origin", "*").header("vary", "accept"));
        assert_eq!(filter.on_response(&mut exchange), Ok(Verdict::Continue));
        assert_eq!(exchange.response.headers.all("vary"), ["accept", "origin"]);
        let seen = allowed(&exchange).map(str::to_owned);
        match origin {
            Some("https://a.example") => {
                assert_eq!(seen.as_deref(), origin);
                assert_eq!(exchange.response.headers.get("access-control-expose-headers"), Some("x-total"));
            }
            Some(_) => assert_eq!(seen, None),
            None => assert_eq!(seen.as_deref(), Some("*")),
        }
    }
}

#[test]
fn any_origin_is_said_to_everybody() {
    let filter = filter(json!({"origins": ["*"], "expose": ["x-total"]}));
    for mut exchange in [Exchange::get("/"), Exchange::get("/").header("origin", "https://a.example")] {
        assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Continue));
        exchange.respond(ResponseMessage::new(200).header("access-control-allow-credentials", "true"));
        assert_eq!(filter.on_response(&mut exchange), Ok(Verdict::Continue));
        assert_eq!(allowed(&exchange), Some("*"));
        let headers = &exchange.response.headers;
        assert_eq!(headers.get("access-control-expose-headers"), Some("x-total"));
        assert_eq!(headers.get("access-control-allow-credentials"), None);
        assert_eq!(headers.get("vary"), None);
    }
}

#[test]
fn nothing_is_granted_to_an_origin_that_is_not_listed() {
    let filter = filter(json!({"origins": ["https://a.example"]}));
    let mut exchange = Exchange::get("/").header("origin", "https://b.example");
    assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Continue));
    exchange.respond(FIELDS.iter().fold(ResponseMessage::new(200), |response, name| response.header(name, "*")));
    assert_eq!(filter.on_response(&mut exchange), Ok(Verdict::Continue));
    for name in FIELDS {
        assert_eq!(exchange.response.headers.get(name), None, "{name}");
    }
}

/// An origin that can't be read is one that is not listed, and not the absence of one.
#[test]
fn nothing_is_granted_to_an_origin_that_is_not_utf_8() {
    let filter = filter(json!({"origins": ["https://a.example"], "methods": ["*"], "headers": ["*"]}));
    let mut exchange = Exchange::new("OPTIONS", "/");
    exchange.request.headers.append("origin", b"https://a.example\xff");
    exchange.request.headers.append("access-control-request-method", b"P\xff");
    exchange.request.headers.append("access-control-request-headers", b"x\xff, y");
    assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Respond));
    assert_eq!((exchange.response.status, allowed(&exchange)), (204, None));
    exchange.respond(ResponseMessage::new(200).header("access-control-allow-origin", "*"));
    assert_eq!(filter.on_response(&mut exchange), Ok(Verdict::Continue));
    assert_eq!(allowed(&exchange), None);
}

#[test]
fn a_plain_options_request_goes_on() {
    let filter = filter(json!({"origins": ["*"]}));
    let mut exchange = Exchange::new("OPTIONS", "/").header("origin", "https://a.example");
    assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Continue));
}

#[test]
fn refuses_bad_configs() {
    let refusal = |config: Value| Harness::<Cors>::new(config).err().unwrap_or_default();
    assert!(refusal(json!({})).starts_with("origins: missing"));
    assert!(refusal(json!({"origins": ["*"], "credentials": true})).starts_with("credentials: "));
    assert!(refusal(json!({"origins": ["null"]})).starts_with("origins: the origin `null`"));
    assert!(refusal(json!({"origins": ["https://a.example/"]})).starts_with("origins: expected an origin"));
    assert!(refusal(json!({"origins": ["https://a.example:443"]})).contains("default port"));
    assert!(refusal(json!({"origins": ["*"], "headers": ["a b"]})).starts_with("headers[0]: "));
}

#[test]
fn the_schema_has_every_key() {
    let schema: Value = serde_json::from_str(include_str!("../schema.json")).unwrap();
    let keys = schema["properties"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(config_keys::<Cors>(), keys);
}

#[test]
fn the_defaults_of_the_schema_are_those_of_the_config() {
    assert_eq!(wrong_defaults::<Cors>(&json!({"origins": "*"})), Vec::<String>::new());
}

#[test]
fn nothing_more_is_granted_than_the_config_says() {
    let filter = filter(json!({"origins": ["https://a.example"]}));
    let mut exchange = Exchange::new("OPTIONS", "/")
        .header("origin", "https://a.example")
        .header("access-control-request-method", "PATCH")
        .header("access-control-request-private-network", "true");
    assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Respond));
    let headers = &exchange.response.headers;
    assert_eq!(headers.get("access-control-allow-methods"), Some("GET, HEAD, POST, PUT, PATCH, DELETE"));
    assert_eq!(headers.get("access-control-max-age"), Some("600"));
    for name in
        ["access-control-allow-credentials", "access-control-allow-headers", "access-control-allow-private-network"]
    {
        assert_eq!(headers.get(name), None, "{name}");
    }
    let mut response = Exchange::get("/").header("origin", "https://a.example");
    assert_eq!(filter.on_request(&mut response), Ok(Verdict::Continue));
    response.respond(ResponseMessage::new(200).header("access-control-expose-headers", "x-total"));
    assert_eq!(filter.on_response(&mut response), Ok(Verdict::Continue));
    assert_eq!(
        response.response.headers.get("access-control-expose-headers"),
        Some("x-total"),
        "without `expose` it stays"
    );
}
