//! The endpoints of an upstream as one worker sees them: a version of the set, with this worker's pools, and its plans of whom to
//! choose.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::HeaderValue;
use smallvec::SmallVec;

use super::changes::Changes;
use super::record::Record;
use super::set::{Host, Member, Members};
use crate::config::model::{Balance, Balancing, ConsistentHash, Subset, SubsetFallback};
use crate::upstream::address::Address;
use crate::upstream::balance::{self, Affinity, Basis, Dice, Left, Plan};
use crate::upstream::pool::Pool;
use crate::upstream::spec::{Endpoint, Upstream};

/// Something for each subset that routes use; `None` is all endpoints.
type BySubset<T> = Vec<(Option<Arc<Subset>>, T)>;

/// Plans that are kept of one upstream: one for each subset that routes use.
const MAX_PLANS: usize = 64;

/// One version of an upstream's endpoints on one worker. A request keeps the one that it began with, so that numbers of hosts mean the
/// same to its end.
pub struct LocalEndpoints {
    version: u64,
    members: Arc<Members>,
    /// By host; `None` while its name has no address.
    pools: Vec<Option<Rc<Pool>>>,
    changes: Arc<Changes>,
    plans: RefCell<BySubset<Rc<Plan>>>,
    /// Whose turn it was in the list before, by subset, until this one has a plan.
    orders: RefCell<BySubset<Vec<u32>>>,
    /// The last plan for all endpoints was in panic, here or in the list before: another plan tells when that is over.
    is_in_panic: Cell<bool>,
    /// Whether the pools count this list among their users.
    joined: Cell<bool>,
}

