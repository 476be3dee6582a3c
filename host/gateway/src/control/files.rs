//! The files of a configuration: where they are watched, and whether they have changed since the last look. It reads the file system
//! and runs on the loader thread.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::SystemTime;

use super::loader::Job;
use crate::background::Background;
use crate::wasm::Interrupt;
use crate::watcher::{Names, Watcher, parent, steps};

/// Files to watch, and what they look like now. To be made when they have just been loaded, so that no change after it is missed.
pub struct WatchedFiles {
    files: Vec<PathBuf>,
    seen: Vec<Print>,
}

impl WatchedFiles {
    /// Looks at the files.
    pub fn look(files: Vec<PathBuf>) -> Self {
        let seen = files.iter().map(|file| Print::of(file)).collect();
        WatchedFiles { files, seen }
    }
}

/// The files of a configuration, and what they looked like at the last look.
pub(super) struct Watch {
    files: Vec<PathBuf>,
    seen: Vec<Print>,
    /// `None` where the system can't report changes.
    watcher: Option<Watcher>,
    /// Directories that can't be watched.
    refused: BTreeSet<PathBuf>,
}

/// What tells a file from its earlier self.
#[derive(Debug, PartialEq, Eq)]
struct Print {
    /// Where it really is: a swapped symbolic link (as of mounted Kubernetes ConfigMaps) changes this and nothing else.
    real: Option<PathBuf>,
    modified: Option<SystemTime>,
    /// A file that takes the place of another within a tick of the clock may have its time and its length.
    inode: u64,
    bytes: u64,
    entries: Vec<(PathBuf, Option<SystemTime>, u64)>,
}

impl Print {
    fn of(path: &Path) -> Self {
        let data = std::fs::metadata(path).ok();
        let mut entries = Vec::new();
        if data.as_ref().is_some_and(std::fs::Metadata::is_dir)
            && let Ok(found) = std::fs::read_dir(path)
        {
            // Of files that may be parts of a configuration also what is in them: one that was refused may be mended.
            entries.extend(found.flatten().map(|entry| {
                let path = entry.path();
                let is_part = path.extension().is_some_and(|extension| extension == "toml");
                let data = entry.metadata().ok().filter(|_| is_part);
                (path, data.as_ref().and_then(|data| data.modified().ok()), data.map_or(0, |data| data.len()))
            }));
            entries.sort();
        }
        Print {
            real: std::fs::canonicalize(path).ok(),
            // A directory changes with each temporary file; its entries tell what matters.
            modified: data.as_ref().filter(|data| data.is_file()).and_then(|data| data.modified().ok()),
            inode: data.as_ref().filter(|data| data.is_file()).map_or(0, MetadataExt::ino),
            bytes: data.filter(std::fs::Metadata::is_file).map_or(0, |data| data.len()),
            entries,
        }
    }
}

impl Watch {
    pub(super) fn new(
        watched: WatchedFiles,
        background: &Background,
        jobs: &Arc<Sender<Job>>,
        interrupt: &Arc<Interrupt>,
    ) -> Self {
        // The loader thread ends with its last handle, and the watcher with the loader thread.
        let jobs = Arc::downgrade(jobs);
        let interrupt = Arc::clone(interrupt);
        let watcher = Watcher::start(background, move |change| {
            if let Some(jobs) = jobs.upgrade() {
                let _ = jobs.send(Job::Changed(change));
                interrupt.raise();
            }
        })
        .inspect_err(|error| tracing::warn!(%error, "changed files are found by comparing them every 2 s"))
        .ok();
        let mut watch = Watch { files: Vec::new(), seen: Vec::new(), watcher, refused: BTreeSet::new() };
        watch.follow(watched.files);
        watch.seen = watched.seen;
        watch
    }

    /// Whether nobody reports changes, so that the files have to be compared from time to time.
    pub(super) fn has_to_poll(&self) -> bool {
        self.watcher.as_ref().is_none_or(Watcher::has_ended)
    }

    pub(super) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Watches these files, and what leads to them as it is now.
    pub(super) fn follow(&mut self, files: Vec<PathBuf>) {
        let mut directories: BTreeMap<PathBuf, Names> = BTreeMap::new();
        for file in &files {
            let real = std::fs::canonicalize(file).ok();
            for path in std::iter::once(file).chain(&real) {
                if path.is_dir() {
                    directories.insert(path.clone(), None);
                }
                directories.extend(parent(path).map(|directory| (directory, None)));
            }
        }
        // Beside the directories themselves, each name on the way to them: any of them can be replaced, or be a link to elsewhere.
        let whole: BTreeSet<PathBuf> = directories.keys().cloned().collect();
        for (directory, name) in whole.iter().chain(&files).flat_map(|path| steps(path)) {
            if let Some(names) = directories.entry(directory).or_insert_with(|| Some(BTreeSet::new())) {
                names.insert(name);
            }
        }
        if let Some(watcher) = &mut self.watcher {
            // Nothing that is needed is missed where a directory on the way may only be passed.
            let refused = watcher.follow(directories).into_iter().filter(|(directory, _)| whole.contains(directory));
            let refused: Vec<_> = refused.collect();
            for (directory, error) in refused.iter().filter(|(directory, _)| !self.refused.contains(directory)) {
                tracing::warn!(directory = %directory.display(), %error, "cannot watch for changes");
            }
            self.refused = refused.into_iter().map(|(directory, _)| directory).collect();
        }
        if self.files != files {
            // Files that were known keep their look, so that a change during the load is not missed.
            let mut seen: Vec<(PathBuf, Print)> = self.files.drain(..).zip(self.seen.drain(..)).collect();
            self.seen = files
                .iter()
                .map(|file| match seen.iter().position(|(known, _)| known == file) {
                    Some(known) => seen.swap_remove(known).1,
                    None => Print::of(file),
                })
                .collect();
            self.files = files;
        }
    }

    /// The files that differ from the last look. This is the next one.
    pub(super) fn changed(&mut self) -> Vec<PathBuf> {
        let prints = self.prints();
        let pairs = self.files.iter().zip(prints.iter().zip(&self.seen));
        let changed = pairs.filter(|(_, (now, before))| now != before).map(|(file, _)| file.clone()).collect();
        self.seen = prints;
        changed
    }

    pub(super) fn differs(&self) -> bool {
        self.prints() != self.seen
    }

    fn prints(&self) -> Vec<Print> {
        self.files.iter().map(|file| Print::of(file)).collect()
    }
}
