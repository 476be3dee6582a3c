//! The retry loop of a request: [`RouteHandler::ask_upstream`]. What it decides is in `upstream::retry`.

use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
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
use crate::exchange::{Candidates, Exchange, Failure, RetryState, Selection};
use crate::filter::Hook;
use crate::snapshot::UpstreamHandle;
use crate::snapshot::routes::{RetryCondition, RetryPolicy};
use crate::telemetry::UpstreamId;
use crate::upstream::retry::{
    Attempts, Decision, Denied, EndedAttempt, FilterChoice, Next, Pushback, condition_of, pause, pushback,
};
use crate::upstream::{
    Address, Affinity, Answer, AttemptError, AttemptFailure, AttemptOutcome, Busy, Choice, Eligible, LocalEndpoints,
    OutgoingRequest, Unadmitted, UpstreamErrorKind, UpstreamResponse,
};

/// What speaks for another attempt, and what the upstream says of its time.
struct Wish {
    condition: Option<RetryCondition>,
    pushback: Pushback,
}

/// A request in the loop, between its attempts.
struct Asking<'u> {
    attempts: Attempts<'u>,
    /// The upstream that the weights have given.
    weighted: &'u UpstreamHandle,
    selected: &'u UpstreamHandle,
    /// The one that is asked: the selected one, or its fallback.
    target: &'u UpstreamHandle,
    endpoints: Rc<LocalEndpoints>,
    endpoint: usize,
    affinity: Affinity,
    /// The last error, and the upstream that it is of.
    error: AttemptError,
    failed_at: &'u UpstreamHandle,
    /// An answer that another attempt is to replace. Until that begins it can still become the client's.
    held: Option<Box<UpstreamResponse>>,
}

impl<'u> Asking<'u> {
    fn new(policy: Option<&'u RetryPolicy>, weighted: &'u UpstreamHandle) -> Self {
        Asking {
            attempts: Attempts::new(policy),
            weighted,
            selected: weighted,
            target: weighted,
            endpoints: weighted.upstream.endpoints(),
            endpoint: 0,
            affinity: Affinity::default(),
            error: AttemptError::new(UpstreamErrorKind::NoEndpoint),
            failed_at: weighted,
            held: None,
        }
    }

    /// Sets what the next attempts go to.
    fn aim_at(&mut self, target: &'u UpstreamHandle, exchange: &Exchange, request: &OutgoingRequest<'_>) {
        self.target = target;
        self.endpoints = target.upstream.endpoints();
        self.affinity = affinity::of(&target.upstream, &self.endpoints, exchange, request.headers());
    }

