//! What filters tell the cache of the route.

use std::time::Duration;

/// What filters have said in an exchange.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheNotes {
    /// What tells this request from others, by name, in the order of the names.
    pub key_parts: Vec<(Box<str>, Box<str>)>,
    pub tags: Vec<Box<str>>,
    pub freshness: Option<CacheFreshness>,
    /// The response is not to be stored.
    pub no_store: bool,
}

/// How long a response may be used, in place of what it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheFreshness {
    pub lifetime: Duration,
    pub stale_while_revalidate: Option<Duration>,
    pub stale_if_error: Option<Duration>,
}

impl CacheNotes {
    /// The memory that they take.
    pub fn bytes(&self) -> usize {
        let part = |(name, value): &(Box<str>, Box<str>)| 2 * size_of::<Box<str>>() + name.len() + value.len();
        let tags: usize = self.tags.iter().map(|tag| size_of::<Box<str>>() + tag.len()).sum();
        size_of::<CacheNotes>() + self.key_parts.iter().map(part).sum::<usize>() + tags
    }

    /// Requests with another value have other responses.
    pub fn set_key_part(&mut self, name: &str, value: &str) {
        match self.key_parts.binary_search_by(|(known, _)| (**known).cmp(name)) {
            Ok(at) => self.key_parts[at].1 = value.into(),
            Err(at) => self.key_parts.insert(at, (name.into(), value.into())),
        }
    }

    pub fn add_tag(&mut self, tag: &str) {
        if !self.tags.iter().any(|known| **known == *tag) {
            self.tags.push(tag.into());
        }
    }
}
