//! Heads of requests and responses out of a buffer.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::header::HeaderMap;
use http::{Method, StatusCode, Uri, Version, request};
use httparse::Header;

use super::framing::Described;
use super::lines::{Section, Tolerance, find_end, first};
use super::{HeadError, Length, Limits, fields, lenient};
use crate::http::headers::fill;

/// RFC 9112 §2.2: a server should ignore at least one empty line before a request; some old clients end a body with one.
const EMPTY_LINES: usize = 2;

/// Heads with at most so many fields are parsed without asking for memory.
const USUAL_FIELDS: usize = 64;

/// Room for the fields that are added on the way: the gateway's own, and some by filters. Growing costs more than all of them.
const MORE: usize = 8;

/// The longest target that [`Uri`] can hold.
const LONGEST_TARGET: usize = u16::MAX as usize - 1;

/// The head of a request. A `Connection` that only says `close` or `keep-alive` is not among the fields: `persistent` says it.
#[derive(Debug)]
pub struct RequestHead {
    /// Boxed: it is handed on several times, and each would copy it.
    pub parts: Box<request::Parts>,
    /// Never [`Length::UntilClose`].
    pub body: Length,
    /// RFC 9112 §9.3: whether another request may follow.
    pub persistent: bool,
    /// The client may wait for a `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// It has an `Upgrade`.
    pub asks_to_upgrade: bool,
}

/// The head of a response, also of an interim one. As to `Connection` see [`RequestHead`].
#[derive(Debug)]
pub struct ResponseHead {
    pub status: StatusCode,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Length,
    /// Whether the connection can be used again after the body.
    pub persistent: bool,
}

/// Splits the head of a request off a buffer. `None`: more bytes are needed. After an error the buffer begins with the request line as far
/// as it has come, for the logs, and is of no other use.
pub fn read_request(buffer: &mut BytesMut, limits: Limits) -> Result<Option<RequestHead>, HeadError> {
    let Some(empty) = empty_lines(buffer)? else {
        return Ok(None);
    };
    let bytes = buffer.get(empty..).unwrap_or_default();
    let limits = Limits { bytes: limits.bytes.saturating_sub(empty), ..limits };
    let section = match find_end(bytes, 1, limits, Tolerance::default()) {
        Ok(Some(section)) => section,
        Ok(None) => return check_request_line(bytes).map(|()| None),
        Err(error) => return check_request_line(bytes).and(Err(error)),
    };
    buffer.advance(empty);
    let head = buffer.split_to(section.end).freeze();
    match parse_request(&head, section).or_else(|error| parse_lenient(&head, section, error)) {
        Ok(head) => Ok(Some(head)),
        Err(error) => {
            *buffer = BytesMut::from(first_line(&head));
            Err(error)
        }
    }
}

/// What is not written as it should be but can be read in one way only is read so.
#[cold]
fn parse_lenient(head: &Bytes, section: Section, error: HeadError) -> Result<RequestHead, HeadError> {
    match lenient::request(head) {
        Some(corrected) => parse_request(&Bytes::from(corrected), section),
        None => Err(error),
    }
}

fn parse_request(head: &Bytes, section: Section) -> Result<RequestHead, HeadError> {
    let mut few = [const { MaybeUninit::uninit() }; USUAL_FIELDS];
    let mut many = Vec::new();
    let mut request = httparse::Request::new(&mut []);
    let read = request.parse_with_uninit_headers(head, room(section, &mut few, &mut many));
    let (Ok(httparse::Status::Complete(end)), Some(method), Some(target), Some(version)) =
        (read, request.method, request.path, request.version)
    else {
        check_request_line(head)?;
        return Err(fields::explain(after_first_line(head)));
    };
    debug_assert_eq!(end, head.len());
    let version = version_of(version);
    let mut parts = Box::write(Box::new_uninit(), http::Request::new(()).into_parts().0);
    parts.method =
        Method::from_bytes(method.as_bytes()).map_err(|_| HeadError::Malformed("the method is not a token"))?;
    parts.uri = uri(head.slice_ref(target.as_bytes()))?;
    parts.version = version;
    let (headers, described) = collect(head, request.headers, Tolerance::default())?;
    fill(&mut parts.headers, headers);
    let body = described.request(version)?;
    Ok(RequestHead {
        parts,
        body,
        persistent: described.persistent(version),
        expects_continue: described.expects_continue(version, body),
        asks_to_upgrade: described.asks_to_upgrade(),
    })
}

