//! The request head on the way in: which fields are trusted, and which ones the upstream gets. Nothing here waits.

use http::header::{COOKIE, MAX_FORWARDS, SEC_WEBSOCKET_KEY};
use http::request::Parts;
use http::uri::Scheme;
use http::{HeaderMap, HeaderName, HeaderValue, Version};
use hyper::ext::Protocol;

use super::error::{Kind, ProxyError};
use crate::exchange::RequestHead;
use crate::http::cdn_loop;
use crate::http::forwarded::{self, ClientAddress};
use crate::http::headers::{self, HeaderClasses};
use crate::http::lookalikes;
use crate::http::target::{Target, TargetError, routing_host};
use crate::http::trace;
use crate::server::ConnectionInfo;
use crate::upstream::websocket::{self, WEBSOCKET};

/// RFC 9440 §2.
const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
const CLIENT_CERT_CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");

/// A request head with the facts that routing needs.
pub(super) struct Inbound {
    pub(super) head: RequestHead,
    pub(super) classes: HeaderClasses,
    /// The client: the peer, or what a trusted proxy says.
    pub(super) client: ClientAddress,
    /// The protocol that the client asks to switch to.
    pub(super) upgrade: Option<HeaderValue>,
    /// It asks by an extended CONNECT.
    pub(super) extended_connect: bool,
}

/// The refusal of a request target.
fn refusal(error: TargetError) -> ProxyError {
    let kind = match error {
        TargetError::Connect | TargetError::Asterisk => Kind::MethodNotSupported,
        TargetError::Scheme
        | TargetError::MissingHost
        | TargetError::RepeatedHost
        | TargetError::InvalidHost
        | TargetError::ContradictoryHost
        | TargetError::PercentEncoding
        | TargetError::ZeroByte
        | TargetError::PathCharacter
        | TargetError::EncodedTraversal
        | TargetError::RelativePath => Kind::BadRequest,
    };
    ProxyError::new(kind, error.to_string())
}

/// Reads a request head. One that is refused comes back, for the logs.
pub(super) fn read(parts: Box<Parts>, connection: &ConnectionInfo) -> Result<Inbound, (Box<Parts>, ProxyError)> {
    // The HTTP/1 codec has counted its fields already; the header list of HTTP/2 is bounded in bytes only.
    if parts.headers.len() > connection.settings.max_headers {
        // RFC 9113 §8.2.3: a client may split a cookie for the sake of compression; it is one field.
        let crumbs = parts.headers.get_all(COOKIE).iter().count();
        let fields = parts.headers.len() - crumbs.saturating_sub(1);
        if fields > connection.settings.max_headers {
            let message = format!("{fields} header fields, more than {}", connection.settings.max_headers);
            return Err((parts, ProxyError::new(Kind::TooManyHeaders, message)));
        }
    }
    let target = match Target::from_request(&parts, &connection.local, &connection.known_host) {
        Ok(target) => target,
        Err(error) => return Err((parts, refusal(error))),
    };
    // RFC 9110 §15.5.20, RFC 9113 §9.1.1: clients may use a connection for other hosts of its certificate, and then learn so.
    if !connection.serves(routing_host(&target.authority)) {
        let sni = connection.tls.as_ref().and_then(|tls| tls.sni.as_deref()).unwrap_or_default();
        let message = format!("`{}` has another TLS policy than the server name `{sni}`", target.authority);
        return Err((parts, ProxyError::new(Kind::MisdirectedRequest, message)));
    }
    let (peer, trusted) = (&connection.peer, &connection.settings.trusted_proxies);
    let mut client = forwarded::client(peer, &parts.headers, trusted);
    let scheme = client.scheme.take().unwrap_or_else(|| scheme(connection));
    let classes = HeaderClasses::of(&parts.headers);
    if classes.has(HeaderClasses::LOOP) && cdn_loop::passes(&parts.headers) >= cdn_loop::MAX_PASSES {
        let message = format!("the request has been passed on {} times already", cdn_loop::MAX_PASSES);
        return Err((parts, ProxyError::new(Kind::LoopDetected, message)));
    }
    let protocol = parts.extensions.get::<Protocol>();
    let upgrade = match (parts.version, protocol) {
        (Version::HTTP_11, _) if classes.has(HeaderClasses::HOP_BY_HOP) => headers::upgrade_requested(&parts.headers),
        (_, Some(protocol)) if protocol.as_str() == WEBSOCKET => Some(HeaderValue::from_static(WEBSOCKET)),
        // RFC 9220 §3: 501 is for a protocol that is not known.
        (_, Some(protocol)) => {
            let message = format!("an extended CONNECT for the protocol `{}`", protocol.as_str());
            return Err((parts, ProxyError::new(Kind::MethodNotSupported, message)));
        }
        _ => None,
    };
    let extended_connect = protocol.is_some();
    Ok(Inbound {
        client: client.address,
        upgrade,
        extended_connect,
        classes,
        head: RequestHead {
            method: parts.method,
            scheme,
            authority: target.authority,
            target: target.target,
            version: parts.version,
            headers: parts.headers,
        },
    })
}

