//! An upstream on one worker: its endpoints, how they are doing, and which one is next. Sending is in `attempt`.

use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::balance::{self, Dice, Seat};
use super::dns::Dns;
use super::pool::LocalEndpoint;
use super::spec::{Balance, TargetSpec, Upstream};
use crate::exchange::Candidate;

/// How an endpoint is chosen.
#[derive(Debug, Clone, Copy)]
pub enum Choice<'a> {
    /// As the upstream balances.
    Balanced,
    /// The same key leads to the same endpoint.
    Key(&'a str),
    /// The first of these addresses (`host:port`) that takes a connection; unknown ones are passed over.
    Addresses(&'a [String]),
}

/// An upstream on one worker. It lives as long as its `Arc<Upstream>` is in use, over reloads.
pub struct LocalUpstream {
    upstream: Arc<Upstream>,
    /// This worker's own, as the address of each endpoint: each request keeps both.
    name: Rc<str>,
    endpoints: Vec<Rc<LocalEndpoint>>,
    seats: Vec<Seat>,
    dice: Dice,
}

impl LocalUpstream {
    /// An upstream without connections yet.
    pub fn new(upstream: Arc<Upstream>, dns: &Rc<Dns>) -> Rc<Self> {
        let each = 0..upstream.endpoints().len();
        let endpoints = each.map(|i| LocalEndpoint::new(upstream.clone(), i, dns.clone())).collect();
        let seats = upstream.endpoints().iter().map(|e| Seat::new(e.weight, e.hash)).collect();
        let name = Rc::from(&**upstream.name());
        // Each worker's own, lest all of them send to the same endpoint at the same time.
        let dice = Dice::new(RandomState::new().hash_one(&*name));
        Rc::new(LocalUpstream { upstream, name, endpoints, seats, dice })
    }

    /// The endpoint of an index that [`LocalUpstream::choose`] has given.
    pub(super) fn endpoint(&self, index: usize) -> &Rc<LocalEndpoint> {
        &self.endpoints[index]
    }

    /// `host:port` of an endpoint, or the name of the builtin, as this worker's own text.
    pub fn endpoint_name(&self, index: usize) -> Rc<str> {
        match self.upstream.spec().target {
            TargetSpec::Endpoints(_) => Rc::clone(self.endpoints[index].address()),
            TargetSpec::Echo => Rc::from("echo"),
            TargetSpec::Status => Rc::from("status"),
        }
    }

    /// The most endpoints that one selection may try.
    pub fn max_endpoints(&self) -> usize {
        match self.upstream.spec().max_tries {
            0 => self.endpoints.len(),
            max => max,
        }
    }

    /// An endpoint took no connection.
    pub(super) fn failed(&self, index: usize) {
        self.seats[index].failed(Instant::now());
    }

    /// An endpoint has answered.
    pub(super) fn succeeded(&self, index: usize) {
        self.seats[index].succeeded();
    }

    #[cfg(test)]
    pub(super) fn endpoints(&self) -> &[Rc<LocalEndpoint>] {
        &self.endpoints
    }

    /// Its name, as this worker's own text.
    pub fn name(&self) -> &Rc<str> {
        &self.name
    }

    /// What it was made from.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// Its endpoints as filters see them.
    pub fn candidates(&self) -> Vec<Candidate> {
        let shown = |(local, seat): (&Rc<LocalEndpoint>, &Seat)| Candidate {
            upstream: self.upstream.name().clone(),
            address: local.shared().address.clone(),
            weight: local.shared().weight,
            healthy: seat.healthy(),
            active: local.active.get(),
            latency_us: local.latency_us.get(),
            labels: local.shared().labels.clone(),
        };
        self.endpoints.iter().zip(&self.seats).map(shown).collect()
    }

    /// The endpoint for the next attempt, by its index; `None` when all that the choice allows were tried.
    pub fn choose(&self, choice: Choice<'_>, tried: &[usize]) -> Option<usize> {
        match choice {
            // A built-in upstream has nothing to choose.
            _ if !matches!(self.upstream.spec().target, TargetSpec::Endpoints(_)) => tried.is_empty().then_some(0),
            // The common case needs no clock.
            Choice::Balanced if self.seats.len() == 1 && self.seats[0].healthy() => tried.is_empty().then_some(0),
            Choice::Balanced => match self.upstream.spec().balance {
                Balance::RoundRobin => balance::round_robin(&self.seats, tried, Instant::now()),
                Balance::LeastRequest => {
                    let active = |index: usize| self.endpoints.get(index).map_or(0, |endpoint| endpoint.active.get());
                    balance::least_request(&self.seats, active, &self.dice, tried, Instant::now())
                }
            },
            Choice::Key(key) => balance::by_hash(&self.seats, key, tried, Instant::now()),
            Choice::Addresses(wanted) => wanted.iter().find_map(|address| {
                let found = self.endpoints.iter().position(|e| *e.shared().address == **address);
                found.filter(|index| !tried.contains(index))
            }),
        }
    }
}
