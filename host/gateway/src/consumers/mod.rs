//! The consumers of the configuration and of its consumer files. Files are followed on a thread of their own: a changed one is read,
//! checked and published without a reload, so nothing else is touched. What is broken, cut off or gone leaves the last good state of that
//! file in use.

mod file;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::file::Content;
use crate::background::Background;
use crate::services::Services;
use crate::services::consumers::{ConsumerError, ConsumerSet, ConsumerSpec};
use crate::services::log_limit::visible;
use crate::telemetry::Exposition;
use crate::watcher::{Change, Names, Watcher, steps};

/// How often files are compared while changes are reported …
const COMPARE: Duration = Duration::from_secs(10);
/// … and while they are not.
const POLL: Duration = Duration::from_secs(1);

/// The consumers in use, and where they are from. It outlives snapshots.
pub struct ConsumerFiles {
    services: Arc<Services>,
    /// How often a file was refused.
    refused: AtomicU64,
    sources: Mutex<Sources>,
    /// Tells the thread that follows the files of changes; none before it was started.
    tell: Mutex<Option<Sender<Change>>>,
}

#[derive(Default)]
struct Sources {
    configured: Arc<[ConsumerSpec]>,
    /// In the order of the configuration, with what each had when it was good.
    files: Vec<(PathBuf, Arc<Content>)>,
    /// What was said last of files that are refused: once is enough.
    complaints: BTreeMap<PathBuf, String>,
}

/// What a configuration says of consumers, with its files as they were when it was read.
pub struct ConsumerPlan {
    sources: Sources,
    set: Arc<ConsumerSet>,
    /// Files that can't be read now, but could before.
    pub warnings: Vec<String>,
}

/// Why consumers can't be as the configuration says.
pub enum PlanError {
    /// A file, by its place in the list.
    File(usize, String),
    /// A consumer of the configuration, by its name.
    Consumer(String, String),
}

impl ConsumerFiles {
    /// No consumers yet.
    pub fn new(services: Arc<Services>) -> Arc<ConsumerFiles> {
        let (sources, tell) = Default::default();
        Arc::new(ConsumerFiles { services, refused: AtomicU64::new(0), sources, tell })
    }

