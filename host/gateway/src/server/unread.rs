//! HTTP/2 responses that the client does not read. Each stream has a window of its own, and a client can leave one shut for ever while its
//! connection is in good order. Pieces of the body, its upstream and its place in limits would be kept as long. Such a stream is given up after
//! the idle time of the listener, as a connection of HTTP/1 is.
//!
//! hyper asks a body for a piece, keeps it until the window has room, and only then asks again. So a body that gave a piece when it was last
//! asked waits for the client. A body that said "not yet" waits for its sender, and may be silent as long as the route allows.
//!
//! The connection's timer finds these streams. Streams whose windows are open are never in its list.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::activity::Exchanging;
use crate::coarse;
use crate::telemetry::ListenerCounters;

/// The most that hyper gets at once. It hands a piece to the h2 crate as a whole when the window has room for one byte, so this bounds what is
/// kept after the body is gone, and how much a slow client has to take to be seen to read.
const PIECE: usize = 64 << 10;
/// While the socket takes nothing, streams wait for each other and not for their windows. They have so many times as long.
const SHARED: u64 = 10;

/// The streams of a connection that have data which the client does not take.
pub(super) struct Unread {
    counters: Arc<ListenerCounters>,
    /// What the body of the stream that is being polled has said.
    said: Cell<Said>,
    streams: RefCell<Vec<Option<Entry>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// It was not asked.
    Nothing,
    Piece,
    NotYet,
}

/// A stream that has waited for its client once.
struct Entry {
    /// By [`coarse::now_ms`]: since when it waits, if it does.
    since: Option<u64>,
    given_up: bool,
    task: Waker,
}

impl Unread {
    pub(super) fn new(counters: Arc<ListenerCounters>) -> Rc<Self> {
        Rc::new(Unread { counters, said: Cell::new(Said::Nothing), streams: RefCell::default() })
    }

    /// The task of a stream, which ends when the stream is given up.
    pub(super) fn stream<F>(self: &Rc<Self>, future: F) -> Stream<F> {
        Stream { future, place: Place { unread: Rc::clone(self), index: None } }
    }

    /// Gives up what has waited for `idle`, and answers when to look again. `blocked`: the socket has no room.
    pub(super) fn give_up(&self, idle: Duration, blocked: bool) -> Option<Instant> {
        let now = coarse::now_ms();
        let next = self.give_up_at(now, u64::try_from(idle.as_millis()).unwrap_or(u64::MAX), blocked)?;
        Some(Instant::now() + Duration::from_millis(next - now))
    }

    fn give_up_at(&self, now: u64, idle: u64, blocked: bool) -> Option<u64> {
        let idle = if blocked { idle.saturating_mul(SHARED) } else { idle };
        let mut next = None;
        for entry in self.streams.borrow_mut().iter_mut().flatten() {
            let Some(since) = entry.since else { continue };
            let at = since.saturating_add(idle);
            if at > now {
                next = Some(next.map_or(at, |next: u64| next.min(at)));
                continue;
            }
            entry.since = None;
            entry.given_up = true;
            entry.task.wake_by_ref();
            self.counters.stalled_streams.add(1);
        }
        next
    }
}

/// The place of a stream in the list, once it has waited.
struct Place {
    unread: Rc<Unread>,
    index: Option<usize>,
}

impl Place {
    fn is_given_up(&self) -> bool {
        let Some(index) = self.index else { return false };
        self.unread.streams.borrow()[index].as_ref().is_some_and(|entry| entry.given_up)
    }

    /// The task waits; `said` tells for whom.
    fn note(&mut self, said: Said, cx: &Context<'_>) {
        let since = match (said, self.index) {
            // It waits for whom it has waited for.
            (Said::Nothing, _) | (Said::NotYet, None) => return,
            (Said::NotYet, Some(_)) => None,
            (Said::Piece, _) => Some(coarse::now_ms()),
        };
        let mut streams = self.unread.streams.borrow_mut();
        match self.index {
            Some(index) => {
                if let Some(entry) = &mut streams[index] {
                    entry.since = since;
                    entry.task.clone_from(cx.waker());
                }
            }
            None => {
                let entry = Some(Entry { since, given_up: false, task: cx.waker().clone() });
                let free = streams.iter().position(Option::is_none);
                let index = free.unwrap_or(streams.len());
                match free {
                    Some(free) => streams[free] = entry,
                    None => streams.push(entry),
                }
                self.index = Some(index);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(index) = self.index else { return };
        let mut streams = self.unread.streams.borrow_mut();
        streams[index] = None;
        while streams.pop_if(|last| last.is_none()).is_some() {}
        // An idle connection keeps no list.
        if streams.is_empty() {
            *streams = Vec::new();
        }
    }
}

pin_project! {
    /// hyper's task for one stream. The stream is reset when it is dropped before its end.
    pub(super) struct Stream<F> {
        #[pin]
        future: F,
        place: Place,
    }
}

impl<F: Future> Future for Stream<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.place.is_given_up() {
            tracing::debug!("the client takes no bytes of a stream, which is reset");
            return Poll::Ready(());
        }
        this.place.unread.said.set(Said::Nothing);
        let polled = this.future.poll(cx);
        if polled.is_pending() {
            let said = this.place.unread.said.get();
            this.place.note(said, cx);
        }
        polled.map(drop)
    }
}

