//! The phases before anything can be waited for: a request head is read, and the route found that takes it.

use std::cell::Cell;
use std::rc::Rc;

use http::{Response, request};

use super::body::{MessageBody, coded};
use super::context::{RequestContext, UpgradeRequest};
use super::error::{Kind, ProxyError};
use super::inbound::{self, Inbound};
use super::respond;
use super::send::{OutgoingResponse, send};
use super::upstream::timed;
use super::worker::Worker;
use crate::exchange::Exchange;
use crate::http::body::Body;
use crate::http::target::routing_host;
use crate::http::trace;
use crate::route::{RequestView, RouteMatch};
use crate::server::{CloseConnection, ConnectionInfo, OnUpgrade};
use crate::snapshot::LocalSnapshot;

/// Reads a request and finds its route. The refusal is the whole response.
pub(super) fn receive(
    worker: &Rc<Worker>,
    local: &LocalSnapshot,
    connection: &ConnectionInfo,
    parts: Box<request::Parts>,
    body: Body,
    on_upgrade: Option<OnUpgrade>,
) -> Result<Box<RequestContext>, Box<Response<Body>>> {
    let id_header = &local.shared.id_header;
    let id = trace::request_id(&parts.headers, id_header, connection.peer.trusted);
    let mut context = RequestContext::new(worker, connection, &parts.method, parts.version, id);
    let inbound = match inbound::read(parts, connection) {
        Ok(inbound) => inbound,
        Err(error) => return Err(turn_away(local, context, &error)),
    };
    context.authority = Some(inbound.head.authority.clone());
    context.target = Some(inbound.head.target.clone());
    context.client = inbound.client;
    let found = match find_route(local, &inbound) {
        Ok(found) => found,
        Err(error) => return Err(turn_away(local, context, &error)),
    };
    enter_route(&mut context, local, found, connection, inbound, body, on_upgrade);
    Ok(context)
}

fn find_route(local: &LocalSnapshot, inbound: &Inbound) -> Result<RouteMatch, ProxyError> {
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

/// Makes the exchange of a request whose route is known, and bounds its body as the route says.
fn enter_route(
    context: &mut RequestContext,
    local: &LocalSnapshot,
    found: RouteMatch,
    connection: &ConnectionInfo,
    inbound: Inbound,
    body: Body,
    on_upgrade: Option<OnUpgrade>,
) {
    let route = &local.shared.routes[found.index];
    let Inbound { mut head, classes, client: address, upgrade } = inbound;
    inbound::clean(&mut head, classes, connection, (&local.shared.id_header, &context.id));
    context.upgrade_request = match (upgrade, on_upgrade) {
        (Some(protocol), Some(client)) if route.upgrade => Some(Box::new(UpgradeRequest { protocol, client })),
        _ => None,
    };
    context.request_too_large = body.exact_size().is_some_and(|length| length > route.max_body);
    let body = match body {
        Body::Empty => body,
        body => {
            let progress = Rc::new(Cell::new(context.start));
            let body = body.limited(route.max_body).counted(Rc::clone(context.bytes_in.get_or_insert_default()));
            let body = timed(body, route.timeouts.idle, Some(&progress));
            context.progress = Some(progress);
            body
        }
    };
    let until = route.timeouts.request.and_then(|limit| context.start.checked_add(limit));
    context.request_body = MessageBody::new(body, coded(&head.headers, classes)).within(until);
    let mut exchange = Exchange::new(context.id.clone(), address, head, local.facts(found.index).clone());
    exchange.params = found.params;
    exchange.client_certificate =
        connection.tls.as_ref().and_then(|tls| tls.client_certificate.as_ref()).map(|shown| shown.facts.clone());
    context.enter_route(local, found.index, exchange);
}

/// The answer to a request that no route has seen.
pub(super) fn turn_away(
    local: &LocalSnapshot,
    mut context: Box<RequestContext>,
    error: &ProxyError,
) -> Box<Response<Body>> {
    context.fail(error);
    context.responder = super::context::Responder::Gateway;
    let head = respond::problem(error, &context.id, &local.shared.id_header);
    let mut response = send(OutgoingResponse::whole(head), context);
    if matches!(error.kind, Kind::BadRequest | Kind::MethodNotSupported) {
        response.extensions_mut().insert(CloseConnection);
    }
    response
}
