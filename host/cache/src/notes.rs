//! What others than the upstream say of a response: tags to purge it by, and how long it may be used.

use std::sync::Arc;
use std::time::Duration;

use crate::directives::ResponseDirectives;

/// How long a response may be used, in place of what it says itself. Whether it may be shared remains a matter of the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    pub lifetime: Duration,
    pub stale_while_revalidate: Option<Duration>,
    pub stale_if_error: Option<Duration>,
}

impl Freshness {
    /// The directives of a response with this in the place of its own. That `s-maxage` allows to share what `Authorization` was sent for goes
    /// with it: only the response itself can say so.
    fn apply(&self, directives: &mut ResponseDirectives) {
        directives.s_maxage = None;
        directives.max_age = Some(self.lifetime);
        directives.stale_while_revalidate = self.stale_while_revalidate.or(directives.stale_while_revalidate);
        directives.stale_if_error = self.stale_if_error.or(directives.stale_if_error);
    }
}

/// The notes of one response. A validation keeps them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notes {
    pub tags: Vec<Box<str>>,
    pub freshness: Option<Freshness>,
}

impl Notes {
    /// None where there is nothing to say, as for most responses.
    pub fn shared(self) -> Option<Arc<Notes>> {
        (self != Notes::default()).then(|| Arc::new(self))
    }

    /// The directives of a response with these notes.
    pub fn directives(notes: Option<&Arc<Notes>>, mut directives: ResponseDirectives) -> ResponseDirectives {
        if let Some(freshness) = notes.and_then(|notes| notes.freshness) {
            freshness.apply(&mut directives);
        }
        directives
    }

    pub(crate) fn heap_size(&self) -> usize {
        size_of::<Notes>() + self.tags.iter().map(|tag| size_of::<Box<str>>() + tag.len()).sum::<usize>()
    }
}
