//! The one form of a path, or why it has none.

use std::borrow::Cow;

use super::target::TargetError;

/// What a byte of a path means for normalisation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Stays as it is.
    Plain,
    /// `/`, after which a dot segment can start.
    Slash,
    Percent,
    /// Not allowed by RFC 3986 but sent by browsers; percent-encoded.
    Encode,
    Refuse,
}

const CLASSES: [Class; 256] = {
    let mut classes = [Class::Encode; 256];
    let mut i = 0;
    while i < 256 {
        // RFC 3986 §3.3: pchar = unreserved / pct-encoded / sub-delims / ":" / "@"
        classes[i] = match i as u8 {
            b'/' => Class::Slash,
            b'%' => Class::Percent,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => Class::Plain,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@' => Class::Plain,
            0..=0x20 | 0x7f | b'#' | b'?' | b'\\' => Class::Refuse,
            _ => Class::Encode,
        };
        i += 1;
    }
    classes
};

const fn is_unreserved(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~')
}

/// Brings a path into its one form: dot segments removed, also encoded ones (RFC 3986 §5.2.4); encoded unreserved characters decoded and hexadecimal
/// digits in upper case (RFC 3986 §6.2.2); characters that have to be encoded encoded. `%2F` stays as it is and separates nothing;
/// empty segments stay. Refused: bad percent-encodings, `%00`, a backslash, controls, a fragment, and a dot segment beside
/// an encoded separator (`..%2F`), which some servers decode and then walk up.
///
/// Borrowed when nothing had to be changed.
pub fn normalise_path(path: &str) -> Result<Cow<'_, str>, TargetError> {
    let bytes = path.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err(TargetError::RelativePath);
    }
    for (at, &byte) in bytes.iter().enumerate() {
        match CLASSES[byte as usize] {
            Class::Plain => {}
            Class::Slash if bytes.get(at + 1) != Some(&b'.') => {}
            Class::Slash | Class::Percent | Class::Encode | Class::Refuse => {
                let changed = rewrite_path(bytes)?;
                return Ok(if changed == path { Cow::Borrowed(path) } else { Cow::Owned(changed) });
            }
        }
    }
    Ok(Cow::Borrowed(path))
}

fn rewrite_path(bytes: &[u8]) -> Result<String, TargetError> {
    // Decode and encode first: only then is a dot segment seen for what it is.
    let mut text = String::with_capacity(bytes.len() + 8);
    let mut separators = false;
    let mut rest = bytes;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match CLASSES[byte as usize] {
            Class::Plain | Class::Slash => text.push(byte as char),
            Class::Refuse => return Err(TargetError::PathCharacter),
            Class::Encode => push_encoded(&mut text, byte),
            Class::Percent => {
                let decoded = decode_pair(rest).ok_or(TargetError::PercentEncoding)?;
                rest = &rest[2..];
                match decoded {
                    0 => return Err(TargetError::ZeroByte),
                    b if is_unreserved(b) => text.push(b as char),
                    b => {
                        separators |= matches!(b, b'/' | b'\\');
                        push_encoded(&mut text, b);
                    }
                }
            }
        }
    }
    if separators && text.split('/').any(has_hidden_dots) {
        return Err(TargetError::EncodedTraversal);
    }
    Ok(remove_dot_segments(&text))
}

/// Whether a segment would contain `.` or `..` as a segment, were its encoded separators decoded.
fn has_hidden_dots(segment: &str) -> bool {
    let mut parts = segment.split("%2F").flat_map(|part| part.split("%5C")).peekable();
    let first = parts.next();
    parts.peek().is_some() && first.into_iter().chain(parts).any(|part| part == "." || part == "..")
}

/// RFC 3986 §5.2.4 for a path that starts with a slash.
fn remove_dot_segments(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    out.truncate(out.rfind('/').unwrap_or(0));
                }
                // A dot segment at the end leaves the slash of the folder.
                if last {
                    out.push('/');
                }
            }
            _ => {
                out.push('/');
                out.push_str(segment);
            }
        }
    }
    out
}

/// Whether a path has a segment that is `.` or `..`, also with its dots encoded.
pub(crate) fn has_dot_segments(path: &str) -> bool {
    let is_dot = |segment: &str| {
        let bytes = segment.as_bytes();
        let mut dots = 0;
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            at += match rest {
                [b'.', ..] => 1,
                [b'%', b'2', b'e' | b'E', ..] => 3,
                _ => return false,
            };
            dots += 1;
        }
        matches!(dots, 1 | 2)
    };
    path.split('/').any(is_dot)
}

/// Appends `%XX`.
pub(crate) fn push_encoded(text: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    text.push('%');
    text.push(DIGITS[usize::from(byte >> 4)] as char);
    text.push(DIGITS[usize::from(byte & 15)] as char);
}

/// The byte that two hexadecimal digits stand for.
pub(crate) fn decode_pair(bytes: &[u8]) -> Option<u8> {
    let digit = |b: &u8| (*b as char).to_digit(16);
    let value = digit(bytes.first()?)? * 16 + digit(bytes.get(1)?)?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_one_form() {
        use TargetError::*;
        for (path, want) in [
            ("/", Ok("/")),
            ("/a/b", Ok("/a/b")),
            ("/.well-known/x", Ok("/.well-known/x")),
            ("/a/./b", Ok("/a/b")),
            ("/a/../b", Ok("/b")),
            ("/a/b/..", Ok("/a/")),
            ("/a/b/.", Ok("/a/b/")),
            ("/../../x", Ok("/x")),
            ("/..", Ok("/")),
            ("/a/%2e%2E/b", Ok("/b")),
            ("/a/.%2e", Ok("/")),
            ("/a//b/", Ok("/a//b/")),
            ("/a//../b", Ok("/a/b")),
            ("/%7Euser/%41", Ok("/~user/A")),
            ("/a%2fb", Ok("/a%2Fb")),
            ("/a%2Fb", Ok("/a%2Fb")),
            ("/a%20b%c3%a4", Ok("/a%20b%C3%A4")),
            ("/ä|\"", Ok("/%C3%A4%7C%22")),
            ("/a;v=1/...", Ok("/a;v=1/...")),
            ("/%2525", Ok("/%2525")),
            ("/a..%2Fb", Ok("/a..%2Fb")),
            ("/..%2fadmin", Err(EncodedTraversal)),
            ("/a%2f%2e%2e/b", Err(EncodedTraversal)),
            ("/..%5cadmin", Err(EncodedTraversal)),
            ("/a%00", Err(ZeroByte)),
            ("/a%0", Err(PercentEncoding)),
            ("/a%", Err(PercentEncoding)),
            ("/a%zz", Err(PercentEncoding)),
            ("/a\\b", Err(PathCharacter)),
            ("/a#b", Err(PathCharacter)),
            ("/a b", Err(PathCharacter)),
            ("a", Err(RelativePath)),
            ("", Err(RelativePath)),
        ] {
            assert_eq!(normalise_path(path).as_deref().map_err(|e| *e), want, "{path}");
        }
        assert!(matches!(normalise_path("/a%2Fb/.x"), Ok(Cow::Borrowed(_))));
    }

    #[test]
    fn normalising_twice_changes_nothing() {
        for path in ["/%252e%252e/x", "/a/%2e/%2E%2e/b", "/%25%32%65", "/a/.%2e/.", "/%c3%28", "//../x"] {
            let once = normalise_path(path).unwrap().into_owned();
            assert_eq!(normalise_path(&once).unwrap(), once, "{path}");
        }
    }
}
