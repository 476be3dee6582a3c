//! Limits that the store decides: a call for each decision, all limits of it in one script. All counters of a plugin have one hash tag, so that
//! in a cluster one node can take from several of them at once.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use redis::{FromRedisValue, Value};
use smallvec::SmallVec;

use super::places::AskedPlace;
use super::script::Script;
use super::store::CallError;
use super::{Away, Store, Topology, places};
use crate::ServiceError;
use crate::limiter::{self, Algorithm, CounterSpace, Limit, MAX_LIMITS, Standing, Standings};
use crate::rate::{self, State};

static TAKE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("take.lua")));

/// The counters of one plugin in a store.
pub struct ExactCounters {
    store: Arc<Store>,
    keys: Keys,
    /// Those of this gateway, while the store is away.
    local: Arc<CounterSpace>,
}

/// The names of a plugin's counters.
#[derive(Clone)]
pub(super) struct Keys(Box<str>);

/// What the store has decided.
pub(super) struct Decision {
    /// Of the store's clock, in microseconds since the Unix epoch.
    pub(super) now_us: u64,
    pub(super) all: bool,
    /// The first of the places that are all taken.
    pub(super) full: Option<usize>,
    /// Whether each limit allows it, and its state before anything was taken.
    pub(super) limits: SmallVec<[(bool, State); 4]>,
}

impl ExactCounters {
    pub fn new(store: Arc<Store>, plugin: &str, local: Arc<CounterSpace>) -> Self {
        let keys = Keys::new(&store, plugin);
        ExactCounters { store, keys, local }
    }

