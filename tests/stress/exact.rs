//! A limit is exact over all workers, and a reload forgets nothing.

use serde_json::json;
use sluice_harness::Origin;
use sluice_harness::load::{flood, scaled};

use crate::support::{BASE, probe, route, setup};
use crate::{alone, tell};

fn limited(origin: &Origin, algorithm: &str, amount: u64, window_ms: u64, extra: &str) -> String {
    let config = json!({"on-request": [{"do": "limit", "algorithm": algorithm, "key": "all", "amount": amount, "window-ms": window_ms}]});
    let base = BASE.replace("workers = 1", "workers = 2");
    base + "[telemetry]\naccess_log = \"off\"\n" + &route(&origin.url(), &["a"]) + &probe("a", config) + extra
}

#[test]
fn exactly_as_many_as_the_window_allows() {
    let _alone = alone();
    let total = scaled("SLUICE_TEST_LIMITED_REQUESTS", 10_000);
    let origin = Origin::fixed("ok");
    // A day, so that no window ends during the test (but at midnight UTC).
    let toml = |extra: &str| limited(&origin, "fixed-window", 1000, 86_400_000, extra);
    let gateway = setup().start(&toml(""));
    let first = flood(gateway.address(), 16, total / 2, "/", &[]);
    gateway.reload(&toml("[routes.more]\nmatch = { path = \"/more\" }\nrespond = { status = 200 }\n"));
    let second = flood(gateway.address(), 16, total - total / 2, "/", &[]);
    tell(&format!("{total} requests over two workers: {} passed", first.count(200) + second.count(200)));
    assert_eq!(first.count(200) + second.count(200), 1000, "{:?} {:?}", first.statuses, second.statuses);
    assert_eq!(first.count(429) + second.count(429), total - 1000);
    assert_eq!(origin.count(), 1000);
}

#[test]
fn a_bucket_allows_its_burst_and_its_refill() {
    let _alone = alone();
    let origin = Origin::fixed("ok");
    let gateway = setup().start(&limited(&origin, "token-bucket", 500, 10_000, ""));
    let start = std::time::Instant::now();
    let report = flood(gateway.address(), 8, scaled("SLUICE_TEST_LIMITED_REQUESTS", 10_000), "/", &[]);
    let refill = start.elapsed().as_millis() as usize * 500 / 10_000;
    let passed = report.count(200);
    assert!((500..=500 + refill + 1).contains(&passed), "{passed} passed, 500 and {refill} were allowed");
}
