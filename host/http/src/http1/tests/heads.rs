//! Heads of requests and responses that are read.

use super::*;

const LINE: &str = "the request line is not a method, a target and a version";
const METHOD: &str = "the method is not a token";
const TARGET: &str = "the request target is not valid";
const VERSION: &str = "a version of HTTP other than 1.0 and 1.1";
const FIRST: &str = "the first byte is not one of a method";
const NUMBER: &str = "a content-length that is not a number";
const LARGE: &str = "a content-length that is too large";
const CODINGS: &str = "a transfer-encoding that is not a list of codings";
const UNKNOWN: &str = "a transfer coding other than chunked";
const BOTH: &str = "both content-length and transfer-encoding";
const NAME: &str = "a field name is not valid";

#[test]
fn request_lines() {
    let rows: &[(&[u8], &str)] = &[
        // RFC 9112 §3
        (b"", "more"),
        (b"GET / HTTP/1.1\r\nhost: a\r\n", "more"),
        (b"GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1 0 | "),
        (b"GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.0 0 close | "),
        (b"GET /a?b=c&d HTTP/1.1\r\n\r\nGET", "GET /a?b=c&d HTTP/1.1 0 | GET"),
        (b"get / HTTP/1.1\r\n\r\n", "get / HTTP/1.1 0 | "),
        (b"M-SEARCH!#$%&'*+.^_`|~ / HTTP/1.1\r\n\r\n", "M-SEARCH!#$%&'*+.^_`|~ / HTTP/1.1 0 | "),
        (b"G(T / HTTP/1.1\r\n\r\n", METHOD),
        (b"G\xc3\xa4T / HTTP/1.1\r\n\r\n", METHOD),
        (b"GET\t/ HTTP/1.1\r\n\r\n", METHOD),
        (b"GET\r\n", LINE),
        (b"GET /\r\n\r\n", LINE),
        (b"GET  / HTTP/1.1\r\n\r\n", LINE),
        (b"GET /  HTTP/1.1\r\n\r\n", LINE),
        (b"GET / HTTP/1.1 \r\n\r\n", LINE),
        (b"GET / HTTP/1.1 x\r\n\r\n", LINE),
        (b"GET /\tHTTP/1.1\r\n\r\n", LINE),
        (b"GET /a b HTTP/1.1\r\n\r\n", LINE),
        (b" GET / HTTP/1.1\r\n\r\n", FIRST),
        (b"\0", FIRST),
        (b"\xff\xfe", FIRST),
        // §2.3
        (b"GET / HTTP/0.9\r\n\r\n", VERSION),
        (b"GET / HTTP/1.9\r\n", "more"),
        (b"GET / HTTP/1.2\r\nhost: a\r\n\r\nGET", "GET / HTTP/1.1 0 host=a | GET"),
        (b"GET / HTTP/1.2 \r\n\r\n", LINE),
        (b"GET / HTTP/2.0\r\n\r\n", VERSION),
        (b"GET / HTTP/9.9\r\n", VERSION),
        (b"GET / HTTP/1.10\r\n\r\n", LINE),
        (b"GET / HTTP/01.1\r\n\r\n", LINE),
        (b"GET / HTTP/1\r\n\r\n", LINE),
        (b"GET / HTTP/1,1\r\n\r\n", LINE),
        (b"GET / http/1.1\r\n\r\n", LINE),
        (b"GET / HTTPS/1.1\r\n\r\n", LINE),
        (b"GET / HTTP/ 1.1\r\n\r\n", LINE),
        (b"GET / \r\n\r\n", LINE),
        // §2.2: bare line ends, empty lines in front
        (b"GET / HTTP/1.1\n\n", FEED),
        (b"GET / HTTP/1.1\nhost: a\r\n\r\n", FEED),
        (b"GET / HTTP/1.1\r\nhost: a\n\r\n", FEED),
        (b"GET / HTTP/1.1\r\nhost: a\r\n\n", FEED),
        (b"GET / HTTP/1.1\r\n\n", FEED),
        (b"GET / HTTP/1.1\r\r\n\r\n", LINE),
        (b"GET /\r HTTP/1.1\r\n\r\n", TARGET),
        (b"GET / HTTP/1.1\rhost: a\r\n\r\n", LINE),
        (b"\r\nGET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1 0 | "),
        (b"\r\n\r\nGET / HTTP/1.1\r\n\r\n\r\n", "GET / HTTP/1.1 0 | \\r\\n"),
        (b"\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n", "more than two empty lines before a request"),
        (b"\r\n\r", "more"),
        (b"\nGET / HTTP/1.1\r\n\r\n", FIRST),
        (b"\rGET / HTTP/1.1\r\n\r\n", FIRST),
        (b"\r\n\nGET / HTTP/1.1\r\n\r\n", FIRST),
        // other protocols
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "an HTTP/2 preface where HTTP/1 was expected"),
        (b"\x16\x03\x01\x02\0\x01", "a TLS handshake where plain HTTP was expected"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", LINE),
        (b"HTTP/1.1 200 OK\r\n\r\n", METHOD),
    ];
    check(rows, |input| request_within(input, LIMITS));
}

