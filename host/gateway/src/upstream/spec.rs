//! What an upstream is: its description, and the immutable form that all workers share. Per-worker state is in `local`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::uri::Authority;
use rustls_pki_types::ServerName;

use super::balance;
use super::connect::{Speak, TlsClient};
use super::dns::TtlBounds;
use super::tls::{self, TlsError, TlsSpec};
use crate::config::defaults;
pub use crate::config::model::{Balance, Protocol};

/// An upstream as configured. Two equal ones may share connections, health and load: a reload keeps them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamSpec {
    pub name: Arc<str>,
    pub target: TargetSpec,
    pub balance: Balance,
    pub protocol: Protocol,
    pub tls: TlsSpec,
    /// Idle connections kept for each endpoint by each worker.
    pub max_idle: usize,
    /// How long an idle connection is kept. Less than what the servers allow avoids requests on dying connections.
    pub idle_timeout: Duration,
    pub dns: TtlBounds,
    /// How many endpoints are tried for one request while connecting fails; 0 means all.
    pub max_tries: usize,
}

impl UpstreamSpec {
    /// An upstream with defaults for all but the name and the target.
    pub fn new(name: &str, target: TargetSpec) -> Self {
        UpstreamSpec {
            name: name.into(),
            target,
            balance: defaults::BALANCE,
            protocol: defaults::PROTOCOL,
            tls: TlsSpec::default(),
            max_idle: defaults::MAX_IDLE as usize,
            idle_timeout: defaults::POOL_IDLE_TIMEOUT,
            dns: TtlBounds::default(),
            max_tries: 0,
        }
    }
}

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetSpec {
    Endpoints(Vec<EndpointSpec>),
    /// Built in: answers with what it received, as JSON.
    Echo,
    /// Built in: `/…/503` answers with that status.
    Status,
}

/// One address of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSpec {
    pub https: bool,
    /// A name, an IPv4 address or an IPv6 address without brackets.
    pub host: String,
    pub port: u16,
    /// Share of the traffic; 0 only when chosen by address, or when no other is left.
    pub weight: u32,
    pub labels: Vec<(String, String)>,
}

/// Why an upstream can't be.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    #[error("`{0}` is not a URL of the form `http://host:port` or `https://host:port`")]
    Url(String),
    #[error("upstream `{0}` has no endpoint")]
    NoEndpoint(Arc<str>),
    #[error("upstream `{0}` lists endpoint `{1}` twice")]
    Twice(Arc<str>, String),
    #[error("`{0}` is not a host name or address")]
    Host(String),
    #[error("protocol `h2c` is for cleartext, and endpoint `{0}` is `https`")]
    H2cOverTls(Arc<str>),
    #[error("TLS of upstream `{name}`: {source}")]
    Tls { name: Arc<str>, source: TlsError },
}

impl EndpointSpec {
    /// Reads `http://host[:port]` or `https://host[:port]`, without path. Weight 1, no labels.
    pub fn from_url(url: &str) -> Result<Self, SpecError> {
        let bad = || SpecError::Url(url.to_owned());
        let uri: http::Uri = url.parse().map_err(|_| bad())?;
        let https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad()),
        };
        let authority = uri.authority().ok_or_else(bad)?;
        if authority.as_str().contains('@') || uri.query().is_some() || !matches!(uri.path(), "" | "/") {
            return Err(bad());
        }
        let port = match authority.port_u16() {
            Some(port) => port,
            None if authority.as_str().ends_with(authority.host()) => {
                if https {
                    443
                } else {
                    80
                }
            }
            None => return Err(bad()),
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if host.is_empty() || port == 0 {
            return Err(bad());
        }
        Ok(EndpointSpec { https, host, port, weight: 1, labels: Vec::new() })
    }
}

/// An upstream, checked and ready; part of a snapshot.
pub struct Upstream {
    spec: UpstreamSpec,
    endpoints: Vec<Endpoint>,
}

/// One address of an upstream, ready to connect to.
pub(super) struct Endpoint {
    /// `host:port`, as filters and logs see it.
    pub(super) address: Arc<str>,
    pub(super) host: Arc<str>,
    pub(super) port: u16,
    pub(super) weight: u32,
    pub(super) labels: Arc<Vec<(String, String)>>,
    /// Of the address, for hash keys: the same in every worker and gateway.
    pub(super) hash: u64,
    /// What `Host` says when the request names none.
    pub(super) authority: Authority,
    pub(super) host_value: HeaderValue,
    pub(super) speak: Speak,
    pub(super) tls: Option<EndpointTls>,
}

pub(super) struct EndpointTls {
    pub(super) usual: TlsClient,
    /// Offers HTTP/1.1 only, for upgrades: they don't exist in HTTP/2 (RFC 9113 §8.6).
    pub(super) http1: TlsClient,
}

