//! Metrics of what a snapshot holds: the state of endpoints, key sets and certificates, what filters have cost, what they count
//! themselves, what is buffered.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Snapshot;
use crate::http::buffer::MemoryBudget;
use crate::services::Services;
use crate::services::keyset::KeySetStatistics;
use crate::telemetry::Exposition;
use crate::upstream::{DiscoveryState, EndpointState, Reason};
use crate::wasm::{FailureKind, FilterStats, Hook, UnreadReason};

/// Addresses of one upstream that have series.
const MAX_ENDPOINTS: usize = 4096;

/// Writes the families. Called by a scrape, on the blocking thread of the background runtime.
pub fn expose(snapshot: &Snapshot, services: &Services, budget: &MemoryBudget, out: &mut Exposition) {
    endpoints(snapshot, out);
    super::expose_limits::expose(snapshot, out);
    discovery(snapshot, out);
    key_sets(services, out);
    consumer_key_sets(services, out);
    super::expose_state::expose(&services.stores, out);
    certificates(snapshot, out);
    let info: BTreeSet<_> = snapshot
        .pipelines
        .iter()
        .flat_map(|pipeline| pipeline.filters())
        .map(|filter| {
            let called = if filter.plugin().not_direct().is_none() { "direct" } else { "component" };
            (filter.name().clone(), filter.plugin_name().clone(), called)
        })
        .collect();
    let filters: BTreeMap<_, _> = snapshot
        .pipelines
        .iter()
        .flat_map(|pipeline| pipeline.filters())
        .map(|filter| (filter.name().clone(), (filter.plugin_name().clone(), filter.stats())))
        .collect();
    let each = || {
        filters.iter().flat_map(|(name, (plugin, stats))| {
            let hooks = Hook::ALL.into_iter().zip(&stats.hooks).filter(|(_, of)| of.calls > 0);
            hooks.map(move |(hook, of)| ([("filter", &**name), ("plugin", &**plugin), ("hook", hook.name())], of))
        })
    };
    out.family("sluice_filter_calls_total", "counter", "Calls of filters by hook.");
    each().for_each(|(labels, of)| out.sample("sluice_filter_calls_total", &labels, of.calls as f64));
    out.family("sluice_filter_cpu_seconds_total", "counter", "Time on the worker inside filters by hook.");
    each().for_each(|(labels, of)| out.sample("sluice_filter_cpu_seconds_total", &labels, of.cpu.as_secs_f64()));
    out.family("sluice_filter_seconds_total", "counter", "Time from call to answer, waits included, by hook.");
    each().for_each(|(labels, of)| out.sample("sluice_filter_seconds_total", &labels, of.wall.as_secs_f64()));
    out.family("sluice_filter_failures_total", "counter", "Filter calls without a verdict, by kind.");
    for ([filter, plugin, hook], of) in each() {
        for (kind, count) in FailureKind::ALL.into_iter().zip(of.failures).filter(|(_, count)| *count > 0) {
            let labels = [filter, plugin, hook, ("kind", kind.name())];
            out.sample("sluice_filter_failures_total", &labels, count as f64);
        }
    }
    let mut gauge = |name: &str, kind: &str, help: &str, of: fn(&FilterStats) -> u64| {
        out.family(name, kind, help);
        for (filter, (plugin, stats)) in &filters {
            out.sample(name, &[("filter", filter), ("plugin", plugin)], of(stats) as f64);
        }
    };
    gauge("sluice_filter_instances", "gauge", "Live instances.", |stats| stats.instances);
    gauge("sluice_filter_instances_started_total", "counter", "Instances made.", |stats| stats.started);
    gauge("sluice_filter_instances_prewarmed_total", "counter", "Instances made before a call needed them.", |stats| {
        stats.prewarmed
    });
    gauge("sluice_filter_instance_waits_total", "counter", "Calls that waited until an instance was made.", |stats| {
        stats.waits
    });
    gauge("sluice_filter_memory_peak_bytes", "gauge", "The most memory of one instance.", |stats| stats.peak_memory);
    gauge("sluice_filter_log_lines_dropped_total", "counter", "Log lines of filters over their rate.", |stats| {
        stats.log_lines_dropped
    });
    unread_bodies(&filters, out);
    out.family("sluice_filter_info", "gauge", "1 for each filter, with the way its hooks are called.");
    for (filter, plugin, called) in info {
        out.sample("sluice_filter_info", &[("filter", &filter), ("plugin", &plugin), ("called", called)], 1.0);
    }
    out.family("sluice_buffered_bytes", "gauge", "Memory that bodies held for filters, and what filters keep, take.");
    out.sample("sluice_buffered_bytes", &[], budget.used() as f64);
    services.metrics.render(out);
}

