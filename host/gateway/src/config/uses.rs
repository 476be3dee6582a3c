//! Which files a configuration depends on, and what for.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use super::tree::Sources;

impl Sources {
    /// Every file that the configuration depends on, each once.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let mut seen = HashSet::new();
        self.uses().filter(|path| seen.insert(*path)).cloned().collect()
    }

    /// Notes that a value is what a listener shows or verifies, and is in a file.
    pub(super) fn note_of_listeners(&mut self, path: PathBuf) {
        self.of_listeners.push(path);
    }

    /// The files that have what listeners show and verify, and nothing else that is used.
    pub(super) fn only_of_listeners(&self) -> Vec<PathBuf> {
        let mut others: HashMap<&PathBuf, usize> = self.of_listeners.iter().map(|path| (path, 0)).collect();
        for path in self.uses() {
            others.entry(path).and_modify(|uses| *uses += 1);
        }
        for path in &self.of_listeners {
            others.entry(path).and_modify(|uses| *uses = uses.saturating_sub(1));
        }
        others.into_iter().filter(|(_, uses)| *uses == 0).map(|(path, _)| path.clone()).collect()
    }

    /// Once for each place that names a file.
    fn uses(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.iter().map(|(path, _)| path).chain(&self.referenced)
    }
}
