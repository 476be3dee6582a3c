//! The only place where an error becomes a response: a status and problem details (RFC 9457) with the request id and no internals.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::error::{Kind, ProxyError};
use crate::exchange::{ResponseHead, ResponseSource};

/// The status of a kind, and a sentence that tells a client nothing internal.
pub(super) fn public(kind: Kind) -> (StatusCode, &'static str) {
    match kind {
        Kind::BadRequest => {
            (StatusCode::BAD_REQUEST, "The request line, a header field or the framing of the body is not valid.")
        }
        Kind::MisdirectedRequest => {
            (StatusCode::MISDIRECTED_REQUEST, "This connection is not for this host. Open another one.")
        }
        Kind::MethodNotSupported => (StatusCode::NOT_IMPLEMENTED, "This method is not supported."),
        Kind::TooManyHeaders => {
            (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "The request has more header fields than are allowed.")
        }
        Kind::HeadTooLarge => {
            (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "The head of the request is larger than allowed.")
        }
        Kind::TargetTooLong => (StatusCode::URI_TOO_LONG, "The request target is longer than allowed."),
        Kind::UnknownTransferCoding => {
            (StatusCode::NOT_IMPLEMENTED, "The only transfer coding that is supported is chunked.")
        }
        Kind::VersionNotSupported => {
            (StatusCode::HTTP_VERSION_NOT_SUPPORTED, "The versions of HTTP that are supported are 1.0, 1.1 and 2.")
        }
        Kind::HeadTimeout => (StatusCode::REQUEST_TIMEOUT, "The request took too long to arrive."),
        Kind::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "The request body is larger than allowed."),
        Kind::UnsupportedCoding => (
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "The content coding of the request is not supported or its data is damaged.",
        ),
        Kind::ClientTimeout => (StatusCode::REQUEST_TIMEOUT, "The request took too long to arrive."),
        // Nobody reads it; the access log shows nginx's code for a client that went away.
        Kind::ClientAborted => (client_closed_request(), "The client closed the connection."),
        Kind::StreamDuration => (StatusCode::GATEWAY_TIMEOUT, "The request took longer than is allowed."),
        Kind::NotStored => (StatusCode::GATEWAY_TIMEOUT, "There is no stored response to this request."),
        Kind::PurgeForbidden => (StatusCode::FORBIDDEN, "Stored responses can't be purged by this request."),
        Kind::NoRoute => (StatusCode::NOT_FOUND, "There is nothing at this address."),
        Kind::MethodNotAllowed => {
            (StatusCode::METHOD_NOT_ALLOWED, "This method is not allowed here. The field Allow lists those that are.")
        }
        Kind::LoopDetected => (StatusCode::LOOP_DETECTED, "The request goes in circles."),
        Kind::OutOfMemory | Kind::Overloaded => {
            (StatusCode::SERVICE_UNAVAILABLE, "The gateway is overloaded. Try again later.")
        }
        Kind::FilterFailed => (StatusCode::INTERNAL_SERVER_ERROR, "The request could not be processed."),
        Kind::ResponseTooLarge => {
            (StatusCode::INTERNAL_SERVER_ERROR, "The response is larger than the gateway can process.")
        }
        Kind::FilterBusy => (StatusCode::SERVICE_UNAVAILABLE, "The gateway is overloaded. Try again later."),
        Kind::DeadlineExceeded => {
            (StatusCode::GATEWAY_TIMEOUT, "The request was not answered within the time that its client gives it.")
        }
        Kind::NoEndpoint | Kind::CircuitOpen | Kind::FilesUnreadable => {
            (StatusCode::SERVICE_UNAVAILABLE, "The service is not available. Try again later.")
        }
        Kind::UpstreamBusy | Kind::RouteBusy => {
            (StatusCode::SERVICE_UNAVAILABLE, "The service is busy. Try again later.")
        }
        Kind::ConnectFailed => (StatusCode::BAD_GATEWAY, "The service could not be reached."),
        Kind::ConnectTimeout => (StatusCode::GATEWAY_TIMEOUT, "The service could not be reached in time."),
        Kind::UpstreamTimeout | Kind::InjectedDelay => {
            (StatusCode::GATEWAY_TIMEOUT, "The service did not answer in time.")
        }
        Kind::UpstreamReset | Kind::UpstreamProtocol | Kind::UpstreamBody => {
            (StatusCode::BAD_GATEWAY, "The service gave no valid answer.")
        }
    }
}

