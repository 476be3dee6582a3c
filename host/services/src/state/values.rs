//! Values of a space in a store. A value has a byte in front, which tells it from a reservation.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use redis::{Cmd, FromRedisValue, Value};
use tokio::time::{Instant, sleep_until};

use super::Away;
use super::script::Script;
use super::store::{CallError, Store};
use crate::ServiceError;
use crate::kv::{self, KvSpace, MAX_KEY, Reservation};

const VALUE: u8 = b'v';
const RESERVED: u8 = b'r';

/// KEYS: one. ARGV: the value to put, its time to live in ms or "0", and what has to be there, if anything.
static SWAP: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local there = redis.call('GET', KEYS[1])
if there and string.sub(there, 1, 1) ~= 'v' then there = false end
if there ~= (ARGV[3] or false) then return 0 end
if ARGV[2] == '0' then redis.call('SET', KEYS[1], ARGV[1]) else redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
return 1",
    )
});

static RESERVE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("reserve.lua")));

/// One space of one plugin.
pub struct RemoteValues {
    store: Arc<Store>,
    /// What its keys begin with.
    prefix: Box<str>,
    /// Of one value with its key: what all of them take is the store's matter.
    quota: u64,
    /// That of this gateway, while the store is away.
    local: Arc<KvSpace>,
}

impl RemoteValues {
    pub fn new(store: Arc<Store>, plugin: &str, space: &str, quota: u64, local: Arc<KvSpace>) -> Self {
        // With its length, so that no key of one space is in another.
        let prefix = format!("{}{plugin}:kv:{}:{space}:", store.spec().prefix, space.len()).into();
        RemoteValues { store, prefix, quota, local }
    }

    /// What [`KvSpace::get`] does.
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, ServiceError> {
        let name = self.name(key, 0)?;
        match self.call(redis::cmd("GET").arg(&name)).await {
            Ok(Found::Value(value)) => self.answered(key, Ok(Some(value))),
            Ok(Found::Nothing | Found::Reserved) => self.answered(key, Ok(None)),
            Err(why) => self.away(&why, |local| Ok(local.get(key)?.map(Vec::from)), None),
        }
    }

    /// What [`KvSpace::set`] does.
    pub async fn set(&self, key: &str, value: &[u8], ttl_ms: Option<u64>) -> Result<(), ServiceError> {
        let name = self.name(key, value.len())?;
        let mut command = redis::cmd("SET");
        command.arg(&name).arg(marked(value));
        if let Some(ttl_ms) = ttl(ttl_ms)? {
            command.arg("PX").arg(ttl_ms);
        }
        match self.store.call(&command, self.store.deadline(false), false).await {
            Ok(_) => self.answered(key, Ok(())),
            Err(why) => self.away(&why, |local| local.set(key, value, ttl_ms), ()),
        }
    }

    /// What [`KvSpace::delete`] does.
    pub async fn delete(&self, key: &str) -> Result<bool, ServiceError> {
        let name = self.name(key, 0)?;
        match self.call(redis::cmd("GETDEL").arg(&name)).await {
            Ok(found) => self.answered(key, Ok(matches!(found, Found::Value(_)))),
            Err(why) => self.away(&why, |local| local.delete(key), false),
        }
    }

    /// What [`KvSpace::compare_and_swap`] does.
    pub async fn compare_and_swap(
        &self,
        key: &str,
        expected: Option<&[u8]>,
        value: &[u8],
        ttl_ms: Option<u64>,
    ) -> Result<bool, ServiceError> {
        let name = self.name(key, value.len())?;
        let mut arguments = vec![marked(value), ttl(ttl_ms)?.unwrap_or(0).to_string().into_bytes()];
        arguments.extend(expected.map(marked));
        match SWAP.run(&self.store, false, &[&name], &arguments).await {
            Ok(answer) => self.answered(key, Ok(answer == Value::Int(1))),
            // Without a store nothing is there, so a caller that found something else there begins again.
            Err(why) => {
                self.away(&why, |local| local.compare_and_swap(key, expected, value, ttl_ms), expected.is_none())
            }
        }
    }

    /// What [`KvSpace::get_or_reserve`] does.
    pub async fn get_or_reserve(&self, key: &str, ttl_ms: u64) -> Result<Reservation, ServiceError> {
        let name = self.name(key, 0)?;
        let ttl_ms = ttl(Some(ttl_ms))?.unwrap_or_default();
        let arguments = [ttl_ms.to_string().into_bytes(), reservation()];
        let answer = RESERVE.run(&self.store, false, &[&name], &arguments).await;
        match answer.and_then(|answer| found(&self.store, answer)) {
            Ok(Found::Value(value)) => self.answered(key, Ok(Reservation::Found(value.into()))),
            Ok(Found::Reserved) => self.answered(key, Ok(Reservation::Pending)),
            Ok(Found::Nothing) => self.answered(key, Ok(Reservation::Reserved)),
            Err(why) => self.away(&why, |local| local.get_or_reserve(key, ttl_ms), Reservation::Reserved),
        }
    }

