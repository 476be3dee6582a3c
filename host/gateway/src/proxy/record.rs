//! What is known of an exchange when it is over. One drop guard behind the access log and the metrics, so that a client that
//! hangs up is counted like any other.

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Method, StatusCode, Version};

use super::answer::Parked;
use super::error::ProxyError;
use super::worker::Worker;
use crate::exchange::Exchange;
use crate::filter::{LocalPipeline, Passage};
use crate::http::body::{BodyError, Watch};
use crate::server::ConnectionInfo;
use crate::telemetry::{AccessRecord, Answerer, RouteId, Side, Timings};

/// Who answered.
#[derive(Debug, Clone)]
pub(super) enum Answered {
    Nobody,
    Upstream,
    Filter(Arc<str>),
    Gateway,
}

/// The facts of one exchange, gathered on its way. Dropping it writes them.
pub(super) struct Record {
    worker: Rc<Worker>,
    pub(super) start: Instant,
    pub(super) id: HeaderValue,
    pub(super) client: IpAddr,
    pub(super) method: Method,
    pub(super) authority: Option<Authority>,
    pub(super) target: Option<PathAndQuery>,
    pub(super) protocol: Version,
    pub(super) route: Option<(RouteId, Arc<str>)>,
    pub(super) upstream: Option<Rc<str>>,
    pub(super) endpoint: Option<Rc<str>>,
    pub(super) status: Option<StatusCode>,
    /// Only where the request has a body.
    pub(super) bytes_in: Option<Rc<Cell<u64>>>,
    pub(super) bytes_out: u64,
    pub(super) timings: Timings,
    /// When the response head was ready to be sent; only where somebody reads it.
    pub(super) answered_at: Option<Instant>,
    pub(super) consumer: Option<Arc<str>>,
    pub(super) answered: Answered,
    pub(super) error: Option<(Side, &'static str)>,
    /// The last byte was handed to the connection.
    pub(super) ended: bool,
    /// What to do with the finished exchange, given its summary: `on-complete`.
    pub(super) complete: Option<Box<dyn FnOnce(String)>>,
}

impl Record {
    pub(super) fn begin(
        worker: &Rc<Worker>,
        connection: &ConnectionInfo,
        method: &Method,
        protocol: Version,
        id: HeaderValue,
    ) -> Box<Self> {
        // Made in its place, as the exchange is.
        Box::write(
            Box::new_uninit(),
            Record {
                worker: Rc::clone(worker),
                start: Instant::now(),
                id,
                client: connection.peer.address,
                method: method.clone(),
                authority: None,
                target: None,
                protocol,
                route: None,
                upstream: None,
                endpoint: None,
                status: None,
                bytes_in: None,
                bytes_out: 0,
                timings: Timings::default(),
                answered_at: None,
                consumer: None,
                answered: Answered::Nobody,
                error: None,
                ended: false,
                complete: None,
            },
        )
    }

    /// The response head is ready to be sent.
    pub(super) fn answered_now(&mut self) {
        if self.complete.is_some() || self.worker.access_log.is_on() {
            self.answered_at = Some(Instant::now());
        }
    }

    /// Notes an error and writes its detail to the operational log when somebody here has to act on it.
    pub(super) fn fail(&mut self, error: &ProxyError) {
        let side = error.side();
        self.error = Some((side, error.kind.name()));
        let route = self.route.as_ref().map_or("", |(_, name)| name);
        let id = self.id.to_str().unwrap_or_default();
        let (side, kind, detail) = (side.name(), error.kind.name(), error.detail.as_str());
        match error.side() {
            // A filter's failure has its line already, from where its policy was applied.
            Side::Client | Side::Filter => {
                tracing::debug!(request_id = id, route, side, kind, detail, "exchange failed");
            }
            Side::Gateway | Side::Upstream => {
                tracing::warn!(request_id = id, route, side, kind, detail, "exchange failed");
            }
        }
    }

    /// Has `on-complete` see the parked exchange when this record is written, unless it was taken back by then.
    pub(super) fn complete_later(&mut self, pipeline: &Rc<LocalPipeline>, parked: Parked) {
        let (queue, pipeline) = (Rc::clone(&self.worker.complete), Rc::clone(pipeline));
        self.complete = Some(Box::new(move |summary| {
            if let Some((mut exchange, passage)) = parked.take() {
                exchange.summary = Some(summary);
                queue.push(&pipeline, passage, exchange);
            }
        }));
    }

    /// Keeps the exchange while something is waited for: if the client leaves meanwhile, and the wait is dropped, `on-complete`
    /// sees it all the same.
    pub(super) async fn keeping<T>(
        &mut self,
        exchange: Box<Exchange>,
        passage: Passage,
        pipeline: &Rc<LocalPipeline>,
        wait: impl Future<Output = T>,
    ) -> (Box<Exchange>, T) {
        if !self.worker.complete.wants(pipeline, &passage) {
            return (exchange, wait.await);
        }
        let parked = Parked::new(Some((exchange, passage)).into());
        self.complete_later(pipeline, Rc::clone(&parked));
        let output = wait.await;
        self.complete = None;
        let (exchange, _) = parked.take().expect("only the drop of the record takes it, and that is still here");
        (exchange, output)
    }

    fn as_log(&self) -> AccessRecord<'_> {
        AccessRecord {
            time: SystemTime::now().checked_sub(self.timings.total).unwrap_or(SystemTime::UNIX_EPOCH),
            request_id: self.id.as_bytes(),
            client: self.client,
            method: self.method.as_str(),
            authority: self.authority.as_ref().map_or("", Authority::as_str),
            path: self.target.as_ref().map_or("", PathAndQuery::path),
            protocol: self.protocol,
            status: self.status,
            route: self.route.as_ref().map(|(_, name)| &**name),
            upstream: self.upstream.as_deref(),
            endpoint: self.endpoint.as_deref(),
            bytes_in: self.bytes_in.as_ref().map_or(0, |bytes| bytes.get()),
            bytes_out: self.bytes_out,
            timings: self.timings,
            consumer: self.consumer.as_deref(),
            answered_by: match &self.answered {
                Answered::Nobody => Answerer::Nobody,
                Answered::Upstream => Answerer::Upstream,
                Answered::Filter(name) => Answerer::Filter(name),
                Answered::Gateway => Answerer::Gateway,
            },
            error: self.error,
            aborted: !self.ended,
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let now = Instant::now();
        self.timings.total = now.saturating_duration_since(self.start);
        self.timings.response = self.answered_at.map(|at| now.saturating_duration_since(at));
        if !self.ended && self.error.is_none() {
            self.error = Some((Side::Client, "client-aborted"));
        }
        let route = self.route.as_ref().map_or(self.worker.no_route, |(route, _)| *route);
        let metrics = &self.worker.metrics;
        metrics.request(route, self.status.map_or(0, |status| status.as_u16()), self.timings.total);
        if let Some((side, kind)) = self.error {
            metrics.error(route, side, kind);
        }
        let log = &self.worker.access_log;
        if let Some(complete) = self.complete.take() {
            complete(log.summary(&self.as_log()));
        }
        if log.is_on() {
            log.write(&self.as_log());
        }
    }
}

/// It follows the response body to its end.
impl Watch for Record {
    fn data(&mut self, bytes: usize) {
        self.bytes_out += bytes as u64;
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
