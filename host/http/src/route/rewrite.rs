//! New paths for the upstream and places for redirects, made from the request's target and the parameters of its route.

use std::sync::Arc;

use http::HeaderValue;
use http::uri::{Authority, PathAndQuery, Scheme};

use crate::http::path::{has_dot_segments, normalise_path, push_encoded};
use crate::http::target::TargetError;

/// A path with `{param}` in it, for example `/users/{id}/orders`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Param(Arc<str>),
}

/// How the path changes on its way. The query stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathRewrite {
    /// Takes a prefix away, by whole segments; other paths stay as they are.
    StripPrefix(String),
    /// Puts another prefix in its place, by whole segments; other paths stay as they are.
    ReplacePrefix { prefix: String, with: String },
    /// Makes the whole path anew.
    Template(Template),
}

/// Where a redirect leads. What is `None` comes from the request.
#[derive(Debug, Clone, Default)]
pub struct Redirect {
    pub scheme: Option<Scheme>,
    /// Without port; IPv6 in brackets.
    pub host: Option<String>,
    /// Without it a new `scheme` means that scheme's own port, and otherwise the port stays.
    pub port: Option<u16>,
    pub path: Option<PathRewrite>,
    pub drop_query: bool,
}

/// Why there is no new path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    #[error("the path template `{0}` does not start with a slash")]
    Relative(String),
    #[error("a `{{` without its `}}` in the path template `{0}`")]
    Brace(String),
    #[error("the path template `{0}` is not a path: {1}")]
    Template(String, TargetError),
    #[error("a dot segment in the path template `{0}`")]
    TemplateDots(String),
    #[error("the route has no parameter `{0}`")]
    UnknownParam(Arc<str>),
    #[error("the new path is not one: {0}")]
    Path(#[source] TargetError),
    #[error("a value of the request makes a dot segment of the new path")]
    DotSegment,
    #[error("the new location is not valid")]
    Location,
}

impl Template {
    /// Reads a template. It is a path: a query in it is refused.
    pub fn parse(text: &str) -> Result<Template, RewriteError> {
        if !text.starts_with('/') {
            return Err(RewriteError::Relative(text.to_owned()));
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or_else(|| RewriteError::Brace(text.to_owned()))?;
            parts.push(Part::Text(before.to_owned()));
            parts.push(Part::Param(name.into()));
            rest = after;
        }
        if rest.contains('}') {
            return Err(RewriteError::Brace(text.to_owned()));
        }
        parts.push(Part::Text(rest.to_owned()));
        let template = Template { parts };
        let sample: String = template
            .parts
            .iter()
            .map(|part| match part {
                Part::Text(text) => text.as_str(),
                Part::Param(_) => "x",
            })
            .collect();
        normalise_path(&sample).map_err(|why| RewriteError::Template(text.to_owned(), why))?;
        if has_dot_segments(&sample) {
            return Err(RewriteError::TemplateDots(text.to_owned()));
        }
        Ok(template)
    }

    /// The parameters that it needs.
    pub fn params(&self) -> impl Iterator<Item = &Arc<str>> {
        self.parts.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Param(name) => Some(name),
        })
    }

    fn fill(&self, params: &[(Arc<str>, String)]) -> Result<String, RewriteError> {
        let mut path = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => path.push_str(text),
                Part::Param(name) => {
                    let value = params.iter().find(|(known, _)| known == name);
                    let (_, value) = value.ok_or_else(|| RewriteError::UnknownParam(name.clone()))?;
                    push_value(&mut path, value);
                }
            }
        }
        Ok(path)
    }
}

/// Adds a part of the request's path. Its slashes separate segments and stay, and so does what is encoded in it, such as `%2F`. A group
/// of a regular expression may begin or end within an encoded byte: a `%` that is none then becomes `%25`.
fn push_value(path: &mut String, value: &str) {
    let bytes = value.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => path.push(*byte as char),
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@' => {
                path.push(*byte as char);
            }
            b'%' if matches!(bytes.get(at + 1..at + 3), Some(pair) if pair.iter().all(u8::is_ascii_hexdigit)) => {
                path.push('%');
            }
            _ => push_encoded(path, *byte),
        }
    }
}

