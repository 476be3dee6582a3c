//! What a connection is doing, and the socket wrapper that watches it. One timer for each connection reads this when it
//! fires, so that a request arms no timers.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::ListenerSettings;
use super::held::{Held, Wrote};
use super::reset::ResetWatch;
use crate::coarse;
use crate::config::model::ConnectionLifetime;
use crate::sockets::Stream;
use crate::telemetry::ListenerCounters;

const HEAD: u64 = 0;
const BUSY: u64 = 1;
const IDLE: u64 = 2;

/// Limits of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) header: Duration,
    pub(super) idle: Duration,
    /// The age in milliseconds at which it gets no more requests; the largest number for none.
    pub(super) age: u64,
    /// How long its streams may go on after that.
    pub(super) grace: Duration,
    /// How many requests it gets; the largest number stands for no limit.
    pub(super) requests: u32,
}

impl Patience {
    pub(super) fn of(settings: &ListenerSettings) -> Self {
        let ConnectionLifetime { max_age, grace, max_requests } = settings.lifetime;
        Patience {
            header: settings.header_timeout,
            idle: settings.idle_timeout,
            age: max_age.map_or(u64::MAX, coarse::jittered_ms),
            grace,
            requests: max_requests.unwrap_or(u32::MAX),
        }
    }
}

/// Why a connection is not waited for any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expiry {
    /// The request head did not come in time.
    Header,
    /// Nothing to do for too long.
    Idle,
    /// The client takes no bytes.
    Stalled,
    /// It is older than allowed, and its streams did not end.
    Age,
}

impl Expiry {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Expiry::Header => "request head timeout",
            Expiry::Idle => "idle timeout",
            Expiry::Stalled => "client takes no bytes",
            Expiry::Age => "connection age",
        }
    }
}

/// The state of one connection. All of it happens on its worker.
#[derive(Debug)]
pub(super) struct Activity {
    /// By [`coarse::now_ms`].
    start: u64,
    /// Milliseconds since `start` times four, plus HEAD, BUSY or IDLE.
    phase: Cell<u64>,
    exchanges: Cell<u32>,
    /// All that have begun.
    requests: Cell<u32>,
    /// Milliseconds since `start` plus one; 0 while writing goes on.
    stalled: Cell<u64>,
    /// The socket is closed with a reset instead of an orderly end.
    reset: Cell<bool>,
    /// The client has said that it sends no more.
    half_closed: Cell<bool>,
    /// The connection gets no more requests, whatever its age.
    dismissed: Cell<bool>,
    /// What is written now is the end of the last response.
    closing: Cell<bool>,
    /// Whether bytes that come on an idle connection begin a request head. On HTTP/2 they may be pings.
    bytes_are_heads: bool,
}

impl Activity {
    pub(super) fn new() -> Self {
        Activity {
            start: coarse::now_ms(),
            phase: Cell::new(HEAD),
            exchanges: Cell::new(0),
            requests: Cell::new(0),
            stalled: Cell::new(0),
            reset: Cell::new(false),
            half_closed: Cell::new(false),
            dismissed: Cell::new(false),
            closing: Cell::new(false),
            bytes_are_heads: true,
        }
    }

    /// An exchange begins: its head is in.
    pub(super) fn begin(self: &Rc<Self>) -> Exchanging {
        self.requests.set(self.requests.get().saturating_add(1));
        self.hold()
    }

    /// What goes on beside an exchange, or after it: the connection is not idle meanwhile.
    pub(super) fn hold(self: &Rc<Self>) -> Exchanging {
        self.exchanges.set(self.exchanges.get() + 1);
        self.phase.set(BUSY);
        Exchanging(Rc::clone(self))
    }

    /// Whether the connection gets no more requests: it is too old, or has had as many as it may.
    pub(super) fn is_spent(&self, patience: Patience) -> bool {
        self.requests.get() >= patience.requests || patience.age != u64::MAX && patience.age <= self.now()
    }

    pub(super) fn is_dismissed(&self) -> bool {
        self.dismissed.get()
    }

