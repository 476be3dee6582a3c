//! The permits of endpoints: a full endpoint, or one whose circuit is open, is passed over for another one. Where all are full, a request
//! waits for the first place at any of them.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::Busy;
use super::state::{Room, UpstreamState};
use crate::config::model::{CircuitBreaker, CircuitScope};
use crate::deadline;
use crate::upstream::LocalEndpoints;
use crate::upstream::circuit::{Admission, Outcome, Probe};
use crate::upstream::endpoints::Record;
use crate::upstream::error::UpstreamErrorKind;
use crate::upstream::local::{Choice, LocalUpstream};
use crate::upstream::spec::Subset;

/// What a request needs to go to an endpoint, as long as it is there.
pub struct EndpointPermit {
    record: Arc<Record>,
    room: Cell<Option<Room>>,
    /// The request decides whether the endpoint's circuit closes.
    probe: Cell<Option<Probe>>,
}

/// Why a request may not go to any endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unadmitted {
    /// There is none that was not tried.
    NoEndpoint,
    /// All that are left are full.
    Busy(Busy),
    /// The circuits of all that are left are open, the first of them for so long.
    CircuitOpen(Duration),
}

impl Unadmitted {
    /// The kind of the error that this is.
    pub fn kind(self) -> UpstreamErrorKind {
        match self {
            Unadmitted::NoEndpoint => UpstreamErrorKind::NoEndpoint,
            Unadmitted::Busy(_) => UpstreamErrorKind::Busy,
            Unadmitted::CircuitOpen(_) => UpstreamErrorKind::CircuitOpen,
        }
    }
}

/// The host for the next attempt, with the permit to go there; none where the upstream limits nothing.
pub type Admitted = (usize, Option<Rc<EndpointPermit>>);

impl LocalUpstream {
    /// The host for the next attempt, as [`Self::choose`] finds it among those that have room. It waits for room as long as the upstream
    /// allows, and at most until `until`.
    pub async fn admit(
        &self,
        endpoints: &LocalEndpoints,
        choice: Choice<'_>,
        subset: Option<&Arc<Subset>>,
        tried: &[usize],
        until: Option<Instant>,
    ) -> Result<Admitted, Unadmitted> {
        let Some(state) = self.upstream().state().filter(|_| self.upstream().spec().admits_endpoints()) else {
            return self
                .choose(endpoints, choice, subset, tried)
                .map(|host| (host, None))
                .ok_or(Unadmitted::NoEndpoint);
        };
        // Requests that have waited go first. One that has tried an endpoint, or may go to a few only, does not wait: the first place that is
        // free may be of no use to it.
        let may_wait = tried.is_empty() && subset.is_none() && !matches!(choice, Choice::Addresses(_));
        if !may_wait || state.room_waiting() == 0 {
            match self.try_admit(state, endpoints, choice, subset, tried) {
                Err(Unadmitted::Busy(_)) if may_wait => {}
                admitted => return admitted,
            }
        }
        Box::pin(self.wait_for_room(state, endpoints, until)).await
    }

    /// Whether its endpoints have limits or circuits.
    pub fn admits_endpoints(&self) -> bool {
        self.upstream().spec().admits_endpoints()
    }

    /// The same for what is not worth waiting for.
    pub fn admit_now(
        &self,
        endpoints: &LocalEndpoints,
        choice: Choice<'_>,
        subset: Option<&Arc<Subset>>,
        tried: &[usize],
    ) -> Result<Admitted, Unadmitted> {
        match self.upstream().state().filter(|_| self.upstream().spec().admits_endpoints()) {
            Some(state) => self.try_admit(state, endpoints, choice, subset, tried),
            None => {
                let chosen = self.choose(endpoints, choice, subset, tried);
                chosen.map(|host| (host, None)).ok_or(Unadmitted::NoEndpoint)
            }
        }
    }

