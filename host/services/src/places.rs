//! Limits of requests at the same time: each takes a place of its key, and the place is free again when its holder drops it. A place that is
//! counted in a store that gateways share is given back there, too (`state/places.rs`).

use std::collections::HashMap;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use crate::ServiceError;
use crate::limiter::MAX_KEY;
use crate::state::SharedPlace;

/// The most limits of one call.
pub const MAX_PLACES: usize = 16;
/// The most requests at the same time that a limit can allow.
pub const MAX_AMOUNT: u32 = 100_000;
const SHARDS: usize = 32;

/// A limit of requests at the same time. Limits with the same key count the same requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlaceLimit<'a> {
    pub key: &'a str,
    pub amount: u32,
}

/// The places of one call: one of each limit, in their order; or the index of the first limit that has none left.
pub type Entered = Result<SmallVec<[Place; 1]>, usize>;

/// The places of one plugin that this gateway's requests hold, by key. A key is there as long as somebody holds a place of it.
#[derive(Debug)]
pub struct PlaceSpace {
    hasher: RandomState,
    shards: [Mutex<HashMap<Box<str>, u32>>; SHARDS],
}

/// A place that somebody holds. Dropping it gives it back.
pub struct Place {
    space: Arc<PlaceSpace>,
    key: Box<str>,
    /// The same place in a store.
    shared: Option<SharedPlace>,
}

impl Default for PlaceSpace {
    fn default() -> Self {
        PlaceSpace { hasher: RandomState::default(), shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl PlaceSpace {
    /// Takes a place of each limit, or none if one has none left. Errors: `Invalid` for a long key or an amount out of range, `TooLarge` past
    /// [`MAX_PLACES`].
    pub fn enter(self: &Arc<Self>, limits: &[PlaceLimit<'_>]) -> Result<Entered, ServiceError> {
        check_all(limits)?;
        let mut places = SmallVec::new();
        for (index, limit) in limits.iter().enumerate() {
            match self.take(limit.key, limit.amount) {
                Some(place) => places.push(place),
                // Those of the limits before are given back by the way.
                None => return Ok(Err(index)),
            }
        }
        Ok(Ok(places))
    }

    /// A place of a key, if fewer than this many are taken.
    pub(crate) fn take(self: &Arc<Self>, key: &str, amount: u32) -> Option<Place> {
        let mut shard = self.shard(key);
        match shard.get_mut(key) {
            Some(taken) if *taken >= amount => return None,
            Some(taken) => *taken = taken.saturating_add(1),
            None if amount == 0 => return None,
            None => drop(shard.insert(key.into(), 1)),
        }
        Some(Place { space: Arc::clone(self), key: key.into(), shared: None })
    }

    /// How many places of a key are taken.
    pub fn taken(&self, key: &str) -> u32 {
        self.shard(key).get(key).copied().unwrap_or(0)
    }

    fn leave(&self, key: &str) {
        let mut shard = self.shard(key);
        match shard.get_mut(key) {
            Some(taken) if *taken > 1 => *taken -= 1,
            _ => drop(shard.remove(key)),
        }
    }

    fn shard(&self, key: &str) -> MutexGuard<'_, HashMap<Box<str>, u32>> {
        let shard = &self.shards[self.hasher.hash_one(key) as usize % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Bytes that it takes while it is held.
    pub fn bytes(&self) -> usize {
        size_of::<Place>() + 2 * self.key.len()
    }

    /// It is counted in a store, too.
    pub(crate) fn share(&mut self, shared: SharedPlace) {
        self.shared = Some(shared);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.space.leave(&self.key);
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("key", &self.key).field("is_shared", &self.shared.is_some()).finish()
    }
}

/// Refuses a call that has too many limits, or one that is none.
pub(crate) fn check_all(limits: &[PlaceLimit<'_>]) -> Result<(), ServiceError> {
    if limits.len() > MAX_PLACES {
        return Err(ServiceError::TooLarge(MAX_PLACES as u64));
    }
    limits.iter().try_for_each(|limit| {
        if limit.key.len() > MAX_KEY {
            return Err(ServiceError::long_key(limit.key, MAX_KEY));
        }
        match limit.amount {
            1..=MAX_AMOUNT => Ok(()),
            other => Err(ServiceError::Invalid(format!("the amount of {other} is not in 1 … {MAX_AMOUNT}"))),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn limit(key: &str, amount: u32) -> PlaceLimit<'_> {
        PlaceLimit { key, amount }
    }

    #[test]
    fn no_more_than_the_amount_hold_a_place_at_a_time() {
        let space = Arc::new(PlaceSpace::default());
        let most = Mutex::new((0, 0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let Ok(_places) = space.enter(&[limit("k", 3)]).unwrap() else { continue };
                        let mut count = most.lock().unwrap();
                        count.0 += 1;
                        count.1 = count.1.max(count.0);
                        drop(count);
                        std::thread::yield_now();
                        most.lock().unwrap().0 -= 1;
                    }
                });
            }
        });
        let most = most.lock().unwrap();
        assert!(most.0 == 0 && (1..=3).contains(&most.1), "{most:?}");
        assert_eq!(space.taken("k"), 0);
        assert!(space.shards.iter().all(|shard| shard.lock().unwrap().is_empty()), "keys go with their last place");
    }

    #[test]
    fn all_places_are_taken_or_none() {
        let space = Arc::new(PlaceSpace::default());
        let held = space.enter(&[limit("a", 2), limit("b", 1)]).unwrap().unwrap();
        assert_eq!(held.len(), 2);
        assert_eq!(space.enter(&[limit("a", 2), limit("b", 1)]).unwrap().unwrap_err(), 1, "the second one is full");
        assert_eq!((space.taken("a"), space.taken("b")), (1, 1));
        assert_eq!(space.enter(&[limit("a", 1)]).unwrap().unwrap_err(), 0, "another amount counts the same requests");
        drop(held);
        assert_eq!((space.taken("a"), space.taken("b")), (0, 0));
        assert!(space.enter(&[]).unwrap().unwrap().is_empty());
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        let space = Arc::new(PlaceSpace::default());
        assert!(matches!(space.enter(&[limit("a", 0)]), Err(ServiceError::Invalid(_))));
        assert!(matches!(space.enter(&[limit("a", MAX_AMOUNT + 1)]), Err(ServiceError::Invalid(_))));
        assert!(matches!(space.enter(&[limit(&"k".repeat(1025), 1)]), Err(ServiceError::Invalid(_))));
        assert_eq!(space.enter(&[limit("a", 1); 17]).unwrap_err(), ServiceError::TooLarge(16));
    }
}
