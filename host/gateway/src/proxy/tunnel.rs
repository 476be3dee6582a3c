//! Upgraded connections (WebSocket): bytes flow in both directions until both sides have closed, neither has sent anything for the
//! idle timeout, or the longest life of an exchange is over.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};

use super::context::RequestContext;
use super::error::{Kind, ProxyError};
use crate::deadline::Deadline;
use crate::http1::Transport;
use crate::server::OnUpgrade;

/// Joins both sides in a task of this worker. The context ends with the tunnel.
pub(super) fn join(
    client: OnUpgrade,
    upstream: Box<Transport>,
    idle: Option<Duration>,
    life: Option<Duration>,
    mut context: Box<RequestContext>,
) {
    tokio::task::spawn_local(async move {
        // The client may have left before it read the answer.
        let Ok(client) = client.await else { return };
        let (from_client, from_upstream) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let mut client = Counted { inner: client, read: Rc::clone(&from_client) };
        let mut upstream = Counted { inner: upstream, read: Rc::clone(&from_upstream) };
        let idled = async {
            let Some(idle) = idle else { return std::future::pending().await };
            loop {
                let before = (from_client.get(), from_upstream.get());
                let deadline = Deadline::after(idle);
                std::future::poll_fn(|cx| deadline.poll_passed(cx)).await;
                if before == (from_client.get(), from_upstream.get()) {
                    return;
                }
            }
        };
        let outlived = async {
            let Some(life) = life else { return std::future::pending().await };
            let deadline = Deadline::after(life.saturating_sub(context.start.elapsed()));
            std::future::poll_fn(|cx| deadline.poll_passed(cx)).await;
            life
        };
        let ended = tokio::select! {
            // An error means that a side closed without a close frame, as most WebSockets do.
            _ = copy_bidirectional(&mut client, &mut upstream) => Ok(()),
            () = idled => Err(ProxyError::new(Kind::ClientTimeout, "the upgraded connection was idle")),
            life = outlived => Err(ProxyError::outlived(life)),
        };
        match ended {
            Ok(()) => context.ended = true,
            Err(error) => context.fail(&error),
        }
        let bytes_in = context.bytes_in.get_or_insert_default();
        bytes_in.set(bytes_in.get() + from_client.get());
        context.bytes_out += from_upstream.get();
    });
}

/// Counts what is read.
struct Counted<T> {
    inner: T,
    read: Rc<Cell<u64>>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.read.set(self.read.get() + (buf.filled().len() - before) as u64);
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
