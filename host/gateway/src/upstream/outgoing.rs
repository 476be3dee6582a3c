//! A request on its way to an upstream, over all its attempts: its head, its body as far as it can be sent again, and its time.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::header::{EXPECT, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body::Body as _;

use super::error::{AttemptError, UpstreamErrorKind};
use super::head;
use super::limits::EndpointPermit;
use super::replay::Replay;
use super::retry::Repeatability;
use crate::config::model::DeadlinePolicy;
use crate::http::body::{Body, BodyError, BodyErrorKind, Watch};
use crate::http::buffer::MemoryBudget;
use crate::http::gate::Gate;
use crate::http::grpc;
use crate::http1::Progress;
use crate::proxy_protocol::Proxied;

/// An attempt that the deadline of its request has cut shorter than this says nothing of the endpoint.
const CUT_SHORT: Duration = Duration::from_millis(250);

/// Bounds for one attempt.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// For name, TCP, TLS and HTTP handshake together.
    pub connect: Duration,
    /// From the last byte of the request to the response head; up to twice as long where the request has a body.
    pub first_byte: Duration,
    /// When the response head has to be there, whatever was tried.
    pub until: Option<Instant>,
    /// What there was for it at first.
    pub whole: Option<Duration>,
}

impl Timeouts {
    /// What is left of a limit.
    pub(super) fn left(&self, limit: Duration) -> Duration {
        self.until.map_or(limit, |_| self.left_at(limit, Instant::now()))
    }

    pub(super) fn left_at(&self, limit: Duration, now: Instant) -> Duration {
        self.until.map_or(limit, |until| limit.min(until.saturating_duration_since(now)))
    }
}

/// A request that is sent once or more. Its head is here at all times; its body leaves with the first attempt that writes any of it.
pub struct OutgoingRequest<'a> {
    pub(super) request: Box<Request<Body>>,
    /// Of the attempt that is under way.
    pub(super) timeouts: Timeouts,
    /// What is kept of its body, to be sent again, is charged to it.
    pub(super) budget: &'a MemoryBudget,
    pub(super) upload: Option<Rc<Upload>>,
    pub(super) gate: Option<Rc<Gate>>,
    /// It names its host. Otherwise it gets the name of each endpoint in turn.
    is_named: bool,
    /// An idempotent method (RFC 9110 §9.2.2).
    idempotent: bool,
    /// What has gone of its body, where a policy may want it sent again.
    pub(super) replay: Option<Replay>,
    extras: Option<Box<Extras<'a>>>,
    /// Whose it is, where an upstream is told by a PROXY header.
    proxied: Option<Box<Proxied>>,
    /// For the endpoint that it goes to.
    pub(super) permit: Option<Rc<EndpointPermit>>,
    /// It is refused where others wait for a connection.
    is_hasty: bool,
}

/// What only some routes have of a request.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extras<'a> {
    /// When the response head has to be there, in all.
    pub until: Option<Instant>,
    /// The client has set this time, and not the route.
    pub is_clients: bool,
    pub per_try_timeout: Option<Duration>,
    /// The most that is kept of the body to be sent again.
    pub replay: usize,
    pub deadline: Option<&'a DeadlinePolicy>,
    pub is_grpc: bool,
    /// When a call of gRPC has to be over, its streams included.
    pub call_until: Option<Instant>,
    pub attempt_header: Option<&'a HeaderName>,
}

