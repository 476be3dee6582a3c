//! Responses of upstreams: what is malformed is a 502 or a broken body, and nothing of one response is taken for another.

use std::fmt::Write;
use std::sync::mpsc;

use sluice_harness::{Client, Origin, Reply, eventually, wire};

use crate::support::{gateway, shown, wrong_with};

/// Answers `/good` well, and everything else with these bytes on a connection that stays open until the gateway closes it.
fn answering(bytes: &'static [u8]) -> Origin {
    Origin::serve(move |r| match r.target.as_str() {
        "/good" => Reply::text("good"),
        _ => Reply::script(move |conn| {
            conn.write(bytes);
            conn.wait_for_close();
        }),
    })
}

/// The same, but closes behind them.
fn answering_and_closing(bytes: &'static [u8]) -> Origin {
    Origin::serve(move |r| match r.target.as_str() {
        "/good" => Reply::text("good"),
        _ => Reply::script(move |conn| conn.write(bytes)),
    })
}

#[test]
fn malformed_heads() {
    let rows: &[&[u8]] = &[
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\ncontent-length: \r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, gzip\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\ncontent-length: 2\n\nhi",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\n\r\nhi",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\nhi",
        b"HTTP/1.1 200 OK\r\nx : y\r\ncontent-length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nx: y\r\n z\r\ncontent-length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nx: y\0\r\ncontent-length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nx: y\rz\r\ncontent-length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nx\r\ncontent-length: 2\r\n\r\nhi",
        b"HTTP/1.1 2000 OK\r\ncontent-length: 2\r\n\r\nhi",
        b"HTTP/1.1 099 OK\r\ncontent-length: 2\r\n\r\nhi",
        b"HTTP/2.0 200 OK\r\ncontent-length: 2\r\n\r\nhi",
        b"\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi",
        b"<html></html>",
        b"HTTP/1.1 100 Continue\r\ncontent-length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi",
        // Nobody has asked for another protocol.
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi",
    ];
    let mut wrong = String::new();
    for row in rows {
        let origin = answering(row);
        let gateway = gateway(&origin.url());
        let mut client = gateway.client();
        let response = client.get("/bad");
        if let Some(what) = wrong_with(&response, 502) {
            writeln!(wrong, "{}\n  {what}", shown(row)).expect("a string");
        }
        assert_eq!(client.get("/good").text(), "good", "{}", shown(row));
        assert_eq!(origin.requests().last().map(|r| r.connection), Some(origin.connections() - 1), "{}", shown(row));
        assert!(origin.connections() > 1, "the connection was used again: {}", shown(row));
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// Old servers write the size of a chunk over blanks.
#[test]
fn chunk_sizes_that_are_padded_with_blanks() {
    let origin =
        answering(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3     \r\nabc\r\n2\t\r\nde\r\n0     \r\n\r\n");
    let response = gateway(&origin.url()).get("/padded");
    assert_eq!((response.status, response.text().as_str()), (200, "abcde"));
}

/// What is malformed from its first chunk on has no 200 in front of it.
#[test]
fn a_first_chunk_that_is_malformed() {
    for chunk in ["zz\r\n", " 3\r\nabc\r\n", "3\nabc\n", "-1\r\n", "ffffffffffffffffff\r\n"] {
        let bytes = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunk}0\r\n\r\n");
        let origin = answering(bytes.leak().as_bytes());
        assert_eq!(wrong_with(&gateway(&origin.url()).get("/bad"), 502), None, "{chunk:?}");
    }
}

#[test]
fn a_head_without_an_end() {
    let endless = Origin::serve(|_| {
        Reply::script(|conn| {
            conn.write("HTTP/1.1 200 OK\r\n");
            while conn.try_write(b"x: y\r\n".repeat(100)).is_ok() {}
        })
    });
    assert_eq!(wrong_with(&gateway(&endless.url()).get("/"), 502), None);
    let interim = Origin::serve(|_| {
        Reply::script(|conn| while conn.try_write(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n".repeat(10)).is_ok() {})
    });
    assert_eq!(wrong_with(&gateway(&interim.url()).get("/"), 502), None);
}

/// Bodies that break: the client of each version must be able to tell.
#[test]
fn broken_bodies() {
    let chunked: &[&[u8]] = &[
        b"3\r\nabc\r\nzz\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"3\nabc\n0\n\n",
        b"3\r\nabc\n0\r\n\r\n",
        b"3\r\nabc\r\n0\n\n",
        b"3\r\nabc\r\n0\r\nx: y\n\r\n",
        b"3\r\nabc\r\n0\r\nx : y\r\n\r\n",
        b"3\r\nabc\r\n+3\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabc\r\n10000000000000000\r\nabc\r\n0\r\n\r\n",
    ];
    // These end before they are whole.
    let short: &[&[u8]] = &[
        b"content-length: 10\r\n\r\nabc",
        b"content-length: 10\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"transfer-encoding: chunked\r\n\r\n3\r\nab",
        b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
        b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: y",
    ];
    let chunked =
        chunked.iter().map(|body| ([b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", *body].concat(), false));
    let short = short.iter().map(|rest| ([b"HTTP/1.1 200 OK\r\n", *rest].concat(), true));
    let mut wrong = String::new();
    for (row, closes) in chunked.chain(short) {
        let bytes: &'static [u8] = row.leak();
        let origin = if closes { answering_and_closing(bytes) } else { answering(bytes) };
        let gateway = gateway(&origin.url());
        let mut client = gateway.client();
        match client.try_request("GET", "/bad", &[("host", "a")], b"") {
            Ok(response) if wrong_with(&response, 502).is_some() => {
                writeln!(wrong, "{}\n  a whole response: {response:?}", shown(bytes)).expect("a string");
            }
            _ => {}
        }
        assert_eq!(gateway.get("/good").text(), "good", "{}", shown(bytes));
        assert!(origin.connections() > 1, "the connection was used again: {}", shown(bytes));
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn a_broken_body_is_no_whole_one_for_an_old_client() {
    let origin = answering_and_closing(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n");
    let gateway = gateway(&origin.url());
    let mut client = gateway.client();
    client.send("GET /bad HTTP/1.0\r\n\r\n");
    // A close is the end of such a body. Only a reset says that it is none.
    match client.try_read_response("GET") {
        Err(_) => {}
        Ok(response) => assert_eq!(wrong_with(&response, 502), None, "a whole body: {response:?}"),
    }
}

/// Good responses, and what the client gets of each.
#[test]
fn shapes() {
    // What the origin says, the method, status and body for the client, and whether the connection to the origin is kept.
    let rows: &[(&[u8], &str, u16, &str, bool)] = &[
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", "GET", 200, "hi", true),
        (b"HTTP/1.1 200\r\nContent-Length:2\r\n\r\nhi", "GET", 200, "hi", true),
        (b"HTTP/1.1 299 \xe4 x\r\ncontent-length: 2\r\n\r\nhi", "GET", 299, "hi", true),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;x=y\r\nhi\r\n0\r\n\r\n", "GET", 200, "hi", true),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nvary: x\r\n\r\n", "GET", 200, "hi", true),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi", "GET", 200, "hi", false),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi", "GET", 200, "hi", false),
        (b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nhi", "GET", 200, "hi", true),
        // RFC 9110 §15.2: interim responses.
        (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", "GET", 200, "hi", true),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 P\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", "GET", 200, "hi", true),
        // RFC 9112 §6.3: no body, whatever is said.
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", "HEAD", 200, "", true),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "HEAD", 200, "", true),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 2\r\n\r\n", "GET", 304, "", true),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "GET", 204, "", true),
        (b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n", "GET", 204, "", true),
        // What follows a length that is none is nobody's.
        (b"HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\nhi", "GET", 204, "", false),
        (b"HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\n", "GET", 204, "", false),
        (b"HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", "GET", 204, "", false),
        // More than a response.
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi!", "GET", 200, "hi", false),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison", "GET", 200, "hi", false),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison", "GET", 200, "", false),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison", "HEAD", 200, "", false),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 6\r\n\r\npoison", "GET", 304, "", false),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n\r\n", "GET", 200, "", false),
    ];
    for (row, method, status, body, kept) in rows {
        let bytes = *row;
        let origin = Origin::serve(move |r| match r.target.as_str() {
            "/good" => Reply::text("good"),
            _ => Reply::Raw(bytes.to_vec()),
        });
        let gateway = gateway(&origin.url());
        let mut client = gateway.client();
        let response = client.request(method, "/", &[], b"");
        assert_eq!((response.status, response.text().as_str()), (*status, *body), "{method} {}", shown(row));
        if *status == 204 {
            assert_eq!(response.header("content-length"), None, "{}", shown(row));
        }
        assert!(*method != "HEAD" || response.header("transfer-encoding").is_none(), "{}", shown(row));
        assert_eq!(client.get("/good").text(), "good", "{method} {}", shown(row));
        assert_eq!(origin.connections() == 1, *kept, "connections of {method} {}", shown(row));
    }
}

#[test]
fn bytes_that_come_later_are_no_response() {
    let origin = Origin::scripted();
    let gateway = gateway(&origin.url());
    let mut client = gateway.client();
    client.send("GET /one HTTP/1.1\r\nhost: a\r\n\r\n");
    let mut conn = origin.accept();
    conn.read_head();
    conn.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi");
    assert_eq!(client.read_response("GET").text(), "hi");
    // The connection is idle: this answers nothing.
    conn.write("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison");
    // Either the gateway has seen it and closed, or sees it when it wants to use the connection.
    client.send("GET /two HTTP/1.1\r\nhost: a\r\n\r\n");
    let mut other = origin.accept();
    assert_eq!(other.read_head().start, "GET /two HTTP/1.1");
    other.write("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood");
    assert_eq!(client.read_response("GET").text(), "good");
}

#[test]
fn bodies_that_end_with_the_connection() {
    for bytes in [&b"HTTP/1.1 200 OK\r\n\r\nuntil the end"[..], b"HTTP/1.0 200 OK\r\n\r\nuntil the end"] {
        let origin = answering_and_closing(bytes);
        let gateway = gateway(&origin.url());
        let mut client = gateway.client();
        let response = client.get("/");
        assert_eq!(
            (response.text().as_str(), response.header("transfer-encoding")),
            ("until the end", Some("chunked"))
        );
        assert_eq!(client.get("/good").text(), "good", "the client's own connection goes on");
        let mut old = gateway.client();
        old.send("GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n");
        let response = old.read_response("GET");
        assert_eq!((response.text().as_str(), response.header("connection")), ("until the end", Some("close")));
    }
}

#[test]
fn an_answer_before_the_request_is_sent() {
    let origin = Origin::scripted();
    let gateway = gateway(&origin.url());
    let mut client = gateway.client();
    client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nabc");
    let mut conn = origin.accept();
    conn.read_head();
    conn.write("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno");
    let response = client.read_response("POST");
    assert_eq!((response.status, response.text().as_str()), (403, "no"));
    // Neither connection is used again: nobody knows where the request ends. What is behind it is not taken for another.
    let _ = client.try_send([&[b'x'; 997][..], b"GET /behind HTTP/1.1\r\nhost: a\r\n\r\n"].concat());
    client.expect_close();
    let mut other = gateway.client();
    other.send("GET /next HTTP/1.1\r\nhost: a\r\n\r\n");
    let mut next = origin.accept();
    assert_eq!(next.read_head().start, "GET /next HTTP/1.1");
    next.write("HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(other.read_response("GET").status, 204);
}

#[test]
fn another_protocol_that_nobody_speaks_is_not_asked_for() {
    let origin = Origin::named("o");
    let gateway = gateway(&origin.url());
    for fields in [
        "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
        "connection: upgrade\r\nupgrade: H2C\r\n",
        "connection: upgrade\r\nupgrade: websocket, h2c\r\n",
        "connection: upgrade\r\nupgrade: h2c\r\nupgrade: websocket\r\n",
        "connection: keep-alive\r\nupgrade: websocket\r\n",
    ] {
        let mut client: Client = gateway.client();
        client.send(format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n"));
        assert_eq!(client.read_response("GET").status, 200, "{fields}");
        let seen = origin.last();
        for name in ["upgrade", "http2-settings", "connection"] {
            assert_eq!(seen.header(name), None, "{fields}");
        }
    }
}

#[test]
fn an_answer_while_a_large_request_is_sent_is_not_lost() {
    let origin = Origin::scripted();
    let gateway = gateway(&origin.url());
    let mut client = gateway.client();
    let mut writer = client.writer();
    let (stop, stopped) = mpsc::channel::<()>();
    let sending = std::thread::spawn(move || {
        use std::io::Write;
        let _ = writer.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
        // Until the gateway takes no more of it.
        while stopped.try_recv().is_err() && writer.write_all(&wire::chunk(&[b'x'; 10_000])).is_ok() {}
    });
    let mut conn = origin.accept();
    conn.read_head();
    conn.read_chunk();
    conn.write("HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno");
    drop(conn);
    let response = client.read_response("POST");
    assert_eq!((response.status, response.text().as_str()), (413, "no"));
    let _ = stop.send(());
    drop(client);
    let _ = sending.join();
}

#[test]
fn a_connection_that_the_origin_has_closed_is_not_used() {
    let origin = Origin::serve(|_| Reply::script(|conn| conn.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")));
    let gateway = gateway(&origin.url());
    for n in 1..20 {
        assert_eq!(gateway.get("/").text(), "hi");
        eventually("the close", || origin.open() == 0);
        assert_eq!(origin.connections(), n);
    }
}
