//! The filter's table in `gateway.toml`.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::{Value, json};
use sluice_filter::{Attribute, ConfigError, Duration, is_token};

#[derive(Deserialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    #[serde(default)]
    pub(crate) rules: Vec<Rule>,
    #[serde(default)]
    pub(crate) split: Vec<Share>,
    #[serde(default)]
    pub(crate) by: By,
    #[serde(default)]
    pub(crate) salt: String,
    #[serde(default)]
    pub(crate) sticky: Option<Sticky>,
    #[serde(default)]
    pub(crate) response_header: Option<String>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    /// What it looks at.
    pub(crate) when: Attribute,
    #[serde(default)]
    pub(crate) value: Option<String>,
    pub(crate) upstream: String,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(deny_unknown_fields)]
pub(crate) struct Share {
    pub(crate) upstream: String,
    pub(crate) weight: u32,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(deny_unknown_fields)]
pub(crate) struct Sticky {
    #[serde(default = "default_cookie")]
    pub(crate) cookie: String,
    #[serde(default = "default_max_age")]
    pub(crate) max_age: Duration,
}

/// What decides a caller's place.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum By {
    #[default]
    Random,
    Of(Attribute),
}

impl Config {
    /// The grants without which some of it would do nothing.
    pub(crate) fn needs(&self) -> Value {
        let by = match &self.by {
            By::Of(attribute) => Some(attribute),
            By::Random => None,
        };
        let attributes = || self.rules.iter().map(|rule| &rule.when).chain(by);
        let sticky = self.sticky.as_ref().map(|_| "cookie");
        let mut read: Vec<&str> = attributes().filter_map(Attribute::header).chain(sticky).collect();
        read.sort_unstable();
        read.dedup();
        let written: &[&str] = if self.sticky.is_some() { &["set-cookie"] } else { &[] };
        let mut needs = json!({ "read_headers": read, "write_headers": written });
        if attributes().any(Attribute::needs_authentication) {
            needs["authentication"] = true.into();
        }
        needs
    }

    /// Checks what serde can't, and adds the weights up.
    pub(crate) fn check(&self) -> Result<u64, ConfigError> {
        if self.rules.is_empty() && self.split.is_empty() {
            return Err(ConfigError::new("", "nothing to do: give `split`, `rules` or both"));
        }
        let total = self.split.iter().map(|share| u64::from(share.weight)).sum();
        if !self.split.is_empty() && total == 0 {
            return Err(ConfigError::new("split", "at least one weight must be over 0"));
        }
        if self.sticky.is_some() && self.by != By::Random {
            return Err(ConfigError::new("sticky", "the cookie decides: leave `by` out"));
        }
        if let Some(sticky) = &self.sticky
            && !is_token(&sticky.cookie)
        {
            return Err(ConfigError::new("sticky.cookie", format!("`{}` is not a cookie name", sticky.cookie)));
        }
        if let Some(name) = &self.response_header
            && !is_token(name)
        {
            return Err(ConfigError::new("response_header", format!("`{name}` is not a header name")));
        }
        Ok(total)
    }
}

impl<'de> Deserialize<'de> for By {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One;
        impl<'de> Visitor<'de> for One {
            type Value = By;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"random\", or a key such as \"ip\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<By, E> {
                if text == "random" { Ok(By::Random) } else { text.parse().map(By::Of).map_err(E::custom) }
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<By, A::Error> {
                Attribute::deserialize(MapAccessDeserializer::new(map)).map(By::Of)
            }
        }
        deserializer.deserialize_any(One)
    }
}

fn default_cookie() -> String {
    "sluice_split".to_owned()
}

fn default_max_age() -> Duration {
    Duration::from_secs(30 * 86_400)
}
