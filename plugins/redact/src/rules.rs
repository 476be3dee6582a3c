//! What is redacted, and what takes its place.

use serde::Deserialize;

use crate::edit::{Edit, Place};
use crate::pattern::Patterns;
use crate::pointer::Pointers;

/// What becomes of something that a rule finds.
#[derive(Debug, Deserialize, Clone, Copy, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    #[default]
    Mask,
    Remove,
    Hash,
}

/// The rules of a filter.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    /// Their names and actions; a number of a rule is its place here. The first of several that find the same decides.
    pub(crate) list: Vec<(String, Action)>,
    pub(crate) pointers: Pointers,
    pub(crate) patterns: Patterns,
    pub(crate) mask: String,
}

impl Rules {
    pub(crate) fn action(&self, rule: usize) -> Action {
        self.list[rule].1
    }

    /// What takes the place of an edit. `digest` makes the text that stands for something hashed.
    pub(crate) fn replacement<E>(
        &self,
        edit: &Edit,
        digest: impl FnOnce(&[u8]) -> Result<String, E>,
    ) -> Result<Vec<u8>, E> {
        let in_json = match edit.place {
            Place::Gone => return Ok(Vec::new()),
            Place::Null => return Ok(b"null".to_vec()),
            Place::Plain => false,
            Place::Value | Place::InString => true,
        };
        let text = match (self.action(edit.rule), &edit.subject) {
            (Action::Hash, Some(subject)) => digest(subject)?,
            (Action::Remove, _) => String::new(),
            (Action::Mask, _) | (Action::Hash, None) => self.mask.clone(),
        };
        if !in_json {
            return Ok(text.into_bytes());
        }
        let quoted = serde_json::Value::String(text).to_string().into_bytes();
        Ok(match edit.place {
            Place::InString => quoted[1..quoted.len() - 1].to_vec(),
            _ => quoted,
        })
    }
}
