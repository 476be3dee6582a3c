//! Paths of HTTP/2 that the codec would refuse, although they have one meaning: with `"`, `<` or `>` in the query, as `?filter={"a":1}`, with `<`,
//! `>` or a backtick in the path, or with bytes that are no UTF-8. Other servers take them, and this gateway percent-encodes them over
//! HTTP/1. Here the codec gets an alias in the place of such a path. When it hands out the request, the alias becomes the path again, in the
//! same percent-encoded form as over HTTP/1.
//!
//! An alias is as long as the path it stands for, so the header tables of both sides keep the same size (RFC 7541 §4.1). It begins with `/\`,
//! which no route takes. A client's own path that begins so gets an alias, too, and the rest of an alias is random: an alias never
//! stands for a path that was not meant.
//!
//! Other connections pay for a look at each path that is written out: two instructions a byte, about ten where it has a query or another
//! byte with a long Huffman code.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};

use http::Uri;
use http::uri::PathAndQuery;

use super::hpack::{self, FRAME_HEAD};
use crate::http1::encoded_target;

const MARK: &str = "/\\";
/// The mark and 24 random bits. Shorter paths keep their 400.
const SHORTEST: usize = 6;
const DIGITS: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_";
/// RFC 9113 §6.5.2: the size of the client's table, since the gateway asks for no other.
const TABLE: usize = 4096;
/// RFC 7541 §4.1: what an entry counts besides its value: the name and 32 bytes.
const ENTRY: usize = b":path".len() + 32;
/// The memory for the aliases of a connection, for clients that get them and never finish their requests.
const ROOM: usize = 64 << 10;
/// The longest frame that the codec takes.
pub(super) const LONGEST_FRAME: usize = 16 << 10;

/// Whether a path with such a byte may need an alias. All have Huffman codes that begin with seven set bits.
fn is_unusual(byte: u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>' | b'`' | b'\\' | 0x80..)
}

/// The aliases of one connection.
#[derive(Debug, Default)]
pub(super) struct Aliases(RefCell<Known>);

#[derive(Debug, Default)]
struct Known {
    /// The oldest first.
    known: VecDeque<Alias>,
    size: usize,
    /// Bytes that aliases have ever added to the client's table.
    indexed: usize,
    given: u64,
    random: RandomState,
}

#[derive(Debug)]
struct Alias {
    alias: Box<str>,
    path: PathAndQuery,
    /// [`Known::indexed`] behind it, if it is in the client's table.
    indexed: Option<usize>,
}

/// Whether a `HEADERS` frame has to be looked at by [`Aliases::rewrite`].
pub(super) fn may_need_alias(frame: &[u8]) -> bool {
    hpack::path(frame).is_some_and(|path| path.text.has(frame, is_unusual))
}

impl Aliases {
    /// The frame with an alias in the place of its path. `None`: it stays as it is.
    pub(super) fn rewrite(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let found = hpack::path(frame)?;
        let text = found.text.decoded(frame)?;
        let path = usual_form(&text)?;
        if frame.len() + text.len() > LONGEST_FRAME {
            return None;
        }
        let (before, behind) = (frame.get(..found.text.whole.start)?, frame.get(found.text.whole.end..)?);
        let mut known = self.0.borrow_mut();
        let alias = known.add(text.len(), path, found.indexed)?;
        let mut rewritten = before.to_vec();
        hpack::write_text(&mut rewritten, alias.as_bytes());
        rewritten.extend_from_slice(behind);
        let [.., x, y, z] = (rewritten.len() - FRAME_HEAD).to_be_bytes();
        rewritten.get_mut(..3)?.copy_from_slice(&[x, y, z]);
        Some(rewritten)
    }

    /// Forgets what has gone from the client's table, so that nothing can refer to it. To be called when all requests that the codec has read
    /// are handed out: they may have referred to it before it went.
    pub(super) fn end_turn(&self) {
        let mut known = self.0.borrow_mut();
        while known.known.front().and_then(|oldest| oldest.indexed).is_some_and(|at| known.indexed - at >= TABLE) {
            known.forget_oldest();
        }
    }

    /// Puts the path that was meant in the place of an alias.
    pub(super) fn restore(&self, uri: &mut Uri) {
        let Some(alias) = uri.path_and_query().filter(|path| path.as_str().starts_with(MARK)) else { return };
        let Some(path) = self.0.borrow_mut().find(alias.as_str()) else { return };
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = Some(path);
        *uri = Uri::from_parts(parts).expect("it has the same parts as before");
    }
}

/// A path in the form that it has over HTTP/1. `None`: the codec takes or refuses it as it is.
fn usual_form(text: &[u8]) -> Option<PathAndQuery> {
    if text.len() < SHORTEST || text.first() != Some(&b'/') {
        return None;
    }
    let is_own = text.starts_with(MARK.as_bytes());
    // The codec cuts fragments off, and HTTP/1 refuses them.
    if !is_own && text.contains(&b'#') {
        return None;
    }
    match encoded_target(text) {
        Some(encoded) => PathAndQuery::try_from(encoded).ok(),
        None if is_own => PathAndQuery::try_from(text).ok(),
        None => None,
    }
}

impl Known {
    fn add(&mut self, length: usize, path: PathAndQuery, indexed: bool) -> Option<&str> {
        let alias = self.unused(length)?;
        self.size += path.as_str().len() + ENTRY;
        let indexed = indexed.then(|| {
            self.indexed += length + ENTRY;
            self.indexed
        });
        self.known.push_back(Alias { alias, path, indexed });
        while self.size > ROOM {
            self.forget_oldest();
        }
        self.known.back().map(|newest| &*newest.alias)
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.known.pop_front() {
            self.size -= oldest.path.as_str().len() + ENTRY;
        }
    }

    fn unused(&mut self, length: usize) -> Option<Box<str>> {
        // A second try is needed once in 2^24 / known times for the shortest paths.
        for _ in 0..8 {
            self.given += 1;
            let mut random = self.random.hash_one(self.given);
            let mut alias = String::with_capacity(length);
            alias.push_str(MARK);
            while alias.len() < length {
                alias.push(char::from(DIGITS[(random & 63) as usize]));
                random >>= 6;
            }
            if self.known.iter().all(|other| *other.alias != alias) {
                return Some(alias.into());
            }
        }
        None
    }

    fn find(&mut self, alias: &str) -> Option<PathAndQuery> {
        let at = self.known.iter().rposition(|known| *known.alias == *alias)?;
        let found = self.known.get(at)?;
        if found.indexed.is_some() {
            return Some(found.path.clone());
        }
        // Nobody can refer to it any more.
        let found = self.known.remove(at)?;
        self.size -= found.path.as_str().len() + ENTRY;
        Some(found.path)
    }
}

#[cfg(test)]
mod tests;
