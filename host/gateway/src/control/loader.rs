//! The loader: one thread of low priority that reads files and builds snapshots, one reload at a time, when it is asked or when a
//! watched file has changed. What a reload does is given to it. A reload that waits for a compilation gives way to a newer one, so that a
//! plugin that compiles for long holds up nothing but itself.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use thread_priority::{ThreadPriority, ThreadPriorityValue, set_current_thread_priority};
use tokio::sync::oneshot;

use super::files::{Watch, WatchedFiles};
use super::{LastReload, Refused, Reload, ReloadReport, ReloadScope};
use crate::background::Background;
use crate::telemetry::Metrics;
use crate::wasm::Interrupt;
use crate::watcher::Change;

/// Changes are waited for to settle: editors and copies write in several steps.
const QUIET: Duration = Duration::from_millis(200);
/// A file that never rests is loaded after this time all the same.
const MAX_UNREST: Duration = Duration::from_secs(2);
/// How often in a row a reload gives way to a newer one. After that it is finished, however long it takes.
const MAX_GIVEN_WAY: u32 = 3;
/// How often files are compared where the system reports no changes.
const POLL: Duration = Duration::from_secs(2);

/// The way to the loader thread; the thread ends with it.
#[derive(Clone)]
pub struct Loader {
    jobs: Arc<Sender<Job>>,
    interrupt: Arc<Interrupt>,
    last: LastReload,
}

/// Who wants to know how a reload went.
pub(super) type Reply = oneshot::Sender<Arc<Reload>>;

pub(super) enum Job {
    /// Load, whether or not a file has changed.
    Reload(Option<Reply>),
    /// A watched file may have changed.
    Changed(Change),
}

impl Loader {
    /// Asks for a reload. Without an answer the `reply` is dropped.
    pub(super) fn request(&self, reply: Option<Reply>) {
        // Fails only when the loader has panicked, which was logged.
        let _ = self.jobs.send(Job::Reload(reply));
        self.interrupt.raise();
    }

    /// How the last reload went; none before the first.
    pub(super) fn last(&self) -> Option<Arc<Reload>> {
        self.last.load_full()
    }
}

/// Starts the loader thread. Without `files` it loads only when asked. `load` builds and swaps the configuration, and answers with
/// what it did and the files to watch from now on, or why it can't; it heeds `interrupt`. It is told which files have changed; of none it is
/// told where it was asked, or where a load that has given way is made up for.
pub fn start_loader(
    files: Option<WatchedFiles>,
    background: &Background,
    metrics: Arc<Metrics>,
    interrupt: Arc<Interrupt>,
    load: impl FnMut(&[PathBuf]) -> Result<(ReloadReport, Vec<PathBuf>), Refused> + Send + 'static,
) -> io::Result<Loader> {
    metrics.last_reload.set(now());
    let (jobs, queue) = mpsc::channel();
    let loader = Loader { jobs: Arc::new(jobs), interrupt: Arc::clone(&interrupt), last: LastReload::default() };
    let watch = files.map(|files| Watch::new(files, background, &loader.jobs, &interrupt));
    if watch.is_some() {
        // Nobody was told what has changed since the files were loaded.
        let _ = loader.jobs.send(Job::Changed(Change::Any));
    }
    let last = Arc::clone(&loader.last);
    std::thread::Builder::new().name("loader".into()).spawn(move || {
        lower_priority();
        run(&queue, watch, &metrics, &last, &interrupt, load);
    })?;
    Ok(loader)
}

