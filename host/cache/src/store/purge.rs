//! What was purged. A purge takes the same time whatever is stored: it notes a generation, and each stored response is checked when it is
//! used next.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::digest::Secret;

/// The purges that a response knows of: those before its request was sent. A response that was under way during a purge is purged by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(u64);

/// What to purge. Texts are in canonical form, as in [`crate::key::KeyInput`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purge<'a> {
    Everything,
    Host(&'a str),
    /// The path and all below it. `/a` and `/a/` are the same; `/ab` is not below `/a`.
    Prefix {
        host: &'a str,
        path: &'a str,
    },
    /// All responses of one URL, whatever its scheme and whatever else is in their keys.
    Url {
        host: &'a str,
        path: &'a str,
        query: Option<&'a str>,
    },
    Tag(&'a [u8]),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strength {
    /// The responses are stale. They may be validated, and serve as stale ones.
    Soft,
    /// The responses are gone.
    Hard,
}

/// A response with a path of more segments can be purged by prefix with the first ones only.
const MOST_SEGMENTS: usize = 32;

/// The tags of a stored response: what it can be purged by, hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tags(Box<[u64]>);

const EVERYTHING: u8 = b'e';
const PREFIX: u8 = b'x';
const URL: u8 = b'u';
const TAG: u8 = b't';

impl Tags {
    /// `explicit` are the tags of the response, and those that filters add.
    pub fn new<'a>(
        host: &str,
        path: &str,
        query: Option<&str>,
        explicit: impl IntoIterator<Item = &'a [u8]>,
        secret: &Secret,
    ) -> Tags {
        let mut tags = vec![everything(secret), url(host, path, query, secret)];
        let mut prefix = secret.digest(PREFIX);
        prefix.part(host.as_bytes());
        tags.push(prefix.finish_short());
        for segment in segments(path) {
            prefix.part(segment.as_bytes());
            tags.push(prefix.finish_short());
        }
        tags.extend(explicit.into_iter().map(|text| tag(text, secret)));
        Tags(tags.into())
    }

    pub(crate) fn heap_size(&self) -> usize {
        size_of_val(&*self.0)
    }
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.trim_matches('/').split('/').filter(|segment| !segment.is_empty()).take(MOST_SEGMENTS)
}

fn everything(secret: &Secret) -> u64 {
    secret.digest(EVERYTHING).finish_short()
}

fn url(host: &str, path: &str, query: Option<&str>, secret: &Secret) -> u64 {
    let mut digest = secret.digest(URL);
    digest.part(host.as_bytes());
    digest.part(path.as_bytes());
    digest.optional(query.map(str::as_bytes));
    digest.finish_short()
}

fn tag(text: &[u8], secret: &Secret) -> u64 {
    let mut digest = secret.digest(TAG);
    digest.part(text);
    digest.finish_short()
}

impl Purge<'_> {
    fn tag(&self, secret: &Secret) -> u64 {
        match *self {
            Purge::Everything => everything(secret),
            Purge::Host(host) => Purge::Prefix { host, path: "" }.tag(secret),
            Purge::Prefix { host, path } => {
                let mut digest = secret.digest(PREFIX);
                digest.part(host.as_bytes());
                segments(path).for_each(|segment| digest.part(segment.as_bytes()));
                digest.finish_short()
            }
            Purge::Url { host, path, query } => url(host, path, query, secret),
            Purge::Tag(text) => tag(text, secret),
        }
    }
}

/// What a check of a stored response finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purged {
    No,
    Softly,
    Gone,
}

const CHUNKS: usize = 256;
const SLOTS: usize = 1024;

/// The last purge of each tag.
///
/// It is a table of fixed size: tags that share a slot are purged together, which costs a fetch. With a thousand tags purged within the life
/// of a response, that happens to three of a hundred responses with eight tags. A list would have to forget purges to be bounded.
pub(crate) struct Purges {
    generation: AtomicU64,
    soft: Table,
    /// When that was, in milliseconds of the Unix time.
    softened: Table,
    hard: Table,
    /// Held by those who purge, so that a generation is seen only with its slot.
    purging: Mutex<()>,
}

struct Table {
    chunks: Box<[OnceLock<Box<[AtomicU64; SLOTS]>>]>,
}

impl Table {
    fn new() -> Table {
        Table { chunks: (0..CHUNKS).map(|_| OnceLock::new()).collect() }
    }

    fn last(&self, tag: u64) -> u64 {
        let (chunk, slot) = place(tag);
        self.chunks[chunk].get().map_or(0, |slots| slots[slot].load(Ordering::Relaxed))
    }