    /// The rest of the response is the last that is written, and the socket is closed for writing at once. Over TLS they can be one write.
    pub(super) fn close_after_this(&self) {
        self.closing.set(true);
    }

    /// The client sends no more. It may still read.
    pub(super) fn half_close(&self) {
        self.half_closed.set(true);
    }

    pub(super) fn is_half_closed(&self) -> bool {
        self.half_closed.get()
    }

    /// When to look again, or what has expired.
    pub(super) fn check(&self, patience: Patience) -> Result<Instant, Expiry> {
        let now = self.now();
        self.check_at(now, patience).map(|at| Instant::now() + Duration::from_millis(at - now))
    }

    /// The same where idle connections may have to go before their time.
    pub(super) fn check_crowded(
        &self,
        patience: Patience,
        closes_idle: impl FnOnce() -> bool,
    ) -> Result<Instant, Expiry> {
        match self.check(patience) {
            Ok(_) if self.phase.get() & 3 == IDLE && closes_idle() => Err(Expiry::Idle),
            checked => checked,
        }
    }

    /// The same in milliseconds since the start.
    fn check_at(&self, now: u64, patience: Patience) -> Result<u64, Expiry> {
        let phase = self.phase.get();
        let since = phase >> 2;
        // Looking at least this often finds each deadline in time, whichever phase begins meanwhile.
        let step = millis(patience.header.min(patience.idle)).max(1);
        let (deadline, expiry) = match phase & 3 {
            HEAD => (since + millis(patience.header), Expiry::Header),
            IDLE => ((since + millis(patience.idle)).min(patience.age), Expiry::Idle),
            _ => (u64::MAX, Expiry::Stalled),
        };
        if deadline <= now {
            return Err(expiry);
        }
        let stalled = self.stalled.get();
        if stalled > 0 && stalled - 1 + millis(patience.idle) <= now {
            return Err(Expiry::Stalled);
        }
        let next = deadline.min(now + step);
        Ok(if patience.age > now { next.min(patience.age) } else { next })
    }

    fn now(&self) -> u64 {
        coarse::now_ms() - self.start
    }

    fn idle(&self, now: u64) {
        self.phase.set(now << 2 | IDLE);
    }

    /// Bytes came. The clock is read only when they begin a head.
    fn received(&self, now: impl FnOnce() -> u64) {
        if self.bytes_are_heads && self.phase.get() & 3 == IDLE {
            self.phase.set(now() << 2 | HEAD);
        }
    }

    /// Closes the socket with a reset: an orderly end would make the response look complete.
    pub(super) fn break_off(&self) {
        self.reset.set(true);
    }

    /// A head has begun to arrive. Its first bytes may have come before the connection was idle, right after another request.
    pub(super) fn heading(&self) {
        self.received(|| self.now());
    }

    /// Whether the socket had no room for the last write.
    pub(super) fn is_blocked(&self) -> bool {
        self.stalled.get() > 0
    }

    /// A write found no room.
    fn blocked(&self, now: impl FnOnce() -> u64) {
        if self.stalled.get() == 0 {
            self.stalled.set(now() + 1);
        }
    }

    fn finished(&self, now: impl FnOnce() -> u64) {
        self.exchanges.set(self.exchanges.get() - 1);
        if self.exchanges.get() == 0 {
            self.idle(now());
        }
    }
}

/// An exchange in progress.
pub(super) struct Exchanging(Rc<Activity>);

impl Exchanging {
    /// It is the last one of its connection, beside those that go on.
    pub(super) fn dismiss(&self) {
        self.0.dismissed.set(true);
    }
}

impl Drop for Exchanging {
    fn drop(&mut self) {
        self.0.finished(|| self.0.now());
    }
}

fn millis(duration: Duration) -> u64 {
    // Two bits are taken by the phase, and sums must not overflow.
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(u64::MAX >> 4)
}

/// Counts an open connection until its socket is gone, also after an upgrade.
pub(super) struct Occupancy {
    pub(super) counters: Arc<ListenerCounters>,
    /// Of the process, of the listener, of the worker.
    pub(super) open: [Arc<AtomicUsize>; 3],
}

