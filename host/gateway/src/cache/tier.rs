//! The tier behind the memory: a store that many gateways share (Redis or Valkey). It has copies of stored responses, asked for before the
//! upstream is, and a journal of purges, so that what is taken away on one gateway is gone on all. Nothing depends on it: without an answer in
//! time, the upstream is asked, and purges wait until they can be told.
//!
//! Each response in the tier has the number of the last purge that its gateway knew when it asked for it, and each gateway has a table with
//! the last purge of each place, as the memory has for its own. While a gateway does not follow the journal, it uses nothing of the tier.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use sluice_cache::digest::Secret;
use sluice_cache::store::{Purge, Purged, SharedPurges, Strength, Tags};
use tokio::sync::Notify;

use super::ResponseCache;
use crate::coarse;
use crate::services::state::{Blobs, Journal, JournalDue, JournalIdentity, JournalReader, Store};

/// How long a gateway counts as following after it has heard of the journal: it asks several times a second.
const LIVE_MS: u64 = 1500;

/// Purges that wait to be told. Beyond that, everything is purged instead.
const MOST_DUE: usize = 4096;

/// For how long purges are told again to a tier that has lost its data.
const REPEATED_MS: u64 = 10 * 60 * 1000;

/// What a purge may take in the journal; a longer one is told as one of its host.
const MOST_TEXT: usize = 4096;

/// A purge that owns its texts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum OwnedPurge {
    Everything,
    Host(Box<str>),
    Prefix(Box<str>, Box<str>),
    Url(Box<str>, Box<str>, Option<Box<str>>),
    Tag(Box<[u8]>),
}

/// The tier of the process.
pub struct Tier {
    blobs: Blobs,
    /// The bytes of a response in it.
    pub most: u64,
    /// Tells the purges of this process from those of others.
    nonce: [u8; 8],
    /// Since the journal has told who it is.
    shared: ArcSwapOption<SharedPurges>,
    /// Until when this gateway counts as following, in coarse milliseconds.
    live_until: AtomicU64,
    outbox: Mutex<Outbox>,
    wake: Arc<Notify>,
    cache: Weak<ResponseCache>,
}

/// Purges that are to be told, and those that were.
#[derive(Default)]
struct Outbox {
    due: HashMap<OwnedPurge, Due>,
    /// What is being written, by the numbers of their orders.
    under_way: Vec<(OwnedPurge, Strength, u64)>,
    /// The number of the next order.
    next: u64,
    /// Of the journal.
    identity: JournalIdentity,
    told: VecDeque<(u64, OwnedPurge, Strength)>,
}

struct Due {
    strength: Strength,
    /// The number of the last order: one that comes while it is written is written once more.
    number: u64,
}

impl Tier {
    /// `start` runs the journal behind the requests.
    pub fn new(
        store: &Arc<Store>,
        most: u64,
        cache: &Arc<ResponseCache>,
        start: impl FnOnce(Journal, Weak<Tier>),
    ) -> Arc<Tier> {
        let wake = Arc::new(Notify::new());
        let mut nonce = [0; 8];
        aws_lc_rs::rand::fill(&mut nonce).expect("the system has random numbers");
        let tier = Arc::new(Tier {
            blobs: Blobs::new(Arc::clone(store), "cache"),
            most,
            nonce,
            shared: ArcSwapOption::empty(),
            live_until: AtomicU64::new(0),
            outbox: Mutex::default(),
            wake: Arc::clone(&wake),
            cache: Arc::downgrade(cache),
        });
        start(Journal::new(store, "cache", wake), Arc::downgrade(&tier));
        tier
    }

    /// Whether it is this store with this bound.
    pub fn is_of(&self, store: &Arc<Store>, most: u64) -> bool {
        self.blobs.is_of(store) && self.most == most
    }

    /// What the tier's keys and purges are made with; none while it can't be used.
    pub fn usable(&self) -> Option<Arc<SharedPurges>> {
        if self.live_until.load(Ordering::Relaxed) < coarse::now_ms() {
            return None;
        }
        self.shared.load_full()
    }

