//! A thread for what is made ahead of need: it takes no time of the workers, and little of the processor while they need it.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing::{debug, warn};

/// What is to be made. Who asks sees to it that there are not many.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// Lower than the workers', by as much as the loader's. It gets about a tenth of a busy processor.
const NICENESS: i32 = 10;

/// The thread. It starts with the first job, and ends when this is dropped.
#[derive(Default)]
pub(crate) struct Aside(OnceLock<Option<Mutex<Sender<Job>>>>);

impl Aside {
    /// Runs a job behind those that were asked for before. Drops it if there can be no such thread.
    pub(crate) fn run(&self, job: Job) {
        if let Some(jobs) = self.0.get_or_init(start) {
            // Fails only when a job has panicked, which was logged.
            let _ = jobs.lock().unwrap_or_else(PoisonError::into_inner).send(job);
        }
    }
}

fn start() -> Option<Mutex<Sender<Job>>> {
    let (sender, jobs) = mpsc::channel();
    match std::thread::Builder::new().name("instances".into()).spawn(move || work(&jobs)) {
        Ok(_) => Some(Mutex::new(sender)),
        Err(error) => {
            warn!(%error, "no instances are made ahead of need: there can be no thread for that");
            None
        }
    }
}

fn work(jobs: &Receiver<Job>) {
    // Elsewhere it would be that of the process.
    if cfg!(target_os = "linux")
        && let Err(error) = rustix::process::nice(NICENESS)
    {
        debug!(%error, "instances are made ahead at normal priority");
    }
    jobs.iter().for_each(|job| job());
}
