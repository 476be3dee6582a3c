//! The endpoints of a list and where they are: by address, or by names that the DNS knows.

use std::sync::Arc;
use std::time::Instant;

use super::dns::Dns;
use super::fixed::Fixed;
use crate::upstream::endpoints::Listing;
use crate::upstream::resolver::{DnsError, DnsPolicy, Resolver};
use crate::upstream::spec::Endpoint;

pub(crate) enum Located {
    /// All are addresses.
    Fixed(Fixed),
    /// Some are names, with the TTL of their addresses.
    Dns(Dns),
}

impl Located {
    pub(in crate::upstream) fn of(endpoints: Vec<Arc<Endpoint>>, resolver: &Arc<Resolver>, policy: DnsPolicy) -> Self {
        match Fixed::new(&endpoints, policy.lookup_family) {
            Some(fixed) => Located::Fixed(fixed),
            None => Located::Dns(Dns::new(endpoints, resolver.clone(), policy)),
        }
    }

    pub(super) fn listing(&self) -> Listing {
        match self {
            Located::Fixed(fixed) => fixed.listing(),
            Located::Dns(dns) => dns.listing(),
        }
    }

    pub(super) fn is_stale(&self, endpoint: &Endpoint, now: Instant) -> bool {
        match self {
            Located::Fixed(_) => false,
            Located::Dns(dns) => dns.is_stale(endpoint, now),
        }
    }

    pub(super) async fn locate(&self, endpoint: &Endpoint) -> Result<(), DnsError> {
        match self {
            Located::Fixed(_) => Ok(()),
            Located::Dns(dns) => dns.locate(endpoint).await,
        }
    }

    pub(super) async fn refresh(&self) {
        match self {
            Located::Fixed(_) => {}
            Located::Dns(dns) => dns.refresh().await,
        }
    }

    /// Asks for the names that nothing is known of yet.
    pub(super) async fn look_up(&self) {
        match self {
            Located::Fixed(_) => {}
            Located::Dns(dns) => dns.look_up().await,
        }
    }
}
