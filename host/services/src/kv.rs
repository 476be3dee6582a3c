//! The key-value store in memory: spaces of a plugin with a quota of bytes, values with a time to live, reservations.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::{Clock, ServiceError};

/// The bytes a space may hold: keys, values and [`ITEM_BYTES`] for each.
#[cfg(test)]
pub(super) const DEFAULT_QUOTA: u64 = 16 * 1024 * 1024;
/// The longest key, in bytes.
pub const MAX_KEY: usize = 1024;
/// What an item is charged beside its key and value.
pub const ITEM_BYTES: u64 = 64;

/// Who waits for a value looks again after this time; it doubles up to [`LONGEST_LOOK`]. Looking is cheaper than a list of those who wait.
pub(crate) const FIRST_LOOK: Duration = Duration::from_millis(1);
pub(crate) const LONGEST_LOOK: Duration = Duration::from_millis(16);

const SHARDS: usize = 16;
/// A shard that has grown by this many items since its last sweep is swept.
const SWEEP_FROM: usize = 64;
/// While the space is full, a shard is swept at most this often, and only if something can have expired in it: a flood of writes against
/// live values must not make each one look at all of them.
const SWEEP_AGAIN_US: u64 = 1_000_000;

/// What `get-or-reserve` found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reservation {
    /// The key has this value.
    Found(Bytes),
    /// The caller holds the reservation now.
    Reserved,
    /// Another caller holds it.
    Pending,
}

/// The plugin and the name of a space.
type SpaceName = (Box<str>, Box<str>);

/// All spaces of the gateway.
#[derive(Debug)]
pub struct Kv {
    clock: Clock,
    spaces: Mutex<HashMap<SpaceName, Arc<KvSpace>>>,
}

impl Kv {
    /// A store without spaces.
    pub fn new(clock: Clock) -> Self {
        Kv { clock, spaces: Mutex::default() }
    }

    /// A plugin's space, made when it is asked for first. Whether it is granted is the caller's question
    /// ([`Grants::check_kv`](super::Grants::check_kv)).
    ///
    /// `quota` bounds its bytes from now on; what is there stays.
    pub fn space(&self, plugin: &str, space: &str, quota: u64) -> Arc<KvSpace> {
        let key = (plugin.into(), space.into());
        let mut spaces = self.spaces.lock().unwrap_or_else(PoisonError::into_inner);
        let space = spaces.entry(key).or_insert_with(|| Arc::new(KvSpace::new(self.clock.clone(), quota)));
        space.quota.store(quota, Ordering::Relaxed);
        space.clone()
    }
}

/// One space of one plugin.
#[derive(Debug)]
pub struct KvSpace {
    clock: Clock,
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
    used: AtomicU64,
    quota: AtomicU64,
    /// For which time without a store values are kept here, of a space that is in one; 0 for none.
    outage: AtomicU64,
    /// Items that sweeps have looked at.
    #[cfg(test)]
    looked_at: AtomicU64,
}

#[derive(Debug, Default)]
struct Shard {
    items: HashMap<Box<str>, Item, RandomState>,
    sweep_at: usize,
    swept_us: u64,
    /// No item expires before this time, in microseconds; 0 is unknown.
    earliest_us: u64,
}

impl Shard {
    fn may_give_room(&self, now: u64) -> bool {
        !self.items.is_empty() && self.earliest_us <= now && self.swept_us.saturating_add(SWEEP_AGAIN_US) <= now
    }
}

#[derive(Debug)]
struct Item {
    /// `None`: reserved.
    value: Option<Bytes>,
    /// Microseconds since the Unix epoch.
    expires: Option<u64>,
}

impl Item {
    fn bytes(&self, key: &str) -> u64 {
        cost(key, self.value.as_ref().map_or(0, Bytes::len))
    }

    fn is_live(&self, now: u64) -> bool {
        self.expires.is_none_or(|expires| expires > now)
    }
}

pub(crate) fn cost(key: &str, value: usize) -> u64 {
    key.len() as u64 + value as u64 + ITEM_BYTES
}

