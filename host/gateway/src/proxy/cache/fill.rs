//! The content of a response while it comes: parts in memory that all its readers share, on all workers.
//!
//! While the response is to be stored, all parts stay, so that a reader that joins gets the whole, and the upstream is read as fast as it
//! sends. Once it is stored, its readers have the rest out of the store. If it turns out too large, nobody can join any more, parts go when
//! all readers have them, and the slowest reader holds the upstream back.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use sluice_cache::store::{self, BodyBuilder};

use crate::cache::Unstored;
use crate::deadline;
use crate::http::body::{Body, BodyError};
use crate::http::buffer::{MemoryBudget, Reservation, Share};

/// How long a fetch goes on that nobody reads, but for the store.
pub(super) const UNATTENDED: Duration = Duration::from_secs(60);

/// How long a reader may hold others back who read a response that is not stored.
const STALL: Duration = Duration::from_secs(10);

/// What may be ahead of the slowest reader when parts are not kept.
const WINDOW: usize = 256 << 10;

/// Why the content did not come to its end.
#[derive(Debug, Clone)]
pub(super) enum Broken {
    Idle(Duration),
    Outlived(Duration),
    Malformed(String),
    Aborted(String),
}

impl Broken {
    pub(super) fn of(error: &BodyError) -> Broken {
        match error {
            BodyError::IdleTimeout(limit) => Broken::Idle(*limit),
            BodyError::Outlived(limit) => Broken::Outlived(*limit),
            BodyError::Protocol(cause) => Broken::Malformed(cause.to_string()),
            BodyError::ClientAborted(_)
            | BodyError::UpstreamAborted(_)
            | BodyError::TooLarge(_)
            | BodyError::BudgetExhausted(_)
            | BodyError::Filter(_)
            | BodyError::Coding(_) => Broken::Aborted(crate::chain(error)),
        }
    }

    fn error(&self) -> BodyError {
        match self {
            Broken::Idle(limit) => BodyError::IdleTimeout(*limit),
            Broken::Outlived(limit) => BodyError::Outlived(*limit),
            Broken::Malformed(why) => BodyError::Protocol(why.clone().into()),
            Broken::Aborted(why) => BodyError::UpstreamAborted(why.clone().into()),
        }
    }
}

enum End {
    Whole(Option<HeaderMap>),
    Broken(Broken),
}

/// Content on its way.
pub(super) struct Fill {
    state: Mutex<Progress>,
    announced: Option<u64>,
}

struct Progress {
    parts: VecDeque<Bytes>,
    /// The number of the first of them.
    first: u64,
    /// Their bytes.
    held: usize,
    /// All of it, as it is stored. It takes the place of the parts.
    whole: Option<store::Body>,
    /// When something came last.
    moved: Instant,
    end: Option<End>,
    /// Parts go when all readers have them.
    sliding: bool,
    readers: HashMap<u64, Seat>,
    next_reader: u64,
    writer: Option<Waker>,
    /// For the parts that were there when they began to go, until they are gone. What slides through behind them is bounded, and on its way.
    charge: Option<Reservation>,
}

struct Seat {
    /// The number of the part that it reads next.
    at: u64,
    /// The bytes that it has read.
    read: u64,
    /// Where it was when the writer began to wait.
    seen: u64,
    waker: Option<Waker>,
}

impl Progress {
    fn new() -> Progress {
        Progress {
            parts: VecDeque::new(),
            first: 0,
            held: 0,
            whole: None,
            moved: Instant::now(),
            end: None,
            sliding: false,
            readers: HashMap::new(),
            next_reader: 0,
            writer: None,
            charge: None,
        }
    }

    fn wake_readers(&mut self) {
        self.readers.values_mut().filter_map(|seat| seat.waker.take()).for_each(Waker::wake);
    }

    /// Lets go of what all readers have.
    fn let_go(&mut self) {
        if !self.sliding {
            return;
        }
        let slowest = self.readers.values().map(|seat| seat.at).min().unwrap_or(u64::MAX);
        while self.first < slowest
            && let Some(part) = self.parts.pop_front()
        {
            self.first += 1;
            self.held -= part.len();
        }
        if let Some(charge) = self.charge.as_mut().filter(|charge| charge.bytes() > self.held) {
            // It gives back, which never fails.
            let _ = charge.resize(self.held);
        }
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }
}

/// Whether more can be read of the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    Here,
    /// Nobody reads any more, and nothing is stored.
    Nobody,
}

