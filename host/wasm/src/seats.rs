//! How many instances of fresh filters there may be beside those that are called: waiting for the next hook of their exchange, or kept for
//! other exchanges. They must not take the place of those that are called, nor idle ones that of those that wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Of so many instances that the engine can hold, one may wait, and one may be kept.
const SHARE: usize = 4;

/// So many seats, for all fresh filters.
pub(super) struct Seats {
    taken: Arc<AtomicUsize>,
    most: usize,
}

/// The right of one instance to one of them.
pub(super) struct Seat(Arc<AtomicUsize>);

impl Seats {
    pub(super) fn of(instances: u32) -> Seats {
        Seats { taken: Arc::default(), most: instances as usize / SHARE }
    }

    /// None where all are taken.
    pub(super) fn take(&self) -> Option<Seat> {
        let before = self.taken.fetch_add(1, Ordering::Relaxed);
        let seat = Seat(self.taken.clone());
        (before < self.most).then_some(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
