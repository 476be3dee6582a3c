//! Entity tags and how they compare (RFC 9110 §8.8.3).

/// An entity tag as it was sent. Origins compare the text, and so does this cache: a tag without quotes is malformed, but a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntityTag<'a> {
    weak: bool,
    opaque: &'a [u8],
}

impl<'a> EntityTag<'a> {
    /// One tag. `None` for an empty value and for what would be two members of a list.
    pub fn parse(value: &'a [u8]) -> Option<EntityTag<'a>> {
        let value = value.trim_ascii();
        let (weak, opaque) = match value {
            [b'W' | b'w', b'/', rest @ ..] => (true, rest),
            _ => (false, value),
        };
        let inner = match opaque {
            [b'"', inner @ .., b'"'] => inner,
            _ if opaque.contains(&b',') => return None,
            _ => opaque,
        };
        (!opaque.is_empty() && !inner.contains(&b'"')).then_some(EntityTag { weak, opaque })
    }

    pub fn is_strong(&self) -> bool {
        !self.weak
    }

    /// RFC 9110 §8.8.3.2: for ranges and for `If-Match`.
    pub fn matches_strongly(&self, other: &EntityTag) -> bool {
        !self.weak && !other.weak && self.opaque == other.opaque
    }

    /// RFC 9110 §8.8.3.2: for `If-None-Match`.
    pub fn matches_weakly(&self, other: &EntityTag) -> bool {
        self.opaque == other.opaque
    }
}

/// The tags of a list such as `If-None-Match`. A comma can stand inside the quotes of a tag.
pub fn list(value: &[u8]) -> impl Iterator<Item = EntityTag<'_>> {
    Members { rest: value }.filter_map(EntityTag::parse)
}

struct Members<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Members<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let mut inside = false;
        let end = self.rest.iter().position(|byte| {
            inside ^= *byte == b'"';
            *byte == b',' && !inside
        });
        let (member, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest.get(1..).unwrap_or_default();
        Some(member)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_compare_strongly_and_weakly() {
        // RFC 9110 §8.8.3.2, its table first.
        let table = [
            ("W/\"1\"", "W/\"1\"", false, true),
            ("W/\"1\"", "W/\"2\"", false, false),
            ("W/\"1\"", "\"1\"", false, true),
            ("\"1\"", "\"1\"", true, true),
            ("abc", "abc", true, true),
            ("abc", "\"abc\"", false, false),
            ("w/\"1\"", "W/\"1\"", false, true),
            ("\"a,b\"", "\"a,b\"", true, true),
        ];
        for (one, other, strong, weak) in table {
            let tag = |text: &'static str| EntityTag::parse(text.as_bytes()).unwrap();
            assert_eq!(tag(one).matches_strongly(&tag(other)), strong, "{one} {other}");
            assert_eq!(tag(one).matches_weakly(&tag(other)), weak, "{one} {other}");
        }
        for none in ["", "W/", "a,b", "\"a\"b\"", "\"a"] {
            assert_eq!(EntityTag::parse(none.as_bytes()), None, "{none}");
        }
    }

    #[test]
    fn lists_are_split_outside_of_quotes() {
        let count = |value: &str| list(value.as_bytes()).count();
        assert_eq!(count("\"a\", \"b,c\" ,W/\"d\""), 3);
        assert_eq!(count("a, b"), 2);
        assert_eq!(count(", ,"), 0);
        assert_eq!(count("\"a\", \"b"), 1);
    }
}
