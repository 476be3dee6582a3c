//! The socket of an HTTP/1 connection and its read and write buffers. The worker lends a buffer only while it holds something, so
//! an idle connection has none.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::task::coop::unconstrained;

use super::{Guarded, write_queue};

/// Bytes of room for a read at first; more once a peer fills it.
const READ: usize = 8 << 10;
/// The most room for a read.
const MAX_READ: usize = 64 << 10;
/// Body parts up to this many bytes are copied into the write buffer; larger ones are written without a copy.
const COPY: usize = 16 << 10;
/// Buffers that a worker keeps for the next connection that needs one.
const SPARE: usize = 64;
/// The same for large bodies: allocating that much takes longer than reading into it.
const SPARE_LARGE: usize = 8;

thread_local! {
    static BUFFERS: RefCell<[Vec<BytesMut>; 2]> = const { RefCell::new([const { Vec::new() }; 2]) };
}

fn borrow_buffer(room: usize) -> BytesMut {
    BUFFERS.with_borrow_mut(|spare| spare[usize::from(is_large(room))].pop()).unwrap_or_default()
}

fn is_large(room: usize) -> bool {
    room > 2 * READ
}

fn give_buffer_back(mut buffer: BytesMut) {
    buffer.clear();
    let large = is_large(buffer.capacity());
    // The rest of a buffer keeps the part alive that is still in use. It is worth keeping only while much of it is left.
    if buffer.capacity() < READ / 2 || buffer.capacity() > 2 * MAX_READ {
        return;
    }
    // The thread may be going away.
    let _ = BUFFERS.try_with(|spare| {
        let spare = &mut spare.borrow_mut()[usize::from(large)];
        if spare.len() < if large { SPARE_LARGE } else { SPARE } {
            spare.push(buffer);
        }
    });
}

/// A socket, or TLS over one.
pub trait Io: AsyncRead + AsyncWrite + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + 'static> Io for T {}

/// A socket with its buffers.
pub struct Transport {
    io: Box<dyn Io>,
    /// Bytes read and not consumed yet.
    read: BytesMut,
    /// The room for the next read.
    room: usize,
    /// To be written first, …
    out: BytesMut,
    /// … then this, where it lies, …
    large: Bytes,
    /// … then this.
    after: &'static [u8],
    /// Whether `io` may hold back bytes that it took.
    unflushed: bool,
    turn: WriteTurn,
    /// This transport, where `write_queue` may write for it.
    me: Weak<RefCell<Transport>>,
    /// A message must go out before the peer may send anything, and none of it was written yet.
    unasked: bool,
    /// Counts the writes that took something.
    writes: u64,
}

/// Whether buffered bytes may be written now. Small messages wait until the worker has handled all other ready tasks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WriteTurn {
    /// Not if the message is small.
    No,
    /// At the next poll.
    Next,
    /// When the task of `write_queue` reaches it.
    Queued,
    Yes,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Transport({} bytes received, {} to be written)", self.read.len(), self.unwritten())
    }
}

impl Transport {
    pub fn new(io: impl Io) -> Self {
        Transport {
            io: Box::new(io),
            read: BytesMut::new(),
            room: READ,
            out: BytesMut::new(),
            large: Bytes::new(),
            after: &[],
            unflushed: false,
            turn: WriteTurn::No,
            me: Weak::new(),
            unasked: false,
            writes: 0,
        }
    }

    /// A transport whose task need not be woken to write a small message; see [`Transport::poll_finish`].
    pub fn shared(io: impl Io) -> Rc<RefCell<Self>> {
        Rc::new_cyclic(|me| {
            let mut transport = Transport::new(io);
            transport.me = me.clone();
            RefCell::new(transport)
        })
    }

    /// Keeps something as long as the socket is open.
    pub fn guard(&mut self, guard: impl Unpin + 'static) {
        let io = std::mem::replace(&mut self.io, Box::new(tokio::io::empty()));
        self.io = Box::new(Guarded::new(io, guard));
    }

    /// The bytes read and not consumed yet.
    pub fn received(&mut self) -> &mut BytesMut {
        &mut self.read
    }

    /// Where to write heads and other small parts. Only while nothing large waits (see [`Transport::is_full`]).
    pub fn out(&mut self) -> &mut BytesMut {
        debug_assert!(self.large.is_empty(), "behind a large part nothing can be written yet");
        if self.out.capacity() == 0 {
            self.out = borrow_buffer(READ);
            self.out.reserve(READ);
        }
        &mut self.out
    }

    /// Adds a part of a body, and `after` behind it. Only while nothing large waits.
    pub fn push(&mut self, data: Bytes, after: &'static [u8]) {
        if data.len() <= COPY {
            let out = self.out();
            out.extend_from_slice(&data);
            out.extend_from_slice(after);
        } else {
            debug_assert!(self.large.is_empty(), "one large part at a time");
            self.large = data;
            self.after = after;
        }
    }

    /// Whether what waits has to be written before more can be added.
    pub fn is_full(&self) -> bool {
        !self.large.is_empty() || !self.after.is_empty() || self.out.len() >= COPY
    }

    /// Whether everything was written.
    pub fn is_flushed(&self) -> bool {
        self.unwritten() == 0 && !self.unflushed
    }

    /// Bytes that wait to be written.
    pub fn unwritten(&self) -> usize {
        self.out.len() + self.large.len() + self.after.len()
    }

    /// Begins a message that must go out before the peer may send anything. Bytes that arrive earlier are a close notice or an attack:
    /// [`Transport::poll_flush`] then fails with [`io::ErrorKind::NotConnected`] and writes nothing.
    pub fn ask(&mut self) {
        self.unasked = true;
        self.writes = 0;
    }

