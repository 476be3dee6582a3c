//! The last step: a response head and its body become what the connection sends, followed by the record to the last byte.

use std::cell::RefCell;
use std::rc::Rc;

use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Response, StatusCode};

use super::record::Record;
use crate::exchange::{Exchange, ResponseHead};
use crate::filter::{LocalPipeline, Passage};
use crate::http::body::{Body, BodyError};
use crate::http::headers;

/// An exchange that hooks after the head may still need. Empty while a call has it.
pub(super) type Parked = Rc<RefCell<Option<(Box<Exchange>, Passage)>>>;

/// A response that is ready to be sent.
pub(super) struct Answer {
    head: Box<ResponseHead>,
    body: Body,
}

impl Answer {
    /// An answer whose body is in its head.
    pub(super) fn whole(mut head: Box<ResponseHead>) -> Self {
        let body = Body::full(head.body.take().unwrap_or_default());
        Answer { head, body }
    }

    /// An answer whose body a filter or the gateway has set, in place of what the upstream sent.
    pub(super) fn replaced(mut head: Box<ResponseHead>) -> Self {
        // The old framing and coding described other bytes. The connection writes the length of the new ones.
        head.headers.remove(CONTENT_LENGTH);
        head.headers.remove(TRANSFER_ENCODING);
        head.headers.remove(CONTENT_ENCODING);
        Answer::whole(head)
    }

    /// The upstream's body as it comes.
    pub(super) fn streamed(head: Box<ResponseHead>, body: Body) -> Self {
        Answer { head, body }
    }

    /// Has the trailers pass `on-response-trailers`.
    pub(super) fn with_trailer_hooks(mut self, pipeline: Rc<LocalPipeline>, parked: Parked) -> Self {
        self.body = self.body.with_trailers_hook(move |trailers| hook(pipeline, parked, trailers));
        self
    }

    /// The response, with the record following it to its last byte.
    pub(super) fn send(self, mut record: Box<Record>) -> Box<Response<Body>> {
        let ResponseHead { status, mut headers, .. } = *self.head;
        record.status = Some(status);
        record.answered_now();
        // RFC 9110 §6.4.1: these have no body, whatever a filter has set.
        if status == StatusCode::NO_CONTENT {
            headers.remove(CONTENT_LENGTH);
        }
        // RFC 9110 §9.3.2: a HEAD is told the length and gets no body, over HTTP/2 too.
        let head = record.method == Method::HEAD;
        if head
            && !headers.contains_key(CONTENT_LENGTH)
            && let Some(length) = self.body.exact_size().filter(|length| *length > 0)
        {
            headers.insert(CONTENT_LENGTH, length.into());
        }
        let bodiless = head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let body = if bodiless { Body::Empty } else { self.body };
        let mut response = Box::write(Box::new_uninit(), Response::new(body.watched(record)));
        *response.status_mut() = status;
        headers::fill(response.headers_mut(), headers);
        response
    }
}

async fn hook(pipeline: Rc<LocalPipeline>, parked: Parked, trailers: HeaderMap) -> Result<HeaderMap, BodyError> {
    let Some((mut exchange, mut passage)) = parked.take() else { return Ok(trailers) };
    if let Some(response) = &mut exchange.response {
        response.trailers = Some(trailers);
    }
    let outcome;
    (exchange, outcome) = pipeline.on_response_trailers(exchange, &mut passage).await;
    let trailers = exchange.response.as_mut().and_then(|response| response.trailers.take()).unwrap_or_default();
    parked.replace(Some((exchange, passage)));
    match outcome {
        Ok(()) => Ok(trailers),
        Err(failure) => Err(BodyError::Filter(Box::new(failure.error))),
    }
}