impl LocalEndpoints {
    /// The members that are out now, with the pools and cursors that `before` has of them.
    pub(crate) fn new(upstream: &Upstream, before: Option<&Self>) -> Rc<Self> {
        let (set, limits) = (upstream.set(), upstream.limits());
        let (version, members) = (set.version(), set.members());
        let mut known: HashMap<*const Record, &Rc<Pool>> = HashMap::new();
        for pool in before.iter().flat_map(|before| before.pools.iter().flatten()) {
            known.insert(Arc::as_ptr(pool.record()), pool);
        }
        let pool = |host: &Host| {
            let address: &Address = host.record.key().address.as_ref()?;
            let endpoint = &members.endpoints[host.endpoint].endpoint;
            let kept = known.get(&Arc::as_ptr(&host.record));
            let connections = upstream.connection_limits(&host.record);
            let kept = kept.filter(|pool| pool.serves(endpoint, address, &host.record, connections.as_ref()));
            let pool = kept.map_or_else(
                || Pool::limited(endpoint.clone(), address.clone(), host.record.clone(), limits, connections),
                |kept| Rc::clone(kept),
            );
            pool.join(limits);
            Some(pool)
        };
        let pools = members.hosts.iter().map(pool).collect();
        let orders = RefCell::new(before.map(|before| before.orders_in(&members)).unwrap_or_default());
        let (changes, plans, joined) = (Arc::clone(set.changes()), RefCell::default(), Cell::new(true));
        let is_in_panic = Cell::new(before.is_some_and(|before| before.is_in_panic.get()));
        Rc::new(LocalEndpoints { version, members, pools, changes, plans, orders, is_in_panic, joined })
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
    pub(crate) fn members(&self) -> &Members {
        &self.members
    }

    #[cfg(test)]
    pub(crate) fn pools(&self) -> impl Iterator<Item = &Rc<Pool>> {
        self.pools.iter().flatten()
    }

    /// The next host that a request has not tried yet, as the upstream balances.
    pub(in crate::upstream) fn balanced(
        &self,
        (balancing, dice): (&Balancing, &Dice),
        affinity: Affinity,
        subset: Option<&Arc<Subset>>,
        left: &Left<'_>,
        mut admit: impl FnMut(usize) -> bool,
    ) -> Option<usize> {
        let hosts = &self.members.hosts;
        // The common case needs no plan.
        if let [host] = &hosts[..]
            && host.record.is_healthy()
            && subset.is_none()
            && !self.is_in_panic.get()
        {
            return (left.contain(0) && admit(0)).then_some(0);
        }
        let choose = |plan: &Plan| {
            let session = affinity.session.filter(|_| !left.has_tried());
            let session = session.and_then(|endpoint| self.members.endpoints.get(endpoint));
            if let Some(host) = session.and_then(|member| plan.available_of(hosts, member.hosts.clone(), left)) {
                return Some(host);
            }
            match (&balancing.algorithm, &self.members.table, affinity.hash) {
                (Balance::Hash(ConsistentHash { bounded_load, .. }), Some(table), Some(key)) => {
                    let hosts_of = |endpoint: usize| self.members.endpoints[endpoint].hosts.clone();
                    plan.by_table(hosts, (table, key), hosts_of, *bounded_load, left)
                }
                (algorithm, ..) => plan.choose(hosts, algorithm, dice, left),
            }
        };
        self.claimed((balancing, dice), subset, choose, admit)
    }

    /// The host of a key that a request has not tried yet.
    pub(in crate::upstream) fn by_hash(
        &self,
        balancing: (&Balancing, &Dice),
        key: &str,
        subset: Option<&Arc<Subset>>,
        left: &Left<'_>,
        admit: impl FnMut(usize) -> bool,
    ) -> Option<usize> {
        let key = balance::hash(key.as_bytes());
        self.claimed(balancing, subset, |plan| plan.by_score(&self.members.hosts, key, left), admit)
    }

    /// The endpoint that a session's cookie was made for, by index.
    pub fn session(&self, cookie: &str) -> Option<usize> {
        self.members.sessions.as_ref()?.endpoint(cookie)
    }

    /// The `Set-Cookie` for a request that this host has answered, unless its session is there already.
    pub(crate) fn session_cookie(
        &self,
        host: usize,
        affinity: Affinity,
        balancing: &Balancing,
        is_https: bool,
    ) -> Option<HeaderValue> {
        let sessions = self.members.sessions.as_ref()?;
        let endpoint = self.members.hosts.get(host)?.endpoint;
        if affinity.session == Some(endpoint) {
            return None;
        }
        sessions.cookie(endpoint, balancing.sticky.as_ref()?, is_https)
    }

    /// The host that `choose` finds in the plan, if it is admitted. Each worker that is faster to the trial of an address takes it out of the
    /// plan.
    fn claimed(
        &self,
        balancing: (&Balancing, &Dice),
        subset: Option<&Arc<Subset>>,
        choose: impl Fn(&Plan) -> Option<usize>,
        mut admit: impl FnMut(usize) -> bool,
    ) -> Option<usize> {
        let mut chosen = None;
        for _ in 0..=self.members.hosts.len() {
            let plan = self.plan(balancing, subset)?;
            chosen = choose(&plan).filter(|host| admit(*host));
            let record = &self.members.hosts.get(chosen?)?.record;
            let is_claimed = record.is_healthy() || record.claim(Instant::now());
            if is_claimed || !plan.is_available(chosen?) {
                if plan.is_in_panic() {
                    self.changes.count_panic_request();
                }
                if plan.has_spilled() {
                    self.changes.count_spilled_request();
                }
                return chosen;
            }
            plan.expire();
        }
        chosen
    }

    /// The plan for a subset, as the states are now; `None` if no endpoint is in it.
    pub(in crate::upstream) fn plan(
        &self,
        (balancing, dice): (&Balancing, &Dice),
        subset: Option<&Arc<Subset>>,
    ) -> Option<Rc<Plan>> {
        let changes = self.changes.count();
        let mut plans = self.plans.borrow_mut();
        let known = plans.iter_mut().find(|(of, _)| match (of, subset) {
            (None, None) => true,
            (Some(of), Some(subset)) => Arc::ptr_eq(of, subset) || of == subset,
            _ => false,
        });
        let before = match known {
            Some((_, plan)) if plan.holds(changes, Instant::now) => return plan.has_hosts().then(|| Rc::clone(plan)),
            Some((_, plan)) => Some(plan),
            None => None,
        };
        let order = before.as_ref().map_or_else(|| self.take_order(subset), |before| before.order());
        let is_in = |host: &Host| {
            let labels = &self.members.endpoints[host.endpoint].endpoint.labels;
            subset.is_none_or(|subset| subset.0.iter().all(|label| labels.contains(label)))
        };
        let any = balancing.subset_fallback == SubsetFallback::AnyEndpoint && !self.members.hosts.iter().any(is_in);
        let fits = |host: &Host| any || is_in(host);
        let (hosts, now) = (&self.members.hosts, Instant::now());
        let plan = Rc::new(Plan::new(&Basis { hosts, balancing, fits: &fits, changes, now, order: &order }, dice));
        if subset.is_none() {
            self.is_in_panic.set(plan.is_in_panic());
        }
        // Also the first plan of a list: a panic of the list before may be over.
        if before.as_ref().is_none_or(|before| before.is_in_panic() != plan.is_in_panic()) {
            self.tell_panic(plan.is_in_panic(), subset.map(|subset| &**subset), balancing);
        }
        match before {
            Some(before) => *before = Rc::clone(&plan),
            None => {
                if plans.len() >= MAX_PLANS {
                    plans.clear();
                }
                plans.push((subset.cloned(), Rc::clone(&plan)));
            }
        }
        plan.has_hosts().then_some(plan)
    }

    /// Whose turn it is in each plan, in the numbers of another version.
    fn orders_in(&self, members: &Members) -> BySubset<Vec<u32>> {
        let place = |(i, host): (u32, &Host)| (Arc::as_ptr(&host.record), i);
        let places: HashMap<*const Record, u32> = (0..).zip(&members.hosts).map(place).collect();
        let moved = |host: &u32| places.get(&Arc::as_ptr(&self.members.hosts[*host as usize].record)).copied();
        let order = |(subset, plan): &(Option<Arc<Subset>>, Rc<Plan>)| {
            (subset.clone(), plan.order().iter().filter_map(moved).collect())
        };
        self.plans.borrow().iter().map(order).collect()
    }

    fn take_order(&self, subset: Option<&Arc<Subset>>) -> Vec<u32> {
        let mut orders = self.orders.borrow_mut();
        let at = orders.iter().position(|(of, _)| of.as_ref() == subset);
        at.map(|at| orders.swap_remove(at).1).unwrap_or_default()
    }

    fn tell_panic(&self, is_in_panic: bool, subset: Option<&Subset>, balancing: &Balancing) {
        let labels = subset.map(|Subset(labels)| labels.iter().map(|(label, value)| format!("{label}={value}")));
        let labels = labels.map(|labels| labels.collect::<Vec<_>>().join(",")).unwrap_or_default();
        if !self.changes.note_panic(&labels, is_in_panic) {
            return;
        }
        let Some(upstream) = self.members.hosts.first().map(|host| &host.record.key().upstream) else { return };
        let (all, now) = (self.members.hosts.len(), Instant::now());
        let available = self.members.hosts.iter().filter(|host| host.record.may_try(now)).count();
        let evidence = format!("{available} of {all} addresses are available");
        let (subset, panic_threshold) = ((!labels.is_empty()).then_some(labels), balancing.panic_threshold);
        match is_in_panic {
            true => {
                tracing::warn!(%upstream, subset, panic_threshold, evidence, "all endpoints are used: too few are available")
            }
            false => {
                tracing::info!(%upstream, subset, panic_threshold, evidence, "available endpoints are enough again")
            }
        }
    }

    /// A host of the first of these endpoints that is left, if it is admitted.
    pub(in crate::upstream) fn first_of(
        &self,
        names: &[String],
        left: &Left<'_>,
        admit: &mut dyn FnMut(usize) -> bool,
    ) -> Option<usize> {
        let chosen = names.iter().find_map(|name| self.one_of(self.named(name)?, left))?;
        admit(chosen).then(|| {
            self.record(chosen).claim(Instant::now());
            chosen
        })
    }

    /// All but the hosts that were tried and the other addresses of their endpoints, where an attempt has looked for a connection too.
    pub(in crate::upstream) fn left(&self, tried: &[usize]) -> Left<'static> {
        let siblings = |host: &usize| match self.members.hosts.get(*host) {
            Some(host) => self.members.endpoints[host.endpoint].hosts.clone(),
            // A built-in upstream has one that is in no list.
            None => *host..host + 1,
        };
        Left::without(tried.iter().flat_map(siblings))
    }

