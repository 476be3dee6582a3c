//! The services behind the gateway.

use std::time::Duration;

use super::{Name, Secret};
use crate::config::defaults;
use crate::services::Origin;

/// A service behind the gateway.
#[derive(Debug, Clone)]
pub struct Upstream {
    pub name: Name,
    pub service: Service,
    pub balance: Balance,
    pub protocol: Protocol,
    pub tls: UpstreamTls,
    pub pool: Pool,
    pub dns: TtlBounds,
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
    pub origin: Origin,
    /// Its share of the traffic; 0 takes it out.
    pub weight: u32,
    pub labels: Vec<(String, String)>,
}

/// A service inside the gateway, for demos and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Builtin {
    /// Answers with what it received, as JSON.
    Echo,
    /// Answers with the status that the path names.
    Status,
}

/// How a request finds its endpoint when nobody has chosen one for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// In proportion to the weights.
    RoundRobin,
    /// Of two drawn by weight, the one with fewer requests under way for its weight.
    LeastRequest,
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

/// Bounds of how long an answer of the DNS is used, whatever its TTL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TtlBounds {
    pub min: Duration,
    pub max: Duration,
}

impl Default for TtlBounds {
    fn default() -> Self {
        Self { min: defaults::MIN_TTL, max: defaults::MAX_TTL }
    }
}

impl Endpoint {
    /// `host:port`, with brackets around an IPv6 address.
    pub fn authority(&self) -> String {
        if self.origin.host.contains(':') {
            format!("[{}]:{}", self.origin.host, self.origin.port)
        } else {
            format!("{}:{}", self.origin.host, self.origin.port)
        }
    }
}
