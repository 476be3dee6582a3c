//! Reloads under load, alternately good and broken: no request fails.

use std::time::{Duration, Instant};

use serde_json::json;
use sluice_harness::load::{Neighbour, scaled};
use sluice_harness::{Origin, eventually_within};

use crate::support::{probe, route, setup, with_base};
use crate::{alone, tell};

#[test]
fn no_request_fails_while_configurations_change() {
    let _alone = alone();
    let seconds = scaled("SLUICE_TEST_RELOAD_SECONDS", 6);
    let origin = Origin::fixed("ok");
    let config = |n: usize| {
        let probed = json!({"on-response": [{"do": "set-header", "name": "x-n", "value": n.to_string()}]});
        with_base(
            &("[telemetry]\naccess_log = \"off\"\n".to_string() + &route(&origin.url(), &["a"]) + &probe("a", probed)),
        )
    };
    let gateway = setup().start(&config(0));
    let clients: Vec<_> = (0..8).map(|_| Neighbour::start(gateway.address(), "/", Duration::from_millis(3))).collect();
    let start = Instant::now();
    let mut n = 0;
    while start.elapsed() < Duration::from_secs(seconds as u64) {
        n += 1;
        if n % 2 == 0 {
            let broken = config(n) + "[routes.broken]\nmatch = { path = \"/x\" }\nupstream = 7\n";
            let line = gateway.try_reload(&broken);
            let row = broken.lines().position(|l| l == "upstream = 7").expect("the line") + 1;
            assert!(line.to_string().contains(&format!("gateway.toml:{row}:")), "{line}");
        } else {
            gateway.reload(&config(n));
            assert_eq!(gateway.get("/").header("x-n"), Some(n.to_string().as_str()));
        }
        let next = start + Duration::from_millis(500 * n as u64);
        eventually_within(Duration::from_secs(5), "the next turn", || Instant::now() >= next);
    }
    let mut requests = 0;
    for client in clients {
        let report = client.stop();
        requests += report.total();
        assert_eq!(report.count(200), report.total(), "{:?}", report.statuses);
        assert!(report.total() > 20 * seconds, "only {} requests", report.total());
    }
    tell(&format!("{n} reloads, every other one broken, in {seconds} s: {requests} requests, none failed"));
}
