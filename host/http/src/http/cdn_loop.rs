//! Requests that go in circles (RFC 8586): each gateway that passes a request on adds its name to `CDN-Loop`, so that a gateway sees how often
//! the request has been at one of its kind.

use http::header::Entry;
use http::{HeaderMap, HeaderName, HeaderValue};

/// The field.
pub const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");
/// A request that gateways of this kind have passed on so often is refused.
pub const MAX_PASSES: usize = 10;

const NAME: &str = "sluice";

/// How often gateways of this kind have passed on the request.
pub fn passes(headers: &HeaderMap) -> usize {
    infos(headers).filter(|info| cdn_id(info).eq_ignore_ascii_case(NAME.as_bytes())).count()
}

/// Whether the request was made by this caller, or while a request was handled that was.
pub fn is_made_by(headers: &HeaderMap, caller: u64) -> bool {
    let mark = mark_of(caller);
    infos(headers).any(|info| info == mark.as_bytes())
}

/// Adds the gateway to the field.
pub fn pass_on(headers: &mut HeaderMap) {
    match headers.entry(CDN_LOOP) {
        Entry::Vacant(field) => {
            field.insert(HeaderValue::from_static(NAME));
        }
        Entry::Occupied(mut field) => {
            let joined = join(field.iter(), NAME);
            field.insert(joined);
        }
    }
}

/// The field of a request that this caller makes while the request with these headers is handled.
pub fn made_by(headers: &HeaderMap, caller: u64) -> HeaderValue {
    join(headers.get_all(CDN_LOOP).iter(), &mark_of(caller))
}

fn mark_of(caller: u64) -> String {
    format!("{NAME};by={caller:016x}")
}

fn join<'a>(values: impl Iterator<Item = &'a HeaderValue>, last: &str) -> HeaderValue {
    let mut joined = Vec::new();
    for value in values {
        joined.extend_from_slice(value.as_bytes());
        joined.extend_from_slice(b", ");
    }
    joined.extend_from_slice(last.as_bytes());
    HeaderValue::try_from(joined).expect("values joined by a comma and a space are a value")
}

/// The members of the field. A comma in a quoted parameter makes one look like two, which does no harm.
fn infos(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let values = headers.get_all(CDN_LOOP).iter();
    values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}

fn cdn_id(info: &[u8]) -> &[u8] {
    info.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pass_is_counted_and_other_networks_are_not() {
        let mut headers = HeaderMap::new();
        assert_eq!(passes(&headers), 0);
        pass_on(&mut headers);
        assert_eq!((passes(&headers), headers[CDN_LOOP].as_bytes()), (1, &b"sluice"[..]));
        headers.append(CDN_LOOP, HeaderValue::from_static("other.example; a=\"b\", Sluice ; x=y"));
        headers.append(CDN_LOOP, HeaderValue::from_bytes(b"\xff,,;sluice,sluiced").unwrap());
        assert_eq!(passes(&headers), 2);
        pass_on(&mut headers);
        assert_eq!((passes(&headers), headers.get_all(CDN_LOOP).iter().count()), (3, 1));
    }

    #[test]
    fn a_caller_finds_its_own_requests() {
        let mut headers = HeaderMap::new();
        pass_on(&mut headers);
        let value = made_by(&headers, 7);
        assert_eq!(value, "sluice, sluice;by=0000000000000007");
        headers.insert(CDN_LOOP, value);
        pass_on(&mut headers);
        assert_eq!((passes(&headers), is_made_by(&headers, 7), is_made_by(&headers, 8)), (3, true, false));
    }
}
