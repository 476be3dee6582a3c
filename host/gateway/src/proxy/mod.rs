//! The life of a request, from its head to the last byte of its answer. `Proxy::handle` is the page to start with; each step has
//! a file of its own.

mod answer;
mod body;
mod error;
mod forward;
mod inbound;
mod record;
mod respond;
mod tunnel;
mod worker;

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Instant;

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version, request};

pub use error::{Kind, ProxyError};
pub use worker::Worker;

use self::answer::{Answer, Parked};
use self::body::{Passing, coded};
use self::forward::Forward;
use self::inbound::Inbound;
use self::record::{Answered, Record};
use crate::exchange::{Exchange, Origin};
use crate::filter::{Hook, LocalPipeline, Passage, RequestOutcome, ResponseOutcome};
use crate::http::body::Body;
use crate::http::target::routing_host;
use crate::http::trace;
use crate::http1::Transport;
use crate::route::{RequestView, RouteMatch};
use crate::server::{ConnectionInfo, Last, Refusal, Service, Switch};
use crate::snapshot::LocalSnapshot;
use crate::snapshot::routes::Route;

/// The gateway's answer to every request of one worker.
pub struct Proxy {
    worker: Rc<Worker>,
}

impl Proxy {
    pub fn new(worker: Rc<Worker>) -> Rc<Self> {
        Rc::new(Proxy { worker })
    }
}

impl Service for Proxy {
    type Body = Body;

    fn handle(
        &self,
        connection: &Rc<ConnectionInfo>,
        head: Box<request::Parts>,
        body: Body,
        switch: Option<Switch>,
    ) -> impl Future<Output = Box<Response<Body>>> {
        let local = self.worker.snapshot();
        // Before the future, which would keep a copy of everything that is handed on.
        let begun = begin(&self.worker, &local, connection, head, body);
        async move {
            match begun {
                // Pinned where it is made: awaited as it is, all of it would be copied there.
                Ok(begun) => pin!(Stage::new(&self.worker, &local, begun.route).exchange(begun, switch)).await,
                Err(response) => response,
            }
        }
    }

    fn refuse(&self, connection: &Rc<ConnectionInfo>, refusal: &Refusal) -> Box<Response<Body>> {
        let local = self.worker.snapshot();
        let id = trace::request_id(&HeaderMap::new(), &local.shared.id_header, false);
        let record = Record::begin(&self.worker, connection, &Method::default(), Version::HTTP_11, id);
        turn_away(&local, record, &ProxyError::refused(refusal))
    }

    async fn drained(&self) {
        self.worker.finish().await;
    }
}

/// The answer to a request that no route has seen.
fn turn_away(local: &LocalSnapshot, mut record: Box<Record>, error: &ProxyError) -> Box<Response<Body>> {
    record.fail(error);
    record.answered = Answered::Gateway;
    let head = respond::problem(error, &record.id, &local.shared.id_header);
    let mut response = Answer::whole(head).send(record);
    if matches!(error.kind, Kind::BadRequest | Kind::MethodNotSupported) {
        response.extensions_mut().insert(Last);
    }
    response
}

fn find(local: &LocalSnapshot, inbound: &Inbound) -> Result<RouteMatch, ProxyError> {
    let head = &inbound.head;
    let view = RequestView {
        host: routing_host(&head.authority),
        path: head.target.path(),
        method: &head.method,
        query: head.target.query(),
        headers: &head.headers,
        client_ip: inbound.client,
    };
    let none = || ProxyError::new(Kind::NoRoute, format!("no route for {} {}", head.method, head.target.path()));
    local.shared.router.find(&view).ok_or_else(none)
}

/// A request whose route is known.
struct Begun<'a> {
    /// Its index.
    route: usize,
    record: Box<Record>,
    exchange: Box<Exchange>,
    body: Passing<'a>,
    /// That of the body, if it is known.
    length: Option<u64>,
    progress: Option<Rc<Cell<Instant>>>,
    /// The protocol that the client asks to switch to.
    upgrade: Option<HeaderValue>,
}

