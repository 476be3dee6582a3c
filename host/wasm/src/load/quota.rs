//! How many instances of fresh filters there may be beside those that are called: waiting for the next hook of their exchange, or kept for
//! other exchanges. They must not take the place of those that are called, nor idle ones that of those that wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// One in this many of the engine's instances may wait, and one may be kept.
const SHARE: usize = 4;

/// How many instances may wait or be kept at once, for all fresh filters.
pub(crate) struct InstanceQuota {
    taken: Arc<AtomicUsize>,
    most: usize,
}

/// The right of one instance to wait or to be kept.
pub(crate) struct QuotaPermit(Arc<AtomicUsize>);

impl InstanceQuota {
    pub(crate) fn of(instances: u32) -> InstanceQuota {
        InstanceQuota { taken: Arc::default(), most: instances as usize / SHARE }
    }

    /// `None` when the quota is used up.
    pub(crate) fn take(&self) -> Option<QuotaPermit> {
        let before = self.taken.fetch_add(1, Ordering::Relaxed);
        let permit = QuotaPermit(self.taken.clone());
        (before < self.most).then_some(permit)
    }
}

impl Drop for QuotaPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
