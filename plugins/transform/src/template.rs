//! Values with holes: `"user-{claim.sub}"`.

use serde::{Deserialize, Deserializer, de};
use sluice_filter::{Attribute, Error, Request, bytes_to_text, context};

use crate::query::encode;

/// A text with holes that are filled from the exchange.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Of(Attribute),
    Context(String),
    RequestId,
    Method,
    Path,
}

/// What a value becomes a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// A header or a member of a body: values go in as text.
    Text,
    /// A path: values are percent-encoded, but for the path itself, which is encoded already.
    Path,
    /// The value of a query's pair: all of it is percent-encoded.
    Query,
}

impl Template {
    /// The headers that holes are filled from.
    pub(crate) fn headers(&self) -> impl Iterator<Item = &str> {
        self.attributes().filter_map(Attribute::header)
    }

    /// What holes are filled from, as far as other filters can name it too.
    pub(crate) fn attributes(&self) -> impl Iterator<Item = &Attribute> {
        self.0.iter().filter_map(|part| match part {
            Part::Of(attribute) => Some(attribute),
            Part::Text(_) | Part::Context(_) | Part::RequestId | Part::Method | Part::Path => None,
        })
    }

    /// The value; none when a hole can't be filled.
    pub(crate) fn fill(&self, request: &Request, form: Form) -> Result<Option<String>, Error> {
        let mut filled = String::new();
        for part in &self.0 {
            let value = match part {
                Part::Text(fixed) if form == Form::Query => Some(fixed.clone().into_bytes()),
                Part::Text(fixed) => {
                    filled.push_str(fixed);
                    continue;
                }
                Part::Of(Attribute::Header(name)) => header(request, name)?,
                Part::Of(attribute) => attribute.value(request)?.map(String::into_bytes),
                Part::Context(key) => context::get(key)?.map(|value| context::canonical(value).into_bytes()),
                Part::RequestId => Some(request.id()?.into_bytes()),
                Part::Method => Some(request.method()?.into_bytes()),
                Part::Path if form == Form::Path => {
                    // Encoded once more, it would name something else.
                    filled.push_str(&request.path()?);
                    continue;
                }
                Part::Path => Some(request.path()?.into_bytes()),
            };
            match (value, form) {
                (Some(value), Form::Text) => filled.push_str(&bytes_to_text(value)),
                (Some(value), Form::Path | Form::Query) => filled.push_str(&encode(&value)),
                (None, _) => return Ok(None),
            }
        }
        Ok(Some(filled))
    }

    /// What it was filled to, without the blanks that the template itself begins and ends with.
    pub(crate) fn trimmed<'v>(&self, filled: &'v str) -> &'v str {
        if self.fixed().is_some() {
            return filled.trim_ascii();
        }
        let blanks = |part: Option<&Part>, trim: fn(&[u8]) -> &[u8]| match part {
            Some(Part::Text(text)) => text.len() - trim(text.as_bytes()).len(),
            _ => 0,
        };
        let begin = blanks(self.0.first(), <[u8]>::trim_ascii_start);
        let end = filled.len() - blanks(self.0.last(), <[u8]>::trim_ascii_end);
        &filled[begin..end]
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
                "unknown value `{{{hole}}}`, expected header.NAME, cookie.NAME, param.NAME, claim.NAME, context.KEY, consumer, \
                 client_address, request_id, route, method or path"
            )
        };
        Ok(match hole.split_once('.') {
            None => match hole {
                "client_address" => Self::Of(Attribute::Ip),
                "request_id" => Self::RequestId,
                "method" => Self::Method,
                "path" => Self::Path,
                "consumer" | "route" => Self::Of(Attribute::named(hole, None)?),
                _ => return Err(unknown()),
            },
            Some((_, "")) => return Err(unknown()),
            Some(("context", key)) => Self::Context(key.to_owned()),
            Some((kind @ ("header" | "cookie" | "param" | "claim"), name)) => {
                Self::Of(Attribute::named(kind, Some(name))?)
            }
            Some(_) => return Err(unknown()),
        })
    }
}

/// The first value that is text, or else the bytes of the first one.
fn header(request: &Request, name: &str) -> Result<Option<Vec<u8>>, Error> {
    match request.header(name)? {
        Some(value) => Ok(Some(value.into_bytes())),
        None => Ok(request.header_bytes(name)?.into_iter().next()),
    }
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}