impl Occupancy {
    pub(super) fn take(counters: Arc<ListenerCounters>, open: [Arc<AtomicUsize>; 3]) -> Self {
        counters.active.add(1);
        open.iter().for_each(|open| {
            open.fetch_add(1, Relaxed);
        });
        Occupancy { counters, open }
    }
}

impl Drop for Occupancy {
    fn drop(&mut self) {
        self.counters.active.sub(1);
        self.open.iter().for_each(|open| {
            open.fetch_sub(1, Relaxed);
        });
    }
}

/// A client socket that notes what happens on it.
pub(super) struct Watched {
    socket: Stream,
    /// Bytes that were read to find the protocol, to be read again.
    prefix: Bytes,
    held: Held,
    activity: Rc<Activity>,
    occupancy: Occupancy,
    /// Once the client has said that it sends no more.
    reset_watch: Option<Box<ResetWatch>>,
}

impl Watched {
    pub(super) fn new(socket: Stream, occupancy: Occupancy) -> Self {
        let activity = Rc::new(Activity::new());
        Watched { socket, prefix: Bytes::new(), held: Held::default(), activity, occupancy, reset_watch: None }
    }

    pub(super) fn activity(&self) -> &Rc<Activity> {
        &self.activity
    }

    pub(super) fn counters(&self) -> &Arc<ListenerCounters> {
        &self.occupancy.counters
    }

    /// Gives bytes back, to be read first.
    pub(super) fn unread(&mut self, bytes: Bytes) {
        self.prefix = if self.prefix.is_empty() { bytes } else { [bytes, self.prefix.split_off(0)].concat().into() };
    }

    /// A handshake of TLS begins.
    pub(super) fn begin_handshake(&mut self) {
        self.held.begin();
    }

    pub(super) fn end_handshake(&mut self) {
        self.held.end();
    }

    /// From here on HTTP/2 is spoken. The connection counts as idle until its first stream.
    pub(super) fn speak_h2(&mut self) -> Rc<Activity> {
        let activity = Activity { bytes_are_heads: false, ..Activity::new() };
        activity.idle(0);
        self.activity = Rc::new(activity);
        Rc::clone(&self.activity)
    }

    fn wrote(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &result {
            Poll::Pending => self.activity.blocked(|| self.activity.now()),
            Poll::Ready(Ok(bytes)) => {
                self.activity.stalled.set(0);
                self.occupancy.counters.bytes_out.bump(*bytes as u64);
            }
            Poll::Ready(Err(_)) => {}
        }
        result
    }

