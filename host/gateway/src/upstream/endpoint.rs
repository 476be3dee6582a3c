//! An endpoint of an upstream, ready to connect to, and what makes the endpoints of one: the description of each, and what they share.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use http::HeaderValue;
use http::uri::Authority;
use rustls_pki_types::ServerName;

use super::address::Place;
use super::balance;
use super::connect::{Speak, TlsClient};
use super::spec::{EndpointSpec, Protocol, SpecError, UpstreamSpec};
use super::tls;
use crate::http1::Tolerance;
use crate::proxy_protocol::{self, Proxied};

/// What `Host` says to a Unix socket, as nginx has it.
const LOCALHOST: &str = "localhost";

/// TLS towards all endpoints of an upstream.
#[derive(Clone)]
pub(crate) struct TlsConfigs {
    pub(crate) usual: Arc<rustls::ClientConfig>,
    /// Offers HTTP/1.1 only, for upgrades: they don't exist in HTTP/2 (RFC 9113 §8.6).
    pub(crate) http1: Arc<rustls::ClientConfig>,
}

/// An endpoint as written, ready to connect to.
pub(crate) struct Endpoint {
    /// Its place, as filters, metrics and logs see it.
    pub(crate) name: Arc<str>,
    pub(crate) place: Place,
    pub(crate) weight: u32,
    pub(crate) labels: Arc<Vec<(String, String)>>,
    pub(crate) priority: u8,
    /// Of the name, for hash keys: the same in every worker and gateway.
    pub(crate) hash: u64,
    /// What `Host` says when the request names none.
    pub(crate) authority: Authority,
    pub(crate) host_value: HeaderValue,
    pub(crate) speak: Speak,
    pub(crate) tolerance: Tolerance,
    pub(crate) proxy_protocol: Option<proxy_protocol::Version>,
    pub(crate) tls: Option<EndpointTls>,
}

pub(crate) struct EndpointTls {
    pub(crate) usual: TlsClient,
    pub(crate) http1: TlsClient,
}

impl TlsConfigs {
    pub(super) fn new(spec: &UpstreamSpec) -> Result<Self, SpecError> {
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
        Ok(TlsConfigs { usual: Arc::new(usual), http1: Arc::new(http1) })
    }
}

/// Makes the endpoints of an upstream.
pub(crate) struct EndpointMaker {
    protocol: Protocol,
    server_name: Option<String>,
    tls: Option<TlsConfigs>,
    tolerance: Tolerance,
    proxy_protocol: Option<proxy_protocol::Version>,
}

impl EndpointMaker {
    pub(super) fn new(spec: &UpstreamSpec, tls: Option<TlsConfigs>) -> Self {
        let server_name = spec.tls.server_name.clone();
        let UpstreamSpec { protocol, tolerance, proxy_protocol, .. } = *spec;
        EndpointMaker { protocol, server_name, tls, tolerance, proxy_protocol }
    }

    pub(super) fn make(&self, item: &EndpointSpec) -> Result<Endpoint, SpecError> {
        let mut endpoint = Endpoint::new(item, self.protocol, self.server_name.as_deref(), self.tls.as_ref())?;
        if self.protocol == Protocol::Http2 && !item.https {
            return Err(SpecError::H2OverCleartext(endpoint.name));
        }
        endpoint.tolerance = self.tolerance;
        endpoint.proxy_protocol = self.proxy_protocol;
        Ok(endpoint)
    }

    /// All of a list of the configuration.
    pub(super) fn all(&self, upstream: &Arc<str>, list: &[EndpointSpec]) -> Result<Vec<Arc<Endpoint>>, SpecError> {
        let mut names = HashSet::with_capacity(list.len());
        let endpoint = |item: &EndpointSpec| {
            let endpoint = self.make(item)?;
            if !names.insert(endpoint.name.clone()) {
                return Err(SpecError::Twice(upstream.clone(), endpoint.name.to_string()));
            }
            Ok(Arc::new(endpoint))
        };
        list.iter().map(endpoint).collect()
    }
}

impl Endpoint {
    /// `server_name` takes the place of the host in TLS. Without `configs` an endpoint of `https` can't be.
    pub(crate) fn new(
        item: &EndpointSpec,
        protocol: Protocol,
        server_name: Option<&str>,
        configs: Option<&TlsConfigs>,
    ) -> Result<Self, SpecError> {
        let name: Arc<str> = item.place.to_string().into();
        let bad_host = || SpecError::Host(name.to_string());
        let default_port = if item.https { 443 } else { 80 };
        let host = match &item.place {
            Place::Host { port, .. } if *port == default_port => {
                name.strip_suffix(&format!(":{port}")).unwrap_or(&name)
            }
            Place::Host { .. } => &name,
            // It has no name of its own.
            Place::Unix(_) => LOCALHOST,
        };
        let speak = match (protocol, item.https) {
            (Protocol::H2c, true) => return Err(SpecError::H2cOverTls(name)),
            (Protocol::Http1, _) | (Protocol::Auto, false) => Speak::Http1,
            (Protocol::Http2 | Protocol::H2c, _) => Speak::Http2,
            (Protocol::Auto, true) => Speak::Either,
        };
        let tls = match configs {
            Some(TlsConfigs { usual, http1 }) if item.https => {
                let own = match &item.place {
                    Place::Host { name, .. } => &**name,
                    Place::Unix(_) => LOCALHOST,
                };
                let name = server_name.unwrap_or(own).to_owned();
                let server_name = ServerName::try_from(name.clone()).map_err(|_| SpecError::Host(name))?;
                Some(EndpointTls {
                    usual: TlsClient { config: usual.clone(), server_name: server_name.clone() },
                    http1: TlsClient { config: http1.clone(), server_name },
                })
            }
            Some(_) | None => None,
        };
        Ok(Endpoint {
            hash: balance::hash(name.as_bytes()),
            authority: host.parse().map_err(|_| bad_host())?,
            host_value: HeaderValue::from_str(host).map_err(|_| bad_host())?,
            place: item.place.clone(),
            name,
            weight: item.weight,
            labels: Arc::new(item.labels.clone()),
            priority: item.priority,
            speak,
            tolerance: Tolerance::default(),
            proxy_protocol: None,
            tls,
        })
    }

    /// What a connection on behalf of this client begins with.
    pub(crate) fn proxy_header(&self, proxied: Proxied) -> Vec<u8> {
        self.proxy_protocol.map_or_else(Vec::new, |version| proxy_protocol::write(version, proxied))
    }

    /// Whether connections to it are like those to another one of the same address.
    pub(crate) fn connects_like(&self, other: &Endpoint) -> bool {
        let tls = match (&self.tls, &other.tls) {
            (None, None) => true,
            (Some(a), Some(b)) => {
                Arc::ptr_eq(&a.usual.config, &b.usual.config) && a.usual.server_name == b.usual.server_name
            }
            _ => false,
        };
        tls && self.speak == other.speak
            && self.tolerance == other.tolerance
            && self.proxy_protocol == other.proxy_protocol
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("name", &self.name).field("weight", &self.weight).finish_non_exhaustive()
    }
}
