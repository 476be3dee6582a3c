//! Requests of HTTP/1 that are unusual and good.

use sluice_harness::{Client, Gateway, Origin, Reply};

use crate::support::{gateway, shown};

/// Answers with what it got.
fn echo() -> Origin {
    Origin::serve(|r| {
        let trailers: String = r.trailers.iter().map(|(n, v)| format!(" {n}={v}")).collect();
        Reply::text(format!("{} {} {}{trailers}", r.method, r.target, r.text()))
    })
}

fn rig() -> (Origin, Gateway) {
    let origin = echo();
    let gateway = gateway(&origin.url());
    (origin, gateway)
}

#[test]
fn shapes() {
    let (origin, gateway) = rig();
    // What is sent, what the origin reads, whether the connection is kept.
    let rows: &[(&[u8], &str, bool)] = &[
        (b"GET /a?b=c HTTP/1.1\r\nhost: a\r\n\r\n", "GET /a?b=c ", true),
        (b"\r\nGET /a HTTP/1.1\r\nhost: a\r\n\r\n", "GET /a ", true),
        (b"\r\n\r\nGET /a HTTP/1.1\r\nhost: a\r\n\r\n", "GET /a ", true),
        (b"get /a HTTP/1.1\r\nhost: a\r\n\r\n", "get /a ", true),
        (b"M-SEARCH /a HTTP/1.1\r\nhost: a\r\n\r\n", "M-SEARCH /a ", true),
        (b"X!#$%&'*+.^_`|~ /a HTTP/1.1\r\nhost: a\r\n\r\n", "X!#$%&'*+.^_`|~ /a ", true),
        (b"OPTIONS /a HTTP/1.1\r\nhost: a\r\n\r\n", "OPTIONS /a ", true),
        (b"DELETE /a HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi", "DELETE /a hi", true),
        (b"GET /a HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi", "GET /a hi", true),
        (b"POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n", "POST /a ", true),
        (b"POST /a HTTP/1.1\r\nhost: a\r\n\r\n", "POST /a ", true),
        (b"POST /a HTTP/1.1\r\nhost: a\r\nContent-Length:\t002 \r\n\r\nhi", "POST /a hi", true),
        // RFC 9112 §3.2.2
        (b"GET http://a/b?c HTTP/1.1\r\nhost: a\r\n\r\n", "GET /b?c ", true),
        (b"GET HTTP://A/b HTTP/1.1\r\nhost: a\r\n\r\n", "GET /b ", true),
        (b"GET http://a:80/b HTTP/1.1\r\nhost: a:80\r\n\r\n", "GET /b ", true),
        (b"GET http://a HTTP/1.1\r\nhost: a\r\n\r\n", "GET / ", true),
        (b"GET http://a?b HTTP/1.1\r\nhost: a\r\n\r\n", "GET /?b ", true),
        (b"GET http://[::1]/b HTTP/1.1\r\nhost: [::1]\r\n\r\n", "GET /b ", true),
        // RFC 9112 §3.2
        (b"GET /a HTTP/1.1\r\nhost: A.test:8080\r\n\r\n", "GET /a ", true),
        (b"GET /a HTTP/1.1\r\nhost: [2001:db8::1]:80\r\n\r\n", "GET /a ", true),
        (b"GET /a HTTP/1.1\r\nhost: a.test.\r\n\r\n", "GET /a ", true),
        (b"GET /a HTTP/1.1\r\nHOST:a\r\n\r\n", "GET /a ", true),
        (b"GET //a//b HTTP/1.1\r\nhost: a\r\n\r\n", "GET //a//b ", true),
        (b"GET /a/./../%7eb%2f HTTP/1.1\r\nhost: a\r\n\r\n", "GET /~b%2F ", true),
        // RFC 9112 §7.1
        (
            b"POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            "POST /a hi",
            true,
        ),
        (
            b"POST /a HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n1;x=\"y z\"\r\nh\r\n0000001;x\r\ni\r\n000;y\r\n\r\n",
            "POST /a hi",
            true,
        ),
        (
            b"POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 42\r\nx-sum:43\r\n\r\n",
            "POST /a hi x-sum=42 x-sum=43",
            true,
        ),
        (b"POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", "POST /a ", true),
        // RFC 9112 §9.3
        (b"GET /a HTTP/1.1\r\nhost: a\r\nconnection: x, Close\r\n\r\n", "GET /a ", false),
        (b"GET /a HTTP/1.0\r\nhost: a\r\n\r\n", "GET /a ", false),
        (b"GET /a HTTP/1.0\r\n\r\n", "GET /a ", false),
        (b"GET /a HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n", "GET /a ", true),
        (b"POST /a HTTP/1.0\r\nconnection: Keep-Alive\r\ncontent-length: 2\r\n\r\nhi", "POST /a hi", true),
        (b"GET /a HTTP/1.0\r\nconnection: keep-alive, close\r\n\r\n", "GET /a ", false),
    ];
    for (row, read, kept) in rows {
        let before = origin.count();
        let mut client = gateway.client();
        client.send(row);
        let response = client.read_response("GET");
        assert_eq!((response.status, response.text().as_str()), (200, *read), "{}", shown(row));
        if *kept {
            assert_eq!(client.get("/again").text(), "GET /again ", "{}", shown(row));
        } else {
            assert_eq!(response.header("connection"), Some("close"), "{}", shown(row));
            client.expect_close();
        }
        assert_eq!(origin.count(), before + 1 + usize::from(*kept), "{}", shown(row));
    }
}

