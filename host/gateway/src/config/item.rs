//! One value of the tree as what it should be: text, numbers, durations, references, lists.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::key::Words;
use super::model::{ByteSize, Name, Pem, Secret};
use super::read::{Reader, Table, nearest};
use super::tree::{KeyValue, Node, Place, Value};
use super::units;

/// A value that is there, or (when keys are listed) one that could be.
#[derive(Clone)]
pub(super) struct Item<'r> {
    pub(super) reader: &'r Reader,
    pub(super) node: Option<&'r Node>,
    /// Where to point at.
    pub(super) place: Place,
    pub(super) path: String,
    /// It is written in a table that is inherited from. What is wrong with it by itself is found there.
    pub(super) inherited: bool,
    /// It is an item of a list.
    listed: bool,
}

impl<'r> Item<'r> {
    pub(super) fn of(reader: &'r Reader, node: &'r Node, place: Place, path: String, inherited: bool) -> Self {
        Self { reader, node: Some(node), place, path, inherited, listed: false }
    }

    /// What could be there.
    pub(super) fn absent(reader: &'r Reader, place: Place, path: String) -> Self {
        Self { reader, node: None, place, path, inherited: false, listed: false }
    }

    pub(super) fn fail(&self, message: impl Into<String>) {
        if self.node.is_some() && !self.inherited {
            self.reader.fail(self.place, &self.path, message);
        }
    }

    /// Refuses the value: it is not what was expected. In a listing this is what the key takes.
    pub(super) fn expected(&self, what: impl Display) {
        let Some(node) = self.node else {
            return self.takes(what);
        };
        if matches!(node.value, Value::Broken) {
            return;
        }
        let from = node.reference.as_ref().map(|reference| format!(" ({reference})")).unwrap_or_default();
        self.fail(format!("expected {what}, found {}{from}", node.shown()));
    }

    /// Says in a listing what the key takes. The first to say so is right.
    fn takes(&self, what: impl Display) {
        self.reader.amend(&self.path, |doc| {
            if doc.expected.is_empty() {
                doc.expected = if self.listed { format!("a list: {what}") } else { what.to_string() };
            }
        });
    }

    /// The same, for a value that is read in several steps.
    pub(super) fn taking(self, what: impl Display) -> Self {
        if self.node.is_none() {
            self.takes(what);
        }
        self
    }

