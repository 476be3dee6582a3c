//! A pipeline at work: filter by filter on the way in (head, then body, then the next filter), in reverse on the way out.

use std::sync::Arc;

use http::header::CONTENT_TYPE;

use super::pipeline::{before, downward, upward};
use super::verdict::{Step, settle};
use super::{BodySource, BodySourceError, FailurePolicy, LocalPipeline, Passage};
use crate::exchange::Exchange;
use crate::wasm::{BodyInterest, FilterError, Hook};

/// A filter gave no verdict and its policy is `closed`.
#[derive(Debug, Clone)]
pub struct FilterFailure {
    /// Its index in the pipeline.
    pub by: usize,
    pub filter: Arc<str>,
    pub hook: Hook,
    pub error: FilterError,
}

/// How the request hooks ended.
#[derive(Debug)]
pub enum RequestOutcome {
    /// The request goes on to an upstream.
    Continue,
    /// The filter of this index has answered: `exchange.response`, with its body.
    Respond {
        by: usize,
    },
    Failed(FilterFailure),
    /// The body that the filter of this index asked for can't be had.
    Body {
        by: usize,
        error: BodySourceError,
    },
}

/// How the response hooks ended. After `Failed` and `Body` the response is to be replaced by an error, which
/// [`LocalPipeline::on_response`] takes through the filters that are left.
#[derive(Debug)]
pub enum ResponseOutcome {
    /// The response goes on to the client. If `exchange.response_body_replaced`, its body is `exchange.response.body` and what
    /// the upstream still sends is to be discarded.
    Continue,
    Failed(FilterFailure),
    /// The body that the filter of this index asked for can't be had.
    Body {
        by: usize,
        error: BodySourceError,
    },
}

/// The way of one message through one filter.
enum Way {
    Next,
    Respond,
    Failed(FilterFailure),
    Body(BodySourceError),
}

impl LocalPipeline {
    /// Calls the request hooks. `body` is the request's.
    pub async fn on_request<B: BodySource>(
        &self,
        mut exchange: Box<Exchange>,
        passage: &mut Passage,
        body: &mut B,
    ) -> (Box<Exchange>, RequestOutcome) {
        let all = self.pipeline.filters().len();
        passage.now = None;
        let mask = self.pipeline.mask(Hook::OnRequest) | self.pipeline.mask(Hook::OnRequestBody);
        for index in upward(mask) {
            let way;
            (exchange, way) = self.request_through(exchange, passage, body, index).await;
            let outcome = match way {
                Way::Next => continue,
                Way::Respond => RequestOutcome::Respond { by: index },
                Way::Failed(failure) => RequestOutcome::Failed(failure),
                Way::Body(error) => RequestOutcome::Body { by: index, error },
            };
            passage.request_ends(index + 1, index);
            return (exchange, outcome);
        }
        passage.request_ends(all, all);
        (exchange, RequestOutcome::Continue)
    }

    async fn request_through<B: BodySource>(
        &self,
        mut exchange: Box<Exchange>,
        passage: &mut Passage,
        body: &mut B,
        index: usize,
    ) -> (Box<Exchange>, Way) {
        if self.has(Hook::OnRequest, index) {
            let way;
            (exchange, way) = self.call(Hook::OnRequest, exchange, passage, index).await;
            if !matches!(way, Way::Next) || passage.is_absent(index) {
                return (exchange, way);
            }
        }
        let Some(max_bytes) = self.request_body_wanted(&exchange, body, index) else { return (exchange, Way::Next) };
        passage.now = None;
        match &exchange.request_body {
            Some(known) if known.len() as u64 > max_bytes => {
                return (exchange, Way::Body(BodySourceError::TooLarge(max_bytes)));
            }
            Some(_) => {}
            None => match Box::pin(body.buffer(max_bytes)).await {
                Ok(bytes) => exchange.request_body = Some(bytes),
                Err(error) => return (exchange, Way::Body(error)),
            },
        }
        self.call(Hook::OnRequestBody, exchange, passage, index).await
    }