    fn try_admit(
        &self,
        state: &Arc<UpstreamState>,
        endpoints: &LocalEndpoints,
        choice: Choice<'_>,
        subset: Option<&Arc<Subset>>,
        tried: &[usize],
    ) -> Result<Admitted, Unadmitted> {
        let mut passed_over = SmallVec::<[usize; 8]>::new();
        let mut why = Unadmitted::NoEndpoint;
        while let Some(host) = self.choose_other(endpoints, choice, subset, tried, &passed_over) {
            let record = endpoints.record(host);
            match state.room_at(record).map(|room| self.permit(record, room)) {
                Some(Ok(permit)) => return Ok((host, Some(Rc::new(permit)))),
                // A full one has room sooner than an open circuit.
                None => why = Unadmitted::Busy(state.endpoints_full()),
                Some(Err(open)) => {
                    why = match why {
                        Unadmitted::NoEndpoint => Unadmitted::CircuitOpen(open),
                        Unadmitted::CircuitOpen(least) => Unadmitted::CircuitOpen(least.min(open)),
                        Unadmitted::Busy(_) => why,
                    };
                }
            }
            passed_over.push(host);
        }
        if let Unadmitted::CircuitOpen(_) = why {
            state.refused_by_circuit();
        }
        Err(why)
    }

    /// The permit for an address that was not chosen, if it has room.
    pub(in crate::upstream) fn permit_for(&self, record: &Arc<Record>) -> Option<EndpointPermit> {
        let room = self.upstream().state()?.room_at(record)?;
        Some(EndpointPermit { record: Arc::clone(record), room: Cell::new(room), probe: Cell::new(None) })
    }

    /// The permit of an endpoint with room, unless its circuit is open for so long.
    fn permit(&self, record: &Arc<Record>, room: Option<Room>) -> Result<EndpointPermit, Duration> {
        let probe = match self.endpoint_breaker().map(|breaker| record.circuit().admit(breaker)) {
            None | Some(Admission::Pass) => None,
            Some(Admission::Probe(probe)) => Some(probe),
            Some(Admission::Refused(open)) => return Err(open),
        };
        Ok(EndpointPermit { record: Arc::clone(record), room: Cell::new(room), probe: Cell::new(probe) })
    }

    async fn wait_for_room(
        &self,
        state: &Arc<UpstreamState>,
        endpoints: &LocalEndpoints,
        until: Option<Instant>,
    ) -> Result<Admitted, Unadmitted> {
        let mut place = state.join().map_err(Unadmitted::Busy)?;
        let begun = Instant::now();
        let patience = self.upstream().spec().limits.queue_timeout;
        let patience = until.map_or(patience, |until| patience.min(until.saturating_duration_since(begun)));
        // A place may have become free before this joined, or an endpoint may be back.
        for host in 0..endpoints.hosts() {
            state.offer(endpoints.record(host));
        }
        let room = deadline::timeout(patience, place.wait()).await.ok().flatten().or_else(|| place.take());
        let Some(room) = room else {
            return Err(Unadmitted::Busy(state.room_timed_out(patience)));
        };
        state.room_waited(begun);
        // The list may have changed; then this one does not know the endpoint.
        let host = (0..endpoints.hosts()).find(|host| Arc::ptr_eq(endpoints.record(*host), room.record()));
        let host = host.ok_or_else(|| Unadmitted::Busy(state.endpoints_full()))?;
        let permit = self.permit(endpoints.record(host), Some(room)).map_err(Unadmitted::CircuitOpen)?;
        Ok((host, Some(Rc::new(permit))))
    }

    /// The settings of the circuits of its endpoints, where they have some.
    pub(in crate::upstream) fn endpoint_breaker(&self) -> Option<&CircuitBreaker> {
        self.upstream().spec().circuit_breaker.as_ref().filter(|breaker| breaker.per == CircuitScope::Endpoint)
    }
}

impl EndpointPermit {
    /// Whether it is for the address of this record.
    pub(in crate::upstream) fn is_for(&self, record: &Arc<Record>) -> bool {
        Arc::ptr_eq(&self.record, record)
    }

    /// Gives up the place at the endpoint.
    pub(in crate::upstream) fn leave(&self) {
        self.room.take();
    }

    /// Notes how an attempt at the endpoint has ended.
    pub(in crate::upstream) fn note(&self, breaker: &CircuitBreaker, outcome: Option<Outcome>) {
        let Some(outcome) = outcome else { return };
        if let Some(change) = self.record.circuit().note(breaker, self.probe.take(), outcome) {
            self.record.circuit_changed(change.is_open, change.evidence);
        }
    }
}

impl Drop for EndpointPermit {
    fn drop(&mut self) {
        if let Some(probe) = self.probe.take() {
            self.record.circuit().give_back(probe);
        }
    }
}