/// What can be told of the line of a request that is refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestLine {
    /// `None` for what is no method.
    pub method: Option<Method>,
    /// As it was sent, without the query; cut after 1 KiB.
    pub path: String,
}

impl RequestLine {
    /// The line at the start of what was received, as far as it has come.
    pub fn of(received: &[u8]) -> RequestLine {
        const LONGEST_METHOD: usize = 64;
        const LONGEST_PATH: usize = 1024;
        let start = received.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(received.len());
        let line = first_line(received.get(start..).unwrap_or_default());
        let mut words = line.split(|byte| *byte == b' ');
        let method = words.next().filter(|method| method.len() <= LONGEST_METHOD);
        let target = words.next().unwrap_or_default();
        let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
        RequestLine {
            method: method.and_then(|method| Method::from_bytes(method).ok()),
            path: String::from_utf8_lossy(path.get(..LONGEST_PATH).unwrap_or(path)).into_owned(),
        }
    }
}

fn first_line(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default()
}

/// Splits the head of a response off a buffer. `None`: more bytes are needed. After an error the buffer is of no use.
///
/// Responses to HEAD, and those with the statuses 1xx, 204 and 304, have no body (RFC 9112 §6.3).
pub fn read_response(
    buffer: &mut BytesMut,
    limits: Limits,
    request_method: &Method,
    tolerance: Tolerance,
) -> Result<Option<ResponseHead>, HeadError> {
    check_protocol(buffer)?;
    let section = match find_end(buffer, 1, limits, tolerance) {
        Ok(Some(section)) => section,
        Ok(None) => return check_status_line(buffer).map(|()| None),
        // No target is to blame for a long status line.
        Err(HeadError::TargetTooLong) => return Err(HeadError::TooLarge),
        Err(error) => return check_status_line(buffer).and(Err(error)),
    };
    let mut head = buffer.split_to(section.end).freeze();
    if let Some(corrected) = lenient::response(&head) {
        head = corrected.into();
    }
    let mut few = [const { MaybeUninit::uninit() }; USUAL_FIELDS];
    let mut many = Vec::new();
    let mut response = httparse::Response::new(&mut []);
    let room = room(section, &mut few, &mut many);
    let read = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, &head, room);
    let (Ok(httparse::Status::Complete(end)), Some(version), Some(code)) = (read, response.version, response.code)
    else {
        check_status_line(&head)?;
        return Err(fields::explain(after_first_line(&head)));
    };
    debug_assert_eq!(end, section.end);
    let version = version_of(version);
    let status = StatusCode::from_u16(code).map_err(|_| HeadError::Malformed("the status is not valid"))?;
    let (headers, described) = collect(&head, response.headers, tolerance)?;
    let (body, persistent) = described.response(version, status, request_method)?;
    Ok(Some(ResponseHead { status, version, headers, body, persistent }))
}

/// How many bytes of empty lines stand before a request. `None`: more bytes are needed. They stay in the buffer until the head is
/// complete, because they count towards its limits.
fn empty_lines(buffer: &[u8]) -> Result<Option<usize>, HeadError> {
    let mut rest = buffer;
    for _ in 0..EMPTY_LINES {
        rest = rest.strip_prefix(b"\r\n").unwrap_or(rest);
    }
    match rest {
        [] | [b'\r'] => Ok(None),
        [b'\r', b'\n', ..] => Err(HeadError::Malformed("more than two empty lines before a request")),
        // RFC 8446 §5.1: a handshake record.
        [0x16, ..] => Err(HeadError::Malformed("a TLS handshake where plain HTTP was expected")),
        [byte, ..] if byte.is_ascii_graphic() => Ok(Some(buffer.len() - rest.len())),
        _ => Err(HeadError::Malformed("the first byte is not one of a method")),
    }
}

fn check_protocol(buffer: &[u8]) -> Result<(), HeadError> {
    const NAME: &[u8] = b"HTTP/";
    match buffer {
        // RFC 8446 §5.1: an alert, which is what a TLS server has to say to plain HTTP.
        [0x15, ..] => Err(HeadError::Malformed("a TLS alert where plain HTTP was expected")),
        _ if buffer.iter().zip(NAME).any(|(got, want)| got != want) => {
            Err(HeadError::Malformed("not a response of HTTP/1"))
        }
        _ => Ok(()),
    }
}

