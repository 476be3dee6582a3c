//! Failures, load and memory. A binary of its own, and one test at a time in it: cargo runs test binaries one after the other,
//! so that nothing else of the tests takes the time that is measured here.

mod discovery;
mod events;
mod exact;
mod failures;
mod memory;
mod neighbours;
mod reloads;
mod streaming;
#[path = "../e2e/support.rs"]
#[allow(dead_code, reason = "shared with the other binary")]
mod support;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Held for the time of a test.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints a figure that a full run is for; cargo shows it with `--nocapture`.
#[allow(clippy::print_stdout, reason = "figures are for reading")]
fn tell(line: &str) {
    println!("{line}");
}
