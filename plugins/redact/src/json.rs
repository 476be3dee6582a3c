//! Finds what is to be redacted in a JSON document (RFC 8259), by its place in the bytes: everything else keeps its form, its order, its
//! duplicate members and the digits of its numbers.

use std::borrow::Cow;
use std::ops::Range;

use super::edit::{Edit, Edits, Place};
use super::pointer::{Branch, Trail};
use super::rules::{Action, Rules};

/// The text is no JSON document, or nested too deeply.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotJson;

/// How deeply a document may be nested: as deep as most parsers go.
const DEPTH: usize = 128;

/// What is to be redacted in a document, in the order of its bytes.
pub(crate) fn find(text: &[u8], rules: &Rules) -> Result<Edits, NotJson> {
    let text = str::from_utf8(text).map_err(|_| NotJson)?;
    let mut scan = Scan {
        text: text.as_bytes(),
        // RFC 8259 §8.1: parsers may ignore a byte order mark.
        at: if text.starts_with('\u{feff}') { 3 } else { 0 },
        rules,
        trail: rules.pointers.root(),
        edits: Edits::default(),
        depth: 0,
    };
    scan.document()?;
    Ok(scan.edits)
}

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
    rules: &'a Rules,
    trail: Trail,
    edits: Edits,
    depth: usize,
}

/// A string: what is between its quotes, and whether that has escapes.
struct Text {
    inner: Range<usize>,
    is_escaped: bool,
}

/// The members or elements of a value, as far as removing some of them concerns the others.
#[derive(Default)]
struct Siblings {
    /// Whether one before this stays, so that the comma before a removed one goes with it.
    is_any_kept: bool,
    comma: usize,
    /// Where the removed ones begin that have none before them that stays: the comma behind them goes.
    leading: Option<usize>,
}

impl<'a> Scan<'a> {
    fn document(&mut self) -> Result<(), NotJson> {
        self.blanks();
        let begin = self.at;
        let hit = self.rules.pointers.hit(&self.trail);
        self.value(hit.is_some())?;
        if let Some(rule) = hit {
            let place = if self.rules.action(rule) == Action::Remove { Place::Null } else { Place::Value };
            self.replace(begin..self.at, rule, place);
        }
        self.blanks();
        if self.at == self.text.len() { Ok(()) } else { Err(NotJson) }
    }

    /// Reads a value. What is in one that is redacted as a whole is only read.
    fn value(&mut self, is_redacted: bool) -> Result<(), NotJson> {
        match self.peek()? {
            b'{' => self.inside(is_redacted, Self::object),
            b'[' => self.inside(is_redacted, Self::array),
            b'"' => {
                let text = self.string()?;
                if !is_redacted {
                    self.search(&text);
                }
                Ok(())
            }
            b't' => self.literal(b"true"),
            b'f' => self.literal(b"false"),
            b'n' => self.literal(b"null"),
            _ => {
                let begin = self.at;
                self.number()?;
                if !is_redacted {
                    self.search_number(begin..self.at);
                }
                Ok(())
            }
        }
    }

    fn inside(
        &mut self,
        is_redacted: bool,
        read: impl FnOnce(&mut Self, bool) -> Result<(), NotJson>,
    ) -> Result<(), NotJson> {
        if self.depth == DEPTH {
            return Err(NotJson);
        }
        self.depth += 1;
        self.at += 1;
        self.blanks();
        read(self, is_redacted)?;
        self.depth -= 1;
        Ok(())
    }

    fn object(&mut self, is_redacted: bool) -> Result<(), NotJson> {
        let mut siblings = Siblings::default();
        if self.peek()? == b'}' {
            self.at += 1;
            return Ok(());
        }
        loop {
            let begin = self.at;
            if self.peek()? != b'"' {
                return Err(NotJson);
            }
            let name = self.string()?;
            self.blanks();
            if self.peek()? != b':' {
                return Err(NotJson);
            }
            self.at += 1;
            self.blanks();
            let goes_down = !is_redacted && !self.trail.is_lost();
            let mut hit = None;
            if goes_down {
                let decoded = self.decoded(&name);
                self.rules.pointers.down(&mut self.trail, Branch::Member(&decoded));
                hit = self.rules.pointers.hit(&self.trail);
            }
            let is_kept = hit.is_none_or(|rule| self.rules.action(rule) != Action::Remove);
            if is_kept && !is_redacted {
                self.keep(&mut siblings, begin);
                self.search(&name);
            }
            self.child(&mut siblings, begin, is_redacted, hit)?;
            if goes_down {
                self.trail.up();
            }
            if self.is_end(&mut siblings, b'}')? {
                return Ok(());
            }
        }
    }

