//! An upstream on one worker: chooses endpoints, sends requests, and knows how its endpoints are doing.

use std::cell::Cell;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{EXPECT, HOST, UPGRADE};
use http::{Request, Response};
use http_body::Body as _;
use hyper::body::Incoming;
use smallvec::SmallVec;

use super::balance::{self, Dice, Seat};
use super::builtin;
use super::dns::Dns;
use super::error::{Attempt, UpstreamError, UpstreamErrorKind};
use super::head;
use super::pool::{Lease, Line, LocalEndpoint};
use super::spec::{Balance, TargetSpec, Upstream};
use crate::deadline::{self, Passed};
use crate::exchange::{Candidate, Failure, Origin, ResponseHead};
use crate::http::body::{Body, BodyError, BodyErrorKind, Watch};
use crate::http::gate::Gate;
use crate::http1::{Answer, Progress, SendError, Transport, Unanswered};

/// How long an upstream may think about `Expect: 100-continue` before the body goes out anyway (RFC 9110 §10.1.1).
const EXPECT_WAIT: Duration = Duration::from_secs(1);
/// How an endpoint is chosen.
#[derive(Debug, Clone, Copy)]
pub enum Choice<'a> {
    /// As the upstream balances.
    Balanced,
    /// The same key leads to the same endpoint.
    Key(&'a str),
    /// The first of these addresses (`host:port`) that takes a connection; unknown ones are passed over.
    Addresses(&'a [String]),
}

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

/// An answer.
#[derive(Debug)]
pub struct Sent {
    pub head: Box<ResponseHead>,
    pub body: Body,
    /// The head of the request, for whoever still reads it.
    pub request: Box<Request<Body>>,
    /// The upstream's side of the connection, when the status is 101.
    pub switched: Option<Box<Transport>>,
    /// `host:port`, or the name of the builtin.
    pub endpoint: Rc<str>,
    /// Time taken to connect; `None` when a connection was open already.
    pub connect: Option<Duration>,
    /// From sending the request to its response head.
    pub first_byte: Duration,
    /// The attempts before, oldest first.
    pub failures: Vec<Failure>,
}

/// An upstream on one worker. It lives as long as its `Arc<Upstream>` is in use, over reloads.
pub struct LocalUpstream {
    upstream: Arc<Upstream>,
    /// This worker's own, as the address of each endpoint: each request keeps both.
    name: Rc<str>,
    endpoints: Vec<Rc<LocalEndpoint>>,
    seats: Vec<Seat>,
    dice: Dice,
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

/// What goes along with a request from attempt to attempt.
struct Along {
    timeouts: Timeouts,
    upload: Option<Rc<Upload>>,
    gate: Option<Rc<Gate>>,
}

impl LocalUpstream {
    /// An upstream without connections yet.
    pub fn new(upstream: Arc<Upstream>, dns: &Rc<Dns>) -> Rc<Self> {
        let each = 0..upstream.endpoints().len();
        let endpoints = each.map(|i| LocalEndpoint::new(upstream.clone(), i, dns.clone())).collect();
        let seats = upstream.endpoints().iter().map(|e| Seat::new(e.weight, e.hash)).collect();
        let name = Rc::from(&**upstream.name());
        // Each worker's own, lest all of them send to the same endpoint at the same time.
        let dice = Dice::new(RandomState::new().hash_one(&*name));
        Rc::new(LocalUpstream { upstream, name, endpoints, seats, dice })
    }

    #[cfg(test)]
    pub(super) fn endpoints(&self) -> &[Rc<LocalEndpoint>] {
        &self.endpoints
    }

    /// Its name, as this worker's own text.
    pub fn name(&self) -> &Rc<str> {
        &self.name
    }

    /// What it was made from.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// Its endpoints as filters see them.
    pub fn candidates(&self) -> Vec<Candidate> {
        let shown = |(local, seat): (&Rc<LocalEndpoint>, &Seat)| Candidate {
            upstream: self.upstream.name().clone(),
            address: local.shared().address.clone(),
            weight: local.shared().weight,
            healthy: seat.healthy(),
            active: local.active.get(),
            latency_us: local.latency_us.get(),
            labels: local.shared().labels.clone(),
        };
        self.endpoints.iter().zip(&self.seats).map(shown).collect()
    }

    /// Sends a request and waits for the response head. The URI may be in any form; `Host` says what the upstream is to see
    /// (the endpoint's own name when absent). The request is boxed because it is handed down from future to future, and the answer
    /// because it is handed up.
    ///
    /// Tried again, by RFC 9110 §9.2.2:
    /// - on the next endpoint, or on a new connection where an idle one turned out dead, if nothing of the request was
    ///   written — any method;
    /// - on another connection, if a connection that had been idle closed before any byte of the response came, and the
    ///   method is idempotent and the request has no body;
    /// - otherwise never: the upstream may have acted on it.
    pub async fn send(
        &self,
        request: Box<Request<Body>>,
        choice: Choice<'_>,
        timeouts: Timeouts,
    ) -> Result<Box<Sent>, UpstreamError> {
        match self.upstream.spec().target {
            TargetSpec::Endpoints(_) => self.forward(request, choice, timeouts).await,
            TargetSpec::Echo => {
                let head = head_of(&request);
                self.answered("echo", head, Box::pin(builtin::echo(*request, self.upstream.name())), timeouts).await
            }
            TargetSpec::Status => {
                let head = head_of(&request);
                self.answered("status", head, Box::pin(builtin::status(*request)), timeouts).await
            }
        }
    }

    async fn answered(
        &self,
        name: &str,
        request: Box<Request<Body>>,
        answer: Pin<Box<impl Future<Output = Result<Response<Body>, BodyError>>>>,
        timeouts: Timeouts,
    ) -> Result<Box<Sent>, UpstreamError> {
        let Ok(answer) = deadline::timeout(timeouts.left(timeouts.first_byte), answer).await else {
            let error = UpstreamError::timed_out(self.upstream.name().clone());
            return Err(UpstreamError { spent: Some(request), ..error });
        };
        match answer {
            Ok(response) => {
                let (head, body) = apart(response);
                Ok(Box::new(Sent {
                    head,
                    body,
                    request,
                    switched: None,
                    endpoint: name.into(),
                    connect: None,
                    first_byte: Duration::ZERO,
                    failures: Vec::new(),
                }))
            }
            Err(error) => Err(UpstreamError {
                kind: UpstreamErrorKind::RequestBody(error.kind()),
                upstream: self.upstream.name().clone(),
                endpoint: Some(name.into()),
                request: None,
                spent: Some(request),
                failures: Vec::new(),
                source: Some(Box::new(error)),
            }),
        }
    }

    async fn forward(
        &self,
        request: Box<Request<Body>>,
        choice: Choice<'_>,
        timeouts: Timeouts,
    ) -> Result<Box<Sent>, UpstreamError> {
        let mut request = request;
        let mut along = Along { timeouts, upload: None, gate: None };
        if !request.body().is_end_stream() {
            let upload = Rc::new(Upload::default());
            let mut body = std::mem::take(request.body_mut()).watched(Box::new(UploadWatch(upload.clone())));
            along.upload = Some(upload);
            if request.headers().contains_key(EXPECT) {
                let gate = Rc::new(Gate::default());
                body = body.held(gate.clone());
                along.gate = Some(gate);
            }
            *request.body_mut() = body;
        }
        let max_tries = match self.upstream.spec().max_tries {
            0 => self.endpoints.len(),
            max => max,
        };
        // Without a name, it gets that of each endpoint in turn.
        let is_named = request.headers().contains_key(HOST) || request.uri().authority().is_some();
        let mut tried = SmallVec::<[usize; 4]>::new();
        let mut failures = Vec::new();
        let mut last = Attempt::new(UpstreamErrorKind::NoEndpoint).with(request);
        while tried.len() < max_tries {
            let Some(index) = self.choose(choice, &tried) else { break };
            let Some(request) = last.request.take_if(|_| last.again) else { break };
            tried.push(index);
            match self.attempt(index, request, &along).await {
                Ok(mut sent) => {
                    sent.failures = failures;
                    return Ok(sent);
                }
                Err(attempt) => {
                    failures.push(Failure {
                        upstream: self.upstream.name().clone(),
                        address: self.endpoints[index].shared().address.clone(),
                        reason: attempt.reason(),
                    });
                    last = attempt;
                    if let Some(request) = last.request.as_deref_mut().filter(|_| !is_named) {
                        head::unnamed(request);
                    }
                }
            }
        }
        let (request, spent) = if last.again { (last.request, None) } else { (None, last.request) };
        Err(UpstreamError {
            kind: last.kind,
            upstream: self.upstream.name().clone(),
            endpoint: tried.last().map(|index| self.endpoints[*index].shared().address.clone()),
            request,
            spent,
            failures,
            source: last.source,
        })
    }

    fn choose(&self, choice: Choice<'_>, tried: &[usize]) -> Option<usize> {
        match choice {
            // The common case needs no clock.
            Choice::Balanced if self.seats.len() == 1 && self.seats[0].healthy() => tried.is_empty().then_some(0),
            Choice::Balanced => match self.upstream.spec().balance {
                Balance::RoundRobin => balance::round_robin(&self.seats, tried, Instant::now()),
                Balance::LeastRequest => {
                    let active = |index: usize| self.endpoints.get(index).map_or(0, |endpoint| endpoint.active.get());
                    balance::least_request(&self.seats, active, &self.dice, tried, Instant::now())
                }
            },
            Choice::Key(key) => balance::by_hash(&self.seats, key, tried, Instant::now()),
            Choice::Addresses(wanted) => wanted.iter().find_map(|address| {
                let found = self.endpoints.iter().position(|e| *e.shared().address == **address);
                found.filter(|index| !tried.contains(index))
            }),
        }
    }

    /// One endpoint: open connections as long as they turn out dead, then a new one.
    async fn attempt(&self, index: usize, request: Box<Request<Body>>, along: &Along) -> Result<Box<Sent>, Attempt> {
        let endpoint = &self.endpoints[index];
        let http1_only = request.headers().contains_key(UPGRADE);
        let mut request = request;
        loop {
            let now = Instant::now();
            let (lease, now) = match endpoint.checkout(now, http1_only) {
                Some(lease) => (lease, now),
                // Opening is rare and its future is large, so it is kept out of this one.
                None => match Box::pin(endpoint.dial(along.timeouts.left_at(along.timeouts.connect, now), http1_only))
                    .await
                {
                    Ok(lease) => (lease, Instant::now()),
                    Err(attempt) => {
                        self.seats[index].failed(Instant::now());
                        return Err(attempt.with(request));
                    }
                },
            };
            let new = lease.connect.is_some();
            match Self::exchange(endpoint, lease, request, (along, now)).await {
                Ok(sent) => {
                    self.seats[index].succeeded();
                    return Ok(sent);
                }
                Err(Attempt { request: Some(back), again: true, .. }) if !new => request = back,
                Err(attempt) => return Err(attempt),
            }
        }
    }

    /// One request on one connection.
    async fn exchange(
        endpoint: &LocalEndpoint,
        lease: Lease,
        request: Box<Request<Body>>,
        (along, begun): (&Along, Instant),
    ) -> Result<Box<Sent>, Attempt> {
        let mut lease = lease;
        let mut request = request;
        let shared = endpoint.shared();
        let connect = lease.connect;
        let ((head, body), request, switched) = match lease.line.take() {
            Some(Line::Http1(connection)) => {
                head::for_http1(&mut request, shared);
                // A server may close a connection that it has just used: the request crosses its goodbye.
                let replayable = lease.idle.is_some() && is_replayable(&request);
                let gate = along.gate.as_deref();
                let progress = along.upload.as_deref().map(|upload| &upload.progress);
                let outcome =
                    await_head(pin!(connection.send(&mut request, gate, progress, lease)), along, begun).await;
                match outcome {
                    Err(Passed) => return Err(Attempt::new(UpstreamErrorKind::FirstByteTimeout).spent(request)),
                    Ok(Ok(Answer::Response(response))) => (apart(*response), request, None),
                    Ok(Ok(Answer::Switched(response, transport))) => (apart(*response), request, Some(transport)),
                    Ok(Err(Unanswered { error, unsent, silent })) => {
                        let attempt = Attempt::because(send_failure(&error, along), error);
                        return Err(match unsent || silent && replayable {
                            true => attempt.with(request),
                            false => attempt.spent(request),
                        });
                    }
                }
            }
            Some(Line::Http2(session)) => {
                let mut sender = session.sender.clone();
                lease.line = Some(Line::Http2(session));
                let head = head_of(&request);
                // Not to be sent again: on the same session it would fail again.
                if !head::for_http2(&mut request, shared) {
                    return Err(Attempt::new(UpstreamErrorKind::Protocol).spent(head));
                }
                if let Some(gate) = &along.gate {
                    gate.open();
                }
                match await_head(pin!(sender.try_send_request(*request)), along, begun).await {
                    Err(Passed) => return Err(Attempt::new(UpstreamErrorKind::FirstByteTimeout).spent(head)),
                    Ok(Ok(response)) => (apart(with_lease(response, lease)), head, None),
                    Ok(Err(mut failure)) => {
                        let kind = match along.upload.as_ref().and_then(|upload| upload.failed.get()) {
                            Some(body) => UpstreamErrorKind::RequestBody(body),
                            None if failure.error().is_parse() => UpstreamErrorKind::Protocol,
                            None => UpstreamErrorKind::Reset,
                        };
                        let back = failure.take_message();
                        let attempt = Attempt::because(kind, failure.into_error());
                        return Err(match back {
                            Some(request) => {
                                endpoint.forget(&lease);
                                attempt.with(Box::new(request))
                            }
                            None => attempt.spent(head),
                        });
                    }
                }
            }
            None => return Err(Attempt::new(UpstreamErrorKind::Connect).with(request)),
        };
        let first_byte = begun.elapsed();
        endpoint.note_latency(first_byte);
        Ok(Box::new(Sent {
            head,
            body,
            request,
            switched,
            endpoint: endpoint.address().clone(),
            connect,
            first_byte,
            failures: Vec::new(),
        }))
    }
}

fn send_failure(error: &SendError, along: &Along) -> UpstreamErrorKind {
    match (along.upload.as_ref().and_then(|upload| upload.failed.get()), error) {
        (Some(body), _) => UpstreamErrorKind::RequestBody(body),
        (None, SendError::Body(error)) => UpstreamErrorKind::RequestBody(error.kind()),
        (None, SendError::Closed | SendError::Io(_)) => UpstreamErrorKind::Reset,
        (None, SendError::Head(_) | SendError::Interim | SendError::Unasked | SendError::Length(_)) => {
            UpstreamErrorKind::Protocol
        }
    }
}

/// A response as the exchange takes it.
fn apart(response: Response<Body>) -> (Box<ResponseHead>, Body) {
    let (parts, body) = response.into_parts();
    let (origin, status, headers) = (Origin::Upstream, parts.status, parts.headers);
    (Box::new(ResponseHead { origin, status, headers, body: None, trailers: None }), body)
}

/// The response of a shared connection, which is in use until its last byte.
fn with_lease(response: Response<Incoming>, lease: Lease) -> Response<Body> {
    response.map(|body| match Body::from_upstream(body) {
        Body::Empty => Body::Empty,
        body => body.guarded(lease),
    })
}

/// Waits for the response head. No deadline is armed when it is there at once.
async fn await_head<T>(
    mut response: Pin<&mut impl Future<Output = T>>,
    along: &Along,
    begun: Instant,
) -> Result<T, Passed> {
    let limits = &along.timeouts;
    let mut now = begun;
    if let Some(gate) = along.gate.as_ref().filter(|gate| gate.is_closed()) {
        match deadline::timeout(limits.left_at(EXPECT_WAIT.min(limits.first_byte), now), response.as_mut()).await {
            Ok(response) => return Ok(response),
            Err(Passed) => gate.open(),
        }
        now = Instant::now();
    }
    loop {
        // As long as the request goes on the client may be the one that is slow, and its body has limits of its own …
        let sent = along.upload.as_ref().is_none_or(|upload| upload.ended.get());
        let writes = along.upload.as_ref().map_or(0, |upload| upload.progress.writes.get());
        let outcome = deadline::timeout(limits.left_at(limits.first_byte, now), response.as_mut()).await;
        // … but not where the server took nothing all the while.
        let stuck = along
            .upload
            .as_ref()
            .is_some_and(|upload| upload.progress.blocked.get() && upload.progress.writes.get() == writes);
        if outcome.is_ok() || sent || stuck {
            return outcome;
        }
        now = Instant::now();
        if limits.until.is_some_and(|until| until <= now) {
            return outcome;
        }
    }
}

/// What stays of a request that is given away.
fn head_of(request: &Request<Body>) -> Box<Request<Body>> {
    let mut head = Box::new(Request::new(Body::Empty));
    *head.headers_mut() = request.headers().clone();
    head
}

/// Whether a request may be sent twice: an idempotent method (RFC 9110 §9.2.2) and no body.
fn is_replayable(request: &Request<Body>) -> bool {
    request.method().is_idempotent() && request.body().is_end_stream()
}
