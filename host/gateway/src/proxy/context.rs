//! The one thing that travels through the proxy. Dropping it ends the request: it writes the access log, counts, and hands the exchange
//! to `on-complete`, so that a client that hangs up is counted like any other.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::header::USER_AGENT;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use sluice_cache::store::Object;
use sluice_services::places::Place;
use tokio::sync::oneshot;

use super::admission::Admission;
use super::body::MessageBody;
use super::cache::Told;
use super::compress::{Compressed, Wish};
use super::error::{Kind, ProxyError};
use super::fault::Injected;
use super::grpc;
use super::worker::Worker;
use crate::cache::CacheResult;
use crate::exchange::{Exchange, Reason};
use crate::filter::{Hook, LocalPipeline, Traversal};
use crate::http::body::{BodyError, Watch};
use crate::http::buffer::Reservation;
use crate::http::forwarded::ClientAddress;
use crate::http::trace;
use crate::http1::{RequestLine, Transport};
use crate::proxy_protocol::Proxied;
use crate::server::{ConnectionInfo, OnUpgrade};
use crate::snapshot::LocalSnapshot;
use crate::telemetry::{AccessRecord, Answerer, ErrorSource, FailedAttempt, RouteId, Timings};
use crate::upstream::{Attempt, AttemptFailure, AttemptLog};

/// Who made the response.
#[derive(Debug, Clone)]
pub(super) enum Responder {
    Nobody,
    Upstream,
    Filter(Arc<str>),
    Gateway,
}

/// The route that took a request.
pub(super) struct MatchedRoute {
    /// Its index in the snapshot.
    pub(super) index: usize,
    pub(super) metrics: RouteId,
    pub(super) name: Arc<str>,
}

/// Why a request goes no further than the filters of its route.
pub(super) enum EndsHere {
    /// A CORS preflight for a route that does not take OPTIONS itself; with the methods that are allowed.
    Preflight { allow: HeaderValue },
    /// RFC 9110 §7.6.2: its `Max-Forwards` is used up.
    MaxForwards,
    /// An extended CONNECT for a route that takes no upgrades. Over HTTP/1.1 the wish can be ignored.
    NoUpgrade,
    /// A `PURGE` for a route that grants it to nobody.
    NoPurge,
}

/// A change of protocol that the client asks for, where the route allows one.
pub(super) struct UpgradeRequest {
    pub(super) protocol: HeaderValue,
    /// The client's side of the connection, after an answer of 101.
    pub(super) client: OnUpgrade,
}

/// A change of protocol that the upstream has accepted.
pub(super) struct AcceptedUpgrade {
    pub(super) protocol: Option<HeaderValue>,
    /// The upstream's side of the connection.
    pub(super) upstream: Box<Transport>,
}

/// An exchange that hooks after the response head may still need. Empty while a call has it.
pub(super) type SharedTraversal = Rc<RefCell<Traversal>>;

/// A request on its way, from its head to the last byte of its response: the exchange with its position in the pipeline, both bodies,
/// and what the access log and the metrics say about it. Boxed, so that each phase is handed one pointer.
pub(super) struct RequestContext {
    worker: Rc<Worker>,
    pub(super) start: Instant,
    pub(super) id: HeaderValue,
    pub(super) client: ClientAddress,
    pub(super) method: Method,
    pub(super) authority: Option<Authority>,
    pub(super) target: Option<PathAndQuery>,
    /// What is known of a request whose head could not be read.
    pub(super) refused: Option<Box<RequestLine>>,
    pub(super) protocol: Version,
    tls_version: Option<&'static str>,
    /// The field `Strict-Transport-Security` of its response.
    pub(super) hsts: Option<Arc<HeaderValue>>,
    /// These two only where somebody reads them.
    traceparent: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    pub(super) route: Option<MatchedRoute>,

