//! Plugins, filters and pipelines.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use http::header::HeaderName;

use super::{ByteSize, Name, Secret};
use crate::http::headers::CREDENTIALS;

/// A component file.
#[derive(Debug, Clone)]
pub struct Plugin {
    pub name: Name,
    /// None: `NAME.wasm` in `Gateway::plugin_dir`, or else the embedded one.
    pub file: Option<PathBuf>,
    /// What the file has to hash to.
    pub sha256: Option<[u8; 32]>,
    pub call: PluginCall,
}

/// How the hooks of a plugin are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PluginCall {
    /// Directly where that is possible.
    Auto,
    /// Always by the component runtime.
    Component,
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
