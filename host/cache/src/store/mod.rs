//! The store in memory.
//!
//! `quick_cache` has the policy (S3-FIFO): a response that is asked for once passes through a small queue and leaves, so a crawler does not
//! empty the cache. It was chosen over `moka` (W-TinyLFU) after both were tried with 300,000 entries of 1 KiB: 93 bytes for an entry
//! beside 230, 0.6 µs for a look-up beside 2.3 µs; of 500 popular entries all were left after a crawler that asks a hundred times as often,
//! beside 297. It evicts within the insertion, so the bound on bytes holds at each moment and no worker keeps house. What it lacks, times
//! to live and listeners, is not of use here: age is a matter of the rules, and a purge is found at the hit.

mod body;
mod head;
mod object;
mod purge;
mod variants;

use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use http::header::HeaderMap;
use quick_cache::sync::Cache;
use quick_cache::{Lifecycle, OptionsBuilder, Weighter};
use smallvec::SmallVec;

pub use body::{Body, BodyBuilder, BodyTooLarge};
pub use head::{HeadTooLarge, PackedHead};
pub use object::{Draft, Incomplete, Object, Place};
pub use purge::{Generation, Purge, Purged, SharedPurges, Strength, Tags};

use crate::digest::Secret;
use crate::key::Key;
use crate::policy::Normalise;
use crate::vary::Variant;
use purge::Purges;
use variants::{Bounds, Selected, Variants};

/// The bounds of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The memory of all stored responses.
    pub bytes: u64,
    /// The memory of one response, and of all of one key. At most an eighth of `bytes` counts, and of those that the store began with.
    pub object: u64,
    /// The responses of one key: clients choose what a response varies by, and would fill the store with one page.
    pub variants: usize,
}

/// Responses in memory, shared by all workers.
pub struct Store {
    objects: Cache<Key, Variants, Weight, KeyHash, Evictions>,
    purges: Purges,
    secret: Secret,
    largest: AtomicU64,
    variants: AtomicUsize,
    /// What [`Limits::object`] can be: a shard has to hold several.
    shard_bound: u64,
    /// Held while the bytes change.
    resizing: Mutex<()>,
    /// Writers of one key wait for each other, so that each sees the variants of the other one. Readers never wait for them.
    writers: [Mutex<()>; 64],
    evicted: Arc<AtomicU64>,
}

/// What is stored for a request.
#[derive(Debug)]
pub enum Found {
    Object(Arc<Object>),
    /// Responses for other selecting fields.
    OtherVariants,
    Nothing,
}

/// A response is larger than [`Limits::object`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the response is larger than the cache stores")]
pub struct TooLarge;

impl Store {
    pub fn new(limits: Limits, secret: Secret) -> Store {
        let object = limits.object.min(limits.bytes / 8);
        // Each shard has its part of the bytes to itself, and has to hold several of the largest responses.
        let shards = (limits.bytes / object.max(1) / 4).clamp(1, 64);
        let shards = usize::try_from(shards).map_or(1, |shards| 1 << shards.ilog2());
        // For the memory of what was evicted lately: a note for each second response that there may be.
        let items = usize::try_from(limits.bytes / 4096).unwrap_or(usize::MAX).clamp(1024, 1 << 22);
        let evicted = Arc::new(AtomicU64::new(0));
        let options = OptionsBuilder::new()
            .weight_capacity(limits.bytes)
            .estimated_items_capacity(items)
            .shards(shards)
            .build()
            .expect("capacity and number of items are set");
        Store {
            objects: Cache::with_options(options, Weight, KeyHash, Evictions { evicted: Arc::clone(&evicted) }),
            purges: Purges::new(),
            secret,
            largest: AtomicU64::new(object),
            variants: AtomicUsize::new(limits.variants),
            shard_bound: object,
            resizing: Mutex::new(()),
            writers: [const { Mutex::new(()) }; 64],
            evicted,
        }
    }

    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// To be read before a request is sent whose response may be stored: a purge in between has to reach the response.
    pub fn generation(&self) -> Generation {
        self.purges.generation()
    }

