//! A key and what is said of it. A key can't be read without its meaning, an example and what holds without it; of these the
//! reference of all keys is made, so that adding a key is adding the line that reads it.

use std::path::PathBuf;
use std::time::Duration;

use http::header::HeaderName;
use http::{Method, StatusCode};

use super::item::Item;
use super::model::{ByteSize, FileMode, Share};
use super::read::{Explained, Table, ValueSource};
use super::tree::join;
use super::units;
use crate::http::forwarded::TrustedPeers;

/// A key of a table, about to be read.
pub(super) struct Key<'t, 'r> {
    pub(super) table: &'t Table<'r>,
    pub(super) name: &'static str,
    pub(super) meaning: &'static str,
    pub(super) example: &'static str,
}

/// What is known of a key without a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyDoc {
    /// `routes.*.timeouts.request`, with `*` for a name. The items of a list have the path of the list.
    pub path: String,
    /// One or more sentences.
    pub meaning: &'static str,
    /// A value as it is written in a file.
    pub example: &'static str,
    /// What its value can be, as errors say it: `a duration like "2s"`.
    pub expected: String,
    pub absent: Absent,
}

/// What holds where a key is not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Absent {
    /// The key has to be written.
    Required,
    /// A value, as it would be written.
    Value(String),
    /// The value of another key.
    SameAs(&'static str),
    /// What that means, in words.
    Unset(&'static str),
}

/// A value as it is written in a file.
pub(super) trait Written {
    fn written(&self) -> String;
}

/// A type whose values are written as words.
pub(super) trait Words: Clone + PartialEq + 'static {
    const WORDS: &'static [(&'static str, Self)];
}

impl<'r> Key<'_, 'r> {
    /// The value, or its default.
    pub(super) fn or<T: Written>(self, default: T, read: impl FnOnce(Item<'r>) -> Option<T>) -> T {
        let written = default.written();
        let value = self.read(Absent::Value(written.clone()), || (written, ValueSource::Default), read);
        value.unwrap_or(default)
    }

    /// The value as one of the words of its type, or its default.
    pub(super) fn word_or<T: Words>(self, default: T) -> T {
        self.or(default, Item::word)
    }

    /// The value, or that of another key.
    pub(super) fn or_as<T: Written>(
        self,
        other: &'static str,
        default: T,
        read: impl FnOnce(Item<'r>) -> Option<T>,
    ) -> T {
        let missing = || (default.written(), ValueSource::SameAs(other));
        self.read(Absent::SameAs(other), missing, read).unwrap_or(default)
    }

    /// The value, if it is there and right. `unset` says what holds without it.
    pub(super) fn get<T>(self, unset: &'static str, read: impl FnOnce(Item<'r>) -> Option<T>) -> Option<T> {
        self.read(Absent::Unset(unset), || (unset.to_owned(), ValueSource::Default), read)
    }

    /// The value of a key that has to be there.
    pub(super) fn require<T>(self, read: impl FnOnce(Item<'r>) -> Option<T>) -> Option<T> {
        let (table, name) = (self.table, self.name);
        if !table.reader.is_listing() && !table.has(name) {
            table.fail(format!("the key `{name}` is missing"));
        }
        self.read(Absent::Required, || ("nothing".to_owned(), ValueSource::Default), read)
    }

    fn read<T>(
        self,
        absent: Absent,
        missing: impl FnOnce() -> (String, ValueSource),
        read: impl FnOnce(Item<'r>) -> Option<T>,
    ) -> Option<T> {
        let path = || join(&self.table.path, self.name);
        self.table.reader.list(|| KeyDoc { absent, ..KeyDoc::new(path(), self.meaning, self.example) });
        let Some(item) = self.table.item(self.name) else {
            self.table.reader.note(|| {
                let (value, source) = missing();
                Explained { key: path(), value, source }
            });
            return None;
        };
        read(item)
    }
}

impl KeyDoc {
    /// A key that has no default: its name is one that the user gives.
    pub(super) fn new(path: String, meaning: &'static str, example: &'static str) -> Self {
        Self { path, meaning, example, expected: String::new(), absent: Absent::Unset("-") }
    }
}

impl<T: Words> Written for T {
    fn written(&self) -> String {
        let found = T::WORDS.iter().find(|(_, value)| value == self);
        found.map(|(word, _)| format!("{word:?}")).unwrap_or_default()
    }
}

impl Written for Duration {
    fn written(&self) -> String {
        format!("{:?}", units::show_duration(*self))
    }
}

impl Written for Option<Duration> {
    fn written(&self) -> String {
        self.map_or_else(|| r#""off""#.to_owned(), |duration| duration.written())
    }
}

impl Written for ByteSize {
    fn written(&self) -> String {
        format!("\"{self}\"")
    }
}

impl Written for Option<ByteSize> {
    fn written(&self) -> String {
        self.map_or_else(|| r#""unlimited""#.to_owned(), |size| size.written())
    }
}

impl Written for FileMode {
    fn written(&self) -> String {
        format!("\"{:04o}\"", self.0)
    }
}

impl Written for HeaderName {
    fn written(&self) -> String {
        format!("{:?}", self.as_str())
    }
}

impl Written for Method {
    fn written(&self) -> String {
        format!("{:?}", self.as_str())
    }
}

impl Written for StatusCode {
    fn written(&self) -> String {
        self.as_u16().to_string()
    }
}

impl Written for String {
    fn written(&self) -> String {
        format!("{self:?}")
    }
}

impl Written for PathBuf {
    fn written(&self) -> String {
        format!("{:?}", self.to_string_lossy())
    }
}

impl Written for TrustedPeers {
    /// Nobody, by default.
    fn written(&self) -> String {
        "[]".to_owned()
    }
}

impl Written for Share {
    fn written(&self) -> String {
        self.as_percent().to_string()
    }
}

impl<T> Written for Vec<T> {
    /// A list has no default but the empty one.
    fn written(&self) -> String {
        "[]".to_owned()
    }
}

macro_rules! written_as_shown {
    ($($type:ty),*) => {$(
        impl Written for $type {
            fn written(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

written_as_shown!(bool, i64, u8, u16, u32, u64, usize);
