//! Which origins may call.

use serde::{Deserialize, Deserializer, de};

/// A list of origins: `*`, `https://app.example.com`, or `https://*.example.com`.
#[derive(Debug)]
pub(crate) struct Origins {
    any: bool,
    patterns: Vec<Pattern>,
}

#[derive(Debug)]
enum Pattern {
    Exact(String),
    /// What comes before and behind one or more labels.
    Below(String, String),
}

impl Origins {
    pub(crate) fn any(&self) -> bool {
        self.any
    }

    pub(crate) fn allow(&self, origin: &str) -> bool {
        self.any
            || self.patterns.iter().any(|pattern| match pattern {
                Pattern::Exact(exact) => exact == origin,
                Pattern::Below(before, behind) => origin
                    .strip_prefix(before.as_str())
                    .and_then(|rest| rest.strip_suffix(behind.as_str()))
                    .is_some_and(|labels| {
                        let label = |label: &str| {
                            !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                        };
                        labels.split('.').all(label)
                    }),
            })
    }
}

impl Pattern {
    /// Browsers send the serialised origin: scheme and host in lower case, no default port, no path.
    fn parse(text: &str) -> Result<Self, String> {
        let refuse = || {
            Err(format!(
                "expected an origin like \"https://app.example.com\" or \"https://*.example.com\", not \"{text}\""
            ))
        };
        if text == "null" {
            return Err("the origin `null` can be had by any page, and is never allowed".to_owned());
        }
        let Some((scheme, host)) = text.split_once("://") else { return refuse() };
        let bad = |b: u8| b.is_ascii_uppercase() || !(b.is_ascii_graphic()) || b"/?#@*,\"".contains(&b);
        if scheme.is_empty() || scheme.bytes().any(bad) {
            return refuse();
        }
        if (scheme == "https" && host.ends_with(":443")) || (scheme == "http" && host.ends_with(":80")) {
            return Err(format!("leave the default port out of \"{text}\": browsers do"));
        }
        match host.strip_prefix("*.") {
            Some(rest) if !rest.is_empty() && !rest.bytes().any(bad) => {
                Ok(Self::Below(format!("{scheme}://"), format!(".{rest}")))
            }
            None if !host.is_empty() && !host.bytes().any(bad) => Ok(Self::Exact(text.to_owned())),
            _ => refuse(),
        }
    }
}

impl<'de> Deserialize<'de> for Origins {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        if texts.is_empty() {
            return Err(de::Error::custom("an empty list allows nobody"));
        }
        let any = texts.iter().any(|text| text == "*");
        let patterns = texts.iter().filter(|text| *text != "*").map(|text| Pattern::parse(text));
        Ok(Self { any, patterns: patterns.collect::<Result<_, _>>().map_err(de::Error::custom)? })
    }
}