    /// What [`KvSpace::settled`] does.
    pub async fn settled(&self, key: &str, timeout: Duration) -> Result<Option<Vec<u8>>, ServiceError> {
        let name = self.name(key, 0)?;
        let until = Instant::now() + timeout;
        let mut look = kv::FIRST_LOOK;
        loop {
            match self.call(redis::cmd("GET").arg(&name)).await {
                Ok(Found::Value(value)) => return self.answered(key, Ok(Some(value))),
                Ok(Found::Nothing) => return self.answered(key, Ok(None)),
                Ok(Found::Reserved) => {}
                Err(why) => {
                    return match self.store.spec().away {
                        Away::Local => {
                            let left = until.saturating_duration_since(Instant::now());
                            Ok(self.local().settled(key, left).await?.map(Vec::from))
                        }
                        Away::Open | Away::Closed => self.away(&why, |_| Ok(None), None),
                    };
                }
            }
            let now = Instant::now();
            if now >= until {
                return Err(ServiceError::Timeout);
            }
            sleep_until((now + look).min(until)).await;
            look = (look * 2).min(kv::LONGEST_LOOK);
        }
    }

    async fn call(&self, command: &Cmd) -> Result<Found, CallError> {
        self.store.call(command, self.store.deadline(false), false).await.and_then(|answer| found(&self.store, answer))
    }

    fn away<T>(
        &self,
        why: &CallError,
        local: impl FnOnce(&KvSpace) -> Result<T, ServiceError>,
        open: T,
    ) -> Result<T, ServiceError> {
        match self.store.spec().away {
            Away::Local => local(self.local()),
            Away::Open => Ok(open),
            Away::Closed => Err(ServiceError::Unavailable(format!("state `{}`: {why}", self.store.spec().name))),
        }
    }

    /// The values of this gateway since the store went away.
    fn local(&self) -> &KvSpace {
        self.local.keeps_for(self.store.outage());
        &self.local
    }

    /// The store has answered about a key: what was kept here meanwhile, as for a call that took too long, is an old value from now on.
    fn answered<T>(&self, key: &str, answer: T) -> T {
        if self.local.used() > 0 {
            let _ = self.local.delete(key);
        }
        answer
    }

    fn name(&self, key: &str, value: usize) -> Result<String, ServiceError> {
        if key.len() > MAX_KEY {
            return Err(ServiceError::long_key(key, MAX_KEY));
        }
        if kv::cost(key, value) > self.quota {
            return Err(ServiceError::TooLarge(self.quota));
        }
        Ok(format!("{}{key}", self.prefix))
    }
}

/// What is there under a key.
enum Found {
    Nothing,
    Reserved,
    Value(Vec<u8>),
}

fn found(store: &Store, answer: Value) -> Result<Found, CallError> {
    let odd = || store.nonsense("value");
    let bytes = Option::<Vec<u8>>::from_redis_value(answer).map_err(|_| odd())?;
    match bytes {
        None => Ok(Found::Nothing),
        Some(bytes) if bytes.first() == Some(&RESERVED) => Ok(Found::Reserved),
        Some(mut bytes) if bytes.first() == Some(&VALUE) => {
            bytes.remove(0);
            Ok(Found::Value(bytes))
        }
        Some(_) => Err(odd()),
    }
}

/// One of its own for each call: in a cluster, a call whose connection has ended is made again.
fn reservation() -> Vec<u8> {
    let mut reservation = vec![RESERVED];
    reservation.extend(crate::random::bytes_32().iter().take(12));
    reservation
}

fn marked(value: &[u8]) -> Vec<u8> {
    let mut marked = Vec::with_capacity(value.len() + 1);
    marked.push(VALUE);
    marked.extend_from_slice(value);
    marked
}

/// The longest time to live that a store takes; it adds it to its clock.
const LONGEST_TTL_MS: u64 = 1 << 52;

fn ttl(ttl_ms: Option<u64>) -> Result<Option<u64>, ServiceError> {
    match ttl_ms {
        Some(0) => Err(ServiceError::Invalid("a time to live of 0 ms".to_owned())),
        ttl_ms => Ok(ttl_ms.map(|ms| ms.min(LONGEST_TTL_MS))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Clock;
    use crate::kv::Kv;
    use crate::state::{Login, StoreSpec, TlsFiles, Topology};

    fn spec() -> StoreSpec {
        StoreSpec {
            name: "s".into(),
            servers: vec!["redis://127.0.0.1:1".parse().unwrap()],
            topology: Topology::Single,
            login: Login::default(),
            sentinel_login: Login::default(),
            database: 0,
            tls: TlsFiles::default(),
            timeout: Duration::from_millis(1),
            connect_timeout: Duration::from_millis(1),
            max_waiting: 1,
            away: Away::Closed,
            prefix: "x:".into(),
        }
    }

    #[test]
    fn no_key_of_one_space_is_in_another() {
        let store = Arc::new(Store::new(spec()).unwrap());
        let kv = Kv::new(Clock::system());
        let name = |space: &str, key: &str| {
            let values = RemoteValues::new(store.clone(), "p", space, 1 << 20, kv.space("p", space, 1 << 20));
            values.name(key, 0).unwrap()
        };
        assert_ne!(name("a", "b:x"), name("a:b", "x"));
        assert_ne!(name("a", "1:b:x"), name("a:1", "b:x"));
        assert_eq!(name("a", "x"), "x:p:kv:1:a:x");
    }
}
