//! One worker's view of a snapshot: its own instances and its own connections.

use std::cell::{Cell, OnceCell};
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::sync::Arc;

use super::Snapshot;
use super::routes::Share;
use super::split::mix;
use crate::exchange::RouteFacts;
use crate::filter::{LocalPipeline, WorkerFilters};
use crate::telemetry::{UpstreamId, WorkerMetrics};
use crate::upstream::{LocalUpstream, RouteCandidates, Upstream};

/// An upstream of this worker.
pub struct UpstreamHandle {
    pub upstream: Rc<LocalUpstream>,
    pub metrics: UpstreamId,
}

/// One worker's view of a snapshot.
pub struct LocalSnapshot {
    pub shared: Arc<Snapshot>,
    pub upstreams: Vec<UpstreamHandle>,
    pub metrics: WorkerMetrics,
    filters: WorkerFilters,
    /// Made when a route first needs them.
    pipelines: Vec<OnceCell<Rc<LocalPipeline>>>,
    /// By route, made when it is first used.
    facts: Vec<OnceCell<Arc<RouteFacts>>>,
    /// The same for what `select-upstream` filters may look at.
    candidates: Vec<OnceCell<Arc<RouteCandidates>>>,
    /// The place of this worker in the turns of weighted upstreams.
    turn: Cell<u64>,
    /// The state of its random numbers (splitmix64).
    draw: Cell<u64>,
}

impl LocalSnapshot {
    /// The view of `shared`. What the view `before` has of it is kept: connections, and places in turns. What it has beyond that drains.
    pub fn new(shared: Arc<Snapshot>, before: Option<&LocalSnapshot>, metrics: WorkerMetrics) -> Rc<Self> {
        let known: HashMap<&str, &UpstreamHandle> =
            before.iter().flat_map(|before| &before.upstreams).map(|known| (&**known.upstream.name(), known)).collect();
        let local = |upstream: &Arc<Upstream>| match known.get(&**upstream.name()).map(|known| &known.upstream) {
            Some(known) if Arc::ptr_eq(known.upstream(), upstream) => Rc::clone(known),
            known => LocalUpstream::new(Arc::clone(upstream), known.map(|known| &**known)),
        };
        let upstreams: Vec<UpstreamHandle> = shared
            .upstreams
            .iter()
            .map(|(upstream, metrics)| UpstreamHandle { upstream: local(upstream), metrics: *metrics })
            .collect();
        let kept: HashSet<_> = upstreams.iter().map(|kept| Rc::as_ptr(&kept.upstream)).collect();
        for known in known.values().filter(|known| !kept.contains(&Rc::as_ptr(&known.upstream))) {
            known.upstream.supersede();
        }
        // Anywhere, so that workers are not all at the same place.
        let turn = before.map_or_else(|| RandomState::new().hash_one("turn"), |before| before.turn.get());
        Rc::new(LocalSnapshot {
            upstreams,
            metrics,
            filters: WorkerFilters::new(shared.max_filtered_bodies),
            pipelines: shared.pipelines.iter().map(|_| OnceCell::new()).collect(),
            facts: shared.routes.iter().map(|_| OnceCell::new()).collect(),
            candidates: shared.routes.iter().map(|_| OnceCell::new()).collect(),
            turn: Cell::new(turn),
            draw: Cell::new(RandomState::new().hash_one("draw")),
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

    /// The endpoints that the route of this index leads to by these targets.
    pub fn candidates(&self, index: usize, targets: &[usize]) -> &Arc<RouteCandidates> {
        self.candidates[index].get_or_init(|| {
            let of = |index: &usize| self.upstreams[*index].upstream.upstream().clone();
            Arc::new(RouteCandidates(targets.iter().map(of).collect()))
        })
    }

    /// The next turn of a low-discrepancy sequence, as a fraction of 2^64: it spreads evenly, also over few requests.
    pub fn turn(&self) -> u64 {
        let turn = self.turn.get().wrapping_add(1);
        self.turn.set(turn);
        // Multiples of the golden ratio modulo 1 (Weyl).
        turn.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    /// Whether something happens that should happen to this share of requests. By chance, not by turn: what is decided several times
    /// for a request must not depend on each other.
    pub fn happens_to(&self, share: Share) -> bool {
        let draw = self.draw.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.draw.set(draw);
        share.takes(mix(draw))
    }
}
