//! What is put right when a call is given up, which can happen wherever it waits.

use std::cell::Cell;
use std::time::Duration;

use super::Pool;

/// One more of what is counted, for as long as it lives.
pub(super) struct Counted<'a>(&'a Cell<usize>);

impl<'a> Counted<'a> {
    pub(super) fn new(count: &'a Cell<usize>) -> Counted<'a> {
        count.set(count.get() + 1);
        Counted(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// An instance that is being made or called. If that is given up, it is lost, where it would have been of use to others.
pub(super) struct AtRisk<'a> {
    pool: &'a Pool,
    /// What making it was expected to take, if that is charged.
    expected: Option<Duration>,
    /// For how long the thread was held.
    pub(super) busy: Cell<Duration>,
    is_lost: bool,
}

impl<'a> AtRisk<'a> {
    pub(super) fn new(pool: &'a Pool, expected: Option<Duration>, is_lost: bool) -> AtRisk<'a> {
        AtRisk { pool, expected, busy: Cell::default(), is_lost }
    }

    pub(super) fn survives(mut self) {
        self.is_lost = false;
    }
}

impl Drop for AtRisk<'_> {
    fn drop(&mut self) {
        if let Some(expected) = self.expected {
            self.pool.pace(|pace| pace.end(expected, self.busy.get()));
        }
        if self.is_lost {
            self.pool.lose();
        }
    }
}
