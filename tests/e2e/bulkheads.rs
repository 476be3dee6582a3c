//! Limits of requests under way: never exceeded, with queues that are bounded in length and time.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use sluice_harness::load::{flood, scaled};
use sluice_harness::{Client, Gateway, Origin, Reply, eventually};

use crate::support::{gateway, route, setup, with_base};

/// An origin whose requests for `/hold` wait until the gate is open.
fn holding(name: &'static str, gate: &Arc<Mutex<()>>) -> Origin {
    let gate = gate.clone();
    Origin::serve(move |request| {
        if request.target == "/hold" {
            drop(gate.lock());
        }
        Reply::text(name)
    })
}

/// A client that waits for the answer of `/hold`.
fn waiting(gateway: &Gateway) -> Client {
    let mut client = gateway.client();
    client.send(client.format("GET", "/hold", &[], b""));
    client
}

fn pending(gateway: &Gateway, scope: &str) -> f64 {
    gateway.metric("sluice_limit_pending_requests", &[("scope", scope)]).unwrap_or_default()
}

/// `BULKHEAD_REQUESTS` is the number of requests of a round, `BULKHEAD_SECONDS` how long there are rounds; the usual is one.
#[test]
fn a_limit_is_never_exceeded_over_workers_and_reloads() {
    let most = Arc::new(AtomicUsize::new(0));
    let origin = Origin::serve({
        let (inside, most) = (AtomicUsize::new(0), most.clone());
        move |_| {
            most.fetch_max(inside.fetch_add(1, SeqCst) + 1, SeqCst);
            for _ in 0..20 {
                std::thread::yield_now();
            }
            inside.fetch_sub(1, SeqCst);
            Reply::text("ok")
        }
    });
    let toml = |limit: usize| {
        let limits = format!(
            "[upstreams.service]\nendpoints = [\"{}\"]\nlimits = {{ max_requests = {limit}, max_pending_requests = 64, queue_timeout = \"1m\" }}\n",
            origin.url()
        );
        with_base(&(limits + &route("service", &[]))).replace("workers = 1", "workers = 2")
    };
    let gateway = setup().start(&toml(9));
    let total = scaled("BULKHEAD_REQUESTS", 3000);
    let (begun, whole) = (Instant::now(), Duration::from_secs(scaled("BULKHEAD_SECONDS", 0) as u64));
    loop {
        let before = origin.count();
        let report = std::thread::scope(|scope| {
            let load = scope.spawn(|| flood(gateway.address(), 64, total, "/", &[]));
            eventually("a third of the requests", || origin.count() > before + total / 3);
            assert!(most.load(SeqCst) <= 9, "{most:?}");
            gateway.reload(&toml(4));
            let active =
                || gateway.metric("sluice_limit_active_requests", &[("scope", "upstream")]).unwrap_or_default();
            eventually("requests beyond the new limit to end", || active() <= 4.0);
            most.store(0, SeqCst);
            load.join().expect("the load")
        });
        assert_eq!(report.count(200), total, "all get their turn: {:?}", report.statuses);
        assert!((1..=4).contains(&most.load(SeqCst)), "{most:?}");
        if begun.elapsed() >= whole {
            break;
        }
        gateway.reload(&toml(9));
    }
    assert_eq!(pending(&gateway, "upstream"), 0.0);
    assert!(gateway.metric("sluice_limit_waits_total", &[("scope", "upstream")]) > Some(0.0));
}

