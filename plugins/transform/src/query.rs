//! Edits of a query that leave every other pair as the client wrote it.

/// `value` as a query or path component (RFC 3986 §2.3: all but the unreserved is encoded).
pub(crate) fn encode(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            for digit in [byte >> 4, byte & 15] {
                out.push(char::from(b"0123456789ABCDEF"[usize::from(digit)]));
            }
        }
    }
    out
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
                *pair = format!("{}{}", encode(to), &pair[name.len()..]);
                self.changed = true;
            }
        }
    }

    /// Puts one pair in the place of the first of that name, or at the end.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        let pair = format!("{}={}", encode(name), encode(value));
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
        self.pairs.push(format!("{}={}", encode(name), encode(value)));
        self.changed = true;
    }

    pub(crate) fn finish(self) -> Option<String> {
        (!self.pairs.is_empty()).then(|| self.pairs.join("&"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_only_what_it_names() {
        let mut query = Query::parse(Some("a=1&b=%20x&a%5B%5D=2&flag&&a=3"));
        query.set("a", "x y&");
        query.remove("flag");
        query.rename("a[]", "list");
        query.add("new", "ü");
        assert_eq!(query.finish().as_deref(), Some("a=x%20y%26&b=%20x&list=2&&new=%C3%BC"));
        let mut query = Query::parse(Some("a=1"));
        query.remove("b");
        assert!(!query.changed);
        query.remove("a");
        assert_eq!(query.finish(), None);
    }
}
