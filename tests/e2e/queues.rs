//! Queues at full endpoints: retries, requests of a subset and those that a filter has sent to certain endpoints wait for theirs.

use std::sync::{Arc, Mutex};

use serde_json::json;
use sluice_harness::{Client, Gateway, Origin, Reply, eventually};

use crate::support::{gateway, probe, route};

/// An origin whose requests for `/hold` wait until the gate is open.
fn holding(name: &'static str, gate: &Arc<Mutex<()>>) -> Origin {
    let gate = gate.clone();
    Origin::serve(move |request| {
        if request.target.ends_with("/hold") {
            drop(gate.lock());
        }
        Reply::text(name)
    })
}

/// A client that has asked and does not read the answer yet.
fn asking(gateway: &Gateway, target: &str, headers: &[(&str, &str)]) -> Client {
    let mut client = gateway.client();
    client.send(client.format("GET", target, headers, b""));
    client
}

fn pending(gateway: &Gateway) -> f64 {
    gateway.metric("sluice_limit_pending_requests", &[("scope", "endpoints")]).unwrap_or_default()
}

/// One request at a time for each endpoint, with a queue of this length.
fn one_each(max_pending: u32) -> String {
    format!(
        "limits = {{ per_endpoint = {{ max_requests = 1, max_pending_requests = {max_pending}, queue_timeout = \"1m\" }} }}\n"
    )
}

#[test]
fn a_retry_waits_for_an_endpoint_that_it_has_not_tried() {
    let gate = Arc::new(Mutex::new(()));
    let (good, failing) = (holding("good", &gate), Origin::serve(|_| Reply::status(503)));
    let retry = "retry = { backoff = { base = \"1ms\" }, budget = { min_per_second = 1000 } }\n";
    let gateway = gateway(&format!(
        "[upstreams.pair]\nendpoints = [\"{}\", \"{}\"]\n{}{}{retry}",
        good.url(),
        failing.url(),
        one_each(4),
        route("pair", &[])
    ));
    let held = gate.lock().expect("the gate");
    let mut first = asking(&gateway, "/hold", &[]);
    eventually("the first request", || good.count() == 1);
    let failed = failing.count();
    let mut second = asking(&gateway, "/", &[]);
    eventually("the retry to wait", || pending(&gateway) == 1.0);
    let leaving = asking(&gateway, "/", &[]);
    eventually("another one", || pending(&gateway) == 2.0);
    drop(leaving);
    eventually("its place to be free", || pending(&gateway) == 1.0);
    assert_eq!((good.count(), failing.count()), (1, failed + 2));
    drop(held);
    assert_eq!([first.read_response("GET").text(), second.read_response("GET").text()], ["good", "good"]);
    assert_eq!(failing.count(), failed + 2, "it has waited, and has not gone back");
}

#[test]
fn a_request_of_a_subset_waits_for_it_alone_and_in_the_queue_of_it_alone() {
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock().expect("the gate");
    let (one, two) = (holding("one", &gate), holding("two", &gate));
    let routes: String = ["one", "two"]
        .map(|of| {
            format!(
                "[routes.{of}]\nmatch = {{ path = \"/{of}/**\" }}\nupstream = \"pair\"\nsubset = {{ of = \"{of}\" }}\n"
            )
        })
        .concat();
    let gateway = gateway(&format!(
        "[upstreams.pair]\nendpoints = [{{ url = \"{}\", labels = {{ of = \"one\" }} }}, {{ url = \"{}\", labels = {{ of = \"two\" }} }}]\n{}{routes}{}",
        one.url(),
        two.url(),
        one_each(1),
        route("pair", &[])
    ));
    let mut first = asking(&gateway, "/one/hold", &[]);
    eventually("the first request", || one.count() == 1);
    let mut second = asking(&gateway, "/one/next", &[]);
    eventually("one that waits", || pending(&gateway) == 1.0);
    assert_eq!(gateway.get("/one/more").status, 503, "the queue of this endpoint is full");
    gateway.wait_access("why", |line| line["error"] == "upstream-busy");
    // The other endpoint has room, for its own subset and for all, and a queue of its own.
    assert_eq!([gateway.get("/two/x").text(), gateway.get("/any").text()], ["two", "two"]);
    let mut third = asking(&gateway, "/two/hold", &[]);
    eventually("the other endpoint to be full", || two.count() == 3);
    let mut fourth = asking(&gateway, "/two/next", &[]);
    eventually("one that waits there", || pending(&gateway) == 2.0);
    assert_eq!((one.count(), two.count()), (1, 3));
    drop(held);
    let texts = [&mut first, &mut second, &mut third, &mut fourth].map(|client| client.read_response("GET").text());
    assert_eq!(texts, ["one", "one", "two", "two"]);
}

#[test]
fn a_request_that_a_filter_has_sent_to_an_endpoint_waits_for_its_place_there() {
    let gate = Arc::new(Mutex::new(()));
    let (a, b) = (holding("a", &gate), holding("b", &gate));
    let choose = json!({"select-upstream": [{"do": "choose-endpoint", "from": "x-to"}]});
    let toml = |limits: &str| {
        format!("[upstreams.pair]\nendpoints = [\"{}\", \"{}\"]\n{limits}", a.url(), b.url())
            + &route("pair", &["f"])
            + &probe("f", choose.clone())
    };
    let gateway = gateway(&toml(&one_each(4)));
    let held = gate.lock().expect("the gate");
    let (to_a, to_b) = (a.address().to_string(), b.address().to_string());
    let mut first = asking(&gateway, "/hold", &[("x-to", &to_a)]);
    eventually("the first request", || a.count() == 1);
    let mut second = asking(&gateway, "/", &[("x-to", &to_a)]);
    eventually("one that waits", || pending(&gateway) == 1.0);
    assert_eq!(gateway.request("GET", "/", &[("x-to", &to_b)], b"").text(), "b", "it overtakes nobody");
    assert_eq!(a.count(), 1);
    drop(held);
    assert_eq!([first.read_response("GET").text(), second.read_response("GET").text()], ["a", "a"]);

    // Its time in the queue is that of the endpoint, not the minute of the upstream.
    let held = gate.lock().expect("the gate");
    let short = "per_endpoint = { max_requests = 1, max_pending_requests = 1, queue_timeout = \"50ms\" }";
    gateway.reload(&crate::support::with_base(&toml(&format!("limits = {{ queue_timeout = \"1m\", {short} }}\n"))));
    let mut first = asking(&gateway, "/hold", &[("x-to", &to_a)]);
    eventually("the first request", || a.count() == 3);
    assert_eq!(gateway.request("GET", "/", &[("x-to", &to_a)], b"").status, 503);
    let timed_out = [("scope", "endpoints"), ("reason", "timeout")];
    assert_eq!(gateway.metric("sluice_limit_refused_total", &timed_out), Some(1.0));
    drop(held);
    assert_eq!(first.read_response("GET").text(), "a");
}