    /// What a request selects, as far as it was not purged. Whether it may be used is another question: [`crate::freshness::reuse`].
    pub fn find(&self, key: &Key, request: &HeaderMap) -> Found {
        let Some(variants) = self.objects.get(key) else { return Found::Nothing };
        match variants.select(request, &self.purges, &self.secret) {
            Selected::Object(object) => Found::Object(object),
            Selected::Others => Found::OtherVariants,
            Selected::Nothing => {
                self.objects.remove_if(key, |now| now.objects().iter().all(|object| !object.is_there(&self.purges)));
                Found::Nothing
            }
        }
    }

    /// All that is stored for a key, the most recent first, with what purges have done to it. It leaves everything as it is.
    pub fn inspect(&self, key: &Key) -> Vec<(Arc<Object>, Purged)> {
        let variants = self.objects.peek(key);
        let objects = variants.as_ref().map_or(&[][..], |variants| variants.objects());
        objects.iter().map(|object| (Arc::clone(object), object.purged(&self.purges))).collect()
    }

    /// Stores a response. Of two for the same requests, the newer one stays. One that a purge has reached while it came does not take the place of
    /// one that was asked for afterwards.
    pub fn insert(&self, key: Key, object: Object) -> Result<Arc<Object>, TooLarge> {
        self.put(key, object, None)
    }

    /// Stores a response in the place of this one, unless that has gone meanwhile, or another one has taken its place.
    pub fn replace(&self, key: Key, old: &Arc<Object>, object: Object) -> Result<Arc<Object>, TooLarge> {
        self.put(key, object, Some(old))
    }

    fn put(&self, key: Key, object: Object, old: Option<&Arc<Object>>) -> Result<Arc<Object>, TooLarge> {
        let object = Arc::new(object);
        let bounds = Bounds {
            variants: self.variants.load(Ordering::Relaxed).max(1),
            weight: self.largest.load(Ordering::Relaxed),
        };
        if object.weight() > bounds.weight {
            return Err(TooLarge);
        }
        let _writer = self.writer(&key).lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.objects.peek(&key);
        let is_there = |old| before.as_ref().is_some_and(|now| now.objects().iter().any(|now| Arc::ptr_eq(now, old)));
        if old.is_some_and(|old| !is_there(old)) {
            return Ok(object);
        }
        let is_older = |other: &Arc<Object>| {
            other.variant().is_same(object.variant()) && object.born() < other.born() && other.is_there(&self.purges)
        };
        match object.purged(&self.purges) {
            Purged::No => {}
            Purged::Softly if !before.as_ref().is_some_and(|before| before.objects().iter().any(is_older)) => {}
            Purged::Softly | Purged::Gone => return Ok(object),
        }
        let variants = match before {
            Some(before) => before.with(Arc::clone(&object), bounds, &self.purges),
            None => Variants::One(Arc::clone(&object)),
        };
        self.objects.insert(key, variants);
        Ok(object)
    }

    fn writer(&self, key: &Key) -> &Mutex<()> {
        &self.writers[key.short() as usize % self.writers.len()]
    }

    /// Takes all responses of a key away.
    pub fn remove(&self, key: &Key) {
        let _writer = self.writer(key).lock().unwrap_or_else(PoisonError::into_inner);
        self.objects.remove(key);
    }

    /// Takes one response of a key away, unless another one has taken its place.
    pub fn remove_object(&self, key: &Key, object: &Arc<Object>) {
        let _writer = self.writer(key).lock().unwrap_or_else(PoisonError::into_inner);
        let Some(variants) = self.objects.peek(key) else { return };
        match variants.without(object) {
            Some(others) => self.objects.insert(*key, others),
            None => {
                self.objects.remove(key);
            }
        }
    }

