use std::cell::RefCell;
use std::rc::Rc;

use serde_json::{Value, json};
use sluice_filter::http::Incoming;
use sluice_filter::testing::{Consumer, Exchange, Harness, ResponseMessage, config_keys, wrong_defaults};

use super::*;

type Calls = Rc<RefCell<Vec<Outgoing>>>;

fn field(name: &str, value: &str) -> Field {
    Field { name: name.to_owned(), value: value.into() }
}

/// A filter whose service answers with this status and these fields, and the calls that it gets.
fn filter(config: Value, status: u16, fields: &[(&str, &str)]) -> (Harness<ForwardAuth>, Calls) {
    let mut all = json!({ "url": "http://auth.test/check" });
    all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    let filter = Harness::<ForwardAuth>::new(all).unwrap();
    let calls = Calls::default();
    let seen = Rc::clone(&calls);
    let headers: Vec<Field> = fields.iter().map(|(name, value)| field(name, value)).collect();
    filter.outbound(move |request| {
        seen.borrow_mut().push(request.clone());
        Ok(Incoming { status, headers: headers.clone(), body: b"said".to_vec() })
    });
    (filter, calls)
}

fn sent(call: &Outgoing, name: &str) -> Vec<String> {
    let of = call.headers.iter().filter(|field| field.name == name);
    of.map(|field| field.value.clone()).collect()
}

#[test]
fn the_service_gets_what_is_listed_and_who_asks_for_what() {
    let (filter, calls) = filter(json!({}), 204, &[]);
    let mut exchange = Exchange::new("PUT", "/a?b=c")
        .header("authorization", "one")
        .header("authorization", "two")
        .header("x-secret", "s")
        .header("x-forwarded-uri", "/public")
        .header("x-forwarded-for", "127.0.0.1")
        .header("x-forwarded-method", "GET");
    assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Continue));
    let call = &calls.borrow()[0];
    assert_eq!((call.method.as_str(), call.url.as_str(), call.body.len()), ("GET", "http://auth.test/check", 0));
    assert_eq!(sent(call, "authorization"), ["one", "two"], "the service sees what the upstream sees");
    assert_eq!(sent(call, "x-secret"), [""; 0]);
    for (name, value) in [
        ("x-forwarded-method", "PUT"),
        ("x-forwarded-uri", "/a?b=c"),
        ("x-forwarded-host", "localhost"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-for", "192.0.2.1"),
    ] {
        assert_eq!(sent(call, name), [value], "{name}");
    }
}

#[test]
fn fields_for_the_upstream_are_the_services_and_never_the_clients() {
    let config = json!({ "upstream_headers": ["X-User", "x-groups", "x-admin"], "consumer_header": "x-user" });
    let answer = [("x-user", "ann"), ("x-groups", "a"), ("x-groups", "b"), ("x-other", "1"), ("connection", "close")];
    let (filter, _) = filter(config, 200, &answer);
    let mut exchange = Exchange::get("/").header("x-user", "eve").header("x-admin", "1").header("x-groups", "root");
    assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Continue));
    let headers = &exchange.request.headers;
    assert_eq!((headers.get("x-user"), headers.get("x-admin"), headers.get("x-other")), (Some("ann"), None, None));
    assert_eq!(headers.all("x-groups"), ["a", "b"]);
    assert_eq!(exchange.consumer.as_deref(), Some("ann"));
}

#[test]
fn no_spelling_of_a_field_for_the_upstream_is_the_clients() {
    for (status, on_unavailable) in [(200, "closed"), (500, "open")] {
        let config = json!({ "upstream_headers": ["remote-user", "remote-groups"], "on_unavailable": on_unavailable });
        let (filter, _) = filter(config, status, &[("remote-user", "ann")]);
        let mut exchange = Exchange::get("/")
            .header("Remote_Groups", "admins")
            .header("remote_user", "root")
            .header("remote-x_y", "1");
        assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Continue));
        let headers = &exchange.request.headers;
        assert!(!headers.has("remote_groups") && !headers.has("remote_user"), "{status}");
        assert_eq!((headers.get("remote-user").is_some(), headers.get("remote-x_y")), (status == 200, Some("1")));
    }
    let long = json!({ "url": "http://auth.test/", "upstream_headers": ["a-b-c-d-e-f-g-h"] });
    let refused = Harness::<ForwardAuth>::new(long).err().unwrap();
    assert!(refused.starts_with("upstream_headers[0]: `a-b-c-d-e-f-g-h` has more than 6"), "{refused}");
}

