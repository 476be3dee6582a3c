//! Bodies that stream through filters piece by piece: which filters take part, what a filter is called with, and what goes on of it. Who reads
//! the body and sends it is elsewhere (`proxy/pieces.rs`).

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method};

use super::chain::FilterOutcome;
use super::pipeline::{before, downward, upward};
use super::verdict::log_unread;
use super::{BodyFailure, BodySource, BodySourceError, FailurePolicy, FilterFailure, LocalPipeline, Traversal};
use crate::exchange::{Exchange, Piece};
use crate::http::body::{BodyError, MemoryBudget, Reservation};
use crate::http::compression::forget_digests;
use crate::services::events::{EventEnds, EventFormat};
use crate::wasm::{Hook, Unread};

/// The most that comes to a filter at once, beside what it has kept back.
const PIECE: usize = 16 << 10;
/// What a filter has kept back is charged in such steps; less is not.
const CHARGED: usize = 16 << 10;
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

/// The way of one body through one filter.
#[derive(Debug)]
pub struct Flow {
    /// The filter, by its index in the pipeline.
    index: usize,
    hook: Hook,
    events: Option<(EventFormat, EventEnds)>,
    /// The most bytes that one event may have.
    most: u64,
    /// What was kept back, or has come of an event that is not whole yet.
    kept: BytesMut,
    /// What has come and was not looked at yet.
    rest: Bytes,
    charge: Option<Reservation>,
    budget: MemoryBudget,
}

impl Flow {
    fn new(index: usize, hook: Hook, format: Option<EventFormat>, most: u64, budget: &MemoryBudget) -> Flow {
        Flow {
            index,
            hook,
            events: format.map(|format| (format, EventEnds::new(format))),
            most,
            kept: BytesMut::new(),
            rest: Bytes::new(),
            charge: None,
            budget: budget.clone(),
        }
    }

    /// Takes what has come, once all that came before has been looked at.
    pub(crate) fn push(&mut self, data: Bytes) {
        debug_assert!(self.rest.is_empty(), "the piece before is not through");
        self.rest = data;
    }

    /// What the filter is to see next of what has come. `is_all`: nothing comes after it. None: more has to come.
    pub(crate) fn next(&mut self, is_all: bool) -> Result<Option<Box<Piece>>, BodySourceError> {
        let part = match &mut self.events {
            _ if self.rest.is_empty() => None,
            None => Some(self.rest.len().min(PIECE)),
            Some((_, ends)) => ends.next(&self.rest),
        };
        let bytes = match part {
            Some(length) => {
                self.check_event(length)?;
                let part = self.rest.split_to(length);
                self.joined(part)
            }
            None => {
                self.check_event(self.rest.len())?;
                let rest = std::mem::take(&mut self.rest);
                if !is_all {
                    self.kept.extend_from_slice(&rest);
                    self.account()?;
                    return Ok(None);
                }
                self.joined(rest)
            }
        };
        let is_last = is_all && self.rest.is_empty();
        let event = self.events.as_ref().map(|(format, _)| *format);
        Ok(Some(Box::new(Piece { bytes, is_last, event, ..Piece::default() })))
    }

    /// What goes on of a piece. What the filter keeps back stays here, and is to be charged.
    pub(crate) fn settle(&mut self, piece: Piece) -> Bytes {
        let (front, kept) = piece.divide();
        drop(piece);
        self.kept = kept.try_into_mut().unwrap_or_else(|kept| BytesMut::from(&*kept));
        front
    }

    /// All that is here and that the filter is not to see any more.
    pub(crate) fn flush(&mut self) -> Bytes {
        let rest = std::mem::take(&mut self.rest);
        let all = self.joined(rest);
        self.charge = None;
        all
    }

    fn joined(&mut self, part: Bytes) -> Bytes {
        if self.kept.is_empty() {
            return part;
        }
        let mut kept = std::mem::take(&mut self.kept);
        kept.extend_from_slice(&part);
        kept.freeze()
    }

    fn check_event(&self, more: usize) -> Result<(), BodySourceError> {
        match self.events.is_some() && (self.kept.len() + more) as u64 > self.most {
            true => Err(BodySourceError::TooLarge(self.most)),
            false => Ok(()),
        }
    }

