//! Faults that a route injects: a delay and an answer of the gateway's own before an upstream is chosen, a slow body after it has
//! answered. So none of them is an attempt at an endpoint, nor counts as one that failed.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Sleep;

use super::RouteHandler;
use super::body::MessageBody;
use super::context::{RequestContext, Responder};
use super::deadline::ClientDeadline;
use super::error::{Kind, ProxyError};
use crate::exchange::{ResponseHead, ResponseSource};
use crate::http::body::{Body, BodyError};
use crate::snapshot::routes::{AbortWith, Fault};

/// Parts of a slow body that a client gets in a second, at most.
const PARTS_PER_SECOND: u64 = 10;

/// The faults that a request has met.
#[derive(Default)]
pub(super) struct Injected {
    /// As logs and metrics name them, in the order in which they were injected.
    pub(super) names: Vec<&'static str>,
    /// The rate of the response body.
    pub(super) bytes_per_second: Option<u64>,
}

impl RouteHandler<'_> {
    /// Injects what comes before an upstream is asked. Answers whether the request has its response by that.
    pub(super) async fn inject(
        &self,
        context: &mut RequestContext,
        fault: &Fault,
        deadline: Option<ClientDeadline>,
    ) -> Result<bool, ProxyError> {
        let headers = &context.exchange().request.headers;
        if !fault.headers.iter().all(|wanted| wanted.holds(headers)) {
            return Ok(false);
        }
        if let Some(delay) = fault.delay
            && self.local.happens_to(delay.percent)
        {
            self.note(context, "delay");
            let left = self.until(context.start, deadline).0.map(|at| at.saturating_duration_since(Instant::now()));
            tokio::time::sleep(left.map_or(delay.duration, |left| delay.duration.min(left))).await;
            deadline.map_or(Ok(()), ClientDeadline::check)?;
            if left.is_some_and(|left| delay.duration >= left) {
                let message =
                    format!("an injected delay of {:?} took what was left of the request's time", delay.duration);
                return Err(ProxyError::new(Kind::InjectedDelay, message));
            }
        }
        if let Some(abort) = fault.abort
            && self.local.happens_to(abort.percent)
        {
            self.note(context, "abort");
            let head = aborted(abort.with);
            context.responder = Responder::Gateway;
            context.response_body = MessageBody::new(Body::Empty, Some(&head.headers));
            context.exchange().response = Some(Box::new(head));
            return Ok(true);
        }
        if let Some(slow) = fault.slow_body
            && self.local.happens_to(slow.percent)
        {
            self.note(context, "slow_body").bytes_per_second = Some(slow.bytes_per_second);
        }
        Ok(false)
    }

    fn note<'c>(&self, context: &'c mut RequestContext, name: &'static str) -> &'c mut Injected {
        self.local.metrics.fault_injected(self.route.metrics, name);
        let injected = context.faults.get_or_insert_default();
        injected.names.push(name);
        injected
    }
}

/// The answer in place of an upstream's.
fn aborted(with: AbortWith) -> ResponseHead {
    match with {
        AbortWith::Status(status) => {
            let mut head = ResponseHead::new(ResponseSource::Gateway, status);
            if !matches!(status.as_u16(), 204 | 205 | 304) {
                head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
                head.body = Some(Bytes::from_static(b"fault injected\n"));
            }
            head
        }
        // The form that has nothing but a head (Trailers-Only).
        AbortWith::Grpc(status) => {
            let mut head = ResponseHead::new(ResponseSource::Gateway, StatusCode::OK);
            head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            head.headers.insert(HeaderName::from_static("grpc-status"), HeaderValue::from(u16::from(status)));
            head.headers.insert(HeaderName::from_static("grpc-message"), HeaderValue::from_static("fault injected"));
            head
        }
    }
}

/// A body that comes in small parts, no faster than `bytes_per_second`.
pub(super) fn slowed(body: Body, bytes_per_second: u64) -> Body {
    if body.is_end_stream() {
        return body;
    }
    Body::stream(Slow { inner: body, bytes_per_second: bytes_per_second.max(1), held: Bytes::new(), pause: None })
}

struct Slow {
    inner: Body,
    bytes_per_second: u64,
    /// What was read and is not due yet.
    held: Bytes,
    pause: Option<Pin<Box<Sleep>>>,
}

impl HttpBody for Slow {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        if self.held.is_empty() {
            let Some(frame) = ready!(Pin::new(&mut self.inner).poll_frame(cx)) else { return Poll::Ready(None) };
            match frame.map(Frame::into_data) {
                Ok(Ok(data)) => self.held = data,
                Ok(Err(other)) => return Poll::Ready(Some(Ok(other))),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
        let part = usize::try_from(self.bytes_per_second / PARTS_PER_SECOND).unwrap_or(usize::MAX).max(1);
        let length = self.held.len().min(part);
        let data = self.held.split_to(length);
        let pause = Duration::from_secs_f64(length as f64 / self.bytes_per_second as f64);
        self.pause = Some(Box::pin(tokio::time::sleep(pause)));
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, held) = (self.inner.size_hint(), self.held.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(held));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(held));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test(flavor = "local")]
    async fn a_slow_body_comes_at_its_rate_and_whole() {
        let begun = Instant::now();
        let mut body = slowed(Body::full(vec![7; 5000]), 20_000);
        assert_eq!((body.exact_size(), body.is_end_stream()), (Some(5000), false));
        let mut parts = Vec::new();
        while let Some(frame) = body.frame().await {
            parts.push(frame.expect("a frame").into_data().expect("data").len());
        }
        assert_eq!(parts, [2000, 2000, 1000]);
        // The last part is waited for, but nothing after it.
        assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
    }
}
