//! Metrics of limits and circuit breakers, where there are some.

use std::sync::Arc;

use super::Snapshot;
use crate::telemetry::Exposition;
use crate::upstream::{BulkheadState, CircuitState, Upstream};

/// Writes the families.
pub(super) fn expose(snapshot: &Snapshot, out: &mut Exposition) {
    circuits(snapshot, out);
    limits(snapshot, out);
    connections(snapshot, out);
}

fn circuits(snapshot: &Snapshot, out: &mut Exposition) {
    let upstreams = snapshot.upstreams.iter().map(|(upstream, _)| upstream);
    let circuits: Vec<_> = upstreams.filter_map(|upstream| Some((upstream.name(), upstream.circuit()?))).collect();
    let mut family = |name: &str, kind: &str, help: &str, of: fn(&CircuitState) -> f64| {
        out.family(name, kind, help);
        for (upstream, circuit) in &circuits {
            out.sample(name, &[("upstream", upstream)], of(circuit));
        }
    };
    family(
        "sluice_circuit_open",
        "gauge",
        "1 while the circuit of the upstream is open or half open, else 0.",
        |circuit| f64::from(u8::from(circuit.state != "closed")),
    );
    family("sluice_circuit_opens_total", "counter", "How often it has opened.", |circuit| circuit.opened as f64);
    family("sluice_circuit_refused_total", "counter", "Requests that it has refused.", |circuit| {
        circuit.refused as f64
    });
}

fn limits(snapshot: &Snapshot, out: &mut Exposition) {
    let mut all = Vec::new();
    for (upstream, _) in &snapshot.upstreams {
        let Some(state) = upstream.state() else { continue };
        all.push(("upstream", upstream.name(), state.requests().state()));
        all.push(("endpoints", upstream.name(), state.room()));
    }
    for limits in snapshot.routes.iter().filter_map(|route| route.limits.as_ref()) {
        all.push(("route", &limits.name, limits.requests.state()));
    }
    all.retain(|(_, _, state)| state.limit.is_some());
    let mut family = |name: &str, kind: &str, help: &str, of: fn(&BulkheadState) -> Option<f64>| {
        out.family(name, kind, help);
        for (scope, limited, state) in &all {
            if let Some(value) = of(state) {
                out.sample(name, &[("scope", scope), ("name", limited)], value);
            }
        }
    };
    family("sluice_limit_max_requests", "gauge", "Requests that may be under way; of `endpoints`, at each.", |state| {
        state.limit.map(f64::from)
    });
    family("sluice_limit_active_requests", "gauge", "Requests under way that the limit counts.", |state| {
        state.active.map(f64::from)
    });
    family("sluice_limit_pending_requests", "gauge", "Requests that wait.", |state| Some(f64::from(state.pending)));
    family("sluice_limit_waits_total", "counter", "Requests that have waited and went on.", |state| {
        Some(state.waited as f64)
    });
    family("sluice_limit_wait_seconds_total", "counter", "How long these have waited, together.", |state| {
        Some(state.waited_time.as_secs_f64())
    });
    let name = "sluice_limit_refused_total";
    out.family(
        name,
        "counter",
        "Requests that were refused, since the queue was full or they had waited for too long.",
    );
    for (scope, limited, state) in &all {
        for (reason, count) in [("full", state.full), ("timeout", state.timed_out)] {
            out.sample(name, &[("scope", scope), ("name", limited), ("reason", reason)], count as f64);
        }
    }
}

fn connections(snapshot: &Snapshot, out: &mut Exposition) {
    let of_upstream = |upstream: &Arc<Upstream>| {
        let name = Arc::clone(upstream.name());
        upstream.connections().into_iter().map(move |(scope, state)| (scope, Arc::clone(&name), state))
    };
    let all: Vec<_> = snapshot.upstreams.iter().flat_map(|(upstream, _)| of_upstream(upstream)).collect();
    let mut family = |name: &str, kind: &str, help: &str, of: fn(&BulkheadState) -> f64| {
        out.family(name, kind, help);
        for (scope, upstream, state) in &all {
            out.sample(name, &[("scope", scope), ("name", upstream)], of(state));
        }
    };
    family(
        "sluice_limit_max_connections",
        "gauge",
        "Connections that may be open; of `endpoints`, to each.",
        |state| f64::from(state.limit.unwrap_or_default()),
    );
    family("sluice_limit_open_connections", "gauge", "Connections that are open, to all endpoints.", |state| {
        f64::from(state.active.unwrap_or_default())
    });
    family("sluice_limit_pending_connections", "gauge", "Requests that wait for a connection.", |state| {
        f64::from(state.pending)
    });
    family("sluice_limit_connection_waits_total", "counter", "New connections that were waited for.", |state| {
        state.waited as f64
    });
    family(
        "sluice_limit_connections_refused_total",
        "counter",
        "Requests that got no connection, at once or after they had waited.",
        |state| (state.full + state.timed_out) as f64,
    );
}
