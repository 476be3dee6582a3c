//! Deadlines that clients set: what they bound, and how the stream of a call ends that is over its time.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::context::RequestContext;
use super::error::{Kind, ProxyError};
use super::{RouteHandler, grpc};
use crate::deadline::Deadline;
use crate::http::body::{Body, BodyError};
use crate::http::grpc as http_grpc;
use crate::snapshot::routes::DeadlinePolicy;

/// When a client wants its answer, or no answer at all.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClientDeadline {
    /// When the response head has to be there.
    pub(super) until: Instant,
    /// When a call of gRPC has to be over, the stream of its response included.
    pub(super) call_until: Option<Instant>,
}

impl ClientDeadline {
    /// What a client says in these fields, where the policy heeds it.
    pub(super) fn of(policy: &DeadlinePolicy, headers: &HeaderMap, start: Instant, is_grpc: bool) -> Option<Self> {
        let of_call = if policy.grpc && is_grpc { http_grpc::timeout(headers) } else { None };
        let of_header = policy.header.as_ref().filter(|_| policy.trust_header).and_then(|name| {
            let millis = headers.get(name)?.to_str().ok()?.parse().ok()?;
            Some(Duration::from_millis(millis))
        });
        let least = of_call.into_iter().chain(of_header).min()?;
        let call_until = of_call.and_then(|of_call| start.checked_add(of_call));
        Some(ClientDeadline { until: start.checked_add(least)?, call_until })
    }

    /// The error of a request whose deadline is over before an upstream is asked.
    pub(super) fn check(self) -> Result<(), ProxyError> {
        if self.until > Instant::now() {
            return Ok(());
        }
        let message = "the client's deadline was over before an upstream was asked";
        Err(ProxyError::new(Kind::DeadlineExceeded, message))
    }
}

impl RouteHandler<'_> {
    /// The deadline of the client, where the route heeds it.
    pub(super) fn client_deadline(&self, context: &mut RequestContext) -> Option<ClientDeadline> {
        let policy = self.route.deadline.as_ref()?;
        let (start, is_grpc) = (context.start, context.grpc);
        ClientDeadline::of(policy, &context.exchange().request.headers, start, is_grpc)
    }

    /// When the response head has to be there, by the route or by the client, and whether it is by the client.
    pub(super) fn until(&self, start: Instant, client: Option<ClientDeadline>) -> (Option<Instant>, bool) {
        let of_route = self.route.timeouts.to_head().and_then(|whole| start.checked_add(whole));
        match client.map(|client| client.until) {
            Some(of_client) if of_route.is_none_or(|of_route| of_client < of_route) => (Some(of_client), true),
            Some(_) | None => (of_route, false),
        }
    }
}

/// A stream of a call of gRPC that ends with DEADLINE_EXCEEDED when its time is over.
pub(super) fn bounded(body: Body, until: Instant) -> Body {
    if body.is_end_stream() {
        return body;
    }
    let deadline = Deadline::after(until.saturating_duration_since(Instant::now()));
    Body::stream(Bounded { body: Some(body), deadline })
}

struct Bounded {
    /// `None` when the time is over.
    body: Option<Body>,
    deadline: Deadline,
}

impl HttpBody for Bounded {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        if this.deadline.poll_passed(cx).is_ready() {
            // Dropping it tells the upstream.
            this.body = None;
            return Poll::Ready(Some(Ok(Frame::trailers(grpc::deadline_exceeded()))));
        }
        Pin::new(body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        // The stream may end before its announced length.
        SizeHint::new()
    }
}
