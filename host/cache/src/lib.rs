//! The HTTP cache without a gateway around it.
//!
//! The rules are pure functions. They read no clock and open no socket: times, heads and lengths come in as arguments. Each file has the
//! sections of the RFC that it follows.

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
pub mod policy;
pub mod range;
pub mod status_codes;
pub mod storable;
pub mod store;
pub mod validate;
pub mod vary;