/// What is done with a request before anything can be waited for.
fn begin<'a>(
    worker: &'a Rc<Worker>,
    local: &LocalSnapshot,
    connection: &ConnectionInfo,
    parts: Box<request::Parts>,
    body: Body,
) -> Result<Begun<'a>, Box<Response<Body>>> {
    let id_header = &local.shared.id_header;
    let id = trace::request_id(&parts.headers, id_header, connection.peer.trusted);
    let mut record = Record::begin(worker, connection, &parts.method, parts.version, id);
    let inbound = match inbound::read(parts, connection) {
        Ok(inbound) => inbound,
        Err(error) => return Err(turn_away(local, record, &error)),
    };
    record.authority = Some(inbound.head.authority.clone());
    record.target = Some(inbound.head.target.clone());
    record.client = inbound.client;
    let found = match find(local, &inbound) {
        Ok(found) => found,
        Err(error) => return Err(turn_away(local, record, &error)),
    };
    let route = &local.shared.routes[found.index];
    let facts = local.facts(found.index);
    record.route = Some((route.metrics, facts.name.clone()));
    let Inbound { mut head, noted, client, upgrade } = inbound;
    inbound::clean(&mut head, noted, connection, (id_header, &record.id));
    let length = body.exact_size();
    let progress = (!matches!(body, Body::Empty)).then(|| Rc::new(Cell::new(record.start)));
    let body = bounded(body, route, &mut record, progress.as_ref());
    let until = route.timeouts.request.and_then(|limit| record.start.checked_add(limit));
    let body = Passing::new(body, coded(&head.headers, noted), &worker.budget).within(until);
    let mut exchange = Exchange::new(record.id.clone(), client, head, facts.clone());
    exchange.params = found.params;
    Ok(Begun { route: found.index, record, exchange, body, length, progress, upgrade })
}

/// A request body with the limits of its route.
fn bounded(body: Body, route: &Route, record: &mut Record, progress: Option<&Rc<Cell<Instant>>>) -> Body {
    if matches!(body, Body::Empty) {
        return body;
    }
    let body = body.limited(route.max_body).counted(Rc::clone(record.bytes_in.get_or_insert_default()));
    forward::timed(body, route.timeouts.idle, progress)
}

/// What serves the requests of a route.
struct Stage<'a> {
    worker: &'a Rc<Worker>,
    local: &'a Rc<LocalSnapshot>,
    route: &'a Route,
    pipeline: &'a Rc<LocalPipeline>,
}

impl<'a> Stage<'a> {
    fn new(worker: &'a Rc<Worker>, local: &'a Rc<LocalSnapshot>, route: usize) -> Self {
        let route = &local.shared.routes[route];
        Stage { worker, local, route, pipeline: local.pipeline(route.pipeline) }
    }

    /// The pipeline, the route's action, the pipeline backwards, the answer.
    fn exchange(&self, begun: Begun<'a>, switch: Option<Switch>) -> impl Future<Output = Box<Response<Body>>> {
        let Begun { mut record, mut exchange, mut body, length, progress, upgrade, .. } = begun;
        let mut forward = Forward {
            local: self.local,
            route: self.route,
            pipeline: self.pipeline,
            budget: &self.worker.budget,
            upgrade: upgrade.filter(|_| self.route.upgrade && switch.is_some()),
            progress,
            lent: false,
        };
        async move {
            let mut passage = Passage::default();
            let entered;
            (exchange, entered) = self.enter(exchange, &mut passage, &mut body, &mut record).await;
            let answered;
            (exchange, answered) = match entered {
                // Refused before any of it is read, and after the pipeline, so that the refusal gets its headers (CORS).
                Ok(true) if length.is_some_and(|length| length > self.route.max_body) => {
                    let message = format!("a body of more than the {} bytes of the route", self.route.max_body);
                    (exchange, Err(ProxyError::new(Kind::BodyTooLarge, message)))
                }
                Ok(true) => forward.answer(exchange, &mut passage, body, &mut record).await,
                // A filter has answered; what the client still sends is not wanted.
                Ok(false) => {
                    let empty = Passing::new(Body::Empty, None, &self.worker.budget);
                    (exchange, Ok(forward::Answered { body: empty, switch: None }))
                }
                Err(error) => (exchange, Err(error)),
            };
            let (mut body, upstream_switch) = match answered {
                Ok(answered) => (answered.body, answered.switch),
                Err(error) => (self.problem(&mut exchange, &error, &mut record), None),
            };
            exchange = self.leave(exchange, &mut passage, &mut body, &mut record).await;
            record.consumer = exchange.context.consumer().cloned();
            match (switch, upstream_switch) {
                (Some(client), Some(upstream)) if exchange.response.as_ref().is_some_and(|r| r.status == 101) => {
                    self.switch(exchange, passage, (client, upstream), forward.upgrade, record)
                }
                _ => self.send(exchange, passage, body, record),
            }
        }
    }

    /// The pipeline on the way in. `true`: the request goes on; `false`: a filter has answered.
    async fn enter(
        &self,
        exchange: Box<Exchange>,
        passage: &mut Passage,
        body: &mut Passing<'a>,
        record: &mut Record,
    ) -> (Box<Exchange>, Result<bool, ProxyError>) {
        if self.pipeline.pipeline().filters().is_empty() {
            return (exchange, Ok(true));
        }
        let (exchange, outcome) = self.pipeline.on_request(exchange, passage, body).await;
        record.timings.request_filters = Some(passage.ended().saturating_duration_since(record.start));
        let entered = match outcome {
            RequestOutcome::Continue => Ok(true),
            RequestOutcome::Respond { by } => {
                record.answered = Answered::Filter(self.pipeline.pipeline().filters()[by].name().clone());
                Ok(false)
            }
            RequestOutcome::Failed(failure) => Err(ProxyError::filter(&failure)),
            RequestOutcome::Body { error, .. } => Err(ProxyError::unbuffered_request(&error)),
        };
        (exchange, entered)
    }

