//! One stored response.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use http::StatusCode;
use http::header::HeaderMap;

use super::body::{Body, BodyBuilder, BodyTooLarge};
use super::head::{HeadTooLarge, PackedHead};
use super::purge::{Generation, Purged, Purges, Tags};
use crate::digest::Secret;
use crate::fields;
use crate::freshness::{Candidate, Stored};
use crate::notes::Notes;
use crate::policy::Policy;
use crate::storable::{Received, Storable, announced_length};
use crate::vary::Variant;

/// A stored response. It does not change: a validation makes a new one with the same content.
#[derive(Debug)]
pub struct Object {
    head: PackedHead,
    body: Body,
    stored: Stored,
    variant: Variant,
    tags: Tags,
    notes: Option<Arc<Notes>>,
    born: Generation,
    /// The purges up to this one have not reached it.
    checked: AtomicU64,
    /// Since when it is marked as stale, in milliseconds of the Unix time; 0: it is not.
    marked_stale: AtomicU64,
}

/// Where a response is from, for purges. In canonical form.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub host: &'a str,
    pub path: &'a str,
    pub query: Option<&'a str>,
    /// What filters say of the response.
    pub notes: Option<&'a Arc<Notes>>,
}

/// A response whose head is there and whose content is still to come. It needs nothing of request and response any more.
#[derive(Debug)]
pub struct Draft {
    head: PackedHead,
    stored: Stored,
    variant: Variant,
    tags: Tags,
    notes: Option<Arc<Notes>>,
    born: Generation,
    announced: Option<u64>,
}

/// RFC 9111 §3.3: the content is not the announced one, so it is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the content is not as long as announced")]
pub struct Incomplete;

impl Draft {
    /// A response that may be stored, as it came. `born` is the generation of the store before its request was sent.
    pub fn new(
        storable: &Storable,
        received: &Received,
        place: &Place,
        born: Generation,
        policy: &Policy,
        secret: &Secret,
    ) -> Result<Draft, HeadTooLarge> {
        let head = storable.head(received.response);
        // `storable` has refused a response with too many.
        let explicit = fields::tags(received.response).unwrap_or_default();
        let noted = place.notes.iter().flat_map(|notes| &notes.tags).map(|tag| tag.as_bytes());
        let tags = explicit.into_iter().chain(noted.take(fields::MOST_TAGS));
        Ok(Draft {
            variant: Variant::new(&storable.vary, received.request, &head, policy.normalise, secret),
            tags: Tags::new(place.host, place.path, place.query, tags, secret),
            head: PackedHead::pack(received.status, &head)?,
            stored: storable.stored.clone(),
            notes: place.notes.cloned(),
            born,
            announced: announced_length(&head),
        })
    }

    /// For the decision whether another request may wait for this response.
    pub fn stored(&self) -> &Stored {
        &self.stored
    }

    /// For the decision whether another request may wait for this response.
    pub fn variant(&self) -> &Variant {
        &self.variant
    }

    /// What it can be purged by while it comes.
    pub fn tags(&self) -> &Tags {
        &self.tags
    }

    /// Collects the content, which may have this many bytes.
    pub fn body(&self, most: u64) -> Result<BodyBuilder, BodyTooLarge> {
        BodyBuilder::new(self.announced, most)
    }

    /// The response with all of its content. That its framing ended well is known to the connection only.
    pub fn finish(self, body: Body) -> Result<Object, Incomplete> {
        if self.announced.is_some_and(|announced| announced != body.len()) {
            return Err(Incomplete);
        }
        let Draft { head, stored, variant, tags, notes, born, announced: _ } = self;
        Ok(Object {
            head,
            body,
            stored,
            variant,
            tags,
            notes,
            born,
            checked: AtomicU64::new(born.number()),
            marked_stale: AtomicU64::new(0),
        })
    }
}

impl Object {
    pub fn status(&self) -> StatusCode {
        self.head.status()
    }

    pub fn head(&self) -> HeaderMap {
        self.head.unpack()
    }

    pub fn body(&self) -> &Body {
        &self.body
    }

    pub fn stored(&self) -> &Stored {
        &self.stored
    }

    pub fn variant(&self) -> &Variant {
        &self.variant
    }

    /// For the decisions of [`crate::freshness`].
    pub fn candidate(&self) -> Candidate<'_> {
        let marked = self.marked_stale.load(Ordering::Relaxed);
        Candidate { stored: &self.stored, marked_stale: (marked > 0).then(|| time_of(marked)) }
    }

    /// It is stale since then: a soft purge, or a response to a HEAD (RFC 9111 §4.3.5). The first mark counts.
    pub fn mark_stale(&self, since: SystemTime) {
        let since = milliseconds(since).max(1);
        let _ = self.marked_stale.compare_exchange(0, since, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// What filters have said of it.
    pub fn notes(&self) -> Option<&Arc<Notes>> {
        self.notes.as_ref()
    }

    /// The generation of the store before its request was sent: later purges reach it.
    pub fn born(&self) -> Generation {
        self.born
    }

    pub(crate) fn purged(&self, purges: &Purges) -> Purged {
        purges.check(self.born, &self.tags, &self.checked)
    }

    /// Whether no purge has taken it away. One that was soft marks it.
    pub(crate) fn is_there(&self, purges: &Purges) -> bool {
        match self.purged(purges) {
            Purged::Gone => false,
            Purged::Softly => {
                if self.marked_stale.load(Ordering::Relaxed) == 0 {
                    self.mark_stale(time_of(purges.softened(self.born, &self.tags)));
                }
                true
            }
            Purged::No => true,
        }
    }

    /// The memory that it takes.
    pub(crate) fn weight(&self) -> u64 {
        // The counters of an `Arc`, and what allocators and the cache's tables add.
        const OVERHEAD: usize = 160;
        let heap = self.head.len() + self.body.heap_size() + self.variant.heap_size() + self.tags.heap_size();
        let heap = heap + self.notes.as_ref().map_or(0, |notes| notes.heap_size());
        (size_of::<Object>() + heap + OVERHEAD) as u64
    }
}

/// Milliseconds of the Unix time.
pub(super) fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn time_of(milliseconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(milliseconds)).unwrap_or(SystemTime::UNIX_EPOCH)
}
