//! A response head in one piece of memory. A map of fields takes several times as much, and each hit needs one of its own anyhow.

use bytes::{Buf, BufMut, Bytes};
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Names that are stored as their place in this list. Only the memory of this process has them, so the order may change.
const COMMON: [HeaderName; 38] = [
    header::ACCEPT_RANGES,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
    header::AGE,
    header::ALLOW,
    header::ALT_SVC,
    header::CACHE_CONTROL,
    header::CONTENT_DISPOSITION,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_LENGTH,
    header::CONTENT_LOCATION,
    header::CONTENT_RANGE,
    header::CONTENT_SECURITY_POLICY,
    header::CONTENT_TYPE,
    header::DATE,
    header::ETAG,
    header::EXPIRES,
    header::LAST_MODIFIED,
    header::LINK,
    header::LOCATION,
    header::PRAGMA,
    header::REFERRER_POLICY,
    header::RETRY_AFTER,
    header::SERVER,
    header::SET_COOKIE,
    header::STRICT_TRANSPORT_SECURITY,
    header::TRAILER,
    header::VARY,
    header::VIA,
    header::X_CONTENT_TYPE_OPTIONS,
    header::X_FRAME_OPTIONS,
    header::X_XSS_PROTECTION,
    HeaderName::from_static("x-powered-by"),
];

/// In the place of a number: the name follows.
const SPELLED: u8 = u8::MAX;

#[derive(Debug, Clone)]
pub struct PackedHead {
    status: StatusCode,
    /// Of names: what a map has to have room for.
    names: u16,
    packed: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the response head is too large to be stored")]
pub struct HeadTooLarge;

impl PackedHead {
    pub fn pack(status: StatusCode, headers: &HeaderMap) -> Result<PackedHead, HeadTooLarge> {
        let number = |name: &HeaderName| COMMON.iter().position(|common| common == name);
        let length = |(name, value): (&HeaderName, &HeaderValue)| {
            5 + value.len() + number(name).map_or(2 + name.as_str().len(), |_| 0)
        };
        let mut packed = Vec::with_capacity(headers.iter().map(length).sum());
        for (name, value) in headers {
            match number(name) {
                Some(number) => packed.put_u8(u8::try_from(number).expect("the list is shorter than 255")),
                None => {
                    packed.put_u8(SPELLED);
                    packed.put_u16(u16::try_from(name.as_str().len()).map_err(|_| HeadTooLarge)?);
                    packed.put_slice(name.as_str().as_bytes());
                }
            }
            packed.put_u32(u32::try_from(value.len()).map_err(|_| HeadTooLarge)?);
            packed.put_slice(value.as_bytes());
        }
        let names = u16::try_from(headers.keys_len()).map_err(|_| HeadTooLarge)?;
        Ok(PackedHead { status, names, packed: packed.into() })
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The fields. Their values are parts of the packed memory, and copies of nothing.
    pub fn unpack(&self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(usize::from(self.names));
        let mut rest = self.packed.clone();
        while rest.has_remaining() {
            let name = match rest.get_u8() {
                SPELLED => {
                    let length = usize::from(rest.get_u16());
                    let name = HeaderName::from_bytes(&rest[..length]).expect("it was a name");
                    rest.advance(length);
                    name
                }
                number => COMMON[usize::from(number)].clone(),
            };
            let length = rest.get_u32() as usize;
            let value = HeaderValue::from_maybe_shared(rest.split_to(length)).expect("it was a value");
            headers.append(name, value);
        }
        headers
    }

    pub fn len(&self) -> usize {
        self.packed.len()
    }

    pub fn is_empty(&self) -> bool {
        self.packed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_comes_back_as_it_was() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("content-type", "text/plain"),
            ("x-custom", "a"),
            ("set-cookie", "a=b"),
            ("x-custom", "b"),
            ("set-cookie", "c=d"),
            ("etag", "\"\u{fc}\""),
            ("empty", ""),
        ] {
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let packed = PackedHead::pack(StatusCode::OK, &headers).unwrap();
        assert_eq!(packed.unpack(), headers);
        assert_eq!(packed.status(), StatusCode::OK);
        let customs: Vec<_> = packed.unpack().get_all("x-custom").iter().cloned().collect();
        assert_eq!(customs, ["a", "b"]);
        assert_eq!(PackedHead::pack(StatusCode::OK, &HeaderMap::new()).unwrap().unpack(), HeaderMap::new());
    }

    #[test]
    fn a_head_of_any_size_comes_back() {
        let mut many = HeaderMap::new();
        for at in 0..20_000 {
            many.append(HeaderName::try_from(format!("x-{at}")).unwrap(), HeaderValue::from_static("a"));
        }
        for _ in 0..40_000 {
            many.append("set-cookie", HeaderValue::from_static("a=b"));
        }
        assert_eq!(PackedHead::pack(StatusCode::OK, &many).unwrap().unpack(), many);
    }

    #[test]
    fn a_name_of_any_length_comes_back() {
        let name = HeaderName::from_bytes("x".repeat(60_000).as_bytes()).unwrap();
        let headers = HeaderMap::from_iter([(name, HeaderValue::from_bytes(&vec![b'v'; 100_000]).unwrap())]);
        assert_eq!(PackedHead::pack(StatusCode::OK, &headers).unwrap().unpack(), headers);
    }
}
