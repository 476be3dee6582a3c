//! Bytes under keys in a store that others read, too. Nothing depends on them: without the store there are none, and nothing is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redis::Value;

use super::store::Store;

/// Writes of a process under way, so that a store that hangs holds no memory.
const WRITES: usize = 64;

pub struct Blobs {
    store: Arc<Store>,
    prefix: String,
    writes: AtomicUsize,
}

impl Blobs {
    pub fn new(store: Arc<Store>, name: &str) -> Blobs {
        let prefix = format!("{}{name}:", store.spec().prefix);
        Blobs { store, prefix, writes: AtomicUsize::new(0) }
    }

    pub fn is_of(&self, store: &Arc<Store>) -> bool {
        Arc::ptr_eq(&self.store, store)
    }

    /// None where there is none, or no answer in time.
    pub async fn get(&self, key: &str) -> Option<Vec<u8>> {
        let mut command = redis::cmd("GET");
        command.arg(format!("{}{key}", self.prefix));
        match self.store.call(&command, self.store.deadline(false), false).await {
            Ok(Value::BulkString(bytes)) => Some(bytes),
            Ok(_) | Err(_) => None,
        }
    }

    /// Keeps bytes for a while. Answers whether they are kept.
    pub async fn put(&self, key: &str, value: &[u8], ttl: Duration) -> bool {
        let Some(_place) = Place::enter(&self.writes) else { return false };
        let mut command = redis::cmd("SET");
        let ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).clamp(1, 1 << 40);
        command.arg(format!("{}{key}", self.prefix)).arg(value).arg("PX").arg(ms);
        self.store.call(&command, self.store.deadline(true), true).await.is_ok()
    }
}

struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn enter(writes: &'a AtomicUsize) -> Option<Place<'a>> {
        if writes.fetch_add(1, Ordering::Relaxed) >= WRITES {
            writes.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Place(writes))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