    fn note(&self, tag: u64, generation: u64) {
        let (chunk, slot) = place(tag);
        let slots = self.chunks[chunk].get_or_init(|| Box::new([const { AtomicU64::new(0) }; SLOTS]));
        slots[slot].store(generation, Ordering::Relaxed);
    }
}

/// A tag is a hash, so that any of its bits will do.
fn place(tag: u64) -> (usize, usize) {
    (tag as usize % CHUNKS, (tag >> 32) as usize % SLOTS)
}

impl Purges {
    pub(crate) fn new() -> Purges {
        Purges {
            generation: AtomicU64::new(0),
            soft: Table::new(),
            softened: Table::new(),
            hard: Table::new(),
            purging: Mutex::new(()),
        }
    }

    pub(crate) fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::Acquire))
    }

    /// `now` is in milliseconds of the Unix time.
    pub(crate) fn purge(&self, what: &Purge, strength: Strength, now: u64, secret: &Secret) {
        let tag = what.tag(secret);
        let _one_at_a_time = self.purging.lock().unwrap_or_else(PoisonError::into_inner);
        let next = self.generation.load(Ordering::Relaxed) + 1;
        match strength {
            Strength::Soft => {
                self.softened.note(tag, now);
                self.soft.note(tag, next);
            }
            Strength::Hard => self.hard.note(tag, next),
        }
        self.generation.store(next, Ordering::Release);
    }

    /// Whether a response of a generation was purged since. `checked` has the generation up to which that is known.
    pub(crate) fn check(&self, born: Generation, tags: &Tags, checked: &AtomicU64) -> Purged {
        let Generation(now) = self.generation();
        if checked.load(Ordering::Relaxed) == now {
            return Purged::No;
        }
        let newest = |table: &Table| tags.0.iter().map(|tag| table.last(*tag)).max().unwrap_or(0);
        if newest(&self.hard) > born.0 {
            return Purged::Gone;
        }
        if newest(&self.soft) > born.0 {
            return Purged::Softly;
        }
        checked.store(now, Ordering::Relaxed);
        Purged::No
    }

    /// When a response of a generation was purged softly; of several times, the first that is known.
    pub(crate) fn softened(&self, born: Generation, tags: &Tags) -> u64 {
        let since = tags.0.iter().filter(|tag| self.soft.last(**tag) > born.0).map(|tag| self.softened.last(*tag));
        since.min().unwrap_or_default()
    }
}

/// The purges of a tier that several processes share, by the numbers that the tier gives them.
pub struct SharedPurges {
    purges: Purges,
    secret: Secret,
}

impl SharedPurges {
    /// Before any purge is known.
    pub fn new(secret: Secret) -> SharedPurges {
        SharedPurges { purges: Purges::new(), secret }
    }

    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// All purges up to this one are known.
    pub fn number(&self) -> u64 {
        self.purges.generation().0
    }

    /// All purges up to this one are known from now on.
    pub fn knows(&self, number: u64) {
        self.purges.generation.fetch_max(number, Ordering::AcqRel);
    }

    /// The place of a purge in the table.
    pub fn place(&self, what: &Purge, strength: Strength) -> u32 {
        let (chunk, slot) = place(what.tag(&self.secret));
        let strength = match strength {
            Strength::Soft => 0,
            Strength::Hard => CHUNKS * SLOTS,
        };
        (strength + chunk * SLOTS + slot) as u32
    }

    /// The last purge of a place is at least this one. Places that there are not are ignored.
    pub fn note(&self, place: u32, number: u64) {
        let place = place as usize;
        let (table, place) = match place.checked_sub(CHUNKS * SLOTS) {
            None => (&self.purges.soft, place),
            Some(place) => (&self.purges.hard, place),
        };
        if let Some(chunk) = table.chunks.get(place / SLOTS) {
            let slots = chunk.get_or_init(|| Box::new([const { AtomicU64::new(0) }; SLOTS]));
            slots[place % SLOTS].fetch_max(number, Ordering::AcqRel);
        }
    }

    /// Whether a purge that has no number yet would take a response away, or make it stale.
    pub fn reaches(&self, what: &Purge, tags: &Tags) -> bool {
        tags.0.contains(&what.tag(&self.secret))
    }

    /// Whether a response was purged since its gateway knew the purges up to `born`.
    pub fn check(&self, born: u64, tags: &Tags) -> Purged {
        self.purges.check(Generation(born), tags, &AtomicU64::new(u64::MAX))
    }
}