#[test]
fn a_queue_is_bounded_in_length_and_time_and_who_leaves_gives_its_place_up() {
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock().expect("the gate");
    let origin = holding("ok", &gate);
    let toml = |timeout: &str| {
        let limits =
            format!("limits = {{ max_requests = 1, max_pending_requests = 1, queue_timeout = \"{timeout}\" }}");
        with_base(&format!(
            "[upstreams.service]\nendpoints = [\"{}\"]\n{limits}\n{}",
            origin.url(),
            route("service", &[])
        ))
    };
    let gateway = setup().start(&toml("1m"));
    let mut first = waiting(&gateway);
    eventually("the first request", || origin.count() == 1);
    let leaving = waiting(&gateway);
    eventually("one that waits", || pending(&gateway, "upstream") == 1.0);
    let refused = gateway.get("/");
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    gateway.wait_access("why", |line| line["error"] == "upstream-busy");
    drop(leaving);
    eventually("a free place in the queue", || pending(&gateway, "upstream") == 0.0);
    let mut second = waiting(&gateway);
    eventually("one that waits", || pending(&gateway, "upstream") == 1.0);
    assert_eq!(origin.count(), 1);
    drop(held);
    assert_eq!((first.read_response("GET").status, second.read_response("GET").status), (200, 200));
    assert_eq!(origin.count(), 2);

    let held = gate.lock().expect("the gate");
    gateway.reload(&toml("50ms"));
    let mut first = waiting(&gateway);
    eventually("the first request", || origin.count() == 3);
    assert_eq!(gateway.get("/").status, 503);
    let refused = gateway.metric("sluice_limit_refused_total", &[("scope", "upstream"), ("reason", "timeout")]);
    assert_eq!(refused, Some(1.0));
    drop(held);
    assert_eq!(first.read_response("GET").status, 200);
    assert_eq!(gateway.get("/").status, 200);
}

#[test]
fn a_full_endpoint_is_passed_over_and_all_full_ones_are_waited_for() {
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock().expect("the gate");
    let (a, b) = (holding("a", &gate), holding("b", &gate));
    let limits = "limits = { max_pending_requests = 1, queue_timeout = \"1m\", per_endpoint = { max_requests = 1 } }";
    let gateway = gateway(&format!(
        "[upstreams.pair]\nendpoints = [\"{}\", \"{}\"]\n{limits}\n{}",
        a.url(),
        b.url(),
        route("pair", &[])
    ));
    let mut first = waiting(&gateway);
    eventually("the first request", || a.count() + b.count() == 1);
    let busy = if a.count() == 1 { "a" } else { "b" };
    let mut client = gateway.client();
    for _ in 0..6 {
        assert_ne!(client.get("/").text(), busy);
    }
    let mut second = waiting(&gateway);
    eventually("the second request", || a.count() + b.count() == 8);
    let mut third = waiting(&gateway);
    eventually("one that waits", || pending(&gateway, "endpoints") == 1.0);
    assert_eq!(client.get("/").status, 503);
    gateway.wait_access("why", |line| line["error"] == "upstream-busy");
    assert_eq!(gateway.metric("sluice_endpoint_healthy", &[]), Some(2.0), "a full endpoint is a good one");
    drop(held);
    for waiting in [&mut first, &mut second, &mut third] {
        assert_eq!(waiting.read_response("GET").status, 200);
    }
    assert_eq!(client.get("/").status, 200);
}

/// One request at a time for each endpoint, and a queue.
const ONE_EACH: &str =
    "limits = { max_pending_requests = 4, queue_timeout = \"1m\", per_endpoint = { max_requests = 1 } }";

#[test]
fn a_full_endpoint_leaves_no_request_to_one_that_is_drained() {
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock().expect("the gate");
    let (a, drained) = (holding("a", &gate), holding("drained", &gate));
    let gateway = gateway(&format!(
        "[upstreams.pair]\nendpoints = [\"{}\", {{ url = \"{}\", weight = 0 }}]\n{ONE_EACH}\n{}",
        a.url(),
        drained.url(),
        route("pair", &[])
    ));
    let mut first = waiting(&gateway);
    eventually("the first request", || a.count() == 1);
    let mut second = waiting(&gateway);
    eventually("one that waits", || pending(&gateway, "endpoints") == 1.0);
    drop(held);
    assert_eq!([first.read_response("GET").text(), second.read_response("GET").text()], ["a", "a"]);
    assert_eq!(drained.count(), 0);
}

