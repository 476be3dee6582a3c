//! What a source has done so far, for metrics and messages. It is handed on from one snapshot to the next.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What was wrong with what a source has told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FaultKind {
    /// It could not be reached or read.
    Unavailable,
    Timeout,
    /// It answered with a status of an error.
    Status,
    /// What it told is not what was expected.
    Invalid,
    /// It told that there are no endpoints.
    Empty,
    /// The endpoints could not be saved for the next start.
    State,
    /// The gateway itself failed, by a bug or for want of threads.
    Internal,
}

impl FaultKind {
    const ALL: [FaultKind; 7] = [
        FaultKind::Unavailable,
        FaultKind::Timeout,
        FaultKind::Status,
        FaultKind::Invalid,
        FaultKind::Empty,
        FaultKind::State,
        FaultKind::Internal,
    ];

    /// As metrics show it.
    pub(super) fn name(self) -> &'static str {
        match self {
            FaultKind::Unavailable => "unavailable",
            FaultKind::Timeout => "timeout",
            FaultKind::Status => "status",
            FaultKind::Invalid => "invalid",
            FaultKind::Empty => "empty",
            FaultKind::State => "state",
            FaultKind::Internal => "internal",
        }
    }
}

/// Why the last good list stays in use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(super) struct Fault {
    pub(super) kind: FaultKind,
    pub(super) reason: String,
}

impl Fault {
    pub(super) fn new(kind: FaultKind, reason: impl Into<String>) -> Self {
        Fault { kind, reason: reason.into() }
    }
}

#[derive(Debug, Default)]
pub(super) struct Statistics {
    /// When the list was last told, in milliseconds since 1970; 0 before that.
    confirmed: AtomicU64,
    updates: AtomicU64,
    faults: [AtomicU64; FaultKind::ALL.len()],
    /// Since the list was last told.
    last_fault: Mutex<Option<Fault>>,
}

/// What is known of a source, for metrics and the admin API.
#[derive(Debug, Clone)]
pub struct DiscoveryState {
    /// `consul`, `srv` or `file`.
    pub source: &'static str,
    /// The endpoints in use.
    pub endpoints: usize,
    /// Since the source has last told them; `None` before the first time.
    pub age: Option<Duration>,
    /// How often they have changed.
    pub updates: u64,
    /// How often the source could not be used, by kind.
    pub errors: Vec<(&'static str, u64)>,
    /// Why it has told nothing since; `None` if the last answer was good.
    pub last_error: Option<String>,
}

impl Statistics {
    pub(super) fn confirm(&self, at: SystemTime) {
        let millis = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        self.confirmed.store(u64::try_from(millis).unwrap_or(u64::MAX), Relaxed);
        *self.last() = None;
    }

    /// When the list was last told.
    pub(super) fn confirmed(&self) -> Option<SystemTime> {
        match self.confirmed.load(Relaxed) {
            0 => None,
            millis => Some(UNIX_EPOCH + Duration::from_millis(millis)),
        }
    }

    pub(super) fn count_update(&self) {
        self.updates.fetch_add(1, Relaxed);
    }

    /// The endpoints could not be saved: that is no fault of the source.
    pub(super) fn note_unsaved(&self) {
        self.faults[FaultKind::State as usize].fetch_add(1, Relaxed);
    }

    /// True if it is another one than before.
    pub(super) fn note(&self, fault: &Fault) -> bool {
        self.faults[fault.kind as usize].fetch_add(1, Relaxed);
        let mut last = self.last();
        let is_new = last.as_ref() != Some(fault);
        *last = Some(fault.clone());
        is_new
    }

    /// Why there is nothing newer.
    pub(super) fn last_fault(&self) -> Option<Fault> {
        self.last().clone()
    }

    pub(super) fn state(&self, source: &'static str, endpoints: usize) -> DiscoveryState {
        let errors = FaultKind::ALL.iter().zip(&self.faults).map(|(kind, count)| (kind.name(), count.load(Relaxed)));
        DiscoveryState {
            source,
            endpoints,
            age: self.confirmed().map(|at| SystemTime::now().duration_since(at).unwrap_or_default()),
            updates: self.updates.load(Relaxed),
            errors: errors.filter(|(_, count)| *count > 0).collect(),
            last_error: self.last_fault().map(|fault| fault.reason),
        }
    }

    fn last(&self) -> MutexGuard<'_, Option<Fault>> {
        self.last_fault.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
