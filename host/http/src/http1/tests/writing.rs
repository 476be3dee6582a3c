//! What is written.

use super::*;

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
        (
            write(v11, 426, x, Framing::Length(0), true),
            "HTTP/1.1 426 Upgrade Required|x: 1|upgrade: u|date|connection: upgrade|content-length: 0",
        ),
        (
            write(v10, 426, x, Framing::Length(0), false),
            "HTTP/1.1 426 Upgrade Required|x: 1|upgrade: u|date|connection: close, upgrade|content-length: 0",
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
        let head = read_response(&mut out, LIMITS, &Method::GET, Tolerance::default()).unwrap().unwrap();
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
