//! Reading typed values out of the tree. Reading a key is what declares it: a key that nobody asks for is unknown, and the
//! same readers run over an empty tree list all keys there are. Readers therefore ask for every key of a table before they
//! give up on one.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::error::ConfigError;
use super::model::{ByteSize, Name, Secret};
use super::tree::{Entry, Node, Place, Sources, Value, join};
use super::units;

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

/// A value that is there, or (when keys are listed) one that could be.
#[derive(Clone)]
pub(super) struct Item<'r> {
    pub(super) reader: &'r Reader,
    node: Option<&'r Node>,
    /// Where to point at.
    place: Place,
    pub(super) path: String,
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
        Table { reader: self, entries, place, path: String::new(), known: RefCell::default(), open: Cell::new(false) }
    }

    fn fail(&self, place: Place, path: &str, message: impl Into<String>) {
        let mut sources = self.sources.borrow_mut();
        let error: ConfigError = sources.error(place, path, message);
        sources.errors.push(error);
    }
}

impl<'r> Table<'r> {
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
        self.optional_table(key).unwrap_or_else(|| Table {
            reader: self.reader,
            entries: &[],
            place: self.place,
            path: join(&self.path, key),
            known: RefCell::default(),
            open: Cell::new(false),
        })
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

impl<'r> Item<'r> {
    pub(super) fn fail(&self, message: impl Into<String>) {
        if self.node.is_some() {
            self.reader.fail(self.place, &self.path, message);
        }
    }

    /// Refuses the value: it is not what was expected.
    pub(super) fn expected(&self, what: impl Display) {
        let found = match self.node.map(|node| (&node.value, node.secret)) {
            None | Some((Value::Broken, _)) => return,
            Some((_, true)) => "…".to_owned(),
            Some((Value::String(text), _)) => format!("{text:?}"),
            Some((Value::Integer(number), _)) => number.to_string(),
            Some((Value::Float(number), _)) => number.to_string(),
            Some((Value::Boolean(value), _)) => value.to_string(),
            Some((Value::Datetime(text), _)) => text.clone(),
            Some((Value::Array(_), _)) => "a list".to_owned(),
            Some((Value::Table(_), _)) => "a table".to_owned(),
        };
        self.fail(format!("expected {what}, found {found}"));
    }

