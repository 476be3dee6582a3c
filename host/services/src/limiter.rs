//! Rate limits over shared counters: one call takes from all its limits or from none. The arithmetic is in `rate.rs`.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use smallvec::SmallVec;

use super::rate::{self, State};
use super::{Clock, ServiceError};

/// The most limits of one call.
pub const MAX_LIMITS: usize = 16;
/// The longest key, in bytes.
pub const MAX_KEY: usize = 1024;
/// The longest window: 366 days.
pub const MAX_WINDOW_MS: u64 = 366 * 24 * 3_600_000;
/// The counters a plugin may hold at a time.
pub const MAX_COUNTERS: usize = 1_000_000;

const SHARDS: usize = 64;
/// A shard with fewer counters than this is not swept.
const SWEEP_FROM: usize = 64;
/// A shard that takes a new counter is swept if it was not for this long.
const SWEEP_EVERY_US: u64 = 60_000_000;
/// While the space is full, a shard is swept at most this often, and only if something can have expired in it: a flood of new keys against
/// live counters must not make each call look at all of them.
const SWEEP_AGAIN_US: u64 = 1_000_000;
/// Shards that one call sweeps to find room, beside its own: a sweep looks at all counters of a shard.
const SWEEPS_PER_CALL: usize = 2;

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

/// The standings of one call, in the order of its limits.
pub type Standings = SmallVec<[Standing; 4]>;

/// All counters of the gateway.
#[derive(Debug)]
pub struct Limiter {
    clock: Clock,
    spaces: RwLock<HashMap<Box<str>, Arc<CounterSpace>>>,
}

