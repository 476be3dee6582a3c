//! What is written is read back as the same message, whatever its fields are.
#![no_main]

use bytes::BytesMut;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, StatusCode, Version};
use libfuzzer_sys::fuzz_target;
use sluice_fuzz::assert_one_reading;
use sluice_http::http1::*;

const LIMITS: Limits = Limits { bytes: 1 << 20, fields: 10_000 };

const OURS: [&str; 9] = [
    "connection",
    "content-length",
    "date",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

fn kept(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for (name, value) in headers {
        if !OURS.contains(&name.as_str()) {
            // White space around a value is none of it (RFC 9110 §5.5).
            let value = HeaderValue::from_bytes(value.as_bytes().trim_ascii()).unwrap();
            kept.append(name, value);
        }
    }
    kept
}

// Lines: a method, a target, the data of a body, then fields as `name:value`. What is not valid as such is left out.
fuzz_target!(|data: &[u8]| {
    let Some((choice, rest)) = data.split_first() else { return };
    let mut lines = rest.split(|b| *b == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let method = Method::from_bytes(line()).unwrap_or(Method::GET);
    let target = line();
    let target = match target.first() {
        Some(b'/') => PathAndQuery::try_from(target).unwrap_or(PathAndQuery::from_static("/")),
        _ => PathAndQuery::from_static("/"),
    };
    let content = line();
    let mut headers = HeaderMap::new();
    for field in lines {
        let Some(colon) = field.iter().position(|b| *b == b':') else { continue };
        let name = HeaderName::from_bytes(&field[..colon]);
        let value = HeaderValue::from_bytes(&field[colon + 1..]);
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let length = content.len() as u64;
    let (framing, body) = match choice % 3 {
        0 => (Framing::None, Length::Exact(0)),
        1 => (Framing::Length(length), Length::Exact(length)),
        _ => (Framing::Chunked, Length::Chunked),
    };

    let mut out = BytesMut::new();
    request_head(&mut out, &method, &target, &headers, framing);
    assert_one_reading(&out);
    let head = read_request(&mut out, LIMITS).expect("a good head").expect("a whole head");
    assert!(out.is_empty());
    assert_eq!(head.parts.method, method);
    assert_eq!(head.parts.uri.path_and_query(), Some(&target));
    assert_eq!((head.body, head.persistent), (body, true));
    assert_eq!(kept(&head.parts.headers), kept(&headers));

    let status = StatusCode::from_u16(200 + u16::from(*choice)).expect("in range");
    let persistent = choice % 2 == 0;
    let date = b"Sun, 06 Nov 1994 08:49:37 GMT";
    response_head(&mut out, Version::HTTP_11, status, &headers, framing, persistent, date);
    assert_one_reading(&out);
    let head = read_response(&mut out, LIMITS, &Method::GET, Tolerance::default()).expect("a good head").expect("a whole head");
    assert!(out.is_empty());
    assert_eq!(head.status, status);
    assert_eq!(kept(&head.headers), kept(&headers));
    let bodiless = status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    match framing {
        _ if bodiless => assert_eq!(head.body, Length::Exact(0)),
        Framing::None => assert_eq!((head.body, head.persistent), (Length::UntilClose, false)),
        _ => assert_eq!((head.body, head.persistent), (body, persistent)),
    }

    for piece in content.chunks(usize::from(*choice) + 1) {
        chunk_head(&mut out, piece.len());
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    }
    last_chunk(&mut out, Some(&headers));
    let mut chunked = Chunked::new(LIMITS, Message::Response);
    let mut read = Vec::new();
    loop {
        match chunked.next(&mut out).expect("a good body").expect("a whole body") {
            Piece::Data(data) => read.extend_from_slice(&data),
            Piece::End(trailers) => {
                let trailers = trailers.unwrap_or_default();
                assert!(trailers.keys().all(|name| headers.contains_key(name)));
                break;
            }
        }
    }
    assert!(out.is_empty());
    assert_eq!(read, content);
});
