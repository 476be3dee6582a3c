//! Messages pass whole and unchanged, in both directions, as they come.

use std::io::Write;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use sluice_harness::origin::Request;
use sluice_harness::{Gateway, Origin, Reply, eventually, wire};

use crate::support::{gateway, route};

/// Tells what it got, in the body.
fn mirror() -> Origin {
    Origin::serve(|r: &Request| Reply::text(format!("{} {} {}", r.method, r.target, r.text())))
}

#[test]
fn methods_and_bodies() {
    let origin = mirror();
    let gateway = Gateway::before(&origin.url());
    let mut client = gateway.client();
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "REPORT"] {
        let body: &[u8] = if method == "GET" { b"" } else { b"a body" };
        let response = client.request(method, "/x?y=z", &[], body);
        assert_eq!(response.text(), format!("{method} /x?y=z {}", String::from_utf8_lossy(body)));
    }
    assert_eq!(gateway.request("GET", "/", &[], b"body of a GET").text(), "GET / body of a GET");
}

#[test]
fn a_large_body_both_ways() {
    let origin = Origin::serve(|r: &Request| Reply::Full(200, Vec::new(), r.body.clone()));
    let gateway = Gateway::before(&origin.url());
    let body: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let response = gateway.request("POST", "/", &[], &body);
    assert_eq!(response.status, 200);
    assert!(response.body == body, "{} bytes came back", response.body.len());
}

#[test]
fn chunked_both_ways() {
    let origin = Origin::serve(|r: &Request| {
        assert_eq!(r.header("transfer-encoding"), Some("chunked"));
        let mut raw = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        raw.extend(wire::chunk(&r.body));
        raw.extend(wire::chunk(b"!"));
        raw.extend(b"0\r\n\r\n");
        Reply::Raw(raw)
    });
    let gateway = Gateway::before(&origin.url());
    let mut client = gateway.client();
    for _ in 0..2 {
        client.send(
            "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n3;ext=1\r\ndef\r\n0\r\n\r\n",
        );
        let response = client.read_response("POST");
        assert_eq!((response.status, response.text().as_str()), (200, "abcdef!"));
    }
}

#[test]
fn trailers_both_ways() {
    let origin = Origin::serve(|_: &Request| {
        Reply::Raw(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nx-sum: 42\r\n\r\n"
                .to_vec(),
        )
    });
    let gateway = Gateway::before(&origin.url());
    let mut client = gateway.client();
    client.send("POST / HTTP/1.1\r\nhost: x\r\nte: trailers\r\ntrailer: x-up\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-up: yes\r\n\r\n");
    let response = client.read_response("POST");
    assert_eq!(response.text(), "ok");
    assert_eq!(response.trailers, [("x-sum".to_string(), "42".to_string())]);
    assert_eq!(origin.last().trailers, [("x-up".to_string(), "yes".to_string())]);
}

#[test]
fn head_204_and_304_have_no_body() {
    let origin = Origin::serve(|r: &Request| match r.target.as_str() {
        "/204" => Reply::status(204),
        "/304" => Reply::status(304).with("etag", "\"1\""),
        _ => Reply::text("twelve bytes"),
    });
    let gateway = Gateway::before(&origin.url());
    let mut client = gateway.client();
    let head = client.request("HEAD", "/", &[], b"");
    assert_eq!((head.status, head.header("content-length")), (200, Some("12")));
    assert_eq!(client.get("/204").status, 204);
    assert_eq!(client.get("/304").header("etag"), Some("\"1\""));
    assert_eq!(client.get("/").text(), "twelve bytes", "the connection is still in step");
}

