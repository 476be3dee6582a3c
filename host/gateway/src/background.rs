//! The background runtime: one thread with its own event loop and its own connection pools, for work that is not a request, such as
//! refreshing key sets, watching files and the admin API.
//!
//! Nothing may block it. Reading files and building a snapshot is the loader thread's work; rendering a long response goes to the
//! runtime's blocking threads (`tokio::task::spawn_blocking`). A request depends on it only where a name
//! was never resolved: if the runtime stops, the gateway goes on with the last good state.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use crate::telemetry::Metrics;

/// Blocking jobs that run at the same time; more of them wait: large responses of the admin API, and the files and keys of certificates that are
/// ordered. A disk that hangs holds one or some of them, and the others go on. A response stays in memory until its client has read it, so slow
/// clients can keep one for each connection of the admin listener.
const BLOCKING_THREADS: usize = 8;
/// How long the end of the thread is waited for. It only drops its tasks, so more means that a task blocks.
const PATIENCE: Duration = Duration::from_secs(1);

/// Starts one task; called on the background thread.
type Start = Box<dyn FnOnce() + Send>;

/// The way to the background runtime. Clones lead to the same thread.
#[derive(Clone)]
pub struct Background {
    starts: UnboundedSender<Start>,
    metrics: Arc<Metrics>,
}

/// The thread of the background runtime. Dropping it drops all tasks where they wait, closes their connections and ends the thread.
pub struct BackgroundThread {
    stop: Option<oneshot::Sender<()>>,
    /// Disconnected when the thread has ended.
    ended: mpsc::Receiver<()>,
}

/// A running task, which ends when this is dropped.
#[must_use = "a task ends when this is dropped; `detach` leaves it to itself"]
#[derive(Debug)]
pub struct Task {
    detach: oneshot::Sender<()>,
}

impl Background {
    /// Starts the thread. It ends when the second part is dropped: the last step of an orderly end, after the workers.
    pub fn start(metrics: Arc<Metrics>) -> io::Result<(Background, BackgroundThread)> {
        // A plain runtime with a local set: a local runtime can't be made here, where its failure is an error of the start, and moved.
        let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(BLOCKING_THREADS).build()?;
        let (starts, queue) = unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        let (alive, ended) = mpsc::channel();
        std::thread::Builder::new().name("background".to_owned()).spawn(move || {
            let _alive = alive;
            run(runtime, queue, stopped);
        })?;
        Ok((Background { starts, metrics }, BackgroundThread { stop: Some(stop), ended }))
    }

    /// Runs the future that `task` makes on the background thread, where it may hold what is not `Send` and spawn local tasks. A panic
    /// ends only this task; it is logged under `name` and counted. After the end of the thread nothing runs.
    pub fn spawn<F>(&self, name: &'static str, task: impl FnOnce() -> F + Send + 'static) -> Task
    where
        F: Future<Output = ()> + 'static,
    {
        let (detach, detached) = oneshot::channel();
        let metrics = Arc::clone(&self.metrics);
        let start = move || {
            tokio::task::spawn_local(async move {
                let _probe = PanicProbe { name, metrics };
                until_dropped(detached, async { task().await }).await;
            });
        };
        // Fails only when the thread has ended.
        let _ = self.starts.send(Box::new(start));
        Task { detach }
    }
}

impl Task {
    /// Whether it goes on: it has not ended by itself, or by a panic.
    pub fn is_running(&self) -> bool {
        !self.detach.is_closed()
    }

    /// Lets the task run until it ends by itself, or the thread does.
    pub fn detach(self) {
        // Fails only when the task has ended.
        let _ = self.detach.send(());
    }
}

impl Drop for BackgroundThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        // Nothing is ever sent: this waits for the end of the thread.
        if self.ended.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            tracing::warn!("the background thread does not end: one of its tasks blocks");
        }
    }
}

