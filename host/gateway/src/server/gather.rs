//! Gathers what one turn of an HTTP/2 connection writes. The h2 crate flushes after each DATA frame of 256 bytes and more, which would be
//! a system call, and over TLS a record, for each response. Here frames wait until the connection's task has nothing more to do, and go
//! out in one write. Nothing waits longer than its own turn.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http1::Io;

/// A write of at least this many bytes is not copied. It goes out at once, behind what was gathered.
const LARGE: usize = 8 << 10;
/// Gathered bytes that are written before more are taken.
const FULL: usize = 32 << 10;

thread_local! {
    /// The worker's buffer, while no connection of it holds gathered bytes.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A socket, or TLS over one, and what waits to be written to it.
pub(super) struct Gather<T> {
    io: T,
    gathered: Vec<u8>,
    /// How much of `gathered` was written.
    written: usize,
    /// Whether `io` may hold back bytes that it took.
    unflushed: bool,
}

impl<T: Io> Gather<T> {
    fn new(io: T) -> Self {
        Gather { io, gathered: Vec::new(), written: 0, unflushed: false }
    }

    fn rest(&self) -> &[u8] {
        &self.gathered[self.written..]
    }

    /// Writes what was gathered, and gives the buffer back.
    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.rest().is_empty() {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, &self.gathered[self.written..]))?;
            self.wrote(n)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Takes note of a write of `n` bytes. What it took beyond the gathered bytes is the answer.
    fn wrote(&mut self, n: usize) -> io::Result<usize> {
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.unflushed = true;
        let before = self.rest().len();
        self.written += n.min(before);
        if self.rest().is_empty() {
            self.give_buffer_back();
        }
        Ok(n.saturating_sub(before))
    }

    fn give_buffer_back(&mut self) {
        self.written = 0;
        let mut buffer = std::mem::take(&mut self.gathered);
        buffer.clear();
        // Without one, the spare one stays. The thread may be going away.
        if buffer.capacity() > 0 {
            let _ = SPARE.try_with(|spare| spare.set(buffer));
        }
    }

    /// Room for gathered bytes.
    fn buffer(&mut self) -> &mut Vec<u8> {
        if self.gathered.capacity() == 0 {
            self.gathered = SPARE.try_with(Cell::take).unwrap_or_default();
            self.gathered.reserve(FULL + LARGE);
        }
        // A client that takes a part each time must not make the buffer grow by all that passes.
        if self.written > 0 {
            self.gathered.drain(..self.written);
            self.written = 0;
        }
        &mut self.gathered
    }

    fn poll_take(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        if length < LARGE {
            if self.rest().len() >= FULL {
                ready!(self.poll_write_out(cx))?;
            }
            let buffer = self.buffer();
            slices.iter().for_each(|slice| buffer.extend_from_slice(slice));
            return Poll::Ready(Ok(length));
        }
        loop {
            let gathered = self.rest().len();
            let written = if gathered == 0 {
                ready!(Pin::new(&mut self.io).poll_write_vectored(cx, slices))?
            } else {
                // The h2 crate has two parts: its buffer and the payload.
                let part = |n: usize| IoSlice::new(slices.get(n).map_or(&[], |slice| &slice[..]));
                let all = [IoSlice::new(&self.gathered[self.written..]), part(0), part(1)];
                ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &all))?
            };
            match self.wrote(written)? {
                0 => {}
                beyond => return Poll::Ready(Ok(beyond)),
            }
        }
    }

    fn poll_flush_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_out(cx))?;
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

/// The socket of an HTTP/2 connection, as hyper sees it. A clone flushes it from outside.
pub(super) struct Gathered<T>(Rc<RefCell<Gather<T>>>);

impl<T: Io> Gathered<T> {
    pub(super) fn new(io: T) -> Self {
        Gathered(Rc::new(RefCell::new(Gather::new(io))))
    }

    /// Writes out what a turn has gathered.
    pub(super) fn poll_end_turn(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_flush_out(cx)
    }
}

impl<T> Clone for Gathered<T> {
    fn clone(&self) -> Self {
        Gathered(Rc::clone(&self.0))
    }
}

impl<T: Io> AsyncRead for Gathered<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_read(cx, buffer)
    }
}

