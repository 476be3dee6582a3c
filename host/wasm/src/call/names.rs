//! Names of header fields as guests write them, parsed and checked against the grants once: a filter names the same few again and
//! again.

use http::HeaderName;
use http::header::HOST;

use crate::filter::Grants;
use sluice_http::http::headers::is_framing;
use sluice_services::log_limit;

/// How many names are remembered at a time: two for each of so many places, so that no two drive each other out. A power of two.
const PLACES: usize = 32;
/// Longer names have a place of their own behind these: of them only the last two are remembered.
const MAX_LENGTH: usize = 64;

/// A name, and what the filter may do with the field.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) name: HeaderName,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// Set by the gateway alone.
    pub(crate) framing: bool,
}

/// The names that an instance has used. What it remembers depends on nothing but the name and the filter's grants.
#[derive(Debug)]
pub(crate) struct Names([[Option<Box<Known>>; 2]; PLACES + 1]);

impl Default for Names {
    fn default() -> Names {
        Names([const { [None, None] }; PLACES + 1])
    }
}

impl Names {
    /// The name of this text, or why it is none.
    #[inline]
    pub(crate) fn find(&mut self, text: &str, grants: &Grants) -> Result<&Known, String> {
        let place = &mut self.0[place(text.as_bytes())];
        if !matches!(place, [Some(first), _] if first.is(text)) {
            bring_forward(place, text, grants)?;
        }
        place[0].as_deref().ok_or_else(|| "the name is not where it was put".to_owned())
    }
}

/// Puts the name of this text first in its place, where another one is that was used last.
#[inline(never)]
fn bring_forward(place: &mut [Option<Box<Known>>; 2], text: &str, grants: &Grants) -> Result<(), String> {
    let [first, second] = place;
    let known = second.take_if(|known| known.is(text));
    *second = first.take();
    *first = Some(match known {
        Some(known) => known,
        None => Box::new(Known::parse(text, grants)?),
    });
    Ok(())
}

impl Known {
    #[inline]
    fn is(&self, text: &str) -> bool {
        let name = self.name.as_str();
        // Names have no case (RFC 9110 §5.1), and the parsed one is in lower case, as nearly all are that guests write.
        name == text || name.eq_ignore_ascii_case(text)
    }

    fn parse(text: &str, grants: &Grants) -> Result<Known, String> {
        let name = HeaderName::from_bytes(text.as_bytes())
            .map_err(|_| format!("`{}` is not a header name", log_limit::cut(text)))?;
        let (readable, writable) = (is_readable(&name, grants), grants.write.allows(&name));
        Ok(Known { readable, writable, framing: is_framing(&name), name })
    }
}

/// `host` is never seen: the authority of the request tells more, and may have another source (RFC 9113 §8.3.1). In a response it means
/// nothing (RFC 9110 §7.2).
pub(crate) fn is_readable(name: &HeaderName, grants: &Grants) -> bool {
    *name != HOST && grants.read.allows(name)
}

/// Where a name is remembered, whatever its case.
#[inline]
fn place(text: &[u8]) -> usize {
    if text.len() > MAX_LENGTH {
        return PLACES;
    }
    let byte = |at: usize| usize::from(text.get(at).copied().unwrap_or_default() | 0x20);
    (text.len() + byte(0) + 5 * byte(text.len() / 2) + 3 * byte(text.len().wrapping_sub(1))) % PLACES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_same_however_often_it_is_asked_for() {
        let grants = Grants::default();
        let mut names = Names::default();
        for _ in 0..2 {
            for number in 0..200 {
                let text = format!("X-Name-{number}");
                let known = names.find(&text, &grants).unwrap();
                assert_eq!(known.name.as_str(), text.to_lowercase());
                assert!(known.readable && known.writable && !known.framing);
            }
            assert_eq!(names.find("x-name-7", &grants).unwrap().name, "x-name-7");
            let secret = names.find("Authorization", &grants).unwrap();
            assert!(!secret.readable && !secret.writable && !secret.framing);
            let host = names.find("HOST", &grants).unwrap();
            assert!(host.framing && !host.readable);
            let long = "n".repeat(1000);
            assert_eq!(names.find(&long, &grants).unwrap().name.as_str(), long);
            for bad in ["", "a b", "a:", "\u{e4}"] {
                let why = names.find(bad, &grants).unwrap_err();
                assert_eq!(why, format!("`{bad}` is not a header name"));
            }
        }
    }
}
