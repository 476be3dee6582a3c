//! The counters of one plugin, in shards. A call holds the locks of the shards of all its limits.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use smallvec::SmallVec;

use super::lease::{Lease, Owed, Report};
use super::{Algorithm, Limit, MAX_COUNTERS, Standing, Standings, check_all};
use crate::rate::{self, State};
use crate::{Clock, ServiceError};

const SHARDS: usize = 64;
/// A shard with fewer counters than this is not swept.
pub(super) const SWEEP_FROM: usize = 64;
/// A shard that takes a new counter is swept if it was not for this long.
const SWEEP_EVERY_US: u64 = 60_000_000;
/// The clock of a store may go back this much (a failover to a server whose clock is behind); its counters stand still meanwhile.
/// Not less than half of the longest time of a call: so much may be wrong in what is known of that clock.
const ODD_US: u64 = 5_000_000;
/// While the space is full, a shard is swept at most this often, and only if something can have expired in it: a flood of new keys against
/// live counters must not make each call look at all of them.
const SWEEP_AGAIN_US: u64 = 1_000_000;
/// Shards that one call sweeps to find room, beside its own: a sweep looks at all counters of a shard.
const SWEEPS_PER_CALL: usize = 2;

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
    /// Where the counters are leases of those of a store.
    lease: Option<Lease>,
    /// Counters that sweeps have looked at.
    #[cfg(test)]
    pub(super) looked_at: AtomicUsize,
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
    /// Of a lease: what was taken and the store does not know of yet.
    unreported: u64,
    /// The task is telling the store of it.
    reporting: bool,
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
    unreported: u64,
}

impl CounterSpace {
    pub(super) fn new(clock: Clock, capacity: usize) -> Self {
        Self::made(clock, capacity, None)
    }

    /// Counters that follow those of a store.
    pub(crate) fn leased(clock: Clock, lease: Lease) -> Self {
        Self::made(clock, MAX_COUNTERS, Some(lease))
    }

    fn made(clock: Clock, capacity: usize, lease: Option<Lease>) -> Self {
        CounterSpace {
            clock,
            hasher: RandomState::default(),
            shards: Box::new(std::array::from_fn(|_| Shard::default())),
            counters: AtomicUsize::new(0),
            capacity,
            next_search: AtomicUsize::new(0),
            lease,
            #[cfg(test)]
            looked_at: AtomicUsize::new(0),
        }
    }

    /// How many counters there are, expired ones that were not yet swept included.
    pub fn counters(&self) -> usize {
        self.counters.load(Ordering::Relaxed)
    }