    /// The exchange, from the moment its route is known until the response is sent, or until it is shared.
    pub(super) traversal: Traversal,
    /// The exchange while the response is sent, where a hook sees the trailers.
    shared_traversal: Option<SharedTraversal>,
    /// The charge for what filters had the exchange keep, where the exchange is over before the response is sent.
    pub(super) charge: Option<Reservation>,
    /// Its places among the requests at the same time, where they outlive the exchange.
    pub(super) places: Vec<Place>,
    /// The pipeline whose `on-complete` hooks see the exchange when it is over.
    completes_in: Option<Rc<LocalPipeline>>,

    /// The peer is a trusted proxy, and what it says of the client and the target is in the head.
    pub(super) behind_proxy: bool,
    /// A GET of its URL goes to a route with a cache, and its own route has none.
    pub(super) invalidates: bool,
    /// Whose request it is, where an upstream of its route is told by a PROXY header.
    pub(super) proxied: Option<Box<Proxied>>,
    /// The request's body, until it goes to an upstream.
    pub(super) request_body: MessageBody,
    /// The length that the client announced is more than the route takes.
    pub(super) request_too_large: bool,
    /// The exchange of the hooks that see the request's body piece by piece, until the response hooks begin.
    pub(super) request_pieces: Option<SharedTraversal>,
    /// The upstream's body, until it goes to the client.
    pub(super) response_body: MessageBody,
    /// When a part of either body last came; only where the request has one.
    pub(super) progress: Option<Rc<Cell<Instant>>>,
    pub(super) upgrade_request: Option<Box<UpgradeRequest>>,
    /// The client asks by an extended CONNECT: a success would open a stream.
    pub(super) extended_connect: bool,
    /// Unless a filter answers it, it goes no further.
    pub(super) ends_here: Option<Box<EndsHere>>,
    /// The names with an underscore that the client has sent, if there are any.
    pub(super) underscored: Option<Box<[HeaderName]>>,
    pub(super) accepted_upgrade: Option<Box<AcceptedUpgrade>>,

    /// Where the route or the upstream has limits or a circuit breaker.
    pub(super) admission: Option<Box<Admission>>,
    /// The upstream that the weights of the route give, by index in the snapshot.
    pub(super) weighted: usize,
    /// For a caller of a sticky split who had no key.
    pub(super) sticky_cookie: Option<Box<HeaderValue>>,
    pub(super) faults: Option<Box<Injected>>,
    /// Where the route has a cache.
    pub(super) cache: Option<CacheResult>,
    /// A fetch for the cache that waits for what the response hooks say.
    pub(super) tells_cache: Option<oneshot::Sender<Told>>,
    /// What the cache has answered with, where a form of it may be sent.
    pub(super) stored: Option<Arc<Object>>,
    /// Where the route compresses.
    pub(super) compression: Option<Wish>,
    /// Where its response is compressed.
    pub(super) compressed: Option<Compressed>,
    pub(super) attempts: AttemptLog,
    pub(super) status: Option<StatusCode>,
    /// Only where the request has a body.
    pub(super) bytes_in: Option<Rc<Cell<u64>>>,
    pub(super) bytes_out: u64,
    pub(super) timings: Timings,
    /// When the response head was ready to be sent; only where somebody reads it.
    head_ready_at: Option<Instant>,
    pub(super) consumer: Option<Arc<str>>,
    pub(super) responder: Responder,
    /// Why the response was given, if a filter has said so.
    pub(super) reason: Option<Box<Reason>>,
    /// The client speaks gRPC.
    pub(super) grpc: bool,
    /// The status of gRPC, from the head or the trailers of the response.
    pub(super) grpc_status: Option<u8>,
    pub(super) error: Option<(ErrorSource, Kind)>,
    /// The filter that the error is about.
    error_filter: Option<Arc<str>>,
    /// The last byte was handed to the connection.
    pub(super) ended: bool,
    /// A filter has made it, while another request is handled.
    is_call: bool,
}

