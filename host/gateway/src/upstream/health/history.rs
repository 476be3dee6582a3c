//! What happened to an address: its last changes of state with their evidence, for the admin API.

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
    /// What was seen, in a sentence's part: "took no connection".
    pub evidence: String,
}

#[derive(Debug, Default)]
pub(super) struct History(VecDeque<StateChange>);

impl History {
    pub(super) fn push(&mut self, change: StateChange) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(change);
    }

    /// Oldest first.
    pub(super) fn changes(&self) -> Vec<StateChange> {
        self.0.iter().cloned().collect()
    }
}