#[test]
fn statuses_and_headers_pass() {
    let origin = Origin::serve(|_: &Request| {
        Reply::Full(
            503,
            vec![
                ("set-cookie".into(), "a=1".into()),
                ("set-cookie".into(), "b=2".into()),
                ("x-latin".into(), "caf\u{e9}".into()),
                ("retry-after".into(), "7".into()),
            ],
            b"busy".to_vec(),
        )
    });
    let response = Gateway::before(&origin.url()).get("/");
    assert_eq!((response.status, response.text().as_str()), (503, "busy"));
    assert_eq!(response.head.all("set-cookie"), ["a=1", "b=2"]);
    assert_eq!(response.header("x-latin"), Some("caf\u{e9}"));
    assert_eq!(response.header("retry-after"), Some("7"));
}

#[test]
fn expect_continue() {
    let origin = mirror();
    let gateway = Gateway::before(&origin.url());
    let mut client = gateway.client();
    client.send("POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n");
    assert!(client.read_head().start.starts_with("HTTP/1.1 100"));
    client.send("abc");
    assert_eq!(client.read_response("POST").text(), "POST / abc");
}

#[test]
fn expect_continue_is_not_said_for_a_refused_body() {
    let origin = mirror();
    let gateway = gateway(&format!("{}limits = {{ body = \"10B\" }}\n", route(&origin.url(), &[])));
    let mut client = gateway.client();
    client.send("POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3000\r\n\r\n");
    assert!(client.read_head().start.starts_with("HTTP/1.1 413"));
    assert_eq!(origin.count(), 0);
}

#[test]
fn keep_alive_upstream_and_down() {
    let origin = mirror();
    let gateway = gateway(&route(&origin.url(), &[]));
    let mut client = gateway.client();
    for _ in 0..10 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!((origin.count(), origin.connections()), (10, 1));
}

