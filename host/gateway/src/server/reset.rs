//! Tells when a client that has closed its side of a connection resets it. Reads only repeat that its side has ended, so the socket is
//! watched a second time, for errors alone. A Unix socket has no resets: a write to a client that has left fails at once.

use std::future::Future;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::Interest;
use tokio::net::TcpStream;

pub(super) enum ResetWatch {
    Watching(Pin<Box<dyn Future<Output = ()>>>),
    Reset,
    /// There is no descriptor left to watch with. A write will tell.
    Blind,
}

impl ResetWatch {
    pub(super) fn of(socket: &impl AsFd) -> Self {
        let watched = || TcpStream::from_std(std::net::TcpStream::from(socket.as_fd().try_clone_to_owned()?));
        match watched() {
            Ok(socket) => ResetWatch::Watching(Box::pin(async move {
                // Fails only when the runtime is going away.
                let _ = socket.ready(Interest::ERROR).await;
            })),
            Err(_) => ResetWatch::Blind,
        }
    }

    /// Ready when the connection was reset.
    pub(super) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            ResetWatch::Watching(errors) => {
                let polled = errors.as_mut().poll(cx);
                if polled.is_ready() {
                    *self = ResetWatch::Reset;
                }
                polled
            }
            ResetWatch::Reset => Poll::Ready(()),
            ResetWatch::Blind => Poll::Pending,
        }
    }
}
