//! HTTP/2 downstream, by prior knowledge (over TLS: tls.rs).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use serde_json::json;
use sluice_harness::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Ended, Frames, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, block,
};
use sluice_harness::h2::{H2, full, until, within};
use sluice_harness::{Gateway, Origin, Reply, eventually, wire};

use crate::support::{BASE, gateway, route, setup};

#[test]
fn requests_and_bodies() {
    let origin = Origin::serve(|r| Reply::text(format!("{} {} {}", r.method, r.target, r.text())).with("x-a", "1"));
    let gateway = Gateway::before(&origin.url());
    let mut h2 = H2::connect(gateway.address());
    let request = h2.builder("POST", "/p?q=1").header("x-up", "2").body(full("body")).expect("a request");
    let answer = h2.send(request);
    assert_eq!((answer.status, answer.text().as_str(), answer.header("x-a")), (200, "POST /p?q=1 body", Some("1")));
    let seen = origin.last();
    assert_eq!(seen.header("x-up"), Some("2"));
    assert_eq!(seen.header("host"), Some(gateway.address().to_string().as_str()), ":authority becomes Host");
    assert_eq!(h2.get("/").status, 200);
}

#[test]
fn streams_don_t_wait_for_each_other() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Arc::new(Mutex::new(wait));
    let origin = Origin::serve(move |r| {
        if r.target == "/slow" {
            wait.lock().expect("one slow request").recv().expect("the word to go on");
        }
        Reply::text(r.target.clone())
    });
    let gateway = gateway(&route(&origin.url(), &[]));
    let h2 = H2::connect(gateway.address());
    let slow = h2.builder("GET", "/slow").body(full("")).expect("a request");
    let fast = h2.builder("GET", "/fast").body(full("")).expect("a request");
    h2.run(|mut sender| async move {
        let slow = tokio::spawn(sender.send_request(slow));
        let fast = within("the fast answer", sender.send_request(fast)).await.expect("an answer");
        assert_eq!(fast.into_body().collect().await.expect("a body").to_bytes(), "/fast");
        assert!(!slow.is_finished());
        go.send(()).expect("the origin waits");
        let slow = within("the slow answer", slow).await.expect("the task").expect("an answer");
        assert_eq!(slow.into_body().collect().await.expect("a body").to_bytes(), "/slow");
    });
}

type Row<'a> = Vec<(&'a [u8], &'a [u8])>;

