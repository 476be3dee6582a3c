//! The services behind the gateway.

use std::time::Duration;

use super::{
    Balancing, CircuitBreaker, Discovery, Files, HealthCheck, Name, OutlierDetection, Pin, Secret, UnixName,
    UpstreamLimits,
};
use crate::config::defaults;
use crate::proxy_protocol;
use crate::services::Origin;

/// A service behind the gateway.
#[derive(Debug, Clone)]
pub struct Upstream {
    pub name: Name,
    pub service: Service,
    pub balancing: Balancing,
    pub protocol: Protocol,
    pub tls: UpstreamTls,
    pub pool: Pool,
    pub dns: DnsPolicy,
    /// Whether the endpoints are told by a PROXY header whose connection it is.
    pub proxy_protocol: Option<proxy_protocol::Version>,
    pub tolerate: Vec<Deviation>,
    pub circuit_breaker: Option<CircuitBreaker>,
    pub limits: UpstreamLimits,
    pub health: Option<HealthCheck>,
    pub outlier_detection: Option<OutlierDetection>,
}

/// Who serves an upstream.
#[derive(Debug, Clone)]
pub enum Service {
    /// At least one, with a sum of weights above 0.
    Endpoints(Vec<Endpoint>),
    /// A source lists them.
    Discovery(Discovery),
    Builtin(Builtin),
    /// The gateway serves a folder.
    Files(Files),
}

/// One address of an upstream.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub address: EndpointAddress,
    /// Its share of the traffic. One of 0 gets none while any endpoint with weight is available, but those of its sticky sessions.
    pub weight: u32,
    pub labels: Vec<(String, String)>,
    /// Those of higher numbers are for when those of lower ones are out.
    pub priority: u8,
}

/// Where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointAddress {
    Origin(Origin),
    /// A Unix socket, also with TLS.
    Unix {
        https: bool,
        name: UnixName,
    },
}

/// A service inside the gateway, for demos and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Builtin {
    /// Answers with what it received, as JSON.
    Echo,
    /// Answers with the status that the path names.
    Status,
}

/// What is spoken to the endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// ALPN on https, HTTP/1.1 on http.
    Auto,
    Http1,
    /// HTTP/2 over TLS.
    Http2,
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
    /// Public keys of which the certificate has to have one; empty for any.
    pub pins: Vec<Pin>,
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

/// What is wrong in a response, and can be taken all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deviation {
    /// Lines of the head that end with a line feed alone.
    BareLf,
    /// The same `Content-Length` several times.
    RepeatedContentLength,
}

/// Connections of one worker to one endpoint.
#[derive(Debug, Clone)]
pub struct Pool {
    pub max_idle: u32,
    pub idle_timeout: Duration,
    /// How long an HTTP/2 connection with open streams may be silent before it is pinged.
    pub ping_interval: Option<Duration>,
    /// How long a connection is given requests.
    pub max_connection_age: Option<Duration>,
    /// How many requests a connection is given.
    pub max_requests_per_connection: Option<u32>,
}

/// Which answers of the DNS are used, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DnsPolicy {
    /// Bounds of how long an answer is used, whatever its TTL.
    pub min_ttl: Duration,
    pub max_ttl: Duration,
    /// How long an answer stays in use after that while the name servers fail (RFC 8767).
    pub max_stale: Duration,
    pub lookup_family: LookupFamily,
}

/// Which kinds of address a name is looked up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookupFamily {
    /// IPv6, or IPv4 where there is no IPv6 address.
    Auto,
    V4Only,
    V6Only,
    /// IPv4, or IPv6 where there is no IPv4 address.
    V4Preferred,
    All,
}

impl Default for DnsPolicy {
    fn default() -> Self {
        Self {
            min_ttl: defaults::MIN_TTL,
            max_ttl: defaults::MAX_TTL,
            max_stale: defaults::MAX_STALE,
            lookup_family: defaults::LOOKUP_FAMILY,
        }
    }
}

impl Endpoint {
    /// An endpoint with defaults for all but its address.
    pub fn new(address: EndpointAddress) -> Self {
        let (weight, priority) = (defaults::ENDPOINT_WEIGHT, defaults::ENDPOINT_PRIORITY);
        Self { address, weight, labels: Vec::new(), priority }
    }

    /// Whether connections to it are over TLS.
    pub fn is_https(&self) -> bool {
        match &self.address {
            EndpointAddress::Origin(origin) => origin.https,
            EndpointAddress::Unix { https, .. } => *https,
        }
    }

    /// `host:port`, with brackets around an IPv6 address, or `unix:/path`.
    pub fn authority(&self) -> String {
        match &self.address {
            EndpointAddress::Origin(Origin { host, port, .. }) if host.contains(':') => format!("[{host}]:{port}"),
            EndpointAddress::Origin(Origin { host, port, .. }) => format!("{host}:{port}"),
            EndpointAddress::Unix { name, .. } => name.to_string(),
        }
    }

    /// Its address as it is written.
    pub fn url(&self) -> String {
        match &self.address {
            EndpointAddress::Unix { https: false, name } => name.to_string(),
            EndpointAddress::Unix { .. } | EndpointAddress::Origin(Origin { https: true, .. }) => {
                format!("https://{}", self.authority())
            }
            EndpointAddress::Origin(_) => format!("http://{}", self.authority()),
        }
    }
}