    /// The text as an error may show it.
    pub(super) fn shown<'t>(&self, text: &'t str) -> &'t str {
        if self.is_secret() { "…" } else { text }
    }

    fn is_secret(&self) -> bool {
        self.node.is_some_and(|node| node.secret)
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
        let entries: &[KeyValue] = match self.node.map(|node| &node.value) {
            None => &[],
            Some(Value::Table(entries)) => entries,
            Some(_) => {
                self.expected("a table");
                return None;
            }
        };
        Some(Table::new(self.reader, entries, self.place, self.path))
    }

    /// The items of a list, each with its index in its path.
    pub(super) fn items(self) -> Vec<Item<'r>> {
        match self.node.map(|node| &node.value) {
            None => vec![Item { listed: true, ..self }],
            Some(Value::Array(nodes)) => (nodes.iter().enumerate())
                .map(|(i, node)| Item {
                    listed: true,
                    ..Item::of(self.reader, node, node.place, format!("{}[{i}]", self.path), self.inherited)
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
        self.reader.hide(&self.path);
        let text = self.as_str();
        if text.is_none() {
            match self.node {
                // What is there in its place may be the secret without its quotes.
                Some(node) if !matches!(node.value, Value::Broken) => self.fail("expected a string"),
                Some(_) => {}
                None => self.expected("a string"),
            }
        }
        text.map(|text| Secret::from(text.to_owned()))
    }

    pub(super) fn boolean(self) -> Option<bool> {
        let value = match self.node.map(|node| &node.value) {
            Some(Value::Boolean(value)) => Some(*value),
            // A reference takes the type that is expected.
            _ => self.as_reference().and_then(|text| text.parse().ok()),
        };
        if value.is_none() {
            self.expected("true or false");
        }
        value
    }

    /// True or false, or a table, which is as good as true.
    pub(super) fn switch(self) -> Option<bool> {
        let item = self.taking("true, false or a table");
        match item.node.map(|node| &node.value) {
            Some(Value::Table(_)) => Some(true),
            Some(Value::Boolean(value)) => Some(*value),
            Some(_) => {
                let value = item.as_reference().and_then(|text| text.parse().ok());
                if value.is_none() {
                    item.expected("true, false or a table");
                }
                value
            }
            None => None,
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
        let number = self.as_integer().filter(|number| within(*number));
        if number.is_none() {
            self.expected(format_args!("an integer from {} to {}", range.start(), range.end()));
        }
        number.and_then(|number| T::try_from(number).ok())
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
        let what = format!("a size from {} to {}", range.start(), range.end());
        let size = self.clone().taking(&what).size()?;
        if !range.contains(&size) {
            self.expected(what);
            return None;
        }
        Some(size)
    }

    /// A duration above zero and up to `most`.
    pub(super) fn duration_up_to(self, most: Duration) -> Option<Duration> {
        let duration = self.clone().taking(format_args!("a duration of at most {most:?}")).duration()?;
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
        self.pem_from(label).map(|pem| pem.text)
    }

    /// The same for what a listener shows or verifies, with the file that it is from.
    pub(super) fn pem_of_listener(self, label: &str) -> Option<Pem> {
        let reader = self.reader;
        let pem = self.pem_from(label)?;
        if let Some(file) = &pem.file {
            reader.sources.borrow_mut().note_of_listeners(file.clone());
        }
        Some(pem)
    }

    fn pem_from(self, label: &str) -> Option<Pem> {
        self.reader.hide(&self.path);
        let text =
            self.clone().taking(format_args!("PEM text with a `{label}`, or the path of a file with it")).string()?;
        let pem = if text.contains("-----BEGIN ") {
            Pem { text, file: self.node.and_then(|node| node.file.clone()) }
        } else {
            let read = self.reader.sources.borrow_mut().read(self.place, &text);
            match read {
                Ok(pem) => Pem { text: pem, file: Some(self.directory().join(&text)) },
                // A key without its first line is no path, and not to be shown.
                Err(_) if label == "PRIVATE KEY" && (text.len() > 255 || text.contains('\n')) => {
                    self.fail("expected PEM text that begins with `-----BEGIN `, or the path of a file with it");
                    return None;
                }
                Err(_) if self.is_secret() => {
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
        if !pem.text.lines().any(begins) {
            self.fail(format!("there is no PEM block `{label}` in it"));
            return None;
        }
        Some(pem)
    }

    fn parse_size(&self) -> Option<ByteSize> {
        match self.node.map(|node| &node.value) {
            Some(Value::String(text)) if self.as_integer().is_none() => units::size(text),
            _ => self.as_integer().and_then(|number| u64::try_from(number).ok()).map(ByteSize),
        }
    }

    /// A number, or the text of a reference that is one.
    fn as_integer(&self) -> Option<i64> {
        match self.node.map(|node| &node.value) {
            Some(Value::Integer(number)) => Some(*number),
            _ => self.as_reference().and_then(|text| text.parse().ok()),
        }
    }

    /// The text of a value that is a reference and nothing else.
    fn as_reference(&self) -> Option<&'r str> {
        self.as_str().filter(|_| self.node.is_some_and(|node| node.reference.is_some()))
    }

    /// A word of its type.
    pub(super) fn word<T: Words>(self) -> Option<T> {
        let text = self.as_str();
        let found = T::WORDS.iter().find(|(word, _)| Some(*word) == text);
        if found.is_none() {
            let known: Vec<String> = T::WORDS.iter().map(|(word, _)| format!("{word:?}")).collect();
            let near = |text| nearest(text, T::WORDS.iter().map(|(word, _)| *word));
            match text.filter(|_| !self.is_secret()).and_then(near) {
                Some(hint) => self.expected(format_args!("{} (did you mean {hint:?}?)", known.join(" or "))),
                None => self.expected(known.join(" or ")),
            }
        }
        found.map(|(_, value)| value.clone())
    }

    /// Text as its parser understands it.
    pub(super) fn parse<T>(self, what: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let value = self.as_str().and_then(parse);
        if value.is_none() {
            self.expected(what);
        }
        value
    }

    /// Text as its parser understands it, who says what is wrong with it. `what` is for the listing.
    pub(super) fn check<T, E: Display>(self, what: &str, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        if self.node.is_none() {
            self.takes(what);
        }
        let Some(text) = self.as_str() else {
            self.expected("a string");
            return None;
        };
        match parse(text) {
            Ok(value) => Some(value),
            Err(_) if self.is_secret() => {
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
        let name = self
            .clone()
            .taking(format_args!(
                "the name of {} {kind}",
                if matches!(kind, "upstream" | "authority") { "an" } else { "a" }
            ))
            .string()?;
        self.name_of(&name, kind, known)
    }

    /// The same for a name that is the key of this value.
    pub(super) fn name_of(&self, name: &str, kind: &str, known: &BTreeSet<String>) -> Option<Name> {
        if known.contains(name) {
            return Some(Name::from(name));
        }
        let shown = self.shown(name);
        let known = known.iter();
        match nearest(shown, known.map(String::as_str)) {
            Some(hint) => self.fail(format!("unknown {kind} `{shown}`, did you mean `{hint}`?")),
            None => self.fail(format!("unknown {kind} `{shown}`")),
        }
        None
    }
}
