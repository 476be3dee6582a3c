//! What all workers know of an upstream as a whole: its circuit, its limits, and the places at its endpoints. The state of an upstream that
//! a reload changes stays.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::queue::{Place, Queue};
use super::{Bulkhead, BulkheadState, Busy, Waits};
use crate::config::model::{CircuitBreaker, CircuitScope, FailureWindow, UpstreamLimits};
use crate::upstream::circuit::{Admission, Circuit, Outcome, Probe};
use crate::upstream::endpoints::Record;
use crate::upstream::spec::UpstreamSpec;

/// Changes of a circuit that are kept.
const KEPT: usize = 16;

/// The state of an upstream that has limits or a circuit breaker.
#[derive(Debug)]
pub struct UpstreamState {
    name: Arc<str>,
    circuit: Circuit,
    refused_by_circuit: AtomicU64,
    counted: Mutex<Option<FailureWindow>>,
    history: Mutex<VecDeque<CircuitChange>>,
    requests: Arc<Bulkhead>,
    /// Requests at each endpoint; `u32::MAX` is no limit.
    endpoint_limit: AtomicU32,
    max_pending: AtomicU32,
    /// Requests that wait for a place at any endpoint.
    room: Queue<Room>,
    room_waits: Waits,
}

/// A change of a circuit, with its evidence.
#[derive(Debug, Clone)]
pub struct CircuitChange {
    pub at: SystemTime,
    pub is_open: bool,
    pub evidence: String,
}

/// A circuit, for metrics and the admin API.
#[derive(Debug, Clone)]
pub struct CircuitState {
    /// `closed`, `open` or `half-open`.
    pub state: &'static str,
    /// How often it has opened.
    pub opened: u64,
    /// Requests that it has refused.
    pub refused: u64,
    /// Its last changes, oldest first.
    pub history: Vec<CircuitChange>,
}

/// A place at an endpoint that limits its requests. Dropped, it is offered to those who wait.
#[derive(Debug)]
pub(super) struct Room {
    state: Arc<UpstreamState>,
    record: Arc<Record>,
}

/// A request that the circuit of its upstream has let pass. Dropped without an outcome, it says nothing.
#[derive(Debug)]
pub struct CircuitPass {
    state: Arc<UpstreamState>,
    probe: Option<Probe>,
}

impl UpstreamState {
    pub(in crate::upstream) fn new(spec: &UpstreamSpec) -> Self {
        let UpstreamLimits { max_requests, max_pending_requests, per_endpoint, .. } = spec.limits;
        UpstreamState {
            name: spec.name.clone(),
            circuit: Circuit::default(),
            refused_by_circuit: AtomicU64::new(0),
            counted: Mutex::new(spec.circuit_breaker.as_ref().map(|breaker| breaker.window)),
            history: Mutex::default(),
            requests: Arc::new(Bulkhead::new(max_requests, max_pending_requests)),
            endpoint_limit: AtomicU32::new(per_endpoint.max_requests.unwrap_or(u32::MAX)),
            max_pending: AtomicU32::new(max_pending_requests),
            room: Queue::default(),
            room_waits: Waits::default(),
        }
    }

    /// Takes the settings of the configuration that is about to be served. Those of a reload that is refused never come here.
    pub(in crate::upstream) fn set(&self, spec: &UpstreamSpec) {
        let UpstreamLimits { max_requests, max_pending_requests, per_endpoint, .. } = spec.limits;
        self.requests.set(max_requests, max_pending_requests);
        self.max_pending.store(max_pending_requests, Relaxed);
        self.endpoint_limit.store(per_endpoint.max_requests.unwrap_or(u32::MAX), SeqCst);
        let window = spec.circuit_breaker.as_ref().map(|breaker| breaker.window);
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if *counted != window {
            *counted = window;
            self.circuit.forget();
        }
    }

    /// Whether the circuit lets a request pass; if not, for how long.
    pub(in crate::upstream) fn pass(self: &Arc<Self>, breaker: &CircuitBreaker) -> Result<CircuitPass, Duration> {
        let probe = match self.circuit.admit(breaker) {
            Admission::Pass => None,
            Admission::Probe(probe) => Some(probe),
            Admission::Refused(open) => {
                self.refused_by_circuit();
                return Err(open);
            }
        };
        Ok(CircuitPass { state: Arc::clone(self), probe })
    }

