//! The circuit and the limits of an upstream, as the API shows them.

use schemars::JsonSchema;
use serde::Serialize;

use super::api::Timestamp;
use crate::upstream::{self, BulkheadState, CircuitState};

/// A circuit breaker of an upstream as a whole.
#[derive(Serialize, JsonSchema)]
pub(super) struct Circuit {
    /// `closed`, `open` or `half-open`.
    state: &'static str,
    /// How often it has opened.
    opened: u64,
    /// Requests that it has refused.
    refused: u64,
    /// Its last changes, oldest first.
    changes: Vec<CircuitChange>,
}

#[derive(Serialize, JsonSchema)]
struct CircuitChange {
    at: Timestamp,
    open: bool,
    /// What was seen.
    evidence: String,
}

/// A limit of requests under way.
#[derive(Serialize, JsonSchema)]
pub(super) struct RequestLimit {
    /// `upstream`, or `endpoints` for that of each address.
    scope: &'static str,
    max_requests: u32,
    /// Requests under way that it counts; none for `endpoints`.
    active: Option<u32>,
    /// Requests that wait.
    pending: u32,
    /// Requests that were refused, since the queue was full or they had waited for too long.
    refused: u64,
}

/// A limit of open connections.
#[derive(Serialize, JsonSchema)]
pub(super) struct ConnectionLimit {
    /// `upstream`, or `endpoints` for that of each address.
    scope: &'static str,
    max_connections: u32,
    /// Connections that are open, to all endpoints together.
    open: u32,
    /// Requests that wait for a connection.
    pending: u32,
    /// Requests that got none.
    refused: u64,
}

pub(super) fn connection_limits(upstream: &upstream::Upstream) -> Vec<ConnectionLimit> {
    let limit = |(scope, state): (&'static str, BulkheadState)| {
        let refused = state.full + state.timed_out;
        Some(ConnectionLimit {
            scope,
            max_connections: state.limit?,
            open: state.active?,
            pending: state.pending,
            refused,
        })
    };
    upstream.connections().into_iter().filter_map(limit).collect()
}

pub(super) fn circuit(upstream: &upstream::Upstream) -> Option<Circuit> {
    let CircuitState { state, opened, refused, history } = upstream.circuit()?;
    let changes = history.into_iter();
    let changes =
        changes.map(|change| CircuitChange { at: change.at.into(), open: change.is_open, evidence: change.evidence });
    Some(Circuit { state, opened, refused, changes: changes.collect() })
}

pub(super) fn request_limits(upstream: &upstream::Upstream) -> Vec<RequestLimit> {
    let Some(state) = upstream.state() else { return Vec::new() };
    let limit = |scope, state: BulkheadState| {
        let refused = state.full + state.timed_out;
        Some(RequestLimit { scope, max_requests: state.limit?, active: state.active, pending: state.pending, refused })
    };
    let all = [limit("upstream", state.requests().state()), limit("endpoints", state.room())];
    all.into_iter().flatten().collect()
}
