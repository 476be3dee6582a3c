//! Overload: when memory, connections or the delay of an event loop come near a bound, requests are refused, those of the least critical
//! routes first. The process measures memory and connections; each worker measures the delay of its own loop.
//!
//! Connections are different: no request that is refused makes them fewer, and idle ones would keep all others from being served. So
//! these are closed before any request is refused that is not `sheddable`.

use std::rc::Rc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::config::model::{Criticality, Overload as Settings};

/// How often memory and connections are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How often a worker measures the delay of its loop. The least of the last [`SAMPLES`] counts: what passes within that is a burst.
const SAMPLE: Duration = Duration::from_millis(50);
const SAMPLES: usize = 4;
/// Percent of a bound from which on requests are refused: those of `sheddable` routes, then those of `standard` ones, then all.
const STEPS: [u32; 3] = [80, 90, 100];
/// Percent of the bound of memory from which on what can be had again is given back: before any request is refused.
const RELIEF: u64 = 75;
/// Between two times that memory is given back: it takes a while until it shows.
const BETWEEN_RELIEFS: Duration = Duration::from_millis(500);
/// So many percent below its beginning a step ends …
const HYSTERESIS: u32 = 10;
/// … and not sooner than this after it was last reached.
const HOLD: Duration = Duration::from_secs(1);
/// The step at which no connection is accepted.
const ALL: u8 = STEPS.len() as u8;
/// The step of connections from which on idle ones are closed.
const CLOSE_IDLE: u8 = 2;
/// The highest step that connections alone bring requests to.
const MOST_OF_CONNECTIONS: u8 = 1;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    Memory,
    Connections,
    EventLoop,
}

impl Resource {
    pub const ALL: [Resource; 3] = [Resource::Memory, Resource::Connections, Resource::EventLoop];

    /// As metrics and the admin API show it.
    pub fn name(self) -> &'static str {
        match self {
            Resource::Memory => "memory",
            Resource::Connections => "connections",
            Resource::EventLoop => "event-loop",
        }
    }
}

/// The overload of the process, for all workers.
#[derive(Debug)]
pub struct Overload {
    shared: Shared,
    settings: watch::Sender<Settings>,
    connections: Arc<AtomicUsize>,
    /// Of memory, connections, and what has no loop of its own.
    seen: [Seen; Resource::ALL.len()],
    /// Of the event loop of each worker.
    loops: Mutex<Vec<Arc<Seen>>>,
    relief: OnceLock<Relief>,
}

/// Gives about so many bytes back.
struct Relief(Box<dyn Fn(u64) + Send + Sync>);

impl std::fmt::Debug for Relief {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Relief")
    }
}

/// Read by each request, and written when the overload changes.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shared {
    /// The step that memory has reached, and connections as far as requests are refused for them.
    step: AtomicU8,
}

#[derive(Debug, Default)]
struct Seen {
    step: AtomicU8,
    percent: AtomicU32,
    shed: AtomicU64,
}

/// A resource, for metrics and the admin API.
#[derive(Debug, Clone, Copy)]
pub struct ResourceState {
    pub resource: Resource,
    /// 0: none are refused; 1: those of `sheddable` routes; 2: those of `standard` ones, too; 3: all. Of event loops, that of the worst.
    /// Of connections, 2 means that idle ones are closed, and 3 that new ones are, too.
    pub step: u8,
    /// Of its bound, as last seen.
    pub percent: u32,
    /// Requests refused because of it.
    pub shed: u64,
}

/// The overload as one worker sees it.
#[derive(Debug)]
pub struct WorkerOverload {
    process: Arc<Overload>,
    /// The delay of its loop.
    seen: Arc<Seen>,
}

/// A step that rises at once and falls with hysteresis.
#[derive(Debug, Default, Clone, Copy)]
struct Level {
    step: u8,
    reached: Option<Instant>,
}

impl Level {
    /// Takes a measurement in percent of the bound. Whether the step has changed.
    fn note(&mut self, percent: u32, now: Instant) -> bool {
        let steps = |percent: u32| STEPS.iter().filter(|step| percent >= **step).count() as u8;
        let (reached, held) = (steps(percent), steps(percent.saturating_add(HYSTERESIS)));
        let before = self.step;
        if reached >= before {
            self.step = reached;
            self.reached = Some(now);
        } else if held < before && self.reached.is_none_or(|at| now.duration_since(at) >= HOLD) {
            self.step = held.max(reached);
            self.reached = Some(now);
        }
        self.step != before
    }
}

impl Overload {
    pub fn new(settings: Settings) -> Arc<Self> {
        Arc::new(Overload {
            shared: Shared::default(),
            settings: watch::Sender::new(settings),
            connections: Arc::default(),
            seen: Default::default(),
            loops: Mutex::default(),
            relief: OnceLock::new(),
        })
    }

    /// Says what gives memory back when it comes near its bound.
    pub fn relieved_by(&self, give_back: impl Fn(u64) + Send + Sync + 'static) {
        let _ = self.relief.set(Relief(Box::new(give_back)));
    }

