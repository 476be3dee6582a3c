//! What gateways tell each other over a store: entries that each of them reads in order, and a table that has the number of the last entry of
//! each place. An entry that a gateway writes is read by itself, too; that is how it knows its number.
//!
//! The journal has an identity, a random number. A store that has lost its data gets another one, and so does one that has gone back to
//! an older state: what was counted by the former identity means nothing then. A gateway that has missed entries is told so. A replica that
//! takes over may lack the last entries, and others get their numbers: so each write has a mark, a random one, and who comes back looks whether
//! the last entry that it has read is still the same.

use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

use redis::{FromRedisValue, Value};
use tokio::time::{Instant, sleep, timeout};

use super::connect::Connection;
use super::link::{FIRST_PAUSE, LONGEST_PAUSE, connect, with_jitter};
use super::script::Script;
use super::store::{CallError, Store};

/// How long the store may hold a question for new entries, unless the connection gives up before.
const HOLD: Duration = Duration::from_millis(200);
/// How often it is looked whether a cluster, which the crate may have connected anew, still has the last entry.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Entries of one answer.
const AT_ONCE: usize = 1000;

/// KEYS: the table. ARGV: an identity for a journal that has none. Answers the identity and the number of the last entry.
static IDENTIFY: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('HSETNX', KEYS[1], 'id', ARGV[1]) == 1 then redis.call('HSET', KEYS[1], 'last', '0') end
return redis.call('HMGET', KEYS[1], 'id', 'last')",
    )
});

/// The store keeps 10,000 entries for gateways that were away. KEYS: the table, the entries. ARGV: the identity, a mark, and for each entry its place and its text. Answers the number of the last one, or
/// nothing where the identity is another one.
static WRITE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('HGET', KEYS[1], 'id') ~= ARGV[1] then return false end
local last
for at = 3, #ARGV, 2 do
last = redis.call('HINCRBY', KEYS[1], 'last', 1)
redis.call('XADD', KEYS[2], 'MAXLEN', '~', '10000', last .. '-0', 'e', ARGV[at + 1], 'm', ARGV[2])
redis.call('HSET', KEYS[1], ARGV[at], last)
end
return last",
    )
});

/// KEYS: the table, the entries. ARGV: the identity that is to go, and the one that takes its place.
static RESTART: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local id = redis.call('HGET', KEYS[1], 'id')
if id and id ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('HSET', KEYS[1], 'id', ARGV[2], 'last', '0')
return 1",
    )
});

/// Who the journal is.
pub type Identity = [u8; 16];

/// What a reader of a journal is told. The calls come from one task.
pub trait Reader: Send + Sync + 'static {
    /// The journal has this identity. What was counted by another one means nothing any more.
    fn begins(&self, identity: Identity);
    /// The number of the last entry of a place.
    fn place(&self, place: &[u8], number: u64);
    /// An entry. Answers whether it was understood.
    fn entry(&self, number: u64, text: &[u8]) -> bool;
    /// Entries were missed. Their places are known.
    fn missed(&self);
    /// All entries up to this one are known.
    fn caught_up(&self, number: u64);
    /// Whether entries that come now are known at once.
    fn is_live(&self, live: bool);
    /// What is to be written, at most this many entries. None before it has begun.
    fn due(&self, most: usize) -> Option<Due>;
    /// What was due last is written, to a journal of this identity. The last of it has this number.
    fn written(&self, identity: Identity, number: u64);
}

/// What is to be written.
pub struct Due {
    /// Of the journal that the places are made for.
    pub identity: Identity,
    /// The place and the text of each entry.
    pub entries: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What a gateway knows of the journal.
struct Known {
    identity: Identity,
    /// The number of the last entry that it has read, and the mark of that.
    read: u64,
    mark: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    number: u64,
    text: Vec<u8>,
    /// Of the write that it came with. Empty: of none.
    mark: Vec<u8>,
}

/// A journal in a store.
pub struct Journal {
    store: Weak<Store>,
    table: String,
    entries: String,
    wake: Arc<tokio::sync::Notify>,
}

impl Journal {
    /// `wake` says that there is something to write.
    pub fn new(store: &Arc<Store>, name: &str, wake: Arc<tokio::sync::Notify>) -> Journal {
        // In braces, so that one script can have both in a cluster.
        let prefix = format!("{}{{{name}}}:", store.spec().prefix);
        let (table, entries) = (format!("{prefix}table"), format!("{prefix}entries"));
        Journal { store: Arc::downgrade(store), table, entries, wake }
    }

