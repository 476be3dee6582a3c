//! Tells when something may have happened to files: Linux's inotify, asked for no more than what can matter. Directories are watched,
//! not files: a file that is replaced takes its watch along. A log that grows beside a configuration costs nothing. `paths` says which
//! directories lead to a file.

mod paths;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::ffi::OsString;
use std::future::poll_fn;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_core::Stream;
use inotify::{EventMask, EventOwned, EventStream, Inotify, WatchDescriptor, WatchMask, Watches};

pub(crate) use self::paths::{parent, steps};
use crate::background::{Background, Task};

/// Room for the events of one read.
const BUFFER: usize = 4096;

/// What matters in a directory: `None`: all of it; else what has one of these names.
pub(crate) type Names = Option<BTreeSet<OsString>>;

/// Watches directories until it is dropped.
pub(crate) struct Watcher {
    watches: Watches,
    shared: Arc<Shared>,
    _task: Task,
}

/// What may have happened.
pub(crate) enum Change {
    Any,
    /// A file, link or directory of this name is new.
    Created(PathBuf),
}

#[derive(Default)]
struct Shared {
    /// Two paths may lead to one directory: it has one watch, and one of the paths.
    known: Mutex<HashMap<WatchDescriptor, (PathBuf, Names)>>,
    ended: AtomicBool,
}

/// Says that nobody reads events any more, however that came about, and that files may have changed since.
struct Ended<F: Fn(Change)>(Arc<Shared>, F);

impl<F: Fn(Change)> Drop for Ended<F> {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
        self.1(Change::Any);
    }
}

impl Watcher {
    /// `touched` is called on the background thread.
    pub(crate) fn start(background: &Background, touched: impl Fn(Change) + Send + 'static) -> io::Result<Watcher> {
        let inotify = Inotify::init()?;
        let (watches, shared) = (inotify.watches(), Arc::<Shared>::default());
        let task = background.spawn("file watcher", {
            let shared = Arc::clone(&shared);
            move || async move {
                let ended = Ended(shared, touched);
                let Err(error) = read(inotify, &ended.0, &ended.1).await;
                tracing::warn!(%error, "changes are not reported any more; files are compared every 2 s");
            }
        });
        Ok(Watcher { watches, shared, _task: task })
    }

    /// Whether changes are not reported any more.
    pub(crate) fn has_ended(&self) -> bool {
        self.shared.ended.load(Ordering::Acquire)
    }

    /// Watches these directories, as they are now, and no others. Answers those that can't be watched, and why. One that is not there
    /// is passed over.
    pub(crate) fn follow(&mut self, directories: BTreeMap<PathBuf, Names>) -> Vec<(PathBuf, io::Error)> {
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
        let kept = |watch: &WatchDescriptor| self.shared.known().contains_key(watch);
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
        self.watches.add(directory, mask)
    }
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, HashMap<WatchDescriptor, (PathBuf, Names)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an event says; none when it is about something else.
    fn change(&self, event: &EventOwned) -> Option<Change> {
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            return Some(Change::Any);
        }
        let known = self.known();
        // The event of a watch that was given up is of no use.
        let (directory, names) = known.get(&event.wd)?;
        let Some(name) = &event.name else { return Some(Change::Any) };
        if names.as_ref().is_some_and(|names| !names.contains(name)) {
            return None;
        }
        let created = event.mask.contains(EventMask::CREATE);
        Some(if created { Change::Created(directory.join(name)) } else { Change::Any })
    }
}

impl Change {
    /// Whether files may differ from before. It looks at the file, so it may block.
    pub(crate) fn matters(&self) -> bool {
        match self {
            Change::Any => true,
            // More events of a file that is being written follow, the last one at its end. A link is complete at once.
            Change::Created(path) => {
                !std::fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.nlink() == 1)
            }
        }
    }
}

/// Reads events for as long as that works.
async fn read(inotify: Inotify, shared: &Shared, touched: impl Fn(Change)) -> io::Result<Infallible> {
    let mut events = inotify.into_event_stream([0; BUFFER])?;
    loop {
        let batch = poll_fn(|cx| poll_batch(&mut events, cx)).await?;
        let mut changes: Vec<Change> = batch.iter().filter_map(|event| shared.change(event)).collect();
        // One of these says all.
        if let Some(any) = changes.iter().position(|change| matches!(change, Change::Any)) {
            touched(changes.swap_remove(any));
        } else {
            changes.into_iter().for_each(&touched);
        }
    }
}

/// All events that have come: the kernel keeps a bounded number.
fn poll_batch(events: &mut EventStream<[u8; BUFFER]>, cx: &mut Context<'_>) -> Poll<io::Result<Vec<EventOwned>>> {
    let mut batch = Vec::new();
    while let Poll::Ready(next) = Pin::new(&mut *events).poll_next(cx) {
        batch.push(next.unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()))?);
    }
    if batch.is_empty() { Poll::Pending } else { Poll::Ready(Ok(batch)) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::telemetry::Metrics;

    #[test]
    fn a_log_that_grows_beside_it_is_no_change() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        fs::write(path("gateway.toml"), "one").expect("a file");
        fs::write(path("log"), "").expect("a file");
        let (sender, touched) = mpsc::channel();
        let (background, _thread) = Background::start(Metrics::new()).expect("a thread");
        let mut watcher = Watcher::start(&background, move |change| {
            if change.matters() {
                let _ = sender.send(());
            }
        })
        .expect("inotify");
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
        assert_eq!(ended, mpsc::RecvTimeoutError::Disconnected, "the task ends with the watcher");
    }
}
