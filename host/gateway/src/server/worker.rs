//! Workers: one thread, one event loop, one socket for each listener. A request never leaves its worker.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, watch};

use super::activity::{Occupancy, Watched};
use super::connection::Accepted;
use super::handshakes::Handshakes;
use super::listener::{BindError, accept};
use super::overload::Overload;
use super::refused::Refusals;
use super::{Ends, ListenerSettings, ListenerSpec, ListenerTable, Service, connection};
use crate::allocator::Keeping;
use crate::config::model::BindAddress;
use crate::sockets::{self, Acceptor, Bound, Listener, Stream};
use crate::telemetry::{ListenerCounters, Metrics, WorkerMetrics};

/// Tasks polled between two looks for I/O events. It is larger than the number of events that a busy worker finds at once, because
/// deferred writes wait until all other ready tasks have run.
const EVENT_INTERVAL: u32 = 128;
/// How often a draining worker looks whether its connections are gone.
const DRAIN_STEP: Duration = Duration::from_millis(10);

/// What workers need to start.
pub struct WorkerSettings {
    /// The number of workers, at least 1.
    pub workers: usize,
    pub listeners: Vec<ListenerSpec>,
    /// Must have settings for each of `listeners`.
    pub table: ListenerTable,
    pub metrics: Arc<Metrics>,
    pub overload: Arc<Overload>,
}

/// Why the workers did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("listener `{0}` has no settings")]
    NoSettings(String),
    #[error("cannot start a worker")]
    Thread(#[source] io::Error),
}

/// The running workers.
pub struct Workers {
    phase: watch::Sender<Phase>,
    running: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    bound: Vec<(Arc<str>, Bound)>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    Draining,
    Stopped,
}

impl Workers {
    /// Binds all listeners, then starts the threads. `service` is called once on each worker's thread, inside its runtime,
    /// with the worker's index and metrics.
    pub fn start<S: Service>(
        settings: WorkerSettings,
        service: impl Fn(usize, WorkerMetrics) -> Rc<S> + Send + Sync + 'static,
    ) -> Result<Workers, StartError> {
        let WorkerSettings { workers, listeners, table, metrics, overload } = settings;
        let (phase, watch) = watch::channel(Phase::Serving);
        let mut started = Workers {
            phase,
            running: Arc::default(),
            open: Arc::clone(overload.connections()),
            bound: Vec::new(),
            threads: Vec::new(),
        };
        let mut by_worker: Vec<Vec<(WorkerListener, Listener)>> = (0..workers.max(1)).map(|_| Vec::new()).collect();
        for spec in &listeners {
            let settings = table.load().find(&spec.name).map(Arc::clone);
            let settings = settings.ok_or_else(|| StartError::NoSettings(spec.name.to_string()))?;
            let (open, handshakes) = (Arc::<AtomicUsize>::default(), Arc::<Handshakes>::default());
            let failed = |source| BindError { listener: spec.name.to_string(), address: spec.bind.clone(), source };
            let (bound, sockets) = sockets::bind(&spec.bind, by_worker.len()).map_err(failed)?;
            for (of_worker, socket) in by_worker.iter_mut().zip(sockets) {
                let listener = WorkerListener {
                    name: Arc::clone(&spec.name),
                    settings: Arc::clone(&settings),
                    table: Arc::clone(&table),
                    open: [Arc::clone(&started.open), Arc::clone(&open)],
                    handshakes: Arc::clone(&handshakes),
                    overload: Arc::clone(&overload),
                    counters: metrics.listener(&spec.name),
                };
                of_worker.push((listener, socket));
            }
            started.bound.push((Arc::clone(&spec.name), bound));
        }
        let service = Arc::new(service);
        for (index, bound) in by_worker.into_iter().enumerate() {
            let (service, metrics, watch) = (Arc::clone(&service), Arc::clone(&metrics), watch.clone());
            let overload = Arc::clone(&overload);
            let running = RunningGuard::new(&started.running);
            let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                let _running = running;
                let _keeping = Keeping::new();
                if let Err(error) = work(index, bound, &*service, (&metrics, overload), watch) {
                    tracing::error!(worker = index, %error, "worker cannot run");
                }
            });
            started.threads.push(thread.map_err(StartError::Thread)?);
        }
        for (listener, Bound { address, .. }) in &started.bound {
            tracing::info!(listener = &**listener, %address, "listening");
        }
        Ok(started)
    }

    /// The listeners' names and the addresses that they have got.
    pub fn addresses(&self) -> impl Iterator<Item = (&str, &BindAddress)> {
        self.bound.iter().map(|(name, bound)| (&**name, &bound.address))
    }

    /// Open client connections.
    pub fn connections(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Whether all workers have ended.
    pub fn are_done(&self) -> bool {
        self.running.load(Relaxed) == 0
    }

    /// Stops accepting and ends the workers when their exchanges are finished.
    pub fn drain(&self) {
        self.phase.send_if_modified(|phase| std::mem::replace(phase, (*phase).max(Phase::Draining)) < Phase::Draining);
    }

    /// Ends the workers, whatever they do. Returns the number of connections that were cut.
    pub fn stop(self) -> usize {
        let cut = self.connections();
        self.phase.send_replace(Phase::Stopped);
        for thread in self.threads {
            // A worker that panicked has logged it.
            let _ = thread.join();
        }
        cut
    }
}

