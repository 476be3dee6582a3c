//! Header fields as filters see and set them, for requests, responses and trailers alike.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::super::bindings::{Error, Field};
use super::super::grants::HeaderGrant;
use super::invalid;
use crate::http::headers::is_framing;

/// Bytes of one value that a filter sets.
const MAX_VALUE: usize = 64 << 10;

fn parse(name: &str) -> Result<HeaderName, Error> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid(format!("`{name}` is not a header name")))
}

fn text(value: &HeaderValue) -> Option<String> {
    std::str::from_utf8(value.as_bytes()).ok().map(str::to_owned)
}

pub(super) fn first(map: &HeaderMap, grant: &HeaderGrant, name: &str) -> Result<Option<String>, Error> {
    let name = parse(name)?;
    if !grant.allows(&name) {
        return Ok(None);
    }
    Ok(map.get_all(&name).iter().find_map(text))
}

pub(super) fn texts(map: &HeaderMap, grant: &HeaderGrant, name: &str) -> Result<Vec<String>, Error> {
    let name = parse(name)?;
    if !grant.allows(&name) {
        return Ok(Vec::new());
    }
    Ok(map.get_all(&name).iter().filter_map(text).collect())
}

pub(super) fn bytes(map: &HeaderMap, grant: &HeaderGrant, name: &str) -> Result<Vec<Vec<u8>>, Error> {
    let name = parse(name)?;
    if !grant.allows(&name) {
        return Ok(Vec::new());
    }
    Ok(map.get_all(&name).iter().map(|v| v.as_bytes().to_vec()).collect())
}

pub(super) fn all(map: &HeaderMap, grant: &HeaderGrant) -> Vec<Field> {
    map.iter()
        .filter(|(name, _)| grant.allows(name))
        .filter_map(|(name, value)| Some(Field { name: name.as_str().to_owned(), value: text(value)? }))
        .collect()
}

/// The name of a field that the filter may set.
pub(super) fn writable(grant: &HeaderGrant, name: &str) -> Result<HeaderName, Error> {
    let name = parse(name)?;
    if is_framing(&name) {
        return Err(invalid(format!("`{name}` frames or routes the message and is set by the gateway")));
    }
    if !grant.allows(&name) {
        return Err(Error::NotGranted(format!("grants.write_headers = [\"{name}\"]")));
    }
    Ok(name)
}

/// A value that may be sent: RFC 9110 §5.5.
pub(super) fn value(bytes: &[u8]) -> Result<HeaderValue, Error> {
    if bytes.len() > MAX_VALUE {
        return Err(Error::TooLarge(MAX_VALUE as u64));
    }
    // RFC 9110 §5.5: white space around a value is no part of it.
    HeaderValue::from_bytes(bytes.trim_ascii()).map_err(|_| invalid("the value has a control character"))
}
