//! An upstream on one worker: chooses endpoints, sends requests, and knows how its endpoints are doing.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{EXPECT, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use smallvec::SmallVec;

use super::balance::{self, Seat};
use super::builtin;
use super::dns::Dns;
use super::error::{Attempt, UpstreamError, UpstreamErrorKind};
use super::head;
use super::pool::{Lease, Line, LocalEndpoint};
use super::spec::{TargetSpec, Upstream};
use crate::deadline::{self, Passed};
use crate::exchange::{Candidate, Failure};
use crate::http::body::{Body, BodyError, BodyErrorKind, Watch};
use crate::http::gate::Gate;

/// How long an upstream may think about `Expect: 100-continue` before the body goes out anyway (RFC 9110 §10.1.1).
const EXPECT_WAIT: Duration = Duration::from_secs(1);
/// How an endpoint is chosen.
#[derive(Debug, Clone, Copy)]
pub enum Choice<'a> {
    /// Weighted round robin.
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
}

/// An answer.
#[derive(Debug)]
pub struct Sent {
    /// `hyper::upgrade::on` works on it when its status is 101.
    pub response: Response<Body>,
    /// `host:port`, or the name of the builtin.
    pub endpoint: Arc<str>,
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
    endpoints: Vec<Rc<LocalEndpoint>>,
    seats: Vec<Seat>,
}

/// What is known of a request body while it is sent.
#[derive(Default)]
struct Upload {
    /// The last byte was handed over, or the body failed.
    ended: Cell<bool>,
    failed: Cell<Option<BodyErrorKind>>,
}

struct UploadWatch(Rc<Upload>);

impl Watch for UploadWatch {
    fn data(&mut self, _: usize) {}

    fn end(&mut self, outcome: Result<(), &BodyError>) {
        self.0.ended.set(true);
        self.0.failed.set(outcome.err().map(BodyError::kind));
    }
}

/// Refuses a body that the upstream answered without having asked for it, once that answer has been read.
struct RefuseAfter(Arc<Gate>);

impl Drop for RefuseAfter {
    fn drop(&mut self) {
        self.0.refuse();
    }
}

/// What goes along with a request from attempt to attempt.
struct Along {
    timeouts: Timeouts,
    upload: Option<Rc<Upload>>,
    gate: Option<Arc<Gate>>,
}

impl LocalUpstream {
    /// An upstream without connections yet.
    pub fn new(upstream: Arc<Upstream>, dns: &Rc<Dns>) -> Rc<Self> {
        let each = 0..upstream.endpoints().len();
        let endpoints = each.map(|i| LocalEndpoint::new(upstream.clone(), i, dns.clone())).collect();
        let seats = upstream.endpoints().iter().map(|e| Seat::new(e.weight, e.hash)).collect();
        Rc::new(LocalUpstream { upstream, endpoints, seats })
    }