impl<'a> OutgoingRequest<'a> {
    /// The URI may be in any form; `Host` says what the upstream is to see (the endpoint's own name when absent). The request is boxed
    /// so that handing it on moves one pointer.
    pub fn new(mut request: Box<Request<Body>>, timeouts: Timeouts, budget: &'a MemoryBudget) -> Self {
        let is_named = request.headers().contains_key(HOST) || request.uri().authority().is_some();
        let (mut upload, mut gate) = (None, None);
        if !request.body().is_end_stream() {
            let watched = Rc::new(Upload::default());
            let mut body = std::mem::take(request.body_mut()).watched(Box::new(UploadWatch(watched.clone())));
            upload = Some(watched);
            if request.headers().contains_key(EXPECT) {
                let closed = Rc::new(Gate::default());
                body = body.held(closed.clone());
                gate = Some(closed);
            }
            *request.body_mut() = body;
        }
        let idempotent = request.method().is_idempotent();
        let (replay, extras, proxied, permit) = (None, None, None, None);
        OutgoingRequest {
            request,
            timeouts,
            budget,
            upload,
            gate,
            is_named,
            idempotent,
            replay,
            extras,
            proxied,
            permit,
            is_hasty: false,
        }
    }

    /// It does not wait for a connection where those of its upstream are limited.
    pub fn without_waiting(&mut self) {
        self.is_hasty = true;
    }

    /// How long it may wait, of this time.
    pub(super) fn patience(&self, limit: Duration) -> Duration {
        if self.is_hasty { Duration::ZERO } else { self.timeouts.left(limit) }
    }

    /// Says whose it is, for upstreams that are told by a PROXY header. Without it, it is the gateway's own.
    pub fn on_behalf_of(&mut self, proxied: Option<Box<Proxied>>) {
        self.proxied = proxied;
    }

    /// Whom a PROXY header names.
    pub(super) fn proxied(&self) -> Proxied {
        self.proxied.as_deref().copied().unwrap_or(Proxied::Own)
    }

    /// With what the route has beyond the usual.
    #[must_use]
    pub fn with(mut self, extras: Extras<'a>) -> Self {
        let announced = self.request.body().size_hint().lower();
        if self.upload.is_some() && announced <= extras.replay as u64 && extras.replay > 0 {
            self.keep_body(extras.replay);
        }
        self.extras = Some(Box::new(extras));
        self
    }

    /// It goes to another endpoint, with this permit.
    pub fn admitted(&mut self, permit: Option<Rc<EndpointPermit>>) {
        self.permit = permit;
    }

    /// How much of a limit an attempt must have had if the end of its time is to say something of the endpoint. Where a route leaves its
    /// requests, or its attempts, little time, that is little.
    pub(super) fn telling(&self, limit: Duration) -> Duration {
        let of_try = self.extras.as_ref().and_then(|extras| extras.per_try_timeout);
        let least = self.timeouts.whole.into_iter().chain(of_try).min();
        let telling = limit.min(CUT_SHORT);
        least.map_or(telling, |least| telling.min(least / 2))
    }

    /// When its response head has to be there, in all.
    pub fn until(&self) -> Option<Instant> {
        self.extras.as_ref().map_or(self.timeouts.until, |extras| extras.until)
    }

    /// What it allows, now.
    pub fn repeatability(&self) -> Repeatability {
        let has_body = self.upload.is_some();
        let whole = !has_body || self.replay.as_ref().is_some_and(Replay::is_whole);
        Repeatability { idempotent: self.idempotent, has_body, whole }
    }

    /// Makes it ready for an attempt, the `number`-th from 1 on: whole again, with its time and what it says of itself. False: more of its
    /// body has gone than is kept.
    #[must_use]
    pub fn begin_attempt(&mut self, number: u32) -> bool {
        let Some(extras) = self.extras.as_deref().copied() else { return true };
        if self.replay.is_some() && matches!(self.request.body(), Body::Empty) {
            let Some(body) = self.replay.take().and_then(Replay::take_back) else { return false };
            *self.request.body_mut() = body;
            self.keep_body(extras.replay);
        }
        let now = Instant::now();
        let of_try = extras.per_try_timeout.and_then(|limit| now.checked_add(limit));
        self.timeouts.until = match (extras.until, of_try) {
            (Some(whole), Some(of_try)) => Some(whole.min(of_try)),
            (whole, of_try) => whole.or(of_try),
        };
        self.stamp(&extras, number, now);
        true
    }

