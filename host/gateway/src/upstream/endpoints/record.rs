//! What the gateway knows of one address of an endpoint: one record for all workers, routes and reloads. ADR 0003 gives the reason for
//! each memory order.

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, LazyLock, OnceLock, Weak};
use std::time::{Duration, Instant, SystemTime};

use super::changes::Changes;
use super::registry::EndpointRegistry;
use super::responses::{AllResponses, CLASSES, Responses};
use crate::coarse;
use crate::config::model::{CircuitBreaker, FailureWindow, HealthCheck, OutlierDetection};
use crate::upstream::address::Address;
use crate::upstream::balance::Ewma;
use crate::upstream::circuit::{Admission, Circuit, Probe as CircuitProbe};
use crate::upstream::health::outliers::{Stage, Tally};
use crate::upstream::health::{Health, Reason, Told, Trial};
use crate::upstream::limits::{Connections, Target};

/// What a record belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) upstream: Arc<str>,
    /// `host:port` or `unix:/path`, as written.
    pub(crate) endpoint: Arc<str>,
    /// `None` while no address of the name is known.
    pub(crate) address: Option<Address>,
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
    circuit: OnceLock<Box<Circuit>>,
    /// Where they are limited.
    connections: OnceLock<Arc<Connections>>,
    /// Since when nothing speaks against it, or since when it is known, by [`millis`].
    up_since: AtomicU64,
    /// Told of each change of its state, after the change.
    changes: Arc<Changes>,
    responses: AllResponses,
    created: SystemTime,
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
    /// Only where the upstream balances by it.
    ewma: Ewma,
}

/// Milliseconds since the process first asked, so that an instant fits into an atomic.
pub(crate) fn millis(at: Instant) -> u64 {
    static BASE: LazyLock<Instant> = LazyLock::new(Instant::now);
    at.saturating_duration_since(*BASE).as_millis() as u64
}

impl Record {
    pub(super) fn new(key: Key, registry: Weak<EndpointRegistry>, changes: Arc<Changes>) -> Self {
        // The clock of this module begins before the first record, so that no record is older than it.
        let up_since = AtomicU64::new(millis(Instant::now()));
        let (traffic, health, responses) = (Traffic::default(), Health::default(), AllResponses::default());
        Record {
            key,
            registry,
            traffic,
            health,
            up_since,
            changes,
            responses,
            created: SystemTime::now(),
            circuit: OnceLock::new(),
            connections: OnceLock::new(),
        }
    }

