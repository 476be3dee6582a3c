//! What is kept in `kv`: answers by a keyed digest of their token, who is asking now, and how the server has been doing.

use sluice_filter::{Claims, clock, crypto, kv, kv::Reservation, prelude::*, secrets, shortened};

use super::{
    changes_nothing,
    config::Config,
    server::{self, Answer, Failure},
};

/// How much longer than a call one request keeps others from asking.
const MARGIN_MS: u64 = 500;
/// How long it may take until those who wait hear of a call that was not answered in time.
const TELLING_MS: u32 = 50;
/// How long those who have waited for a call find out that it has failed.
const FAILED_MS: u64 = 1_000;
/// The server is away.
const FAILED: &[u8] = b"failed";
/// It has answered, and nothing clear.
const UNCLEAR: &[u8] = b"unclear";
/// Bytes of a key of `kv` that has the URL of the server.
const LONGEST_KEY: usize = 1024;

/// An answer as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// When the server gave it, in milliseconds since the Unix epoch. Filters that ask the same server share answers, and each has its own time.
    #[serde(default)]
    asked: u64,
    /// Until when it counts at the most, in milliseconds since the Unix epoch.
    fresh_until: u64,
    /// The answer of an active token.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    active: Option<String>,
}

/// What is known of a token.
pub(crate) enum Known {
    Answer(Answer),
    /// The server is away; the answer is an old one.
    Stale(String),
    /// Nothing: the server is away, or its answer is not clear.
    Nothing,
}

/// How the server has been doing.
#[derive(Serialize, Deserialize, Default)]
struct Health {
    failures: u32,
    /// Not to be asked before, in milliseconds since the Unix epoch.
    closed_at: u64,
}

/// Whether the server may be asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leave {
    Yes,
    No,
    /// This request is the one that tries a server which was left alone.
    Try,
}

/// Finds out about a token: from what is kept, or from the server.
pub(crate) fn find(config: &Config, request: &Request, token: &str) -> Result<Known, Error> {
    let now = clock::now_us() / 1000;
    let digest = digest(config, token)?;
    let (answer_key, turn_key) = (format!("a{digest}"), format!("t{digest}"));
    let space = &config.cache.space;
    let kept = match kept(config, &answer_key, now)? {
        Some((answer, true)) => return Ok(Known::Answer(answer)),
        old => old.map(|(answer, _)| answer),
    };
    let old = || match &kept {
        Some(Answer::Active(text)) if config.stale_if_error.is_some() => Known::Stale(text.clone()),
        _ => Known::Nothing,
    };
    let leave = may_ask(config, now)?;
    if leave == Leave::No {
        return Ok(old());
    }
    // Who does not ask after all leaves the try to another request.
    let unasked = |known: Known| match leave {
        Leave::Try => kv::delete(space, &key_of("try", config)?).map(|_| known),
        Leave::Yes | Leave::No => Ok(known),
    };
    // What the request that has asked found out.
    let told = |word: &[u8]| if word == FAILED { old() } else { Known::Nothing };
    // One request asks for all that have the token.
    let is_ours = match kv::get_or_reserve(space, &turn_key, config.timeout.as_millis() + MARGIN_MS) {
        Ok(Reservation::Reserved) => true,
        Ok(Reservation::Found(word)) => return unasked(told(&word)),
        // `limits.wall` is for this and a call of its own.
        Ok(Reservation::Pending) => match kv::wait(space, &turn_key, config.timeout_ms().saturating_add(TELLING_MS)) {
            Ok(Some(word)) => return unasked(told(&word)),
            // A call does not take so long: the client of the request that asks has left in the middle of it.
            Err(Error::Timeout) => match old() {
                Known::Stale(text) if changes_nothing(request)? => return unasked(Known::Stale(text)),
                _ => false,
            },
            Ok(None) => match self::kept(config, &answer_key, clock::now_us() / 1000)? {
                Some((answer, true)) => return unasked(Known::Answer(answer)),
                // It could not be kept.
                _ => false,
            },
            Err(error) => return Err(error),
        },
        // A full space: nothing can be kept, and each request asks.
        Err(Error::TooLarge(_)) => false,
        Err(error) => return Err(error),
    };
    let asked = server::ask(config, token);
    let now = clock::now_us() / 1000;
    match &asked {
        Ok(answer) => {
            keep(config, &answer_key, answer, now)?;
            report(config, true, now)?;
        }
        Err(Failure::Away(_)) => report(config, false, now)?,
        // It says nothing of how the server is doing: a caller must not be able to have it left alone.
        Err(Failure::Unclear(_) | Failure::Wrong(_)) => kv::delete(space, &key_of("try", config)?).map(drop)?,
    }
    if is_ours {
        let told = match &asked {
            Err(Failure::Away(_)) => kv::set(space, &turn_key, FAILED, Some(FAILED_MS)),
            Err(Failure::Unclear(_)) => kv::set(space, &turn_key, UNCLEAR, Some(FAILED_MS)),
            Ok(_) | Err(_) => kv::delete(space, &turn_key).map(drop),
        };
        told.or_else(unless_full)?;
    }
    match asked {
        Ok(answer) => Ok(Known::Answer(answer)),
        Err(Failure::Away(why)) => {
            log::warn(&format!("the introspection server: {why}"));
            Ok(old())
        }
        // A server that answers is not away: it may have forgotten a token that was revoked.
        Err(Failure::Unclear(why)) => {
            log::warn(&format!("the introspection server: {why}"));
            Ok(Known::Nothing)
        }
        Err(Failure::Wrong(error)) => Err(error),
    }
}

