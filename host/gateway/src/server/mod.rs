//! Accepting connections and speaking HTTP on them: workers, listeners, TLS, draining. What is done with a
//! request is the business of the [`Service`].

mod activity;
mod aliases;
mod clock;
mod connection;
mod extended_connect;
mod gather;
mod handshake;
mod handshakes;
mod held;
mod hpack;
mod http1;
mod huffman;
mod listener;
mod malformed;
mod overload;
mod proxied;
mod received;
mod refused;
mod reset;
mod unread;
mod worker;

#[cfg(test)]
mod tests;

use std::error::Error as StdError;
use std::future::Future;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::uri::Authority;
use http::{Response, request};
use tokio::sync::oneshot;

use crate::certs::{ClientCertificate, HstsPolicies, PolicyIndex, TlsContext};
use crate::config::model::{self, BindAddress, ConnectionLifetime, HandshakeLimits};
use crate::http::body::Body;
use crate::http::forwarded::{ClientAddress, Peer, TrustedPeers};
use crate::http::target::KnownHost;
use crate::http1::{HeadError, RequestLine, Transport};
use crate::proxy_protocol::Proxied;
use crate::telemetry::{H2Refusal, ListenerCounters};

pub use listener::BindError;
pub use overload::{Overload, Resource, ResourceState, WorkerOverload};
pub use worker::{StartError, WorkerSettings, Workers};

/// What a worker does with requests.
pub trait Service: 'static {
    type Body: http_body::Body<Data = Bytes, Error: Into<Box<dyn StdError + Send + Sync>>> + 'static;

    /// Handles one request. The future is dropped when the client leaves before the response head is out; the body is dropped when
    /// it is sent or can't be sent any more. `on_upgrade` is present when the client asks for another protocol: after a response of
    /// 101, or 200 to an extended CONNECT, it brings the client's side. Such a CONNECT is a `GET` here, with its [`hyper::ext::Protocol`] as an
    /// extension. Heads are boxed so that handing one on moves a pointer.
    fn handle(
        &self,
        connection: &Rc<ConnectionInfo>,
        head: Box<request::Parts>,
        body: Body,
        on_upgrade: Option<OnUpgrade>,
    ) -> impl Future<Output = Box<Response<Self::Body>>>;

    /// Answers what is no request. The connection is closed after it.
    fn refuse(&self, connection: &Rc<ConnectionInfo>, refusal: &Refusal) -> Box<Response<Self::Body>>;

    /// Notes a request of HTTP/2 that was refused before it became one. Its stream is reset already, after a bare response if it
    /// was answered.
    fn note_refused(&self, connection: &Rc<ConnectionInfo>, refusal: &H2Refusal, answered: bool);

    /// Called once at shutdown, after the worker's last connection is closed, within the shutdown timeout.
    fn drained(&self) -> impl Future<Output = ()> {
        async {}
    }
}

/// Resolves to the client's side of a connection once it is upgraded, or to an error if the connection ended before.
pub type OnUpgrade = oneshot::Receiver<Transport>;

/// An extension of an HTTP/1 response: the connection is closed after it. A request that one parser refuses may be two requests to
/// another parser; and where there are too many connections, a refused request gives up its own.
#[derive(Debug, Clone, Copy)]
pub struct CloseConnection;

/// An extension of an HTTP/2 response: the connection gets no more requests. Its other streams go on.
#[derive(Debug, Clone, Copy)]
pub struct GoAway;

/// Why what came on a connection is no request.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("{error}")]
    Head { error: HeadError, line: RequestLine },
    /// The head did not come in time.
    #[error("request head timeout")]
    Timeout { line: RequestLine },
}

/// Both ends of a client connection: of the socket, or as a trusted proxy has told by the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    Ip { peer: SocketAddr, local: SocketAddr },
    Unix,
}

impl Ends {
    /// The address of the client's end.
    pub fn peer(&self) -> ClientAddress {
        match self {
            Ends::Ip { peer, .. } => ClientAddress::Ip(peer.ip().to_canonical()),
            Ends::Unix => ClientAddress::Unix,
        }
    }

    /// Its address and port.
    fn peer_socket(self) -> Option<SocketAddr> {
        match self {
            Ends::Ip { peer, .. } => Some(peer),
            Ends::Unix => None,
        }
    }
}