    /// Calls the response hooks of the filters that saw the request, for `exchange.response`; `body` is its body as far as
    /// it isn't in `exchange.response.body` yet. Called again for an error that takes the place of the response, it goes on after
    /// the filter that failed.
    pub async fn on_response<B: BodySource>(
        &self,
        mut exchange: Box<Exchange>,
        passage: &mut Passage,
        body: &mut B,
    ) -> (Box<Exchange>, ResponseOutcome) {
        let mask = self.pipeline.mask(Hook::OnResponse) | self.pipeline.mask(Hook::OnResponseBody);
        passage.now = None;
        for index in downward(mask & before(passage.left) & !passage.absent) {
            passage.left = index;
            let way;
            (exchange, way) = self.response_through(exchange, passage, body, index).await;
            match way {
                // A replaced response passes the filters that are left like any other.
                Way::Next | Way::Respond => {}
                Way::Failed(failure) => return (exchange, ResponseOutcome::Failed(failure)),
                Way::Body(error) => return (exchange, ResponseOutcome::Body { by: index, error }),
            }
        }
        passage.left = 0;
        // Of a filter that wanted a body which was not collected, say.
        for (index, sandbox) in exchange.sandboxes.drain(..) {
            self.pools[index].take_back(sandbox);
        }
        (exchange, ResponseOutcome::Continue)
    }

    async fn response_through<B: BodySource>(
        &self,
        mut exchange: Box<Exchange>,
        passage: &mut Passage,
        body: &mut B,
        index: usize,
    ) -> (Box<Exchange>, Way) {
        if self.has(Hook::OnResponse, index) {
            let way;
            (exchange, way) = self.call(Hook::OnResponse, exchange, passage, index).await;
            if !matches!(way, Way::Next) || passage.is_absent(index) {
                return (exchange, way);
            }
        }
        let Some(max_bytes) = self.response_body_wanted(&exchange, body, index) else { return (exchange, Way::Next) };
        passage.now = None;
        let buffered = match exchange.response.as_ref().and_then(|response| response.body.as_ref()) {
            Some(known) if known.len() as u64 > max_bytes => Err(BodySourceError::TooLarge(max_bytes)),
            Some(_) => Ok(None),
            None => Box::pin(body.buffer(max_bytes)).await.map(Some),
        };
        match buffered {
            Ok(bytes) => {
                if let (Some(bytes), Some(response)) = (bytes, &mut exchange.response) {
                    response.body = Some(bytes);
                }
            }
            Err(error) => {
                let open = self.pipeline.filters()[index].failure() == FailurePolicy::Open;
                // A body that broke off can't be passed on by anybody.
                if open && !matches!(error, BodySourceError::Aborted(..)) {
                    self.pools[index].count_unseen_body();
                    return (exchange, Way::Next);
                }
                return (exchange, Way::Body(error));
            }
        }
        self.call(Hook::OnResponseBody, exchange, passage, index).await
    }

    /// Lets the filters choose an upstream: the first that chooses wins. `exchange.selection` has to be empty before.
    pub async fn select_upstream(
        &self,
        mut exchange: Box<Exchange>,
        passage: &mut Passage,
    ) -> (Box<Exchange>, Result<(), FilterFailure>) {
        passage.now = None;
        for index in upward(self.pipeline.mask(Hook::SelectUpstream) & before(passage.seen) & !passage.absent) {
            let way;
            (exchange, way) = self.call(Hook::SelectUpstream, exchange, passage, index).await;
            if let Way::Failed(failure) = way {
                return (exchange, Err(failure));
            }
            if !exchange.selection.is_empty() {
                break;
            }
        }
        (exchange, Ok(()))
    }