    /// What [`CounterSpace::take`] does, over all gateways. While the store is away, what the operator has chosen.
    pub async fn take(&self, limits: &[Limit<'_>], cost: u64) -> Result<Standings, ServiceError> {
        limiter::check_all(limits)?;
        if limits.is_empty() {
            return Ok(Standings::new());
        }
        match decide(&self.store, &self.keys, limits, cost, Ask::Before, &[]).await {
            Ok(decision) => Ok(decision.standings(limits, cost)),
            Err(why) => away(&self.store, &why, limits, || self.local.take(limits, cost)),
        }
    }

    /// What this gateway decides by itself.
    pub(super) fn take_here(&self, limits: &[Limit<'_>], cost: u64) -> Result<Standings, ServiceError> {
        self.local.take(limits, cost)
    }
}

/// What becomes of a call that the store has not answered.
pub(super) fn away(
    store: &Store,
    why: &CallError,
    limits: &[Limit<'_>],
    local: impl FnOnce() -> Result<Standings, ServiceError>,
) -> Result<Standings, ServiceError> {
    match store.spec().away {
        Away::Local => local(),
        Away::Open => Ok(limits.iter().map(|limit| Standing::untouched(limit)).collect()),
        Away::Closed => Err(ServiceError::Unavailable(format!("state `{}`: {why}", store.spec().name))),
    }
}

/// How the store is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// By a request, for a decision.
    Before,
    /// Behind the requests: the cost is taken whatever is left, and nobody waits.
    Behind,
}

/// Asks the store.
pub(super) async fn decide(
    store: &Arc<Store>,
    keys: &Keys,
    limits: &[Limit<'_>],
    cost: u64,
    ask: Ask,
    places: &[AskedPlace],
) -> Result<Decision, CallError> {
    debug_assert!(limits.len() <= MAX_LIMITS);
    let names = limits.iter().map(|limit| keys.of(limit)).chain(places.iter().map(|place| place.name.to_string()));
    let mut names: SmallVec<[String; 4]> = names.collect();
    let mut arguments: SmallVec<[String; 18]> = SmallVec::new();
    arguments.push(cost.to_string());
    arguments.push(if ask == Ask::Behind { "1" } else { "0" }.to_owned());
    arguments.push(limits.len().to_string());
    arguments.push(places::LEASE.as_millis().to_string());
    // In a cluster, the crate repeats a call whose connection has ended. The script may have run by then.
    let may_repeat = store.spec().topology == Topology::Cluster && (cost > 0 || !places.is_empty());
    let kept = if may_repeat { store.spec().connect_timeout.max(store.spec().timeout) * 2 } else { Duration::ZERO };
    if may_repeat {
        names.push(keys.call());
    }
    arguments.push(kept.as_millis().to_string());
    for limit in limits {
        let kind = match limit.algorithm {
            Algorithm::TokenBucket | Algorithm::LeakyBucket => "b",
            Algorithm::FixedWindow => "f",
            Algorithm::SlidingWindow => "s",
        };
        arguments.push(kind.to_owned());
        arguments.push(limit.amount.to_string());
        arguments.push(limit.window_ms.saturating_mul(1_000).to_string());
        arguments.push(rate::capacity(limit).to_string());
    }
    for AskedPlace { amount, member, .. } in places {
        arguments.push(amount.to_string());
        arguments.push(member.clone());
    }
    let answer = TAKE.run(store, ask == Ask::Behind, &names, &arguments).await?;
    read(answer, limits, places.len()).ok_or_else(|| store.nonsense("decision about limits"))
}

/// What [`TAKE`] answers, if this is it.
fn read(answer: Value, limits: &[Limit<'_>], places: usize) -> Option<Decision> {
    let parts = Vec::<String>::from_redis_value(answer).ok()?;
    let ([now, all, full], states) = parts.split_first_chunk::<3>()?;
    if states.len() != limits.len() * 2 {
        return None;
    }
    let limits = states.chunks_exact(2).zip(limits).map(|(pair, limit)| {
        let [allowed, state] = pair else { return None };
        let mut numbers =
            state.split(' ').map(|number| number.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0));
        let (at, a, b) = (numbers.next()??, numbers.next()??, numbers.next()??);
        // A cast of a float that is too large saturates.
        Some((allowed == "1", State::new(limit.algorithm, at as u64, a as u128, b as u64)))
    });
    let limits = limits.collect::<Option<_>>()?;
    // By Lua's count, from 1.
    let full = match full.parse::<usize>().ok()? {
        0 => None,
        one if one <= places => Some(one - 1),
        _ => return None,
    };
    Some(Decision { now_us: now.parse().ok()?, all: all == "1", full, limits })
}

impl Decision {
    pub(super) fn standings(&self, limits: &[Limit<'_>], cost: u64) -> Standings {
        let states = self.limits.iter().zip(limits);
        if !self.all || cost == 0 {
            let found = states.map(|((allowed, state), limit)| Standing {
                allowed: *allowed,
                ..rate::standing(limit, state, cost, self.now_us)
            });
            return found.collect();
        }
        let taken = states.map(|((_, state), limit)| {
            let charged = rate::charge(limit, *state, cost);
            Standing { allowed: true, retry_after_ms: 0, ..rate::standing(limit, &charged, 0, self.now_us) }
        });
        taken.collect()
    }
}

impl Keys {
    pub(super) fn new(store: &Store, plugin: &str) -> Keys {
        Keys(format!("{}{{{plugin}}}:", store.spec().prefix).into())
    }

    /// The answer to one call.
    fn call(&self) -> String {
        let number = u128::from_le_bytes(*crate::random::bytes_32().first_chunk().expect("16 of 32 bytes"));
        format!("{}call:{number:x}", self.0)
    }

    /// The places of a limit of requests at the same time.
    pub(super) fn place(&self, key: &str) -> String {
        format!("{}place:{key}", self.0)
    }

    /// Limits with the same key, algorithm, amount and window share a counter.
    fn of(&self, limit: &Limit<'_>) -> String {
        let Limit { key, algorithm, amount, window_ms, burst: _ } = limit;
        let kind = match algorithm {
            Algorithm::TokenBucket => "token",
            Algorithm::LeakyBucket => "leaky",
            Algorithm::FixedWindow => "fixed",
            Algorithm::SlidingWindow => "sliding",
        };
        format!("{}limit:{kind}:{amount}:{window_ms}:{key}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_told_from_a_decision() {
        let limit = [Limit { key: "k", algorithm: Algorithm::FixedWindow, amount: 5, window_ms: 1000, burst: 0 }];
        let text = |parts: &[&str]| {
            Value::Array(parts.iter().map(|part| Value::BulkString(part.as_bytes().to_vec())).collect())
        };
        let read = |value| read(value, &limit, 1).map(|decision| (decision.now_us, decision.all, decision.full));
        assert_eq!(read(text(&["7", "1", "0", "1", "5 3 2"])), Some((7, true, None)));
        assert_eq!(read(text(&["7", "0", "1", "1", "5 3 2"])), Some((7, false, Some(0))));
        for odd in [
            Value::Nil,
            Value::Okay,
            Value::Int(7),
            text(&[]),
            text(&["7", "1"]),
            text(&["7", "1", "1"]),
            text(&["7", "1", "0", "1", "5 3"]),
            text(&["7", "1", "0", "1", "5 3 x"]),
            text(&["7", "1", "0", "1", "5 NaN 0"]),
            text(&["7", "1", "0", "1", "-5 3 0"]),
            text(&["", "1", "0", "1", "5 3 2"]),
            text(&["7", "1", "2", "1", "5 3 2"]),
            text(&["7", "1", "-1", "1", "5 3 2"]),
            text(&["7", "1", "0", "1", "5 3 2", "1", "5 3 2"]),
            Value::Array(vec![Value::Array(vec![]); 5]),
        ] {
            assert_eq!(read(odd.clone()), None, "{odd:?}");
        }
    }
}