impl RequestContext {
    pub(super) fn new(
        worker: &Rc<Worker>,
        connection: &ConnectionInfo,
        method: &Method,
        protocol: Version,
        id: HeaderValue,
    ) -> Box<Self> {
        let tls_version = connection.tls.as_ref().map(|tls| tls.version);
        let mut context = Self::begin(worker, (connection.peer.address, tls_version), method, protocol, id);
        context.behind_proxy = connection.peer.trusted;
        if let Some(policies) = &connection.settings.hsts {
            // Until the request's host is known, the client's server name stands for it.
            let sni = connection.tls.as_ref().and_then(|tls| tls.sni.as_deref());
            context.hsts = policies.find(sni).cloned();
        }
        context
    }

    /// Of a request that a filter has made. It is no exchange of its own: its end is written nowhere.
    pub(super) fn of_call(worker: &Rc<Worker>, client: ClientAddress, method: &Method, id: HeaderValue) -> Box<Self> {
        let mut context = Self::begin(worker, (client, None), method, Version::HTTP_11, id);
        context.is_call = true;
        context
    }

    #[inline]
    fn begin(
        worker: &Rc<Worker>,
        (client, tls_version): (ClientAddress, Option<&'static str>),
        method: &Method,
        protocol: Version,
        id: HeaderValue,
    ) -> Box<Self> {
        // Large values are built in place to avoid a copy from the stack.
        Box::write(
            Box::new_uninit(),
            RequestContext {
                worker: Rc::clone(worker),
                start: Instant::now(),
                id,
                client,
                method: method.clone(),
                authority: None,
                target: None,
                refused: None,
                protocol,
                tls_version,
                hsts: None,
                traceparent: None,
                user_agent: None,
                route: None,
                traversal: Traversal::default(),
                shared_traversal: None,
                charge: None,
                places: Vec::new(),
                completes_in: None,
                behind_proxy: false,
                invalidates: false,
                proxied: None,
                request_body: MessageBody::default(),
                request_too_large: false,
                request_pieces: None,
                response_body: MessageBody::default(),
                progress: None,
                upgrade_request: None,
                extended_connect: false,
                ends_here: None,
                underscored: None,
                accepted_upgrade: None,
                admission: None,
                weighted: 0,
                sticky_cookie: None,
                faults: None,
                cache: None,
                tells_cache: None,
                stored: None,
                compression: None,
                compressed: None,
                attempts: AttemptLog::default(),
                status: None,
                bytes_in: None,
                bytes_out: 0,
                timings: Timings::default(),
                head_ready_at: None,
                consumer: None,
                responder: Responder::Nobody,
                reason: None,
                grpc: false,
                grpc_status: None,
                error: None,
                error_filter: None,
                ended: false,
                is_call: false,
            },
        )
    }

    pub(super) fn worker(&self) -> Rc<Worker> {
        Rc::clone(&self.worker)
    }

    /// The index of its route in the snapshot; 0 before one has matched.
    pub(super) fn route_index(&self) -> usize {
        self.route.as_ref().map_or(0, |route| route.index)
    }

    /// The route is known, and with it the exchange.
    pub(super) fn enter_route(&mut self, local: &LocalSnapshot, index: usize, exchange: Box<Exchange>) {
        let route = &local.shared.routes[index];
        self.route = Some(MatchedRoute { index, metrics: route.metrics, name: exchange.route.name.clone() });
        self.traversal = Traversal::new(exchange);
        let pipeline = local.pipeline(route.pipeline);
        if pipeline.pipeline().has(Hook::OnComplete) {
            self.completes_in = Some(Rc::clone(pipeline));
        }
        if self.is_told() {
            let headers = &self.traversal.exchange().request.headers;
            (self.traceparent, self.user_agent) = told(headers);
        }
    }

    /// Keeps what the access log says of the head of a request that no route has taken.
    pub(super) fn remember(&mut self, headers: &HeaderMap) {
        if self.is_told() {
            (self.traceparent, self.user_agent) = told(headers);
        }
    }

    /// Whether the access log or a filter will be told of the exchange.
    fn is_told(&self) -> bool {
        self.completes_in.is_some() || self.worker.access_log.is_on()
    }

    /// The exchange, once the route is known.
    pub(super) fn exchange(&mut self) -> &mut Exchange {
        self.traversal.exchange()
    }

    /// Whether `on-complete` will see the exchange.
    pub(super) fn completes(&self) -> bool {
        self.completes_in.as_ref().is_some_and(|pipeline| self.worker.complete.wants(pipeline, &self.traversal))
    }

    /// Shares the exchange with the hooks of the trailers.
    pub(super) fn share_traversal(&mut self) -> SharedTraversal {
        let shared = Rc::new(RefCell::new(self.traversal.take()));
        self.shared_traversal = Some(Rc::clone(&shared));
        shared
    }

    /// The response head is ready to be sent.
    pub(super) fn head_ready(&mut self) {
        if self.is_told() {
            self.head_ready_at = Some(Instant::now());
        }
    }

    /// Notes an error and writes its detail to the operational log when somebody here has to act on it.
    pub(super) fn fail(&mut self, error: &ProxyError) {
        let side = error.source();
        self.error = Some((side, error.kind));
        self.error_filter.clone_from(&error.filter);
        let route = self.route.as_ref().map_or("", |route| &route.name);
        let id = self.id.to_str().unwrap_or_default();
        let (side, kind, detail) = (side.name(), error.kind.name(), error.detail.as_str());
        match error.source() {
            // A filter's failure has its line already, from where its policy was applied.
            ErrorSource::Client | ErrorSource::Filter => {
                tracing::debug!(request_id = id, route, side, kind, detail, "exchange failed");
            }
            ErrorSource::Gateway | ErrorSource::Upstream => {
                tracing::warn!(request_id = id, route, side, kind, detail, "exchange failed");
            }
        }
    }

    fn as_log(&self) -> AccessRecord<'_> {
        let last = self.attempts.last();
        let (method, path) = match &self.refused {
            // The usual mark of logs for what is not known.
            Some(line) => (line.method.as_ref().map_or("-", Method::as_str), &*line.path),
            None => (self.method.as_str(), self.target.as_ref().map_or("", PathAndQuery::path)),
        };
        AccessRecord {
            time: SystemTime::now().checked_sub(self.timings.total).unwrap_or(SystemTime::UNIX_EPOCH),
            request_id: self.id.as_bytes(),
            client: self.client.ip(),
            method,
            authority: self.authority.as_ref().map_or("", Authority::as_str),
            path,
            protocol: self.protocol,
            tls_version: self.tls_version,
            trace_id: self.traceparent.as_ref().and_then(|value| trace::trace_id(value)),
            user_agent: self.user_agent.as_ref().map(HeaderValue::as_bytes),
            status: self.status,
            route: self.route.as_ref().map(|route| &*route.name),
            upstream: last.map(|attempt| &*attempt.upstream),
            endpoint: last.and_then(|attempt| attempt.endpoint.as_deref()),
            attempts: self.attempts.count(),
            failed_attempts: self.attempts.failed().map(failed_attempt).collect(),
            bytes_in: self.bytes_in.as_ref().map_or(0, |bytes| bytes.get()),
            bytes_out: self.bytes_out,
            timings: self.timings,
            consumer: self.consumer.as_deref(),
            answered_by: match &self.responder {
                Responder::Nobody => Answerer::Nobody,
                Responder::Upstream => Answerer::Upstream,
                Responder::Filter(name) => Answerer::Filter(name),
                Responder::Gateway => Answerer::Gateway,
            },
            reason: self.reason.as_ref().map(|reason| &*reason.text),
            grpc_status: self.grpc_status,
            error: self.error.map(|(side, kind)| (side, kind.name())),
            error_filter: self.error_filter.as_deref(),
            cache: self.cache.map(CacheResult::name),
            compressed: self.compressed.as_ref().map(|of| (of.coding.name(), of.input.get())),
            faults: self.faults.as_ref().map_or(&[], |faults| &faults.names),
            aborted: !self.ended,
        }
    }
}

