//! The HTTP cache without a gateway around it.
//!
//! The rules are pure functions. They read no clock and open no socket: times, heads and lengths come in as arguments. Each file has the
//! sections of the RFC that it follows. The [`store`] is memory and nothing else. `tests/rfc9111/cache.rs` has a whole cache made of them
//! in a page, and the crate's README says how the parts go together and what of the public suite they cover.
//!
//! A request:
//!
//! 1. [`storable::looks_up`]: whether it is one for the cache; [`key::KeyRule::key`]: its key; [`store::Store::find`]: what it selects.
//! 2. [`freshness::reuse`] decides: send what is stored, ask the upstream, or both.
//! 3. [`answer::answer`] makes the response of a hit: conditions, ranges, `Age`.
//! 4. [`validate::make_conditional`] makes the request that validates; [`validate::identify`] and [`validate::freshen`] read a 304, and
//!    [`validate::head_update`] the response to a HEAD.
//! 5. [`freshness::on_error`] says whether a stale response hides a failure.
//! 6. [`storable::storable`] says whether a response may be stored. [`store::Draft`] keeps its head while the content comes, and
//!    [`store::Store::insert`] stores both.
//! 7. [`invalidate`] has what an unsafe request makes invalid, for [`store::Store::purge`].
//! 8. [`cache_status::CacheStatus`] tells the client and the log.

pub mod answer;
pub mod cache_status;
pub mod condition;
pub mod date;
pub mod digest;
pub mod directives;
pub mod etag;
pub mod fields;
pub mod freshness;
pub mod invalidate;
pub mod key;
pub mod notes;
pub mod packed;
pub mod policy;
pub mod range;
pub mod status_codes;
pub mod storable;
pub mod store;
pub mod validate;
pub mod vary;
