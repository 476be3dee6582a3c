//! The HTTP cache: what routes store, and the memory of the process for it.

use std::time::Duration;

use ipnet::IpNet;
use sluice_cache::key::KeyRule;
use sluice_cache::policy::Policy;

use super::{ByteSize, Name, Secret};

/// What all routes with a cache have in common.
#[derive(Debug, Clone)]
pub struct Cache {
    /// What stored responses may take together, heads and keys included.
    pub memory: ByteSize,
    /// The store behind the memory that gateways share.
    pub state: Option<CacheState>,
}

/// Where gateways share stored responses and purges.
#[derive(Debug, Clone)]
pub struct CacheState {
    /// Of a table of `[state]`.
    pub name: Name,
    /// The bytes of a response there, its head included.
    pub max_object: ByteSize,
}

/// How the responses of a route are stored and reused.
#[derive(Debug, Clone)]
pub struct RouteCache {
    pub key: KeyRule,
    pub policy: Policy,
    /// The content of a response that is stored.
    pub max_object: ByteSize,
    /// How long a request waits for the response head to another one for the same; none: it does not.
    pub collapse_timeout: Option<Duration>,
    /// Whether responses say what the cache did (`Cache-Status`, RFC 9211).
    pub status_field: bool,
    /// Whether clients get the fields with the tags of a response (`Surrogate-Key`, `Cache-Tag`).
    pub tag_fields: bool,
    /// Who may take a response away by the method `PURGE`; none: nobody.
    pub purge: Option<PurgeGrant>,
}

/// What a `PURGE` needs. All that is given here has to hold, and something is.
#[derive(Debug, Clone)]
pub struct PurgeGrant {
    /// The bearer token.
    pub token: Option<Secret>,
    /// Where the client has to be.
    pub addresses: Option<Vec<IpNet>>,
    /// Who the client has to be, by the filters of the route.
    pub consumers: Option<Vec<String>>,
}
