//! `Cache-Control` taken apart: `#( token [ "=" ( token / quoted-string ) ] )` (RFC 9111 §5.2), and what is sent in its place.

use std::borrow::Cow;
use std::time::Duration;

use super::{Scope, delta_seconds, scope_of};

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Argument<'a> {
    None,
    /// A token, or a quoted string without its quotes: recipients ought to accept both.
    Text(Cow<'a, [u8]>),
    /// Blanks around `=`, or a quote in the wrong place.
    Malformed,
}

impl Argument<'_> {
    pub(super) fn seconds(&self) -> Option<Duration> {
        match self {
            Argument::Text(text) => delta_seconds(text),
            Argument::None | Argument::Malformed => None,
        }
    }

    pub(super) fn scope(&self) -> Scope {
        match self {
            Argument::Text(text) => scope_of(text),
            Argument::None | Argument::Malformed => Scope::Whole,
        }
    }
}

/// The directives of one field line, each with its argument.
pub(super) struct Directives<'a> {
    rest: &'a [u8],
}

impl<'a> Directives<'a> {
    pub(super) fn of(line: &'a [u8]) -> Self {
        Directives { rest: line }
    }
}

impl<'a> Iterator for Directives<'a> {
    type Item = (&'a [u8], Argument<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        while !self.rest.is_empty() {
            let end = member_end(self.rest);
            let member = self.rest[..end].trim_ascii();
            self.rest = self.rest.get(end + 1..).unwrap_or_default();
            if !member.is_empty() {
                return Some(directive(member));
            }
        }
        None
    }
}

/// Where the first member ends: at a comma outside of quotes. A quote that nothing closes is a byte like any other, so that it hides no
/// directive behind it.
fn member_end(list: &[u8]) -> usize {
    let mut at = 0;
    while at < list.len() {
        match list[at] {
            b',' => return at,
            b'"' => at = closing_quote(list, at).unwrap_or(at) + 1,
            _ => at += 1,
        }
    }
    list.len()
}

fn closing_quote(list: &[u8], open: usize) -> Option<usize> {
    let mut at = open + 1;
    while at < list.len() {
        match list[at] {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    None
}

fn directive(member: &[u8]) -> (&[u8], Argument<'_>) {
    let Some(equals) = member.iter().position(|byte| *byte == b'=') else { return (member, Argument::None) };
    let (name, argument) = (&member[..equals], &member[equals + 1..]);
    if name.trim_ascii_end().len() < name.len() || argument.trim_ascii_start().len() < argument.len() {
        return (name.trim_ascii_end(), Argument::Malformed);
    }
    (name, argument_of(argument))
}

fn argument_of(text: &[u8]) -> Argument<'_> {
    match text {
        [b'"', inner @ .., b'"'] if closing_quote(text, 0) == Some(text.len() - 1) => Argument::Text(unescape(inner)),
        _ if text.contains(&b'"') => Argument::Malformed,
        _ => Argument::Text(Cow::Borrowed(text)),
    }
}

/// RFC 9110 §5.6.4: `\` stands before a byte that means itself.
fn unescape(inner: &[u8]) -> Cow<'_, [u8]> {
    if !inner.contains(&b'\\') {
        return Cow::Borrowed(inner);
    }
    let mut plain = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(byte) = bytes.next() {
        let byte = if *byte == b'\\' { bytes.next() } else { Some(byte) };
        plain.extend(byte);
    }
    Cow::Owned(plain)
}