#[test]
fn a_full_endpoint_is_waited_for_while_the_circuit_of_another_is_open() {
    let gate = Arc::new(Mutex::new(()));
    let (a, failing) = (holding("a", &gate), Origin::serve(|_| Reply::status(503)));
    let breaker = "circuit_breaker = { per = \"endpoint\", failures = 1, of = 1, open = \"1h\" }";
    let gateway = gateway(&format!(
        "[upstreams.pair]\nendpoints = [\"{}\", \"{}\"]\n{breaker}\n{ONE_EACH}\n{}",
        a.url(),
        failing.url(),
        route("pair", &[])
    ));
    eventually("an open circuit", || gateway.get("/").status == 503);
    let (before, held) = (a.count(), gate.lock().expect("the gate"));
    let mut clients = vec![waiting(&gateway)];
    eventually("the first request", || a.count() == before + 1);
    for count in [1.0, 2.0, 3.0] {
        clients.push(waiting(&gateway));
        eventually("one more that waits", || pending(&gateway, "endpoints") == count);
    }
    drop(held);
    for client in &mut clients {
        assert_eq!(client.read_response("GET").text(), "a");
    }
    assert_eq!(failing.count(), 1);
}

#[test]
fn endpoints_that_are_used_though_they_are_out_are_waited_for() {
    let gate = Arc::new(Mutex::new(()));
    let asked = Arc::new(AtomicUsize::new(0));
    let origin = Origin::serve({
        let (gate, asked) = (gate.clone(), asked.clone());
        move |request| match request.target.as_str() {
            "/healthz" => Reply::status(500),
            _ => {
                asked.fetch_add(1, SeqCst);
                drop(gate.lock());
                Reply::text("ok")
            }
        }
    });
    let health = "health = { path = \"/healthz\", interval = \"50ms\", unhealthy_threshold = 1 }";
    for panic_threshold in [50, 0] {
        let gateway = gateway(&format!(
            "[upstreams.service]\nendpoints = [\"{}\"]\npanic_threshold = {panic_threshold}\n{health}\n{ONE_EACH}\n{}",
            origin.url(),
            route("service", &[])
        ));
        eventually("a failed check", || gateway.metric("sluice_endpoint_healthy", &[]) == Some(0.0));
        let (before, held) = (asked.load(SeqCst), gate.lock().expect("the gate"));
        let mut first = waiting(&gateway);
        eventually("the first request", || asked.load(SeqCst) == before + 1);
        let mut second = waiting(&gateway);
        eventually("one that waits", || pending(&gateway, "endpoints") == 1.0);
        drop(held);
        assert_eq!((first.read_response("GET").status, second.read_response("GET").status), (200, 200));
    }
}

#[test]
fn a_route_has_a_limit_and_a_queue_of_its_own() {
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock().expect("the gate");
    let origin = holding("ok", &gate);
    let limits = "limits = { max_requests = 1, max_pending_requests = 1, queue_timeout = \"200ms\" }";
    let gateway = gateway(&format!(
        "{}{limits}\n[routes.other]\nmatch = {{ path = \"/other\" }}\nupstream = \"{}\"\n",
        route(&origin.url(), &[]),
        origin.url()
    ));
    let mut first = waiting(&gateway);
    eventually("the first request", || origin.count() == 1);
    let mut second = waiting(&gateway);
    eventually("one that waits", || pending(&gateway, "route") == 1.0);
    assert_eq!(gateway.get("/").status, 503);
    assert_eq!(second.read_response("GET").status, 503, "after 200 ms");
    gateway.wait_access("why", |line| line["error"] == "route-busy");
    assert_eq!(gateway.get("/other").status, 200);
    drop(held);
    assert_eq!(first.read_response("GET").status, 200);
    assert_eq!(gateway.get("/").status, 200);
}
