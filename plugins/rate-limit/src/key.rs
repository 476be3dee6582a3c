//! Whom a limit counts: one part or a combination of parts of the request.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use sluice_filter::{Attribute, Error, Request, network, shortened};

/// A longer value counts by its hash: whoever sends it must not decide how long a key gets.
const LONGEST_VALUE: usize = 64;
/// A longer key counts by its hash; the gateway takes 1,024 bytes.
const LONGEST_KEY: usize = 1000;

/// The keys that all limits of a request can have: as many as the gateway counts at once.
pub(crate) const MOST_KEYS: usize = 16;

/// What a limit is kept for; without parts, all requests together.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Key(Vec<Part>);

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Global,
    Of(Attribute),
}

impl Default for Key {
    fn default() -> Self {
        Self(vec![Part::Of(Attribute::Ip)])
    }
}

impl Key {
    /// What it is made of.
    pub(crate) fn attributes(&self) -> impl Iterator<Item = &Attribute> {
        self.0.iter().filter_map(|part| match part {
            Part::Of(attribute) => Some(attribute),
            Part::Global => None,
        })
    }

    /// The keys of a request: one, or none when it lacks a part (no such header, claim or consumer). A header or a cookie that is there several
    /// times gives a key for each of its values, since nobody knows which one the upstream takes. With more than [`MOST_KEYS`] they are not whole.
    pub(crate) fn of(&self, request: &Request, name: &str) -> Result<Vec<String>, Error> {
        let mut key = String::with_capacity(64);
        key.push_str(name);
        let mut keys = vec![key];
        for part in &self.0 {
            let value = match part {
                Part::Global => continue,
                Part::Of(Attribute::Ip) => Some(network(request.client_address()?)),
                Part::Of(attribute @ (Attribute::Header(_) | Attribute::Cookie(_))) => {
                    keys = each(&keys, &attribute.values(request)?)?;
                    continue;
                }
                Part::Of(attribute) => attribute.value(request)?,
            };
            let Some(value) = value else { return Ok(Vec::new()) };
            for key in &mut keys {
                add(key, &value)?;
            }
        }
        keys.into_iter().map(|key| shortened(key, LONGEST_KEY)).collect()
    }
}

/// Each key with each value.
fn each(keys: &[String], values: &[String]) -> Result<Vec<String>, Error> {
    let pairs = keys.iter().flat_map(|key| values.iter().map(move |value| (key, value)));
    let with = |(key, value): (&String, &String)| {
        let mut key = key.clone();
        add(&mut key, value).map(|()| key)
    };
    pairs.take(MOST_KEYS + 1).map(with).collect()
}

/// Adds a value to a key.
fn add(key: &mut String, value: &str) -> Result<(), Error> {
    // The length keeps `a` + `b:c` and `a:b` + `c` apart, and no length looks like a hash.
    key.push('|');
    if value.len() > LONGEST_VALUE {
        key.push_str(&shortened(value.to_owned(), LONGEST_VALUE)?);
    } else {
        key.push_str(&value.len().to_string());
        key.push(':');
        key.push_str(value);
    }
    Ok(())
}

impl Part {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "global" { Ok(Self::Global) } else { text.parse().map(Self::Of) }
    }
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One;
        impl<'de> Visitor<'de> for One {
            type Value = Part;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key such as \"ip\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Part, E> {
                Part::parse(text).map_err(E::custom)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Part, A::Error> {
                Attribute::deserialize(MapAccessDeserializer::new(map)).map(Part::Of)
            }
        }
        deserializer.deserialize_any(One)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Parts;
        impl<'de> Visitor<'de> for Parts {
            type Value = Key;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key such as \"ip\", or a list of them")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Key, E> {
                Part::parse(text).map(|part| Key(vec![part])).map_err(E::custom)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Key, A::Error> {
                Attribute::deserialize(MapAccessDeserializer::new(map)).map(|one| Key(vec![Part::Of(one)]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Key, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = list.next_element()? {
                    parts.push(part);
                }
                if parts.is_empty() {
                    return Err(de::Error::custom("an empty list; say `global` for one counter for all"));
                }
                Ok(Key(parts))
            }
        }
        deserializer.deserialize_any(Parts)
    }
}