    /// Takes as long for one response as for all.
    pub fn purge(&self, what: &Purge, strength: Strength, now: SystemTime) {
        self.purges.purge(what, strength, object::milliseconds(now), &self.secret);
    }

    /// Whether a purge, also a soft one, has come since then that reaches a response with these tags.
    pub fn is_purged_since(&self, born: Generation, tags: &Tags) -> bool {
        self.purges.check(born, tags, &AtomicU64::new(u64::MAX)) != Purged::No
    }

    /// Whether a purge, also a soft one, has reached a response.
    pub fn is_purged(&self, object: &Object) -> bool {
        object.purged(&self.purges) != Purged::No
    }

    /// What requests have in common that select the same response of a key, as far as the stored ones tell. None: they vary by nothing.
    pub fn variant(&self, key: &Key, request: &HeaderMap, normalise: Normalise) -> Option<[u8; 16]> {
        let variants = self.objects.peek(key)?;
        let names = variants.objects().iter().find(|object| object.is_there(&self.purges))?.variant().names();
        let variant = || Variant::new(names, request, &HeaderMap::new(), normalise, &self.secret).to_bytes();
        (!names.is_empty()).then(variant)
    }

    /// Changes the bounds, and evicts what is too much. Larger responses than the store began with need a new one.
    pub fn set_limits(&self, limits: Limits) {
        let _resizing = self.resizing.lock().unwrap_or_else(PoisonError::into_inner);
        self.largest.store(limits.object.min(limits.bytes / 8).min(self.shard_bound), Ordering::Relaxed);
        self.variants.store(limits.variants, Ordering::Relaxed);
        self.objects.set_capacity(limits.bytes);
    }

    /// Gives about this much memory back, for others that need it more. The bounds stay.
    pub fn release(&self, bytes: u64) {
        let _resizing = self.resizing.lock().unwrap_or_else(PoisonError::into_inner);
        let capacity = self.objects.capacity();
        // Not to nothing: the policy keeps its proportions by that of the capacities.
        self.objects.set_capacity(self.objects.weight().saturating_sub(bytes).max(capacity / 16));
        self.objects.set_capacity(capacity);
    }

    /// The memory of what is stored.
    pub fn bytes(&self) -> u64 {
        self.objects.weight()
    }

    /// The number of keys with stored responses.
    pub fn keys(&self) -> usize {
        self.objects.len()
    }

    /// The number of keys that were evicted so far.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Clone)]
struct Weight;

impl Weighter<Key, Variants> for Weight {
    fn weight(&self, _: &Key, variants: &Variants) -> u64 {
        variants.weight()
    }
}

/// A key is a keyed hash: half of it serves as it is.
#[derive(Debug, Clone)]
struct KeyHash;

impl BuildHasher for KeyHash {
    type Hasher = HalfOfKey;

    fn build_hasher(&self) -> HalfOfKey {
        HalfOfKey(0)
    }
}

struct HalfOfKey(u64);

impl Hasher for HalfOfKey {
    fn write(&mut self, bytes: &[u8]) {
        // A key is an array of two numbers, which come as bytes.
        for eight in bytes.chunks(8) {
            let mut number = [0; 8];
            number[..eight.len()].copy_from_slice(eight);
            self.0 ^= u64::from_le_bytes(number);
        }
    }

    fn write_usize(&mut self, _: usize) {
        // The length of the array.
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Counts evictions, and keeps what was evicted until no lock is held: to give back a large body takes a while.
#[derive(Clone)]
struct Evictions {
    evicted: Arc<AtomicU64>,
}

impl Lifecycle<Key, Variants> for Evictions {
    type RequestState = SmallVec<[Variants; 2]>;

    fn on_evict(&self, released: &mut Self::RequestState, _: Key, variants: Variants) {
        self.evicted.fetch_add(1, Ordering::Relaxed);
        released.push(variants);
    }
}

#[cfg(test)]
mod tests;
