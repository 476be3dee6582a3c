//! Opens connections: TCP, TLS and the HTTP handshake, each address of a name in turn. Keeping them is the pool's job.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
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
/// While one address does not answer, the next one is tried after this long (RFC 8305 §8).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);
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

/// An open connection and whom it leads to.
pub struct Connected {
    pub connection: Connection,
    pub peer: IpAddr,
}

/// Opens a connection to the first of `addresses` that takes it, starting at `first` (counted around). A silent address
/// does not hold up the next one. The caller bounds the whole by a deadline.
pub async fn connect(
    addresses: &[IpAddr],
    port: u16,
    first: usize,
    tls: Option<&TlsClient>,
    speak: Speak,
) -> Result<Connected, ConnectError> {
    let tcp = open(addresses, port, first).await?;
    let peer = tcp.peer_addr().map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.ip());
    let Some(tls) = tls else {
        let connection = if speak == Speak::Http2 {
            handshake_http2(tcp).await?
        } else {
            Connection::Http1(http1::Connection::new(tcp))
        };
        return Ok(Connected { connection, peer });
    };
    let connector = TlsConnector::from(tls.config.clone());
    let stream = connector.connect(tls.server_name.clone(), tcp).await.map_err(ConnectError::Tls)?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let connection = match (speak, http2) {
        (Speak::Http2, false) => return Err(ConnectError::NoHttp2),
        (_, true) => handshake_http2(stream).await?,
        (_, false) => Connection::Http1(http1::Connection::new(stream)),
    };
    Ok(Connected { connection, peer })
}

type Attempt = Pin<Box<dyn Future<Output = Result<TcpStream, ConnectError>>>>;

/// One TCP connection: addresses in turn, the next one as soon as the one before has failed or was silent too long; the
/// first that opens wins.
async fn open(addresses: &[IpAddr], port: u16, first: usize) -> Result<TcpStream, ConnectError> {
    let order = (0..addresses.len()).filter_map(|i| addresses.get((first.wrapping_add(i)) % addresses.len()));
    let mut rest = order.map(|ip| SocketAddr::new(*ip, port)).collect::<Vec<_>>().into_iter();
    let mut attempts: Vec<Attempt> = Vec::new();
    let mut failure = None;
    loop {
        match rest.next() {
            Some(address) if rest.len() == 0 && attempts.is_empty() => return open_one(address).await,
            Some(address) => attempts.push(Box::pin(open_one(address))),
            None if attempts.is_empty() => {
                return Err(failure.unwrap_or_else(|| ConnectError::Tcp {
                    address: SocketAddr::new([0, 0, 0, 0].into(), port),
                    source: io::Error::new(io::ErrorKind::AddrNotAvailable, "no address"),
                }));
            }
            None => {}
        }
        let next = std::future::poll_fn(|cx| {
            for i in 0..attempts.len() {
                if let Poll::Ready(outcome) = attempts[i].as_mut().poll(cx) {
                    drop(attempts.swap_remove(i));
                    return Poll::Ready(outcome);
                }
            }
            Poll::Pending
        });
        let outcome = if rest.len() == 0 {
            next.await
        } else {
            match tokio::time::timeout(NEXT_ADDRESS, next).await {
                Ok(outcome) => outcome,
                Err(_silent) => continue,
            }
        };
        match outcome {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = Some(error),
        }
    }
}

async fn open_one(address: SocketAddr) -> Result<TcpStream, ConnectError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "local")]
    async fn the_next_address_is_tried_when_one_refuses() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // 127.0.0.2 is this machine too, and nobody listens there.
        let addresses = [IpAddr::from([127, 0, 0, 2]), IpAddr::from([127, 0, 0, 1])];
        let connected = connect(&addresses, port, 0, None, Speak::Http1).await.unwrap();
        assert_eq!(connected.peer, addresses[1]);
        let error = connect(&addresses[..1], port, 7, None, Speak::Http1).await.err().unwrap();
        assert!(matches!(error, ConnectError::Tcp { .. }), "{error}");
        let error = connect(&[], port, 0, None, Speak::Http1).await.err().unwrap();
        assert!(matches!(error, ConnectError::Tcp { .. }), "{error}");
    }
}
