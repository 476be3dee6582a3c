//! Coded forms of stored responses. A form is made once, on a thread of its own, and hits send it as it is. It belongs to one stored object:
//! what is purged, changed or evicted there is not found here any more, and makes room by and by.

use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use bytes::Bytes;
use quick_cache::sync::Cache;
use quick_cache::{OptionsBuilder, Weighter};
use sluice_cache::store::Object;
use tokio::sync::watch;

use crate::http::coding::{EncodeError, Encoder, Level, Until};

/// Objects that may wait to be coded. Beyond that, a worker codes by itself.
const MAX_WAITING: usize = 64;
/// One form takes no more of the memory than this part.
const LARGEST: u64 = 16;
/// Each has its part of the memory, and holds several of the largest forms.
const SHARDS: usize = 4;
/// What an entry takes besides its content: the shell of an object that is gone, counters, and the tables of the cache.
const OVERHEAD: u64 = 640;

/// A form of a stored response, as soon as it is there.
pub type Form = watch::Receiver<State>;

#[derive(Debug, Clone)]
pub enum State {
    Coming,
    Here(Bytes),
    Failed,
}

/// Where an object is in memory, and how it is coded.
type Key = (usize, Level);

#[derive(Clone)]
struct Entry {
    /// As long as it is kept, no other object can be in the same place.
    object: Weak<Object>,
    form: Form,
    weight: u64,
}

#[derive(Clone)]
struct Weight;

impl Weighter<Key, Entry> for Weight {
    fn weight(&self, _: &Key, entry: &Entry) -> u64 {
        entry.weight
    }
}

struct Job {
    key: Key,
    object: Arc<Object>,
    form: watch::Sender<State>,
}

/// The forms of all stored responses.
#[derive(Default)]
pub struct Encoded {
    shared: OnceLock<Arc<Shared>>,
    /// None where no thread could be started.
    jobs: OnceLock<Option<SyncSender<Job>>>,
}

struct Shared {
    forms: Cache<Key, Entry, Weight>,
    /// Held while a job is begun, so that each is begun once.
    beginning: Mutex<()>,
}

impl Encoded {
    /// Forms take at most this much memory from now on.
    pub(super) fn apply(&self, memory: u64) {
        if let Some(shared) = self.shared.get() {
            return shared.forms.set_capacity(memory);
        }
        let items = usize::try_from(memory / 8192).unwrap_or(usize::MAX).clamp(64, 1 << 20);
        let options = OptionsBuilder::new()
            .weight_capacity(memory)
            .estimated_items_capacity(items)
            .shards(SHARDS)
            .build()
            .expect("capacity and number of items are set");
        let forms = Cache::with_options(options, Weight, Default::default(), Default::default());
        let _ = self.shared.set(Arc::new(Shared { forms, beginning: Mutex::default() }));
    }

    /// The memory that forms take.
    pub fn bytes(&self) -> u64 {
        self.shared.get().map_or(0, |shared| shared.forms.weight())
    }

    /// The form of an object; it is made if there is none. None: it is too large, or too many wait.
    pub fn form(&self, object: &Arc<Object>, level: Level) -> Option<Form> {
        let shared = self.shared.get()?;
        let key = (Arc::as_ptr(object).addr(), level);
        if let Some(form) = shared.find(&key, object) {
            return form;
        }
        let _beginning = shared.beginning.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(form) = shared.find(&key, object) {
            return form;
        }
        // A form is hardly ever larger than what it is made of.
        let weight = object.body().len() + OVERHEAD;
        if weight > shared.forms.capacity() / LARGEST {
            return None;
        }
        let (sender, form) = watch::channel(State::Coming);
        shared.forms.insert(key, Entry { object: Arc::downgrade(object), form: form.clone(), weight });
        let job = Job { key, object: Arc::clone(object), form: sender };
        match self.jobs.get_or_init(|| begin_threads(shared)).as_ref()?.try_send(job) {
            Ok(()) => Some(form),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                shared.forms.remove(&key);
                None
            }
        }
    }
}

impl Shared {
    /// The form of an object, if it was begun; none within if it can't be made.
    fn find(&self, key: &Key, object: &Arc<Object>) -> Option<Option<Form>> {
        let entry = self.forms.get(key).filter(|entry| std::ptr::eq(entry.object.as_ptr(), Arc::as_ptr(object)))?;
        let has_failed = matches!(&*entry.form.borrow(), State::Failed);
        Some((!has_failed).then_some(entry.form))
    }

    fn work(&self, jobs: &Mutex<Receiver<Job>>) {
        loop {
            let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(Job { key, object, form }) = next else { return };
            let (state, bytes) = match encode(&object, key.1) {
                Ok(content) => (State::Here(content.clone()), content.len() as u64),
                Err(error) => {
                    tracing::warn!(error = %crate::chain(&error), "a stored response could not be coded");
                    (State::Failed, 0)
                }
            };
            let entry = Entry { object: Arc::downgrade(&object), form: form.subscribe(), weight: bytes + OVERHEAD };
            form.send_replace(state);
            // With its weight. It may have been evicted meanwhile.
            if self.find(&key, &object).is_some() {
                self.forms.insert(key, entry);
            }
        }
    }
}

/// One thread for four processors, with the priority of workers: clients wait for the first form.
fn begin_threads(shared: &Arc<Shared>) -> Option<SyncSender<Job>> {
    let (jobs, queue) = sync_channel(MAX_WAITING);
    let queue = Arc::new(Mutex::new(queue));
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let mut threads = 0;
    for _ in 0..(processors / 4).max(1) {
        let (shared, queue) = (Arc::clone(shared), Arc::clone(&queue));
        let begun = std::thread::Builder::new().name("compression".to_owned()).spawn(move || shared.work(&queue));
        threads += usize::from(begun.is_ok());
    }
    (threads > 0).then_some(jobs)
}

fn encode(object: &Object, level: Level) -> Result<Bytes, EncodeError> {
    let mut encoder = Encoder::new(level, Some(object.body().len()))?;
    let mut out = Vec::new();
    for piece in object.body().pieces() {
        encoder.encode(piece, Until::Later, &mut out)?;
    }
    encoder.encode(&[], Until::Finished, &mut out)?;
    Ok(out.into_boxed_slice().into())
}