    /// A record that nobody else can find: of an address that no upstream lists.
    pub(crate) fn alone(endpoint: &Arc<str>, address: Address) -> Arc<Self> {
        let key = Key { upstream: Arc::default(), endpoint: endpoint.clone(), address: Some(address) };
        Arc::new(Record::new(key, Weak::new(), Arc::default()))
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

    /// What stands for it in a queue, as long as somebody there has it.
    pub(in crate::upstream) fn as_target(&self) -> Target {
        std::ptr::from_ref(self).addr()
    }

    /// Takes one of so many places, if one is free.
    pub(crate) fn try_occupy(&self, limit: u32) -> bool {
        let more = |occupied| (occupied < limit).then_some(occupied + 1);
        self.traffic.occupied.fetch_update(SeqCst, Relaxed, more).is_ok()
    }

    /// The places that are taken.
    pub(crate) fn occupied(&self) -> u32 {
        self.traffic.occupied.load(SeqCst)
    }

    /// A place is free again.
    pub(crate) fn vacate(&self) {
        self.traffic.occupied.fetch_sub(1, SeqCst);
    }

    /// Its open connections, where they are, or were, limited.
    pub(crate) fn connections(&self) -> Option<&Arc<Connections>> {
        self.connections.get()
    }

    /// The same, counted from now on.
    pub(crate) fn limited_connections(&self, new: impl FnOnce() -> Connections) -> Arc<Connections> {
        Arc::clone(self.connections.get_or_init(|| Arc::new(new())))
    }

    /// Its circuit, where endpoints have some.
    pub(crate) fn circuit(&self) -> &Circuit {
        self.circuit.get_or_init(Box::default)
    }

    /// Whether its circuit lets a request pass.
    pub(crate) fn admit(&self, breaker: &CircuitBreaker) -> Admission {
        let admission = self.circuit().admit(breaker);
        if let Admission::Probe(_) = admission {
            // It may be the last one that passes for now.
            self.changes.add();
        }
        admission
    }

    /// A probe of its circuit has ended without a result.
    pub(crate) fn give_back(&self, probe: CircuitProbe) {
        if self.circuit().give_back(probe) {
            self.changes.add();
        }
    }

    /// Its circuit has opened or closed.
    pub(crate) fn circuit_changed(&self, is_open: bool, evidence: String) {
        self.tell(self.health.circuit_changed(is_open, evidence));
        // Also where it was out already: one that opens again does so for another time.
        self.changes.add();
    }

    /// Until when its circuit refuses requests, by [`millis`].
    fn circuit_refuses_until(&self) -> Option<u64> {
        self.circuit.get()?.refuses_until()
    }

    fn is_refused_by_circuit(&self, now: Instant) -> bool {
        self.circuit_refuses_until().is_some_and(|until| millis(now) < until)
    }

    /// The settings that are about to be served count in this way, or have no circuits.
    pub(crate) fn set_circuit(&self, window: Option<FailureWindow>) {
        if window.is_none() && self.circuit.get().is_none() {
            return;
        }
        if self.circuit().configure(window) {
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

    /// Its latency as an average that jumps to peaks and decays with time.
    pub(crate) fn ewma(&self) -> &Ewma {
        &self.traffic.ewma
    }

    /// A counter for the pool of one worker.
    pub(crate) fn open_responses(&self) -> Arc<Responses> {
        self.responses.open()
    }

    /// The pool of a counter is gone; what it has counted stays.
    pub(crate) fn close_responses(&self, counter: &Arc<Responses>) {
        self.responses.close(counter);
    }

    /// The responses of all workers by the class of their status.
    pub(crate) fn responses(&self) -> [u64; CLASSES] {
        self.responses.by_class()
    }

    /// What was counted since this was last asked.
    pub(crate) fn tally_of_interval(&self) -> Tally {
        self.responses.tally_of_interval()
    }

    /// Whether nothing is known that speaks against it.
    pub(crate) fn is_healthy(&self) -> bool {
        self.health.is_healthy()
    }

    /// Whether a request may go there: it is healthy, or it is time to try it again.
    pub(crate) fn may_try(&self, now: Instant) -> bool {
        self.health.may_try(now) && !self.is_refused_by_circuit(now)
    }

    /// Half open: the request that is sent to see whether an address is back keeps the others away until that is known. False when
    /// another request, maybe of another worker, was there first.
    pub(crate) fn claim(&self, now: Instant) -> bool {
        if self.is_healthy() {
            return true;
        }
        self.end_ejection(now);
        match self.health.claim(now) {
            Trial::Needless => true,
            Trial::First => {
                self.changes.add();
                true
            }
            // Nothing has changed: a change would cost all workers a new plan for each request to an address that is out.
            Trial::No => false,
        }
    }

    /// Whether a request is of no use there, however few others there are: it takes no connections, or its circuit is open.
    pub(crate) fn takes_none(&self, now: Instant) -> bool {
        self.health.reasons().any(|reason| reason == Reason::Unreachable) || self.is_refused_by_circuit(now)
    }

    /// When [`Self::may_try`] may change though nothing happens, by [`millis`].
    pub(crate) fn retry_at(&self) -> Option<u64> {
        [self.health.retry_at(), self.circuit_refuses_until()].into_iter().flatten().min()
    }

    /// Since when nothing speaks against it, or since when it is known, by [`millis`].
    pub(crate) fn up_since(&self) -> u64 {
        self.up_since.load(Relaxed)
    }

    /// The address took a connection and answered on it.
    pub(crate) fn reached(&self) {
        self.tell(self.health.reached());
    }

    /// It has answered, and well: failures before are no longer in a row.
    pub(crate) fn well(&self) {
        self.health.well();
    }

    /// The address did not take a connection that was tried from `begun` on.
    pub(crate) fn failed(&self, begun: Instant, now: Instant) {
        self.traffic.ewma.note_failure(now.saturating_duration_since(begun), coarse::now_ms());
        self.tell(self.health.not_reached(begun, now));
        // Also where it was out already: the time of the next trial is another one.
        self.changes.add();
    }

    /// A response has come to its end.
    pub(crate) fn ended_well(&self) {
        self.health.ended_well();
    }

    /// One more request in a row that the address has failed. Answers how many of gateway errors there are in a row, and of all.
    pub(crate) fn note_failure(&self, is_gateway_error: bool, stage: Stage) -> (u32, u32) {
        self.health.failed(is_gateway_error, stage)
    }

    /// Those in a row were seen to.
    pub(crate) fn forget_failures(&self, stage: Stage) {
        self.health.forget_failures(stage);
    }

    /// Whether it is ejected, and not for longer than it should be.
    pub(crate) fn is_ejected(&self, now: Instant) -> bool {
        self.health.is_ejected(now)
    }

    /// Ejects it. Called by one thread at a time.
    pub(crate) fn eject(&self, policy: &OutlierDetection, evidence: &str, now: Instant) {
        self.tell(self.health.eject(policy, evidence, now));
    }

    /// Ends an ejection whose time is over.
    pub(crate) fn end_ejection(&self, now: Instant) {
        self.tell(self.health.end_ejection(now));
    }

    /// An interval has passed in which it was not ejected.
    pub(crate) fn relax_ejection(&self) {
        self.health.relax_ejection();
    }

    /// A check of it begins.
    pub(crate) fn check(&self, now: Instant) {
        self.health.check(now);
    }

    /// How long ago its last check began.
    pub(crate) fn since_check(&self, now: Instant) -> Option<Duration> {
        self.health.since_check(now)
    }

    /// Whether checks have failed and not said yet whether it is out.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.health.is_in_doubt()
    }

    /// A check of it has ended, and why it failed.
    pub(crate) fn checked(&self, check: &HealthCheck, failure: Option<&dyn fmt::Display>) {
        self.tell(self.health.checked(check, failure));
    }

    /// Nobody finds out about this reason any more.
    pub(crate) fn forget(&self, reason: Reason) {
        self.tell(self.health.forget(reason));
    }

    /// Writes a change of state to the log. What an outbound call does not reach, its caller tells.
    fn tell(&self, told: Option<Told>) {
        let Some(Told { is_out, reason, evidence }) = told else { return };
        if !is_out && self.is_healthy() {
            self.up_since.store(millis(Instant::now()), Relaxed);
        }
        self.changes.add();
        let Key { upstream, endpoint, address } = &self.key;
        if upstream.is_empty() {
            return;
        }
        let (reason, address) = (reason.name(), address.as_ref().map(tracing::field::display));
        match is_out {
            true => tracing::warn!(%upstream, %endpoint, address, reason, evidence, "the endpoint is out"),
            false => tracing::info!(%upstream, %endpoint, address, reason, evidence, "the endpoint is back"),
        }
    }

    /// The state of its health, with evidence and history.
    pub(super) fn health(&self) -> &Health {
        &self.health
    }

    /// Since when it is known.
    pub(super) fn created(&self) -> SystemTime {
        self.created
    }

    /// It is up since then.
    #[cfg(test)]
    pub(crate) fn came_back(&self, at: Instant) {
        self.up_since.store(millis(at), Relaxed);
    }

    /// Why it is out.
    pub(crate) fn reasons(&self) -> impl Iterator<Item = Reason> {
        self.health.reasons()
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
        Record::alone(&"a:80".into(), std::net::SocketAddr::from(([10, 0, 0, 1], 80)).into())
    }

    fn check() -> HealthCheck {
        HealthCheck {
            probe: crate::config::model::Probe::Tcp,
            interval: Duration::from_secs(5),
            interval_jitter_percent: 0,
            timeout: Duration::from_secs(1),
            healthy_threshold: 2,
            unhealthy_threshold: 1,
            port: None,
        }
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
        record.reached();
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
    fn who_gets_no_trial_changes_nothing() {
        let (record, start) = (record(), Instant::now());
        record.failed(start, start);
        let later = start + FIRST_PAUSE;
        let claim = |now| {
            let before = record.changes.count();
            (record.claim(now), record.changes.count() - before)
        };
        assert_eq!(claim(start), (false, 0), "too early: it is used for want of others");
        assert!(record.may_try(later), "which puts off no trial");
        assert_eq!([claim(later), claim(later)], [(true, 1), (false, 0)]);
        record.checked(&check(), Some(&"no"));
        record.reached();
        assert_eq!(claim(later), (true, 0), "out for another reason");
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
