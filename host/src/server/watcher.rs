//! Tells when something may have happened to files: Linux's inotify, asked for no more than what can matter. Directories are watched,
//! not files: a file that is replaced takes its watch along. A log that grows beside a configuration costs nothing.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use inotify::{EventMask, Events, Inotify, WatchDescriptor, WatchMask, Watches};

/// Room for the events of one read.
const BUFFER: usize = 4096;

/// Watches directories until it is dropped.
pub(super) struct Watcher {
    watches: Watches,
    known: HashMap<PathBuf, WatchDescriptor>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// The names of the files that matter when they are written.
    names: Mutex<BTreeSet<OsString>>,
}

impl Watcher {
    /// `touched` is called, on a thread of its own, for whatever comes and goes in the directories, and when a file of one of the names
    /// was written and closed.
    pub(super) fn start(touched: impl Fn() + Send + 'static) -> io::Result<Watcher> {
        let mut inotify = Inotify::init()?;
        let (watches, shared) = (inotify.watches(), Arc::<Shared>::default());
        let watcher = Watcher { watches, known: HashMap::new(), shared: Arc::clone(&shared) };
        std::thread::Builder::new().name("file-watcher".into()).spawn(move || {
            let mut buffer = [0; BUFFER];
            loop {
                match inotify.read_events_blocking(&mut buffer) {
                    _ if shared.stop.load(Ordering::SeqCst) => return,
                    Ok(events) => {
                        if shared.matter(events) {
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

    /// Watches these directories and no others, and in them these names. Answers the directories that can't be watched, and why. One
    /// that is not there is passed over.
    pub(super) fn follow(
        &mut self,
        directories: &BTreeSet<PathBuf>,
        names: BTreeSet<OsString>,
    ) -> Vec<(PathBuf, io::Error)> {
        *self.shared.names.lock().unwrap_or_else(PoisonError::into_inner) = names;
        let gone: Vec<_> = self.known.keys().filter(|known| !directories.contains(*known)).cloned().collect();
        for directory in gone {
            if let Some(watch) = self.known.remove(&directory) {
                // Fails when the directory is gone, and its watch with it.
                let _ = self.watches.remove(watch);
            }
        }
        // Also those that are known: two paths to one directory have had one watch.
        directories.iter().filter_map(|directory| self.watch(directory).err().map(|e| (directory.clone(), e))).collect()
    }

    fn watch(&mut self, directory: &Path) -> io::Result<()> {
        let mask = WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::CLOSE_WRITE
            | WatchMask::MOVED_FROM
            | WatchMask::MOVED_TO
            | WatchMask::ONLYDIR;
        match self.watches.add(directory, mask) {
            Ok(watch) => {
                self.known.insert(directory.to_owned(), watch);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Shared {
    fn matter(&self, events: Events<'_>) -> bool {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        // A link on the way to a file has a name of its own, so whatever comes and goes may matter.
        events.into_iter().any(|event| {
            !event.mask.contains(EventMask::CLOSE_WRITE) || event.name.is_none_or(|name| names.contains(name))
        })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // The end of a watch is an event: the thread wakes and finds that it is to stop.
        for (_, watch) in self.known.drain() {
            let _ = self.watches.remove(watch);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
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
        let refused = watcher.follow(&[directory.path().to_owned()].into(), ["gateway.toml".into()].into());
        assert!(refused.is_empty(), "{refused:?}");
        for _ in 0..100 {
            fs::write(path("log"), "a line").expect("a file");
        }
        assert!(touched.try_recv().is_err());
        fs::write(path("gateway.toml"), "two").expect("a file");
        touched.recv_timeout(Duration::from_secs(10)).expect("what is written matters");
        fs::rename(path("log"), path("link")).expect("a file");
        touched.recv_timeout(Duration::from_secs(10)).expect("what comes and goes matters");
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
