//! Reading typed values out of the tree. Reading a key is what declares it (`key`): a key that nobody asks for is unknown, and the
//! same readers run over an empty tree list all keys there are. Readers therefore ask for every key of a table before they
//! give up on one.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::PathBuf;

use indexmap::IndexMap;

use super::error::{ConfigError, Location};
use super::item::Item;
use super::key::{Key, KeyDoc};
use super::tree::{KeyValue, Node, Place, Sources, Value, join};

/// What one reading of the tree has found.
pub(super) struct Reader {
    pub(super) sources: RefCell<Sources>,
    mode: Mode,
}

/// What a reading is for.
enum Mode {
    /// The values.
    Values,
    /// The keys that there are, by readers that run over nothing.
    Listing(RefCell<Vec<KeyDoc>>),
    /// Where the value of each key comes from.
    Explaining(RefCell<IndexMap<String, Explained>>),
}

/// A key that was asked for, with its value and where that comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// `routes.api.timeouts.request`
    pub key: String,
    /// As it is written in a file; `…` for what is secret.
    pub value: String,
    pub source: ValueSource,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueSource {
    /// It is written, as this key: its own, or that of a group, of the defaults or of a plugin.
    Written { key: String, at: Location },
    /// It is the same as that of another key.
    SameAs(&'static str),
    /// It is written nowhere.
    Default,
}

/// A table, or the absence of an optional one: reading it then gives the defaults. What is not written in it may be inherited from
/// other tables of the same shape, key by key. Refuses the keys that were not asked for when it is dropped.
pub(super) struct Table<'r> {
    pub(super) reader: &'r Reader,
    own: &'r [KeyValue],
    /// The nearest first.
    inherited: Vec<Level<'r>>,
    /// Whether the table itself is there. An error of one that is inherited as a whole is found where it is written.
    is_written: bool,
    pub(super) place: Place,
    pub(super) path: String,
    known: RefCell<Vec<&'static str>>,
    /// The keys are names that the user gives.
    open: Cell<bool>,
}

/// A table to inherit from.
#[derive(Clone)]
pub(super) struct Level<'r> {
    entries: &'r [KeyValue],
    path: String,
}

/// A value that was found for a key.
struct Found<'r> {
    entry: &'r KeyValue,
    /// The key that it is written as.
    path: String,
    inherited: bool,
}

impl Reader {
    pub(super) fn new(sources: Sources) -> Self {
        Self { sources: RefCell::new(sources), mode: Mode::Values }
    }

    /// A reader that lists keys.
    pub(super) fn listing() -> Self {
        Self { sources: RefCell::new(Sources::empty()), mode: Mode::Listing(RefCell::default()) }
    }

    /// A reader that notes where values come from.
    pub(super) fn explaining(sources: Sources) -> Self {
        Self { sources: RefCell::new(sources), mode: Mode::Explaining(RefCell::default()) }
    }

    /// The sources, with all errors in them.
    pub(super) fn into_sources(self) -> Sources {
        self.sources.into_inner()
    }

    /// The keys of a listing, in the order of reading.
    pub(super) fn into_keys(self) -> Vec<KeyDoc> {
        if let Mode::Listing(keys) = self.mode { keys.into_inner() } else { Vec::new() }
    }

    /// The sources, and what was noted of each key.
    pub(super) fn into_explained(self) -> (Sources, Vec<Explained>) {
        let noted = if let Mode::Explaining(noted) = self.mode { noted.into_inner() } else { IndexMap::new() };
        (self.sources.into_inner(), noted.into_values().collect())
    }

    pub(super) fn is_listing(&self) -> bool {
        matches!(self.mode, Mode::Listing(_))
    }

    pub(super) fn root<'r>(&'r self, entries: &'r [KeyValue]) -> Table<'r> {
        let place = self.sources.borrow().start();
        Table::new(self, entries, place, String::new())
    }

    pub(super) fn fail(&self, place: Place, path: &str, message: impl Into<String>) {
        let mut sources = self.sources.borrow_mut();
        let error: ConfigError = sources.error(place, path, message);
        sources.errors.push(error);
    }

