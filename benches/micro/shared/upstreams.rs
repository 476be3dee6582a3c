//! Upstreams of any number of endpoints, to choose from.

use std::rc::Rc;
use std::sync::Arc;

use sluice::config::model::ConsistentHash;
use sluice::upstream::{
    Balance, Balancing, EndpointRegistry, EndpointSpec, HashAlgorithm, HashKey, LocalUpstream, Resolver, TargetSpec,
    Upstream, UpstreamSpec,
};

/// The algorithms, by name.
pub(crate) fn algorithms() -> [(&'static str, Balance); 5] {
    let hash =
        |algorithm| Balance::Hash(ConsistentHash { on: vec![HashKey::ClientAddress], algorithm, bounded_load: None });
    [
        ("round_robin", Balance::RoundRobin),
        ("least_request", Balance::LeastRequest),
        ("peak_ewma", Balance::PeakEwma),
        ("maglev", hash(HashAlgorithm::Maglev)),
        ("ring_hash", hash(HashAlgorithm::RingHash)),
    ]
}

/// An upstream with so many endpoints, of several weights.
pub(crate) fn upstream(algorithm: Balance, count: usize) -> Rc<LocalUpstream> {
    let endpoint = |n: usize| {
        let mut endpoint = EndpointSpec::from_url(&format!("http://10.0.{}.{}:80", n / 250, n % 250)).expect("a URL");
        endpoint.weight = 1 + n as u32 % 3;
        endpoint
    };
    let mut spec = UpstreamSpec::new("bench", TargetSpec::Endpoints((0..count).map(endpoint).collect()));
    spec.balancing = Balancing { algorithm, ..Balancing::default() };
    let upstream = Upstream::new(spec, &EndpointRegistry::new(), &Resolver::new(&[], None), None).expect("an upstream");
    LocalUpstream::new(Arc::new(upstream), None)
}
