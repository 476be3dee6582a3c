//! What `gateway.toml` means, checked and complete: defaults are filled in, names resolve, numbers are in range. How it is
//! written is the readers' job.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use http::{Method, StatusCode};
use ipnet::IpNet;

use crate::http::headers::CREDENTIALS;

/// The whole configuration. Named things are in the order of the file, and of the includes after it.
#[derive(Debug, Clone)]
pub struct Config {
    pub gateway: Gateway,
    pub listeners: Vec<Listener>,
    pub certificates: Vec<Certificate>,
    pub routes: Vec<Route>,
    /// Those of the file, then the anonymous ones of `upstream = "http://…"` under that address as their name.
    pub upstreams: Vec<Upstream>,
    /// Every plugin that has a table or that a filter names.
    pub plugins: Vec<Plugin>,
    pub filters: Vec<Filter>,
    pub pipelines: Vec<Pipeline>,
    pub telemetry: Telemetry,
    /// No admin listener without it.
    pub admin: Option<Admin>,
}

/// The name of a listener, certificate, route, upstream, plugin, filter or pipeline.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

/// Settings of the process.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// The number of worker threads.
    pub workers: NonZeroUsize,
    /// How long exchanges in flight may take to finish after SIGTERM.
    pub shutdown_timeout: Duration,
    /// Where plugins without a `file` are looked for.
    pub plugin_dir: PathBuf,
    /// Where compiled components are kept; none is the platform's cache directory.
    pub cache_dir: Option<PathBuf>,
    /// What all exchanges together may buffer.
    pub max_buffered_memory: ByteSize,
    /// Open client connections of all listeners together.
    pub max_connections: u32,
    /// Whether changed files are loaded without being told by SIGHUP.
    pub reload: bool,
    /// The header that carries the request id.
    pub request_id_header: HeaderName,
}

/// A socket that clients connect to.
#[derive(Debug, Clone)]
pub struct Listener {
    pub name: Name,
    pub bind: SocketAddr,
    pub tls: Option<ListenerTls>,
    pub protocols: ListenerProtocols,
    /// Peers whose `Forwarded` and `X-Forwarded-*` are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Open connections of this listener.
    pub max_connections: u32,
    pub timeouts: ListenerTimeouts,
    pub limits: ListenerLimits,
}

/// How a listener speaks TLS.
#[derive(Debug, Clone)]
pub struct ListenerTls {
    /// Names in `Config::certificates`, at least one. The first serves clients whose server name fits none.
    pub certificates: Vec<Name>,
    pub min_version: TlsVersion,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

/// What a listener speaks; at least one is set. On a plain listener `h2` is prior knowledge (RFC 9113 §3.3), over TLS it is ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerProtocols {
    pub http1: bool,
    pub h2: bool,
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
    /// PEM text, read from its file if the configuration names a file.
    pub cert: String,
    /// PEM text of the private key.
    pub key: Secret,
    /// Server names it is for; empty means those in the certificate.
    pub hosts: Vec<HostPattern>,
}

/// What is done with the requests that match.
#[derive(Debug, Clone)]
pub struct Route {
    pub name: Name,
    /// At least one; the route is for requests that satisfy one of them.
    pub matches: Vec<RouteMatch>,
    pub action: Action,
    pub rewrite: Option<Rewrite>,
    pub host: HostPolicy,
    /// Names in `Config::filters`, resolved from a named pipeline, a list or the default pipeline.
    pub pipeline: Vec<Name>,
    /// Higher goes first, before all other rules of precedence.
    pub priority: i32,
    pub timeouts: RouteTimeouts,
    pub limits: RouteLimits,
    /// Whether a request may switch protocols (WebSocket).
    pub upgrade: bool,
}

/// All conditions that are given have to hold; an empty list is no condition.
#[derive(Debug, Clone, Default)]
pub struct RouteMatch {
    /// One of these.
    pub hosts: Vec<HostPattern>,
    pub path: PathMatch,
    /// One of these.
    pub methods: Vec<Method>,
    /// All of these. A header may be named only once.
    pub headers: Vec<(HeaderName, ValueMatch)>,
    /// All of these.
    pub query: Vec<(String, ValueMatch)>,
    /// All of these.
    pub cookies: Vec<(String, ValueMatch)>,
    /// One of these.
    pub client_ip: Vec<IpNet>,
}

