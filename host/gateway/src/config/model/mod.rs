//! What `gateway.toml` means, checked and complete: defaults are filled in, names resolve, numbers are in range. How it is
//! written is the readers' job.
//!
//! A value has one type. It belongs to the lowest module that knows it: patterns and rewrites to `route`, grants, limits and modes to
//! `services` and `wasm`, the form of logs to `telemetry`; the types of what is built on top of the configuration (listeners,
//! upstreams, filters) are here, and those modules use them.

mod acme;
mod balancing;
mod cache;
pub mod cases;
mod compression;
mod discovery;
mod files;
mod filters;
mod health;
mod limits;
mod overload;
mod pipelines;
mod releases;
mod retry;
mod routes;
mod sockets;
mod tls;
mod upstreams;
mod values;

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use http::StatusCode;
use http::header::HeaderName;

use crate::config::defaults;
use crate::http::forwarded::TrustedPeers;
use crate::route::{HostPattern, PathPattern};
use crate::services::consumers::ConsumerSpec;
use crate::services::state::StoreSpec;
use crate::telemetry::{AccessLogFormat, LogLevel};
use crate::wasm::CompileLimits;

pub use acme::*;
pub use balancing::*;
pub use cache::*;
pub use compression::*;
pub use discovery::*;
pub use files::*;
pub use filters::*;
pub use health::*;
pub use limits::*;
pub use overload::*;
pub use pipelines::*;
pub use releases::*;
pub use retry::*;
pub use routes::*;
pub use sockets::*;
pub use tls::*;
pub use upstreams::*;
pub use values::*;

/// The whole configuration. Named things are in the order of the file, and of the includes after it.
#[derive(Debug, Clone)]
pub struct Config {
    pub gateway: Gateway,
    pub listeners: Vec<Listener>,
    /// Those whose text is configured.
    pub certificates: Vec<Certificate>,
    /// Those that are ordered.
    pub acme_certificates: Vec<AcmeCertificate>,
    pub authorities: Vec<AcmeAuthority>,
    pub routes: Vec<Route>,
    pub calls: Calls,
    /// Those of the file, then the anonymous ones of `upstream = "http://…"` under that address as their name.
    pub upstreams: Vec<Upstream>,
    /// Every plugin that has a table or that a filter names.
    pub plugins: Vec<Plugin>,
    pub filters: Vec<Filter>,
    pub pipelines: Vec<Pipeline>,
    pub consumers: Vec<ConsumerSpec>,
    /// What gateways share limits and values in.
    pub states: Vec<StoreSpec>,
    pub telemetry: Telemetry,
    pub cache: Cache,
    /// No admin listener without it.
    pub admin: Option<Admin>,
    /// Of [`Config::tls_files`] those that nothing else uses: if no other file has changed, nothing but listeners has.
    pub only_of_listeners: Vec<PathBuf>,
    /// What the configuration files said, as a hash of their text.
    pub revision: Revision,
}

/// A hash (SHA-256) of the text of all configuration files.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Revision(pub [u8; 32]);

impl fmt::Debug for Revision {
    // Two texts that mean the same are shown as the same configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Revision(…)")
    }
}

/// Settings of the process.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// The number of worker threads.
    pub workers: NonZeroUsize,
    /// How long the gateway still takes connections after SIGTERM, while it says that it is not ready.
    pub shutdown_delay: Option<Duration>,
    /// How long exchanges in flight may take to finish after that.
    pub shutdown_timeout: Duration,
    /// Where plugins without a `file` are looked for.
    pub plugin_dir: PathBuf,
    /// Where compiled components are kept; none is the platform's cache directory.
    pub cache_dir: Option<PathBuf>,
    /// Where is kept what the next start needs; none is the platform's state directory.
    pub state_dir: Option<PathBuf>,
    /// Files with more consumers than `Config::consumers`.
    pub consumer_files: Vec<PathBuf>,
    /// What the compilation of one component may take.
    pub compile: CompileLimits,
    /// What all exchanges together may buffer.
    pub max_buffered_memory: ByteSize,
    /// What the bodies may have together that the filters of one worker work on at once.
    pub max_filtered_bodies: ByteSize,
    /// Open client connections of all listeners together.
    pub max_connections: u32,
    pub overload: Overload,
    /// Whether changed files are loaded without being told by SIGHUP.
    pub reload: bool,
    /// The header that carries the request id.
    pub request_id_header: HeaderName,
    /// Who is asked for names; empty for those of the system.
    pub nameservers: Vec<SocketAddr>,
}

