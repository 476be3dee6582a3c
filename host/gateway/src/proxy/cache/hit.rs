//! The response out of the store: its content is the memory of the store, sent as it is.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderMap;
use http::{Method, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use sluice_cache::answer::{Answer, Content, Unsatisfiable, answer};
use sluice_cache::range::Segment;
use sluice_cache::store::Object;

use crate::exchange::{ResponseHead, ResponseSource};
use crate::http::body::{Body, BodyError};
use crate::proxy::RouteHandler;
use crate::proxy::body::MessageBody;
use crate::proxy::context::{RequestContext, Responder};
use crate::proxy::respond;
use crate::upstream::UpstreamResponse;

/// What a request gets of a stored response: the whole, a part, or that it has not changed.
pub(super) fn response(
    object: &Object,
    method: &Method,
    request: &HeaderMap,
    age: Option<Duration>,
) -> Result<UpstreamResponse, Unsatisfiable> {
    let Answer { status, head, content } = answer(object, method, request, age, boundary)?;
    let body = match content {
        Content::Empty => Body::Empty,
        Content::Part(part) => of_pieces(object.body().slice(part).collect()),
        Content::Multipart(segments) => {
            let mut pieces = VecDeque::new();
            for segment in segments {
                match segment {
                    Segment::Text(text) => pieces.push_back(text),
                    Segment::Content(part) => pieces.extend(object.body().slice(part)),
                }
            }
            of_pieces(pieces)
        }
    };
    Ok(of_parts(status, head, body))
}

pub(super) fn of_parts(status: StatusCode, headers: HeaderMap, body: Body) -> UpstreamResponse {
    let mut head = ResponseHead::new(ResponseSource::Upstream, status);
    head.headers = headers;
    UpstreamResponse { head: Box::new(head), body, upgraded: None }
}

/// All of the content.
pub(super) fn whole(object: &Object) -> Body {
    of_pieces(object.body().pieces().iter().cloned().collect())
}

fn of_pieces(mut pieces: VecDeque<Bytes>) -> Body {
    if pieces.len() <= 1 {
        return Body::full(pieces.pop_front().unwrap_or_default());
    }
    let left = pieces.iter().map(|piece| piece.len() as u64).sum();
    Body::stream(Pieces { pieces, left })
}

/// Letters and digits that stand nowhere in the content, by chance.
fn boundary() -> String {
    let random = RandomState::new();
    format!("{:016x}{:016x}", random.hash_one(0), random.hash_one(1))
}

struct Pieces {
    pieces: VecDeque<Bytes>,
    left: u64,
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let piece = self.pieces.pop_front();
        self.left -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

impl RouteHandler<'_> {
    /// Answers a request for a range that the stored response does not have.
    pub(super) fn refuse_range(&self, context: &mut RequestContext, fields: HeaderMap) {
        let head = respond::unsatisfiable(fields, &context.id, &self.local.shared.id_header);
        context.responder = Responder::Gateway;
        context.response_body = MessageBody::new(Body::Empty, Some(&head.headers));
        context.exchange().response = Some(head);
    }
}