/// The status of gRPC for a kind: that of its status of HTTP, but where gRPC has a word that says more.
pub(super) fn grpc_status(kind: Kind) -> u8 {
    const CANCELLED: u8 = 1;
    const DEADLINE_EXCEEDED: u8 = 4;
    const RESOURCE_EXHAUSTED: u8 = 8;
    const INTERNAL: u8 = 13;
    match kind {
        Kind::ClientAborted => CANCELLED,
        Kind::HeadTimeout
        | Kind::ClientTimeout
        | Kind::StreamDuration
        | Kind::UpstreamTimeout
        | Kind::DeadlineExceeded
        | Kind::InjectedDelay => DEADLINE_EXCEEDED,
        Kind::BodyTooLarge | Kind::TooManyHeaders | Kind::HeadTooLarge | Kind::ResponseTooLarge => RESOURCE_EXHAUSTED,
        Kind::FilterFailed | Kind::LoopDetected => INTERNAL,
        Kind::BadRequest
        | Kind::MisdirectedRequest
        | Kind::MethodNotSupported
        | Kind::TargetTooLong
        | Kind::UnknownTransferCoding
        | Kind::VersionNotSupported
        | Kind::UnsupportedCoding
        | Kind::NoRoute
        | Kind::NotStored
        | Kind::PurgeForbidden
        | Kind::MethodNotAllowed
        | Kind::OutOfMemory
        | Kind::Overloaded
        | Kind::FilterBusy
        | Kind::NoEndpoint
        | Kind::UpstreamBusy
        | Kind::RouteBusy
        | Kind::CircuitOpen
        | Kind::ConnectFailed
        | Kind::ConnectTimeout
        | Kind::UpstreamReset
        | Kind::UpstreamProtocol
        | Kind::FilesUnreadable
        | Kind::UpstreamBody => grpc_status_of(public(kind).0),
    }
}

/// The status of gRPC that its clients take a status of HTTP for ("HTTP to gRPC Status Code Mapping").
pub(super) fn grpc_status_of(status: StatusCode) -> u8 {
    const UNKNOWN: u8 = 2;
    const PERMISSION_DENIED: u8 = 7;
    const UNIMPLEMENTED: u8 = 12;
    const INTERNAL: u8 = 13;
    const UNAVAILABLE: u8 = 14;
    const UNAUTHENTICATED: u8 = 16;
    match status {
        StatusCode::BAD_REQUEST => INTERNAL,
        StatusCode::UNAUTHORIZED => UNAUTHENTICATED,
        StatusCode::FORBIDDEN => PERMISSION_DENIED,
        StatusCode::NOT_FOUND => UNIMPLEMENTED,
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

/// nginx's 499.
fn client_closed_request() -> StatusCode {
    StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST)
}

/// The gateway's own answer to an error.
pub(super) fn problem(error: &ProxyError, id: &HeaderValue, id_header: &HeaderName) -> Box<ResponseHead> {
    if let Some(fixed) = error.advice.as_ref().and_then(|advice| advice.respond.as_ref()) {
        let mut head = ResponseHead::new(ResponseSource::Gateway, fixed.status);
        head.headers = fixed.headers.clone();
        head.headers.insert(id_header, id.clone());
        head.body = Some(fixed.body.clone());
        return Box::new(head);
    }
    let (status, detail) = public(error.kind);
    let mut head = ResponseHead::new(ResponseSource::Gateway, status);
    describe(&mut head, detail, id, id_header);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        let seconds = error.advice.as_ref().map_or(1, |advice| advice.retry_after.as_millis().div_ceil(1000).max(1));
        head.headers.insert(RETRY_AFTER, HeaderValue::from(u64::try_from(seconds).unwrap_or(u64::MAX)));
    }
    Box::new(head)
}

/// The answer to a request for a range that a stored response does not have (RFC 9110 §15.5.17), with these fields.
pub(super) fn unsatisfiable(headers: HeaderMap, id: &HeaderValue, id_header: &HeaderName) -> Box<ResponseHead> {
    let mut head = ResponseHead::new(ResponseSource::Gateway, StatusCode::RANGE_NOT_SATISFIABLE);
    head.headers = headers;
    describe(&mut head, "The response does not have this range.", id, id_header);
    Box::new(head)
}

/// Completes the answer of a group of filters that all refuse a request: it has its status and the challenges of all.
pub(super) fn describe_refusal(head: &mut ResponseHead, id: &HeaderValue, id_header: &HeaderName) {
    let detail = match head.status {
        StatusCode::UNAUTHORIZED => "The request has no credentials that are valid here.",
        _ => "The request was refused.",
    };
    describe(head, detail, id, id_header);
}

/// Makes problem details of a head.
fn describe(head: &mut ResponseHead, detail: &str, id: &HeaderValue, id_header: &HeaderName) {
    let body = serde_json::json!({
        "type": "about:blank",
        "title": head.status.canonical_reason().unwrap_or("Client Closed Request"),
        "status": head.status.as_u16(),
        "detail": detail,
        "request_id": id.to_str().unwrap_or_default(),
    });
    head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    head.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    head.headers.insert(id_header, id.clone());
    head.body = Some(Bytes::from(body.to_string()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_the_request_and_nothing_internal() {
        let error = ProxyError::new(Kind::ConnectFailed, "10.0.0.7:81: connection refused");
        let id = HeaderValue::from_static("abc");
        let head = problem(&error, &id, &HeaderName::from_static("x-request-id"));
        assert_eq!(head.status, 502);
        let body: serde_json::Value = serde_json::from_slice(head.body.as_ref().unwrap()).unwrap();
        assert_eq!(body["request_id"], "abc");
        assert_eq!(body["title"], "Bad Gateway");
        assert!(!body.to_string().contains("10.0.0.7"), "{body}");
        assert_eq!(head.headers["x-request-id"], "abc");
    }
}
