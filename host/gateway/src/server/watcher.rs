//! Tells when something may have happened to files: Linux's inotify, asked for no more than what can matter. Directories are watched,
//! not files: a file that is replaced takes its watch along. A log that grows beside a configuration costs nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use inotify::{Event, EventMask, Inotify, WatchDescriptor, WatchMask, Watches};

/// Room for the events of one read.
const BUFFER: usize = 4096;

/// What matters in a directory: `None`: all of it; else what has one of these names.
pub(super) type Names = Option<BTreeSet<OsString>>;

/// Watches directories until it is dropped.
pub(super) struct Watcher {
    watches: Watches,
    /// A watch that reports nothing but its end.
    anchor: Option<WatchDescriptor>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Two paths may lead to one directory: it has one watch, and one of the paths.
    known: Mutex<HashMap<WatchDescriptor, (PathBuf, Names)>>,
}

impl Watcher {
    /// `touched` is called on a thread of its own.
    pub(super) fn start(touched: impl Fn() + Send + 'static) -> io::Result<Watcher> {
        let mut inotify = Inotify::init()?;
        let mut watches = inotify.watches();
        let anchor = watches.add("/", WatchMask::MOVE_SELF)?;
        let shared = Arc::<Shared>::default();
        let watcher = Watcher { watches, anchor: Some(anchor), shared: Arc::clone(&shared) };
        std::thread::Builder::new().name("file-watcher".into()).spawn(move || {
            let mut buffer = [0; BUFFER];
            loop {
                match inotify.read_events_blocking(&mut buffer) {
                    _ if shared.stop.load(Ordering::SeqCst) => return,
                    Ok(mut events) => {
                        if events.any(|event| shared.matters(&event)) {
                            touched();
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => {
                        tracing::warn!(%error, "changed files are not noticed any more: send SIGHUP");
                        return;
                    }
                }
            }
        })?;
        Ok(watcher)
    }

    /// Watches these directories, as they are now, and no others. Answers those that can't be watched, and why. One that is not there
    /// is passed over.
    pub(super) fn follow(&mut self, directories: BTreeMap<PathBuf, Names>) -> Vec<(PathBuf, io::Error)> {
        let mut refused = Vec::new();
        let mut now: HashMap<WatchDescriptor, (PathBuf, Names)> = HashMap::new();
        for (directory, names) in directories {
            match self.watch(&directory) {
                Ok(watch) => {
                    let (_, all) = now.entry(watch).or_insert_with(|| (directory, Some(BTreeSet::new())));
                    match (all.as_mut(), names) {
                        (Some(all), Some(names)) => all.extend(names),
                        (Some(_), None) => *all = None,
                        (None, _) => {}
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => refused.push((directory, error)),
            }
        }
        let before = std::mem::replace(&mut *self.shared.known(), now);
        let kept =
            |watch: &WatchDescriptor| self.shared.known().contains_key(watch) || self.anchor.as_ref() == Some(watch);
        for watch in before.into_keys().filter(|watch| !kept(watch)).collect::<Vec<_>>() {
            // Fails when the directory is gone, and its watch with it.
            let _ = self.watches.remove(watch);
        }
        refused
    }

    fn watch(&mut self, directory: &Path) -> io::Result<WatchDescriptor> {
        let mask = WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::CLOSE_WRITE
            | WatchMask::MOVED_FROM
            | WatchMask::MOVED_TO
            | WatchMask::ONLYDIR;
        // "/" has the watch of the anchor, too.
        self.watches.add(directory, mask | WatchMask::MASK_ADD)
    }
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, HashMap<WatchDescriptor, (PathBuf, Names)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn matters(&self, event: &Event<&std::ffi::OsStr>) -> bool {
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            return true;
        }
        let known = self.known();
        // Of a watch that was given up.
        let Some((directory, names)) = known.get(&event.wd) else { return false };
        let Some(name) = event.name else { return true };
        if names.as_ref().is_some_and(|names| !names.contains(name)) {
            return false;
        }
        // Of a file that is being written more is to come, and its end is told. A link has all it will have.
        let is_new_file =
            || std::fs::symlink_metadata(directory.join(name)).is_ok_and(|it| it.is_file() && it.nlink() == 1);
        !(event.mask.contains(EventMask::CREATE) && is_new_file())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // The end of a watch is an event: the thread wakes and finds that it is to stop.
        if let Some(anchor) = self.anchor.take() {
            let _ = self.watches.remove(anchor);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_log_that_grows_beside_it_is_no_change() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        fs::write(path("gateway.toml"), "one").expect("a file");
        fs::write(path("log"), "").expect("a file");
        let (sender, touched) = mpsc::channel();
        let mut watcher = Watcher::start(move || sender.send(()).unwrap_or_default()).expect("inotify");
        let refused = watcher.follow([(directory.path().to_owned(), None)].into());
        assert!(refused.is_empty(), "{refused:?}");
        let mut log = fs::File::create(path("log")).expect("a file");
        for _ in 0..100 {
            log.write_all(b"a line").expect("a line");
        }
        fs::write(path("gateway.toml"), "two").expect("a file");
        touched.recv_timeout(Duration::from_secs(10)).expect("what is written matters");
        assert!(touched.try_recv().is_err(), "one event, for the last of it");
        fs::rename(path("log"), path("link")).expect("a file");
        touched.recv_timeout(Duration::from_secs(10)).expect("what comes and goes matters");
        let other = tempfile::tempdir().expect("a directory");
        watcher.follow([(other.path().to_owned(), Some(["a".into()].into()))].into());
        for name in ["b", "a"] {
            fs::write(other.path().join(name), "1").expect("a file");
        }
        touched.recv_timeout(Duration::from_secs(10)).expect("a name that matters");
        assert!(touched.try_recv().is_err(), "and no other");
        drop(watcher);
        let ended = loop {
            match touched.recv_timeout(Duration::from_secs(10)) {
                Ok(()) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(ended, mpsc::RecvTimeoutError::Disconnected, "the thread ends with the watcher");
    }
}
