//! The phases before anything can be waited for: a request head is read, and the route found that takes it.

use std::cell::Cell;
use std::rc::Rc;

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, ALLOW, CONTENT_TYPE, EXPECT, LOCATION, ORIGIN, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, request};
use hyper::ext::Protocol;
use sluice_cache::invalidate::is_safe;

use super::body::{MessageBody, coded};
use super::compress::Wish;
use super::context::{EndsHere, MatchedRoute, RequestContext, Responder, UpgradeRequest};
use super::deadline::ClientDeadline;
use super::error::{Kind, ProxyError};
use super::grpc;
use super::inbound::{self, Inbound};
use super::respond;
use super::send::{OutgoingResponse, send};
use super::upstream::timed;
use super::worker::Worker;
use crate::exchange::{Exchange, ResponseHead, ResponseSource};
use crate::http::body::Body;
use crate::http::headers::HeaderClasses;
use crate::http::lookalikes::underscored;
use crate::http::target::routing_host;
use crate::http::trace;
use crate::route::{Ingress, Preflight, RequestView, RouteMatch};
use crate::server::{CloseConnection, ConnectionInfo, GoAway, OnUpgrade, Resource};
use crate::snapshot::LocalSnapshot;
use crate::snapshot::routes::Action;

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
    let mut inbound = match inbound::read(parts, connection) {
        Ok(inbound) => inbound,
        Err((parts, error)) => {
            // To a CONNECT, the 200 of gRPC would be a success.
            let connect = parts.method == Method::CONNECT || parts.extensions.get::<Protocol>().is_some();
            context.grpc = !connect && HeaderClasses::of(&parts.headers).has(HeaderClasses::GRPC);
            context.target = parts.uri.path_and_query().cloned();
            context.remember(&parts.headers);
            return Err(turn_away(local, context, &error));
        }
    };
    inbound::clean(&mut inbound, connection, (id_header, &context.id));
    if let Some(policies) = &connection.settings.hsts {
        context.hsts = policies.find(Some(routing_host(&inbound.head.authority))).cloned();
    }
    context.authority = Some(inbound.head.authority.clone());
    context.target = Some(inbound.head.target.clone());
    context.client = inbound.client;
    context.extended_connect = inbound.extended_connect;
    context.grpc = inbound.classes.has(HeaderClasses::GRPC) && !inbound.extended_connect;
    if inbound.classes.has(HeaderClasses::UNDERSCORE) {
        context.underscored = underscored(&inbound.head.headers);
    }
    // Before redirects and routes: an authority asks over clear text, and no route has to know of it.
    if let Some(challenges) = &local.shared.challenges
        && inbound.head.method == Method::GET
        && let Some(answer) =
            challenges.key_authorization(routing_host(&inbound.head.authority), inbound.head.target.path())
    {
        context.remember(&inbound.head.headers);
        return Err(show(context, answer));
    }
    if let Some((status, location)) = local.shared.https_redirects.find(&connection.listener, &inbound.head) {
        context.remember(&inbound.head.headers);
        return Err(redirect(context, status, location));
    }
    // Routes may ask for it. No upstream gets it but with the switch that it asks for.
    if let Some(protocol) = &inbound.upgrade {
        inbound.head.headers.insert(UPGRADE, protocol.clone());
    }
    let found = find_route(local, connection, &inbound);
    if inbound.upgrade.is_some() {
        inbound.head.headers.remove(UPGRADE);
    }
    let found = match found {
        Ok(found) => found,
        Err(NotFound { error, allow }) => {
            context.remember(&inbound.head.headers);
            let mut response = turn_away(local, context, &error);
            response.headers_mut().extend(allow.map(|methods| (ALLOW, methods)));
            return Err(response);
        }
    };
    if let Some(cause) = worker.overload.sheds(local.shared.routes[found.route.index].criticality) {
        let cause = (cause, worker.overload.is_out_of_memory());
        return Err(shed(local, context, &inbound.head.headers, found.route.index, cause));
    }
    context.ends_here = found.ends_here;
    context.invalidates = found.invalidates;
    if matches!(inbound.head.method, Method::OPTIONS | Method::TRACE)
        && inbound::spend_forward(&mut inbound.head)
        && matches!(local.shared.routes[found.route.index].action, Action::Forward(_))
    {
        context.ends_here.get_or_insert_with(|| Box::new(EndsHere::MaxForwards));
    }
    enter_route(&mut context, local, found.route, connection, inbound, body, on_upgrade);
    Ok(context)
}

