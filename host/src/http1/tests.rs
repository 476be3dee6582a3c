//! The tables of what is taken and what is refused, one line a shape. Every input is read at once, byte by byte, and in two
//! parts at every position: how bytes arrive must not matter.

use std::fmt::Write;

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};

use super::*;

const LIMITS: Limits = Limits { bytes: 1024, fields: 10 };

/// Feeds `input` cut at `cuts` to a reader until it says how it ended.
fn feed(input: &[u8], cuts: &[usize], mut read: impl FnMut(&mut BytesMut) -> Option<String>) -> String {
    let mut buffer = BytesMut::new();
    let mut from = 0;
    for to in cuts.iter().copied().chain([input.len()]) {
        buffer.extend_from_slice(&input[from..to]);
        from = to;
        if let Some(outcome) = read(&mut buffer) {
            buffer.extend_from_slice(&input[from..]);
            return match outcome.strip_prefix("error: ") {
                // Nobody reads on behind an error.
                Some(error) => error.to_owned(),
                None => format!("{outcome}| {}", buffer.escape_ascii()),
            };
        }
    }
    "more".to_owned()
}

/// The one outcome of all ways to cut an input.
fn outcome<R: FnMut(&mut BytesMut) -> Option<String>>(input: &[u8], reader: impl Fn() -> R) -> String {
    let whole = feed(input, &[], reader());
    let bytes: Vec<usize> = (1..input.len()).collect();
    assert_eq!(feed(input, &bytes, reader()), whole, "byte by byte: {}", input.escape_ascii());
    for cut in 0..input.len() {
        assert_eq!(feed(input, &[cut], reader()), whole, "cut at {cut}: {}", input.escape_ascii());
    }
    whole
}

fn fields(headers: &HeaderMap) -> String {
    headers.iter().fold(String::new(), |mut text, (name, value)| {
        write!(text, "{name}={} ", value.as_bytes().escape_ascii()).unwrap();
        text
    })
}

fn length(body: Length) -> String {
    match body {
        Length::Exact(length) => length.to_string(),
        Length::Chunked => "chunked".to_owned(),
        Length::UntilClose => "until-close".to_owned(),
    }
}

fn mark(on: bool, word: &str) -> String {
    if on { format!("{word} ") } else { String::new() }
}

/// `METHOD target version length [close] [continue] field=value … | rest`, or the error.
fn request_within(input: &[u8], limits: Limits) -> String {
    outcome(input, || {
        move |buffer: &mut BytesMut| match read_request(buffer, limits) {
            Ok(None) => None,
            Err(error) => Some(format!("error: {error}")),
            Ok(Some(head)) => Some(format!(
                "{} {} {:?} {} {}{}{}",
                head.parts.method,
                head.parts.uri,
                head.parts.version,
                length(head.body),
                mark(!head.persistent, "close"),
                mark(head.expects_continue, "continue"),
                fields(&head.parts.headers)
            )),
        }
    })
}

/// `version status length [close] field=value … | rest`, or the error.
fn response_within(input: &[u8], method: &Method, limits: Limits) -> String {
    outcome(input, || {
        move |buffer: &mut BytesMut| match read_response(buffer, limits, method) {
            Ok(None) => None,
            Err(error) => Some(format!("error: {error}")),
            Ok(Some(head)) => Some(format!(
                "{:?} {} {} {}{}",
                head.version,
                head.status.as_u16(),
                length(head.body),
                mark(!head.persistent, "close"),
                fields(&head.headers)
            )),
        }
    })
}

/// `data [field=value …]| rest`, or the error. Where data came in several pieces it is put together.
fn chunked(input: &[u8], message: Message) -> String {
    outcome(input, || {
        let mut body = Chunked::new(LIMITS, message);
        let mut text = String::new();
        move |buffer: &mut BytesMut| loop {
            match body.next(buffer) {
                Ok(None) => return None,
                Err(error) => {
                    assert_eq!(body.next(buffer), Err(error.clone()), "an error stays");
                    return Some(format!("error: {error}"));
                }
                Ok(Some(Piece::Data(data))) => {
                    assert!(!data.is_empty());
                    write!(text, "{}", data.escape_ascii()).unwrap();
                }
                Ok(Some(Piece::End(trailers))) => {
                    assert_eq!(body.next(buffer), Ok(None));
                    return Some(format!("{text} {}", trailers.as_ref().map(fields).unwrap_or_default()));
                }
            }
        }
    })
}