    /// The pipeline on the way out. An error on the way takes the place of the response and passes the filters that are left.
    async fn leave(
        &self,
        exchange: Box<Exchange>,
        passage: &mut Passage,
        body: &mut Passing<'a>,
        record: &mut Record,
    ) -> Box<Exchange> {
        let mut exchange = exchange;
        if self.pipeline.pipeline().filters().is_empty() {
            return exchange;
        }
        loop {
            let outcome;
            (exchange, outcome) = self.pipeline.on_response(exchange, passage, body).await;
            let error = match outcome {
                ResponseOutcome::Continue => return exchange,
                ResponseOutcome::Failed(failure) => ProxyError::filter(&failure),
                ResponseOutcome::Body { error, .. } => ProxyError::unbuffered_response(&error),
            };
            *body = self.problem(&mut exchange, &error, record);
        }
    }

    /// Puts the gateway's own answer in the place of the response.
    fn problem(&self, exchange: &mut Exchange, error: &ProxyError, record: &mut Record) -> Passing<'a> {
        record.fail(error);
        record.answered = Answered::Gateway;
        let head = respond::problem(error, &record.id, &self.local.shared.id_header);
        let body = Passing::new(Body::Empty, Some(&head.headers), &self.worker.budget);
        exchange.response_body_replaced = false;
        exchange.response = Some(head);
        body
    }

    /// The response, with what has to happen while and after its body is sent.
    fn send(
        &self,
        mut exchange: Box<Exchange>,
        passage: Passage,
        body: Passing<'a>,
        mut record: Box<Record>,
    ) -> Box<Response<Body>> {
        let Some(head) = exchange.response.take() else {
            // Every way to here leaves a response; an exchange without one would be a bug of ours, not a reason to panic.
            let error = ProxyError::new(Kind::FilterFailed, "no response");
            record.fail(&error);
            return Answer::whole(respond::problem(&error, &record.id, &self.local.shared.id_header)).send(record);
        };
        let pipeline = self.pipeline.pipeline();
        let (trailers, complete) =
            (pipeline.has(Hook::OnResponseTrailers), self.worker.complete.wants(self.pipeline, &passage));
        if trailers || complete {
            // The hooks to come see the head; its body is on its way.
            exchange.response = Some(Box::new(crate::exchange::ResponseHead { body: None, ..(*head).clone() }));
        }
        let mut answer = match (head.origin, exchange.response_body_replaced) {
            (Origin::Upstream, false) => Answer::streamed(head, body.into_body()),
            (_, true) => Answer::replaced(head),
            (Origin::Filter | Origin::Gateway, false) => Answer::whole(head),
        };
        if trailers || complete {
            // No hook to come can read it, and exchanges may wait long for `on-complete`.
            exchange.request_body = None;
            exchange.sandboxes.clear();
            let parked = Parked::new(Some((exchange, passage)).into());
            if trailers {
                answer = answer.with_trailer_hooks(Rc::clone(self.pipeline), Rc::clone(&parked));
            }
            if complete {
                record.complete_later(self.pipeline, parked);
            }
        }
        answer.send(record)
    }

    /// `101 Switching Protocols`, and both sides joined in a task of their own.
    fn switch(
        &self,
        mut exchange: Box<Exchange>,
        passage: Passage,
        (client, upstream): (Switch, Box<Transport>),
        protocol: Option<HeaderValue>,
        mut record: Box<Record>,
    ) -> Box<Response<Body>> {
        let mut response = Box::new(Response::new(Body::Empty));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        if let Some(head) = exchange.response.take() {
            *response.headers_mut() = head.headers;
        }
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        if let Some(protocol) = protocol {
            response.headers_mut().insert(UPGRADE, protocol);
        }
        record.status = Some(StatusCode::SWITCHING_PROTOCOLS);
        if self.worker.complete.wants(self.pipeline, &passage) {
            let mut head = crate::exchange::ResponseHead::new(Origin::Upstream, StatusCode::SWITCHING_PROTOCOLS);
            head.headers = response.headers().clone();
            exchange.response = Some(Box::new(head));
            exchange.request_body = None;
            exchange.sandboxes.clear();
            record.complete_later(self.pipeline, Parked::new(Some((exchange, passage)).into()));
        }
        record.answered_now();
        tunnel::join(client, upstream, self.route.timeouts.idle, record);
        response
    }
}
