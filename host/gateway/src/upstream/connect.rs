//! Opens connections: TCP or a Unix socket, TLS and the handshake of HTTP. Which address is next, and keeping connections, is not decided here.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::address::Address;
use super::http2;
use super::limits::ConnectionPermit;
use crate::config::model::UnixName;
use crate::http1::{self, Guarded, Io};

/// TCP probes a connection that was silent for this long, so that a peer that vanished is noticed …
const KEEPALIVE: Duration = Duration::from_secs(60);
/// … and goes on so often until there is an answer. The peer's HTTP does not see it, unlike a ping of HTTP/2.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How long it is until another look at a Unix socket whose queue is full: the first time, and the longest.
const QUEUE_PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("connect to {address} failed")]
    Socket { address: Address, source: io::Error },
    #[error("TLS handshake failed")]
    Tls(#[source] io::Error),
    #[error("the server does not speak HTTP/2 (ALPN)")]
    NoHttp2,
    #[error("HTTP handshake failed")]
    Http(#[source] hyper::Error),
    #[error("the server closed the connection before it had said anything in HTTP/2")]
    Closed,
    #[error("the server allows no streams (its SETTINGS_MAX_CONCURRENT_STREAMS is 0)")]
    NoStreams,
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
    Http2(http2::Session),
}

/// Opens a connection that begins with these bytes, before TLS. It keeps its permit until its socket is closed. The caller bounds the whole
/// by a deadline.
pub async fn connect(
    address: &Address,
    header: &[u8],
    tls: Option<&TlsClient>,
    speak: Speak,
    ping_interval: Option<Duration>,
    permit: Option<ConnectionPermit>,
) -> Result<Connection, ConnectError> {
    match (open(address, header).await?, tls) {
        (Stream::Tcp(tcp), Some(tls)) => over_tls(tcp, tls, speak, ping_interval, permit).await,
        (Stream::Unix(unix), Some(tls)) => over_tls(unix, tls, speak, ping_interval, permit).await,
        (Stream::Tcp(tcp), None) => in_clear_text(tcp, speak, ping_interval, permit).await,
        (Stream::Unix(unix), None) => in_clear_text(unix, speak, ping_interval, permit).await,
    }
}

async fn over_tls<T: Io + Send>(
    stream: T,
    tls: &TlsClient,
    speak: Speak,
    ping_interval: Option<Duration>,
    permit: Option<ConnectionPermit>,
) -> Result<Connection, ConnectError> {
    let connector = TlsConnector::from(tls.config.clone());
    let stream = connector.connect(tls.server_name.clone(), stream).await.map_err(ConnectError::Tls)?;
    let agreed = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    match (speak, agreed) {
        (Speak::Http2, false) => Err(ConnectError::NoHttp2),
        (_, true) => open_http2(stream, ping_interval, permit).await,
        (_, false) => Ok(open_http1(stream, permit)),
    }
}

async fn in_clear_text<T: Io + Send>(
    stream: T,
    speak: Speak,
    ping_interval: Option<Duration>,
    permit: Option<ConnectionPermit>,
) -> Result<Connection, ConnectError> {
    match speak {
        Speak::Http2 => open_http2(stream, ping_interval, permit).await,
        Speak::Http1 | Speak::Either => Ok(open_http1(stream, permit)),
    }
}

fn open_http1(stream: impl Io, permit: Option<ConnectionPermit>) -> Connection {
    Connection::Http1(match permit {
        Some(permit) => http1::Connection::new(Guarded::new(stream, permit)),
        None => http1::Connection::new(stream),
    })
}

async fn open_http2<T: Io + Send>(
    stream: T,
    ping_interval: Option<Duration>,
    permit: Option<ConnectionPermit>,
) -> Result<Connection, ConnectError> {
    let session = match permit {
        Some(permit) => http2::handshake(Guarded::new(stream, permit), ping_interval).await,
        None => http2::handshake(stream, ping_interval).await,
    };
    session.map(Connection::Http2)
}

/// An open socket.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Opens a socket that begins with these bytes.
pub(super) async fn open(address: &Address, header: &[u8]) -> Result<Stream, ConnectError> {
    let failed = |source| ConnectError::Socket { address: address.clone(), source };
    match address {
        Address::Tcp(ip) => {
            let mut stream = TcpStream::connect(ip).await.map_err(failed)?;
            // Requests are written whole; waiting for more (Nagle) only adds the peer's delayed ACK.
            stream.set_nodelay(true).map_err(failed)?;
            let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_INTERVAL);
            socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive).map_err(failed)?;
            stream.write_all(header).await.map_err(failed)?;
            Ok(Stream::Tcp(stream))
        }
        Address::Unix(name) => {
            let mut stream = open_unix(name).await.map_err(failed)?;
            stream.write_all(header).await.map_err(failed)?;
            Ok(Stream::Unix(stream))
        }
    }
}

/// A server that accepts slowly has its queue full. Over TCP the system waits for room; here it refuses, and tells nobody when there is some.
async fn open_unix(name: &UnixName) -> io::Result<UnixStream> {
    let mut pause = QUEUE_PAUSES.0;
    loop {
        let opened = match name {
            UnixName::Path(path) => UnixStream::connect(path).await,
            UnixName::Abstract(name) => UnixStream::connect(format!("\0{name}")).await,
        };
        match opened {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(pause).await,
            opened => return opened,
        }
        pause = (pause * 2).min(QUEUE_PAUSES.1);
    }
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
    use std::os::unix::net::UnixListener;

    use socket2::{Domain, SockAddr, Socket, Type};

    use super::*;

    #[tokio::test(flavor = "local")]
    async fn a_full_queue_of_a_unix_socket_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        socket.listen(0).unwrap();
        let listener = UnixListener::from(socket);
        let mut queued = Vec::new();
        let full = loop {
            match UnixStream::connect(&path).await {
                Ok(stream) => queued.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        let address = Address::Unix(Arc::new(UnixName::Path(path)));
        let opening = tokio::task::spawn_local(async move { open(&address, b"").await.is_ok() });
        tokio::task::yield_now().await;
        assert!(!opening.is_finished());
        listener.accept().unwrap();
        assert!(opening.await.unwrap());
    }
}