/// A host name without port, lower-case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    Exact(String),
    /// `*.example.com`, here without the `*.`: names with at least one more label.
    Subdomains(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PathMatch {
    #[default]
    Any,
    /// Segments that are literal, `{param}`, `*` (any one) or, at the end, `**` (any number, also none).
    Pattern(String),
    /// A regular expression that has to match the whole path.
    Regex(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueMatch {
    Exact(String),
    /// A regular expression that has to match the whole value.
    Regex(String),
    Present,
}

/// What answers.
#[derive(Debug, Clone)]
pub enum Action {
    /// Names in `Config::upstreams` with their weights, at least one, with a sum above 0.
    Forward(Vec<(Name, u32)>),
    Redirect(Redirect),
    Respond(DirectResponse),
}

/// Where to send the client; what is none stays as the request had it.
#[derive(Debug, Clone)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    pub scheme: Option<Scheme>,
    pub host: Option<String>,
    pub port: Option<u16>,
    /// With `{param}`s of the match.
    pub path: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    Http,
    Https,
}

/// An answer that the gateway gives by itself.
#[derive(Debug, Clone)]
pub struct DirectResponse {
    pub status: StatusCode,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: String,
}

/// A change of the path before it is forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rewrite {
    /// Replaces the whole segments of `from` at the start by `to`; both start with `/`. A `from` of none is the literal part of
    /// the matched pattern before its `/**` (`RouteMatch::literal_prefix`), which all matches then have.
    Prefix { from: Option<String>, to: String },
    /// The whole path, with `{param}`s of the match.
    Path(String),
}

/// The `Host` that the upstream gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPolicy {
    /// What the client sent.
    Keep,
    /// The endpoint's host and port.
    Upstream,
    /// `host` or `host:port`.
    Fixed(String),
}

/// None is no deadline.
#[derive(Debug, Clone)]
pub struct RouteTimeouts {
    /// From the request head to the response head, retries and filters included.
    pub request: Option<Duration>,
    /// One attempt to connect to an endpoint, TLS included.
    pub connect: Duration,
    /// From the end of the request to the response head of one attempt.
    pub first_byte: Option<Duration>,
    /// Between two parts of a body, in either direction.
    pub idle: Option<Duration>,
}

#[derive(Debug, Clone)]
pub struct RouteLimits {
    /// The request body; none is no limit.
    pub body: Option<ByteSize>,
}

/// A service behind the gateway.
#[derive(Debug, Clone)]
pub struct Upstream {
    pub name: Name,
    pub service: Service,
    pub balance: Balance,
    pub protocol: UpstreamProtocol,
    pub tls: UpstreamTls,
    pub pool: Pool,
    pub dns: Dns,
}

/// Who serves an upstream.
#[derive(Debug, Clone)]
pub enum Service {
    /// At least one, with a sum of weights above 0.
    Endpoints(Vec<Endpoint>),
    Builtin(Builtin),
}

/// One address of an upstream.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub scheme: Scheme,
    /// A name or address; an IPv6 address without brackets.
    pub host: String,
    pub port: u16,
    /// Its share of the traffic; 0 takes it out.
    pub weight: u32,
    pub labels: BTreeMap<String, String>,
}

/// A service inside the gateway, for demos and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Builtin {
    /// Answers with what it received, as JSON.
    Echo,
    /// Answers with the status that the path names.
    Status,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// In proportion to the weights.
    RoundRobin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// ALPN on https, HTTP/1.1 on http.
    Auto,
    Http1,
    /// HTTP/2 over TLS.
    H2,
    /// HTTP/2 in clear text by prior knowledge.
    H2c,
}

/// How `https` endpoints are reached.
#[derive(Debug, Clone)]
pub struct UpstreamTls {
    /// PEM text of the authorities to trust, in place of the system's.
    pub ca: Option<String>,
    /// The name to ask and check for, in place of the endpoint's host.
    pub server_name: Option<String>,
    /// Whether the certificate is checked.
    pub verify: bool,
    pub client: Option<ClientCertificate>,
}

/// What the gateway shows to an endpoint.
#[derive(Debug, Clone)]
pub struct ClientCertificate {
    /// PEM text.
    pub cert: String,
    /// PEM text.
    pub key: Secret,
}

/// Idle connections of one worker to one endpoint.
#[derive(Debug, Clone)]
pub struct Pool {
    pub max_idle: u32,
    pub idle_timeout: Duration,
}

/// Bounds of how long an answer of the DNS is used.
#[derive(Debug, Clone)]
pub struct Dns {
    pub min_ttl: Duration,
    pub max_ttl: Duration,
}

