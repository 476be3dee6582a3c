//! Copies of requests for another upstream. A copy is sent by a task of its own, once the body has gone to the real upstream, and its
//! response is read and thrown away. Whatever happens to it, and if it is not sent at all, the request that it is a copy of is as it would
//! be without: only its bytes are kept, up to a bound and charged to the memory account.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::runtime::Handle;

use super::RouteHandler;
use super::context::RequestContext;
use crate::deadline;
use crate::http::body::{Body, BodyError, MemoryBudget};
use crate::http::buffer::CopiedBytes;
use crate::proxy_protocol::Proxied;
use crate::snapshot::routes::Mirror;
use crate::telemetry::{RouteId, UpstreamId, WorkerMetrics};
use crate::upstream::retry::{Attempts, FilterChoice, Next};
use crate::upstream::{
    Affinity, Attempt, Choice, Eligible, LocalUpstream, OutgoingRequest, Timeouts, Unadmitted, UpstreamErrorKind,
};

/// Says to an upstream that nobody reads its response, and which route has sent the copy.
const MARK: HeaderName = HeaderName::from_static("x-sluice-mirror");

/// Endpoints that a copy is tried at while connecting fails.
const MAX_ENDPOINTS: usize = 2;

/// What became of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// A response came.
    Response,
    Failed,
    Timeout,
    /// The upstream is at its limit, or its circuit is open.
    NotAdmitted,
    /// As many as may be were under way.
    MaxRequests,
    /// The body was too large.
    MaxBody,
    /// No memory was left for the body.
    OutOfMemory,
    /// The body did not come to its end.
    Incomplete,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Outcome::Response => "response",
            Outcome::Failed => "failed",
            Outcome::Timeout => "timeout",
            Outcome::NotAdmitted => "not-admitted",
            Outcome::MaxRequests => "max-requests",
            Outcome::MaxBody => "max-body",
            Outcome::OutOfMemory => "out-of-memory",
            Outcome::Incomplete => "incomplete",
        }
    }
}

impl RouteHandler<'_> {
    /// Has a copy made of a request that is about to be sent, if its route says so.
    pub(super) fn mirror(&self, context: &RequestContext, request: &mut Request<Body>) {
        let Some(mirror) = &self.route.mirror else { return };
        // A connection that changes its protocol is no request and a response.
        if context.upgrade_request.is_none() && self.local.happens_to(mirror.percent) {
            self.start_copy(mirror, request, context.proxied.clone());
        }
    }

    fn start_copy(&self, mirror: &Mirror, request: &mut Request<Body>, proxied: Option<Box<Proxied>>) {
        let route = (self.route.metrics, self.local.metrics.clone());
        let Some(place) = Place::take(mirror) else { return route.1.mirrored(route.0, Outcome::MaxRequests.name()) };
        if request.body().size_hint().lower() > mirror.max_body {
            return route.1.mirrored(route.0, Outcome::MaxBody.name());
        }
        let target = &self.local.upstreams[mirror.upstream];
        let mut head = Request::new(());
        *head.method_mut() = request.method().clone();
        *head.uri_mut() = request.uri().clone();
        *head.version_mut() = request.version();
        *head.headers_mut() = request.headers().clone();
        let name = HeaderValue::try_from(&*self.route.facts.name).unwrap_or(HeaderValue::from_static("1"));
        head.headers_mut().insert(MARK, name);
        // The body is sent at once.
        head.headers_mut().remove(EXPECT);
        let copy = Copy {
            head,
            upstream: (Rc::clone(&target.upstream), target.metrics),
            route,
            proxied,
            timeout: mirror.timeout,
            connect: self.route.timeouts.connect,
            budget: self.worker.budget.clone(),
            _place: place,
        };
        match request.body_mut() {
            Body::Empty => copy.start(Body::Empty),
            Body::Full { data, trailers } => {
                let (data, trailers) = (data.clone(), trailers.as_deref().cloned());
                copy.start(Body::with_trailers(data, trailers));
            }
            body => {
                let Ok(bytes) = CopiedBytes::new(&copy.budget) else { return copy.ended(Outcome::OutOfMemory) };
                let kept = Kept { copy, bytes, max: mirror.max_body, trailers: None };
                let inner = std::mem::take(body);
                *body = Body::stream(Tee { inner, kept: Some(Box::new(kept)) });
            }
        }
    }
}

/// One of the copies that may be under way.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(mirror: &Mirror) -> Option<Place> {
        let before = mirror.under_way.fetch_add(1, Relaxed);
        let place = Place(Arc::clone(&mirror.under_way));
        (before < mirror.max_requests).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A copy that is not sent yet, but for its body.
struct Copy {
    head: Request<()>,
    upstream: (Rc<LocalUpstream>, UpstreamId),
    route: (RouteId, WorkerMetrics),
    /// Whose request it is, where an upstream of the route is told by a PROXY header.
    proxied: Option<Box<Proxied>>,
    timeout: Duration,
    connect: Duration,
    budget: MemoryBudget,
    _place: Place,
}

