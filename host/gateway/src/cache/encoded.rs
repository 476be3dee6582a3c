//! Coded forms of stored responses. A form is made once, on a thread of its own, and hits send it as it is. It belongs to one stored object:
//! what is purged, changed or evicted there is not found here any more, and makes room by and by.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use bytes::Bytes;
use quick_cache::sync::Cache;
use quick_cache::{OptionsBuilder, Weighter};
use sluice_cache::store::Object;
use tokio::sync::watch;

use crate::http::coding::{EncodeError, Encoder, Level, Until};

/// Objects that may wait to be coded. Hits of those that are not next do not wait with them: the worker codes by itself.
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
    /// Others may be before it.
    Coming,
    /// A thread is at it.
    Begun,
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
    /// Of its job.
    number: u64,
}

#[derive(Clone)]
struct Weight;

impl Weighter<Key, Entry> for Weight {
    fn weight(&self, _: &Key, entry: &Entry) -> u64 {
        entry.weight
    }
}

struct Job {
    number: u64,
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
    /// The number of the next job. Held while one is ordered, so that each is ordered once, and while the capacity changes.
    ordering: Mutex<u64>,
    /// Jobs that were begun. They are in the order of their numbers.
    begun: AtomicU64,
}

impl Encoded {
    /// Forms take at most this much memory from now on.
    pub(super) fn apply(&self, memory: u64) {
        if let Some(shared) = self.shared.get() {
            let _resizing = shared.ordering.lock().unwrap_or_else(PoisonError::into_inner);
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
        let _ = self.shared.set(Arc::new(Shared { forms, ordering: Mutex::default(), begun: AtomicU64::new(0) }));
    }

    /// The memory that forms take.
    pub fn bytes(&self) -> u64 {
        self.shared.get().map_or(0, |shared| shared.forms.weight())
    }

    /// Gives about so much memory back. The bound stays.
    pub(super) fn release(&self, bytes: u64) {
        let Some(shared) = self.shared.get() else { return };
        let _resizing = shared.ordering.lock().unwrap_or_else(PoisonError::into_inner);
        let capacity = shared.forms.capacity();
        // Not to nothing: the policy keeps its proportions by that of the capacities.
        shared.forms.set_capacity(shared.forms.weight().saturating_sub(bytes).max(capacity / 16));
        shared.forms.set_capacity(capacity);
    }

    /// The form of an object; it is made if there is none. None: it is too large, or others are to be made before it. Then it may be there for
    /// the next hit.
    pub fn form(&self, object: &Arc<Object>, level: Level) -> Option<Form> {
        let shared = self.shared.get()?;
        let key = (Arc::as_ptr(object).addr(), level);
        if let Some(form) = shared.find(&key, object) {
            return form;
        }
        let mut next = shared.ordering.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(form) = shared.find(&key, object) {
            return form;
        }
        // A form is hardly ever larger than what it is made of.
        let weight = object.body().len() + OVERHEAD;
        if weight > shared.forms.capacity() / LARGEST {
            return None;
        }
        let (sender, form) = watch::channel(State::Coming);
        let number = *next;
        shared.forms.insert(key, Entry { object: Arc::downgrade(object), form: form.clone(), weight, number });
        let job = Job { number, key, object: Arc::clone(object), form: sender };
        let Some(jobs) = self.jobs.get_or_init(|| begin_threads(shared)) else {
            shared.forms.remove(&key);
            return None;
        };
        match jobs.try_send(job) {
            Ok(()) => {
                *next += 1;
                shared.is_next(number).then_some(form)
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                shared.forms.remove(&key);
                None
            }
        }
    }
}

impl Shared {
    /// The form of an object, if it was begun; none within if it can't be made, or not soon.
    fn find(&self, key: &Key, object: &Arc<Object>) -> Option<Option<Form>> {
        let entry = self.forms.get(key).filter(|entry| std::ptr::eq(entry.object.as_ptr(), Arc::as_ptr(object)))?;
        // Who made it has panicked, where nobody is left to say that it is here.
        let is_left = || entry.form.has_changed().is_err();
        let is_soon = match &*entry.form.borrow() {
            State::Here(_) => true,
            State::Begun => !is_left(),
            State::Coming => self.is_next(entry.number) && !is_left(),
            State::Failed => false,
        };
        Some(is_soon.then_some(entry.form))
    }

    /// Whether no other job is to be begun before this one.
    fn is_next(&self, number: u64) -> bool {
        number <= self.begun.load(Ordering::Relaxed)
    }

