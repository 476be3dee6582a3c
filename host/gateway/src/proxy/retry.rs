//! The retry loop of a request: [`RouteHandler::ask_upstream`]. What it decides is in `upstream::retry`.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::SET_COOKIE;
use http::uri::Scheme;

use super::admission::leave_upstream;
use super::context::RequestContext;
use super::error::ProxyError;
use super::upstream::upstream_error;
use super::{RouteHandler, affinity, grpc};
use crate::coarse;
use crate::exchange::{Candidates, Failure, RetryState, Selection};
use crate::filter::Hook;
use crate::snapshot::UpstreamHandle;
use crate::snapshot::routes::{RetryCondition, RetryPolicy};
use crate::telemetry::UpstreamId;
use crate::upstream::retry::{
    Attempts, Decision, Denied, EndedAttempt, FilterChoice, Next, Pushback, condition_of, pause, pushback,
};
use crate::upstream::{
    Affinity, AttemptError, AttemptFailure, AttemptOutcome, Choice, OutgoingRequest, Unadmitted, UpstreamErrorKind,
    UpstreamResponse,
};

/// What speaks for another attempt, and what the upstream says of its time.
struct Wish {
    condition: Option<RetryCondition>,
    pushback: Pushback,
}

impl RouteHandler<'_> {
    /// The retry loop: attempts until there is an answer to pass on, or no other attempt is allowed. Each attempt goes to the log of
    /// the request.
    pub(super) async fn ask_upstream(
        &self,
        context: &mut RequestContext,
        targets: &[usize],
        request: &mut OutgoingRequest<'_>,
    ) -> Result<UpstreamResponse, ProxyError> {
        let policy = self.route.retry.as_ref();
        let mut attempts = Attempts::new(policy);
        let weighted = &self.local.upstreams[context.weighted];
        // The one that was selected, and the one that is asked: the same, or its fallback.
        let (mut selected, mut target) = (weighted, weighted);
        let mut endpoints = target.upstream.endpoints();
        let mut endpoint = 0;
        let mut affinity = Affinity::default();
        let mut error = AttemptError::new(UpstreamErrorKind::NoEndpoint);
        // An answer that another attempt is to replace. Until that begins it can still become the client's.
        let mut held: Option<Box<UpstreamResponse>> = None;
        let mut next = Next::Selection;
        while next != Next::GiveUp {
            if next == Next::Selection {
                let choice = self.select_upstream(context, targets, (weighted, attempts.made())).await?;
                let before = std::mem::replace(
                    &mut selected,
                    self.selected(&context.exchange().selection, targets).unwrap_or(weighted),
                );
                // It stays where it is admitted.
                if attempts.made() == 0 || !std::ptr::eq(selected, before) {
                    if context.admission.is_some() {
                        leave_upstream(context, held.as_deref());
                    }
                    let admitted = match selected.upstream.upstream().state() {
                        Some(_) => Box::pin(self.admit_to_upstream(context, selected, request.until())).await,
                        None => Ok(selected),
                    };
                    target = match admitted {
                        Ok(admitted) => admitted,
                        Err(error) if attempts.made() == 0 => return Err(error),
                        // What the upstream before has said tells more.
                        Err(_) => break,
                    };
                }
                let exchange = context.exchange();
                endpoints = target.upstream.endpoints();
                affinity = affinity::of(&target.upstream, &endpoints, exchange, request.headers());
                // Only filters ask for another selection.
                let candidates = match self.pipeline.pipeline().has(Hook::SelectUpstream) {
                    true => self.local.candidates(context.route_index(), targets).count(),
                    false => 0,
                };
                attempts.select(target.upstream.max_endpoints(&endpoints), candidates, choice);
            }
            if next != Next::SameEndpoint {
                let choice = choice(&context.exchange().selection, affinity, !std::ptr::eq(target, selected));
                let subset = self.route.subset.as_ref();
                let admitted = match target.upstream.admits_endpoints() {
                    false => target.upstream.admit_now(&endpoints, choice, subset, attempts.tried()),
                    true => {
                        Box::pin(target.upstream.admit(&endpoints, choice, subset, attempts.tried(), request.until()))
                            .await
                    }
                };
                let (chosen, permit) = match admitted {
                    Ok(admitted) => admitted,
                    Err(why) => {
                        if let Unadmitted::CircuitOpen(open) = why
                            && attempts.tried().is_empty()
                        {
                            match Box::pin(self.fall_back(context, target, open, request.until())).await {
                                Ok(fallback) => {
                                    target = fallback;
                                    endpoints = target.upstream.endpoints();
                                    affinity = affinity::of(
                                        &target.upstream,
                                        &endpoints,
                                        context.exchange(),
                                        request.headers(),
                                    );
                                    attempts.select(
                                        target.upstream.max_endpoints(&endpoints),
                                        0,
                                        FilterChoice::NoneOrSame,
                                    );
                                    next = Next::OtherEndpoint;
                                    continue;
                                }
                                Err(error) if attempts.made() == 0 => return Err(error),
                                Err(_) => {}
                            }
                        }
                        // What an endpoint has said tells more.
                        if attempts.made() == 0 {
                            error = match why {
                                Unadmitted::NoEndpoint => target.upstream.no_endpoint(),
                                Unadmitted::Busy(_) | Unadmitted::CircuitOpen(_) => AttemptError::new(why.kind()),
                            };
                            let attempt = context.attempts.begin(target.upstream.name(), None);
                            attempt.outcome = AttemptOutcome::Failed(error.kind);
                        }
                        next = attempts.without_endpoint();
                        continue;
                    }
                };
                // Waiting for a place may have taken what was left.
                let has_limits = self.route.limits.is_some() || target.upstream.upstream().state().is_some();
                if has_limits && request.is_late() {
                    if attempts.made() == 0 {
                        error = request.out_of_time();
                    }
                    break;
                }
                request.admitted(permit);
                attempts.spend(chosen);
                endpoint = chosen;
                if policy.is_some() && attempts.made() == 1 {
                    target.upstream.upstream().retries().note_request(coarse::now_ms());
                }
            }
            if !request.begin_attempt(attempts.made()) {
                break;
            }
            if let Some(answer) = held.take() {
                answer.discard();
            }
            let name = target.upstream.endpoint_name(&endpoints, endpoint);
            let attempt = context.attempts.begin(target.upstream.name(), Some(name));
            let wait;
            match target.upstream.attempt(&endpoints, endpoint, request, attempt).await {
                Ok(mut response) => {
                    let exchange = context.traversal.exchange();
                    let is_https = exchange.request.scheme == Scheme::HTTPS;
                    let choice = choice(&exchange.selection, affinity, !std::ptr::eq(target, selected));
                    let cookie = target.upstream.session_cookie(&endpoints, endpoint, choice, is_https);
                    if let Some(cookie) = cookie {
                        response.head.headers.append(SET_COOKIE, cookie);
                    }
                    let is_last = exchange.selection.no_retry;
                    let first_byte = attempt.first_byte.unwrap_or_default();
                    self.local.metrics.upstream(target.metrics, response.head.status.as_u16(), first_byte);
                    let Some(wish) = policy.and_then(|policy| wish(policy, &response, context.grpc)) else {
                        return Ok(response);
                    };
                    let Some(condition) = wish.condition else { return Ok(response) };
                    let ended = EndedAttempt::answered(condition, request.repeatability());
                    let decision = attempts.after(ended, is_last);
                    (next, wait) = self.agree(decision, &wish, target, request, attempts.made());
                    if next == Next::GiveUp {
                        return Ok(response);
                    }
                    log_answer(context, endpoints.address(endpoint), &response);
                    held = Some(Box::new(response));
                }
                Err(failed) => {
                    error = failed;
                    let is_last = context.exchange().selection.no_retry;
                    let decision = match request.is_late() {
                        true => Decision::GIVE_UP,
                        false => attempts.after(error.ended(request.repeatability()), is_last),
                    };
                    let is_stale = decision.next == Next::SameEndpoint && error.kind != UpstreamErrorKind::Refused;
                    self.log_failure(context, target.metrics, (endpoints.address(endpoint), &error), is_stale);
                    let condition = error.condition().filter(|_| !is_stale);
                    let wish = Wish { condition, pushback: Pushback::Nothing };
                    (next, wait) = self.agree(decision, &wish, target, request, attempts.made());
                }
            }
            if next != Next::SameEndpoint {
                request.leave_endpoint();
            }
            if !wait.is_zero() {
                // It is rare, and a timer is large.
                Box::pin(tokio::time::sleep(wait)).await;
            }
        }
        if let Some(answer) = held {
            return Ok(*answer);
        }
        let last = context.attempts.last();
        let error = upstream_error(&error.of(target.upstream.name(), last.and_then(|last| last.endpoint.as_ref())));
        self.local.metrics.upstream_failed(target.metrics, error.kind.name());
        Err(error)
    }

    /// What follows an attempt once the budget of the upstream and the time of the request are asked, too, and after which wait.
    fn agree(
        &self,
        decision: Decision,
        wish: &Wish,
        target: &UpstreamHandle,
        request: &OutgoingRequest<'_>,
        made: u32,
    ) -> (Next, Duration) {
        let give_up = (Next::GiveUp, Duration::ZERO);
        let deny = |why: Denied| {
            self.local.metrics.retry_denied(target.metrics, why.name());
            give_up
        };
        if decision.next == Next::GiveUp {
            return decision.denied.map_or(give_up, deny);
        }
        let Some(condition) = wish.condition else { return (decision.next, Duration::ZERO) };
        let mut wait = Duration::ZERO;
        if let Some(policy) = &self.route.retry {
            match wish.pushback {
                Pushback::Nothing => {}
                Pushback::After(asked) if asked <= policy.max_retry_after => wait = asked,
                Pushback::After(_) | Pushback::Never => return deny(Denied::RetryAfter),
            }
            if decision.is_paused {
                wait = wait.max(pause(policy.backoff, made, RandomState::new().hash_one(made)));
            }
            if request.is_late_after(wait) {
                return deny(Denied::Deadline);
            }
            let load = target.upstream.upstream().retries();
            if decision.is_charged && !load.withdraw(policy.budget, coarse::now_ms()) {
                return deny(Denied::Budget);
            }
        }
        self.local.metrics.retried(target.metrics, condition.name());
        (decision.next, wait)
    }

    /// Lets the filters choose an upstream.
    async fn select_upstream(
        &self,
        context: &mut RequestContext,
        targets: &[usize],
        (weighted, made): (&UpstreamHandle, u32),
    ) -> Result<FilterChoice, ProxyError> {
        if !self.pipeline.pipeline().has(Hook::SelectUpstream) {
            return Ok(FilterChoice::NoneOrSame);
        }
        let before = std::mem::take(&mut context.traversal.exchange().selection);
        let attempt = 1 + context.attempts.count() as u32;
        let route = context.route_index();
        let exchange = context.traversal.exchange();
        exchange.candidates = Candidates::of(self.local.candidates(route, targets).clone());
        exchange.retry = RetryState { attempt, ..self.retry_state(weighted, made) };
        let selected = self.pipeline.select_upstream(&mut context.traversal).await;
        selected.map_err(|failure| ProxyError::filter(&failure))?;
        let selection = &context.exchange().selection;
        let is_new = !selection.is_empty() && *selection != before;
        Ok(if is_new { FilterChoice::New } else { FilterChoice::NoneOrSame })
    }

    /// What the policy leaves after `made` attempts. The budget is that of the upstream that the weights have given: filters may choose another.
    fn retry_state(&self, weighted: &UpstreamHandle, made: u32) -> RetryState {
        let Some(policy) = &self.route.retry else { return RetryState::default() };
        let budget = weighted.upstream.upstream().retries().left(policy.budget, coarse::now_ms());
        RetryState { left: policy.attempts.saturating_sub(made + 1), budget: Some(budget), ..RetryState::default() }
    }

    /// The upstream that a filter has named, if the route lists it.
    fn selected(&self, selection: &Selection, targets: &[usize]) -> Option<&UpstreamHandle> {
        let name = selection.upstream.as_deref()?;
        let mut listed = targets.iter().map(|index| &self.local.upstreams[*index]);
        listed.find(|target| **target.upstream.upstream().name() == *name)
    }

    /// Writes a failed attempt where others read it: the log, the metrics, and `route.failures`, which does not show an idle
    /// connection that was found closed.
    fn log_failure(
        &self,
        context: &mut RequestContext,
        upstream: UpstreamId,
        (address, error): (Option<SocketAddr>, &AttemptError),
        is_stale: bool,
    ) {
        let RequestContext { attempts, traversal, .. } = context;
        let Some(attempt) = attempts.last_mut() else { return };
        let endpoint = attempt.endpoint.as_deref().unwrap_or_default();
        attempt.failure = Some(Box::new(AttemptFailure { address, reason: error.reason() }));
        if is_stale {
            attempt.outcome = AttemptOutcome::Stale;
        } else {
            let (upstream, address) = (Arc::from(&*attempt.upstream), Arc::from(endpoint));
            traversal.exchange().failures.push(Failure {
                upstream,
                address,
                kind: attempt.outcome.name(),
                reason: error.reason(),
                status: None,
                sent: error.may_have_been_processed(),
            });
        }
        self.local.metrics.attempt_failed(upstream, endpoint, attempt.outcome.name());
    }
}

