//! Reloading: on SIGHUP or when a watched file has changed, one thread of low priority runs the loader given to it, one run at
//! a time, and tells how it went. What a reload does is the loader's business.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use thread_priority::{ThreadPriority, ThreadPriorityValue, set_current_thread_priority};

use super::watcher::{Names, Watcher};
use crate::telemetry::Metrics;

/// Changes are waited for to settle: editors and copies write in several steps.
const QUIET: Duration = Duration::from_millis(200);
/// A file that never rests is loaded after this time all the same.
const MAX_UNREST: Duration = Duration::from_secs(2);
/// How often files are compared where the system reports no changes.
const POLL: Duration = Duration::from_secs(2);

/// What a reload did.
#[derive(Debug, Clone, Default)]
pub struct ReloadReport {
    /// What there is now, for the log.
    pub routes: usize,
    pub upstreams: usize,
    /// What is different in the file but needs a restart, for the log.
    pub restart_needed: Vec<String>,
    /// Files to watch from now on, and directories whose entries matter (of an include with a wildcard).
    pub watch: Vec<PathBuf>,
}

/// The way to the loader thread; the thread ends with it.
#[derive(Debug, Clone)]
pub struct Reloader {
    events: Arc<Sender<Event>>,
}

impl Reloader {
    /// Asks for a reload, whether or not a file has changed.
    pub fn request(&self) {
        // Fails only when the loader has panicked, which was logged.
        let _ = self.events.send(Event::Requested);
    }
}

#[derive(Debug)]
enum Event {
    Requested,
    Touched,
}

/// Starts the loader thread. Without `files` only SIGHUP reloads. `load` builds and swaps the configuration or says, in one or
/// several lines, why it can't.
pub fn start_reloader<E: Display>(
    files: Option<WatchedFiles>,
    metrics: Arc<Metrics>,
    load: impl FnMut() -> Result<ReloadReport, E> + Send + 'static,
) -> io::Result<Reloader> {
    metrics.last_reload.set(now());
    let (events, queue) = mpsc::channel();
    let events = Arc::new(events);
    let watcher = files.map(|files| Watch::new(files, &events));
    if watcher.is_some() {
        // What has changed since the files were loaded, nobody was told of.
        let _ = events.send(Event::Touched);
    }
    std::thread::Builder::new().name("loader".into()).spawn(move || {
        lower_priority();
        run(&queue, watcher, &metrics, load);
    })?;
    Ok(Reloader { events })
}