impl PathRewrite {
    /// The new target, normalised. What the request brings, or a filter has set, can't lead out of the place that the rewrite names: where it
    /// would make a dot segment, as a part of a segment can, there is no new path.
    pub fn apply(&self, target: &PathAndQuery, params: &[(Arc<str>, String)]) -> Result<PathAndQuery, RewriteError> {
        let path = self.path(target.path(), params)?;
        if has_dot_segments(&path) {
            return Err(RewriteError::DotSegment);
        }
        let path = normalise_path(&path).map_err(RewriteError::Path)?;
        let whole = match target.query() {
            Some(query) => format!("{path}?{query}"),
            None => path.into_owned(),
        };
        PathAndQuery::try_from(whole).map_err(|_| RewriteError::Path(TargetError::PathCharacter))
    }

    fn path(&self, path: &str, params: &[(Arc<str>, String)]) -> Result<String, RewriteError> {
        let (prefix, with) = match self {
            PathRewrite::StripPrefix(prefix) => (prefix.as_str(), ""),
            PathRewrite::ReplacePrefix { prefix, with } => (prefix.as_str(), with.as_str()),
            PathRewrite::Template(template) => return template.fill(params),
        };
        let (prefix, with) = (prefix.trim_end_matches('/'), with.trim_end_matches('/'));
        Ok(match path.strip_prefix(prefix) {
            Some("") if with.is_empty() => "/".to_owned(),
            Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("{with}{rest}"),
            Some(_) | None => path.to_owned(),
        })
    }
}

