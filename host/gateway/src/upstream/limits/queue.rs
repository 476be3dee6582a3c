//! A queue that requests of all workers wait in: first come, first served, bounded, and a request that leaves gives up its place at once.
//! Who waits may say which targets are of use, and is passed over for others. A lock is taken by who waits and by who wakes, not while nobody
//! waits.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Who gives out what is waited for, where there are several: a number that is its own as long as somebody waits for it.
pub(in crate::upstream) type Target = usize;
/// That of a queue for one thing.
pub(super) const SINGLE: Target = 0;

/// What a request waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// One of all, of which there are so many.
    Any(usize),
    /// One of these.
    Only(Box<[Target]>),
}

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
    list: VecDeque<Waiting<T>>,
    /// How many wait for any target.
    any: u32,
    /// How many wait for a target and some others only.
    only: HashMap<Target, u32>,
}

#[derive(Debug)]
struct Waiting<T> {
    number: u64,
    wanted: Wanted,
    sender: oneshot::Sender<T>,
}

/// A place in a queue, given up when dropped.
#[derive(Debug)]
pub(super) struct Place<'q, T> {
    queue: &'q Queue<T>,
    number: u64,
    wanted: Wanted,
    woken: oneshot::Receiver<T>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        let places = Places { next: 0, list: VecDeque::new(), any: 0, only: HashMap::new() };
        Queue { waiting: AtomicU32::new(0), places: Mutex::new(places) }
    }
}

impl<T> Queue<T> {
    /// Requests that wait. Sequentially consistent with the count of what they wait for: who gives a place back after this said 0 is seen by
    /// who joined before.
    pub(super) fn waiting(&self) -> u32 {
        self.waiting.load(SeqCst)
    }

    /// Whether somebody waits for this target.
    pub(super) fn is_wanted(&self, target: Target) -> bool {
        self.waiting() > 0 && self.lock().waiting_for(target) > 0
    }

    /// The last place; `None` where `most` wait already for each of the targets that are wanted: who waits for
    /// one of them takes no place of others.
    pub(super) fn join(&self, most: u32, wanted: Wanted) -> Option<Place<'_, T>> {
        let mut places = self.lock();
        let before = match &wanted {
            Wanted::Any(targets) => places.any + places.least_waiting_for_one_of(*targets),
            Wanted::Only(targets) => targets.iter().map(|target| places.waiting_for(*target)).min().unwrap_or(u32::MAX),
        };
        if before >= most {
            return None;
        }
        let number = places.next;
        places.next += 1;
        let (sender, woken) = oneshot::channel();
        places.add(Waiting { number, wanted: wanted.clone(), sender });
        self.count(&places);
        Some(Place { queue: self, number, wanted, woken })
    }

    /// Takes out who has waited longest for this target, if `may` says so while nobody else can.
    pub(super) fn pop_if(&self, target: Target, may: impl FnOnce() -> bool) -> Option<oneshot::Sender<T>> {
        self.pop_from(0, target, may)
    }

    /// The same of those who stand behind a place.
    pub(super) fn pop_behind(&self, place: &Place<'_, T>, target: Target) -> Option<oneshot::Sender<T>> {
        self.pop_from(place.number + 1, target, || true)
    }

    fn pop_from(&self, number: u64, target: Target, may: impl FnOnce() -> bool) -> Option<oneshot::Sender<T>> {
        let mut places = self.lock();
        let from = places.at(number);
        let at = from + places.list.iter().skip(from).position(|waiting| waiting.wanted.includes(target))?;
        if !may() {
            return None;
        }
        let waiting = places.remove(at)?;
        self.count(&places);
        Some(waiting.sender)
    }

    fn count(&self, places: &Places<T>) {
        self.waiting.store(places.list.len() as u32, SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, Places<T>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wanted {
    fn includes(&self, target: Target) -> bool {
        match self {
            Wanted::Any(_) => true,
            Wanted::Only(targets) => targets.contains(&target),
        }
    }
}

impl<T> Places<T> {
    /// Where this number stands, or would.
    fn at(&self, number: u64) -> usize {
        self.list.partition_point(|other| other.number < number)
    }

    fn waiting_for(&self, target: Target) -> u32 {
        self.any + self.only.get(&target).copied().unwrap_or_default()
    }

    /// The shortest queue of so many targets, without those who wait for any.
    fn least_waiting_for_one_of(&self, targets: usize) -> u32 {
        match self.only.len() < targets {
            true => 0,
            false => self.only.values().min().copied().unwrap_or_default(),
        }
    }

    fn add(&mut self, waiting: Waiting<T>) {
        match &waiting.wanted {
            Wanted::Any(_) => self.any += 1,
            Wanted::Only(targets) => targets.iter().for_each(|target| *self.only.entry(*target).or_default() += 1),
        }
        let at = self.at(waiting.number);
        self.list.insert(at, waiting);
    }

    fn remove(&mut self, at: usize) -> Option<Waiting<T>> {
        let waiting = self.list.remove(at)?;
        match &waiting.wanted {
            Wanted::Any(_) => self.any -= 1,
            Wanted::Only(targets) => {
                for target in targets {
                    if let Some(count) = self.only.get_mut(target) {
                        *count -= 1;
                        if *count == 0 {
                            self.only.remove(target);
                        }
                    }
                }
            }
        }
        Some(waiting)
    }
}

impl<T> Place<'_, T> {
    /// Whether nobody has waited longer for anything that this one waits for.
    pub(super) fn is_first(&self) -> bool {
        let places = self.queue.lock();
        let mut before = places.list.iter().take_while(|other| other.number < self.number);
        !before.any(|other| match &other.wanted {
            Wanted::Any(_) => true,
            Wanted::Only(targets) => targets.iter().any(|target| self.wanted.includes(*target)),
        })
    }

    /// What has come was of no use: goes back to where it stood.
    pub(super) fn wait_on(&mut self) {
        let (sender, woken) = oneshot::channel();
        self.woken = woken;
        let mut places = self.queue.lock();
        places.add(Waiting { number: self.number, wanted: self.wanted.clone(), sender });
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
        let at = places.list.binary_search_by_key(&self.number, |waiting| waiting.number);
        let gone = at.ok().and_then(|at| places.remove(at));
        self.queue.count(&places);
        drop(places);
        // Outside the lock, since it wakes nobody but drops a waker.
        drop(gone);
    }
}
