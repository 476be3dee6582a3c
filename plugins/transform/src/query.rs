//! Edits of a query that leave every other pair as the client wrote it.

/// `value` as a query or path component (RFC 3986 §2.3: all but the unreserved is encoded).
pub(crate) fn encode(value: &[u8]) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value {
        push(&mut out, *byte, byte.is_ascii_alphanumeric() || b"-._~".contains(byte));
    }
    out
}

fn push(out: &mut String, byte: u8, as_it_is: bool) {
    if as_it_is {
        out.push(char::from(byte));
    } else {
        out.push('%');
        for digit in [byte >> 4, byte & 15] {
            out.push(char::from(b"0123456789ABCDEF"[usize::from(digit)]));
        }
    }
}

/// A query as it may be sent: what a client should have encoded (RFC 3986 §3.4, and the brackets that many leave as they are) is encoded, and
/// everything else stays.
fn tidy(query: &str) -> String {
    let bytes = query.as_bytes();
    let mut out = String::with_capacity(query.len());
    for (at, byte) in bytes.iter().enumerate() {
        let fits = match byte {
            b'%' => bytes.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)),
            _ => byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?[]".contains(byte),
        };
        push(&mut out, *byte, fits);
    }
    out
}

/// Whether a path has a dot segment, also one that shows only when its encoded separators are decoded (RFC 3986 §5.2.4): it would lead out of
/// the path that it was put into.
pub(crate) fn has_dot_segment(path: &str) -> bool {
    let bytes = path.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let pair = bytes.get(at + 1..at + 3).filter(|_| *byte == b'%');
        let code = pair.and_then(|hex| u8::from_str_radix(str::from_utf8(hex).ok()?, 16).ok());
        decoded.push(code.unwrap_or(*byte));
        at += if code.is_some() { 3 } else { 1 };
    }
    decoded.split(|byte| matches!(byte, b'/' | b'\\')).any(|segment| matches!(segment, b"." | b".."))
}

/// Whether a name as written, with `%` codes and `+` for a space, is `name`.
fn is_named(written: &str, name: &str) -> bool {
    let mut bytes = written.bytes();
    let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
    let decoded = std::iter::from_fn(|| {
        Some(match bytes.next()? {
            b'+' => b' ',
            b'%' => {
                let mut ahead = bytes.clone();
                match (digit(ahead.next()), digit(ahead.next())) {
                    (Some(high), Some(low)) => {
                        bytes = ahead;
                        (high * 16 + low) as u8
                    }
                    _ => b'%',
                }
            }
            byte => byte,
        })
    });
    decoded.eq(name.bytes())
}

/// A query while it is edited.
pub(crate) struct Query {
    pairs: Vec<String>,
    pub(crate) changed: bool,
}

impl Query {
    pub(crate) fn parse(query: Option<&str>) -> Self {
        Self {
            pairs: query.map(|query| query.split('&').map(str::to_owned).collect()).unwrap_or_default(),
            changed: false,
        }
    }

    fn name(pair: &str) -> &str {
        pair.split_once('=').map_or(pair, |(name, _)| name)
    }

    pub(crate) fn remove(&mut self, name: &str) {
        let before = self.pairs.len();
        self.pairs.retain(|pair| !is_named(Self::name(pair), name));
        self.changed |= self.pairs.len() != before;
    }

    pub(crate) fn rename(&mut self, from: &str, to: &str) {
        for pair in &mut self.pairs {
            let name = Self::name(pair);
            if is_named(name, from) {
                *pair = format!("{}{}", encode(to.as_bytes()), &pair[name.len()..]);
                self.changed = true;
            }
        }
    }

    /// Puts one pair in the place of the first of that name, or at the end. Values are encoded already.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        let pair = format!("{}={value}", encode(name.as_bytes()));
        let place = self.pairs.iter().position(|pair| is_named(Self::name(pair), name));
        match place {
            Some(place) => {
                self.pairs[place] = pair;
                let mut index = 0;
                self.pairs.retain(|pair| {
                    index += 1;
                    index - 1 <= place || !is_named(Self::name(pair), name)
                });
            }
            None => self.pairs.push(pair),
        }
        self.changed = true;
    }

    pub(crate) fn add(&mut self, name: &str, value: &str) {
        self.pairs.push(format!("{}={value}", encode(name.as_bytes())));
        self.changed = true;
    }

    pub(crate) fn finish(self) -> Option<String> {
        (!self.pairs.is_empty()).then(|| tidy(&self.pairs.join("&")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_only_what_it_names() {
        let mut query = Query::parse(Some("a=1&b=%20x&a%5B%5D=2&flag&&a=3"));
        query.set("a", "x%20y%26");
        query.remove("flag");
        query.rename("a[]", "list");
        query.add("new", &encode("ü".as_bytes()));
        assert_eq!(query.finish().as_deref(), Some("a=x%20y%26&b=%20x&list=2&&new=%C3%BC"));
        let mut query = Query::parse(Some("f={\"a\":1}&b=<x>&c=%zz%4"));
        query.remove("b");
        assert_eq!(query.finish().as_deref(), Some("f=%7B%22a%22:1%7D&c=%25zz%254"));
        let mut query = Query::parse(Some("a=1"));
        query.remove("b");
        assert!(!query.changed);
        query.remove("a");
        assert_eq!(query.finish(), None);
    }

    #[test]
    fn dot_segments_however_they_are_written() {
        for path in ["/a/..", "/./a", "/a/%2e%2E/b", "/a/..%2fb", "/a%5C..", "/%2e", "/a\\..\\b"] {
            assert!(has_dot_segment(path), "{path}");
        }
        for path in ["/", "/a/...", "/a..b/.c", "/..a%2Fb", "/%2", "/%é"] {
            assert!(!has_dot_segment(path), "{path}");
        }
    }
}
