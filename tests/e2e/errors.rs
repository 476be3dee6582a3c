//! Errors of the gateway: problem details (RFC 9457) with the request id and nothing internal.

use serde_json::json;
use sluice_harness::h2::{Answer, H2, full};
use sluice_harness::origin::nobody;
use sluice_harness::tools::{Server, need, run_script};
use sluice_harness::{Gateway, Origin, Reply, Response};

use crate::support::{FAILS, filter, gateway, probe, route};

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

/// A call of gRPC, as far as a gateway sees it.
fn call(gateway: &Gateway, target: &str, content_type: &str) -> Answer {
    let mut h2 = H2::connect(gateway.address());
    let request = h2.builder("POST", target).header("content-type", content_type).header("te", "trailers");
    h2.send(request.body(full(&b"\0\0\0\0\0"[..])).expect("a request"))
}

#[track_caller]
fn is_grpc_error(answer: &Answer, status: &str, message: &str) {
    assert_eq!(answer.status, 200, "{answer:?}");
    for (name, value) in [("content-type", "application/grpc"), ("grpc-status", status), ("grpc-message", message)] {
        assert_eq!(answer.header(name), Some(value), "{name} in {answer:?}");
    }
    assert_eq!(answer.text(), "");
}

#[test]
fn a_client_of_grpc_gets_errors_in_its_own_form() {
    let refuse = |status: u16, text: &str| json!({"on-request": [{"do": "respond", "status": status, "body": text, "headers": {"content-type": "text/plain"}}]});
    let trap = json!({"on-request": [{"do": "trap"}]});
    let replace = json!({"on-response": [{"do": "set-status", "status": 403}, {"do": "respond", "status": 403}]});
    let on = |name: &str, upstream: &str, pipeline: &[&str]| {
        format!(
            "[routes.{name}]\nmatch = {{ path = \"/{name}/**\" }}\nupstream = \"{upstream}\"\npipeline = {pipeline:?}\n"
        )
    };
    let silent = Origin::serve(|_| Reply::script(|conn| conn.wait_for_close()));
    let origin = Origin::named("o");
    let dead = format!("http://{}", nobody());
    let gateway = gateway(
        &([
            on("dead", &dead, &[]),
            on("silent", &silent.url(), &[]) + "timeouts = { first_byte = \"50ms\" }\n",
            on("unknown", &dead, &["unknown"]),
            on("later", &dead, &["later"]),
            on("broken", &dead, &["broken"]),
            on("replaced", &origin.url(), &["replaced"]),
            on("large", &origin.url(), &[]) + "limits = { body = 2 }\n",
        ]
        .concat()
            + &probe("unknown", refuse(401, "who are you?"))
            + &probe("later", refuse(429, "100 % \u{fc}ber"))
            + &filter("broken", "probe", FAILS, trap)
            + &probe("replaced", replace)),
    );
    for (target, status, message) in [
        ("/dead/x", "14", "The service could not be reached."),
        ("/silent/x", "4", "The service did not answer in time."),
        ("/unknown/x", "16", "who are you?"),
        ("/later/x", "14", "100 %25 %C3%BCber"),
        ("/broken/x", "13", "The request could not be processed."),
        ("/replaced/x", "7", "Forbidden"),
        ("/large/x", "8", "The request body is larger than allowed."),
        ("/nowhere", "12", "There is nothing at this address."),
    ] {
        is_grpc_error(&call(&gateway, target, "application/grpc+proto"), status, message);
        let line = gateway.wait_access("the call", |l| l["path"] == target);
        assert_eq!((&line["status"], line["grpc_status"].to_string().as_str()), (&json!(200), status), "{line}");
    }
    assert_eq!(gateway.metric("sluice_grpc_responses_total", &[("route", "dead"), ("grpc_status", "14")]), Some(1.0));
    for content_type in ["application/json", "application/grpc-web"] {
        assert_eq!(call(&gateway, "/dead/x", content_type).status, 502, "{content_type}");
    }
}

#[test]
fn the_grpc_status_of_an_upstream_is_logged_and_counted() {
    let Some([python]) = need(["python"]) else { return };
    let (_server, port) = Server::script(&python, "grpc_server.py");
    let gateway = gateway(&format!(
        "[upstreams.grpc]\nendpoints = [\"http://127.0.0.1:{port}\"]\nprotocol = \"h2c\"\n{}",
        route("grpc", &[])
    ));
    assert_eq!(run_script(&python, "grpc_client.py", &[&gateway.address().to_string()]).trim(), "fine");
    let line = gateway.wait_access("the failed call", |l| l["path"] == "/test.Echo/Fail");
    assert_eq!((&line["status"], &line["grpc_status"]), (&json!(200), &json!(9)), "{line}");
    let line = gateway.wait_access("the stream", |l| l["path"] == "/test.Echo/Chat");
    assert_eq!(line["grpc_status"], 0, "{line}");
    for status in ["0", "9"] {
        let count = gateway.metric("sluice_grpc_responses_total", &[("route", "all"), ("grpc_status", status)]);
        assert_eq!(count, Some(1.0), "{status}");
    }
}

#[test]
fn a_real_client_of_grpc_understands_the_errors_of_the_gateway() {
    let Some([python]) = need(["python"]) else { return };
    let refuse = json!({"on-request": [{"do": "respond", "status": 401, "if-header": "x-unknown"}]});
    let gateway = gateway(&format!(
        "[routes.dead]\nmatch = {{ path = \"/test.Echo/*\" }}\nupstream = \"http://{}\"\npipeline = [\"a\"]\n{}",
        nobody(),
        probe("a", refuse)
    ));
    assert_eq!(run_script(&python, "grpc_errors.py", &[&gateway.address().to_string()]).trim(), "fine");
}

#[test]
fn what_is_refused_is_logged_with_its_method_and_path() {
    let gateway = gateway(
        "[listeners.http.limits]\nhead = \"2KiB\"\nheaders = 5\n[routes.one]\nmatch = { path = \"/one\" }\nrespond = { status = 200 }\n",
    );
    let many: String = (0..9).map(|n| format!("x-{n}: 1\r\n")).collect();
    for (path, request, status) in [
        ("/malformed", "PUT /malformed?q=1 HTTP/1.1\r\nhost: x\r\nno field\r\n\r\n".to_owned(), 400),
        ("/many", format!("PUT /many HTTP/1.1\r\nhost: x\r\n{many}\r\n"), 431),
        ("/large", format!("PUT /large HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(3000)), 431),
        ("/coding", "PUT /coding HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n\r\n".to_owned(), 501),
        ("/hosts", "PUT /hosts HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n".to_owned(), 400),
    ] {
        let answer = gateway.raw(&request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
        let line = gateway.wait_access(path, |l| l["path"] == path);
        assert_eq!((&line["method"], &line["status"]), (&json!("PUT"), &json!(status)), "{line}");
    }
    gateway.raw(format!("GET /{} HTTP/1.1\r\n", "long".repeat(1000)));
    let line = gateway.wait_access("the long target", |l| l["status"] == 414);
    assert!(line["path"].as_str().is_some_and(|path| path.starts_with("/longlong") && path.len() == 1024), "{line}");
    gateway.raw("{} /x HTTP/1.1\r\n\r\n");
    let line = gateway.wait_access("no method", |l| l["path"] == "/x");
    assert_eq!((&line["method"], &line["status"]), (&json!("-"), &json!(400)), "{line}");
}
