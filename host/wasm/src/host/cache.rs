//! `cache`: what filters tell the cache of the route.

use std::time::Duration;

use wasmtime::Result as Outcome;

use super::{Interfaces, invalid};
use crate::abi::Str;
use crate::abi::define::Define;
use crate::bindings::Error;
use crate::call::state::CallState;
use crate::exchange::{CacheFreshness, CacheNotes};
use crate::filter::HookSet;

/// Bytes of the name and the value of a part of the key.
const MAX_KEY_PART: usize = 1024;
const MAX_KEY_PARTS: usize = 32;
const MAX_TAG: usize = 256;
const MAX_TAGS: usize = 64;

/// Defines `cache`.
pub(crate) fn link(linker: &mut impl Interfaces) -> Outcome<()> {
    let mut at = linker.interface("cache")?;
    at.function::<(Str, Str), _>("set-key-part", |state, (name, value)| Ok(state.set_key_part(name, value)))?;
    at.function::<(Str,), _>("add-tag", |state, (tag,)| Ok(state.add_tag(tag)))?;
    at.function::<(u64, Option<u64>, Option<u64>), _>("set-freshness", |state, (ttl, revalidate, error)| {
        Ok(state.set_freshness(ttl, revalidate, error))
    })?;
    at.function::<(), _>("no-store", |state, ()| Ok(state.no_store()))
}

impl CallState {
    fn set_key_part(&mut self, name: &str, value: &str) -> Result<(), Error> {
        self.hook(HookSet::REQUEST_WRITES)?;
        if name.is_empty() {
            return Err(invalid("a part of the key has a name"));
        }
        if name.len() + value.len() > MAX_KEY_PART {
            return Err(Error::TooLarge(MAX_KEY_PART as u64));
        }
        let has_room = |notes: &CacheNotes| {
            notes.key_parts.len() < MAX_KEY_PARTS || notes.key_parts.iter().any(|(known, _)| **known == *name)
        };
        if !self.cache_notes(HookSet::REQUEST_WRITES)?.is_none_or(has_room) {
            return Err(Error::TooLarge(MAX_KEY_PARTS as u64));
        }
        self.note(HookSet::REQUEST_WRITES, name.len() + value.len(), |notes| notes.set_key_part(name, value))
    }

    fn add_tag(&mut self, tag: &str) -> Result<(), Error> {
        self.hook(HookSet::CACHE_WRITES)?;
        if tag.is_empty() || tag.bytes().any(|byte| !byte.is_ascii_graphic() || byte == b',') {
            return Err(invalid("a tag has visible ASCII characters and no comma"));
        }
        if tag.len() > MAX_TAG {
            return Err(Error::TooLarge(MAX_TAG as u64));
        }
        if self.cache_notes(HookSet::CACHE_WRITES)?.is_some_and(|notes| notes.tags.len() >= MAX_TAGS) {
            return Err(Error::TooLarge(MAX_TAGS as u64));
        }
        self.note(HookSet::CACHE_WRITES, tag.len(), |notes| notes.add_tag(tag))
    }

    fn set_freshness(&mut self, ttl: u64, revalidate: Option<u64>, error: Option<u64>) -> Result<(), Error> {
        let freshness = CacheFreshness {
            lifetime: Duration::from_millis(ttl),
            stale_while_revalidate: revalidate.map(Duration::from_millis),
            stale_if_error: error.map(Duration::from_millis),
        };
        self.note(HookSet::CACHE_WRITES, 0, |notes| notes.freshness = Some(freshness))
    }

    fn no_store(&mut self) -> Result<(), Error> {
        self.note(HookSet::CACHE_WRITES, 0, |notes| notes.no_store = true)
    }

    fn cache_notes(&self, allowed: HookSet) -> Result<Option<&CacheNotes>, Error> {
        Ok(self.exchange(allowed)?.cache.as_deref())
    }

    /// Changes the notes, which the journal keeps as they were.
    fn note(&mut self, allowed: HookSet, more: usize, change: impl FnOnce(&mut CacheNotes)) -> Result<(), Error> {
        let before = self.cache_notes(allowed)?.map_or(0, CacheNotes::bytes);
        self.keep(before + size_of::<CacheNotes>() + more)?;
        self.exchange_mut(allowed)?.note_for_cache(change);
        Ok(())
    }
}
