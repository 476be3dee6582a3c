//! The last phase: the response head and its body become what the connection sends. The request's context follows them to the last
//! byte.

use std::rc::Rc;

use http::header::{
    CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, STRICT_TRANSPORT_SECURITY, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use super::context::{RequestContext, Responder, SharedTraversal};
use super::error::{Kind, ProxyError};
use super::{RouteHandler, grpc, respond, tunnel};
use crate::exchange::{ResponseHead, ResponseSource};
use crate::filter::{Hook, LocalPipeline};
use crate::http::body::{Body, BodyError};
use crate::http::headers;

impl RouteHandler<'_> {
    /// The response, with what has to happen while and after its body is sent.
    pub(super) fn send(&self, mut context: Box<RequestContext>) -> Box<Response<Body>> {
        // What nobody has read of the request by now is not wanted.
        drop(context.request_body.take());
        let exchange = context.traversal.exchange();
        let replaced = exchange.response_body_replaced;
        let Some(head) = exchange.response.take() else {
            // Every way to here leaves a response; an exchange without one would be a bug of ours, not a reason to panic.
            let error = ProxyError::new(Kind::FilterFailed, "no response");
            context.fail(&error);
            let head = respond::problem(&error, &context.id, &self.local.shared.id_header);
            return send(OutgoingResponse::whole(grpc::answer(head, &context)), context);
        };
        if head.status == StatusCode::SWITCHING_PROTOCOLS
            && context.upgrade_request.is_some()
            && context.accepted_upgrade.is_some()
        {
            return self.switch_protocols(head, context);
        }
        let (head, replaced) = match context.extended_connect && !is_refusal(head.status) {
            true => (self.refuse_stream(&mut context, head.status), false),
            false => (head, replaced),
        };
        let head = grpc::answer(head, &context);
        let takes_pieces = context.traversal.takes_response_pieces();
        let codings = match takes_pieces && !replaced && head.origin == ResponseSource::Upstream {
            // What can't be decoded is not shown to filters.
            true => context.response_body.codings().unwrap_or_default(),
            false => Vec::new(),
        };
        let body = context.response_body.take();
        let trailers = self.pipeline.pipeline().has(Hook::OnResponseTrailers);
        // The hooks to come see the head; its body is on its way.
        let later = (trailers || takes_pieces || context.completes())
            .then(|| Box::new(ResponseHead { body: None, ..(*head).clone() }));
        let mut response = match (head.origin, replaced) {
            (ResponseSource::Upstream, false) => OutgoingResponse { head, body },
            (_, true) => OutgoingResponse::replaced(head),
            (ResponseSource::Filter | ResponseSource::Gateway, false) => OutgoingResponse::whole(head),
        };
        if replaced || response.head.origin != ResponseSource::Upstream {
            context.stored = None;
        }
        self.keep_for_later_hooks(&mut context, later);
        let flows = match takes_pieces {
            true => self.pipeline.response_flows(&mut context.traversal, &self.worker.budget),
            false => Vec::new(),
        };
        let shared = (trailers || takes_pieces).then(|| context.share_traversal());
        if takes_pieces && let Some(shared) = &shared {
            context.stored = None;
            self.stream_response(&mut response, flows, &codings, shared);
        }
        self.compress(&mut context, &mut response);
        if trailers && let Some(shared) = shared {
            let pipeline = Rc::clone(self.pipeline);
            response.body = response.body.with_trailers_hook(move |trailers| run_hooks(pipeline, shared, trailers));
        }
        send(response, context)
    }

    /// RFC 8441 §4: to an extended CONNECT, a success would open a stream with nobody behind it.
    #[cold]
    fn refuse_stream(&self, context: &mut RequestContext, status: StatusCode) -> Box<ResponseHead> {
        let detail = format!("an extended CONNECT that was answered by {status} without a switch of protocols");
        let error = ProxyError::new(Kind::MethodNotSupported, detail);
        context.fail(&error);
        context.responder = Responder::Gateway;
        respond::problem(&error, &context.id, &self.local.shared.id_header)
    }

    /// Leaves of the exchange what later hooks can read: all but the bodies, or nothing where no hook comes.
    fn keep_for_later_hooks(&self, context: &mut RequestContext, head: Option<Box<ResponseHead>>) {
        let Some(head) = head else {
            let exchange = context.traversal.exchange();
            let (kept, places) = (std::mem::take(&mut exchange.kept), std::mem::take(&mut exchange.places));
            (context.charge, context.places) = (kept.into_charge(), places);
            return context.traversal.clear();
        };
        let exchange = context.traversal.exchange();
        exchange.response = Some(head);
        // Exchanges may wait long for `on-complete`.
        exchange.request_body = None;
        exchange.sandboxes.clear();
    }

    /// `101 Switching Protocols`, or the success of an extended CONNECT, and both sides joined in a task of their own.
    fn switch_protocols(&self, head: Box<ResponseHead>, mut context: Box<RequestContext>) -> Box<Response<Body>> {
        let mut response = Box::new(Response::new(Body::Empty));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.headers_mut() = head.headers;
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        let (request, accepted) = (context.upgrade_request.take(), context.accepted_upgrade.take());
        let (Some(request), Some(accepted)) = (request, accepted) else { return response };
        if let Some(protocol) = accepted.protocol {
            response.headers_mut().insert(UPGRADE, protocol);
        }
        // Over HTTP/2, too, so that logs and metrics have one number for it.
        context.status = Some(StatusCode::SWITCHING_PROTOCOLS);
        context.reason = head.reason;
        let later = context.completes().then(|| {
            let mut head = ResponseHead::new(ResponseSource::Upstream, StatusCode::SWITCHING_PROTOCOLS);
            head.headers = response.headers().clone();
            Box::new(head)
        });
        self.keep_for_later_hooks(&mut context, later);
        context.head_ready();
        if context.extended_connect {
            // RFC 8441 §5.
            *response.status_mut() = StatusCode::OK;
            for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_ACCEPT] {
                response.headers_mut().remove(name);
            }
        }
        let timeouts = &self.route.timeouts;
        tunnel::join(request.client, accepted.upstream, timeouts.idle, timeouts.max_stream_duration, context);
        response
    }
}