    fn work(&self, jobs: &Mutex<Receiver<Job>>) {
        loop {
            let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(Job { number, key, object, form }) = next else { return };
            self.begun.fetch_add(1, Ordering::Relaxed);
            form.send_replace(State::Begun);
            // Nothing is shared with what panics, and the next object may do.
            let (state, bytes) = match catch_unwind(AssertUnwindSafe(|| encode(&object, key.1))) {
                Ok(Ok(content)) => (State::Here(content.clone()), content.len() as u64),
                Ok(Err(error)) => {
                    tracing::warn!(error = %crate::chain(&error), "a stored response could not be coded");
                    (State::Failed, 0)
                }
                Err(_) => {
                    tracing::error!("a stored response could not be coded: its encoder has panicked");
                    (State::Failed, 0)
                }
            };
            let entry =
                Entry { object: Arc::downgrade(&object), form: form.subscribe(), weight: bytes + OVERHEAD, number };
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

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use http::header::CACHE_CONTROL;
    use http::{HeaderMap, HeaderValue, Method, StatusCode};
    use sluice_cache::digest::Secret;
    use sluice_cache::freshness::Times;
    use sluice_cache::policy::Policy;
    use sluice_cache::storable::{Received, storable};
    use sluice_cache::store::{Draft, Limits, Place, Store};

    use super::*;
    use crate::http::coding::Coding;

    const LEVEL: Level = Level { coding: Coding::Gzip, level: 1 };

    /// Of 40,000 bytes that get hardly shorter.
    fn object(seed: u64) -> Arc<Object> {
        let store = Store::new(Limits { bytes: 1 << 20, object: 1 << 17, variants: 4 }, Secret::new([5; 16]));
        let (request, now, policy) = (HeaderMap::new(), SystemTime::now(), Policy::default());
        let head = HeaderMap::from_iter([(CACHE_CONTROL, HeaderValue::from_static("max-age=60"))]);
        let times = Times { request: now, response: now };
        let (method, status) = (&Method::GET, StatusCode::OK);
        let received = Received { method, request: &request, status, response: &head, times };
        let place = Place { host: "a", path: "/", query: None, notes: None };
        let storable = storable(received, &policy).unwrap();
        let draft = Draft::new(&storable, &received, &place, store.generation(), &policy, store.secret()).unwrap();
        let mut body = draft.body(u64::MAX).unwrap();
        let mut state = seed;
        for _ in 0..5_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            body.push(&(state ^ state >> 33).to_be_bytes()).unwrap();
        }
        Arc::new(draft.finish(body.finish()).unwrap())
    }

    #[test]
    fn hits_wait_for_a_form_that_is_next_and_not_behind_others() {
        let mut encoded = Encoded::default();
        encoded.apply(1 << 20);
        let shared = Arc::clone(encoded.shared.get().unwrap());
        let (jobs, queue) = sync_channel(2);
        encoded.jobs = Some(jobs).into();
        let objects = [object(1), object(2), object(3)];
        let waits = |encoded: &Encoded, at: usize| encoded.form(&objects[at], LEVEL).is_some();
        assert!(waits(&encoded, 0) && !waits(&encoded, 1), "the first is before it");
        assert!(waits(&encoded, 0) && !waits(&encoded, 1));
        assert!(!waits(&encoded, 2), "the queue is full");
        let first = queue.recv().unwrap();
        shared.begun.fetch_add(1, Ordering::Relaxed);
        first.form.send_replace(State::Begun);
        assert!(waits(&encoded, 0) && waits(&encoded, 1));
        // As if its thread had panicked: who hits it is not to wait for a form that never comes.
        drop(first);
        assert!(!waits(&encoded, 0) && waits(&encoded, 1));
        assert!(!waits(&encoded, 2), "now it is in the queue");
        let thread = std::thread::spawn(move || shared.work(&Mutex::new(queue)));
        encoded.jobs = OnceLock::new();
        thread.join().unwrap();
        for at in [1, 2] {
            let form = encoded.form(&objects[at], LEVEL).unwrap();
            assert!(matches!(&*form.borrow(), State::Here(_)), "{at}");
        }
        let before = encoded.bytes();
        assert!(before > 80_000, "{before}");
        encoded.release(u64::MAX);
        assert!(encoded.bytes() <= (1 << 20) / 16, "{}", encoded.bytes());
    }
}
