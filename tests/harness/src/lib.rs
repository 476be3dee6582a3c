//! What the end-to-end tests share: the real gateway as a process, scripted origins, clients of every protocol,
//! certificates and guest fixtures. Blocking on purpose: a test reads from top to bottom.

#![allow(clippy::unwrap_used, reason = "a harness that fails should fail the test at the place")]

pub mod certs;
pub mod client;
pub mod consul;
pub mod dns;
pub mod fixtures;
pub mod frames;
pub mod gateway;
pub mod guest;
pub mod h2;
pub mod load;
pub mod origin;
pub mod pebble;
pub mod redis;
pub mod tools;
pub mod transcript;
pub mod wait;
pub mod wire;

pub use certs::Certs;
pub use client::{Client, Response};
pub use dns::NameServer;
pub use gateway::Gateway;
pub use origin::{Conn, Origin, Reply};
pub use pebble::Pebble;
pub use wait::{eventually, eventually_within};
