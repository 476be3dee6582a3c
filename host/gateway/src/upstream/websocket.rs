//! WebSocket over HTTP/2 (RFC 8441): an extended CONNECT in place of the switch of protocols of HTTP/1.1 (RFC 6455), and what the handshake
//! of HTTP/1.1 needs that the one of HTTP/2 does not have.

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper_util::rt::TokioIo;

use super::head;
use super::pool::Lease;
use super::spec::Endpoint;
use crate::http::body::Body;
use crate::http1::{Guarded, Transport};

/// The only protocol that an extended CONNECT is taken for, as the value of `Upgrade` and `:protocol`.
pub(crate) const WEBSOCKET: &str = "websocket";
/// RFC 6455 §1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A `Sec-WebSocket-Key` (RFC 6455 §4.1), for a client that has none.
pub(crate) fn new_key() -> HeaderValue {
    let mut nonce = [0; 16];
    // It is no secret: it shows that the server has read the request.
    aws_lc_rs::rand::fill(&mut nonce).expect("the system has random numbers");
    HeaderValue::try_from(STANDARD.encode(nonce)).expect("Base64 is visible ASCII")
}

/// The `Sec-WebSocket-Accept` for a key (RFC 6455 §4.2.2).
fn accept(key: &HeaderValue) -> HeaderValue {
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key.as_bytes());
    context.update(GUID);
    HeaderValue::try_from(STANDARD.encode(context.finish())).expect("Base64 is visible ASCII")
}

/// Whether a server has accepted the handshake that a request with these fields has begun.
pub(crate) fn is_accepted(request: &HeaderMap, response: &HeaderMap) -> bool {
    let expected = request.get(SEC_WEBSOCKET_KEY).map(accept);
    expected.is_some() && response.get(SEC_WEBSOCKET_ACCEPT) == expected.as_ref()
}

/// A request to switch to WebSocket as an extended CONNECT; `None` for all others.
pub(super) fn extended_connect(request: &Request<Body>, endpoint: &Endpoint) -> Option<Request<Body>> {
    let protocol = request.headers().get(UPGRADE)?;
    if !protocol.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes()) {
        return None;
    }
    let mut connect = Request::new(Body::Empty);
    *connect.uri_mut() = request.uri().clone();
    connect.headers_mut().clone_from(request.headers());
    if !head::for_http2(&mut connect, endpoint) {
        return None;
    }
    *connect.method_mut() = Method::CONNECT;
    for name in [UPGRADE, CONNECTION, SEC_WEBSOCKET_KEY] {
        connect.headers_mut().remove(name);
    }
    connect.extensions_mut().insert(Protocol::from_static(WEBSOCKET));
    Some(connect)
}

/// The answer to an extended CONNECT as HTTP/1.1 has it. A stream that was opened keeps the lease.
pub(super) async fn switched(
    mut response: Response<Incoming>,
    key: Option<&HeaderValue>,
    lease: Lease,
) -> (Response<Body>, Option<Box<Transport>>) {
    // hyper opens the stream for this status alone.
    if response.status() != StatusCode::OK {
        return (lease.hold(response), None);
    }
    let Ok(stream) = hyper::upgrade::on(&mut response).await else { return (lease.hold(response), None) };
    let mut response = response.map(|_| Body::Empty);
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
    if let Some(key) = key {
        response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept(key));
    }
    (response, Some(Box::new(Transport::new(Guarded::new(TokioIo::new(stream), lease)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_rfc_has_the_answer_of_the_rfc() {
        let fields = |name, value| HeaderMap::from_iter([(name, HeaderValue::from_static(value))]);
        let request = fields(SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==");
        assert!(is_accepted(&request, &fields(SEC_WEBSOCKET_ACCEPT, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")));
        assert!(!is_accepted(&request, &fields(SEC_WEBSOCKET_ACCEPT, "s3pPLMBiTxaQ9kYGzzhZRbK+xOx=")));
        assert!(!is_accepted(&request, &HeaderMap::new()));
        assert!(!is_accepted(&HeaderMap::new(), &HeaderMap::new()));
        let (one, other) = (new_key(), new_key());
        assert_ne!(one, other);
        assert_eq!(STANDARD.decode(one.as_bytes()).map(|nonce| nonce.len()), Ok(16));
    }
}
