//! What one worker keeps from exchange to exchange: its view of the running snapshot, its metrics and its buffer of log lines.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};

use crate::filter::CompleteQueue;
use crate::http::buffer::MemoryBudget;
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
    view: RefCell<View>,
}

/// What this worker knows of the running snapshot.
struct View {
    /// The cache compares pointers and touches no shared reference count.
    running: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
    local: Rc<LocalSnapshot>,
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
    ) -> Rc<Self> {
        let local = LocalSnapshot::new(running.load_full(), None, metrics.clone());
        let complete = CompleteQueue::new(COMPLETE_QUEUE, metrics.clone());
        tokio::task::spawn_local(Rc::clone(&complete).run());
        let view = RefCell::new(View { running: Cache::new(running), local });
        let overload = overload.worker();
        Rc::new(Worker { metrics, access_log, no_route, budget, overload, complete, view })
    }

    /// This worker's view of the running snapshot. After a reload the first exchange makes the new view, which keeps the
    /// connections of the upstreams that have not changed.
    pub(super) fn snapshot(&self) -> Rc<LocalSnapshot> {
        let View { running, local } = &mut *self.view.borrow_mut();
        let running = running.load();
        if !Arc::ptr_eq(running, &local.shared) {
            *local = LocalSnapshot::new(Arc::clone(running), Some(local), self.metrics.clone());
        }
        Rc::clone(local)
    }

    /// Empties the `on-complete` queue and flushes the access log, at shutdown.
    pub async fn finish(&self) {
        self.complete.drain().await;
        self.access_log.flush();
    }
}
