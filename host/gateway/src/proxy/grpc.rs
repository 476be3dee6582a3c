//! gRPC ("gRPC over HTTP2"): its clients read `grpc-status` and take no notice of the status of HTTP. Errors that the gateway or a filter
//! answers get one, in the form that has nothing but a head (Trailers-Only).

use std::fmt::Write;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::context::RequestContext;
use super::error::Kind;
use super::respond;
use crate::exchange::{ResponseHead, ResponseSource};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// Bytes of a body in which a message is looked for.
const MAX_BODY: usize = 8 * 1024;
/// Bytes of an encoded message: clients take some KiB of metadata.
const MAX_MESSAGE: usize = 2048;

/// The status in a head or in trailers.
pub(super) fn status(headers: &HeaderMap) -> Option<u8> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

/// The trailers of a call whose time is over.
pub(super) fn deadline_exceeded() -> HeaderMap {
    let message = HeaderValue::from_static("The deadline of the call has passed.");
    let status = HeaderValue::from(u16::from(respond::grpc_status(Kind::DeadlineExceeded)));
    HeaderMap::from_iter([(GRPC_STATUS, status), (GRPC_MESSAGE, message)])
}

/// A response as it is: or, if it is an error of the gateway or of a filter to a request of gRPC, one that its clients understand. What an
/// upstream has answered is its own.
pub(super) fn answer(mut head: Box<ResponseHead>, context: &RequestContext) -> Box<ResponseHead> {
    let is_error = head.status.is_client_error() || head.status.is_server_error();
    if !context.grpc || !is_error || head.origin == ResponseSource::Upstream || head.headers.contains_key(GRPC_STATUS) {
        return head;
    }
    let status = match (head.origin, context.error) {
        (ResponseSource::Gateway, Some((_, kind))) => respond::grpc_status(kind),
        _ => respond::grpc_status_of(head.status),
    };
    let message = encode(&message(&head));
    let headers = &mut head.headers;
    headers.remove(CONTENT_LENGTH);
    headers.remove(CONTENT_ENCODING);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(status)));
    headers.insert(GRPC_MESSAGE, message);
    head.status = StatusCode::OK;
    head.body = Some(Bytes::new());
    head.trailers = None;
    head
}

/// What the answer says to people: the detail of a problem (RFC 9457), a short plain text, or the words of its status.
fn message(head: &ResponseHead) -> String {
    let body = head.body.as_deref().filter(|body| body.len() <= MAX_BODY).unwrap_or_default();
    let media_type = head.headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let found = if media_type.starts_with(b"application/problem+json") {
        let problem: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        problem["detail"].as_str().or(problem["title"].as_str()).map(str::to_owned)
    } else if media_type.starts_with(b"text/plain") {
        str::from_utf8(body).ok().map(|text| text.trim().to_owned())
    } else {
        None
    };
    let usual = || head.status.canonical_reason().unwrap_or_default().to_owned();
    found.filter(|text| !text.is_empty()).unwrap_or_else(usual)
}

/// `Percent-Encoded` of the specification: all but printable ASCII, and the percent sign. Cut where it is long, so that it stays valid.
fn encode(message: &str) -> HeaderValue {
    let mut encoded = String::with_capacity(message.len().min(MAX_MESSAGE));
    for byte in message.bytes() {
        if encoded.len() + "%00".len() > MAX_MESSAGE {
            break;
        }
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    HeaderValue::from_maybe_shared(Bytes::from(encoded)).expect("printable ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_of_printable_ascii() {
        assert_eq!(encode("100 % \u{e9}\r\n~"), "100 %25 %C3%A9%0D%0A~");
        let long = encode(&"\u{e9}".repeat(4096));
        assert!(long.len() <= MAX_MESSAGE && long.as_bytes().ends_with(b"%A9"), "{}", long.len());
    }

    #[test]
    fn a_status_is_a_small_number() {
        let of = |text| status(&HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static(text))]));
        assert_eq!((of("0"), of("16"), of("256"), of("-1"), of("x")), (Some(0), Some(16), None, None, None));
    }

    #[test]
    fn the_message_is_what_the_answer_says_to_people() {
        let said = |media_type, body: &'static str| {
            let mut head = ResponseHead::new(ResponseSource::Filter, StatusCode::NOT_FOUND);
            head.headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
            head.body = Some(Bytes::from_static(body.as_bytes()));
            message(&head)
        };
        assert_eq!(said("application/problem+json", r#"{"title":"t","detail":"d"}"#), "d");
        assert_eq!(said("application/problem+json", r#"{"title":"t"}"#), "t");
        assert_eq!(said("application/problem+json", "no JSON"), "Not Found");
        assert_eq!(said("text/plain; charset=utf-8", " gone\n"), "gone");
        assert_eq!(said("text/html", "<p>gone"), "Not Found");
    }
}