    #[cfg(test)]
    pub(super) fn endpoints(&self) -> &[Rc<LocalEndpoint>] {
        &self.endpoints
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
    /// (the endpoint's own name when absent).
    ///
    /// Tried again, by RFC 9110 §9.2.2:
    /// - on the next endpoint, or on a new connection where an idle one turned out dead, if nothing of the request was
    ///   written (hyper then hands it back) — any method;
    /// - on another connection, if a connection that had been idle closed before any byte of the response came, and the
    ///   method is idempotent and the request has no body;
    /// - otherwise never: the upstream may have acted on it.
    pub async fn send(
        &self,
        request: Request<Body>,
        choice: Choice<'_>,
        timeouts: Timeouts,
    ) -> Result<Sent, UpstreamError> {
        match self.upstream.spec().target {
            TargetSpec::Endpoints(_) => self.forward(request, choice, timeouts).await,
            TargetSpec::Echo => self.answered("echo", builtin::echo(request, self.upstream.name()).await),
            TargetSpec::Status => self.answered("status", builtin::status(request).await),
        }
    }

    fn answered(&self, name: &str, answer: Result<Response<Body>, BodyError>) -> Result<Sent, UpstreamError> {
        match answer {
            Ok(response) => Ok(Sent {
                response,
                endpoint: name.into(),
                connect: None,
                first_byte: Duration::ZERO,
                failures: Vec::new(),
            }),
            Err(error) => Err(UpstreamError {
                kind: UpstreamErrorKind::RequestBody(error.kind()),
                upstream: self.upstream.name().clone(),
                endpoint: Some(name.into()),
                request: None,
                failures: Vec::new(),
                source: Some(Box::new(error)),
            }),
        }
    }

    async fn forward(
        &self,
        request: Request<Body>,
        choice: Choice<'_>,
        timeouts: Timeouts,
    ) -> Result<Sent, UpstreamError> {
        let mut request = request;
        let mut along = Along { timeouts, upload: None, gate: None };
        if !request.body().is_end_stream() {
            let upload = Rc::new(Upload::default());
            let mut body = std::mem::take(request.body_mut()).watched(UploadWatch(upload.clone()));
            along.upload = Some(upload);
            if request.headers().contains_key(EXPECT) {
                let gate = Arc::new(Gate::default());
                body = body.held(gate.clone());
                along.gate = Some(gate);
            }
            *request.body_mut() = body;
        }
        let max_tries = match self.upstream.spec().max_tries {
            0 => self.endpoints.len(),
            max => max,
        };
        let mut tried = SmallVec::<[usize; 4]>::new();
        let mut failures = Vec::new();
        let mut last = Attempt::new(UpstreamErrorKind::NoEndpoint).with(request);
        while tried.len() < max_tries {
            let Some(index) = self.choose(choice, &tried) else { break };
            // Only what was not sent comes back.
            let Some(request) = last.request.take() else { break };
            tried.push(index);
            match self.attempt(index, *request, &along).await {
                Ok(sent) => return Ok(Sent { failures, ..sent }),
                Err(attempt) => {
                    failures.push(Failure {
                        upstream: self.upstream.name().clone(),
                        address: self.endpoints[index].shared().address.clone(),
                        reason: attempt.reason(),
                    });
                    last = attempt;
                }
            }
        }
        Err(UpstreamError {
            kind: last.kind,
            upstream: self.upstream.name().clone(),
            endpoint: tried.last().map(|index| self.endpoints[*index].shared().address.clone()),
            request: last.request,
            failures,
            source: last.source,
        })
    }

    fn choose(&self, choice: Choice<'_>, tried: &[usize]) -> Option<usize> {
        match choice {
            // The common case needs no clock.
            Choice::Balanced if self.seats.len() == 1 && self.seats[0].healthy() => tried.is_empty().then_some(0),
            Choice::Balanced => balance::round_robin(&self.seats, tried, Instant::now()),
            Choice::Key(key) => balance::by_hash(&self.seats, key, tried, Instant::now()),
            Choice::Addresses(wanted) => wanted.iter().find_map(|address| {
                let found = self.endpoints.iter().position(|e| *e.shared().address == **address);
                found.filter(|index| !tried.contains(index))
            }),
        }
    }

    /// One endpoint: open connections as long as they turn out dead, then a new one.
    async fn attempt(&self, index: usize, request: Request<Body>, along: &Along) -> Result<Sent, Attempt> {
        let endpoint = &self.endpoints[index];
        let http1_only = request.headers().contains_key(UPGRADE);
        let mut request = request;
        loop {
            let lease = match endpoint.checkout(Instant::now(), http1_only) {
                Some(lease) => lease,
                // Opening is rare and its future is large, so it is kept out of this one.
                None => match Box::pin(endpoint.dial(along.timeouts.connect, http1_only)).await {
                    Ok(lease) => lease,
                    Err(attempt) => {
                        self.seats[index].failed(Instant::now());
                        return Err(attempt.with(request));
                    }
                },
            };
            let new = lease.connect.is_some();
            match Self::exchange(endpoint, lease, request, along).await {
                Ok(sent) => {
                    self.seats[index].succeeded();
                    return Ok(sent);
                }
                Err(Attempt { request: Some(back), .. }) if !new => request = *back,
                Err(attempt) => return Err(attempt),
            }
        }
    }

    /// One request on one connection.
    async fn exchange(
        endpoint: &LocalEndpoint,
        lease: Lease,
        request: Request<Body>,
        along: &Along,
    ) -> Result<Sent, Attempt> {
        let mut lease = lease;
        let mut request = request;
        let shared = endpoint.shared();
        let begun = Instant::now();
        let mut copy = None;
        let outcome = match &mut lease.line {
            Some(Line::Http1 { sender, .. }) => {
                head::for_http1(&mut request, shared);
                // A server may close a connection that it has just used: only a copy of the head (about 0.2 µs) makes up for
                // the request that crosses its goodbye.
                if lease.idle.is_some() {
                    copy = replayable(&request);
                }
                if let Some(gate) = &along.gate {
                    let gate = gate.clone();
                    hyper::ext::on_informational(&mut request, move |interim| {
                        if interim.status() == StatusCode::CONTINUE {
                            gate.open();
                        }
                    });
                }
                await_head(sender.try_send_request(request), along).await
            }
            Some(Line::Http2(session)) => {
                // Without the request: on the same session it would fail again.
                if !head::for_http2(&mut request, shared) {
                    return Err(Attempt::new(UpstreamErrorKind::Protocol));
                }
                if let Some(gate) = &along.gate {
                    gate.open();
                }
                let mut sender = session.sender.clone();
                await_head(sender.try_send_request(request), along).await
            }
            None => return Err(Attempt::new(UpstreamErrorKind::Connect).with(request)),
        };
        let response = match outcome {
            Err(Passed) => return Err(Attempt::new(UpstreamErrorKind::FirstByteTimeout)),
            Ok(Ok(response)) => response,
            Ok(Err(mut failure)) => {
                let back = failure.take_message().or_else(|| copy.filter(|_| !failure.error().is_parse()));
                let kind = match along.upload.as_ref().and_then(|upload| upload.failed.get()) {
                    Some(body) => UpstreamErrorKind::RequestBody(body),
                    None if failure.error().is_parse() => UpstreamErrorKind::Protocol,
                    None => UpstreamErrorKind::Reset,
                };
                let attempt = Attempt::because(kind, failure.into_error());
                return Err(match back {
                    Some(request) => {
                        endpoint.forget(&lease);
                        attempt.with(request)
                    }
                    None => attempt,
                });
            }
        };
        let first_byte = begun.elapsed();
        lease.note_latency(first_byte);
        let connect = lease.connect;
        Ok(Sent {
            response: with_lease(response, lease, along),
            endpoint: shared.address.clone(),
            connect,
            first_byte,
            failures: Vec::new(),
        })
    }
}

/// The response with what has to wait for its last byte: the connection to be put back, a body to be refused.
fn with_lease(response: Response<Incoming>, lease: Lease, along: &Along) -> Response<Body> {
    let refuse = along.gate.clone().filter(|gate| gate.is_closed()).map(RefuseAfter);
    response.map(|body| match Body::from_upstream(body) {
        Body::Empty => Body::Empty,
        body => match refuse {
            None => body.guarded(lease),
            Some(refuse) => body.guarded((refuse, lease)),
        },
    })
}

/// Waits for the response head. No deadline is armed when it is there at once.
async fn await_head<T>(response: impl Future<Output = T>, along: &Along) -> Result<T, Passed> {
    let mut response = pin!(response);
    let limit = along.timeouts.first_byte;
    if let Some(gate) = along.gate.as_ref().filter(|gate| gate.is_closed()) {
        match deadline::timeout(EXPECT_WAIT.min(limit), response.as_mut()).await {
            Ok(response) => return Ok(response),
            Err(Passed) => gate.open(),
        }
    }
    loop {
        // As long as the request goes on the client may be the one that is slow, and its body has limits of its own.
        let sent = along.upload.as_ref().is_none_or(|upload| upload.ended.get());
        let outcome = deadline::timeout(limit, response.as_mut()).await;
        if outcome.is_ok() || sent {
            return outcome;
        }
    }
}

/// A copy of a request that may be sent twice: an idempotent method (RFC 9110 §9.2.2) and no body.
fn replayable(request: &Request<Body>) -> Option<Request<Body>> {
    let idempotent = [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE, Method::TRACE];
    if !idempotent.contains(request.method()) || !request.body().is_end_stream() {
        return None;
    }
    let mut copy = Request::new(Body::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}