struct RunningGuard(Arc<AtomicUsize>);

impl RunningGuard {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Relaxed);
        RunningGuard(Arc::clone(count))
    }
}

impl Drop for RunningGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A worker's socket of a listener.
struct WorkerListener {
    name: Arc<str>,
    /// As last seen in the table.
    settings: Arc<ListenerSettings>,
    table: ListenerTable,
    /// Open connections of the process and of the listener.
    open: [Arc<AtomicUsize>; 2],
    handshakes: Arc<Handshakes>,
    overload: Arc<Overload>,
    counters: Arc<ListenerCounters>,
}

/// What the connections of a worker share.
pub(super) struct Shared<S> {
    pub(super) service: Rc<S>,
    pub(super) metrics: WorkerMetrics,
    pub(super) draining: Draining,
    pub(super) overload: Arc<Overload>,
    refusals: Refusals,
    open: Arc<AtomicUsize>,
}

fn work<S: Service>(
    index: usize,
    bound: Vec<(WorkerListener, Listener)>,
    service: &(impl Fn(usize, WorkerMetrics) -> Rc<S> + ?Sized),
    (metrics, overload): (&Metrics, Arc<Overload>),
    mut phase: watch::Receiver<Phase>,
) -> io::Result<()> {
    let runtime = Builder::new_current_thread()
        .event_interval(EVENT_INTERVAL)
        .enable_all()
        .build_local(LocalOptions::default())?;
    let ended = runtime.block_on(async {
        let metrics = metrics.worker();
        let shared = Rc::new(Shared {
            service: service(index, metrics.clone()),
            metrics,
            draining: Draining::default(),
            overload,
            refusals: Refusals::default(),
            open: Arc::default(),
        });
        let mut accepting = Vec::new();
        for (listener, socket) in bound {
            accepting.push(tokio::task::spawn_local(admit(socket.acceptor()?, listener, Rc::clone(&shared))));
        }
        // Fails only when `Workers` is gone, which ends the worker too.
        let _ = phase.wait_for(|phase| *phase >= Phase::Draining).await;
        shared.draining.begin();
        for task in accepting {
            let _ = task.await;
        }
        let finish = async {
            while shared.open.load(Relaxed) > 0 {
                tokio::time::sleep(DRAIN_STEP).await;
            }
            shared.service.drained().await;
        };
        tokio::select! {
            () = finish => {}
            _ = phase.wait_for(|phase| *phase == Phase::Stopped) => {}
        }
        Ok(())
    });
    // What still waits for a disk, of those who have left, is not waited for.
    runtime.shutdown_background();
    ended
}