    /// What purges have done to a response of the tier whose gateway knew those up to `born`. What this gateway has purged itself is known from
    /// the moment on at which it did.
    pub fn check(&self, shared: &SharedPurges, born: u64, tags: &Tags) -> Purged {
        let waits = {
            let outbox = self.outbox();
            outbox.due.keys().any(|what| shared.reaches(&what.borrowed(), tags))
        };
        if waits { Purged::Gone } else { shared.check(born, tags) }
    }

    /// Purges that are not told yet.
    pub fn waiting(&self) -> usize {
        self.outbox().due.len()
    }

    pub async fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.blobs.get(key).await
    }

    pub async fn put(&self, key: &str, value: &[u8], ttl: Duration) -> bool {
        self.blobs.put(key, value, ttl).await
    }

    /// All gateways are to purge this.
    pub fn purge(&self, what: &Purge<'_>, strength: Strength) {
        self.outbox().add(OwnedPurge::of(what), strength);
        self.wake.notify_one();
    }

    fn outbox(&self) -> std::sync::MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outbox {
    fn add(&mut self, what: OwnedPurge, strength: Strength) {
        let number = self.next;
        self.next += 1;
        if self.due.len() >= MOST_DUE && !self.due.contains_key(&what) {
            let hard = strength == Strength::Hard || self.due.values().any(|due| due.strength == Strength::Hard);
            self.due.clear();
            let strength = if hard { Strength::Hard } else { Strength::Soft };
            self.due.insert(OwnedPurge::Everything, Due { strength, number });
            return;
        }
        let known = self.due.entry(what).or_insert(Due { strength, number });
        known.number = number;
        if strength == Strength::Hard {
            known.strength = Strength::Hard;
        }
    }

    /// Forgets what was told long ago.
    fn forget(&mut self, now: u64) {
        while self.told.len() > MOST_DUE || self.told.front().is_some_and(|(at, ..)| at + REPEATED_MS < now) {
            self.told.pop_front();
        }
    }
}

impl JournalReader for Tier {
    fn begins(&self, identity: JournalIdentity) {
        // Keys that were made with another identity are found no more.
        let mut outbox = self.outbox();
        self.shared.store(Some(Arc::new(SharedPurges::new(Secret::new(identity)))));
        outbox.identity = identity;
        outbox.forget(coarse::now_ms());
        let told: Vec<_> = outbox.told.drain(..).collect();
        for (_, what, strength) in told {
            outbox.add(what, strength);
        }
        drop(outbox);
        self.wake.notify_one();
    }

    fn place(&self, place: &[u8], number: u64) {
        let place = std::str::from_utf8(place).ok().and_then(|text| text.strip_prefix('p')?.parse().ok());
        if let (Some(place), Some(shared)) = (place, &*self.shared.load()) {
            shared.note(place, number);
        }
    }

    fn entry(&self, number: u64, text: &[u8]) -> bool {
        // What can't be read is of a later version, and may be about anything.
        let Some((nonce, what, strength)) = read(text) else { return false };
        if let Some(shared) = &*self.shared.load() {
            shared.note(shared.place(&what.borrowed(), strength), number);
        }
        if nonce != self.nonce
            && let Some(cache) = self.cache.upgrade()
            && let Some(store) = cache.store()
        {
            store.purge(&what.borrowed(), strength, SystemTime::now());
        }
        true
    }

    fn missed(&self) {
        let Some(cache) = self.cache.upgrade() else { return };
        let Some(store) = cache.store() else { return };
        if store.keys() > 0 {
            tracing::warn!("purges of other gateways were missed: all that is in memory is purged");
        }
        // What is on its way as well.
        store.purge(&Purge::Everything, Strength::Hard, SystemTime::now());
    }

    fn caught_up(&self, number: u64) {
        if let Some(shared) = &*self.shared.load() {
            shared.knows(number);
        }
    }

    fn is_live(&self, live: bool) {
        self.live_until.store(if live { coarse::now_ms() + LIVE_MS } else { 0 }, Ordering::Relaxed);
    }

