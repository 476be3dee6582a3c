//! A queue that requests of all workers wait in: first come, first served, bounded, and a request that leaves gives up its place at once.
//! A lock is taken by who waits and by who wakes, not while nobody waits.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Requests that wait for `T`.
#[derive(Debug)]
pub(super) struct Queue<T> {
    waiting: AtomicU32,
    places: Mutex<Places<T>>,
}

#[derive(Debug)]
struct Places<T> {
    next: u64,
    /// By number.
    list: VecDeque<(u64, oneshot::Sender<T>)>,
}

/// A place in a queue, given up when dropped.
#[derive(Debug)]
pub(super) struct Place<'q, T> {
    queue: &'q Queue<T>,
    number: u64,
    woken: oneshot::Receiver<T>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue { waiting: AtomicU32::new(0), places: Mutex::new(Places { next: 0, list: VecDeque::new() }) }
    }
}

impl<T> Queue<T> {
    /// Requests that wait. Sequentially consistent with the count of what they wait for: who gives a place back after this said 0 is seen by
    /// who joined before.
    pub(super) fn waiting(&self) -> u32 {
        self.waiting.load(SeqCst)
    }

    /// The last place; `None` where `most` wait already.
    pub(super) fn join(&self, most: u32) -> Option<Place<'_, T>> {
        let mut places = self.lock();
        if places.list.len() >= most as usize {
            return None;
        }
        let number = places.next;
        places.next += 1;
        let (sender, woken) = oneshot::channel();
        places.list.push_back((number, sender));
        self.count(&places);
        Some(Place { queue: self, number, woken })
    }

    /// Takes out who has waited longest, if `may` says so while nobody else can.
    pub(super) fn pop_if(&self, may: impl FnOnce() -> bool) -> Option<oneshot::Sender<T>> {
        self.pop_from(0, may)
    }

    /// The same of those who stand behind a place.
    pub(super) fn pop_behind(&self, place: &Place<'_, T>) -> Option<oneshot::Sender<T>> {
        self.pop_from(place.number + 1, || true)
    }

    fn pop_from(&self, number: u64, may: impl FnOnce() -> bool) -> Option<oneshot::Sender<T>> {
        let mut places = self.lock();
        let at = places.at(number);
        if at == places.list.len() || !may() {
            return None;
        }
        let (_, sender) = places.list.remove(at)?;
        self.count(&places);
        Some(sender)
    }

    fn count(&self, places: &Places<T>) {
        self.waiting.store(places.list.len() as u32, SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, Places<T>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Places<T> {
    /// Where this number stands, or would.
    fn at(&self, number: u64) -> usize {
        self.list.partition_point(|(other, _)| *other < number)
    }
}

impl<T> Place<'_, T> {
    /// Whether nobody has waited longer.
    pub(super) fn is_first(&self) -> bool {
        self.queue.lock().at(self.number) == 0
    }

    /// What has come was of no use: goes back to where it stood.
    pub(super) fn wait_on(&mut self) {
        let (sender, woken) = oneshot::channel();
        self.woken = woken;
        let mut places = self.queue.lock();
        let at = places.at(self.number);
        places.list.insert(at, (self.number, sender));
        self.queue.count(&places);
    }

    /// What was waited for.
    pub(super) async fn wait(&mut self) -> Option<T> {
        (&mut self.woken).await.ok()
    }

    /// What has come, if anything has.
    pub(super) fn take(&mut self) -> Option<T> {
        self.woken.try_recv().ok()
    }
}

impl<T> Drop for Place<'_, T> {
    fn drop(&mut self) {
        let mut places = self.queue.lock();
        let at = places.list.binary_search_by_key(&self.number, |(number, _)| *number);
        let gone = at.ok().and_then(|at| places.list.remove(at));
        self.queue.count(&places);
        drop(places);
        // Outside the lock, since it wakes nobody but drops a waker.
        drop(gone);
    }
}
