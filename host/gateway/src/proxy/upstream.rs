//! What a route does once its pipeline has let a request pass: redirect, answer, or ask an upstream. The one retry loop is
//! [`RouteHandler::ask_upstream`]; what it decides is in `upstream::retry`.

use std::cell::Cell;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, HOST, LOCATION, SET_COOKIE, UPGRADE};
use http::uri::Scheme;
use http::{HeaderValue, Request, StatusCode, Uri, Version};
use http_body::Body as _;

use super::body::{MessageBody, coded};
use super::context::{AcceptedUpgrade, RequestContext, Responder};
use super::error::{Kind, ProxyError};
use super::{RouteHandler, affinity};
use crate::exchange::{Candidates, Failure, ResponseHead, ResponseSource, RetryState, Selection};
use crate::filter::Hook;
use crate::http::body::Body;
use crate::http::cdn_loop;
use crate::http::coding;
use crate::http::headers::{HeaderClasses, strip_hop_by_hop, strip_shadowed};
use crate::snapshot::UpstreamHandle;
use crate::snapshot::routes::{Action, HostPolicy, host_value};
use crate::telemetry::UpstreamId;
use crate::upstream::retry::{Budget, FilterChoice, Next};
use crate::upstream::{
    Affinity, AttemptError, AttemptFailure, AttemptOutcome, Choice, OutgoingRequest, Timeouts, UpstreamError,
    UpstreamErrorKind, UpstreamResponse,
};

/// As good as no deadline.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Where the headers of the exchange's request are while the upstream has the request. Copying them costs as much as a call of a
/// filter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RequestHeaders {
    /// The upstream has a copy: a hook reads them meanwhile, or reads them as they were.
    Copied,
    /// The upstream has them, and a hook reads them afterwards.
    Lent,
    /// The upstream has them, and nobody reads them afterwards.
    Moved,
}

