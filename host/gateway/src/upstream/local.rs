//! An upstream on one worker: which of its endpoints is next, and a connection to it. Sending is in `attempt`.

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderValue;

use super::balance::{Affinity, Dice, Left, Plan};
use super::endpoints::LocalEndpoints;
use super::error::{AttemptError, UpstreamErrorKind};
use super::outgoing::OutgoingRequest;
use super::pool::{Lease, Opening, Turn, Wanted};
use super::race;
use super::spec::{Subset, TargetSpec, Upstream};
use crate::deadline::{self, Passed};
#[cfg(test)]
use crate::exchange::Candidate;

/// How an endpoint is chosen.
#[derive(Debug, Clone, Copy)]
pub enum Choice<'a> {
    /// As the upstream balances, with what keeps the request at its endpoint.
    Balanced(Affinity),
    /// The same key leads to the same endpoint.
    Key(&'a str),
    /// The first of these addresses (`host:port`) that takes a connection; unknown ones are passed over.
    Addresses(&'a [String]),
}

/// An upstream on one worker: its pools and its plans of whom to choose. What is known of the endpoints is in their records, which all
/// workers share.
pub struct LocalUpstream {
    upstream: Arc<Upstream>,
    /// This worker's own, as the name of each endpoint: each request keeps both.
    name: Rc<str>,
    dice: Dice,
    endpoints: RefCell<Rc<LocalEndpoints>>,
    /// Another one has taken its place; only requests that began before go on with it.
    superseded: Cell<bool>,
}

/// The source of endpoints has told none yet.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NotListed(String);

impl Drop for LocalUpstream {
    fn drop(&mut self) {
        self.endpoints.borrow().retire();
    }
}

impl LocalUpstream {
    /// An upstream with the connections that `before`, the one of this name that is running, has to the addresses that stay.
    pub fn new(upstream: Arc<Upstream>, before: Option<&LocalUpstream>) -> Rc<Self> {
        let name = Rc::from(&**upstream.name());
        // Each worker's own, lest all of them send to the same endpoint at the same time.
        let dice = before.map_or_else(|| Dice::new(RandomState::new().hash_one(&*name)), |before| before.dice.clone());
        let known = before.map(|before| before.endpoints.borrow().clone());
        let endpoints = LocalEndpoints::new(&upstream, known.as_deref());
        let superseded = Cell::new(false);
        Rc::new(LocalUpstream { upstream, name, dice, endpoints: RefCell::new(endpoints), superseded })
    }

    /// Another snapshot is served from now on. Connections that it has no use for are closed: idle ones now, those in use when their
    /// request is over.
    pub fn supersede(&self) {
        self.superseded.set(true);
        self.endpoints.borrow().retire();
    }

    /// Its endpoints as they are now. A request keeps them, so that the numbers of hosts mean the same to its end.
    pub fn endpoints(&self) -> Rc<LocalEndpoints> {
        let mut endpoints = self.endpoints.borrow_mut();
        if endpoints.version() != self.upstream.set().version() {
            let new = LocalEndpoints::new(&self.upstream, Some(&endpoints));
            if self.superseded.get() {
                new.retire();
            }
            std::mem::replace(&mut *endpoints, new).retire();
        }
        endpoints.clone()
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
    #[cfg(test)]
    pub fn candidates(&self) -> Vec<Candidate> {
        super::candidates::of(self.upstream.name(), self.endpoints().members())
    }

    /// The host for the next attempt; `None` when all that the choice allows were tried. A subset bounds the choice, but for addresses.
    pub fn choose(
        &self,
        endpoints: &LocalEndpoints,
        choice: Choice<'_>,
        subset: Option<&Arc<Subset>>,
        tried: &[usize],
    ) -> Option<usize> {
        self.choose_admitted(endpoints, choice, subset, &endpoints.left(tried), |_| true)
    }

    /// The same among those that are left. `admit` is asked before a trial of a host that is out is counted on; what it refuses is not
    /// chosen.
    pub(super) fn choose_admitted(
        &self,
        endpoints: &LocalEndpoints,
        choice: Choice<'_>,
        subset: Option<&Arc<Subset>>,
        left: &Left<'_>,
        mut admit: impl FnMut(usize) -> bool,
    ) -> Option<usize> {
        // A built-in upstream has nothing to choose.
        if self.upstream.spec().target.is_builtin() {
            return (!left.has_tried()).then_some(0);
        }
        let balancing = (&self.upstream.spec().balancing, &self.dice);
        match choice {
            Choice::Balanced(affinity) => endpoints.balanced(balancing, affinity, subset, left, admit),
            Choice::Key(key) => endpoints.by_hash(balancing, key, subset, left, admit),
            Choice::Addresses(wanted) => endpoints.first_of(wanted, left, &mut admit),
        }
    }

    /// Who may be chosen, of all endpoints or of a subset.
    pub(super) fn plan(&self, endpoints: &LocalEndpoints, subset: Option<&Arc<Subset>>) -> Option<Rc<Plan>> {
        endpoints.plan((&self.upstream.spec().balancing, &self.dice), subset)
    }

    /// The `Set-Cookie` for a request that this host has answered, where sessions are sticky and this is another endpoint than before.
    pub fn session_cookie(
        &self,
        endpoints: &LocalEndpoints,
        host: usize,
        choice: Choice<'_>,
        is_https: bool,
    ) -> Option<HeaderValue> {
        let Choice::Balanced(affinity) = choice else { return None };
        endpoints.session_cookie(host, affinity, &self.upstream.spec().balancing, is_https)
    }

    /// Why there was no host to choose.
    pub fn no_endpoint(&self) -> AttemptError {
        match self.upstream.listed().filter(|listed| !listed.is_known()) {
            Some(listed) => AttemptError::because(UpstreamErrorKind::NoEndpoint, NotListed(listed.missing())),
            None => AttemptError::new(UpstreamErrorKind::NoEndpoint),
        }
    }

    /// `host:port` of a host's endpoint, or the name of the builtin, as this worker's own text.
    pub fn endpoint_name(&self, endpoints: &LocalEndpoints, host: usize) -> Rc<str> {
        match self.upstream.spec().target {
            TargetSpec::Endpoints(_) | TargetSpec::Discovered(_) => endpoints.name(host),
            TargetSpec::Echo => Rc::from("echo"),
            TargetSpec::Status => Rc::from("status"),
            TargetSpec::Files(_) => Rc::from("files"),
        }
    }

    /// The most endpoints that one selection may try.
    pub fn max_endpoints(&self, endpoints: &LocalEndpoints) -> usize {
        match self.upstream.spec().max_tries {
            0 => endpoints.len(),
            max => max,
        }
    }

    /// A connection to a host that is open as far as is known.
    pub(super) fn checkout(
        &self,
        endpoints: &LocalEndpoints,
        host: usize,
        now: Instant,
        http1_only: bool,
    ) -> Option<Lease> {
        self.upstream.set().refresh(now);
        endpoints.pool(host)?.checkout(http1_only)
    }

    /// A new connection to a host, waited for where there may be no more; or one that becomes free meanwhile.
    pub(super) async fn new_connection(
        &self,
        endpoints: &LocalEndpoints,
        host: usize,
        request: &OutgoingRequest<'_>,
        http1_only: bool,
    ) -> Result<Lease, AttemptError> {
        let mut wanted = Wanted { http1_only, proxied: request.proxied(), permit: None };
        let begun = Instant::now();
        loop {
            let whole = request.timeouts.connect;
            let limits = (request.timeouts.left(whole), request.telling(whole));
            let opened = self.open(endpoints, host, limits, wanted.clone()).await;
            if !opened.as_ref().is_err_and(|error| error.kind == UpstreamErrorKind::Busy) {
                return opened;
            }
            let patience = self.upstream.spec().limits.connection_timeout().saturating_sub(begun.elapsed());
            let patience = request.patience(patience);
            // Its address may be known only now.
            let pools = self.endpoints().pools_of(&endpoints.endpoint(host).name, endpoints.address(host));
            let Some(pool) = pools.first().filter(|_| !patience.is_zero()) else { return opened };
            match pool.wait_for_connection(http1_only, patience).await {
                Ok(Turn::Use(lease)) => return Ok(lease),
                Ok(Turn::Open(permit)) => wanted.permit = Some(Rc::new(Cell::new(Some(permit)))),
                Err(_) => return opened,
            }
        }
    }

    /// Opens a connection to a host, or to another address of its endpoint where it does not take one, within `limit`. A limit below
    /// `telling` says nothing of the address.
    pub(super) async fn open(
        &self,
        endpoints: &LocalEndpoints,
        host: usize,
        (limit, telling): (Duration, Duration),
        wanted: Wanted,
    ) -> Result<Lease, AttemptError> {
        let begun = Instant::now();
        let _opening = Opening::new(endpoints.record(host));
        match deadline::timeout(limit, self.open_any(endpoints, host, wanted, begun)).await {
            Ok(Ok(mut lease)) => {
                lease.connect = lease.connect.map(|_| begun.elapsed());
                Ok(lease)
            }
            Ok(Err(error)) => Err(error),
            Err(Passed) => {
                let error = AttemptError::new(UpstreamErrorKind::ConnectTimeout);
                // An attempt that the deadline of its request cut short says nothing of the address, nor to those who wait for it.
                if limit < telling {
                    return Err(error.blameless());
                }
                match endpoints.pool(host) {
                    Some(pool) => pool.timed_out(begun),
                    None => endpoints.record(host).failed(begun, Instant::now()),
                }
                Err(error)
            }
        }
    }

    async fn open_any(
        &self,
        endpoints: &LocalEndpoints,
        host: usize,
        wanted: Wanted,
        begun: Instant,
    ) -> Result<Lease, AttemptError> {
        let (set, endpoint) = (self.upstream.set(), endpoints.endpoint(host));
        let first = endpoints.address(host);
        // Somebody else may have asked for this name: then the answer is at hand and only not in this set yet.
        let pools = if first.is_none() || set.is_stale(endpoint, begun) {
            if let Err(error) = set.locate(endpoint).await {
                endpoints.record(host).failed(begun, Instant::now());
                return Err(AttemptError::because(UpstreamErrorKind::Dns, error));
            }
            self.endpoints().pools_of(&endpoint.name, first)
        } else {
            endpoints.pools_of(&endpoint.name, first)
        };
        race::connect(&pools, wanted).await
    }
}
