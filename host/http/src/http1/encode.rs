//! Heads and the frame of chunked bodies, written. Names, values, methods and targets come as types that hold no line ends, so
//! nothing written here can become a line of its own.

use bytes::BytesMut;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, StatusCode, Version};

use crate::http::headers::is_forbidden_in_trailers;

/// Room that is asked for once for each head, and for each of its fields.
const HEAD: usize = 192;
const FIELD: usize = 48;

/// How the body behind a head is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No framing field: 1xx, 204, and requests without a body.
    None,
    /// The `Content-Length` in the map stays, for it describes a body that is not sent: HEAD and 304.
    Described,
    Length(u64),
    Chunked,
    /// The body ends with the connection: in responses to clients of HTTP/1.0. A request can't end so; it gets no field.
    Close,
    /// What follows is another protocol: `Connection: upgrade`, and the `Upgrade` in the map stays.
    Upgrade,
}

/// Appends the head of a request of HTTP/1.1. Fields of the map that frame or belong to a connection are left out but for
/// `TE: trailers`, and the framing is written instead.
pub fn request_head(out: &mut BytesMut, method: &Method, target: &PathAndQuery, headers: &HeaderMap, body: Framing) {
    let target = target.as_str();
    out.reserve(HEAD + target.len() + headers.len() * FIELD);
    out.extend_from_slice(method.as_str().as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let mut trailers = false;
    for (name, value) in headers {
        let name = name.as_str();
        match role(name) {
            Role::End | Role::Date => field(out, name, value),
            Role::Te if value == "trailers" => {
                field(out, name, value);
                trailers = true;
            }
            Role::Upgrade if body == Framing::Upgrade => field(out, name, value),
            Role::Length if body == Framing::Described => field(out, name, value),
            Role::Te | Role::Upgrade | Role::Length | Role::Hop => {}
        }
    }
    // RFC 9110 §10.1.4 and §7.8: both fields are to be named by Connection.
    match (body, trailers) {
        (Framing::Upgrade, true) => out.extend_from_slice(b"connection: upgrade, te\r\n"),
        (Framing::Upgrade, false) => out.extend_from_slice(b"connection: upgrade\r\n"),
        (_, true) => out.extend_from_slice(b"connection: te\r\n"),
        // Nearly always. Appending nothing is a call all the same.
        (_, false) => {}
    }
    framing(out, body);
    out.extend_from_slice(b"\r\n");
}

/// Appends the head of a response to a request of `version`. Fields of the map that frame or belong to a connection are left
/// out but for the `Upgrade` of a 426, and the framing is written instead. `date` (RFC 9110 §5.6.7) is added where the map has none.
pub fn response_head(
    out: &mut BytesMut,
    version: Version,
    status: StatusCode,
    headers: &HeaderMap,
    body: Framing,
    persistent: bool,
    date: &[u8],
) {
    // RFC 9110 §15.5.22: a 426 must have it. It is rare, and no other response pays for it.
    if status.as_u16() == 426 {
        return upgrade_required_head(out, version, status, headers, body, persistent, date);
    }
    response_head_with::<false>(out, version, status, headers, body, persistent, date);
}

#[cold]
fn upgrade_required_head(
    out: &mut BytesMut,
    version: Version,
    status: StatusCode,
    headers: &HeaderMap,
    body: Framing,
    persistent: bool,
    date: &[u8],
) {
    response_head_with::<true>(out, version, status, headers, body, persistent, date);
}

/// The same, with the field `Upgrade` or without.
#[inline(always)]
fn response_head_with<const UPGRADE: bool>(
    out: &mut BytesMut,
    version: Version,
    status: StatusCode,
    headers: &HeaderMap,
    body: Framing,
    persistent: bool,
    date: &[u8],
) {
    out.reserve(HEAD + headers.len() * FIELD);
    status_line(out, status);
    let mut dated = false;
    let mut upgrade = false;
    for (name, value) in headers {
        let name = name.as_str();
        match role(name) {
            Role::End => field(out, name, value),
            Role::Date => {
                field(out, name, value);
                dated = true;
            }
            Role::Upgrade if body == Framing::Upgrade => field(out, name, value),
            Role::Upgrade if UPGRADE => {
                field(out, name, value);
                upgrade = true;
            }
            Role::Length if body == Framing::Described => field(out, name, value),
            Role::Te | Role::Upgrade | Role::Length | Role::Hop => {}
        }
    }
    if body == Framing::Upgrade {
        out.extend_from_slice(b"connection: upgrade\r\n");
    } else if !status.is_informational() {
        // RFC 9110 §6.6.1: interim responses need no date.
        if !dated {
            out.extend_from_slice(b"date: ");
            out.extend_from_slice(date);
            out.extend_from_slice(b"\r\n");
        }
        let closes = !persistent || body == Framing::Close;
        match (closes, version == Version::HTTP_10, upgrade) {
            (true, _, false) => out.extend_from_slice(b"connection: close\r\n"),
            (true, _, true) => out.extend_from_slice(b"connection: close, upgrade\r\n"),
            (false, true, false) => out.extend_from_slice(b"connection: keep-alive\r\n"),
            (false, true, true) => out.extend_from_slice(b"connection: keep-alive, upgrade\r\n"),
            (false, false, true) => out.extend_from_slice(b"connection: upgrade\r\n"),
            (false, false, false) => {}
        }
    }
    framing(out, body);
    out.extend_from_slice(b"\r\n");
}

/// Appends what stands before the data of a chunk; behind the data belongs a CRLF. A chunk of nothing would end the body.
pub fn chunk_head(out: &mut BytesMut, length: usize) {
    debug_assert_ne!(length, 0);
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let digits = (usize::BITS - length.leading_zeros()).div_ceil(4).max(1);
    let mut line = [0; 18];
    let mut end = 0;
    for (slot, digit) in line.iter_mut().zip((0..digits).rev()) {
        *slot = HEX[length >> (digit * 4) & 15];
        end += 1;
    }
    out.extend_from_slice(line.get(..end).unwrap_or_default());
    out.extend_from_slice(b"\r\n");
}

/// Appends the last chunk and the trailers that are allowed there (RFC 9110 §6.5.1).
pub fn last_chunk(out: &mut BytesMut, trailers: Option<&HeaderMap>) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten() {
        if !is_forbidden_in_trailers(name) {
            field(out, name.as_str(), value);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// What becomes of a field when a head is written.
enum Role {
    /// It is for the recipient at the end.
    End,
    Date,
    Length,
    Te,
    Upgrade,
    /// RFC 9110 §7.6.1: it ended here.
    Hop,
}

fn role(name: &str) -> Role {
    match name {
        "date" => Role::Date,
        "content-length" => Role::Length,
        "te" => Role::Te,
        "upgrade" => Role::Upgrade,
        "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "http2-settings" => Role::Hop,
        _ => Role::End,
    }
}

// As a call, it costs a head a tenth more instructions.
#[inline(always)]
fn field(out: &mut BytesMut, name: &str, value: &HeaderValue) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn framing(out: &mut BytesMut, body: Framing) {
    match body {
        Framing::Length(length) => {
            out.extend_from_slice(header::CONTENT_LENGTH.as_str().as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Framing::None | Framing::Described | Framing::Close | Framing::Upgrade => {}
    }
}

/// RFC 9112 §2.3: the version is ours, whatever that of the request.
fn status_line(out: &mut BytesMut, status: StatusCode) {
    let line: &[u8] = match status.as_u16() {
        100 => b"HTTP/1.1 100 Continue\r\n",
        101 => b"HTTP/1.1 101 Switching Protocols\r\n",
        200 => b"HTTP/1.1 200 OK\r\n",
        201 => b"HTTP/1.1 201 Created\r\n",
        202 => b"HTTP/1.1 202 Accepted\r\n",
        204 => b"HTTP/1.1 204 No Content\r\n",
        206 => b"HTTP/1.1 206 Partial Content\r\n",
        301 => b"HTTP/1.1 301 Moved Permanently\r\n",
        302 => b"HTTP/1.1 302 Found\r\n",
        303 => b"HTTP/1.1 303 See Other\r\n",
        304 => b"HTTP/1.1 304 Not Modified\r\n",
        307 => b"HTTP/1.1 307 Temporary Redirect\r\n",
        308 => b"HTTP/1.1 308 Permanent Redirect\r\n",
        400 => b"HTTP/1.1 400 Bad Request\r\n",
        401 => b"HTTP/1.1 401 Unauthorized\r\n",
        403 => b"HTTP/1.1 403 Forbidden\r\n",
        404 => b"HTTP/1.1 404 Not Found\r\n",
        409 => b"HTTP/1.1 409 Conflict\r\n",
        422 => b"HTTP/1.1 422 Unprocessable Entity\r\n",
        429 => b"HTTP/1.1 429 Too Many Requests\r\n",
        500 => b"HTTP/1.1 500 Internal Server Error\r\n",
        502 => b"HTTP/1.1 502 Bad Gateway\r\n",
        503 => b"HTTP/1.1 503 Service Unavailable\r\n",
        504 => b"HTTP/1.1 504 Gateway Timeout\r\n",
        _ => return rare_status_line(out, status),
    };
    out.extend_from_slice(line);
}

#[cold]
fn rare_status_line(out: &mut BytesMut, status: StatusCode) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    // RFC 9112 §4: the space stays also without a reason.
    out.extend_from_slice(b" ");
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
}
