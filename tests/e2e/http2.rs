//! HTTP/2 downstream, by prior knowledge (over TLS: tls.rs).

use std::sync::{Arc, Mutex, mpsc};

use http_body_util::BodyExt;
use serde_json::json;
use sluice_harness::frames::{Ended, Frames};
use sluice_harness::h2::{H2, full, until, within};
use sluice_harness::{Gateway, Origin, Reply, eventually, wire};

use crate::support::{BASE, gateway, route};

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

#[test]
fn what_is_refused_before_it_is_a_request_is_in_the_log() {
    let limits = "[listeners.http]\nlimits = { head = \"4KiB\" }\n";
    let origin = Origin::named("o");
    let toml = BASE.replace("[listeners.http]\n", limits) + &route(&origin.url(), &[]);
    let gateway = Gateway::start(&toml);
    type Row<'a> = Vec<(&'a [u8], &'a [u8])>;
    let head = |path: &'static [u8]| -> Row<'_> {
        vec![(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", path)]
    };
    let large = [b'x'; 10_000];
    let with = |name: &'static [u8], value| -> Row<'_> { head(b"/").into_iter().chain([(name, value)]).collect() };
    let (malformed, connection, large) = (head(b"/a b"), with(b"connection", b"close"), with(b"x-large", &large[..]));
    let mut refused = 0;
    // The library answers what is too large itself, with a status that is no entry of HPACK's static table.
    for (row, status) in [(malformed, 400), (connection, 400), (large, 0)] {
        let mut frames = Frames::connect(gateway.address());
        frames.headers(1, &row, true);
        assert_eq!(frames.wait(1), Ended::Response(status), "{refused}");
        refused += 1;
        frames.headers(3, &head(b"/good"), true);
        assert_eq!(frames.wait(3), Ended::Response(200));
        eventually("a line for each refusal", || {
            let lines = gateway.access();
            let of = |error| lines.iter().filter(|line| line["error"] == json!(error)).count();
            of("bad-request") == refused
        });
    }
    let line = gateway.wait_access("a refusal", |line| line["error"] == "bad-request");
    assert_eq!(
        (&line["protocol"], &line["status"], &line["error_side"]),
        (&json!("HTTP/2.0"), &json!(null), &json!("client"))
    );
    assert_eq!(line["client"], "127.0.0.1");
    assert_eq!(gateway.access().len(), 2 * refused, "and none for what is in order");
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
fn a_malformed_request_gets_an_answer_before_its_reset() {
    let origin = Origin::named("o");
    let gateway = Gateway::before(&origin.url());
    let head = |path: &'static [u8]| -> [(&'static [u8], &'static [u8]); 4] {
        [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", path)]
    };
    let mut frames = Frames::connect(gateway.address());
    for (n, path) in [&b"/a?q=<x>"[..], b"/a?filter={\"a\":1}", b"/<a>", b"/a\x01", b"?a"].into_iter().enumerate() {
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
fn an_error_answer_is_the_same_as_over_http1() {
    let gateway = gateway("[routes.one]\nmatch = { path = \"/one\" }\nrespond = { status = 200 }\n");
    let mut h2 = H2::connect(gateway.address());
    let answer = h2.get("/two");
    assert_eq!((answer.status, answer.header("content-type")), (404, Some("application/problem+json")));
}