fn endpoints(snapshot: &Snapshot, out: &mut Exposition) {
    let name = "sluice_upstream_panic_requests_total";
    out.family(name, "counter", "Requests balanced among all endpoints, since too few were available.");
    for (upstream, _) in &snapshot.upstreams {
        out.sample(name, &[("upstream", upstream.name())], upstream.panic_requests() as f64);
    }
    let name = "sluice_upstream_spilled_requests_total";
    out.family(name, "counter", "Requests sent to other zones, since the gateway's own had too many under way.");
    for (upstream, _) in &snapshot.upstreams {
        out.sample(name, &[("upstream", upstream.name())], upstream.spilled_requests() as f64);
    }
    let mut states = Vec::new();
    for (upstream, _) in &snapshot.upstreams {
        for state in upstream.endpoint_states(MAX_ENDPOINTS) {
            let address = state.address.as_ref().map(ToString::to_string).unwrap_or_default();
            states.push((upstream.name(), address, state));
        }
    }
    let mut gauge = |name: &str, help: &str, of: fn(&EndpointState) -> Option<f64>| {
        out.family(name, "gauge", help);
        for (upstream, address, state) in &states {
            if let Some(value) = of(state) {
                let labels = [("upstream", &***upstream), ("endpoint", &*state.endpoint), ("address", address)];
                out.sample(name, &labels, value);
            }
        }
    };
    gauge("sluice_endpoint_healthy", "1 if nothing speaks against it, else 0.", |state| {
        Some(f64::from(u8::from(state.healthy)))
    });
    gauge("sluice_endpoint_active_requests", "Requests under way.", |state| Some(f64::from(state.active)));
    gauge("sluice_endpoint_latency_seconds", "Time to the response head, moving average.", |state| {
        state.latency.map(|latency| latency.as_secs_f64())
    });
    let name = "sluice_endpoint_responses_total";
    out.family(name, "counter", "Responses by the class of their status.");
    for (upstream, address, state) in &states {
        for (code, count) in ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(state.responses) {
            if count > 0 {
                let labels =
                    [("upstream", &***upstream), ("endpoint", &*state.endpoint), ("address", address), ("code", code)];
                out.sample(name, &labels, count as f64);
            }
        }
    }
    health(&states, out);
}

/// Why addresses are out, how often they were, and what checks have found. Of a reason that never was one there are no series.
fn health(states: &[(&Arc<str>, String, EndpointState)], out: &mut Exposition) {
    let reasons = || {
        states.iter().flat_map(|(upstream, address, state)| {
            let known = Reason::ALL.into_iter().zip(state.outs).filter(|(_, outs)| *outs > 0);
            known.map(move |(reason, outs)| {
                let endpoint = [("upstream", &***upstream), ("endpoint", &*state.endpoint), ("address", address)];
                let [upstream, endpoint, address] = endpoint;
                let is_out = state.out.iter().any(|change| change.reason == reason);
                ([upstream, endpoint, address, ("reason", reason.name())], is_out, outs)
            })
        })
    };
    let name = "sluice_endpoint_out";
    out.family(name, "gauge", "1 while the address is out for this reason, else 0.");
    reasons().for_each(|(labels, is_out, _)| out.sample(name, &labels, f64::from(u8::from(is_out))));
    let name = "sluice_endpoint_outs_total";
    out.family(name, "counter", "How often the address went out, by reason.");
    reasons().for_each(|(labels, _, outs)| out.sample(name, &labels, outs as f64));
    let name = "sluice_endpoint_checks_total";
    out.family(name, "counter", "Health checks by result.");
    for (upstream, address, state) in states {
        for (result, count) in ["passed", "failed"].into_iter().zip(state.checks).filter(|(_, count)| *count > 0) {
            let labels =
                [("upstream", &***upstream), ("endpoint", &*state.endpoint), ("address", address), ("result", result)];
            out.sample(name, &labels, count as f64);
        }
    }
}

/// Where endpoints come from, for upstreams with a source.
fn discovery(snapshot: &Snapshot, out: &mut Exposition) {
    let states: Vec<_> = snapshot
        .upstreams
        .iter()
        .filter_map(|(upstream, _)| Some((upstream.name(), upstream.discovery_state()?)))
        .collect();
    let mut each = |name: &str, kind: &str, help: &str, of: fn(&DiscoveryState) -> Option<f64>| {
        out.family(name, kind, help);
        for (upstream, state) in &states {
            if let Some(value) = of(state) {
                out.sample(name, &[("upstream", &***upstream), ("source", state.source)], value);
            }
        }
    };
    each("sluice_discovery_endpoints", "gauge", "Endpoints that a source has told.", |state| {
        Some(state.endpoints as f64)
    });
    let help = "Time since a source has last told its endpoints; absent before that.";
    each("sluice_discovery_age_seconds", "gauge", help, |state| state.age.map(|age| age.as_secs_f64()));
    let help = "Changes of the endpoints that a source tells.";
    each("sluice_discovery_updates_total", "counter", help, |state| Some(state.updates as f64));
    let name = "sluice_discovery_errors_total";
    out.family(name, "counter", "Failures of discovery, by kind.");
    for (upstream, state) in &states {
        for (kind, count) in &state.errors {
            let labels = [("upstream", &***upstream), ("source", state.source), ("kind", kind)];
            out.sample(name, &labels, *count as f64);
        }
    }
}

