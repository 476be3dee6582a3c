//! What one worker keeps from exchange to exchange: its view of the running snapshot, its metrics and its buffer of log lines.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};

use super::cache::{Detached, Flights};
use super::compress::Busyness;
use crate::filter::CompleteQueue;
use crate::http::buffer::MemoryBudget;
use crate::outbound::call_upstreams_by;
use crate::server::{Overload, WorkerOverload};
use crate::snapshot::{LocalSnapshot, Snapshot};
use crate::telemetry::{AccessLogBuffer, RouteId, WorkerMetrics};

/// Finished exchanges that may wait for `on-complete`.
const COMPLETE_QUEUE: usize = 1024;

/// One worker's part of the proxy.
pub struct Worker {
    pub(super) metrics: WorkerMetrics,
    pub(super) access_log: Rc<AccessLogBuffer>,
    /// The route label of requests that no route has matched.
    pub(super) no_route: RouteId,
    pub(super) budget: MemoryBudget,
    pub(super) overload: Rc<WorkerOverload>,
    pub(super) complete: Rc<CompleteQueue>,
    /// The fetches for the cache of all workers.
    pub(super) flights: Arc<Flights>,
    pub(super) detached: Rc<Detached>,
    pub(super) busyness: Busyness,
    view: RefCell<View>,
}

/// What this worker knows of the running snapshot.
struct View {
    /// The cache compares pointers and touches no shared reference count.
    running: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
    local: Rc<LocalSnapshot>,
    /// Of the snapshots before, for what is left of their exchanges.
    earlier: Vec<Weak<LocalSnapshot>>,
}

impl Worker {
    /// To be made on the worker's thread, inside its runtime.
    pub fn new(
        running: Arc<ArcSwap<Snapshot>>,
        metrics: WorkerMetrics,
        access_log: Rc<AccessLogBuffer>,
        no_route: RouteId,
        budget: MemoryBudget,
        overload: &Arc<Overload>,
        flights: Arc<Flights>,
    ) -> Rc<Self> {
        let local = LocalSnapshot::new(running.load_full(), None, metrics.clone());
        let complete = CompleteQueue::new(COMPLETE_QUEUE, metrics.clone());
        tokio::task::spawn_local(Rc::clone(&complete).run());
        let view = RefCell::new(View { running: Cache::new(running), local, earlier: Vec::new() });
        let overload = overload.worker();
        let busyness = Busyness::of_this_thread();
        let detached = Rc::default();
        let worker = Rc::new(Worker {
            metrics,
            access_log,
            no_route,
            budget,
            overload,
            complete,
            flights,
            detached,
            busyness,
            view,
        });
        let calls: Weak<Worker> = Rc::downgrade(&worker);
        call_upstreams_by(calls);
        worker
    }

    /// This worker's view of the running snapshot. After a reload the first exchange makes the new view, which keeps the
    /// connections of the upstreams that have not changed.
    pub(super) fn snapshot(&self) -> Rc<LocalSnapshot> {
        let View { running, local, earlier } = &mut *self.view.borrow_mut();
        let running = running.load();
        if !Arc::ptr_eq(running, &local.shared) {
            let new = LocalSnapshot::new(Arc::clone(running), Some(local), self.metrics.clone());
            earlier.retain(|view| view.strong_count() > 0);
            earlier.push(Rc::downgrade(&std::mem::replace(local, new)));
        }
        Rc::clone(local)
    }

    /// This worker's view of the snapshot of this number. Hooks may be called for exchanges that have let go of theirs: for them it is that of
    /// the running one.
    pub(super) fn snapshot_of(&self, number: u64) -> Rc<LocalSnapshot> {
        let running = self.snapshot();
        if running.shared.number == number {
            return running;
        }
        let view = self.view.borrow();
        let earlier = view.earlier.iter().filter_map(Weak::upgrade).find(|view| view.shared.number == number);
        earlier.unwrap_or(running)
    }

    /// Empties the `on-complete` queue and flushes the access log, at shutdown.
    pub async fn finish(&self) {
        self.complete.drain().await;
        self.access_log.flush();
    }
}
