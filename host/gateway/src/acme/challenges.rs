//! The challenges of one order while it is under way: shown by this gateway, and told to all others that share a state with it.

use super::failure::{Failure, Kind};
use super::parts::Parts;
use super::sharing::{self, CHALLENGES};
use super::storage::Storage;
use crate::certs::{Challenge, Shows};

pub(super) struct Shown<'a> {
    parts: &'a Parts,
    storage: &'a Storage,
    here: Vec<Shows>,
    /// The names of their entries in the state.
    told: Vec<String>,
}

impl<'a> Shown<'a> {
    pub(super) fn new(parts: &'a Parts, storage: &'a Storage) -> Self {
        Shown { parts, storage, here: Vec::new(), told: Vec::new() }
    }

    /// Shows it from now on.
    pub(super) async fn add(&mut self, challenge: Challenge) -> Result<(), Failure> {
        if let Some(shared) = self.storage.shared() {
            let entry = sharing::new_holder();
            let told = sharing::tell(shared, &entry, &challenge).await;
            told.map_err(|error| Failure::new(Kind::State, error.to_string()))?;
            self.told.push(entry);
        }
        let shows = self.parts.challenges.show(challenge);
        self.here.push(shows.map_err(|error| Failure::new(Kind::Challenge, error.to_string()))?);
        Ok(())
    }

    /// Whether others were told.
    pub(super) fn is_shared(&self) -> bool {
        !self.told.is_empty()
    }

    /// Takes it back everywhere. Without this it ends here, and elsewhere when its time is over.
    pub(super) async fn take_back(self) {
        if let Some(shared) = self.storage.shared() {
            for entry in &self.told {
                let _ = shared.delete_entry(CHALLENGES, entry).await;
            }
        }
    }
}
