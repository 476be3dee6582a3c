//! Host and path patterns as they are written in a route.

use std::fmt;
use std::sync::Arc;

use regex::Regex;

use crate::http::path::normalise_path;
use crate::http::target::{is_host_name, parse_authority};

/// Which hosts a match is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// Every host, written `*`.
    Any,
    /// One host, lower-case.
    Exact(Box<str>),
    /// Every host with at least one label before this suffix; written `*.example.org`, kept as `example.org`.
    Wildcard(Box<str>),
}

/// Which paths a match is for.
#[derive(Debug, Clone)]
pub enum PathPattern {
    /// Segment by segment; with `rest`, also everything below (`/a/**` is for `/a`, `/a/` and `/a/b`).
    Segments { segments: Vec<Segment>, rest: Rest },
    /// The whole normalised path, still percent-encoded.
    Regex(Regex),
}

/// One segment of a path pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// In normalised form.
    Literal(Arc<str>),
    /// `{name}`: any non-empty segment, kept.
    Param(Arc<str>),
    /// `*`: any non-empty segment.
    Any,
}

/// Whether a pattern is also for what is below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rest {
    None,
    /// `/**`
    Any,
    /// `/{name=**}` (as in `google.api.http` and Envoy's URI templates): the same, kept with its slashes.
    Param(Arc<str>),
}

/// What a value has to be.
#[derive(Debug, Clone)]
pub enum ValuePattern {
    /// There is a value, whatever it is.
    Present,
    Exact(String),
    /// The whole value matches. Made by [`ValuePattern::regex`].
    Regex(Regex),
}

/// Why a pattern is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("`{0}` is not a host name, `*.` and a host name, or `*`")]
    Host(String),
    #[error("the path pattern `{0}` does not start with a slash")]
    Relative(String),
    #[error("`**` or `{{name=**}}` is not the last segment of the path pattern `{0}`")]
    RestNotLast(String),
    #[error("`{segment}` in the path pattern `{pattern}`: a `{{param}}` or `*` is a whole segment")]
    PartialSegment { segment: String, pattern: String },
    #[error("`{segment}` in the path pattern `{pattern}`: a parameter is named by letters, digits, `_` and `-`")]
    ParamName { segment: String, pattern: String },
    #[error("the parameter `{name}` occurs twice in the path pattern `{pattern}`")]
    RepeatedParam { name: String, pattern: String },
    #[error("the path pattern `{pattern}` can't match: {why}")]
    Path { pattern: String, why: String },
    #[error("`{pattern}` is not a regular expression: {why}")]
    Regex { pattern: String, why: String },
}

impl HostPattern {
    /// Reads `example.org`, `*.example.org`, `[::1]` or `*`. Names in other scripts become their ASCII form.
    pub fn parse(text: &str) -> Result<HostPattern, PatternError> {
        let wrong = || PatternError::Host(text.to_owned());
        if text == "*" {
            return Ok(HostPattern::Any);
        }
        let (name, wildcard) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        let ascii = match name.is_ascii() {
            true => name.to_ascii_lowercase(),
            false => url::Host::parse(name).map_err(|_| wrong())?.to_string(),
        };
        let host = ascii.strip_suffix('.').unwrap_or(&ascii);
        if wildcard {
            return if is_host_name(host) { Ok(HostPattern::Wildcard(host.into())) } else { Err(wrong()) };
        }
        let authority = parse_authority(host.as_bytes()).map_err(|_| wrong())?;
        if authority.as_str() != authority.host() || authority.as_str() != host {
            return Err(wrong());
        }
        Ok(HostPattern::Exact(host.into()))
    }
}