/// Refuses a bad request line as soon as its end is there, so that a client that speaks something else need not wait for the
/// deadline. Both ways of refusing go through here: how the bytes were split decides nothing.
#[cold]
fn check_request_line(bytes: &[u8]) -> Result<(), HeadError> {
    let Some(line) = first(bytes) else {
        return Ok(());
    };
    let Err(error) = httparse::Request::new(&mut []).parse(line) else {
        return Ok(());
    };
    if lenient::request(line).is_some_and(|line| httparse::Request::new(&mut []).parse(&line).is_ok()) {
        return Ok(());
    }
    let line = line.strip_suffix(b"\r\n").unwrap_or(line);
    let mut words = line.split(|b| *b == b' ');
    Err(match (words.next(), words.next(), words.next(), words.next()) {
        // RFC 9113 §3.4
        (Some(b"PRI"), Some(b"*"), Some(b"HTTP/2.0"), None) => {
            HeadError::Malformed("an HTTP/2 preface where HTTP/1 was expected")
        }
        (_, Some(_), Some(version), None) if error == httparse::Error::Version && is_version(version) => {
            HeadError::Version
        }
        (Some(method), ..) if Method::from_bytes(method).is_err() => HeadError::Malformed("the method is not a token"),
        (_, Some(_), Some(_), None) if error == httparse::Error::Token => {
            HeadError::Malformed("the request target is not valid")
        }
        _ => HeadError::Malformed("the request line is not a method, a target and a version"),
    })
}

/// As [`check_request_line`], for a response.
#[cold]
fn check_status_line(bytes: &[u8]) -> Result<(), HeadError> {
    let Some(line) = first(bytes) else {
        return Ok(());
    };
    let Err(error) = httparse::Response::new(&mut []).parse(line) else {
        return Ok(());
    };
    if lenient::response(line).is_some_and(|line| httparse::Response::new(&mut []).parse(&line).is_ok()) {
        return Ok(());
    }
    let version = line.split(|b| *b == b' ').next().unwrap_or_default();
    Err(match error {
        httparse::Error::Version if is_version(version) => HeadError::Version,
        _ => HeadError::Malformed("the status line is not a version, a status and a reason"),
    })
}

/// RFC 9112 §2.3: `HTTP/` and two digits around a dot.
fn is_version(text: &[u8]) -> bool {
    matches!(text, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
        if major.is_ascii_digit() && minor.is_ascii_digit())
}

fn version_of(minor: u8) -> Version {
    if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 }
}

fn after_first_line(head: &[u8]) -> &[u8] {
    head.get(first(head).map_or(0, <[u8]>::len)..).unwrap_or_default()
}

/// Room for exactly the fields that are there.
fn room<'room, 'head>(
    section: Section,
    few: &'room mut [MaybeUninit<Header<'head>>; USUAL_FIELDS],
    many: &'room mut Vec<MaybeUninit<Header<'head>>>,
) -> &'room mut [MaybeUninit<Header<'head>>] {
    match few.get_mut(..section.fields) {
        Some(few) => few,
        None => {
            many.resize(section.fields, MaybeUninit::uninit());
            many
        }
    }
}

/// RFC 9112 §3.2. Which form is served for which method, `http/target.rs` decides.
fn uri(target: Bytes) -> Result<Uri, HeadError> {
    if target.len() > LONGEST_TARGET {
        return Err(HeadError::TargetTooLong);
    }
    // `Uri` would drop it, and whatever is behind it, unread.
    if memchr::memchr(b'#', &target).is_some() {
        return Err(HeadError::Malformed("a fragment in the request target"));
    }
    // `Uri` takes `://a` for a URI with an empty scheme.
    if target.first() == Some(&b':') {
        return Err(HeadError::Malformed("the request target is not valid"));
    }
    Uri::from_maybe_shared(target).map_err(|_| HeadError::Malformed("the request target is not valid"))
}

fn collect(head: &Bytes, parsed: &[Header<'_>], tolerance: Tolerance) -> Result<(HeaderMap, Described), HeadError> {
    let mut headers = fields::map(parsed.len() + MORE)?;
    let mut described = Described::new(tolerance);
    for field in parsed {
        let name = fields::name(field)?;
        if !described.note(&name, field.value)? {
            continue;
        }
        fields::append(&mut headers, name, fields::value(head.slice_ref(field.value))?)?;
    }
    Ok((headers, described))
}
