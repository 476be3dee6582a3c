//! Upstreams.

pub mod connect;
pub mod dns;
