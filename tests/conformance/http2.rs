//! Requests of HTTP/2 that are malformed, or would be once they are HTTP/1: the stream ends with an error or 400, and the
//! origin sees nothing whole.

use std::fmt::Write;

use sluice_harness::frames::{Ended, Frames};
use sluice_harness::{Gateway, Origin};

use crate::support::{gateway, nothing_since, shown};

type Field = (&'static [u8], &'static [u8]);

const METHOD: Field = (b":method", b"GET");
const SCHEME: Field = (b":scheme", b"http");
const AUTHORITY: Field = (b":authority", b"a");
const PATH: Field = (b":path", b"/bad");
const GOOD: [Field; 4] = [METHOD, SCHEME, AUTHORITY, (b":path", b"/good")];

/// RFC 9113 §8.1.1: a malformed request is a stream error; a 400 may come before it, or instead.
fn is_refusal(ended: Ended) -> bool {
    matches!(ended, Ended::Response(400) | Ended::Reset(_) | Ended::Connection(_))
}

/// Sends each head on a connection of its own and a good request behind it.
#[track_caller]
fn check(rows: &[Vec<Field>]) {
    let origin = Origin::named("o");
    let gateway = gateway(&origin.url());
    let mut wrong = String::new();
    let mut expected = 0;
    for row in rows {
        let text = row.iter().map(|(name, value)| format!("{}={} ", shown(name), shown(value))).collect::<String>();
        let mut frames = Frames::connect(gateway.address());
        frames.headers(1, row, true);
        let ended = frames.wait(1);
        if !is_refusal(ended) {
            writeln!(wrong, "{text}\n  {ended:?}").expect("a string");
        }
        if !matches!(ended, Ended::Connection(_)) {
            frames.headers(3, &GOOD, true);
            assert_eq!(frames.wait(3), Ended::Response(200), "{text}: the other streams go on");
            expected += 1;
        }
        if origin.count() != expected {
            writeln!(wrong, "{text}\n  reached the origin: {:?}", origin.last().head).expect("a string");
            expected = origin.count();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    nothing_since(&gateway, &origin, expected);
}

/// A good head with one more field.
fn with(name: &'static [u8], value: &'static [u8]) -> Vec<Field> {
    vec![METHOD, SCHEME, AUTHORITY, PATH, (name, value)]
}

#[test]
fn fields_of_a_connection() {
    check(&[
        with(b"connection", b"close"),
        with(b"connection", b"keep-alive"),
        with(b"connection", b"x-user-id"),
        with(b"keep-alive", b"timeout=5"),
        with(b"proxy-connection", b"close"),
        with(b"transfer-encoding", b"chunked"),
        with(b"transfer-encoding", b"identity"),
        with(b"upgrade", b"websocket"),
        with(b"upgrade", b"h2c"),
        with(b"te", b"gzip"),
        with(b"te", b"trailers, deflate"),
    ]);
}

#[test]
fn names_and_values() {
    check(&[
        with(b"x", b"a\rb"),
        with(b"x", b"a\nb"),
        with(b"x", b"a\r\nsmuggled: b"),
        with(b"x", b"a\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"),
        with(b"x", b"a\0b"),
        with(b"x", b"\x7f"),
        with(b"x", b"a\x01"),
        with(b"X", b"a"),
        with(b"x-Upper", b"a"),
        with(b"Content-Length", b"0"),
        with(b"x y", b"a"),
        with(b"x:y", b"a"),
        with(b"x\r\ny", b"a"),
        with(b"x\0", b"a"),
        with(b"\xe4", b"a"),
        with(b"", b"a"),
    ]);
}

#[test]
fn pseudo_fields() {
    let path = |path: &'static [u8]| vec![METHOD, SCHEME, AUTHORITY, (b":path", path)];
    let method = |method: &'static [u8]| vec![(&b":method"[..], method), SCHEME, AUTHORITY, PATH];
    let authority = |authority: &'static [u8]| vec![METHOD, SCHEME, (b":authority", authority), PATH];
    check(&[
        // RFC 9113 §8.3.1
        vec![SCHEME, AUTHORITY, PATH],
        vec![METHOD, AUTHORITY, PATH],
        vec![METHOD, SCHEME, AUTHORITY],
        vec![METHOD, SCHEME, PATH],
        vec![METHOD, METHOD, SCHEME, AUTHORITY, PATH],
        vec![METHOD, SCHEME, SCHEME, AUTHORITY, PATH],
        vec![METHOD, SCHEME, AUTHORITY, AUTHORITY, PATH],
        vec![METHOD, SCHEME, AUTHORITY, PATH, PATH],
        vec![METHOD, SCHEME, AUTHORITY, (b"x", b"y"), PATH],
        with(b":status", b"200"),
        with(b":protocol", b"websocket"),
        with(b":x", b"y"),
        method(b""),
        method(b"G T"),
        method(b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"),
        path(b""),
        path(b"bad"),
        path(b"/a b"),
        path(b"/a\tb"),
        path(b"/ HTTP/1.1\r\nhost: a\r\n\r\nGET /smuggled"),
        path(b"/a\0"),
        path(b"/a\x7f"),
        path(b"/a\\b"),
        path(b"/%zz"),
        path(b"http://b/"),
        authority(b""),
        authority(b"a b"),
        authority(b"a:80:80"),
        authority(b"a:x"),
        authority(b"[::1"),
        authority(b"u@a"),
        authority(b"a/b"),
        authority(b"a\r\nx: y"),
        vec![METHOD, (b":scheme", b"ftp"), AUTHORITY, PATH],
        with(b"host", b"b"),
        vec![METHOD, SCHEME, AUTHORITY, PATH, (b"host", b"a"), (b"host", b"a")],
        vec![METHOD, SCHEME, PATH, (b"host", b"a b")],
    ]);
}

#[test]
fn lengths_in_a_head() {
    let post = |values: &[&'static [u8]]| {
        let mut row = vec![(&b":method"[..], &b"POST"[..]), SCHEME, AUTHORITY, PATH];
        row.extend(values.iter().map(|value| (&b"content-length"[..], *value)));
        row
    };
    check(&[
        post(&[b"5"]),
        post(&[b"-1"]),
        post(&[b"+0"]),
        post(&[b"0, 0"]),
        post(&[b"x"]),
        post(&[b"0x0"]),
        post(&[b"0", b"5"]),
        post(&[b"99999999999999999999"]),
    ]);
}

/// A head with a length, and data of another.
#[track_caller]
fn body(gateway: &Gateway, length: &'static [u8], parts: &[&[u8]]) -> Ended {
    let mut frames = Frames::connect(gateway.address());
    frames.headers(1, &[(b":method", b"POST"), SCHEME, AUTHORITY, PATH, (b"content-length", length)], false);
    let (last, parts) = parts.split_last().expect("a part");
    for part in parts {
        frames.data(1, part, false);
    }
    frames.data(1, last, true);
    frames.wait(1)
}

#[test]
fn a_body_that_is_not_as_long_as_it_says() {
    let origin = Origin::named("o");
    let gateway = gateway(&origin.url());
    for (length, parts) in [
        (&b"5"[..], &[&b"abc"[..]][..]),
        (b"5", &[b"abc", b""]),
        (b"3", &[b"abcde"]),
        (b"3", &[b"abc", b"de"]),
        (b"3", &[b"abc", b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"]),
        (b"0", &[b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"]),
        (b"1", &[b""]),
    ] {
        let ended = body(&gateway, length, parts);
        assert!(is_refusal(ended), "{} {parts:?}: {ended:?}", shown(length));
    }
    nothing_since(&gateway, &origin, 0);
    assert_eq!(body(&gateway, b"5", &[b"ab", b"cde"]), Ended::Response(200));
    assert_eq!(origin.last().text(), "abcde");
}

/// A request with a body and these trailers.
#[track_caller]
fn trailed(gateway: &Gateway, trailers: &[Field]) -> Ended {
    let mut frames = Frames::connect(gateway.address());
    frames.headers(1, &[(b":method", b"POST"), SCHEME, AUTHORITY, PATH], false);
    frames.data(1, b"abc", false);
    frames.headers(1, trailers, true);
    frames.wait(1)
}

#[test]
fn malformed_trailers() {
    let origin = Origin::named("o");
    let gateway = gateway(&origin.url());
    for trailer in [
        (&b"transfer-encoding"[..], &b"chunked"[..]),
        (b"connection", b"close"),
        (b"upgrade", b"websocket"),
        (b"x", b"a\r\nb"),
        (b"x", b"a\0"),
        (b"X", b"a"),
    ] {
        let ended = trailed(&gateway, &[trailer]);
        assert!(is_refusal(ended), "{}: {ended:?}", shown(trailer.0));
    }
    nothing_since(&gateway, &origin, 0);
}

#[test]
fn trailers_that_frame_route_or_authenticate_reach_nobody() {
    let origin = Origin::named("o");
    let gateway = gateway(&origin.url());
    for name in
        [&b"authorization"[..], b"content-length", b"cookie", b"host", b"te", b"trailer", b"x-api-key", b"api-key"]
    {
        trailed(&gateway, &[(name, b"trailers"), (b"x-sum", b"1")]);
        assert_eq!(gateway.get("/last").status, 200);
        let passed: Vec<_> = origin.requests().into_iter().flat_map(|r| r.trailers).collect();
        assert!(passed.iter().all(|(name, _)| name == "x-sum"), "{passed:?}");
    }
}

/// What the library that reads HTTP/2 does not tell us of. It has dropped it, so nobody behind us can read it either.
#[test]
fn what_is_dropped_is_not_passed_on() {
    let origin = Origin::named("o");
    let gateway = gateway(&origin.url());
    assert_eq!(trailed(&gateway, &[(b":path", b"/smuggled")]), Ended::Response(200));
    assert_eq!((origin.last().target.as_str(), origin.last().trailers.len()), ("/bad", 0));
    let mut frames = Frames::connect(gateway.address());
    frames.headers(1, &[METHOD, SCHEME, AUTHORITY, (b":path", b"/a?b#c")], true);
    assert_eq!(frames.wait(1), Ended::Response(200));
    assert_eq!(origin.last().target, "/a?b");
    let length = (&b"content-length"[..], &b"3"[..]);
    let mut frames = Frames::connect(gateway.address());
    frames.headers(1, &[(b":method", b"POST"), SCHEME, AUTHORITY, PATH, length, length], false);
    frames.data(1, b"abc", true);
    frames.wait(1);
    assert!(origin.requests().iter().all(|r| r.head.all("content-length").len() < 2));
}