fn run<E: Display>(
    queue: &Receiver<Event>,
    mut watch: Option<Watch>,
    metrics: &Metrics,
    mut load: impl FnMut() -> Result<ReloadReport, E>,
) {
    // Something has happened before the files were watched where they are now.
    let mut missed = false;
    loop {
        let poll = watch.as_ref().is_some_and(|watch| watch.watcher.is_none());
        let event = if std::mem::take(&mut missed) {
            Ok(Event::Touched)
        } else if poll {
            match queue.recv_timeout(POLL) {
                Err(RecvTimeoutError::Timeout) => Ok(Event::Touched),
                Ok(event) => Ok(event),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        } else {
            queue.recv()
        };
        let Ok(event) = event else { return };
        let requested = settle(queue, event, poll);
        // Taken before the load, so that a change during it leads to another one.
        let changed = watch.as_mut().is_some_and(Watch::has_changed);
        if !requested && !changed {
            continue;
        }
        let begun = Instant::now();
        match load() {
            Ok(report) => {
                metrics.reloads.add(1);
                metrics.last_reload.set(now());
                let took_ms = begun.elapsed().as_millis() as u64;
                let ReloadReport { routes, upstreams, .. } = report;
                tracing::info!(routes, upstreams, took_ms, "configuration reloaded");
                for what in &report.restart_needed {
                    tracing::warn!(what, "changed in the configuration, but takes effect only after a restart");
                }
                if let Some(watch) = watch.as_mut().filter(|_| !report.watch.is_empty()) {
                    watch.follow(report.watch);
                    missed = watch.differs();
                }
            }
            Err(error) => {
                metrics.reloads_refused.add(1);
                let error = error.to_string();
                tracing::error!(error, "configuration refused; the running one stays");
                // What leads to the files may have been replaced all the same.
                if let Some(watch) = watch.as_mut() {
                    watch.follow(watch.files.clone());
                    missed = watch.differs();
                }
            }
        }
    }
}

/// Takes all events until there is quiet. True if one of them is a request.
fn settle(queue: &Receiver<Event>, first: Event, polling: bool) -> bool {
    let mut requested = matches!(first, Event::Requested);
    let begun = Instant::now();
    // A request is not kept waiting, and a poll finds what has already rested.
    let quiet = if requested || polling { Duration::ZERO } else { QUIET };
    while begun.elapsed() < MAX_UNREST
        && let Ok(event) = queue.recv_timeout(quiet)
    {
        requested |= matches!(event, Event::Requested);
    }
    requested
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Compiling filters must not take the processor from the workers. Threads that the loader starts inherit it.
fn lower_priority() {
    // 22 of 99 is a niceness of 10: about a tenth of a busy processor, so that a reload still gets done.
    let lowered = ThreadPriorityValue::try_from(22)
        .map(|value| set_current_thread_priority(ThreadPriority::Crossplatform(value)).is_ok());
    if lowered != Ok(true) {
        tracing::debug!("the loader runs at normal priority");
    }
}

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
struct Watch {
    files: Vec<PathBuf>,
    seen: Vec<Print>,
    /// `None` where the system can't report changes.
    watcher: Option<Watcher>,
    /// Directories that can't be watched.
    refused: BTreeSet<PathBuf>,
}

/// The directory that a path is in.
fn parent(path: &Path) -> Option<PathBuf> {
    let parent = path.parent()?;
    Some(if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.to_owned() })
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
    fn new(watched: WatchedFiles, events: &Arc<Sender<Event>>) -> Self {
        // The loader ends with the last reloader, and the watcher with the loader.
        let events = Arc::downgrade(events);
        let watcher = Watcher::start(move || {
            if let Some(events) = events.upgrade() {
                let _ = events.send(Event::Touched);
            }
        })
        .inspect_err(|error| tracing::warn!(%error, "changed files are found by comparing them every 2 s"))
        .ok();
        let mut watch = Watch { files: Vec::new(), seen: Vec::new(), watcher, refused: BTreeSet::new() };
        watch.follow(watched.files);
        watch.seen = watched.seen;
        watch
    }

    /// Watches these files, and what leads to them as it is now.
    fn follow(&mut self, files: Vec<PathBuf>) {
        let mut directories: BTreeMap<PathBuf, Names> = BTreeMap::new();
        let mut whole = |directory: PathBuf| {
            // A directory may be replaced as a whole, or be a link to another one: its parent tells.
            if let (Some(parent), Some(name)) = (parent(&directory), directory.file_name())
                && let Some(names) = directories.entry(parent).or_insert_with(|| Some(BTreeSet::new()))
            {
                names.insert(name.to_owned());
            }
            directories.insert(directory, None);
        };
        for file in &files {
            let real = std::fs::canonicalize(file).ok();
            for path in std::iter::once(file).chain(&real) {
                if path.is_dir() {
                    whole(path.clone());
                }
                parent(path).map(&mut whole);
            }
        }
        if let Some(watcher) = &mut self.watcher {
            // An optional folder, such as that of the plugins, may not be there: SIGHUP will do when it is.
            let refused = watcher.follow(directories);
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

    fn has_changed(&mut self) -> bool {
        let prints = self.prints();
        let changed = prints != self.seen;
        self.seen = prints;
        changed
    }

    fn differs(&self) -> bool {
        self.prints() != self.seen
    }

    fn prints(&self) -> Vec<Print> {
        self.files.iter().map(|file| Print::of(file)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Loader {
        directory: tempfile::TempDir,
        loads: Receiver<String>,
        reloader: Reloader,
        metrics: Arc<Metrics>,
    }

    /// A loader that takes all texts but `broken`.
    fn loader(file: &str) -> Loader {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(file);
        if !path.exists() {
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            std::fs::write(&path, "one").expect("a file");
        }
        watching(directory, path)
    }

    fn watching(directory: tempfile::TempDir, path: PathBuf) -> Loader {
        let files = WatchedFiles::look(vec![path.clone()]);
        watching_since(files, directory, path)
    }

    fn watching_since(files: WatchedFiles, directory: tempfile::TempDir, path: PathBuf) -> Loader {
        let (loaded, loads) = mpsc::channel();
        let metrics = Metrics::new();
        let watched = path;
        let reloader = start_reloader(Some(files), Arc::clone(&metrics), move || {
            let text = std::fs::read_to_string(&watched).unwrap_or_default();
            let _ = loaded.send(text.clone());
            if text == "broken" {
                return Err("gateway.toml:1:1: broken");
            }
            Ok(ReloadReport { watch: vec![watched.clone()], ..ReloadReport::default() })
        })
        .expect("a thread");
        Loader { directory, loads, reloader, metrics }
    }

    impl Loader {
        fn next(&self) -> String {
            self.loads.recv_timeout(Duration::from_secs(10)).expect("a reload")
        }
    }

    #[test]
    fn a_file_that_is_replaced_again_and_again_is_seen() {
        let loader = loader("gateway.toml");
        for text in ["two", "three"] {
            let new = loader.directory.path().join(".gateway.toml.swp");
            std::fs::write(&new, text).expect("a file");
            std::fs::rename(&new, loader.directory.path().join("gateway.toml")).expect("a rename");
            assert_eq!(loader.next(), text);
        }
    }

    #[test]
    fn a_change_before_the_start_is_seen() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("gateway.toml");
        std::fs::write(&path, "one").expect("a file");
        let files = WatchedFiles::look(vec![path.clone()]);
        std::fs::write(&path, "three").expect("a file");
        assert_eq!(watching_since(files, directory, path).next(), "three");
    }

    #[test]
    fn a_swapped_link_is_seen() {
        // The layout of a mounted ConfigMap: gateway.toml -> ..data/gateway.toml, ..data -> ..1
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().to_owned();
        for (version, text) in [("..1", "one"), ("..2", "two")] {
            std::fs::create_dir(root.join(version)).expect("a directory");
            std::fs::write(root.join(version).join("gateway.toml"), text).expect("a file");
        }
        std::os::unix::fs::symlink("..1", root.join("..data")).expect("a link");
        std::os::unix::fs::symlink("..data/gateway.toml", root.join("gateway.toml")).expect("a link");
        let loader = watching(directory, root.join("gateway.toml"));
        std::os::unix::fs::symlink("..2", root.join("..data_tmp")).expect("a link");
        std::fs::rename(root.join("..data_tmp"), root.join("..data")).expect("a rename");
        assert_eq!(loader.next(), "two");
    }

    #[test]
    fn a_directory_that_is_replaced_is_seen_and_the_new_one_watched() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().to_owned();
        for (name, text) in [("live", "one"), ("next", "two")] {
            std::fs::create_dir(root.join(name)).expect("a directory");
            std::fs::write(root.join(name).join("gateway.toml"), text).expect("a file");
        }
        let loader = watching(directory, root.join("live/gateway.toml"));
        std::fs::rename(root.join("live"), root.join("old")).expect("a rename");
        std::fs::rename(root.join("next"), root.join("live")).expect("a rename");
        assert_eq!(loader.next(), "two");
        std::fs::write(root.join("live/gateway.toml"), "three").expect("a file");
        assert_eq!(loader.next(), "three");
    }

    #[test]
    fn a_part_that_was_refused_is_loaded_once_it_is_mended() {
        let directory = tempfile::tempdir().expect("a directory");
        let parts = directory.path().join("conf.d");
        std::fs::create_dir(&parts).expect("a directory");
        let (loaded, loads) = mpsc::channel();
        let part = parts.join("a.toml");
        let read = part.clone();
        let _reloader = start_reloader(Some(WatchedFiles::look(vec![parts])), Metrics::new(), move || {
            let text = std::fs::read_to_string(&read).unwrap_or_default();
            let _ = loaded.send(text.clone());
            if text == "broken" { Err("a.toml:1:1: broken") } else { Ok(ReloadReport::default()) }
        })
        .expect("a thread");
        for text in ["broken", "mended"] {
            std::fs::write(&part, text).expect("a file");
            assert_eq!(loads.recv_timeout(Duration::from_secs(10)).as_deref(), Ok(text));
        }
    }

    #[test]
    fn requests_load_unchanged_files_and_results_are_counted() {
        let loader = loader("gateway.toml");
        loader.reloader.request();
        assert_eq!(loader.next(), "one");
        std::fs::write(loader.directory.path().join("gateway.toml"), "broken").expect("a file");
        assert_eq!(loader.next(), "broken");
        let deadline = Instant::now() + Duration::from_secs(10);
        while loader.metrics.reloads_refused.value() == 0 && Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert_eq!((loader.metrics.reloads.value(), loader.metrics.reloads_refused.value()), (1, 1));
    }

    #[test]
    fn other_files_beside_it_do_not_matter() {
        let loader = loader("gateway.toml");
        std::fs::write(loader.directory.path().join("other"), "x").expect("a file");
        std::fs::write(loader.directory.path().join("gateway.toml"), "two").expect("a file");
        assert_eq!(loader.next(), "two");
        assert!(loader.loads.try_recv().is_err(), "one reload for one change");
    }
}