/// `traceparent` and `user-agent`.
fn told(headers: &HeaderMap) -> (Option<HeaderValue>, Option<HeaderValue>) {
    (headers.get(trace::TRACEPARENT).cloned(), headers.get(USER_AGENT).cloned())
}

fn failed_attempt<'a>((attempt, failure): (&'a Attempt, &'a AttemptFailure)) -> FailedAttempt<'a> {
    FailedAttempt {
        upstream: &attempt.upstream,
        endpoint: attempt.endpoint.as_deref(),
        address: failure.address.as_ref().map(ToString::to_string),
        outcome: attempt.outcome.name(),
        reason: &failure.reason,
    }
}

impl Drop for RequestContext {
    fn drop(&mut self) {
        if self.is_call {
            return;
        }
        let now = Instant::now();
        let last = self.attempts.last();
        self.timings.connect = last.and_then(|attempt| attempt.connect);
        self.timings.first_byte = last.and_then(|attempt| attempt.first_byte);
        self.timings.total = now.saturating_duration_since(self.start);
        self.timings.response = self.head_ready_at.map(|at| now.saturating_duration_since(at));
        if !self.ended && self.error.is_none() {
            self.error = Some((ErrorSource::Client, Kind::ClientAborted));
        }
        let route = self.route.as_ref().map_or(self.worker.no_route, |route| route.metrics);
        let metrics = &self.worker.metrics;
        metrics.request(route, self.status.map_or(0, |status| status.as_u16()), self.timings.total);
        if let Some((side, kind)) = self.error {
            metrics.error(route, side, kind.name());
        }
        if let Some(reason) = &self.reason {
            for reason in reason.single() {
                metrics.response_reason(&reason.filter, &reason.text);
            }
        }
        if let Some(result) = self.cache {
            metrics.cache_sent(route, result.name(), self.bytes_out);
        }
        if let Some(Compressed { coding, input }) = &self.compressed {
            metrics.compressed(route, coding.name(), input.get(), self.bytes_out);
        }
        if let Some(status) = self.grpc_status {
            metrics.grpc_response(route, status);
        }
        if let Some(pipeline) = self.completes_in.take() {
            self.complete(&pipeline);
        }
        let log = &self.worker.access_log;
        if log.is_on() {
            log.write(&self.as_log());
        }
    }
}

