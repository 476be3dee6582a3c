//! The life of the process after the start: signals, readiness and the orderly end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep};

use super::{Reloader, Workers};

const STEP: Duration = Duration::from_millis(10);

/// What `/readyz` tells.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<AtomicU8>);

impl Readiness {
    /// The gateway serves from now on.
    pub fn serving(&self) {
        self.0.store(1, Relaxed);
    }

    /// The gateway finishes what it has and takes nothing new.
    pub fn draining(&self) {
        self.0.store(2, Relaxed);
    }

    pub fn is_serving(&self) -> bool {
        self.0.load(Relaxed) == 1
    }

    pub(crate) fn name(&self) -> &'static str {
        match self.0.load(Relaxed) {
            0 => "starting",
            1 => "serving",
            _ => "draining",
        }
    }
}

/// The signals of the process, caught from the moment that this is made.
pub struct Signals {
    runtime: Runtime,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Make it before the listeners open, so that a signal during the start ends the gateway in order, too.
    pub fn catch() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let _entered = runtime.enter();
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        let hangup = signal(SignalKind::hangup())?;
        drop(_entered);
        Ok(Signals { runtime, terminate, interrupt, hangup })
    }

    /// Waits for SIGTERM or SIGINT, then drains; SIGHUP asks for a reload. Returns the exit code: 0 when the gateway ended
    /// in order, within `shutdown_timeout` (asked for when it is needed), and 128 plus the signal's number after a second
    /// signal.
    pub fn run(
        mut self,
        workers: Workers,
        reloader: &Reloader,
        readiness: &Readiness,
        shutdown_timeout: impl Fn() -> Duration,
    ) -> u8 {
        let Signals { runtime, terminate, interrupt, hangup } = &mut self;
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = terminate.recv() => break,
                    _ = interrupt.recv() => break,
                    _ = hangup.recv() => reloader.request(),
                    () = sleep(Duration::from_secs(1)), if workers.are_done() => {
                        tracing::error!("all workers have ended");
                        return 1;
                    }
                }
            }
            readiness.draining();
            let patience = shutdown_timeout();
            tracing::info!(
                connections = workers.connections(),
                timeout_ms = patience.as_millis() as u64,
                "shutting down"
            );
            workers.drain();
            let deadline = Instant::now() + patience;
            while !workers.are_done() && Instant::now() < deadline {
                tokio::select! {
                    _ = terminate.recv() => return 128 + 15,
                    _ = interrupt.recv() => return 128 + 2,
                    () = sleep(STEP) => {}
                }
            }
            match workers.stop() {
                0 => tracing::info!("stopped"),
                cut => tracing::warn!(connections = cut, "stopped at the shutdown timeout; open connections were cut"),
            }
            0
        })
    }
}
