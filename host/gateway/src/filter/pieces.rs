//! Bodies that stream through filters piece by piece: which filters take part, and how they are called. What each is called with is in `flow`;
//! who reads the body and sends it is in `proxy/pieces/`.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderValue, Method};

use super::chain::FilterOutcome;
use super::flow::Flow;
use super::pipeline::{before, downward, upward};
use super::verdict::log_unread;
use super::{BodyFailure, BodySource, BodySourceError, FailurePolicy, FilterFailure, LocalPipeline, Traversal};
use crate::exchange::{Exchange, Piece};
use crate::http::body::{BodyError, MemoryBudget};
use crate::http::compression::forget_digests;
use crate::services::events::EventFormat;
use crate::wasm::{Hook, Unread};

/// How long the pieces of one body may keep their worker to themselves.
pub(crate) const TURN: Duration = Duration::from_millis(1);

/// The filters that see a body piece by piece, and have not seen it yet, as masks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Pending {
    pub(super) request: u64,
    pub(super) response_chunks: u64,
    pub(super) response_events: u64,
}

impl Pending {
    pub(super) fn response(self) -> u64 {
        self.response_chunks | self.response_events
    }

    pub(super) fn keep_response(&mut self, mask: u64) {
        self.response_chunks &= mask;
        self.response_events &= mask;
    }
}

/// The message that a body is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Request,
    Response,
}

/// How a call with a piece has ended.
#[derive(Debug)]
pub enum PieceOutcome {
    /// What the filter has said is in the piece.
    Said(Box<Piece>),
    /// The filter has failed, and the policy passes over it: the piece as it was.
    Absent(Box<Piece>),
    /// The filter has failed, and the message with it.
    Failed(FilterFailure),
}

impl Traversal {
    /// Whether filters see the request's body piece by piece.
    pub fn takes_request_pieces(&self) -> bool {
        self.cursor.pending.request & !self.cursor.absent != 0
    }

    /// Whether filters see the response's body piece by piece.
    pub fn takes_response_pieces(&self) -> bool {
        self.cursor.pending.response() & !self.cursor.absent != 0
    }

    /// What the hooks of the request's pieces have of the exchange: all that is there of the request, apart from what happens to the
    /// response meanwhile.
    pub fn fork(&mut self, budget: &MemoryBudget) -> Result<Traversal, BodyError> {
        let exchange = self.exchange().fork(budget)?;
        Ok(Traversal { exchange: Some(exchange), cursor: self.cursor })
    }

    /// Takes over what filters have kept in their slots, and which have failed, in a [`Self::fork`] of it.
    pub fn join(&mut self, fork: &mut Traversal) {
        let of_pieces = self.cursor.pending.request;
        self.cursor.absent |= fork.cursor.absent & of_pieces;
        let Some(from) = fork.exchange_if_present() else { return };
        let states: Vec<_> = upward(of_pieces).filter_map(|index| Some((index, from.state(index)?.clone()))).collect();
        let exchange = self.exchange();
        for (index, state) in states {
            if exchange.state(index) != Some(&state) {
                exchange.set_state(index, state);
            }
        }
        exchange.commit();
    }
}

impl LocalPipeline {
    /// The way of the request's body through filters, the first to see it first.
    pub fn request_flows(&self, traversal: &Traversal, budget: &MemoryBudget) -> Vec<Flow> {
        let mask = traversal.cursor.pending.request & !traversal.cursor.absent;
        upward(mask).map(|index| self.flow(index, Hook::OnRequestChunk, None, budget)).collect()
    }

    /// The same of the response's.
    pub fn response_flows(&self, traversal: &mut Traversal, budget: &MemoryBudget) -> Vec<Flow> {
        self.response_flows_of(u64::MAX, traversal, budget)
    }

