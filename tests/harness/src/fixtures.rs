//! The guest fixtures, built by this crate's build script, and the shipped plugins.

use std::path::PathBuf;

include!(concat!(env!("OUT_DIR"), "/fixtures.rs"));

/// The file of a fixture.
#[track_caller]
pub fn file(name: &str) -> PathBuf {
    let found = ALL.iter().find(|(n, _)| *n == name);
    PathBuf::from(found.unwrap_or_else(|| panic!("no fixture `{name}`")).1)
}

/// Where the gateways of a test run keep compiled components, so that each is compiled once.
pub fn cache_dir() -> PathBuf {
    crate::gateway::binary().parent().expect("the folder of the binary").join("component-cache")
}
