//! The life of a request, from its head to the last byte of its response. [`Proxy::handle`] is the page to start with; each phase has
//! a file of its own.

mod admission;
mod affinity;
mod body;
mod cache;
mod call;
mod compress;
mod context;
mod deadline;
mod error;
mod fault;
mod grpc;
mod inbound;
mod mirror;
mod outgoing;
mod pieces;
mod receive;
mod respond;
mod retry;
mod send;
mod sticky;
mod tunnel;
mod upstream;
mod worker;

use std::pin::pin;
use std::rc::Rc;

use http::header::ALLOW;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version, request};

pub use cache::Flights;
pub use error::{Kind, ProxyError};
pub use worker::Worker;

use self::body::MessageBody;
use self::context::{EndsHere, RequestContext, Responder};
use self::receive::{receive, turn_away};
use crate::exchange::{ResponseHead, ResponseSource};
use crate::filter::{LocalPipeline, RequestOutcome, ResponseOutcome};
use crate::http::body::Body;
use crate::http::trace;
use crate::server::{ConnectionInfo, OnUpgrade, Refusal, Service};
use crate::snapshot::LocalSnapshot;
use crate::snapshot::routes::Route;
use crate::telemetry::{H2Refusal, H2RefusalKind};

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
        on_upgrade: Option<OnUpgrade>,
    ) -> impl Future<Output = Box<Response<Body>>> {
        let local = self.worker.snapshot();
        // Before the future, which would keep a copy of everything that is handed on.
        let received = receive(&self.worker, &local, connection, head, body, on_upgrade);
        async move {
            let mut context = match received {
                Ok(context) => context,
                Err(refusal) => return refusal,
            };
            let route = RouteHandler::new(&self.worker, &local, &context);
            let responded = match route.filter_request(&mut context).await {
                Ok(AfterRequestFilters::Forward) if context.ends_here.is_some() => route.end_here(&mut context),
                Ok(AfterRequestFilters::Forward) => pin!(route.respond(&mut context)).await,
                Ok(AfterRequestFilters::Responded) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = responded {
                route.replace_response(&mut context, &error);
            }
            route.filter_response(&mut context).await;
            if context.tells_cache.is_some() {
                cache::tell(&mut context);
            }
            context.consumer = context.exchange().context.consumer().cloned();
            route.send(context)
        }
    }

    fn refuse(&self, connection: &Rc<ConnectionInfo>, refusal: &Refusal) -> Box<Response<Body>> {
        let local = self.worker.snapshot();
        let id = trace::request_id(&HeaderMap::new(), &local.shared.id_header, false);
        let (Refusal::Head { line, .. } | Refusal::Timeout { line }) = refusal;
        let mut context = RequestContext::new(&self.worker, connection, &Method::default(), Version::HTTP_11, id);
        context.refused = Some(Box::new(line.clone()));
        turn_away(&local, context, &ProxyError::refused(refusal))
    }

    fn note_refused(&self, connection: &Rc<ConnectionInfo>, refusal: &H2Refusal, answered: bool) {
        let local = self.worker.snapshot();
        let id = trace::request_id(&HeaderMap::new(), &local.shared.id_header, false);
        let mut context = RequestContext::new(&self.worker, connection, &Method::default(), Version::HTTP_2, id);
        context.refused = Some(Box::default());
        let kind = match refusal.kind {
            H2RefusalKind::Malformed => Kind::BadRequest,
            H2RefusalKind::TooLarge => Kind::HeadTooLarge,
        };
        if answered {
            let (status, _) = respond::public(kind);
            (context.status, context.responder, context.ended) = (Some(status), Responder::Gateway, true);
        }
        // Dropping it writes the line of the access log.
        context.fail(&ProxyError::new(kind, &refusal.reason));
    }

    async fn drained(&self) {
        self.worker.finish().await;
    }
}

/// How the request filters ended.
enum AfterRequestFilters {
    /// The route's action makes the response.
    Forward,
    /// A filter has made it.
    Responded,
}

/// What handles the requests of one route on one worker. Its methods are the phases of a request; each gets the request's context.
struct RouteHandler<'a> {
    worker: &'a Worker,
    local: &'a LocalSnapshot,
    route: &'a Route,
    pipeline: &'a Rc<LocalPipeline>,
}

impl<'a> RouteHandler<'a> {
    /// The handler of the route that has taken this request.
    fn new(worker: &'a Worker, local: &'a LocalSnapshot, context: &RequestContext) -> Self {
        let index = context.route.as_ref().map_or(0, |route| route.index);
        let route = &local.shared.routes[index];
        RouteHandler { worker, local, route, pipeline: local.pipeline(route.pipeline) }
    }