    /// The endpoint's name, as this worker's own text.
    pub(crate) fn name(&self, host: usize) -> Rc<str> {
        match self.pool(host) {
            Some(pool) => Rc::clone(pool.name()),
            None => Rc::from(&*self.endpoint(host).name),
        }
    }

    /// The pools to look for a connection in, of an endpoint: first that of this address, then of those that may be tried, then the rest.
    pub(crate) fn pools_of(&self, endpoint: &str, first: Option<&Address>) -> SmallVec<[Rc<Pool>; 2]> {
        let Some(member) = self.named(endpoint) else { return SmallVec::new() };
        let first = first.and_then(|address| member.hosts.clone().find(|host| self.address(*host) == Some(address)));
        let Some(first) = first.or_else(|| self.claimed_of(member)) else { return SmallVec::new() };
        let now = Instant::now();
        let mut others: SmallVec<[usize; 2]> = member.hosts.clone().filter(|host| *host != first).collect();
        // RFC 8305 §4: after an address of one kind one of the other, since often all of a kind can't be reached.
        let is_v4 = |host: usize| self.address(host).and_then(Address::ip).is_some_and(|ip| ip.is_ipv4());
        others.sort_by_key(|host| (!self.record(*host).may_try(now), is_v4(*host) == is_v4(first)));
        std::iter::once(first).chain(others).filter_map(|host| self.pools[host].clone()).collect()
    }

    /// The hosts of an endpoint; none if there is no such endpoint.
    pub(in crate::upstream) fn hosts_named(&self, name: &str) -> Range<usize> {
        self.named(name).map_or(0..0, |member| member.hosts.clone())
    }

    fn named(&self, name: &str) -> Option<&Member> {
        self.members.endpoints.iter().find(|member| *member.endpoint.name == *name)
    }

    /// The address of a host; `None` while its name has none, and for a built-in upstream.
    pub(crate) fn address(&self, host: usize) -> Option<&Address> {
        self.members.hosts.get(host)?.record.key().address.as_ref()
    }

    /// One of an endpoint's hosts that are left: of those that may be tried the one with the fewest requests, else of all.
    fn one_of(&self, member: &Member, left: &Left<'_>) -> Option<usize> {
        let now = Instant::now();
        let hosts = member.hosts.clone().filter(|host| left.contain(*host));
        hosts.min_by_key(|host| {
            let record = self.record(*host);
            (!record.may_try(now), record.active())
        })
    }

    fn claimed_of(&self, member: &Member) -> Option<usize> {
        let chosen = self.one_of(member, &Left::default())?;
        self.record(chosen).claim(Instant::now());
        Some(chosen)
    }
}
