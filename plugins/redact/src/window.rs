//! Redacts a text that comes in pieces. What is found is what would be found in the whole text; as much is kept back as may still be the
//! beginning of something.

use super::edit::{Edits, Place};
use super::pattern::AROUND;
use super::rules::{Action, Rules};

/// What is known of the text that has gone on: it is kept from piece to piece.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Window {
    /// Its last bytes, which patterns may look back at.
    before: Vec<u8>,
    /// The rule of a token that is longer than what was looked at.
    open: Option<usize>,
}

impl Window {
    /// Looks at a piece, with what was kept back before it. Answers how much of it is decided, and the edits in that: the rest is to be kept back.
    pub(crate) fn push(&mut self, rules: &Rules, piece: &[u8], is_last: bool) -> (usize, Edits) {
        let begin = self.before.len();
        let text = [&self.before, piece].concat();
        let mut edits = Edits::default();
        let mut search = rules.patterns.search(&text, begin, self.open, is_last);
        for found in search.by_ref() {
            let is_hashed = rules.action(found.rule) == Action::Hash && !found.is_rest;
            let subject = is_hashed.then(|| text[found.range.clone()].to_vec());
            let range = found.range.start - begin..found.range.end - begin;
            edits.found(found, range, Place::Plain, subject);
        }
        let end = search.from;
        self.open = search.open;
        self.before = text[end.saturating_sub(AROUND)..end].to_vec();
        (end - begin, edits)
    }

    /// The form in which it is kept.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        // There are at most 64 rules.
        let mut bytes = vec![self.open.map_or(0, |rule| rule as u8 + 1)];
        bytes.extend_from_slice(&self.before);
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Window> {
        let (open, before) = bytes.split_first()?;
        Some(Window { before: before.to_vec(), open: usize::from(*open).checked_sub(1) })
    }
}
