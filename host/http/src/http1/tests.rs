//! The tables of what is taken and what is refused, one line a shape. Every input is read at once, byte by byte, and in two
//! parts at every position: how bytes arrive must not matter.

use std::fmt::Write;

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};

use super::*;

mod chunks;
mod heads;
mod writing;

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
        move |buffer: &mut BytesMut| match read_response(buffer, limits, method, Tolerance::default()) {
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
const CONTROL: &str = "a control character in a field value";

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
            let all = Tolerance { bare_line_feed: true, repeated_content_length: true };
            let _ = read_response(&mut BytesMut::from(&*bytes), LIMITS, &Method::GET, all);
        }
        for at in 0..body.len() {
            let mut bytes = body.to_vec();
            bytes[at] = byte;
            chunked(&bytes, Message::Request);
        }
    }
}
