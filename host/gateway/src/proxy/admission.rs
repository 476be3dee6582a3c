//! Whether a request may go to its upstream now: the limits of the route and of the upstream, and the upstream's circuit. What is refused
//! here counts against nobody.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::RouteHandler;
use super::context::RequestContext;
use super::error::{Advice, Kind, ProxyError};
use crate::snapshot::UpstreamHandle;
use crate::upstream::{
    Answer, Bulkhead, Busy, CircuitAnswer, CircuitPass, LocalUpstream, OutgoingRequest, Permit, UpstreamErrorKind,
    UpstreamResponse,
};

/// What a request holds until its response has ended.
#[derive(Default)]
pub(super) struct Admission {
    /// Of its route.
    _route: Option<Permit>,
    upstream: Option<Permit>,
    /// Until the response head is in.
    circuit: Option<(CircuitPass, Rc<LocalUpstream>)>,
    /// It was sent to another upstream, since a circuit is open.
    fell_back: bool,
}

impl RouteHandler<'_> {
    /// Waits for the limit of the route.
    pub(super) async fn admit_to_route(
        &self,
        context: &mut RequestContext,
        until: Option<Instant>,
    ) -> Result<(), ProxyError> {
        let Some(limits) = &self.route.limits else { return Ok(()) };
        let permit = enter(&limits.requests, limits.queue_timeout, until).await;
        let permit = permit.map_err(|busy| ProxyError::new(Kind::RouteBusy, refused("route", &limits.name, busy)))?;
        context.admission.get_or_insert_default()._route = Some(permit);
        Ok(())
    }

    /// Waits for the limit of the upstream, unless its circuit is open. Answers the upstream to send to: this one, or its fallback.
    pub(super) async fn admit_to_upstream<'u>(
        &'u self,
        context: &mut RequestContext,
        target: &'u UpstreamHandle,
        until: Option<Instant>,
    ) -> Result<&'u UpstreamHandle, ProxyError> {
        // What was held for an upstream that was chosen before.
        if let Some(admission) = &mut context.admission {
            (admission.upstream, admission.circuit) = (None, None);
        }
        let Some(state) = target.upstream.upstream().state() else { return Ok(target) };
        let pass = match target.upstream.upstream().pass_circuit() {
            None => None,
            Some(Ok(pass)) => Some((pass, Rc::clone(&target.upstream))),
            Some(Err(open)) => return Box::pin(self.fall_back(context, target, open, until)).await,
        };
        let limits = &target.upstream.upstream().spec().limits;
        let permit = match limits.max_requests {
            None => None,
            Some(_) => Some(enter(state.requests(), limits.queue_timeout, until).await.map_err(|busy| {
                let error = ProxyError::new(Kind::UpstreamBusy, refused("upstream", target.upstream.name(), busy));
                self.local.metrics.upstream_failed(target.metrics, UpstreamErrorKind::Busy.name());
                error
            })?),
        };
        let admission = context.admission.get_or_insert_default();
        (admission.upstream, admission.circuit) = (permit, pass);
        Ok(target)
    }

    /// What becomes of a request while a circuit of its upstream is open for so long: another upstream, or the answer as an error.
    pub(super) async fn fall_back<'u>(
        &'u self,
        context: &mut RequestContext,
        target: &UpstreamHandle,
        open: Duration,
        until: Option<Instant>,
    ) -> Result<&'u UpstreamHandle, ProxyError> {
        self.local.metrics.upstream_failed(target.metrics, UpstreamErrorKind::CircuitOpen.name());
        let name = target.upstream.name();
        let answer = target.upstream.upstream().spec().circuit_breaker.as_ref().map(|breaker| &breaker.answer);
        let respond = match answer {
            Some(CircuitAnswer::Fallback(fallback)) => {
                let admission = context.admission.get_or_insert_default();
                let known = self.local.upstreams.iter().find(|known| **known.upstream.name() == **fallback);
                // Once: two upstreams may be each other's fallback.
                if let Some(known) = known.filter(|_| !std::mem::replace(&mut admission.fell_back, true)) {
                    return Box::pin(self.admit_to_upstream(context, known, until)).await;
                }
                None
            }
            Some(CircuitAnswer::Respond(response)) => Some(Arc::clone(response)),
            Some(CircuitAnswer::Unavailable) | None => None,
        };
        let error = ProxyError::new(Kind::CircuitOpen, format!("the circuit of upstream `{name}` is open"));
        Err(error.advised(Advice { retry_after: open, respond }))
    }
}

/// A permit, waited for no longer than until then.
async fn enter(limit: &Arc<Bulkhead>, patience: Duration, until: Option<Instant>) -> Result<Permit, Busy> {
    let left = until.map(|until| until.saturating_duration_since(Instant::now()));
    limit.enter(left.map_or(patience, |left| patience.min(left))).await
}

/// Tells the circuit of the upstream how the request has ended there: with this answer, whose body it follows, or as its last attempt.
pub(super) fn note_outcome(
    context: &mut RequestContext,
    answer: Option<&mut UpstreamResponse>,
    request: &OutgoingRequest<'_>,
) {
    let Some(answer) = answer else { return note_end(context, None) };
    let Some((pass, upstream)) = take_circuit(context) else { return };
    upstream.upstream().note_answer(pass, answer, request);
}

/// The same where the answer is not passed on.
fn note_end(context: &mut RequestContext, answer: Option<&UpstreamResponse>) {
    let Some((pass, upstream)) = take_circuit(context) else { return };
    let ending = match answer {
        Some(answer) => Some(Ok(Answer::of(&answer.head))),
        None => context.attempts.ending_at(upstream.name()),
    };
    if let Some(ending) = ending {
        upstream.upstream().note_end(pass, ending);
    }
}

/// What the circuit has let pass, if the last attempt went to its upstream: the request may have been admitted, and not sent there.
fn take_circuit(context: &mut RequestContext) -> Option<(CircuitPass, Rc<LocalUpstream>)> {
    let circuit = context.admission.as_mut().and_then(|admission| admission.circuit.take());
    circuit.filter(|(_, upstream)| context.attempts.last_at(upstream.name()).is_some())
}

/// Gives back what a request holds for an upstream that it leaves for another one, and tells the circuit how it has ended there.
pub(super) fn leave_upstream(context: &mut RequestContext, answer: Option<&UpstreamResponse>) {
    note_end(context, answer);
    if let Some(admission) = &mut context.admission {
        admission.upstream = None;
    }
}

fn refused(what: &str, name: &str, busy: Busy) -> String {
    match busy {
        Busy::Full { limit, pending: 0 } => format!("{what} `{name}` has its {limit} requests under way"),
        Busy::Full { limit, pending } => {
            format!("{what} `{name}` has its {limit} requests under way, and {pending} wait")
        }
        Busy::TimedOut(after) => format!("{what} `{name}` had no room for {after:?}"),
    }
}
