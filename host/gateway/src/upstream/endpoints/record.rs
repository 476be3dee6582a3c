//! What the gateway knows of one address of an endpoint: one record for all workers, routes and reloads. ADR 0003 gives the reason for
//! each memory order.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::registry::EndpointRegistry;
use crate::config::model::FailureWindow;
use crate::upstream::circuit::Circuit;
use crate::upstream::health::{Health, Reason, StateChange, Told};

/// What a record belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) upstream: Arc<str>,
    /// `host:port` as written.
    pub(crate) endpoint: Arc<str>,
    /// `None` while no address of the name is known.
    pub(crate) address: Option<SocketAddr>,
}

/// The state of one address. All methods are short and never wait.
#[derive(Debug)]
pub(crate) struct Record {
    key: Key,
    /// Where to sign off.
    registry: Weak<EndpointRegistry>,
    traffic: Traffic,
    health: Health,
    /// Only where it has a circuit breaker.
    circuit: OnceLock<Box<(Circuit, Mutex<Option<FailureWindow>>)>>,
    /// Those of workers that no longer have connections there, and the counters of those that do.
    responses: Mutex<([u64; CLASSES], Vec<Arc<Responses>>)>,
}

/// Classes of statuses: 1xx to 5xx.
const CLASSES: usize = 5;

/// The responses of one address by the class of their status, on one worker, which alone writes it.
#[derive(Debug, Default)]
pub(crate) struct Responses([AtomicU64; CLASSES]);

impl Responses {
    pub(crate) fn count(&self, status: u16) {
        if let Some(count) = self.0.get(usize::from(status / 100).wrapping_sub(1)) {
            // One writer: no locked instruction.
            count.store(count.load(Relaxed).wrapping_add(1), Relaxed);
        }
    }

    fn add_to(&self, sum: &mut [u64; CLASSES]) {
        sum.iter_mut().zip(&self.0).for_each(|(sum, count)| *sum += count.load(Relaxed));
    }
}

/// What is known of one address, for the metrics.
#[derive(Debug, Clone)]
pub struct EndpointState {
    /// `host:port` as written.
    pub endpoint: Arc<str>,
    /// `None` while no address of the name is known.
    pub address: Option<SocketAddr>,
    /// Whether nothing is known that speaks against it.
    pub healthy: bool,
    /// Requests under way.
    pub active: u32,
    /// Time to first byte, moving average; `None` when nothing was measured.
    pub latency: Option<Duration>,
    /// Responses by the class of their status, from 1xx on.
    pub responses: [u64; CLASSES],
    /// Why it is out.
    pub out: Vec<Reason>,
    /// How often it went out, by reason.
    pub outs: [u64; Reason::COUNT],
    /// Its last changes of state, oldest first.
    pub history: Vec<StateChange>,
}

/// Written by every request: kept apart from what every choice reads. Two lines of 64 bytes, since processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Traffic {
    /// Requests being served, and those that a connection is being opened for.
    active: AtomicU32,
    /// Of these, the ones that a limit counts.
    occupied: AtomicU32,
    /// Time to first byte, moving average in microseconds; 0 before the first.
    latency_us: AtomicU64,
}

/// Milliseconds since the process first asked, so that an instant fits into an atomic.
pub(crate) fn millis(at: Instant) -> u64 {
    static BASE: LazyLock<Instant> = LazyLock::new(Instant::now);
    at.saturating_duration_since(*BASE).as_millis() as u64
}

impl Record {
    pub(super) fn new(key: Key, registry: Weak<EndpointRegistry>) -> Self {
        // The clock of this module begins before the first record, so that no record is older than it.
        millis(Instant::now());
        let (traffic, health, responses) = (Traffic::default(), Health::default(), Mutex::default());
        Record { key, registry, traffic, health, circuit: OnceLock::new(), responses }
    }

    /// A record that nobody else can find: of an address that no upstream lists.
    pub(crate) fn alone(endpoint: &Arc<str>, address: SocketAddr) -> Arc<Self> {
        let key = Key { upstream: Arc::default(), endpoint: endpoint.clone(), address: Some(address) };
        Arc::new(Record::new(key, Weak::new()))
    }

