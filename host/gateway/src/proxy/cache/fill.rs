//! The content of a response while it comes: parts in memory that all its readers share, on all workers.
//!
//! While the response is to be stored, all parts stay, so that a reader that joins gets the whole, and the upstream is read as fast as it
//! sends. If it turns out too large, nobody can join any more, parts go when all readers have them, and the slowest reader holds the
//! upstream back.

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
use crate::http::buffer::{MemoryBudget, Reservation};

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

#[derive(Default)]
struct Progress {
    parts: VecDeque<Bytes>,
    /// The number of the first of them.
    first: u64,
    end: Option<End>,
    /// Parts go when all readers have them.
    sliding: bool,
    readers: HashMap<u64, Seat>,
    next_reader: u64,
    writer: Option<Waker>,
    /// For the parts, until they are gone.
    charge: Option<Reservation>,
}

struct Seat {
    /// The number of the part that it reads next.
    at: u64,
    waker: Option<Waker>,
}

impl Progress {
    fn wake_readers(&mut self) {
        self.readers.values_mut().filter_map(|seat| seat.waker.take()).for_each(Waker::wake);
    }

    /// Lets go of what all readers have.
    fn let_go(&mut self) {
        if !self.sliding {
            return;
        }
        let slowest = self.readers.values().map(|seat| seat.at).min().unwrap_or(u64::MAX);
        while self.first < slowest && self.parts.pop_front().is_some() {
            self.first += 1;
        }
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }

    fn ahead(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
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
        state.readers.insert(number, Seat { at: 0, waker: None });
        Some(Reader { fill: Arc::clone(self), number, left: self.announced, ended: false })
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
        Filling(Arc::new(Fill { state: Mutex::default(), announced }))
    }

    pub(super) fn fill(&self) -> &Arc<Fill> {
        &self.0
    }

    pub(super) fn push(&self, part: Bytes) {
        if part.is_empty() {
            return;
        }
        let mut state = self.0.lock();
        state.parts.push_back(part);
        state.wake_readers();
        state.let_go();
    }

    /// From now on nothing is kept that all readers have. The charge goes with the last part.
    pub(super) fn slide(&self, charge: Option<Reservation>) {
        let mut state = self.0.lock();
        (state.sliding, state.charge) = (true, charge);
        state.let_go();
    }