/// Checks a table; reports all rows that differ.
fn check<I: AsRef<[u8]>>(rows: &[(I, &str)], read: impl Fn(&[u8]) -> String) {
    let mut wrong = String::new();
    for (input, want) in rows {
        let got = read(input.as_ref());
        if got != *want {
            writeln!(wrong, "{}\n  want: {want}\n  got:  {got}", input.as_ref().escape_ascii()).unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

const FEED: &str = "a line feed without a carriage return";
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
const CONTROL: &str = "a control character in a field value";

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
        (b"GET / HTTP/1.2\r\n\r\n", VERSION),
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
    assert_eq!(request_within(b"GET /\xff HTTP/1.1\r\n\r\n", LIMITS), TARGET);
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
        read_response(&mut BytesMut::from(&*head), limits, &Method::GET).map(|head| head.unwrap().headers.len())
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
        (b"HTTP/1.2 200 OK\r\n\r\n", VERSION),
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
fn chunked_bodies() {
    let size = "a chunk size that is not a hexadecimal number";
    let end = "chunk data that does not end where its size says";
    let extension = "a control character in a chunk extension";
    let rows: &[(&[u8], &str)] = &[
        // RFC 9112 §7.1
        (b"0\r\n\r\n", " | "),
        (b"3\r\nabc\r\n0\r\n\r\nGET", "abc | GET"),
        (b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", "abcde | "),
        (b"a\r\n0123456789\r\n000\r\n\r\n", "0123456789 | "),
        (b"A\r\n0123456789\r\n0\r\n\r\n", "0123456789 | "),
        (b"0000000000000003\r\nabc\r\n0\r\n\r\n", "abc | "),
        (b"2\r\n\r\n\r\n0\r\n\r\n", "\\r\\n | "),
        (b"ffffffffffffffff\r\nabc", "more"),
        (b"3\r\nab", "more"),
        (b"00000000000000003\r\nabc\r\n0\r\n\r\n", "a chunk size that is too large"),
        (b"10000000000000003\r\nabc\r\n0\r\n\r\n", "a chunk size that is too large"),
        (b"\r\nabc\r\n", size),
        (b"+3\r\nabc\r\n0\r\n\r\n", size),
        (b"-3\r\nabc\r\n0\r\n\r\n", size),
        (b"0x3\r\nabc\r\n0\r\n\r\n", size),
        (b"3_\r\nabc\r\n0\r\n\r\n", size),
        (b" 3\r\nabc\r\n0\r\n\r\n", size),
        (b"3 \r\nabc\r\n0\r\n\r\n", size),
        (b"3\t\r\nabc\r\n0\r\n\r\n", size),
        (b"3 ;a\r\nabc\r\n0\r\n\r\n", size),
        (b"g\r\n", size),
        (b"3,3\r\n", size),
        (b"3\0\r\nabc\r\n0\r\n\r\n", size),
        (b"\xef\xbc\x93\r\nabc\r\n", size),
        (b"3\nabc\r\n0\r\n\r\n", size),
        (b"3\rabc\r\n0\r\n\r\n", size),
        (b"3\r\r\nabc\r\n0\r\n\r\n", size),
        (b"3\r\nabcd\r\n0\r\n\r\n", end),
        (b"3\r\nabc\n0\r\n\r\n", end),
        (b"3\r\nabc\r0\r\n\r\n", end),
        (b"3\r\nabc0\r\n\r\n", end),
        (b"3\r\nabc\r\r\n0\r\n\r\n", end),
        (b"3\r\nab\r\n0\r\n\r\n", end),
        // §7.1.1
        (b"3;a\r\nabc\r\n0;b=c\r\n\r\n", "abc | "),
        (b"3;a=\"b c\" ; d\t\r\nabc\r\n0\r\n\r\n", "abc | "),
        (b"3;a\nabc\r\n0\r\n\r\n", extension),
        (b"3;a\rb\r\nabc\r\n0\r\n\r\n", extension),
        (b"3;a\0\r\nabc\r\n0\r\n\r\n", extension),
        (b"3;a\x7f\r\nabc\r\n0\r\n\r\n", extension),
        (b"3;\n\r\nabc\r\n0\r\n\r\n", extension),
        // §7.1.2
        (b"0\r\nX-A: b\r\nx-a:c\r\n\r\nGET", " x-a=b x-a=c | GET"),
        (b"0\r\nx-a: b\r\nvary: c\r\n\r\n", " x-a=b | "),
        (b"0\r\nvary: c\r\n\r\n", " | "),
        (b"0\r\nx: a\n\r\n", FEED),
        (b"0\r\n\n", FEED),
        (b"0\n\r\n", size),
        (b"0\r\nx: a\r\n\n", FEED),
        (b"0\r\nx : a\r\n\r\n", "white space before the colon of a field"),
        (b"0\r\nx: a\r\n b\r\n\r\n", "a folded field line"),
        (b"0\r\n b\r\n\r\n", "a folded field line"),
        (b"0\r\nx: a\0\r\n\r\n", CONTROL),
        (b"0\r\nx: a\rb\r\n\r\n", "a carriage return in a field value"),
        (b"0\r\n\r\r\n\r\n", "a field line without a colon"),
        (b"0\r\nx\r\n\r\n", "a field line without a colon"),
        (b"0\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n", "a field line without a colon"),
    ];
    for message in [Message::Request, Message::Response] {
        check(rows, |input| chunked(input, message));
    }
}

#[test]
fn trailers_that_frame_route_or_authenticate() {
    for name in [
        "authorization",
        "connection",
        "content-length",
        "cookie",
        "host",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-api-key",
    ] {
        let body = format!("0\r\nx: y\r\n{name}: 1\r\n\r\n");
        assert_eq!(chunked(body.as_bytes(), Message::Request), format!("the field `{name}` in trailers"));
        assert_eq!(chunked(body.as_bytes(), Message::Response), " x=y | ");
    }
}

#[test]
fn limits_of_chunks() {
    let large = "a chunk extension is larger than the limit";
    let with = |length: usize| [b"0;", &*vec![b'a'; length - 1], b"\r\n\r\n"].concat();
    assert_eq!(chunked(&with(256), Message::Request), " | ");
    assert_eq!(chunked(&with(257), Message::Request), large);
    assert_eq!(chunked(&with(300), Message::Request), large);
    let chunk = [&b"1;"[..], &[b'a'; 255][..], b"\r\nx\r\n"].concat();
    let sixteen = chunk.repeat(16);
    let mut body = Chunked::new(LIMITS, Message::Request);
    let mut buffer = BytesMut::from(&*[&*sixteen, b"0\r\n\r\n"].concat());
    for _ in 0..16 {
        assert!(matches!(body.next(&mut buffer), Ok(Some(Piece::Data(_)))));
    }
    assert_eq!(body.next(&mut buffer), Ok(Some(Piece::End(None))));
    let mut body = Chunked::new(LIMITS, Message::Request);
    let mut buffer = BytesMut::from(&*[&*sixteen, b"0;\r\n\r\n"].concat());
    for _ in 0..16 {
        assert!(matches!(body.next(&mut buffer), Ok(Some(Piece::Data(_)))));
    }
    let sum = Err(ChunkError::Malformed("the chunk extensions are larger than the limit"));
    assert_eq!(body.next(&mut buffer), sum);
    assert_eq!(body.next(&mut buffer), sum);

    let mut trailers = b"0\r\n".to_vec();
    for _ in 0..11 {
        trailers.extend_from_slice(b"a: b\r\n");
    }
    assert_eq!(chunked(&trailers, Message::Request), "more trailer fields than the limit");
    let trailers = [&b"0\r\nx: "[..], &[b'a'; 1100][..]].concat();
    assert_eq!(chunked(&trailers, Message::Request), "the trailer section is larger than the limit");
}

fn map(fields: &[(&str, &str)]) -> HeaderMap {
    let field = |(name, value): &(&str, &str)| {
        (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
    };
    let mut map = HeaderMap::new();
    for (name, value) in fields.iter().map(field) {
        map.append(name, value);
    }
    map
}

const FIELDS: &[(&str, &str)] = &[
    ("host", "a"),
    ("connection", "close, x"),
    ("content-length", "7"),
    ("keep-alive", "timeout=5"),
    ("proxy-connection", "close"),
    ("te", "gzip"),
    ("transfer-encoding", "gzip"),
    ("upgrade", "websocket"),
    ("http2-settings", "AA"),
    ("x", "1"),
    ("x", "2"),
];

#[test]
fn requests_are_written() {
    let write = |fields: &[(&str, &str)], body| {
        let mut out = BytesMut::from("before ");
        request_head(&mut out, &Method::POST, &"/a?b".parse().unwrap(), &map(fields), body);
        out.escape_ascii().to_string()
    };
    for (body, want) in [
        (Framing::None, ""),
        (Framing::Close, ""),
        (Framing::Described, "content-length: 7"),
        (Framing::Length(0), "content-length: 0"),
        (Framing::Length(u64::MAX), "content-length: 18446744073709551615"),
        (Framing::Chunked, "transfer-encoding: chunked"),
        (Framing::Upgrade, "upgrade: websocket connection: upgrade"),
    ] {
        let got = write(FIELDS, body);
        let got = got.strip_prefix("before POST /a?b HTTP/1.1\\r\\nhost: a\\r\\n").unwrap();
        let mut lines: Vec<_> = got.strip_suffix("\\r\\n\\r\\n").unwrap().split("\\r\\n").collect();
        lines.retain(|line| !line.starts_with("x: "));
        assert_eq!(lines.join(" "), want, "{body:?}");
        assert!(got.contains("x: 1\\r\\nx: 2\\r\\n"), "{got}");
    }
    let te = [("te", "trailers")];
    assert_eq!(
        write(&te, Framing::None),
        "before POST /a?b HTTP/1.1\\r\\nte: trailers\\r\\nconnection: te\\r\\n\\r\\n"
    );
    assert!(write(&te, Framing::Upgrade).ends_with("connection: upgrade, te\\r\\n\\r\\n"));
}

#[test]
fn responses_are_written() {
    let date = b"Sun, 06 Nov 1994 08:49:37 GMT";
    let write = |version, status: u16, fields: &[(&str, &str)], body, persistent| {
        let mut out = BytesMut::new();
        let status = StatusCode::from_u16(status).unwrap();
        response_head(&mut out, version, status, &map(fields), body, persistent, date);
        let text = String::from_utf8(out.to_vec()).unwrap().replace("date: Sun, 06 Nov 1994 08:49:37 GMT", "date");
        text.strip_suffix("\r\n\r\n").unwrap().replace("\r\n", "|")
    };
    let (v10, v11) = (Version::HTTP_10, Version::HTTP_11);
    let x = &[("x", "1"), ("content-length", "7"), ("connection", "y"), ("upgrade", "u")];
    for (got, want) in [
        (write(v11, 200, x, Framing::Length(3), true), "HTTP/1.1 200 OK|x: 1|date|content-length: 3"),
        (
            write(v11, 200, x, Framing::Chunked, false),
            "HTTP/1.1 200 OK|x: 1|date|connection: close|transfer-encoding: chunked",
        ),
        (
            write(v10, 404, x, Framing::Length(3), true),
            "HTTP/1.1 404 Not Found|x: 1|date|connection: keep-alive|content-length: 3",
        ),
        (write(v10, 200, x, Framing::Close, true), "HTTP/1.1 200 OK|x: 1|date|connection: close"),
        (write(v11, 304, x, Framing::Described, true), "HTTP/1.1 304 Not Modified|x: 1|content-length: 7|date"),
        (write(v11, 204, x, Framing::None, true), "HTTP/1.1 204 No Content|x: 1|date"),
        (write(v11, 103, &[("link", "a")], Framing::None, true), "HTTP/1.1 103 Early Hints|link: a"),
        (
            write(v11, 101, x, Framing::Upgrade, true),
            "HTTP/1.1 101 Switching Protocols|x: 1|upgrade: u|connection: upgrade",
        ),
        (write(v11, 299, &[("date", "x")], Framing::None, true), "HTTP/1.1 299 |date: x"),
        (write(v11, 418, &[], Framing::None, true), "HTTP/1.1 418 I'm a teapot|date"),
    ] {
        assert_eq!(got, want);
    }
    for status in 100..1000 {
        let line = write(v11, status, &[], Framing::None, true);
        let code = StatusCode::from_u16(status).unwrap();
        let want = format!("HTTP/1.1 {status} {}", code.canonical_reason().unwrap_or_default());
        assert_eq!(line.split('|').next(), Some(&*want));
    }
}

#[test]
fn chunks_are_written() {
    for length in [1, 9, 10, 15, 16, 17, 255, 4096, 65_535, 65_536, usize::MAX] {
        let mut out = BytesMut::new();
        chunk_head(&mut out, length);
        assert_eq!(out, format!("{length:x}\r\n"));
    }
    let mut out = BytesMut::new();
    last_chunk(&mut out, None);
    assert_eq!(out, "0\r\n\r\n");
    out.clear();
    last_chunk(&mut out, Some(&map(&[("x", "1"), ("content-length", "7"), ("x", "2")])));
    assert_eq!(out, "0\r\nx: 1\r\nx: 2\r\n\r\n");
}

#[test]
fn what_is_written_is_read_back() {
    let fields = &[("host", "a"), ("x", "1"), ("x", "2"), ("accept", "*/*"), ("x-empty", "")];
    for (body, length) in
        [(Framing::None, Length::Exact(0)), (Framing::Length(5), Length::Exact(5)), (Framing::Chunked, Length::Chunked)]
    {
        let mut out = BytesMut::new();
        request_head(&mut out, &Method::PUT, &"/a/b?c".parse().unwrap(), &map(fields), body);
        let mut head = read_request(&mut out, LIMITS).unwrap().unwrap();
        assert!(out.is_empty());
        assert_eq!((head.parts.method, head.parts.uri.to_string()), (Method::PUT, "/a/b?c".to_owned()));
        assert_eq!((head.body, head.persistent), (length, true));
        head.parts.headers.remove("content-length");
        head.parts.headers.remove("transfer-encoding");
        assert_eq!(head.parts.headers, map(fields));
    }
    for (body, persistent, want) in [
        (Framing::Length(5), true, (Length::Exact(5), true)),
        (Framing::Length(5), false, (Length::Exact(5), false)),
        (Framing::Chunked, true, (Length::Chunked, true)),
        (Framing::Close, true, (Length::UntilClose, false)),
    ] {
        let mut out = BytesMut::new();
        response_head(&mut out, Version::HTTP_11, StatusCode::OK, &map(fields), body, persistent, b"now");
        let head = read_response(&mut out, LIMITS, &Method::GET).unwrap().unwrap();
        assert!(out.is_empty());
        assert_eq!((head.body, head.persistent), want);
        assert_eq!(head.headers["date"], "now");
    }
    let mut out = BytesMut::new();
    for data in [&b"abc"[..], &[b'x'; 500]] {
        chunk_head(&mut out, data.len());
        out.extend_from_slice(data);
        out.extend_from_slice(b"\r\n");
    }
    last_chunk(&mut out, Some(&map(&[("x", "1")])));
    let mut body = Chunked::new(LIMITS, Message::Response);
    assert_eq!(body.next(&mut out), Ok(Some(Piece::Data("abc".into()))));
    assert!(matches!(body.next(&mut out), Ok(Some(Piece::Data(data))) if data.len() == 500));
    assert_eq!(body.next(&mut out), Ok(Some(Piece::End(Some(map(&[("x", "1")]))))));
    assert!(out.is_empty());
}

#[test]
fn one_byte_changed_never_panics_and_never_depends_on_the_cut() {
    let request = b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let response = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na";
    let body = b"3;a=b\r\nabc\r\n0\r\nx: y\r\n\r\n";
    for byte in [0, b'\t', b'\r', b'\n', b' ', b'0', b':', b';', b'A', 0x7f, 0x80, 0xff] {
        for at in 0..request.len() {
            let mut bytes = request.to_vec();
            bytes[at] = byte;
            request_within(&bytes, LIMITS);
        }
        for at in 0..response.len() {
            let mut bytes = response.to_vec();
            bytes[at] = byte;
            response_within(&bytes, &Method::GET, LIMITS);
        }
        for at in 0..body.len() {
            let mut bytes = body.to_vec();
            bytes[at] = byte;
            chunked(&bytes, Message::Request);
        }
    }
}
