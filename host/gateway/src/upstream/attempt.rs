//! One attempt to get a response: a request on one connection of one endpoint, or a built-in upstream. Whether another attempt
//! follows is decided by whoever owns the [`OutgoingRequest`]; see `retry`.

use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use http::header::{SEC_WEBSOCKET_KEY, UPGRADE};
use http::{Request, Response};
use http_body::Body as _;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http2::SendRequest;

use super::attempt_log::{Answer, Attempt, AttemptOutcome};
use super::builtin;
use super::circuit::Outcome;
use super::endpoints::{LocalEndpoints, Record};
use super::error::{AttemptError, UpstreamErrorKind};
use super::files;
use super::head;
use super::health::outliers::{Failure, Stage};
use super::http2::{self, MalformedResponse};
use super::limits::EndpointPermit;
use super::local::LocalUpstream;
use super::outgoing::{OutgoingRequest, Timeouts, Upload};
use super::pool::{Lease, Leased, Pool};
use super::replay::{self, Replay};
use super::retry::Delivery;
use super::spec::{Endpoint, TargetSpec, Upstream};
use super::verdict;
use super::websocket;
use crate::coarse;
use crate::deadline::{self, Passed};
use crate::exchange::{ResponseHead, ResponseSource};
use crate::http::body::{Body, BodyError};
use crate::http::buffer::MemoryBudget;
use crate::http::gate::Gate;
use crate::http1::{NoReply, Reply, SendError, Transport};

/// How long an upstream may think about `Expect: 100-continue` before the body goes out anyway (RFC 9110 §10.1.1).
const EXPECT_WAIT: Duration = Duration::from_secs(1);

/// A response whose head is in. The attempt's record has the times.
#[derive(Debug)]
pub struct UpstreamResponse {
    pub head: Box<ResponseHead>,
    pub body: Body,
    /// The upstream's side of the connection, when the status is 101.
    pub upgraded: Option<Box<Transport>>,
}

/// What is read of a response that nobody wants, so that its connection can be used again: that is cheaper than a new one …
const DISCARDED: u64 = 64 << 10;
/// … if it comes soon.
const DISCARDED_WITHIN: Duration = Duration::from_secs(1);

impl UpstreamResponse {
    /// Lets go of a response that another attempt takes the place of.
    pub fn discard(self) {
        let mut body = self.body;
        if body.is_end_stream() || body.size_hint().lower() > DISCARDED {
            return;
        }
        tokio::task::spawn_local(async move {
            let mut left = DISCARDED;
            let reading = std::future::poll_fn(|cx| {
                loop {
                    match ready!(Pin::new(&mut body).poll_frame(cx)) {
                        Some(Ok(frame)) => {
                            let size = frame.data_ref().map_or(0, |data| data.len() as u64);
                            left = left.saturating_sub(size);
                            if left == 0 {
                                return Poll::Ready(());
                            }
                        }
                        Some(Err(_)) | None => return Poll::Ready(()),
                    }
                }
            });
            let _ = deadline::timeout(DISCARDED_WITHIN, reading).await;
        });
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
            TargetSpec::Endpoints(_) | TargetSpec::Discovered(_) => {
                self.attempt_host(endpoints, host, request, attempt).await
            }
            TargetSpec::Echo => {
                let sent = request.give_away();
                let name = self.upstream().name();
                answered(Box::pin(async move { builtin::echo(sent, name).await.map_err(unread) }), request, attempt)
                    .await
            }
            TargetSpec::Status => {
                let sent = request.give_away();
                answered(Box::pin(async move { builtin::status(sent).await.map_err(unread) }), request, attempt).await
            }
            TargetSpec::Files(ref folder) => {
                let answer = files::answer(folder, &request.request, request.budget);
                answered(Box::pin(answer), request, attempt).await
            }
        };
        attempt.is_blameless = outcome.as_ref().is_err_and(AttemptError::is_blameless);
        if let (Some(permit), Some(breaker), false) = (&request.permit, self.endpoint_breaker(), attempt.is_blameless) {
            let seen = outcome.as_ref().map(|response| Answer::of(&response.head)).map_err(|error| error.kind);
            if !outcome.as_ref().is_ok_and(verdict::awaits_grpc_status) {
                permit.note(breaker, Outcome::of(breaker, seen));
            }
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
                let lease = Box::pin(self.new_connection(endpoints, host, request, http1_only)).await;
                let lease = lease.map_err(|error| blame(error, request))?;
                (lease, Instant::now())
            }
        };
        lease.permit = self.permit_at(request, lease.pool.record())?;
        attempt.connect = lease.connect;
        let reused = lease.connect.is_none();
        let pool = Rc::clone(&lease.pool);
        let outcome = exchange(&pool, lease, request, begun, http1_only).await;
        let mut outcome = outcome.map_err(|error| blame(error, request).on_reused_connection(reused));
        let took = begun.elapsed();
        observe(self.upstream(), &pool, &outcome, took);
        if self.upstream().is_balanced_by_latency() {
            note_latency(&pool, &outcome, took);
        }
        if let Ok(response) = &mut outcome {
            verdict::follow_for_endpoint(response, request, (self.upstream(), &pool), begun);
        }
        attempt.first_byte = outcome.is_ok().then_some(took);
        outcome
    }
}

