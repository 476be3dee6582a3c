//! Sources of endpoints.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::Secret;

/// Who lists the endpoints of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discovery {
    Consul(Box<Consul>),
    Srv(Srv),
    /// A file with a list, in TOML if its name ends so, else in JSON.
    File(PathBuf),
}

/// A service that Consul knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consul {
    pub service: String,
    /// An origin.
    pub address: Url,
    pub tag: Option<String>,
    pub dc: Option<String>,
    pub namespace: Option<String>,
    pub token: Option<Secret>,
    /// How long a query waits for a change.
    pub wait: Duration,
    /// PEM text of authorities to trust beside the system's.
    pub ca: Option<String>,
    /// Whether the endpoints speak TLS.
    pub https: bool,
}

/// A service that the DNS knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Srv {
    pub name: String,
    /// Whether the endpoints speak TLS.
    pub https: bool,
}

/// Of endpoints whose source tells none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointScheme {
    Http,
    Https,
}

impl Discovery {
    /// The kind of source, as metrics show it.
    pub fn kind(&self) -> &'static str {
        match self {
            Discovery::Consul(_) => "consul",
            Discovery::Srv(_) => "srv",
            Discovery::File(_) => "file",
        }
    }

    /// Whether it can list endpoints of `https`.
    pub fn may_be_https(&self) -> bool {
        match self {
            Discovery::Consul(consul) => consul.https,
            Discovery::Srv(srv) => srv.https,
            Discovery::File(_) => true,
        }
    }
}

/// As logs show it. What is told by sources that are shown alike is the same, but for the scheme.
impl fmt::Display for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Discovery::Consul(consul) => {
                let Consul { service, address, tag, dc, namespace, .. } = &**consul;
                write!(f, "consul `{service}` at {}", address.as_str().trim_end_matches('/'))?;
                for (name, value) in [("tag", tag), ("dc", dc), ("namespace", namespace)] {
                    if let Some(value) = value {
                        write!(f, ", {name} `{value}`")?;
                    }
                }
                Ok(())
            }
            Discovery::Srv(Srv { name, .. }) => write!(f, "srv `{name}`"),
            Discovery::File(path) => write!(f, "file {}", path.display()),
        }
    }
}