pin_project! {
    /// A response body that notes what it says, and ends its exchange when it is dropped.
    pub(super) struct Tracked<B> {
        #[pin]
        body: B,
        // Of a piece that was too large.
        rest: Bytes,
        unread: Rc<Unread>,
        exchanging: Exchanging,
    }
}

impl<B> Tracked<B> {
    pub(super) fn new(body: B, unread: Rc<Unread>, exchanging: Exchanging) -> Self {
        Tracked { body, rest: Bytes::new(), unread, exchanging }
    }
}

impl<B: http_body::Body<Data = Bytes>> http_body::Body for Tracked<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        if !this.rest.is_empty() {
            this.unread.said.set(Said::Piece);
            let piece = this.rest.split_to(this.rest.len().min(PIECE));
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let mut polled = this.body.poll_frame(cx);
        this.unread.said.set(if polled.is_pending() { Said::NotYet } else { Said::Piece });
        if let Poll::Ready(Some(Ok(frame))) = &mut polled
            && let Some(data) = frame.data_mut()
            && data.len() > PIECE
        {
            *this.rest = data.split_off(PIECE);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    /// hyper asks before the first piece.
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unread() -> Rc<Unread> {
        Unread::new(Arc::new(ListenerCounters::default()))
    }

    fn poll<F: Future<Output = ()>>(stream: &mut Pin<Box<Stream<F>>>) -> Poll<()> {
        stream.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    /// A stream whose body says these one after the other.
    fn saying(
        unread: &Rc<Unread>,
        said: impl IntoIterator<Item = Said> + 'static,
    ) -> Pin<Box<Stream<impl Future<Output = ()>>>> {
        let (of, mut said) = (Rc::clone(unread), said.into_iter());
        Box::pin(unread.stream(std::future::poll_fn(move |_| match said.next() {
            Some(said) => {
                of.said.set(said);
                Poll::Pending
            }
            None => Poll::Ready(()),
        })))
    }

    #[test]
    fn a_piece_that_is_not_taken_is_waited_for_so_long() {
        let unread = unread();
        let mut stream = saying(&unread, [Said::Piece, Said::Nothing, Said::Nothing]);
        assert!(poll(&mut stream).is_pending());
        let begun = coarse::now_ms();
        assert!(unread.give_up_at(begun + 500, 1000, false).is_some_and(|next| next <= begun + 1000));
        assert!(poll(&mut stream).is_pending());
        assert_eq!(unread.give_up_at(begun + 1000, 1000, false), None);
        assert_eq!(unread.counters.stalled_streams.value(), 1);
        assert!(poll(&mut stream).is_ready());
        drop(stream);
        assert!(unread.streams.borrow().is_empty());
    }

    #[test]
    fn a_body_without_a_piece_waits_for_its_sender() {
        let unread = unread();
        let mut silent = saying(&unread, [Said::NotYet, Said::Nothing]);
        let mut once = saying(&unread, [Said::Piece, Said::NotYet, Said::Nothing]);
        for _ in 0..2 {
            assert!(poll(&mut silent).is_pending() && poll(&mut once).is_pending());
        }
        assert!(poll(&mut once).is_pending());
        assert_eq!(unread.give_up_at(u64::MAX, 1, false), None);
        assert_eq!(unread.counters.stalled_streams.value(), 0);
    }

    #[test]
    fn streams_that_share_a_slow_socket_have_longer() {
        let unread = unread();
        let mut streams = [(); 3].map(|()| saying(&unread, [Said::Piece, Said::Piece]));
        streams.iter_mut().for_each(|stream| assert!(poll(stream).is_pending()));
        let begun = coarse::now_ms();
        assert!(unread.give_up_at(begun + 1000, 1000, true).is_some());
        let [first, ..] = streams;
        drop(first);
        assert_eq!(unread.streams.borrow().len(), 3, "places stay where they are");
        let mut other = saying(&unread, [Said::Piece]);
        assert!(poll(&mut other).is_pending());
        assert_eq!(unread.streams.borrow().len(), 3, "and are used again");
        assert_eq!(unread.give_up_at(begun + 60_000, 1000, true), None);
        assert_eq!(unread.counters.stalled_streams.value(), 3);
    }
}
