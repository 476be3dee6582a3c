//! The life of the process after the start: it waits for signals and for what [`Control`] is asked for, and ends in order.

use std::io;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until};

use super::Control;
use crate::server::Workers;

const STEP: Duration = Duration::from_millis(10);
/// How often the workers are looked at.
const LOOK: Duration = Duration::from_secs(1);

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
        let entered = runtime.enter();
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        let hangup = signal(SignalKind::hangup())?;
        drop(entered);
        Ok(Signals { runtime, terminate, interrupt, hangup })
    }

    /// Waits on the calling thread until somebody asks for the end, then drains: SIGTERM and SIGINT ask for it as
    /// [`Control::shut_down`] does, SIGHUP asks for a reload. From then on `/readyz` says no, but for the shutdown delay the workers go on as
    /// before: a load balancer needs time to learn that it should send connections elsewhere, and those on their way would be refused.
    /// Returns the exit code: 0 when the gateway ended in order, within the shutdown timeout of the running configuration, and 128 plus
    /// the signal's number after a second signal.
    pub fn run(mut self, workers: Workers, control: &Control) -> u8 {
        let Signals { runtime, terminate, interrupt, hangup } = &mut self;
        runtime.block_on(async {
            loop {
                tokio::select! {
                    () = control.draining() => break,
                    _ = terminate.recv() => control.shut_down(),
                    _ = interrupt.recv() => control.shut_down(),
                    _ = hangup.recv() => control.request_reload(),
                    () = sleep(LOOK) => if workers.are_done() {
                        tracing::error!("all workers have ended");
                        return 1;
                    },
                }
            }
            let config = control.config();
            let (delay, patience) = (config.gateway.shutdown_delay, config.gateway.shutdown_timeout);
            if let Some(delay) = delay {
                let delay_ms = delay.as_millis() as u64;
                tracing::info!(
                    connections = workers.connections(),
                    delay_ms,
                    "no longer ready, still accepting connections"
                );
                let until = Instant::now() + delay;
                while Instant::now() < until {
                    tokio::select! {
                        _ = terminate.recv() => return 128 + 15,
                        _ = interrupt.recv() => return 128 + 2,
                        _ = hangup.recv() => control.request_reload(),
                        () = sleep_until(until.min(Instant::now() + LOOK)) => if workers.are_done() {
                            tracing::error!("all workers have ended");
                            return 1;
                        },
                    }
                }
            }
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