    /// Writes what is held, and in the same write as much of `more` as the socket takes.
    fn poll_write_held(&mut self, cx: &mut Context<'_>, more: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        while !self.held.is_empty() {
            let wrote = self.held.poll_write(cx, &mut self.socket, more);
            let of_more = match &wrote {
                Poll::Ready(Ok(Wrote { of_more, .. })) => *of_more,
                Poll::Ready(Err(_)) | Poll::Pending => 0,
            };
            ready!(self.wrote(wrote.map_ok(|wrote| wrote.all)))?;
            if of_more > 0 {
                return Poll::Ready(Ok(of_more));
            }
        }
        Poll::Ready(Ok(0))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // The alert of a handshake that has failed.
        let _ = self.poll_write_held(&mut Context::from_waker(Waker::noop()), &[]);
        if self.activity.reset.get() {
            self.socket.reset_at_close();
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.prefix.is_empty() {
            let n = this.prefix.len().min(buffer.remaining());
            buffer.put_slice(&this.prefix[..n]);
            this.prefix.advance(n);
            if this.prefix.is_empty() {
                // Its buffer would stay as long as the connection.
                this.prefix = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let result = Pin::new(&mut this.socket).poll_read(cx, buffer);
        let read = buffer.filled().len() - before;
        if read > 0 {
            this.occupancy.counters.bytes_in.bump(read as u64);
            this.activity.received(|| this.activity.now());
        }
        if result.is_pending() && !this.held.is_empty() {
            // TLS looks for more behind a request that it has. Only who finds nothing again waits for the client, which may wait as well.
            if !this.held.is_waited_for() {
                cx.waker().wake_by_ref();
            } else if let Poll::Ready(Err(error)) = this.poll_write_held(cx, &[]) {
                return Poll::Ready(Err(error));
            }
        }
        result
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.held.is_idle() && !self.activity.closing.get() {
            let this = self.get_mut();
            let result = Pin::new(&mut this.socket).poll_write(cx, bytes);
            return this.wrote(result);
        }
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.activity.closing.get() {
            this.held.close();
        }
        if let Some(length) = this.held.take(slices) {
            return Poll::Ready(Ok(length));
        }
        if !this.held.is_empty() {
            let taken = ready!(this.poll_write_held(cx, slices))?;
            if taken > 0 {
                return Poll::Ready(Ok(taken));
            }
        }
        let result = Pin::new(&mut this.socket).poll_write_vectored(cx, slices);
        this.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    /// A socket has nothing to flush. After the end of the client's side, when reads say no more of it, this tells of a reset, and has the
    /// task woken at one.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.activity.is_half_closed() {
            let watch = this.reset_watch.get_or_insert_with(|| Box::new(ResetWatch::of(&this.socket)));
            if watch.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
        }
        if !this.held.outlasts_flush() {
            ready!(this.poll_write_held(cx, &[]))?;
        }
        Pin::new(&mut this.socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_write_held(cx, &[]))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        header: Duration::from_secs(10),
        idle: Duration::from_secs(60),
        age: u64::MAX,
        grace: Duration::ZERO,
        requests: u32::MAX,
    };

    #[test]
    fn each_phase_has_its_deadline() {
        let activity = Rc::new(Activity::new());
        assert_eq!(activity.check_at(9_000, PATIENCE), Ok(10_000), "the head may still come");
        assert_eq!(activity.check_at(10_000, PATIENCE), Err(Expiry::Header));

        std::mem::forget((activity.begin(), activity.begin()));
        activity.finished(|| 500_000);
        assert_eq!(activity.check_at(1_000_000, PATIENCE), Ok(1_010_000), "an exchange is in progress");
        activity.finished(|| 1_000_000);
        assert_eq!(activity.check_at(1_059_000, PATIENCE), Ok(1_060_000));
        assert_eq!(activity.check_at(1_060_000, PATIENCE), Err(Expiry::Idle));

        activity.received(|| 1_060_000);
        activity.received(|| 1_069_000);
        assert_eq!(activity.check_at(1_070_000, PATIENCE), Err(Expiry::Header), "the first byte begins a head");
    }

    #[test]
    fn a_deadline_of_a_phase_that_begins_later_is_not_missed() {
        let activity = Activity::new();
        activity.idle(0);
        let next = activity.check_at(0, PATIENCE).expect("just begun");
        activity.received(|| 1);
        assert!(next <= 10_001, "{next}");
        assert_eq!(activity.check_at(next, PATIENCE), Ok(10_001));
    }

    #[test]
    fn a_connection_ends_by_its_age_and_its_requests() {
        let patience = Patience { age: 30_000, requests: 2, ..PATIENCE };
        let activity = Rc::new(Activity::new());
        let first = activity.begin();
        assert_eq!(activity.check_at(25_000, patience), Ok(30_000), "the age is not missed");
        assert_eq!(activity.check_at(30_000, patience), Ok(40_000), "an exchange goes on");
        assert!(!activity.is_spent(patience));
        activity.finished(|| 31_000);
        assert_eq!(activity.check_at(31_000, patience), Err(Expiry::Idle));
        std::mem::forget((first, activity.hold()));
        assert!(!activity.is_spent(patience), "what is only held is no request");
        std::mem::forget(activity.begin());
        assert!(activity.is_spent(patience));
    }

    #[test]
    fn a_client_that_takes_nothing_expires() {
        let activity = Rc::new(Activity::new());
        let _exchange = activity.begin();
        activity.blocked(|| 0);
        activity.blocked(|| 59_000);
        assert!(activity.check_at(59_999, PATIENCE).is_ok());
        assert_eq!(activity.check_at(60_000, PATIENCE), Err(Expiry::Stalled));
    }
}
