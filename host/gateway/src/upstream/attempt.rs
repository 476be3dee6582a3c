//! One attempt to get a response: a request on one connection of one endpoint, or a built-in upstream. Whether another attempt
//! follows is decided by whoever owns the [`OutgoingRequest`]; see `retry`.

use std::cell::Cell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{EXPECT, HOST, UPGRADE};
use http::{Request, Response};
use http_body::Body as _;
use hyper::client::conn::TrySendError;

use super::attempt_log::{Attempt, AttemptOutcome};
use super::builtin;
use super::circuit::Outcome;
use super::endpoints::{LocalEndpoints, Record};
use super::error::{AttemptError, UpstreamErrorKind};
use super::head;
use super::http2::{self, MalformedResponse, Replay};
use super::limits::EndpointPermit;
use super::local::LocalUpstream;
use super::pool::{Lease, Leased, Pool};
use super::retry::Delivery;
use super::spec::{Endpoint, TargetSpec};
use crate::deadline::{self, Passed};
use crate::exchange::{ResponseHead, ResponseSource};
use crate::http::body::{Body, BodyError, BodyErrorKind, Watch};
use crate::http::buffer::MemoryBudget;
use crate::http::gate::Gate;
use crate::http1::{NoReply, Progress, Reply, SendError, Transport};

/// How long an upstream may think about `Expect: 100-continue` before the body goes out anyway (RFC 9110 §10.1.1).
const EXPECT_WAIT: Duration = Duration::from_secs(1);

/// Bounds for one attempt.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// For name, TCP, TLS and HTTP handshake together.
    pub connect: Duration,
    /// From the last byte of the request to the response head; up to twice as long where the request has a body.
    pub first_byte: Duration,
    /// When the response head has to be there, whatever was tried.
    pub until: Option<Instant>,
}

impl Timeouts {
    /// What is left of a limit.
    fn left(&self, limit: Duration) -> Duration {
        self.until.map_or(limit, |_| self.left_at(limit, Instant::now()))
    }

    fn left_at(&self, limit: Duration, now: Instant) -> Duration {
        self.until.map_or(limit, |until| limit.min(until.saturating_duration_since(now)))
    }
}

/// A response whose head is in. The attempt's record has the times.
#[derive(Debug)]
pub struct UpstreamResponse {
    pub head: Box<ResponseHead>,
    pub body: Body,
    /// The upstream's side of the connection, when the status is 101.
    pub upgraded: Option<Box<Transport>>,
}

/// A request that is sent once or more. Its head is here at all times; its body leaves with the first attempt that writes any of it.
pub struct OutgoingRequest<'a> {
    request: Box<Request<Body>>,
    timeouts: Timeouts,
    /// What is kept of its body, to be sent again, is charged to it.
    budget: &'a MemoryBudget,
    upload: Option<Rc<Upload>>,
    gate: Option<Rc<Gate>>,
    /// It names its host. Otherwise it gets the name of each endpoint in turn.
    is_named: bool,
    /// An idempotent method (RFC 9110 §9.2.2) and no body: harmless to send twice.
    repeatable: bool,
    /// For the endpoint that it goes to.
    permit: Option<Rc<EndpointPermit>>,
}

