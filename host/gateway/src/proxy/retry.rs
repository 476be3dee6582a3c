//! The retry loop of a request: [`RouteHandler::ask_upstream`]. What it decides is in `upstream::retry`.

use std::net::SocketAddr;
use std::sync::Arc;

use super::RouteHandler;
use super::context::RequestContext;
use super::error::ProxyError;
use super::upstream::upstream_error;
use crate::exchange::{Failure, Selection};
use crate::filter::Hook;
use crate::snapshot::UpstreamHandle;
use crate::telemetry::UpstreamId;
use crate::upstream::retry::{Budget, FilterChoice, Next};
use crate::upstream::{
    AttemptError, AttemptFailure, AttemptOutcome, Choice, OutgoingRequest, Unadmitted, UpstreamErrorKind,
    UpstreamResponse,
};

impl RouteHandler<'_> {
    /// The retry loop: attempts until an upstream has answered or the budget allows no other attempt. Each attempt goes to the log of
    /// the request.
    pub(super) async fn ask_upstream(
        &self,
        context: &mut RequestContext,
        targets: &[(usize, u32)],
        request: &mut OutgoingRequest<'_>,
    ) -> Result<UpstreamResponse, ProxyError> {
        let mut budget = Budget::default();
        let weighted = &self.local.upstreams[self.local.pick(targets)];
        let mut target = weighted;
        let mut endpoints = target.upstream.endpoints();
        let mut endpoint = 0;
        let mut error = AttemptError::new(UpstreamErrorKind::NoEndpoint);
        let mut next = Next::Selection;
        while next != Next::GiveUp {
            if next == Next::Selection {
                let choice = self.select_upstream(context, targets).await?;
                let exchange = context.exchange();
                target = self.selected(&exchange.selection, targets).unwrap_or(weighted);
                target = self.admit_to_upstream(context, target).await?;
                let exchange = context.exchange();
                endpoints = target.upstream.endpoints();
                budget.select(target.upstream.max_endpoints(&endpoints), exchange.candidates.len(), choice);
            }
            if next != Next::SameEndpoint {
                let choice = choice(&context.exchange().selection);
                let admitted = target.upstream.admit(&endpoints, choice, budget.tried(), request.until()).await;
                let (chosen, permit) = match admitted {
                    Ok(admitted) => admitted,
                    Err(Unadmitted::CircuitOpen(open)) if budget.tried().is_empty() => {
                        target = self.fall_back(context, target, open).await?;
                        endpoints = target.upstream.endpoints();
                        budget.select(target.upstream.max_endpoints(&endpoints), 0, FilterChoice::NoneOrSame);
                        continue;
                    }
                    Err(why) => {
                        if budget.tried().is_empty() {
                            error = AttemptError::new(why.kind());
                            let attempt = context.attempts.begin(target.upstream.name(), None);
                            attempt.outcome = AttemptOutcome::Failed(error.kind);
                        }
                        next = budget.without_endpoint();
                        continue;
                    }
                };
                request.admitted(permit);
                budget.spend(chosen);
                endpoint = chosen;
            }
            let name = target.upstream.endpoint_name(&endpoints, endpoint);
            let attempt = context.attempts.begin(target.upstream.name(), Some(name));
            match target.upstream.attempt(&endpoints, endpoint, request, attempt).await {
                Ok(response) => {
                    let first_byte = attempt.first_byte.unwrap_or_default();
                    self.local.metrics.upstream(target.metrics, response.head.status.as_u16(), first_byte);
                    return Ok(response);
                }
                Err(failed) => error = failed,
            }
            next = match request.is_late() {
                true => Next::GiveUp,
                false => budget.after(error.failed(request.is_repeatable())),
            };
            self.log_failure(context, target.metrics, (endpoints.address(endpoint), &error), next);
            if next != Next::SameEndpoint {
                request.forget_endpoint();
            }
        }
        let last = context.attempts.last();
        let error = upstream_error(&error.of(target.upstream.name(), last.and_then(|last| last.endpoint.as_ref())));
        self.local.metrics.upstream_failed(target.metrics, error.kind.name());
        Err(error)
    }

    /// Lets the filters choose an upstream.
    async fn select_upstream(
        &self,
        context: &mut RequestContext,
        targets: &[(usize, u32)],
    ) -> Result<FilterChoice, ProxyError> {
        if !self.pipeline.pipeline().has(Hook::SelectUpstream) {
            return Ok(FilterChoice::NoneOrSame);
        }
        let exchange = context.traversal.exchange();
        let before = std::mem::take(&mut exchange.selection);
        exchange.candidates =
            targets.iter().flat_map(|(index, _)| self.local.upstreams[*index].upstream.candidates()).collect();
        let selected = self.pipeline.select_upstream(&mut context.traversal).await;
        selected.map_err(|failure| ProxyError::filter(&failure))?;
        let selection = &context.exchange().selection;
        let is_new = !selection.is_empty() && *selection != before;
        Ok(if is_new { FilterChoice::New } else { FilterChoice::NoneOrSame })
    }

    /// The upstream that a filter has named, if the route lists it.
    fn selected(&self, selection: &Selection, targets: &[(usize, u32)]) -> Option<&UpstreamHandle> {
        let name = selection.upstream.as_deref()?;
        let mut listed = targets.iter().map(|(index, _)| &self.local.upstreams[*index]);
        listed.find(|target| **target.upstream.upstream().name() == *name)
    }

    /// Writes a failed attempt where others read it: the log, the metrics, and `route.failures`, which does not show an idle
    /// connection that was found closed.
    fn log_failure(
        &self,
        context: &mut RequestContext,
        upstream: UpstreamId,
        (address, error): (Option<SocketAddr>, &AttemptError),
        next: Next,
    ) {
        let RequestContext { attempts, traversal, .. } = context;
        let Some(attempt) = attempts.last_mut() else { return };
        let endpoint = attempt.endpoint.as_deref().unwrap_or_default();
        attempt.failure = Some(Box::new(AttemptFailure { address, reason: error.reason() }));
        if next == Next::SameEndpoint && error.kind != UpstreamErrorKind::Refused {
            attempt.outcome = AttemptOutcome::Stale;
        } else {
            let (upstream, address) = (Arc::from(&*attempt.upstream), Arc::from(endpoint));
            traversal.exchange().failures.push(Failure { upstream, address, reason: error.reason() });
        }
        self.local.metrics.attempt_failed(upstream, endpoint, attempt.outcome.name());
    }
}

fn choice(selection: &Selection) -> Choice<'_> {
    match (&selection.endpoints, &selection.hash_key) {
        (Some(addresses), _) => Choice::Addresses(addresses),
        (None, Some(key)) => Choice::Key(key),
        (None, None) => Choice::Balanced,
    }
}