fn run(runtime: Runtime, mut queue: UnboundedReceiver<Start>, stopped: oneshot::Receiver<()>) {
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, async {
        let mut stopped = pin!(stopped);
        loop {
            tokio::select! {
                biased;
                _ = &mut stopped => return,
                Some(start) = queue.recv() => start(),
            }
        }
    });
    // Tasks first: what they hold may need the runtime. A blocking job that is under way is not waited for.
    drop(tasks);
    runtime.shutdown_background();
}

/// Polls the task until it ends or its [`Task`] is dropped.
async fn until_dropped(detached: oneshot::Receiver<()>, task: impl Future<Output = ()>) {
    let dropped = async {
        if detached.await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        () = dropped => {}
        () = task => {}
    }
}

/// Tells of a panic that unwinds through it. The runtime catches the panic at the edge of the task.
struct PanicProbe {
    name: &'static str,
    metrics: Arc<Metrics>,
}

impl Drop for PanicProbe {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.metrics.background_panics.add(1);
            tracing::error!(task = self.name, "a background task has panicked and does not run any more");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// Says when it is dropped.
    struct Guard(mpsc::Sender<&'static str>);

    impl Drop for Guard {
        fn drop(&mut self) {
            let _ = self.0.send("dropped");
        }
    }

    /// Says that it runs, then waits for ever with something that is not `Send`.
    async fn wait(told: mpsc::Sender<&'static str>) {
        let guard = Rc::new(Guard(told.clone()));
        let _ = told.send("running");
        std::future::pending::<()>().await;
        drop(guard);
    }

    #[test]
    fn a_task_ends_with_its_handle_unless_it_is_detached() {
        let (background, thread) = Background::start(Metrics::new()).expect("a thread");
        let (told, hears) = mpsc::channel();
        let task = background.spawn("test", {
            let told = told.clone();
            move || wait(told)
        });
        assert_eq!(hears.recv_timeout(LONG), Ok("running"));
        drop(task);
        assert_eq!(hears.recv_timeout(LONG), Ok("dropped"));
        background.spawn("test", move || wait(told)).detach();
        assert_eq!(hears.recv_timeout(LONG), Ok("running"));
        // Tasks start in order, and the detached one still waits when a later one runs.
        let (later, ran) = oneshot::channel();
        background.spawn("test", move || async { later.send(()).unwrap_or_default() }).detach();
        ran.blocking_recv().expect("it runs");
        assert_eq!(hears.try_recv(), Err(mpsc::TryRecvError::Empty));
        drop(thread);
        assert_eq!(hears.try_recv(), Ok("dropped"), "before the end of the thread");
    }

    #[test]
    fn a_panic_costs_one_task() {
        let metrics = Metrics::new();
        let (background, _thread) = Background::start(Arc::clone(&metrics)).expect("a thread");
        let (told, hears) = mpsc::channel();
        let waits = background.spawn("test", move || wait(told));
        let panics = background.spawn("test", || async { panic!("of a test") });
        background.spawn("test", || -> std::future::Ready<()> { panic!("before the first poll") }).detach();
        let (later, ran) = oneshot::channel();
        background.spawn("test", move || async { later.send(()).unwrap_or_default() }).detach();
        ran.blocking_recv().expect("it runs");
        assert_eq!(metrics.background_panics.value(), 2);
        assert!(waits.is_running() && !panics.is_running());
        assert_eq!(hears.recv_timeout(LONG), Ok("running"));
        assert_eq!(hears.try_recv(), Err(mpsc::TryRecvError::Empty), "it goes on");
    }

    #[test]
    fn a_task_for_a_thread_that_has_ended_is_dropped() {
        let (background, thread) = Background::start(Metrics::new()).expect("a thread");
        drop(thread);
        let (told, hears) = mpsc::channel();
        background.spawn("test", move || wait(told)).detach();
        assert_eq!(hears.recv_timeout(LONG), Err(mpsc::RecvTimeoutError::Disconnected));
    }
}
