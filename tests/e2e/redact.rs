//! What may not leave does not: the plugin `redact` through the gateway.

use serde_json::{Value, json};
use sluice_harness::{Gateway, Origin, Reply};

use crate::support::{filter, gateway, route};

/// A gateway with this config of the filter, on reused and on fresh instances.
fn both(origin: &Origin, config: &Value) -> [Gateway; 2] {
    ["reused", "fresh"].map(|mode| {
        let mode = format!("[plugins.redact]\ninstances = {{ mode = \"{mode}\" }}\n");
        gateway(&(route(&origin.url(), &["private"]) + &filter("private", "redact", "", config.clone()) + &mode))
    })
}

fn typed(of: &str, body: &str) -> Reply {
    Reply::Full(200, vec![("content-type".into(), of.into())], body.as_bytes().to_vec())
}

/// What the gateway has counted for a rule.
fn counted(gateway: &Gateway, rule: &str) -> Option<f64> {
    gateway.metric("sluice_filter_redacted_total", &[("filter", "private"), ("rule", rule)])
}

#[test]
fn documents_keep_all_bytes_but_those_that_may_not_leave() {
    let origin = Origin::serve(|_| {
        typed(
            "application/json",
            r#"{ "id":12345678901234567890, "password":"x" ,"n":1.0,"n":2, "by":"ada@example.org" }"#,
        )
    });
    let rules = json!({ "rules": [
        { "name": "secret", "pointers": ["/**/password"], "action": "remove" },
        { "name": "mail", "detect": "email", "action": "hash" },
    ], "hash_key": "a key of some length" });
    for gateway in both(&origin, &rules) {
        for round in 1..=2 {
            let response = gateway.get("/");
            let text = response.text();
            let (front, digest) = text.split_once(", \"by\":\"").expect("the last member");
            assert_eq!(front, r#"{ "id":12345678901234567890 ,"n":1.0,"n":2"#);
            assert_eq!(digest.len(), 64 + 3, "{digest}");
            assert_eq!(response.header("content-length"), Some(text.len().to_string().as_str()));
            assert_eq!(counted(&gateway, "secret"), Some(f64::from(round)));
        }
        assert!(!gateway.log().iter().any(|line| line.to_string().contains("ada@")), "no value is in the log");
    }
}

#[test]
fn what_is_no_json_goes_no_further() {
    let origin = Origin::serve(|r| match r.target.as_str() {
        "/part" => {
            Reply::Full(206, vec![("content-type".into(), "application/json".into())], b"{\"password\":\"".to_vec())
        }
        _ => typed("application/json", "{\"password\":\"x\""),
    });
    let config = json!({ "rules": [{ "pointers": ["/password"] }], "messages": ["request", "response"] });
    for gateway in both(&origin, &config) {
        let refused = gateway.get("/");
        assert_eq!((refused.status, refused.header("cache-control")), (502, Some("no-store")));
        assert!(!refused.text().contains("password"));
        gateway.wait_access("the reason", |line| line["reason"] == "body-not-json");
        assert_eq!(gateway.request("GET", "/part", &[("range", "bytes=0-11")], b"").status, 502);
        gateway.wait_access("the reason", |line| line["reason"] == "unasked-part");
        assert_eq!(origin.last().header("range"), None);
        let before = origin.count();
        let body = [("content-type", "application/json")];
        assert_eq!(gateway.request("POST", "/", &body, b"{").status, 400);
        assert_eq!(origin.count(), before, "the upstream does not get it");
    }
}

#[test]
fn a_message_that_grows_beyond_what_a_filter_may_send_is_refused() {
    let origin = Origin::serve(|r| typed("application/json", &r.text()));
    let config = json!({ "rules": [{ "pattern": "a" }], "mask": "b".repeat(256), "messages": ["request"] });
    let lines = "limits = { body = \"64KiB\" }";
    let gateway = gateway(&(route(&origin.url(), &["private"]) + &filter("private", "redact", lines, config)));
    let body = format!("\"{}\"", "a".repeat(600));
    let response = gateway.request("POST", "/", &[("content-type", "application/json")], body.as_bytes());
    assert_eq!(response.status, 413);
    gateway.wait_access("the reason", |line| line["reason"] == "body-too-large");
}

/// A text that comes in pieces, cut in the middle of what may not leave.
fn in_pieces(of: &'static str, pieces: &'static [&'static str]) -> Origin {
    Origin::serve(move |_| {
        Reply::script(move |conn| {
            conn.write(format!("HTTP/1.1 200 OK\r\ncontent-type: {of}\r\ntransfer-encoding: chunked\r\n\r\n"));
            for piece in pieces {
                conn.write(format!("{:x}\r\n{piece}\r\n", piece.len()));
            }
            conn.write("0\r\n\r\n");
        })
    })
}

#[test]
fn texts_in_pieces_are_redacted_wherever_they_are_cut() {
    let origin = in_pieces(
        "text/plain; charset=utf-8",
        &["pay with 4111 11", "11 1111", " 1111 or as", "k ada@example", ".org"],
    );
    for gateway in both(&origin, &json!({ "rules": [{ "name": "card", "detect": "card" }, { "detect": "email" }] })) {
        assert_eq!(gateway.get("/").text(), "pay with [redacted] or ask [redacted]");
        assert_eq!(counted(&gateway, "card"), Some(1.0));
    }
}

#[test]
fn events_are_redacted_one_by_one() {
    let origin = in_pieces(
        "text/event-stream",
        &[
            ": hello\n\nid: 1\ndata: {\"password\":\"x\",\"n\":1}\n\n",
            "event: note\ndata: {\"to\":\"ada@exam",
            "ple.org\"}\n\ndata: no json\n\ndata: [DONE]\n\n",
        ],
    );
    let config = json!({ "rules": [{ "pointers": ["/password"], "action": "remove" }, { "detect": "email" }] });
    for gateway in both(&origin, &config) {
        let expected =
            ": hello\n\nid: 1\ndata: {\"n\":1}\n\nevent: note\ndata: {\"to\":\"[redacted]\"}\n\ndata: [DONE]\n\n";
        assert_eq!(gateway.get("/").text(), expected);
        assert_eq!(gateway.metric("sluice_filter_not_json_total", &[("filter", "private")]), Some(1.0));
    }
}

#[test]
fn lines_are_redacted_one_by_one() {
    let origin = in_pieces(
        "application/x-ndjson",
        &["{\"password\":\"x\"}\n{\"pass", "word\":\"y\",\"a\":[1, 2]}\r\n\n{\"a\":3}"],
    );
    for gateway in both(&origin, &json!({ "rules": [{ "pointers": ["/password"] }] })) {
        let expected = "{\"password\":\"[redacted]\"}\n{\"password\":\"[redacted]\",\"a\":[1, 2]}\r\n\n{\"a\":3}";
        assert_eq!(gateway.get("/").text(), expected);
    }
}

/// A parameter of the type that is no text does not hide the body.
#[test]
fn a_content_type_that_is_not_utf_8_hides_nothing() {
    let origin = Origin::serve(|r| Reply::text(r.text()));
    let config = json!({ "rules": [{ "detect": "email" }], "messages": ["request"] });
    for gateway in both(&origin, &config) {
        let head = b"POST / HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: 19\r\n";
        let of_type = b"content-type: application/json; x=\xe9\r\n\r\n";
        let answer = gateway.raw([&head[..], of_type, br#"["ada@example.org"]"#].concat());
        assert!(answer.ends_with(r#"["[redacted]"]"#), "{answer}");
    }
}