/// Not the upstream but the client has cut an attempt short whose deadline is over.
fn blame(error: AttemptError, request: &OutgoingRequest<'_>) -> AttemptError {
    let is_timeout = matches!(error.kind, UpstreamErrorKind::ConnectTimeout | UpstreamErrorKind::FirstByteTimeout);
    let kind =
        if is_timeout && request.is_late_for_client() { UpstreamErrorKind::DeadlineExceeded } else { error.kind };
    AttemptError { kind, ..error }
}

/// How the endpoint has failed a request, as far as the head of its response tells.
pub(super) fn failure_of(response: &UpstreamResponse) -> Option<Failure> {
    Failure::of_response(response.head.status.as_u16(), &response.head.headers)
}

/// Notes what an attempt tells of the address that it went to. An attempt that ends because its client has left tells nothing and does not
/// come here; one that got no connection was noted where the connection was tried.
pub(super) fn observe(
    upstream: &Upstream,
    pool: &Pool,
    outcome: &Result<UpstreamResponse, AttemptError>,
    took: Duration,
) {
    let record = pool.record();
    if let Ok(response) = outcome {
        record.reached();
        record.note_latency(took);
        pool.responded(response.head.status.as_u16());
    }
    let Some(outliers) = upstream.outliers() else { return };
    let failure = match outcome {
        Ok(response) => failure_of(response),
        Err(error) => error.failure(),
    };
    match (failure, outcome) {
        (Some(failure), _) => {
            pool.failed_request(failure);
            outliers.failed(upstream.set(), record, failure, Stage::Head);
        }
        (None, Ok(response)) if !verdict::awaits_grpc_status(response) => record.well(),
        (None, _) => {}
    }
}

/// Notes how long the address takes, for balancing. What the client, or a connection that was closed while idle, has failed says nothing
/// about it.
fn note_latency(pool: &Pool, outcome: &Result<UpstreamResponse, AttemptError>, took: Duration) {
    let (ewma, now) = (pool.record().ewma(), coarse::now_ms());
    match outcome {
        Ok(response) if failure_of(response).is_none() => ewma.note(took, now),
        Ok(_) => ewma.note_failure(took, now),
        Err(error) if error.failure().is_some() => ewma.note_failure(took, now),
        Err(_) => {}
    }
}

/// A request whose body could not be read to its end.
fn unread(error: BodyError) -> AttemptError {
    AttemptError::because(UpstreamErrorKind::RequestBody(error.kind()), error).delivered(Delivery::Possible)
}

/// Waits for the answer of the gateway itself.
async fn answered(
    answer: Pin<Box<impl Future<Output = Result<Response<Body>, AttemptError>>>>,
    request: &OutgoingRequest<'_>,
    attempt: &mut Attempt,
) -> Result<UpstreamResponse, AttemptError> {
    let (timeouts, begun) = (&request.timeouts, Instant::now());
    let Ok(answer) = deadline::timeout(timeouts.left(timeouts.first_byte), answer).await else {
        return Err(AttemptError::new(UpstreamErrorKind::FirstByteTimeout).delivered(Delivery::Possible));
    };
    attempt.first_byte = answer.is_ok().then(|| begun.elapsed());
    answer.map(|response| taken_apart(response, None))
}

