//! The permits of endpoints: a full endpoint, or one whose circuit is open, is passed over for another one. Where all are full, a request
//! waits for the first place at any of them.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Busy;
use super::queue::Place;
use super::state::{Room, UpstreamState};
use crate::config::model::CircuitBreaker;
use crate::deadline;
use crate::upstream::LocalEndpoints;
use crate::upstream::circuit::{Admission, Outcome, Probe};
use crate::upstream::endpoints::Record;
use crate::upstream::error::UpstreamErrorKind;
use crate::upstream::local::{Choice, LocalUpstream};
use crate::upstream::spec::Subset;

/// Choices after the balancer's own, each among those that have room: more are needed only if others take it at the same moment.
const CHOICES: usize = 4;
/// Who has waited longest looks for room so often, though nobody has left: an endpoint may be back, or its circuit let probes pass.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

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
        let breaker = self.endpoint_breaker();
        let (why, mut permit) = (Cell::new(Unadmitted::NoEndpoint), None);
        let mut left = endpoints.left(tried);
        let has_room = |host: usize| {
            let obstacle = state.obstacle(endpoints.record(host), breaker);
            obstacle.inspect(|obstacle| why.set(why.get().sooner(*obstacle))).is_none()
        };
        for _ in 0..=CHOICES {
            let mut was_refused = false;
            let chosen = self.choose_admitted(endpoints, choice, subset, &left, |host| {
                // Of a trial that another request was faster to: its place is free again before the next is taken.
                drop(permit.take());
                permit = match EndpointPermit::take(state, endpoints.record(host), breaker) {
                    Ok(permit) => Some(permit),
                    Err(refused) => {
                        was_refused = true;
                        why.set(why.get().sooner(refused));
                        None
                    }
                };
                permit.is_some()
            });
            if let Some((host, permit)) = chosen.zip(permit.take()) {
                return Ok((host, Some(Rc::new(permit))));
            }
            if !was_refused {
                break;
            }
            left = left.with_room(&has_room);
        }
        if let Unadmitted::CircuitOpen(_) = why.get() {
            state.refused_by_circuit();
        }
        Err(why.get())
    }

    /// The permit for an address that was not chosen, if it has room.
    pub(in crate::upstream) fn permit_for(&self, record: &Arc<Record>) -> Option<EndpointPermit> {
        let room = self.upstream().state()?.room_at(record)?;
        Some(EndpointPermit { record: Arc::clone(record), room: Cell::new(room), probe: Cell::new(None) })
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
        // A place may have become free before this joined.
        self.look_for_room(state, endpoints);
        loop {
            let left = patience.saturating_sub(begun.elapsed());
            let permit = deadline::timeout(left.min(LOOK_AGAIN), place.wait()).await.ok().flatten();
            // It may have come at the last moment.
            match permit.or_else(|| place.take()) {
                Some(permit) => match self.host_of(endpoints, &permit) {
                    Some(host) => {
                        state.room_waited(begun);
                        return Ok((host, Some(Rc::new(permit))));
                    }
                    None => self.wait_on(state, endpoints, &mut place, permit),
                },
                None if begun.elapsed() >= patience => return Err(Unadmitted::Busy(state.room_timed_out(patience))),
                None if place.is_first() => self.look_for_room(state, endpoints),
                None => {}
            }
        }
    }

    /// Offers all room that there is at endpoints worth waiting for.
    fn look_for_room(&self, state: &Arc<UpstreamState>, endpoints: &LocalEndpoints) {
        let Some(plan) = self.plan(endpoints) else { return };
        let is_worth = plan.worth_waiting_for();
        for record in (0..endpoints.hosts()).filter(|host| is_worth(*host)).map(|host| endpoints.record(host)) {
            if state.room_waiting() == 0 {
                return;
            }
            if state.obstacle(record, self.endpoint_breaker()).is_none() {
                state.offer(record);
            }
        }
    }

    /// The host that a permit is for, if a request may go there now. It may be out or without weight, or of another list.
    fn host_of(&self, endpoints: &LocalEndpoints, permit: &EndpointPermit) -> Option<usize> {
        let host = (0..endpoints.hosts()).find(|host| permit.is_for(endpoints.record(*host)))?;
        let plan = self.plan(endpoints)?;
        if !plan.worth_waiting_for()(host) {
            return None;
        }
        let may_go = permit.record.claim(Instant::now()) || !plan.is_available(host);
        if !may_go {
            plan.expire();
        }
        may_go.then_some(host)
    }

    /// Waits on at the same place, where a permit was of no use.
    fn wait_on(
        &self,
        state: &Arc<UpstreamState>,
        endpoints: &LocalEndpoints,
        place: &mut Place<'_, EndpointPermit>,
        permit: EndpointPermit,
    ) {
        state.pass_on(place, permit);
        place.wait_on();
        // Others may have left while this one was not to be found.
        self.look_for_room(state, endpoints);
    }

    /// The settings of the circuits of its endpoints, where they have some.
    pub(in crate::upstream) fn endpoint_breaker(&self) -> Option<&CircuitBreaker> {
        self.upstream().spec().endpoint_breaker()
    }
}

impl Unadmitted {
    /// Of two reasons the one that ends sooner: a full endpoint has room before an open circuit closes.
    fn sooner(self, other: Self) -> Self {
        match (self, other) {
            (Unadmitted::Busy(_), _) | (_, Unadmitted::NoEndpoint) => self,
            (_, Unadmitted::Busy(_)) | (Unadmitted::NoEndpoint, _) => other,
            (Unadmitted::CircuitOpen(one), Unadmitted::CircuitOpen(another)) => {
                Unadmitted::CircuitOpen(one.min(another))
            }
        }
    }
}

impl EndpointPermit {
    /// A permit for an endpoint, if it has room and its circuit lets a request pass.
    pub(super) fn take(
        state: &Arc<UpstreamState>,
        record: &Arc<Record>,
        breaker: Option<&CircuitBreaker>,
    ) -> Result<Self, Unadmitted> {
        let room = state.room_at(record).ok_or_else(|| Unadmitted::Busy(state.endpoints_full()))?;
        let probe = match breaker.map(|breaker| record.circuit().admit(breaker)) {
            None | Some(Admission::Pass) => None,
            Some(Admission::Probe(probe)) => Some(probe),
            Some(Admission::Refused(open)) => {
                // The place is of no use to others either.
                if let Some(room) = room {
                    room.drop_unoffered();
                }
                return Err(Unadmitted::CircuitOpen(open));
            }
        };
        Ok(EndpointPermit { record: Arc::clone(record), room: Cell::new(room), probe: Cell::new(probe) })
    }

    /// Whether it is for the address of this record.
    pub(in crate::upstream) fn is_for(&self, record: &Arc<Record>) -> bool {
        Arc::ptr_eq(&self.record, record)
    }

    /// Gives it up, and tells nobody.
    pub(super) fn drop_unoffered(self) {
        if let Some(room) = self.room.take() {
            room.drop_unoffered();
        }
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

impl fmt::Debug for EndpointPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointPermit").field("record", &self.record.key()).finish_non_exhaustive()
    }
}

impl Drop for EndpointPermit {
    fn drop(&mut self) {
        if let Some(probe) = self.probe.take() {
            self.record.circuit().give_back(probe);
        }
    }
}