    /// How its next endpoint is chosen. A fallback has none of the addresses that a filter has named.
    fn choice<'s>(&self, selection: &'s Selection) -> Choice<'s> {
        let is_fallback = !std::ptr::eq(self.target, self.selected);
        match (&selection.endpoints, &selection.hash_key) {
            (Some(addresses), _) if !is_fallback => Choice::Addresses(addresses),
            (_, Some(key)) => Choice::Key(key),
            (_, None) => Choice::Balanced(self.affinity),
        }
    }

    fn fail(&mut self, error: AttemptError) {
        (self.failed_at, self.error) = (self.target, error);
    }
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
        let mut asking = Asking::new(self.route.retry.as_ref(), &self.local.upstreams[context.weighted]);
        let mut next = Next::Selection;
        while next != Next::GiveUp {
            if next == Next::Selection && !self.enter_upstream(context, targets, request, &mut asking).await? {
                break;
            }
            if next != Next::SameEndpoint
                && let Some(instead) = self.enter_endpoint(context, request, &mut asking).await?
            {
                next = instead;
                continue;
            }
            if !request.begin_attempt(asking.attempts.made()) {
                break;
            }
            let wait;
            (next, wait) = match self.attempt(context, request, &mut asking).await {
                Ok(response) => return Ok(response),
                Err(follows) => follows,
            };
            if next != Next::SameEndpoint {
                request.leave_endpoint();
            }
            if !wait.is_zero() {
                // It is rare, and a timer is large.
                Box::pin(tokio::time::sleep(wait)).await;
            }
        }
        self.give_up(context, asking)
    }

    /// Selects the upstream, and waits until it admits the request. False: it does not, and what the upstream before has said tells
    /// more.
    async fn enter_upstream<'u>(
        &'u self,
        context: &mut RequestContext,
        targets: &[usize],
        request: &OutgoingRequest<'_>,
        asking: &mut Asking<'u>,
    ) -> Result<bool, ProxyError> {
        let made = asking.attempts.made();
        let choice = self.select_upstream(context, targets, (asking.weighted, made)).await?;
        let selected = self.selected(&context.exchange().selection, targets).unwrap_or(asking.weighted);
        let before = std::mem::replace(&mut asking.selected, selected);
        let mut target = asking.target;
        // It stays where it is admitted.
        if made == 0 || !std::ptr::eq(selected, before) {
            if context.admission.is_some() {
                leave_upstream(context, asking.held.as_deref());
            }
            let admitted = match selected.upstream.upstream().state() {
                Some(_) => Box::pin(self.admit_to_upstream(context, selected, request.until())).await,
                None => Ok(selected),
            };
            target = match admitted {
                Ok(admitted) => admitted,
                Err(error) if made == 0 => return Err(error),
                Err(_) => return Ok(false),
            };
        }
        asking.aim_at(target, context.exchange(), request);
        // Only filters ask for another selection.
        let candidates = match self.pipeline.pipeline().has(Hook::SelectUpstream) {
            true => self.local.candidates(context.route_index(), targets).count(),
            false => 0,
        };
        asking.attempts.select(target.upstream.max_endpoints(&asking.endpoints), candidates, choice);
        Ok(true)
    }

    /// Chooses the endpoint of the next attempt, and waits until it admits the request. Answers what follows where there is none.
    async fn enter_endpoint<'u>(
        &'u self,
        context: &mut RequestContext,
        request: &mut OutgoingRequest<'_>,
        asking: &mut Asking<'u>,
    ) -> Result<Option<Next>, ProxyError> {
        let target = asking.target;
        let choice = asking.choice(&context.exchange().selection);
        let eligible = Eligible { choice, subset: self.route.subset.as_ref(), tried: asking.attempts.tried() };
        let admitted = match target.upstream.admits_endpoints() {
            false => target.upstream.admit_now(&asking.endpoints, eligible),
            true => Box::pin(target.upstream.admit(&asking.endpoints, eligible, request.until())).await,
        };
        let (endpoint, permit) = match admitted {
            Ok(admitted) => admitted,
            Err(why) => return Box::pin(self.unadmitted(context, request, asking, why)).await.map(Some),
        };
        // Waiting for a place may have taken what was left.
        let has_limits = self.route.limits.is_some() || target.upstream.upstream().state().is_some();
        if has_limits && request.is_late() {
            if asking.attempts.made() == 0 {
                asking.fail(request.out_of_time());
            }
            return Ok(Some(Next::GiveUp));
        }
        request.admitted(permit);
        asking.attempts.spend(endpoint);
        asking.endpoint = endpoint;
        if self.route.retry.is_some() && asking.attempts.made() == 1 {
            target.upstream.upstream().retries().note_request(coarse::now_ms());
        }
        Ok(None)
    }

    /// What follows where no endpoint admits the request: another upstream while circuits are open, other endpoints, or nothing.
    async fn unadmitted<'u>(
        &'u self,
        context: &mut RequestContext,
        request: &OutgoingRequest<'_>,
        asking: &mut Asking<'u>,
        why: Unadmitted,
    ) -> Result<Next, ProxyError> {
        let is_first = asking.attempts.made() == 0;
        if let Unadmitted::CircuitOpen(open) = why
            && asking.attempts.tried().is_empty()
        {
            match Box::pin(self.fall_back(context, asking.target, open, request.until())).await {
                Ok(fallback) => {
                    asking.aim_at(fallback, context.exchange(), request);
                    let most = fallback.upstream.max_endpoints(&asking.endpoints);
                    asking.attempts.select(most, 0, FilterChoice::NoneOrSame);
                    return Ok(Next::OtherEndpoint);
                }
                Err(error) if is_first => return Err(error),
                Err(_) => {}
            }
        }
        // What an endpoint has said tells more.
        if is_first {
            let upstream = &asking.target.upstream;
            let error = match why {
                Unadmitted::NoEndpoint => upstream.no_endpoint(),
                Unadmitted::Busy(_) | Unadmitted::CircuitOpen(_) => AttemptError::new(why.kind()),
            };
            let attempt = context.attempts.begin(upstream.name(), None);
            attempt.outcome = AttemptOutcome::Failed(error.kind);
            asking.fail(error);
        }
        // It has waited for as long as it may.
        if let Unadmitted::Busy(Busy::TimedOut(_)) = why {
            return Ok(Next::GiveUp);
        }
        Ok(asking.attempts.without_endpoint())
    }

    /// One attempt at the endpoint that was chosen. An error is what follows, and after which wait.
    async fn attempt(
        &self,
        context: &mut RequestContext,
        request: &mut OutgoingRequest<'_>,
        asking: &mut Asking<'_>,
    ) -> Result<UpstreamResponse, (Next, Duration)> {
        if let Some(answer) = asking.held.take() {
            answer.discard();
        }
        let (target, endpoint) = (asking.target, asking.endpoint);
        let name = target.upstream.endpoint_name(&asking.endpoints, endpoint);
        let attempt = context.attempts.begin(target.upstream.name(), Some(name));
        let mut response = match target.upstream.attempt(&asking.endpoints, endpoint, request, attempt).await {
            Ok(response) => response,
            Err(failed) => return Err(self.after_failure(context, request, asking, failed)),
        };
        let exchange = context.traversal.exchange();
        let is_https = exchange.request.scheme == Scheme::HTTPS;
        let choice = asking.choice(&exchange.selection);
        if let Some(cookie) = target.upstream.session_cookie(&asking.endpoints, endpoint, choice, is_https) {
            response.head.headers.append(SET_COOKIE, cookie);
        }
        let first_byte = attempt.first_byte.unwrap_or_default();
        self.local.metrics.upstream(target.metrics, response.head.status.as_u16(), first_byte);
        match &self.route.retry {
            None => Ok(response),
            Some(policy) => self.after_answer(context, request, asking, policy, response),
        }
    }

    /// Passes an answer on, or keeps it while it is to be replaced by that of another attempt.
    fn after_answer(
        &self,
        context: &mut RequestContext,
        request: &OutgoingRequest<'_>,
        asking: &mut Asking<'_>,
        policy: &RetryPolicy,
        response: UpstreamResponse,
    ) -> Result<UpstreamResponse, (Next, Duration)> {
        let Some(wish) = wish(policy, &response, context.grpc) else { return Ok(response) };
        let Some(condition) = wish.condition else { return Ok(response) };
        let is_last = context.exchange().selection.no_retry;
        let decision = asking.attempts.after(EndedAttempt::answered(condition, request.repeatability()), is_last);
        let (next, wait) = self.agree(decision, &wish, asking.target, request, asking.attempts.made());
        if next == Next::GiveUp {
            return Ok(response);
        }
        log_answer(context, asking.endpoints.address(asking.endpoint).cloned(), &response);
        asking.held = Some(Box::new(response));
        Err((next, wait))
    }

    /// What follows an attempt that brought no answer.
    fn after_failure(
        &self,
        context: &mut RequestContext,
        request: &OutgoingRequest<'_>,
        asking: &mut Asking<'_>,
        failed: AttemptError,
    ) -> (Next, Duration) {
        asking.fail(failed);
        let (target, error) = (asking.target, &asking.error);
        let is_last = context.exchange().selection.no_retry;
        let decision = match request.is_late() || error.is_without_connection() {
            true => Decision::GIVE_UP,
            false => asking.attempts.after(error.ended(request.repeatability()), is_last),
        };
        let is_stale = decision.next == Next::SameEndpoint && error.kind != UpstreamErrorKind::Refused;
        let address = asking.endpoints.address(asking.endpoint).cloned();
        self.log_failure(context, target.metrics, (address, error), is_stale);
        let wish = Wish { condition: error.condition().filter(|_| !is_stale), pushback: Pushback::Nothing };
        self.agree(decision, &wish, target, request, asking.attempts.made())
    }

    /// The answer that was held, or the last error.
    fn give_up(&self, context: &RequestContext, asking: Asking<'_>) -> Result<UpstreamResponse, ProxyError> {
        let Asking { error, failed_at, held, .. } = asking;
        if let Some(answer) = held {
            return Ok(*answer);
        }
        let last = context.attempts.last();
        let endpoint = last.and_then(|last| last.endpoint.as_ref());
        let error = upstream_error(&error.of(failed_at.upstream.name(), endpoint));
        self.local.metrics.upstream_failed(failed_at.metrics, error.kind.name());
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
        (address, error): (Option<Address>, &AttemptError),
        is_stale: bool,
    ) {
        let RequestContext { attempts, traversal, .. } = context;
        let Some(attempt) = attempts.last_mut() else { return };
        let endpoint = attempt.endpoint.as_deref().unwrap_or_default();
        attempt.failure = Some(Box::new(AttemptFailure { address, reason: error.reason(), answer: None }));
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

/// Whether the policy wants another answer than this one.
fn wish(policy: &RetryPolicy, response: &UpstreamResponse, is_grpc: bool) -> Option<Wish> {
    let head = &response.head;
    let grpc_status = if is_grpc { grpc::status(&head.headers) } else { None };
    let condition = condition_of(policy, head.status, grpc_status)?;
    let pushback = pushback(&head.headers, is_grpc, SystemTime::now());
    Some(Wish { condition: Some(condition), pushback })
}

/// Writes an answer that is not passed on where others read it: the log and `route.failures`.
fn log_answer(context: &mut RequestContext, address: Option<Address>, response: &UpstreamResponse) {
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
    attempt.failure = Some(Box::new(AttemptFailure { address, reason, answer: Some(Answer::of(&response.head)) }));
}