/// The choice of an endpoint. A fallback has none of the addresses that a filter has named.
fn choice(selection: &Selection, affinity: Affinity, is_fallback: bool) -> Choice<'_> {
    match (&selection.endpoints, &selection.hash_key) {
        (Some(addresses), _) if !is_fallback => Choice::Addresses(addresses),
        (_, Some(key)) => Choice::Key(key),
        (_, None) => Choice::Balanced(affinity),
    }
}

/// Whether the policy wants another answer than this one.
fn wish(policy: &RetryPolicy, response: &UpstreamResponse, is_grpc: bool) -> Option<Wish> {
    let head = &response.head;
    let grpc_status = if is_grpc { grpc::status(&head.headers) } else { None };
    let condition = condition_of(policy, head.status, grpc_status)?;
    let pushback = pushback(&head.headers, is_grpc, SystemTime::now());
    Some(Wish { condition: Some(condition), pushback })
}

/// Writes an answer that is not passed on where others read it: the log and `route.failures`.
fn log_answer(context: &mut RequestContext, address: Option<SocketAddr>, response: &UpstreamResponse) {
    let RequestContext { attempts, traversal, grpc: is_grpc, .. } = context;
    let Some(attempt) = attempts.last_mut() else { return };
    let status = response.head.status.as_u16();
    let reason = match grpc::status(&response.head.headers).filter(|_| *is_grpc) {
        Some(of_grpc) => format!("answered {status} with grpc-status {of_grpc}"),
        None => format!("answered {status}"),
    };
    attempt.outcome = AttemptOutcome::Retried;
    let endpoint = attempt.endpoint.as_deref().unwrap_or_default();
    let (upstream, name) = (Arc::from(&*attempt.upstream), Arc::from(endpoint));
    traversal.exchange().failures.push(Failure {
        upstream,
        address: name,
        kind: attempt.outcome.name(),
        reason: reason.clone(),
        status: Some(response.head.status),
        sent: true,
    });
    attempt.failure = Some(Box::new(AttemptFailure { address, reason }));
}
