//! Metrics of the state that gateways share.

use crate::services::Stores;
use crate::services::state::Outcome;
use crate::telemetry::Exposition;

pub(super) fn expose(stores: &Stores, out: &mut Exposition) {
    let mut all = stores.in_use();
    all.sort_by(|a, b| a.spec().name.cmp(&b.spec().name));
    // While a reload puts one in the place of another, both have the name: the newer one is shown.
    all.dedup_by(|next, kept| {
        let is_same = next.spec().name == kept.spec().name;
        if is_same {
            std::mem::swap(next, kept);
        }
        is_same
    });
    out.family("sluice_state_calls_total", "counter", "Calls to the state that gateways share, by outcome.");
    for store in &all {
        for outcome in Outcome::ALL {
            let labels = [("state", &*store.spec().name), ("outcome", outcome.name())];
            out.sample("sluice_state_calls_total", &labels, store.calls(outcome) as f64);
        }
    }
    let mut gauge = |name: &str, help: &str, of: &dyn Fn(usize) -> f64| {
        out.family(name, "gauge", help);
        for (index, store) in all.iter().enumerate() {
            out.sample(name, &[("state", &store.spec().name)], of(index));
        }
    };
    let of = |index: usize| all.get(index).expect("an index of the list");
    gauge("sluice_state_connections", "Threads that are connected.", &|index| of(index).connections() as f64);
    gauge("sluice_state_waiting_calls", "Calls that wait for an answer.", &|index| of(index).waiting() as f64);
    gauge("sluice_state_unreported_limits", "Leased limits with something to tell.", &|index| {
        stores.unreported(of(index)) as f64
    });
}