    /// Has memory given back, where there is too little left.
    fn relieve(&self, most: u64, last: &mut Option<Instant>, now: Instant) {
        let Some(Relief(give_back)) = self.relief.get() else { return };
        if last.is_some_and(|last| now.duration_since(last) < BETWEEN_RELIEFS) {
            return;
        }
        let excess = resident().unwrap_or(0).saturating_sub(most / 100 * RELIEF);
        if excess > 0 {
            *last = Some(now);
            give_back(excess);
        }
    }

    /// Takes the bounds of a new configuration.
    pub fn set(&self, settings: Settings) {
        self.settings.send_if_modified(|known| std::mem::replace(known, settings) != settings);
    }

    /// The count of open client connections.
    pub(super) fn connections(&self) -> &Arc<AtomicUsize> {
        &self.connections
    }

    /// Whether a new connection would make it worse.
    pub(super) fn refuses_connections(&self) -> bool {
        [Resource::Memory, Resource::Connections].iter().any(|resource| self.seen(*resource).step.load(Relaxed) >= ALL)
    }

    /// Whether memory has reached its bound.
    pub(super) fn is_out_of_memory(&self) -> bool {
        self.seen(Resource::Memory).step.load(Relaxed) >= ALL
    }

    /// Whether idle connections are closed before their time.
    pub(super) fn closes_idle(&self) -> bool {
        self.seen(Resource::Connections).step.load(Relaxed) >= CLOSE_IDLE
    }

    /// Looks at memory and connections as long as it runs; waits while neither has a bound.
    pub async fn watch(self: Arc<Self>) {
        let mut settings = self.settings.subscribe();
        let (mut memory, mut connections) = (Level::default(), Level::default());
        let mut relieved = None;
        loop {
            let Settings { max_memory, max_connections, .. } = *settings.borrow_and_update();
            let now = Instant::now();
            if let Some(most) = max_memory {
                self.relieve(most.0, &mut relieved, now);
            }
            let of_memory = max_memory.and_then(|most| Some(percent(resident()?, most.0))).unwrap_or(0);
            let open = self.connections.load(Relaxed) as u64;
            let of_connections = max_connections.map_or(0, |most| percent(open, u64::from(most)));
            // What has no bound any more is over at once.
            let look = |resource, level: &mut Level, bound: bool, percent| {
                if !bound {
                    *level = Level::default();
                }
                if level.note(percent, now) || self.seen(resource).step.load(Relaxed) != level.step {
                    tell(resource, level.step, percent, None);
                }
                self.seen(resource).note(level.step, percent);
            };
            look(Resource::Memory, &mut memory, max_memory.is_some(), of_memory);
            look(Resource::Connections, &mut connections, max_connections.is_some(), of_connections);
            self.shared.step.store(memory.step.max(connections.step.min(MOST_OF_CONNECTIONS)), Relaxed);
            let is_bound = max_memory.is_some() || max_connections.is_some();
            if is_bound {
                tokio::select! {
                    () = tokio::time::sleep(LOOK) => {}
                    _ = settings.changed() => {}
                }
            } else if settings.changed().await.is_err() {
                return;
            }
        }
    }

    /// The view of one worker. Called on its thread, inside its runtime, where it measures from now on.
    pub fn worker(self: &Arc<Self>) -> Rc<WorkerOverload> {
        let seen = Arc::<Seen>::default();
        let number = {
            let mut loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
            loops.push(Arc::clone(&seen));
            loops.len() - 1
        };
        let worker = Rc::new(WorkerOverload { process: Arc::clone(self), seen: Arc::clone(&seen) });
        let mut settings = self.settings.subscribe();
        tokio::task::spawn_local(async move {
            let (mut level, mut last) = (Level::default(), [0; SAMPLES]);
            let mut turn = 0;
            loop {
                let most = settings.borrow_and_update().max_event_loop_delay;
                let delay = match most {
                    None => {
                        (level, last) = (Level::default(), [0; SAMPLES]);
                        seen.note(0, 0);
                        match settings.changed().await {
                            Ok(()) => continue,
                            Err(_) => return,
                        }
                    }
                    Some(_) => delay().await,
                };
                last[turn % SAMPLES] =
                    percent(delay.as_micros() as u64, most.map_or(1, |most| most.as_micros() as u64));
                turn += 1;
                let standing = last.into_iter().min().unwrap_or(0);
                if level.note(standing, Instant::now()) {
                    tell(Resource::EventLoop, level.step, standing, Some(number));
                }
                seen.note(level.step, standing);
            }
        });
        worker
    }

