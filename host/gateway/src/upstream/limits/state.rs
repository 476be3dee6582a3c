//! What all workers know of an upstream as a whole: its circuit, its limits, and the places at its endpoints. The state of an upstream that
//! a reload changes stays.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::queue::{Place, Queue, Wanted};
use super::{Bulkhead, BulkheadState, Busy, ConnectionLimits, Connections, EndpointPermit, Unadmitted, Waits};
use crate::config::model::{CircuitBreaker, CircuitScope, UpstreamLimits};
use crate::upstream::circuit::{Admission, Change, Circuit, Outcome, Probe};
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
    history: Mutex<VecDeque<CircuitChange>>,
    requests: Arc<Bulkhead>,
    /// Requests at each endpoint; `u32::MAX` is no limit.
    endpoint_limit: AtomicU32,
    max_pending: AtomicU32,
    /// Of the circuits of its endpoints, where they have some: for those who wait.
    endpoint_breaker: Mutex<Option<Arc<CircuitBreaker>>>,
    /// Requests that wait for a place at any endpoint.
    room: Queue<EndpointPermit>,
    room_waits: Waits,
    connections: Arc<Connections>,
    /// Open connections to each address; `u32::MAX` is no limit.
    endpoint_connections: AtomicU32,
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
    /// Whether those who wait hear of it when it is free.
    is_offered: bool,
}

/// A request that the circuit of its upstream has let pass. Dropped without an outcome, it says nothing.
#[derive(Debug)]
pub struct CircuitPass {
    state: Arc<UpstreamState>,
    probe: Option<Probe>,
}

impl UpstreamState {
    pub(in crate::upstream) fn new(spec: &UpstreamSpec) -> Self {
        let state = UpstreamState {
            name: spec.name.clone(),
            circuit: Circuit::default(),
            refused_by_circuit: AtomicU64::new(0),
            history: Mutex::default(),
            requests: Arc::default(),
            endpoint_limit: AtomicU32::new(u32::MAX),
            max_pending: AtomicU32::new(0),
            endpoint_breaker: Mutex::default(),
            room: Queue::default(),
            room_waits: Waits::default(),
            connections: Arc::new(Connections::new(None, 0)),
            endpoint_connections: AtomicU32::new(u32::MAX),
        };
        state.set(spec);
        state
    }

    /// Takes the settings of the configuration that is about to be served. Those of a reload that is refused never come here.
    pub(in crate::upstream) fn set(&self, spec: &UpstreamSpec) {
        let UpstreamLimits { max_requests, max_pending_requests, per_endpoint, .. } = spec.limits;
        self.requests.set(max_requests, max_pending_requests);
        self.max_pending.store(spec.limits.endpoint_queue().max_pending, Relaxed);
        self.connections.set(spec.limits.max_connections, max_pending_requests);
        self.endpoint_connections.store(per_endpoint.max_connections.unwrap_or(u32::MAX), SeqCst);
        self.endpoint_limit.store(per_endpoint.max_requests.unwrap_or(u32::MAX), SeqCst);
        let breaker = spec.endpoint_breaker().map(|breaker| Arc::new(breaker.clone()));
        *self.endpoint_breaker.lock().unwrap_or_else(PoisonError::into_inner) = breaker;
        if self.circuit.configure(upstream_breaker(spec).map(|breaker| breaker.window)) {
            let evidence = "the configuration has no circuit breaker for it any more".to_owned();
            self.tell(Change { is_open: false, evidence });
        }
    }