    pub(super) fn refused_by_circuit(&self) {
        self.refused_by_circuit.fetch_add(1, Relaxed);
    }

    pub fn requests(&self) -> &Arc<Bulkhead> {
        &self.requests
    }

    /// The upstream's circuit now.
    pub fn circuit(&self) -> CircuitState {
        CircuitState {
            state: self.circuit.state(),
            opened: self.circuit.opened(),
            refused: self.refused_by_circuit.load(Relaxed),
            history: self.history.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect(),
        }
    }

    /// Requests that wait for a place at any endpoint, and what has come of it.
    pub fn room(&self) -> BulkheadState {
        let limit = self.endpoint_limit.load(Relaxed);
        let limit = (limit != u32::MAX).then_some(limit);
        BulkheadState { limit, pending: self.room.waiting(), ..self.room_waits.state() }
    }

    pub(super) fn room_waiting(&self) -> u32 {
        self.room.waiting()
    }

    /// A place at an endpoint; `Some(None)`: endpoints have no limit. `None`: it is full.
    pub(super) fn room_at(self: &Arc<Self>, record: &Arc<Record>) -> Option<Option<Room>> {
        let limit = self.endpoint_limit.load(SeqCst);
        if limit == u32::MAX {
            return Some(None);
        }
        let room = || Room { state: Arc::clone(self), record: Arc::clone(record) };
        record.try_occupy(limit).then(|| Some(room()))
    }

    pub(super) fn join(&self) -> Result<Place<'_, Room>, Busy> {
        self.room.join(self.max_pending.load(Relaxed)).ok_or_else(|| {
            self.room_waits.full.fetch_add(1, Relaxed);
            self.endpoints_full()
        })
    }

    pub(super) fn endpoints_full(&self) -> Busy {
        Busy::Full { limit: self.endpoint_limit.load(Relaxed), pending: self.max_pending.load(Relaxed) }
    }

    pub(super) fn room_timed_out(&self, patience: Duration) -> Busy {
        self.room_waits.timed_out.fetch_add(1, Relaxed);
        Busy::TimedOut(patience)
    }

    pub(super) fn room_waited(&self, begun: Instant) {
        self.room_waits.note(begun);
    }

    /// Gives the free places of an endpoint to those who have waited longest. One that can't be used now has none.
    pub(super) fn offer(self: &Arc<Self>, record: &Arc<Record>) {
        while self.room.waiting() > 0 && record.may_try(Instant::now()) {
            let limit = self.endpoint_limit.load(SeqCst);
            let Some(next) = self.room.pop_if(|| record.try_occupy(limit)) else { return };
            // Who has left meanwhile sends it back, and dropping it offers it again.
            let _ = next.send(Room { state: Arc::clone(self), record: Arc::clone(record) });
        }
    }
}

impl Room {
    pub(super) fn record(&self) -> &Arc<Record> {
        &self.record
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.record.vacate();
        self.state.offer(&self.record);
    }
}

impl CircuitPass {
    /// Notes how the request has ended.
    pub(in crate::upstream) fn note(mut self, breaker: &CircuitBreaker, outcome: Option<Outcome>) {
        // Dropping this gives a probe back.
        let Some(outcome) = outcome else { return };
        let (state, probe) = (Arc::clone(&self.state), self.probe.take());
        let Some(change) = state.circuit.note(breaker, probe, outcome) else { return };
        let (upstream, evidence) = (&state.name, &change.evidence);
        match change.is_open {
            true => tracing::warn!(%upstream, evidence, "the circuit of the upstream is open"),
            false => tracing::info!(%upstream, evidence, "the circuit of the upstream is closed"),
        }
        let mut history = state.history.lock().unwrap_or_else(PoisonError::into_inner);
        if history.len() == KEPT {
            history.pop_front();
        }
        history.push_back(CircuitChange { at: SystemTime::now(), is_open: change.is_open, evidence: change.evidence });
    }
}

impl Drop for CircuitPass {
    fn drop(&mut self) {
        if let Some(probe) = self.probe.take() {
            self.state.circuit.give_back(probe);
        }
    }
}

/// The settings of the circuit of the upstream as a whole, if it has one.
pub(in crate::upstream) fn upstream_breaker(spec: &UpstreamSpec) -> Option<&CircuitBreaker> {
    spec.circuit_breaker.as_ref().filter(|breaker| breaker.per == CircuitScope::Upstream)
}
