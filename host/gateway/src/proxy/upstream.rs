//! What a route does once its pipeline has let a request pass: redirect, answer, or ask an upstream. The request that goes there is made
//! in `outgoing`, and the retry loop is in `retry`.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::header::{LOCATION, SET_COOKIE, UPGRADE};
use http::{HeaderMap, StatusCode};
use http_body::Body as _;
use sluice_cache::validate::make_conditional;

use super::RouteHandler;
use super::admission::note_outcome;
use super::body::{MessageBody, coded};
use super::context::{AcceptedUpgrade, RequestContext, Responder};
use super::deadline::{ClientDeadline, bounded};
use super::error::{Kind, ProxyError};
use super::fault::slowed;
use super::outgoing::RequestHeaders;
use crate::exchange::{ResponseHead, ResponseSource};
use crate::http::body::Body;
use crate::http::compression::restore_tags;
use crate::http::headers::{HeaderClasses, strip_hop_by_hop_of_response};
use crate::snapshot::routes::Action;
use crate::upstream::websocket;
use crate::upstream::{OutgoingRequest, UpstreamError, UpstreamErrorKind, UpstreamResponse};

impl RouteHandler<'_> {
    /// Makes a response, in `exchange.response`.
    pub(super) async fn respond(&self, context: &mut RequestContext) -> Result<(), ProxyError> {
        let split = match &self.route.action {
            Action::Forward(split) => split,
            Action::Redirect { .. } | Action::Respond { .. } => return self.respond_itself(context),
        };
        // Only filters have waited so far, for a body or for an answer of their own.
        let waited = context.timings.request_filters.unwrap_or_default();
        if let Some(whole) = self.route.timeouts.to_head().filter(|whole| *whole <= waited) {
            let message = format!("the request was not in after {whole:?}");
            return Err(ProxyError::new(Kind::ClientTimeout, message));
        }
        let deadline = self.client_deadline(context);
        if let Some(fault) = &self.route.fault
            && Box::pin(self.inject(context, fault, deadline)).await?
        {
            return Ok(());
        }
        deadline.map_or(Ok(()), ClientDeadline::check)?;
        if self.route.decompress_requests && context.request_body.is_coded() {
            Box::pin(self.decompress_request(context)).await?;
        }
        if self.route.compression.is_some() {
            restore_tags(&mut context.exchange().request.headers);
        }
        context.weighted = self.weighted(context, split);
        if let Some(cache) = &self.route.cache {
            return Box::pin(self.through_cache(context, deadline, cache)).await;
        }
        let response = pin!(self.fetch(context, &deadline, None)).await?;
        if context.invalidates {
            self.invalidate(context, &response);
        }
        self.accept(context, response)
    }

    /// The response of a route that asks no upstream.
    fn respond_itself(&self, context: &mut RequestContext) -> Result<(), ProxyError> {
        let exchange = context.traversal.exchange();
        let head = match &self.route.action {
            // Its response is asked for, and not made.
            Action::Forward(_) => return Ok(()),
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

    /// The upstreams of the route, by index in the snapshot.
    fn targets(&self) -> &[usize] {
        match &self.route.action {
            Action::Forward(split) => &split.targets,
            Action::Redirect { .. } | Action::Respond { .. } => &[],
        }
    }

    /// Asks the upstream that was chosen, or another one of these if a filter says so. With `validated`, the head of a stored response, the
    /// request asks whether that is still good.
    #[expect(clippy::manual_async_fn, reason = "an `async fn` keeps two copies of what it is handed")]
    pub(super) fn fetch<'f>(
        &'f self,
        context: &'f mut RequestContext,
        deadline: &'f Option<ClientDeadline>,
        validated: Option<&'f HeaderMap>,
    ) -> impl Future<Output = Result<UpstreamResponse, ProxyError>> + 'f {
        async move {
            // Boxed, as below: only some routes have limits, and each request would carry the room for it.
            if self.route.limits.is_some() {
                Box::pin(self.admit_to_route(context, self.until(context.start, *deadline).0)).await?;
            }
            let is_grpc = context.grpc;
            let (mut request, headers) = self.request(context)?;
            if let Some(stored) = validated {
                make_conditional(request.headers_mut(), stored);
            }
            self.mirror(context, &mut request);
            let mut request = OutgoingRequest::new(request, self.timeouts(context.start), &self.worker.budget);
            request.on_behalf_of(context.proxied.take());
            if let Some(extras) = self.extras(context.start, *deadline, is_grpc) {
                request = request.with(extras);
            }
            let mut outcome = pin!(self.ask_upstream(context, self.targets(), &mut request)).await;
            note_outcome(context, outcome.as_mut().ok(), &request);
            if headers == RequestHeaders::Lent {
                context.exchange().request.headers = std::mem::take(request.into_request().headers_mut());
            }
            let mut response = outcome.map_err(|error| self.outlived(context, error))?;
            if let Some(until) = deadline.and_then(|deadline| deadline.call_until) {
                response.body = bounded(response.body, until);
            }
            Ok(response)
        }
    }

    /// An upstream that did not answer in time, where that is the longest life of the exchange.
    fn outlived(&self, context: &RequestContext, error: ProxyError) -> ProxyError {
        let waited = matches!(error.kind, Kind::UpstreamTimeout | Kind::ConnectTimeout);
        match self.route.timeouts.max_stream_duration {
            Some(limit) if waited && context.start.elapsed() >= limit => ProxyError::outlived(limit),
            Some(_) | None => error,
        }
    }

    /// Takes an upstream's response into the exchange.
    pub(super) fn accept(&self, context: &mut RequestContext, response: UpstreamResponse) -> Result<(), ProxyError> {
        let UpstreamResponse { mut head, body, upgraded } = response;
        let extended_connect = context.extended_connect;
        // RFC 9110 §15.2.2: a server must not switch unasked.
        match upgraded.filter(|_| context.upgrade_request.is_some()) {
            Some(upstream) => {
                let request = &context.exchange().request.headers;
                // The key is the gateway's own. A client of HTTP/1.1 checks the answer to its key itself.
                if extended_connect && !websocket::is_accepted(request, &head.headers) {
                    let message = "101 without the `Sec-WebSocket-Accept` for the key of the request";
                    return Err(ProxyError::new(Kind::UpstreamProtocol, message));
                }
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
            strip_hop_by_hop_of_response(head.status, &mut head.headers);
        }
        let mut body = timed(body, self.route.timeouts.idle, context.progress.as_ref());
        if let Some(limit) = self.route.timeouts.max_stream_duration.filter(|_| !body.is_end_stream()) {
            body = body.outlived_after(limit, limit.saturating_sub(context.start.elapsed()));
        }
        if let Some(rate) = context.faults.as_ref().and_then(|faults| faults.bytes_per_second) {
            body = slowed(body, rate);
        }
        if let Some(cookie) = context.sticky_cookie.take() {
            head.headers.append(SET_COOKIE, *cookie);
        }
        context.response_body = MessageBody::new(body, coded(&head.headers, classes));
        context.responder = Responder::Upstream;
        context.exchange().response = Some(head);
        Ok(())
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

pub(super) fn upstream_error(error: &UpstreamError) -> ProxyError {
    let kind = match error.kind {
        UpstreamErrorKind::NoEndpoint => Kind::NoEndpoint,
        UpstreamErrorKind::Busy => Kind::UpstreamBusy,
        UpstreamErrorKind::CircuitOpen => Kind::CircuitOpen,
        UpstreamErrorKind::Dns | UpstreamErrorKind::Connect | UpstreamErrorKind::Tls => Kind::ConnectFailed,
        UpstreamErrorKind::ConnectTimeout => Kind::ConnectTimeout,
        UpstreamErrorKind::FirstByteTimeout => Kind::UpstreamTimeout,
        UpstreamErrorKind::DeadlineExceeded => Kind::DeadlineExceeded,
        UpstreamErrorKind::Reset | UpstreamErrorKind::Refused => Kind::UpstreamReset,
        UpstreamErrorKind::Protocol => Kind::UpstreamProtocol,
        UpstreamErrorKind::Files => Kind::FilesUnreadable,
        UpstreamErrorKind::RequestBody(body) => super::error::request_body_kind(body),
    };
    ProxyError::new(kind, crate::chain(error))
}
