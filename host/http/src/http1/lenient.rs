//! First lines that RFC 9112 does not allow and that have one meaning only. They are brought into the form that it wants and read again.
//! Nothing here is on the way of a head that is as it should be.

use super::lines::first;
use crate::http::path::push_encoded;

/// A request head with its target percent-encoded where RFC 3986 wants it, and its version as this gateway speaks it. `None`: there is
/// nothing to change.
pub(super) fn request(head: &[u8]) -> Option<Vec<u8>> {
    let line = first(head)?;
    let mut words = line.splitn(4, |byte| *byte == b' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    if words.next().is_some() {
        return None;
    }
    let (new_target, new_version) = (encoded_target(target), spoken(version));
    if new_target.is_none() && new_version.is_none() {
        return None;
    }
    let target = new_target.as_deref().map_or(target, str::as_bytes);
    let rest = head.get(line.len()..).unwrap_or_default();
    Some([method, b" ", target, b" ", new_version.as_deref().unwrap_or(version), rest].concat())
}

/// The same for a response, where only the version can be changed.
pub(super) fn response(head: &[u8]) -> Option<Vec<u8>> {
    // Most are, and are told by one byte.
    if matches!(head.get(7), Some(b'0' | b'1')) {
        return None;
    }
    spoken(head)
}

/// RFC 9110 §2.5: a message of a higher minor version is processed as one of the highest that is known.
fn spoken(text: &[u8]) -> Option<Vec<u8>> {
    match text {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9', rest @ ..]
            if !rest.first().is_some_and(u8::is_ascii_digit) =>
        {
            Some([b"HTTP/1.1", rest].concat())
        }
        _ => None,
    }
}

/// Encodes what clients send as it is and other servers take: `"`, `<` and `>`, a backtick in the path, and bytes that are no UTF-8. Nothing
/// changes for who decodes it. Spaces, controls and fragments stay what they are: errors. `None`: there is nothing to change.
pub fn encoded_target(target: &[u8]) -> Option<String> {
    let is_text = std::str::from_utf8(target).is_ok();
    let mut in_query = false;
    let mut changed = false;
    let mut text = String::with_capacity(target.len() + 16);
    for chunk in target.utf8_chunks() {
        for c in chunk.valid().chars() {
            in_query |= c == '?';
            match c {
                '<' | '>' => {}
                '"' if in_query => {}
                '`' if !in_query => {}
                _ if !is_text && !c.is_ascii() => {}
                _ => {
                    text.push(c);
                    continue;
                }
            }
            changed = true;
            c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| push_encoded(&mut text, byte));
        }
        chunk.invalid().iter().for_each(|byte| push_encoded(&mut text, *byte));
        changed |= !chunk.invalid().is_empty();
    }
    changed.then_some(text)
}
