//! When the gateway refuses requests to go on at all.

use std::time::Duration;

use super::ByteSize;

/// Bounds of what the process has; none is no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Overload {
    /// Resident memory.
    pub max_memory: Option<ByteSize>,
    /// Open client connections.
    pub max_connections: Option<u32>,
    /// How long a task that is ready waits for its worker.
    pub max_event_loop_delay: Option<Duration>,
}

/// How much depends on the requests of a route. In this order they are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Criticality {
    Sheddable,
    Standard,
    Critical,
}