impl Generation {
    pub fn number(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn purged(purge: Purge, strength: Strength) -> Purged {
        let secret = Secret::new([1; 16]);
        let purges = Purges::new();
        let born = purges.generation();
        let tags = Tags::new("example.com", "/a/b/c", Some("q=1"), [&b"red"[..], b"blue"], &secret);
        let checked = AtomicU64::new(born.number());
        assert_eq!(purges.check(born, &tags, &checked), Purged::No);
        purges.purge(&purge, strength, 1, &secret);
        let found = purges.check(born, &tags, &checked);
        // A response of after the purge is not purged by it.
        assert_eq!(purges.check(purges.generation(), &tags, &checked), Purged::No);
        found
    }

    #[test]
    fn purges_reach_what_they_name() {
        let host = "example.com";
        let prefix = |path| Purge::Prefix { host, path };
        let url = |path, query| Purge::Url { host, path, query };
        let table = [
            (Purge::Everything, true),
            (Purge::Host("example.com"), true),
            (Purge::Host("example.org"), false),
            (prefix("/"), true),
            (prefix("/a"), true),
            (prefix("/a/"), true),
            (prefix("/a/b/c"), true),
            (prefix("/a/b/c/d"), false),
            (prefix("/a/bc"), false),
            (prefix("/b"), false),
            (Purge::Prefix { host: "example.org", path: "/a" }, false),
            (url("/a/b/c", Some("q=1")), true),
            (url("/a/b/c", None), false),
            (url("/a/b/c", Some("")), false),
            (url("/a/b", Some("q=1")), false),
            (Purge::Tag(b"red"), true),
            (Purge::Tag(b"blue"), true),
            (Purge::Tag(b"green"), false),
            (Purge::Tag(b"example.com"), false),
        ];
        for (purge, reached) in table {
            let expected = |if_reached| if reached { if_reached } else { Purged::No };
            assert_eq!(purged(purge, Strength::Hard), expected(Purged::Gone), "{purge:?}");
            assert_eq!(purged(purge, Strength::Soft), expected(Purged::Softly), "{purge:?}");
        }
    }

    #[test]
    fn a_hard_purge_is_not_softened_by_a_soft_one() {
        let secret = Secret::new([1; 16]);
        let purges = Purges::new();
        let (born, checked) = (purges.generation(), AtomicU64::new(0));
        let tags = Tags::new("a", "/", None, [], &secret);
        purges.purge(&Purge::Host("a"), Strength::Hard, 1, &secret);
        let between = purges.generation();
        purges.purge(&Purge::Host("a"), Strength::Soft, 2, &secret);
        assert_eq!(purges.check(born, &tags, &checked), Purged::Gone);
        assert_eq!(purges.check(between, &tags, &checked), Purged::Softly);
        // Neither is forgotten when others follow.
        purges.purge(&Purge::Host("b"), Strength::Soft, 3, &secret);
        assert_eq!(purges.check(between, &tags, &checked), Purged::Softly);
        assert_eq!(purges.softened(between, &tags), 2);
    }

    #[test]
    fn purges_of_others_count_by_their_numbers() {
        let shared = SharedPurges::new(Secret::new([1; 16]));
        let tags = Tags::new("a", "/b", None, [&b"red"[..]], shared.secret());
        assert_eq!(shared.check(0, &tags), Purged::No);
        let purge = |what: Purge, strength, number| shared.note(shared.place(&what, strength), number);
        purge(Purge::Tag(b"red"), Strength::Soft, 7);
        assert_eq!((shared.check(6, &tags), shared.check(7, &tags)), (Purged::Softly, Purged::No));
        purge(Purge::Host("a"), Strength::Hard, 9);
        // An older number does not take a newer one's place.
        purge(Purge::Host("a"), Strength::Hard, 3);
        assert_eq!((shared.check(8, &tags), shared.check(9, &tags)), (Purged::Gone, Purged::No));
        purge(Purge::Host("b"), Strength::Hard, 20);
        assert_eq!(shared.check(9, &tags), Purged::No);
        let reaches = |what: Purge| shared.reaches(&what, &tags);
        assert!(reaches(Purge::Host("a")) && reaches(Purge::Tag(b"red")) && !reaches(Purge::Host("b")));
        shared.note(u32::MAX, 100);
        assert_eq!(shared.number(), 0);
        shared.knows(20);
        shared.knows(7);
        assert_eq!(shared.number(), 20);
    }

    #[test]
    fn deep_paths_are_purged_by_their_first_segments() {
        let secret = Secret::new([1; 16]);
        let purges = Purges::new();
        let path = "/a".repeat(1000);
        let tags = Tags::new("h", &path, None, [], &secret);
        assert!(tags.0.len() <= MOST_SEGMENTS + 3);
        let born = purges.generation();
        purges.purge(&Purge::Prefix { host: "h", path: &path }, Strength::Hard, 1, &secret);
        assert_eq!(purges.check(born, &tags, &AtomicU64::new(0)), Purged::Gone);
    }
}
