//! What a message counts: a number, what a header says, or the size of its body.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor, value::MapAccessDeserializer},
};
use sluice_filter::{ByteSize, is_token};

/// The most that one message counts.
const MOST: u64 = 1_000_000_000_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cost {
    of: Source,
    /// Divides what was found; a rest counts as a whole one.
    per: u64,
    /// Stands for the length of a body that nobody has announced.
    unknown: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Fixed(u64),
    Header(String),
    Body,
}

impl Cost {
    pub(crate) const ONE: Cost = Cost { of: Source::Fixed(1), per: 1, unknown: 1 };

    /// The header that it is read from.
    pub(crate) fn header(&self) -> Option<&str> {
        match &self.of {
            Source::Header(name) => Some(name),
            Source::Fixed(_) | Source::Body => None,
        }
    }

    /// What a message counts, of which `field` finds a header. `is_empty`: without a length it is taken to have no body.
    pub(crate) fn of<E>(&self, is_empty: bool, field: impl Fn(&str) -> Result<Option<String>, E>) -> Result<u64, E> {
        let found = match &self.of {
            Source::Fixed(cost) => *cost,
            // Whoever sends nonsense is counted as if it had sent nothing.
            Source::Header(name) => number(field(name)?).unwrap_or(1),
            Source::Body => match number(field("content-length")?) {
                Some(length) => length,
                None if is_empty => 0,
                None => self.unknown,
            },
        };
        Ok(found.div_ceil(self.per).clamp(1, MOST))
    }
}

fn number(text: Option<String>) -> Option<u64> {
    text?.trim().parse().ok()
}

fn source(text: &str) -> Result<Source, String> {
    match text.split_once(':') {
        Some(("header", name)) if is_token(name) => Ok(Source::Header(name.to_ascii_lowercase())),
        Some(("header", name)) => Err(format!("`{name}` is not a header name")),
        None if text == "body" => Ok(Source::Body),
        _ => Err(format!("expected a number, \"header:NAME\" or \"body\", found \"{text}\"")),
    }
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(deny_unknown_fields)]
struct Fields {
    of: String,
    #[serde(default = "one")]
    per: ByteSize,
    #[serde(default = "unknown")]
    unknown: ByteSize,
}

fn one() -> ByteSize {
    ByteSize(1)
}

fn unknown() -> ByteSize {
    ByteSize(64 << 10)
}

impl<'de> Deserialize<'de> for Cost {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl<'de> Visitor<'de> for Written {
            type Value = Cost;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, \"header:NAME\", \"body\", or a table with `of`")
            }
            fn visit_u64<E: de::Error>(self, cost: u64) -> Result<Cost, E> {
                match cost {
                    1..=MOST => Ok(Cost { of: Source::Fixed(cost), per: 1, unknown: 1 }),
                    _ => Err(E::custom(format!("expected 1 to {MOST}"))),
                }
            }
            fn visit_i64<E: de::Error>(self, cost: i64) -> Result<Cost, E> {
                self.visit_u64(u64::try_from(cost).unwrap_or(0))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Cost, E> {
                Ok(Cost { of: source(text).map_err(E::custom)?, per: 1, unknown: unknown().0 })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Cost, A::Error> {
                let Fields { of, per, unknown } = Fields::deserialize(MapAccessDeserializer::new(map))?;
                if per.0 == 0 {
                    return Err(de::Error::custom("expected a `per` above 0"));
                }
                Ok(Cost { of: source(&of).map_err(de::Error::custom)?, per: per.0, unknown: unknown.0 })
            }
        }
        deserializer.deserialize_any(Written)
    }
}