/// What is known of a client connection.
#[derive(Debug)]
pub struct ConnectionInfo {
    /// The other end, and whether it is one of the listener's trusted proxies.
    pub peer: Peer,
    /// The port of the peer, and our address; `None` over a Unix socket.
    pub ports: Option<(u16, SocketAddr)>,
    /// Our end, which stands in for the host where HTTP/1.0 leaves it out.
    pub local: Authority,
    pub known_host: KnownHost,
    /// The listener's name.
    pub listener: Arc<str>,
    /// The listener's settings when the connection was accepted.
    pub settings: Arc<ListenerSettings>,
    pub counters: Arc<ListenerCounters>,
    /// What the handshake brought, on a listener with TLS.
    pub tls: Option<Box<TlsInfo>>,
}

/// What the TLS handshake brought.
#[derive(Debug, Clone)]
pub struct TlsInfo {
    /// The server name that the client asked for, lower-case.
    pub sni: Option<String>,
    pub alpn: Option<Vec<u8>>,
    /// Such as `TLSv1.3`.
    pub version: &'static str,
    /// Which of the listener's policies the server name has chosen.
    pub policy: PolicyIndex,
    /// What the client has shown, where the listener asks for it.
    pub client_certificate: Option<Box<ClientCertificate>>,
}

/// A listener as it is bound: this can't change while the gateway runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSpec {
    pub name: Arc<str>,
    pub bind: BindAddress,
}

/// The settings of a listener that a reload can change; they hold for connections accepted from then on.
#[derive(Debug, Clone)]
pub struct ListenerSettings {
    /// Whether HTTP/1.1 is spoken.
    pub http1: bool,
    /// Whether HTTP/2 is spoken: by ALPN over TLS, by prior knowledge (RFC 9113 §3.3) without.
    pub h2: bool,
    /// From the certificate store; `None` for a plain listener.
    pub tls: Option<Arc<TlsContext>>,
    /// What one client address may have of TLS handshakes.
    pub handshakes: HandshakeLimits,
    /// What hosts say of HTTPS; only with TLS.
    pub hsts: Option<Arc<HstsPolicies>>,
    pub trusted_proxies: TrustedPeers,
    /// Which peers begin with a PROXY header; all others never do.
    pub proxy_protocol: Option<model::ProxyProtocol>,
    /// Open connections of this listener on all workers.
    pub max_connections: usize,
    pub lifetime: ConnectionLifetime,
    /// From the first byte of a request head, or the start of the connection, to the head's end (HTTP/1.1).
    pub header_timeout: Duration,
    /// How long a connection without an exchange is kept, and how long a client may take no byte of a response.
    pub idle_timeout: Duration,
    pub handshake_timeout: Duration,
    /// Bytes of the request line and the header section.
    pub max_head_bytes: usize,
    pub max_headers: usize,
    /// Concurrent streams of an HTTP/2 connection.
    pub max_streams: u32,
}

impl ConnectionInfo {
    /// This connection as a PROXY header tells of it, for the client behind it. Of a client that was named by a header field of a proxy
    /// no port is known.
    pub fn proxied(&self, client: ClientAddress) -> Proxied {
        let ClientAddress::Ip(address) = client else { return Proxied::Unix };
        let Some((port, local)) = self.ports else {
            let nowhere = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            return Proxied::Ip { source: SocketAddr::new(address, 0), destination: SocketAddr::new(nowhere, 0) };
        };
        let port = if client == self.peer.address { port } else { 0 };
        Proxied::Ip { source: SocketAddr::new(address, port), destination: local }
    }

    /// Whether requests for this host belong on this connection: whether its server name has chosen the policy that the host has. A client
    /// that reuses a connection for another host must not get past the certificate that the host asks for.
    pub fn serves(&self, host: &str) -> bool {
        let policies = self.tls.as_ref().zip(self.settings.tls.as_ref());
        policies.is_none_or(|(tls, context)| context.policy(Some(host)) == tls.policy)
    }
}

/// The current settings of all listeners.
#[derive(Debug, Clone)]
pub struct Listeners {
    /// By name. A bound listener that is missing here goes on with the settings that it had.
    pub settings: Vec<(Arc<str>, Arc<ListenerSettings>)>,
    /// Open connections of all listeners together.
    pub max_connections: usize,
}

impl Listeners {
    /// The settings of the listener `name`.
    pub fn find(&self, name: &str) -> Option<&Arc<ListenerSettings>> {
        self.settings.iter().find(|(known, _)| &**known == name).map(|(_, settings)| settings)
    }
}

/// The cell through which a reload reaches the listeners.
pub type ListenerTable = Arc<ArcSwap<Listeners>>;