    /// Reads and writes for as long as the reader and the store are there.
    pub async fn run(self, reader: Weak<impl Reader>) {
        let mut known = None;
        let mut pause = FIRST_PAUSE;
        while let (Some(store), Some(here)) = (self.store.upgrade(), reader.upgrade()) {
            let begun = Instant::now();
            if let Ok(connection) = connect(&store).await {
                drop(here);
                let writing = self.write(&reader);
                let reading = self.read(store, connection, &reader, &mut known);
                tokio::select! {
                    () = reading => {}
                    () = writing => {}
                }
            }
            if let Some(here) = reader.upgrade() {
                here.is_live(false);
            }
            if begun.elapsed() >= LONGEST_PAUSE {
                pause = FIRST_PAUSE;
            }
            sleep(with_jitter(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Reads until the connection is of no use, or nobody reads any more.
    async fn read(
        &self,
        store: Arc<Store>,
        mut connection: Connection,
        reader: &Weak<impl Reader>,
        known: &mut Option<Known>,
    ) {
        // A worker's link keeps the store open, this does not.
        let within = store.spec().connect_timeout;
        // The crate bounds each call to a node of a cluster by the time of a call.
        let hold = HOLD.min(if connection.is_cluster() { store.spec().timeout } else { within } / 2);
        let store = {
            let weak = Arc::downgrade(&store);
            drop(store);
            weak
        };
        // Another server may be behind the connection.
        let (mut is_new, mut looked) = (true, Instant::now());
        loop {
            let Some(open) = store.upgrade() else { return };
            let Some((identity, last)) = self.identify(&open).await else { return };
            match known {
                Some(before) if before.identity == identity => {
                    let is_older = before.read > last;
                    if connection.is_cluster() && looked.elapsed() >= LOOK_EVERY {
                        (is_new, looked) = (true, Instant::now());
                    }
                    let has = is_older || !is_new || self.has(&mut connection, before.read, &before.mark, within).await;
                    if is_older || !has {
                        // It has gone back to an older state.
                        if self.restart(&open, &identity).await.is_err() {
                            // The caller makes a pause: without a right it would fail again and again.
                            return;
                        }
                        continue;
                    }
                }
                Some(_) | None => {
                    let Some(here) = reader.upgrade() else { return };
                    here.begins(identity);
                    if self.load(&mut connection, &*here, within).await.is_none() {
                        return;
                    }
                    // All that is kept is read: others may have written before this one has found the journal to be another.
                    *known = Some(Known { identity, read: 0, mark: Vec::new() });
                }
            }
            is_new = false;
            drop(open);
            let Some(Known { read, mark, .. }) = known else { return };
            loop {
                let Ok(entries) = self.next(&mut connection, *read, hold, within).await else { return };
                let Some(here) = reader.upgrade() else { return };
                if store.strong_count() == 0 {
                    return;
                }
                // Those of another node may not follow on what was read.
                if connection.is_cluster()
                    && !entries.is_empty()
                    && !self.has(&mut connection, *read, mark, within).await
                {
                    is_new = true;
                    break;
                }
                if entries.is_empty() {
                    if *read < last {
                        // The table has counted them, and they are gone.
                        if self.load(&mut connection, &*here, within).await.is_none() {
                            return;
                        }
                        here.missed();
                        (*read, *mark) = (last, Vec::new());
                    }
                    here.caught_up(*read);
                    here.is_live(true);
                    // Whether it is still the same: what was lost would be waited for in vain.
                    break;
                }
                let mut has_missed = entries.first().is_some_and(|first| first.number != *read + 1);
                for entry in entries {
                    has_missed |= !here.entry(entry.number, &entry.text);
                    (*read, *mark) = (entry.number, entry.mark);
                }
                if has_missed {
                    if self.load(&mut connection, &*here, within).await.is_none() {
                        return;
                    }
                    here.missed();
                }
                here.caught_up(*read);
                here.is_live(true);
            }
        }
    }

    /// Writes what is due, until nobody has anything to write any more.
    async fn write(&self, reader: &Weak<impl Reader>) {
        loop {
            let (Some(store), Some(here)) = (self.store.upgrade(), reader.upgrade()) else { return };
            let Some(due) = here.due(AT_ONCE / 10).filter(|due| !due.entries.is_empty()) else {
                drop((store, here));
                self.wake.notified().await;
                continue;
            };
            if let Some(number) = self.put(&store, &due).await {
                here.written(due.identity, number);
                continue;
            }
            // Another identity is for the side that reads to find.
            drop((store, here));
            sleep(FIRST_PAUSE).await;
        }
    }

    async fn identify(&self, store: &Arc<Store>) -> Option<(Identity, u64)> {
        let fresh = hex(&crate::random::bytes_32()[..16]);
        let answer = IDENTIFY.run(store, true, &[&self.table], &[&fresh]).await.ok()?;
        let (id, last) = <(String, u64)>::from_redis_value(answer).ok()?;
        Some((unhex(&id)?, last))
    }

    async fn restart(&self, store: &Arc<Store>, identity: &Identity) -> Result<(), CallError> {
        let (old, new) = (hex(identity), hex(&crate::random::bytes_32()[..16]));
        RESTART.run(store, true, &[&self.table, &self.entries], &[&old, &new]).await.map(|_| ())
    }

    /// Answers the number of the last entry, where all of it is written.
    async fn put(&self, store: &Arc<Store>, due: &Due) -> Option<u64> {
        let mark = hex(&crate::random::bytes_32()[..16]);
        let mut arguments = vec![hex(&due.identity).into_bytes(), mark.into_bytes()];
        for (place, text) in &due.entries {
            arguments.extend([place.clone(), text.clone()]);
        }
        match WRITE.run(store, true, &[&self.table, &self.entries], &arguments).await {
            Ok(Value::Int(last)) => u64::try_from(last).ok(),
            // Entries of a former state are in the way.
            Err(CallError::Refused(_) | CallError::WrongType(_)) => {
                let _ = self.restart(store, &due.identity).await;
                None
            }
            Ok(_) | Err(_) => None,
        }
    }

    /// Reads the table.
    async fn load(&self, connection: &mut Connection, reader: &impl Reader, within: Duration) -> Option<()> {
        let mut cursor = 0_u64;
        loop {
            let mut command = redis::cmd("HSCAN");
            command.arg(&self.table).arg(cursor).arg("COUNT").arg(AT_ONCE);
            let answer = timeout(within, connection.send(&command)).await.ok()?.ok()?;
            let (next, fields) = <(u64, Vec<(Vec<u8>, Vec<u8>)>)>::from_redis_value(answer).ok()?;
            for (place, value) in fields {
                if let Some(number) = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok()) {
                    reader.place(&place, number);
                }
            }
            if next == 0 {
                return Some(());
            }
            cursor = next;
        }
    }

    /// Whether the last entry that was read is still that one, as far as can be told: an entry that is gone is not another one.
    async fn has(&self, connection: &mut Connection, read: u64, mark: &[u8], within: Duration) -> bool {
        mark.is_empty() || self.mark_of(connection, read, within).await.is_none_or(|found| found == mark)
    }

    /// The mark of an entry; none without an answer or the entry.
    async fn mark_of(&self, connection: &mut Connection, number: u64, within: Duration) -> Option<Vec<u8>> {
        let mut command = redis::cmd("XREAD");
        let before = format!("{}-0", number.checked_sub(1)?);
        command.arg("COUNT").arg(1).arg("STREAMS").arg(&self.entries).arg(before);
        let answer = timeout(within, connection.send(&command)).await.ok()?.ok()?;
        let found = entries(answer)?.pop().filter(|found| found.number == number)?;
        Some(found.mark)
    }

    /// The entries after this one; none after a while without any.
    async fn next(
        &self,
        connection: &mut Connection,
        after: u64,
        hold: Duration,
        within: Duration,
    ) -> Result<Vec<Entry>, ()> {
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(AT_ONCE).arg("BLOCK").arg(hold.as_millis().max(1) as u64);
        command.arg("STREAMS").arg(&self.entries).arg(format!("{after}-0"));
        let answer = timeout(hold + within, connection.send(&command)).await.map_err(|_| ())?.map_err(|_| ())?;
        entries(answer).ok_or(())
    }
}

/// The entries of an answer to `XREAD`; none for what can't be read.
fn entries(answer: Value) -> Option<Vec<Entry>> {
    type Stored = (String, Vec<(Vec<u8>, Vec<u8>)>);
    type Streams = Vec<(Vec<u8>, Vec<Stored>)>;
    if answer == Value::Nil {
        return Some(Vec::new());
    }
    let streams = Streams::from_redis_value(answer).ok()?;
    let entry = |(id, fields): Stored| {
        let mut entry = Entry { number: id.split_once('-')?.0.parse().ok()?, text: Vec::new(), mark: Vec::new() };
        let mut has_text = false;
        for (name, value) in fields {
            match &*name {
                b"e" => (entry.text, has_text) = (value, true),
                // Gateways of before have written none.
                b"m" => entry.mark = value,
                _ => {}
            }
        }
        has_text.then_some(entry)
    };
    streams.into_iter().flat_map(|(_, entries)| entries).map(entry).collect()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Identity> {
    u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32).map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let text = |text: &str| Value::BulkString(text.into());
        let entry_of = |id: &str, fields: &[&str]| {
            Value::Array(vec![text(id), Value::Array(fields.iter().map(|field| text(field)).collect())])
        };
        let entry = |id: &str| entry_of(id, &["e", "x"]);
        let read = |number, mark: &[u8]| Entry { number, text: b"x".to_vec(), mark: mark.to_vec() };
        let stream = |all| Value::Array(vec![Value::Array(vec![text("name"), Value::Array(all)])]);
        assert_eq!(entries(Value::Nil), Some(vec![]));
        let both = vec![entry("7-0"), entry_of("8-0", &["e", "x", "m", "y", "later", "z"])];
        assert_eq!(entries(stream(both)), Some(vec![read(7, b""), read(8, b"y")]));
        assert_eq!(entries(stream(vec![entry_of("7-0", &["m", "y"])])), None);
        assert_eq!(entries(stream(vec![entry("x-0")])), None);
        assert_eq!(entries(Value::Int(1)), None);
    }

    #[test]
    fn an_identity_is_sixteen_bytes() {
        let identity = [7; 16];
        assert_eq!(unhex(&hex(&identity)), Some(identity));
        assert_eq!((unhex("07"), unhex(&"x".repeat(32))), (None, None));
    }
}
