//! Where the endpoints of an upstream come from: the configuration, or a source that lists them and tells of changes (`listed`). A
//! source is a variant of [`model::Discovery`] and a file here (`file`, `srv`, `consul`); `located` knows the addresses of what is listed. All
//! of it feeds the upstream's `EndpointSet` and runs in the background, never in a request, but for the first addresses of a name,
//! which a request waits for.

mod consul;
mod dns;
mod document;
mod file;
mod fixed;
mod listed;
mod located;
mod saved;
mod sources;
mod srv;
mod statistics;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Instant;

pub(crate) use self::listed::Listed;
pub(crate) use self::located::Located;
pub use self::sources::{Fetch, Fetched, Get, Sources};
pub use self::statistics::DiscoveryState;
use super::endpoints::{EndpointSet, Listing};
use super::resolver::{DnsError, Resolver};
use super::spec::Endpoint;
use crate::background::{Background, Task};
use crate::config::model;

/// The endpoints of an upstream.
pub(crate) enum Discovery {
    /// Those of the configuration.
    Configured(Located, Arc<Resolver>),
    /// Those that a source lists.
    Listed(Arc<Listed>),
}

impl Discovery {
    /// What it knows now. Never waits.
    pub(super) fn listing(&self) -> Listing {
        match self {
            Discovery::Configured(located, _) => located.listing(),
            Discovery::Listed(listed) => listed.located().listing(),
        }
    }

    /// Whether the addresses of an endpoint are missing or older than they may be.
    pub(super) fn is_stale(&self, endpoint: &Endpoint, now: Instant) -> bool {
        match self {
            Discovery::Configured(located, _) => located.is_stale(endpoint, now),
            Discovery::Listed(listed) => listed.located().is_stale(endpoint, now),
        }
    }

    /// Waits for the addresses of an endpoint; the next listing has them.
    pub(super) async fn locate(&self, endpoint: &Endpoint) -> Result<(), DnsError> {
        match self {
            Discovery::Configured(located, _) => located.locate(endpoint).await,
            Discovery::Listed(listed) => listed.located().locate(endpoint).await,
        }
    }

    /// Asks again for all addresses that are due. What can't be had stays as it was.
    pub(super) async fn refresh(&self) {
        match self {
            Discovery::Configured(located, _) => located.refresh().await,
            Discovery::Listed(listed) => listed.located().refresh().await,
        }
    }

    /// Runs a future where names are asked for.
    pub(super) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        match self {
            Discovery::Configured(_, resolver) => resolver.spawn(future),
            Discovery::Listed(listed) => listed.resolver().spawn(future),
        }
    }
}

/// What a set of endpoints needs done while its upstream is running.
pub(super) fn tasks(set: &Arc<EndpointSet>, background: &Background) -> Vec<Task> {
    let Discovery::Listed(listed) = set.discovery() else { return Vec::new() };
    let feed = Feed { set: Arc::clone(set), listed: Arc::clone(listed) };
    let follow = {
        let (feed, background) = (feed.clone(), background.clone());
        move || async move {
            match feed.listed.source().clone() {
                model::Discovery::File(path) => file::follow(path, &feed, &background).await,
                model::Discovery::Srv(srv) => srv::follow(srv, &feed).await,
                model::Discovery::Consul(consul) => consul::follow(&consul, &feed).await,
            }
        }
    };
    vec![
        background.spawn("discovery", follow),
        background.spawn("discovery state", move || async move { saved::keep(&feed.listed).await }),
    ]
}

/// Where a source brings what it has found: the set of endpoints that it is the source of.
#[derive(Clone)]
struct Feed {
    set: Arc<EndpointSet>,
    listed: Arc<Listed>,
}
