//! What the checks of an address have found. One task of the background runtime writes it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::config::model::HealthCheck;

#[derive(Debug, Default)]
pub(super) struct Checked {
    /// When the last check began, in milliseconds of the records' clock; 0 before the first.
    begun: AtomicU64,
    passed_in_a_row: AtomicU32,
    failed_in_a_row: AtomicU32,
    /// Whether the checks have said whether it is well: until then, one that fails is soon made again.
    decided: AtomicBool,
    passed: AtomicU64,
    failed: AtomicU64,
}

/// What a result means for the state of its address.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Out(String),
    Back(String),
    Unchanged,
}

impl Checked {
    pub(super) fn begin(&self, now: u64) {
        self.begun.store(now.max(1), Relaxed);
    }

    pub(super) fn begun(&self) -> Option<u64> {
        Some(self.begun.load(Relaxed)).filter(|begun| *begun > 0)
    }

    /// Whether it has failed and the checks have not said yet whether it is out.
    pub(super) fn is_in_doubt(&self) -> bool {
        !self.decided.load(Relaxed) && self.failed_in_a_row.load(Relaxed) > 0
    }

    pub(super) fn passed(&self, check: &HealthCheck) -> Verdict {
        add(&self.passed);
        self.failed_in_a_row.store(0, Relaxed);
        self.decided.store(true, Relaxed);
        let passed = one_more(&self.passed_in_a_row);
        match passed >= check.healthy_threshold {
            true => Verdict::Back(format!("{passed} {} passed", checks(passed))),
            false => Verdict::Unchanged,
        }
    }

    pub(super) fn failed(&self, check: &HealthCheck, why: &dyn fmt::Display) -> Verdict {
        add(&self.failed);
        self.passed_in_a_row.store(0, Relaxed);
        let failed = one_more(&self.failed_in_a_row);
        if failed < check.unhealthy_threshold {
            return Verdict::Unchanged;
        }
        self.decided.store(true, Relaxed);
        Verdict::Out(format!("{failed} {} failed: {why}", checks(failed)))
    }

    /// Nobody checks it any more.
    pub(super) fn forget(&self) {
        self.begun.store(0, Relaxed);
        self.passed_in_a_row.store(0, Relaxed);
        self.failed_in_a_row.store(0, Relaxed);
        self.decided.store(false, Relaxed);
    }

    /// Checks that have passed, and that have failed.
    pub(super) fn counts(&self) -> [u64; 2] {
        [&self.passed, &self.failed].map(|count| count.load(Relaxed))
    }
}

/// One writer: no locked instruction.
fn add(count: &AtomicU64) {
    count.store(count.load(Relaxed).wrapping_add(1), Relaxed);
}

fn one_more(count: &AtomicU32) -> u32 {
    let count_now = count.load(Relaxed).saturating_add(1);
    count.store(count_now, Relaxed);
    count_now
}

fn checks(count: u32) -> &'static str {
    if count == 1 { "check" } else { "checks" }
}
