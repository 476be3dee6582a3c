//! What a route does once its pipeline has let a request pass: redirect, answer, or ask an upstream.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::header::{CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, HOST, LOCATION, UPGRADE};
use http::{HeaderValue, Request, StatusCode, Uri, Version};
use http_body::Body as _;

use super::body::{Passing, coded};
use super::error::{Kind, ProxyError};
use super::record::Record;
use crate::exchange::{Exchange, Origin, ResponseHead, Selection};
use crate::filter::{Hook, LocalPipeline, Passage};
use crate::http::body::Body;
use crate::http::buffer::MemoryBudget;
use crate::http::coding;
use crate::http::headers::{Noted, strip_hop_by_hop};
use crate::http1::Transport;
use crate::snapshot::routes::{Action, HostPolicy, Route, host_value};
use crate::snapshot::{LocalSnapshot, Target};
use crate::telemetry::UpstreamId;
use crate::upstream::{Choice, Sent, Timeouts, UpstreamError, UpstreamErrorKind};

/// As good as no deadline.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Everything that answering takes, beside the exchange.
pub(super) struct Forward<'a> {
    pub(super) local: &'a LocalSnapshot,
    pub(super) route: &'a Route,
    pub(super) pipeline: &'a Rc<LocalPipeline>,
    pub(super) budget: &'a MemoryBudget,
    /// The protocol to switch to.
    pub(super) upgrade: Option<HeaderValue>,
    /// When a part of either body last came; only where the request has one.
    pub(super) progress: Option<Rc<Cell<Instant>>>,
    /// Whether the upstream has the head of the exchange's request and somebody reads it afterwards.
    pub(super) lent: bool,
}

/// A response whose head is in the exchange.
pub(super) struct Answered<'a> {
    pub(super) body: Passing<'a>,
    /// The upstream's side of a switch of protocols.
    pub(super) switch: Option<Box<Transport>>,
}

impl<'a> Forward<'a> {
    /// Makes a response, in `exchange.response`.
    pub(super) async fn answer(
        &mut self,
        exchange: Box<Exchange>,
        passage: &mut Passage,
        body: Passing<'a>,
        record: &mut Record,
    ) -> (Box<Exchange>, Result<Answered<'a>, ProxyError>) {
        let mut exchange = exchange;
        let head = match &self.route.action {
            Action::Forward(targets) => return self.forward(exchange, passage, body, targets, record).await,
            Action::Respond { status, headers, body } => {
                let mut head = ResponseHead::new(Origin::Gateway, *status);
                head.headers = headers.clone();
                head.body = Some(body.clone());
                head
            }
            Action::Redirect { status, to } => {
                let request = &exchange.request;
                match to.location(&request.scheme, &request.authority, &request.target, &exchange.params) {
                    Ok(location) => {
                        let mut head = ResponseHead::new(Origin::Gateway, *status);
                        head.headers.insert(LOCATION, location);
                        head
                    }
                    Err(error) => {
                        return (exchange, Err(ProxyError::new(Kind::BadRequest, format!("redirect: {error}"))));
                    }
                }
            }
        };
        record.answered = super::record::Answered::Gateway;
        let body = Passing::new(Body::Empty, Some(&head.headers), self.budget);
        exchange.response = Some(Box::new(head));
        (exchange, Ok(Answered { body, switch: None }))
    }

    /// Asks an upstream: once, and again while filters choose and connections fail.
    async fn forward(
        &mut self,
        exchange: Box<Exchange>,
        passage: &mut Passage,
        body: Passing<'a>,
        targets: &[(usize, u32)],
        record: &mut Record,
    ) -> (Box<Exchange>, Result<Answered<'a>, ProxyError>) {
        let mut exchange = exchange;
        // Only filters have waited so far, for a body or for an answer of their own.
        let waited = record.timings.request_filters.unwrap_or_default();
        if let Some(whole) = self.route.timeouts.request.filter(|whole| *whole <= waited) {
            let message = format!("the request was not in after {whole:?}");
            return (exchange, Err(ProxyError::new(Kind::ClientTimeout, message)));
        }
        let mut request = match self.request(&mut exchange, body) {
            Ok(request) => request,
            Err(error) => return (exchange, Err(error)),
        };
        let chosen_by_filter = self.pipeline.pipeline().has(Hook::SelectUpstream);
        let weighted = self.local.pick(targets);
        let mut attempts = 0;
        loop {
            let mut again = false;
            if chosen_by_filter {
                let before = std::mem::take(&mut exchange.selection);
                exchange.candidates =
                    targets.iter().flat_map(|(index, _)| self.local.upstreams[*index].upstream.candidates()).collect();
                let selected;
                (exchange, selected) = self.pipeline.select_upstream(exchange, passage).await;
                if let Err(failure) = selected {
                    return (exchange, Err(ProxyError::filter(&failure)));
                }
                // A filter that chooses anew is asked again when that fails; for the rest the balancer has tried all.
                again = !exchange.selection.is_empty() && exchange.selection != before;
            }
            let target = self.target(&exchange.selection, targets, weighted);
            record.upstream = Some(target.upstream.name().clone());
            let selection = exchange.selection.clone();
            let sent;
            (exchange, sent) = record
                .keeping(exchange, *passage, self.pipeline, pin!(self.send(request, &selection, target, record.start)))
                .await;
            match sent {
                Ok(mut sent) => {
                    self.take_back(&mut exchange, Some(&mut sent.request));
                    exchange.failures.extend(sent.failures.iter().cloned());
                    return self.accept(exchange, *sent, target.metrics, record);
                }
                Err(failed) => {
                    let mut failed = failed;
                    exchange.failures.append(&mut failed.failures);
                    attempts += 1;
                    match failed.request.take() {
                        Some(back) if again && attempts < exchange.candidates.len() => request = back,
                        back => {
                            self.take_back(&mut exchange, back.or(failed.spent.take()).as_mut());
                            record.endpoint = failed.endpoint.as_deref().map(Rc::from);
                            let error = upstream_error(&failed);
                            self.local.metrics.upstream_failed(target.metrics, error.kind.name());
                            return (exchange, Err(error));
                        }
                    }
                }
            }
        }
    }

