//! What the project promises to those who build on it and take part in it: versions, the SDK's public interface, daily commands, links.

mod commands;
mod features;
mod links;
mod sdk;
mod versions;

use std::path::{Path, PathBuf};

/// A file below the top of the repository.
fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(file)
}

#[track_caller]
fn read(file: &str) -> String {
    std::fs::read_to_string(path(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// What the pattern's group finds in a file.
#[track_caller]
fn find(file: &str, pattern: &str) -> String {
    let found = regex::Regex::new(pattern).expect("a pattern").captures(&read(file)).map(|found| found[1].to_owned());
    found.unwrap_or_else(|| panic!("{file} has no `{pattern}`"))
}
