//! Metrics of what a snapshot holds: what filters have cost, what they count themselves, what is buffered.

use std::collections::{BTreeMap, BTreeSet};

use super::Snapshot;
use crate::http::buffer::MemoryBudget;
use crate::services::Services;
use crate::telemetry::Exposition;
use crate::wasm::{FailureKind, Hook};

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
    let mut gauge = |name: &str, kind: &str, help: &str, of: fn(&crate::wasm::FilterStats) -> u64| {
        out.family(name, kind, help);
        for (filter, (plugin, stats)) in &filters {
            out.sample(name, &[("filter", filter), ("plugin", plugin)], of(stats) as f64);
        }
    };
    gauge("sluice_filter_instances", "gauge", "Live instances.", |stats| stats.instances);
    gauge("sluice_filter_instances_started_total", "counter", "Instances made.", |stats| stats.started);
    gauge("sluice_filter_memory_peak_bytes", "gauge", "The most memory of one instance.", |stats| stats.peak_memory);
    gauge(
        "sluice_filter_unseen_bodies_total",
        "counter",
        "Response bodies too large for a filter, passed on.",
        |stats| stats.unseen_bodies,
    );
    out.family("sluice_filter_info", "gauge", "1 for each filter, with the way its hooks are called.");
    for (filter, plugin, called) in info {
        out.sample("sluice_filter_info", &[("filter", &filter), ("plugin", &plugin), ("called", called)], 1.0);
    }
    out.family("sluice_buffered_bytes", "gauge", "Body bytes held in memory.");
    out.sample("sluice_buffered_bytes", &[], budget.used() as f64);
    services.metrics.render(out);
}