fn run(
    queue: &Receiver<Job>,
    mut watch: Option<Watch>,
    metrics: &Metrics,
    last: &LastReload,
    interrupt: &Interrupt,
    mut load: impl FnMut(&[PathBuf]) -> Result<(ReloadReport, Vec<PathBuf>), Refused>,
) {
    // Something has happened before the files were watched where they are now.
    let mut missed = false;
    // A reload that has given way, and who waits for how it goes.
    let mut given_way: u32 = 0;
    let mut waiting: Vec<Reply> = Vec::new();
    loop {
        let poll = watch.as_ref().is_some_and(Watch::has_to_poll);
        let job = if std::mem::take(&mut missed) || given_way > 0 {
            Ok(Job::Changed(Change::Any))
        } else if poll {
            match queue.recv_timeout(POLL) {
                Err(RecvTimeoutError::Timeout) => Ok(Job::Changed(Change::Any)),
                Ok(job) => Ok(job),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        } else {
            queue.recv()
        };
        let Ok(job) = job else { return };
        let Settled { requested, changed, replies } = settle(queue, job, poll, interrupt);
        waiting.extend(replies);
        // Looked at before the load, so that a change during it leads to another one.
        let mut changed = match &mut watch {
            Some(watch) if requested || changed => watch.changed(),
            _ => Vec::new(),
        };
        if !requested && changed.is_empty() && given_way == 0 {
            // What leads to the files may be another way now, or have come into being.
            if let Some(watch) = &mut watch {
                watch.follow(watch.files().to_vec());
                missed = watch.differs();
            }
            continue;
        }
        if given_way >= MAX_GIVEN_WAY {
            interrupt.ignore();
        }
        if requested || given_way > 0 {
            changed.clear();
        }
        let begun = Instant::now();
        metrics.reload_in_progress.set(1);
        // It may take long: this runs at a low priority, beside the traffic.
        tracing::info!("loading what has changed");
        let loaded = load(&changed);
        metrics.reload_in_progress.set(0);
        if interrupt.was_heeded() {
            given_way += 1;
            tracing::info!("the reload gives way to a newer one while a plugin is being compiled");
            continue;
        }
        given_way = 0;
        let took = begun.elapsed();
        let (result, files) = match loaded {
            Ok((report, files)) if report.scope == ReloadScope::Configuration => {
                (Ok(report), Some(files).filter(|files| !files.is_empty()))
            }
            // What leads to the files may have been replaced all the same.
            Ok((report, _)) => (Ok(report), watch.as_ref().map(|watch| watch.files().to_vec())),
            Err(refused) => (Err(refused), watch.as_ref().map(|watch| watch.files().to_vec())),
        };
        tell(&result, took, metrics);
        let reload = Arc::new(Reload { at: SystemTime::now(), took, result });
        last.store(Some(Arc::clone(&reload)));
        for reply in waiting.drain(..) {
            // Fails when nobody waits any more.
            let _ = reply.send(Arc::clone(&reload));
        }
        if let (Some(watch), Some(files)) = (&mut watch, files) {
            watch.follow(files);
            missed = watch.differs();
        }
    }
}

/// What was asked for until there was quiet.
#[derive(Default)]
struct Settled {
    requested: bool,
    changed: bool,
    replies: Vec<Reply>,
}

impl Settled {
    fn take(&mut self, job: Job) {
        match job {
            Job::Reload(reply) => {
                self.requested = true;
                self.replies.extend(reply);
            }
            Job::Changed(change) => self.changed = self.changed || change.matters(),
        }
    }
}

/// Takes all jobs until there is quiet. None of them interrupts the load that follows; what comes later does.
fn settle(queue: &Receiver<Job>, first: Job, polling: bool, interrupt: &Interrupt) -> Settled {
    let mut settled = Settled::default();
    settled.take(first);
    let begun = Instant::now();
    // A request is not kept waiting, and a poll finds what has already rested.
    let quiet = if settled.requested || polling { Duration::ZERO } else { QUIET };
    while begun.elapsed() < MAX_UNREST
        && let Ok(job) = queue.recv_timeout(quiet)
    {
        settled.take(job);
    }
    interrupt.clear();
    // One that came at this moment may have raised it before that.
    queue.try_iter().for_each(|job| settled.take(job));
    settled
}

/// Counts and logs how a reload went.
fn tell(result: &Result<ReloadReport, Refused>, took: Duration, metrics: &Metrics) {
    match result {
        Ok(ReloadReport { scope, routes, upstreams, restart_needed }) => {
            metrics.reloads.add(1);
            metrics.last_reload.set(now());
            let took_ms = took.as_millis() as u64;
            match scope {
                ReloadScope::Configuration => tracing::info!(routes, upstreams, took_ms, "configuration reloaded"),
                ReloadScope::Certificates => tracing::info!(took_ms, "certificates reloaded"),
            }
            for what in restart_needed {
                tracing::warn!(what, "changed in the configuration, but takes effect only after a restart");
            }
        }
        Err(refused) => {
            metrics.reloads_refused.add(1);
            let error = refused.to_string();
            tracing::error!(error, "configuration refused; the running one stays");
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::background::BackgroundThread;

    struct Fixture {
        directory: tempfile::TempDir,
        loads: Receiver<String>,
        loader: Loader,
        metrics: Arc<Metrics>,
        _background: BackgroundThread,
    }

    /// A loader that takes all texts but `broken`.
    fn fixture(file: &str) -> Fixture {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(file);
        if !path.exists() {
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            std::fs::write(&path, "one").expect("a file");
        }
        watching(directory, path)
    }

    fn watching(directory: tempfile::TempDir, path: PathBuf) -> Fixture {
        let files = WatchedFiles::look(vec![path.clone()]);
        watching_since(files, directory, path)
    }

    fn watching_since(files: WatchedFiles, directory: tempfile::TempDir, path: PathBuf) -> Fixture {
        let (loaded, loads) = mpsc::channel();
        let metrics = Metrics::new();
        let (background, thread) = Background::start(Arc::clone(&metrics)).expect("a thread");
        let watched = path;
        let loader = start_loader(Some(files), &background, Arc::clone(&metrics), Arc::default(), move |_| {
            let text = std::fs::read_to_string(&watched).unwrap_or_default();
            let _ = loaded.send(text.clone());
            if text == "broken" {
                return Err(Refused(vec!["gateway.toml:1:1: broken".into()]));
            }
            Ok((ReloadReport::default(), vec![watched.clone()]))
        })
        .expect("a thread");
        Fixture { directory, loads, loader, metrics, _background: thread }
    }

    impl Fixture {
        fn next(&self) -> String {
            self.loads.recv_timeout(Duration::from_secs(10)).expect("a reload")
        }
    }

    #[test]
    fn a_file_that_is_replaced_again_and_again_is_seen() {
        let loader = fixture("gateway.toml");
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
    fn a_link_in_the_middle_of_a_path_and_a_directory_further_up_are_seen() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().to_owned();
        for (folder, text) in [("one/a/b", "one"), ("two/a/b", "two"), ("three/a/b", "three")] {
            std::fs::create_dir_all(root.join(folder)).expect("a directory");
            std::fs::write(root.join(folder).join("gateway.toml"), text).expect("a file");
        }
        std::os::unix::fs::symlink("one", root.join("live")).expect("a link");
        std::os::unix::fs::symlink("live/a", root.join("outer")).expect("a link");
        let loader = watching(directory, root.join("outer/b/gateway.toml"));
        // Two links up.
        std::os::unix::fs::symlink("two", root.join("next")).expect("a link");
        std::fs::rename(root.join("next"), root.join("live")).expect("a rename");
        assert_eq!(loader.next(), "two");
        // A real directory that is three levels up.
        std::fs::rename(root.join("two"), root.join("old")).expect("a rename");
        std::fs::rename(root.join("three"), root.join("two")).expect("a rename");
        assert_eq!(loader.next(), "three");
    }

    #[test]
    fn a_file_in_a_directory_that_was_not_there_is_seen() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().to_owned();
        let loader = watching(directory, root.join("late/r/gateway.toml"));
        std::fs::create_dir_all(root.join("late/r")).expect("a directory");
        std::fs::write(root.join("late/r/gateway.toml"), "here").expect("a file");
        assert_eq!(loader.next(), "here");
    }

    #[test]
    fn a_part_that_was_refused_is_loaded_once_it_is_mended() {
        let directory = tempfile::tempdir().expect("a directory");
        let parts = directory.path().join("conf.d");
        std::fs::create_dir(&parts).expect("a directory");
        let (loaded, loads) = mpsc::channel();
        let part = parts.join("a.toml");
        let read = part.clone();
        let (background, _thread) = Background::start(Metrics::new()).expect("a thread");
        let _loader = start_loader(
            Some(WatchedFiles::look(vec![parts])),
            &background,
            Metrics::new(),
            Arc::default(),
            move |_| {
                let text = std::fs::read_to_string(&read).unwrap_or_default();
                let _ = loaded.send(text.clone());
                if text == "broken" { Err(Refused(vec![text])) } else { Ok(Default::default()) }
            },
        )
        .expect("a thread");
        for text in ["broken", "mended"] {
            std::fs::write(&part, text).expect("a file");
            assert_eq!(loads.recv_timeout(Duration::from_secs(10)).as_deref(), Ok(text));
        }
    }

    #[test]
    fn who_asks_for_a_reload_is_told_how_it_went() {
        let fixture = fixture("gateway.toml");
        let reload = || {
            let (reply, answer) = oneshot::channel();
            fixture.loader.request(Some(reply));
            answer.blocking_recv().expect("an answer")
        };
        assert!(fixture.loader.last().is_none());
        assert!(reload().result.is_ok(), "unchanged files are loaded, too");
        std::fs::write(fixture.directory.path().join("gateway.toml"), "broken").expect("a file");
        let refused = reload();
        assert_eq!(refused.result.as_ref().err(), Some(&Refused(vec!["gateway.toml:1:1: broken".into()])));
        let last = fixture.loader.last().expect("two reloads");
        assert!(last.result.is_err());
        assert!((fixture.metrics.reloads.value(), fixture.metrics.reloads_refused.value()) >= (1, 1));
    }

    #[test]
    fn a_slow_reload_gives_way_to_newer_ones_but_not_for_ever() {
        let (background, _thread) = Background::start(Metrics::new()).expect("a thread");
        let interrupt = Arc::<Interrupt>::default();
        let (begins, begun) = mpsc::channel();
        let (goes_on, go_on) = mpsc::channel::<()>();
        let loader = start_loader(None, &background, Metrics::new(), Arc::clone(&interrupt), move |_| {
            let _ = begins.send(());
            // What is asked for meanwhile has come.
            let _ = go_on.recv();
            if interrupt.heed() { Err(Refused(vec!["a compilation".into()])) } else { Ok(Default::default()) }
        })
        .expect("a thread");
        let mut answers = Vec::new();
        for _ in 0..=MAX_GIVEN_WAY + 1 {
            let (reply, answer) = oneshot::channel();
            loader.request(Some(reply));
            answers.push(answer);
            if answers.len() > 1 {
                goes_on.send(()).expect("a load that waits");
            }
            if answers.len() <= MAX_GIVEN_WAY as usize + 1 {
                begun.recv_timeout(Duration::from_secs(10)).expect("a load");
            }
        }
        let last = answers.pop().expect("an answer");
        for answer in answers {
            assert!(answer.blocking_recv().expect("an answer").result.is_ok(), "all are told how the last one went");
        }
        begun.recv_timeout(Duration::from_secs(10)).expect("a load for the last one");
        goes_on.send(()).expect("a load that waits");
        assert!(last.blocking_recv().expect("an answer").result.is_ok());
    }

    #[test]
    fn a_reload_gives_way_to_what_comes_later_and_not_to_what_it_loads() {
        let (jobs, queue) = mpsc::channel();
        let loader = Loader { jobs: Arc::new(jobs), interrupt: Arc::default(), last: LastReload::default() };
        // The second step of one save.
        loader.request(None);
        let settled = settle(&queue, Job::Changed(Change::Any), false, &loader.interrupt);
        assert!(settled.requested && settled.changed);
        assert!(!loader.interrupt.heed());
        loader.request(None);
        assert!(loader.interrupt.heed());
    }

    #[test]
    fn other_files_beside_it_do_not_matter() {
        let loader = fixture("gateway.toml");
        std::fs::write(loader.directory.path().join("other"), "x").expect("a file");
        std::fs::write(loader.directory.path().join("gateway.toml"), "two").expect("a file");
        assert_eq!(loader.next(), "two");
        assert!(loader.loads.try_recv().is_err(), "one reload for one change");
    }
}