#[test]
fn an_answer_that_names_nobody_names_no_consumer() {
    let answers: [&[(&str, &str)]; 4] = [&[], &[("x-user", "")], &[("x-user", "an\0n")], &[("x-user", "eve")]];
    for fields in answers {
        let (filter, _) = filter(json!({ "consumer_header": "x-user", "known_consumers": true }), 200, fields);
        filter.consumers(&[Consumer::new("ann")]);
        let mut exchange = Exchange::get("/");
        assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Respond), "{fields:?}");
        let response = &exchange.response;
        assert_eq!((response.status, response.reason.as_deref()), (403, Some("consumer-unknown")), "{fields:?}");
    }
}

#[test]
fn what_a_service_says_may_be_long() {
    let (long, cookie) = ("x".repeat(5000), "c".repeat(70_000));
    let config = json!({ "consumer_header": "x-user", "client_headers": ["set-cookie"] });
    let (filter, _) = filter(config, 200, &[("x-user", &long), ("set-cookie", &cookie)]);
    let mut exchange = Exchange::get("/");
    assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Continue));
    assert!(exchange.consumer.unwrap().starts_with("sha256:"));
}

#[test]
fn a_value_with_control_characters_reaches_nobody() {
    let answer = [("x-user", "ann\r\nx-admin: 1"), ("x-nul", "a\0b")];
    let (filter, _) = filter(json!({ "upstream_headers": ["x-user", "x-nul"] }), 200, &answer);
    let mut exchange = Exchange::get("/").header("x-user", "eve");
    assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Continue));
    assert_eq!((exchange.request.headers.get("x-user"), exchange.request.headers.get("x-nul")), (None, None));
}

#[test]
fn refusals_and_redirects_are_passed_on() {
    let config = json!({ "refusal_headers": ["location", "set-cookie", "www-authenticate"] });
    for status in [302, 401, 403] {
        let answer = [("location", "/login"), ("set-cookie", "a=1"), ("set-cookie", "b=2"), ("x-internal", "1")];
        let (filter, _) = filter(config.clone(), status, &answer);
        let mut exchange = Exchange::get("/");
        assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Respond));
        let response = &exchange.response;
        assert_eq!((response.status, response.headers.get("location")), (status, Some("/login")));
        assert_eq!(response.headers.all("set-cookie"), ["a=1", "b=2"]);
        assert_eq!(
            (response.headers.get("x-internal"), response.headers.get("cache-control")),
            (None, Some("no-store"))
        );
        assert_eq!(
            (response.body.as_slice(), response.reason.clone()),
            (&b"said"[..], Some(format!("refused:{status}")))
        );
    }
}

#[test]
fn fields_for_the_client_are_added_to_the_response() {
    let config = json!({ "client_headers": ["set-cookie"] });
    let (filter, _) = filter(config, 200, &[("set-cookie", "session=2"), ("x-other", "1")]);
    let mut exchange = Exchange::get("/");
    assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Continue));
    exchange.respond(ResponseMessage::new(200));
    assert_eq!(filter.on_response(&mut exchange), Ok(Verdict::Continue));
    assert_eq!(exchange.response.headers.all("set-cookie"), ["session=2"]);
    assert_eq!(exchange.response.headers.get("x-other"), None);
}

#[test]
fn a_service_that_does_not_decide_is_unavailable() {
    for (mode, verdict) in [("closed", Verdict::Respond), ("open", Verdict::Continue)] {
        for status in [500, 503, 101] {
            let config =
                json!({ "on_unavailable": mode, "upstream_headers": ["x-user"], "status_on_unavailable": 403 });
            let (filter, _) = filter(config, status, &[("x-user", "ann")]);
            let mut exchange = Exchange::get("/").header("x-user", "eve");
            assert_eq!(filter.on_request(&mut exchange), Ok(verdict), "{mode} {status}");
            match verdict {
                Verdict::Respond => assert_eq!(exchange.response.status, 403),
                Verdict::Continue => assert_eq!(exchange.request.headers.get("x-user"), None),
            }
        }
    }
    let (filter, _) = filter(json!({}), 200, &[]);
    filter.outbound(|_| Err(Error::Timeout));
    let mut exchange = Exchange::get("/");
    assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Respond));
    assert_eq!((exchange.response.status, exchange.response.reason.as_deref()), (503, Some("auth-unavailable")));
}