    /// Writes into the head what the upstream is told of this attempt.
    fn stamp(&mut self, extras: &Extras<'_>, number: u32, now: Instant) {
        let left = self.timeouts.until.map(|until| until.saturating_duration_since(now));
        let headers = self.request.headers_mut();
        if let Some(name) = extras.attempt_header {
            headers.insert(name, HeaderValue::from(number));
        }
        let Some(policy) = extras.deadline else { return };
        if let Some(name) = &policy.header {
            match left {
                Some(left) => {
                    headers.insert(name, HeaderValue::from(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)));
                }
                None => {
                    headers.remove(name);
                }
            }
        }
        if policy.grpc && extras.is_grpc {
            // Not what is left for the head: it would end the streams, too.
            match extras.call_until.map(|until| until.saturating_duration_since(now)) {
                Some(left) => {
                    headers.insert(grpc::TIMEOUT, grpc::timeout_value(left));
                }
                None => {
                    headers.remove(grpc::TIMEOUT);
                }
            }
        }
    }

    fn keep_body(&mut self, most: usize) {
        let (body, replay) = Replay::of(std::mem::take(self.request.body_mut()), most, self.budget);
        *self.request.body_mut() = body;
        self.replay = Some(replay);
    }

    /// Leaves an endpoint, before it goes to another one: takes back its name, and gives up the place there. What is still held of an
    /// answer needs none: it is to be thrown away.
    pub fn leave_endpoint(&mut self) {
        if let Some(permit) = self.permit.take() {
            permit.leave();
        }
        if !self.is_named {
            head::unnamed(&mut self.request);
        }
    }

    /// Its header fields, as they are sent.
    pub fn headers(&self) -> &HeaderMap {
        self.request.headers()
    }

    /// The request as the last attempt left it: with its body if nothing of it was written.
    pub fn into_request(self) -> Box<Request<Body>> {
        self.request
    }

    /// Whether the time is over that the whole request may take: what is tried then comes too late.
    pub fn is_late(&self) -> bool {
        self.is_late_after(Duration::ZERO)
    }

    /// Whether it will be over after this wait.
    pub fn is_late_after(&self, wait: Duration) -> bool {
        let until = self.extras.as_ref().map_or(self.timeouts.until, |extras| extras.until);
        until.is_some_and(|until| until.saturating_duration_since(Instant::now()) <= wait)
    }

    /// Whether the time is over that the client has given it.
    pub(super) fn is_late_for_client(&self) -> bool {
        self.extras.as_ref().is_some_and(|extras| extras.is_clients) && self.is_late()
    }

    /// The error of a request whose time was over before an attempt began.
    pub fn out_of_time(&self) -> AttemptError {
        let kind = match self.is_late_for_client() {
            true => UpstreamErrorKind::DeadlineExceeded,
            false => UpstreamErrorKind::FirstByteTimeout,
        };
        AttemptError::new(kind).blameless()
    }

    /// Moves the request out, for who does not give it back. Its head stays, for whoever still reads it or sends it again.
    pub(super) fn give_away(&mut self) -> Request<Body> {
        let mut head = Request::new(Body::Empty);
        *head.method_mut() = self.request.method().clone();
        *head.uri_mut() = self.request.uri().clone();
        *head.headers_mut() = self.request.headers().clone();
        std::mem::replace(&mut *self.request, head)
    }
}

/// What is known of a request body while it is sent.
#[derive(Default)]
pub(super) struct Upload {
    /// The last byte was handed over, or the body failed.
    pub(super) ended: Cell<bool>,
    pub(super) failed: Cell<Option<BodyErrorKind>>,
    pub(super) progress: Progress,
}

struct UploadWatch(Rc<Upload>);

impl Watch for UploadWatch {
    fn data(&mut self, _: usize) {}

    fn end(&mut self, outcome: Result<(), &BodyError>) {
        self.0.ended.set(true);
        self.0.failed.set(outcome.err().map(BodyError::kind));
    }
}

impl Drop for UploadWatch {
    fn drop(&mut self) {
        // A body of a known length is not read behind its last byte.
        self.0.ended.set(true);
    }
}