#[test]
fn an_old_client_is_told_that_the_connection_stays() {
    let (_origin, gateway) = rig();
    let mut client = gateway.client();
    client.send("GET /a HTTP/1.0\r\nconnection: keep-alive\r\n\r\n");
    assert_eq!(client.read_response("GET").header("connection"), Some("keep-alive"));
}

#[test]
fn requests_in_one_write_are_answered_in_order() {
    let (origin, gateway) = rig();
    let mut client = gateway.client();
    let mut bytes = Vec::new();
    for n in 0..50 {
        bytes.extend(
            match n % 3 {
                0 => format!("GET /{n} HTTP/1.1\r\nhost: a\r\n\r\n"),
                1 => format!("POST /{n} HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc"),
                _ => {
                    format!("POST /{n} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
                }
            }
            .into_bytes(),
        );
    }
    client.send(bytes);
    for n in 0..50 {
        let want = if n % 3 == 0 { format!("GET /{n} ") } else { format!("POST /{n} abc") };
        assert_eq!(client.read_response("GET").text(), want);
    }
    assert_eq!(origin.count(), 50);
}

#[test]
fn a_head_that_comes_byte_by_byte() {
    let (_origin, gateway) = rig();
    let mut client = gateway.client();
    for byte in b"POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2;x\r\nhi\r\n0\r\nx: y\r\n\r\n" {
        client.send([*byte]);
    }
    assert_eq!(client.read_response("POST").text(), "POST /a hi x=y");
}

#[test]
fn head_is_told_the_length_and_gets_nothing() {
    let (origin, gateway) = rig();
    let mut client = gateway.client();
    client.send("HEAD /a HTTP/1.1\r\nhost: a\r\n\r\nGET /b HTTP/1.1\r\nhost: a\r\n\r\n");
    let response = client.read_response("HEAD");
    assert_eq!((response.status, response.header("content-length")), (200, Some("8")));
    assert_eq!(client.read_response("GET").text(), "GET /b ");
    assert_eq!(origin.count(), 2);
}

fn continues(client: &mut Client, framing: &str, body: &str) {
    client.send(format!("POST /a HTTP/1.1\r\nhost: a\r\nexpect: 100-Continue\r\n{framing}\r\n\r\n"));
    let interim = client.read_head();
    assert_eq!(interim.start, "HTTP/1.1 100 Continue");
    client.send(body);
    assert_eq!(client.read_response("POST").text(), "POST /a hi");
}

#[test]
fn expect_continue() {
    let (_origin, gateway) = rig();
    let mut client = gateway.client();
    continues(&mut client, "content-length: 2", "hi");
    continues(&mut client, "transfer-encoding: chunked", "2\r\nhi\r\n0\r\n\r\n");
    // Who does not wait gets no more than the answer, or one interim response before it.
    client.send("POST /a HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\nhi");
    assert_eq!(client.read_response("POST").text(), "POST /a hi");
    // RFC 9110 §10.1.1: not in HTTP/1.0, and not where no body follows.
    client.send("GET /a HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\n\r\n");
    assert_eq!(client.read_head().start, "HTTP/1.1 200 OK");
    let mut client = gateway.client();
    client.send("POST /a HTTP/1.0\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\nhi");
    assert_eq!(client.read_head().start, "HTTP/1.1 200 OK");
}