#[test]
fn a_body_goes_to_the_service_where_it_is_asked_for() {
    let (filter, calls) = filter(json!({ "method": "request", "body": "1KiB" }), 200, &[]);
    let mut exchange = Exchange::new("POST", "/").body("text/plain", "signed");
    assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Continue));
    assert!(exchange.request.wanted_body && calls.borrow().is_empty());
    assert_eq!(filter.on_request_body(&mut exchange), Ok(Verdict::Continue));
    let call = &calls.borrow()[0];
    assert_eq!((call.method.as_str(), call.body.as_slice()), ("POST", &b"signed"[..]));
    assert_eq!(sent(call, "content-type"), ["text/plain"]);
}

#[test]
fn only_known_consumers_where_that_is_asked_for() {
    let config = json!({ "consumer_header": "x-user", "known_consumers": true });
    let ask = |name: &str| {
        let (filter, _) = filter(config.clone(), 200, &[("x-user", name)]);
        filter.consumers(&[Consumer::new("acme")]);
        let mut exchange = Exchange::get("/");
        let verdict = filter.on_request(&mut exchange).unwrap();
        (verdict, exchange.response.status, exchange.response.reason, exchange.consumer)
    };
    let (verdict, _, _, consumer) = ask("acme");
    assert_eq!((verdict, consumer.as_deref()), (Verdict::Continue, Some("acme")));
    assert_eq!(ask("eve"), (Verdict::Respond, 403, Some("consumer-unknown".to_owned()), None));
}

#[test]
fn answers_are_kept_by_the_key_and_only_as_long() {
    let config = json!({
        "upstream_headers": ["x-user"],
        "cache": { "key": ["header:authorization", "path"], "ttl": "10s" },
    });
    let (filter, calls) = filter(config, 200, &[("x-user", "ann")]);
    let ask = |target: &str, tokens: &[&str]| {
        let mut exchange = tokens.iter().fold(Exchange::get(target), |e, token| e.header("authorization", token));
        assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Continue));
        assert_eq!(exchange.request.headers.get("x-user"), Some("ann"));
        calls.borrow().len()
    };
    assert_eq!([ask("/a", &["one"]), ask("/a?q", &["one"]), ask("/b", &["one"]), ask("/a", &["two"])], [1, 1, 2, 3]);
    assert_eq!([ask("/a", &[]), ask("/a", &[])], [4, 5], "strangers share no answer");
    assert_eq!([ask("/a", &["one", "evil"]), ask("/a", &["one", "evil"])], [6, 7], "a second value is no way in");
    filter.advance(std::time::Duration::from_secs(11));
    assert_eq!(ask("/a", &["one"]), 8);
}

/// Filters of one plugin share its spaces of `kv`, and so do a filter before a reload and after it.
#[test]
fn filters_that_ask_for_something_else_have_keys_of_their_own() {
    let of = |extra: Value| {
        let mut config = json!({ "url": "http://auth.test/?role=user", "cache": { "key": ["header:authorization"] } });
        config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let config: Config = serde_json::from_value(config).unwrap();
        config.check().unwrap().cache.unwrap().scope
    };
    let same = of(json!({}));
    assert_eq!(same, of(json!({ "timeout": "100ms" })), "what changes no answer costs no kept one");
    for other in [
        json!({ "url": "http://auth.test/?role=admin" }),
        json!({ "method": "POST" }),
        json!({ "request_headers": ["cookie"] }),
        json!({ "upstream_headers": ["x-user"] }),
        json!({ "client_headers": ["x-user"] }),
        json!({ "refusal_headers": [] }),
        json!({ "consumer_header": "x-user" }),
        json!({ "cache": { "key": ["cookie:authorization"] } }),
    ] {
        assert_ne!(same, of(other.clone()), "{other}");
    }
}

