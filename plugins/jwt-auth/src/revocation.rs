//! Tokens that are refused before they expire: a list in a space of `kv`, and the endpoint that changes it.

use serde::Deserialize;
use sluice_filter::{Claims, Duration, clock, kv, prelude::*, shortened};

use super::{config::Rule, refusal::unavailable};

/// Bytes of a key of `kv`.
const LONGEST_KEY: usize = 1024;
/// Bytes of a request that changes the list.
const LONGEST_REQUEST: u64 = 8 << 10;

/// Where the list is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(Debug))]
pub(crate) struct Revocation {
    #[serde(default = "default_space")]
    pub(crate) space: String,
    /// The filter answers requests that change the list, in place of passing them on.
    #[serde(default)]
    pub(crate) endpoint: bool,
    #[serde(default = "default_keep")]
    keep: Duration,
}

/// What a request asks for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    #[serde(default)]
    issuer: Option<String>,
    #[serde(default)]
    jti: Option<String>,
    #[serde(default)]
    expires: Option<u64>,
    #[serde(default)]
    sub: Option<String>,
    #[serde(default)]
    issued_before: Option<u64>,
}

impl Revocation {
    pub(crate) fn check(&self, key: &str) -> Result<(), ConfigError> {
        if !(1_000..=366 * 86_400_000).contains(&self.keep.as_millis()) {
            return Err(ConfigError::new(format!("{key}.keep"), "expected 1s to 366d"));
        }
        Ok(())
    }

    /// Whether a token is on the list: by its `jti`, or by its `sub` and when it was issued.
    pub(crate) fn is_revoked(&self, claims: &Claims<'_>) -> Result<bool, Error> {
        let issuer = claims.text("iss").unwrap_or_default();
        if let Some(jti) = claims.text("jti")
            && kv::get(&self.space, &key("jti", issuer, jti)?)?.is_some()
        {
            return Ok(true);
        }
        let Some(sub) = claims.text("sub") else { return Ok(false) };
        let Some(before) = kv::get(&self.space, &key("sub", issuer, sub)?)? else { return Ok(false) };
        let before: u64 = std::str::from_utf8(&before).ok().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX);
        // A token that does not say when it was issued may be an old one.
        Ok(claims.date("iat").ok().flatten().is_none_or(|issued| issued < before as f64))
    }

    /// Answers a request that changes the list.
    pub(crate) fn change(&self, request: &Request, issuers: &[String], leeway: Duration) -> Result<Verdict, Error> {
        let change: Change = match serde_json::from_slice(&request.body()?) {
            Ok(change) => change,
            Err(error) => return malformed(&format!("not a revocation: {error}")),
        };
        let issuer = match (&change.issuer, issuers) {
            (Some(issuer), _) => issuer,
            (None, [issuer]) => issuer,
            (None, _) => return malformed("expected `issuer`: the `iss` of the tokens"),
        };
        let now = clock::now_seconds();
        let (key, value, keep_ms) = match (change.jti, change.sub) {
            (Some(jti), None) if change.issued_before.is_none() => {
                // As long as the token could be used, with room for clocks that differ.
                let room = leeway.as_millis().div_ceil(1000).saturating_add(3600);
                let left = change.expires.map(|expires| expires.saturating_sub(now).saturating_add(room));
                let keep_ms = left.map_or(self.keep.as_millis(), |left| left.saturating_mul(1000));
                (key("jti", issuer, &jti)?, 0, keep_ms.min(366 * 86_400_000))
            }
            (None, Some(sub)) if change.expires.is_none() => {
                (key("sub", issuer, &sub)?, change.issued_before.unwrap_or(now + 1), self.keep.as_millis())
            }
            _ => {
                return malformed("expected `jti`, maybe with `expires`, or `sub`, maybe with `issued_before`");
            }
        };
        let changed = match request.method()?.as_str() {
            "DELETE" => kv::delete(&self.space, &key).map(drop),
            _ => kv::set(&self.space, &key, value.to_string().as_bytes(), Some(keep_ms)).and_then(|()| {
                // With `on_unavailable = "open"` nothing is kept while the state is away, and the caller must not be told otherwise.
                let is_kept = kv::get(&self.space, &key)?.is_some();
                if is_kept { Ok(()) } else { Err(Error::Unavailable("the entry was not kept".into())) }
            }),
        };
        match changed {
            Ok(()) => Response::draft().status(204).header("cache-control", "no-store").send(),
            Err(Error::TooLarge(_)) => {
                let problem = Problem::new(507, "Insufficient Storage");
                let detail = "the list of revoked tokens is full: raise grants.kv_quota";
                problem.detail(detail).draft().reason("revocations-full").send()
            }
            Err(error @ (Error::Unavailable(_) | Error::Timeout)) => {
                log::warn(&format!("the list of revoked tokens can't be changed: {error}"));
                unavailable("revocations-unavailable", "the list of revoked tokens can't be changed now")
            }
            Err(error) => Err(error),
        }
    }
}

/// Asks for the body of a request that changes the list. A rule has to say who may.
pub(crate) fn take_request(request: &Request, rule: Option<&Rule>) -> Result<Verdict, Error> {
    if rule.is_none_or(|rule| rule.roles.is_empty() && rule.scopes.is_empty()) {
        let problem = Problem::new(403, "Forbidden").detail("no rule says who may revoke tokens");
        return problem.draft().reason("not-allowed").header("cache-control", "no-store").send();
    }
    match request.method()?.as_str() {
        "POST" | "DELETE" => request.want_body(LONGEST_REQUEST).map(|()| Verdict::Continue),
        _ => {
            let draft = Problem::new(405, "Method Not Allowed").draft().reason("bad-method");
            // Caches may keep a 405 by themselves (RFC 9110 §15.1).
            draft.header("allow", "POST, DELETE").header("cache-control", "no-store").send()
        }
    }
}

fn malformed(detail: &str) -> Result<Verdict, Error> {
    Problem::new(400, "Bad Request").detail(detail).draft().reason("bad-revocation").send()
}

/// The key of an entry. Lengths keep issuer and name apart: no caller can make one that is another's.
fn key(kind: &str, issuer: &str, name: &str) -> Result<String, Error> {
    shortened(format!("{kind} {}:{issuer}{name}", issuer.len()), LONGEST_KEY)
}

fn default_space() -> String {
    "revoked".to_owned()
}

fn default_keep() -> Duration {
    Duration::from_secs(30 * 86_400)
}
