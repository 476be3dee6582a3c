//! Metrics of what a snapshot holds: what filters have cost, what they count themselves, what is buffered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Snapshot;
use crate::http::buffer::MemoryBudget;
use crate::services::Services;
use crate::telemetry::Exposition;
use crate::wasm::{FailureKind, FilterStats, Hook, UnreadReason};

/// Writes the families. Called by a scrape, on the blocking thread of the background runtime.
pub fn expose(snapshot: &Snapshot, services: &Services, budget: &MemoryBudget, out: &mut Exposition) {
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
    gauge("sluice_filter_memory_peak_bytes", "gauge", "The most memory of one instance.", |stats| stats.peak_memory);
    unread_bodies(&filters, out);
    out.family("sluice_filter_info", "gauge", "1 for each filter, with the way its hooks are called.");
    for (filter, plugin, called) in info {
        out.sample("sluice_filter_info", &[("filter", &filter), ("plugin", &plugin), ("called", called)], 1.0);
    }
    out.family("sluice_buffered_bytes", "gauge", "Memory that bodies held for filters, and what filters keep, take.");
    out.sample("sluice_buffered_bytes", &[], budget.used() as f64);
    services.metrics.render(out);
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