impl<'a> OutgoingRequest<'a> {
    /// The URI may be in any form; `Host` says what the upstream is to see (the endpoint's own name when absent). The request is boxed
    /// so that handing it on moves one pointer.
    pub fn new(mut request: Box<Request<Body>>, timeouts: Timeouts, budget: &'a MemoryBudget) -> Self {
        let is_named = request.headers().contains_key(HOST) || request.uri().authority().is_some();
        let (mut upload, mut gate) = (None, None);
        let has_body = !request.body().is_end_stream();
        if has_body {
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
        let repeatable = !has_body && request.method().is_idempotent();
        OutgoingRequest { request, timeouts, budget, upload, gate, is_named, repeatable, permit: None }
    }

    /// It goes to another endpoint, with this permit.
    pub fn admitted(&mut self, permit: Option<Rc<EndpointPermit>>) {
        self.permit = permit;
    }

    /// When its response head has to be there.
    pub fn until(&self) -> Option<Instant> {
        self.timeouts.until
    }

    /// Whether sending it twice is harmless.
    pub fn is_repeatable(&self) -> bool {
        self.repeatable
    }

    /// Takes back the name of an endpoint that it has not reached, before it goes to another one.
    pub fn forget_endpoint(&mut self) {
        if !self.is_named {
            head::unnamed(&mut self.request);
        }
    }

    /// The request as the last attempt left it: with its body if nothing of it was written.
    pub fn into_request(self) -> Box<Request<Body>> {
        self.request
    }
}

/// What is known of a request body while it is sent.
#[derive(Default)]
struct Upload {
    /// The last byte was handed over, or the body failed.
    ended: Cell<bool>,
    failed: Cell<Option<BodyErrorKind>>,
    progress: Progress,
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

impl LocalUpstream {
    /// Sends a request to one host, on one connection, and waits for the response head. `attempt` gets the outcome and the times.
    pub async fn attempt(
        &self,
        endpoints: &LocalEndpoints,
        host: usize,
        request: &mut OutgoingRequest<'_>,
        attempt: &mut Attempt,
    ) -> Result<UpstreamResponse, AttemptError> {
        let outcome = match self.upstream().spec().target {
            TargetSpec::Endpoints(_) => self.attempt_host(endpoints, host, request, attempt).await,
            TargetSpec::Echo => {
                let sent = request.give_away();
                answered(Box::pin(builtin::echo(sent, self.upstream().name())), request, attempt).await
            }
            TargetSpec::Status => {
                let sent = request.give_away();
                answered(Box::pin(builtin::status(sent)), request, attempt).await
            }
        };
        if let (Some(permit), Some(breaker)) = (&request.permit, self.endpoint_breaker()) {
            let seen = outcome.as_ref().map(|response| &*response.head).map_err(|error| error.kind);
            permit.note(breaker, Outcome::of(breaker, seen));
        }
        attempt.outcome = match &outcome {
            Ok(_) => AttemptOutcome::Response,
            Err(error) => AttemptOutcome::Failed(error.kind),
        };
        outcome
    }

    /// The permit for the address that the connection leads to: another one of the endpoint maybe.
    fn permit_at(
        &self,
        request: &mut OutgoingRequest<'_>,
        record: &Arc<Record>,
    ) -> Result<Option<Rc<EndpointPermit>>, AttemptError> {
        if let Some(permit) = request.permit.take() {
            let permit = if permit.is_for(record) { Some(permit) } else { self.permit_for(record).map(Rc::new) };
            request.permit = Some(permit.ok_or_else(|| AttemptError::new(UpstreamErrorKind::Busy))?);
        }
        Ok(request.permit.clone())
    }

    /// An open connection, or a new one.
    async fn attempt_host(
        &self,
        endpoints: &LocalEndpoints,
        host: usize,
        request: &mut OutgoingRequest<'_>,
        attempt: &mut Attempt,
    ) -> Result<UpstreamResponse, AttemptError> {
        let http1_only = request.request.headers().contains_key(UPGRADE);
        let now = Instant::now();
        let (mut lease, begun) = match self.checkout(endpoints, host, now, http1_only) {
            Some(lease) => (lease, now),
            // Opening is rare and its future is large, so it is kept out of this one.
            None => {
                let whole = request.timeouts.connect;
                let limit = request.timeouts.left_at(whole, now);
                let lease = Box::pin(self.open(endpoints, host, (limit, whole), http1_only)).await?;
                (lease, Instant::now())
            }
        };
        lease.permit = self.permit_at(request, lease.pool.record())?;
        attempt.connect = lease.connect;
        let reused = lease.connect.is_none();
        let pool = Rc::clone(&lease.pool);
        let outcome = exchange(&pool, lease, request, begun).await;
        let took = begun.elapsed();
        observe(&pool, &outcome, took);
        match outcome {
            Ok(response) => {
                attempt.first_byte = Some(took);
                Ok(response)
            }
            Err(error) => Err(error.on_reused_connection(reused)),
        }
    }
}

/// Notes what an attempt tells of the address that it went to. An attempt that ends because its client has left tells nothing and does not
/// come here; one that got no connection was noted where the connection was tried.
fn observe(pool: &Pool, outcome: &Result<UpstreamResponse, AttemptError>, took: Duration) {
    if let Ok(response) = outcome {
        pool.record().succeeded();
        pool.record().note_latency(took);
        pool.responded(response.head.status.as_u16());
    }
}

impl OutgoingRequest<'_> {
    /// Whether the time is over that the whole request may take: what is tried then comes too late.
    pub fn is_late(&self) -> bool {
        self.timeouts.until.is_some_and(|until| until <= Instant::now())
    }