    fn response_flows_of(&self, mask: u64, traversal: &mut Traversal, budget: &MemoryBudget) -> Vec<Flow> {
        let pending = traversal.cursor.pending;
        let mask = mask & pending.response() & !traversal.cursor.absent;
        traversal.cursor.pending.keep_response(!mask);
        let content_type = content_type_of_response(traversal.exchange());
        let format = EventFormat::of(content_type.map_or(&b""[..], HeaderValue::as_bytes));
        let flow = |index: usize| match pending.response_events & (1_u64 << index) != 0 {
            true => self.flow(index, Hook::OnResponseEvent, Some(format), budget),
            false => self.flow(index, Hook::OnResponseChunk, None, budget),
        };
        downward(mask).map(flow).collect()
    }

    fn flow(&self, index: usize, hook: Hook, format: Option<EventFormat>, budget: &MemoryBudget) -> Flow {
        let most = self.pipeline.filters()[index].program.limits().max_body;
        Flow::new(index, hook, format, most, budget)
    }

    /// Calls a filter with a piece. `IN_GROUP`: its edits can be taken back after the call, with those of the group so far.
    pub async fn call_piece<const IN_GROUP: bool>(
        &self,
        traversal: &mut Traversal,
        flow: (Hook, usize),
        piece: Box<Piece>,
    ) -> PieceOutcome {
        let (hook, index) = flow;
        traversal.cursor.now = None;
        traversal.exchange().piece = Some(piece);
        let outcome = match IN_GROUP {
            false => self.call(hook, traversal, index).await,
            true => Box::pin(self.call_in_group(hook, traversal, index)).await,
        };
        let piece = traversal.exchange().piece.take().unwrap_or_default();
        match outcome {
            FilterOutcome::Continue if traversal.is_absent(index) => PieceOutcome::Absent(piece),
            // These hooks give no verdict, and the body is read elsewhere.
            FilterOutcome::Continue | FilterOutcome::Respond | FilterOutcome::Body(_) => PieceOutcome::Said(piece),
            FilterOutcome::Failed(failure) => PieceOutcome::Failed(failure),
        }
    }

    /// A filter can't see the rest of a body: counts and logs that. Whether the message goes on without it.
    pub fn passes_unread(&self, flow: &Flow, error: &BodySourceError) -> bool {
        let (hook, index) = flow.of();
        let filter = &self.pipeline.filters()[index];
        let is_open = filter.failure() == FailurePolicy::Open;
        let what = match (is_open, hook) {
            (true, _) => Unread::Passed,
            (false, Hook::OnRequestChunk) => Unread::RequestRefused,
            (false, _) => Unread::ResponseRefused,
        };
        if let Some(reason) = error.reason() {
            self.pools[index].count_unread_body(what, reason);
        }
        log_unread(filter, hook, is_open, error);
        is_open
    }

    /// Notes that a filter sees the request's body piece by piece, if it does.
    pub(super) fn takes_request_pieces<B: BodySource>(
        &self,
        traversal: &mut Traversal,
        body: &B,
        index: usize,
    ) -> Result<bool, BodyFailure> {
        let exchange = traversal.exchange();
        let interests = self.pipeline.filters()[index].program.interests();
        let has_body = exchange.request_body.as_ref().map_or(!body.is_empty(), |body| !body.is_empty());
        let is_wished = exchange.request_body_wish.is_some_and(|wish| wish.filter == index);
        let takes = has_body
            && !is_wished
            && interests.request_chunks.as_ref().is_some_and(|interest| interest.matches(content_type(exchange)));
        if !takes {
            return Ok(false);
        }
        if !exchange.request_body_replaced
            && let Err(error) = body.check_coding()
        {
            self.unread(Unread::RequestRefused, &error, Hook::OnRequestChunk, index);
            return Err(BodyFailure { filter: self.pipeline.filters()[index].name().clone(), error });
        }
        traversal.cursor.pending.request |= 1 << index;
        Ok(true)
    }

