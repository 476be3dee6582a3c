//! A pipeline at work: filter by filter on the way in (head, then body, then the next filter), in reverse on the way out.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};

use super::pipeline::{before, downward, upward};
use super::verdict::{CallOutcome, log_unread, settle, settle_since};
use super::{BodyFailure, BodySource, BodySourceError, FailurePolicy, Filter, LocalPipeline, Traversal};
use crate::exchange::Exchange;
use crate::http::compression::{forget_digests, weaken};
use crate::wasm::{BodyInterest, Called, FilterError, Hook, Phase, Unread, Verdict};

/// A filter gave no verdict and its policy is `closed`.
#[derive(Debug, Clone)]
pub struct FilterFailure {
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
    /// All members of a group have refused. `exchange.response` has their answers as one, without a body yet; its status is that of this filter.
    Refused {
        by: usize,
    },
    Failed(FilterFailure),
    /// The body that a filter asked for could not be buffered.
    Body(BodyFailure),
}

/// How the response hooks ended. After `Failed` and `Body` the response is to be replaced by an error, which
/// [`LocalPipeline::on_response`] takes through the filters that are left.
#[derive(Debug)]
pub enum ResponseOutcome {
    /// The response goes on to the client. If `exchange.response_body_replaced`, its body is `exchange.response.body` and what
    /// the upstream still sends is to be discarded.
    Continue,
    Failed(FilterFailure),
    /// The body that a filter asked for could not be buffered.
    Body(BodyFailure),
}

/// The way of one message through one filter.
pub(super) enum FilterOutcome {
    Continue,
    Respond,
    Failed(FilterFailure),
    Body(BodyFailure),
}

impl LocalPipeline {
    /// Calls the request hooks. `body` is the request's.
    pub async fn on_request<B: BodySource>(&self, traversal: &mut Traversal, body: &mut B) -> RequestOutcome {
        traversal.cursor.now = None;
        if let Some(steps) = self.pipeline.groups() {
            return Box::pin(self.on_request_in_groups(steps, traversal, body)).await;
        }
        let all = self.pipeline.filters().len();
        for index in upward(self.pipeline.request_mask()) {
            let outcome = match self.request_through::<false, B>(traversal, body, index).await {
                FilterOutcome::Continue => continue,
                FilterOutcome::Respond => RequestOutcome::Respond { by: index },
                FilterOutcome::Failed(failure) => RequestOutcome::Failed(failure),
                FilterOutcome::Body(error) => RequestOutcome::Body(error),
            };
            traversal.request_ends(index + 1, index);
            return outcome;
        }
        traversal.request_ends(all, all);
        RequestOutcome::Continue
    }

    /// Calls the request hooks of one filter. `IN_GROUP`: its edits can be taken back after the call.
    pub(super) async fn request_through<const IN_GROUP: bool, B: BodySource>(
        &self,
        traversal: &mut Traversal,
        body: &mut B,
        index: usize,
    ) -> FilterOutcome {
        if self.has(Hook::OnRequest, index) {
            let outcome = match IN_GROUP {
                false => self.call(Hook::OnRequest, traversal, index).await,
                true => Box::pin(self.call_in_group(Hook::OnRequest, traversal, index)).await,
            };
            if !matches!(outcome, FilterOutcome::Continue) || traversal.is_absent(index) {
                return outcome;
            }
        }
        if self.has(Hook::OnRequestChunk, index) {
            match self.takes_request_pieces(traversal, body, index) {
                Ok(false) => {}
                Ok(true) => return FilterOutcome::Continue,
                Err(failure) => return FilterOutcome::Body(failure),
            }
        }
        let Some(max_bytes) = self.request_body_wanted(traversal.exchange(), body, index) else {
            return FilterOutcome::Continue;
        };
        traversal.cursor.now = None;
        let exchange = traversal.exchange();
        match &exchange.request_body {
            Some(known) if !fits(known, max_bytes, exchange.request_body_replaced) => {
                return self.request_refused(BodySourceError::TooLarge(max_bytes), index);
            }
            Some(_) => {}
            None => match Box::pin(body.buffer(max_bytes)).await {
                Ok(bytes) => exchange.request_body = Some(bytes),
                Err(error) => return self.request_refused(error, index),
            },
        }
        if traversal.takes_request_pieces()
            && let Err(ended) = Box::pin(self.request_pieces_of_whole::<IN_GROUP>(traversal, index)).await
        {
            return ended.into();
        }
        match IN_GROUP {
            false => self.call(Hook::OnRequestBody, traversal, index).await,
            true => Box::pin(self.call_in_group(Hook::OnRequestBody, traversal, index)).await,
        }
    }

