//! Whether an address may be asked: the reasons why one is out, each with its evidence. The state belongs to the address's record, so it
//! is one for all workers, routes and reloads. A choice reads two words of one line; all else happens when a state changes.
//!
//! - `unreachable`: it takes no connections. Noted by requests, which also try it again.
//! - `circuit-open`: too many of the last attempts have failed (`circuit`).

mod history;
pub(crate) mod unreachable;

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use self::history::History;
pub use self::history::StateChange;
use self::unreachable::Unreachable;
use super::endpoints::millis;

/// Why an address is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It took no connection.
    Unreachable,
    /// Too many attempts have failed: its circuit is open.
    CircuitOpen,
}

impl Reason {
    pub const ALL: [Reason; 2] = [Reason::Unreachable, Reason::CircuitOpen];
    pub(crate) const COUNT: usize = Self::ALL.len();

    /// As metrics, logs and the admin API show it.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Unreachable => "unreachable",
            Reason::CircuitOpen => "circuit-open",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The state of one address. Changed rarely; kept apart from what every request writes.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Health {
    /// A bit for each reason why it is out.
    out: AtomicU8,
    unreachable: Unreachable,
    /// How often it went out, by reason.
    outs: [AtomicU64; Reason::COUNT],
    history: Mutex<History>,
}

/// A change of state, to be told.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) is_out: bool,
    pub(crate) reason: Reason,
    pub(crate) evidence: String,
}

impl Health {
    /// Whether nothing speaks against it.
    pub(crate) fn is_healthy(&self) -> bool {
        self.out.load(Relaxed) == 0
    }

    /// Whether a request may go there: nothing speaks against it, or it is time to try again.
    pub(crate) fn may_try(&self, now: Instant) -> bool {
        let out = self.out.load(Relaxed);
        out == 0 || self.unreachable.may_try(millis(now))
    }

    /// Half open: the request that is sent to see whether an address is back keeps the others away until that is known. False when
    /// another request, maybe of another worker, was there first.
    pub(crate) fn claim(&self, now: Instant) -> bool {
        self.is_healthy() || self.unreachable.claim(millis(now))
    }

    /// The address took a connection and answered on it.
    pub(crate) fn reached(&self) -> Option<Told> {
        if self.is_healthy() {
            return None;
        }
        let evidence = self.unreachable.reached(millis(Instant::now()))?;
        self.put_back(Reason::Unreachable, evidence)
    }

    /// The address did not take a connection that was tried from `begun` on.
    pub(crate) fn not_reached(&self, begun: Instant, now: Instant) -> Option<Told> {
        // Each time: a success at the same moment may have put it back.
        let evidence = self.unreachable.not_reached(millis(begun), millis(now))?;
        self.take_out(Reason::Unreachable, evidence)
    }

    /// Its circuit has opened or closed. Who may pass an open one is decided when a request is about to go there (`limits`).
    pub(crate) fn circuit_changed(&self, is_open: bool, evidence: String) -> Option<Told> {
        match is_open {
            true => self.take_out(Reason::CircuitOpen, evidence),
            false => self.put_back(Reason::CircuitOpen, evidence),
        }
    }

    /// Takes the address out. `None`: it is out for this reason already.
    pub(crate) fn take_out(&self, reason: Reason, evidence: String) -> Option<Told> {
        let before = self.out.fetch_or(reason.bit(), Relaxed);
        if before & reason.bit() != 0 {
            return None;
        }
        self.outs[reason as usize].fetch_add(1, Relaxed);
        Some(self.told(true, reason, evidence))
    }

    /// Puts it back as far as this reason goes. `None`: it was not out for it.
    pub(crate) fn put_back(&self, reason: Reason, evidence: String) -> Option<Told> {
        let before = self.out.fetch_and(!reason.bit(), Relaxed);
        (before & reason.bit() != 0).then(|| self.told(false, reason, evidence))
    }

    /// The reasons why it is out.
    pub(crate) fn reasons(&self) -> impl Iterator<Item = Reason> {
        let out = self.out.load(Relaxed);
        Reason::ALL.into_iter().filter(move |reason| out & reason.bit() != 0)
    }

    /// How often it went out, by reason.
    pub(crate) fn outs(&self) -> [u64; Reason::COUNT] {
        std::array::from_fn(|reason| self.outs[reason].load(Relaxed))
    }

    /// Its last changes, oldest first.
    pub(crate) fn history(&self) -> Vec<StateChange> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).changes()
    }

    fn told(&self, is_out: bool, reason: Reason, evidence: String) -> Told {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.push(StateChange { at: std::time::SystemTime::now(), is_out, reason, evidence: evidence.clone() });
        Told { is_out, reason, evidence }
    }
}
