//! Reads one file of consumers, when it has changed and rests.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::config::read_file;
use crate::services::consumers::{ConsumerSpec, lines};

/// The largest file: some millions of consumers.
const MAX_FILE: u64 = 1 << 30;
/// A file that was written within this time may not be whole yet …
const REST: Duration = Duration::from_millis(50);
/// … and one that does not rest for so many looks is refused.
const MAX_LOOKS: u32 = 20;

/// What a file had when it was good.
#[derive(Debug, Default)]
pub(super) struct Content {
    print: Option<Print>,
    /// With their lines.
    pub(super) consumers: Arc<[(usize, ConsumerSpec)]>,
}

/// What tells a file from its earlier self.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Print {
    modified: SystemTime,
    /// Nobody can set it: a change within a tick of a coarse clock, of the same length, shows here.
    changed: (i64, i64),
    inode: u64,
    bytes: u64,
}

impl Content {
    /// Whether it was written after the other.
    pub(super) fn is_newer(&self, other: &Content) -> bool {
        match (self.print, other.print) {
            (Some(own), Some(other)) => own.modified > other.modified,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }
}

/// Why a file has no consumers.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error(transparent)]
    Read(#[from] std::io::Error),
    #[error("it is still being written")]
    Unrest,
    #[error("it is not UTF-8")]
    Text,
    #[error(transparent)]
    Line(#[from] lines::LineError),
}

/// What the file has: what it had `before` if it has not changed since.
pub(super) fn read(path: &Path, before: Option<&Arc<Content>>) -> Result<Arc<Content>, FileError> {
    let mut last = None;
    for _ in 0..MAX_LOOKS {
        let print = Print::of(path)?;
        if let Some(before) = before.filter(|before| before.print == Some(print)) {
            return Ok(Arc::clone(before));
        }
        let age = SystemTime::now().duration_since(print.modified).unwrap_or_default();
        // A time in the future is one of another clock: then it rests if it has not changed since the last look.
        if age >= REST || last == Some(print) {
            let text = read_file(path, MAX_FILE)?;
            if Print::of(path)? == print {
                let text = String::from_utf8(text).map_err(|_| FileError::Text)?;
                return Ok(Arc::new(Content { print: Some(print), consumers: lines::parse(&text)?.into() }));
            }
        }
        last = Some(print);
        std::thread::sleep(REST);
    }
    Err(FileError::Unrest)
}

impl Print {
    fn of(path: &Path) -> std::io::Result<Print> {
        let data = std::fs::metadata(path)?;
        let changed = (data.ctime(), data.ctime_nsec());
        Ok(Print { modified: data.modified()?, changed, inode: data.ino(), bytes: data.len() })
    }
}
