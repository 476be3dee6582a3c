//! Which upstream of a split a request goes to, and who a caller of a sticky one is.
//!
//! The cookie that a caller without a key gets has the number of its slot and nothing else. It is not signed: whoever writes another number
//! into it chooses a side of the release, which is no secret and no right, and a number of 10,000 says nothing of who the caller is. So it
//! needs no key that all gateways must have, and is valid on each of them and after a restart.

use std::fmt::Write;
use std::net::IpAddr;

use http::HeaderValue;
use http::uri::Scheme;

use super::context::RequestContext;
use super::{RouteHandler, affinity};
use crate::route::cookie;
use crate::snapshot::split::{HashKey, SLOTS, Split, Sticky, slot, slot_at};

impl RouteHandler<'_> {
    /// The upstream that the weights of the route give, by index in the snapshot.
    pub(super) fn weighted(&self, context: &mut RequestContext, split: &Split) -> usize {
        match (&split.targets[..], &split.sticky) {
            ([only], _) => *only,
            (_, None) => split.at(self.local.turn()),
            (_, Some(sticky)) => self.of_caller(context, split, sticky),
        }
    }

    fn of_caller(&self, context: &mut RequestContext, split: &Split, sticky: &Sticky) -> usize {
        if let Some(slot) = sticky.by.iter().find_map(|key| slot_by(key, context)) {
            return split.of_slot(slot);
        }
        let name = sticky.by.iter().find_map(|key| match key {
            HashKey::Cookie(name) => Some(name),
            HashKey::Consumer | HashKey::ClientAddress | HashKey::Header(_) => None,
            HashKey::Query(_) | HashKey::PathParameter(_) => None,
        });
        let Some(name) = name else { return split.at(self.local.turn()) };
        let slot = slot_at(self.local.turn());
        let https = context.exchange().request.scheme == Scheme::HTTPS;
        context.sticky_cookie = set_cookie(name, slot, sticky, https).map(Box::new);
        split.of_slot(slot)
    }
}

/// The slot of a caller by one of its keys, if the request has that.
fn slot_by(key: &HashKey, context: &mut RequestContext) -> Option<u16> {
    let client = context.client;
    let exchange = context.exchange();
    let headers = &exchange.request.headers;
    match key {
        // Of IPv6 the network of 64 bits, in which a host changes its address.
        HashKey::ClientAddress => Some(match client.ip()? {
            IpAddr::V4(address) => slot(&address.octets()),
            IpAddr::V6(address) => slot(&address.octets()[..8]),
        }),
        // An application's own cookie is a key as any other.
        HashKey::Cookie(name) => cookie(headers, name).map(|value| own_slot(value).unwrap_or(slot(value))),
        HashKey::Consumer | HashKey::Header(_) | HashKey::Query(_) | HashKey::PathParameter(_) => {
            affinity::value(key, exchange, headers).map(|value| slot(&value))
        }
    }
}

/// The slot in a cookie that the gateway has set.
fn own_slot(value: &[u8]) -> Option<u16> {
    let value = str::from_utf8(value).ok()?;
    let digits = (1..=4).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_digit());
    value.parse().ok().filter(|slot| digits && *slot < SLOTS)
}

fn set_cookie(name: &str, slot: u16, sticky: &Sticky, https: bool) -> Option<HeaderValue> {
    let mut cookie = format!("{name}={slot}; Path=/; HttpOnly; SameSite=Lax");
    if let Some(max_age) = sticky.max_age {
        // Writing to a text does not fail.
        let _ = write!(cookie, "; Max-Age={}", max_age.as_secs());
    }
    if https {
        cookie.push_str("; Secure");
    }
    HeaderValue::try_from(cookie).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slot_of_a_cookie() {
        assert_eq!(["0", "9999", "0042"].map(|value| own_slot(value.as_bytes())), [Some(0), Some(9999), Some(42)]);
        assert!(["", "10000", "+1", "-1", "1.0", "a1b2"].iter().all(|value| own_slot(value.as_bytes()).is_none()));
    }

    #[test]
    fn the_cookie_says_where_it_is_valid() {
        let sticky = Sticky { by: Vec::new(), max_age: Some(std::time::Duration::from_secs(60)) };
        let cookie = set_cookie("release", 7, &sticky, true);
        let expected = "release=7; Path=/; HttpOnly; SameSite=Lax; Max-Age=60; Secure";
        assert_eq!(cookie, Some(HeaderValue::from_static(expected)));
    }
}
