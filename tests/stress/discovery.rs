//! An upstream of a thousand endpoints that change ten times a second: no request fails, and each change is in use soon.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sluice_harness::consul::{Answer, Consul, Instance};
use sluice_harness::load::{Neighbour, flood, scaled};
use sluice_harness::{Gateway, Origin, eventually};

use crate::support::{route, setup, with_base};
use crate::{alone, tell};

const ENDPOINTS: usize = 1_000;
/// Ten a second.
const PACE: Duration = Duration::from_millis(100);

fn gateway(consul: &Consul) -> Gateway {
    let quiet = "[telemetry]\naccess_log = \"off\"\n";
    let upstream =
        format!("[upstreams.orders]\ndiscovery = {{ consul = \"orders\", address = \"{}\" }}\n", consul.origin.url());
    let gateway = setup().start(&with_base(&format!("{quiet}{upstream}{}", route("orders", &[]))));
    eventually("readiness", || gateway.admin("/readyz").status == 200);
    gateway
}

fn instance(i: usize, port: u16, weight: u32) -> Instance {
    (format!("127.9.{}.{}:{port}", i / 250, i % 250 + 1), weight, BTreeMap::new())
}

/// All have the weight 0 but one, which gets all requests: its answer tells when the change is in use.
#[test]
fn a_change_of_one_of_a_thousand_is_in_use_soon() {
    let _alone = alone();
    let changes = scaled("SLUICE_TEST_ENDPOINT_CHANGES", 30);
    let origins = [Origin::everywhere("even"), Origin::everywhere("odd")];
    let answer = |change: usize| {
        // The one that is chosen is new, and one of the others is gone.
        let others = (1..ENDPOINTS).map(|i| instance(change + i, origins[0].address().port(), 0));
        let chosen = instance(change, origins[change % 2].address().port(), 1);
        Answer::Instances(std::iter::once(chosen).chain(others).collect())
    };
    let consul = Consul::start(&[]);
    consul.say(100, answer(0));
    let gateway = gateway(&consul);
    let neighbour = Neighbour::start(gateway.address(), "/", Duration::from_millis(1));
    let mut client = gateway.client();
    let mut took = Vec::with_capacity(changes);
    for change in 1..=changes {
        let next = answer(change);
        let begun = Instant::now();
        consul.say(100 + change as u64, next);
        let expected = ["even", "odd"][change % 2];
        eventually("the change", || client.get("/").text() == expected);
        took.push(begun.elapsed());
        // Requests go on until the next change is due.
        while begun.elapsed() < PACE {
            assert_eq!(client.get("/").text(), expected);
        }
    }
    let load = neighbour.stop();
    assert_eq!(load.count(200), load.total(), "{:?}", load.statuses);
    took.sort_unstable();
    let (p50, p99) = (took[changes / 2], took[(changes * 99).div_ceil(100) - 1]);
    tell(&format!(
        "{changes} changes of {ENDPOINTS} endpoints: in use after {p50:?} (p50), {p99:?} (p99), {} requests",
        load.total()
    ));
    // From what Consul says to the first answer of the new endpoint, by a build without optimisation on a machine that may be busy. The
    // promise is 50 ms from when the answer was read.
    assert!(p99 < Duration::from_millis(1_000), "{p99:?}");
}

/// What a request costs with a thousand endpoints, beside one with four.
#[test]
fn requests_to_four_and_to_a_thousand() {
    let _alone = alone();
    let requests = scaled("SLUICE_TEST_ENDPOINT_REQUESTS", 4_000);
    let origin = Origin::everywhere("ok");
    let each = [4, ENDPOINTS].map(|endpoints| {
        let consul = Consul::start(&[]);
        consul.say(100, Answer::Instances((0..endpoints).map(|i| instance(i, origin.address().port(), 1)).collect()));
        let gateway = gateway(&consul);
        // Connections to all of them.
        flood(gateway.address(), 4, ENDPOINTS * 2, "/", &[]);
        let before = cpu_ticks(&gateway);
        let report = flood(gateway.address(), 4, requests, "/", &[]);
        assert_eq!(report.count(200), requests, "{:?}", report.statuses);
        cpu_ticks(&gateway) - before
    });
    tell(&format!("{requests} requests: {} ticks of CPU with 4 endpoints, {} with {ENDPOINTS}", each[0], each[1]));
}

/// Time on the processor, user and system, in ticks of usually 10 ms.
fn cpu_ticks(gateway: &Gateway) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", gateway.pid())).expect("/proc");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
    [11, 12].iter().map(|at| fields[*at].parse::<u64>().expect("a number")).sum()
}