/// Whether a status refuses a CONNECT.
fn is_refusal(status: StatusCode) -> bool {
    !status.is_success() && !status.is_informational()
}

/// A response that is ready to be sent.
pub(super) struct OutgoingResponse {
    pub(super) head: Box<ResponseHead>,
    pub(super) body: Body,
}

impl OutgoingResponse {
    /// A response whose body is in its head.
    pub(super) fn whole(mut head: Box<ResponseHead>) -> Self {
        let body = Body::full(head.body.take().unwrap_or_default());
        OutgoingResponse { head, body }
    }

    /// A response whose body a filter or the gateway has set, in place of what the upstream sent.
    fn replaced(mut head: Box<ResponseHead>) -> Self {
        // The old framing and coding described other bytes. The connection writes the length of the new ones.
        head.headers.remove(CONTENT_LENGTH);
        head.headers.remove(TRANSFER_ENCODING);
        head.headers.remove(CONTENT_ENCODING);
        OutgoingResponse::whole(head)
    }
}

/// The response as the connection takes it, with the context following it to its last byte.
pub(super) fn send(response: OutgoingResponse, mut context: Box<RequestContext>) -> Box<Response<Body>> {
    let OutgoingResponse { head, body } = response;
    let ResponseHead { status, mut headers, reason, .. } = *head;
    context.status = Some(status);
    context.reason = reason;
    if context.grpc {
        context.grpc_status = grpc::status(&headers);
    }
    context.head_ready();
    if let Some(value) = context.hsts.take() {
        // RFC 6797 §7.1: once, so that of the upstream goes.
        headers.insert(STRICT_TRANSPORT_SECURITY, HeaderValue::clone(&value));
    }
    // RFC 9110 §6.4.1: these have no body, whatever a filter has set.
    if status == StatusCode::NO_CONTENT {
        headers.remove(CONTENT_LENGTH);
    }
    // RFC 9110 §9.3.2: a HEAD is told the length and gets no body, over HTTP/2 too.
    let head = context.method == Method::HEAD;
    if head
        && !headers.contains_key(CONTENT_LENGTH)
        && let Some(length) = body.exact_size().filter(|length| *length > 0)
    {
        headers.insert(CONTENT_LENGTH, length.into());
    }
    let bodiless = head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let body = if bodiless { Body::Empty } else { body };
    let mut response = Box::write(Box::new_uninit(), Response::new(body.watched(context)));
    *response.status_mut() = status;
    headers::fill(response.headers_mut(), headers);
    response
}

async fn run_hooks(
    pipeline: Rc<LocalPipeline>,
    shared: SharedTraversal,
    trailers: HeaderMap,
) -> Result<HeaderMap, BodyError> {
    // It is empty where the request is over.
    let mut traversal = shared.take();
    let Some(exchange) = traversal.exchange_if_present() else { return Ok(trailers) };
    if let Some(response) = &mut exchange.response {
        response.trailers = Some(trailers);
    }
    let outcome = pipeline.on_response_trailers(&mut traversal).await;
    let response = traversal.exchange().response.as_mut();
    let trailers = response.and_then(|response| response.trailers.take()).unwrap_or_default();
    shared.replace(traversal);
    match outcome {
        Ok(()) => Ok(trailers),
        Err(failure) => Err(BodyError::Filter(Box::new(failure.error))),
    }
}