/// The answer to a request that is refused since the gateway is overloaded. No filter sees it: a refusal is cheaper than a service.
#[cold]
fn shed(
    local: &LocalSnapshot,
    mut context: Box<RequestContext>,
    headers: &HeaderMap,
    route: usize,
    (cause, is_over): (Resource, bool),
) -> Box<Response<Body>> {
    context.remember(headers);
    let (metrics, name) = (local.shared.routes[route].metrics, local.facts(route).name.clone());
    context.route = Some(MatchedRoute { index: route, metrics, name });
    let mut response = turn_away(local, context, &ProxyError::new(Kind::Overloaded, "the gateway is overloaded"));
    match cause {
        Resource::Connections => {
            response.extensions_mut().insert(CloseConnection);
            response.extensions_mut().insert(GoAway);
        }
        // Where nothing else would be served on it either.
        Resource::Memory if is_over => {
            response.extensions_mut().insert(GoAway);
        }
        Resource::Memory | Resource::EventLoop => {}
    }
    response
}

/// The route of a request.
struct Found {
    route: RouteMatch,
    ends_here: Option<Box<EndsHere>>,
    invalidates: bool,
}

/// Why there is none.
struct NotFound {
    error: ProxyError,
    /// RFC 9110 §15.5.6: the methods that would have found one.
    allow: Option<HeaderValue>,
}

fn find_route(local: &LocalSnapshot, connection: &ConnectionInfo, inbound: &Inbound) -> Result<Found, NotFound> {
    let head = &inbound.head;
    let view = RequestView {
        ingress: &Ingress {
            listener: &connection.listener,
            scheme: &head.scheme,
            sni: connection.tls.as_ref().and_then(|tls| tls.sni.as_deref()),
        },
        host: routing_host(&head.authority),
        path: head.target.path(),
        method: &head.method,
        query: head.target.query(),
        headers: &head.headers,
        client_ip: inbound.client.ip(),
    };
    let found = match announced_method(&view) {
        None => local.shared.router.find(&view).map(|route| {
            let invalidates =
                local.shared.has_caches() && !is_safe(&head.method) && invalidates(local, &view, route.index);
            Found { route, ends_here: None, invalidates }
        }),
        Some(announced) => find_preflight(local, &view, &announced),
    };
    found.ok_or_else(|| {
        let (kind, allow) = match allowed(local, &view) {
            Some(methods) => (Kind::MethodNotAllowed, Some(methods)),
            None => (Kind::NoRoute, None),
        };
        NotFound { error: ProxyError::new(kind, format!("no route for {} {}", head.method, head.target.path())), allow }
    })
}

/// Whether a change by a route without a cache is one of what another route has stored (RFC 9111 §4.4).
#[cold]
fn invalidates(local: &LocalSnapshot, view: &RequestView, route: usize) -> bool {
    let has_cache = |route: usize| local.shared.routes.get(route).is_some_and(|route| route.cache.is_some());
    let of_get = || local.shared.router.find(&RequestView { method: &Method::GET, ..*view });
    !has_cache(route) && of_get().is_some_and(|found| has_cache(found.index))
}

/// The method of the request that a CORS preflight (the Fetch standard) announces.
fn announced_method(view: &RequestView) -> Option<Method> {
    if *view.method != Method::OPTIONS || !view.headers.contains_key(ORIGIN) {
        return None;
    }
    Method::from_bytes(view.headers.get(ACCESS_CONTROL_REQUEST_METHOD)?.as_bytes()).ok()
}

#[cold]
fn find_preflight(local: &LocalSnapshot, view: &RequestView, announced: &Method) -> Option<Found> {
    let has_filters = |route: usize| {
        let route = local.shared.routes.get(route);
        route.is_some_and(|route| !local.pipeline(route.pipeline).pipeline().filters().is_empty())
    };
    match local.shared.router.find_preflight(view, announced, has_filters)? {
        Preflight::AsOptions(route) => Some(Found { route, ends_here: None, invalidates: false }),
        Preflight::AsAnnounced(route) => {
            let allow = allowed(local, view).unwrap_or(HeaderValue::from_static(""));
            Some(Found { route, ends_here: Some(Box::new(EndsHere::Preflight { allow })), invalidates: false })
        }
    }
}

