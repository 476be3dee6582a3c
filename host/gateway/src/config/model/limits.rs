//! What protects a service, and the gateway from it: circuit breakers and limits.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::Name;
use crate::config::defaults;

/// The most outcomes that a circuit breaker can look at.
pub const MAX_OUTCOMES: u32 = 1000;

/// When requests are no longer sent to a service that fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CircuitBreaker {
    /// How many failures open it, at least 1.
    pub failures: u32,
    pub window: FailureWindow,
    /// How long it is open before probes pass.
    pub open: Duration,
    /// What this grows to while probes fail.
    pub max_open: Duration,
    /// Probes that pass at a time, and have to succeed: 1 to 100.
    pub half_open: u32,
    /// The statuses of responses that count as failures.
    pub status_codes: Vec<u16>,
    pub per: CircuitScope,
    pub answer: CircuitAnswer,
}

/// Among which outcomes failures are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureWindow {
    /// The last ones, at most [`MAX_OUTCOMES`].
    Last(u32),
    /// Those of the last while, if they are at least so many percent of all.
    Time { window: Duration, percent: u32 },
}

/// What has a circuit of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CircuitScope {
    Upstream,
    Endpoint,
}

/// What a request gets while the circuit is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CircuitAnswer {
    /// The gateway's own 503.
    Unavailable,
    Respond(Arc<FixedResponse>),
    /// Another upstream.
    Fallback(Name),
}

/// Limits of what is under way at an upstream, for all workers together; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamLimits {
    pub max_requests: Option<u32>,
    /// Open connections.
    pub max_connections: Option<u32>,
    /// Requests that may wait.
    pub max_pending_requests: u32,
    pub queue_timeout: Duration,
    pub per_endpoint: EndpointLimits,
}

/// Limits of what is under way at one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EndpointLimits {
    pub max_requests: Option<u32>,
    pub max_connections: Option<u32>,
    /// Requests that may wait for a place there; `None`: as many as the upstream says.
    pub max_pending_requests: Option<u32>,
    pub queue_timeout: Option<Duration>,
}

/// How requests wait for a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    pub max_pending: u32,
    pub timeout: Duration,
}

impl UpstreamLimits {
    /// How long they wait for a connection.
    pub fn connection_timeout(&self) -> Duration {
        match self.per_endpoint.max_connections {
            Some(_) => self.endpoint_queue().timeout,
            None => self.queue_timeout,
        }
    }

    /// How they wait for a place at an endpoint.
    pub fn endpoint_queue(&self) -> QueueLimits {
        QueueLimits {
            max_pending: self.per_endpoint.max_pending_requests.unwrap_or(self.max_pending_requests),
            timeout: self.per_endpoint.queue_timeout.unwrap_or(self.queue_timeout),
        }
    }
}

impl Default for UpstreamLimits {
    fn default() -> Self {
        Self {
            max_requests: None,
            max_connections: None,
            max_pending_requests: defaults::MAX_PENDING_REQUESTS,
            queue_timeout: defaults::QUEUE_TIMEOUT,
            per_endpoint: EndpointLimits::default(),
        }
    }
}

/// A response that the configuration has written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FixedResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}
