//! Limits of requests at the same time. Each request has a lease in a list that is kept for its key, and gives it back when its exchange ends. A
//! gateway that crashes gives back nothing, and neither does one that is too busy to say that an exchange has ended: so a lease expires.

use serde::{Deserialize, Serialize};
use sluice_filter::{ConfigError, Duration, Error, Request, clock, kv, random};

use crate::key::Key;
use crate::plan::{Amount, Plans};
use crate::policy::MAX_WINDOW_MS;

/// The space that the leases are in.
pub(crate) const SPACE: &str = "rate-limit";
/// Each request reads and writes the list of its key.
const MAX_AMOUNT: u64 = 1_000;
/// How often a change is tried that others are faster at.
const TRIES: usize = 32;
/// Bytes of a lease in the list: its number, and when it expires, in milliseconds since the Unix epoch.
const ENTRY: usize = 16;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    key: Key,
    amount: u64,
    #[serde(default)]
    plans: Plans,
    #[serde(default = "default_lease")]
    lease: Duration,
}

fn default_lease() -> Duration {
    Duration::from_secs(60)
}

/// A limit ready to be asked.
pub(crate) struct Concurrency {
    pub(crate) name: String,
    pub(crate) key: Key,
    amount: u64,
    pub(crate) plans: Plans,
    lease_ms: u64,
}

/// A place among the requests of a key.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Lease {
    key: String,
    number: u64,
}

impl Rule {
    pub(crate) fn concurrency(self, index: usize) -> Result<Concurrency, ConfigError> {
        let refuse = |key: &str, why: &str| Err(ConfigError::new(format!("concurrency[{index}].{key}"), why));
        let lease_ms = self.lease.as_millis();
        if !(1..=MAX_AMOUNT).contains(&self.amount) {
            return refuse("amount", "expected 1 to 1000");
        }
        if self.plans.amounts().any(|amount| !(1..=MAX_AMOUNT).contains(&amount)) {
            return refuse("plans", "expected amounts of 1 to 1000, or \"unlimited\"");
        }
        if !(1_000..=MAX_WINDOW_MS).contains(&lease_ms) {
            return refuse("lease", "expected 1s to 366d");
        }
        let name = self.name.unwrap_or_else(|| format!("concurrency{index}"));
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            return refuse("name", "expected letters, digits, `-`, `_` and `.`");
        }
        Ok(Concurrency { name, key: self.key, amount: self.amount, plans: self.plans, lease_ms })
    }
}

impl Concurrency {
    /// A place for a request, or none where all are taken; `Ok(Ok(None))` for a request that the limit is not about.
    pub(crate) fn enter(&self, request: &Request, plan: Option<&str>) -> Result<Result<Option<Lease>, Full>, Error> {
        let most = match plan.and_then(|plan| self.plans.of(plan)) {
            Some(Amount::Unlimited) => return Ok(Ok(None)),
            Some(Amount::Limited(amount)) => amount,
            None => self.amount,
        };
        let Some(key) = self.key.of(request, &self.name)? else { return Ok(Ok(None)) };
        let now = clock::now_us() / 1_000;
        let number = random::number()?;
        let changed = change(&key, self.lease_ms, now, |leases| {
            let has_room = (leases.len() / ENTRY) < most as usize;
            if has_room {
                leases.extend_from_slice(&number.to_le_bytes());
                leases.extend_from_slice(&(now + self.lease_ms).to_le_bytes());
            }
            has_room
        })?;
        Ok(if changed { Ok(Some(Lease { key, number })) } else { Err(Full) })
    }
}

/// All places are taken.
pub(crate) struct Full;

impl Lease {
    /// Gives the place back.
    pub(crate) fn leave(&self) -> Result<(), Error> {
        let now = clock::now_us() / 1_000;
        let left = change(&self.key, 1_000, now, |leases| {
            let at = leases.chunks_exact(ENTRY).position(|lease| lease.starts_with(&self.number.to_le_bytes()));
            if let Some(at) = at {
                leases.drain(at * ENTRY..(at + 1) * ENTRY);
            }
            at.is_some()
        });
        left.map(|_| ())
    }
}

/// Changes the list of a key, without the leases that have expired. It is kept until the last one of it has, and `ttl_ms` at least. Answers
/// whether `edit` has changed it: not if there is nothing to change, no room, or if others are always faster.
fn change(key: &str, ttl_ms: u64, now: u64, edit: impl Fn(&mut Vec<u8>) -> bool) -> Result<bool, Error> {
    for _ in 0..TRIES {
        let before = kv::get(SPACE, key)?;
        let mut leases = Vec::with_capacity(before.as_ref().map_or(0, Vec::len) + ENTRY);
        let mut last = now + ttl_ms;
        for lease in before.as_deref().unwrap_or_default().chunks_exact(ENTRY) {
            let until = lease[8..].try_into().map_or(0, u64::from_le_bytes);
            if until > now {
                leases.extend_from_slice(lease);
                last = last.max(until);
            }
        }
        if !edit(&mut leases) {
            return Ok(false);
        }
        match kv::compare_and_swap(SPACE, key, before.as_deref(), &leases, Some(last - now)) {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            // The space is full of the lists of other callers: no place is free, and that is no error of the gateway.
            Err(Error::TooLarge(_)) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}