    /// Adds a key to the listing. One that is read a second time is not listed again.
    pub(super) fn list(&self, doc: impl FnOnce() -> KeyDoc) {
        if let Mode::Listing(keys) = &self.mode {
            let doc = doc();
            let mut keys = keys.borrow_mut();
            if !keys.iter().any(|known| known.path == doc.path) {
                keys.push(doc);
            }
        }
    }

    /// Changes what the listing says of a key.
    pub(super) fn amend(&self, path: &str, change: impl FnOnce(&mut KeyDoc)) {
        if let Mode::Listing(keys) = &self.mode
            && let Some(doc) = keys.borrow_mut().iter_mut().find(|doc| doc.path == path)
        {
            change(doc);
        }
    }

    pub(super) fn note(&self, explained: impl FnOnce() -> Explained) {
        if let Mode::Explaining(noted) = &self.mode {
            let explained = explained();
            noted.borrow_mut().entry(explained.key.clone()).or_insert(explained);
        }
    }

    /// Takes a value out of what was noted.
    pub(super) fn hide(&self, path: &str) {
        if let Mode::Explaining(noted) = &self.mode
            && let Some(known) = noted.borrow_mut().get_mut(path)
        {
            known.value = "…".to_owned();
        }
    }
}

impl<'r> Table<'r> {
    pub(super) fn new(reader: &'r Reader, entries: &'r [KeyValue], place: Place, path: String) -> Self {
        Self {
            reader,
            own: entries,
            inherited: Vec::new(),
            is_written: true,
            place,
            path,
            known: RefCell::default(),
            open: Cell::new(false),
        }
    }

    /// Takes from this table what is in none before it.
    pub(super) fn inherit(&mut self, level: Option<Level<'r>>) {
        self.inherited.extend(level);
    }

