//! The method `PURGE`: takes the responses of its URL away, where the route grants that. The filters of the route have let the request pass.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, StatusCode};
use sluice_cache::store::Strength;

use super::place;
use crate::cache::{CacheResult, PurgeGrant, RouteCache};
use crate::exchange::{Exchange, ResponseHead, ResponseSource};
use crate::http::body::Body;
use crate::http::forwarded::ClientAddress;
use crate::proxy::RouteHandler;
use crate::proxy::body::MessageBody;
use crate::proxy::context::{EndsHere, RequestContext, Responder};
use crate::proxy::error::{Kind, ProxyError};
use crate::upstream::UpstreamResponse;

/// With `1`, the responses become stale, as with Fastly.
const SOFT: HeaderName = HeaderName::from_static("fastly-soft-purge");

/// No RFC has this method, but caches agree on it.
pub(super) fn is_purge(exchange: &Exchange) -> bool {
    exchange.request.method.as_str() == "PURGE"
}

impl RouteHandler<'_> {
    pub(super) fn purge(&self, context: &mut RequestContext, cache: &RouteCache) -> Result<(), ProxyError> {
        context.cache = Some(CacheResult::Purge);
        let Some(grant) = &cache.config.purge else {
            context.ends_here = Some(Box::new(EndsHere::NoPurge));
            return self.end_here(context);
        };
        let client = context.client;
        let exchange = context.exchange();
        let consumer = exchange.context.consumer().map(|name| &**name);
        let request = &exchange.request;
        if let Err(why) = check(grant, client, &request.headers, consumer) {
            return Err(ProxyError::new(Kind::PurgeForbidden, why));
        }
        let soft = request.headers.get(SOFT).is_some_and(|value| value == "1");
        let strength = if soft { Strength::Soft } else { Strength::Hard };
        let place = place(request);
        cache.shared.purge_url(place.host, place.path, place.query, strength);
        let head = ResponseHead::new(ResponseSource::Gateway, StatusCode::NO_CONTENT);
        context.responder = Responder::Gateway;
        context.response_body = MessageBody::new(Body::Empty, Some(&head.headers));
        context.exchange().response = Some(Box::new(head));
        Ok(())
    }
}

impl RouteHandler<'_> {
    /// RFC 9111 §4.4: what the response to a request makes invalid.
    pub(in crate::proxy) fn invalidate(&self, context: &mut RequestContext, response: &UpstreamResponse) {
        let request = &context.exchange().request;
        let cache = &self.local.shared.cache;
        cache.invalidate(&place(request), &request.method, response.head.status, &response.head.headers);
    }
}

/// Whether a request has all that the grant asks for. The reason is for the log.
fn check(
    grant: &PurgeGrant,
    client: ClientAddress,
    request: &HeaderMap,
    consumer: Option<&str>,
) -> Result<(), &'static str> {
    let PurgeGrant { token, addresses, consumers } = grant;
    if let Some(networks) = addresses
        && !client.ip().is_some_and(|client| networks.iter().any(|network| network.contains(&client.to_canonical())))
    {
        return Err("`PURGE` from an address that is not among `purge.addresses`");
    }
    if let Some(names) = consumers
        && !consumer.is_some_and(|consumer| names.iter().any(|name| name == consumer))
    {
        return Err("`PURGE` of a caller that is not among `purge.consumers`");
    }
    if let Some(token) = token {
        // Of hashes, which have one length, so that not even that of the token can be measured.
        let hash = |text: &[u8]| digest(&SHA256, text);
        let fits = |sent: &[u8]| verify_slices_are_equal(hash(sent).as_ref(), hash(token.expose().as_bytes()).as_ref());
        if bearer(request).is_none_or(|sent| fits(sent).is_err()) {
            return Err("`PURGE` without the token of `purge.token`");
        }
    }
    Ok(())
}

/// RFC 6750 §2.1.
fn bearer(request: &HeaderMap) -> Option<&[u8]> {
    let (scheme, token) = request.get(AUTHORIZATION)?.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use http::HeaderValue;

    use super::*;

    #[test]
    fn all_that_the_grant_names_has_to_hold() {
        let grant = PurgeGrant {
            token: Some("a-token-of-some-length".to_owned().into()),
            addresses: Some(vec!["10.0.0.0/8".parse().unwrap()]),
            consumers: Some(vec!["deploy".to_owned()]),
        };
        let (inside, outside) = (IpAddr::from([10, 1, 2, 3]), IpAddr::from([192, 0, 2, 1]));
        let mapped = IpAddr::from(Ipv4Addr::from([10, 1, 2, 3]).to_ipv6_mapped());
        let token = Some("Bearer a-token-of-some-length");
        let table = [
            (inside, token, Some("deploy"), true),
            (mapped, Some("bearer a-token-of-some-length "), Some("deploy"), true),
            (outside, token, Some("deploy"), false),
            (inside, token, Some("somebody"), false),
            (inside, token, None, false),
            (inside, None, Some("deploy"), false),
            (inside, Some("Basic a-token-of-some-length"), Some("deploy"), false),
            (inside, Some("Bearer a-token-of-some-lengtH"), Some("deploy"), false),
            (inside, Some("B"), Some("deploy"), false),
        ];
        for (client, authorization, consumer, allowed) in table {
            let field = authorization.map(|value| (AUTHORIZATION, HeaderValue::from_static(value)));
            let headers: HeaderMap = field.into_iter().collect();
            assert_eq!(
                check(&grant, client.into(), &headers, consumer).is_ok(),
                allowed,
                "{client} {authorization:?} {consumer:?}"
            );
        }
        let nobody = PurgeGrant { token: None, consumers: None, ..grant };
        assert!(check(&nobody, ClientAddress::Unix, &HeaderMap::new(), None).is_err(), "a Unix socket has no address");
    }
}