    /// The resources now.
    pub fn states(&self) -> [ResourceState; Resource::ALL.len()] {
        Resource::ALL.map(|resource| {
            let loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
            let own = std::iter::once(self.seen(resource));
            let seen = own.chain(loops.iter().map(|seen| &**seen).filter(|_| resource == Resource::EventLoop));
            let none = ResourceState { resource, step: 0, percent: 0, shed: 0 };
            seen.fold(none, |sum, seen| ResourceState {
                resource,
                step: sum.step.max(seen.step.load(Relaxed)),
                percent: sum.percent.max(seen.percent.load(Relaxed)),
                shed: sum.shed + seen.shed.load(Relaxed),
            })
        })
    }

    fn seen(&self, resource: Resource) -> &Seen {
        &self.seen[resource as usize]
    }
}

impl Seen {
    fn note(&self, step: u8, percent: u32) {
        self.step.store(step, Relaxed);
        self.percent.store(percent, Relaxed);
    }
}

impl WorkerOverload {
    /// What a request of a route of this criticality is refused for now.
    pub fn sheds(&self, criticality: Criticality) -> Option<Resource> {
        let step = self.process.shared.step.load(Relaxed).max(self.seen.step.load(Relaxed));
        (step > criticality as u8).then(|| self.count())
    }

    /// Whether memory has reached its bound: all requests are refused.
    pub fn is_out_of_memory(&self) -> bool {
        self.process.is_out_of_memory()
    }

    /// Counts a request that is refused.
    #[cold]
    fn count(&self) -> Resource {
        let process = &self.process;
        let [memory, connections] = [Resource::Memory, Resource::Connections].map(|resource| process.seen(resource));
        let of_memory = memory.step.load(Relaxed);
        let of_connections = connections.step.load(Relaxed).min(MOST_OF_CONNECTIONS);
        let (cause, seen) = match self.seen.step.load(Relaxed) {
            step if step > of_memory.max(of_connections) => (Resource::EventLoop, &*self.seen),
            _ if of_memory >= of_connections => (Resource::Memory, memory),
            _ => (Resource::Connections, connections),
        };
        seen.shed.fetch_add(1, Relaxed);
        cause
    }
}

fn percent(of: u64, whole: u64) -> u32 {
    u32::try_from(u128::from(of) * 100 / u128::from(whole.max(1))).unwrap_or(u32::MAX)
}

/// How much later than asked for the loop of this worker comes to a task that is ready.
async fn delay() -> Duration {
    let begun = Instant::now();
    tokio::time::sleep(SAMPLE).await;
    // The runtime's timers round up to milliseconds.
    begun.elapsed().saturating_sub(SAMPLE + Duration::from_millis(2))
}

/// The resident memory of the process.
fn resident() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

fn tell(resource: Resource, step: u8, percent: u32, worker: Option<usize>) {
    let refused = match (resource, step) {
        (_, 0) => {
            return tracing::info!(resource = resource.name(), worker, percent, "no longer overloaded");
        }
        (_, 1) => "those of sheddable routes",
        (Resource::Connections, 2) => "those of sheddable routes; idle connections are closed",
        (Resource::Connections, _) => "those of sheddable routes; idle and new connections are closed",
        (_, 2) => "those of sheddable and standard routes",
        (_, _) => "all",
    };
    let resource = resource.name();
    tracing::warn!(resource, worker, percent, refused, "overloaded: requests are refused");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_rises_at_once_and_falls_late() {
        let (mut level, start) = (Level::default(), Instant::now());
        let mut at = |percent, ms| {
            level.note(percent, start + Duration::from_millis(ms));
            level.step
        };
        assert_eq!([at(79, 0), at(80, 0), at(100, 0)], [0, 1, 3]);
        assert_eq!([at(91, 500), at(85, 999), at(85, 1000)], [3, 3, 2], "a second after 100 %");
        assert_eq!([at(85, 3000), at(79, 3000), at(0, 3001)], [2, 1, 1], "a step at a time");
        assert_eq!(at(70, 6000), 1, "only below 70 %");
        assert_eq!(at(69, 6000), 0);
    }

    #[test]
    fn the_memory_of_this_process_is_known() {
        assert!(resident().is_some_and(|bytes| bytes > 1 << 20));
        assert_eq!((percent(1, 3), percent(u64::MAX, 1), percent(5, 0)), (33, u32::MAX, 500));
    }

    #[test]
    fn memory_is_given_back_before_requests_are_refused() {
        let overload = Overload::new(Settings::default());
        let given = Arc::new(AtomicU64::new(0));
        overload.relieved_by({
            let given = Arc::clone(&given);
            move |bytes| given.store(bytes, Relaxed)
        });
        let (used, start, mut last) = (resident().unwrap(), Instant::now(), None);
        let mut at = |most, now| {
            given.store(0, Relaxed);
            overload.relieve(most, &mut last, now);
            given.load(Relaxed)
        };
        assert_eq!(at(used * 10, start), 0, "far from the bound");
        assert!(RELIEF < u64::from(STEPS[0]) && at(used, start) >= used / 10);
        assert_eq!(at(used, start), 0, "not again at once");
        assert!(at(used, start + BETWEEN_RELIEFS) > 0);
    }
}
