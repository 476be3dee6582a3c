//! Where an endpoint is, as written, and the addresses that connections go to.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::config::model::UnixName;

/// Where an endpoint is, as written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Host {
        /// A name, an IPv4 address or an IPv6 address without brackets.
        name: Arc<str>,
        port: u16,
    },
    Unix(Arc<UnixName>),
}

/// What a connection is opened to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(Arc<UnixName>),
}

impl Place {
    pub fn host(name: &str, port: u16) -> Self {
        Place::Host { name: name.into(), port }
    }
}

/// `host:port` with brackets around an IPv6 address, or `unix:/path`: how an endpoint is called.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Host { name, port } if name.contains(':') => write!(f, "[{name}]:{port}"),
            Place::Host { name, port } => write!(f, "{name}:{port}"),
            Place::Unix(name) => name.fmt(f),
        }
    }
}

impl Address {
    /// The IP address, where it has one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Address::Tcp(address) => Some(address.ip()),
            Address::Unix(_) => None,
        }
    }

    /// The same at another port. A Unix socket has none.
    #[must_use]
    pub fn at_port(&self, port: Option<u16>) -> Self {
        match (self, port) {
            (Address::Tcp(address), Some(port)) => Address::Tcp(SocketAddr::new(address.ip(), port)),
            (address, _) => address.clone(),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Address::Tcp(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(name) => name.fmt(f),
        }
    }
}