impl Redirect {
    /// The `Location` for a request. It is always absolute: a relative one that starts with `//` would name another host.
    pub fn location(
        &self,
        scheme: &Scheme,
        authority: &Authority,
        target: &PathAndQuery,
        params: &[(Arc<str>, String)],
    ) -> Result<HeaderValue, RewriteError> {
        let host = self.host.as_deref().unwrap_or(authority.host());
        let port = match (self.port, &self.scheme) {
            (Some(port), _) => Some(port),
            (None, Some(new)) if new != scheme => None,
            (None, _) => authority.port_u16(),
        };
        let scheme = self.scheme.as_ref().unwrap_or(scheme);
        let own = if *scheme == Scheme::HTTPS { 443 } else { 80 };
        let port = port.filter(|port| *port != own).map(|port| format!(":{port}")).unwrap_or_default();
        let rewritten = self.path.as_ref().map(|rewrite| rewrite.apply(target, params)).transpose()?;
        let target = rewritten.as_ref().unwrap_or(target);
        let target = if self.drop_query { target.path() } else { target.as_str() };
        HeaderValue::try_from(format!("{scheme}://{host}{port}{target}")).map_err(|_| RewriteError::Location)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(rewrite: &PathRewrite, target: &str, params: &[(&str, &str)]) -> String {
        let params: Vec<_> = params.iter().map(|(n, v)| (Arc::from(*n), v.to_string())).collect();
        rewrite.apply(&target.parse().unwrap(), &params).unwrap().to_string()
    }

    #[test]
    fn prefixes_go_by_whole_segments() {
        let strip = PathRewrite::StripPrefix("/api/".into());
        let replace =
            |prefix: &str, with: &str| PathRewrite::ReplacePrefix { prefix: prefix.into(), with: with.into() };
        for (rewrite, target, want) in [
            (&strip, "/api/users?x=1", "/users?x=1"),
            (&strip, "/api", "/"),
            (&strip, "/api?x", "/?x"),
            (&strip, "/api/", "/"),
            (&strip, "/apix", "/apix"),
            (&replace("/v1", "/v2/"), "/v1/a", "/v2/a"),
            (&replace("/v1", "/v2"), "/v1", "/v2"),
            (&replace("/v1", "/"), "/v1/a", "/a"),
            (&replace("/", "/base"), "/a", "/base/a"),
            (&replace("/", "/base"), "/", "/base/"),
        ] {
            assert_eq!(rewritten(rewrite, target, &[]), want, "{rewrite:?} {target}");
        }
    }

    #[test]
    fn no_path_takes_back_its_new_prefix() {
        let replace = PathRewrite::ReplacePrefix { prefix: "/".into(), with: "/tenant".into() };
        for target in ["/../admin", "/%2e%2e/admin", "/a/../../admin", "/./admin", "/..%2Fadmin"] {
            assert!(replace.apply(&target.parse().unwrap(), &[]).is_err(), "{target}");
        }
    }

    #[test]
    fn a_value_stays_as_it_stood_in_the_path() {
        let template = PathRewrite::Template(Template::parse("/u/{id}/x-{v}").unwrap());
        assert_eq!(
            rewritten(&template, "/?q=1", &[("id", "a%2Fb%20c%3F"), ("v", "%C3%A4")]),
            "/u/a%2Fb%20c%3F/x-%C3%A4?q=1"
        );
        assert_eq!(rewritten(&template, "/", &[("id", "a/b/c"), ("v", "")]), "/u/a/b/c/x-", "slashes between segments");
        assert_eq!(
            rewritten(&template, "/", &[("id", "%2"), ("v", "%C3%A")]),
            "/u/%252/x-%C3%25A",
            "a part of an encoded byte"
        );
        let missing = template.apply(&"/".parse().unwrap(), &[]);
        assert_eq!(missing, Err(RewriteError::UnknownParam("id".into())));
        for wrong in ["a", "/{a", "/a}", "/a?b=c", "/%zz", "/a/../b", "/a/%2e%2E"] {
            assert!(Template::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Template::parse("/{a}/{b}").unwrap().params().count(), 2);
    }

    #[test]
    fn no_request_leads_out_of_the_place_that_a_rewrite_names() {
        let template = |text| PathRewrite::Template(Template::parse(text).unwrap());
        let refused = |rewrite: &PathRewrite, target: &str, value: &str| {
            let target = PathAndQuery::try_from(target).unwrap();
            rewrite.apply(&target, &[("v".into(), value.to_owned())]).is_err()
        };
        for (text, value) in [
            ("/tenant/{v}", ".."),
            ("/tenant/{v}/secret", ".."),
            ("/tenant/{v}", "a/../../admin"),
            ("/tenant/.{v}", "."),
            ("/tenant/.{v}", "%2E/admin"),
            ("/tenant/{v}", "%2e%2e"),
            ("/tenant/{v}", "..%2Fadmin"),
            ("/tenant/x{v}", "/.."),
            ("/tenant/{v}", "a%5C..%5Cb"),
        ] {
            assert!(refused(&template(text), "/", value), "{text} {value}");
        }
        let replace = PathRewrite::ReplacePrefix { prefix: "/api".into(), with: "/tenant".into() };
        // A path that a filter has set is not always in its one form.
        for target in ["/api/../admin", "/api/%2e%2e/admin", "/api/..", "/api/a/../../admin", "/api/..%2Fadmin"] {
            assert!(refused(&replace, target, ""), "{target}");
            assert!(refused(&PathRewrite::StripPrefix("/api".into()), target, ""), "{target}");
        }
        assert!(!refused(&template("/tenant/{v}"), "/", "..."));
        assert!(!refused(&replace, "/api/.well-known/x", ""));
    }

    #[test]
    fn locations() {
        let at = |redirect: &Redirect, from: &str| {
            let uri: http::Uri = from.parse().unwrap();
            let parts = uri.into_parts();
            let location = redirect
                .location(&parts.scheme.unwrap(), &parts.authority.unwrap(), &parts.path_and_query.unwrap(), &[])
                .unwrap();
            location.to_str().unwrap().to_owned()
        };
        let https = Redirect { scheme: Some(Scheme::HTTPS), ..Redirect::default() };
        assert_eq!(at(&https, "http://a.example:8080/x?y=1"), "https://a.example/x?y=1");
        assert_eq!(at(&https, "https://a.example:8443/x"), "https://a.example:8443/x");
        let port = Redirect { port: Some(8443), ..https };
        assert_eq!(at(&port, "http://a.example/x"), "https://a.example:8443/x");
        let host = Redirect { host: Some("b.example".into()), drop_query: true, ..Redirect::default() };
        assert_eq!(at(&host, "http://a.example:8080//evil.example/?y"), "http://b.example:8080//evil.example/");
        let path = Redirect { path: Some(PathRewrite::StripPrefix("/old".into())), ..Redirect::default() };
        assert_eq!(at(&path, "https://[::1]:443/old/x?y"), "https://[::1]/x?y");
        let moved = Redirect {
            host: Some("blog.example".into()),
            path: Some(PathRewrite::ReplacePrefix { prefix: "/blog".into(), with: "/".into() }),
            ..Redirect::default()
        };
        assert_eq!(at(&moved, "https://a.example/blog/a/b%2Fc?x=1&y"), "https://blog.example/a/b%2Fc?x=1&y");
        assert_eq!(at(&moved, "https://a.example/blog"), "https://blog.example/");
    }
}