impl<T: Io> AsyncWrite for Gathered<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_take(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_take(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// The end of the turn flushes.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gather = self.0.borrow_mut();
        ready!(gather.poll_flush_out(cx))?;
        Pin::new(&mut gather.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// A socket that takes `room` bytes, at most `most` at a time, and notes each write.
    struct Slow {
        room: usize,
        most: usize,
        taken: Vec<u8>,
        writes: usize,
    }

    impl AsyncRead for Slow {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Slow {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            let n = bytes.len().min(self.most).min(self.room);
            if n == 0 {
                return Poll::Pending;
            }
            self.taken.extend_from_slice(&bytes[..n]);
            self.room -= n;
            self.writes += 1;
            Poll::Ready(Ok(n))
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn gathered(room: usize, most: usize) -> Gathered<Slow> {
        Gathered::new(Slow { room, most, taken: Vec::new(), writes: 0 })
    }

    /// Writes all of it, as long as the socket takes it; answers how much was taken.
    fn write(io: &mut Gathered<Slow>, parts: [&[u8]; 2]) -> usize {
        let cx = &mut Context::from_waker(Waker::noop());
        let (all, mut taken) = (parts.concat(), 0);
        while taken < all.len() {
            let split = parts[0].len().max(taken);
            let slices = [IoSlice::new(&all[taken..split]), IoSlice::new(&all[split..])];
            match Pin::new(&mut *io).poll_write_vectored(cx, &slices) {
                Poll::Ready(n) => taken += n.expect("no error"),
                Poll::Pending => break,
            }
        }
        taken
    }

    fn end_turn(io: &Gathered<Slow>) -> bool {
        let polled = io.poll_end_turn(&mut Context::from_waker(Waker::noop()));
        polled.map(|result| result.expect("no error")).is_ready()
    }

    #[test]
    fn small_writes_of_a_turn_are_one_write() {
        let mut io = gathered(usize::MAX, usize::MAX);
        for part in [&b"head"[..], &[7; 1024], b"tail"] {
            assert_eq!(write(&mut io, [b"frame", part]), 5 + part.len());
        }
        assert_eq!(io.0.borrow().io.writes, 0);
        assert!(end_turn(&io));
        let gather = io.0.borrow();
        assert_eq!((gather.io.writes, gather.io.taken.len()), (1, 15 + 4 + 1024 + 4));
        assert_eq!(gather.gathered.capacity(), 0, "an idle connection keeps no buffer");
    }

    #[test]
    fn large_writes_are_not_copied_and_keep_their_order() {
        let mut io = gathered(usize::MAX, 5000);
        write(&mut io, [b"a", b"b"]);
        let large = vec![9; 20_000];
        assert_eq!(write(&mut io, [b"head", &large]), 20_004);
        write(&mut io, [b"c", b""]);
        assert!(end_turn(&io));
        let gather = io.0.borrow();
        assert_eq!(gather.io.taken, [b"abhead", &large[..], b"c"].concat());
    }

    #[test]
    fn a_client_that_takes_nothing_bounds_what_is_gathered() {
        let mut io = gathered(0, usize::MAX);
        let mut taken = 0;
        loop {
            match write(&mut io, [&[1; 9], &[2; 1000]]) {
                0 => break,
                n => taken += n,
            }
        }
        assert!((FULL..FULL + LARGE).contains(&taken), "{taken}");
        assert_eq!(write(&mut io, [&[1; 9], &[2; 9000]]), 0, "a large write waits, too");
        assert!(!end_turn(&io));
        io.0.borrow_mut().io.room = usize::MAX;
        assert!(end_turn(&io));
        assert_eq!(io.0.borrow().io.taken.len(), taken);
    }

    #[test]
    fn a_client_that_takes_a_part_each_time_bounds_the_buffer() {
        let mut io = gathered(0, usize::MAX);
        let (mut taken, part) = (0, [&[1; 9][..], &[2; 4000]]);
        for _ in 0..1000 {
            io.0.borrow_mut().io.room += 5000;
            taken += write(&mut io, part);
            assert!(!end_turn(&io) || io.0.borrow().gathered.is_empty());
        }
        let gather = io.0.borrow();
        assert!(
            taken > 1_000_000 && gather.gathered.capacity() <= FULL + LARGE,
            "{taken} {}",
            gather.gathered.capacity()
        );
        let sent = gather.io.taken.len() + gather.rest().len();
        assert_eq!(sent, taken);
    }

    #[test]
    fn the_spare_buffer_outlives_large_writes() {
        let mut io = gathered(usize::MAX, usize::MAX);
        write(&mut io, [b"head", b""]);
        assert!(end_turn(&io));
        for _ in 0..3 {
            write(&mut io, [b"head", &[7; 16_384]]);
        }
        assert!(SPARE.take().capacity() >= FULL);
    }

    #[test]
    fn closing_writes_what_was_gathered() {
        let mut io = gathered(usize::MAX, 3);
        write(&mut io, [b"good", b"bye"]);
        let polled = Pin::new(&mut io).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_ready());
        assert_eq!(io.0.borrow().io.taken, b"goodbye");
    }
}