    fn array(&mut self, is_redacted: bool) -> Result<(), NotJson> {
        let mut siblings = Siblings::default();
        if self.peek()? == b']' {
            self.at += 1;
            return Ok(());
        }
        for number in 0.. {
            let begin = self.at;
            let goes_down = !is_redacted && !self.trail.is_lost();
            let mut hit = None;
            if goes_down {
                self.rules.pointers.down(&mut self.trail, Branch::Element(number));
                hit = self.rules.pointers.hit(&self.trail);
            }
            let is_kept = hit.is_none_or(|rule| self.rules.action(rule) != Action::Remove);
            if is_kept && !is_redacted {
                self.keep(&mut siblings, begin);
            }
            self.child(&mut siblings, begin, is_redacted, hit)?;
            if goes_down {
                self.trail.up();
            }
            if self.is_end(&mut siblings, b']')? {
                break;
            }
        }
        Ok(())
    }

    /// A value in an object or array, whose member or element begins at `begin`.
    fn child(
        &mut self,
        siblings: &mut Siblings,
        begin: usize,
        is_redacted: bool,
        hit: Option<usize>,
    ) -> Result<(), NotJson> {
        let value = self.at;
        self.value(is_redacted || hit.is_some())?;
        let Some(rule) = hit else { return Ok(()) };
        if self.rules.action(rule) != Action::Remove {
            self.replace(value..self.at, rule, Place::Value);
        } else if siblings.is_any_kept {
            self.replace(siblings.comma..self.at, rule, Place::Gone);
        } else {
            self.edits.count(rule);
            siblings.leading.get_or_insert(begin);
        }
        Ok(())
    }

    /// A member or element that stays begins here: removed ones before it go with what separates them from it.
    fn keep(&mut self, siblings: &mut Siblings, begin: usize) {
        siblings.is_any_kept = true;
        if let Some(first) = siblings.leading.take() {
            self.edits.list.push(Edit::gone(first..begin));
        }
    }

    /// What follows a member or element: a comma, or the end.
    fn is_end(&mut self, siblings: &mut Siblings, close: u8) -> Result<bool, NotJson> {
        let end = self.at;
        self.blanks();
        let next = self.peek()?;
        if next == close {
            if let Some(first) = siblings.leading.take() {
                self.edits.list.push(Edit::gone(first..end));
            }
            self.at += 1;
            return Ok(true);
        }
        if next != b',' {
            return Err(NotJson);
        }
        siblings.comma = self.at;
        self.at += 1;
        self.blanks();
        Ok(false)
    }

    /// An edit of a value as a whole.
    fn replace(&mut self, range: Range<usize>, rule: usize, place: Place) {
        let is_hashed = place == Place::Value && self.rules.action(rule) == Action::Hash;
        let subject = is_hashed.then(|| {
            let raw = &self.text[range.clone()];
            match raw {
                [b'"', inner @ .., b'"'] => decode(inner).map_or_else(|| inner.to_vec(), |(decoded, _)| decoded),
                raw => raw.to_vec(),
            }
        });
        self.edits.count(rule);
        self.edits.list.push(Edit { range, rule, place, subject });
    }

    /// Edits of what the patterns find in a string.
    fn search(&mut self, text: &Text) {
        if self.rules.patterns.is_empty() {
            return;
        }
        let raw = &self.text[text.inner.clone()];
        let decoded = if text.is_escaped { decode(raw) } else { None };
        let searched = decoded.as_ref().map_or(raw, |(decoded, _)| decoded);
        for found in self.rules.patterns.all(searched) {
            let place = |at: usize| text.inner.start + decoded.as_ref().map_or(at, |(_, places)| places[at]);
            let is_hashed = self.rules.action(found.rule) == Action::Hash && !found.is_rest;
            let subject = is_hashed.then(|| searched[found.range.clone()].to_vec());
            let range = place(found.range.start)..place(found.range.end);
            self.edits.found(found, range, Place::InString, subject);
        }
    }

