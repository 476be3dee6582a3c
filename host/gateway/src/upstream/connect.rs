//! Opens connections: TCP, TLS and the HTTP handshake. Which address is next, and keeping connections, is not decided here.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::http::body::Body;
use crate::http1;

/// A probe goes out on a connection that was silent for this long, so that a peer that vanished is noticed.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// What one slow reader pins of an HTTP/2 session …
const STREAM_WINDOW: u32 = 128 * 1024;
/// … which is never more than its share, so that it does not stop its neighbours.
const SESSION_WINDOW: u32 = STREAM_WINDOW * MAX_STREAMS;
/// Streams in one session; more open another one.
pub(super) const MAX_STREAMS: u32 = 100;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("connect to {address} failed")]
    Tcp { address: SocketAddr, source: io::Error },
    #[error("TLS handshake failed")]
    Tls(#[source] io::Error),
    #[error("the server does not speak HTTP/2 (ALPN)")]
    NoHttp2,
    #[error("HTTP handshake failed")]
    Http(#[source] hyper::Error),
}

/// What to speak on a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speak {
    Http1,
    /// HTTP/2; on cleartext by prior knowledge (RFC 9113 §3.3).
    Http2,
    /// What ALPN says; HTTP/1.1 without TLS.
    Either,
}

/// TLS towards one server.
#[derive(Clone)]
pub struct TlsClient {
    pub config: Arc<rustls::ClientConfig>,
    pub server_name: ServerName<'static>,
}

/// An open connection.
pub enum Connection {
    Http1(http1::Connection),
    /// Its driver runs as a task of this worker until both sides are done.
    Http2(http2::SendRequest<Body>),
}

/// Opens a connection. The caller bounds the whole by a deadline.
pub async fn connect(address: SocketAddr, tls: Option<&TlsClient>, speak: Speak) -> Result<Connection, ConnectError> {
    let tcp = open(address).await?;
    let Some(tls) = tls else {
        return match speak {
            Speak::Http2 => handshake_http2(tcp).await,
            Speak::Http1 | Speak::Either => Ok(Connection::Http1(http1::Connection::new(tcp))),
        };
    };
    let connector = TlsConnector::from(tls.config.clone());
    let stream = connector.connect(tls.server_name.clone(), tcp).await.map_err(ConnectError::Tls)?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    match (speak, http2) {
        (Speak::Http2, false) => Err(ConnectError::NoHttp2),
        (_, true) => handshake_http2(stream).await,
        (_, false) => Ok(Connection::Http1(http1::Connection::new(stream))),
    }
}

async fn open(address: SocketAddr) -> Result<TcpStream, ConnectError> {
    let failed = |source| ConnectError::Tcp { address, source };
    let stream = TcpStream::connect(address).await.map_err(failed)?;
    // Requests are written whole; waiting for more (Nagle) only adds the peer's delayed ACK.
    stream.set_nodelay(true).map_err(failed)?;
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE);
    socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive).map_err(failed)?;
    Ok(stream)
}

async fn handshake_http2<T>(stream: T) -> Result<Connection, ConnectError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(SESSION_WINDOW)
        .keep_alive_interval(Some(KEEPALIVE / 2))
        .keep_alive_timeout(Duration::from_secs(20))
        .handshake(TokioIo::new(stream))
        .await
        .map_err(ConnectError::Http)?;
    tokio::task::spawn_local(async move {
        let _ = connection.await;
    });
    Ok(Connection::Http2(sender))
}

/// Runs hyper's tasks on this worker.
#[derive(Debug, Clone, Copy, Default)]
pub struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