    /// The lease, where the counters have one.
    pub(crate) fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// Takes `cost` from every limit, or from none if one of them would not allow it; a cost of 0 only looks. A counter
    /// that several limits of the call share is charged once. Errors: `Invalid` for an amount or window that is out of
    /// range, or for a key past [`MAX_KEY`](super::MAX_KEY), `TooLarge` past [`MAX_LIMITS`](super::MAX_LIMITS), `Unavailable` when the plugin holds [`MAX_COUNTERS`]
    /// counters, this call needs a new one, and none was found that had expired. Each shard is searched at most once a second.
    pub fn take(&self, limits: &[Limit<'_>], cost: u64) -> Result<Standings, ServiceError> {
        self.take_within(limits, cost, true)
    }

    /// The same. Where it is not `bound`, a lease lets through what the counters here allow, however much the store does not know of.
    pub(crate) fn take_within(&self, limits: &[Limit<'_>], cost: u64, bound: bool) -> Result<Standings, ServiceError> {
        check_all(limits)?;
        let mut takes: SmallVec<[Take; 4]> = SmallVec::new();
        let mut shards: SmallVec<[usize; 4]> = SmallVec::new();
        for limit in limits {
            let hash = self.hash(limit);
            takes.push(Take { hash, guard: 0, state: State::default(), known: false, unreported: 0 });
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
        let now = self.now_us();

        let mut standings = Standings::new();
        let mut all = true;
        for (limit, take) in limits.iter().zip(&mut takes) {
            take.guard = shards.binary_search(&shard_of(take.hash)).unwrap_or(0);
            let Some(counters) = guards.get(take.guard) else { continue };
            if let Some(counter) = counters.table.find(take.hash, |c| c.hash == take.hash && c.counts(limit)) {
                take.state = self.of_now(counter.state, now);
                take.known = true;
                take.unreported = counter.unreported;
            }
            take.state = rate::advance(limit, take.state, now);
            let mut standing = rate::standing(limit, &take.state, cost, now);
            if let Some(lease) = self.lease.as_ref().filter(|_| bound) {
                lease.bound(&mut standing, take.unreported, cost);
            }
            all &= standing.allowed;
            standings.push(standing);
        }
        if !all || cost == 0 {
            return Ok(standings);
        }
        self.make_room(&takes, &shards, &mut guards, now)?;
        for ((limit, take), standing) in limits.iter().zip(&takes).zip(&mut standings) {
            let charged = rate::charge(limit, take.state, cost);
            *standing = Standing { allowed: true, retry_after_ms: 0, ..rate::standing(limit, &charged, 0, now) };
            if let Some(counters) = guards.get_mut(take.guard) {
                let unreported = match &self.lease {
                    Some(lease) => lease.taken(limit, take.unreported, cost),
                    None => 0,
                };
                self.store(counters, limit, take.hash, charged, unreported);
            }
        }
        Ok(standings)
    }

    /// Sweeps where new counters are about to come, and refuses them when the plugin's share is full of live ones.
    fn make_room(
        &self,
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
                let due = now.abs_diff(counters.swept_us) > SWEEP_EVERY_US;
                if full || due || counters.table.len() >= counters.sweep_at.max(SWEEP_FROM) {
                    self.sweep(shard, counters, now);
                }
            }
        }
        if !self.has_room(new) {
            self.search_room(new, held, now);
        }
        if !self.has_room(new) {
            // Without the key: that may be a credential of the caller.
            return Err(ServiceError::Unavailable(format!(
                "no room for another counter: {} are in use",
                self.counters()
            )));
        }
        Ok(())
    }

    /// What the store is to be told of a counter, which is in the hands of the task then; none where there is nothing to tell, or where it is
    /// being told already.
    pub(crate) fn begin(&self, report: &Report) -> Option<Owed> {
        let limit = report.limit();
        let hash = self.hash(&limit);
        let mut counters = self.shards.get(shard_of(hash))?.lock();
        let now = self.now_us();
        let counter = counters.table.find_mut(hash, |c| c.hash == hash && c.counts(&limit))?;
        if counter.reporting || counter.unreported == 0 {
            return None;
        }
        // Of a long time without the store, only what counts today: tokens that were refilled since, and windows that are over, are history.
        let live = rate::live(&limit, &rate::advance(&limit, self.of_now(counter.state, now), now));
        let owed = Owed { all: counter.unreported, cost: counter.unreported.min(live) };
        if owed.cost == 0 {
            counter.unreported = 0;
            return None;
        }
        counter.reporting = true;
        Some(owed)
    }

    /// Whether a counter still owes the store something.
    pub(crate) fn owes(&self, report: &Report) -> bool {
        let limit = report.limit();
        let hash = self.hash(&limit);
        let Some(shard) = self.shards.get(shard_of(hash)) else { return false };
        let counters = shard.lock();
        counters.table.find(hash, |c| c.hash == hash && c.counts(&limit)).is_some_and(|counter| counter.unreported > 0)
    }

    /// The store has been told, and had this state before; none: it won't hear of it.
    pub(crate) fn settle(&self, report: Report, owed: Owed, state: Option<State>) {
        self.end(report, |counter, limit| {
            // What was taken since then is not in the store's state.
            counter.unreported = counter.unreported.saturating_sub(owed.all);
            if let Some(state) = state {
                counter.state = rate::charge(limit, state, owed.cost.saturating_add(counter.unreported));
            }
        });
    }

    /// The store has not been told.
    pub(crate) fn put_off(&self, report: Report) {
        self.end(report, |_, _| {});
    }

    fn end(&self, report: Report, change: impl FnOnce(&mut Counter, &Limit<'_>)) {
        let Some(lease) = &self.lease else { return };
        let limit = report.limit();
        let hash = self.hash(&limit);
        let Some(shard) = self.shards.get(shard_of(hash)) else { return };
        let mut counters = shard.lock();
        if let Some(counter) = counters.table.find_mut(hash, |c| c.hash == hash && c.counts(&limit)) {
            counter.reporting = false;
            change(counter, &limit);
            if counter.unreported > 0 {
                lease.put_off(report);
            }
        }
    }

    /// The time of the counters: that of the store's clock, where they follow a store.
    fn now_us(&self) -> u64 {
        let now = self.clock.steady_us();
        self.lease.as_ref().map_or(now, |lease| lease.to_store_time(now))
    }

    /// A state that counts from a time when the store's clock was wrong would stand still until that time comes.
    fn of_now(&self, state: State, now: u64) -> State {
        if self.is_odd(&state, now) { State::default() } else { state }
    }

    fn is_odd(&self, state: &State, now: u64) -> bool {
        self.lease.is_some() && state.is_after(now.saturating_add(ODD_US))
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
            // Also with something to tell: of one that has expired, nothing counts any more.
            let live = expires > now && !self.is_odd(&counter.state, now);
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

    fn store(&self, counters: &mut Counters, limit: &Limit<'_>, hash: u64, state: State, unreported: u64) {
        if let Some(counter) = counters.table.find_mut(hash, |c| c.hash == hash && c.counts(limit)) {
            counter.state = state;
            counter.unreported = unreported;
            return;
        }
        let counter = Counter {
            hash,
            key: limit.key.into(),
            amount: limit.amount,
            window_us: limit.window_ms * 1_000,
            algorithm: limit.algorithm,
            state,
            unreported,
            reporting: false,
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

    pub(super) fn hash(&self, limit: &Limit<'_>) -> u64 {
        self.hasher.hash_one((limit.key, limit.algorithm, limit.amount, limit.window_ms))
    }
}

/// The table uses the low bits and the top seven, so the shard takes others.
pub(super) fn shard_of(hash: u64) -> usize {
    (hash >> 40) as usize % SHARDS
}