/// As it is written; a literal segment is in its normalised form.
impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathPattern::Segments { segments, rest } => {
                for segment in segments {
                    match segment {
                        Segment::Literal(text) => write!(f, "/{text}")?,
                        Segment::Param(name) => write!(f, "/{{{name}}}")?,
                        Segment::Any => f.write_str("/*")?,
                    }
                }
                match (rest, segments.is_empty()) {
                    (Rest::Any, _) => f.write_str("/**"),
                    (Rest::Param(name), _) => write!(f, "/{{{name}=**}}"),
                    (Rest::None, true) => f.write_str("/"),
                    (Rest::None, false) => Ok(()),
                }
            }
            // `whole` has put the anchors around it.
            PathPattern::Regex(regex) => {
                let text = regex.as_str();
                f.write_str(text.strip_prefix("^(?:").and_then(|text| text.strip_suffix(")$")).unwrap_or(text))
            }
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Any => f.write_str("*"),
            HostPattern::Exact(host) => f.write_str(host),
            HostPattern::Wildcard(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

impl HostPattern {
    /// Whether it is for a host without port, in lower case.
    pub fn holds(&self, host: &str) -> bool {
        match self {
            HostPattern::Any => true,
            HostPattern::Exact(name) => **name == *host,
            HostPattern::Wildcard(suffix) => {
                host.strip_suffix(&**suffix).is_some_and(|labels| labels.len() > 1 && labels.ends_with('.'))
            }
        }
    }
}

impl Rest {
    pub(super) fn is_any(&self) -> bool {
        match self {
            Rest::None => false,
            Rest::Any | Rest::Param(_) => true,
        }
    }
}

impl ValuePattern {
    /// Reads a regular expression for the whole value. It needs no `^` and `$`.
    pub fn regex(text: &str) -> Result<ValuePattern, PatternError> {
        match whole(text) {
            Ok(regex) => Ok(ValuePattern::Regex(regex)),
            Err(why) => Err(PatternError::Regex { pattern: text.to_owned(), why: last_line(&why) }),
        }
    }

    /// Whether a value passes. A regular expression sees U+FFFD in place of what is not UTF-8: one such byte must not hide the rest of a value from
    /// a route that refuses it.
    pub(super) fn holds(&self, value: &[u8]) -> bool {
        match self {
            ValuePattern::Present => true,
            ValuePattern::Exact(wanted) => value == wanted.as_bytes(),
            ValuePattern::Regex(regex) => regex.is_match(&String::from_utf8_lossy(value)),
        }
    }

    /// Equal for equal patterns.
    pub(super) fn key(&self) -> (u8, &str) {
        match self {
            ValuePattern::Present => (0, ""),
            ValuePattern::Exact(text) => (1, text),
            ValuePattern::Regex(regex) => (2, regex.as_str()),
        }
    }
}

impl PartialEq for ValuePattern {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for ValuePattern {}

impl PathPattern {
    /// Every path.
    pub fn any() -> PathPattern {
        PathPattern::Segments { segments: Vec::new(), rest: Rest::Any }
    }

    /// What stands before the `/**` at the end (`/` if nothing does), if all of it is literal.
    pub fn literal_prefix(&self) -> Option<String> {
        let PathPattern::Segments { segments, rest: Rest::Any | Rest::Param(_) } = self else {
            return None;
        };
        let mut prefix = String::new();
        for segment in segments {
            let Segment::Literal(text) = segment else { return None };
            prefix.push('/');
            prefix.push_str(text);
        }
        Some(if prefix.is_empty() { "/".to_owned() } else { prefix })
    }

    /// Reads `/a`, `/a/{id}`, `/a/*/b`, `/a/**`, `/a/{rest=**}`. Literals are normalised as request paths are.
    pub fn parse(text: &str) -> Result<PathPattern, PatternError> {
        let pattern = || text.to_owned();
        let Some(inner) = text.strip_prefix('/') else {
            return Err(PatternError::Relative(pattern()));
        };
        let mut segments: Vec<Segment> = Vec::new();
        let mut rest = Rest::None;
        for part in inner.split('/') {
            if rest.is_any() {
                return Err(PatternError::RestNotLast(pattern()));
            }
            match part {
                "**" => rest = Rest::Any,
                "*" => segments.push(Segment::Any),
                _ if part.starts_with('{') && part.ends_with('}') => {
                    let inner = &part[1..part.len() - 1];
                    let (name, is_rest) = match inner.strip_suffix("=**") {
                        Some(name) => (name, true),
                        None => (inner, false),
                    };
                    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
                        return Err(PatternError::ParamName { segment: part.to_owned(), pattern: pattern() });
                    }
                    let twice = |s: &Segment| matches!(s, Segment::Param(known) if **known == *name);
                    if segments.iter().any(twice) {
                        return Err(PatternError::RepeatedParam { name: name.to_owned(), pattern: pattern() });
                    }
                    match is_rest {
                        true => rest = Rest::Param(name.into()),
                        false => segments.push(Segment::Param(name.into())),
                    }
                }
                _ if part.contains(['{', '}', '*']) => {
                    return Err(PatternError::PartialSegment { segment: part.to_owned(), pattern: pattern() });
                }
                _ => {
                    let path = format!("/{part}");
                    let why = |why: String| PatternError::Path { pattern: pattern(), why };
                    let normal = normalise_path(&path).map_err(|error| why(error.to_string()))?;
                    if matches!(part, "." | "..") || (normal.len() == 1) != part.is_empty() {
                        return Err(why("a dot segment never reaches the router".to_owned()));
                    }
                    segments.push(Segment::Literal(normal[1..].into()));
                }
            }
        }
        Ok(PathPattern::Segments { segments, rest })
    }

    /// Reads a regular expression for the whole path. It needs no `^` and `$`; named groups become parameters.
    pub fn regex(text: &str) -> Result<PathPattern, PatternError> {
        match whole(text) {
            Ok(regex) => Ok(PathPattern::Regex(regex)),
            Err(why) => Err(PatternError::Regex { pattern: text.to_owned(), why: last_line(&why) }),
        }
    }

    /// The names of the parameters that a match fills.
    pub fn params(&self) -> Vec<&str> {
        match self {
            PathPattern::Segments { segments, rest } => {
                let each = segments.iter().filter_map(|segment| match segment {
                    Segment::Param(name) => Some(&**name),
                    Segment::Literal(_) | Segment::Any => None,
                });
                let rest = match rest {
                    Rest::Param(name) => Some(&**name),
                    Rest::None | Rest::Any => None,
                };
                each.chain(rest).collect()
            }
            PathPattern::Regex(regex) => regex.capture_names().flatten().collect(),
        }
    }
}

/// What is wrong with a regular expression. The lines before show it, and the error names it already.
fn last_line(why: &regex::Error) -> String {
    let text = why.to_string();
    let last = text.lines().last().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

/// Compiles a regular expression that has to match the whole text.
pub(super) fn whole(text: &str) -> Result<Regex, regex::Error> {
    // Alone first: `a)|(b` would become valid, and mean something else, inside the group.
    Regex::new(text)?;
    Regex::new(&format!("^(?:{text})$"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let parse = |text| HostPattern::parse(text).ok();
        assert_eq!(parse("Example.ORG."), Some(HostPattern::Exact("example.org".into())));
        assert_eq!(parse("*.Example.org"), Some(HostPattern::Wildcard("example.org".into())));
        assert_eq!(parse("[::1]"), Some(HostPattern::Exact("[::1]".into())));
        assert_eq!(parse("bücher.example"), Some(HostPattern::Exact("xn--bcher-kva.example".into())));
        assert_eq!(parse("*"), Some(HostPattern::Any));
        for wrong in ["", "a:80", "a.*.b", "*a.b", "*.", "*.*.a", "a/b", "a b", "*.[::1]", "::1"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn paths() {
        let text = |pattern: &str| match PathPattern::parse(pattern)? {
            PathPattern::Segments { segments, rest } => Ok::<_, PatternError>((segments, rest)),
            PathPattern::Regex(_) => panic!("no regular expression was asked for"),
        };
        let literal = |text: &str| Segment::Literal(text.into());
        assert_eq!(text("/"), Ok((vec![literal("")], Rest::None)));
        assert_eq!(text("/**"), Ok((vec![], Rest::Any)));
        assert_eq!(text("/a/"), Ok((vec![literal("a"), literal("")], Rest::None)));
        assert_eq!(text("/a/{b=**}"), Ok((vec![literal("a")], Rest::Param("b".into()))));
        let param = Segment::Param("id".into());
        assert_eq!(text("/ä/{id}/*/**"), Ok((vec![literal("%C3%A4"), param, Segment::Any], Rest::Any)));
        for wrong in [
            "",
            "a",
            "/**/a",
            "/{a=**}/a",
            "/{=**}",
            "/{a=*}",
            "/{a}/{a=**}",
            "/a**",
            "/{id",
            "/x{id}",
            "/{}",
            "/{a b}",
            "/{a}/{a}",
            "/a/../b",
            "/%2e",
            "/a?b",
            "/%zz",
        ] {
            assert!(text(wrong).is_err(), "{wrong}");
        }
        assert!(PathPattern::regex("a)|(b").is_err());
        let prefix = |text| PathPattern::parse(text).unwrap().literal_prefix();
        assert_eq!((prefix("/ä/b/**").as_deref(), prefix("/**").as_deref()), (Some("/%C3%A4/b"), Some("/")));
        assert_eq!((prefix("/a/{b}/**"), prefix("/a")), (None, None));
        assert_eq!(PathPattern::regex("/(?<year>[0-9]+)/.*").unwrap().params(), ["year"]);
    }
}