    fn due(&self, most: usize) -> Option<JournalDue> {
        let mut outbox = self.outbox();
        let shared = self.shared.load_full()?;
        let taken = outbox.due.iter().take(most);
        let taken: Vec<_> = taken.map(|(what, due)| (what.clone(), due.strength, due.number)).collect();
        outbox.under_way.clone_from(&taken);
        let entry = |(what, strength, _): (OwnedPurge, Strength, u64)| {
            let place = shared.place(&what.borrowed(), strength);
            (format!("p{place}").into_bytes(), write(&self.nonce, &what, strength))
        };
        Some(JournalDue { identity: outbox.identity, entries: taken.into_iter().map(entry).collect() })
    }

    fn written(&self, identity: JournalIdentity, number: u64) {
        let outbox = &mut *self.outbox();
        let now = coarse::now_ms();
        if outbox.identity != identity {
            // It is told to the one that has taken its place.
            return;
        }
        for (what, strength, order) in std::mem::take(&mut outbox.under_way) {
            // It does not wait to be read. It may have an earlier number, so that a few more responses count as purged.
            if let Some(shared) = &*self.shared.load() {
                shared.note(shared.place(&what.borrowed(), strength), number);
            }
            if let Entry::Occupied(due) = outbox.due.entry(what)
                && due.get().number == order
            {
                let (what, due) = due.remove_entry();
                outbox.told.push_back((now, what, due.strength));
            }
        }
        outbox.forget(now);
    }
}

impl OwnedPurge {
    fn of(purge: &Purge<'_>) -> OwnedPurge {
        let owned = match *purge {
            Purge::Everything => OwnedPurge::Everything,
            Purge::Host(host) => OwnedPurge::Host(host.into()),
            Purge::Prefix { host, path } => OwnedPurge::Prefix(host.into(), path.into()),
            Purge::Url { host, path, query } => OwnedPurge::Url(host.into(), path.into(), query.map(Into::into)),
            Purge::Tag(text) => OwnedPurge::Tag(text.into()),
        };
        match owned.length() {
            0..=MOST_TEXT => owned,
            _ => owned.wider(),
        }
    }

    fn length(&self) -> usize {
        match self {
            OwnedPurge::Everything => 0,
            OwnedPurge::Host(host) => host.len(),
            OwnedPurge::Prefix(host, path) => host.len() + path.len(),
            OwnedPurge::Url(host, path, query) => {
                host.len() + path.len() + query.as_ref().map_or(0, |query| query.len())
            }
            OwnedPurge::Tag(text) => text.len(),
        }
    }

    /// A shorter one that reaches all that this one does.
    fn wider(self) -> OwnedPurge {
        match self {
            OwnedPurge::Prefix(host, _) | OwnedPurge::Url(host, ..) if host.len() <= MOST_TEXT => {
                OwnedPurge::Host(host)
            }
            _ => OwnedPurge::Everything,
        }
    }

    fn borrowed(&self) -> Purge<'_> {
        match self {
            OwnedPurge::Everything => Purge::Everything,
            OwnedPurge::Host(host) => Purge::Host(host),
            OwnedPurge::Prefix(host, path) => Purge::Prefix { host, path },
            OwnedPurge::Url(host, path, query) => Purge::Url { host, path, query: query.as_deref() },
            OwnedPurge::Tag(text) => Purge::Tag(text),
        }
    }
}

/// A purge in the journal: a version, who says it, how strong and of which kind it is, and its texts with their lengths.
fn write(nonce: &[u8; 8], what: &OwnedPurge, strength: Strength) -> Vec<u8> {
    let (kind, texts): (u8, Vec<&[u8]>) = match what {
        OwnedPurge::Everything => (b'e', vec![]),
        OwnedPurge::Host(host) => (b'h', vec![host.as_bytes()]),
        OwnedPurge::Prefix(host, path) => (b'x', vec![host.as_bytes(), path.as_bytes()]),
        OwnedPurge::Url(host, path, None) => (b'u', vec![host.as_bytes(), path.as_bytes()]),
        OwnedPurge::Url(host, path, Some(query)) => (b'q', vec![host.as_bytes(), path.as_bytes(), query.as_bytes()]),
        OwnedPurge::Tag(text) => (b't', vec![text]),
    };
    let mut bytes = vec![b'1'];
    bytes.extend(nonce);
    bytes.push(if strength == Strength::Hard { b'h' } else { b's' });
    bytes.push(kind);
    for text in texts {
        bytes.extend((text.len() as u32).to_be_bytes());
        bytes.extend(text);
    }
    bytes
}

