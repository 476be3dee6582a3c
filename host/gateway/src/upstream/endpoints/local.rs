//! The endpoints of an upstream as one worker sees them: a version of the set, with this worker's pools and its place in the turn.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;

use super::record::Record;
use super::set::{EndpointSet, Host, Member, Members};
use crate::exchange::Candidate;
use crate::upstream::balance::{self, Cursors, Dice};
use crate::upstream::pool::{Limits, Pool};
use crate::upstream::spec::{Balance, Endpoint};

/// One version of an upstream's endpoints on one worker. A request keeps the one that it began with, so that numbers of hosts mean the
/// same to its end.
pub struct LocalEndpoints {
    version: u64,
    members: Arc<Members>,
    /// By host; `None` while its name has no address.
    pools: Vec<Option<Rc<Pool>>>,
    cursors: Cursors,
    /// Whether the pools count this list among their users.
    joined: Cell<bool>,
}

impl LocalEndpoints {
    /// The members that are out now, with the pools and cursors that `before` has of them.
    pub(crate) fn new(set: &EndpointSet, limits: Limits, dice: &Dice, before: Option<&Self>) -> Rc<Self> {
        let (version, members) = (set.version(), set.members());
        let mut known: HashMap<*const Record, &Rc<Pool>> = HashMap::new();
        for pool in before.iter().flat_map(|before| before.pools.iter().flatten()) {
            known.insert(Arc::as_ptr(pool.record()), pool);
        }
        let mut carried = false;
        let pool = |host: &Host| {
            let address: SocketAddr = host.record.key().address?;
            let endpoint = &members.endpoints[host.endpoint].endpoint;
            let kept = known.get(&Arc::as_ptr(&host.record));
            carried |= kept.is_some();
            let kept = kept.filter(|pool| pool.serves(endpoint, address, &host.record));
            let pool = kept.map_or_else(
                || Pool::new(endpoint.clone(), address, host.record.clone(), limits),
                |kept| Rc::clone(kept),
            );
            pool.join(limits);
            Some(pool)
        };
        let pools = members.hosts.iter().map(pool).collect();
        let cursors = match before {
            Some(before) if carried => before.cursors.carried(&before.members.hosts, &members.hosts),
            _ => Cursors::random(&members.hosts, dice),
        };
        Rc::new(LocalEndpoints { version, members, pools, cursors, joined: Cell::new(true) })
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Another list takes its place: connections that only this one has are closed, when their requests are over.
    pub(crate) fn retire(&self) {
        if self.joined.replace(false) {
            self.pools.iter().flatten().for_each(|pool| pool.part());
        }
    }

    /// How many endpoints there are, as written.
    pub(crate) fn len(&self) -> usize {
        self.members.endpoints.len()
    }

    /// How many addresses there are.
    pub(crate) fn hosts(&self) -> usize {
        self.members.hosts.len()
    }

    /// The endpoint that a host is an address of.
    pub(crate) fn endpoint(&self, host: usize) -> &Arc<Endpoint> {
        &self.members.endpoints[self.members.hosts[host].endpoint].endpoint
    }

    pub(crate) fn record(&self, host: usize) -> &Arc<Record> {
        &self.members.hosts[host].record
    }

    /// The connections to a host; `None` while its name has no address.
    pub(crate) fn pool(&self, host: usize) -> Option<&Rc<Pool>> {
        self.pools[host].as_ref()
    }

    #[cfg(test)]
    pub(crate) fn pools(&self) -> impl Iterator<Item = &Rc<Pool>> {
        self.pools.iter().flatten()
    }

    /// The next host that a request has not tried yet, as the upstream balances.
    pub(crate) fn balanced(&self, balance: Balance, dice: &Dice, tried: &[usize]) -> Option<usize> {
        let hosts = &self.members.hosts;
        // The common case needs no clock.
        if let [host] = &hosts[..]
            && host.record.is_healthy()
        {
            return tried.is_empty().then_some(0);
        }
        match balance {
            Balance::RoundRobin => balance::round_robin(hosts, &self.cursors, tried, Instant::now()),
            Balance::LeastRequest => balance::least_request(hosts, dice, tried, Instant::now()),
        }
    }

    /// The host of a key that a request has not tried yet.
    pub(crate) fn by_hash(&self, key: &str, tried: &[usize]) -> Option<usize> {
        balance::by_hash(&self.members.hosts, key, tried, Instant::now())
    }

    /// A host of the first of these endpoints that a request has not tried yet.
    pub(crate) fn first_of(&self, names: &[String], tried: &[usize]) -> Option<usize> {
        names.iter().find_map(|name| self.one_of(self.named(name)?, tried))
    }

    /// The hosts that were tried and the other addresses of their endpoints, where an attempt has looked for a connection too.
    pub(crate) fn with_siblings(&self, tried: &[usize]) -> SmallVec<[usize; 4]> {
        let siblings = |host: &usize| match self.members.hosts.get(*host) {
            Some(host) => self.members.endpoints[host.endpoint].hosts.clone(),
            None => 0..0,
        };
        tried.iter().flat_map(siblings).collect()
    }

    /// The endpoint's name, as this worker's own text.
    pub(crate) fn name(&self, host: usize) -> Rc<str> {
        match self.pool(host) {
            Some(pool) => Rc::clone(pool.name()),
            None => Rc::from(&*self.endpoint(host).name),
        }
    }

    /// The pools to look for a connection in, of an endpoint: first that of this address, then of those that may be tried, then the rest.
    pub(crate) fn pools_of(&self, endpoint: &str, first: Option<SocketAddr>) -> SmallVec<[Rc<Pool>; 2]> {
        let Some(member) = self.named(endpoint) else { return SmallVec::new() };
        let first = first.and_then(|address| member.hosts.clone().find(|host| self.address(*host) == Some(address)));
        let Some(first) = first.or_else(|| self.one_of(member, &[])) else { return SmallVec::new() };
        let now = Instant::now();
        let mut others: SmallVec<[usize; 2]> = member.hosts.clone().filter(|host| *host != first).collect();
        // RFC 8305 §4: after an address of one kind one of the other, since often all of a kind can't be reached.
        let is_v4 = |host: usize| self.address(host).is_some_and(|address| address.is_ipv4());
        others.sort_by_key(|host| (!self.record(*host).may_try(now), is_v4(*host) == is_v4(first)));
        std::iter::once(first).chain(others).filter_map(|host| self.pools[host].clone()).collect()
    }

    /// The endpoints as filters see them. Of an endpoint of several addresses: whether one of them is healthy, the requests of all, and
    /// the mean latency of those that have one.
    pub(crate) fn candidates(&self, upstream: &Arc<str>) -> Vec<Candidate> {
        let shown = |member: &Member| {
            let records = || self.members.hosts[member.hosts.clone()].iter().map(|host| &host.record);
            let latencies = || records().map(|record| record.latency_us()).filter(|latency| *latency > 0);
            Candidate {
                upstream: upstream.clone(),
                address: member.endpoint.name.clone(),
                weight: member.endpoint.weight,
                healthy: records().any(|record| record.is_healthy()),
                active: records().map(|record| record.active()).sum(),
                latency_us: latencies().sum::<u64>() / latencies().count().max(1) as u64,
                labels: member.endpoint.labels.clone(),
            }
        };
        self.members.endpoints.iter().map(shown).collect()
    }

    fn named(&self, name: &str) -> Option<&Member> {
        self.members.endpoints.iter().find(|member| *member.endpoint.name == *name)
    }

    /// The address of a host; `None` while its name has none, and for a built-in upstream.
    pub(crate) fn address(&self, host: usize) -> Option<SocketAddr> {
        self.members.hosts.get(host)?.record.key().address
    }

    /// One of an endpoint's hosts that was not tried yet: of those that may be tried the one with the fewest requests, else of all.
    fn one_of(&self, member: &Member, tried: &[usize]) -> Option<usize> {
        let now = Instant::now();
        let hosts = member.hosts.clone().filter(|host| !tried.contains(host));
        let chosen = hosts.min_by_key(|host| {
            let record = self.record(*host);
            (!record.may_try(now), record.active())
        })?;
        self.record(chosen).claim(now);
        Some(chosen)
    }
}
