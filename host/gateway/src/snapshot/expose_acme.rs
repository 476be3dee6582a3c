//! Metrics of certificates that are ordered.

use super::Snapshot;
use crate::certs::{OrderedPlace, Progress};
use crate::telemetry::Exposition;

pub(super) fn expose(snapshot: &Snapshot, out: &mut Exposition) {
    let all: Vec<(&str, Progress)> = snapshot
        .ordered
        .iter()
        .map(|place| match place {
            OrderedPlace::One(one) => (one.name(), one.progress()),
            OrderedPlace::OnDemand(all) => (all.name(), all.progress()),
        })
        .collect();
    let name = "sluice_acme_orders_total";
    out.family(name, "counter", "Orders of certificates, by what came of them.");
    for (certificate, progress) in &all {
        for (result, count) in &progress.orders {
            out.sample(name, &[("certificate", certificate), ("result", result)], *count as f64);
        }
    }
    let name = "sluice_acme_next_order_timestamp_seconds";
    out.family(name, "gauge", "When a certificate is ordered next.");
    for (certificate, progress) in &all {
        if let Some(at) = progress.next_order {
            out.sample(name, &[("certificate", certificate)], at as f64);
        }
    }
    let name = "sluice_acme_on_demand_certificates";
    out.family(name, "gauge", "Certificates on demand that are held.");
    for place in &snapshot.ordered {
        if let OrderedPlace::OnDemand(all) = place {
            out.sample(name, &[("certificate", all.name())], all.count() as f64);
        }
    }
}
