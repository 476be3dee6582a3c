//! Malformed and ambiguous requests of HTTP/1: each is answered with problem details, ends its connection, and reaches nobody.

use std::fmt::Write;

use sluice_harness::Origin;

use crate::support::{SMUGGLED, gateway, nothing_since, refusal, shown};

/// Sends each row on a new connection and behind a good request, with another request behind it.
#[track_caller]
fn check(rows: &[(Vec<u8>, u16)]) {
    let origin = Origin::named("o");
    let gateway = gateway(&origin.url());
    let mut wrong = String::new();
    let mut expected = 0;
    for (row, status) in rows {
        for first in [false, true] {
            let mut client = gateway.client();
            if first {
                assert_eq!(client.get("/first").status, 200);
                expected += 1;
            }
            // The gateway may have closed before all of it was written.
            let _ = client.try_send([row, SMUGGLED].concat());
            if let Some(what) = refusal(&mut client, *status) {
                writeln!(wrong, "{} (after another: {first})\n  {what}", shown(row)).expect("a string");
            }
            if origin.count() != expected {
                writeln!(wrong, "{} (after another: {first})\n  reached the origin", shown(row)).expect("a string");
                expected = origin.count();
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    nothing_since(&gateway, &origin, expected);
}

/// Rows of whole heads.
fn heads(rows: &[(&[u8], u16)]) -> Vec<(Vec<u8>, u16)> {
    rows.iter().map(|(row, status)| (row.to_vec(), *status)).collect()
}

/// Rows of fields of a request that is good without them. Behind it stands what is a whole body to whoever takes it for chunked,
/// and longer than every length that a row names: a row that is accepted is seen at the origin.
fn fields(rows: &[(&[u8], u16)]) -> Vec<(Vec<u8>, u16)> {
    let whole = |fields: &[u8]| [b"POST /bad HTTP/1.1\r\nhost: a\r\n", fields, b"\r\n\r\n0\r\n\r\n"].concat();
    rows.iter().map(|(row, status)| (whole(row), *status)).collect()
}

#[test]
fn request_lines() {
    check(&heads(&[
        (b"GET /\r\nhost: a\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        (b"GET /  HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1 \r\nhost: a\r\n\r\n", 400),
        (b"GET\t/ HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        (b" GET / HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        (b"G(T / HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1 GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        (b"GET / http/1.1\r\nhost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.10\r\nhost: a\r\n\r\n", 400),
        (b"GET / HTTP/1\r\nhost: a\r\n\r\n", 400),
        (b"GET / HTTP/0.9\r\nhost: a\r\n\r\n", 505),
        (b"GET / HTTP/2.0\r\nhost: a\r\n\r\n", 505),
        (b"GET / HTTP/3.0\r\nhost: a\r\n\r\n", 505),
        (b"\r\n\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        (b"\nGET / HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 400),
    ]));
}

#[test]
fn request_targets() {
    let rows: &[(&str, u16)] = &[
        ("a/b", 400),
        ("?a", 400),
        ("a:80", 400),
        ("/a#b", 400),
        ("/a b", 400),
        ("/a\tb", 400),
        ("/a\\b", 400),
        ("/%zz", 400),
        ("/%", 400),
        ("/%00", 400),
        ("/a\0b", 400),
        ("/a\x7f", 400),
        ("/..%2Fb", 400),
        ("/a/%2e%2e%5Cb", 400),
        ("http://", 400),
        ("http:///b", 400),
        ("http:/b", 400),
        ("ftp://a/b", 400),
        ("://a/", 400),
        // An authority that contradicts the host, or is none.
        ("http://b/", 400),
        ("http://a:81/", 400),
        ("http://u@a/", 400),
        ("http://a@b@a/", 400),
        ("http://[::1/", 400),
        ("http://a:80:80/", 400),
        ("*", 501),
    ];
    let mut all: Vec<_> = rows
        .iter()
        .map(|(target, status)| (format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n").into_bytes(), *status))
        .collect();
    all.extend(heads(&[
        (b"CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n", 501),
        (b"CONNECT / HTTP/1.1\r\nhost: a\r\n\r\n", 501),
        (b"OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n", 501),
        (b"GET /\r HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    ]));
    check(&all);
}

#[test]
fn hosts() {
    let rows: &[(&str, u16)] = &[
        ("", 400),
        ("host:\r\n", 400),
        ("host: a\r\nhost: a\r\n", 400),
        ("host: a\r\nHost: b\r\n", 400),
        ("host: a, b\r\n", 400),
        ("host: a b\r\n", 400),
        ("host: a:80:80\r\n", 400),
        ("host: a:x\r\n", 400),
        ("host: a:0\r\n", 400),
        ("host: a:65536\r\n", 400),
        ("host: a:-1\r\n", 400),
        ("host: a:+1\r\n", 400),
        ("host: [::1\r\n", 400),
        ("host: [::1]x\r\n", 400),
        ("host: [::g]\r\n", 400),
        ("host: ::1\r\n", 400),
        ("host: u@a\r\n", 400),
        ("host: a/b\r\n", 400),
        ("host: a?b\r\n", 400),
        ("host: a#b\r\n", 400),
        ("host: http://a\r\n", 400),
        ("host: a..b\r\n", 400),
        ("host: .a\r\n", 400),
        ("host: a%2eb\r\n", 400),
        ("host: a\\b\r\n", 400),
        ("host: \u{e4}\r\n", 400),
    ];
    let rows: Vec<_> = rows
        .iter()
        .map(|(hosts, status)| (format!("GET / HTTP/1.1\r\n{hosts}\r\n").into_bytes(), *status))
        .chain(heads(&[
            (b"GET http://a/ HTTP/1.1\r\n\r\n", 400),
            (b"GET http://a/ HTTP/1.1\r\nhost:\r\n\r\n", 400),
            (b"GET http://a/ HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n", 400),
            (b"GET / HTTP/1.0\r\nhost: a\r\nhost: a\r\n\r\n", 400),
        ]))
        .collect();
    check(&rows);
}

#[test]
fn field_lines() {
    check(&fields(&[
        (b"x : a", 400),
        (b"x\t: a", 400),
        (b"content-length : 3", 400),
        (b"transfer-encoding : chunked", 400),
        (b"x: a\r\n b", 400),
        (b"x: a\r\n\tb", 400),
        (b"transfer-encoding:\r\n chunked", 400),
        (b" x: a", 400),
        (b"x", 400),
        (b": a", 400),
        (b"x y: a", 400),
        (b"x(y): a", 400),
        (b"x\0: a", 400),
        (b"\xe4: a", 400),
        (b"x: a\0b", 400),
        (b"x: a\x01", 400),
        (b"x: a\x7f", 400),
        (b"x: a\rb", 400),
        (b"x: a\r", 400),
        (b"x: a\r\rtransfer-encoding: chunked", 400),
        (b"x: a\nb: c", 400),
        (b"x: a\ntransfer-encoding: chunked", 400),
        (b"x\n: a", 400),
    ]));
    check(&heads(&[
        (b"GET / HTTP/1.1\nhost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\n\n", 400),
        (b"GET / HTTP/1.1\nhost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n host: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\rhost: a\r\n\r\n", 400),
    ]));
}

#[test]
fn framing() {
    check(&fields(&[
        (b"content-length: 3\r\ntransfer-encoding: chunked", 400),
        (b"transfer-encoding: chunked\r\ncontent-length: 0", 400),
        (b"content-length: 3\r\ncontent-length: 3", 400),
        (b"content-length: 3\r\ncontent-length: 4", 400),
        (b"content-length: 3, 3", 400),
        (b"content-length: 3,", 400),
        (b"content-length:", 400),
        (b"content-length: +3", 400),
        (b"content-length: -3", 400),
        (b"content-length: 3 3", 400),
        (b"content-length: 0x3", 400),
        (b"content-length: 3.0", 400),
        (b"content-length: 1_0", 400),
        (b"content-length: \"3\"", 400),
        (b"content-length: 9223372036854775808", 400),
        (b"content-length: 18446744073709551619", 400),
        (b"content-length: 99999999999999999999999999", 400),
        (b"transfer-encoding: gzip", 501),
        (b"transfer-encoding: identity", 501),
        (b"transfer-encoding: xchunked", 501),
        (b"transfer-encoding: gzip, chunked", 501),
        (b"transfer-encoding: gzip\r\ntransfer-encoding: chunked", 501),
        (b"transfer-encoding: chunked, gzip", 400),
        (b"transfer-encoding: chunked, identity", 400),
        (b"transfer-encoding: chunked, chunked", 400),
        (b"transfer-encoding: chunked\r\ntransfer-encoding: chunked", 400),
        (b"transfer-encoding: chunked\r\ntransfer-encoding: identity", 400),
        (b"transfer-encoding: chunked,", 400),
        (b"transfer-encoding: ,chunked", 400),
        (b"transfer-encoding: \"chunked\"", 400),
        (b"transfer-encoding: chunked;q=1", 400),
        (b"transfer-encoding: chun ked", 400),
        (b"transfer-encoding: chunked\xa0", 400),
        (b"transfer-encoding: \x0bchunked", 400),
        (b"transfer-encoding:", 400),
    ]));
    check(&heads(&[
        (b"POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ]));
}

#[test]
fn chunks_and_trailers() {
    let extension = [&b"3;"[..], &[b'x'; 300], b"\r\nabc\r\n0\r\n\r\n"].concat();
    let extensions = [&[b"1;", &[b'x'; 250][..], b"\r\na\r\n"].concat().repeat(20)[..], b"0\r\n\r\n"].concat();
    let section = [&b"0\r\nx: "[..], &[b'x'; 9000], b"\r\n\r\n"].concat();
    let many = [&b"0\r\n"[..], &b"x: y\r\n".repeat(30), b"\r\n"].concat();
    let rows: &[&[u8]] = &[
        b"3\nabc\r\n0\r\n\r\n",
        b"3\r\nabc\n0\r\n\r\n",
        b"3\r\nabc0\r\n\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"3\r\nab\r\n0\r\n\r\n",
        b"3\r\r\nabc\r\n0\r\n\r\n",
        b"3 \r\nabc\r\n0\r\n\r\n",
        b" 3\r\nabc\r\n0\r\n\r\n",
        b"+3\r\nabc\r\n0\r\n\r\n",
        b"-3\r\nabc\r\n0\r\n\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"g\r\nabc\r\n0\r\n\r\n",
        b"\r\n\r\n0\r\n\r\n",
        b"3,3\r\nabc\r\n0\r\n\r\n",
        b"3\0\r\nabc\r\n0\r\n\r\n",
        b"10000000000000003\r\nabc\r\n0\r\n\r\n",
        b"00000000000000003\r\nabc\r\n0\r\n\r\n",
        b"3 ;x\r\nabc\r\n0\r\n\r\n",
        b"3;x\nabc\r\n0\r\n\r\n",
        b"3;x\ry\r\nabc\r\n0\r\n\r\n",
        b"3;x\0\r\nabc\r\n0\r\n\r\n",
        &extension,
        &extensions,
        b"0\n\r\n",
        b"0\r\n\n",
        b"0\r\nx: y\n\r\n",
        b"0\r\nx : y\r\n\r\n",
        b"0\r\nx: y\r\n z\r\n\r\n",
        b"0\r\nx: y\0\r\n\r\n",
        b"0\r\nx\r\n\r\n",
        b"0\r\ncontent-length: 3\r\n\r\n",
        b"0\r\ntransfer-encoding: chunked\r\n\r\n",
        b"0\r\nhost: b\r\n\r\n",
        b"0\r\nauthorization: Bearer x\r\n\r\n",
        b"0\r\ncookie: x=y\r\n\r\n",
        b"0\r\nx-api-key: x\r\n\r\n",
        b"0\r\nconnection: close\r\n\r\n",
        b"0\r\nte: trailers\r\n\r\n",
        b"0\r\ntrailer: x\r\n\r\n",
        b"0\r\nupgrade: websocket\r\n\r\n",
        &section,
        &many,
    ];
    let whole = |body: &[u8]| [b"POST /bad HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n", body].concat();
    check(&rows.iter().map(|row| (whole(row), 400)).collect::<Vec<_>>());
}

#[test]
fn limits() {
    let long = |length| [b"GET /", &*vec![b'x'; length], b" HTTP/1.1\r\nhost: a\r\n\r\n"].concat();
    let large = |length| [b"GET / HTTP/1.1\r\nhost: a\r\nx: ", &*vec![b'x'; length], b"\r\n\r\n"].concat();
    let many = |count| [b"GET / HTTP/1.1\r\nhost: a\r\n", &*b"x: y\r\n".repeat(count), b"\r\n"].concat();
    check(&[
        (long(9000), 414),
        (long(100_000), 414),
        (large(9000), 431),
        (large(100_000), 431),
        (many(20), 431),
        (many(2000), 431),
    ]);
}