    /// Counts a request.
    pub(crate) fn enter(&self) {
        self.traffic.active.fetch_add(1, Relaxed);
    }

    /// The request that [`Self::enter`] counted is over.
    pub(crate) fn leave(&self) {
        self.traffic.active.fetch_sub(1, Relaxed);
    }

    /// Requests under way, those included that a connection is being opened for.
    pub(crate) fn active(&self) -> u32 {
        self.traffic.active.load(Relaxed)
    }

    /// Takes one of so many places, if one is free.
    pub(crate) fn try_occupy(&self, limit: u32) -> bool {
        let more = |occupied| (occupied < limit).then_some(occupied + 1);
        self.traffic.occupied.fetch_update(SeqCst, Relaxed, more).is_ok()
    }

    /// A place is free again.
    pub(crate) fn vacate(&self) {
        self.traffic.occupied.fetch_sub(1, SeqCst);
    }

    /// Its circuit, where endpoints have some.
    pub(crate) fn circuit(&self) -> &Circuit {
        &self.circuit.get_or_init(Box::default).0
    }

    /// Its circuit has opened or closed.
    pub(crate) fn circuit_changed(&self, is_open: bool, evidence: String) {
        self.tell(self.health.circuit_changed(is_open, evidence));
    }

    /// The settings that are about to be served count in this way, or have no circuits. What was counted in another way is forgotten.
    pub(crate) fn set_circuit(&self, window: Option<FailureWindow>) {
        if window.is_none() && self.circuit.get().is_none() {
            return;
        }
        let (circuit, counted) = &**self.circuit.get_or_init(Box::default);
        let mut counted = counted.lock().unwrap_or_else(PoisonError::into_inner);
        if *counted != window {
            *counted = window;
            circuit.forget();
        }
        if window.is_none() && circuit.close() {
            self.circuit_changed(false, "the configuration has no circuit breaker for it any more".to_owned());
        }
    }

    /// Notes a time to first byte. Of two that are noted at the same instant one may be lost: an average can bear that, and an atomic
    /// exchange would cost each request more than the note is worth.
    pub(crate) fn note_latency(&self, taken: Duration) {
        let now = u64::try_from(taken.as_micros()).unwrap_or(u64::MAX).max(1);
        let before = self.traffic.latency_us.load(Relaxed);
        let after = if before == 0 { now } else { before - before / 8 + now / 8 };
        self.traffic.latency_us.store(after.max(1), Relaxed);
    }

    /// Time to first byte, moving average in microseconds; 0 when nothing was measured.
    pub(crate) fn latency_us(&self) -> u64 {
        self.traffic.latency_us.load(Relaxed)
    }

    /// A counter for the pool of one worker.
    pub(crate) fn open_responses(&self) -> Arc<Responses> {
        let opened = Arc::new(Responses::default());
        self.responses.lock().unwrap_or_else(PoisonError::into_inner).1.push(Arc::clone(&opened));
        opened
    }

    /// The pool of a counter is gone; what it has counted stays.
    pub(crate) fn close_responses(&self, counter: &Arc<Responses>) {
        let mut all = self.responses.lock().unwrap_or_else(PoisonError::into_inner);
        let (gone, open) = &mut *all;
        open.retain(|other| !Arc::ptr_eq(other, counter));
        counter.add_to(gone);
    }

    /// The responses of all workers by the class of their status.
    pub(crate) fn responses(&self) -> [u64; CLASSES] {
        let all = self.responses.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sum = all.0;
        all.1.iter().for_each(|counter| counter.add_to(&mut sum));
        sum
    }

    /// Whether nothing is known that speaks against it.
    pub(crate) fn is_healthy(&self) -> bool {
        self.health.is_healthy()
    }

    /// Whether a request may go there: it is healthy, or it is time to try it again.
    pub(crate) fn may_try(&self, now: Instant) -> bool {
        self.health.may_try(now)
    }

    /// Half open: the request that is sent to see whether an address is back keeps the others away until that is known. False when
    /// another request, maybe of another worker, was there first.
    pub(crate) fn claim(&self, now: Instant) -> bool {
        self.health.claim(now)
    }

