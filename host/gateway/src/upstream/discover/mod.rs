//! Where the endpoints of an upstream come from. A source is a variant here and a file beside this one; it feeds the upstream's
//! `EndpointSet`. Sources run on the background runtime, never in a request, but for the first addresses of a name, which a request
//! waits for.

mod dns;
mod fixed;

use std::sync::Arc;
use std::time::Instant;

use self::dns::Dns;
use self::fixed::Fixed;
use super::endpoints::Listing;
use super::resolver::{DnsError, DnsPolicy, Resolver};
use super::spec::Endpoint;

/// A source of endpoints.
pub(crate) enum Discovery {
    /// The addresses of the configuration.
    Static(Fixed),
    /// The names of the configuration, by the TTL of their addresses.
    Dns(Dns),
}

impl Discovery {
    /// The source of a list of the configuration.
    pub(super) fn of(endpoints: Vec<Arc<Endpoint>>, resolver: &Arc<Resolver>, policy: DnsPolicy) -> Self {
        match Fixed::new(&endpoints, policy.lookup_family) {
            Some(fixed) => Discovery::Static(fixed),
            None => Discovery::Dns(Dns::new(endpoints, resolver.clone(), policy)),
        }
    }

    /// What it knows now. Never waits.
    pub(super) fn listing(&self) -> Listing {
        match self {
            Discovery::Static(fixed) => fixed.listing(),
            Discovery::Dns(dns) => dns.listing(),
        }
    }

    /// Whether the addresses of an endpoint are missing or older than they may be.
    pub(super) fn is_stale(&self, endpoint: &Endpoint, now: Instant) -> bool {
        match self {
            Discovery::Static(_) => false,
            Discovery::Dns(dns) => dns.is_stale(endpoint, now),
        }
    }

    /// Waits for the addresses of an endpoint; the next listing has them.
    pub(super) async fn locate(&self, endpoint: &Endpoint) -> Result<(), DnsError> {
        match self {
            Discovery::Static(_) => Ok(()),
            Discovery::Dns(dns) => dns.locate(endpoint).await,
        }
    }

    /// Asks again for everything that is due. What can't be had stays as it was.
    pub(super) async fn refresh(&self) {
        match self {
            Discovery::Static(_) => {}
            Discovery::Dns(dns) => dns.refresh().await,
        }
    }

    /// Runs a future where this source runs.
    pub(super) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        match self {
            Discovery::Static(_) => {}
            Discovery::Dns(dns) => dns.spawn(future),
        }
    }
}
