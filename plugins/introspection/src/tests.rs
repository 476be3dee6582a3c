use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_filter::ClientCertificate;
use sluice_filter::http::{Incoming, Outgoing};
use sluice_filter::testing::{Consumer, Exchange, Harness, ResponseMessage, config_keys, wrong_defaults};

use super::*;

const NOW: u64 = 1_700_000_000;

/// The status and the body of an answer.
type Reply = Result<(u16, Vec<u8>), Error>;

/// A server whose answer can be changed, and the calls that it got.
#[derive(Clone)]
struct Server {
    answer: Rc<RefCell<Reply>>,
    calls: Rc<RefCell<Vec<Outgoing>>>,
}

impl Server {
    fn says(&self, answer: impl Into<Value>) {
        *self.answer.borrow_mut() = Ok((200, answer.into().to_string().into_bytes()));
    }

    fn fails(&self, answer: Result<(u16, &str), Error>) {
        *self.answer.borrow_mut() = answer.map(|(status, body)| (status, body.as_bytes().to_vec()));
    }

    fn count(&self) -> usize {
        self.calls.borrow().len()
    }
}

fn active() -> Value {
    json!({ "active": true, "sub": "ann", "scope": "read write", "exp": NOW + 600, "iss": "https://as.test", "aud": ["api"] })
}

fn filter(config: &Value) -> (Harness<Introspection>, Server) {
    let mut all = json!({ "url": "https://as.test/introspect", "client_id": "gate way" });
    all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    let filter = Harness::<Introspection>::new(all).unwrap();
    filter.set_now(NOW);
    filter.secret("client_secret", "s:e/c");
    filter.consumers(&[Consumer::new("ann").plan("gold")]);
    let server = Server { answer: Rc::new(RefCell::new(Err(Error::Timeout))), calls: Rc::default() };
    server.says(active());
    let behind = server.clone();
    filter.outbound(move |request| {
        behind.calls.borrow_mut().push(request.clone());
        let (status, body) = behind.answer.borrow().clone()?;
        Ok(Incoming { status, headers: Vec::new(), body })
    });
    (filter, server)
}

fn with(token: &str) -> Exchange {
    Exchange::get("/").header("authorization", &format!("Bearer {token}"))
}

/// The status and the reason of a refusal; none where the request passes.
fn refusal(filter: &Harness<Introspection>, exchange: &mut Exchange) -> Option<(u16, String)> {
    let verdict = filter.on_request(exchange).unwrap();
    (verdict == Verdict::Respond)
        .then(|| (exchange.response.status, exchange.response.reason.clone().unwrap_or_default()))
}

fn refused(filter: &Harness<Introspection>, token: &str) -> Option<String> {
    refusal(filter, &mut with(token)).map(|(_, reason)| reason)
}

#[test]
fn an_active_token_makes_the_caller_known() {
    let (filter, server) = filter(&json!({ "scopes": ["read"], "issuer": "https://as.test", "audience": "api" }));
    let mut exchange = with("abc+/~1==");
    assert_eq!(refusal(&filter, &mut exchange), None);
    assert_eq!(exchange.consumer.as_deref(), Some("ann"));
    assert!(
        matches!(&exchange.context["auth.claims"].0, context::Value::Json(text) if text.contains("https://as.test"))
    );
    let calls = server.calls.borrow();
    let call = &calls[0];
    assert_eq!((call.method.as_str(), call.url.as_str()), ("POST", "https://as.test/introspect"));
    assert_eq!(call.body, b"token=abc%2B%2F%7E1%3D%3D&token_type_hint=access_token");
    let header = |name: &str| call.headers.iter().find(|field| field.name == name).map(|field| field.value.clone());
    // `gate%20way:s%3Ae%2Fc` (RFC 6749 §2.3.1).
    assert_eq!(header("authorization").as_deref(), Some("Basic Z2F0ZSUyMHdheTpzJTNBZSUyRmM="));
    assert_eq!(header("content-type").as_deref(), Some("application/x-www-form-urlencoded"));
}

#[test]
fn the_gateway_shows_who_it_is_in_three_ways() {
    for (way, header, form) in [
        ("client_secret_post", None, "&client_id=gate%20way&client_secret=s%3Ae%2Fc"),
        ("bearer", Some("Bearer s:e/c"), ""),
    ] {
        let (filter, server) = filter(&json!({ "client_auth": way }));
        assert_eq!(refused(&filter, "one"), None);
        let calls = server.calls.borrow();
        let found = calls[0].headers.iter().find(|field| field.name == "authorization").map(|field| &*field.value);
        assert_eq!(found, header);
        assert_eq!(String::from_utf8_lossy(&calls[0].body), format!("token=one&token_type_hint=access_token{form}"));
    }
}