    /// The pipeline on the way in.
    async fn filter_request(&self, context: &mut RequestContext) -> Result<AfterRequestFilters, ProxyError> {
        let filters = self.pipeline.pipeline().filters();
        if !filters.is_empty() {
            let mut body = context.request_body.source(&self.worker.budget);
            let outcome = self.pipeline.on_request(&mut context.traversal, &mut body).await;
            let ended = context.traversal.ended();
            context.timings.request_filters = Some(ended.saturating_duration_since(context.start));
            match outcome {
                RequestOutcome::Continue => {}
                RequestOutcome::Respond { by } => {
                    context.responder = Responder::Filter(filters[by].name().clone());
                    return Ok(AfterRequestFilters::Responded);
                }
                RequestOutcome::Refused { by } => {
                    context.responder = Responder::Filter(filters[by].name().clone());
                    let (id, id_header) = (context.id.clone(), &self.local.shared.id_header);
                    if let Some(head) = &mut context.exchange().response {
                        respond::describe_refusal(head, &id, id_header);
                    }
                    return Ok(AfterRequestFilters::Responded);
                }
                RequestOutcome::Failed(failure) => return Err(ProxyError::filter(&failure)),
                RequestOutcome::Body(failure) => return Err(ProxyError::unbuffered_request(&failure)),
            }
        }
        // Refused before any of it is read, and after the pipeline, so that the refusal gets its headers (CORS).
        if context.request_too_large {
            let message = format!("a body of more than the {} bytes of the route", self.route.max_body);
            return Err(ProxyError::new(Kind::BodyTooLarge, message));
        }
        Ok(AfterRequestFilters::Forward)
    }

    /// Answers what may not go on to an upstream.
    fn end_here(&self, context: &mut RequestContext) -> Result<(), ProxyError> {
        match context.ends_here.as_deref() {
            Some(EndsHere::MaxForwards) if context.method == Method::OPTIONS => {
                context.responder = Responder::Gateway;
                let head = ResponseHead::new(ResponseSource::Gateway, StatusCode::NO_CONTENT);
                context.response_body = MessageBody::new(Body::Empty, Some(&head.headers));
                context.exchange().response = Some(Box::new(head));
                Ok(())
            }
            Some(EndsHere::MaxForwards) => {
                // RFC 9110 §9.3.8: a trace would show what proxies before this one have added.
                Err(ProxyError::new(Kind::MethodNotSupported, "TRACE with no forwards left"))
            }
            Some(EndsHere::NoUpgrade) => {
                Err(ProxyError::new(Kind::MethodNotSupported, "an extended CONNECT for a route that takes no upgrades"))
            }
            Some(EndsHere::NoPurge) => {
                Err(ProxyError::new(Kind::MethodNotAllowed, "`PURGE`, which the route grants to nobody"))
            }
            Some(EndsHere::Preflight { .. }) | None => {
                Err(ProxyError::new(Kind::MethodNotAllowed, "a preflight that no filter has answered"))
            }
        }
    }

    /// The pipeline on the way out. An error on the way takes the place of the response and passes the filters that are left.
    async fn filter_response(&self, context: &mut RequestContext) {
        let filters = self.pipeline.pipeline().filters();
        if filters.is_empty() {
            return;
        }
        self.join_request_pieces(context);
        loop {
            let mut body = context.response_body.source(&self.worker.budget);
            let error = match self.pipeline.on_response(&mut context.traversal, &mut body).await {
                ResponseOutcome::Continue => {
                    if let Some(by) = context.traversal.response_replaced_by() {
                        context.responder = Responder::Filter(filters[by].name().clone());
                    }
                    return;
                }
                ResponseOutcome::Failed(failure) => ProxyError::filter(&failure),
                ResponseOutcome::Body(failure) => ProxyError::unbuffered_response(&failure),
            };
            self.replace_response(context, &error);
        }
    }

    /// Puts the gateway's own answer to an error in the place of the response.
    fn replace_response(&self, context: &mut RequestContext, error: &ProxyError) {
        context.fail(error);
        context.responder = Responder::Gateway;
        let mut head = respond::problem(error, &context.id, &self.local.shared.id_header);
        match (error.kind, context.ends_here.as_deref()) {
            (Kind::MethodNotAllowed, Some(EndsHere::Preflight { allow })) => {
                head.headers.insert(ALLOW, allow.clone());
            }
            (Kind::MethodNotAllowed, Some(EndsHere::NoPurge)) => {
                // What else the upstream takes is not known here.
                head.headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            }
            _ => {}
        }
        context.response_body = MessageBody::new(Body::Empty, Some(&head.headers));
        let exchange = context.exchange();
        exchange.response_body_replaced = false;
        exchange.response = Some(head);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Handle<'a, F> = fn(&'a Proxy, &'a Rc<ConnectionInfo>, Box<request::Parts>, Body, Option<OnUpgrade>) -> F;

    /// The size of the future that handles a request.
    fn future_of<'a, F: Future>(_: Handle<'a, F>) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_future_of_a_request_is_small() {
        // It is allocated once for each request. Rare and large parts, such as opening a connection, are boxed within.
        let size = future_of(<Proxy as Service>::handle);
        assert!(size <= 2048, "what handles a request: {size} bytes");
    }
}