fn scheme(connection: &ConnectionInfo) -> Scheme {
    if connection.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP }
}

/// Removes hop-by-hop and untrusted fields and adds the gateway's own. Routes are matched after it: what a stranger says of himself
/// chooses none. `Host` stays until the upstream's `Host` is known; no filter sees it.
pub(super) fn clean(inbound: &mut Inbound, connection: &ConnectionInfo, (id_header, id): (&HeaderName, &HeaderValue)) {
    let Inbound { head, classes, extended_connect, .. } = inbound;
    let classes = *classes;
    if classes.has(HeaderClasses::HOP_BY_HOP) {
        headers::strip_hop_by_hop(&mut head.headers);
    }
    if classes.has(HeaderClasses::UNDERSCORE) {
        lookalikes::strip_lookalikes(&mut head.headers, id_header);
    }
    forwarded::apply(&mut head.headers, classes, &connection.peer, &scheme(connection), &head.authority);
    if let Some(shown) = connection.tls.as_ref().and_then(|tls| tls.client_certificate.as_ref())
        && let Some(field) = &shown.field
    {
        // RFC 9440 §2.4: no value of the client's own stands beside it.
        head.headers.remove(CLIENT_CERT_CHAIN);
        head.headers.insert(CLIENT_CERT, field.clone());
    }
    if *extended_connect {
        // RFC 8441 §5 leaves the key out, and servers of HTTP/1.1 want one.
        head.headers.insert(SEC_WEBSOCKET_KEY, websocket::new_key());
    }
    lookalikes::strip_twin(&mut head.headers, id_header);
    head.headers.insert(id_header, id.clone());
    trace::ensure_traceparent(&mut head.headers, classes);
    if head.version == Version::HTTP_2 {
        join_cookies(&mut head.headers);
    }
}

/// RFC 9110 §7.6.2: takes one from `Max-Forwards`, for the methods that have it. `true`: there is none left. A value that is no number says
/// nothing.
pub(super) fn spend_forward(head: &mut RequestHead) -> bool {
    let Some(value) = head.headers.get_mut(MAX_FORWARDS) else { return false };
    match value.to_str().ok().and_then(|text| text.parse::<u64>().ok()).map(|left| left.checked_sub(1)) {
        None => false,
        Some(None) => true,
        Some(Some(left)) => {
            *value = HeaderValue::from(left);
            false
        }
    }
}

/// RFC 9113 §8.2.3: joins cookies that HTTP/2 has split, because other protocols expect one field.
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for crumb in std::iter::once(second).chain(crumbs) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    let mut joined = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined))
        .expect("valid values joined by a semicolon and a space are a valid value");
    joined.set_sensitive(true);
    headers.insert(COOKIE, joined);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookie_crumbs_become_one_field() {
        let mut headers = HeaderMap::new();
        for crumb in ["a=1", "b=2", "c=3"] {
            headers.append(COOKIE, HeaderValue::from_static(crumb));
        }
        join_cookies(&mut headers);
        assert_eq!(headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
    }
}
