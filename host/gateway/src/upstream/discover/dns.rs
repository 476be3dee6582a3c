//! Endpoints by name: each name is asked for when a request first needs it, and again by the TTL of its answer while requests come. The
//! last good answer stays for a while when DNS fails.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use crate::upstream::endpoints::Listing;
use crate::upstream::resolver::{self, Addresses, DnsError, DnsPolicy, LookupFamily, Resolution, Resolver};
use crate::upstream::spec::{Endpoint, Place};

/// Names that are asked for at the same time.
const AT_ONCE: usize = 16;

pub(crate) struct Dns {
    /// The endpoints, with the addresses of those that are no names.
    endpoints: Vec<(Arc<Endpoint>, Option<Addresses>)>,
    resolver: Arc<Resolver>,
    policy: DnsPolicy,
}

impl Dns {
    pub(super) fn new(endpoints: Vec<Arc<Endpoint>>, resolver: Arc<Resolver>, policy: DnsPolicy) -> Self {
        let with_literal = |endpoint: Arc<Endpoint>| {
            let literal = literal(&endpoint.place, policy.lookup_family);
            (endpoint, literal)
        };
        Dns { endpoints: endpoints.into_iter().map(with_literal).collect(), resolver, policy }
    }

    pub(super) fn listing(&self) -> Listing {
        let mut refresh_at: Option<Instant> = None;
        let mut addresses = |endpoint: &Arc<Endpoint>, literal: &Option<Addresses>| match (&endpoint.place, literal) {
            (_, Some(addresses)) => addresses.clone(),
            (Place::Unix(_), None) => Addresses::default(),
            (Place::Host { name, .. }, None) => {
                let known = self.known(name);
                // A name without addresses is asked for by the next request that needs it.
                if known.has_addresses() {
                    refresh_at = Some(refresh_at.map_or(known.refresh_at, |at| at.min(known.refresh_at)));
                }
                known.addresses
            }
        };
        let endpoints =
            self.endpoints.iter().map(|(endpoint, literal)| (endpoint.clone(), addresses(endpoint, literal)));
        Listing { endpoints: endpoints.collect(), refresh_at }
    }

    pub(super) fn is_stale(&self, endpoint: &Endpoint, now: Instant) -> bool {
        if literal(&endpoint.place, self.policy.lookup_family).is_some() {
            return false;
        }
        match &endpoint.place {
            Place::Unix(_) => false,
            Place::Host { name, .. } => {
                let known = self.known(name);
                !known.has_addresses() || known.fresh_until <= now
            }
        }
    }

    pub(super) async fn locate(&self, endpoint: &Endpoint) -> Result<(), DnsError> {
        match &endpoint.place {
            Place::Host { name, .. } => self.resolver.resolve(name, self.policy).await.map(drop),
            Place::Unix(_) => Ok(()),
        }
    }

    pub(super) async fn refresh(&self) {
        let now = Instant::now();
        self.ask(|known| known.has_addresses() && known.refresh_at <= now).await;
    }

    /// Asks for the names without addresses.
    pub(super) async fn look_up(&self) {
        self.ask(|known| !known.has_addresses()).await;
    }

    /// Asks for the names of which what is known is due.
    async fn ask(&self, is_due: impl Fn(&Resolution) -> bool) {
        let names = self.endpoints.iter().filter(|(_, literal)| literal.is_none());
        let due = names.filter_map(|(endpoint, _)| match &endpoint.place {
            Place::Host { name, .. } => is_due(&self.known(name)).then(|| name.clone()),
            Place::Unix(_) => None,
        });
        // Several endpoints may be ports of one host.
        let mut due = due.collect::<HashSet<_>>().into_iter();
        let mut asking = tokio::task::JoinSet::new();
        loop {
            while asking.len() < AT_ONCE
                && let Some(name) = due.next()
            {
                let (resolver, policy) = (self.resolver.clone(), self.policy);
                // A failure is in the log, and the name is due again later.
                asking.spawn(async move { resolver.refresh(&name, policy).await });
            }
            if asking.join_next().await.is_none() {
                return;
            }
        }
    }

    fn known(&self, name: &str) -> Resolution {
        self.resolver.known(name, self.policy)
    }
}

/// The addresses of an endpoint that is no name. A Unix socket has none, and needs none.
pub(super) fn literal(place: &Place, family: LookupFamily) -> Option<Addresses> {
    match place {
        Place::Host { name, .. } => resolver::literal(name, family),
        Place::Unix(_) => Some(Addresses::default()),
    }
}
