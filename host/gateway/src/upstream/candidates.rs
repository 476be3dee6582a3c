//! The endpoints of a route as `select-upstream` filters see them.

use std::sync::Arc;

use super::endpoints::{Host, Member, Members};
use super::spec::Upstream;
use crate::coarse;
use crate::exchange::{Candidate, CandidateSource};

/// The upstreams of a route, on one worker.
pub struct RouteCandidates(pub Vec<Arc<Upstream>>);

impl CandidateSource for RouteCandidates {
    fn list(&self) -> Vec<Candidate> {
        self.0.iter().flat_map(|upstream| of(upstream.name(), &upstream.set().members())).collect()
    }
}

impl RouteCandidates {
    /// How many endpoints there are.
    pub fn count(&self) -> usize {
        self.0.iter().map(|upstream| upstream.set().endpoint_count()).sum()
    }
}

/// The endpoints of one upstream. Of an endpoint of several addresses: whether one of them is healthy, the requests of all, the mean
/// latency of those that have one, and, if none is healthy, the reasons of all.
pub(super) fn of(upstream: &Arc<str>, members: &Members) -> Vec<Candidate> {
    let now = coarse::now_ms();
    let shown = |member: &Member| {
        let records = || members.hosts[member.hosts.clone()].iter().map(|host: &Host| &host.record);
        let latencies = || records().map(|record| record.latency_us()).filter(|latency| *latency > 0);
        let latency_us = latencies().sum::<u64>() / latencies().count().max(1) as u64;
        let healthy = records().any(|record| record.is_healthy());
        // Only where the upstream balances by it is there any.
        let ewma_us = records().map(|record| record.ewma().at(now)).fold(0.0, f32::max);
        let mut out = Vec::new();
        if !healthy {
            records().for_each(|record| out.extend(record.reasons().map(|reason| reason.name())));
            out.sort_unstable();
            out.dedup();
        }
        Candidate {
            upstream: upstream.clone(),
            address: member.endpoint.name.clone(),
            weight: member.endpoint.weight,
            healthy,
            active: records().map(|record| record.active()).sum(),
            latency_us,
            labels: member.endpoint.labels.clone(),
            out,
            ewma_us: if ewma_us > 0.0 { ewma_us as u64 } else { latency_us },
        }
    };
    members.endpoints.iter().map(shown).collect()
}
