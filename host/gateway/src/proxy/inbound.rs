//! The request head on the way in: which fields are trusted, and which ones the upstream gets. Nothing here waits.

use http::header::COOKIE;
use http::request::Parts;
use http::uri::Scheme;
use http::{HeaderMap, HeaderName, HeaderValue, Version};
use std::net::IpAddr;

use super::error::{Kind, ProxyError};
use crate::exchange::RequestHead;
use crate::http::cdn_loop;
use crate::http::forwarded;
use crate::http::headers::{self, HeaderClasses};
use crate::http::target::{Target, TargetError};
use crate::http::trace;
use crate::server::ConnectionInfo;

/// A request head with the facts that routing needs.
pub(super) struct Inbound {
    pub(super) head: RequestHead,
    pub(super) classes: HeaderClasses,
    /// The client: the peer, or what a trusted proxy says.
    pub(super) client: IpAddr,
    /// The protocol that the client asks to switch to.
    pub(super) upgrade: Option<HeaderValue>,
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

/// Reads a request head.
pub(super) fn read(parts: Box<Parts>, connection: &ConnectionInfo) -> Result<Inbound, ProxyError> {
    // The HTTP/1 codec has counted its fields already; the header list of HTTP/2 is bounded in bytes only.
    if parts.headers.len() > connection.settings.max_headers {
        let message = format!("{} header fields, more than {}", parts.headers.len(), connection.settings.max_headers);
        return Err(ProxyError::new(Kind::TooManyHeaders, message));
    }
    let target = Target::from_request(&parts, &connection.local, &connection.known_host).map_err(refusal)?;
    let (peer, trusted) = (&connection.peer, &connection.settings.trusted_proxies);
    let mut client = forwarded::client(peer, &parts.headers, trusted);
    let scheme = client.scheme.take().unwrap_or_else(|| scheme(connection));
    let classes = HeaderClasses::of(&parts.headers);
    if classes.has(HeaderClasses::LOOP) && cdn_loop::passes(&parts.headers) >= cdn_loop::MAX_PASSES {
        let message = format!("the request has been passed on {} times already", cdn_loop::MAX_PASSES);
        return Err(ProxyError::new(Kind::LoopDetected, message));
    }
    let upgrade = match parts.version {
        Version::HTTP_11 if classes.has(HeaderClasses::HOP_BY_HOP) => headers::upgrade_requested(&parts.headers),
        _ => None,
    };
    Ok(Inbound {
        client: client.address,
        upgrade,
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

/// Removes hop-by-hop and untrusted fields and adds the gateway's own. `Host` stays until the upstream's `Host` is known; no filter sees
/// it.
pub(super) fn clean(
    head: &mut RequestHead,
    classes: HeaderClasses,
    connection: &ConnectionInfo,
    (id_header, id): (&HeaderName, &HeaderValue),
) {
    if classes.has(HeaderClasses::HOP_BY_HOP) {
        headers::strip_hop_by_hop(&mut head.headers);
    }
    forwarded::apply(&mut head.headers, classes, &connection.peer, &scheme(connection), &head.authority);
    head.headers.insert(id_header, id.clone());
    trace::ensure_traceparent(&mut head.headers, classes);
    if head.version == Version::HTTP_2 {
        join_cookies(&mut head.headers);
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
