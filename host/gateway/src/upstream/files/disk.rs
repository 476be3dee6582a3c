//! Calls that may wait for a disk, on threads of their own.

use std::io;

use tokio::sync::Semaphore;

/// Such calls of the process that are under way at the same time. Those beyond wait as futures of their requests, in order: who leaves is out of
/// the queue, so it is never longer than there are requests.
const JOBS: usize = 32;

static FREE: Semaphore = Semaphore::const_new(JOBS);

/// Runs a job that may wait. Once it has begun it ends, also if nobody waits for it any more.
pub(super) async fn wait_for<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let permit = FREE.acquire().await.map_err(io::Error::other)?;
    let job = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        job()
    });
    job.await.map_err(io::Error::other)
}
