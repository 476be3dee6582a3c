//! Calls of filters to upstreams: each is a request as those of a route, with the settings that routes have by default, and goes through the one
//! retry loop. It has no filters, no line in the access log, and counts as no request of a route.

use std::pin::Pin;
use std::rc::Rc;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Version};

use super::RouteHandler;
use super::admission::note_outcome;
use super::context::RequestContext;
use super::error::{Kind, ProxyError};
use super::outgoing::FOREVER;
use super::worker::Worker;
use crate::exchange::{Caller, Exchange, RequestHead};
use crate::filter::Traversal;
use crate::http::forwarded::ClientAddress;
use crate::outbound::{UpstreamCall, UpstreamCalls, whole};
use crate::services::ServiceError;
use crate::services::outbound::{CallContext, Incoming};
use crate::snapshot::LocalSnapshot;
use crate::upstream::{Extras, OutgoingRequest, Timeouts};

/// What becomes of calls, for the metrics.
const RESPONSE: &str = "response";

impl UpstreamCalls for Worker {
    fn call(self: Rc<Self>, call: UpstreamCall) -> Pin<Box<dyn Future<Output = Result<Incoming, ServiceError>>>> {
        Box::pin(async move {
            let local = self.snapshot_of(call.made_for.snapshot);
            let named = local.upstreams.iter().position(|known| **known.upstream.name() == *call.upstream);
            let Some(index) = named else {
                // The grants are checked against the configuration, but a hook may outlive its own by a reload.
                return Err(ServiceError::Unavailable(format!("upstream `{}` is no more", call.upstream)));
            };
            let answer = send(&self, &local, index, call).await;
            let outcome = match &answer {
                Ok(_) => RESPONSE,
                Err(ServiceError::Timeout) => "timeout",
                Err(ServiceError::TooLarge(_)) => "too-large",
                Err(_) => "unavailable",
            };
            local.metrics.called(local.upstreams[index].metrics, outcome);
            answer
        })
    }
}

async fn send(
    worker: &Rc<Worker>,
    local: &LocalSnapshot,
    index: usize,
    call: UpstreamCall,
) -> Result<Incoming, ServiceError> {
    let UpstreamCall { upstream, mut request, made_for, until, max_body } = call;
    let route = &local.shared.calls;
    let handler = RouteHandler { worker, local, route, pipeline: local.pipeline(route.pipeline) };
    // What the filter has set is as it wants it.
    let own = [(&local.shared.id_header, &made_for.request_id)].into_iter();
    for (name, value) in own.chain(made_for.trace.iter().map(|(name, value)| (name, value))) {
        request.headers_mut().entry(name).or_insert_with(|| value.clone());
    }
    let mut context = context(worker, local, &made_for, request.method(), request.uri().path_and_query());
    context.weighted = index;
    let timeouts = Timeouts {
        connect: route.timeouts.connect,
        // `until` bounds it. How little time a filter or a client leaves a call says nothing of the endpoint.
        first_byte: route.timeouts.first_byte.unwrap_or(FOREVER),
        until: Some(until),
        whole: None,
    };
    let mut request = OutgoingRequest::new(Box::new(request), timeouts, &worker.budget);
    if let Some(policy) = &route.retry {
        request = request.with(Extras {
            until: Some(until),
            per_try_timeout: policy.per_try_timeout,
            replay: usize::try_from(policy.body.0).unwrap_or(usize::MAX),
            attempt_header: policy.attempt_header.as_ref(),
            ..Extras::default()
        });
    }
    let mut outcome = Box::pin(handler.ask_upstream(&mut context, &[index], &mut request)).await;
    note_outcome(&mut context, outcome.as_mut().ok(), &request);
    let name = format!("upstream `{upstream}`");
    match outcome {
        Ok(response) => {
            let head = *response.head;
            // Until the answer is in, the call is one of the requests that limits count.
            let answer = whole(&name, (head.status, head.headers), response.body, max_body, &worker.budget);
            let answer = tokio::time::timeout_at(until.into(), answer).await;
            drop(context);
            answer.unwrap_or(Err(ServiceError::Timeout))
        }
        Err(error) => unanswered(&name, error, max_body),
    }
}

/// What the retry loop knows of a request, for one that no client has sent.
fn context(
    worker: &Rc<Worker>,
    local: &LocalSnapshot,
    made_for: &CallContext,
    method: &Method,
    target: Option<&PathAndQuery>,
) -> Box<RequestContext> {
    let client = made_for.client.map_or(ClientAddress::Unix, ClientAddress::from);
    let head = RequestHead {
        method: method.clone(),
        scheme: Scheme::HTTP,
        authority: Authority::from_static("upstream"),
        target: target.cloned().unwrap_or(PathAndQuery::from_static("/")),
        version: Version::HTTP_11,
        headers: http::HeaderMap::new(),
    };
    let mut exchange = Exchange::new(made_for.request_id.clone(), client, head, local.shared.calls.facts.clone());
    exchange.context.set_caller(made_for.consumer.clone().map(|name| Caller { name, known: None }));
    let mut context = RequestContext::of_call(worker, client, method, made_for.request_id.clone());
    context.traversal = Traversal::new(exchange);
    context
}

/// What a filter is told of a call without an answer; or the answer that the configuration has in place of the upstream's.
fn unanswered(name: &str, error: ProxyError, max_body: usize) -> Result<Incoming, ServiceError> {
    if let Some(fixed) = error.advice.as_ref().and_then(|advice| advice.respond.as_ref()) {
        if fixed.body.len() > max_body {
            return Err(ServiceError::TooLarge(max_body as u64));
        }
        return Ok(Incoming { status: fixed.status, headers: fixed.headers.clone(), body: fixed.body.clone() });
    }
    match error.kind {
        Kind::UpstreamTimeout | Kind::ConnectTimeout | Kind::DeadlineExceeded => Err(ServiceError::Timeout),
        _ if error.detail.contains(name) => Err(ServiceError::Unavailable(error.detail)),
        _ => Err(ServiceError::Unavailable(format!("{name}: {}", error.detail))),
    }
}
