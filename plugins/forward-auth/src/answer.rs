//! An answer of the service, and where answers are kept.

use sluice_filter::{crypto, http::Incoming, kv, kv::Reservation, prelude::*};

use super::config::{Cache, Config};

/// A larger body of a refusal is not kept.
const MAX_KEPT_BODY: usize = 4 << 10;
/// How long one request may ask before others that wait for nothing ask as well.
const RESERVED_MS: u64 = 5_000;

/// What the service has decided, with the fields that somebody is to get.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// None where the status decides nothing: it is neither 2xx, which allows, nor 3xx or 4xx, which refuse.
    pub(crate) fn of(incoming: Incoming, config: &Config) -> Option<Answer> {
        let allows = (200..=299).contains(&incoming.status);
        if !allows && !(300..=499).contains(&incoming.status) {
            return None;
        }
        let wanted = |name: &String| {
            let lists: &[&[String]] = match allows {
                true => &[&config.upstream_headers, &config.client_headers],
                false => &[&config.refusal_headers],
            };
            lists.iter().any(|list| list.contains(name)) || allows && config.consumer_header.as_ref() == Some(name)
        };
        let headers = incoming.headers.into_iter().filter_map(|field| {
            let name = field.name.to_ascii_lowercase();
            let value = wanted(&name).then_some(field.value)?;
            // HTTP/1 can't carry them, but a value may come from elsewhere.
            (!value.contains(|c: char| c.is_control() && c != '\t')).then_some((name, value))
        });
        let headers = headers.collect();
        Some(Answer { status: incoming.status, headers, body: if allows { Vec::new() } else { incoming.body } })
    }

    pub(crate) fn allows(&self) -> bool {
        (200..=299).contains(&self.status)
    }

    /// The values of a field.
    pub(crate) fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.iter().filter(move |(key, _)| key == name).map(|(_, value)| &**value)
    }

    /// The fields of these names.
    pub(crate) fn fields(&self, names: &[String]) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().filter(|(name, _)| names.contains(name)).map(|(name, value)| (&**name, &**value))
    }
}

/// What is kept for a request.
pub(crate) enum Cached {
    /// Nothing is kept of such a request.
    Off,
    /// Nothing yet, under this key.
    Miss(String),
    Hit(Answer),
}

impl Cached {
    pub(crate) fn find(cache: &Cache, request: &Request) -> Result<Cached, Error> {
        let Some(key) = key(cache, request)? else { return Ok(Cached::Off) };
        match kv::get_or_reserve(&cache.space, &key, RESERVED_MS) {
            Ok(Reservation::Found(bytes)) => Ok(match serde_json::from_slice(&bytes) {
                Ok(answer) => Cached::Hit(answer),
                Err(_) => Cached::Miss(key),
            }),
            Ok(Reservation::Reserved) => Ok(Cached::Miss(key)),
            // Another request is asking, or the space is full: this one asks, too, and keeps nothing.
            Ok(Reservation::Pending) | Err(Error::TooLarge(_) | Error::Unavailable(_) | Error::Timeout) => {
                Ok(Cached::Off)
            }
            Err(error) => Err(error),
        }
    }
}

/// A digest of what decides about the answer: it has a fixed length, and no credential can be read from it. None for a request that has
/// none of what tells callers apart, or several values of it: strangers share no answer.
fn key(cache: &Cache, request: &Request) -> Result<Option<String>, Error> {
    let mut text = Vec::new();
    let mut of_caller = false;
    for part in &cache.key {
        if part.is_repeated(request)? {
            return Ok(None);
        }
        match part.value(request)? {
            Some(value) => {
                of_caller |= part.is_of_caller();
                // With its length, so that the end of a value is never the begin of the next one.
                text.extend_from_slice(&(value.len() as u64).to_le_bytes());
                text.extend_from_slice(value.as_bytes());
            }
            None => text.extend_from_slice(&u64::MAX.to_le_bytes()),
        }
    }
    if !of_caller {
        return Ok(None);
    }
    let digest = crypto::hmac("sha-256", cache.secret.as_bytes(), &text)?;
    Ok(Some(digest.iter().map(|byte| format!("{byte:02x}")).collect()))
}

/// Keeps an answer that may be kept, or gives the reservation back.
pub(crate) fn keep(cache: &Cache, key: &str, answer: Option<&Answer>) -> Result<(), Error> {
    let fit = answer.filter(|answer| {
        (answer.allows() || cache.refusals.contains(&answer.status)) && answer.body.len() <= MAX_KEPT_BODY
    });
    let kept = match fit {
        Some(answer) => kv::set(&cache.space, key, &serde_json::to_vec(answer)?, Some(cache.ttl.as_millis())),
        None => kv::delete(&cache.space, key).map(drop),
    };
    match kept {
        Ok(()) | Err(Error::TooLarge(_) | Error::Unavailable(_) | Error::Timeout) => Ok(()),
        Err(error) => Err(error),
    }
}