    /// Whether nothing was written since [`Transport::ask`].
    pub fn is_unasked(&self) -> bool {
        self.unasked
    }

    /// Counts the writes since [`Transport::ask`].
    pub fn writes(&self) -> u64 {
        self.writes
    }

    /// Writes the buffered bytes. A small message is written only after all other ready tasks of this worker have run. The first bytes
    /// wake a sleeping peer: messages sent in a row wake it once, messages sent between other work wake it each time. It also keeps
    /// the gateway's code and the kernel's in the instruction cache.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.turn == WriteTurn::No && self.is_small() {
            self.turn = WriteTurn::Next;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.poll_write_out(cx)
    }

    /// The same for a caller that has nothing to do after the write: its task is woken only if the write fails or blocks. No other task
    /// may poll it before it is ready.
    pub fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.turn == WriteTurn::No && self.is_small() && write_queue::write_later(&self.me, cx.waker()) {
            self.turn = WriteTurn::Queued;
            return Poll::Pending;
        }
        if self.turn == WriteTurn::Queued && self.is_small() {
            return Poll::Pending;
        }
        self.poll_flush(cx)
    }

    fn is_small(&self) -> bool {
        self.large.is_empty() && !self.out.is_empty()
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.turn = WriteTurn::Yes;
        if self.unasked && self.has_said(cx) {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        }
        loop {
            let io = Pin::new(&mut *self.io);
            let written = match (self.large.is_empty() && self.after.is_empty(), self.out.is_empty()) {
                (true, true) => break,
                (true, false) => ready!(io.poll_write(cx, &self.out))?,
                (false, _) => {
                    let parts = [IoSlice::new(&self.out), IoSlice::new(&self.large), IoSlice::new(self.after)];
                    ready!(io.poll_write_vectored(cx, &parts))?
                }
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.wrote(written);
        }
        if self.out.capacity() > 0 {
            give_buffer_back(std::mem::take(&mut self.out));
        }
        if self.unflushed {
            ready!(Pin::new(&mut *self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        self.turn = WriteTurn::No;
        Poll::Ready(Ok(()))
    }

    /// Whether a write is only put off: it will happen without another poll.
    pub fn is_write_deferred(&self) -> bool {
        matches!(self.turn, WriteTurn::Next | WriteTurn::Queued)
    }

    /// Writes a deferred message for the task that waits for it. Returns whether that task must be woken to see the outcome.
    pub(super) fn write_deferred(&mut self, cx: &mut Context<'_>) -> bool {
        if self.turn != WriteTurn::Queued {
            return false;
        }
        !matches!(self.poll_write_out(cx), Poll::Ready(Ok(())))
    }

    /// Makes the next [`Transport::poll_flush`] write at once, for a caller that will not poll again.
    pub fn hurry(&mut self) {
        self.turn = WriteTurn::Yes;
    }

    fn wrote(&mut self, written: usize) {
        self.unasked = false;
        self.writes += 1;
        let of_out = written.min(self.out.len());
        self.out.advance(of_out);
        let of_large = (written - of_out).min(self.large.len());
        self.large.advance(of_large);
        if self.large.is_empty() {
            // Frees the sent bytes at once.
            self.large = Bytes::new();
        }
        self.after = self.after.get(written - of_out - of_large..).unwrap_or_default();
    }

    /// Reads more behind what was received. 0: the peer has ended its side.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.read.capacity() == 0 {
            self.read = borrow_buffer(self.room);
        }
        if self.read.capacity() - self.read.len() < self.room / 2 {
            self.read.reserve(self.room);
        }
        let room = self.read.capacity() - self.read.len();
        let result = pin!(self.io.read_buf(&mut self.read)).poll(cx);
        match &result {
            Poll::Ready(Ok(n)) if *n == room => self.room = (self.room * 2).min(MAX_READ),
            Poll::Ready(Ok(n)) if *n < READ => self.room = READ,
            Poll::Ready(_) => {}
            Poll::Pending => self.release(),
        }
        result
    }

    /// Gives the buffer for reading back if nothing is in it.
    fn release(&mut self) {
        if self.read.is_empty() && self.read.capacity() > 0 {
            give_buffer_back(std::mem::take(&mut self.read));
        }
    }

    /// Whether the peer has neither ended the connection nor sent anything, as far as is known without waiting.
    pub fn is_quiet(&mut self) -> bool {
        !self.has_said(&mut Context::from_waker(Waker::noop()))
    }

    /// Whether the peer has sent something, or ended the connection. If not, the task is woken when it does.
    pub(super) fn has_said(&mut self, cx: &mut Context<'_>) -> bool {
        // Not under the task's budget: that would make every connection look quiet once it is used up.
        !self.read.is_empty() || pin!(unconstrained(poll_fn(|cx| self.poll_fill(cx)))).poll(cx).is_ready()
    }

    /// Ready when the connection is found broken after the peer has ended its side, if the socket tells so when it is flushed.
    pub(super) fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match Pin::new(&mut *self.io).poll_flush(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(()),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }

    /// Closes the write side.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_shutdown(cx)
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.release();
    }
}

/// For connections that have switched protocols: what was received is read first.
impl AsyncRead for Transport {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.read.is_empty() {
            let n = self.read.len().min(buf.remaining());
            buf.put_slice(&self.read.split_to(n));
            return Poll::Ready(Ok(()));
        }
        self.release();
        Pin::new(&mut *self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_shutdown(cx)
    }
}
