//! What the cache of the route should know beside the messages.
//!
//! A response is stored as the upstream has sent it, and response hooks are called again on each hit. So what a response hook says here counts
//! only where the response is about to be stored: [`crate::Response::cache_status`] is `miss`.

use std::time::Duration;

use crate::{Error, host};

/// How long a response may be used, in place of what it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "set it with set()"]
pub struct Freshness {
    ttl: Duration,
    stale_while_revalidate: Option<Duration>,
    stale_if_error: Option<Duration>,
}

impl Freshness {
    /// It is fresh for so long.
    pub fn for_time(ttl: Duration) -> Self {
        Self { ttl, stale_while_revalidate: None, stale_if_error: None }
    }

    /// After that, it may be sent for so long while another one is fetched.
    pub fn stale_while_revalidate(self, time: Duration) -> Self {
        Self { stale_while_revalidate: Some(time), ..self }
    }

    /// After that, it may be sent for so long in place of an error.
    pub fn stale_if_error(self, time: Duration) -> Self {
        Self { stale_if_error: Some(time), ..self }
    }

    /// Says so of the response of this exchange.
    ///
    /// # Errors
    /// `WrongHook` outside the hooks of requests and responses.
    pub fn set(self) -> Result<(), Error> {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Ok(host::cache::set_freshness(ms(self.ttl), self.stale_while_revalidate.map(ms), self.stale_if_error.map(ms))?)
    }
}

/// Requests with another value have other stored responses. A later call with the same name replaces the value.
///
/// # Errors
/// `WrongHook` outside the request hooks; `Invalid` for an empty name; `TooLarge` past 1 KiB, and past 32 names.
pub fn set_key_part(name: &str, value: &str) -> Result<(), Error> {
    Ok(host::cache::set_key_part(name, value)?)
}

/// The response can be purged by this tag.
///
/// # Errors
/// `Invalid` unless it has visible ASCII characters and no comma; `TooLarge` past 256 bytes, and past 64 tags.
pub fn add_tag(tag: &str) -> Result<(), Error> {
    Ok(host::cache::add_tag(tag)?)
}

/// The response is not stored.
///
/// # Errors
/// `WrongHook` outside the hooks of requests and responses.
pub fn no_store() -> Result<(), Error> {
    Ok(host::cache::no_store()?)
}
