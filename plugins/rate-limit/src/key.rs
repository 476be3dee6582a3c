//! Whom a limit counts: one part or a combination of parts of the request.

use std::fmt::{self, Write};

use serde::{
    Deserialize, Deserializer,
    de::{self, SeqAccess, Visitor},
};
use sluice_filter::{Error, Request, context, crypto, is_token};

/// A longer value counts by its hash: whoever sends it must not decide how long a key gets.
const LONGEST_VALUE: usize = 64;
/// A longer key counts by its hash; the gateway takes 1,024 bytes.
const LONGEST_KEY: usize = 1000;

/// What a limit is kept for; without parts, all requests together.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Key(Vec<Part>);

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Global,
    Ip,
    Consumer,
    Route,
    Header(String),
    Claim(Vec<String>),
}

impl Default for Key {
    fn default() -> Self {
        Self(vec![Part::Ip])
    }
}

impl Key {
    /// The headers that it is made of.
    pub(crate) fn headers(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Header(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// The key of a request, or none when it lacks a part (no such header, claim or consumer).
    pub(crate) fn of(&self, request: &Request, name: &str) -> Result<Option<String>, Error> {
        let mut key = String::with_capacity(64);
        key.push_str(name);
        for part in &self.0 {
            let value = match part {
                Part::Global => continue,
                Part::Ip => Some(network(request.client_address()?)),
                Part::Consumer => context::consumer()?,
                Part::Route => Some(request.route().name()?),
                Part::Header(name) => request.header(name)?,
                Part::Claim(path) => {
                    let path: Vec<&str> = path.iter().map(String::as_str).collect();
                    context::path("auth.claims", &path)?.and_then(context::into_text)
                }
            };
            let Some(value) = value else { return Ok(None) };
            // The length keeps `a` + `b:c` and `a:b` + `c` apart, and no length looks like a hash.
            key.push('|');
            if value.len() > LONGEST_VALUE {
                key.push_str(&hashed(&value)?);
            } else {
                key.push_str(&value.len().to_string());
                key.push(':');
                key.push_str(&value);
            }
        }
        Ok(Some(if key.len() > LONGEST_KEY { hashed(&key)? } else { key }))
    }
}

/// `#` and the SHA-256 in hex.
fn hashed(text: &str) -> Result<String, Error> {
    let mut out = String::with_capacity(65);
    out.push('#');
    for byte in crypto::hash("sha-256", text.as_bytes())? {
        let _ = write!(out, "{byte:02x}");
    }
    Ok(out)
}

/// An IPv6 caller has a whole /64 to call from, and is counted by it.
fn network(address: String) -> String {
    match address.parse::<std::net::Ipv6Addr>() {
        Ok(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => v4.to_string(),
            None => {
                let [a, b, c, d, ..] = v6.segments();
                format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
            }
        },
        Err(_) => address,
    }
}

impl Part {
    fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None => match text {
                "global" => Ok(Self::Global),
                "ip" => Ok(Self::Ip),
                "consumer" => Ok(Self::Consumer),
                "route" => Ok(Self::Route),
                _ => Err(format!(
                    "unknown key `{text}`, expected `ip`, `consumer`, `route`, `global`, `header:NAME` or `claim:NAME`"
                )),
            },
            Some(("header", name)) if name.eq_ignore_ascii_case("host") => {
                Err("no filter sees the field `host`: nobody would be limited by it".to_owned())
            }
            Some(("header", name)) if !is_token(name) => Err(format!("`{name}` is not a header name")),
            Some(("header", name)) => Ok(Self::Header(name.to_ascii_lowercase())),
            Some(("claim", name)) if !name.is_empty() => Ok(Self::Claim(name.split('.').map(str::to_owned).collect())),
            Some(_) => Err(format!("unknown key `{text}`, expected `header:NAME` or `claim:NAME`")),
        }
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
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Key, A::Error> {
                let mut parts = Vec::new();
                while let Some(text) = list.next_element::<String>()? {
                    parts.push(Part::parse(&text).map_err(de::Error::custom)?);
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