#[test]
fn request_targets() {
    let rows: &[(&str, &str)] = &[
        // RFC 9112 §3.2. What each form means is decided in http/target.rs.
        ("//a/b", "GET //a/b HTTP/1.1 0 | "),
        ("*", "GET * HTTP/1.1 0 | "),
        ("a:443", "GET a:443 HTTP/1.1 0 | "),
        ("http://a:80/b", "GET http://a:80/b HTTP/1.1 0 | "),
        ("http://u@a/", "GET http://u@a/ HTTP/1.1 0 | "),
        ("/?", "GET /? HTTP/1.1 0 | "),
        ("/%zz", "GET /%zz HTTP/1.1 0 | "),
        ("/\u{e4}", "GET /\u{e4} HTTP/1.1 0 | "),
        ("/a#b", "a fragment in the request target"),
        ("/#", "a fragment in the request target"),
        ("/?a#b", "a fragment in the request target"),
        ("http://a/#", "a fragment in the request target"),
        ("http://a#@b/", "a fragment in the request target"),
        ("a/b", TARGET),
        ("?a", TARGET),
        ("http://", TARGET),
        ("http:///a", TARGET),
        ("http:/a", TARGET),
        ("http:a/b", TARGET),
        ("http://a b/", LINE),
        ("://a/", TARGET),
        ("http://a@b@c/", "GET http://a@b@c/ HTTP/1.1 0 | "),
        ("http://[::1/", TARGET),
        ("http://a:80:80/", TARGET),
        ("/\x01", TARGET),
        ("/\x7f", TARGET),
        ("/\0", TARGET),
    ];
    check(rows, |target| {
        let line = [b"GET ", target, b" HTTP/1.1\r\n\r\n"].concat();
        request_within(&line, LIMITS)
    });
    let rows: &[(&[u8], &str)] = &[
        (br#"/a?filter={"a":1}&q=<x>"#, "/a?filter={%22a%22:1}&q=%3Cx%3E"),
        (b"/<a>`?`", "/%3Ca%3E%60?`"),
        (b"/caf\xe9?q=\xc3\xa4\xff", "/caf%E9?q=%C3%A4%FF"),
        (b"http://a/<?<", "http://a/%3C?%3C"),
    ];
    for (sent, read) in rows {
        let head = [b"GET ", *sent, b" HTTP/1.1\r\n\r\n"].concat();
        assert_eq!(request_within(&head, LIMITS), format!("GET {read} HTTP/1.1 0 | "));
    }
    assert_eq!(request_within(b"GET /?<#\xff HTTP/1.1\r\n\r\n", LIMITS), "a fragment in the request target");
}

#[test]
fn request_fields() {
    let rows: &[(&[u8], &str)] = &[
        // RFC 9112 §5
        (b"Host: a\r\nX-B:c\r\nx-b: \t d \t\r\n", "host=a x-b=c x-b=d "),
        (b"x:\r\n", "x= "),
        (b"x: \t \r\n", "x= "),
        (b"x: a\tb \xe4 \"c:\"\r\n", "x=a\\tb \\xe4 \\\"c:\\\" "),
        (b"1!#$%&'*+-.^_`|~: a\r\n", "1!#$%&'*+-.^_`|~=a "),
        (b"x : a\r\n", "white space before the colon of a field"),
        (b"x\t: a\r\n", "white space before the colon of a field"),
        (b"content-length : 3\r\n", "white space before the colon of a field"),
        (b" x: a\r\n", "a folded field line"),
        (b"\tx: a\r\n", "a folded field line"),
        (b"x: a\r\n b\r\n", "a folded field line"),
        (b"x: a\r\n\tb\r\n", "a folded field line"),
        (b"x: a\r\n \r\n", "a folded field line"),
        (b"transfer-encoding:\r\n chunked\r\n", "a folded field line"),
        (b"x\r\n", "a field line without a colon"),
        (b"GET / HTTP/1.1\r\n", "a field line without a colon"),
        (b": a\r\n", "a field line without a name"),
        (b"x y: a\r\n", NAME),
        (b"x\0: a\r\n", NAME),
        (b"x\r: a\r\n", NAME),
        (b"x(y): a\r\n", NAME),
        (b"x@y: a\r\n", NAME),
        (b"\"x\": a\r\n", NAME),
        (b"\xe4: a\r\n", NAME),
        (b"x\x0b: a\r\n", NAME),
        (b"x: a\0b\r\n", CONTROL),
        (b"x: a\x01\r\n", CONTROL),
        (b"x: \x0b\r\n", CONTROL),
        (b"x: a\x7f\r\n", CONTROL),
        (b"x: a\x1b[0m\r\n", CONTROL),
        (b"x: a\rb\r\n", "a carriage return in a field value"),
        (b"x: \r\r\n", "a carriage return in a field value"),
        (b"x: a\r\r\n", "a carriage return in a field value"),
        (b"x: a\r\rtransfer-encoding: chunked\r\n", "a carriage return in a field value"),
        (b"x: a\nb: c\r\n", FEED),
        (b"x\n: a\r\n", FEED),
        (b"x: a\n\r\n", FEED),
        (b"x: a\n\n", FEED),
    ];
    check(rows, |fields| {
        let got = request_within(&[b"GET / HTTP/1.1\r\n", fields, b"\r\n"].concat(), LIMITS);
        match got.strip_prefix("GET / HTTP/1.1 0 ").and_then(|rest| rest.strip_suffix("| ")) {
            Some(fields) => fields.to_owned(),
            None => got,
        }
    });
}

#[test]
fn request_framing() {
    let rows: &[(&[u8], &str)] = &[
        // RFC 9110 §8.6
        (b"content-length: 0", "0"),
        (b"content-length: 10", "10"),
        (b"Content-Length:\t10 ", "10"),
        (b"content-length: 0010", "10"),
        (b"content-length: 9223372036854775807", "9223372036854775807"),
        (b"content-length: 9223372036854775808", LARGE),
        (b"content-length: 18446744073709551616", LARGE),
        (b"content-length: 99999999999999999999999999", LARGE),
        (b"content-length: +10", NUMBER),
        (b"content-length: -1", NUMBER),
        (b"content-length: -0", NUMBER),
        (b"content-length: 1 0", NUMBER),
        (b"content-length: 1_0", NUMBER),
        (b"content-length: 0x10", NUMBER),
        (b"content-length: 1e2", NUMBER),
        (b"content-length: 10;", NUMBER),
        (b"content-length: 10.0", NUMBER),
        (b"content-length: \"10\"", NUMBER),
        (b"content-length: \xc2\xb2", NUMBER),
        (b"content-length: 10, 10", NUMBER),
        (b"content-length: 10,", NUMBER),
        (b"content-length: ,10", NUMBER),
        (b"content-length:", "an empty content-length"),
        (b"content-length: 10\r\ncontent-length: 10", "more than one content-length"),
        (b"content-length: 10\r\ncontent-length: 11", "more than one content-length"),
        (b"content-length: 0\r\nCONTENT-LENGTH: 0", "more than one content-length"),
        // RFC 9112 §6.1
        (b"transfer-encoding: chunked", "chunked"),
        (b"Transfer-Encoding:CHUNKED\t", "chunked"),
        (b"transfer-encoding: gzip", UNKNOWN),
        (b"transfer-encoding: identity", UNKNOWN),
        (b"transfer-encoding: xchunked", UNKNOWN),
        (b"transfer-encoding: chunkedx", UNKNOWN),
        (b"transfer-encoding: gzip, chunked", UNKNOWN),
        (b"transfer-encoding: chunked, gzip", "chunked is not the last coding"),
        (b"transfer-encoding: chunked, identity", "chunked is not the last coding"),
        (b"transfer-encoding: chunked, chunked", "chunked more than once"),
        (b"transfer-encoding: chunked,", CODINGS),
        (b"transfer-encoding: ,chunked", CODINGS),
        (b"transfer-encoding:", CODINGS),
        (b"transfer-encoding: chunked;q=1", CODINGS),
        (b"transfer-encoding: \"chunked\"", CODINGS),
        (b"transfer-encoding: chun ked", CODINGS),
        (b"transfer-encoding: chunked\xa0", CODINGS),
        (b"transfer-encoding: \x0bchunked", CONTROL),
        (b"transfer-encoding: chunked\r\ntransfer-encoding: chunked", "more than one transfer-encoding"),
        (b"transfer-encoding: chunked\r\ntransfer-encoding: identity", "more than one transfer-encoding"),
        (b"transfer-encoding: gzip\r\ntransfer-encoding: chunked", UNKNOWN),
        (b"transfer_encoding: chunked", "0"),
        // RFC 9112 §6.3
        (b"content-length: 3\r\ntransfer-encoding: chunked", BOTH),
        (b"transfer-encoding: chunked\r\ncontent-length: 0", BOTH),
        // RFC 9112 §9.3
        (b"connection: close", "0 close"),
        (b"connection: x, CLOSE", "0 close"),
        (b"connection: keep-alive\r\nconnection: close", "0 close"),
        (b"connection: keep-alive", "0"),
        (b"connection: closed", "0"),
        // RFC 9110 §10.1.1
        (b"expect: 100-Continue\r\ncontent-length: 1", "1 continue"),
        (b"expect: 100-continue\r\ntransfer-encoding: chunked", "chunked continue"),
        (b"expect: 100-continue", "0"),
        (b"expect: 200-ok\r\ncontent-length: 1", "1"),
    ];
    check(rows, |fields| {
        let got = request_within(&[b"POST / HTTP/1.1\r\n", fields, b"\r\n\r\n"].concat(), LIMITS);
        match got.strip_prefix("POST / HTTP/1.1 ") {
            Some(head) => head.split(' ').take_while(|word| !word.contains(['=', '|'])).collect::<Vec<_>>().join(" "),
            None => got,
        }
    });
    let rows: &[(&[u8], &str)] = &[
        (b"GET / HTTP/1.0\r\nconnection: Keep-Alive\r\n\r\n", "GET / HTTP/1.0 0 | "),
        (b"POST / HTTP/1.0\r\ncontent-length: 1\r\n\r\na", "POST / HTTP/1.0 1 close content-length=1 | a"),
        (b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n", "transfer-encoding in HTTP/1.0"),
        (
            b"POST / HTTP/1.0\r\ncontent-length: 1\r\nexpect: 100-continue\r\n\r\n",
            "POST / HTTP/1.0 1 close content-length=1 expect=100-continue | ",
        ),
        (b"GET / HTTP/1.1\r\ncontent-length: 1\r\n\r\nab", "GET / HTTP/1.1 1 content-length=1 | ab"),
    ];
    check(rows, |input| request_within(input, LIMITS));
}

#[test]
fn limits_of_heads() {
    let sized = |bytes: usize| {
        let mut head = b"GET / HTTP/1.1\r\nx: ".to_vec();
        head.resize(bytes - 4, b'a');
        head.extend_from_slice(b"\r\n\r\n");
        head
    };
    assert!(request_within(&sized(1024), LIMITS).ends_with("| "));
    assert_eq!(request_within(&sized(1025), LIMITS), "the head is larger than the limit");
    assert_eq!(request_within(&[b"\r\n", &*sized(1024)].concat(), LIMITS), "the head is larger than the limit");
    let path = [&b"GET /"[..], &[b'a'; 2000][..], b" HTTP/1.1\r\n\r\n"].concat();
    assert_eq!(request_within(&path, LIMITS), "the request target is longer than the limit");
    let mut fields = b"GET / HTTP/1.1\r\n".to_vec();
    for _ in 0..10 {
        fields.extend_from_slice(b"a: b\r\n");
    }
    assert!(request_within(&[&*fields, b"\r\n"].concat(), LIMITS).ends_with("| "));
    assert_eq!(request_within(&[&*fields, b"a: b\r\n\r\n"].concat(), LIMITS), "more header fields than the limit");
    // A bad line is told before what comes behind it.
    assert_eq!(request_within(&[&b"GET\r\n"[..], &[b'a'; 2000][..]].concat(), LIMITS), LINE);
    assert_eq!(request_within(b"GET / HTTP/3.0\r\nx\n\r\n", LIMITS), VERSION);

    let long = |length: usize| {
        let head = [b"GET /", &*vec![b'a'; length - 1], b" HTTP/1.1\r\n\r\n"].concat();
        read_request(&mut BytesMut::from(&*head), Limits { bytes: 1 << 20, fields: 0 }).map(|head| head.is_some())
    };
    assert_eq!(long(65_534), Ok(true));
    assert_eq!(long(65_535), Err(HeadError::TargetTooLong));

    let many = |count: usize| {
        let mut head = b"HTTP/1.1 200 OK\r\n".to_vec();
        for n in 0..count {
            head.extend_from_slice(format!("x-{n}: {n}\r\n").as_bytes());
        }
        head.extend_from_slice(b"\r\n");
        let limits = Limits { bytes: 1 << 20, fields: 100_000 };
        read_response(&mut BytesMut::from(&*head), limits, &Method::GET, Tolerance::default())
            .map(|head| head.unwrap().headers.len())
    };
    assert_eq!(many(64), Ok(64));
    assert_eq!(many(65), Ok(65));
    assert_eq!(many(10_000), Ok(10_000));
    assert_eq!(many(40_000), Err(HeadError::TooManyFields));
}

#[test]
fn responses() {
    let status = "the status line is not a version, a status and a reason";
    let other = "not a response of HTTP/1";
    let rows: &[(&[u8], &str)] = &[
        // RFC 9112 §4
        (b"HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 until-close close | "),
        (b"HTTP/1.1 200 \r\ncontent-length: 2\r\n\r\nab", "HTTP/1.1 200 2 content-length=2 | ab"),
        (b"HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n", "HTTP/1.1 200 0 content-length=0 | "),
        (b"HTTP/1.1 299 \xe4 x\r\ncontent-length: 0\r\n\r\n", "HTTP/1.1 299 0 content-length=0 | "),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", "HTTP/1.0 200 0 close content-length=0 | "),
        (b"HTTP/1.1 200 OK", "more"),
        (b"HTT", "more"),
        (b"HTTP/1.1 20 OK\r\n\r\n", status),
        (b"HTTP/1.1 2000 OK\r\n\r\n", status),
        (b"HTTP/1.1 2x0 OK\r\n\r\n", status),
        (b"HTTP/1.1 -20 OK\r\n\r\n", status),
        (b"HTTP/1.1  200 OK\r\n\r\n", status),
        (b"HTTP/1.1\t200 OK\r\n\r\n", status),
        (b"HTTP/1.1\r\n\r\n", status),
        (b"HTTP/1.1 200 O\0K\r\n\r\n", status),
        (b"HTTP/1.1 200 O\rK\r\n\r\n", status),
        (b"HTTP/1.1 200 OK\r\r\n\r\n", status),
        (b"HTTP/1.1 099 OK\r\n\r\n", "the status is not valid"),
        (b"HTTP/1.1 200 OK\n\n", FEED),
        (b"HTTP/1.1 200 OK\r\nx: y\n\r\n", FEED),
        (b"HTTP/1.1 200 OK\r\n\n", FEED),
        (b"HTTP/2.0 200 OK\r\n\r\n", VERSION),
        (b"HTTP/1.2 204 OK\r\n\r\n", "HTTP/1.1 204 0 | "),
        (b"HTTP/1.2\r\n\r\n", status),
        (b"HTTP/1.10 200 OK\r\n\r\n", status),
        (b"\r\nHTTP/1.1 200 OK\r\n\r\n", other),
        (b"http/1.1 200 OK\r\n\r\n", other),
        (b"ICY 200 OK\r\n\r\n", other),
        (b"<html>", other),
        (b"0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", other),
        (b"\x15\x03\x03\0\x02", "a TLS alert where plain HTTP was expected"),
        // §5
        (b"HTTP/1.1 200 OK\r\nx : y\r\n\r\n", "white space before the colon of a field"),
        (b"HTTP/1.1 200 OK\r\nx: y\r\n z\r\n\r\n", "a folded field line"),
        (b"HTTP/1.1 200 OK\r\nx\r\n\r\n", "a field line without a colon"),
        (b"HTTP/1.1 200 OK\r\nx: a\0\r\n\r\n", CONTROL),
        (b"HTTP/1.1 200 OK\r\nx: a\rb\r\n\r\n", "a carriage return in a field value"),
        // §6.3
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "HTTP/1.1 200 chunked transfer-encoding=chunked | "),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n", "more than one content-length"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1, 1\r\n\r\n", NUMBER),
        (b"HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\n", NUMBER),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9223372036854775808\r\n\r\n", LARGE),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", BOTH),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", UNKNOWN),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, gzip\r\n\r\n", "chunked is not the last coding"),
        (b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "transfer-encoding in HTTP/1.0"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 204 0 | "),
        (b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n", "HTTP/1.1 204 0 content-length=0 | "),
        (b"HTTP/1.1 204 No Content\r\ncontent-length: 3\r\n\r\nabc", "HTTP/1.1 204 0 close content-length=3 | abc"),
        (
            b"HTTP/1.1 204 x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 204 0 close transfer-encoding=chunked | 0\\r\\n\\r\\n",
        ),
        (b"HTTP/1.1 304 x\r\ncontent-length: 3\r\n\r\n", "HTTP/1.1 304 0 content-length=3 | "),
        (b"HTTP/1.1 304 x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\n", "more than one content-length"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP", "HTTP/1.1 100 0 | HTTP"),
        (b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n", "HTTP/1.1 103 0 link=a | "),
        (b"HTTP/1.1 100 x\r\ncontent-length: 1\r\n\r\n", "an interim response with content"),
        (b"HTTP/1.1 101 x\r\ntransfer-encoding: chunked\r\n\r\n", "an interim response with content"),
        (b"HTTP/1.1 101 x\r\nupgrade: websocket\r\n\r\n\x81", "HTTP/1.1 101 0 close upgrade=websocket | \\x81"),
        (
            b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 0 close content-length=0 | ",
        ),
    ];
    check(rows, |input| response_within(input, &Method::GET, LIMITS));
    let rows: &[(&[u8], &str)] = &[
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nHTTP", "HTTP/1.1 200 0 content-length=3 | HTTP"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "HTTP/1.1 200 0 transfer-encoding=chunked | "),
        (b"HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 0 | "),
        (b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", NUMBER),
    ];
    check(rows, |input| response_within(input, &Method::HEAD, LIMITS));
    let long = [&b"HTTP/1.1 200 "[..], &[b'a'; 2000][..]].concat();
    assert_eq!(response_within(&long, &Method::GET, LIMITS), "the head is larger than the limit");
}

#[test]
fn the_line_of_a_refused_request_can_be_told() {
    let line = |received: &[u8]| {
        let mut buffer = BytesMut::from(received);
        read_request(&mut buffer, Limits { bytes: 2048, fields: 2 }).expect_err("a refusal");
        let RequestLine { method, path } = RequestLine::of(&buffer);
        (method.map(|method| method.to_string()).unwrap_or_default(), path)
    };
    let told = |method: &str, path: &str| (method.to_owned(), path.to_owned());
    assert_eq!(line(b"POST /a?secret=1 HTTP/1.1\r\nbad header: x\r\n\r\n"), told("POST", "/a"));
    assert_eq!(line(b"\r\nPUT /many HTTP/1.1\r\na: 1\r\nb: 2\r\nc: 3\r\n\r\n"), told("PUT", "/many"));
    assert_eq!(line(b"GET /\xff HTTP/1.1\r\nhost x\r\n\r\n"), told("GET", "/\u{fffd}"));
    assert_eq!(line(b"G(T /x HTTP/1.1\r\n\r\n"), told("", "/x"));
    assert_eq!(
        line(format!("GET /{} HTTP/1.1\r\n", "x".repeat(4000)).as_bytes()),
        told("GET", &format!("/{}", "x".repeat(1023)))
    );
    assert_eq!(RequestLine::of(b""), RequestLine::default());
}
