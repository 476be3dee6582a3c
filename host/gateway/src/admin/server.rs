//! Connections of the admin listener. They are bounded in number, in what is waited for, and in what is kept for them, so that slow
//! clients cost the gateway no more than these bounds.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep, sleep};

use super::router::Router;
use crate::background::Background;
use crate::http::forwarded::ClientAddress;
use crate::sockets::{Listener, Stream};

/// What clients can take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Open at the same time; others wait in the kernel.
    pub(super) connections: usize,
    /// From the end of a response, or the start of the connection, to the end of the next request head.
    pub(super) header: Duration,
    /// How long a client may take no byte of a response.
    pub(super) stall: Duration,
}

pub(super) const LIMITS: Limits =
    Limits { connections: 64, header: Duration::from_secs(30), stall: Duration::from_secs(30) };

/// Bytes that are read of a request at once; a longer head is refused.
const BUFFER: usize = 16 * 1024;
/// How long accepting rests after a failure.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves for as long as the background thread runs.
pub(super) fn start(listener: Listener, router: Arc<Router>, background: &Background, limits: Limits) {
    let connections = background.clone();
    let accepting = move || async move {
        let Err(error) = accept(listener, router, connections, limits).await;
        tracing::error!(%error, "the admin listener has ended");
    };
    background.spawn("admin listener", accepting).detach();
}

async fn accept(
    listener: Listener,
    router: Arc<Router>,
    background: Background,
    limits: Limits,
) -> io::Result<Infallible> {
    let listener = listener.acceptor()?;
    let free = Arc::new(Semaphore::new(limits.connections));
    loop {
        let permit = Arc::clone(&free).acquire_owned().await.map_err(io::Error::other)?;
        let Ok((socket, peer)) = poll_fn(|cx| listener.poll_accept(cx)).await else {
            sleep(PAUSE).await;
            continue;
        };
        let router = Arc::clone(&router);
        let serving = move || async move {
            let _permit = permit;
            let client = peer.map_or(ClientAddress::Unix, |peer| ClientAddress::Ip(peer.ip()));
            serve(socket, client, &router, limits).await;
        };
        background.spawn("admin connection", serving).detach();
    }
}

async fn serve(socket: Stream, client: ClientAddress, router: &Router, limits: Limits) {
    let socket = Stalling { socket, patience: limits.stall, expires: Box::pin(sleep(limits.stall)), stalls: false };
    let service = service_fn(move |request: Request<Incoming>| async move {
        let (head, body) = request.into_parts();
        Ok::<_, Infallible>(router.answer(&head, body, client).await)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(socket), service);
    // A client that breaks off or takes too long is its own affair.
    let _ = pin!(connection).await;
}

/// A socket that fails when its peer takes no bytes for too long.
struct Stalling {
    socket: Stream,
    patience: Duration,
    expires: Pin<Box<Sleep>>,
    stalls: bool,
}

impl Stalling {
    /// What a write has brought, or an error when nothing was written for too long.
    fn wrote(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if result.is_ready() {
            self.stalls = false;
            return result;
        }
        if !self.stalls {
            self.stalls = true;
            self.expires.as_mut().reset(Instant::now() + self.patience);
        }
        ready!(self.expires.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Stalling {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stalling {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.wrote(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.socket).poll_write_vectored(cx, slices);
        self.wrote(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