    /// Shows the trailers in `exchange.response.trailers` to the filters that saw the response. A failure means that the
    /// response can't be ended well.
    pub async fn on_response_trailers(
        &self,
        mut exchange: Box<Exchange>,
        passage: &mut Passage,
    ) -> (Box<Exchange>, Result<(), FilterFailure>) {
        passage.now = None;
        let mask = self.pipeline.mask(Hook::OnResponseTrailers) & before(passage.behind) & !passage.absent;
        for index in downward(mask) {
            let way;
            (exchange, way) = self.call(Hook::OnResponseTrailers, exchange, passage, index).await;
            if let Way::Failed(failure) = way {
                return (exchange, Err(failure));
            }
        }
        (exchange, Ok(()))
    }

    /// Shows the finished exchange to the filters that saw its request. Failures are logged and counted.
    pub(super) async fn on_complete(&self, mut exchange: Box<Exchange>, passage: &mut Passage) {
        for index in upward(self.complete_mask(passage)) {
            passage.now = None;
            (exchange, _) = self.call(Hook::OnComplete, exchange, passage, index).await;
            tokio::task::yield_now().await;
        }
    }

    pub(super) fn complete_mask(&self, passage: &Passage) -> u64 {
        self.pipeline.mask(Hook::OnComplete) & before(passage.seen) & !passage.absent
    }

    fn has(&self, hook: Hook, index: usize) -> bool {
        self.pipeline.mask(hook) & (1 << index) != 0
    }

    async fn call(
        &self,
        hook: Hook,
        exchange: Box<Exchange>,
        passage: &mut Passage,
        index: usize,
    ) -> (Box<Exchange>, Way) {
        let pool = &self.pools[index];
        let (mut exchange, result) = match pool.call_now(hook, exchange, index, &mut passage.now) {
            Ok(called) => called,
            // Rare and large: boxed, since the future of a request, which is moved when it is made, would have it in it.
            Err(exchange) => {
                passage.now = None;
                Box::pin(pool.call(hook, exchange, index)).await
            }
        };
        let way = match settle(&self.pipeline.filters()[index], hook, &mut exchange, result) {
            Step::Continue => Way::Next,
            Step::Respond => Way::Respond,
            Step::Absent => {
                passage.absent |= 1 << index;
                Way::Next
            }
            Step::Failed(error) => {
                let filter = self.pipeline.filters()[index].name().clone();
                Way::Failed(FilterFailure { by: index, filter, hook, error })
            }
        };
        (exchange, way)
    }

    /// How much of the request's body the filter wants, if any.
    fn request_body_wanted<B: BodySource>(&self, exchange: &Exchange, body: &B, index: usize) -> Option<u64> {
        if !self.has(Hook::OnRequestBody, index) {
            return None;
        }
        if let Some(wish) = exchange.request_body_wish.filter(|wish| wish.filter == index) {
            return Some(wish.max_bytes);
        }
        let has_body = exchange.request_body.as_ref().map_or(!body.is_empty(), |body| !body.is_empty());
        let interest = self.pipeline.filters()[index].program.interests().request_body.as_ref()?;
        wanted(interest, has_body, exchange.request.headers.get(CONTENT_TYPE))
    }

    /// How much of the response's body the filter wants, if any.
    fn response_body_wanted<B: BodySource>(&self, exchange: &Exchange, body: &B, index: usize) -> Option<u64> {
        if !self.has(Hook::OnResponseBody, index) {
            return None;
        }
        if let Some(wish) = exchange.response_body_wishes.iter().find(|wish| wish.filter == index) {
            return Some(wish.max_bytes);
        }
        let response = exchange.response.as_ref()?;
        let has_body = response.body.as_ref().map_or(!body.is_empty(), |body| !body.is_empty());
        let interest = self.pipeline.filters()[index].program.interests().response_body.as_ref()?;
        wanted(interest, has_body, response.headers.get(CONTENT_TYPE))
    }
}

fn wanted(interest: &BodyInterest, has_body: bool, content_type: Option<&http::HeaderValue>) -> Option<u64> {
    (has_body && interest.matches(content_type)).then_some(interest.max_bytes)
}