/// One request on one connection.
async fn exchange(
    pool: &Pool,
    mut lease: Lease,
    outgoing: &mut OutgoingRequest<'_>,
    begun: Instant,
    upgrades: bool,
) -> Result<UpstreamResponse, AttemptError> {
    let telling = outgoing.telling(outgoing.timeouts.first_byte);
    let OutgoingRequest { request, timeouts, budget, upload, gate, replay: of_policy, .. } = outgoing;
    let (upload, gate) = (upload.as_deref(), gate.as_deref());
    match lease.connection.take() {
        Some(Leased::Http1(connection)) => {
            head::for_http1(request, pool.endpoint());
            let was_idle = lease.idle.is_some();
            let progress = upload.map(|upload| &upload.progress);
            let sent = pin!(connection.send(request, gate, progress, pool.endpoint().tolerance, lease));
            match await_head(sent, timeouts, upload, gate, begun).await {
                Err(Passed) => Err(timed_out(telling, upload, begun)),
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
            // Where a policy keeps the body already, it is not kept twice.
            let budget_for_replay = upload.filter(|_| of_policy.is_none()).map(|_| *budget);
            let takes_connect = upgrades && session.takes_extended_connect();
            lease.connection = Some(Leased::Http2(session));
            // A server that does not take it gets the request alone: RFC 9110 §7.8 lets it ignore the wish, too.
            if takes_connect && let Some(connect) = websocket::extended_connect(request, pool.endpoint()) {
                return Box::pin(open_tunnel(sender, connect, request, lease, timeouts, (begun, telling))).await;
            }
            // Not to be sent again: on the same session it would fail again.
            let Some((sent, replay)) = taken_for_http2(request, pool.endpoint(), budget_for_replay) else {
                let error = AttemptError::new(UpstreamErrorKind::Protocol).delivered(Delivery::Possible);
                return Err(error.blameless());
            };
            if let Some(gate) = gate {
                gate.open();
            }
            match await_head(pin!(sender.try_send_request(sent)), timeouts, upload, gate, begun).await {
                Err(Passed) => Err(timed_out(telling, upload, begun)),
                Ok(Ok(response)) => Ok(taken_apart(lease.hold(response), None)),
                Ok(Err(failure)) => {
                    let may_return = of_policy.as_ref().is_some_and(Replay::is_whole);
                    Err(unanswered(failure, &lease, request, (replay, may_return), upload))
                }
            }
        }
        None => Err(AttemptError::new(UpstreamErrorKind::Connect)),
    }
}

/// What it means that no response head came in time: nothing of the server, unless it had a telling time.
fn timed_out(telling: Duration, upload: Option<&Upload>, begun: Instant) -> AttemptError {
    let error = AttemptError::new(UpstreamErrorKind::FirstByteTimeout).delivered(Delivery::Possible);
    // Where the request was not all there, its client may be the one that is slow.
    let had_all = upload.is_none_or(|upload| upload.ended.get() || upload.progress.blocked.get());
    let had_time = begun.elapsed() >= telling;
    if had_all && had_time { error } else { error.blameless() }
}

/// A switch of protocols as an extended CONNECT. The request itself stays as it is, to be sent again.
async fn open_tunnel(
    mut sender: SendRequest<Body>,
    connect: Request<Body>,
    request: &Request<Body>,
    lease: Lease,
    timeouts: &Timeouts,
    (begun, telling): (Instant, Duration),
) -> Result<UpstreamResponse, AttemptError> {
    let sent = pin!(sender.try_send_request(connect));
    match await_head(sent, timeouts, None, None, begun).await {
        Err(Passed) => Err(timed_out(telling, None, begun)),
        Ok(Ok(response)) => {
            let (response, transport) =
                websocket::switched(response, request.headers().get(SEC_WEBSOCKET_KEY), lease).await;
            Ok(taken_apart(response, transport))
        }
        Ok(Err(failure)) => Err(unanswered(failure, &lease, &mut Request::default(), (None, false), None)),
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
        let (body, replay) = Replay::of(std::mem::take(sent.body_mut()), replay::OF_HTTP2, budget);
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
    (replay, may_return): (Option<Replay>, bool),
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
    } else if let Some(how) = unprocessed {
        let returned = match replay {
            Some(replay) => replay.take_back(),
            // There is none, or the next attempt takes it back.
            None => (upload.is_none() || may_return).then_some(Body::Empty),
        };
        if let Some(body) = returned {
            *request.body_mut() = body;
            delivery = Delivery::Unprocessed(how);
        }
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
