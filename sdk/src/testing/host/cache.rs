//! What a filter tells the cache of the route.

use super::during;
use crate::bindings::sluice::filter::types::Error;
use crate::testing::Phase;

const REQUEST: &[Phase] = &[Phase::OnRequest, Phase::OnRequestBody];
const BEFORE_STORE: &[Phase] = &[Phase::OnRequest, Phase::OnRequestBody, Phase::OnResponse, Phase::OnResponseBody];

pub(crate) fn set_key_part(name: &str, value: &str) -> Result<(), Error> {
    during(REQUEST, |world| {
        let parts = &mut world.exchange.cache.key_parts;
        if name.is_empty() {
            return Err(Error::Invalid("a part of the key has a name".into()));
        }
        if name.len() + value.len() > 1024 {
            return Err(Error::TooLarge(1024));
        }
        if parts.len() >= 32 && !parts.contains_key(name) {
            return Err(Error::TooLarge(32));
        }
        parts.insert(name.to_owned(), value.to_owned());
        Ok(())
    })
}

pub(crate) fn add_tag(tag: &str) -> Result<(), Error> {
    during(BEFORE_STORE, |world| {
        let tags = &mut world.exchange.cache.tags;
        if tag.is_empty() || tag.bytes().any(|byte| !byte.is_ascii_graphic() || byte == b',') {
            return Err(Error::Invalid("a tag has visible ASCII characters and no comma".into()));
        }
        if tag.len() > 256 {
            return Err(Error::TooLarge(256));
        }
        if tags.len() >= 64 {
            return Err(Error::TooLarge(64));
        }
        if !tags.iter().any(|known| known == tag) {
            tags.push(tag.to_owned());
        }
        Ok(())
    })
}

pub(crate) fn set_freshness(ttl: u64, while_revalidate: Option<u64>, if_error: Option<u64>) -> Result<(), Error> {
    during(BEFORE_STORE, |world| {
        world.exchange.cache.freshness = Some((ttl, while_revalidate, if_error));
        Ok(())
    })
}

pub(crate) fn no_store() -> Result<(), Error> {
    during(BEFORE_STORE, |world| {
        world.exchange.cache.no_store = true;
        Ok(())
    })
}