impl Copy {
    /// Sends it with this body, in a task of its own.
    fn start(self, body: Body) {
        tokio::task::spawn_local(async move {
            let outcome = match deadline::timeout(self.timeout, self.exchange(body)).await {
                Ok(outcome) => outcome,
                Err(_) => Outcome::Timeout,
            };
            self.ended(outcome);
        });
    }

    fn ended(&self, outcome: Outcome) {
        let (route, metrics) = &self.route;
        metrics.mirrored(*route, outcome.name());
    }

    async fn exchange(&self, body: Body) -> Outcome {
        let (upstream, id) = &self.upstream;
        let (_, metrics) = &self.route;
        let (parts, ()) = self.head.clone().into_parts();
        let mut request = Box::new(Request::from_parts(parts, body));
        if let Some(length) = request.body().exact_size().filter(|length| *length > 0) {
            request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        let timeouts = Timeouts {
            connect: self.connect,
            first_byte: self.timeout,
            until: Instant::now().checked_add(self.timeout),
            whole: Some(self.timeout),
        };
        let Ok(_permit) = upstream.upstream().admit_copy() else { return Outcome::NotAdmitted };
        let mut request = OutgoingRequest::new(request, timeouts, &self.budget);
        request.on_behalf_of(self.proxied.clone());
        request.without_waiting();
        let endpoints = upstream.endpoints();
        let mut attempts = Attempts::new(None);
        attempts.select(MAX_ENDPOINTS.min(upstream.max_endpoints(&endpoints)), 0, FilterChoice::NoneOrSame);
        let mut endpoint = 0;
        let mut next = Next::OtherEndpoint;
        while matches!(next, Next::OtherEndpoint | Next::SameEndpoint) {
            if next == Next::OtherEndpoint {
                request.leave_endpoint();
                let choice = Choice::Balanced(Affinity::default());
                let eligible = Eligible { choice, subset: None, tried: attempts.tried() };
                let (chosen, permit) = match upstream.admit_now(&endpoints, eligible) {
                    Ok(admitted) => admitted,
                    Err(Unadmitted::NoEndpoint) => break,
                    Err(Unadmitted::Busy(_) | Unadmitted::CircuitOpen(_)) => return Outcome::NotAdmitted,
                };
                request.admitted(permit);
                attempts.spend(chosen);
                endpoint = chosen;
            }
            if !request.begin_attempt(attempts.made()) {
                break;
            }
            let mut attempt = Attempt::new(upstream.name().clone(), None);
            let error = match upstream.attempt(&endpoints, endpoint, &mut request, &mut attempt).await {
                Ok(mut response) => {
                    let first_byte = attempt.first_byte.unwrap_or_default();
                    metrics.upstream(*id, response.head.status.as_u16(), first_byte);
                    // To the end, so that the connection can be used again.
                    while let Some(Ok(_)) = response.body.frame().await {}
                    return Outcome::Response;
                }
                Err(error) => error,
            };
            if matches!(error.kind, UpstreamErrorKind::FirstByteTimeout | UpstreamErrorKind::ConnectTimeout) {
                return Outcome::Timeout;
            }
            next = attempts.after(error.ended(request.repeatability()), false).next;
        }
        Outcome::Failed
    }
}

/// A body that is kept while it passes.
struct Tee {
    inner: Body,
    /// Until its end, or until it can't be kept.
    kept: Option<Box<Kept>>,
}

/// What has passed of a body.
struct Kept {
    copy: Copy,
    bytes: CopiedBytes,
    max: u64,
    trailers: Option<HeaderMap>,
}

impl Kept {
    fn keep(&mut self, data: &[u8]) -> Result<(), Outcome> {
        if (self.bytes.len() as u64).saturating_add(data.len() as u64) > self.max {
            return Err(Outcome::MaxBody);
        }
        self.bytes.append(data).map_err(|_| Outcome::OutOfMemory)
    }

    fn finish(self) {
        let Kept { copy, bytes, trailers, .. } = self;
        copy.start(Body::with_trailers(bytes.freeze(), trailers));
    }
}

impl Tee {
    fn finish(&mut self) {
        if let Some(kept) = self.kept.take() {
            kept.finish();
        }
    }

    fn give_up(&mut self, outcome: Outcome) {
        if let Some(kept) = self.kept.take() {
            kept.copy.ended(outcome);
        }
    }
}

impl HttpBody for Tee {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        let kept = match (&frame, &mut self.kept) {
            (_, None) => return Poll::Ready(frame),
            (Some(Ok(frame)), Some(kept)) => match (frame.data_ref(), frame.trailers_ref()) {
                (Some(data), _) => kept.keep(data),
                (None, trailers) => {
                    kept.trailers = trailers.cloned();
                    Ok(())
                }
            },
            (Some(Err(_)), Some(_)) => Err(Outcome::Incomplete),
            (None, Some(_)) => Ok(()),
        };
        match kept {
            Err(outcome) => self.give_up(outcome),
            Ok(()) if frame.is_none() || self.inner.is_end_stream() => self.finish(),
            Ok(()) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        // A body of a known length is not read behind its last byte. At the end of a worker there is nothing to start a task on.
        match self.inner.exact_size() == Some(0) && Handle::try_current().is_ok() {
            true => self.finish(),
            false => self.give_up(Outcome::Incomplete),
        }
    }
}