    /// The same of the response's.
    pub(super) fn takes_response_pieces<B: BodySource>(
        &self,
        traversal: &mut Traversal,
        body: &B,
        index: usize,
    ) -> Result<bool, BodyFailure> {
        let exchange = traversal.exchange();
        let Some(response) = &exchange.response else { return Ok(false) };
        // The head of a response to HEAD says what that to GET would.
        let has_body = exchange.request.method == Method::HEAD
            || response.body.as_ref().map_or(!body.is_empty(), |body| !body.is_empty());
        if !has_body || exchange.response_body_wishes.iter().any(|wish| wish.filter == index) {
            return Ok(false);
        }
        let interests = self.pipeline.filters()[index].program.interests();
        let content_type = response.headers.get(CONTENT_TYPE);
        let is_hooked = |hook| self.has(hook, index);
        let events = is_hooked(Hook::OnResponseEvent)
            && interests.response_events.as_ref().is_some_and(|interest| interest.matches_events(content_type));
        let chunks = !events
            && is_hooked(Hook::OnResponseChunk)
            && interests.response_chunks.as_ref().is_some_and(|interest| interest.matches(content_type));
        if !events && !chunks {
            return Ok(false);
        }
        if !exchange.response_body_replaced
            && let Err(error) = body.check_coding()
        {
            let filter = &self.pipeline.filters()[index];
            let hook = if events { Hook::OnResponseEvent } else { Hook::OnResponseChunk };
            if filter.failure() == FailurePolicy::Open {
                self.unread(Unread::Passed, &error, hook, index);
                return Ok(true);
            }
            self.unread(Unread::ResponseRefused, &error, hook, index);
            return Err(BodyFailure { filter: filter.name().clone(), error });
        }
        let pending = &mut traversal.cursor.pending;
        let mask = if events { &mut pending.response_events } else { &mut pending.response_chunks };
        *mask |= 1 << index;
        Ok(true)
    }

    /// Before a filter sees the whole request body, those before it see its pieces. `IN_GROUP`: that can be taken back.
    pub(super) async fn request_pieces_of_whole<const IN_GROUP: bool>(
        &self,
        traversal: &mut Traversal,
        index: usize,
    ) -> Result<(), PiecesError> {
        let mask = traversal.cursor.pending.request & before(index) & !traversal.cursor.absent;
        let Some(whole) = traversal.exchange().request_body.clone().filter(|_| mask != 0) else { return Ok(()) };
        traversal.cursor.pending.request &= !mask;
        let budget = unlimited();
        let flows = upward(mask).map(|index| self.flow(index, Hook::OnRequestChunk, None, &budget)).collect();
        self.replace_body::<IN_GROUP>(Of::Request, traversal, flows, vec![whole]).await
    }

    /// Before a filter sees the whole response body, those behind it in the pipeline see its pieces.
    pub(super) async fn response_pieces_of_whole(
        &self,
        traversal: &mut Traversal,
        index: usize,
    ) -> Result<(), PiecesError> {
        let mask = traversal.cursor.pending.response() & !before(index + 1);
        let response = traversal.exchange().response.as_ref();
        let Some(whole) = response.and_then(|response| response.body.clone()).filter(|_| mask != 0) else {
            return Ok(());
        };
        let flows = self.response_flows_of(mask, traversal, &unlimited());
        self.replace_body::<false>(Of::Response, traversal, flows, vec![whole]).await
    }

    /// Shows a request's body that comes in these parts to the filters that see it piece by piece, and puts what they make of it in its place.
    pub async fn request_pieces(&self, traversal: &mut Traversal, parts: Vec<Bytes>) -> Result<(), PiecesError> {
        let flows = self.request_flows(traversal, &unlimited());
        self.replace_body::<false>(Of::Request, traversal, flows, parts).await
    }

    /// The same for a response's body.
    pub async fn response_pieces(&self, traversal: &mut Traversal, parts: Vec<Bytes>) -> Result<(), PiecesError> {
        let flows = self.response_flows(traversal, &unlimited());
        self.replace_body::<false>(Of::Response, traversal, flows, parts).await
    }

