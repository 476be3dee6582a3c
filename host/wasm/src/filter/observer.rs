//! Sees what the calls of filters do, call by call: for tests of filters. A gateway has none, and links the functions of the host so that
//! none is looked for.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::Level;

use crate::filter::{FilterError, Hook};

/// Instructions that one store can use before it lacks them: so many that none ever does.
pub(crate) const FUEL: u64 = u64::MAX >> 1;

/// What is seen of the calls of all filters of a runtime, one call at a time.
#[derive(Debug, Default)]
pub struct Observer {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    verbose: bool,
    calls: Vec<HookCall>,
    lines: Vec<LogLine>,
    /// Of the call in progress.
    started: Option<(Instant, u64)>,
}

/// A call of a hook.
#[derive(Debug, Clone)]
pub struct HookCall {
    pub hook: Hook,
    /// Functions of the host that it has called, in their order.
    pub host_calls: Vec<HostCall>,
    /// Instructions of the guest, as the engine counts them: the same for the same input.
    pub instructions: u64,
    pub time: Duration,
    /// Linear memory of the instance at the end of the call, in bytes.
    pub memory: usize,
    pub error: Option<FilterError>,
}

/// A function of the host that was called.
#[derive(Debug, Clone, Copy)]
pub struct HostCall {
    pub interface: &'static str,
    pub function: &'static str,
    /// Time of the hook call until then.
    pub after: Duration,
    /// Linear memory of the instance at that time, in bytes.
    pub memory: usize,
}

/// A line that a filter has written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    pub level: Level,
    pub text: String,
}

impl Observer {
    /// Whether lines of the levels `debug` and `trace` are seen from now on.
    pub fn set_verbose(&self, verbose: bool) {
        self.seen().verbose = verbose;
    }

    /// What was seen since it was last taken.
    pub fn take(&self) -> (Vec<HookCall>, Vec<LogLine>) {
        let mut seen = self.seen();
        (std::mem::take(&mut seen.calls), std::mem::take(&mut seen.lines))
    }

    pub(crate) fn hears(&self, level: Level) -> bool {
        level <= Level::INFO || self.seen().verbose
    }

    pub(crate) fn log(&self, level: Level, text: &str) {
        if self.hears(level) {
            self.seen().lines.push(LogLine { level, text: text.to_owned() });
        }
    }

    /// A hook is called; its store has so much fuel.
    pub(crate) fn begins(&self, hook: Hook, fuel: u64) {
        let mut seen = self.seen();
        let (host_calls, time) = (Vec::new(), Duration::ZERO);
        seen.calls.push(HookCall { hook, host_calls, instructions: 0, time, memory: 0, error: None });
        seen.started = Some((Instant::now(), fuel));
    }

    /// The hook in progress calls a function.
    pub(crate) fn calls(&self, interface: &'static str, function: &'static str, memory: usize) {
        let mut seen = self.seen();
        let Some((started, _)) = seen.started else { return };
        let after = started.elapsed();
        if let Some(call) = seen.calls.last_mut() {
            call.host_calls.push(HostCall { interface, function, after, memory });
        }
    }

    pub(crate) fn ends(&self, fuel: u64, memory: usize, error: Option<&FilterError>) {
        let mut seen = self.seen();
        let Some((started, before)) = seen.started.take() else { return };
        if let Some(call) = seen.calls.last_mut() {
            call.instructions = before.saturating_sub(fuel);
            call.time = started.elapsed();
            call.memory = memory;
            call.error = error.cloned();
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
