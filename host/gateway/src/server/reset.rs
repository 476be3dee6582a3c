//! Tells when a client that has closed its side of a connection leaves. Reads only repeat that its side has ended, so the socket is watched
//! a second time, for that alone. Over TCP a reset tells it. A Unix socket knows no resets, but hangs up when the other one is closed.

use std::future::Future;
use std::io;
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
                // A hang-up has no interest of its own and comes as the end of writing. Fails only when the runtime is going away.
                while let Ok(ready) = socket.ready(Interest::WRITABLE | Interest::ERROR).await {
                    if ready.is_error() || ready.is_write_closed() {
                        break;
                    }
                    // Until the kernel tells something new.
                    let _ =
                        socket.try_io(Interest::WRITABLE, || io::Result::<()>::Err(io::ErrorKind::WouldBlock.into()));
                }
            })),
            Err(_) => ResetWatch::Blind,
        }
    }

    /// Ready when the connection was reset or hung up.
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