fn head(path: &'static [u8]) -> Row<'static> {
    vec![(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", path)]
}

fn with<'a>(fields: &[(&'a [u8], &'a [u8])]) -> Row<'a> {
    head(b"/").into_iter().chain(fields.iter().copied()).collect()
}

fn without(name: &[u8]) -> Row<'static> {
    head(b"/").into_iter().filter(|(field, _)| *field != name).collect()
}

#[test]
fn what_is_refused_before_it_is_a_request_is_in_the_log() {
    let limits = "[listeners.http]\nlimits = { head = \"4KiB\" }\n";
    let origin = Origin::named("o");
    let debug = "[telemetry]\nlog_level = \"debug\"\n";
    let toml = BASE.replace("[listeners.http]\n", limits) + debug + &route(&origin.url(), &[]);
    let gateway = Gateway::start(&toml);
    let large = [b'x'; 10_000];
    let whole = |row: &Row<'_>| vec![(HEADERS, END_HEADERS | END_STREAM, block(row))];
    let (before, behind) = (block(&head(b"/")), block(&[(b"connection", b"close")]));
    let split = vec![(HEADERS, END_STREAM, before), (CONTINUATION, END_HEADERS, behind)];
    // A stream that depends on itself.
    let priority = [&[0, 0, 0, 1, 0][..], &block(&head(b"/"))].concat();
    let depends = vec![(HEADERS, END_HEADERS | END_STREAM | PRIORITY, priority)];
    // What the library says of each, so that none is lost when it says it in other words.
    let malformed = [
        ("malformed headers: malformed path", whole(&head(b"/a b"))),
        ("malformed headers: missing scheme", whole(&without(b":scheme"))),
        ("malformed headers: missing method", whole(&without(b":method"))),
        ("error building request", whole(&without(b":path"))),
        ("malformed header block", whole(&with(&[(b"connection", b"close")]))),
        ("malformed CONTINUATION frame", split),
        ("invalid HEADERS dependency ID", depends),
        ("could not parse content-length", whole(&with(&[(b"content-length", b"x")]))),
        ("conflicting content-length", whole(&with(&[(b"content-length", b"0"), (b"content-length", b"1")]))),
        ("content-length is not zero", whole(&with(&[(b"content-length", b"1")]))),
        (":protocol on non-CONNECT request", whole(&[head(b"/"), vec![(b":protocol", b"websocket")]].concat())),
        ("cannot use :status", whole(&[head(b"/"), vec![(b":status", b"200")]].concat())),
    ]
    .map(|(text, frames)| (text, frames, 400, "bad-request"));
    let too_large = [("frame is over size", whole(&with(&[(b"x-large", &large[..])])), 431, "head-too-large")];
    let mut lines = 0;
    for (text, sent, status, error) in malformed.into_iter().chain(too_large) {
        let mut frames = Frames::connect(gateway.address());
        for (kind, flags, payload) in sent {
            frames.send(kind, flags, 1, &payload);
        }
        // 431 is no entry of HPACK's static table.
        assert_eq!(frames.wait(1), Ended::Response(if status == 400 { 400 } else { 0 }), "{text}");
        frames.headers(3, &head(b"/good"), true);
        assert_eq!(frames.wait(3), Ended::Response(200), "{text}");
        lines += 2;
        eventually("a line for each", || gateway.access().len() >= lines);
        let refused: Vec<_> = gateway.access().into_iter().filter(|line| line["method"] == "-").collect();
        assert_eq!(refused.len(), lines / 2, "{text}");
        let line = refused.last().expect("a refusal");
        assert_eq!(
            (&line["status"], &line["error"], &line["error_side"], &line["answered_by"], &line["aborted"]),
            (&json!(status), &json!(error), &json!("client"), &json!("gateway"), &json!(false)),
            "{text}"
        );
        assert_eq!((&line["protocol"], &line["client"]), (&json!("HTTP/2.0"), &json!("127.0.0.1")));
        eventually("the reason in the words of the library", || {
            let log = gateway.log();
            log.iter().any(|told| {
                told["request_id"] == line["request_id"] && told["detail"].as_str().is_some_and(|d| d.contains(text))
            })
        });
    }
    assert_eq!(gateway.access().len(), lines, "and none for what is in order");
    for (status, count) in [("400", 12.0), ("431", 1.0)] {
        assert_eq!(gateway.metric("sluice_requests_total", &[("code", status)]), Some(count), "{status}");
    }
}

#[test]
fn what_goes_wrong_after_a_request_or_beside_it_is_no_refused_request() {
    let gateway = gateway("[routes.one]\nmatch = { path = \"/*\" }\nrespond = { status = 200 }\n");
    let mut frames = Frames::connect(gateway.address());
    let announced = with(&[(b"content-length", b"3")]);
    frames.headers(1, &announced, false);
    frames.data(1, b"more than that", true);
    frames.headers(3, &announced, false);
    frames.data(3, b"le", true);
    frames.headers(5, &head(b"/"), false);
    frames.headers(5, &[(b"x-trailer", b"but not the end")], false);
    frames.headers(7, &head(b"/good"), true);
    assert_eq!(frames.wait(7), Ended::Response(200));
    frames.send(PING, 0, 0, b"short");
    assert_eq!(frames.wait(0), Ended::Connection(1));
    let failed = || gateway.metric("sluice_connection_errors_total", &[]).unwrap_or_default();
    eventually("the connection to be counted", || failed() >= 1.0);
    gateway.wait_access("the request in order", |line| line["path"] == "/good");
    let refused: Vec<_> = gateway.access().into_iter().filter(|line| line["method"] == "-").collect();
    assert!(refused.is_empty(), "{refused:?}");
}

#[test]
fn no_client_fills_the_log_at_its_own_rate() {
    const ACKS: usize = 20_000;
    let gateway = gateway(&route(&Origin::named("o").url(), &[]));
    let mut frames = Frames::connect(gateway.address());
    frames.ping_acks(ACKS);
    let acks =
        || gateway.log().iter().filter(|line| line["message"].as_str().is_some_and(|m| m.contains("PING"))).count();
    let dropped =
        || gateway.metric("sluice_log_lines_dropped_total", &[("log", "operational")]).unwrap_or_default() as usize;
    eventually("all of them to be written or dropped", || acks() + dropped() == ACKS);
    assert!(acks() < ACKS / 20, "{}", acks());
    let told = || {
        gateway
            .log()
            .iter()
            .filter(|line| line["source"] == "h2::proto::ping_pong")
            .filter_map(|line| line["dropped"].as_u64())
            .sum::<u64>() as usize
    };
    eventually("the log to tell how many were dropped", || told() == dropped());
}

#[test]
fn a_reset_stream_frees_the_origin() {
    let origin = Origin::serve(|r| {
        if r.target == "/again" {
            return Reply::text("fine");
        }
        Reply::script(|conn| {
            conn.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
            conn.write(wire::chunk(b"first"));
            conn.wait_for_close();
        })
    });
    let gateway = Gateway::before(&origin.url());
    let mut h2 = H2::connect(gateway.address());
    let request = h2.builder("GET", "/").body(full("")).expect("a request");
    let seen = &origin;
    h2.run(|mut sender| async move {
        let mut response = within("a head", sender.send_request(request)).await.expect("a head");
        let frame = within("the first bytes", response.body_mut().frame()).await.expect("a frame").expect("data");
        assert_eq!(&frame.into_data().expect("data")[..], b"first");
        drop(response);
        until("the gateway to hang up on the origin", || seen.open() == 0).await;
    });
    assert_eq!(h2.get("/again").text(), "fine", "the connection goes on");
}

#[test]
fn trailers() {
    let origin = Origin::serve(|_| {
        Reply::Raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 42\r\n\r\n".to_vec())
    });
    let gateway = Gateway::before(&origin.url());
    let mut h2 = H2::connect(gateway.address());
    let request = h2.builder("GET", "/").header("te", "trailers").body(full("")).expect("a request");
    let answer = h2.send(request);
    assert_eq!(answer.trailers.expect("trailers")["x-sum"], "42");
}

#[test]
fn prior_knowledge_can_be_switched_off() {
    let origin = Origin::named("o");
    let gateway = Gateway::start(&format!(
        "[listeners.http]\nbind = \"127.0.0.1:0\"\nprotocols = [\"http/1.1\"]\n{}",
        route(&origin.url(), &[])
    ));
    let answer = gateway.raw("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 505"), "{answer:?}");
    assert_eq!(gateway.get("/").status, 200);
}

#[test]
fn crumbs_of_a_cookie_count_as_one_field() {
    let origin = Origin::named("o");
    let gateway = Gateway::before(&origin.url());
    let mut h2 = H2::connect(gateway.address());
    let cookies = (0..110).fold(h2.builder("GET", "/"), |request, n| request.header("cookie", format!("c{n}=1")));
    assert_eq!(h2.send(cookies.body(full("")).expect("a request")).status, 200);
    assert_eq!(origin.last().head.all("cookie").len(), 1);
    let fields = (0..110).fold(h2.builder("GET", "/"), |request, n| request.header(format!("x-{n}"), "1"));
    assert_eq!(h2.send(fields.body(full("")).expect("a request")).status, 431);
}

#[test]
fn characters_that_have_to_be_encoded_are_the_same_as_over_http1() {
    let origin = Origin::serve(|r| Reply::text(r.target.clone()));
    let gateway = Gateway::before(&origin.url());
    let mut frames = Frames::connect(gateway.address());
    let paths = [
        &b"/a?filter={\"a\":1}&q=<x>"[..],
        b"/<a>?b=`",
        b"/a`b\"c",
        b"/a/../b?\"\"\"",
        b"/a?q=\xe4\xff",
        b"/caf\xe9/x",
        b"/caf\xc3\xa9/<x>",
    ];
    for (n, path) in (0_u32..).zip(paths) {
        let mut request = b"GET ".to_vec();
        request.extend(path);
        request.extend(b" HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        assert!(gateway.raw(request).starts_with("HTTP/1.1 200"), "{}", path.escape_ascii());
        let over_http1 = origin.last().target.clone();
        frames.headers(2 * n + 1, &head(path), true);
        assert_eq!(frames.wait(2 * n + 1), Ended::Response(200), "{}", path.escape_ascii());
        assert_eq!(origin.last().target, over_http1);
    }
    eventually("all of them in the log", || gateway.access().len() == 2 * paths.len());
    let log = gateway.access();
    let paths_of = |protocol: &str| -> Vec<_> {
        log.iter().filter(|line| line["protocol"] == protocol).map(|line| line["path"].clone()).collect()
    };
    assert_eq!(paths_of("HTTP/2.0"), paths_of("HTTP/1.1"));
}

#[test]
fn a_malformed_request_gets_an_answer_before_its_reset() {
    let origin = Origin::named("o");
    let gateway = Gateway::before(&origin.url());
    let mut frames = Frames::connect(gateway.address());
    for (n, path) in [&b"/a<b c>"[..], b"/a?q=<#x>", b"/<a>", b"/a\x01", b"?a"].into_iter().enumerate() {
        let stream = 4 * u32::try_from(n).expect("small") + 1;
        // Half of them would have a body.
        frames.headers(stream, &head(path), n % 2 == 0);
        assert_eq!(frames.wait(stream), Ended::Response(400), "{}", path.escape_ascii());
        frames.headers(stream + 2, &head(b"/good?a={b}|^"), true);
        assert_eq!(frames.wait(stream + 2), Ended::Response(200), "the other streams go on");
        assert_eq!(origin.last().target, "/good?a={b}|^");
    }
    frames.headers(41, &head(b"/<"), false);
    assert_eq!((frames.wait(41), frames.wait(41)), (Ended::Response(400), Ended::Reset(0)), "no body is wanted");
}

#[test]
fn no_answer_comes_before_the_update_of_a_smaller_header_table() {
    let gateway = Gateway::before(&Origin::named("o").url());
    let mut frames = Frames::connect(gateway.address());
    // SETTINGS_HEADER_TABLE_SIZE.
    frames.send(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0]);
    frames.headers(1, &head(b"/<"), true);
    // RFC 7541 §4.2: a header block without the update would end the connection of a strict client.
    assert_eq!(frames.wait(1), Ended::Reset(1));
    let line = gateway.wait_access("the refusal", |line| line["error"] == "bad-request");
    assert_eq!((&line["status"], &line["aborted"]), (&json!(null), &json!(true)), "as it was");
    frames.headers(3, &head(b"/good"), true);
    // It begins with the update, which is no status.
    assert_eq!(frames.wait(3), Ended::Response(0));
    frames.headers(5, &head(b"/<"), true);
    assert_eq!(frames.wait(5), Ended::Response(400));
    gateway.wait_access("the answer", |line| line["error"] == "bad-request" && line["status"] == 400);
}

#[test]
fn an_error_answer_is_the_same_as_over_http1() {
    let gateway = gateway("[routes.one]\nmatch = { path = \"/one\" }\nrespond = { status = 200 }\n");
    let mut h2 = H2::connect(gateway.address());
    let answer = h2.get("/two");
    assert_eq!((answer.status, answer.header("content-type")), (404, Some("application/problem+json")));
}

/// Many more streams than there is memory for, of which the client takes nothing, beside one that it reads slowly.
#[test]
fn a_stream_that_nobody_reads_gives_its_memory_back() {
    const STREAMS: u32 = 40;
    const STEP: u32 = 70_000;
    let content = vec![b'x'; 4 << 20];
    let base = BASE
        .replace("[gateway]\n", "[gateway]\nmax_buffered_memory = \"256KiB\"\n")
        .replace("[listeners.http]\n", "[listeners.http]\ntimeouts = { idle = \"1s\" }\n");
    let gateway = setup()
        .file("public/large.bin", &content)
        .file("public/small.bin", &content[..50_000])
        .start(&format!("{base}{}[upstreams.site]\nfiles = \"public\"\n", route("site", &[])));
    let mut frames = Frames::connect(gateway.address());
    frames.initial_window(0);
    let open: BTreeSet<u32> = (1..=STREAMS).map(|n| 2 * n + 1).collect();
    frames.headers(1, &head(b"/large.bin"), true);
    for stream in &open {
        frames.headers(*stream, &head(if stream % 4 == 1 { b"/large.bin" } else { b"/small.bin" }), true);
    }
    let (mut taken, mut reset) = (0, BTreeSet::new());
    while reset.len() < open.len() {
        assert!(taken < content.len(), "the slow one is through before the others are given up");
        frames.open_window(0, STEP);
        frames.open_window(1, STEP);
        let begun = Instant::now();
        let wanted = content.len().min(taken + STEP as usize);
        while taken < wanted {
            let (kind, _, stream, payload) = frames.frame().expect("a frame");
            match kind {
                DATA => {
                    assert_eq!(stream, 1, "the others have no window");
                    taken += payload.len();
                }
                RST_STREAM => assert!(reset.insert(stream)),
                SETTINGS | HEADERS | WINDOW_UPDATE => {}
                other => panic!("a frame of type {other} of stream {stream}"),
            }
        }
        // As slow as it may be.
        eventually("some time to pass", || begun.elapsed() > Duration::from_millis(150));
    }
    assert_eq!(reset, open);
    frames.open_window(0, 8 << 20);
    frames.open_window(1, 8 << 20);
    while taken < content.len() {
        let (kind, _, _, payload) = frames.frame().expect("a frame");
        taken += if kind == DATA { payload.len() } else { 0 };
    }
    assert_eq!(taken, content.len());
    eventually("all of the memory", || gateway.metric("sluice_buffered_bytes", &[]) == Some(0.0));
    assert_eq!(gateway.get("/large.bin").body.len(), content.len());
    assert_eq!(gateway.metric("sluice_stalled_streams_total", &[]), Some(f64::from(STREAMS)));
    let line = gateway.wait_access("a large one", |line| line["error"] == "client-aborted");
    assert_eq!((&line["aborted"], &line["error_side"]), (&json!(true), &json!("client")), "{line}");
}

#[test]
fn a_stream_that_is_silent_is_not_one_that_nobody_reads() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Arc::new(Mutex::new(wait));
    let origin = Origin::serve(move |_| {
        let wait = wait.clone();
        Reply::script(move |conn| {
            conn.write("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nfir");
            wait.lock().expect("one request").recv().expect("the word to go on");
            conn.write("st!");
        })
    });
    let base = BASE.replace("[listeners.http]\n", "[listeners.http]\ntimeouts = { idle = \"200ms\" }\n");
    let gateway = Gateway::start(&(base + &route(&origin.url(), &[])));
    let h2 = H2::connect(gateway.address());
    let request = h2.builder("GET", "/").body(full("")).expect("a request");
    h2.run(|mut sender| async move {
        let response = within("a head", sender.send_request(request)).await.expect("a head");
        let mut body = response.into_body();
        let frame = within("the first bytes", body.frame()).await.expect("a frame").expect("data");
        assert_eq!(frame.into_data().expect("data"), "fir");
        let begun = Instant::now();
        until("the timeout to be long over", || begun.elapsed() > Duration::from_millis(900)).await;
        go.send(()).expect("the origin waits");
        assert_eq!(within("the rest", body.collect()).await.expect("the rest").to_bytes(), "st!");
    });
    assert_eq!(gateway.metric("sluice_stalled_streams_total", &[]), Some(0.0));
}
