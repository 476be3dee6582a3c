//! Reads the README, the book in docs/ and the pages beside SDK, plugins and examples, and holds that they are true: every
//! configuration is accepted, every command runs and prints what the page shows, every link leads somewhere.

#![allow(clippy::unwrap_used, reason = "a test that fails should fail at the place")]

mod blocks;
mod configs;
mod kong;
mod links;
mod lists;
mod markdown;
mod plugins;
mod sessions;
mod shell;
mod wit;
