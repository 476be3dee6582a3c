//! What happened to an address: why it is out, and its last changes of state with their evidence, for the admin API.

use std::collections::VecDeque;
use std::time::SystemTime;

use super::Reason;

/// Changes that are kept of one address.
const KEPT: usize = 16;

/// A change of the state of one address.
#[derive(Debug, Clone)]
pub struct StateChange {
    pub at: SystemTime,
    /// Whether it went out or came back.
    pub is_out: bool,
    pub reason: Reason,
    /// What was seen, in a sentence's part: "takes no connections".
    pub evidence: String,
}

#[derive(Debug, Default)]
pub(super) struct History {
    changes: VecDeque<StateChange>,
    /// The change by which it went out, for each reason why it is out now: others may push it out of the list.
    out: Vec<StateChange>,
}

impl History {
    pub(super) fn push(&mut self, change: StateChange) {
        self.out.retain(|known| known.reason != change.reason);
        if change.is_out {
            self.out.push(change.clone());
        }
        if self.changes.len() == KEPT {
            self.changes.pop_front();
        }
        self.changes.push_back(change);
    }

    /// Oldest first.
    pub(super) fn changes(&self) -> Vec<StateChange> {
        self.changes.iter().cloned().collect()
    }

    /// Why it is out.
    pub(super) fn out(&self) -> Vec<StateChange> {
        self.out.clone()
    }
}