/// The same the other way round. None for what is of another version or broken.
fn read(bytes: &[u8]) -> Option<([u8; 8], OwnedPurge, Strength)> {
    let rest = bytes.strip_prefix(b"1")?;
    let (nonce, rest) = rest.split_first_chunk::<8>()?;
    let ([strength, kind], mut rest) = rest.split_first_chunk::<2>()?;
    let strength = match strength {
        b'h' => Strength::Hard,
        b's' => Strength::Soft,
        _ => return None,
    };
    let mut texts = Vec::new();
    while !rest.is_empty() {
        let (length, more) = rest.split_first_chunk::<4>()?;
        let (text, more) = more.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        texts.push(text);
        rest = more;
    }
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(Box::<str>::from);
    let what = match (kind, &*texts) {
        (b'e', []) => OwnedPurge::Everything,
        (b'h', [host]) => OwnedPurge::Host(text(host)?),
        (b'x', [host, path]) => OwnedPurge::Prefix(text(host)?, text(path)?),
        (b'u', [host, path]) => OwnedPurge::Url(text(host)?, text(path)?, None),
        (b'q', [host, path, query]) => OwnedPurge::Url(text(host)?, text(path)?, Some(text(query)?)),
        (b't', [tag]) => OwnedPurge::Tag((*tag).into()),
        _ => return None,
    };
    Some((*nonce, what, strength))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<OwnedPurge> {
        let url = |query| Purge::Url { host: "a.example", path: "/b", query };
        let purges = [
            Purge::Everything,
            Purge::Host("a.example"),
            Purge::Prefix { host: "a.example", path: "/b" },
            url(None),
            url(Some("")),
            url(Some("c=d")),
            Purge::Tag(b"red\xff"),
        ];
        purges.iter().map(OwnedPurge::of).collect()
    }

    #[test]
    fn a_purge_comes_back_as_it_was() {
        for what in all() {
            for strength in [Strength::Soft, Strength::Hard] {
                let text = write(&[7; 8], &what, strength);
                assert_eq!(read(&text), Some(([7; 8], what.clone(), strength)));
                for end in 0..text.len() {
                    assert_eq!(read(&text[..end]), None, "{what:?} {end}");
                }
            }
        }
        assert_eq!(read(b"2aaaaaaaahe"), None);
    }

    #[test]
    fn a_long_purge_becomes_one_of_its_host() {
        let path = "/a".repeat(MOST_TEXT);
        let host = OwnedPurge::Host("h".into());
        assert_eq!(OwnedPurge::of(&Purge::Prefix { host: "h", path: &path }), host);
        assert_eq!(OwnedPurge::of(&Purge::Url { host: "h", path: &path, query: None }), host);
        assert_eq!(OwnedPurge::of(&Purge::Tag(path.as_bytes())), OwnedPurge::Everything);
    }

    #[test]
    fn what_waits_has_a_bound_and_hard_purges_stay_hard() {
        let mut outbox = Outbox::default();
        let what = OwnedPurge::Host("a".into());
        outbox.add(what.clone(), Strength::Hard);
        outbox.add(what.clone(), Strength::Soft);
        assert_eq!(outbox.due[&what].strength, Strength::Hard);
        for at in 0..=MOST_DUE {
            outbox.add(OwnedPurge::Tag(at.to_string().into_bytes().into()), Strength::Soft);
            assert!(outbox.due.len() <= MOST_DUE);
        }
        assert_eq!(outbox.due[&OwnedPurge::Everything].strength, Strength::Hard);
    }
}