impl Fill {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A reader of the whole, if all of it is still there.
    pub(super) fn reader(self: &Arc<Self>) -> Option<Reader> {
        let mut state = self.lock();
        if state.sliding {
            return None;
        }
        let number = state.next_reader;
        state.next_reader += 1;
        state.readers.insert(number, Seat { at: 0, read: 0, seen: 0, waker: None });
        Some(Reader { fill: Arc::clone(self), number, left: self.announced, ended: false })
    }

    /// The same for somebody who may do better alone: not if nothing has come for so long.
    pub(super) fn reader_within(self: &Arc<Self>, patience: Duration) -> Option<Reader> {
        let has_stalled = |state: &Progress| state.end.is_none() && state.moved.elapsed() >= patience;
        if has_stalled(&self.lock()) { None } else { self.reader() }
    }

    /// What came whole is not stored: its memory is charged until its readers are through. How long that is, is their choice.
    pub(super) fn charge(&self, charge: Option<Reservation>) {
        let mut state = self.lock();
        if let Some(mut charge) = charge.filter(|_| !state.readers.is_empty()) {
            let whole = state.whole.as_ref().map_or(0, store::Body::len);
            // It gives back, which never fails.
            let _ = charge.resize(usize::try_from(whole).unwrap_or(usize::MAX));
            charge.leave_share();
            state.charge = Some(charge);
        }
    }

    pub(super) fn has_readers(&self) -> bool {
        !self.lock().readers.is_empty()
    }
}

/// The side that writes. Dropped without an end, it breaks its readers off.
pub(super) struct Filling(Arc<Fill>);

impl Filling {
    /// `announced` is the length that the head promises.
    pub(super) fn begin(announced: Option<u64>) -> Filling {
        Filling(Arc::new(Fill { state: Mutex::new(Progress::new()), announced }))
    }

    pub(super) fn fill(&self) -> &Arc<Fill> {
        &self.0
    }

    pub(super) fn push(&self, part: Bytes) {
        if part.is_empty() {
            return;
        }
        let mut state = self.0.lock();
        state.held += part.len();
        state.moved = Instant::now();
        state.parts.push_back(part);
        state.wake_readers();
        state.let_go();
    }

    /// From now on nothing is kept that all readers have. The charge goes with the parts. It is of nobody's share any more: how long it is held
    /// is the readers' choice.
    pub(super) fn slide(&self, mut charge: Option<Reservation>) {
        if let Some(charge) = &mut charge {
            charge.leave_share();
        }
        let mut state = self.0.lock();
        (state.sliding, state.charge) = (true, charge);
        state.let_go();
    }

