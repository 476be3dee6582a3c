//! The addresses of an upstream as they are now. Discovery feeds the set; workers look for a new version at each request, which is one
//! read of a number that hardly ever changes.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::changes::Changes;
use super::record::{Key, Record, millis};
use super::registry::EndpointRegistry;
use crate::config::model::{Balance, Balancing, ConsistentHash};
use crate::upstream::address::{Address, Place};
use crate::upstream::balance::{self, HashTable, Sessions};
use crate::upstream::discover::Discovery;
use crate::upstream::resolver::{Addresses, DnsError};
use crate::upstream::spec::Endpoint;

/// [`EndpointSet::refresh_at`] of a source that never changes, and while one is being asked.
const NEVER: u64 = u64::MAX;
/// An endpoint of weight 1 with one address has this share; a number that most counts of addresses divide.
const WHOLE: u64 = 5040;

/// What a source of endpoints knows at one time.
pub(crate) struct Listing {
    /// The endpoints and their addresses, of which there may be none yet.
    pub(crate) endpoints: Vec<(Arc<Endpoint>, Addresses)>,
    /// When to ask again.
    pub(crate) refresh_at: Option<Instant>,
}

/// The endpoints of one upstream of one snapshot.
pub(crate) struct EndpointSet {
    upstream: Arc<str>,
    discovery: Discovery,
    registry: Arc<EndpointRegistry>,
    balancing: Balancing,
    changes: Arc<Changes>,
    members: ArcSwap<Members>,
    /// Counts publications.
    version: AtomicU64,
    /// By [`millis`].
    refresh_at: AtomicU64,
    /// Held by who publishes.
    publishing: Mutex<()>,
    /// Told of each publication.
    published: Notify,
}

/// The endpoints and addresses of one version.
#[derive(Debug, Default)]
pub(crate) struct Members {
    pub(crate) endpoints: Vec<Member>,
    pub(crate) hosts: Vec<Host>,
    /// Of the endpoints, where the upstream hashes.
    pub(in crate::upstream) table: Option<HashTable>,
    /// Where sessions are sticky.
    pub(in crate::upstream) sessions: Option<Sessions>,
}

/// An endpoint as written.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) endpoint: Arc<Endpoint>,
    addresses: Addresses,
    /// Its addresses among the hosts; never empty.
    pub(crate) hosts: Range<usize>,
}

/// One address of an endpoint: what the balancer chooses from.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) record: Arc<Record>,
    /// The index of its endpoint.
    pub(crate) endpoint: usize,
    /// The weight of its endpoint …
    pub(crate) weight: u32,
    /// … and this address's share of it; 0 only without weight.
    pub(crate) share: u64,
    /// Its place in the order of priorities, the gateway's own zone first in each.
    pub(crate) level: u16,
    /// Of the endpoint's name, for hash keys: the same in every worker and gateway.
    pub(crate) hash: u64,
    /// Of the address, to tell the addresses of an endpoint apart.
    pub(crate) address_hash: u64,
}

impl EndpointSet {
    pub(crate) fn new(
        upstream: Arc<str>,
        balancing: &Balancing,
        discovery: Discovery,
        registry: Arc<EndpointRegistry>,
    ) -> Arc<Self> {
        let changes = registry.changes(&upstream);
        let set = EndpointSet {
            upstream,
            discovery,
            registry,
            balancing: balancing.clone(),
            changes,
            members: ArcSwap::from_pointee(Members::default()),
            version: AtomicU64::new(0),
            refresh_at: AtomicU64::new(NEVER),
            publishing: Mutex::new(()),
            published: Notify::new(),
        };
        set.publish();
        Arc::new(set)
    }

    /// Which version is out. What was published before it is seen by who reads it.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The changes of the states of its addresses.
    pub(crate) fn changes(&self) -> &Arc<Changes> {
        &self.changes
    }

    /// How many endpoints there are now. Counts no references, which all workers would share.
    pub(crate) fn endpoint_count(&self) -> usize {
        self.members.load().endpoints.len()
    }

    /// The members of this version or a later one.
    pub(crate) fn members(&self) -> Arc<Members> {
        self.members.load_full()
    }