/// A socket that clients connect to.
#[derive(Debug, Clone)]
pub struct Listener {
    pub name: Name,
    pub bind: BindAddress,
    pub tls: Option<ListenerTls>,
    /// Only without TLS.
    pub https_redirect: Option<HttpsRedirect>,
    pub protocols: ListenerProtocols,
    /// Peers whose `Forwarded` and `X-Forwarded-*` are believed.
    pub trusted_proxies: TrustedPeers,
    /// No connection begins with a PROXY header without it.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Open connections of this listener.
    pub max_connections: u32,
    pub lifetime: ConnectionLifetime,
    pub timeouts: ListenerTimeouts,
    pub limits: ListenerLimits,
}

/// How a listener without TLS sends clients to HTTPS.
#[derive(Debug, Clone)]
pub struct HttpsRedirect {
    /// The name of a listener with TLS; none: the only one there is.
    pub listener: Option<Name>,
    /// In place of that listener's port.
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// The paths that are served without TLS.
    pub except: Vec<PathPattern>,
    /// The hosts that are redirected; empty for all.
    pub hosts: Vec<HostPattern>,
}

/// A version of HTTP that a listener can speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpVersion {
    Http1,
    Http2,
}

/// What a listener speaks; at least one is set. On a plain listener `h2` is prior knowledge (RFC 9113 §3.3), over TLS it is ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerProtocols {
    pub http1: bool,
    pub h2: bool,
}

/// How long a client's connection is given requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLifetime {
    pub max_age: Option<Duration>,
    /// How long the streams of HTTP/2 may go on after that.
    pub grace: Duration,
    pub max_requests: Option<u32>,
}

#[derive(Debug, Clone)]
pub struct ListenerTimeouts {
    /// From the first byte of a request head, or the acceptance of the connection, to the end of the head.
    pub header: Duration,
    /// Between two requests on a connection.
    pub idle: Duration,
    /// The TLS handshake.
    pub handshake: Duration,
}

#[derive(Debug, Clone)]
pub struct ListenerLimits {
    /// The request line and the header section together.
    pub head: ByteSize,
    /// Header fields of a request.
    pub headers: u32,
    /// Concurrent HTTP/2 streams of a connection.
    pub streams: u32,
}

/// A certificate chain with its key.
#[derive(Debug, Clone)]
pub struct Certificate {
    pub name: Name,
    pub cert: Pem,
    /// PEM text of the private key.
    pub key: Secret,
    /// The file that has the key; none where the configuration has it.
    pub key_file: Option<PathBuf>,
    /// Server names it is for; empty means those in the certificate.
    pub hosts: Vec<HostPattern>,
}

#[derive(Debug, Clone)]
pub struct Telemetry {
    pub access_log: AccessLogFormat,
    pub log_level: LogLevel,
}

/// The admin listener.
#[derive(Debug, Clone)]
pub struct Admin {
    pub bind: BindAddress,
    /// What a request that changes something has to show; none: nothing can be changed.
    pub token: Option<Secret>,
    /// Whether the gateway is ready though all certificates of a listener have expired.
    pub ready_when_expired: bool,
}

impl Default for ConnectionLifetime {
    fn default() -> Self {
        Self { max_age: defaults::MAX_CONNECTION_AGE, grace: defaults::MAX_CONNECTION_AGE_GRACE, max_requests: None }
    }
}

impl Default for ListenerProtocols {
    fn default() -> Self {
        Self { http1: defaults::HTTP1, h2: defaults::H2 }
    }
}