/// What is kept of a token, and whether it still counts without the server.
fn kept(config: &Config, key: &str, now: u64) -> Result<Option<(Answer, bool)>, Error> {
    let kept = kv::get(&config.cache.space, key)?.and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok());
    Ok(kept.and_then(|kept| {
        let (ttl, old) = match kept.active {
            Some(_) => (config.cache.ttl, config.stale_if_error.map_or(0, |time| time.as_millis())),
            None => (config.cache.negative_ttl, 0),
        };
        let fresh_until = kept.fresh_until.min(kept.asked.saturating_add(ttl.as_millis()));
        let is_of_use = now < fresh_until.saturating_add(old);
        is_of_use.then(|| (kept.active.map_or(Answer::Inactive, Answer::Active), now < fresh_until))
    }))
}

/// Keeps an answer: not longer than the token is good, nor than the config says.
fn keep(config: &Config, key: &str, answer: &Answer, now: u64) -> Result<(), Error> {
    let (ttl, old, active) = match answer {
        Answer::Inactive => (config.cache.negative_ttl.as_millis(), 0, None),
        Answer::Active(text) => {
            let expires = Claims::parse(text).and_then(|claims| claims.date("exp").ok().flatten());
            // Saturates: a time before now, or one that is none, leaves nothing.
            let left = expires.map_or(u64::MAX, |expires| ((expires * 1000.0) as u64).saturating_sub(now));
            let ttl = config.cache.ttl.as_millis().min(left);
            let old = config.stale_if_error.map_or(0, |time| time.as_millis()).min(left - ttl);
            (ttl, old, Some(text.clone()))
        }
    };
    if ttl == 0 {
        return Ok(());
    }
    let kept = serde_json::to_vec(&Kept { asked: now, fresh_until: now + ttl, active })?;
    kv::set(&config.cache.space, key, &kept, Some(ttl + old)).or_else(unless_full)
}

/// A full space costs calls, and no caller.
fn unless_full(error: Error) -> Result<(), Error> {
    if matches!(error, Error::TooLarge(_)) { Ok(()) } else { Err(error) }
}

/// Whether the server may be asked. When it was left alone for long enough, one request tries.
fn may_ask(config: &Config, now: u64) -> Result<Leave, Error> {
    let Some(health) = health(config)? else { return Ok(Leave::Yes) };
    if config.circuit.failures == 0 || health.failures < config.circuit.failures {
        return Ok(Leave::Yes);
    }
    if now < health.closed_at {
        return Ok(Leave::No);
    }
    let tries =
        kv::get_or_reserve(&config.cache.space, &key_of("try", config)?, config.timeout.as_millis() + MARGIN_MS);
    Ok(match tries {
        Ok(Reservation::Reserved) | Err(Error::TooLarge(_)) => Leave::Try,
        Ok(Reservation::Found(_) | Reservation::Pending) | Err(_) => Leave::No,
    })
}

fn health(config: &Config) -> Result<Option<Health>, Error> {
    Ok(kv::get(&config.cache.space, &key_of("server", config)?)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// Counts how a call has ended. Workers that count at the same time may lose one of them: the next failure makes up for it.
fn report(config: &Config, good: bool, now: u64) -> Result<(), Error> {
    let space = &config.cache.space;
    let (server, tries) = (key_of("server", config)?, key_of("try", config)?);
    let before = health(config)?;
    if good {
        if before.is_some() {
            kv::delete(space, &server)?;
            kv::delete(space, &tries)?;
        }
        return Ok(());
    }
    let failures = before.unwrap_or_default().failures.saturating_add(1);
    let health = Health { failures, closed_at: now + config.circuit.open.as_millis() };
    kv::delete(space, &tries)?;
    kv::set(space, &server, &serde_json::to_vec(&health)?, Some(3_600_000)).or_else(unless_full)
}

/// The key of what is kept of a server. Filters that ask different ones may share a space.
fn key_of(what: &str, config: &Config) -> Result<String, Error> {
    shortened(format!("{what} {}:{}{}", config.url.len(), config.url, config.client_id), LONGEST_KEY)
}

/// A token's name in the store: no token can be read from it, nor tried against it without the secret.
fn digest(config: &Config, token: &str) -> Result<String, Error> {
    let secret = secrets::get(&config.client_secret)?;
    let text = format!("{}:{}{}:{}{token}", config.url.len(), config.url, config.client_id.len(), config.client_id);
    let digest = crypto::hmac("sha-256", secret.as_bytes(), text.as_bytes())?;
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}