    /// No policy lets a request pass whose body the filter has asked for and not seen.
    fn request_refused(&self, error: BodySourceError, index: usize) -> FilterOutcome {
        self.unread(Unread::RequestRefused, &error, Hook::OnRequestBody, index);
        FilterOutcome::Body(BodyFailure { filter: self.pipeline.filters()[index].name().clone(), error })
    }

    /// Counts a body that a filter did not get, and says so where that is for the operator to change.
    pub(super) fn unread(&self, what: Unread, error: &BodySourceError, hook: Hook, index: usize) {
        let Some(reason) = error.reason() else { return };
        self.pools[index].count_unread_body(what, reason);
        if what != Unread::RequestRefused {
            log_unread(&self.pipeline.filters()[index], hook, what == Unread::Passed, error);
        }
    }

    /// Calls the response hooks of the filters that saw the request, for `exchange.response`; `body` is its body as far as
    /// it isn't in `exchange.response.body` yet. Called again for an error that takes the place of the response, it goes on after
    /// the filter that failed.
    pub async fn on_response<B: BodySource>(&self, traversal: &mut Traversal, body: &mut B) -> ResponseOutcome {
        let mask = self.pipeline.response_mask();
        let cursor = &mut traversal.cursor;
        cursor.now = None;
        cursor.replaced_by = None;
        for index in downward(mask & before(cursor.left) & !cursor.absent) {
            traversal.cursor.left = index;
            let pending = traversal.takes_response_pieces().then(|| body_of(traversal.exchange()));
            let outcome = self.response_through(traversal, body, index).await;
            // What is sent in the place of a body is not shown to those that were to see that one.
            if pending.is_some_and(|before| before != body_of(traversal.exchange())) {
                traversal.cursor.pending.keep_response(before(index + 1));
            }
            match outcome {
                FilterOutcome::Continue => continue,
                // A replaced response passes the filters that are left like any other.
                FilterOutcome::Respond => {
                    traversal.cursor.replaced_by = Some(index);
                    continue;
                }
                FilterOutcome::Failed(failure) => {
                    traversal.cursor.pending.keep_response(0);
                    return ResponseOutcome::Failed(failure);
                }
                FilterOutcome::Body(error) => {
                    traversal.cursor.pending.keep_response(0);
                    return ResponseOutcome::Body(error);
                }
            }
        }
        traversal.cursor.left = 0;
        // A filter may have wanted a body that was never collected.
        for (index, sandbox) in traversal.exchange().sandboxes.drain(..) {
            self.pools[index].take_back(sandbox);
        }
        ResponseOutcome::Continue
    }

