//! Why responses were not stored: the last reason for some thousand keys, for the operator who asks.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use sluice_cache::key::Key;
use sluice_cache::storable::Refusal;

/// Keys that share a place displace each other.
const PLACES: usize = 4096;

/// Why a response was not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unstored {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the response has more content than `max_object`, or more than fits into the store")]
    TooLarge,
    #[error("the head of the response is too large")]
    HeadTooLarge,
    #[error("its cookie may be that of a session of one client")]
    Session,
    #[error("fetches use as much of `gateway.max_buffered_memory` as they may")]
    Memory,
    #[error("a filter has said so")]
    Filter,
    #[error("the response hooks of the request have failed, or its client has left before they were through")]
    Untold,
    #[error("the response broke off")]
    BrokenOff,
    #[error("nobody has read the response to its end")]
    Unattended,
}

/// A reason and its time.
#[derive(Debug, Clone, Copy)]
pub struct Noted {
    pub why: Unstored,
    pub at: SystemTime,
}

/// A table of fixed size. Each place has a lock, held for a copy.
pub struct NotesOfUnstored(Box<[Place]>);

type Place = Mutex<Option<(Key, Noted)>>;

impl Default for NotesOfUnstored {
    fn default() -> Self {
        NotesOfUnstored((0..PLACES).map(|_| Mutex::new(None)).collect())
    }
}

impl NotesOfUnstored {
    pub(super) fn note(&self, key: Key, why: Unstored) {
        let noted = Noted { why, at: SystemTime::now() };
        *self.place(&key).lock().unwrap_or_else(PoisonError::into_inner) = Some((key, noted));
    }

    pub(super) fn of(&self, key: &Key) -> Option<Noted> {
        let place = *self.place(key).lock().unwrap_or_else(PoisonError::into_inner);
        place.filter(|(known, _)| known == key).map(|(_, noted)| noted)
    }

    fn place(&self, key: &Key) -> &Mutex<Option<(Key, Noted)>> {
        // A key is a keyed hash: any of its bits will do.
        let [.., high, low] = key.to_bytes();
        &self.0[usize::from(u16::from_be_bytes([high, low])) % PLACES]
    }
}
