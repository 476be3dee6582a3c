//! Rate limits over shared counters: one call takes from all its limits or from none. The arithmetic is in `rate.rs`.

mod lease;
mod space;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use smallvec::SmallVec;

pub(crate) use self::lease::{Lease, Owed, Report};
pub use self::space::CounterSpace;
use crate::places::PlaceSpace;
use crate::rate;
use crate::{Clock, ServiceError};

/// The most limits of one call.
pub const MAX_LIMITS: usize = 16;
/// The longest key, in bytes.
pub const MAX_KEY: usize = 1024;
/// The longest window: 366 days.
pub const MAX_WINDOW_MS: u64 = 366 * 24 * 3_600_000;
/// The counters a plugin may hold at a time.
pub const MAX_COUNTERS: usize = 1_000_000;

/// How a limit counts; see `limiter.algorithm` in the WIT package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    TokenBucket,
    LeakyBucket,
    FixedWindow,
    SlidingWindow,
}

/// One limit of a call. Limits with the same key, algorithm, amount and window share a counter.
#[derive(Debug, Clone, Copy)]
pub struct Limit<'a> {
    pub key: &'a str,
    pub algorithm: Algorithm,
    pub amount: u64,
    pub window_ms: u64,
    pub burst: u64,
}

/// How one limit stands after the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub allowed: bool,
    pub remaining: u64,
    pub reset_ms: u64,
    /// `u64::MAX` when a call with this cost can never pass.
    pub retry_after_ms: u64,
}

impl Standing {
    /// Of a limit that nobody has taken anything from.
    pub(crate) fn untouched(limit: &Limit<'_>) -> Standing {
        Standing { allowed: true, remaining: rate::capacity(limit), reset_ms: 0, retry_after_ms: 0 }
    }
}

/// The standings of one call, in the order of its limits.
pub type Standings = SmallVec<[Standing; 4]>;

/// All counters of the gateway.
#[derive(Debug)]
pub struct Limiter {
    clock: Clock,
    spaces: RwLock<HashMap<Box<str>, Arc<CounterSpace>>>,
    places: RwLock<HashMap<Box<str>, Arc<PlaceSpace>>>,
}

impl Limiter {
    /// A limiter without counters.
    pub fn new(clock: Clock) -> Self {
        Limiter { clock, spaces: RwLock::default(), places: RwLock::default() }
    }

    /// The counters of a plugin, to be kept by its instances: it saves a look-up on each call.
    pub fn space(&self, namespace: &str) -> Arc<CounterSpace> {
        if let Some(space) = self.spaces.read().unwrap_or_else(PoisonError::into_inner).get(namespace) {
            return space.clone();
        }
        let mut spaces = self.spaces.write().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(CounterSpace::new(self.clock.clone(), MAX_COUNTERS));
        spaces.entry(namespace.into()).or_insert_with(new).clone()
    }

    /// The places of requests of a plugin.
    pub fn places(&self, namespace: &str) -> Arc<PlaceSpace> {
        let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(places.entry(namespace.into()).or_default())
    }

    /// Takes `cost` from every limit, or from none if one of them would not allow it; see [`CounterSpace::take`].
    pub fn take(&self, namespace: &str, limits: &[Limit<'_>], cost: u64) -> Result<Standings, ServiceError> {
        self.space(namespace).take(limits, cost)
    }
}

fn check(limit: &Limit<'_>) -> Result<(), ServiceError> {
    if limit.key.len() > MAX_KEY {
        return Err(ServiceError::long_key(limit.key, MAX_KEY));
    }
    if limit.amount == 0 {
        return Err(ServiceError::Invalid("the amount of a limit is 0".to_owned()));
    }
    if limit.window_ms == 0 || limit.window_ms > MAX_WINDOW_MS {
        return Err(ServiceError::Invalid(format!(
            "the window of {} ms is not in 1 … {MAX_WINDOW_MS}",
            limit.window_ms
        )));
    }
    Ok(())
}

/// Refuses a call that has too many limits, or one that is none.
pub(crate) fn check_all(limits: &[Limit<'_>]) -> Result<(), ServiceError> {
    if limits.len() > MAX_LIMITS {
        return Err(ServiceError::TooLarge(MAX_LIMITS as u64));
    }
    limits.iter().try_for_each(check)
}