impl RequestContext {
    /// Queues the exchange for `on-complete`, unless a call that was dropped has kept it.
    fn complete(&mut self, pipeline: &Rc<LocalPipeline>) {
        let mut traversal = match self.shared_traversal.take() {
            Some(shared) => shared.take(),
            None => self.traversal.take(),
        };
        if self.worker.complete.wants(pipeline, &traversal) {
            let exchange = traversal.exchange();
            // No hook to come can read them, and exchanges may wait long for `on-complete`.
            exchange.request_body = None;
            exchange.sandboxes.clear();
            exchange.places.clear();
            if let Some(response) = &mut exchange.response {
                response.body = None;
            }
            exchange.summary = Some(self.worker.access_log.summary(&self.as_log()));
            self.worker.complete.push(pipeline, traversal);
        }
    }
}

/// It follows the response body to its end.
impl Watch for RequestContext {
    fn data(&mut self, bytes: usize) {
        self.bytes_out += bytes as u64;
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        if self.grpc {
            self.grpc_status = grpc::status(trailers);
        }
    }

    fn end(&mut self, outcome: Result<(), &BodyError>) {
        match outcome {
            Ok(()) => self.ended = true,
            Err(error) => {
                let error = ProxyError::response_body(error);
                self.fail(&error);
            }
        }
    }
}