#[test]
fn what_an_active_token_has_to_be() {
    let (filter, server) = filter(&json!({ "scopes": ["read"], "issuer": "https://as.test", "audience": "api" }));
    let mut number = 0;
    let mut ask = |name: &str, value: Value| {
        let mut answer = active();
        answer[name] = value;
        server.says(answer);
        number += 1;
        refused(&filter, &format!("token{number}"))
    };
    for (name, value, reason) in [
        ("active", json!(false), "token-inactive"),
        ("exp", json!(NOW), "token-expired"),
        ("exp", json!("soon"), "bad-claims"),
        ("nbf", json!(NOW + 1), "token-not-yet-valid"),
        ("iss", json!("https://other.test"), "wrong-issuer"),
        ("aud", json!("the-web-client"), "wrong-audience"),
        ("aud", Value::Null, "wrong-audience"),
        ("token_type", json!("DPoP"), "wrong-type"),
        ("cnf", json!({ "jkt": "x" }), "bound-otherwise"),
        ("cnf", json!({ "x5t#S256": "x" }), "certificate-missing"),
        ("scope", json!("readers"), "not-allowed"),
        ("sub", json!(1e300), "bad-claims"),
    ] {
        assert_eq!(ask(name, value.clone()).as_deref(), Some(reason), "{name} {value}");
    }
    for (name, value) in [("aud", json!("api")), ("token_type", json!("bearer")), ("scope", json!(["read"]))] {
        assert_eq!(ask(name, value.clone()), None, "{name} {value}");
    }
}

#[test]
fn a_bound_token_needs_its_certificate() {
    let (filter, server) = filter(&json!({}));
    let mut answer = active();
    answer["cnf"] = json!({ "x5t#S256": "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s" });
    server.says(answer);
    for (byte, reason) in [("ab", None), ("ac", Some("wrong-certificate"))] {
        let mut exchange = with("one");
        let mut certificate = ClientCertificate::default();
        certificate.sha256 = byte.repeat(32);
        exchange.request.client_certificate = Some(certificate);
        assert_eq!(refusal(&filter, &mut exchange).map(|(_, reason)| reason).as_deref(), reason);
    }
}

