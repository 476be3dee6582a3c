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
    /// Time of one call, waits included.
    pub wall: Duration,
    /// Instances per worker.
    pub max_instances: usize,
    /// Calls per worker that may wait for an instance.
    pub queue: usize,
    /// Calls after which an instance is renewed.
    pub uses: u64,
    /// The largest body that the filter can ask for.
    pub max_body: u64,
    /// The largest body of an answer to an outbound call.
    pub max_http_body: u64,
}

/// The defaults of `gateway.toml`.
impl Default for FilterLimits {
    fn default() -> Self {
        FilterLimits {
            memory: 32 << 20,
            table_elements: 20_000,
            cpu: Duration::from_millis(5),
            wall: Duration::from_secs(1),
            max_instances: 64,
            queue: 256,
            uses: 10_000,
            max_body: 1 << 20,
            max_http_body: 1 << 20,
        }
    }
}