    /// A number in which a pattern finds something goes as a whole.
    fn search_number(&mut self, range: Range<usize>) {
        let Some(found) = self.rules.patterns.all(&self.text[range.clone()]).next() else { return };
        let place = if self.rules.action(found.rule) == Action::Remove { Place::Null } else { Place::Value };
        self.replace(range, found.rule, place);
    }

    /// A string without its escapes.
    fn decoded(&self, text: &Text) -> Cow<'a, [u8]> {
        let raw = &self.text[text.inner.clone()];
        match text.is_escaped.then(|| decode(raw)).flatten() {
            Some((decoded, _)) => Cow::Owned(decoded),
            None => Cow::Borrowed(raw),
        }
    }

    fn string(&mut self) -> Result<Text, NotJson> {
        let begin = self.at + 1;
        let mut is_escaped = false;
        self.at = begin;
        loop {
            match self.peek()? {
                b'"' => {
                    let inner = begin..self.at;
                    self.at += 1;
                    return Ok(Text { inner, is_escaped });
                }
                b'\\' => {
                    is_escaped = true;
                    self.at += 1;
                    match self.peek()? {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => self.at += 1,
                        b'u' => {
                            let digits = self.text.get(self.at + 1..self.at + 5).ok_or(NotJson)?;
                            if !digits.iter().all(u8::is_ascii_hexdigit) {
                                return Err(NotJson);
                            }
                            self.at += 5;
                        }
                        _ => return Err(NotJson),
                    }
                }
                0..0x20 => return Err(NotJson),
                _ => self.at += 1,
            }
        }
    }

    fn number(&mut self) -> Result<(), NotJson> {
        if self.peek()? == b'-' {
            self.at += 1;
        }
        if self.peek()? == b'0' {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.text.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.text.get(self.at) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), NotJson> {
        let count = self.text[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        if count == 0 { Err(NotJson) } else { Ok(()) }
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), NotJson> {
        if !self.text[self.at..].starts_with(word) {
            return Err(NotJson);
        }
        self.at += word.len();
        Ok(())
    }

    fn blanks(&mut self) {
        let blanks = self.text[self.at..].iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
        self.at += blanks.count();
    }

    fn peek(&self) -> Result<u8, NotJson> {
        self.text.get(self.at).copied().ok_or(NotJson)
    }
}

/// The text of a string whose escapes are well-formed, and where each of its bytes (and its end) stands in what was given. None if there are no
/// escapes.
fn decode(raw: &[u8]) -> Option<(Vec<u8>, Vec<usize>)> {
    let mut at = raw.iter().position(|byte| *byte == b'\\')?;
    let mut out = raw[..at].to_vec();
    let mut places: Vec<usize> = (0..at).collect();
    while at < raw.len() {
        let begin = at;
        if raw[at] != b'\\' {
            out.push(raw[at]);
            at += 1;
        } else {
            let letter = match raw.get(at + 1)? {
                b'b' => '\u{8}',
                b'f' => '\u{c}',
                b'n' => '\n',
                b'r' => '\r',
                b't' => '\t',
                b'u' => {
                    let (letter, length) = unicode(&raw[at..]);
                    at += length - 2;
                    letter
                }
                other => char::from(*other),
            };
            at += 2;
            out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
        }
        places.resize(out.len(), begin);
    }
    places.push(at);
    Some((out, places))
}

/// The character of an escape by number, and the length of that: two escapes for a pair of surrogates. Half a pair is no character.
fn unicode(raw: &[u8]) -> (char, usize) {
    let unit = |at: usize| {
        let digits = raw.get(at..at + 6).filter(|escape| escape.starts_with(b"\\u"))?;
        u16::from_str_radix(str::from_utf8(&digits[2..]).ok()?, 16).ok()
    };
    let units = [unit(0).unwrap_or(0xfffd), unit(6).unwrap_or(0)];
    match char::decode_utf16(units).next() {
        Some(Ok(letter)) => (letter, if letter.len_utf16() == 2 { 12 } else { 6 }),
        _ => (char::REPLACEMENT_CHARACTER, 6),
    }
}
