//! Errors of the gateway: problem details (RFC 9457) with the request id and nothing internal.

use serde_json::json;
use sluice_harness::origin::nobody;
use sluice_harness::{Origin, Reply, Response};

use crate::support::{FAILS, filter, gateway, route};

#[track_caller]
fn is_problem(response: &Response, statuses: &[u16]) {
    assert!(statuses.contains(&response.status), "{response:?}");
    assert_eq!(response.header("content-type"), Some("application/problem+json"));
    let problem = response.json();
    assert_eq!(problem["status"], response.status);
    assert!(problem["title"].as_str().is_some_and(|t| !t.is_empty()), "{problem}");
    let id = response.header("x-request-id").expect("a request id");
    assert!(problem.to_string().contains(id), "the id `{id}` is not in {problem}");
    let text = response.text();
    for internal in ["127.0.0.1", "wasm", "panicked", "hyper", "os error", ".rs", "secret"] {
        assert!(!text.contains(internal), "`{internal}` in {text}");
    }
}

#[test]
fn no_route() {
    let gateway = gateway("[routes.one]\nmatch = { path = \"/one\" }\nrespond = { status = 200 }\n");
    is_problem(&gateway.get("/two"), &[404]);
    let log = gateway.wait_access("the exchange", |l| l["status"] == 404);
    assert_eq!(
        log["error_side"].as_str().or(log["error"]["side"].as_str()).or(log["side"].as_str()),
        Some("client"),
        "{log}"
    );
}

#[test]
fn no_upstream() {
    let gateway = gateway(&route(&format!("http://{}", nobody()), &[]));
    is_problem(&gateway.get("/"), &[502, 503]);
}

#[test]
fn an_upstream_that_talks_nonsense() {
    let origin = Origin::serve(|r| match r.target.as_str() {
        "/nonsense" => Reply::Raw(b"this is no http, secret\r\n\r\n".to_vec()),
        "/framing" => Reply::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab".to_vec()),
        _ => Reply::Close,
    });
    let gateway = gateway(&route(&origin.url(), &[]));
    for target in ["/nonsense", "/framing", "/close"] {
        is_problem(&gateway.get(target), &[502]);
    }
}

#[test]
fn a_failing_filter() {
    let origin = Origin::named("o");
    for action in ["trap", "panic", "memory", "nonsense", "spin", "fail"] {
        let gateway = gateway(
            &(route(&origin.url(), &["a"])
                + &filter("a", "probe", FAILS, json!({"on-request": [{"do": action, "value": "secret"}]}))),
        );
        is_problem(&gateway.get("/"), &[500, 502, 503]);
        gateway.wait_log("the cause, with the filter", |l| {
            l.to_string().contains("\"a\"") && ["ERROR", "WARN"].contains(&l["level"].as_str().unwrap_or(""))
        });
    }
    assert_eq!(origin.count(), 0);
}

#[test]
fn an_error_to_a_head_request_has_no_body() {
    let gateway = gateway("[routes.one]\nmatch = { path = \"/one\" }\nrespond = { status = 200 }\n");
    let response = gateway.request("HEAD", "/two", &[], b"");
    assert_eq!((response.status, response.body.len()), (404, 0));
}

#[test]
fn an_id_that_could_break_a_header_is_not_taken_over() {
    let gateway = gateway("[routes.one]\nmatch = { path = \"/one\" }\nrespond = { status = 200 }\n");
    for given in ["x".repeat(5000), "\u{e9}\u{ff}".into(), "<script>\"'".into()] {
        let response = gateway.request("GET", "/two", &[("x-request-id", &given)], b"");
        assert_ne!(response.header("x-request-id"), Some(given.as_str()));
        is_problem(&response, &[404]);
    }
}