    /// Waits until the slowest reader is near enough.
    pub(super) async fn room(&self) -> Room {
        std::future::poll_fn(|cx| {
            let mut state = self.0.lock();
            if state.readers.is_empty() {
                return Poll::Ready(Room::Nobody);
            }
            if state.ahead() < WINDOW {
                return Poll::Ready(Room::Here);
            }
            state.writer = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Leaves the slowest of several readers behind: it holds the others back.
    pub(super) fn leave_slowest(&self) {
        let mut state = self.0.lock();
        if state.readers.len() < 2 {
            return;
        }
        let slowest = state.readers.iter().min_by_key(|(_, seat)| seat.at).map(|(number, _)| *number);
        if let Some(seat) = slowest.and_then(|slowest| state.readers.remove(&slowest))
            && let Some(waker) = seat.waker
        {
            waker.wake();
        }
        state.let_go();
    }

    /// All of it came. `charge` is for the parts, as long as a reader has to get them.
    pub(super) fn end(self, trailers: Option<HeaderMap>, charge: Option<Reservation>) {
        let mut state = self.0.lock();
        state.charge = charge.or(state.charge.take());
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
        let part = usize::try_from(seat.at - state.first).ok().and_then(|at| state.parts.get(at)).cloned();
        if let Some(part) = part {
            seat.at += 1;
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
        self.ended || self.left == Some(0)
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

/// Reads a response to its end, for its readers and for the store. `keep` is called with the whole, before the readers get their last byte.
pub(super) async fn fill_up(
    mut body: Body,
    filling: Filling,
    builder: BodyBuilder,
    budget: &MemoryBudget,
    keep: impl FnOnce(store::Body) -> Result<(), Unstored>,
) -> Result<(), Unstored> {
    let mut kept = budget.reserve(0).ok().map(|charge| (builder, charge));
    let mut outcome = if kept.is_some() { Ok(()) } else { Err(Unstored::Memory) };
    let mut unattended = None;
    let mut trailers = None;
    let mut last = Bytes::new();
    loop {
        if kept.is_none() {
            match deadline::timeout(STALL, filling.room()).await {
                Ok(Room::Here) => {}
                Ok(Room::Nobody) => return outcome,
                Err(_) => {
                    filling.leave_slowest();
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
            && let Err(why) = add(builder, charge, budget, &data)
        {
            outcome = Err(why);
            filling.slide(kept.take().map(|(_, charge)| charge));
        }
        if http_body::Body::is_end_stream(&body) {
            last = data;
            break;
        }
        filling.push(data);
    }
    let charge = kept.map(|(builder, charge)| {
        outcome = keep(builder.finish());
        charge
    });
    filling.push(last);
    filling.end(trailers, charge);
    outcome
}

/// Adds a part to what is stored, unless it is too much. A part is in memory twice, for the readers and for the store. Others need the memory
/// more, so half of the account is theirs.
fn add(
    builder: &mut BodyBuilder,
    charge: &mut Reservation,
    budget: &MemoryBudget,
    data: &[u8],
) -> Result<(), Unstored> {
    if budget.used() + 2 * data.len() > budget.limit() / 2 || charge.grow(2 * data.len()).is_err() {
        return Err(Unstored::Memory);
    }
    builder.push(data).map_err(|_| Unstored::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(reader: Reader) -> Result<Vec<u8>, BodyError> {
        Body::stream(reader).collect().await.map(|body| body.to_bytes().to_vec())
    }

    #[tokio::test(flavor = "local")]
    async fn a_reader_that_joins_gets_what_is_there_and_the_rest_as_it_comes() {
        let filling = Filling::begin(None);
        let mut first = filling.fill().reader().unwrap();
        filling.push(Bytes::from_static(b"ab"));
        assert_eq!(first.frame().await.unwrap().unwrap().into_data().unwrap(), "ab");
        let second = filling.fill().reader().unwrap();
        let both = async { tokio::join!(all(first), all(second)) };
        let write = async {
            tokio::task::yield_now().await;
            filling.push(Bytes::from_static(b"cd"));
            filling.end(None, None);
        };
        let ((first, second), ()) = tokio::join!(both, write);
        assert_eq!((first.unwrap(), second.unwrap()), (b"cd".to_vec(), b"abcd".to_vec()));
    }

    #[tokio::test(flavor = "local")]
    async fn what_breaks_off_breaks_its_readers() {
        let filling = Filling::begin(Some(4));
        let reader = filling.fill().reader().unwrap();
        assert_eq!(reader.size_hint().exact(), Some(4));
        filling.push(Bytes::from_static(b"ab"));
        filling.break_off(Broken::Malformed("a chunk".into()));
        assert!(matches!(all(reader).await, Err(BodyError::Protocol(_))));

        let filling = Filling::begin(None);
        let reader = filling.fill().reader().unwrap();
        drop(filling);
        assert!(matches!(all(reader).await, Err(BodyError::UpstreamAborted(_))));
    }

    #[tokio::test(flavor = "local")]
    async fn what_is_not_stored_is_held_back_by_its_slowest_reader() {
        let filling = Filling::begin(None);
        let (fill, part) = (Arc::clone(filling.fill()), Bytes::from(vec![7; WINDOW / 2]));
        let (mut quick, slow) = (fill.reader().unwrap(), fill.reader().unwrap());
        filling.slide(None);
        assert!(fill.reader().is_none(), "nobody joins");
        filling.push(part.clone());
        filling.push(part);
        for _ in 0..2 {
            quick.frame().await.unwrap().unwrap();
        }
        let waits = std::future::poll_fn(|cx| Poll::Ready(std::pin::pin!(filling.room()).poll(cx).is_pending()));
        assert!(waits.await);
        assert_eq!(fill.lock().parts.len(), 2);
        drop(slow);
        assert_eq!(fill.lock().parts.len(), 0);
        assert_eq!(filling.room().await, Room::Here);
        drop(quick);
        assert_eq!(filling.room().await, Room::Nobody);
    }
}
