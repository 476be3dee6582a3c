//! How many idle instances are worth their memory: as many as were needed at once of late.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Idle instances that are always kept.
pub(super) const MIN_IDLE: usize = 4;
/// An instance that was not needed for one to two of these is dropped, one at each call.
const DEMAND_PERIOD: Duration = Duration::from_secs(10);

/// How many instances were in use or waited for their exchange at once, in this period and the one before it.
#[derive(Debug)]
pub(super) struct Demand {
    /// The end of this period.
    until: Cell<Instant>,
    most: Cell<usize>,
    most_before: Cell<usize>,
}

impl Demand {
    pub(super) fn new(now: Instant) -> Demand {
        Demand { until: Cell::new(now + DEMAND_PERIOD), most: Cell::new(0), most_before: Cell::new(0) }
    }

    /// How many idle instances are worth their memory, when so many are in use and so many are kept ready beside them.
    pub(super) fn keep(&self, in_use: usize, warm: usize, now: Instant) -> usize {
        if now >= self.until.get() {
            self.most_before.set(self.most.get());
            self.most.set(0);
            self.until.set(now + DEMAND_PERIOD);
        }
        let most = self.most.get().max(in_use);
        self.most.set(most);
        most.max(self.most_before.get()).saturating_add(warm).max(MIN_IDLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_of_a_peak_are_kept_for_a_while() {
        let start = Instant::now();
        let demand = Demand::new(start);
        assert_eq!(demand.keep(1, 0, start), MIN_IDLE);
        assert_eq!(demand.keep(50, 0, start), 50);
        assert_eq!(demand.keep(49, 0, start), 50, "the peak is remembered");
        assert_eq!(demand.keep(10, 0, start + DEMAND_PERIOD), 50, "and in the next period");
        assert_eq!(demand.keep(2, 0, start + 2 * DEMAND_PERIOD), 10, "and then forgotten");
        assert_eq!(demand.keep(1, 0, start + 4 * DEMAND_PERIOD), MIN_IDLE);
        assert_eq!(demand.keep(4, 2, start + 4 * DEMAND_PERIOD), 6, "what is kept ready comes on top");
    }
}
