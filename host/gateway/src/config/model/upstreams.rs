//! The services behind the gateway.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::{Name, Secret};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    Http,
    Https,
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
    /// Of two drawn by weight, the one with fewer requests under way for its weight.
    LeastRequest,
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
