//! What the sources of all upstreams share: the way to services over HTTP, the folder for what is kept for the next start, and a thread
//! each for files and for the work that would hold up the background runtime.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use rustls_pki_types::CertificateDer;
use tokio::sync::oneshot;
use url::Url;

use super::statistics::{Fault, FaultKind};

/// A `GET` of a source.
pub struct Get {
    pub url: Url,
    pub headers: HeaderMap,
    /// The most bytes of the answer.
    pub max_body: usize,
}

/// What was answered.
pub struct Fetched {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Sends a request on the background runtime, without a time limit. An error says why there is no answer.
pub type Fetch = Arc<dyn Fn(Get) -> Pin<Box<dyn Future<Output = Result<Fetched, String>>>> + Send + Sync>;

/// Makes a [`Fetch`] that also believes servers which these authorities certify.
pub(super) type Connect = Box<dyn Fn(Vec<CertificateDer<'static>>) -> Fetch + Send + Sync>;

/// One for the process; it outlives snapshots.
pub struct Sources {
    connect: Connect,
    state_dir: Option<PathBuf>,
    /// Reads and writes files: a disk may hang.
    disk: Thread,
    /// Reads long answers and builds long lists.
    compute: Thread,
}

impl Sources {
    /// Lists are kept in `state_dir` for the next start; without one they are not.
    pub fn new(state_dir: Option<PathBuf>, connect: Connect) -> Arc<Self> {
        let (disk, compute) = (Thread::new("discovery disk"), Thread::new("discovery"));
        Arc::new(Sources { connect, state_dir, disk, compute })
    }

    /// With threads that do nothing.
    #[cfg(test)]
    pub(super) fn stopped(state_dir: PathBuf) -> Arc<Self> {
        let sources = Self::new(Some(state_dir), Box::new(|_| unreachable!("no test asks a service")));
        for thread in [&sources.disk, &sources.compute] {
            thread.jobs.set(None).expect("it has not started");
        }
        sources
    }

    /// Without a folder and a way to services.
    pub fn none() -> Arc<Self> {
        let nowhere =
            |_| -> Fetch { Arc::new(|_| Box::pin(std::future::ready(Err("there is no way to services".to_owned())))) };
        Self::new(None, Box::new(nowhere))
    }

    pub(super) fn connect(&self, authorities: Vec<CertificateDer<'static>>) -> Fetch {
        (self.connect)(authorities)
    }

    pub(super) fn state_dir(&self) -> Option<&Path> {
        self.state_dir.as_deref()
    }

    pub(super) fn disk(&self) -> &Thread {
        &self.disk
    }

    pub(super) fn compute(&self) -> &Thread {
        &self.compute
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread that does one job after the other. It starts with the first one and ends with its owner.
pub(super) struct Thread {
    name: &'static str,
    jobs: OnceLock<Option<Sender<Job>>>,
}

impl Thread {
    fn new(name: &'static str) -> Self {
        Thread { name, jobs: OnceLock::new() }
    }

    /// What the job returns. An error if it panics, which costs nothing but this job, or if there is no thread.
    pub(super) async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, Stopped> {
        let jobs = self.jobs.get_or_init(|| self.start()).as_ref().ok_or(Stopped)?;
        let (told, answer) = oneshot::channel();
        let job = Box::new(move || {
            // Fails when nobody waits any more.
            let _ = told.send(job());
        });
        jobs.send(job).map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    fn start(&self) -> Option<Sender<Job>> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let thread = std::thread::Builder::new().name(self.name.to_owned());
        let started = thread.spawn(move || {
            for job in queue {
                // A panic is in the log, and who waits for the job finds no answer.
                let _ = catch_unwind(AssertUnwindSafe(job));
            }
        });
        started.inspect_err(|error| tracing::error!(%error, thread = self.name, "can't start a thread")).ok()?;
        Some(jobs)
    }
}

/// The job has panicked, or there is no thread.
#[derive(Debug, thiserror::Error)]
#[error("the gateway itself failed at it; its log says why")]
pub(super) struct Stopped;

impl From<Stopped> for Fault {
    fn from(stopped: Stopped) -> Self {
        Fault::new(FaultKind::Internal, stopped.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "local")]
    async fn a_panic_costs_one_job() {
        let thread = Thread::new("test");
        assert_eq!(thread.run(|| 1).await.ok(), Some(1));
        assert!(thread.run(|| -> u32 { panic!("of a test") }).await.is_err());
        assert_eq!(thread.run(|| 2).await.ok(), Some(2));
    }
}
