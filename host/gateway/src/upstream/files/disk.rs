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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[tokio::test(flavor = "local")]
    async fn so_many_jobs_run_at_once_and_who_leaves_is_no_job() {
        let (running, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (go, wait) = mpsc::channel::<()>();
        let wait = Arc::new(std::sync::Mutex::new(wait));
        let job = || {
            let (running, most, wait) = (Arc::clone(&running), Arc::clone(&most), Arc::clone(&wait));
            wait_for(move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let _ = wait.lock().unwrap_or_else(std::sync::PoisonError::into_inner).recv();
                running.fetch_sub(1, Ordering::SeqCst);
            })
        };
        let jobs: Vec<_> = (0..3 * JOBS).map(|_| tokio::task::spawn_local(job())).collect();
        let left = tokio::task::spawn_local(job());
        while running.load(Ordering::SeqCst) < JOBS {
            tokio::task::yield_now().await;
        }
        left.abort();
        drop(go);
        for job in jobs {
            job.await.unwrap().unwrap();
        }
        assert!(left.await.unwrap_err().is_cancelled());
        assert_eq!((most.load(Ordering::SeqCst), running.load(Ordering::SeqCst)), (JOBS, 0));
    }
}