#[test]
fn http_1_0_and_close() {
    let origin = mirror();
    let gateway = Gateway::before(&origin.url());
    let answer = gateway.raw("GET /old HTTP/1.0\r\nhost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with("GET /old "), "{answer}");
    let answer = gateway.raw("GET /x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(answer.to_ascii_lowercase().contains("\r\nconnection: close\r\n"), "{answer}");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = mirror();
    let gateway = Gateway::before(&origin.url());
    let mut client = gateway.client();
    client
        .send("GET /1 HTTP/1.1\r\nhost: x\r\n\r\nGET /2 HTTP/1.1\r\nhost: x\r\n\r\nGET /3 HTTP/1.1\r\nhost: x\r\n\r\n");
    for n in 1..=3 {
        assert_eq!(client.read_response("GET").text(), format!("GET /{n} "));
    }
}

#[test]
fn the_first_byte_leaves_before_the_second_is_made() {
    let (seen, wait) = mpsc::channel::<()>();
    let wait = Arc::new(Mutex::new(wait));
    let origin = Origin::serve(move |_: &Request| {
        let wait = wait.clone();
        Reply::script(move |conn| {
            conn.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
            for event in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
                conn.write(wire::chunk(event.as_bytes()));
                // The next event is made when the client has this one.
                wait.lock().expect("one request").recv().expect("the client's word");
            }
            conn.write("0\r\n\r\n");
        })
    });
    let gateway = Gateway::before(&origin.url());
    let mut client = gateway.client();
    client.send("GET /events HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(client.read_head().header("content-type"), Some("text/event-stream"));
    for n in 1..=3 {
        assert_eq!(client.read_chunk(), Some(format!("data: {n}\n\n").into_bytes()));
        seen.send(()).expect("the origin listens");
    }
    assert_eq!(client.read_chunk(), None);
}

#[test]
fn a_streamed_upload_reaches_the_origin_piece_by_piece() {
    let origin = Origin::scripted();
    let gateway = Gateway::before(&origin.url());
    let mut client = gateway.client();
    client.send("POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    client.send(wire::chunk(b"one"));
    let mut conn = origin.accept();
    let head = conn.read_head();
    assert_eq!(head.header("transfer-encoding"), Some("chunked"));
    assert_eq!(conn.read_chunk().as_deref(), Some(&b"one"[..]));
    client.send(wire::chunk(b"two"));
    assert_eq!(conn.read_chunk().as_deref(), Some(&b"two"[..]));
    client.send("0\r\n\r\n");
    assert_eq!(conn.read_chunk(), None);
    conn.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    // The empty line after the last chunk is still on its way to the origin.
    assert_eq!(client.read_response("POST").text(), "ok");
}

#[test]
fn a_response_may_come_before_the_request_is_sent() {
    let origin = Origin::scripted();
    let gateway = Gateway::before(&origin.url());
    let mut client = gateway.client();
    client.send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\nstart");
    let mut conn = origin.accept();
    conn.read_head();
    conn.write("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno");
    assert_eq!(client.read_response("POST").status, 403);
}

#[test]
fn websocket() {
    let origin = Origin::serve(|r: &Request| {
        assert_eq!(r.header("upgrade"), Some("websocket"));
        assert!(r.header("connection").is_some_and(|c| c.to_ascii_lowercase().contains("upgrade")));
        assert_eq!(r.header("sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
        Reply::script(|conn| {
            conn.write("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n");
            // Echoes whatever comes: the gateway doesn't look into frames.
            while let Ok(bytes) = conn.read_some(4096) {
                if bytes.is_empty() || conn.try_write(&bytes).is_err() {
                    return;
                }
            }
        })
    });
    let gateway = gateway(&route(&origin.url(), &[]));
    let mut client = gateway.client();
    client.send("GET /chat HTTP/1.1\r\nhost: x\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
    let head = client.read_head();
    assert!(head.start.contains(" 101 "), "{head:?}");
    assert_eq!(head.header("upgrade"), Some("websocket"));
    assert_eq!(head.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    for n in 0..5 {
        let frame = vec![n; 1 << (2 * n)];
        client.send(&frame);
        assert_eq!(client.read_exact(frame.len()), frame);
    }
    client.finish();
    client.expect_close();
    eventually("the gateway to hang up on the origin", || origin.open() == 0);
}

#[test]
fn upgrades_can_be_forbidden() {
    let origin = mirror();
    let gateway = gateway(&format!("{}upgrade = false\n", route(&origin.url(), &[])));
    let response = gateway.request("GET", "/", &[("connection", "upgrade"), ("upgrade", "websocket")], b"");
    // RFC 9110 §7.8: a server may ignore the field.
    assert_eq!((response.status, origin.last().header("upgrade")), (200, None));
}

#[test]
fn a_client_that_leaves_frees_the_origin() {
    let origin = Origin::serve(|_: &Request| {
        Reply::script(|conn| {
            conn.write("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome");
            conn.wait_for_close();
        })
    });
    let gateway = Gateway::before(&origin.url());
    let mut client = gateway.client();
    client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    client.read_head();
    assert_eq!(origin.open(), 1);
    drop(client);
    eventually("the gateway to hang up on the origin", || origin.open() == 0);
}

#[test]
fn an_origin_that_breaks_off_is_not_hidden() {
    let origin = Origin::serve(|r: &Request| {
        let chunked = r.target == "/chunked";
        Reply::script(move |conn| {
            if chunked {
                conn.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n");
            } else {
                conn.write("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf");
            }
        })
    });
    let gateway = Gateway::before(&origin.url());
    for target in ["/chunked", "/length"] {
        let mut client = gateway.client();
        let raw = client.format("GET", target, &[], b"");
        client.send(raw);
        let response = client.try_read_response("GET");
        assert!(response.is_err(), "{target} looked whole: {response:?}");
    }
}

#[test]
fn what_came_before_a_break_is_passed_on() {
    // In one piece, so that what is good and what is broken are seen together.
    let origin = Origin::serve(|_: &Request| {
        Reply::script(|conn| conn.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nXX\r\n"))
    });
    let gateway = Gateway::before(&origin.url());
    let mut client = gateway.client();
    client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    let answer = String::from_utf8(client.read_to_close()).expect("text");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("5\r\nhello\r\n"), "{answer}");
}

#[test]
fn a_client_that_sends_no_more_gets_an_answer_that_is_at_hand() {
    let gateway = gateway("[routes.web]\nmatch = { path = \"/here\" }\nrespond = { status = 200, body = \"hello\" }\n");
    for (target, status) in [("/here", "200"), ("/nowhere", "404"), ("nonsense", "400")] {
        for _ in 0..20 {
            let mut client = gateway.client();
            client.send(format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n"));
            client.finish();
            let answer = String::from_utf8(client.read_to_close()).expect("text");
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{target}: {answer:?}");
        }
    }
}

#[test]
fn a_slow_reader_holds_the_origin_back() {
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let origin = Origin::serve(move |_: &Request| {
        let tell = tell.lock().expect("the channel").clone();
        Reply::script(move |conn| {
            conn.write("HTTP/1.1 200 OK\r\ncontent-length: 268435456\r\n\r\n");
            let piece = vec![b'x'; 1 << 20];
            for n in 1..=256_u32 {
                if conn.try_write(&piece).is_err() {
                    return;
                }
                let _ = tell.send(n);
            }
        })
    });
    let gateway = Gateway::before(&origin.url());
    let before = gateway.resident();
    let mut client = gateway.client();
    client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    client.read_head();
    // Nobody reads: what the origin can send is what the sockets and the gateway's own buffer hold.
    let mut sent = 0;
    while let Ok(n) = told.recv_timeout(Duration::from_millis(500)) {
        sent = n;
    }
    assert!(sent < 64, "{sent} MiB went into the gateway without a reader");
    assert!(gateway.resident() < before + (8 << 20), "{} more bytes of memory", gateway.resident() - before);
    let mut rest = 268_435_456;
    while rest > 0 {
        let got = client.read_some(1 << 20).expect("the rest");
        assert!(!got.is_empty(), "{rest} bytes are missing");
        rest -= got.len();
    }
}

#[test]
fn malformed_requests_are_refused() {
    let origin = mirror();
    let gateway = Gateway::before(&origin.url());
    for raw in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: x\r\n folded: yes\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: x\r\nbad name: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: x\r\nx : 1\r\n\r\n",
        "GET x HTTP/1.1\r\nhost: x\r\n\r\n",
        "GET /a b HTTP/1.1\r\nhost: x\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: +3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\nabc",
        "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nhost: b\r\n\r\n",
        "CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n",
        "nonsense\r\n\r\n",
    ] {
        let mut client = gateway.client();
        let _ = client.try_send(raw);
        client.finish();
        let answer = String::from_utf8_lossy(&client.read_to_close()).into_owned();
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 501"),
            "{raw:?}: {answer}"
        );
    }
    assert_eq!(origin.count(), 0, "{:?}", origin.requests());
}

#[test]
fn a_request_never_smuggles_another() {
    let origin = mirror();
    let gateway = Gateway::before(&origin.url());
    // RFC 9112 §6.1: both length and chunked is an attack or a mistake; refused, or taken as chunked and closed after.
    for raw in [
        "POST /1 HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /2 HTTP/1.1\r\nhost: x\r\n\r\n",
        "POST /1 HTTP/1.1\r\nhost: x\r\ntransfer-encoding: xchunked\r\ncontent-length: 39\r\n\r\n0\r\n\r\nGET /2 HTTP/1.1\r\nhost: x\r\n\r\n      ",
        "POST /1 HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /2 HTTP/1.1\r\nhost: x\r\n\r\n",
    ] {
        let mut client = gateway.client();
        client.writer().write_all(raw.as_bytes()).expect("written");
        client.finish();
        client.read_to_close();
        assert!(origin.requests().iter().all(|r| r.target != "/2"), "{raw:?}");
    }
}
