//! Edits of a text by place, and how they are applied: what no edit names keeps its bytes.

use std::borrow::Cow;
use std::ops::Range;

use super::pattern::Found;

/// What stands where an edit is, and so what form its replacement has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// A JSON value as a whole: the replacement is a string with its quotes.
    Value,
    /// Something that can't be left out: `null` stands in its place.
    Null,
    /// A part of a JSON string.
    InString,
    /// A part of a text.
    Plain,
    /// A member or an element: nothing stays.
    Gone,
}

/// Bytes that something else takes the place of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Edit {
    pub(crate) range: Range<usize>,
    /// The rule that says what takes their place; it has no meaning where nothing does.
    pub(crate) rule: usize,
    pub(crate) place: Place,
    /// What is hashed, where the rule says so.
    pub(crate) subject: Option<Vec<u8>>,
}

impl Edit {
    pub(crate) fn gone(range: Range<usize>) -> Edit {
        Edit { range, rule: 0, place: Place::Gone, subject: None }
    }
}

/// Edits in the order of their places, none of which overlap, and how often each rule has found something.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Edits {
    pub(crate) list: Vec<Edit>,
    counts: Vec<u64>,
}

impl Edits {
    pub(crate) fn count(&mut self, rule: usize) {
        if self.counts.len() <= rule {
            self.counts.resize(rule + 1, 0);
        }
        self.counts[rule] += 1;
    }

    /// The edit for what a pattern has found. The rest of something of which the beginning was redacted is left out.
    pub(crate) fn found(&mut self, found: Found, range: Range<usize>, place: Place, subject: Option<Vec<u8>>) {
        if found.is_rest {
            return self.list.push(Edit::gone(range));
        }
        self.count(found.rule);
        self.list.push(Edit { range, rule: found.rule, place, subject });
    }

    /// Each rule that has found something, and how often.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (usize, u64)> {
        self.counts.iter().copied().enumerate().filter(|(_, count)| *count > 0)
    }

    /// Another text's edits, for the counts alone.
    #[cfg(test)]
    pub(crate) fn absorb(&mut self, other: &Edits) {
        for (rule, count) in other.counts() {
            (0..count).for_each(|_| self.count(rule));
        }
    }

    /// The text with the edits. `replacement` says what takes the place of each.
    pub(crate) fn apply<'a, E>(
        &self,
        text: &[u8],
        mut replacement: impl FnMut(&Edit) -> Result<Cow<'a, str>, E>,
    ) -> Result<Vec<u8>, E> {
        let mut out = Vec::with_capacity(text.len());
        let mut at = 0;
        for edit in &self.list {
            out.extend_from_slice(&text[at..edit.range.start]);
            out.extend_from_slice(replacement(edit)?.as_bytes());
            at = edit.range.end;
        }
        out.extend_from_slice(&text[at..]);
        Ok(out)
    }
}
