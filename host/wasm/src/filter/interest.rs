//! What a filter wants to be called for, as it declared in `configure`.

use http::HeaderValue;
use serde_json::Value;

use crate::filter::HookSet;
use sluice_services::events::has_events;

/// What `configure` declared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interests {
    /// Hooks that were switched off.
    pub off: HookSet,
    pub request_body: Option<BodyInterest>,
    pub response_body: Option<BodyInterest>,
    pub request_chunks: Option<MediaInterest>,
    pub response_chunks: Option<MediaInterest>,
    /// Without types: those that are known to consist of events.
    pub response_events: Option<MediaInterest>,
    /// What it needs to be granted, where that depends on its config.
    pub needs: Option<Value>,
}

/// The bodies that a filter asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodyInterest {
    /// In bytes, decoded; never over the operator's limit.
    pub max_bytes: u64,
    /// What it asked for.
    pub asked_bytes: u64,
    pub types: MediaInterest,
}

impl BodyInterest {
    /// Whether it asked for more than the operator allows. Who asks for all there can be means the limit.
    pub fn is_cut(&self) -> bool {
        self.asked_bytes > self.max_bytes && self.asked_bytes != u64::MAX
    }

    /// Whether a body of this `content-type` is wanted.
    pub fn matches(&self, content_type: Option<&HeaderValue>) -> bool {
        self.types.matches(content_type)
    }
}

/// The media types that a filter asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaInterest(
    /// Empty means any.
    pub Vec<MediaPattern>,
);

impl MediaInterest {
    /// Whether a body of this `content-type` is wanted.
    pub fn matches(&self, content_type: Option<&HeaderValue>) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let Some(value) = content_type else { return false };
        // Of its parameters nothing is read: a byte in them that is no text must not hide the body.
        let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
        let Ok(essence) = str::from_utf8(essence) else { return false };
        let Some((kind, subtype)) = essence.trim().split_once('/') else { return false };
        self.0.iter().any(|pattern| pattern.matches(kind, subtype))
    }

    /// The same for bodies of events: without types, of those that are known to have them.
    pub fn matches_events(&self, content_type: Option<&HeaderValue>) -> bool {
        match self.0.is_empty() {
            true => content_type.is_some_and(|value| has_events(value.as_bytes())),
            false => self.matches(content_type),
        }
    }
}

/// `application/json`, `application/*`, `*/*` or a suffix such as `*/*+json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaPattern {
    kind: Option<String>,
    subtype: Subtype,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Subtype {
    Any,
    Exact(String),
    /// With the `+`.
    Suffix(String),
}

impl MediaPattern {
    /// `None` when the text is not such a pattern.
    pub fn parse(text: &str) -> Option<MediaPattern> {
        let is_token =
            |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&b));
        let (kind, subtype) = text.split_once('/')?;
        let kind = match kind {
            "*" => None,
            kind if is_token(kind) => Some(kind.to_ascii_lowercase()),
            _ => return None,
        };
        let subtype = match subtype {
            "*" => Subtype::Any,
            _ => match subtype.strip_prefix('*') {
                Some(suffix) if suffix.starts_with('+') && is_token(suffix) => {
                    Subtype::Suffix(suffix.to_ascii_lowercase())
                }
                Some(_) => return None,
                None if is_token(subtype) => Subtype::Exact(subtype.to_ascii_lowercase()),
                None => return None,
            },
        };
        Some(MediaPattern { kind, subtype })
    }

    fn matches(&self, kind: &str, subtype: &str) -> bool {
        self.kind.as_ref().is_none_or(|k| k.eq_ignore_ascii_case(kind))
            && match &self.subtype {
                Subtype::Any => true,
                Subtype::Exact(exact) => exact.eq_ignore_ascii_case(subtype),
                Subtype::Suffix(suffix) => subtype
                    .len()
                    .checked_sub(suffix.len())
                    .and_then(|at| subtype.get(at..))
                    .is_some_and(|end| end.eq_ignore_ascii_case(suffix)),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wants(patterns: &[&str], content_type: &str) -> bool {
        MediaInterest(patterns.iter().map(|p| MediaPattern::parse(p).unwrap()).collect())
            .matches(Some(&HeaderValue::from_str(content_type).unwrap()))
    }

    #[test]
    fn media_types_match_by_type_subtype_and_suffix() {
        assert!(wants(&["application/json"], "Application/JSON; charset=utf-8"));
        assert!(wants(&["text/plain", "application/*"], "application/x"));
        assert!(wants(&["*/*+json"], "application/problem+JSON"));
        assert!(wants(&["*/*"], "image/png"));
        assert!(!wants(&["*/*+json"], "application/json"));
        assert!(!wants(&["application/json"], "application/jsonp"));
        assert!(!wants(&["application/json"], "nonsense"));
        let json = MediaInterest(vec![MediaPattern::parse("application/json").unwrap()]);
        let of = |bytes: &[u8]| json.matches(Some(&HeaderValue::from_bytes(bytes).unwrap()));
        assert!(of(b"application/json; charset=\xff") && of(b" application/json\t; a=\xe9"));
        assert!(!of(b"application/json\xff") && !of(b"\xff; application/json"));
        for bad in ["json", "*", "a/", "/b", "a/*b", "a b/c", ""] {
            assert_eq!(MediaPattern::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn no_types_means_any_body_even_without_a_type() {
        assert!(MediaInterest(vec![]).matches(None));
        let json = MediaPattern::parse("application/json").unwrap();
        assert!(!MediaInterest(vec![json]).matches(None));
        assert!(!MediaInterest(vec![]).matches_events(None));
        assert!(MediaInterest(vec![]).matches_events(Some(&HeaderValue::from_static("text/event-stream"))));
    }
}
