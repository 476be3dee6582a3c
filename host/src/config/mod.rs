//! `gateway.toml` to `Config`: reading, defaults and checks. Building something to serve from it is the snapshot's job.

pub mod defaults;
pub mod model;

pub use model::Config;