/// A component file.
#[derive(Debug, Clone)]
pub struct Plugin {
    pub name: Name,
    /// None: `NAME.wasm` in `Gateway::plugin_dir`, or else the embedded one.
    pub file: Option<PathBuf>,
    /// What the file has to hash to.
    pub sha256: Option<[u8; 32]>,
}

/// A named use of a plugin. Limits, grants and instances are its own, else those of the plugin, else the defaults.
#[derive(Debug, Clone)]
pub struct Filter {
    pub name: Name,
    /// A name in `Config::plugins`.
    pub plugin: Name,
    /// JSON text of its config table, in the order of the file; `{}` without one.
    pub config: Secret,
    pub on_error: FailurePolicy,
    pub limits: FilterLimits,
    pub grants: Grants,
    pub instances: Instances,
}

/// What an exchange gets when the filter gives no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailurePolicy {
    /// An error.
    Closed,
    /// What it would get without the filter.
    Open,
}

#[derive(Debug, Clone)]
pub struct FilterLimits {
    /// Linear memory of an instance.
    pub memory: ByteSize,
    /// CPU time of one call.
    pub cpu: Duration,
    /// Time of one call with all its waits.
    pub wall: Duration,
    /// Table elements of an instance.
    pub table_elements: u32,
    /// The response body of one outbound call.
    pub http_body: ByteSize,
    /// A request or response body that is buffered for the filter, decoded.
    pub body: ByteSize,
}

/// What a filter may reach.
#[derive(Debug, Clone)]
pub struct Grants {
    pub read_headers: HeaderGrant,
    pub write_headers: HeaderGrant,
    pub body: bool,
    /// Origins of outbound calls: `https://host` or `http://host:port`, lower-case, without a default port.
    pub http: Vec<String>,
    /// Key-value spaces.
    pub kv: Vec<String>,
    /// Bytes that it may keep in each of its spaces.
    pub kv_quota: ByteSize,
    pub secrets: BTreeMap<String, Secret>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderGrant {
    All,
    /// All but credentials, and these.
    AllButCredentials {
        and: Vec<HeaderName>,
    },
}

/// How instances live; numbers are per worker.
#[derive(Debug, Clone)]
pub struct Instances {
    pub mode: InstanceMode,
    pub max: u32,
    /// Exchanges that may wait for an instance.
    pub queue: u32,
    /// Calls after which a reused instance is renewed.
    pub uses: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstanceMode {
    Reused,
    /// One for each exchange.
    Fresh,
}

/// A named list of filters.
#[derive(Debug, Clone)]
pub struct Pipeline {
    pub name: Name,
    pub filters: Vec<Name>,
}

#[derive(Debug, Clone)]
pub struct Telemetry {
    pub access_log: AccessLog,
    pub log_level: LogLevel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLog {
    /// `Console` on a terminal, else `Json`.
    Auto,
    Json,
    Console,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// The admin listener.
#[derive(Debug, Clone)]
pub struct Admin {
    pub bind: SocketAddr,
}

/// A number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// Text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Name {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Name {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl From<Name> for Arc<str> {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.0)
    }
}

impl RouteMatch {
    /// What stands before the `/**` at the end of the pattern (`/` if nothing does), if all of it is literal.
    pub fn literal_prefix(&self) -> Option<&str> {
        let PathMatch::Pattern(pattern) = &self.path else {
            return None;
        };
        let prefix = pattern.strip_suffix("/**")?;
        let literal = !prefix.split('/').any(|s| s == "*" || s.starts_with('{'));
        literal.then_some(if prefix.is_empty() { "/" } else { prefix })
    }
}

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Endpoint {
    /// `host:port`, with brackets around an IPv6 address.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl HeaderGrant {
    pub fn allows(&self, header: &HeaderName) -> bool {
        match self {
            Self::All => true,
            Self::AllButCredentials { and } => {
                !CREDENTIALS.contains(header) || and.iter().any(|granted| granted == header)
            }
        }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n >= 1 << 30 && n % (1 << 30) == 0 => write!(f, "{}GiB", n >> 30),
            n if n >= 1 << 20 && n % (1 << 20) == 0 => write!(f, "{}MiB", n >> 20),
            n if n >= 1 << 10 && n % (1 << 10) == 0 => write!(f, "{}KiB", n >> 10),
            n => write!(f, "{n}B"),
        }
    }
}

impl fmt::Debug for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Secret {
    /// The text itself, for the one who needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}
