//! Filters that see bodies piece by piece, while they stream: what they may do with a piece, and what becomes of the message around it.

use std::io::Read;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use serde_json::{Value, json};
use sluice_harness::h2::{H2, full};
use sluice_harness::tools::{Server, need, run_script};
use sluice_harness::{Client, Gateway, Origin, Reply, Response};

use crate::support::{FAILS, filter, gateway, probe, route};

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n";

pub(crate) fn chunk(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// An origin that answers with this head and then writes what it is handed, until that is empty.
pub(crate) fn driven(head: &'static str) -> (Origin, Sender<Vec<u8>>) {
    let (sender, receiver): (Sender<Vec<u8>>, Receiver<Vec<u8>>) = channel();
    let receiver = std::sync::Arc::new(Mutex::new(receiver));
    let origin = Origin::serve(move |_| {
        let receiver = receiver.clone();
        Reply::script(move |conn| {
            conn.write(head);
            let receiver = receiver.lock().expect("one connection at a time");
            while let Ok(bytes) = receiver.recv() {
                if bytes.is_empty() || conn.try_write(&bytes).is_err() {
                    return;
                }
            }
        })
    });
    (origin, sender)
}

/// A gateway with one filter in front of an origin.
fn with(origin: &Origin, config: Value) -> Gateway {
    gateway(&(route(&origin.url(), &["a"]) + &probe("a", config)))
}

fn with_lines(origin: &Origin, lines: &str, config: Value) -> Gateway {
    gateway(&(route(&origin.url(), &["a"]) + &filter("a", "probe", lines, config)))
}

/// A response of these chunks.
fn chunks(parts: &[&str]) -> Origin {
    let body: Vec<u8> = parts.iter().flat_map(chunk).collect();
    let whole = [HEAD.as_bytes(), &body, b"0\r\n\r\n"].concat();
    Origin::serve(move |_| Reply::Raw(whole.clone()))
}

fn begin(gateway: &Gateway) -> Client {
    let mut client = gateway.client();
    client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    client
}

fn broken(gateway: &Gateway) -> std::io::Result<Response> {
    begin(gateway).try_read_response("GET")
}

#[test]
fn each_piece_goes_on_before_the_next_one_comes() {
    let (origin, origin_writes) = driven(HEAD);
    let gateway = with(&origin, json!({"on-response-chunk": [{"do": "mark-piece"}]}));
    let mut client = begin(&gateway);
    assert_eq!(client.read_head().second_word(), "200");
    for part in ["one", "two", "three"] {
        origin_writes.send(chunk(part)).expect("the origin");
        assert_eq!(client.read_chunk().expect("a piece"), format!("[{part}]").as_bytes());
    }
    origin_writes.send(b"0\r\n\r\n".to_vec()).expect("the origin");
    assert_eq!(client.read_chunk().expect("the last piece"), b"[!]");
    assert_eq!(client.read_chunk(), None);
    let calls = gateway.metric("sluice_filter_calls_total", &[("filter", "a"), ("hook", "on-response-chunk")]);
    assert_eq!(calls, Some(4.0));
}

#[test]
fn the_head_says_no_more_than_what_holds() {
    let origin = Origin::serve(|_| {
        Reply::text("small words").with("etag", "\"one\"").with("content-md5", "AA==").with("digest", "sha-256=AA==")
    });
    let gateway = with(&origin, json!({"on-response-chunk": [{"do": "upper-piece"}]}));
    let response = gateway.get("/");
    assert_eq!((response.text().as_str(), response.header("content-length")), ("SMALL WORDS", None));
    assert_eq!(response.header("etag"), Some("W/\"one\""));
    assert_eq!((response.header("content-md5"), response.header("digest")), (None, None));
    let head = gateway.request("HEAD", "/", &[], b"");
    assert_eq!((head.status, head.header("content-length"), head.header("etag")), (200, None, Some("W/\"one\"")));
    let other =
        with(&origin, json!({"chunk-types": ["application/json"], "on-response-chunk": [{"do": "upper-piece"}]}));
    let untouched = other.get("/");
    assert_eq!((untouched.text().as_str(), untouched.header("content-length")), ("small words", Some("11")));
    assert_eq!(untouched.header("etag"), Some("\"one\""));
}

#[test]
fn large_parts_come_in_pieces_of_16_kib() {
    let origin = Origin::serve(|_| Reply::text("x".repeat(40_000)));
    let config = json!({"on-response-chunk": [{"do": "count-piece"}, {"do": "log", "value": "called"}]});
    let response = with(&origin, config).get("/").text();
    let count: usize = response.trim_start_matches('x').parse().expect("a count");
    assert!((3..=10).contains(&count), "{count} pieces");
    assert_eq!(response.len(), 40_000 + count.to_string().len());
}

#[test]
fn pieces_are_dropped_kept_back_ended_and_let_go() {
    let origin = chunks(&["one ", "two ", "three"]);
    let text = |actions: Value| with(&origin, json!({"on-response-chunk": actions})).get("/").text();
    assert_eq!(text(json!([{"do": "replace-piece", "value": "", "if-piece": "two"}])), "one three");
    assert_eq!(text(json!([{"do": "hold-piece"}, {"do": "mark-piece", "if-last": true}])), "[one two three!]");
    assert_eq!(text(json!([{"do": "hold-piece", "tail": 2}, {"do": "upper-piece", "if-last": true}])), "one two thrEE");
    let ended = text(json!([{"do": "end-piece", "if-piece": "two"}, {"do": "mark-piece"}]));
    assert!(ended.ends_with("two ]") && !ended.contains("three"), "{ended}");
    let rest = text(json!([{"do": "mark-piece"}, {"do": "pass-rest", "if-piece": "one"}]));
    assert!(rest.starts_with("[one ") && !rest.contains("!]"), "{rest}");
    assert_eq!(rest.replace(['[', ']'], ""), "one two three");
}

#[test]
fn coded_bodies_are_decoded_and_coded_again() {
    let text = "all small words of a text that is worth to be compressed ".repeat(2_000);
    let mut coded = Vec::new();
    flate2::bufread::GzEncoder::new(text.as_bytes(), flate2::Compression::new(6))
        .read_to_end(&mut coded)
        .expect("gzip");
    let origin = Origin::serve(move |_| {
        let head = vec![("content-type".into(), "text/plain".into()), ("content-encoding".into(), "gzip".into())];
        Reply::Full(200, head, coded.clone())
    });
    let config = json!({"on-response-chunk": [{"do": "upper-piece"}]});
    let plain = with(&origin, config.clone()).request("GET", "/", &[("accept-encoding", "gzip")], b"");
    assert!(plain.header("content-encoding").is_none() && plain.text() == text.to_uppercase());
    let route = route(&origin.url(), &["a"]) + "compression = { min_size = \"1B\" }\n" + &probe("a", config);
    let response = gateway(&route).request("GET", "/", &[("accept-encoding", "gzip")], b"");
    assert_eq!(response.header("content-encoding"), Some("gzip"));
    let mut out = String::new();
    flate2::read::GzDecoder::new(&*response.body).read_to_string(&mut out).expect("gzip");
    assert!(out == text.to_uppercase());
}

#[test]
fn what_cannot_be_decoded_is_not_shown() {
    let origin =
        Origin::serve(|r| Reply::text("abc").with("content-encoding", if r.target == "/u" { "x" } else { "gzip" }));
    let config = || json!({"on-response-chunk": [{"do": "upper-piece"}]});
    let closed = with(&origin, config());
    assert_eq!(closed.get("/u").status, 502, "an unknown coding");
    assert!(closed.client().try_request("GET", "/damaged", &[], b"").is_err(), "breaks off");
    let open = with_lines(&origin, "on_error = \"open\"", config());
    let passed = open.get("/u");
    assert_eq!((passed.text().as_str(), passed.header("content-encoding")), ("abc", Some("x")));
}

#[test]
fn trailers_follow_and_have_their_hook() {
    let body =
        [HEAD.replace("chunked\r\n", "chunked\r\ntrailer: x-sum\r\n").as_bytes(), b"3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n"]
            .concat();
    let origin = Origin::serve(move |_| Reply::Raw(body.clone()));
    let config = json!({
        "on-response-chunk": [{"do": "mark-piece"}],
        "on-response-trailers": [{"do": "set-trailer", "name": "x-more", "value": "2"}],
    });
    let response = with(&origin, config).request("GET", "/", &[("te", "trailers")], b"");
    assert_eq!(response.text(), "[abc][!]");
    let trailer = |name: &str| response.trailers.iter().any(|(of, _)| of == name);
    assert!(trailer("x-sum") && trailer("x-more"), "{:?}", response.trailers);
}

#[test]
fn a_failure_in_the_middle_breaks_the_response_or_is_passed_over() {
    let failing = |action: Value| json!({"on-response-chunk": [action, {"do": "upper-piece"}]});
    for action in [
        json!({"do": "trap", "if-piece": "two"}),
        json!({"do": "spin", "if-piece": "two"}),
        json!({"do": "nonsense", "if-piece": "two"}),
    ] {
        let (origin, origin_writes) = driven(HEAD);
        let begun = |gateway: &Gateway| {
            let mut client = begin(gateway);
            client.read_head();
            origin_writes.send(chunk("one")).expect("the origin");
            assert_eq!(client.read_chunk().expect("a piece"), b"ONE");
            origin_writes.send(chunk("two")).expect("the origin");
            client
        };
        let closed = with(&origin, failing(action.clone()));
        let rest = begun(&closed).read_to_close();
        assert!(!String::from_utf8_lossy(&rest).contains("0\r\n\r\n"), "{action}: it looks whole");
        let line = closed.wait_access("the error", |line| line["error"] == "filter-failed");
        assert_eq!(line["status"], 200, "{line}");
        closed.wait_log("why", |line| line["filter"] == "a" && line["hook"] == "on-response-chunk");
        // Its connection is of no more use.
        let _ = origin_writes.send(Vec::new());
        let (origin, more) = driven(HEAD);
        let open = with_lines(&origin, "on_error = \"open\"", failing(action.clone()));
        let mut client = begin(&open);
        client.read_head();
        for (sent, expected) in [("one", "ONE"), ("two", "two"), ("three", "three")] {
            more.send(chunk(sent)).expect("the origin");
            assert_eq!(client.read_chunk().expect("a piece"), expected.as_bytes(), "{action}");
        }
        more.send(b"0\r\n\r\n".to_vec()).expect("the origin");
        assert_eq!(client.read_chunk(), None);
    }
}

#[test]
fn what_is_held_is_bounded() {
    let origin = Origin::serve(|_| Reply::text("x".repeat(100_000)));
    let hold = || json!({"on-response-chunk": [{"do": "hold-piece"}]});
    let limits = "limits = { body = \"64KiB\" }\n";
    let closed = with_lines(&origin, limits, hold());
    assert!(broken(&closed).is_err(), "it breaks off");
    closed.wait_log("the limit", |line| line["filter"] == "a" && line.to_string().contains("too-large: 65536"));
    let open = with_lines(&origin, &format!("{limits}on_error = \"open\""), hold());
    assert_eq!(open.get("/").text(), "x".repeat(100_000), "also what was held");
    let enough = with_lines(&origin, "limits = { body = \"1MiB\" }", hold());
    assert_eq!(enough.get("/").text(), "x".repeat(100_000));
}

#[test]
fn a_filter_that_multiplies_is_contained() {
    let origin = Origin::serve(|_| Reply::text("x".repeat(1024)));
    let times = |times: usize| json!({"on-response-chunk": [{"do": "multiply-piece", "times": times}]});
    assert_eq!(with(&origin, times(1_000)).get("/").body.len(), 1_024_000, "within twice `limits.body`");
    for too_many in [4_000, 1_000_000] {
        assert!(broken(&with(&origin, times(too_many))).is_err(), "{too_many} times");
    }
}

#[test]
fn filters_stack_in_the_order_of_the_pipeline() {
    let origin = chunks(&["abc"]);
    let mark = |mark: &str| json!({"on-response-chunk": [{"do": "mark-piece"}, {"do": "log", "value": mark}]});
    let upper = json!({"on-response-chunk": [{"do": "upper-piece"}]});
    let two =
        gateway(&(route(&origin.url(), &["outer", "inner"]) + &probe("outer", upper) + &probe("inner", mark("i"))));
    assert_eq!(two.get("/").text().replace("[!]", ""), "[ABC]");
    // A filter that wants the whole body gets what those before it have made.
    let whole = json!({"on-response-body": [{"do": "body", "to": "x-saw"}, {"do": "upper-body"}]});
    let both = gateway(
        &(route(&origin.url(), &["outer", "inner"]) + &probe("outer", whole.clone()) + &probe("inner", mark("i"))),
    );
    let response = both.get("/");
    assert_eq!((response.header("x-saw"), response.text().as_str()), (Some("[abc!]"), "[ABC!]"));
    assert_eq!(response.header("content-length"), Some("6"));
    let other =
        gateway(&(route(&origin.url(), &["outer", "inner"]) + &probe("outer", mark("o")) + &probe("inner", whole)));
    let response = other.get("/");
    assert_eq!((response.header("x-saw"), response.text().as_str()), (Some("abc"), "[ABC!]"));
}

#[test]
fn errors_of_the_gateway_pass_as_pieces_too() {
    let config = json!({"on-response-chunk": [{"do": "upper-piece"}]});
    let gateway = gateway(&(route("http://127.0.0.1:1", &["a"]) + &probe("a", config)));
    let response = gateway.get("/");
    assert!(response.status >= 500 && response.text().contains("\"STATUS\""), "{}", response.text());
}

#[test]
fn over_http2_too() {
    let origin = chunks(&["one", "two"]);
    let gateway = with(&origin, json!({"on-response-chunk": [{"do": "upper-piece"}]}));
    let mut h2 = H2::connect(gateway.address());
    assert_eq!(h2.get("/").text(), "ONETWO");
    let failing = with_lines(&origin, FAILS, json!({"on-response-chunk": [{"do": "trap", "if-last": true}]}));
    let mut h2 = H2::connect(failing.address());
    let request = h2.builder("GET", "/").body(full("")).expect("a request");
    assert!(h2.try_send(request).is_err(), "the stream is reset");
}

#[test]
fn a_part_of_a_representation_is_shown_as_what_it_is() {
    let origin = Origin::serve(|request| match request.header("range") {
        Some(_) => Reply::Full(206, vec![("content-range".into(), "bytes 2-4/9".into())], b"all".to_vec()),
        None => Reply::text("small one"),
    });
    let upper = json!({"on-response-chunk": [{"do": "upper-piece"}]});
    let part = with(&origin, upper.clone()).request("GET", "/", &[("range", "bytes=2-4")], b"");
    assert_eq!((part.status, part.text().as_str(), part.header("content-range")), (206, "ALL", Some("bytes 2-4/9")));
    // One that may miss nothing asks for the whole.
    let mut whole = upper;
    whole["on-request"] = json!([{"do": "remove-header", "name": "range"}]);
    let whole = with(&origin, whole).request("GET", "/", &[("range", "bytes=2-4")], b"");
    assert_eq!((whole.status, whole.text().as_str()), (200, "SMALL ONE"));
}

#[test]
fn what_the_cache_has_passes_the_hooks_each_time() {
    let origin = Origin::serve(|_| Reply::text("stored").with("cache-control", "max-age=60"));
    let config = json!({"on-response-chunk": [{"do": "upper-piece"}]});
    let gateway = gateway(&(route(&origin.url(), &["a"]) + "cache = {}\n" + &probe("a", config)));
    for _ in 0..3 {
        assert_eq!(gateway.get("/").text(), "STORED");
    }
    let part = gateway.request("GET", "/", &[("range", "bytes=1-2")], b"");
    assert_eq!((part.status, part.text().as_str(), part.header("content-range")), (206, "TO", Some("bytes 1-2/6")));
    assert_eq!(origin.count(), 1);
}

#[test]
fn calls_of_grpc_stream_both_ways() {
    let Some([python]) = need(["python"]) else { return };
    let (_server, port) = Server::script(&python, "grpc_server.py");
    let config = json!({"on-request-chunk": [{"do": "echo-piece"}], "on-response-chunk": [{"do": "echo-piece"}]});
    let gateway = gateway(&format!(
        "[upstreams.grpc]\nendpoints = [\"http://127.0.0.1:{port}\"]\nprotocol = \"h2c\"\n{}{}",
        route("grpc", &["a"]),
        probe("a", config)
    ));
    assert_eq!(run_script(&python, "grpc_client.py", &[&gateway.address().to_string()]).trim(), "fine");
    for hook in ["on-request-chunk", "on-response-chunk"] {
        let calls = gateway.metric("sluice_filter_calls_total", &[("filter", "a"), ("hook", hook)]);
        assert!(calls >= Some(4.0), "{hook}: {calls:?}");
    }
}

/// Nothing is read ahead of a client that takes nothing.
#[test]
fn a_slow_client_holds_its_upstream_back() {
    let (wrote, written) = channel();
    let wrote = Mutex::new(wrote);
    let origin = Origin::serve(move |_| {
        let wrote = wrote.lock().expect("one request").clone();
        Reply::script(move |conn| {
            conn.write(HEAD);
            let part = chunk([b'x'; 16 << 10]);
            for number in 0..4096 {
                if conn.try_write(&part).is_err() {
                    let _ = wrote.send(number);
                    return;
                }
            }
            let _ = wrote.send(4096);
        })
    });
    let gateway = with(&origin, json!({"on-response-chunk": [{"do": "upper-piece"}]}));
    let mut client = begin(&gateway);
    client.read_head();
    client.read_chunk().expect("a piece");
    // The upstream's next 64 MiB don't fit into anything between.
    assert!(written.recv_timeout(std::time::Duration::from_secs(2)).is_err(), "the origin has written all");
    assert!(gateway.resident() < 400 << 20);
    drop(client);
    let number = written.recv_timeout(std::time::Duration::from_secs(30)).expect("the end of the origin");
    assert!(number < 4096, "a client that leaves ends it");
}

#[test]
fn request_bodies_stream_to_the_upstream() {
    let origin =
        Origin::serve(|r| Reply::text(r.text()).with("x-length", r.header("content-length").unwrap_or("none")));
    let gateway = with(&origin, json!({"on-request-chunk": [{"do": "mark-piece"}]}));
    let response = gateway.request("POST", "/", &[("content-type", "text/plain"), ("content-md5", "AA==")], b"small");
    assert_eq!(
        (response.text().replace("[!]", "").replace("!]", "]"), response.header("x-length")),
        ("[small]".into(), Some("none"))
    );
    assert_eq!(origin.last().header("content-md5"), None);
    let mut coded = Vec::new();
    flate2::bufread::GzEncoder::new(&b"hello"[..], flate2::Compression::new(6)).read_to_end(&mut coded).expect("gzip");
    let upper = with(&origin, json!({"on-request-chunk": [{"do": "upper-piece"}]}));
    assert_eq!(upper.request("POST", "/", &[("content-encoding", "gzip")], &coded).text(), "HELLO");
    assert_eq!(origin.last().header("content-encoding"), None);
    assert_eq!(upper.request("POST", "/", &[("content-encoding", "odd")], b"x").status, 415);
    assert_eq!(upper.get("/").text(), "", "without a body there are no pieces");
    let failing = with(&origin, json!({"on-request-chunk": [{"do": "trap", "if-piece": "bad"}]}));
    assert_eq!(failing.request("POST", "/", &[], b"a bad one").status, 500);
    assert_eq!(failing.request("POST", "/", &[], b"a good one").status, 200);
    let whole = json!({"on-request-body": [{"do": "body", "to": "x-saw"}]});
    let mark = json!({"on-request-chunk": [{"do": "mark-piece"}]});
    let both = crate::support::gateway(
        &(route(&origin.url(), &["first", "second"]) + &probe("first", mark) + &probe("second", whole)),
    );
    assert_eq!(both.request("POST", "/", &[], b"abc").text(), "[abc!]");
    assert_eq!(origin.last().header("x-saw"), Some("[abc!]"));
}

#[test]
fn a_retry_sends_what_the_filters_have_made_and_calls_them_once() {
    let first = Origin::serve(|_| Reply::status(503));
    let second = Origin::serve(|r| Reply::text(r.text()));
    let endpoints =
        format!("[upstreams.u]\nendpoints = [{:?}, {{ url = {:?}, priority = 1 }}]\n", first.url(), second.url());
    let retry =
        "retry = { attempts = 2, on = [\"gateway-error\"], body = \"64KiB\", budget = { min_per_second = 1000 } }\n";
    let config = json!({"on-request-chunk": [{"do": "count-piece"}], "on-response": [{"do": "functions", "calls": [["state.get"]], "to": "x-pieces"}]});
    let gateway = gateway(&(endpoints + &route("u", &["a"]) + retry + &probe("a", config)));
    let response = gateway.request("PUT", "/", &[], b"body");
    let count = response.text().replace("body", "");
    assert_eq!((response.status, first.count(), second.count()), (200, 1, 1), "{}", response.text());
    assert!(["1", "2"].contains(&&*count), "{count}");
    let calls = gateway.metric("sluice_filter_calls_total", &[("filter", "a"), ("hook", "on-request-chunk")]);
    assert_eq!(calls, count.parse().ok(), "each piece was seen once");
    let kept = response.header("x-pieces").expect("the slot");
    assert!(kept.contains(&format!("[{count}]")), "the response hooks find the slot: {kept}");
}
