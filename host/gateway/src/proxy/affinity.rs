//! What keeps a request at its endpoint: the value that its upstream hashes, and the cookie of its session. Read only where the upstream asks
//! for it.

use std::borrow::Cow;
use std::net::IpAddr;

use http::HeaderMap;

use crate::exchange::Exchange;
use crate::route::{cookie, query_parameter};
use crate::upstream::{Affinity, Balance, HashKey, LocalEndpoints, LocalUpstream, hash};

/// Of a request with these fields.
pub(super) fn of(
    upstream: &LocalUpstream,
    endpoints: &LocalEndpoints,
    exchange: &Exchange,
    headers: &HeaderMap,
) -> Affinity {
    let balancing = &upstream.upstream().spec().balancing;
    let hashed = match &balancing.algorithm {
        Balance::Hash(by) => by.on.iter().find_map(|key| hash_of(key, exchange, headers)),
        Balance::RoundRobin | Balance::LeastRequest | Balance::PeakEwma | Balance::Random => None,
    };
    // A cookie of the gateway's own is ASCII.
    let own = |name: &str| str::from_utf8(cookie(headers, name)?).ok();
    let session = balancing.sticky.as_ref().and_then(|sticky| endpoints.session(own(&sticky.cookie)?));
    Affinity::new(hashed, session)
}

/// The hash of a value; `None` where the request has none.
fn hash_of(key: &HashKey, exchange: &Exchange, headers: &HeaderMap) -> Option<u64> {
    if let HashKey::ClientAddress = key {
        return Some(match exchange.client.ip()? {
            IpAddr::V4(address) => hash(&address.octets()),
            IpAddr::V6(address) => hash(&address.octets()),
        });
    }
    value(key, exchange, headers).map(|value| hash(&value))
}

/// The value of a request for a key that is a text, which an address is not.
pub(super) fn value<'r>(key: &HashKey, exchange: &'r Exchange, headers: &'r HeaderMap) -> Option<Cow<'r, [u8]>> {
    Some(match key {
        HashKey::ClientAddress => return None,
        HashKey::Consumer => exchange.context.consumer()?.as_bytes().into(),
        HashKey::Header(name) => headers.get(name)?.as_bytes().into(),
        HashKey::Cookie(name) => cookie(headers, name)?.into(),
        HashKey::Query(name) => match query_parameter(exchange.request.target.query()?, name)? {
            Cow::Borrowed(value) => value.as_bytes().into(),
            Cow::Owned(value) => value.into_bytes().into(),
        },
        HashKey::PathParameter(name) => {
            exchange.params.iter().find(|(param, _)| **param == **name)?.1.as_bytes().into()
        }
    })
}
