//! One worker's view of a snapshot: its own instances and its own connections.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use std::sync::Arc;

use super::Snapshot;
use crate::exchange::RouteFacts;
use crate::filter::{LocalPipeline, WorkerFilters};
use crate::telemetry::{UpstreamId, WorkerMetrics};
use crate::upstream::LocalUpstream;
use crate::upstream::dns::Dns;

/// An upstream of this worker.
pub struct Target {
    pub upstream: Rc<LocalUpstream>,
    pub metrics: UpstreamId,
}

/// One worker's view of a snapshot.
pub struct LocalSnapshot {
    pub shared: Arc<Snapshot>,
    pub upstreams: Vec<Target>,
    pub metrics: WorkerMetrics,
    filters: WorkerFilters,
    /// Made when a route first needs them.
    pipelines: Vec<OnceCell<Rc<LocalPipeline>>>,
    /// By route, made when it is first used.
    facts: Vec<OnceCell<Arc<RouteFacts>>>,
    dns: Rc<Dns>,
    turn: Cell<u64>,
}

impl LocalSnapshot {
    /// The view of `shared`. What is equal in the view `before` is kept: connections, health, load.
    pub fn new(shared: Arc<Snapshot>, before: Option<&LocalSnapshot>, metrics: WorkerMetrics) -> Rc<Self> {
        let dns = before.map_or_else(Dns::new, |before| Rc::clone(&before.dns));
        let upstreams = shared
            .upstreams
            .iter()
            .map(|(upstream, metrics)| {
                let kept =
                    before.and_then(|b| b.upstreams.iter().find(|t| Arc::ptr_eq(t.upstream.upstream(), upstream)));
                Target {
                    upstream: match kept {
                        Some(kept) => Rc::clone(&kept.upstream),
                        None => LocalUpstream::new(Arc::clone(upstream), &dns),
                    },
                    metrics: *metrics,
                }
            })
            .collect();
        Rc::new(LocalSnapshot {
            upstreams,
            metrics,
            filters: WorkerFilters::new(),
            pipelines: shared.pipelines.iter().map(|_| OnceCell::new()).collect(),
            facts: shared.routes.iter().map(|_| OnceCell::new()).collect(),
            dns,
            turn: Cell::new(0),
            shared,
        })
    }

    /// The pipeline of this index, with this worker's instances.
    pub fn pipeline(&self, index: usize) -> &Rc<LocalPipeline> {
        self.pipelines[index].get_or_init(|| self.filters.pipeline(&self.shared.pipelines[index]))
    }

    /// What filters may know of the route of this index.
    pub fn facts(&self, index: usize) -> &Arc<RouteFacts> {
        self.facts[index].get_or_init(|| self.shared.routes[index].facts.apart())
    }

    /// One of the weighted upstreams of a route. Weights are spread by a low-discrepancy sequence: evenly, also over few
    /// requests, and without a generator of random numbers.
    pub fn pick(&self, targets: &[(usize, u32)]) -> usize {
        let [(only, _)] = targets else {
            let total: u64 = targets.iter().map(|(_, weight)| u64::from(*weight)).sum();
            let turn = self.turn.get().wrapping_add(1);
            self.turn.set(turn);
            // Multiples of the golden ratio modulo 1 (Weyl), as a fraction of 2^64.
            let fraction = turn.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let mut at = ((u128::from(fraction) * u128::from(total)) >> 64) as u64;
            for (index, weight) in targets {
                match at.checked_sub(u64::from(*weight)) {
                    None => return *index,
                    Some(rest) => at = rest,
                }
            }
            return targets.first().map_or(0, |(index, _)| *index);
        };
        *only
    }
}