/// The methods that find a route for this request, if any does.
#[cold]
fn allowed(local: &LocalSnapshot, view: &RequestView) -> Option<HeaderValue> {
    let methods: Vec<&str> = local.shared.router.allowed(view).iter().map(|method| method.as_str()).collect();
    if methods.is_empty() { None } else { HeaderValue::try_from(methods.join(", ")).ok() }
}

/// The answer to a request that a listener sends to https.
fn redirect(mut context: Box<RequestContext>, status: StatusCode, location: HeaderValue) -> Box<Response<Body>> {
    context.responder = Responder::Gateway;
    let mut head = ResponseHead::new(ResponseSource::Gateway, status);
    head.headers.insert(LOCATION, location);
    send(OutgoingResponse::whole(Box::new(head)), context)
}

/// The answer to a challenge of an ACME authority (RFC 8555 §8.3).
fn show(mut context: Box<RequestContext>, key_authorization: String) -> Box<Response<Body>> {
    context.responder = Responder::Gateway;
    let mut head = ResponseHead::new(ResponseSource::Gateway, StatusCode::OK);
    head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    head.body = Some(key_authorization.into());
    send(OutgoingResponse::whole(Box::new(head)), context)
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
    let Inbound { mut head, classes, client: address, upgrade, extended_connect } = inbound;
    if classes.has(HeaderClasses::EXPECT) && !expects_continue(&head.headers, &body) {
        head.headers.remove(EXPECT);
    }
    context.upgrade_request = match (upgrade, on_upgrade) {
        (Some(protocol), Some(client)) if route.upgrade => Some(Box::new(UpgradeRequest { protocol, client })),
        _ => None,
    };
    if route.proxy_protocol {
        context.proxied = Some(Box::new(connection.proxied(address)));
    }
    if extended_connect && !route.upgrade {
        context.ends_here.get_or_insert_with(|| Box::new(EndsHere::NoUpgrade));
    }
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
    let until = route.timeouts.to_head().and_then(|limit| context.start.checked_add(limit));
    context.request_body = MessageBody::new(body, coded(&head.headers, classes)).within(until);
    let mut exchange = Exchange::new(context.id.clone(), address, head, local.facts(found.index).clone());
    exchange.params = found.params;
    exchange.until = until;
    if let Some(policy) = &route.deadline {
        let of_client = ClientDeadline::of(policy, &exchange.request.headers, context.start, context.grpc);
        exchange.until = of_client.map(|of_client| of_client.until).into_iter().chain(until).min();
    }
    if let Some(rule) = &route.compression {
        let has_certificate = connection.tls.as_ref().is_some_and(|tls| tls.client_certificate.is_some());
        context.compression = Some(Wish::of(&exchange.request.headers, rule, has_certificate));
    }
    exchange.client_certificate =
        connection.tls.as_ref().and_then(|tls| tls.client_certificate.as_ref()).map(|shown| shown.facts.clone());
    context.enter_route(local, found.index, exchange);
}

/// Whether there is something to wait for. RFC 9110 §10.1.1: a body that is here, or none, needs no leave, and nothing else that may be
/// expected is known here.
fn expects_continue(headers: &HeaderMap, body: &Body) -> bool {
    let is_known = headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    is_known && !matches!(body, Body::Empty | Body::Full { .. })
}

/// The answer to a request that no route has seen.
pub(super) fn turn_away(
    local: &LocalSnapshot,
    mut context: Box<RequestContext>,
    error: &ProxyError,
) -> Box<Response<Body>> {
    context.fail(error);
    context.responder = Responder::Gateway;
    let head = respond::problem(error, &context.id, &local.shared.id_header);
    let mut response = send(OutgoingResponse::whole(grpc::answer(head, &context)), context);
    if matches!(error.kind, Kind::BadRequest | Kind::MethodNotSupported) {
        response.extensions_mut().insert(CloseConnection);
    }
    response
}