/// Accepts until the worker drains.
async fn admit<S: Service>(acceptor: Acceptor, mut listener: WorkerListener, shared: Rc<Shared<S>>) {
    loop {
        let (socket, peer) = tokio::select! {
            biased;
            () = shared.draining.begun() => break,
            accepted = accept(&acceptor, &listener.counters) => accepted,
        };
        listener.receive(socket, peer, &shared);
        if acceptor.is_shared() {
            // A connection wakes all workers. The first one must not take all of a burst before the others have run.
            tokio::task::yield_now().await;
        }
    }
    // Connections in the kernel's queue are still served: closing the socket would reset them.
    while let Some((socket, peer)) = waiting(&acceptor).await {
        listener.counters.accepted.add(1);
        listener.receive(socket, peer, &shared);
    }
}

async fn waiting(listener: &Acceptor) -> Option<(Stream, Option<SocketAddr>)> {
    std::future::poll_fn(|cx| match listener.poll_accept(cx) {
        Poll::Ready(accepted) => Poll::Ready(accepted.ok()),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

impl WorkerListener {
    /// Serves a connection in a task of its own, or refuses it when there are too many.
    fn receive<S: Service>(&mut self, socket: Stream, peer: Option<SocketAddr>, shared: &Rc<Shared<S>>) {
        let table = self.table.load();
        if let Some(settings) = table.find(&self.name)
            && !Arc::ptr_eq(settings, &self.settings)
        {
            self.settings = Arc::clone(settings);
        }
        let [process, listener] = &self.open;
        let is_full =
            process.load(Relaxed) >= table.max_connections || listener.load(Relaxed) >= self.settings.max_connections;
        if is_full || self.overload.refuses_connections() {
            self.counters.refused.add(1);
            let ListenerSettings { tls, h2, proxy_protocol, .. } = &*self.settings;
            if *h2 && proxy_protocol.is_none() {
                match tls {
                    None => shared.refusals.refuse(socket),
                    Some(_) if self.overload.is_out_of_memory() => {}
                    Some(context) => shared.refusals.refuse_over_tls(socket, Arc::clone(context)),
                }
            }
            return;
        }
        let Ok(local) = socket.local_addr() else {
            return;
        };
        let open = [Arc::clone(process), Arc::clone(listener), Arc::clone(&shared.open)];
        let socket = Watched::new(socket, Occupancy::take(Arc::clone(&self.counters), open));
        let (listener, settings) = (Arc::clone(&self.name), Arc::clone(&self.settings));
        let ends = match (peer, local) {
            (Some(peer), Some(local)) => Ends::Ip { peer, local },
            _ => Ends::Unix,
        };
        let accepted = Accepted { socket, ends, listener, settings, handshakes: Arc::clone(&self.handshakes) };
        tokio::task::spawn_local(connection::serve(accepted, Rc::clone(shared)));
    }
}

/// Tells the connections of a worker that it drains.
#[derive(Default)]
pub(super) struct Draining {
    begun: Cell<bool>,
    told: Notify,
}

impl Draining {
    fn begin(&self) {
        self.begun.set(true);
        self.told.notify_waiters();
    }

    /// Whether draining has begun.
    pub(super) fn has_begun(&self) -> bool {
        self.begun.get()
    }

    /// Ready when draining has begun.
    pub(super) async fn begun(&self) {
        let mut told = pin!(self.told.notified());
        // Registered before the flag is read, so that no wake-up is lost.
        told.as_mut().enable();
        if !self.begun.get() {
            told.await;
        }
    }
}

/// Counts the panic that unwinds through it. The runtime catches it: a panic costs its task, not the worker.
pub(super) struct PanicProbe {
    metrics: WorkerMetrics,
}

impl PanicProbe {
    pub(super) fn new(metrics: WorkerMetrics) -> Self {
        PanicProbe { metrics }
    }
}

impl Drop for PanicProbe {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.metrics.panicked();
        }
    }
}
