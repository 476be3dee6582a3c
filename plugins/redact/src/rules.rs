//! What is redacted, and what takes its place.

use std::borrow::Cow;

use serde::Deserialize;

use super::edit::{Edit, Place};
use super::pattern::Patterns;
use super::pointer::Pointers;

/// What becomes of something that a rule finds.
#[derive(Debug, Deserialize, Clone, Copy, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    #[default]
    Mask,
    Remove,
    Hash,
}

/// What takes the place of something that is masked, in each form that it is needed in.
#[derive(Debug, Default)]
pub(crate) struct Mask {
    plain: String,
    /// As a JSON string.
    quoted: String,
}

impl Mask {
    pub(crate) fn new(plain: String) -> Mask {
        Mask { quoted: quoted(&plain), plain }
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// What is between the quotes of a JSON string.
fn inner(quoted: &str) -> &str {
    &quoted[1..quoted.len() - 1]
}

/// The rules of a filter.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    /// Their names and actions; a number of a rule is its place here. The first of several that find the same decides.
    pub(crate) list: Vec<(String, Action)>,
    pub(crate) pointers: Pointers,
    pub(crate) patterns: Patterns,
    pub(crate) mask: Mask,
}

impl Rules {
    pub(crate) fn action(&self, rule: usize) -> Action {
        self.list[rule].1
    }

    /// What takes the place of an edit. `digest` makes the text that stands for something hashed, of which no letter needs an escape.
    pub(crate) fn replacement<E>(
        &self,
        edit: &Edit,
        digest: impl FnOnce(&[u8]) -> Result<String, E>,
    ) -> Result<Cow<'_, str>, E> {
        let quoted_or_not = |text: String| match edit.place {
            Place::Value => format!("\"{text}\""),
            Place::Null | Place::InString | Place::Plain | Place::Gone => text,
        };
        Ok(match (edit.place, self.action(edit.rule), &edit.subject) {
            (Place::Gone, _, _) => Cow::Borrowed(""),
            (Place::Null, _, _) => Cow::Borrowed("null"),
            (_, Action::Hash, Some(subject)) => Cow::Owned(quoted_or_not(digest(subject)?)),
            (_, Action::Remove, _) => Cow::Borrowed(""),
            (Place::Value, Action::Mask | Action::Hash, _) => Cow::Borrowed(&self.mask.quoted),
            (Place::InString, Action::Mask | Action::Hash, _) => Cow::Borrowed(inner(&self.mask.quoted)),
            (Place::Plain, Action::Mask | Action::Hash, _) => Cow::Borrowed(&self.mask.plain),
        })
    }
}
