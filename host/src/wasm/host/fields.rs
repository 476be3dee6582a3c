//! Header fields as filters see and set them, for requests, responses and trailers alike.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::super::bindings::{Error, Field};
use super::super::grants::HeaderGrant;
use super::super::state::CallState;
use super::invalid;
use crate::exchange::HeaderEdit;
use crate::http::headers::is_framing;

/// Bytes of one value that a filter sets.
const MAX_VALUE: usize = 64 << 10;
/// Names that a message can have once a filter adds one, and values that one name can have.
const MAX_FIELDS: usize = 256;
/// Bytes of names and values that a filter sets in one call.
const MAX_SET: usize = 256 << 10;
/// What a field is charged beside its name and value, as in RFC 9113 §6.5.2.
const FIELD_BYTES: usize = 32;

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

/// Refuses a field that would make the map too large. A map panics at some ten thousand names, and what it holds is memory of
/// the gateway.
pub(super) fn check_room(map: &HeaderMap, name: &HeaderName, edit: &HeaderEdit) -> Result<(), Error> {
    let is_full = match edit {
        HeaderEdit::Remove => false,
        _ if !map.contains_key(name) => map.keys_len() >= MAX_FIELDS,
        HeaderEdit::Append(_) => map.get_all(name).iter().count() >= MAX_FIELDS,
        HeaderEdit::Set(_) => false,
    };
    if is_full { Err(Error::TooLarge(MAX_FIELDS as u64)) } else { Ok(()) }
}

impl CallState {
    /// Counts what the call sets.
    pub(super) fn charge_field(&mut self, name: &HeaderName, edit: &HeaderEdit) -> Result<(), Error> {
        let (HeaderEdit::Set(value) | HeaderEdit::Append(value)) = edit else { return Ok(()) };
        let total = self.field_bytes + name.as_str().len() + value.len() + FIELD_BYTES;
        if total > MAX_SET {
            return Err(Error::TooLarge(MAX_SET as u64));
        }
        self.field_bytes = total;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_takes_so_many_names_and_values() {
        let one = || HeaderValue::from_static("1");
        let name = |number: usize| HeaderName::try_from(format!("x-{number}")).unwrap();
        let mut map = HeaderMap::new();
        for number in 0..MAX_FIELDS {
            assert!(check_room(&map, &name(number), &HeaderEdit::Append(one())).is_ok());
            map.append(name(number), one());
        }
        let full =
            |map: &HeaderMap, number, edit| matches!(check_room(map, &name(number), &edit), Err(Error::TooLarge(256)));
        assert!(full(&map, MAX_FIELDS, HeaderEdit::Append(one())) && full(&map, MAX_FIELDS, HeaderEdit::Set(one())));
        assert!(!full(&map, MAX_FIELDS, HeaderEdit::Remove) && !full(&map, 7, HeaderEdit::Set(one())));
        while map.get_all(name(7)).iter().count() < MAX_FIELDS {
            assert!(!full(&map, 7, HeaderEdit::Append(one())));
            map.append(name(7), one());
        }
        assert!(full(&map, 7, HeaderEdit::Append(one())) && !full(&map, 7, HeaderEdit::Set(one())));
    }
}
