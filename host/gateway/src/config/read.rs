//! Reading typed values out of the tree. Reading a key is what declares it: a key that nobody asks for is unknown, and the
//! same readers run over an empty tree list all keys there are. Readers therefore ask for every key of a table before they
//! give up on one.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::PathBuf;

use super::error::ConfigError;
use super::item::Item;
use super::tree::{Entry, Place, Sources, Value, join};

/// What one reading of the tree has found.
pub(super) struct Reader {
    pub(super) sources: RefCell<Sources>,
    /// The keys asked for; only where the keys and not the values are of interest.
    keys: Option<RefCell<BTreeSet<String>>>,
}

/// A table, or the absence of an optional one: reading it then gives the defaults. Refuses the keys that were not asked for
/// when it is dropped.
pub(super) struct Table<'r> {
    reader: &'r Reader,
    entries: &'r [Entry],
    place: Place,
    path: String,
    known: RefCell<Vec<&'static str>>,
    /// The keys are names that the user gives.
    open: Cell<bool>,
}

impl Reader {
    pub(super) fn new(sources: Sources) -> Self {
        Self { sources: RefCell::new(sources), keys: None }
    }

    /// A reader that lists keys.
    pub(super) fn listing(sources: Sources) -> Self {
        Self { sources: RefCell::new(sources), keys: Some(RefCell::default()) }
    }

    /// What was found: the sources with all errors in them, and the keys.
    pub(super) fn finish(self) -> (Sources, BTreeSet<String>) {
        (self.sources.into_inner(), self.keys.map(RefCell::into_inner).unwrap_or_default())
    }

    pub(super) fn root<'r>(&'r self, entries: &'r [Entry]) -> Table<'r> {
        let place = self.sources.borrow().start();
        Table::new(self, entries, place, String::new())
    }

    pub(super) fn fail(&self, place: Place, path: &str, message: impl Into<String>) {
        let mut sources = self.sources.borrow_mut();
        let error: ConfigError = sources.error(place, path, message);
        sources.errors.push(error);
    }
}

impl<'r> Table<'r> {
    pub(super) fn new(reader: &'r Reader, entries: &'r [Entry], place: Place, path: String) -> Self {
        Self { reader, entries, place, path, known: RefCell::default(), open: Cell::new(false) }
    }

    /// The value of a key, if it is there.
    pub(super) fn item(&self, key: &'static str) -> Option<Item<'r>> {
        self.declare(key);
        let path = join(&self.path, key);
        if let Some(keys) = &self.reader.keys {
            keys.borrow_mut().insert(path.clone());
            return Some(Item { reader: self.reader, node: None, place: self.place, path });
        }
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        Some(Item { reader: self.reader, node: Some(&entry.node), place: entry.pointer(), path })
    }

    /// The value of a key as its reader understands it; none if the key is absent or wrong.
    pub(super) fn get<T>(&self, key: &'static str, read: impl FnOnce(Item<'r>) -> Option<T>) -> Option<T> {
        self.item(key).and_then(read)
    }

    /// The value of a key, or its default.
    pub(super) fn or<T>(&self, key: &'static str, default: T, read: impl FnOnce(Item<'r>) -> Option<T>) -> T {
        self.get(key, read).unwrap_or(default)
    }

    /// The value of a key that has to be there.
    pub(super) fn require<T>(&self, key: &'static str, read: impl FnOnce(Item<'r>) -> Option<T>) -> Option<T> {
        match self.item(key) {
            Some(item) => read(item),
            None => {
                self.fail(format!("the key `{key}` is missing"));
                None
            }
        }
    }

    /// The table at a key; an empty one if it is absent.
    pub(super) fn table(&self, key: &'static str) -> Table<'r> {
        let absent = || Table::new(self.reader, &[], self.place, join(&self.path, key));
        self.optional_table(key).unwrap_or_else(absent)
    }

    /// The table at a key, if it is there.
    pub(super) fn optional_table(&self, key: &'static str) -> Option<Table<'r>> {
        let item = self.item(key)?;
        if let Some(keys) = &self.reader.keys {
            // Only what is in the table is a key to set.
            keys.borrow_mut().remove(&item.path);
        }
        item.table()
    }

    /// The names in the table with their values. All names are known.
    pub(super) fn named(&self) -> Vec<(String, Item<'r>)> {
        let item = |name: &str, node, place| {
            let path = join(&self.path, name);
            if let Some(keys) = &self.reader.keys {
                keys.borrow_mut().insert(path.clone());
            }
            (name.to_owned(), Item { reader: self.reader, node, place, path })
        };
        if self.reader.keys.is_some() {
            return vec![item("*", None, self.place)];
        }
        self.open.set(true);
        self.entries.iter().map(|entry| item(&entry.key, Some(&entry.node), entry.pointer())).collect()
    }

    /// Reads the tables of a section, each under its name. A wrong one is left out.
    pub(super) fn section<T>(&self, key: &'static str, mut read: impl FnMut(&str, Table<'r>) -> Option<T>) -> Vec<T> {
        let mut found = Vec::new();
        for (name, item) in self.table(key).named() {
            if let Some(keys) = &self.reader.keys {
                keys.borrow_mut().remove(&item.path);
            }
            if !is_name(&name) && item.node.is_some() {
                item.fail("a name has only letters, digits, `-`, `_` and `.`");
            }
            found.extend(item.table().and_then(|table| read(&name, table)));
        }
        found
    }

    /// Whether the key is there, right or wrong.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The names in a section, whether what they stand for is right or not: a reference to it is not one more error.
    pub(super) fn names(&self, section: &'static str) -> BTreeSet<String> {
        let entry = self.entries.iter().find(|entry| entry.key == section);
        match entry.map(|entry| &entry.node.value) {
            Some(Value::Table(entries)) => entries.iter().map(|entry| entry.key.clone()).collect(),
            _ => BTreeSet::new(),
        }
    }

    /// The directory that relative paths of defaults start from: that of the main file for an absent table.
    pub(super) fn directory(&self) -> PathBuf {
        let sources = self.reader.sources.borrow();
        sources.directory(sources.start()).to_owned()
    }

    pub(super) fn fail(&self, message: impl Into<String>) {
        if self.reader.keys.is_none() {
            self.reader.fail(self.place, &self.path, message);
        }
    }

    fn declare(&self, key: &'static str) {
        let mut known = self.known.borrow_mut();
        if !known.contains(&key) {
            known.push(key);
        }
    }
}

impl Drop for Table<'_> {
    fn drop(&mut self) {
        if self.open.get() {
            return;
        }
        let known = self.known.get_mut();
        for entry in self.entries.iter().filter(|entry| !known.contains(&entry.key.as_str())) {
            let hint = nearest(&entry.key, known.iter().copied());
            let message = match hint {
                Some(hint) => format!("unknown key, did you mean `{hint}`?"),
                None => format!("unknown key, expected {}", list(known)),
            };
            self.reader.fail(entry.place, &join(&self.path, &entry.key), message);
        }
    }
}

/// The name that was likely meant.
pub fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let name = name.to_lowercase();
    let scored = known.map(|other| (strsim::jaro_winkler(&name, &other.to_lowercase()), other));
    scored.filter(|(score, _)| *score > 0.8).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, other)| other)
}

fn list(names: &[&str]) -> String {
    let mut quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    let last = quoted.pop().unwrap_or_default();
    if quoted.is_empty() { last } else { format!("{} or {last}", quoted.join(", ")) }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}
