//! Records that gateways share in a store: bytes by name, a lock that one of them holds at a time, and a list that all of them look at. Unlike limits
//! and values they have no stand-in while the store is away: the caller is told.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::{Cmd, FromRedisValue, Value};

use super::journal::hex;
use super::script::Script;
use super::store::{CallError, Store};

/// KEYS: the names of the lock. ARGV: who takes it, and for how many ms. All of them or none.
static LOCK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "for _, key in ipairs(KEYS) do
  local holder = redis.call('GET', key)
  if holder and holder ~= ARGV[1] then return 0 end
end
for _, key in ipairs(KEYS) do redis.call('SET', key, ARGV[1], 'PX', ARGV[2]) end
return 1",
    )
});

/// KEYS: the same. ARGV: who holds it, and for how many ms more; 0 lets it go. Answers 0 where one of them was lost.
static HOLD: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local all = 1
for _, key in ipairs(KEYS) do
  if redis.call('GET', key) ~= ARGV[1] then all = 0
  elseif ARGV[2] == '0' then redis.call('DEL', key)
  else redis.call('PEXPIRE', key, ARGV[2]) end
end
return all",
    )
});

/// The events that a list has for those who were away for a moment.
const EVENTS: usize = 1000;

/// KEYS: the number of the last event, and the events. ARGV: one more, how many are held, and a number to begin with that no earlier one has reached: a
/// store that has lost its data is known by it.
static TELL: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if not redis.call('GET', KEYS[1]) then redis.call('SET', KEYS[1], ARGV[3]) end
redis.call('LPUSH', KEYS[2], ARGV[1])
redis.call('LTRIM', KEYS[2], 0, ARGV[2] - 1)
return redis.call('INCR', KEYS[1])",
    )
});

/// KEYS: the same. ARGV: the number of the last event that is known. Answers the number of the last one, that one if it is held, and then those behind
/// the known one with the known one itself, the last first; none of these where one of those behind is missing.
static NEWS: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local last = tonumber(redis.call('GET', KEYS[1]) or '0')
local newest = redis.call('LRANGE', KEYS[2], 0, 0)[1] or ''
local count = last - tonumber(ARGV[1])
local events = {}
if count >= 0 then events = redis.call('LRANGE', KEYS[2], 0, count) end
if #events < count then events = {} end
table.insert(events, 1, last)
table.insert(events, 2, newest)
return events",
    )
});

/// The last event that is known. A replica that takes over may lack the last events, and others get their numbers: so each has a mark, a random one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    number: i64,
    /// Empty: not known.
    mark: String,
}

/// What was told since an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    pub seen: Seen,
    /// None: some were missed.
    pub events: Option<Vec<String>>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("state `{state}`: {reason}")]
pub struct RecordError {
    state: String,
    reason: String,
}

impl RecordError {
    pub fn new(state: &str, reason: &str) -> Self {
        RecordError { state: state.to_owned(), reason: reason.to_owned() }
    }
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

    /// Puts a record there, which ends after its life if it has one.
    pub async fn set(&self, name: &str, value: &[u8], life: Option<Duration>) -> Result<(), RecordError> {
        let mut command = redis::cmd("SET");
        command.arg(self.key(name)).arg(value);
        if let Some(life) = life {
            command.arg("PX").arg(milliseconds(life));
        }
        self.call(&command).await.map(drop)
    }

    /// The same where there is none yet. `false`: there is one.
    pub async fn add(&self, name: &str, value: &[u8], life: Duration) -> Result<bool, RecordError> {
        let mut command = redis::cmd("SET");
        command.arg(self.key(name)).arg(value).arg("NX").arg("PX").arg(milliseconds(life));
        Ok(self.call(&command).await? != Value::Nil)
    }

    pub async fn delete(&self, name: &str) -> Result<(), RecordError> {
        self.call(redis::cmd("DEL").arg(self.key(name))).await.map(drop)
    }

    /// Tells all who follow the events of this name of another one.
    pub async fn tell(&self, name: &str, event: &str) -> Result<(), RecordError> {
        let first = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let marked = format!("{} {event}", hex(&crate::random::bytes_32()[..16]));
        let arguments = [marked, EVENTS.to_string(), first.to_string()];
        let told = TELL.run(&self.store, true, &self.event_keys(name), &arguments).await;
        told.map(drop).map_err(|error| self.error(&error))
    }

    /// What was told since this event.
    pub async fn news(&self, name: &str, known: &Seen) -> Result<News, RecordError> {
        let answer = NEWS.run(&self.store, true, &self.event_keys(name), &[known.number.to_string()]).await;
        let answer = answer.map_err(|error| self.error(&error))?;
        news(answer, known).ok_or_else(|| self.odd())
    }

    fn event_keys(&self, name: &str) -> [String; 2] {
        [self.key(&format!("{name}:number")), self.key(&format!("{name}:events"))]
    }

    /// Takes the lock of these names for so long. `false`: another one has one of them.
    pub async fn lock(&self, names: &[String], holder: &str, time: Duration) -> Result<bool, RecordError> {
        self.lock_call(&LOCK, names, holder, milliseconds(time)).await
    }

