//! Filters that see server-sent events and lines of NDJSON, each when it comes.

use serde_json::{Value, json};
use sluice_harness::{Gateway, Origin, Reply};

use crate::chunks::{chunk, driven};
use crate::support::{filter, gateway, route};

const HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";

fn with(origin: &Origin, lines: &str, config: Value) -> Gateway {
    gateway(&(route(&origin.url(), &["a"]) + &filter("a", "probe", lines, config)))
}

fn upper() -> Value {
    json!({"on-response-event": [{"do": "upper-event"}]})
}

/// The text that a filter makes of a body of this type.
fn made_of(content_type: &'static str, body: &'static str, config: Value) -> String {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n");
    let whole = [head.as_bytes(), &chunk(body), b"0\r\n\r\n"].concat();
    let origin = Origin::serve(move |_| Reply::Raw(whole.clone()));
    with(&origin, "", config).get("/").text()
}

#[test]
fn each_event_leaves_when_it_is_whole() {
    let (origin, origin_writes) = driven(HEAD);
    let gateway = with(&origin, "", upper());
    let mut client = gateway.client();
    client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    client.read_head();
    // Events that are split anywhere, several in one part, and a comment.
    for (parts, expected) in [
        (&["da", "ta: one\n", "\n"][..], "data: ONE\n\n"),
        (&["id: 7\r\ndata: two\r", "\n\r\n"], "id: 7\r\ndata: TWO\r\n\r\n"),
        (&[": alive\n\n"], ": alive\n\n"),
        (&["data: a\n\ndata: b\n\n"], "data: A\n\ndata: B\n\n"),
        (&["data: a\ndata: b\n\n"], "data: A\ndata: B\n\n"),
    ] {
        parts.iter().for_each(|part| origin_writes.send(chunk(part)).expect("the origin"));
        let mut seen = Vec::new();
        while seen.len() < expected.len() {
            seen.extend(client.read_chunk().expect("an event"));
        }
        assert_eq!(String::from_utf8(seen).expect("text"), expected);
    }
    origin_writes.send(b"0\r\n\r\n".to_vec()).expect("the origin");
    assert_eq!(client.read_chunk(), None);
}

#[test]
fn the_parts_of_events_are_shown() {
    let show = || json!({"on-response-event": [{"do": "show-event"}]});
    let body = "\u{feff}event: start\nid: 1\ndata: a\ndata: b\n\n:only a comment\n\ndata\n\ndata: cut";
    assert_eq!(made_of("text/event-stream", body, show()), "start|1|a/b\n-|-|-\n-|-|\n-|-|cut\n");
    let returns = made_of("text/event-stream", "data: 1\r\rdata: 2\r\r", show());
    assert!(returns.starts_with("-|-|1\n-|-|2\n"), "{returns}");
    let lines = made_of("application/x-ndjson", "{\"a\":1}\n{\"b\":2}\r\n3", show());
    assert_eq!(lines, "-|-|{\"a\":1}\n-|-|{\"b\":2}\n-|-|3\n");
    assert_eq!(made_of("text/plain", "a\nb\n", show()), "a\nb\n", "not a type of events");
    let any = json!({"event-types": ["text/plain"], "on-response-event": [{"do": "upper-event"}]});
    assert_eq!(made_of("text/plain", "a\nb\n", any), "A\nB\n", "unless it is named");
}

#[test]
fn events_are_dropped_and_added_and_end_the_stream() {
    let body = "data: 1\n\ndata: 2\n\ndata: 3\n\n";
    let made = |actions: Value| made_of("text/event-stream", body, json!({"on-response-event": actions}));
    assert_eq!(made(json!([{"do": "replace-piece", "value": "", "if-piece": "2"}])), "data: 1\n\ndata: 3\n\n");
    assert_eq!(made(json!([{"do": "end-piece", "if-piece": "2"}])), "data: 1\n\ndata: 2\n\n");
    assert_eq!(
        made(json!([{"do": "upper-event"}, {"do": "pass-rest", "if-piece": "1"}])),
        body,
        "the rest goes on unseen"
    );
    let held = made(json!([{"do": "functions", "calls": [["chunk.hold", 1]], "to": "held"}]));
    assert_eq!(held, body, "an event can't be held");
}

#[test]
fn a_long_event_is_not_collected_for_ever() {
    let origin = Origin::serve(|_| {
        Reply::Full(200, vec![("content-type".into(), "text/event-stream".into())], vec![b'x'; 100_000])
    });
    let limits = "limits = { body = \"64KiB\" }\n";
    let closed = with(&origin, limits, upper());
    assert!(closed.client().try_request("GET", "/", &[], b"").is_err(), "it breaks off");
    closed.wait_log("why", |line| line["filter"] == "a" && line.to_string().contains("more than 65536 bytes"));
    let open = with(&origin, &format!("{limits}on_error = \"open\""), upper());
    assert_eq!(open.get("/").body, vec![b'x'; 100_000]);
    let passed = open.metric("sluice_filter_unseen_bodies_total", &[("filter", "a"), ("reason", "too-large")]);
    assert_eq!(passed, Some(1.0));
}

/// Of several ways to see a body, that of events counts, then that of pieces, then the whole one.
#[test]
fn the_finest_way_to_see_a_body_counts() {
    let config = json!({
        "on-response-event": [{"do": "upper-event"}],
        "chunk-types": ["text/*"],
        "on-response-chunk": [{"do": "mark-piece"}],
        "on-response-body": [{"do": "set-body", "value": "whole"}],
    });
    assert_eq!(made_of("text/event-stream", "data: a\n\n", config.clone()), "data: A\n\n");
    assert_eq!(made_of("text/plain", "abc", config.clone()).replace("[!]", "").replace("!]", "]"), "[abc]");
    assert_eq!(made_of("application/json", "abc", config), "whole");
}