    /// Gives the exchange the head of its request back.
    fn take_back(&self, exchange: &mut Exchange, request: Option<&mut Box<Request<Body>>>) {
        if let Some(request) = request.filter(|_| self.lent) {
            exchange.request.headers = std::mem::take(request.headers_mut());
        }
    }

    fn target(&self, selection: &Selection, targets: &[(usize, u32)], weighted: usize) -> &Target {
        let named = selection.upstream.as_deref().and_then(|name| {
            targets
                .iter()
                .map(|(index, _)| &self.local.upstreams[*index])
                .find(|t| **t.upstream.upstream().name() == *name)
        });
        named.unwrap_or(&self.local.upstreams[weighted])
    }

    async fn send(
        &self,
        request: Box<Request<Body>>,
        selection: &Selection,
        target: &Target,
        start: Instant,
    ) -> Result<Box<Sent>, UpstreamError> {
        let choice = match (&selection.endpoints, &selection.hash_key) {
            (Some(addresses), _) => Choice::Addresses(addresses),
            (None, Some(key)) => Choice::Key(key),
            (None, None) => Choice::Balanced,
        };
        let limits = &self.route.timeouts;
        let timeouts = Timeouts {
            connect: limits.connect,
            first_byte: limits.first_byte.unwrap_or(FOREVER),
            until: limits.request.and_then(|whole| start.checked_add(whole)),
        };
        target.upstream.send(request, choice, timeouts).await
    }

    /// The request as the upstream gets it. Its head is lent where nobody reads it meanwhile: copying one costs as much as a call of a
    /// filter.
    fn request(&mut self, exchange: &mut Exchange, body: Passing<'a>) -> Result<Box<Request<Body>>, ProxyError> {
        let route = self.route;
        let target = match &route.rewrite {
            None => exchange.request.target.clone(),
            Some(rewrite) => rewrite
                .apply(&exchange.request.target, &exchange.params)
                .map_err(|e| ProxyError::new(Kind::BadRequest, format!("rewrite: {e}")))?,
        };
        let body = if exchange.request_body_replaced {
            let body = exchange.request_body.clone().unwrap_or_default();
            // The length and coding of the old body describe other bytes.
            exchange.request.headers.remove(CONTENT_ENCODING);
            exchange.request.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
            Body::full(body)
        } else {
            body.into_body()
        };
        let mut request = Box::write(Box::new_uninit(), Request::new(body));
        *request.method_mut() = exchange.request.method.clone();
        *request.uri_mut() = Uri::from(target);
        *request.version_mut() = Version::HTTP_11;
        let pipeline = self.pipeline.pipeline();
        // These see the head while it is with the upstream, or as it was before the changes below.
        let stays = self.upgrade.is_some()
            || [Hook::SelectUpstream, Hook::OnResponseBody, Hook::OnComplete]
                .into_iter()
                .any(|hook| pipeline.has(hook));
        self.lent = !stays && [Hook::OnResponse, Hook::OnResponseTrailers].into_iter().any(|hook| pipeline.has(hook));
        let headers = request.headers_mut();
        if stays {
            headers.clone_from(&exchange.request.headers);
        } else {
            std::mem::swap(headers, &mut exchange.request.headers);
        }
        if self.pipeline.pipeline().has(Hook::OnResponseBody) {
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
        if let Some(protocol) = &self.upgrade {
            headers.insert(UPGRADE, protocol.clone());
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        Ok(request)
    }

    /// Takes the response head into the exchange.
    fn accept(
        &mut self,
        exchange: Box<Exchange>,
        sent: Sent,
        metrics: UpstreamId,
        record: &mut Record,
    ) -> (Box<Exchange>, Result<Answered<'a>, ProxyError>) {
        let mut exchange = exchange;
        let Sent { mut head, body, switched, endpoint, connect, first_byte, .. } = sent;
        record.endpoint = Some(endpoint);
        record.timings.connect = connect;
        record.timings.first_byte = Some(first_byte);
        self.local.metrics.upstream(metrics, head.status.as_u16(), first_byte);
        let switch = switched.filter(|_| self.upgrade.is_some());
        // RFC 9110 §15.2.2: a server must not switch unasked.
        if switch.is_none() && head.status == StatusCode::SWITCHING_PROTOCOLS {
            return (exchange, Err(ProxyError::new(Kind::UpstreamProtocol, "101 without an upgrade")));
        }
        let protocol = switch.is_some().then(|| head.headers.remove(UPGRADE)).flatten();
        let noted = Noted::of(&head.headers);
        if noted.has(Noted::HOP_BY_HOP) {
            strip_hop_by_hop(&mut head.headers);
        }
        self.upgrade = protocol;
        let body = timed(body, self.route.timeouts.idle, self.progress.as_ref());
        let body = Passing::new(body, coded(&head.headers, noted), self.budget);
        record.answered = super::record::Answered::Upstream;
        exchange.response = Some(head);
        (exchange, Ok(Answered { body, switch }))
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
        UpstreamErrorKind::Reset => Kind::UpstreamReset,
        UpstreamErrorKind::Protocol => Kind::UpstreamProtocol,
        UpstreamErrorKind::RequestBody(body) => super::error::request_body_kind(body),
    };
    ProxyError::new(kind, crate::chain(error))
}
