//! Field lines into a `HeaderMap`: names and values that share the bytes of the head, and what is wrong with a line.

use std::cell::RefCell;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use httparse::Header;

use super::HeadError;

/// A map with room for a number of fields.
pub(super) fn map(fields: usize) -> Result<HeaderMap, HeadError> {
    HeaderMap::try_with_capacity(fields).map_err(|_| HeadError::TooManyFields)
}

/// How many names a worker remembers, each at a place that its text decides.
const PLACES: usize = 64;
/// Longer ones are not remembered.
const LONGEST: usize = 32;

/// A name as a peer wrote it, and what it is: the peers of a worker write the same few in the same few ways.
struct Known {
    text: [u8; LONGEST],
    length: usize,
    name: HeaderName,
}

thread_local! {
    static KNOWN: RefCell<[Option<Known>; PLACES]> = const { RefCell::new([const { None }; PLACES]) };
}

pub(super) fn name(field: &Header<'_>) -> Result<HeaderName, HeadError> {
    let text = field.name.as_bytes();
    let parse = || HeaderName::from_bytes(text).map_err(|_| HeadError::Malformed("a field name is not valid"));
    let (Some(first), Some(middle), Some(last)) = (text.first(), text.get(text.len() / 2), text.last()) else {
        return parse();
    };
    let marks = u32::from_le_bytes([*first, *middle, *last, text.len() as u8]);
    // The high bits of this product depend on all of them.
    let place = (marks.wrapping_mul(0x9e37_79b1) >> 26) as usize % PLACES;
    KNOWN.with_borrow_mut(|known| {
        let slot = &mut known[place];
        if let Some(known) = slot
            && known.text.get(..known.length) == Some(text)
        {
            return Ok(known.name.clone());
        }
        let name = parse()?;
        let mut copy = [0; LONGEST];
        if let Some(start) = copy.get_mut(..text.len()) {
            start.copy_from_slice(text);
            *slot = Some(Known { text: copy, length: text.len(), name: name.clone() });
        }
        Ok(name)
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remembered_name_is_the_one_that_is_written() {
        let long = "L".repeat(LONGEST + 1);
        let texts = ["Host", "host", "HOST", "X-A-1", "x-a-1", "X-B-1", &long, &long[1..], "\u{e4}", ""];
        for text in texts.iter().chain(texts.iter().rev()) {
            let read = name(&Header { name: text, value: b"" });
            assert_eq!(read.ok(), HeaderName::from_bytes(text.as_bytes()).ok(), "{text}");
        }
    }
}