    /// The circuit has changed.
    fn tell(&self, Change { is_open, evidence }: Change) {
        let upstream = &self.name;
        match is_open {
            true => tracing::warn!(%upstream, evidence, "the circuit of the upstream is open"),
            false => tracing::info!(%upstream, evidence, "the circuit of the upstream is closed"),
        }
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        if history.len() == KEPT {
            history.pop_front();
        }
        history.push_back(CircuitChange { at: SystemTime::now(), is_open, evidence });
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

    /// Notes that a request has failed whose success its circuit was told of.
    pub(in crate::upstream) fn note_late(&self, breaker: &CircuitBreaker, outcome: Outcome) {
        let Outcome::Failure(cause) = outcome else { return };
        if let Some(change) = self.circuit.note_late(breaker, cause) {
            self.tell(change);
        }
    }

    pub(super) fn refused_by_circuit(&self) {
        self.refused_by_circuit.fetch_add(1, Relaxed);
    }

    pub fn requests(&self) -> &Arc<Bulkhead> {
        &self.requests
    }

    /// The open connections of all its endpoints.
    pub fn connections(&self) -> &Connections {
        &self.connections
    }

    /// What limits the connections of a pool for this address, if anything does.
    pub(in crate::upstream) fn connection_limits(
        &self,
        limits: &UpstreamLimits,
        record: &Record,
    ) -> Option<ConnectionLimits> {
        let of_address = || {
            let limit = self.endpoint_connections.load(SeqCst);
            let (limit, max_pending) = ((limit != u32::MAX).then_some(limit), self.max_pending.load(Relaxed));
            let connections = record.limited_connections(|| Connections::new(limit, max_pending));
            connections.keep_to(limit, max_pending);
            connections
        };
        let address = limits.per_endpoint.max_connections.map(|_| of_address());
        let upstream = limits.max_connections.map(|_| Arc::clone(&self.connections));
        ConnectionLimits::new(address, upstream)
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
        let room = || Room { state: Arc::clone(self), record: Arc::clone(record), is_offered: true };
        record.try_occupy(limit).then(|| Some(room()))
    }

    /// Whether requests wait for a place at this endpoint.
    pub(super) fn is_room_wanted(&self, record: &Record) -> bool {
        self.room.is_wanted(record.as_target())
    }

    /// What keeps a request that has not waited from going to an endpoint now.
    pub(super) fn obstacle(&self, record: &Record, breaker: Option<&CircuitBreaker>) -> Option<Unadmitted> {
        if record.occupied() >= self.endpoint_limit.load(SeqCst) || self.is_room_wanted(record) {
            return Some(Unadmitted::Busy(self.endpoints_full()));
        }
        breaker.and_then(|breaker| record.circuit().refusal(breaker)).map(Unadmitted::CircuitOpen)
    }

    pub(super) fn join(&self, wanted: Wanted) -> Result<Place<'_, EndpointPermit>, Busy> {
        self.room.join(self.max_pending.load(Relaxed), wanted).ok_or_else(|| {
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

    /// Gives the free places of an endpoint to those who have waited longest, as far as its circuit lets them pass. Whether the endpoint is
    /// one for them, they find out.
    pub(in crate::upstream) fn offer(self: &Arc<Self>, record: &Arc<Record>) {
        if self.room.waiting() == 0 {
            return;
        }
        let breaker = self.endpoint_breaker.lock().unwrap_or_else(PoisonError::into_inner).clone();
        while self.room.waiting() > 0 {
            let mut permit = None;
            let next = self.room.pop_if(record.as_target(), || {
                permit = EndpointPermit::take(self, record, breaker.as_deref()).ok();
                permit.is_some()
            });
            let Some((next, permit)) = next.zip(permit) else { return };
            // Who has left meanwhile sends it back, and dropping it offers it again.
            let _ = next.send(permit);
        }
    }

    /// What has come to a place is of no use there. Only those behind it hear of it: who stands before has heard already, or will look.
    pub(super) fn pass_on(&self, place: &Place<'_, EndpointPermit>, permit: EndpointPermit) {
        match self.room.pop_behind(place, permit.record().as_target()) {
            Some(next) => _ = next.send(permit),
            None => permit.drop_unoffered(),
        }
    }
}

impl Room {
    /// Frees the place, and tells nobody.
    pub(super) fn drop_unoffered(mut self) {
        self.is_offered = false;
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.record.vacate();
        if self.is_offered {
            self.state.offer(&self.record);
        }
    }
}

impl CircuitPass {
    /// Notes how the request has ended.
    pub(in crate::upstream) fn note(mut self, breaker: &CircuitBreaker, outcome: Option<Outcome>) {
        // Dropping this gives a probe back.
        let Some(outcome) = outcome else { return };
        let probe = self.probe.take();
        if let Some(change) = self.state.circuit.note(breaker, probe, outcome) {
            self.state.tell(change);
        }
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
