//! The thread that advances the engine's epoch: the clock of CPU limits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use wasmtime::Engine;

/// Ticks without a call after which the ticker sleeps until the next one.
const IDLE_TICKS: u32 = 100;

/// Advances the epoch while calls are made, and sleeps when there have been none for a while. Each tick takes a worker off its
/// core for some 15 µs: unless the one before met a call, every other one is left out.
#[derive(Default)]
pub(crate) struct Ticker {
    busy: AtomicBool,
    /// A call was met by the last tick.
    lasting: AtomicBool,
    parked: AtomicBool,
    pub(crate) stop: AtomicBool,
    thread: std::sync::OnceLock<std::thread::Thread>,
}

impl Ticker {
    /// Says that a call begins or goes on. Almost always one relaxed load.
    pub(crate) fn keep_going(&self) {
        if !self.busy.load(Ordering::Relaxed) {
            self.busy.store(true, Ordering::SeqCst);
            if self.parked.load(Ordering::SeqCst)
                && let Some(thread) = self.thread.get()
            {
                thread.unpark();
            }
        }
    }

    /// Says that a call was met by a tick: the next one is to come soon.
    pub(crate) fn hurry(&self) {
        self.keep_going();
        self.lasting.store(true, Ordering::Relaxed);
    }

    pub(crate) fn run(&self, engine: &Engine, tick: Duration) {
        self.thread.get_or_init(std::thread::current);
        let mut idle = 0;
        while !self.stop.load(Ordering::SeqCst) {
            let lasting = self.lasting.swap(false, Ordering::Relaxed);
            std::thread::park_timeout(if lasting { tick } else { 2 * tick });
            engine.increment_epoch();
            // A call that runs on says so at each tick, so `idle` counts ticks without any call.
            idle = if self.busy.swap(false, Ordering::SeqCst) { 0 } else { idle + 1 };
            if idle < IDLE_TICKS {
                continue;
            }
            self.parked.store(true, Ordering::SeqCst);
            // A call that began before `parked` was set has set `busy`; one that begins later unparks.
            while !self.busy.load(Ordering::SeqCst) && !self.stop.load(Ordering::SeqCst) {
                std::thread::park();
            }
            self.parked.store(false, Ordering::SeqCst);
            idle = 0;
        }
    }
}
