//! The permits of endpoints: a full endpoint, or one whose circuit is open, is passed over for another one. Where all are full, a request
//! waits for the first place at any of them.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Busy;
use super::queue::Wanted;
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

/// Which hosts a request may go to.
#[derive(Debug, Clone, Copy)]
pub struct Eligible<'a> {
    pub choice: Choice<'a>,
    /// Bounds the choice, but for addresses.
    pub subset: Option<&'a Arc<Subset>>,
    /// Not these.
    pub tried: &'a [usize],
}

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
        eligible: Eligible<'_>,
        until: Option<Instant>,
    ) -> Result<Admitted, Unadmitted> {
        let admitted = self.admit_now(endpoints, eligible);
        match (admitted, self.upstream().state()) {
            (Err(Unadmitted::Busy(_)), Some(state)) => {
                Box::pin(self.wait_for_room(state, endpoints, eligible, until)).await
            }
            (admitted, _) => admitted,
        }
    }

    /// Whether its endpoints have limits or circuits.
    pub fn admits_endpoints(&self) -> bool {
        self.upstream().spec().admits_endpoints()
    }

    /// The same without waiting.
    pub fn admit_now(&self, endpoints: &LocalEndpoints, eligible: Eligible<'_>) -> Result<Admitted, Unadmitted> {
        match self.upstream().state().filter(|_| self.upstream().spec().admits_endpoints()) {
            Some(state) => self.try_admit(state, endpoints, eligible),
            None => {
                let Eligible { choice, subset, tried } = eligible;
                let chosen = self.choose(endpoints, choice, subset, tried);
                chosen.map(|host| (host, None)).ok_or(Unadmitted::NoEndpoint)
            }
        }
    }

    fn try_admit(
        &self,
        state: &Arc<UpstreamState>,
        endpoints: &LocalEndpoints,
        Eligible { choice, subset, tried }: Eligible<'_>,
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
                permit = match EndpointPermit::take_unwanted(state, endpoints.record(host), breaker) {
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
        eligible: Eligible<'_>,
        until: Option<Instant>,
    ) -> Result<Admitted, Unadmitted> {
        let mut place = state.join(self.wanted(endpoints, eligible)).map_err(Unadmitted::Busy)?;
        let begun = Instant::now();
        let patience = self.upstream().spec().limits.endpoint_queue().timeout;
        let patience = until.map_or(patience, |until| patience.min(until.saturating_duration_since(begun)));
        // A place may have become free before this joined.
        self.look_for_room(state, endpoints, eligible);
        loop {
            let left = patience.saturating_sub(begun.elapsed());
            let permit = deadline::timeout(left.min(LOOK_AGAIN), place.wait()).await.ok().flatten();
            // It may have come at the last moment.
            match permit.or_else(|| place.take()) {
                Some(permit) => match self.host_of(endpoints, eligible, &permit) {
                    Some(host) => {
                        state.room_waited(begun);
                        return Ok((host, Some(Rc::new(permit))));
                    }
                    None => {
                        state.pass_on(&place, permit);
                        place.wait_on();
                        // Others may have left while this one was not to be found.
                        self.look_for_room(state, endpoints, eligible);
                    }
                },
                None if begun.elapsed() >= patience => return Err(Unadmitted::Busy(state.room_timed_out(patience))),
                None if place.is_first() => self.look_for_room(state, endpoints, eligible),
                None => {}
            }
        }
    }

    /// What a request waits for that may go to these hosts: whatever their state is now, since it may change meanwhile.
    fn wanted(&self, endpoints: &LocalEndpoints, Eligible { choice, subset, tried }: Eligible<'_>) -> Wanted {
        if let (Choice::Balanced(_) | Choice::Key(_), None, []) = (choice, subset, tried) {
            return Wanted::Any(endpoints.hosts());
        }
        let left = endpoints.left(tried);
        let targets: Vec<_> = match choice {
            Choice::Addresses(names) => names.iter().flat_map(|name| endpoints.hosts_named(name)).collect(),
            Choice::Balanced(_) | Choice::Key(_) => {
                let plan = self.plan(endpoints, subset);
                (0..endpoints.hosts()).filter(|host| plan.as_ref().is_some_and(|plan| plan.may_choose(*host))).collect()
            }
        };
        Wanted::Only(
            targets
                .into_iter()
                .filter(|host| left.contain(*host))
                .map(|host| endpoints.record(host).as_target())
                .collect(),
        )
    }

    /// Which hosts of these are worth waiting for, as their states are now; `None` if none is.
    fn is_worth_waiting<'e>(
        &self,
        endpoints: &'e LocalEndpoints,
        Eligible { choice, subset, tried }: Eligible<'e>,
    ) -> Option<Box<dyn Fn(usize) -> bool + 'e>> {
        let left = endpoints.left(tried);
        if let Choice::Addresses(names) = choice {
            let is_named = move |host| names.iter().any(|name| endpoints.hosts_named(name).contains(&host));
            return Some(Box::new(move |host| left.contain(host) && is_named(host)));
        }
        let plan = self.plan(endpoints, subset)?;
        let best = plan.worth_waiting_for(&left)?;
        Some(Box::new(move |host| left.contain(host) && plan.is_as_good_as(host, best)))
    }

    /// Offers all room that there is at endpoints worth waiting for.
    fn look_for_room(&self, state: &Arc<UpstreamState>, endpoints: &LocalEndpoints, eligible: Eligible<'_>) {
        let Some(is_worth) = self.is_worth_waiting(endpoints, eligible) else { return };
        for record in (0..endpoints.hosts()).filter(|host| is_worth(*host)).map(|host| endpoints.record(host)) {
            if state.room_waiting() == 0 {
                return;
            }
            state.offer(record);
        }
    }

    /// The host that a permit is for, if a request may go there now. It may be out or without weight, or of another list.
    fn host_of(&self, endpoints: &LocalEndpoints, eligible: Eligible<'_>, permit: &EndpointPermit) -> Option<usize> {
        let host = (0..endpoints.hosts()).find(|host| permit.is_for(endpoints.record(*host)))?;
        if !self.is_worth_waiting(endpoints, eligible)?(host) {
            return None;
        }
        let is_claimed = permit.record.claim(Instant::now());
        if let Choice::Addresses(_) = eligible.choice {
            return Some(host);
        }
        let plan = self.plan(endpoints, eligible.subset)?;
        let may_go = is_claimed || !plan.is_available(host);
        if !may_go {
            plan.expire();
        }
        may_go.then_some(host)
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
    /// The same for a request that has not waited: those that have go first.
    fn take_unwanted(
        state: &Arc<UpstreamState>,
        record: &Arc<Record>,
        breaker: Option<&CircuitBreaker>,
    ) -> Result<Self, Unadmitted> {
        match state.is_room_wanted(record) {
            true => Err(Unadmitted::Busy(state.endpoints_full())),
            false => Self::take(state, record, breaker),
        }
    }

    /// A permit for an endpoint, if it has room and its circuit lets a request pass.
    pub(super) fn take(
        state: &Arc<UpstreamState>,
        record: &Arc<Record>,
        breaker: Option<&CircuitBreaker>,
    ) -> Result<Self, Unadmitted> {
        let room = state.room_at(record).ok_or_else(|| Unadmitted::Busy(state.endpoints_full()))?;
        let probe = match breaker.map(|breaker| record.admit(breaker)) {
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

    pub(super) fn record(&self) -> &Record {
        &self.record
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

    /// Notes how an attempt has ended whose success was noted already.
    pub(in crate::upstream) fn note_late(&self, breaker: &CircuitBreaker, outcome: Outcome) {
        let Outcome::Failure(cause) = outcome else { return };
        if let Some(change) = self.record.circuit().note_late(breaker, cause) {
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
            self.record.give_back(probe);
        }
    }
}
