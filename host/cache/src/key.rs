//! The cache key: RFC 9111 §2, with what else tells responses apart behind a gateway.
//!
//! The target URI alone is the key of the RFC. A route may take parts of the query out of it, and put header fields, cookies and the consumer
//! in. In doubt a part stays in: a key that is too narrow serves one client's response to another (cache poisoning), one that is too wide
//! costs a fetch.

use std::borrow::Cow;

use http::header::{self, HeaderMap, HeaderName};
use percent_encoding::percent_decode;

use crate::digest::{Digest, Secret};
use crate::vary;

/// The key of a stored response: a keyed hash, since texts would cost memory and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key([u64; 2]);

impl Key {
    /// For a store outside of this process. Gateways with the same [`Secret`] have the same keys.
    pub fn to_bytes(self) -> [u8; 16] {
        (u128::from(self.0[0]) << 64 | u128::from(self.0[1])).to_be_bytes()
    }

    /// It is a hash already: a table needs no other.
    pub(crate) fn short(self) -> u64 {
        self.0[0]
    }
}

/// What a route's key is made of besides the target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyRule {
    pub query: QueryRule,
    pub headers: Vec<HeaderName>,
    pub cookies: Vec<String>,
    /// Each consumer has responses of its own.
    pub consumer: bool,
}

/// Which pairs of the query belong to the key. A pair with a `;` always does: some upstreams end a pair there, and read a parameter that the
/// key would not have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum QueryRule {
    /// The query as it is, in its order.
    #[default]
    All,
    /// These keys, in this order. `id[]`, `id[a]` and `ID` count as `id`, and `user.id` as `user_id`, since some upstreams read them as such.
    Only(Vec<String>),
    /// All but these, in the order of the query.
    Except(Vec<String>),
}

/// A request, as the upstream gets it: in canonical form, and after routing.
#[derive(Debug, Clone, Copy)]
pub struct KeyInput<'a> {
    /// Routes with the same name share responses.
    pub group: &'a str,
    /// The upstream that the split chose: a canary never mixes with the rest.
    pub upstream: &'a str,
    pub scheme: &'a str,
    pub host: &'a str,
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
    pub consumer: Option<&'a str>,
    /// What filters add, by name, in the order of the names.
    pub parts: &'a [(Box<str>, Box<str>)],
}

const KEY: u8 = b'k';

impl KeyRule {
    /// GET and HEAD are one class and no other method is looked up, so the method is no part.
    pub fn key(&self, input: &KeyInput, secret: &Secret) -> Key {
        let mut digest = secret.digest(KEY);
        for text in [input.group, input.upstream, input.scheme, input.host, input.path] {
            digest.part(text.as_bytes());
        }
        self.query.write(input.query, &mut digest);
        for name in &self.headers {
            vary::write_field(name, input.headers, &mut digest);
        }
        for name in &self.cookies {
            write_cookie(name, input.headers, &mut digest);
        }
        digest.optional(input.consumer.filter(|_| self.consumer).map(str::as_bytes));
        for (name, value) in input.parts {
            digest.part(name.as_bytes());
            digest.part(value.as_bytes());
        }
        digest.count(input.parts.len());
        Key(digest.finish())
    }
}

impl QueryRule {
    /// The query without what is not part of the key. Requests with the same key have the same one, so purges find by it what is stored.
    pub fn canonical<'q>(&self, query: Option<&'q str>) -> Option<Cow<'q, str>> {
        match self {
            QueryRule::All => query.map(Cow::Borrowed),
            QueryRule::Only(names) => {
                let named = names.iter().flat_map(|name| pairs(query).filter(move |pair| is_chosen(pair, name)));
                joined(named.chain(pairs(query).filter(|pair| is_ambiguous(pair))))
            }
            QueryRule::Except(names) => joined(pairs(query).filter(|pair| !is_left_out(pair, names))),
        }
    }

    fn write(&self, query: Option<&str>, digest: &mut Digest) {
        match self {
            QueryRule::All => digest.optional(query.map(str::as_bytes)),
            QueryRule::Only(names) => {
                for name in names {
                    write_all(pairs(query).filter(|pair| is_chosen(pair, name)), digest);
                }
                write_all(pairs(query).filter(|pair| is_ambiguous(pair)), digest);
            }
            QueryRule::Except(names) => write_all(pairs(query).filter(|pair| !is_left_out(pair, names)), digest),
        }
    }
}

fn pairs(query: Option<&str>) -> impl Iterator<Item = &str> {
    query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty())
}

fn is_chosen(pair: &str, name: &str) -> bool {
    !is_ambiguous(pair) && may_mean(pair, name)
}

fn is_left_out(pair: &str, names: &[String]) -> bool {
    !is_ambiguous(pair) && names.iter().any(|name| name_of(pair) == *name)
}

/// A query with a `?` and nothing behind it has no pairs, as one that is not there.
fn joined<'q>(pairs: impl Iterator<Item = &'q str>) -> Option<Cow<'q, str>> {
    let pairs: Vec<_> = pairs.collect();
    (!pairs.is_empty()).then(|| Cow::Owned(pairs.join("&")))
}

fn write_all<'a>(pairs: impl Iterator<Item = &'a str>, digest: &mut Digest) {
    let mut count = 0;
    for pair in pairs {
        digest.part(pair.as_bytes());
        count += 1;
    }
    digest.count(count);
}

fn is_ambiguous(pair: &str) -> bool {
    pair.contains(';') || pair.contains("%3b") || pair.contains("%3B")
}

/// The name of a pair, decoded: upstreams decode it.
fn name_of(pair: &str) -> Cow<'_, str> {
    let name = pair.split_once('=').map_or(pair, |(name, _)| name);
    if !name.contains(['%', '+']) {
        return Cow::Borrowed(name);
    }
    let spaced = name.replace('+', " ");
    Cow::Owned(percent_decode(spaced.as_bytes()).decode_utf8_lossy().into_owned())
}

/// Whether some upstream reads a pair as one of this name.
fn may_mean(pair: &str, name: &str) -> bool {
    let found = name_of(pair);
    // `id[]` and `id[a]` are read as `id` by many, and `[id]` by `qs` of Node.
    let base = found.trim_start().trim_start_matches('[').split(['[', ']']).next().unwrap_or_default();
    [base, base.trim_end(), &*found].into_iter().any(|read| folded(read).eq(folded(name)))
}

/// A name as PHP reads it (blanks before it go, a NUL ends it, and `.`, a blank and an open `[` become `_`), and without case, as others do.
fn folded(name: &str) -> impl Iterator<Item = u8> {
    name.trim_start().bytes().take_while(|byte| *byte != 0).map(|byte| match byte {
        b'.' | b' ' | b'[' => b'_',
        _ => byte.to_ascii_lowercase(),
    })
}

/// All pairs of a cookie, in order: which one counts is the upstream's choice. As they were sent, since upstreams differ in which they take for it.
fn write_cookie(name: &str, headers: &HeaderMap, digest: &mut Digest) {
    let mut count = 0;
    for line in headers.get_all(header::COOKIE) {
        for pair in line.as_bytes().split(|byte| *byte == b';') {
            let pair = pair.trim_ascii();
            // Around a name, everything goes that no name of a cookie has (RFC 6265 §4.1.1): servers trim it in ways of their own.
            let text = String::from_utf8_lossy(pair);
            let found = text.split('=').next().unwrap_or_default().trim_matches(|c: char| !c.is_ascii_graphic());
            if may_mean(found, name) {
                digest.part(pair);
                count += 1;
            }
        }
    }
    digest.count(count);
}

#[cfg(test)]
mod tests;
