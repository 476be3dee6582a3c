//! The connections that a worker keeps for outbound calls: for each origin a pool of each of its addresses.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Network, Tls};
use crate::services::addresses::special;
use crate::services::grants::Origin;
use crate::services::{Reach, ServiceError};
use crate::upstream::Address;
use crate::upstream::endpoints::Record;
use crate::upstream::pool::{Lease, Limits, Opening, Pool, Wanted};
use crate::upstream::race;
use crate::upstream::resolver::DnsPolicy;
use crate::upstream::spec::{Endpoint, EndpointSpec, Place, Protocol, TlsConfigs};

/// What is kept for each address of an origin.
const LIMITS: Limits = Limits { max_idle: 16, idle_timeout: Duration::from_secs(60), ..Limits::NONE };

thread_local! {
    static ORIGINS: RefCell<HashMap<Origin, Pools>> = RefCell::default();
}

/// The pools of one origin.
struct Pools {
    endpoint: Arc<Endpoint>,
    pools: Vec<Rc<Pool>>,
}

/// A kept connection to an address of the origin that is within reach, or a new one.
pub(super) async fn checkout(origin: &Origin, reach: Reach, network: &Network) -> Result<Lease, ServiceError> {
    let Network { tls, resolver, .. } = network;
    let unreachable = |e: String| ServiceError::Unavailable(format!("{origin}: {e}"));
    // Another filter may have a connection to an address that this one may not go to.
    let allows = |pool: &Rc<Pool>| pool.address().ip().is_some_and(|ip| reach.allows(ip));
    let (endpoint, open) = ORIGINS
        .with_borrow_mut(|origins| {
            let pools = Pools::of(origins, origin, tls)?;
            let open = pools.pools.iter().filter(|pool| allows(pool)).find_map(|pool| pool.checkout(false));
            Ok((pools.endpoint.clone(), open))
        })
        .map_err(unreachable)?;
    if let Some(lease) = open {
        return Ok(lease);
    }
    let Place::Host { name, port } = &endpoint.place else { return Err(unreachable("it is no host".to_owned())) };
    let answer = resolver.resolve(name, DnsPolicy::default()).await;
    let answer = answer.map_err(|error| unreachable(crate::chain(&error)))?;
    // A pool connects to its own address and asks for no name again: what is checked here is where the request goes.
    let mut pools = ORIGINS
        .with_borrow_mut(|origins| {
            let addresses = answer.addresses.iter().map(|address| SocketAddr::new(*address, *port));
            Ok(Pools::of(origins, origin, tls)?.at(addresses))
        })
        .map_err(unreachable)?;
    let first = pools.first().and_then(|pool| pool.address().ip());
    pools.retain(allows);
    if let (Some(refused), []) = (first, &*pools) {
        return Err(out_of_reach(origin, refused));
    }
    // Pools that a connection is being opened for are in use.
    let _opening: Vec<_> = pools.iter().map(|pool| Opening::new(pool.record())).collect();
    race::connect(&pools, Wanted::default()).await.map_err(|attempt| unreachable(attempt.reason()))
}

/// The refusal of an origin whose addresses are all out of reach. The filter is told of which kind they are. No request writes a line for
/// which nobody asked.
fn out_of_reach(origin: &Origin, address: IpAddr) -> ServiceError {
    let class = special(address).unwrap_or("public");
    tracing::debug!(%origin, %address, class, "a call was refused: the origin leads to an address that its grant does not cover");
    ServiceError::NotGranted(format!(
        "grants.http = [{{ origin = \"{origin}\", allow_private = true }}], for its address is {class}"
    ))
}

/// Closes what is idle. A server that has closed one connection has often closed all.
pub(super) fn clear(origin: &Origin) {
    ORIGINS
        .with_borrow(|origins| origins.get(origin).into_iter().flat_map(|of| &of.pools).for_each(|pool| pool.clear()));
}

impl Pools {
    /// The pools of an origin that are reached with this TLS.
    fn of<'o>(origins: &'o mut HashMap<Origin, Pools>, origin: &Origin, tls: &Tls) -> Result<&'o mut Self, String> {
        let fits = |pools: &Pools| {
            pools.endpoint.tls.as_ref().is_none_or(|known| Arc::ptr_eq(&known.usual.config, &tls.config()))
        };
        if !origins.get(origin).is_some_and(fits) {
            let endpoint = Arc::new(endpoint(origin, tls)?);
            // One that is called no more would be kept for ever.
            origins.retain(|_, pools| pools.pools.iter().any(|pool| pool.is_used()));
            origins.insert(origin.clone(), Pools { endpoint, pools: Vec::new() });
        }
        origins.get_mut(origin).ok_or_else(|| "no pools".to_owned())
    }

    /// The pools of these addresses, which take the place of those before; addresses that may be tried come first.
    fn at(&mut self, addresses: impl Iterator<Item = SocketAddr>) -> Vec<Rc<Pool>> {
        let pool = |address: SocketAddr| {
            let address = Address::from(address);
            let known = self.pools.iter().find(|pool| *pool.address() == address).cloned();
            let pool = known.unwrap_or_else(|| {
                let record = Record::alone(&self.endpoint.name, address.clone());
                Pool::new(self.endpoint.clone(), address, record, LIMITS)
            });
            pool.join(LIMITS);
            pool
        };
        let pools: Vec<Rc<Pool>> = addresses.map(pool).collect();
        std::mem::replace(&mut self.pools, pools.clone()).iter().for_each(|pool| pool.part());
        let now = Instant::now();
        let mut pools = pools;
        pools.sort_by_key(|pool| !pool.record().may_try(now));
        pools
    }
}

impl Drop for Pools {
    fn drop(&mut self) {
        self.pools.iter().for_each(|pool| pool.part());
    }
}

/// An origin as an endpoint: HTTP/2 where ALPN agrees on it.
fn endpoint(origin: &Origin, tls: &Tls) -> Result<Endpoint, String> {
    let Origin { https, host, port, .. } = origin;
    let place = Place::host(host.trim_start_matches('[').trim_end_matches(']'), *port);
    let spec = EndpointSpec { https: *https, place, weight: 1, labels: Vec::new(), priority: 0 };
    let configs = https.then(|| TlsConfigs { usual: tls.config(), http1: tls.config() });
    Endpoint::new(&spec, Protocol::Auto, None, configs.as_ref()).map_err(|error| error.to_string())
}
