//! Tens of thousands of failures: the neighbours on the same worker go on, and memory stays where it was.

use std::time::Duration;

use serde_json::json;
use sluice_harness::load::{Neighbour, flood, scaled};
use sluice_harness::{Gateway, Origin};

use crate::support::{FAILS, filter, probe, route, setup, with_base};
use crate::{alone, tell};

/// One worker, a good route at `/` and a bad one at `/bad`.
fn beside(bad: &str, origin: &Origin) -> Gateway {
    let rest = format!(
        "[telemetry]\naccess_log = \"off\"\nlog_level = \"info\"\n{}[routes.bad]\nmatch = {{ path = \"/bad\" }}\nupstream = \"{}\"\npipeline = [\"bad\"]\n{}{}",
        route(&origin.url(), &["good"]),
        origin.url(),
        probe("good", json!({"on-request": [{"do": "set-header", "name": "x-good", "value": "1"}]})),
        filter("bad", "probe", FAILS, json!({"on-request": [{"do": bad}]})),
    );
    setup().start(&with_base(&rest))
}

fn run(bad: &str, total: usize, connections: usize, bound: Duration) {
    let origin = Origin::fixed("ok");
    let gateway = beside(bad, &origin);
    // Warm: instances made, pools filled, the first offence over.
    flood(gateway.address(), connections, (total / 20).max(50), "/bad", &[]);
    let before = gateway.resident();
    let neighbour = Neighbour::start(gateway.address(), "/", Duration::from_millis(2));
    let bads = flood(gateway.address(), connections, total, "/bad", &[]);
    let good = neighbour.stop();
    let after = gateway.resident();
    assert_eq!(bads.total() - bads.count(0), total, "each got an answer: {:?}", bads.statuses);
    assert!(bads.statuses.keys().all(|s| *s >= 500), "{:?}", bads.statuses);
    assert_eq!(good.count(200), good.total(), "{:?}", good.statuses);
    let (p50, p99) = (good.quantile(0.5), good.quantile(0.99));
    tell(&format!("{total} × {bad}: neighbour's p50 {p50:?}, p99 {p99:?} over {} requests", good.total()));
    tell(&format!("memory {} KiB before, {} KiB after", before / 1024, after / 1024));
    assert!(p99 < bound, "the neighbour's p99 was {p99:?}");
    assert!(after < before + (8 << 20), "{} bytes more of memory", after - before);
}

#[test]
fn trapping_calls() {
    let _alone = alone();
    run("trap", scaled("SLUICE_TEST_TRAPS", 5_000), 4, Duration::from_millis(100));
}

#[test]
fn spinning_calls() {
    let _alone = alone();
    // One at a time: each may take a tick of its worker again and again until its deadline.
    run("spin", scaled("SLUICE_TEST_SPINS", 200), 1, Duration::from_millis(100));
}
