//! The filter's table in `gateway.toml`.

use serde::{Deserialize, Deserializer, de};
use serde_json::{Value, json};
use sluice_filter::{ConfigError, Duration, is_token};

#[derive(Deserialize)]
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
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    pub(crate) when: When,
    #[serde(default)]
    pub(crate) value: Option<String>,
    pub(crate) upstream: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Share {
    pub(crate) upstream: String,
    pub(crate) weight: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sticky {
    #[serde(default = "default_cookie")]
    pub(crate) cookie: String,
    #[serde(default = "default_max_age")]
    pub(crate) max_age: Duration,
}

/// What a rule looks at.
#[derive(Debug)]
pub(crate) enum When {
    Header(String),
    Cookie(String),
}

/// What decides a caller's place.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum By {
    #[default]
    Random,
    Ip,
    Consumer,
    Header(String),
    Cookie(String),
}

impl Config {
    /// The grants without which some of it would do nothing.
    pub(crate) fn needs(&self) -> Value {
        let rules = self.rules.iter().map(|rule| match &rule.when {
            When::Header(name) => name.as_str(),
            When::Cookie(_) => "cookie",
        });
        let by = match &self.by {
            By::Header(name) => Some(name.as_str()),
            By::Cookie(_) => Some("cookie"),
            By::Random | By::Ip | By::Consumer => self.sticky.as_ref().map(|_| "cookie"),
        };
        let mut read: Vec<&str> = rules.chain(by).collect();
        read.sort_unstable();
        read.dedup();
        let written: &[&str] = if self.sticky.is_some() { &["set-cookie"] } else { &[] };
        json!({ "read_headers": read, "write_headers": written })
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

/// A header that a filter can see.
fn header(name: &str) -> Result<String, &'static str> {
    let name = name.to_ascii_lowercase();
    if name == "host" { Err("no filter sees the field `host`") } else { Ok(name) }
}

impl<'de> Deserialize<'de> for When {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.split_once(':') {
            Some(("header", name)) if is_token(name) => header(name).map(Self::Header).map_err(de::Error::custom),
            Some(("cookie", name)) if is_token(name) => Ok(Self::Cookie(name.to_owned())),
            _ => Err(de::Error::custom(format!("expected `header:NAME` or `cookie:NAME`, not `{text}`"))),
        }
    }
}

impl<'de> Deserialize<'de> for By {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match (text.as_str(), text.split_once(':')) {
            ("random", _) => Ok(Self::Random),
            ("ip", _) => Ok(Self::Ip),
            ("consumer", _) => Ok(Self::Consumer),
            (_, Some(("header", name))) if is_token(name) => header(name).map(Self::Header).map_err(de::Error::custom),
            (_, Some(("cookie", name))) if is_token(name) => Ok(Self::Cookie(name.to_owned())),
            _ => Err(de::Error::custom(format!(
                "expected `random`, `ip`, `consumer`, `header:NAME` or `cookie:NAME`, not `{text}`"
            ))),
        }
    }
}

fn default_cookie() -> String {
    "sluice_split".to_owned()
}

fn default_max_age() -> Duration {
    Duration::from_secs(30 * 86_400)
}
