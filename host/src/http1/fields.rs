//! Field lines into a `HeaderMap`: names and values that share the bytes of the head, and what is wrong with a line.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use httparse::Header;

use super::HeadError;

/// A map with room for a number of fields.
pub(super) fn map(fields: usize) -> Result<HeaderMap, HeadError> {
    HeaderMap::try_with_capacity(fields).map_err(|_| HeadError::TooManyFields)
}

pub(super) fn name(field: &Header<'_>) -> Result<HeaderName, HeadError> {
    HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| HeadError::Malformed("a field name is not valid"))
}

/// `bytes` are those of `field.value`, in whatever form is cheapest to the caller.
pub(super) fn value(bytes: impl AsRef<[u8]> + 'static) -> Result<HeaderValue, HeadError> {
    HeaderValue::from_maybe_shared(bytes).map_err(|_| HeadError::Malformed("a field value is not valid"))
}

pub(super) fn append(map: &mut HeaderMap, name: HeaderName, value: HeaderValue) -> Result<(), HeadError> {
    map.try_append(name, value).map(|_| ()).map_err(|_| HeadError::TooManyFields)
}

/// Says what the parser disliked about the first bad line of a field section (RFC 9112 §5).
#[cold]
pub(super) fn explain(section: &[u8]) -> HeadError {
    HeadError::Malformed(section.split(|b| *b == b'\n').find_map(wrong_with).unwrap_or("a field line is not valid"))
}

fn wrong_with(line: &[u8]) -> Option<&'static str> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if matches!(line.first()?, b' ' | b'\t') {
        // RFC 9112 §5.2
        return Some("a folded field line");
    }
    let Some(colon) = memchr::memchr(b':', line) else {
        return Some("a field line without a colon");
    };
    let (name, value) = line.split_at(colon);
    if name.is_empty() {
        Some("a field line without a name")
    } else if name.last().is_some_and(|b| matches!(b, b' ' | b'\t')) {
        // RFC 9112 §5.1
        Some("white space before the colon of a field")
    } else if HeaderName::from_bytes(name).is_err() {
        Some("a field name is not valid")
    } else if value.contains(&b'\r') {
        Some("a carriage return in a field value")
    } else if HeaderValue::from_bytes(value).is_err() {
        Some("a control character in a field value")
    } else {
        None
    }
}
