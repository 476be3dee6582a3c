//! Values with holes: `"user-{claim.sub}"`.

use serde::{Deserialize, Deserializer, de};
use sluice_filter::{Error, Request, context, is_token};

/// A text with holes that are filled from the exchange.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Header(String),
    Param(String),
    Claim(Vec<String>),
    Context(String),
    Consumer,
    ClientAddress,
    RequestId,
    Route,
    Method,
    Path,
}

impl Template {
    /// The headers that holes are filled from.
    pub(crate) fn headers(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Header(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// The value, with what fills a hole passed through `encode` (but for the path); none when a hole can't be filled.
    pub(crate) fn fill(&self, request: &Request, encode: fn(String) -> String) -> Result<Option<String>, Error> {
        let mut text = String::new();
        for part in &self.0 {
            let value = match part {
                Part::Text(fixed) => {
                    text.push_str(fixed);
                    continue;
                }
                Part::Header(name) => request.header(name)?,
                Part::Param(name) => request.route().param(name)?,
                Part::Claim(path) => {
                    let path: Vec<&str> = path.iter().map(String::as_str).collect();
                    context::path("auth.claims", &path)?.and_then(context::into_text)
                }
                Part::Context(key) => context::text(key)?,
                Part::Consumer => context::consumer()?,
                Part::ClientAddress => Some(request.client_address()?),
                Part::RequestId => Some(request.id()?),
                Part::Route => Some(request.route().name()?),
                Part::Method => Some(request.method()?),
                Part::Path => {
                    // It is encoded already: once more, and it would name something else.
                    text.push_str(&request.path()?);
                    continue;
                }
            };
            match value {
                Some(value) => text.push_str(&encode(value)),
                None => return Ok(None),
            }
        }
        Ok(Some(text))
    }

    /// The text of a template without holes.
    pub(crate) fn fixed(&self) -> Option<&str> {
        match &self.0[..] {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut fixed = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, tail) = rest.split_at(at);
            fixed.push_str(before);
            if tail.starts_with("{{") || tail.starts_with("}}") {
                fixed.push_str(&tail[..1]);
                rest = &tail[2..];
                continue;
            }
            let hole = tail.strip_prefix('{').and_then(|tail| tail.split_once('}'));
            let (hole, after) =
                hole.ok_or_else(|| format!("a lone brace in `{text}`; write {{{{ or }}}} for a brace"))?;
            if !fixed.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut fixed)));
            }
            parts.push(Part::parse(hole)?);
            rest = after;
        }
        fixed.push_str(rest);
        if !fixed.is_empty() {
            parts.push(Part::Text(fixed));
        }
        Ok(Self(parts))
    }
}

impl Part {
    fn parse(hole: &str) -> Result<Self, String> {
        let unknown = || {
            format!(
                "unknown value `{{{hole}}}`, expected header.NAME, param.NAME, claim.NAME, context.KEY, consumer, \
                 client_address, request_id, route, method or path"
            )
        };
        Ok(match hole.split_once('.') {
            None => match hole {
                "consumer" => Self::Consumer,
                "client_address" => Self::ClientAddress,
                "request_id" => Self::RequestId,
                "route" => Self::Route,
                "method" => Self::Method,
                "path" => Self::Path,
                _ => return Err(unknown()),
            },
            Some((_, "")) => return Err(unknown()),
            Some(("header", name)) if name.eq_ignore_ascii_case("host") => {
                return Err("no filter sees the field `host`".to_owned());
            }
            Some(("header", name)) if !is_token(name) => return Err(format!("`{name}` is not a header name")),
            Some(("header", name)) => Self::Header(name.to_owned()),
            Some(("param", name)) => Self::Param(name.to_owned()),
            Some(("claim", path)) => Self::Claim(path.split('.').map(str::to_owned).collect()),
            Some(("context", key)) => Self::Context(key.to_owned()),
            Some(_) => return Err(unknown()),
        })
    }
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}
