//! What every function that waits does before and after: while it waits, the thread's clock runs for others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::{Result as Outcome, StoreContextMut, bail};

use crate::call::cpu::CpuMeter;
use crate::call::state::CallState;

/// A call that is about to wait.
pub(super) struct Paused {
    pub(super) meter: Arc<CpuMeter>,
    /// What its wall deadline leaves.
    pub(super) left: Duration,
}

/// Stops the clock of the call. The deadline that [`resume`] sets is a new one, so a guest that does nothing but wait would never meet it:
/// what it has spent is counted here too.
pub(super) fn pause(state: &mut CallState) -> Outcome<Paused> {
    if state.meter.tick() >= state.cpu_limit {
        state.overspent = true;
        bail!("no CPU time is left");
    }
    let left = state.wall_end.map_or(Duration::ZERO, |end| end.saturating_duration_since(Instant::now()));
    Ok(Paused { meter: Arc::clone(&state.meter), left })
}

/// Lets the clock run again.
pub(super) fn resume(cx: &mut StoreContextMut<'_, CallState>, meter: &CpuMeter) {
    meter.resume();
    cx.set_epoch_deadline(1);
}