    async fn response_through<B: BodySource>(
        &self,
        traversal: &mut Traversal,
        body: &mut B,
        index: usize,
    ) -> FilterOutcome {
        if self.has(Hook::OnResponse, index) {
            let outcome = self.call(Hook::OnResponse, traversal, index).await;
            if !matches!(outcome, FilterOutcome::Continue) || traversal.is_absent(index) {
                return outcome;
            }
        }
        if self.has(Hook::OnResponseChunk, index) || self.has(Hook::OnResponseEvent, index) {
            match self.takes_response_pieces(traversal, body, index) {
                Ok(false) => {}
                Ok(true) => return FilterOutcome::Continue,
                Err(failure) => return FilterOutcome::Body(failure),
            }
        }
        let Some(max_bytes) = self.response_body_wanted(traversal.exchange(), body, index) else {
            if self.has(Hook::OnResponseBody, index) {
                self.forget_length(traversal.exchange(), index);
            }
            return FilterOutcome::Continue;
        };
        traversal.cursor.now = None;
        let exchange = traversal.exchange();
        let buffered = match exchange.response.as_ref().and_then(|response| response.body.as_ref()) {
            Some(known) if !fits(known, max_bytes, exchange.response_body_replaced) => {
                Err(BodySourceError::TooLarge(max_bytes))
            }
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
                // No policy can pass on a body that broke off.
                if open && !matches!(error, BodySourceError::Aborted(..)) {
                    self.unread(Unread::Passed, &error, Hook::OnResponseBody, index);
                    return FilterOutcome::Continue;
                }
                self.unread(Unread::ResponseRefused, &error, Hook::OnResponseBody, index);
                return FilterOutcome::Body(BodyFailure {
                    filter: self.pipeline.filters()[index].name().clone(),
                    error,
                });
            }
        }
        if traversal.takes_response_pieces()
            && let Err(ended) = Box::pin(self.response_pieces_of_whole(traversal, index)).await
        {
            return ended.into();
        }
        self.call(Hook::OnResponseBody, traversal, index).await
    }

    /// Lets the filters choose an upstream: the first that chooses wins. `exchange.selection` has to be empty before.
    pub async fn select_upstream(&self, traversal: &mut Traversal) -> Result<(), FilterFailure> {
        let cursor = &mut traversal.cursor;
        cursor.now = None;
        for index in upward(self.pipeline.mask(Hook::SelectUpstream) & before(cursor.seen) & !cursor.absent) {
            if let FilterOutcome::Failed(failure) = self.call(Hook::SelectUpstream, traversal, index).await {
                return Err(failure);
            }
            if !traversal.exchange().selection.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Shows the trailers in `exchange.response.trailers` to the filters that saw the response. A failure means that the
    /// response can't be ended well.
    pub async fn on_response_trailers(&self, traversal: &mut Traversal) -> Result<(), FilterFailure> {
        let cursor = &mut traversal.cursor;
        cursor.now = None;
        for index in downward(self.pipeline.mask(Hook::OnResponseTrailers) & before(cursor.behind) & !cursor.absent) {
            if let FilterOutcome::Failed(failure) = self.call(Hook::OnResponseTrailers, traversal, index).await {
                return Err(failure);
            }
        }
        Ok(())
    }

    /// Shows the finished exchange to the filters that saw its request. Failures are logged and counted.
    pub(super) async fn on_complete(&self, traversal: &mut Traversal) {
        for index in upward(self.complete_mask(traversal)) {
            traversal.cursor.now = None;
            self.call(Hook::OnComplete, traversal, index).await;
            tokio::task::yield_now().await;
        }
    }

    /// The filters whose `on-complete` is to see the exchange.
    pub(super) fn complete_mask(&self, traversal: &Traversal) -> u64 {
        self.pipeline.mask(Hook::OnComplete) & before(traversal.cursor.seen) & !traversal.cursor.absent
    }

    pub(super) fn has(&self, hook: Hook, index: usize) -> bool {
        self.pipeline.mask(hook) & (1 << index) != 0
    }

    pub(super) fn call(
        &self,
        hook: Hook,
        traversal: &mut Traversal,
        index: usize,
    ) -> impl Future<Output = FilterOutcome> {
        self.call_and(settle, hook, traversal, index)
    }

    /// Calls a hook, and keeps the records of its edits: the group may still take them back.
    pub(super) async fn call_in_group(&self, hook: Hook, traversal: &mut Traversal, index: usize) -> FilterOutcome {
        let mark = traversal.exchange().journal.len();
        let keep =
            |filter: &Filter, hook, exchange: &mut Exchange, result| settle_since(mark, filter, hook, exchange, result);
        self.call_and(keep, hook, traversal, index).await
    }

    async fn call_and(
        &self,
        settle: impl FnOnce(&Filter, Hook, &mut Exchange, Result<Verdict, FilterError>) -> CallOutcome,
        hook: Hook,
        traversal: &mut Traversal,
        index: usize,
    ) -> FilterOutcome {
        let pool = &self.pools[index];
        let exchange = traversal.exchange.take().expect("an exchange is in one call at a time");
        let (exchange, result) = match pool.call_now(hook, exchange, index, &mut traversal.cursor.now) {
            Ok(called) => called,
            // Rare and large, so boxed: it would enlarge the future of every request.
            Err(exchange) => {
                traversal.cursor.now = None;
                Box::pin(self.call_in_turn(hook, exchange, index)).await
            }
        };
        let exchange = traversal.exchange.insert(exchange);
        match settle(&self.pipeline.filters()[index], hook, exchange, result) {
            CallOutcome::Continue => FilterOutcome::Continue,
            CallOutcome::Respond => FilterOutcome::Respond,
            CallOutcome::Absent => {
                traversal.cursor.absent |= 1 << index;
                FilterOutcome::Continue
            }
            CallOutcome::Failed(error) => {
                let filter = self.pipeline.filters()[index].name().clone();
                FilterOutcome::Failed(FilterFailure { filter, hook, error })
            }
        }
    }

    /// Calls a hook that may be suspended, when it is the turn of its body.
    async fn call_in_turn(&self, hook: Hook, exchange: Box<Exchange>, index: usize) -> Called {
        let pool = &self.pools[index];
        let length = match hook.phase() {
            Phase::RequestBody => exchange.request_body_len(),
            Phase::ResponseBody => exchange.response_body_len(),
            Phase::RequestPiece | Phase::ResponsePiece | Phase::ResponseEvent => {
                exchange.piece.as_ref().map_or(0, |piece| piece.bytes.len())
            }
            Phase::RequestHead
            | Phase::Selection
            | Phase::ResponseHead
            | Phase::ResponseTrailers
            | Phase::Completion => {
                return pool.call(hook, exchange, index).await;
            }
        };
        pool.call_in_turn(hook, exchange, index, self.turns.take(length)).await
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
        let response = exchange.response.as_ref()?;
        let has_body = response.body.as_ref().map_or(!body.is_empty(), |body| !body.is_empty());
        if let Some(wish) = exchange.response_body_wishes.iter().find(|wish| wish.filter == index) {
            return (has_body || exchange.request.method != Method::HEAD).then_some(wish.max_bytes);
        }
        let interest = self.pipeline.filters()[index].program.interests().response_body.as_ref()?;
        wanted(interest, has_body, response.headers.get(CONTENT_TYPE))
    }

    /// A response to HEAD can't say how long a body would be that the filter may replace (RFC 9110 §9.3.2 lets it be silent).
    fn forget_length(&self, exchange: &mut Exchange, index: usize) {
        if exchange.request.method != Method::HEAD || exchange.response_body_replaced {
            return;
        }
        let wishes = exchange.response_body_wishes.iter().any(|wish| wish.filter == index);
        let Some(response) = &mut exchange.response else { return };
        let interest = self.pipeline.filters()[index].program.interests().response_body.as_ref();
        if wishes || interest.is_some_and(|interest| interest.matches(response.headers.get(CONTENT_TYPE))) {
            response.headers.remove(CONTENT_LENGTH);
            forget_digests(&mut response.headers);
            weaken(&mut response.headers);
        }
    }
}

/// The body that filters have set or that is buffered, so that another one in its place is noticed.
fn body_of(exchange: &Exchange) -> Option<(*const u8, usize)> {
    let response = exchange.response.as_ref().filter(|_| exchange.response_body_replaced)?;
    response.body.as_ref().map(|body| (body.as_ptr(), body.len()))
}

/// Whether a body that is here is small enough for a filter. One that a filter has set may be twice as large, as it may be for who sets it:
/// what filters add is no fault of the client or the upstream.
fn fits(body: &Bytes, max_bytes: u64, replaced: bool) -> bool {
    let most = if replaced { max_bytes.saturating_mul(2) } else { max_bytes };
    body.len() as u64 <= most
}

fn wanted(interest: &BodyInterest, has_body: bool, content_type: Option<&http::HeaderValue>) -> Option<u64> {
    (has_body && interest.matches(content_type)).then_some(interest.max_bytes)
}
