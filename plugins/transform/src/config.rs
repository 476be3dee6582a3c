//! The filter's table in `gateway.toml`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor},
};
use serde_json::{Value, json};
use sluice_filter::{Attribute, ByteSize, ConfigError, Error, HeaderEdit, Request, is_token};

use crate::{
    RANGES, STALE, json,
    template::{Form, Template},
};

/// Fields that no filter may set or remove.
const FRAMING: [&str; 11] = [
    "cdn-loop",
    "connection",
    "content-length",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

#[derive(Deserialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    #[serde(default)]
    pub(crate) request: RequestRules,
    #[serde(default)]
    pub(crate) response: ResponseRules,
    #[serde(default = "default_max_body")]
    pub(crate) max_body: ByteSize,
}

impl Config {
    /// The grants without which some of it would fail or do nothing.
    pub(crate) fn needs(&self) -> Value {
        let headers = || [&self.request.headers, &self.response.headers].into_iter().flatten();
        let written = headers().flat_map(|rules| {
            let renamed = rules.rename.iter().flat_map(|(from, to)| [from, to]);
            rules.remove.iter().chain(rules.set.keys()).chain(rules.add.keys()).chain(renamed)
        });
        let fields =
            headers().chain(&self.request.query).flat_map(|rules| rules.set.values().chain(rules.add.values()));
        let path = self.request.path.iter().filter_map(|rules| rules.set.as_ref());
        let bodies = || [&self.request.body, &self.response.body].into_iter().flatten();
        let members =
            bodies().flat_map(|rules| rules.set.iter().chain(&rules.add)).filter_map(|(_, value)| match value {
                JsonValue::Text(template) => Some(template),
                JsonValue::Fixed(_) => None,
            });
        let templates: Vec<&Template> = fields.chain(path).chain(members).collect();
        let taken = templates.iter().flat_map(|template| template.headers());
        let read = headers().flat_map(|rules| rules.rename.keys().map(String::as_str)).chain(taken);
        let unique =
            |names: &mut dyn Iterator<Item = &str>| names.map(str::to_ascii_lowercase).collect::<BTreeSet<_>>();
        let ranges = self.response.body.iter().flat_map(|_| RANGES);
        let stale = bodies().flat_map(|_| STALE);
        let mut needs = json!({
            "read_headers": unique(&mut { read }),
            "write_headers": unique(&mut written.map(String::as_str).chain(ranges).chain(stale)),
        });
        if templates.iter().flat_map(|template| template.attributes()).any(Attribute::needs_authentication) {
            needs["authentication"] = true.into();
        }
        needs
    }
}

#[derive(Deserialize, Default)]
#[cfg_attr(test, derive(Debug))]
#[serde(deny_unknown_fields)]
pub(crate) struct RequestRules {
    #[serde(default)]
    pub(crate) headers: Option<HeaderRules>,
    #[serde(default)]
    pub(crate) query: Option<HeaderRules>,
    #[serde(default)]
    pub(crate) path: Option<PathRules>,
    #[serde(default)]
    pub(crate) body: Option<BodyRules>,
}

#[derive(Deserialize, Default)]
#[cfg_attr(test, derive(Debug))]
#[serde(deny_unknown_fields)]
pub(crate) struct ResponseRules {
    #[serde(default)]
    pub(crate) status: Option<u16>,
    #[serde(default)]
    pub(crate) headers: Option<HeaderRules>,
    #[serde(default)]
    pub(crate) body: Option<BodyRules>,
}

/// Rules for names with values: headers, or the pairs of a query.
#[derive(Deserialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(deny_unknown_fields)]
pub(crate) struct HeaderRules {
    #[serde(default)]
    pub(crate) remove: Vec<String>,
    #[serde(default)]
    pub(crate) rename: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) set: BTreeMap<String, Template>,
    #[serde(default)]
    pub(crate) add: BTreeMap<String, Template>,
    /// All of it, when it is the same for every message.
    #[serde(skip)]
    pub(crate) fixed: Option<Vec<HeaderEdit>>,
}

