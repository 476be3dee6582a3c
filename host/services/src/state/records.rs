//! Records that gateways share in a store: bytes by name, a lock that one of them holds at a time, and a list that all of them look at. Unlike limits
//! and values they have no stand-in while the store is away: the caller is told.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use redis::{Cmd, FromRedisValue, Value};

use super::script::Script;
use super::store::{CallError, Store};

/// KEYS: the lock. ARGV: who holds it, and for how many ms more; 0 lets it go.
static HOLD: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then redis.call('DEL', KEYS[1]) else redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1",
    )
});

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("state `{state}`: {reason}")]
pub struct RecordError {
    state: String,
    reason: String,
}

/// The records of one purpose.
#[derive(Clone)]
pub struct Records {
    store: Arc<Store>,
    /// What their keys begin with. It has a hash tag: all of them are in one node of a cluster.
    prefix: Arc<str>,
}

impl Records {
    pub fn new(store: Arc<Store>, purpose: &str) -> Self {
        let prefix = format!("{}{{{purpose}}}:", store.spec().prefix).into();
        Records { store, prefix }
    }

    /// The name of the state in the configuration.
    pub fn state(&self) -> &str {
        &self.store.spec().name
    }

    pub async fn get(&self, name: &str) -> Result<Option<Vec<u8>>, RecordError> {
        self.read(redis::cmd("GET").arg(self.key(name))).await
    }

    pub async fn set(&self, name: &str, value: &[u8]) -> Result<(), RecordError> {
        self.call(redis::cmd("SET").arg(self.key(name)).arg(value)).await.map(drop)
    }

    pub async fn delete(&self, name: &str) -> Result<(), RecordError> {
        self.call(redis::cmd("DEL").arg(self.key(name))).await.map(drop)
    }

    /// One more than before.
    pub async fn increment(&self, name: &str) -> Result<(), RecordError> {
        self.call(redis::cmd("INCR").arg(self.key(name))).await.map(drop)
    }

    /// Takes a lock for so long. `false`: another one has it.
    pub async fn lock(&self, name: &str, holder: &str, time: Duration) -> Result<bool, RecordError> {
        let mut command = redis::cmd("SET");
        command.arg(self.key(name)).arg(holder).arg("NX").arg("PX").arg(milliseconds(time));
        Ok(self.call(&command).await? != Value::Nil)
    }

    /// Holds a lock for so long from now on. `false`: it was lost.
    pub async fn hold(&self, name: &str, holder: &str, time: Duration) -> Result<bool, RecordError> {
        self.keep(name, holder, milliseconds(time)).await
    }

    /// Lets a lock go, unless it was lost before.
    pub async fn unlock(&self, name: &str, holder: &str) -> Result<(), RecordError> {
        self.keep(name, holder, 0).await.map(drop)
    }

    /// Puts an entry into a list, which ends so long after its last change.
    pub async fn put_entry(&self, list: &str, entry: &str, value: &[u8], time: Duration) -> Result<(), RecordError> {
        self.call(redis::cmd("HSET").arg(self.key(list)).arg(entry).arg(value)).await?;
        self.call(redis::cmd("PEXPIRE").arg(self.key(list)).arg(milliseconds(time))).await.map(drop)
    }

    pub async fn delete_entry(&self, list: &str, entry: &str) -> Result<(), RecordError> {
        self.call(redis::cmd("HDEL").arg(self.key(list)).arg(entry)).await.map(drop)
    }

    /// The values of a list, in no order.
    pub async fn entries(&self, list: &str) -> Result<Vec<Vec<u8>>, RecordError> {
        self.read(redis::cmd("HVALS").arg(self.key(list))).await
    }

    async fn keep(&self, name: &str, holder: &str, time: u64) -> Result<bool, RecordError> {
        let arguments = [holder.to_owned(), time.to_string()];
        let answer = HOLD.run(&self.store, true, &[self.key(name)], &arguments).await;
        answer.map(|answer| answer == Value::Int(1)).map_err(|error| self.error(&error))
    }

    async fn read<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RecordError> {
        T::from_redis_value(self.call(command).await?).map_err(|_| self.error(&self.store.nonsense("record")))
    }

    async fn call(&self, command: &Cmd) -> Result<Value, RecordError> {
        let answer = self.store.call(command, self.store.deadline(true), true).await;
        answer.map_err(|error| self.error(&error))
    }

    fn error(&self, error: &CallError) -> RecordError {
        RecordError { state: self.state().to_owned(), reason: error.to_string() }
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}
