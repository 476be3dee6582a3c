//! Lists of media types, as a configuration names them: `text/html`, `text/*`, `application/*+json`, `*/*`.

/// A list of media types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaTypes(Vec<Pattern>);

/// Some media types. All in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    All,
    /// `text/*`: its main type.
    Main(Box<str>),
    /// `application/*+json`: the main type and the suffix (RFC 6839), without the plus.
    Suffix(Box<str>, Box<str>),
    Exact(Box<str>),
}

impl Pattern {
    /// None if it is no media type and no pattern of one.
    pub fn parse(text: &str) -> Option<Pattern> {
        let text = text.to_ascii_lowercase();
        let (main, sub) = text.split_once('/')?;
        let is_name = |name: &str| !name.is_empty() && name.bytes().all(is_token);
        match (main, sub) {
            ("*", "*") => Some(Pattern::All),
            (main, _) if !is_name(main) || main.contains('*') => None,
            (main, "*") => Some(Pattern::Main(main.into())),
            (main, sub) => match sub.strip_prefix("*+") {
                Some(suffix) => {
                    (is_name(suffix) && !suffix.contains('*')).then(|| Pattern::Suffix(main.into(), suffix.into()))
                }
                None => (is_name(sub) && !sub.contains('*')).then(|| Pattern::Exact(text.as_str().into())),
            },
        }
    }

    fn matches(&self, essence: &[u8]) -> bool {
        let slash = || essence.iter().position(|byte| *byte == b'/');
        match self {
            Pattern::All => true,
            Pattern::Exact(whole) => whole.as_bytes().eq_ignore_ascii_case(essence),
            Pattern::Main(main) => slash().is_some_and(|slash| main.as_bytes().eq_ignore_ascii_case(&essence[..slash])),
            Pattern::Suffix(main, suffix) => {
                let plus = essence.iter().rposition(|byte| *byte == b'+');
                slash().zip(plus).is_some_and(|(slash, plus)| {
                    slash < plus
                        && main.as_bytes().eq_ignore_ascii_case(&essence[..slash])
                        && suffix.as_bytes().eq_ignore_ascii_case(&essence[plus + 1..])
                })
            }
        }
    }
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

impl MediaTypes {
    pub fn new(patterns: Vec<Pattern>) -> MediaTypes {
        MediaTypes(patterns)
    }

    /// Whether the value of a `Content-Type` is one of them. Its parameters do not count.
    pub fn has(&self, content_type: &[u8]) -> bool {
        let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        self.0.iter().any(|pattern| pattern.matches(essence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_found_by_name_main_type_and_suffix() {
        for (pattern, yes, no) in [
            (
                "text/html",
                &["text/html", "Text/HTML; charset=utf-8", " text/html ;q"][..],
                &["text/htm", "text", ""][..],
            ),
            ("text/*", &["text/plain", "TEXT/x-y;a=b"], &["textual/plain", "text", "application/text"]),
            (
                "application/*+json",
                &["application/problem+json", "application/a+b+json;v=1"],
                &["application/json", "image/svg+json", "application/+jsonx", "application+json"],
            ),
            ("*/*", &["a/b", ""], &[]),
        ] {
            let types = MediaTypes::new(vec![Pattern::parse(pattern).unwrap()]);
            for one in yes {
                assert!(types.has(one.as_bytes()), "{pattern} {one}");
            }
            for one in no {
                assert!(!types.has(one.as_bytes()), "{pattern} {one}");
            }
        }
        for wrong in
            ["", "text", "text/", "/html", "*/html", "te xt/html", "text/*+", "text/h*", "text/html; a=b", "t*/*"]
        {
            assert_eq!(Pattern::parse(wrong), None, "{wrong}");
        }
    }
}
