//! Values by server name: exact names before wildcards.

use std::collections::HashMap;

#[derive(Debug)]
pub(super) struct ByName<T> {
    exact: HashMap<String, T>,
    /// By what follows `*.`.
    wildcard: HashMap<String, T>,
}

impl<T: Default> ByName<T> {
    pub(super) fn new() -> Self {
        ByName { exact: HashMap::new(), wildcard: HashMap::new() }
    }

    /// The value of a name or of a wildcard, made when there is none.
    pub(super) fn entry(&mut self, name: &str) -> &mut T {
        let name = normal(name);
        match name.strip_prefix("*.") {
            Some(parent) => self.wildcard.entry(parent.to_owned()).or_default(),
            None => self.exact.entry(name).or_default(),
        }
    }

    /// A wildcard stands for exactly one label, as in certificates (RFC 9525 §6.3).
    pub(super) fn find_by_label(&self, name: &str) -> Option<&T> {
        let found = |name: &str| self.exact.get(name).or_else(|| self.wildcard.get(name.split_once('.')?.1));
        found(&normal(name))
    }

    /// A wildcard stands for one label or more, as in the matches of routes. The longest one holds.
    pub(super) fn find_by_suffix(&self, name: &str) -> Option<&T> {
        let name = normal(name);
        self.exact.get(&name).or_else(|| {
            let parents = std::iter::successors(name.split_once('.'), |(_, parent)| parent.split_once('.'));
            parents.map(|(_, parent)| parent).find_map(|parent| self.wildcard.get(parent))
        })
    }
}

/// Names are compared in lower case, and the dot that makes one absolute means nothing.
pub(super) fn normal(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}
