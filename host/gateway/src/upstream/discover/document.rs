//! A list of endpoints as text: what the watched file has, and what is kept for the next start.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::{Deserialize as Derive, Serialize};

use crate::upstream::spec::EndpointSpec;

/// As for endpoints of the configuration.
pub(super) const MAX_WEIGHT: u32 = 1_000_000;
pub(super) const MAX_PRIORITY: u8 = 127;

/// How a list is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Toml,
}

#[derive(Derive)]
#[serde(deny_unknown_fields)]
struct Document {
    endpoints: Vec<Entry>,
}

/// An endpoint: a URL, or a table as in the configuration.
#[derive(Debug, Serialize)]
pub(super) struct Entry {
    url: String,
    weight: u32,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_first")]
    priority: u8,
}

/// The endpoints of a text, or what is wrong with it.
pub(super) fn read(text: &[u8], format: Format) -> Result<Vec<EndpointSpec>, String> {
    let document: Document = match format {
        Format::Json => serde_json::from_slice(text).map_err(|error| error.to_string())?,
        Format::Toml => {
            let text = std::str::from_utf8(text).map_err(|_| "it is not UTF-8".to_owned())?;
            // The message draws the line, and its own lines end with line feeds.
            toml::from_str(text).map_err(|error| one_line(&error.to_string()))?
        }
    };
    specs(document.endpoints)
}

pub(super) fn specs(entries: Vec<Entry>) -> Result<Vec<EndpointSpec>, String> {
    let read = |(at, entry): (usize, Entry)| {
        let wrong = |what: String| format!("endpoints[{at}]: {what}");
        let spec = EndpointSpec::from_url(&entry.url).map_err(|error| wrong(error.to_string()))?;
        if entry.weight > MAX_WEIGHT {
            return Err(wrong(format!("weight {} is above {MAX_WEIGHT}", entry.weight)));
        }
        let Entry { weight, labels, priority, .. } = entry;
        if priority > MAX_PRIORITY {
            return Err(wrong(format!("priority {priority} is above {MAX_PRIORITY}")));
        }
        Ok(EndpointSpec { weight, labels: labels.into_iter().collect(), priority, ..spec })
    };
    entries.into_iter().enumerate().map(read).collect()
}

/// The same the other way.
pub(super) fn entries(specs: &[EndpointSpec]) -> Vec<Entry> {
    let entry = |spec: &EndpointSpec| Entry {
        url: spec.url(),
        weight: spec.weight,
        labels: spec.labels.iter().cloned().collect(),
        priority: spec.priority,
    };
    specs.iter().map(entry).collect()
}

fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ")
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EntryVisitor)
    }
}

/// In place of an untagged enum, whose errors do not say what is wrong.
struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a URL or a table with a `url`")
    }

    fn visit_str<E>(self, url: &str) -> Result<Entry, E> {
        Ok(Entry { url: url.to_owned(), weight: default_weight(), labels: BTreeMap::new(), priority: 0 })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Entry, A::Error> {
        #[derive(Derive)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            url: String,
            #[serde(default = "default_weight")]
            weight: u32,
            #[serde(default)]
            labels: BTreeMap<String, String>,
            #[serde(default)]
            priority: u8,
        }
        let Fields { url, weight, labels, priority } = Fields::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Entry { url, weight, labels, priority })
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_first(priority: &u8) -> bool {
    *priority == 0
}

fn default_weight() -> u32 {
    crate::config::defaults::ENDPOINT_WEIGHT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, format: Format) -> String {
        match read(text.as_bytes(), format) {
            Ok(specs) => {
                let one = |spec: &EndpointSpec| format!("{} {} {:?}", spec.url(), spec.weight, spec.labels);
                specs.iter().map(one).collect::<Vec<_>>().join("; ")
            }
            Err(error) => error,
        }
    }

    #[test]
    fn a_list_is_the_same_in_json_and_toml() {
        let expected = r#"http://10.0.0.1:80 1 []; https://[::1]:81 2 [("zone", "b")]"#;
        let json =
            r#"{"endpoints": ["http://10.0.0.1", {"url": "https://[::1]:81", "weight": 2, "labels": {"zone": "b"}}]}"#;
        assert_eq!(shown(json, Format::Json), expected);
        let inline =
            "endpoints = ['http://10.0.0.1', { url = 'https://[::1]:81', weight = 2, labels = { zone = 'b' } }]";
        assert_eq!(shown(inline, Format::Toml), expected);
        let tables = "[[endpoints]]\nurl = 'http://10.0.0.1'\n[[endpoints]]\nurl = 'https://[::1]:81'\nweight = 2\nlabels.zone = 'b'";
        assert_eq!(shown(tables, Format::Toml), expected);
        let specs = read(json.as_bytes(), Format::Json).unwrap();
        let written = serde_json::json!({ "endpoints": entries(&specs) }).to_string();
        assert_eq!(read(written.as_bytes(), Format::Json).unwrap(), specs, "what is written is read again");
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (json, expected) in [
            ("", "EOF while parsing a value at line 1 column 0"),
            ("[]", "invalid length 0"),
            ("{}", "missing field `endpoints`"),
            (r#"{"endpoints": [1]}"#, "expected a URL or a table with a `url` at line 1"),
            (r#"{"endpoints": [{"weight": 1}]}"#, "missing field `url`"),
            (r#"{"endpoints": [{"url": "http://a", "wieght": 1}]}"#, "unknown field `wieght`"),
            (r#"{"endpoints": ["http://a", "http://b/path"]}"#, "endpoints[1]: `http://b/path` is not a URL"),
            (r#"{"endpoints": [{"url": "http://a", "weight": 2000000}]}"#, "endpoints[0]: weight 2000000 is above"),
            (r#"{"endpoints": [{"url": "http://a", "weight": -1}]}"#, "invalid value: integer `-1`"),
        ] {
            let found = shown(json, Format::Json);
            assert!(found.contains(expected), "{json}: {found}");
        }
        let toml = shown("endpoints = [\n  'http://a',\n  7,\n]", Format::Toml);
        assert!(toml.contains("line 3") && !toml.contains('\n'), "{toml}");
        assert!(shown("endpoints = [", Format::Toml).contains("line 1"));
        assert_eq!(read(b"\xff", Format::Toml).unwrap_err(), "it is not UTF-8");
    }
}
