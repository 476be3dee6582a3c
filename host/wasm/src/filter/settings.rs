//! What an operator sets for a filter: how its instances live and what they may use.

use std::time::Duration;

/// How instances of a filter live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// An instance serves one call after the other and is renewed after a number of uses.
    #[default]
    Reused,
    /// Each exchange gets an instance of its own, as `configure` left it: nothing can leak from one caller to the next through guest
    /// memory. It is made of an image of one that was configured, if there can be one, and restored to it for the next exchange; otherwise
    /// it is dropped. Where many exchanges wait for their upstreams, some get another one for each hook.
    Fresh,
}

/// How the hooks of a plugin are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CallMode {
    /// Directly, where the component is one core module with the usual plumbing around it; otherwise as a component.
    #[default]
    Auto,
    /// Always by wasmtime's component runtime: slower, and none of our code reads or writes the guest's memory.
    Component,
}

/// What one filter may use. Sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterLimits {
    /// Linear memory of one instance.
    pub memory: usize,
    /// Elements of each table of one instance.
    pub table_elements: usize,
    /// CPU time of one call, up to three milliseconds more: it is looked at every one or two.
    pub cpu: Duration,
    /// CPU time that a call with a body has besides, for each MiB of the body.
    pub cpu_per_mib: Duration,
    /// Time of one call, waits included. A call with a body has as much more as it has CPU time.
    pub wall: Duration,
    /// Instances per worker.
    pub max_instances: usize,
    /// Calls per worker that may wait for an instance.
    pub queue: usize,
    /// Calls after which an instance is renewed.
    pub uses: u64,
    /// Instances that each worker keeps ready beside those that are in use; `None`: as many as the cost of making one is worth.
    pub warm: Option<usize>,
    /// The largest body that the filter can ask for.
    pub max_body: u64,
    /// The largest body of an answer to an outbound call.
    pub max_http_body: u64,
}

impl FilterLimits {
    /// The largest body that the filter may set: it may add to the largest one that it gets.
    pub fn max_set_body(&self) -> u64 {
        self.max_body.saturating_mul(2)
    }

    /// The time that a call has for a body of this length, besides `cpu` and `wall`: what is allowed in size can be done in time.
    pub fn time_for_body(&self, bytes: usize) -> Duration {
        let nanos = self.cpu_per_mib.as_nanos().saturating_mul(bytes as u128) >> 20;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// The defaults of `gateway.toml`.
impl Default for FilterLimits {
    fn default() -> Self {
        FilterLimits {
            memory: 32 << 20,
            table_elements: 20_000,
            cpu: Duration::from_millis(5),
            cpu_per_mib: Duration::from_millis(200),
            wall: Duration::from_secs(1),
            max_instances: 64,
            queue: 256,
            uses: 10_000,
            warm: None,
            max_body: 1 << 20,
            max_http_body: 1 << 20,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_for_a_body_grows_with_it() {
        let limits = FilterLimits { cpu_per_mib: Duration::from_millis(64), ..FilterLimits::default() };
        assert_eq!(limits.time_for_body(0), Duration::ZERO);
        assert_eq!(limits.time_for_body(1 << 10), Duration::from_micros(62) + Duration::from_nanos(500));
        assert_eq!(limits.time_for_body(10 << 20), Duration::from_millis(640));
        let limits = FilterLimits { cpu_per_mib: Duration::MAX, ..limits };
        assert!(limits.time_for_body(usize::MAX) > Duration::from_secs(1 << 30));
    }
}
