//! Attempts together with limits and circuits: what counts against whom, whose place a request holds, and where it goes when it leaves an
//! upstream.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use serde_json::json;
use sluice_harness::origin::nobody;
use sluice_harness::{Gateway, Origin, Reply, eventually};

use crate::support::{gateway, probe, route};

fn opens(gateway: &Gateway) -> Option<f64> {
    gateway.metric("sluice_circuit_opens_total", &[])
}

/// An origin whose n-th request, from 0 on, gets `reply(n)`.
fn counting(reply: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Origin {
    let asked = AtomicUsize::new(0);
    Origin::serve(move |_| reply(asked.fetch_add(1, SeqCst)))
}

/// A route whose filter goes on from upstream `a` to `b` when an attempt has failed.
fn failing_over(a: &str, b: &str, more: &str) -> Gateway {
    let filter = json!({"select-upstream": [{"do": "fail-over", "value": "a b"}]});
    gateway(&format!(
        "[upstreams.a]\n{a}\n[upstreams.b]\n{b}\n[routes.all]\nmatch = {{ path = \"/**\" }}\nupstreams = {{ a = 1, b = 1 }}\npipeline = [\"f\"]\n{more}\n{}",
        probe("f", filter)
    ))
}

fn dead() -> String {
    format!("endpoints = [\"http://{}\"]", nobody())
}

#[test]
fn an_idle_connection_that_was_closed_is_no_failure_of_its_endpoint() {
    let origin = counting(|n| if n % 2 == 0 { Reply::text("ok") } else { Reply::Close });
    let breaker = "circuit_breaker = { per = \"endpoint\", failures = 1, of = 1, open = \"1h\" }";
    let gateway =
        gateway(&format!("[upstreams.u]\nendpoints = [\"{}\"]\n{breaker}\n{}", origin.url(), route("u", &[])));
    let mut client = gateway.client();
    for n in 0..4 {
        assert_eq!(client.get("/").status, 200, "request {n}");
    }
    assert_eq!(origin.count(), 7, "all but the first were sent twice");
    assert_eq!(gateway.metric("sluice_endpoint_healthy", &[]), Some(1.0));
}

#[test]
fn a_client_that_sends_slowly_opens_no_circuit() {
    for per in ["upstream", "endpoint"] {
        let origin = Origin::named("ok");
        let breaker = format!("circuit_breaker = {{ per = \"{per}\", failures = 1, of = 1, open = \"1h\" }}");
        let gateway = gateway(&format!(
            "[upstreams.u]\nendpoints = [\"{}\"]\n{breaker}\n{}timeouts = {{ request = \"300ms\" }}\n",
            origin.url(),
            route("u", &[])
        ));
        let mut slow = gateway.client();
        slow.send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc");
        assert_eq!(slow.read_response("POST").status, 504, "{per}");
        assert_eq!(gateway.get("/").status, 200, "{per}");
    }
}

#[test]
fn a_server_that_hangs_opens_its_circuit_however_short_the_time_of_a_request() {
    let origin = Origin::serve(|_| Reply::script(|conn| conn.wait_for_close()));
    for (per, lines) in [
        ("upstream", "timeouts = { request = \"100ms\" }"),
        ("endpoint", "retry = { attempts = 1, per_try_timeout = \"100ms\" }"),
    ] {
        let breaker = format!("circuit_breaker = {{ per = \"{per}\", failures = 1, of = 1, open = \"1h\" }}");
        let gateway = gateway(&format!(
            "[upstreams.u]\nendpoints = [\"{}\"]\n{breaker}\n{}{lines}\n",
            origin.url(),
            route("u", &[])
        ));
        assert_eq!((gateway.get("/").status, gateway.get("/").status), (504, 503), "{per}");
    }
}

#[test]
fn a_retry_without_a_connection_hides_no_failure_from_the_circuit() {
    let origin = Origin::serve(|request| match request.target.as_str() {
        "/hold" => Reply::script(|conn| conn.wait_for_close()),
        _ => Reply::status(503).with("retry-after", "2"),
    });
    let gateway = gateway(&format!(
        "[upstreams.u]\nendpoints = [\"{}\"]\nlimits = {{ max_connections = 1 }}\n\
         circuit_breaker = {{ failures = 1, of = 1, open = \"1h\" }}\n{}\
         retry = {{ attempts = 2 }}\n",
        origin.url(),
        route("u", &[])
    ));
    // It waits for as long as the upstream asks for, and meanwhile another request takes the only connection.
    let mut retries = gateway.client();
    retries.send(retries.format("GET", "/", &[], b""));
    eventually("the first attempt", || origin.count() == 1);
    let mut holds = gateway.client();
    holds.send(holds.format("GET", "/hold", &[], b""));
    eventually("the other request", || origin.count() == 2);
    assert_eq!(retries.read_response("GET").status, 503);
    gateway.wait_access("no connection for the retry", |line| line["error"] == "upstream-busy");
    let opened = gateway.wait_log("an open circuit", |line| line["message"] == "the circuit of the upstream is open");
    assert_eq!(opened["evidence"], "open for 3600s: 1 of the last 1 failed, the last: status 503");
}

#[test]
fn requests_fall_back_while_all_endpoints_have_open_circuits() {
    let other = Origin::named("other");
    let breaker = "circuit_breaker = { per = \"endpoint\", failures = 2, of = 2, open = \"1h\", fallback = \"other\" }";
    for limits in ["", "limits = { max_requests = 5, per_endpoint = { max_requests = 5 } }"] {
        let gateway = gateway(&format!(
            "[upstreams.u]\n{}\n{breaker}\n[upstreams.other]\nendpoints = [\"{}\"]\n{limits}\n{}",
            dead(),
            other.url(),
            route("u", &[]),
        ));
        let mut client = gateway.client();
        assert_eq!([client.get("/").status, client.get("/").status], [502, 502]);
        for _ in 0..3 {
            assert_eq!(client.get("/").text(), "other");
        }
        gateway.wait_access("its upstream", |line| line["upstream"] == "other");
    }
    // What a filter says of the endpoints of one upstream is nothing to the other.
    let nobody = nobody();
    let filter = json!({"select-upstream": [{"do": "choose-endpoint", "from": "x-none", "value": nobody.to_string()}]});
    let gateway = gateway(&format!(
        "[upstreams.u]\nendpoints = [\"http://{nobody}\"]\n{breaker}\n[upstreams.other]\nendpoints = [\"{}\"]\n{}{}",
        other.url(),
        route("u", &["f"]),
        probe("f", filter)
    ));
    let mut client = gateway.client();
    assert_eq!([client.get("/").status, client.get("/").status], [502, 502]);
    assert_eq!(client.get("/").text(), "other");
}

#[test]
fn a_retry_does_not_wait_for_its_own_place() {
    let flapping = counting(|n| match n % 3 {
        0 => Reply::Close,
        // An answer that is not all there yet.
        1 => Reply::script(|conn| {
            conn.write("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 10\r\n\r\nhalf");
            conn.wait_for_close();
        }),
        _ => Reply::text("up"),
    });
    let lines = "retry = { backoff = { base = \"1ms\" }, budget = { min_per_second = 1000 } }\n";
    for queue in ["", "max_pending_requests = 5, queue_timeout = \"1m\", "] {
        let limits = format!("limits = {{ {queue}per_endpoint = {{ max_requests = 1 }} }}");
        let gateway = gateway(&format!(
            "[upstreams.u]\nendpoints = [\"{}\"]\n{limits}\n{}{lines}",
            flapping.url(),
            route("u", &[])
        ));
        let mut client = gateway.client();
        for _ in 0..2 {
            assert_eq!(client.get("/").text(), "up", "{queue}");
        }
    }
}

#[test]
fn a_request_that_goes_on_to_another_upstream_leaves_nothing_behind() {
    let good = Origin::named("good");
    let breaker = "circuit_breaker = { failures = 2, of = 2, open = \"1h\" }\nlimits = { max_requests = 1 }";
    let plain = format!("endpoints = [\"{}\"]", good.url());
    let gateway = failing_over(&format!("{}\n{breaker}", dead()), &plain, "");
    let mut client = gateway.client();
    for n in 1..=2 {
        assert_eq!(client.get("/").text(), "good", "request {n}");
        assert_eq!(gateway.metric("sluice_limit_active_requests", &[("scope", "upstream")]), Some(0.0));
    }
    assert_eq!(opens(&gateway), Some(1.0), "it has failed twice");
    assert_eq!((client.get("/").status, good.count()), (503, 2), "it is not selected by a failure now");
}

#[test]
fn what_an_upstream_has_said_is_not_replaced_by_a_refusal_of_the_next_one() {
    let broken = Origin::serve(|_| Reply::Full(503, vec![], b"sorry".to_vec()));
    let retry = "retry = { backoff = { base = \"1ms\" }, budget = { min_per_second = 1000 } }";
    let breaker = "circuit_breaker = { failures = 1, of = 1, open = \"1h\" }";
    let (a, b) = (format!("endpoints = [\"{}\"]", broken.url()), format!("{}\n{breaker}", dead()));
    let gateway = failing_over(&a, &b, retry);
    assert_eq!(gateway.get("/").status, 502, "that of the last attempt");
    assert_eq!(opens(&gateway), Some(1.0));
    for _ in 0..2 {
        assert_eq!(gateway.get("/").text(), "sorry");
    }
    // The same for an attempt without an answer.
    let gateway = failing_over(&dead(), &b, retry);
    for _ in 0..3 {
        assert_eq!(gateway.get("/").status, 502);
    }
}

#[test]
fn a_queue_or_an_injected_delay_lasts_no_longer_than_the_client_waits() {
    let origin = Origin::serve(|_| Reply::script(|conn| conn.wait_for_close()));
    let limits = "limits = { max_requests = 1, max_pending_requests = 9, queue_timeout = \"1h\" }";
    let deadline = "deadline = { header = \"x-time\", trust_header = true }\ntimeouts = { request = \"1h\" }";
    for (of_route, of_upstream) in [(limits, ""), ("", limits)] {
        let gateway = gateway(&format!(
            "[upstreams.u]\nendpoints = [\"{}\"]\n{of_upstream}\n{}{of_route}\n{deadline}\n",
            origin.url(),
            route("u", &[])
        ));
        let before = origin.count();
        let mut first = gateway.client();
        first.send(first.format("GET", "/", &[], b""));
        eventually("the first request", || origin.count() == before + 1);
        let begun = Instant::now();
        let refused = gateway.request("GET", "/", &[("x-time", "100")], b"");
        assert!([503, 504].contains(&refused.status), "{refused:?}");
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    }
    let fault = "fault = { delay = { duration = \"1h\" }, abort = { status = 500 } }";
    let gateway = gateway(&format!("{}{fault}\n{deadline}\n", route(&origin.url(), &[])));
    assert_eq!(gateway.request("GET", "/", &[("x-time", "100")], b"").status, 504);
    gateway.wait_access("why", |line| line["error"] == "deadline-exceeded");
}