impl HeaderRules {
    /// Makes `fixed`, if the rules take nothing from the message.
    pub(crate) fn fix(&mut self) {
        if !self.rename.is_empty() {
            return;
        }
        let removed = self.remove.iter().map(|name| Some(HeaderEdit::remove(name)));
        let set = self.set.iter().map(|(name, value)| Some(HeaderEdit::set(name, value.fixed()?)));
        let added = self.add.iter().map(|(name, value)| Some(HeaderEdit::append(name, value.fixed()?)));
        self.fixed = removed.chain(set).chain(added).collect();
    }
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(deny_unknown_fields)]
pub(crate) struct PathRules {
    #[serde(default)]
    pub(crate) set: Option<Template>,
    #[serde(default)]
    pub(crate) remove_prefix: Option<String>,
    #[serde(default)]
    pub(crate) add_prefix: Option<String>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(deny_unknown_fields)]
pub(crate) struct BodyRules {
    #[serde(default)]
    pub(crate) remove: Vec<Pointer>,
    #[serde(default, deserialize_with = "pairs")]
    pub(crate) rename: Vec<(Pointer, String)>,
    #[serde(default, deserialize_with = "pairs")]
    pub(crate) set: Vec<(Pointer, JsonValue)>,
    #[serde(default, deserialize_with = "pairs")]
    pub(crate) add: Vec<(Pointer, JsonValue)>,
}

#[cfg_attr(test, derive(Debug))]
pub(crate) struct Pointer(pub(crate) json::Pointer);

impl<'de> Deserialize<'de> for Pointer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        json::Pointer::parse(&String::deserialize(deserializer)?).map(Self).map_err(de::Error::custom)
    }
}

/// A JSON value; a text in it may have holes.
#[cfg_attr(test, derive(Debug))]
pub(crate) enum JsonValue {
    Fixed(String),
    Text(Template),
}

impl JsonValue {
    /// As JSON text; none when a hole can't be filled.
    pub(crate) fn fill(&self, request: &Request) -> Result<Option<String>, Error> {
        match self {
            Self::Fixed(json) => Ok(Some(json.clone())),
            Self::Text(template) => Ok(template.fill(request, Form::Text)?.map(|text| Value::from(text).to_string())),
        }
    }
}

impl<'de> Deserialize<'de> for JsonValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => Template::parse(&text).map(Self::Text).map_err(de::Error::custom),
            other => Ok(Self::Fixed(other.to_string())),
        }
    }
}

/// A table whose order is kept.
fn pairs<'de, D, K, V>(deserializer: D) -> Result<Vec<(K, V)>, D::Error>
where
    D: Deserializer<'de>,
    K: Deserialize<'de>,
    V: Deserialize<'de>,
{
    struct Pairs<K, V>(std::marker::PhantomData<(K, V)>);
    impl<'de, K: Deserialize<'de>, V: Deserialize<'de>> Visitor<'de> for Pairs<K, V> {
        type Value = Vec<(K, V)>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a table")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut pairs = Vec::new();
            while let Some(pair) = map.next_entry()? {
                pairs.push(pair);
            }
            Ok(pairs)
        }
    }
    deserializer.deserialize_map(Pairs(std::marker::PhantomData))
}

impl Config {
    /// Checks what serde can't.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if self.response.status.is_some_and(|status| !(200..=599).contains(&status)) {
            return Err(ConfigError::new("response.status", "expected 200 to 599"));
        }
        if let Some(path) = &self.request.path {
            for (key, value) in [("remove_prefix", &path.remove_prefix), ("add_prefix", &path.add_prefix)] {
                if value.as_ref().is_some_and(|prefix| !prefix.starts_with('/')) {
                    return Err(ConfigError::new(format!("request.path.{key}"), "expected a path like \"/v1\""));
                }
            }
        }
        for (side, headers) in [("request", &self.request.headers), ("response", &self.response.headers)] {
            let Some(rules) = headers else { continue };
            let keys = rules.set.keys().chain(rules.add.keys()).chain(&rules.remove);
            for name in keys.chain(rules.rename.keys()).chain(rules.rename.values()) {
                if !is_token(name) {
                    return Err(ConfigError::new(format!("{side}.headers"), format!("`{name}` is not a header name")));
                }
                if FRAMING.iter().any(|framing| name.eq_ignore_ascii_case(framing)) {
                    let message = format!("`{name}` frames or routes the message and is set by the gateway");
                    return Err(ConfigError::new(format!("{side}.headers"), message));
                }
            }
        }
        Ok(())
    }
}

fn default_max_body() -> ByteSize {
    ByteSize(1 << 20)
}