    /// Ends with the next version, once it was polled or enabled.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.published.notified()
    }

    /// Whether the addresses of an endpoint must be asked for before a connection is opened to it.
    pub(crate) fn is_stale(&self, endpoint: &Endpoint, now: Instant) -> bool {
        self.discovery.is_stale(endpoint, now)
    }

    /// Waits for the addresses of an endpoint, and publishes what is known then: also that there are none any more.
    pub(crate) async fn locate(&self, endpoint: &Endpoint) -> Result<(), DnsError> {
        let located = self.discovery.locate(endpoint).await;
        self.publish();
        located
    }

    /// Has the source asked again in the background, if it is time. One request does it for all workers.
    pub(crate) fn refresh(self: &Arc<Self>, now: Instant) {
        let at = self.refresh_at.load(Ordering::Relaxed);
        if at == NEVER || millis(now) < at {
            return;
        }
        if self.refresh_at.compare_exchange(at, NEVER, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let set = Arc::clone(self);
            self.discovery.spawn(async move {
                set.discovery.refresh().await;
                set.publish();
            });
        }
    }

    /// Where its endpoints come from.
    pub(in crate::upstream) fn discovery(&self) -> &Discovery {
        &self.discovery
    }

    /// Publishes what the source knows, if that is new.
    pub(in crate::upstream) fn publish(&self) {
        let _publishing = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let Listing { endpoints, refresh_at } = self.discovery.listing();
        if !self.members.load().list(&endpoints) {
            self.members.store(Arc::new(self.members_of(endpoints)));
            // After the members: who sees the number sees them.
            self.version.fetch_add(1, Ordering::Release);
            self.published.notify_waiters();
        }
        self.refresh_at.store(refresh_at.map_or(NEVER, millis), Ordering::Relaxed);
    }

    fn members_of(&self, listed: Vec<(Arc<Endpoint>, Addresses)>) -> Members {
        let mut members = Members {
            endpoints: Vec::with_capacity(listed.len()),
            hosts: Vec::with_capacity(listed.len()),
            ..Members::default()
        };
        for (endpoint, addresses) in listed {
            let first = members.hosts.len();
            let mut host = |address: Option<Address>, share| {
                let address_hash = address.as_ref().and_then(Address::ip);
                let key = Key { upstream: self.upstream.clone(), endpoint: endpoint.name.clone(), address };
                members.hosts.push(Host {
                    record: self.registry.record(key),
                    endpoint: members.endpoints.len(),
                    weight: endpoint.weight,
                    share,
                    level: self.level(&endpoint),
                    hash: endpoint.hash,
                    address_hash: address_hash.map_or(0, |ip| balance::hash(ip.to_string().as_bytes())),
                });
            };
            let whole = u64::from(endpoint.weight) * WHOLE;
            match &endpoint.place {
                Place::Unix(name) => host(Some(Address::Unix(name.clone())), whole),
                Place::Host { .. } if addresses.is_empty() => host(None, whole),
                Place::Host { port, .. } => {
                    for ip in addresses.iter() {
                        host(Some(SocketAddr::new(*ip, *port).into()), whole / addresses.len() as u64);
                    }
                }
            }
            let hosts = first..members.hosts.len();
            members.endpoints.push(Member { endpoint, addresses, hosts });
        }
        let endpoints = || members.endpoints.iter().map(|member| &member.endpoint);
        if let Balance::Hash(ConsistentHash { algorithm, .. }) = &self.balancing.algorithm {
            let weights = endpoints().map(|endpoint| (endpoint.hash, endpoint.weight)).collect();
            members.table = Some(HashTable::new(*algorithm, weights));
        }
        if let Some(sticky) = &self.balancing.sticky {
            let key = sticky.key.as_ref().map_or_else(|| self.registry.session_key(), |key| key.expose().as_bytes());
            let sessions = Sessions::new(key, &self.upstream, endpoints().map(|endpoint| &*endpoint.name));
            members.sessions = Some(sessions);
        }
        members
    }

    fn level(&self, endpoint: &Endpoint) -> u16 {
        let is_local = self.balancing.zone.as_ref().is_none_or(|zone| {
            endpoint.labels.iter().any(|(label, value)| *label == zone.label && *value == zone.local)
        });
        u16::from(endpoint.priority) * 2 + u16::from(!is_local)
    }
}

impl Members {
    fn list(&self, listed: &[(Arc<Endpoint>, Addresses)]) -> bool {
        self.endpoints.len() == listed.len()
            && self.endpoints.iter().zip(listed).all(|(member, (endpoint, addresses))| {
                Arc::ptr_eq(&member.endpoint, endpoint) && member.addresses == *addresses
            })
    }
}
