//! Patterns of several rules over one text: what is found first counts, and of what begins at the same place, what the first rule finds.
//! All take linear time. What is found does not depend on where a text is cut into pieces: [`Patterns::next`] says where more has to be seen.

use std::ops::Range;

use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::ParserBuilder;

use super::detect::Detector;

/// What finds something in a text.
#[derive(Debug)]
pub(crate) enum Pattern {
    Regex {
        regex: Regex,
        /// The length of its longest match, if there is one.
        longest: Option<usize>,
    },
    Detector(Detector),
}

/// The longest match of a pattern over a text in pieces.
pub(crate) const LONGEST: usize = 4096;
/// How far a pattern looks around what it finds: one character, for `\b` and `$`.
pub(crate) const AROUND: usize = 4;
/// How large a compiled pattern may be, and what it may remember while it searches.
const SIZE: usize = 1 << 20;
const MEMORY: usize = 64 << 10;

impl Pattern {
    /// A pattern in the syntax of Rust's `regex`.
    pub(crate) fn regex(pattern: &str) -> Result<Pattern, String> {
        let syntax = ParserBuilder::new().build().parse(pattern).map_err(|error| what_is_wrong(&error))?;
        let properties = syntax.properties();
        if properties.minimum_len().is_none_or(|length| length == 0) {
            return Err(format!("`{pattern}` fits nothing, or an empty text"));
        }
        let regex = RegexBuilder::new(pattern).size_limit(SIZE).dfa_size_limit(MEMORY).build();
        let regex = regex.map_err(|error| what_is_wrong(&error))?;
        Ok(Pattern::Regex { regex, longest: properties.maximum_len() })
    }

    /// Whether it can search a text in pieces.
    pub(crate) fn is_bounded(&self) -> bool {
        match self {
            Pattern::Regex { longest, .. } => longest.is_some_and(|longest| longest <= LONGEST),
            Pattern::Detector(_) => true,
        }
    }

    fn next(&self, text: &[u8], from: usize, is_last: bool) -> Next {
        match self {
            Pattern::Detector(detector) => detector.next(text, from, is_last),
            Pattern::Regex { regex, longest } => {
                // A match depends on what is in it and around it: from here on it might still become another one.
                let undecided = match (is_last, longest) {
                    (true, _) => usize::MAX,
                    (false, Some(longest)) => (text.len() + 1).saturating_sub(longest + AROUND).max(from),
                    (false, None) => from,
                };
                match regex.find_at(text, from) {
                    Some(found) if found.start() < undecided => Next::Found { range: found.range(), is_open: false },
                    _ if undecided < text.len() => Next::Undecided(undecided),
                    _ => Next::Nothing,
                }
            }
        }
    }
}

/// An error shows the pattern with marks under it; its last line says what is wrong.
fn what_is_wrong(error: &impl ToString) -> String {
    let text = error.to_string();
    text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

/// The first thing in a text that a pattern has something to say of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    Nothing,
    Found {
        range: Range<usize>,
        /// Whether it is longer than what was looked at: what follows of the same kind belongs to it.
        is_open: bool,
    },
    /// Whether something begins here depends on what comes.
    Undecided(usize),
}

impl Next {
    fn begin(&self) -> usize {
        match self {
            Next::Nothing => usize::MAX,
            Next::Found { range, .. } => range.start,
            Next::Undecided(at) => *at,
        }
    }
}

/// Something that a rule has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) rule: usize,
    pub(crate) range: Range<usize>,
    /// Whether it is the rest of the one before.
    pub(crate) is_rest: bool,
}

/// The patterns of all rules.
#[derive(Debug, Default)]
pub(crate) struct Patterns {
    /// Each with the number of its rule, in their order.
    list: Vec<(usize, Pattern)>,
}

impl Patterns {
    pub(crate) fn add(&mut self, rule: usize, pattern: Pattern) {
        self.list.push((rule, pattern));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All that is found in a whole text.
    pub(crate) fn all<'a>(&'a self, text: &'a [u8]) -> Search<'a> {
        self.search(text, 0, None, true)
    }

    /// What is found behind `from`; `open` is the rule of something that was longer than what was looked at.
    pub(crate) fn search<'a>(&'a self, text: &'a [u8], from: usize, open: Option<usize>, is_last: bool) -> Search<'a> {
        let nexts = vec![None; self.list.len()];
        Search { patterns: self, text, from, open, is_last, nexts }
    }
}

/// A search on its way through a text.
pub(crate) struct Search<'a> {
    patterns: &'a Patterns,
    text: &'a [u8],
    /// Everything before is decided.
    pub(crate) from: usize,
    pub(crate) open: Option<usize>,
    is_last: bool,
    /// What each pattern has to say of the text from some place before `from` on.
    nexts: Vec<Option<Next>>,
}

impl Iterator for Search<'_> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        if let Some(rule) = self.open {
            let begin = self.from;
            self.from += self.text[begin..].iter().take_while(|byte| Detector::is_of_token(**byte)).count();
            if self.from < self.text.len() || self.is_last {
                self.open = None;
            }
            if self.from > begin {
                return Some(Found { rule, range: begin..self.from, is_rest: true });
            }
        }
        if self.open.is_some() || self.from >= self.text.len() {
            return None;
        }
        let mut first: Option<(usize, Next)> = None;
        for (slot, (rule, pattern)) in self.nexts.iter_mut().zip(&self.patterns.list) {
            if slot.as_ref().is_none_or(|next| next.begin() < self.from) {
                *slot = Some(pattern.next(self.text, self.from, self.is_last));
            }
            if let Some(next) = slot
                && first.as_ref().is_none_or(|(_, first)| next.begin() < first.begin())
            {
                first = Some((*rule, next.clone()));
            }
        }
        match first {
            Some((rule, Next::Found { range, is_open })) => {
                self.from = range.end;
                self.open = is_open.then_some(rule);
                Some(Found { rule, range, is_rest: false })
            }
            Some((_, Next::Undecided(at))) => {
                self.from = at;
                None
            }
            Some((_, Next::Nothing)) | None => {
                self.from = self.text.len();
                None
            }
        }
    }
}
