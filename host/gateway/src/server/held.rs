//! Small writes of TLS that go out with others: each saves a write, and wakes the client once.
//!
//! - The session tickets of TLS 1.3 go out with the first response. They are there when the handshake is done, and a request mostly follows at once.
//! - The end of a last response goes out with `close_notify`.
//!
//! Nothing is held across a wait: when the connection has to wait for its client, what is held is sent.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

/// Tickets have some hundred bytes. Larger writes are not held.
const MOST: usize = 8 << 10;
/// The type of an encrypted record. The server's first flight begins with another, and so does all of the handshake of TLS 1.2.
const APPLICATION_DATA: u8 = 0x17;

/// Bytes that wait for others to be written with them.
// In a box, since only the handshake has it.
#[derive(Default)]
pub(super) struct Held(Option<Box<Writes>>);

#[derive(Default)]
struct Writes {
    bytes: Vec<u8>,
    phase: Phase,
    /// A read has found nothing since.
    waited_for: bool,
}

/// What is held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    /// What the handshake writes last.
    #[default]
    Handshake,
    /// Nothing more.
    Open,
    /// All small writes until the socket is closed for writing.
    Closing,
}

impl Held {
    pub(super) fn begin(&mut self) {
        self.0 = Some(Box::default());
    }

    /// The handshake is over. What is held goes out with the next write, or before the next wait.
    pub(super) fn end(&mut self) {
        if let Some(writes) = &mut self.0 {
            writes.phase = Phase::Open;
        }
        self.forget_if_over();
    }

    /// The socket is closed for writing when this was written.
    pub(super) fn close(&mut self) {
        self.0.get_or_insert_default().phase = Phase::Closing;
    }

    fn forget_if_over(&mut self) {
        if self.0.as_ref().is_some_and(|writes| writes.phase == Phase::Open && writes.bytes.is_empty()) {
            self.0 = None;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|writes| writes.bytes.is_empty())
    }

    /// Takes note of a read that found nothing, and answers whether it was not the first.
    pub(super) fn is_waited_for(&mut self) -> bool {
        self.0.as_mut().is_some_and(|writes| std::mem::replace(&mut writes.waited_for, true))
    }

    /// Whether writes go by.
    pub(super) fn is_idle(&self) -> bool {
        self.0.is_none()
    }

    /// Whether a flush is not meant for what is held.
    pub(super) fn outlasts_flush(&self) -> bool {
        self.0.as_ref().is_some_and(|writes| writes.phase != Phase::Open)
    }

    /// Keeps what is to be written, if it may wait, and answers its length.
    pub(super) fn take(&mut self, slices: &[IoSlice<'_>]) -> Option<usize> {
        let writes = self.0.as_mut()?;
        let may_wait = match writes.phase {
            Phase::Handshake if writes.bytes.is_empty() => {
                slices.iter().find_map(|slice| slice.first()) == Some(&APPLICATION_DATA)
            }
            Phase::Handshake | Phase::Closing => true,
            Phase::Open => false,
        };
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        if !may_wait || writes.bytes.len() + length > MOST {
            return None;
        }
        slices.iter().for_each(|slice| writes.bytes.extend_from_slice(slice));
        Some(length)
    }

    /// One write of what is held and of `more`.
    pub(super) fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut W,
        more: &[IoSlice<'_>],
    ) -> Poll<io::Result<Wrote>> {
        let bytes = self.0.as_mut().map(|writes| &mut writes.bytes);
        let held = bytes.as_ref().map_or(0, |bytes| bytes.len());
        let written = {
            let first = bytes.as_ref().map(|bytes| IoSlice::new(bytes));
            let all: Vec<_> = first.into_iter().chain(more.iter().map(|slice| IoSlice::new(slice))).collect();
            ready!(Pin::new(socket).poll_write_vectored(cx, &all))?
        };
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        if let Some(bytes) = bytes {
            bytes.drain(..written.min(held));
        }
        self.forget_if_over();
        Poll::Ready(Ok(Wrote { all: written, of_more: written.saturating_sub(held) }))
    }
}

/// What a write took.
pub(super) struct Wrote {
    pub(super) all: usize,
    /// Without what was held.
    pub(super) of_more: usize,
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Read;
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::task::Waker;
    use std::time::Duration;

    use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
    use tokio::net::TcpStream;

    use super::super::activity::{Occupancy, Watched};
    use super::*;
    use crate::sockets::Stream;