/// Each consumer may have a set of its own, so there is no series for each: the log names the one that fails.
fn consumer_key_sets(services: &Services, out: &mut Exposition) {
    let sets = services.consumer_keys.statistics();
    let with = sets.iter().filter(|set| set.keys > 0).count();
    out.family("sluice_consumer_key_sets", "gauge", "Key sets of consumers that are fetched.");
    for (keys, count) in [("some", with), ("none", sets.len() - with)] {
        out.sample("sluice_consumer_key_sets", &[("keys", keys)], count as f64);
    }
    let name = "sluice_consumer_key_set_age_seconds";
    out.family(name, "gauge", "Time since the key set of a consumer was last fetched, of the oldest one.");
    if let Some(age) = sets.iter().filter_map(|set| set.age).max() {
        out.sample(name, &[], age.as_secs_f64());
    }
}

fn key_sets(services: &Services, out: &mut Exposition) {
    // Sets of one URL that differ in how often they are fetched share their series: the one that is behind is shown.
    let mut sets: BTreeMap<String, KeySetStatistics> = BTreeMap::new();
    for set in services.key_sets.statistics() {
        match sets.entry(set.url.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(set);
            }
            Entry::Occupied(mut entry) => {
                let known = entry.get_mut();
                known.succeeded += set.succeeded;
                known.failed += set.failed;
                known.keys = known.keys.min(set.keys);
                known.age = known.age.zip(set.age).map(|(one, other)| one.max(other));
            }
        }
    }
    out.family("sluice_key_set_keys", "gauge", "Keys of a set that is fetched.");
    for (url, set) in &sets {
        out.sample("sluice_key_set_keys", &[("url", url)], set.keys as f64);
    }
    out.family("sluice_key_set_age_seconds", "gauge", "Time since a key set was last fetched; absent before that.");
    for (url, set) in &sets {
        if let Some(age) = set.age {
            out.sample("sluice_key_set_age_seconds", &[("url", url)], age.as_secs_f64());
        }
    }
    out.family("sluice_key_set_fetches_total", "counter", "Fetches of key sets by result.");
    for (url, set) in &sets {
        for (result, count) in [("ok", set.succeeded), ("failed", set.failed)] {
            out.sample("sluice_key_set_fetches_total", &[("url", url), ("result", result)], count as f64);
        }
    }
}

fn certificates(snapshot: &Snapshot, out: &mut Exposition) {
    let name = "sluice_certificate_expiry_timestamp_seconds";
    out.family(name, "gauge", "When the first certificate of a chain expires.");
    for (certificate, validity) in snapshot.validities.load().all() {
        out.sample(name, &[("certificate", &certificate)], validity.first_to_end.not_after as f64);
    }
    super::expose_acme::expose(snapshot, out);
}

/// Bodies that filters asked for and did not get.
fn unread_bodies(filters: &BTreeMap<Arc<str>, (Arc<str>, FilterStats)>, out: &mut Exposition) {
    let name = "sluice_filter_unseen_bodies_total";
    out.family(name, "counter", "Responses passed on though the filter did not get their body.");
    for (filter, (plugin, stats)) in filters {
        for (reason, count) in UnreadReason::ALL.into_iter().zip(stats.bodies.passed) {
            let labels = [("filter", &**filter), ("plugin", &**plugin), ("reason", reason.name())];
            out.sample(name, &labels, count as f64);
        }
    }
    let name = "sluice_filter_refused_bodies_total";
    out.family(name, "counter", "Requests and responses refused because the filter did not get their body.");
    for (filter, (plugin, stats)) in filters {
        let of = [
            (Hook::OnRequestBody, stats.bodies.refused_requests),
            (Hook::OnResponseBody, stats.bodies.refused_responses),
        ];
        for (hook, counts) in of {
            for (reason, count) in UnreadReason::ALL.into_iter().zip(counts).filter(|(_, count)| *count > 0) {
                let labels =
                    [("filter", &**filter), ("plugin", &**plugin), ("hook", hook.name()), ("reason", reason.name())];
                out.sample(name, &labels, count as f64);
            }
        }
    }
}