#[test]
fn refusals_are_kept_where_they_are_listed() {
    for (listed, calls_made) in [(json!([403]), 1), (json!([401]), 2)] {
        let config = json!({ "cache": { "key": ["header:authorization"], "refusals": listed } });
        let (filter, calls) = filter(config, 403, &[]);
        for _ in 0..2 {
            let mut exchange = Exchange::get("/").header("authorization", "one");
            assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Respond));
            assert_eq!((exchange.response.status, exchange.response.body.as_slice()), (403, &b"said"[..]));
        }
        assert_eq!(calls.borrow().len(), calls_made);
    }
}

#[test]
fn no_decision_is_told_to_those_who_come_meanwhile() {
    let config = json!({ "cache": { "key": ["header:authorization"] } });
    for (status, made) in [(500, 1), (403, 2)] {
        let (filter, calls) = filter(config.clone(), status, &[]);
        let ask = || {
            let mut exchange = Exchange::get("/").header("authorization", "one");
            assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Respond));
            (exchange.response.status, calls.borrow().len())
        };
        let answered = if status == 500 { 503 } else { status };
        assert_eq!([ask(), ask()], [(answered, 1), (answered, made)], "an answer that is not kept is asked for anew");
        filter.advance(std::time::Duration::from_millis(101));
        assert_eq!(ask(), (answered, made + 1));
    }
}

#[test]
fn configs_that_can_not_be_meant_are_refused() {
    for (config, expected) in [
        (json!({}), "url: missing"),
        (json!({ "url": "auth.test" }), "url: expected a URL that begins with"),
        (json!({ "url": "http://user@auth.test/" }), "url: expected a URL that begins with"),
        (
            json!({ "url": "http://a/", "upstream_headers": ["Host"] }),
            "upstream_headers[0]: `host` is of the connection",
        ),
        (
            json!({ "url": "http://a/", "request_headers": ["x-forwarded-for"] }),
            "request_headers[0]: `x-forwarded-for`",
        ),
        (json!({ "url": "http://a/", "refusal_headers": ["a b"] }), "refusal_headers[0]: `a b` is not a header name"),
        (json!({ "url": "http://a/", "body": "1KiB" }), "body: a GET has no body"),
        (json!({ "url": "http://a/", "known_consumers": true }), "known_consumers: needs `consumer_header`"),
        (
            json!({ "url": "http://a/", "cache": { "key": ["path", "method"] } }),
            "cache.key: expected a part that tells",
        ),
        (
            json!({ "url": "http://a/", "cache": { "key": ["ip"], "refusals": [503] } }),
            "cache.refusals[0]: expected 300 to 499",
        ),
        (json!({ "url": "http://a/", "timeout": "2m" }), "timeout: expected 1ms to 60s"),
    ] {
        let error = Harness::<ForwardAuth>::new(config.clone()).err().unwrap_or_default();
        assert!(error.contains(expected), "{config}: {error}");
    }
}

#[test]
fn it_says_which_grants_its_config_needs() {
    let config = json!({
        "url": "https://auth.test:8443/check?x=1", "upstream_headers": ["x-user"],
        "cache": { "key": ["cookie:session"], "space": "asked" },
    });
    let needs = Harness::<ForwardAuth>::new(config).unwrap().needs().unwrap();
    assert_eq!((&needs["http"], &needs["kv"]), (&json!(["https://auth.test:8443"]), &json!(["asked"])));
    assert!(needs["read_headers"].to_string().contains("cookie"));
    let needs = Harness::<ForwardAuth>::new(json!({ "url": "upstream://auth/check" })).unwrap().needs().unwrap();
    assert_eq!(needs["upstreams"], json!(["auth"]));
}

#[test]
fn the_schema_has_every_key() {
    let schema: Value = serde_json::from_str(include_str!("../schema.json")).unwrap();
    let keys = schema["properties"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(config_keys::<ForwardAuth>(), keys);
}

#[test]
fn the_defaults_of_the_schema_are_those_of_the_config() {
    assert_eq!(
        wrong_defaults::<ForwardAuth>(&json!({"url": "http://a.test/", "cache": {"key": ["path"]}})),
        Vec::<String>::new()
    );
}