    /// A key with its description: what it means and an example of its value. How it is read says the rest.
    pub(super) fn key<'t>(&'t self, name: &'static str, meaning: &'static str, example: &'static str) -> Key<'t, 'r> {
        Key { table: self, name, meaning, example }
    }

    /// The value of a key that `Key` describes.
    pub(super) fn item(&self, key: &'static str) -> Option<Item<'r>> {
        self.declare(key);
        let path = join(&self.path, key);
        if self.reader.is_listing() {
            return Some(Item::absent(self.reader, self.place, path));
        }
        let found = self.find(key)?;
        self.reader.note(|| Explained {
            key: path.clone(),
            value: found.entry.node.explained(),
            source: ValueSource::Written {
                at: self.reader.sources.borrow().locate(found.entry.pointer()),
                key: found.path.clone(),
            },
        });
        Some(Item::of(self.reader, &found.entry.node, found.entry.pointer(), path, found.inherited))
    }

    /// The table at a key; an empty one if it is absent.
    pub(super) fn table(&self, key: &'static str) -> Table<'r> {
        self.declare(key);
        self.open_table(key).unwrap_or_else(|| {
            let mut absent = Table::new(self.reader, &[], self.place, join(&self.path, key));
            absent.is_written = self.is_written && self.find(key).is_none();
            absent
        })
    }

    /// The table at a key, if it is there.
    pub(super) fn optional_table(&self, key: &'static str) -> Option<Table<'r>> {
        self.declare(key);
        if self.reader.is_listing() {
            return Some(Table::new(self.reader, &[], self.place, join(&self.path, key)));
        }
        self.open_table(key)
    }

    /// The table at a key that can also be `true`, which is a table without keys, or `false`, which is none, also where one is inherited.
    pub(super) fn switched_table(
        &self,
        key: &'static str,
        meaning: &'static str,
        example: &'static str,
    ) -> Option<Table<'r>> {
        let is_on = self.key(key, meaning, example).get("false", Item::switch);
        if self.reader.is_listing() {
            return Some(Table::new(self.reader, &[], self.place, join(&self.path, key)));
        }
        if !is_on? {
            return None;
        }
        self.merged_table(key).or_else(|| {
            let mut absent = Table::new(self.reader, &[], self.place, join(&self.path, key));
            absent.is_written = false;
            Some(absent)
        })
    }

    /// The same where the whole table is inherited or none of it.
    pub(super) fn optional_whole_table(&self, key: &'static str) -> Option<Table<'r>> {
        let mut table = self.optional_table(key)?;
        if table.is_written {
            table.inherited.clear();
        } else {
            table.inherited.truncate(1);
        }
        Some(table)
    }

    /// The tables at a key in this table and in those that it inherits from. None if there is none, or something else.
    fn open_table(&self, key: &'static str) -> Option<Table<'r>> {
        let path = join(&self.path, key);
        let own = self.own.iter().find(|entry| entry.key == key);
        if let Some(entry) = own
            && !matches!(entry.node.value, Value::Table(_))
        {
            Item::of(self.reader, &entry.node, entry.pointer(), path, false).expected("a table");
            return None;
        }
        self.merged_table(key)
    }

    /// The same, where something else than a table counts as one without keys.
    fn merged_table(&self, key: &'static str) -> Option<Table<'r>> {
        let path = join(&self.path, key);
        let own = self.own.iter().find(|entry| entry.key == key);
        let levels: Vec<(Level<'r>, Place)> = (self.inherited.iter())
            .filter_map(|level| {
                let entry = level.entries.iter().find(|entry| entry.key == key)?;
                Some((Level { entries: entry.node.entries()?, path: join(&level.path, key) }, entry.place))
            })
            .collect();
        let place = own.map(|entry| entry.place).or_else(|| levels.first().map(|(_, place)| *place))?;
        let mut table = Table::new(self.reader, own.and_then(|entry| entry.node.entries()).unwrap_or(&[]), place, path);
        table.is_written = own.is_some();
        table.inherited = levels.into_iter().map(|(level, _)| level).collect();
        Some(table)
    }

    /// The names in the table with their values. All names are known. In a listing it is one, with this description.
    pub(super) fn named(&self, meaning: &'static str, example: &'static str) -> Vec<(String, Item<'r>)> {
        if self.reader.is_listing() {
            let path = join(&self.path, "*");
            self.reader.list(|| KeyDoc::new(path.clone(), meaning, example));
            return vec![("*".to_owned(), Item::absent(self.reader, self.place, path))];
        }
        self.open.set(true);
        let mut found: Vec<(String, Item<'r>)> = Vec::new();
        let own = self.own.iter().map(|entry| (entry, &self.path, false));
        let inherited = self.inherited.iter().flat_map(|level| level.entries.iter().map(|e| (e, &level.path, true)));
        for (entry, written, inherited) in own.chain(inherited) {
            if found.iter().any(|(name, _)| *name == entry.key) {
                continue;
            }
            let path = join(&self.path, &entry.key);
            self.reader.note(|| Explained {
                key: path.clone(),
                value: entry.node.explained(),
                source: ValueSource::Written {
                    at: self.reader.sources.borrow().locate(entry.pointer()),
                    key: join(written, &entry.key),
                },
            });
            found.push((entry.key.clone(), Item::of(self.reader, &entry.node, entry.pointer(), path, inherited)));
        }
        found
    }

    /// Reads the tables of a section, each under its name. A wrong one is left out.
    pub(super) fn section<T>(&self, key: &'static str, mut read: impl FnMut(&str, Table<'r>) -> Option<T>) -> Vec<T> {
        let section = self.table(key);
        section.open.set(true);
        if self.reader.is_listing() {
            let table = Table::new(self.reader, &[], self.place, join(&section.path, "*"));
            return read("*", table).into_iter().collect();
        }
        let mut found = Vec::new();
        for entry in section.own {
            let path = join(&section.path, &entry.key);
            let item = Item::of(self.reader, &entry.node, entry.pointer(), path, false);
            if !is_name(&entry.key) {
                item.fail("a name has only letters, digits, `-`, `_` and `.`");
            }
            found.extend(item.table().and_then(|table| read(&entry.key, table)));
        }
        found
    }

    /// Whether the key is there, right or wrong, inherited or not.
    pub(super) fn has(&self, key: &str) -> bool {
        self.has_own(key) || self.inherits(key)
    }

    /// Whether the key is in this table itself.
    pub(super) fn has_own(&self, key: &str) -> bool {
        self.own.iter().any(|entry| entry.key == key)
    }

    /// Whether the key is in a table that this one inherits from.
    pub(super) fn inherits(&self, key: &str) -> bool {
        self.inherited.iter().any(|level| level.entries.iter().any(|entry| entry.key == key))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.own.is_empty()
    }

    /// The names in a section, whether what they stand for is right or not: a reference to it is not one more error.
    pub(super) fn names(&self, section: &str) -> BTreeSet<String> {
        let entries = self.level(&[section]).map(|level| level.entries).unwrap_or_default();
        entries.iter().map(|entry| entry.key.clone()).collect()
    }

    /// The same, but only those that have a key.
    pub(super) fn names_with(&self, section: &str, key: &str) -> BTreeSet<String> {
        let entries = self.level(&[section]).map(|level| level.entries).unwrap_or_default();
        let has = |entry: &&KeyValue| entry.node.entry(key).is_some();
        entries.iter().filter(has).map(|entry| entry.key.clone()).collect()
    }

    /// A table below this one, as it is written, for others to inherit from.
    pub(super) fn level(&self, path: &[&str]) -> Option<Level<'r>> {
        let mut level = Level { entries: self.own, path: self.path.clone() };
        for key in path {
            let entry = level.entries.iter().find(|entry| entry.key == *key)?;
            level = Level { entries: entry.node.entries()?, path: join(&level.path, key) };
        }
        Some(level)
    }

    /// The directory that relative paths of defaults start from: that of the main file for an absent table.
    pub(super) fn directory(&self) -> PathBuf {
        let sources = self.reader.sources.borrow();
        sources.directory(sources.start()).to_owned()
    }

    pub(super) fn fail(&self, message: impl Into<String>) {
        if self.is_written && !self.reader.is_listing() {
            self.reader.fail(self.place, &self.path, message);
        }
    }

    /// Refuses what is written below this table at a path; where it is not written, the table.
    pub(super) fn fail_in(&self, path: &[&str], message: impl Into<String>) {
        let mut entries = self.own;
        let (mut place, mut full) = (self.place, self.path.clone());
        for key in path {
            let Some(entry) = entries.iter().find(|entry| entry.key == *key) else { break };
            place = entry.pointer();
            full = join(&full, key);
            entries = entry.node.entries().unwrap_or_default();
        }
        if !self.reader.is_listing() {
            self.reader.fail(place, &full, message);
        }
    }

    /// Refuses a value that does not fit others of this table, at the value; if it is inherited, here, with its place.
    pub(super) fn fail_at(&self, item: &Item<'_>, message: &str) {
        if !item.inherited {
            return item.fail(message);
        }
        let at = self.reader.sources.borrow().locate(item.place);
        let key = item.path.strip_prefix(&self.path).unwrap_or(&item.path).trim_start_matches('.');
        self.fail(format!("`{key}`, inherited from {at}: {message}"));
    }

    fn find(&self, key: &str) -> Option<Found<'r>> {
        let own = self.own.iter().find(|entry| entry.key == key);
        if let Some(entry) = own {
            return Some(Found { entry, path: join(&self.path, key), inherited: false });
        }
        self.inherited.iter().find_map(|level| {
            let entry = level.entries.iter().find(|entry| entry.key == key)?;
            Some(Found { entry, path: join(&level.path, key), inherited: true })
        })
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
        for entry in self.own.iter().filter(|entry| !known.contains(&entry.key.as_str())) {
            let hint = nearest(&entry.key, known.iter().copied());
            let message = match hint {
                Some(hint) => format!("unknown key, did you mean `{hint}`?"),
                None => format!("unknown key, expected {}", list(known)),
            };
            self.reader.fail(entry.place, &join(&self.path, &entry.key), message);
        }
    }
}

impl Node {
    /// The entries of a table.
    fn entries(&self) -> Option<&[KeyValue]> {
        match &self.value {
            Value::Table(entries) => Some(entries),
            _ => None,
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