impl KvSpace {
    fn new(clock: Clock, quota: u64) -> Self {
        KvSpace {
            clock,
            hasher: RandomState::default(),
            shards: std::array::from_fn(|_| Mutex::default()),
            used: AtomicU64::new(0),
            quota: AtomicU64::new(quota),
            outage: AtomicU64::new(0),
            #[cfg(test)]
            looked_at: AtomicU64::new(0),
        }
    }

    fn quota(&self) -> u64 {
        self.quota.load(Ordering::Relaxed)
    }

    /// The bytes in use, expired items that were not yet swept included.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Result<Option<Bytes>, ServiceError> {
        let shard = self.shard(key)?;
        let now = self.clock.steady_us();
        Ok(shard.items.get(key).filter(|item| item.is_live(now)).and_then(|item| item.value.clone()))
    }

    /// Whether somebody holds a reservation of this key.
    pub fn is_reserved(&self, key: &str) -> Result<bool, ServiceError> {
        let shard = self.shard(key)?;
        let now = self.clock.steady_us();
        Ok(shard.items.get(key).is_some_and(|item| item.is_live(now) && item.value.is_none()))
    }

    /// The value of a key, once nobody holds a reservation of it. `Timeout` after this time.
    pub async fn settled(&self, key: &str, timeout: Duration) -> Result<Option<Bytes>, ServiceError> {
        let until = tokio::time::Instant::now() + timeout;
        let mut look = FIRST_LOOK;
        while self.is_reserved(key)? {
            let now = tokio::time::Instant::now();
            if now >= until {
                return Err(ServiceError::Timeout);
            }
            tokio::time::sleep_until((now + look).min(until)).await;
            look = (look * 2).min(LONGEST_LOOK);
        }
        self.get(key)
    }

    /// Sets a value for `ttl_ms` milliseconds or until it is deleted; `TooLarge` past the quota.
    pub fn set(&self, key: &str, value: &[u8], ttl_ms: Option<u64>) -> Result<(), ServiceError> {
        self.check_size(key, value.len())?;
        let value = Bytes::copy_from_slice(value);
        self.with_room(|| {
            let mut shard = self.shard(key)?;
            let expires = self.expiry(ttl_ms)?;
            self.put(&mut shard, key, Some(value.clone()), expires)
        })
    }

    /// Removes a key. Answers whether it had a value.
    pub fn delete(&self, key: &str) -> Result<bool, ServiceError> {
        let mut shard = self.shard(key)?;
        let now = self.clock.steady_us();
        let Some(item) = shard.items.remove(key) else { return Ok(false) };
        self.used.fetch_sub(item.bytes(key), Ordering::Relaxed);
        Ok(item.value.is_some() && item.is_live(now))
    }

    /// Values are this gateway's own from now on. What was kept while a store was away is none.
    pub fn keeps_for_itself(&self) {
        self.keeps_for(0);
    }

    /// What is kept while a store is away counts for that time only: values of another one have been changed in the store since.
    pub(crate) fn keeps_for(&self, outage: u64) {
        if self.outage.swap(outage, Ordering::Relaxed) == outage {
            return;
        }
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let bytes: u64 = shard.items.drain().map(|(key, item)| item.bytes(&key)).sum();
            self.used.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Sets a value if the present one is `expected` (`None`: if there is none). Answers whether it did.
    pub fn compare_and_swap(
        &self,
        key: &str,
        expected: Option<&[u8]>,
        value: &[u8],
        ttl_ms: Option<u64>,
    ) -> Result<bool, ServiceError> {
        self.check_size(key, value.len())?;
        self.with_room(|| {
            let mut shard = self.shard(key)?;
            let expires = self.expiry(ttl_ms)?;
            let now = self.clock.steady_us();
            let present = shard.items.get(key).filter(|item| item.is_live(now)).and_then(|item| item.value.as_deref());
            if present != expected {
                return Ok(false);
            }
            self.put(&mut shard, key, Some(Bytes::copy_from_slice(value)), expires)?;
            Ok(true)
        })
    }

    /// The value, or a reservation for at most `ttl_ms` milliseconds, so that one caller of many makes the value.
    pub fn get_or_reserve(&self, key: &str, ttl_ms: u64) -> Result<Reservation, ServiceError> {
        self.with_room(|| {
            let mut shard = self.shard(key)?;
            let expires = self.expiry(Some(ttl_ms))?;
            let now = self.clock.steady_us();
            match shard.items.get(key).filter(|item| item.is_live(now)) {
                Some(Item { value: Some(value), .. }) => return Ok(Reservation::Found(value.clone())),
                Some(Item { value: None, .. }) => return Ok(Reservation::Pending),
                None => {}
            }
            self.put(&mut shard, key, None, expires)?;
            Ok(Reservation::Reserved)
        })
    }

    /// Tries again for as long as shards can be swept when the quota is met: expired items must not keep live ones out.
    fn with_room<T>(&self, attempt: impl Fn() -> Result<T, ServiceError>) -> Result<T, ServiceError> {
        loop {
            match attempt() {
                Err(ServiceError::TooLarge(limit)) if limit == self.quota() && self.sweep_one() => {}
                answer => return answer,
            }
        }
    }

    /// Sweeps a shard in which something can have expired. Answers whether there was one.
    fn sweep_one(&self) -> bool {
        let now = self.clock.steady_us();
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            if shard.may_give_room(now) {
                self.sweep(&mut shard, now);
                return true;
            }
        }
        false
    }

    /// Refuses what never fits, before anything is copied or locked.
    fn check_size(&self, key: &str, value: usize) -> Result<(), ServiceError> {
        if key.len() <= MAX_KEY && cost(key, value) > self.quota() {
            return Err(ServiceError::TooLarge(self.quota()));
        }
        Ok(())
    }

    fn put(
        &self,
        shard: &mut Shard,
        key: &str,
        value: Option<Bytes>,
        expires: Option<u64>,
    ) -> Result<(), ServiceError> {
        if shard.items.len() >= shard.sweep_at.max(SWEEP_FROM) {
            self.sweep(shard, self.clock.steady_us());
        }
        let item = Item { value, expires };
        let new = item.bytes(key);
        let old = shard.items.get(key).map_or(0, |item| item.bytes(key));
        // Charge first and take it back: two workers in different shards must not both take the last bytes.
        let used = self.used.fetch_add(new, Ordering::Relaxed).saturating_add(new);
        if used.saturating_sub(old) > self.quota() {
            self.used.fetch_sub(new, Ordering::Relaxed);
            return Err(ServiceError::TooLarge(self.quota()));
        }
        self.used.fetch_sub(old, Ordering::Relaxed);
        shard.earliest_us = shard.earliest_us.min(expires.unwrap_or(u64::MAX));
        match shard.items.get_mut(key) {
            Some(present) => *present = item,
            None => {
                shard.items.insert(key.into(), item);
            }
        }
        Ok(())
    }

    /// Drops what has expired.
    fn sweep(&self, shard: &mut Shard, now: u64) {
        #[cfg(test)]
        self.looked_at.fetch_add(shard.items.len() as u64, Ordering::Relaxed);
        let (mut freed, mut earliest) = (0, u64::MAX);
        shard.items.retain(|key, item| {
            let live = item.is_live(now);
            if live {
                earliest = earliest.min(item.expires.unwrap_or(u64::MAX));
            } else {
                freed += item.bytes(key);
            }
            live
        });
        self.used.fetch_sub(freed, Ordering::Relaxed);
        shard.sweep_at = shard.items.len().saturating_mul(2);
        (shard.swept_us, shard.earliest_us) = (now, earliest);
    }

    fn expiry(&self, ttl_ms: Option<u64>) -> Result<Option<u64>, ServiceError> {
        match ttl_ms {
            Some(0) => Err(ServiceError::Invalid("a time to live of 0 ms".to_owned())),
            Some(ms) => Ok(Some(self.clock.steady_us().saturating_add(ms.saturating_mul(1_000)))),
            None => Ok(None),
        }
    }

    fn shard(&self, key: &str) -> Result<MutexGuard<'_, Shard>, ServiceError> {
        if key.len() > MAX_KEY {
            return Err(ServiceError::long_key(key, MAX_KEY));
        }
        let at = (self.hasher.hash_one(key) >> 40) as usize % SHARDS;
        let [first, ..] = &self.shards;
        Ok(self.shards.get(at).unwrap_or(first).lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(quota: u64) -> (KvSpace, Arc<AtomicU64>) {
        let (clock, time) = Clock::manual(0);
        (KvSpace::new(clock, quota), time)
    }

    #[test]
    fn values_live_until_they_expire_or_are_deleted() {
        let (kv, time) = space(DEFAULT_QUOTA);
        kv.set("forever", b"a", None).unwrap();
        kv.set("brief", b"b", Some(10)).unwrap();
        assert_eq!(kv.get("brief").unwrap().as_deref(), Some(&b"b"[..]));
        time.store(10_000, Ordering::Release);
        assert_eq!(kv.get("brief").unwrap(), None);
        assert!(!kv.delete("brief").unwrap());
        assert!(kv.delete("forever").unwrap());
        assert!(!kv.delete("forever").unwrap());
        assert_eq!(kv.used(), 0);
        assert!(matches!(kv.set("k", b"", Some(0)), Err(ServiceError::Invalid(_))));
        assert_eq!(
            kv.get(&"k".repeat(1025)),
            Err(ServiceError::Invalid("a key of 1025 bytes: 1024 are the most".to_owned()))
        );
        kv.set("max", b"", Some(u64::MAX)).unwrap();
        assert!(kv.get("max").unwrap().is_some());
    }

    #[test]
    fn swap_compares_the_present_value() {
        let (kv, time) = space(DEFAULT_QUOTA);
        assert!(!kv.compare_and_swap("k", Some(b"x"), b"1", None).unwrap());
        assert!(kv.compare_and_swap("k", None, b"1", Some(5)).unwrap());
        assert!(!kv.compare_and_swap("k", None, b"2", None).unwrap());
        assert!(kv.compare_and_swap("k", Some(b"1"), b"2", Some(5)).unwrap());
        time.store(5_000, Ordering::Release);
        assert!(kv.compare_and_swap("k", None, b"3", None).unwrap());
        assert_eq!(kv.get("k").unwrap().as_deref(), Some(&b"3"[..]));
    }

    #[tokio::test]
    async fn who_waits_gets_what_becomes_of_a_reservation() {
        let (kv, time) = space(DEFAULT_QUOTA);
        let wait = async |key: &str, ms| kv.settled(key, Duration::from_millis(ms)).await;
        assert_eq!(wait("k", 60_000).await, Ok(None), "nobody holds one");
        kv.get_or_reserve("k", 10).unwrap();
        assert_eq!(wait("k", 3).await, Err(ServiceError::Timeout));
        for (end, value) in [("set", Some(&b"v"[..])), ("delete", None), ("expire", None)] {
            kv.delete("k").unwrap();
            assert_eq!(kv.get_or_reserve("k", 10).unwrap(), Reservation::Reserved);
            let ends = async {
                match end {
                    "set" => kv.set("k", b"v", Some(5)).unwrap(),
                    "delete" => assert!(!kv.delete("k").unwrap()),
                    _ => time.store(20_000, Ordering::Release),
                }
            };
            let (found, ()) = tokio::join!(wait("k", 60_000), ends);
            assert_eq!(found.unwrap().as_deref(), value, "{end}");
        }
        assert!(matches!(wait(&"k".repeat(1025), 1).await, Err(ServiceError::Invalid(_))));
    }

    #[test]
    fn one_of_many_gets_the_reservation() {
        let (kv, time) = space(DEFAULT_QUOTA);
        assert_eq!(kv.get_or_reserve("k", 10).unwrap(), Reservation::Reserved);
        assert_eq!(kv.get_or_reserve("k", 10).unwrap(), Reservation::Pending);
        assert_eq!(kv.get("k").unwrap(), None);
        time.store(10_000, Ordering::Release);
        assert_eq!(kv.get_or_reserve("k", 10).unwrap(), Reservation::Reserved);
        kv.set("k", b"v", None).unwrap();
        assert_eq!(kv.get_or_reserve("k", 10).unwrap(), Reservation::Found(Bytes::from_static(b"v")));
        kv.delete("k").unwrap();
        assert_eq!(kv.get_or_reserve("k", 10).unwrap(), Reservation::Reserved);
        assert!(!kv.delete("k").unwrap(), "a reservation is no value");
    }

    #[test]
    fn the_quota_holds_and_expired_values_make_room() {
        let (kv, time) = space(1_000);
        let value = [0; 335];
        for key in ["a", "b"] {
            kv.set(key, &value, Some(1)).unwrap();
        }
        assert_eq!(kv.used(), 800);
        assert_eq!(kv.set("c", &value, None), Err(ServiceError::TooLarge(1_000)));
        assert_eq!(kv.used(), 800);
        kv.set("a", &[1; 335], Some(1)).unwrap();
        time.store(1_000, Ordering::Release);
        assert_eq!(kv.set("c", &value, None), Err(ServiceError::TooLarge(1_000)), "not swept again so soon");
        time.store(SWEEP_AGAIN_US, Ordering::Release);
        kv.set("c", &value, None).unwrap();
        assert!(kv.used() <= 800, "at least one of the expired values is gone");
        assert_eq!(kv.set("d", &[0; 1_000], None), Err(ServiceError::TooLarge(1_000)));
        assert!(kv.compare_and_swap("c", Some(&value), &[0; 900], None).unwrap());
        assert_eq!(kv.get_or_reserve("e", 1), Err(ServiceError::TooLarge(1_000)));
    }

    /// What is counted is the work, not the time.
    #[test]
    fn a_refused_write_looks_at_less_than_an_item() {
        let (kv, time) = space(100_000);
        time.store(10_000_000, Ordering::Release);
        let mut kept = 0;
        while kv.set(&format!("old{kept}"), &[0; 10], Some(100 + kept)).is_ok() {
            kept += 1;
        }
        let looked_at = |kv: &KvSpace| kv.looked_at.swap(0, Ordering::Relaxed);
        looked_at(&kv);
        for i in 0..10_000 {
            assert!(kv.set(&format!("new{i}"), &[0; 10], None).is_err());
        }
        assert_eq!(looked_at(&kv), 0, "all are alive");
        // Something expires every millisecond, and more is written.
        let mut served = 0;
        for i in 0..20_000 {
            time.fetch_add(250, Ordering::AcqRel);
            served += u64::from(kv.set(&format!("later{i}"), &[0; 10], None).is_ok());
        }
        assert!(served >= kept / 2, "{served} of {kept}");
        assert!(looked_at(&kv) < 20_000);
    }

    #[test]
    fn threads_never_pass_the_quota_and_swaps_are_atomic() {
        let (kv, _) = space(100_000);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let kv = &kv;
                scope.spawn(move || {
                    for i in 0..1_000 {
                        let _ = kv.set(&format!("{thread}-{i}"), &[0; 100], Some(1_000));
                        assert!(kv.used() <= 100_000 + 4 * 300);
                    }
                });
            }
        });
        assert!(kv.used() <= 100_000);
        let (kv, _) = space(DEFAULT_QUOTA);
        kv.set("n", &0u64.to_le_bytes(), None).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        loop {
                            let old = kv.get("n").unwrap().unwrap();
                            let new = u64::from_le_bytes(old[..].try_into().unwrap()) + 1;
                            if kv.compare_and_swap("n", Some(&old), &new.to_le_bytes(), None).unwrap() {
                                break;
                            }
                        }
                    }
                });
            }
        });
        assert_eq!(kv.get("n").unwrap().unwrap()[..], 2_000u64.to_le_bytes());
    }

    #[test]
    fn what_was_kept_while_a_store_was_away_is_no_value_without_one() {
        let (kv, _) = space(DEFAULT_QUOTA);
        kv.set("own", b"v", None).unwrap();
        kv.keeps_for_itself();
        assert!(kv.get("own").unwrap().is_some(), "as at each reload");
        kv.keeps_for(7);
        kv.set("meanwhile", b"v", None).unwrap();
        kv.keeps_for_itself();
        assert_eq!((kv.get("meanwhile").unwrap(), kv.used()), (None, 0));
    }

    #[test]
    fn plugins_do_not_share_spaces() {
        let kv = Kv::new(Clock::manual(0).0);
        kv.space("p", "s", DEFAULT_QUOTA).set("k", b"v", None).unwrap();
        assert_eq!(kv.space("q", "s", DEFAULT_QUOTA).get("k").unwrap(), None);
        assert!(kv.space("p", "s", DEFAULT_QUOTA).get("k").unwrap().is_some());
    }
}