    /// The address took a connection and answered on it.
    pub(crate) fn succeeded(&self) {
        self.tell(self.health.reached());
    }

    /// The address did not take a connection that was tried from `begun` on.
    pub(crate) fn failed(&self, begun: Instant, now: Instant) {
        self.tell(self.health.not_reached(begun, now));
    }

    /// Writes a change of state to the log. What an outbound call does not reach, its caller tells.
    fn tell(&self, told: Option<Told>) {
        let Some(Told { is_out, reason, evidence }) = told else { return };
        let Key { upstream, endpoint, address } = &self.key;
        if upstream.is_empty() {
            return;
        }
        let (reason, address) = (reason.name(), address.map(tracing::field::display));
        match is_out {
            true => tracing::warn!(%upstream, %endpoint, address, reason, evidence, "the endpoint is out"),
            false => tracing::info!(%upstream, %endpoint, address, reason, evidence, "the endpoint is back"),
        }
    }

    pub(crate) fn state(&self) -> EndpointState {
        let latency = self.latency_us();
        EndpointState {
            endpoint: Arc::clone(&self.key.endpoint),
            address: self.key.address,
            healthy: self.is_healthy(),
            active: self.active(),
            latency: (latency > 0).then(|| Duration::from_micros(latency)),
            responses: self.responses(),
            out: self.health.reasons().collect(),
            outs: self.health.outs(),
            history: self.health.history(),
        }
    }

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if let Some(registry) = self.registry.upgrade() {
            registry.sign_off(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::health::unreachable::{FIRST_PAUSE, LONGEST_PAUSE};

    fn record() -> Arc<Record> {
        Record::alone(&"a:80".into(), ([10, 0, 0, 1], 80).into())
    }

    #[test]
    fn pauses_double_and_end_with_a_success() {
        let (record, start) = (record(), Instant::now());
        assert!(record.is_healthy() && record.may_try(start) && record.claim(start));
        record.failed(start, start);
        assert!(!record.is_healthy() && !record.may_try(start));
        let later = start + FIRST_PAUSE;
        assert!(record.may_try(later) && record.claim(later), "half open");
        assert!(!record.may_try(later), "for one request");
        record.failed(later, later);
        assert!(!record.may_try(later + FIRST_PAUSE) && record.may_try(later + FIRST_PAUSE * 2));
        for _ in 0..40 {
            record.failed(later, later);
        }
        assert!(record.may_try(later + LONGEST_PAUSE) && !record.may_try(later + LONGEST_PAUSE / 2));
        record.succeeded();
        assert!(record.is_healthy() && record.may_try(later));
    }

    #[test]
    fn failures_that_overlap_are_one() {
        let (record, start) = (record(), Instant::now());
        let noted = start + Duration::from_millis(20);
        for _ in 0..64 {
            record.failed(start, noted);
        }
        assert!(record.may_try(noted + FIRST_PAUSE), "no longer pause for more waiting requests");
    }

    #[test]
    fn responses_outlive_the_pools_that_count_them() {
        let record = record();
        let (first, second) = (record.open_responses(), record.open_responses());
        for status in [101, 200, 204, 302, 404, 503, 999, 0] {
            first.count(status);
        }
        second.count(200);
        assert_eq!(record.responses(), [1, 3, 1, 1, 1]);
        record.close_responses(&first);
        drop(first);
        second.count(500);
        assert_eq!(record.responses(), [1, 3, 1, 1, 2]);
    }

    #[test]
    fn one_of_many_threads_gets_the_trial() {
        let (record, start) = (record(), Instant::now());
        record.failed(start, start);
        let later = start + FIRST_PAUSE;
        let trials: usize = std::thread::scope(|scope| {
            let tries = || (0..100).filter(|_| record.may_try(later) && record.claim(later)).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(tries)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(trials, 1);
    }

    #[test]
    fn load_and_latency_are_counted_by_all_threads() {
        let record = record();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        record.enter();
                        record.note_latency(Duration::from_micros(800));
                        record.leave();
                    }
                    record.enter();
                });
            }
        });
        assert_eq!(record.active(), 4);
        assert_eq!(record.latency_us(), 800);
    }
}