    /// Takes the body of a message, which comes in these parts, through filters and puts what they make of it in its place. `IN_GROUP`: that
    /// can be taken back.
    async fn replace_body<const IN_GROUP: bool>(
        &self,
        of: Of,
        traversal: &mut Traversal,
        flows: Vec<Flow>,
        parts: Vec<Bytes>,
    ) -> Result<(), PiecesError> {
        let whole = self.parts_through::<IN_GROUP>(traversal, flows, parts).await?;
        let exchange = traversal.exchange();
        match of {
            Of::Request => {
                forget_digests(&mut exchange.request.headers);
                exchange.set_request_body(whole);
            }
            Of::Response => {
                if let Some(response) = &mut exchange.response {
                    forget_digests(&mut response.headers);
                    response.headers.remove(CONTENT_ENCODING);
                }
                exchange.set_response_body(whole);
            }
        }
        if !IN_GROUP {
            exchange.commit();
        }
        Ok(())
    }

    /// Takes a body that is here through filters.
    async fn parts_through<const IN_GROUP: bool>(
        &self,
        traversal: &mut Traversal,
        flows: Vec<Flow>,
        mut parts: Vec<Bytes>,
    ) -> Result<Bytes, PiecesError> {
        for flow in flows {
            parts = self.parts_through_one::<IN_GROUP>(traversal, flow, parts).await?;
        }
        Ok(match <[Bytes; 1]>::try_from(parts) {
            Ok([whole]) => whole,
            Err(parts) => parts.concat().into(),
        })
    }

    async fn parts_through_one<const IN_GROUP: bool>(
        &self,
        traversal: &mut Traversal,
        mut flow: Flow,
        parts: Vec<Bytes>,
    ) -> Result<Vec<Bytes>, PiecesError> {
        let filter = self.pipeline.filters()[flow.of().1].name();
        let unread = |error| PiecesError::Body(BodyFailure { filter: filter.clone(), error });
        let most = flow.most().saturating_mul(2);
        let (mut parts, mut out, mut length) = (parts.into_iter(), Vec::new(), 0);
        let mut begun = Instant::now();
        loop {
            let piece = match flow.next(parts.len() == 0) {
                Ok(Some(piece)) => piece,
                Ok(None) => {
                    flow.push(parts.next().unwrap_or_default());
                    continue;
                }
                Err(error) if self.passes_unread(&flow, &error) => break,
                Err(error) => return Err(unread(error)),
            };
            let is_last = piece.is_last;
            let (front, is_over) = match self.call_piece::<IN_GROUP>(traversal, flow.of(), piece).await {
                PieceOutcome::Said(piece) => {
                    let (ends, passes_rest) = (piece.said.ends || is_last, piece.said.passes_rest);
                    let front = flow.settle(*piece);
                    if ends {
                        out.push(front);
                        return Ok(out);
                    }
                    (front, passes_rest)
                }
                PieceOutcome::Absent(piece) => (piece.bytes, true),
                PieceOutcome::Failed(failure) => return Err(PiecesError::Failed(failure)),
            };
            length += front.len() as u64;
            if !front.is_empty() {
                out.push(front);
            }
            if is_over {
                break;
            }
            if length > most {
                return Err(unread(BodySourceError::TooLarge(most)));
            }
            if begun.elapsed() > TURN {
                tokio::task::yield_now().await;
                begun = Instant::now();
            }
        }
        out.push(flow.flush());
        out.extend(parts);
        Ok(out)
    }
}

/// For a body that is here, and charged as such.
fn unlimited() -> MemoryBudget {
    MemoryBudget::new(usize::MAX)
}

/// Why a body did not get through the filters that see its pieces.
#[derive(Debug)]
pub enum PiecesError {
    Failed(FilterFailure),
    /// A filter can't see all of it.
    Body(BodyFailure),
}

impl From<PiecesError> for FilterOutcome {
    fn from(error: PiecesError) -> Self {
        match error {
            PiecesError::Failed(failure) => FilterOutcome::Failed(failure),
            PiecesError::Body(failure) => FilterOutcome::Body(failure),
        }
    }
}

fn content_type(exchange: &Exchange) -> Option<&HeaderValue> {
    exchange.request.headers.get(CONTENT_TYPE)
}

fn content_type_of_response(exchange: &Exchange) -> Option<&HeaderValue> {
    exchange.response.as_ref().and_then(|response| response.headers.get(CONTENT_TYPE))
}