    /// Moves the request out, for who does not give it back. Its head stays, for whoever still reads it.
    fn give_away(&mut self) -> Request<Body> {
        let mut head = Request::new(Body::Empty);
        *head.headers_mut() = self.request.headers().clone();
        std::mem::replace(&mut *self.request, head)
    }
}

/// Waits for the answer of a built-in upstream.
async fn answered(
    answer: Pin<Box<impl Future<Output = Result<Response<Body>, BodyError>>>>,
    request: &OutgoingRequest<'_>,
    attempt: &mut Attempt,
) -> Result<UpstreamResponse, AttemptError> {
    let timeouts = &request.timeouts;
    let Ok(answer) = deadline::timeout(timeouts.left(timeouts.first_byte), answer).await else {
        return Err(AttemptError::new(UpstreamErrorKind::FirstByteTimeout).delivered(Delivery::Possible));
    };
    attempt.first_byte = Some(Duration::ZERO);
    match answer {
        Ok(response) => Ok(taken_apart(response, None)),
        Err(error) => {
            Err(AttemptError::because(UpstreamErrorKind::RequestBody(error.kind()), error)
                .delivered(Delivery::Possible))
        }
    }
}

/// One request on one connection.
async fn exchange(
    pool: &Pool,
    mut lease: Lease,
    outgoing: &mut OutgoingRequest<'_>,
    begun: Instant,
) -> Result<UpstreamResponse, AttemptError> {
    let timed_out = || AttemptError::new(UpstreamErrorKind::FirstByteTimeout).delivered(Delivery::Possible);
    let OutgoingRequest { request, timeouts, budget, upload, gate, .. } = outgoing;
    let (upload, gate) = (upload.as_deref(), gate.as_deref());
    match lease.connection.take() {
        Some(Leased::Http1(connection)) => {
            head::for_http1(request, pool.endpoint());
            let was_idle = lease.idle.is_some();
            let progress = upload.map(|upload| &upload.progress);
            let sent = pin!(connection.send(request, gate, progress, pool.endpoint().tolerance, lease));
            match await_head(sent, timeouts, upload, gate, begun).await {
                Err(Passed) => Err(timed_out()),
                Ok(Ok(Reply::Response(response))) => Ok(taken_apart(*response, None)),
                Ok(Ok(Reply::Upgraded(response, transport))) => Ok(taken_apart(*response, Some(transport))),
                Ok(Err(NoReply { error, unsent, silent })) => {
                    let delivery = match (unsent, silent && was_idle) {
                        (true, _) => Delivery::Unsent,
                        // A server may close a connection that it has just used: the request crosses its goodbye.
                        (false, true) => Delivery::ClosedIdle,
                        (false, false) => Delivery::Possible,
                    };
                    Err(AttemptError::because(send_failure(&error, upload), error).delivered(delivery))
                }
            }
        }
        Some(Leased::Http2(session)) => {
            let mut sender = session.sender.clone();
            lease.connection = Some(Leased::Http2(session));
            // Not to be sent again: on the same session it would fail again.
            let Some((sent, replay)) = taken_for_http2(request, pool.endpoint(), upload.map(|_| *budget)) else {
                return Err(AttemptError::new(UpstreamErrorKind::Protocol).delivered(Delivery::Possible));
            };
            if let Some(gate) = gate {
                gate.open();
            }
            match await_head(pin!(sender.try_send_request(sent)), timeouts, upload, gate, begun).await {
                Err(Passed) => Err(timed_out()),
                Ok(Ok(response)) => Ok(taken_apart(lease.hold(response), None)),
                Ok(Err(failure)) => Err(unanswered(failure, &lease, request, replay, upload)),
            }
        }
        None => Err(AttemptError::new(UpstreamErrorKind::Connect)),
    }
}

/// Takes a request out in the form of HTTP/2. All but its body stays in its place, for whoever still reads it or sends it again.
/// With a budget, its body is kept to be sent again. `None`: it can't be sent over HTTP/2.
fn taken_for_http2(
    request: &mut Request<Body>,
    endpoint: &Endpoint,
    body: Option<&MemoryBudget>,
) -> Option<(Request<Body>, Option<Replay>)> {
    let mut head = Request::new(Body::Empty);
    *head.method_mut() = request.method().clone();
    *head.uri_mut() = request.uri().clone();
    *head.headers_mut() = request.headers().clone();
    if !head::for_http2(request, endpoint) {
        return None;
    }
    let mut sent = std::mem::replace(request, head);
    let replay = body.map(|budget| {
        let (body, replay) = Replay::of(std::mem::take(sent.body_mut()), budget);
        *sent.body_mut() = body;
        replay
    });
    Some((sent, replay))
}

/// What it means that there was no response over HTTP/2. A request that can be sent again is put back.
fn unanswered(
    mut failure: TrySendError<Request<Body>>,
    lease: &Lease,
    request: &mut Request<Body>,
    replay: Option<Replay>,
    upload: Option<&Upload>,
) -> AttemptError {
    let returned = failure.take_message();
    let error = failure.into_error();
    let unprocessed = http2::unprocessed(&error);
    if returned.is_some() {
        lease.forget();
    }
    if let Some(how) = unprocessed {
        lease.unprocessed(how);
    }
    let mut delivery = Delivery::Possible;
    if let Some(unsent) = returned {
        *request = unsent;
        delivery = Delivery::Unsent;
    } else if let Some(how) = unprocessed
        && let Some(body) = replay.map_or(Some(Body::Empty), Replay::take_back)
    {
        *request.body_mut() = body;
        delivery = Delivery::Unprocessed(how);
    }
    let attempt = match upload.and_then(|upload| upload.failed.get()) {
        Some(body) => AttemptError::because(UpstreamErrorKind::RequestBody(body), error),
        None if unprocessed.is_some() => AttemptError::because(UpstreamErrorKind::Refused, error),
        None if http2::is_malformed(&error) => {
            AttemptError::because(UpstreamErrorKind::Protocol, MalformedResponse(error))
        }
        None => AttemptError::because(UpstreamErrorKind::Reset, error),
    };
    attempt.delivered(delivery)
}

fn send_failure(error: &SendError, upload: Option<&Upload>) -> UpstreamErrorKind {
    match (upload.and_then(|upload| upload.failed.get()), error) {
        (Some(body), _) => UpstreamErrorKind::RequestBody(body),
        (None, SendError::Body(error)) => UpstreamErrorKind::RequestBody(error.kind()),
        (None, SendError::Closed | SendError::Io(_)) => UpstreamErrorKind::Reset,
        (
            None,
            SendError::Head(_)
            | SendError::Chunk(_)
            | SendError::Interim
            | SendError::UnaskedUpgrade
            | SendError::Length(_),
        ) => UpstreamErrorKind::Protocol,
    }
}

/// A response as the exchange takes it.
fn taken_apart(response: Response<Body>, upgraded: Option<Box<Transport>>) -> UpstreamResponse {
    let (parts, body) = response.into_parts();
    let (origin, status, headers) = (ResponseSource::Upstream, parts.status, parts.headers);
    let head = Box::new(ResponseHead { origin, status, headers, body: None, trailers: None, reason: None });
    UpstreamResponse { head, body, upgraded }
}

/// Waits for the response head. No deadline is armed when it is there at once.
async fn await_head<T>(
    mut response: Pin<&mut impl Future<Output = T>>,
    limits: &Timeouts,
    upload: Option<&Upload>,
    gate: Option<&Gate>,
    begun: Instant,
) -> Result<T, Passed> {
    let mut now = begun;
    if let Some(gate) = gate.filter(|gate| gate.is_closed()) {
        match deadline::timeout(limits.left_at(EXPECT_WAIT.min(limits.first_byte), now), response.as_mut()).await {
            Ok(response) => return Ok(response),
            Err(Passed) => gate.open(),
        }
        now = Instant::now();
    }
    loop {
        // As long as the request goes on the client may be the one that is slow, and its body has limits of its own …
        let sent = upload.is_none_or(|upload| upload.ended.get());
        let writes = upload.map_or(0, |upload| upload.progress.writes.get());
        let outcome = deadline::timeout(limits.left_at(limits.first_byte, now), response.as_mut()).await;
        // … but not where the server took nothing all the while.
        let stuck =
            upload.is_some_and(|upload| upload.progress.blocked.get() && upload.progress.writes.get() == writes);
        if outcome.is_ok() || sent || stuck {
            return outcome;
        }
        now = Instant::now();
        if limits.until.is_some_and(|until| until <= now) {
            return outcome;
        }
    }
}