    /// Waits until the slowest reader is near enough.
    pub(super) async fn room(&self) -> Room {
        let mut waits = false;
        std::future::poll_fn(|cx| {
            let mut state = self.0.lock();
            if state.readers.is_empty() {
                return Poll::Ready(Room::Nobody);
            }
            if state.held < WINDOW {
                return Poll::Ready(Room::Here);
            }
            if !std::mem::replace(&mut waits, true) {
                state.readers.values_mut().for_each(|seat| seat.seen = seat.at);
            }
            state.writer = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Leaves those behind who have read nothing while the writer waited, and hold others back.
    pub(super) fn leave_stuck(&self) {
        let mut state = self.0.lock();
        let furthest = state.readers.values().map(|seat| seat.at).max().unwrap_or_default();
        // There are parts for them, so none of them waits to be woken.
        state.readers.retain(|_, seat| seat.at != seat.seen || seat.at == furthest);
        state.let_go();
    }

    /// All of it came. With `whole`, readers have the rest out of that: they may be slow, and it has the memory anyway.
    pub(super) fn end(self, trailers: Option<HeaderMap>, whole: Option<store::Body>) {
        let mut state = self.0.lock();
        if whole.is_some() {
            state.whole = whole;
            state.parts.clear();
            (state.held, state.charge) = (0, None);
        }
        state.end = Some(End::Whole(trailers));
        state.wake_readers();
    }

    pub(super) fn break_off(self, why: Broken) {
        let mut state = self.0.lock();
        state.end = Some(End::Broken(why));
        state.wake_readers();
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if state.end.is_none() {
            state.end = Some(End::Broken(Broken::Aborted("nobody reads the response any more".to_owned())));
            state.wake_readers();
        }
    }
}

/// A body that reads content on its way.
pub(super) struct Reader {
    fill: Arc<Fill>,
    number: u64,
    /// Of the announced length.
    left: Option<u64>,
    ended: bool,
}

impl HttpBody for Reader {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        let mut guard = this.fill.lock();
        let state = &mut *guard;
        let Some(seat) = state.readers.get_mut(&this.number) else {
            this.ended = true;
            let why = "it was read too slowly, and others wait for it";
            return Poll::Ready(Some(Err(BodyError::UpstreamAborted(why.into()))));
        };
        let part = match &state.whole {
            Some(whole) => whole.slice(seat.read..u64::MAX).next(),
            None => usize::try_from(seat.at - state.first).ok().and_then(|at| state.parts.get(at)).cloned(),
        };
        if let Some(part) = part {
            seat.at += 1;
            seat.read += part.len() as u64;
            state.let_go();
            this.left = this.left.map(|left| left.saturating_sub(part.len() as u64));
            return Poll::Ready(Some(Ok(Frame::data(part))));
        }
        let last = match &state.end {
            None => {
                seat.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Some(End::Whole(trailers)) => trailers.clone().map(|trailers| Ok(Frame::trailers(trailers))),
            Some(End::Broken(why)) => Some(Err(why.error())),
        };
        this.ended = true;
        Poll::Ready(last)
    }

    fn is_end_stream(&self) -> bool {
        // Trailers may follow the announced length.
        let is_whole = || matches!(self.fill.lock().end, Some(End::Whole(None)));
        self.ended || (self.left == Some(0) && (self.fill.announced == Some(0) || is_whole()))
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.fill.lock();
        state.readers.remove(&self.number);
        state.let_go();
    }
}

/// Reads a response to its end, for its readers and for the store. `keep` is called with the whole and its charge, before the readers get their
/// last byte; it leaves the charge where it does not need it. `too_large` is called when that shows, and again behind the last byte of
/// such a response.
pub(super) async fn fill_up(
    mut body: Body,
    filling: Filling,
    builder: BodyBuilder,
    budget: &MemoryBudget,
    keep: impl FnOnce(store::Body, &mut Option<Reservation>) -> Result<(), Unstored>,
    too_large: impl Fn(),
) -> Result<(), Unstored> {
    let mut kept = budget.reserve_for(Share::Fetches, 0).ok().map(|charge| (builder, charge));
    let mut outcome = Ok(());
    if kept.is_none() {
        outcome = Err(Unstored::Memory);
        filling.slide(None);
    }
    let mut unattended = None;
    let mut trailers = None;
    let mut last = Bytes::new();
    loop {
        if kept.is_none() {
            match deadline::timeout(STALL, filling.room()).await {
                Ok(Room::Here) => {}
                Ok(Room::Nobody) => return outcome,
                Err(_) => {
                    filling.leave_stuck();
                    continue;
                }
            }
        }
        let frame = deadline::timeout(UNATTENDED, body.frame()).await;
        if filling.fill().has_readers() {
            unattended = None;
        } else if unattended.get_or_insert_with(Instant::now).elapsed() >= UNATTENDED || kept.is_none() {
            return outcome.and(Err(Unstored::Unattended));
        }
        let data = match frame {
            Err(_) => continue,
            Ok(None) => break,
            Ok(Some(Err(error))) => {
                filling.break_off(Broken::of(&error));
                return outcome.and(Err(Unstored::BrokenOff));
            }
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => data,
                Err(other) => {
                    trailers = other.into_trailers().ok();
                    continue;
                }
            },
        };
        if let Some((builder, charge)) = &mut kept
            && let Err(why) = add(builder, charge, &data)
        {
            if matches!(why, Unstored::TooLarge) {
                too_large();
            }
            outcome = Err(why);
            filling.slide(kept.take().map(|(_, charge)| charge));
        }
        if http_body::Body::is_end_stream(&body) {
            last = data;
            break;
        }
        filling.push(data);
    }
    let mut whole = None;
    if let Some((builder, charge)) = kept {
        let (body, mut charge) = (builder.finish(), Some(charge));
        outcome = keep(body.clone(), &mut charge);
        match outcome {
            Ok(()) => whole = Some(body),
            Err(_) => filling.slide(charge),
        }
    } else if matches!(outcome, Err(Unstored::TooLarge)) {
        too_large();
    }
    if whole.is_none() {
        filling.push(last);
    }
    filling.end(trailers, whole);
    outcome
}

/// Adds a part to what is stored, unless it is too much. A part is in memory twice, for the readers and for the store.
fn add(builder: &mut BodyBuilder, charge: &mut Reservation, data: &[u8]) -> Result<(), Unstored> {
    charge.grow(2 * data.len()).map_err(|_| Unstored::Memory)?;
    builder.push(data).map_err(|_| Unstored::TooLarge)
}

#[cfg(test)]
mod tests;