    /// Holds a lock for so long from now on. `false`: it was lost.
    pub async fn hold(&self, names: &[String], holder: &str, time: Duration) -> Result<bool, RecordError> {
        self.lock_call(&HOLD, names, holder, milliseconds(time)).await
    }

    /// Lets a lock go, unless it was lost before.
    pub async fn unlock(&self, names: &[String], holder: &str) -> Result<(), RecordError> {
        self.lock_call(&HOLD, names, holder, 0).await.map(drop)
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

    async fn lock_call(&self, script: &Script, names: &[String], holder: &str, time: u64) -> Result<bool, RecordError> {
        let keys: Vec<String> = names.iter().map(|name| self.key(name)).collect();
        let arguments = [holder.to_owned(), time.to_string()];
        let answer = script.run(&self.store, true, &keys, &arguments).await;
        answer.map(|answer| answer == Value::Int(1)).map_err(|error| self.error(&error))
    }

    async fn read<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RecordError> {
        T::from_redis_value(self.call(command).await?).map_err(|_| self.odd())
    }

    fn odd(&self) -> RecordError {
        self.error(&self.store.nonsense("record"))
    }

    async fn call(&self, command: &Cmd) -> Result<Value, RecordError> {
        let answer = self.store.call(command, self.store.deadline(true), true).await;
        answer.map_err(|error| self.error(&error))
    }

    fn error(&self, error: &CallError) -> RecordError {
        RecordError::new(self.state(), &error.to_string())
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

/// The answer to [`NEWS`]. None: it is another one.
fn news(answer: Value, known: &Seen) -> Option<News> {
    let Value::Array(parts) = answer else { return None };
    let mut parts = parts.into_iter();
    let number = i64::from_redis_value(parts.next()?).ok()?;
    let newest = String::from_redis_value(parts.next()?).ok()?;
    let seen = Seen { number, mark: parted(&newest).0.to_owned() };
    let mut events = parts.map(String::from_redis_value).collect::<Result<Vec<_>, _>>().ok()?;
    // The number of a store that has lost its data may be smaller.
    let Some(new) = number.checked_sub(known.number).and_then(|new| usize::try_from(new).ok()) else {
        return Some(News { seen, events: None });
    };
    let is_another = events.get(new).is_some_and(|held| {
        let mark = parted(held).0;
        !known.mark.is_empty() && mark != known.mark
    });
    if events.len() < new || is_another {
        return Some(News { seen, events: None });
    }
    events.truncate(new);
    Some(News { seen, events: Some(events.iter().map(|event| parted(event).1.to_owned()).collect()) })
}

/// The mark of an event, and the event. Gateways of before have written none.
fn parted(marked: &str) -> (&str, &str) {
    let parts = marked.split_once(' ');
    parts.filter(|(mark, _)| mark.len() == 32 && mark.bytes().all(|b| b.is_ascii_hexdigit())).unwrap_or(("", marked))
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_that_were_missed_are_told_from_none() {
        let mark = |n: u8| format!("{n:032x}");
        let marked = |n: u8, event: &str| Value::BulkString(format!("{} {event}", mark(n)).into_bytes());
        let unmarked = |event: &str| Value::BulkString(event.as_bytes().to_vec());
        let of = |parts: Vec<Value>, number, marked: &str| {
            let news = news(Value::Array(parts), &Seen { number, mark: marked.to_owned() });
            news.map(|news| (news.seen.number, news.seen.mark, news.events))
        };
        let events = |events: &[&str]| Some(events.iter().map(|event| (*event).to_owned()).collect::<Vec<_>>());
        let last = || [Value::Int(7), marked(7, "b")];
        let with = |more: Vec<Value>| last().into_iter().chain(more).collect::<Vec<_>>();
        let seven = |events| Some((7, mark(7), events));
        assert_eq!(of(with(vec![marked(7, "b")]), 7, &mark(7)), seven(events(&[])));
        let three = || with(vec![marked(7, "b"), marked(6, "a"), marked(5, "x")]);
        assert_eq!(of(three(), 5, &mark(5)), seven(events(&["b", "a"])));
        assert_eq!(of(three(), 5, ""), seven(events(&["b", "a"])), "a mark that is not known");
        assert_eq!(of(with(vec![marked(7, "b"), marked(6, "a")]), 5, &mark(5)), seven(events(&["b", "a"])), "not held");
        assert_eq!(of(with(vec![]), 5, &mark(5)), seven(None), "more than are held");
        assert_eq!(of(with(vec![]), 9, &mark(9)), seven(None), "a store that has lost its data");
        // A replica took over that had not heard of the known one.
        assert_eq!(of(with(vec![marked(7, "b")]), 7, &mark(8)), seven(None));
        assert_eq!(of(three(), 5, &mark(8)), seven(None));
        // Nothing was told yet, and what gateways of before have told.
        assert_eq!(of(vec![Value::Int(0), unmarked("")], 0, ""), Some((0, String::new(), events(&[]))));
        let old = vec![Value::Int(7), unmarked("a b"), unmarked("a b"), unmarked("c")];
        assert_eq!(of(old, 6, ""), Some((7, String::new(), events(&["a b"]))));
        assert_eq!(news(Value::Nil, &Seen::default()), None);
        assert_eq!(of(vec![Value::Int(7)], 0, ""), None);
    }
}
