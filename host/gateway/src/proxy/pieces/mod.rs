//! Bodies that stream through the filters of a route piece by piece, in both directions: they are decoded, and their heads say no more than
//! what still holds. Which filters take part was found out on the way of the head (`filter/pieces.rs`).

mod stream;

use std::cell::RefCell;
use std::rc::Rc;

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};

use self::stream::Streamed;
use super::RouteHandler;
use super::context::{RequestContext, SharedTraversal};
use super::error::{Kind, ProxyError};
use super::send::OutgoingResponse;
use crate::filter::Flow;
use crate::http::body::Body;
use crate::http::coding::{Coding, decoded};
use crate::http::compression::{forget_digests, weaken};

impl RouteHandler<'_> {
    /// The body of a request as it goes through its filters to the upstream. Its hooks have an exchange of their own: those of the response may
    /// be called at the same time.
    pub(super) fn stream_request(
        &self,
        context: &mut RequestContext,
        body: Body,
        codings: &[Coding],
    ) -> Result<Body, ProxyError> {
        let budget = &self.worker.budget;
        let fork = context
            .traversal
            .fork(budget)
            .map_err(|error| ProxyError::new(Kind::OutOfMemory, format!("the exchange of a request body: {error}")))?;
        let flows = self.pipeline.request_flows(&fork, budget);
        open_up(&mut context.exchange().request.headers);
        // What the client may send holds for what comes out, too.
        let body = decoded(body, codings, budget).limited(self.route.max_body);
        let shared = Rc::new(RefCell::new(fork));
        context.request_pieces = Some(Rc::clone(&shared));
        Ok(self.stream(body, flows, &shared))
    }

    /// Hands what filters have kept with the pieces of the request to the response hooks.
    pub(super) fn join_request_pieces(&self, context: &mut RequestContext) {
        if let Some(pieces) = context.request_pieces.take() {
            context.traversal.join(&mut pieces.borrow_mut());
        }
    }

    /// The body of a response as it goes through its filters to the client.
    pub(super) fn stream_response(
        &self,
        response: &mut OutgoingResponse,
        flows: Vec<Flow>,
        codings: &[Coding],
        shared: &SharedTraversal,
    ) {
        open_up(&mut response.head.headers);
        weaken(&mut response.head.headers);
        let body = decoded(std::mem::take(&mut response.body), codings, &self.worker.budget);
        response.body = self.stream(body, flows, shared);
    }

    /// The first of them is the first to see it.
    fn stream(&self, body: Body, flows: Vec<Flow>, shared: &SharedTraversal) -> Body {
        flows.into_iter().fold(body, |body, flow| {
            Body::stream(Streamed::new(body, flow, Rc::clone(self.pipeline), Rc::clone(shared)))
        })
    }
}

/// Takes away what describes other bytes than those that are sent.
fn open_up(head: &mut HeaderMap) {
    head.remove(CONTENT_LENGTH);
    head.remove(CONTENT_ENCODING);
    forget_digests(head);
}
