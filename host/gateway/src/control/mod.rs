//! Control of the running gateway: signals, changed files and the admin API act on it through one handle, [`Control`]. It holds the
//! phase of the process, the running configuration and snapshot, and the way to the loader thread, which builds new ones.

mod files;
mod lifecycle;
mod loader;
mod replace;
mod weights;

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{oneshot, watch};

use crate::config::Config;
use crate::server::{Overload, ResourceState};
use crate::snapshot::Snapshot;

pub use files::WatchedFiles;
pub use lifecycle::Signals;
pub use loader::{Loader, start_loader};
pub use replace::{Replacement, watched_files};
pub use weights::{Weights, WeightsChange, WeightsError};

/// The life of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Starting,
    Serving,
    /// It finishes what it has and takes nothing new.
    Draining,
}

impl Phase {
    /// The word of `/readyz`.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Serving => "serving",
            Phase::Draining => "draining",
        }
    }
}

/// What is running now. A reload replaces snapshot and configuration; the snapshot first, since it is what serves.
#[derive(Clone)]
pub struct RunningState {
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub config: Arc<ArcSwap<Config>>,
    /// It outlives both, and a reload changes its bounds.
    pub overload: Arc<Overload>,
    /// Held by whoever changes any of it, so that no change is lost in another one.
    pub changes: Arc<Mutex<()>>,
}

/// How a reload went.
#[derive(Debug, Clone)]
pub struct Reload {
    pub at: SystemTime,
    pub took: Duration,
    /// What is refused leaves the running configuration in place.
    pub result: Result<ReloadReport, Refused>,
}

/// What a successful reload did.
#[derive(Debug, Clone, Default)]
pub struct ReloadReport {
    pub scope: ReloadScope,
    pub routes: usize,
    pub upstreams: usize,
    /// Keys that have changed but take effect only after a restart.
    pub restart_needed: Vec<String>,
}

/// What a reload has replaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ReloadScope {
    #[default]
    Configuration,
    /// What listeners show and verify, and nothing else.
    Certificates,
}

/// Why a configuration was refused, one line for each error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused(pub Vec<String>);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.0 {
            writeln!(f, "{error}")?;
        }
        match self.0.len() {
            1 => write!(f, "1 error"),
            n => write!(f, "{n} errors"),
        }
    }
}

/// No reload can be made, since the loader thread has ended.
#[derive(Debug, thiserror::Error)]
#[error("the loader thread has ended; the log says why")]
pub struct LoaderEnded;

/// The handle of the running gateway. Clones act on the same one.
#[derive(Clone)]
pub struct Control {
    phase: Arc<watch::Sender<Phase>>,
    running: RunningState,
    loader: Loader,
}

impl Control {
    /// A gateway that is starting.
    pub fn new(running: RunningState, loader: Loader) -> Control {
        Control { phase: Arc::new(watch::Sender::new(Phase::Starting)), running, loader }
    }

    /// How near the process is to its bounds.
    pub fn overload(&self) -> impl Iterator<Item = ResourceState> {
        self.running.overload.states().into_iter()
    }

    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// The gateway serves from now on.
    pub fn serving(&self) {
        self.phase.send_if_modified(|phase| match phase {
            Phase::Starting => {
                *phase = Phase::Serving;
                true
            }
            Phase::Serving | Phase::Draining => false,
        });
    }

    /// Asks for the orderly end: what is in flight is finished within the configured time, nothing new is taken.
    pub fn shut_down(&self) {
        self.phase.send_replace(Phase::Draining);
    }

    /// Ready when the end was asked for.
    pub async fn draining(&self) {
        // Fails only without a sender, and this is one.
        let _ = self.phase.subscribe().wait_for(|phase| *phase == Phase::Draining).await;
    }

    /// The snapshot that new requests get.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.running.snapshot.load_full()
    }

    /// The configuration that the snapshot was built from.
    pub fn config(&self) -> Arc<Config> {
        self.running.config.load_full()
    }

    /// Asks for a reload, whether or not a file has changed, and does not wait for it.
    pub fn request_reload(&self) {
        self.loader.request(None);
    }

    /// Reloads, whether or not a file has changed, and says how it went. Requests that come together share one reload.
    pub async fn reload(&self) -> Result<Arc<Reload>, LoaderEnded> {
        let (reply, answer) = oneshot::channel();
        self.loader.request(Some(reply));
        answer.await.map_err(|_| LoaderEnded)
    }

    /// How the last reload went; none before the first.
    pub fn last_reload(&self) -> Option<Arc<Reload>> {
        self.loader.last()
    }
}

/// Where the loader leaves how the last reload went.
type LastReload = Arc<ArcSwapOption<Reload>>;
