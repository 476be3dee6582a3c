//! An answer of the service, and where answers are kept.

use sluice_filter::{crypto, http::Incoming, kv, kv::Reservation, prelude::*};

use super::config::{Cache, Config};

/// A larger body of a refusal is not kept.
const MAX_KEPT_BODY: usize = 4 << 10;
/// How much longer than a call one request keeps others from asking.
const MARGIN_MS: u64 = 500;
/// How long it may take until those who wait hear of a call that was not answered in time.
const TELLING_MS: u32 = 50;
/// How long those who have waited for a call find out that nothing was decided, and those who come meanwhile.
const UNDECIDED_MS: u64 = 100;
const UNDECIDED: &[u8] = b"undecided";

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
    /// Nothing, and nothing will be.
    Off,
    /// Nothing yet: this request asks for all that have its key.
    Miss(String),
    /// The one that was to ask has not been heard of: this request asks, and what it gets is kept unless another one was quicker.
    Late(String),
    Hit(Answer),
    /// The one that has asked for all got no decision.
    Undecided,
}

impl Cached {
    /// Looks it up. While another request asks for its key, it waits a little longer than the `timeout_ms` of a call. `limits.wall` is for
    /// this and a call of its own.
    pub(crate) fn find(cache: &Cache, request: &Request, timeout_ms: u32) -> Result<Cached, Error> {
        let Some(key) = key(cache, request)? else { return Ok(Cached::Off) };
        let reserve = || kv::get_or_reserve(&cache.space, &key, u64::from(timeout_ms) + MARGIN_MS);
        let found = match reserve() {
            Ok(Reservation::Pending) => match kv::wait(&cache.space, &key, timeout_ms.saturating_add(TELLING_MS)) {
                Ok(Some(bytes)) => Ok(Reservation::Found(bytes)),
                // The answer is not one to be kept, or the reservation has expired. One of those who have waited asks for those who come; the
                // others ask for themselves, as they would wait for one another without end where nothing is kept.
                Ok(None) => reserve(),
                // A call does not take so long: the client of the request that asks has left in the middle of it.
                Err(Error::Timeout) => return Ok(Cached::Late(key)),
                Err(error) => Err(error),
            },
            found => found,
        };
        match found {
            Ok(Reservation::Found(bytes)) => Ok(Cached::read(&bytes)),
            Ok(Reservation::Reserved) => Ok(Cached::Miss(key)),
            Ok(Reservation::Pending) => Ok(Cached::Off),
            // The space is full: this one asks, and keeps nothing.
            Err(error) => unless_away(error).map(|()| Cached::Off),
        }
    }

    fn read(bytes: &[u8]) -> Cached {
        match serde_json::from_slice(bytes) {
            Ok(answer) => Cached::Hit(answer),
            Err(_) if bytes == UNDECIDED => Cached::Undecided,
            // Of another version.
            Err(_) => Cached::Off,
        }
    }
}

/// What is wrong with the store costs calls, and no caller.
fn unless_away(error: Error) -> Result<(), Error> {
    match error {
        Error::TooLarge(_) | Error::Unavailable(_) | Error::Timeout => Ok(()),
        error => Err(error),
    }
}

/// A digest of what decides about the answer, the config with it: it has a fixed length, and no credential can be read from it. None for a
/// request that has none of what tells callers apart, or several values of it: strangers share no answer.
fn key(cache: &Cache, request: &Request) -> Result<Option<String>, Error> {
    // With lengths, so that the end of one part is never the begin of the next one.
    let mut text = (cache.scope.len() as u64).to_le_bytes().to_vec();
    text.extend_from_slice(cache.scope.as_bytes());
    let mut of_caller = false;
    for part in &cache.key {
        if part.is_repeated(request)? {
            return Ok(None);
        }
        match part.value(request)? {
            Some(value) => {
                of_caller |= part.is_of_caller();
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

/// Whether an answer is one to be kept.
fn may_be_kept(cache: &Cache, answer: &Answer) -> bool {
    (answer.allows() || cache.refusals.contains(&answer.status)) && answer.body.len() <= MAX_KEPT_BODY
}

/// Keeps an answer that may be kept where none is. Nothing is told to others: the reservation is not that of this request.
pub(crate) fn keep_late(cache: &Cache, key: &str, answer: &Answer) -> Result<(), Error> {
    if !may_be_kept(cache, answer) {
        return Ok(());
    }
    let kept = kv::compare_and_swap(&cache.space, key, None, &serde_json::to_vec(answer)?, Some(cache.ttl.as_millis()));
    kept.map(drop).or_else(unless_away)
}

/// Keeps an answer that may be kept, and ends the reservation in any case. No answer is no decision, which those who wait are told.
pub(crate) fn keep(cache: &Cache, key: &str, answer: Option<&Answer>) -> Result<(), Error> {
    let space = &cache.space;
    let kept = match answer {
        None => kv::set(space, key, UNDECIDED, Some(UNDECIDED_MS)),
        Some(answer) => match Some(answer).filter(|answer| may_be_kept(cache, answer)) {
            Some(answer) => kv::set(space, key, &serde_json::to_vec(answer)?, Some(cache.ttl.as_millis())),
            None => kv::delete(space, key).map(drop),
        },
    };
    kept.or_else(|error| {
        unless_away(error)?;
        kv::delete(space, key).map(drop).or_else(unless_away)
    })
}