impl Upstream {
    /// Checks a description and reads its keys and certificates.
    pub fn new(spec: UpstreamSpec) -> Result<Self, SpecError> {
        let mut endpoints: Vec<Endpoint> = Vec::new();
        if let TargetSpec::Endpoints(list) = &spec.target {
            if list.is_empty() {
                return Err(SpecError::NoEndpoint(spec.name));
            }
            let configs = if list.iter().any(|e| e.https) { Some(Self::tls_configs(&spec)?) } else { None };
            for item in list {
                let endpoint = Endpoint::new(item, &spec, configs.as_ref())?;
                if endpoints.iter().any(|e| e.address == endpoint.address) {
                    return Err(SpecError::Twice(spec.name.clone(), endpoint.address.to_string()));
                }
                endpoints.push(endpoint);
            }
        }
        Ok(Upstream { spec, endpoints })
    }

    fn tls_configs(spec: &UpstreamSpec) -> Result<(Arc<rustls::ClientConfig>, Arc<rustls::ClientConfig>), SpecError> {
        let failed = |source| SpecError::Tls { name: spec.name.clone(), source };
        let alpn: &[&[u8]] = match spec.protocol {
            Protocol::Http1 => &[b"http/1.1"],
            Protocol::Http2 | Protocol::H2c => &[b"h2"],
            Protocol::Auto => &[b"h2", b"http/1.1"],
        };
        let usual = tls::client_config(&spec.tls, alpn).map_err(failed)?;
        let mut http1 = usual.clone();
        http1.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A resumed session must not bring the other protocol back.
        http1.resumption = rustls::client::Resumption::in_memory_sessions(64);
        Ok((Arc::new(usual), Arc::new(http1)))
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.spec.name
    }

    /// What it was made from.
    pub fn spec(&self) -> &UpstreamSpec {
        &self.spec
    }

    pub(super) fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Upstream").field(&self.spec).finish()
    }
}

impl Endpoint {
    fn new(
        item: &EndpointSpec,
        spec: &UpstreamSpec,
        configs: Option<&(Arc<rustls::ClientConfig>, Arc<rustls::ClientConfig>)>,
    ) -> Result<Self, SpecError> {
        let bad_host = || SpecError::Host(item.host.clone());
        let bracketed = if item.host.contains(':') { format!("[{}]", item.host) } else { item.host.clone() };
        let address: Arc<str> = format!("{bracketed}:{}", item.port).into();
        let default_port = if item.https { 443 } else { 80 };
        let host = if item.port == default_port { bracketed } else { address.to_string() };
        let speak = match (spec.protocol, item.https) {
            (Protocol::H2c, true) => return Err(SpecError::H2cOverTls(address)),
            (Protocol::Http1, _) | (Protocol::Auto, false) => Speak::Http1,
            (Protocol::Http2 | Protocol::H2c, _) => Speak::Http2,
            (Protocol::Auto, true) => Speak::Either,
        };
        let tls = match configs.filter(|_| item.https) {
            None => None,
            Some((usual, http1)) => {
                let name = spec.tls.server_name.clone().unwrap_or_else(|| item.host.clone());
                let server_name = ServerName::try_from(name.clone()).map_err(|_| SpecError::Host(name))?;
                Some(EndpointTls {
                    usual: TlsClient { config: usual.clone(), server_name: server_name.clone() },
                    http1: TlsClient { config: http1.clone(), server_name },
                })
            }
        };
        Ok(Endpoint {
            hash: balance::hash(address.as_bytes()),
            authority: host.parse().map_err(|_| bad_host())?,
            host_value: HeaderValue::from_str(&host).map_err(|_| bad_host())?,
            address,
            host: item.host.as_str().into(),
            port: item.port,
            weight: item.weight,
            labels: Arc::new(item.labels.clone()),
            speak,
            tls,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_from_urls() {
        let read = |url| EndpointSpec::from_url(url).map(|e| (e.https, e.host, e.port)).ok();
        assert_eq!(read("http://Localhost:3000"), Some((false, "localhost".into(), 3000)));
        assert_eq!(read("https://api.example/"), Some((true, "api.example".into(), 443)));
        assert_eq!(read("http://[::1]:81"), Some((false, "::1".into(), 81)));
        for bad in
            ["localhost:1", "ftp://a", "http://a/b", "http://a:0", "http://a:99999", "http://u@a", "http://a?b", ""]
        {
            assert!(read(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn contradictions_are_refused_and_equal_specs_are_equal() {
        let endpoint = EndpointSpec::from_url("https://a.example").unwrap();
        let mut spec = UpstreamSpec::new("u", TargetSpec::Endpoints(vec![endpoint.clone()]));
        assert_eq!(spec, spec.clone());
        spec.protocol = Protocol::H2c;
        assert!(matches!(Upstream::new(spec), Err(SpecError::H2cOverTls(_))));
        let none = UpstreamSpec::new("u", TargetSpec::Endpoints(vec![]));
        assert!(matches!(Upstream::new(none), Err(SpecError::NoEndpoint(_))));
        let twice = UpstreamSpec::new("u", TargetSpec::Endpoints(vec![endpoint.clone(), endpoint]));
        assert!(matches!(Upstream::new(twice), Err(SpecError::Twice(..))));
    }
}