    /// A socket in a handshake, and that of its client.
    async fn pair() -> (Watched, std::net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let socket = TcpStream::connect(address).await.expect("a connection");
        socket.set_nodelay(true).expect("no delay");
        let (client, _) = listener.accept().expect("a client");
        client.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        let occupancy = Occupancy::take(Arc::default(), [Arc::default(), Arc::default(), Arc::default()]);
        let mut watched = Watched::new(Stream::Tcp(socket), occupancy);
        watched.begin_handshake();
        (watched, client)
    }

    /// What has come at once.
    fn read(client: &mut std::net::TcpStream) -> Vec<u8> {
        let mut room = [0; 1024];
        let n = client.read(&mut room).expect("bytes");
        room[..n].to_vec()
    }

    #[tokio::test(flavor = "local")]
    async fn tickets_and_the_first_response_are_one_write() {
        let (mut socket, mut client) = pair().await;
        socket.write_all(b"\x16flight").await.expect("sent");
        assert_eq!(read(&mut client), b"\x16flight", "the client waits for it");
        socket.write_all(b"\x17ticket\x17").await.expect("taken");
        socket.write_all(b"other").await.expect("taken");
        socket.flush().await.expect("the flush of the handshake");
        socket.end_handshake();
        client.set_nonblocking(true).expect("not blocking");
        assert_eq!(client.read(&mut [0; 8]).expect_err("nothing yet").kind(), io::ErrorKind::WouldBlock);
        client.set_nonblocking(false).expect("blocking");
        let response = [IoSlice::new(b"\x17res"), IoSlice::new(b"ponse")];
        let taken = poll_fn(|cx| Pin::new(&mut socket).poll_write_vectored(cx, &response)).await.expect("sent");
        assert_eq!(taken, 9);
        assert_eq!(read(&mut client), b"\x17ticket\x17other\x17response");
        socket.write_all(b"\x17more").await.expect("sent");
        assert_eq!(read(&mut client), b"\x17more", "and nothing is held any more");
    }

    #[tokio::test(flavor = "local")]
    async fn a_client_that_is_waited_for_gets_them_at_once() {
        let (mut socket, mut client) = pair().await;
        socket.write_all(b"\x17ticket").await.expect("taken");
        socket.end_handshake();
        let mut room = [0; 8];
        let cx = &mut Context::from_waker(Waker::noop());
        for _ in 0..2 {
            assert!(Pin::new(&mut socket).poll_read(cx, &mut ReadBuf::new(&mut room)).is_pending());
        }
        assert_eq!(read(&mut client), b"\x17ticket");
    }

    #[tokio::test(flavor = "local")]
    async fn the_last_response_and_the_goodbye_are_one_write() {
        let (mut socket, mut client) = pair().await;
        socket.write_all(b"\x17ticket").await.expect("taken");
        socket.end_handshake();
        socket.activity().close_after_this();
        socket.write_all(b"\x17response").await.expect("taken");
        socket.flush().await.expect("the flush of the response");
        client.set_nonblocking(true).expect("not blocking");
        assert_eq!(client.read(&mut [0; 8]).expect_err("nothing yet").kind(), io::ErrorKind::WouldBlock);
        client.set_nonblocking(false).expect("blocking");
        socket.write_all(b"\x17goodbye").await.expect("taken");
        socket.shutdown().await.expect("closed");
        assert_eq!(read(&mut client), b"\x17ticket\x17response\x17goodbye");
        assert_eq!(read(&mut client), b"");
    }

    #[tokio::test(flavor = "local")]
    async fn nothing_that_is_held_is_lost() {
        for end in ["flush", "shutdown", "drop"] {
            let (mut socket, mut client) = pair().await;
            socket.write_all(b"\x17alert").await.expect("taken");
            match end {
                "flush" => {
                    socket.end_handshake();
                    socket.flush().await.expect("flushed");
                }
                "shutdown" => socket.shutdown().await.expect("closed"),
                _ => drop(socket),
            }
            assert_eq!(read(&mut client), b"\x17alert", "{end}");
        }
        let (mut socket, mut client) = pair().await;
        let large = vec![APPLICATION_DATA; MOST + 1];
        socket.write_all(&large[..10]).await.expect("taken");
        socket.write_all(&large[10..]).await.expect("sent");
        let mut all = vec![0; large.len()];
        client.read_exact(&mut all).expect("too much to be held");
        assert_eq!(all, large);
    }
}