    /// Reads the files and puts all together, without a change of what is in use. A file that is broken is an error, unless it was in use
    /// before: then it stays as it was.
    pub fn plan(&self, configured: &[ConsumerSpec], paths: &[PathBuf]) -> Result<ConsumerPlan, Vec<PlanError>> {
        let known = self.sources().files.clone();
        let (mut files, mut errors, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
        for (at, path) in paths.iter().enumerate() {
            let before = known.iter().find(|(other, _)| other == path).map(|(_, content)| content);
            match (file::read(path, before), before) {
                (Ok(content), _) => files.push((path.clone(), content)),
                (Err(error), Some(before)) => {
                    warnings.push(format!("{}: {error}; its consumers stay as they were", path.display()));
                    files.push((path.clone(), Arc::clone(before)));
                }
                (Err(error), None) => errors.push(PlanError::File(at, format!("{}: {error}", path.display()))),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let sources = Sources { configured: configured.into(), files, complaints: BTreeMap::new() };
        match sources.set() {
            Ok(set) => Ok(ConsumerPlan { sources, set: Arc::new(set), warnings }),
            Err(error) => Err(vec![sources.blame(&error)]),
        }
    }

    /// Uses what was planned.
    pub fn apply(&self, plan: &ConsumerPlan) {
        let mut sources = self.sources();
        let before = std::mem::take(&mut sources.files);
        sources.configured = Arc::clone(&plan.sources.configured);
        // What a file has become since the plan counts, not what it was.
        let newer = |path: &Path, planned: &Arc<Content>| {
            let known = before.iter().find(|(other, _)| other == path).map(|(_, content)| content);
            Arc::clone(known.filter(|known| known.is_newer(planned)).unwrap_or(planned))
        };
        sources.files = plan.sources.files.iter().map(|(path, content)| (path.clone(), newer(path, content))).collect();
        let is_as_planned =
            sources.files.iter().zip(&plan.sources.files).all(|((_, now), (_, planned))| Arc::ptr_eq(now, planned));
        let set = if is_as_planned { Ok(Arc::clone(&plan.set)) } else { sources.set().map(Arc::new) };
        match set {
            Ok(set) => self.services.consumers.publish(set),
            Err(error) => {
                sources.files.clone_from(&plan.sources.files);
                tracing::error!(error = %visible(&error.to_string()), "consumers are as they were when the configuration was read");
                self.services.consumers.publish(Arc::clone(&plan.set));
            }
        }
        drop(sources);
        if let Some(tell) = &*self.tell.lock().unwrap_or_else(PoisonError::into_inner) {
            // Fails when the thread has panicked, which was logged.
            let _ = tell.send(Change::Any);
        }
    }

    /// Follows the files from now on, on a thread that ends with this value.
    pub fn follow(self: &Arc<Self>, background: &Background) -> std::io::Result<()> {
        let (tell, changes) = channel();
        *self.tell.lock().unwrap_or_else(PoisonError::into_inner) = Some(tell.clone());
        let watcher = Watcher::start(background, move |change| {
            let _ = tell.send(change);
        });
        let watcher =
            watcher.inspect_err(|error| tracing::warn!(%error, "consumer files are compared every second")).ok();
        let files = Arc::downgrade(self);
        std::thread::Builder::new().name("consumers".to_owned()).spawn(move || {
            let mut watcher = watcher;
            while let Some(files) = files.upgrade() {
                let is_watched = files.look(&mut watcher);
                drop(files);
                if !wait(&changes, if is_watched { COMPARE } else { POLL }) {
                    return;
                }
            }
        })?;
        Ok(())
    }

    /// Reads what has changed. Answers whether changes are reported.
    fn look(&self, watcher: &mut Option<Watcher>) -> bool {
        let files = self.sources().files.clone();
        let mut directories: BTreeMap<PathBuf, Names> = BTreeMap::new();
        for (directory, name) in files.iter().flat_map(|(path, _)| steps(path)) {
            directories.entry(directory).or_insert_with(|| Some(BTreeSet::new())).get_or_insert_default().insert(name);
        }
        // Before they are read, so that no change after that is missed.
        let is_watched =
            watcher.as_mut().is_some_and(|watcher| !watcher.has_ended() && watcher.follow(directories).is_empty());
        let (begun, mut changed) = (Instant::now(), Vec::new());
        for (path, before) in files {
            match file::read(&path, Some(&before)) {
                Ok(now) if Arc::ptr_eq(&now, &before) => {
                    self.sources().complaints.remove(&path);
                }
                Ok(now) => changed.push((path, now)),
                Err(error) => self.complain(&path, &error.to_string()),
            }
        }
        for (path, error) in self.replace(changed, begun) {
            self.complain(&path, &error.to_string());
        }
        is_watched
    }

    /// Puts the new contents of files in use: all of them, since a consumer may have moved from one to another. If they don't go together, then
    /// one by one, for as long as one does. Answers those that don't.
    fn replace(&self, mut changed: Vec<(PathBuf, Arc<Content>)>, begun: Instant) -> Vec<(PathBuf, ConsumerError)> {
        let mut sources = self.sources();
        if changed.is_empty() {
            return Vec::new();
        }
        let Err(error) = self.try_these(&mut sources, &changed, begun) else { return Vec::new() };
        if let [(path, _)] = &*changed {
            return vec![(path.clone(), error)];
        }
        loop {
            let (before, mut refused) = (changed.len(), Vec::new());
            changed.retain(|one| match self.try_these(&mut sources, std::slice::from_ref(one), begun) {
                Ok(()) => false,
                Err(error) => {
                    refused.push((one.0.clone(), error));
                    true
                }
            });
            if changed.len() == before || changed.is_empty() {
                return refused;
            }
        }
    }

    /// Puts new contents in use if the whole is good with them.
    fn try_these(
        &self,
        sources: &mut Sources,
        changed: &[(PathBuf, Arc<Content>)],
        begun: Instant,
    ) -> Result<(), ConsumerError> {
        let before = sources.files.clone();
        for (path, slot) in &mut sources.files {
            if let Some((_, content)) = changed.iter().find(|(changed, _)| changed == path) {
                *slot = Arc::clone(content);
            }
        }
        let set = sources.set().inspect_err(|_| sources.files = before)?;
        let consumers = set.len();
        self.services.consumers.publish(Arc::new(set));
        for (path, _) in changed {
            sources.complaints.remove(path);
            let took_ms = begun.elapsed().as_millis() as u64;
            tracing::info!(file = %path.display(), consumers, took_ms, "consumers reloaded");
        }
        Ok(())
    }

    /// Writes the metrics.
    pub fn expose(&self, out: &mut Exposition) {
        let set = Arc::clone(&self.services.consumers.current());
        out.family("sluice_consumers", "gauge", "Consumers in use.");
        out.sample("sluice_consumers", &[], set.len() as f64);
        out.family("sluice_consumers_bytes", "gauge", "About the memory that consumers and their credentials take.");
        out.sample("sluice_consumers_bytes", &[], set.bytes() as f64);
        out.family("sluice_consumer_files_refused_total", "counter", "Changed files of consumers that were refused.");
        out.sample("sluice_consumer_files_refused_total", &[], self.refused.load(Ordering::Relaxed) as f64);
        // All together: there may be as many URLs as consumers.
        let name = "sluice_consumer_key_set_fetches_total";
        out.family(name, "counter", "Fetches of the key sets of consumers by result.");
        let [ok, failed] = self.services.consumer_keys.fetches();
        for (result, count) in [("ok", ok), ("failed", failed)] {
            out.sample(name, &[("result", result)], count as f64);
        }
    }

    fn complain(&self, path: &Path, error: &str) {
        if self.sources().complaints.insert(path.to_owned(), error.to_owned()).is_some_and(|said| said == error) {
            return;
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        let (file, error) = (path.display(), visible(error));
        tracing::error!(%file, %error, "the file of consumers is refused: its consumers stay as they were");
    }

    fn sources(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sources {
    fn set(&self) -> Result<ConsumerSet, ConsumerError> {
        let of_files = self.files.iter().flat_map(|(_, content)| &*content.consumers).map(|(_, spec)| spec);
        let all: Vec<Cow<'_, ConsumerSpec>> = self.configured.iter().chain(of_files).map(Cow::Borrowed).collect();
        ConsumerSet::new(&all)
    }

    /// Where an error of [`Sources::set`] is from.
    fn blame(&self, error: &ConsumerError) -> PlanError {
        let mut at = error.second();
        if let Some(consumer) = self.configured.get(at) {
            return PlanError::Consumer(consumer.name.clone(), error.to_string());
        }
        at -= self.configured.len();
        for (number, (path, content)) in self.files.iter().enumerate() {
            if let Some((line, _)) = content.consumers.get(at) {
                return PlanError::File(number, format!("{}: line {line}: {error}", path.display()));
            }
            at -= content.consumers.len();
        }
        PlanError::File(0, error.to_string())
    }
}

/// Waits for a change that matters, for this long at most. False when there can be no more.
fn wait(changes: &Receiver<Change>, longest: Duration) -> bool {
    let until = Instant::now() + longest;
    loop {
        match changes.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(change) => {
                let all: Vec<Change> = std::iter::once(change).chain(changes.try_iter()).collect();
                if all.iter().any(Change::matters) {
                    return true;
                }
            }
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
}