    /// The text as an error may show it.
    pub(super) fn shown<'t>(&self, text: &'t str) -> &'t str {
        if self.node.is_some_and(|node| node.secret) { "…" } else { text }
    }

    pub(super) fn node(&self) -> Option<&'r Node> {
        self.node
    }

    /// Its text, if it is a string.
    pub(super) fn as_str(&self) -> Option<&'r str> {
        match self.node.map(|node| &node.value) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    pub(super) fn is_empty_list(&self) -> bool {
        self.node.is_some_and(|node| matches!(&node.value, Value::Array(items) if items.is_empty()))
    }

    /// The directory that a relative path in this value starts from.
    pub(super) fn directory(&self) -> PathBuf {
        self.reader.sources.borrow().directory(self.place).to_owned()
    }

    /// Whether it is a table, or (when keys are listed) could be.
    pub(super) fn is_table(&self) -> bool {
        self.node.is_none_or(|node| matches!(node.value, Value::Table(_)))
    }

    pub(super) fn table(self) -> Option<Table<'r>> {
        let entries: &[Entry] = match self.node.map(|node| &node.value) {
            None => &[],
            Some(Value::Table(entries)) => entries,
            Some(_) => {
                self.expected("a table");
                return None;
            }
        };
        Some(Table {
            reader: self.reader,
            entries,
            place: self.place,
            path: self.path,
            known: RefCell::default(),
            open: Cell::new(false),
        })
    }

    /// The items of a list, each with its index in its path.
    pub(super) fn items(self) -> Vec<Item<'r>> {
        match self.node.map(|node| &node.value) {
            None => vec![self],
            Some(Value::Array(nodes)) => (nodes.iter().enumerate())
                .map(|(i, node)| Item {
                    reader: self.reader,
                    node: Some(node),
                    place: node.place,
                    path: format!("{}[{i}]", self.path),
                })
                .collect(),
            Some(_) => {
                self.expected("a list");
                Vec::new()
            }
        }
    }

    /// The items of a list, or the one value as if it were the only one.
    pub(super) fn one_or_more(self) -> Vec<Item<'r>> {
        match self.node.map(|node| &node.value) {
            Some(Value::Array(_)) => self.items(),
            _ => vec![self],
        }
    }

    /// All items of a list as their reader understands them. Wrong ones are left out.
    pub(super) fn list<T>(self, read: impl FnMut(Item<'r>) -> Option<T>) -> Option<Vec<T>> {
        Some(self.items().into_iter().filter_map(read).collect())
    }

    /// The same for a list that can't be empty.
    pub(super) fn filled<T>(self, read: impl FnMut(Item<'r>) -> Option<T>) -> Option<Vec<T>> {
        if self.is_empty_list() {
            self.fail("expected at least one");
        }
        self.list(read).filter(|list| !list.is_empty())
    }

    pub(super) fn string(self) -> Option<String> {
        let text = self.as_str();
        if text.is_none() {
            self.expected("a string");
        }
        text.map(str::to_owned)
    }

    pub(super) fn secret(self) -> Option<Secret> {
        self.string().map(Secret::from)
    }

    pub(super) fn boolean(self) -> Option<bool> {
        match self.node.map(|node| &node.value) {
            Some(Value::Boolean(value)) => Some(*value),
            _ => {
                self.expected("true or false");
                None
            }
        }
    }

    pub(super) fn integer<T: TryFrom<i64> + TryInto<i64> + Copy + Display>(
        self,
        range: RangeInclusive<T>,
    ) -> Option<T> {
        let within = |number: i64| {
            let bounds = (*range.start()).try_into().ok().zip((*range.end()).try_into().ok());
            bounds.is_some_and(|(low, high)| (low..=high).contains(&number))
        };
        match self.node.map(|node| &node.value) {
            Some(Value::Integer(number)) if within(*number) => T::try_from(*number).ok(),
            _ => {
                self.expected(format_args!("an integer from {} to {}", range.start(), range.end()));
                None
            }
        }
    }

    /// A duration above zero.
    pub(super) fn duration(self) -> Option<Duration> {
        let duration = self.as_str().and_then(units::duration).filter(|duration| !duration.is_zero());
        if duration.is_none() {
            self.expected(r#"a duration like "250ms", "2s", "5m", "1h" or "1d""#);
        }
        duration
    }

    /// A duration above zero, or `"off"`.
    pub(super) fn timeout(self) -> Option<Option<Duration>> {
        if self.as_str() == Some("off") {
            return Some(None);
        }
        let duration = self.as_str().and_then(units::duration).filter(|duration| !duration.is_zero());
        if duration.is_none() {
            self.expected(r#"a duration like "250ms", "2s" or "5m", or "off""#);
        }
        duration.map(Some)
    }

    /// A size: text with its unit or a number of bytes.
    pub(super) fn size(self) -> Option<ByteSize> {
        let size = self.parse_size();
        if size.is_none() {
            self.expected(r#"a size like "64KiB", "1MiB" or "10MB", or a number of bytes"#);
        }
        size
    }

    pub(super) fn size_within(self, range: RangeInclusive<ByteSize>) -> Option<ByteSize> {
        let size = self.clone().size()?;
        if !range.contains(&size) {
            self.expected(format_args!("a size from {} to {}", range.start(), range.end()));
            return None;
        }
        Some(size)
    }

    /// A duration above zero and up to `most`.
    pub(super) fn duration_up_to(self, most: Duration) -> Option<Duration> {
        let duration = self.clone().duration()?;
        if duration > most {
            self.expected(format_args!("at most {most:?}"));
            return None;
        }
        Some(duration)
    }

    /// A size, or `"unlimited"`.
    pub(super) fn limit(self) -> Option<Option<ByteSize>> {
        if self.as_str() == Some("unlimited") {
            return Some(None);
        }
        let size = self.parse_size();
        if size.is_none() {
            self.expected(r#"a size like "64KiB" or "10MB", a number of bytes, or "unlimited""#);
        }
        size.map(Some)
    }

    /// PEM text with a block whose label ends in `label`, or the path of a file with it.
    pub(super) fn pem(self, label: &str) -> Option<String> {
        let text = self.clone().string()?;
        let pem = if text.contains("-----BEGIN ") {
            text
        } else {
            let read = self.reader.sources.borrow_mut().read(self.place, &text);
            match read {
                Ok(pem) => pem,
                Err(_) if self.shown("") != "" => {
                    self.fail("what the reference stands for is neither PEM text nor the path of a file");
                    return None;
                }
                Err(message) => {
                    self.fail(message);
                    return None;
                }
            }
        };
        let begins =
            |line: &str| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&format!("{label}-----"));
        if !pem.lines().any(begins) {
            self.fail(format!("there is no PEM block `{label}` in it"));
            return None;
        }
        Some(pem)
    }

    fn parse_size(&self) -> Option<ByteSize> {
        match self.node.map(|node| &node.value) {
            Some(Value::Integer(number)) => u64::try_from(*number).ok().map(ByteSize),
            Some(Value::String(text)) => units::size(text),
            _ => None,
        }
    }

    /// One of several words.
    pub(super) fn choice<T: Copy>(self, words: &[(&'static str, T)]) -> Option<T> {
        let text = self.as_str();
        let found = words.iter().find(|(word, _)| Some(*word) == text);
        if found.is_none() {
            let known: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            let hint = text.and_then(|text| nearest(text, words.iter().map(|(word, _)| *word)));
            match hint.filter(|_| text == Some(self.shown(text.unwrap_or_default()))) {
                Some(hint) => self.expected(format_args!("{} (did you mean {hint:?}?)", known.join(" or "))),
                None => self.expected(known.join(" or ")),
            }
        }
        found.map(|(_, value)| *value)
    }

    /// Text as its parser understands it.
    pub(super) fn parse<T>(self, what: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let value = self.as_str().and_then(parse);
        if value.is_none() {
            self.expected(what);
        }
        value
    }

    /// Text as its parser understands it, who says what is wrong with it.
    pub(super) fn check<T, E: Display>(self, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        let Some(text) = self.as_str() else {
            self.expected("a string");
            return None;
        };
        match parse(text) {
            Ok(value) => Some(value),
            Err(_) if self.node.is_some_and(|node| node.secret) => {
                self.fail("what the reference stands for is not valid here");
                None
            }
            Err(error) => {
                self.fail(error.to_string());
                None
            }
        }
    }

    /// A name out of those that there are.
    pub(super) fn reference(self, kind: &str, known: &BTreeSet<String>) -> Option<Name> {
        let name = self.clone().string()?;
        self.name_of(&name, kind, known)
    }

    /// The same for a name that is the key of this value.
    pub(super) fn name_of(&self, name: &str, kind: &str, known: &BTreeSet<String>) -> Option<Name> {
        if known.contains(name) {
            return Some(Name::from(name));
        }
        let shown = self.shown(name);
        match nearest(shown, known.iter().map(String::as_str)) {
            Some(hint) => self.fail(format!("unknown {kind} `{shown}`, did you mean `{hint}`?")),
            None => self.fail(format!("unknown {kind} `{shown}`")),
        }
        None
    }
}

/// The name that was likely meant.
fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
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
