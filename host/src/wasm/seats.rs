//! How many instances of fresh filters are kept, for the next hook of their exchange or for another exchange: they must not take the
//! place of those that are called.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Of so many instances that the engine can hold, one may be kept.
const SHARE: usize = 4;

/// Those of all fresh filters.
pub(super) struct Seats {
    taken: Arc<AtomicUsize>,
    most: usize,
}

/// The right to be kept, for the rest of an instance's life.
pub(super) struct Seat(Arc<AtomicUsize>);

impl Seats {
    pub(super) fn of(instances: u32) -> Seats {
        Seats { taken: Arc::default(), most: instances as usize / SHARE }
    }

    /// None where too many are kept already.
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
