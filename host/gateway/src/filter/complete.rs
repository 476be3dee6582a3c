//! Finished exchanges on their way to `on-complete`: a bounded queue of one worker, emptied when it has nothing else to do.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use tokio::sync::Notify;

use super::{LocalPipeline, Traversal};
use crate::telemetry::WorkerMetrics;

/// An exchange with its pipeline.
type Finished = (Rc<LocalPipeline>, Traversal);

/// The finished exchanges of one worker.
pub struct CompleteQueue {
    waiting: RefCell<VecDeque<Finished>>,
    capacity: usize,
    metrics: WorkerMetrics,
    arrived: Notify,
}

impl CompleteQueue {
    /// A queue of at most `capacity` exchanges, which counts in `metrics` what it drops.
    pub fn new(capacity: usize, metrics: WorkerMetrics) -> Rc<CompleteQueue> {
        Rc::new(CompleteQueue { waiting: RefCell::default(), capacity, metrics, arrived: Notify::new() })
    }

    /// Adds an exchange whose `summary` is set. Does nothing when no filter wants to see it; drops and counts it when the queue
    /// is full.
    pub fn push(&self, pipeline: &Rc<LocalPipeline>, traversal: Traversal) {
        if !self.wants(pipeline, &traversal) {
            return;
        }
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() >= self.capacity {
            self.metrics.completion_dropped();
            return;
        }
        waiting.push_back((pipeline.clone(), traversal));
        self.arrived.notify_one();
    }

    /// Whether a filter would see an exchange that came this far: if not, its summary need not be made.
    pub fn wants(&self, pipeline: &LocalPipeline, traversal: &Traversal) -> bool {
        traversal.exchange.is_some() && pipeline.complete_mask(traversal) != 0
    }

    /// Calls the hooks, for ever. To be spawned once on the worker; after each call the worker's other tasks go first.
    pub async fn run(self: Rc<Self>) {
        loop {
            self.drain().await;
            self.arrived.notified().await;
        }
    }

    /// Calls the hooks for what is in the queue now: before the worker ends.
    pub async fn drain(&self) {
        loop {
            let next = self.waiting.borrow_mut().pop_front();
            let Some((pipeline, mut traversal)) = next else { return };
            tokio::task::yield_now().await;
            pipeline.on_complete(&mut traversal).await;
        }
    }
}