    /// Charges what is kept.
    pub(crate) fn account(&mut self) -> Result<(), BodySourceError> {
        let bytes = self.kept.len();
        if bytes < CHARGED {
            self.charge = None;
            return Ok(());
        }
        let bytes = bytes.next_multiple_of(CHARGED);
        let charged = match &mut self.charge {
            Some(charge) if charge.bytes() == bytes => Ok(()),
            Some(charge) => charge.resize(bytes),
            None => self.budget.reserve(bytes).map(|charge| self.charge = Some(charge)),
        };
        charged.map_err(|_| BodySourceError::Budget)
    }
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
    /// The way of the request's body through filters, the first to see it first. Each is given once.
    pub fn request_flows(&self, traversal: &mut Traversal, budget: &MemoryBudget) -> Vec<Flow> {
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

    /// Calls a filter with a piece.
    pub async fn call_piece(&self, traversal: &mut Traversal, flow: (Hook, usize), piece: Box<Piece>) -> PieceOutcome {
        let (hook, index) = flow;
        traversal.cursor.now = None;
        traversal.exchange().piece = Some(piece);
        let outcome = self.call(hook, traversal, index).await;
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
        let filter = &self.pipeline.filters()[flow.index];
        let is_open = filter.failure() == FailurePolicy::Open;
        let what = match (is_open, flow.hook) {
            (true, _) => Unread::Passed,
            (false, Hook::OnRequestChunk) => Unread::RequestRefused,
            (false, _) => Unread::ResponseRefused,
        };
        if let Some(reason) = error.reason() {
            self.pools[flow.index].count_unread_body(what, reason);
        }
        log_unread(filter, flow.hook, is_open, error);
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
    ) -> Result<(), FilterOutcome> {
        let mask = traversal.cursor.pending.request & before(index) & !traversal.cursor.absent;
        let Some(whole) = traversal.exchange().request_body.clone().filter(|_| mask != 0) else { return Ok(()) };
        traversal.cursor.pending.request &= !mask;
        let budget = MemoryBudget::new(usize::MAX);
        let flows = upward(mask).map(|index| self.flow(index, Hook::OnRequestChunk, None, &budget)).collect();
        let whole = self.whole_through(traversal, flows, whole).await?;
        let exchange = traversal.exchange();
        forget_digests(&mut exchange.request.headers);
        exchange.set_request_body(whole);
        if !IN_GROUP {
            exchange.commit();
        }
        Ok(())
    }

    /// Before a filter sees the whole response body, those behind it in the pipeline see its pieces.
    pub(super) async fn response_pieces_of_whole(
        &self,
        traversal: &mut Traversal,
        index: usize,
    ) -> Result<(), FilterOutcome> {
        let mask = traversal.cursor.pending.response() & !before(index + 1);
        let response = traversal.exchange().response.as_ref();
        let Some(whole) = response.and_then(|response| response.body.clone()).filter(|_| mask != 0) else {
            return Ok(());
        };
        let budget = MemoryBudget::new(usize::MAX);
        let flows = self.response_flows_of(mask, traversal, &budget);
        let whole = self.whole_through(traversal, flows, whole).await?;
        let exchange = traversal.exchange();
        if let Some(response) = &mut exchange.response {
            forget_digests(&mut response.headers);
            response.headers.remove(http::header::CONTENT_ENCODING);
        }
        exchange.set_response_body(whole);
        exchange.commit();
        Ok(())
    }

    /// Takes a body that is here as a whole through filters.
    async fn whole_through(
        &self,
        traversal: &mut Traversal,
        flows: Vec<Flow>,
        mut whole: Bytes,
    ) -> Result<Bytes, FilterOutcome> {
        let mut begun = Instant::now();
        for mut flow in flows {
            let most = flow.most.saturating_mul(2);
            let index = flow.index;
            let unread = |error: BodySourceError| {
                let filter = self.pipeline.filters()[index].name().clone();
                FilterOutcome::Body(BodyFailure { filter, error })
            };
            let mut out = BytesMut::with_capacity(whole.len());
            flow.push(std::mem::take(&mut whole));
            loop {
                let piece = match flow.next(true) {
                    Ok(Some(piece)) => piece,
                    Ok(None) => break,
                    Err(error) if self.passes_unread(&flow, &error) => {
                        out.extend_from_slice(&flow.flush());
                        break;
                    }
                    Err(error) => return Err(unread(error)),
                };
                let is_last = piece.is_last;
                match self.call_piece(traversal, flow.of(), piece).await {
                    PieceOutcome::Said(piece) => {
                        let said = (piece.said.ends, piece.said.passes_rest);
                        out.extend_from_slice(&flow.settle(*piece));
                        match said {
                            (true, _) => break,
                            (false, true) => out.extend_from_slice(&flow.flush()),
                            (false, false) => {}
                        }
                        if said.1 || is_last {
                            break;
                        }
                    }
                    PieceOutcome::Absent(piece) => {
                        out.extend_from_slice(&piece.bytes);
                        out.extend_from_slice(&flow.flush());
                        break;
                    }
                    PieceOutcome::Failed(failure) => return Err(FilterOutcome::Failed(failure)),
                }
                if out.len() as u64 > most {
                    return Err(unread(BodySourceError::TooLarge(most)));
                }
                if begun.elapsed() > TURN {
                    tokio::task::yield_now().await;
                    begun = Instant::now();
                }
            }
            whole = out.freeze();
        }
        Ok(whole)
    }
}

impl Flow {
    /// The hook, and the filter by its index in the pipeline.
    pub(crate) fn of(&self) -> (Hook, usize) {
        (self.hook, self.index)
    }
}

fn content_type(exchange: &Exchange) -> Option<&HeaderValue> {
    exchange.request.headers.get(CONTENT_TYPE)
}

fn content_type_of_response(exchange: &Exchange) -> Option<&HeaderValue> {
    exchange.response.as_ref().and_then(|response| response.headers.get(CONTENT_TYPE))
}