/// None of these says that a token is good, or that it is bad: the server is not there.
#[test]
fn answers_that_decide_nothing() {
    let large = json!({ "active": true, "x": "x".repeat(40 << 10) }).to_string();
    let deep = format!(r#"{{"active": true, "x": {}1{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    for (status, body) in [
        (200, ""),
        (200, "active"),
        (200, "<html>"),
        (200, "{}"),
        (200, "[true]"),
        (200, r#"{"active": "true"}"#),
        (200, r#"{"active": 1}"#),
        (200, r#"{"active": null}"#),
        (200, r#"{"active": false, "active": true}"#),
        (200, r#"{"active": true"#),
        (200, &large),
        (200, &deep),
        (201, r#"{"active": true}"#),
        (302, r#"{"active": true}"#),
        (401, r#"{"active": true}"#),
        (500, r#"{"active": true}"#),
    ] {
        let (filter, server) = filter(&json!({}));
        server.fails(Ok((status, body)));
        let mut exchange = with("secret-token");
        assert_eq!(refusal(&filter, &mut exchange), Some((503, "introspection-unavailable".to_owned())), "{body:.40}");
        assert_eq!((exchange.consumer, exchange.response.headers.get("retry-after")), (None, Some("2")));
        assert!(!filter.log().concat().contains("secret-token"), "{:?}", filter.log());
    }
    let (filter, server) = filter(&json!({}));
    *server.answer.borrow_mut() = Ok((200, b"{\"active\": true, \"x\": \"\xff\"}".to_vec()));
    assert_eq!(refused(&filter, "one").as_deref(), Some("introspection-unavailable"));
    for error in [Error::Timeout, Error::TooLarge(1 << 20), Error::Unavailable("nobody".into())] {
        server.fails(Err(error));
        assert_eq!(refused(&filter, "one").as_deref(), Some("introspection-unavailable"));
    }
}

#[test]
fn answers_are_kept_as_long_as_they_may_be() {
    let (filter, server) = filter(&json!({ "cache": { "ttl": "60s", "negative_ttl": "10s" } }));
    let ask = |token: &str| (refused(&filter, token).is_none(), server.count());
    assert_eq!([ask("one"), ask("one"), ask("two")], [(true, 1), (true, 1), (true, 2)]);
    filter.advance(Duration::from_secs(61));
    server.says(json!({ "active": false }));
    assert_eq!(
        [ask("one"), ask("one")],
        [(false, 3), (false, 3)],
        "a revoked token is refused after the time of the cache"
    );
    filter.advance(Duration::from_secs(11));
    server.says(active());
    assert_eq!(ask("one"), (true, 4));
    let mut short = active();
    short["exp"] = json!(NOW + 72 + 5);
    server.says(short);
    assert_eq!(ask("three"), (true, 5));
    filter.advance(Duration::from_secs(6));
    server.says(json!({ "active": false }));
    assert_eq!(ask("three"), (false, 6), "not longer than the token");
}

#[test]
fn what_is_kept_is_found_by_a_digest_that_needs_the_secret() {
    let (filter, server) = filter(&json!({}));
    assert_eq!(refused(&filter, "one"), None);
    // Another secret is another name for the token: what was kept before is not found.
    filter.secret("client_secret", "another");
    assert_eq!(refused(&filter, "one"), None);
    assert_eq!(server.count(), 2);
}

#[test]
fn a_server_that_fails_is_left_alone_for_a_while() {
    let (filter, server) = filter(&json!({ "circuit": { "failures": 3, "open": "10s" } }));
    server.fails(Ok((500, "")));
    for number in 0..10 {
        assert_eq!(refused(&filter, &format!("t{number}")).as_deref(), Some("introspection-unavailable"));
    }
    assert_eq!(server.count(), 3);
    filter.advance(Duration::from_secs(11));
    assert_eq!(refused(&filter, "a").as_deref(), Some("introspection-unavailable"));
    assert_eq!((refused(&filter, "b").is_some(), server.count()), (true, 4), "one tries, and it is left alone again");
    filter.advance(Duration::from_secs(11));
    server.says(active());
    assert_eq!((refused(&filter, "a"), refused(&filter, "b"), server.count()), (None, None, 6));
}

#[test]
fn answers_that_are_unclear_of_one_token_leave_others_alone() {
    let (filter, server) = filter(&json!({ "circuit": { "failures": 2, "open": "10s" } }));
    let large = json!({ "active": true, "x": "x".repeat(40 << 10) }).to_string();
    for (number, answer) in
        [Ok((200, &*large)), Ok((400, "")), Ok((200, "{}")), Err(Error::TooLarge(1))].into_iter().enumerate()
    {
        server.fails(answer);
        assert_eq!(refused(&filter, &format!("t{number}")).as_deref(), Some("introspection-unavailable"));
    }
    server.says(active());
    assert_eq!(refused(&filter, "good"), None);
    // Nor do they say that a server is well again.
    server.fails(Err(Error::Unavailable("nobody".into())));
    assert!(refused(&filter, "a").is_some());
    server.fails(Ok((400, "")));
    assert!(refused(&filter, "b").is_some());
    server.fails(Ok((429, "")));
    assert!(refused(&filter, "c").is_some());
    let before = server.count();
    assert!(refused(&filter, "d").is_some());
    assert_eq!(server.count(), before, "two failures in a row");
}

#[test]
fn old_answers_count_for_safe_methods_and_for_a_time() {
    let (filter, server) = filter(&json!({ "cache": { "ttl": "10s" }, "stale_if_error": "60s" }));
    assert_eq!(refused(&filter, "one"), None);
    let ask = |method: &str, token: &str| {
        let mut exchange = Exchange::new(method, "/").header("authorization", &format!("Bearer {token}"));
        refusal(&filter, &mut exchange).map(|(status, _)| status)
    };
    server.fails(Err(Error::Timeout));
    assert_eq!(ask("POST", "one"), None, "it is still fresh");
    filter.advance(Duration::from_secs(11));
    assert_eq!([ask("GET", "one"), ask("HEAD", "one"), ask("POST", "one")], [None, None, Some(503)]);
    assert_eq!(ask("GET", "never-seen"), Some(503));
    for _ in 0..5 {
        assert_eq!(ask("GET", "one"), None, "also while the circuit is open");
    }
    filter.advance(Duration::from_secs(60));
    assert_eq!(ask("GET", "one"), Some(503));
    server.says(json!({ "active": false }));
    filter.advance(Duration::from_secs(11));
    assert_eq!(ask("GET", "one"), Some(401));
}

/// A server that answers 400 for a token that it does not know any more is well.
#[test]
fn old_answers_do_not_count_while_the_server_answers() {
    for (status, body) in [(400, ""), (401, ""), (404, ""), (200, "<html>")] {
        let (filter, server) = filter(&json!({ "cache": { "ttl": "10s" }, "stale_if_error": "1h" }));
        assert_eq!(refused(&filter, "one"), None);
        filter.advance(Duration::from_secs(11));
        server.fails(Ok((status, body)));
        let twice = [refused(&filter, "one"), refused(&filter, "one")];
        assert_eq!(twice.each_ref().map(Option::as_deref), [Some("introspection-unavailable"); 2], "{status}");
        assert_eq!(server.count(), 2, "{status}: the second one goes by what the first one was told");
    }
}

#[test]
fn who_does_not_ask_leaves_the_try_to_another_request() {
    let (filter, server) = filter(&json!({ "circuit": { "failures": 1, "open": "500ms" } }));
    server.fails(Ok((500, "")));
    assert!(refused(&filter, "one").is_some());
    filter.advance(Duration::from_millis(600));
    server.says(active());
    // The first token is not asked about for a second.
    assert!(refused(&filter, "one").is_some());
    assert_eq!((refused(&filter, "two"), server.count()), (None, 2));
}

#[test]
fn what_no_token_can_be_is_not_asked_about() {
    let (filter, server) = filter(&json!({ "realm": "api" }));
    let mut missing = Exchange::get("/").header("authorization", "Basic eDp5");
    assert_eq!(refusal(&filter, &mut missing), Some((401, "token-missing".to_owned())));
    assert_eq!(missing.response.headers.get("www-authenticate"), Some("Bearer realm=\"api\""));
    for token in ["", "=", "a b", "a\u{e4}", "a%20", "a&active=true", &"x".repeat(9000)] {
        assert_eq!(refused(&filter, token).as_deref(), Some("not-a-token"), "{token:.20}");
    }
    let mut twice = with("one").header("authorization", "Bearer two");
    assert_eq!(refusal(&filter, &mut twice), Some((400, "bad-authorization".to_owned())));
    assert_eq!(server.count(), 0);
}

#[test]
fn strangers_who_pass_can_be_told_what_would_help() {
    let (filter, server) = filter(&json!({ "optional": true, "realm": "api" }));
    let mut stranger = Exchange::get("/");
    assert_eq!(refusal(&filter, &mut stranger), None);
    let challenges = context::into_texts(stranger.context["auth.challenges"].0.clone());
    assert_eq!((challenges, server.count()), (Some(vec!["Bearer realm=\"api\"".to_owned()]), 0));
}

#[test]
fn tokens_of_cookies_and_queries_go_no_further() {
    let places =
        json!({ "places": ["header:authorization", "cookie:session", "query:access_token"], "forward_token": false });
    let (filter, _) = filter(&places);
    let mut exchange = with("one").header("cookie", "a=b; session=one");
    exchange.request.query = Some("x=1&access_token=one".to_owned());
    assert_eq!(refusal(&filter, &mut exchange), None);
    let request = &exchange.request;
    assert_eq!((request.query.as_deref(), request.headers.get("cookie")), (Some("x=1"), Some("a=b")));
    assert!(!request.headers.has("authorization"));
    exchange.respond(ResponseMessage::new(200));
    assert_eq!(filter.on_response(&mut exchange), Ok(Verdict::Continue));
    assert_eq!(exchange.response.headers.get("referrer-policy"), Some("no-referrer"));
    let mut several = Exchange::get("/?access_token=two").header("cookie", "session=one");
    assert_eq!(refusal(&filter, &mut several), Some((400, "bad-authorization".to_owned())));
}

#[test]
fn callers_can_be_consumers_of_the_operator() {
    let (filter, server) = filter(&json!({ "known_consumers": true }));
    let mut exchange = with("one");
    assert_eq!(refusal(&filter, &mut exchange), None);
    assert_eq!(exchange.known_consumer.unwrap().plan.as_deref(), Some("gold"));
    let mut answer = active();
    answer["sub"] = json!("eve");
    server.says(answer);
    assert_eq!(refusal(&filter, &mut with("two")), Some((403, "consumer-unknown".to_owned())));
    let mut answer = active();
    answer.as_object_mut().unwrap().remove("sub");
    server.says(answer);
    assert_eq!(refusal(&filter, &mut with("three")), Some((403, "consumer-unknown".to_owned())));
}

#[test]
fn guessing_is_slowed_down() {
    let (filter, server) = filter(&json!({ "throttle": { "failures": 2, "window": "1m" } }));
    assert_eq!(
        [refused(&filter, "good"), refused(&filter, "good")],
        [None, None],
        "a token that is active counts nothing"
    );
    server.says(json!({ "active": false }));
    let inactive = Some("token-inactive".to_owned());
    assert_eq!([refused(&filter, "a"), refused(&filter, "b")], [inactive.clone(), inactive.clone()]);
    let asked = server.count();
    let mut right = with("good");
    assert_eq!(refusal(&filter, &mut right), Some((429, "throttled".to_owned())), "also a right one, known or not");
    assert_eq!(right.response.headers.get("retry-after"), Some("30"));
    assert_eq!(
        [refused(&filter, "c"), refused(&filter, "d")],
        [Some("throttled".to_owned()), Some("throttled".to_owned())]
    );
    assert_eq!(server.count(), asked, "the server is not asked");
    let mut other = with("good");
    other.request.client_address = "192.0.2.77".to_owned();
    assert_eq!(refusal(&filter, &mut other), None, "another address");
    filter.advance(Duration::from_secs(30));
    assert_eq!(refused(&filter, "good"), None);
    // One that was kept counts as well: it is as much of a guess.
    let (filter, server) = self::filter(&json!({ "throttle": { "failures": 2 } }));
    server.says(json!({ "active": false }));
    assert_eq!([refused(&filter, "a"), refused(&filter, "a")], [inactive.clone(), inactive]);
    assert_eq!(refused(&filter, "a").as_deref(), Some("throttled"));
    // A server that is away says nothing of a token.
    let (filter, server) = self::filter(&json!({ "throttle": { "failures": 1 } }));
    server.fails(Err(Error::Timeout));
    assert_eq!(
        [refused(&filter, "a"), refused(&filter, "b")],
        [(); 2].map(|()| Some("introspection-unavailable".to_owned()))
    );
}

#[test]
fn configs_that_can_not_be_meant_are_refused() {
    let ok = json!({ "url": "https://as.test/introspect", "client_id": "g" });
    for (change, expected) in [
        (json!({ "url": "as.test" }), "url: expected a URL"),
        (json!({ "url": "https://u:p@as.test/" }), "url: expected a URL"),
        (json!({ "client_id": "" }), "client_id: expected"),
        (json!({ "client_auth": "none" }), "client_auth: unknown value `none`"),
        (json!({ "scopes": ["a b"] }), "scopes[0]: not a scope"),
        (json!({ "realm": "\"" }), "realm: printable"),
        (json!({ "places": [] }), "places: expected at least one"),
        (json!({ "timeout": "2m" }), "timeout: expected 1ms to 60s"),
        (json!({ "cache": { "ttl": "0s" } }), "cache.ttl: expected 1ms to 86400s"),
        (json!({ "circuit": { "open": "2h" } }), "circuit.open: expected 1ms to 3600s"),
        (json!({ "stale_if_error": "0s" }), "stale_if_error: expected"),
        (json!({ "throttle": { "window": "0s" } }), "throttle.window: expected 1ms to 366d"),
    ] {
        let mut config = ok.clone();
        config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let error = Harness::<Introspection>::new(config).err().unwrap_or_default();
        assert!(error.starts_with(expected), "{change}: {error}");
    }
    let needs = Harness::<Introspection>::new(ok).unwrap().needs().unwrap();
    assert_eq!((&needs["http"], &needs["kv"]), (&json!(["https://as.test"]), &json!(["introspection"])));
    assert!(needs["secrets"]["client_secret"].is_string());
}

#[test]
fn the_schema_has_every_key() {
    let schema: Value = serde_json::from_str(include_str!("../schema.json")).unwrap();
    let keys = schema["properties"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(config_keys::<Introspection>(), keys);
}

#[test]
fn the_defaults_of_the_schema_are_those_of_the_config() {
    assert_eq!(
        wrong_defaults::<Introspection>(
            &json!({"url": "https://as.test/", "client_id": "g", "cache": {}, "circuit": {}, "throttle": {}})
        ),
        Vec::<String>::new()
    );
}