impl Limiter {
    /// A limiter without counters.
    pub fn new(clock: Clock) -> Self {
        Limiter { clock, spaces: RwLock::default() }
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

    /// Takes `cost` from every limit, or from none if one of them would not allow it; see [`CounterSpace::take`].
    pub fn take(&self, namespace: &str, limits: &[Limit<'_>], cost: u64) -> Result<Standings, ServiceError> {
        self.space(namespace).take(limits, cost)
    }
}

/// The counters of one plugin.
#[derive(Debug)]
pub struct CounterSpace {
    clock: Clock,
    hasher: RandomState,
    shards: Box<[Shard; SHARDS]>,
    counters: AtomicUsize,
    capacity: usize,
    /// The shard that the next search for room begins with.
    next_search: AtomicUsize,
    /// Counters that sweeps have looked at.
    #[cfg(test)]
    looked_at: AtomicUsize,
}

/// On its own cache line, so that workers on neighbouring shards don't disturb each other.
#[derive(Debug)]
#[repr(align(64))]
struct Shard {
    counters: Mutex<Counters>,
    /// When a sweep for room is worth its time, in microseconds since the Unix epoch. Read without the lock, so that a search passes over
    /// shards that have nothing to give.
    sweep_from_us: AtomicU64,
}

impl Default for Shard {
    fn default() -> Self {
        Shard { counters: Mutex::default(), sweep_from_us: AtomicU64::new(u64::MAX) }
    }
}

impl Shard {
    fn lock(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn may_give_room(&self, now: u64) -> bool {
        self.sweep_from_us.load(Ordering::Relaxed) <= now
    }
}

#[derive(Debug, Default)]
struct Counters {
    table: HashTable<Counter>,
    sweep_at: usize,
    swept_us: u64,
}

#[derive(Debug)]
struct Counter {
    hash: u64,
    key: Box<str>,
    amount: u64,
    window_us: u64,
    algorithm: Algorithm,
    state: State,
}

impl Counter {
    fn counts(&self, limit: &Limit<'_>) -> bool {
        self.amount == limit.amount
            && self.window_us == limit.window_ms * 1_000
            && self.algorithm == limit.algorithm
            && *self.key == *limit.key
    }
}

/// What one call knows of one of its limits while it holds the locks.
#[derive(Clone, Copy)]
struct Take {
    hash: u64,
    /// The position in the list of held locks.
    guard: usize,
    /// Brought up to now; the default when there is no counter yet.
    state: State,
    known: bool,
}

impl CounterSpace {
    fn new(clock: Clock, capacity: usize) -> Self {
        CounterSpace {
            clock,
            hasher: RandomState::default(),
            shards: Box::new(std::array::from_fn(|_| Shard::default())),
            counters: AtomicUsize::new(0),
            capacity,
            next_search: AtomicUsize::new(0),
            #[cfg(test)]
            looked_at: AtomicUsize::new(0),
        }
    }

    /// How many counters there are, expired ones that were not yet swept included.
    pub fn counters(&self) -> usize {
        self.counters.load(Ordering::Relaxed)
    }

    /// Takes `cost` from every limit, or from none if one of them would not allow it; a cost of 0 only looks. A counter
    /// that several limits of the call share is charged once. Errors: `Invalid` for an amount or window that is out of
    /// range, or for a key past [`MAX_KEY`], `TooLarge` past [`MAX_LIMITS`], `Unavailable` when the plugin holds [`MAX_COUNTERS`]
    /// counters, this call needs a new one, and none was found that had expired. Each shard is searched at most once a second.
    pub fn take(&self, limits: &[Limit<'_>], cost: u64) -> Result<Standings, ServiceError> {
        if limits.len() > MAX_LIMITS {
            return Err(ServiceError::TooLarge(MAX_LIMITS as u64));
        }
        let mut takes: SmallVec<[Take; 4]> = SmallVec::new();
        let mut shards: SmallVec<[usize; 4]> = SmallVec::new();
        for limit in limits {
            check(limit)?;
            let hash = self.hash(limit);
            takes.push(Take { hash, guard: 0, state: State::default(), known: false });
            shards.push(shard_of(hash));
        }
        // Every call locks in the order of the shards, so that two calls never wait for each other.
        shards.sort_unstable();
        shards.dedup();
        let mut guards: SmallVec<[MutexGuard<'_, Counters>; 4]> = SmallVec::new();
        for &shard in &shards {
            if let Some(shard) = self.shards.get(shard) {
                guards.push(shard.lock());
            }
        }
        // Read under the locks: a call that waited must not bring an older time.
        let now = self.clock.steady_us();

        let mut standings = Standings::new();
        let mut all = true;
        for (limit, take) in limits.iter().zip(&mut takes) {
            take.guard = shards.binary_search(&shard_of(take.hash)).unwrap_or(0);
            let Some(counters) = guards.get(take.guard) else { continue };
            if let Some(counter) = counters.table.find(take.hash, |c| c.hash == take.hash && c.counts(limit)) {
                take.state = counter.state;
                take.known = true;
            }
            take.state = rate::advance(limit, take.state, now);
            let standing = rate::standing(limit, &take.state, cost, now);
            all &= standing.allowed;
            standings.push(standing);
        }
        if !all || cost == 0 {
            return Ok(standings);
        }
        self.make_room(limits, &takes, &shards, &mut guards, now)?;
        for ((limit, take), standing) in limits.iter().zip(&takes).zip(&mut standings) {
            let charged = rate::charge(limit, take.state, cost);
            *standing = Standing { allowed: true, retry_after_ms: 0, ..rate::standing(limit, &charged, 0, now) };
            if let Some(counters) = guards.get_mut(take.guard) {
                self.store(counters, limit, take.hash, charged);
            }
        }
        Ok(standings)
    }

    /// Sweeps where new counters are about to come, and refuses them when the plugin's share is full of live ones.
    fn make_room(
        &self,
        limits: &[Limit<'_>],
        takes: &[Take],
        held: &[usize],
        guards: &mut [MutexGuard<'_, Counters>],
        now: u64,
    ) -> Result<(), ServiceError> {
        let new = takes.iter().filter(|take| !take.known).count();
        if new == 0 {
            return Ok(());
        }
        for take in takes.iter().filter(|take| !take.known) {
            if let (Some(shard), Some(counters)) = (self.shards.get(shard_of(take.hash)), guards.get_mut(take.guard)) {
                let full = !self.has_room(new) && shard.may_give_room(now);
                let due = now.saturating_sub(counters.swept_us) > SWEEP_EVERY_US;
                if full || due || counters.table.len() >= counters.sweep_at.max(SWEEP_FROM) {
                    self.sweep(shard, counters, now);
                }
            }
        }
        if !self.has_room(new) {
            self.search_room(new, held, now);
        }
        if !self.has_room(new) {
            let key = limits.first().map_or("", |limit| limit.key);
            return Err(ServiceError::Unavailable(format!(
                "no room for a counter for `{key}`: {} are in use",
                self.counters()
            )));
        }
        Ok(())
    }

    fn has_room(&self, new: usize) -> bool {
        self.counters().saturating_add(new) <= self.capacity
    }

    /// Sweeps some of the shards that this call does not hold and that can have room. It never waits for a lock, since it comes while
    /// others are held; a busy shard is left out.
    fn search_room(&self, new: usize, held: &[usize], now: u64) {
        let start = self.next_search.load(Ordering::Relaxed);
        let mut sweeps = 0;
        for at in (0..SHARDS).map(|step| (start + step) % SHARDS).filter(|at| !held.contains(at)) {
            if let Some(shard) = self.shards.get(at).filter(|shard| shard.may_give_room(now))
                && let Ok(mut counters) = shard.counters.try_lock()
            {
                self.sweep(shard, &mut counters, now);
                sweeps += 1;
                if self.has_room(new) || sweeps == SWEEPS_PER_CALL {
                    self.next_search.store(at, Ordering::Relaxed);
                    return;
                }
            }
        }
    }

    /// The next sweep comes when the shard has doubled, so that sweeping costs each insertion a constant.
    fn sweep(&self, shard: &Shard, counters: &mut Counters, now: u64) {
        let before = counters.table.len();
        #[cfg(test)]
        self.looked_at.fetch_add(before, Ordering::Relaxed);
        let mut earliest = u64::MAX;
        counters.table.retain(|counter| {
            let expires = rate::expires(counter.algorithm, counter.amount, counter.window_us, &counter.state);
            let live = expires > now;
            if live {
                earliest = earliest.min(expires);
            }
            live
        });
        let after = counters.table.len();
        self.counters.fetch_sub(before - after, Ordering::Relaxed);
        counters.sweep_at = after.saturating_mul(2);
        counters.swept_us = now;
        shard.sweep_from_us.store(earliest.max(now.saturating_add(SWEEP_AGAIN_US)), Ordering::Relaxed);
        if after < counters.table.capacity() / 4 {
            counters.table.shrink_to(after.saturating_mul(2), |counter| counter.hash);
        }
    }

    fn store(&self, counters: &mut Counters, limit: &Limit<'_>, hash: u64, state: State) {
        if let Some(counter) = counters.table.find_mut(hash, |c| c.hash == hash && c.counts(limit)) {
            counter.state = state;
            return;
        }
        let counter = Counter {
            hash,
            key: limit.key.into(),
            amount: limit.amount,
            window_us: limit.window_ms * 1_000,
            algorithm: limit.algorithm,
            state,
        };
        if let Some(shard) = self.shards.get(shard_of(hash)) {
            let expires = rate::expires(counter.algorithm, counter.amount, counter.window_us, &counter.state);
            // Not before the time of the last sweep and a second more.
            let from = expires.max(counters.swept_us.saturating_add(SWEEP_AGAIN_US));
            if from < shard.sweep_from_us.load(Ordering::Relaxed) {
                shard.sweep_from_us.store(from, Ordering::Relaxed);
            }
        }
        counters.table.insert_unique(hash, counter, |counter| counter.hash);
        self.counters.fetch_add(1, Ordering::Relaxed);
    }

    fn hash(&self, limit: &Limit<'_>) -> u64 {
        self.hasher.hash_one((limit.key, limit.algorithm, limit.amount, limit.window_ms))
    }
}

/// The table uses the low bits and the top seven, so the shard takes others.
fn shard_of(hash: u64) -> usize {
    (hash >> 40) as usize % SHARDS
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

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(key: &str, algorithm: Algorithm, amount: u64, window_ms: u64) -> Limit<'_> {
        Limit { key, algorithm, amount, window_ms, burst: 0 }
    }

    const ALL: [Algorithm; 4] =
        [Algorithm::TokenBucket, Algorithm::LeakyBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow];

    #[test]
    fn all_limits_or_none() {
        let (clock, _) = Clock::manual(0);
        let limiter = Limiter::new(clock);
        let wide = limit("a", Algorithm::FixedWindow, 100, 1000);
        let narrow = limit("b", Algorithm::FixedWindow, 2, 1000);
        for left in [1, 0] {
            let standings = limiter.take("p", &[wide, narrow], 1).unwrap();
            assert!(standings.iter().all(|s| s.allowed));
            assert_eq!(standings[1].remaining, left);
        }
        let standings = limiter.take("p", &[wide, narrow], 1).unwrap();
        assert_eq!((standings[0].allowed, standings[1].allowed), (true, false));
        assert_eq!((standings[0].remaining, standings[1].retry_after_ms), (98, 1000));
        // Looking takes nothing; another plugin has its own counters.
        assert_eq!(limiter.take("p", &[wide], 0).unwrap()[0].remaining, 98);
        assert_eq!(limiter.take("q", &[wide], 0).unwrap()[0].remaining, 100);
    }

    #[test]
    fn a_counter_named_twice_is_charged_once() {
        let (clock, _) = Clock::manual(0);
        let limiter = Limiter::new(clock);
        let one = limit("a", Algorithm::FixedWindow, 3, 1000);
        let standings = limiter.take("p", &[one, one], 1).unwrap();
        assert_eq!((standings[0].remaining, standings[1].remaining), (2, 2));
        assert_eq!(limiter.space("p").counters(), 1);
    }

    #[test]
    fn arguments_out_of_range_are_refused() {
        let limiter = Limiter::new(Clock::manual(0).0);
        let ok = limit("a", Algorithm::TokenBucket, 1, 1);
        let invalid = |limit| matches!(limiter.take("p", &[limit], 1), Err(ServiceError::Invalid(_)));
        assert!(invalid(Limit { amount: 0, ..ok }));
        assert!(invalid(Limit { window_ms: 0, ..ok }));
        assert!(invalid(Limit { window_ms: MAX_WINDOW_MS + 1, ..ok }));
        assert_eq!(limiter.take("p", &[ok; 17], 1), Err(ServiceError::TooLarge(16)));
        let long = "k".repeat(MAX_KEY + 1);
        assert!(invalid(Limit { key: &long, ..ok }));
        assert!(limiter.take("p", &[], 1).unwrap().is_empty());
    }

    #[test]
    fn exactly_the_amount_passes_under_contention() {
        let limiter = Limiter::new(Clock::manual(1_000_000_000).0);
        for algorithm in ALL {
            let hour = Limit { burst: 999, ..limit("k", algorithm, 1_000, 3_600_000) };
            // A second limit, in changing order, would deadlock if locks were taken as listed.
            let other = limit("o", algorithm, u64::MAX, 3_600_000);
            let other = Limit { burst: u64::MAX, ..other };
            let hour = if algorithm == Algorithm::TokenBucket { Limit { burst: 0, ..hour } } else { hour };
            let passed = AtomicUsize::new(0);
            std::thread::scope(|scope| {
                for thread in 0..4 {
                    let (limiter, passed) = (&limiter, &passed);
                    scope.spawn(move || {
                        let limits = if thread % 2 == 0 { [hour, other] } else { [other, hour] };
                        for _ in 0..25_000 {
                            if limiter.take("p", &limits, 1).unwrap().iter().all(|s| s.allowed) {
                                passed.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    });
                }
            });
            assert_eq!(passed.load(Ordering::Relaxed), 1_000, "{algorithm:?}");
        }
    }

    #[test]
    fn expired_counters_go_and_a_full_space_refuses_new_ones() {
        let (clock, time) = Clock::manual(0);
        let space = CounterSpace::new(clock, 10_000);
        let mut refused = 0;
        for i in 0..12_000 {
            let key = i.to_string();
            refused += usize::from(space.take(&[limit(&key, Algorithm::FixedWindow, 5, 1000)], 1).is_err());
        }
        assert_eq!((space.counters(), refused), (10_000, 2_000));
        // Known counters still work, and after the window there is room again.
        assert!(space.take(&[limit("7", Algorithm::FixedWindow, 5, 1000)], 1).is_ok());
        time.store(2_000_000, Ordering::Release);
        for i in 0..50_000 {
            time.fetch_add(1_000, Ordering::AcqRel);
            let key = format!("n{i}");
            space.take(&[limit(&key, Algorithm::FixedWindow, 5, 1000)], 1).unwrap();
        }
        // 1,000 are alive at a time; what is there is bounded by it, not by the 50,000 that were.
        assert!(space.counters() <= 64 * SWEEP_FROM + 4_000, "{}", space.counters());
    }

    #[test]
    fn room_is_found_in_the_shards_of_other_keys() {
        // One counter in all: wherever the old key lies, each new one has to find it.
        let (clock, time) = Clock::manual(0);
        let space = CounterSpace::new(clock, 1);
        for i in 0..500 {
            let (key, next) = (format!("k{i}"), format!("k{}", i + 1));
            space.take(&[limit(&key, Algorithm::FixedWindow, 5, 1000)], 1).unwrap();
            assert!(space.take(&[limit(&next, Algorithm::FixedWindow, 5, 1000)], 1).is_err());
            time.fetch_add(1_000_000, Ordering::AcqRel);
        }
        assert_eq!(space.counters(), 1);
    }

    /// What is counted is the work, not the time.
    #[test]
    fn a_refused_key_looks_at_less_than_a_counter() {
        for algorithm in ALL {
            let (clock, time) = Clock::manual(0);
            let space = CounterSpace::new(clock, 6_400);
            let take = |key: String, window_ms| space.take(&[limit(&key, algorithm, 5, window_ms)], 1);
            // Windows of different length: later, something expires all the time.
            for i in 0..6_400_u64 {
                take(format!("old{i}"), 100_000 + i * 200).unwrap();
            }
            let before = space.looked_at.load(Ordering::Relaxed);
            let refused = (0..20_000).filter(|i| take(format!("new{i}"), 100_000).is_err()).count();
            let looked_at = space.looked_at.load(Ordering::Relaxed) - before;
            assert_eq!(refused, 20_000);
            assert!(looked_at <= 6_400, "{algorithm:?}: {looked_at} looks at counters that are all alive");
            // Seconds in which counters expire and more new ones come than there is room for.
            time.store(300_000_000, Ordering::Release);
            let before = space.looked_at.load(Ordering::Relaxed);
            let served = (0..50_000).filter(|i| {
                time.fetch_add(100, Ordering::AcqRel);
                take(format!("later{i}"), 1_000_000).is_ok()
            });
            let served = served.count();
            let looked_at = space.looked_at.load(Ordering::Relaxed) - before;
            assert!((100..50_000).contains(&served), "{algorithm:?}: {served}");
            assert!(looked_at < 50_000, "{algorithm:?}: {looked_at} looks in 50,000 calls");
        }
    }

    #[test]
    fn a_clock_that_goes_back_does_no_harm() {
        for algorithm in ALL {
            let (clock, time) = Clock::manual(10_000_000);
            let limiter = Limiter::new(clock);
            let one = Limit {
                burst: if algorithm == Algorithm::LeakyBucket { 4 } else { 0 },
                ..limit("k", algorithm, 5, 1000)
            };
            for step in 0..50 {
                time.store(if step % 2 == 0 { 10_000_000 } else { 1_000 }, Ordering::Release);
                let allowed = limiter.take("p", &[one], 1).unwrap()[0].allowed;
                assert_eq!(allowed, step < 5, "{algorithm:?} step {step}");
            }
        }
    }
}