impl RouteHandler<'_> {
    /// Makes a response, in `exchange.response`.
    pub(super) async fn respond(&self, context: &mut RequestContext) -> Result<(), ProxyError> {
        let exchange = context.traversal.exchange();
        let head = match &self.route.action {
            Action::Forward(targets) => return self.forward(context, targets).await,
            Action::Respond { status, headers, body } => {
                let mut head = ResponseHead::new(ResponseSource::Gateway, *status);
                head.headers = headers.clone();
                head.body = Some(body.clone());
                head
            }
            Action::Redirect { status, to } => {
                let request = &exchange.request;
                let location = to
                    .location(&request.scheme, &request.authority, &request.target, &exchange.params)
                    .map_err(|error| ProxyError::new(Kind::BadRequest, format!("redirect: {error}")))?;
                let mut head = ResponseHead::new(ResponseSource::Gateway, *status);
                head.headers.insert(LOCATION, location);
                head
            }
        };
        context.responder = Responder::Gateway;
        context.response_body = MessageBody::new(Body::Empty, Some(&head.headers));
        exchange.response = Some(Box::new(head));
        Ok(())
    }

    /// Sends the request to an upstream and takes its response into the exchange.
    async fn forward(&self, context: &mut RequestContext, targets: &[(usize, u32)]) -> Result<(), ProxyError> {
        // Only filters have waited so far, for a body or for an answer of their own.
        let waited = context.timings.request_filters.unwrap_or_default();
        if let Some(whole) = self.route.timeouts.request.filter(|whole| *whole <= waited) {
            let message = format!("the request was not in after {whole:?}");
            return Err(ProxyError::new(Kind::ClientTimeout, message));
        }
        let (request, headers) = self.request(context)?;
        let mut request = OutgoingRequest::new(request, self.timeouts(context.start), &self.worker.budget);
        request.on_behalf_of(context.proxied.take());
        let outcome = pin!(self.ask_upstream(context, targets, &mut request)).await;
        if headers == RequestHeaders::Lent {
            context.exchange().request.headers = std::mem::take(request.into_request().headers_mut());
        }
        self.accept(context, outcome?)
    }

    /// The retry loop: attempts until an upstream has answered or the budget allows no other attempt. Each attempt goes to the log of
    /// the request.
    async fn ask_upstream(
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
        let mut affinity = Affinity::default();
        let mut error = AttemptError::new(UpstreamErrorKind::NoEndpoint);
        let mut next = Next::Selection;
        while next != Next::GiveUp {
            if next == Next::Selection {
                let choice = self.select_upstream(context, targets).await?;
                let exchange = context.exchange();
                target = self.selected(&exchange.selection, targets).unwrap_or(weighted);
                endpoints = target.upstream.endpoints();
                affinity = affinity::of(&target.upstream, &endpoints, exchange, request.headers());
                let route = context.route.as_ref().map_or(0, |route| route.index);
                budget.select(
                    target.upstream.max_endpoints(&endpoints),
                    self.local.candidates(route, targets).count(),
                    choice,
                );
            }
            if next != Next::SameEndpoint {
                let choice = choice(&context.exchange().selection, affinity);
                let subset = self.route.subset.as_ref();
                let Some(chosen) = target.upstream.choose(&endpoints, choice, subset, budget.tried()) else {
                    if budget.tried().is_empty() {
                        error = AttemptError::new(UpstreamErrorKind::NoEndpoint);
                        let attempt = context.attempts.begin(target.upstream.name(), None);
                        attempt.outcome = AttemptOutcome::Failed(error.kind);
                    }
                    next = budget.without_endpoint();
                    continue;
                };
                budget.spend(chosen);
                endpoint = chosen;
            }
            let name = target.upstream.endpoint_name(&endpoints, endpoint);
            let attempt = context.attempts.begin(target.upstream.name(), Some(name));
            match target.upstream.attempt(&endpoints, endpoint, request, attempt).await {
                Ok(mut response) => {
                    let exchange = context.traversal.exchange();
                    let is_https = exchange.request.scheme == Scheme::HTTPS;
                    let choice = choice(&exchange.selection, affinity);
                    let cookie = target.upstream.session_cookie(&endpoints, endpoint, choice, is_https);
                    if let Some(cookie) = cookie {
                        response.head.headers.append(SET_COOKIE, cookie);
                    }
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
        let source = self.local.candidates(context.route.as_ref().map_or(0, |route| route.index), targets);
        exchange.candidates = Candidates::of(source.clone());
        exchange.retry = RetryState { attempt: 1 + context.attempts.count() as u32, left: 0, budget: None };
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

    fn timeouts(&self, start: Instant) -> Timeouts {
        let limits = &self.route.timeouts;
        Timeouts {
            connect: limits.connect,
            first_byte: limits.first_byte.unwrap_or(FOREVER),
            until: limits.request.and_then(|whole| start.checked_add(whole)),
        }
    }

    /// The request as the upstream gets it, and where the exchange's headers are meanwhile.
    fn request(&self, context: &mut RequestContext) -> Result<(Box<Request<Body>>, RequestHeaders), ProxyError> {
        let route = self.route;
        let protocol = context.upgrade_request.as_ref().map(|upgrade| &upgrade.protocol);
        let exchange = context.traversal.exchange();
        let target = match &route.rewrite {
            None => exchange.request.target.clone(),
            Some(rewrite) => rewrite
                .apply(&exchange.request.target, &exchange.params)
                .map_err(|e| ProxyError::new(Kind::BadRequest, format!("rewrite: {e}")))?,
        };
        let body = if exchange.request_body_replaced {
            let body = exchange.request_body.clone().unwrap_or_default();
            context.request_body.release();
            // The length and coding of the old body describe other bytes.
            exchange.request.headers.remove(CONTENT_ENCODING);
            exchange.request.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
            Body::full(body)
        } else {
            context.request_body.take()
        };
        let mut request = Box::write(Box::new_uninit(), Request::new(body));
        *request.method_mut() = exchange.request.method.clone();
        *request.uri_mut() = Uri::from(target);
        *request.version_mut() = Version::HTTP_11;
        let pipeline = self.pipeline.pipeline();
        let has_one_of = |hooks: &[Hook]| hooks.iter().any(|hook| pipeline.has(*hook));
        // These see the headers while the upstream has them, or as they were before the changes below.
        let place = if protocol.is_some() || has_one_of(&[Hook::SelectUpstream, Hook::OnResponseBody, Hook::OnComplete])
        {
            RequestHeaders::Copied
        } else if has_one_of(&[Hook::OnResponse, Hook::OnResponseTrailers]) {
            RequestHeaders::Lent
        } else {
            RequestHeaders::Moved
        };
        let headers = request.headers_mut();
        match place {
            RequestHeaders::Copied => headers.clone_from(&exchange.request.headers),
            RequestHeaders::Lent | RequestHeaders::Moved => std::mem::swap(headers, &mut exchange.request.headers),
        }
        if let Some(of_client) = &context.underscored {
            // Once more: filters have set fields that a client's may look like.
            strip_shadowed(headers, of_client);
        }
        cdn_loop::pass_on(headers);
        if pipeline.has(Hook::OnResponseBody) {
            coding::keep_decodable(headers);
        }
        match &route.host {
            HostPolicy::Keep => {
                let authority = &exchange.request.authority;
                // It is nearly always what the client has written.
                if headers.get(HOST).is_none_or(|host| host != authority.as_str()) {
                    headers.insert(HOST, host_value(authority));
                }
            }
            HostPolicy::Fixed(host) => {
                headers.insert(HOST, host_value(host));
            }
            // The endpoint puts its own name where there is none.
            HostPolicy::Upstream => {
                headers.remove(HOST);
            }
        }
        if let Some(protocol) = protocol {
            headers.insert(UPGRADE, protocol.clone());
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        Ok((request, place))
    }

    /// Takes an upstream's response into the exchange.
    fn accept(&self, context: &mut RequestContext, response: UpstreamResponse) -> Result<(), ProxyError> {
        let UpstreamResponse { mut head, body, upgraded } = response;
        // RFC 9110 §15.2.2: a server must not switch unasked.
        match upgraded.filter(|_| context.upgrade_request.is_some()) {
            Some(upstream) => {
                let protocol = head.headers.remove(UPGRADE);
                context.accepted_upgrade = Some(Box::new(AcceptedUpgrade { protocol, upstream }));
            }
            None if head.status == StatusCode::SWITCHING_PROTOCOLS => {
                return Err(ProxyError::new(Kind::UpstreamProtocol, "101 without an upgrade"));
            }
            None => {}
        }
        let classes = HeaderClasses::of(&head.headers);
        if classes.has(HeaderClasses::HOP_BY_HOP) {
            strip_hop_by_hop(&mut head.headers);
        }
        let body = timed(body, self.route.timeouts.idle, context.progress.as_ref());
        context.response_body = MessageBody::new(body, coded(&head.headers, classes));
        context.responder = Responder::Upstream;
        context.exchange().response = Some(head);
        Ok(())
    }
}

fn choice(selection: &Selection, affinity: Affinity) -> Choice<'_> {
    match (&selection.endpoints, &selection.hash_key) {
        (Some(addresses), _) => Choice::Addresses(addresses),
        (None, Some(key)) => Choice::Key(key),
        (None, None) => Choice::Balanced(affinity),
    }
}

/// A body that waits at most `idle` for its next part.
pub(super) fn timed(body: Body, idle: Option<Duration>, progress: Option<&Rc<Cell<Instant>>>) -> Body {
    match (idle, progress) {
        // What is here already is not waited for.
        _ if matches!(body, Body::Full { .. }) => body,
        (Some(idle), Some(progress)) if !body.is_end_stream() => body.timed_together(idle, Rc::clone(progress)),
        (Some(idle), None) if !body.is_end_stream() => body.timed(idle),
        _ => body,
    }
}

fn upstream_error(error: &UpstreamError) -> ProxyError {
    let kind = match error.kind {
        UpstreamErrorKind::NoEndpoint => Kind::NoEndpoint,
        UpstreamErrorKind::Dns | UpstreamErrorKind::Connect | UpstreamErrorKind::Tls => Kind::ConnectFailed,
        UpstreamErrorKind::ConnectTimeout => Kind::ConnectTimeout,
        UpstreamErrorKind::FirstByteTimeout => Kind::UpstreamTimeout,
        UpstreamErrorKind::Reset | UpstreamErrorKind::Refused => Kind::UpstreamReset,
        UpstreamErrorKind::Protocol => Kind::UpstreamProtocol,
        UpstreamErrorKind::RequestBody(body) => super::error::request_body_kind(body),
    };
    ProxyError::new(kind, crate::chain(error))
}
