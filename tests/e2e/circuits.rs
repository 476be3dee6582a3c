//! Circuit breakers: when they open, what an open one answers, and how it closes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::SeqCst};
use std::time::{Duration, Instant};

use sluice_harness::origin::nobody;
use sluice_harness::{Gateway, Origin, Reply, eventually};

use crate::support::{gateway, route, setup, with_base};

/// An origin that answers this status.
fn origin(status: &Arc<AtomicU16>) -> Origin {
    let status = status.clone();
    Origin::serve(move |_| Reply::status(status.load(SeqCst)))
}

fn config(urls: &[&str], breaker: &str) -> String {
    format!("[upstreams.service]\nendpoints = {urls:?}\ncircuit_breaker = {{ {breaker} }}\n{}", route("service", &[]))
}

fn kind_of_last(gateway: &Gateway) -> String {
    gateway.access().last().expect("a line")["error"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn it_opens_after_fifteen_of_twenty_and_answers_at_once() {
    let status = Arc::new(AtomicU16::new(200));
    let origin = origin(&status);
    let toml = with_base(&config(&[&origin.url()], "failures = 15, of = 20, open = \"1h\""));
    let gateway = setup().start(&toml.replace("workers = 1", "workers = 2"));
    for n in 0..20 {
        status.store(if n % 4 == 0 { 200 } else { 503 }, SeqCst);
        assert_eq!(gateway.get("/").status, status.load(SeqCst), "request {n}");
    }
    let opened = gateway.wait_log("an open circuit", |line| line["message"] == "the circuit of the upstream is open");
    assert_eq!(opened["evidence"], "open for 3600s: 15 of the last 20 failed, the last: status 503");
    let mut client = gateway.client();
    let mut fastest = Duration::MAX;
    for _ in 0..50 {
        let begun = Instant::now();
        let refused = client.get("/");
        fastest = fastest.min(begun.elapsed());
        let wait: u64 = refused.header("retry-after").expect("a time").parse().expect("seconds");
        assert_eq!((refused.status, (3000..=3600).contains(&wait)), (503, true), "{wait}");
    }
    assert!(fastest < Duration::from_millis(1), "{fastest:?}");
    assert_eq!(origin.count(), 20, "none of them was sent");
    assert_eq!(gateway.metric("sluice_circuit_open", &[("upstream", "service")]), Some(1.0));
    assert_eq!(gateway.metric("sluice_circuit_opens_total", &[("upstream", "service")]), Some(1.0));
    assert_eq!(gateway.metric("sluice_circuit_refused_total", &[("upstream", "service")]), Some(50.0));
    gateway.wait_access("why", |line| line["error"] == "circuit-open");
}

#[test]
fn probes_close_it_when_the_service_is_back() {
    let status = Arc::new(AtomicU16::new(503));
    let origin = origin(&status);
    let toml = with_base(&config(&[&origin.url()], "failures = 2, of = 2, open = \"100ms\", half_open = 3"));
    let gateway = setup().start(&toml.replace("workers = 1", "workers = 2"));
    assert_eq!([gateway.get("/").status, gateway.get("/").status], [503, 503]);
    let opened = gateway.wait_log("an open circuit", |line| line["message"] == "the circuit of the upstream is open");
    // It fails on: one probe is enough to know. Then it is well again, and three have to succeed.
    eventually("a probe", || gateway.get("/").status == 503 && origin.count() > 2);
    let failed = "open for 100ms more: a probe failed: status 503";
    gateway.wait_log("a probe that failed", |line| line["evidence"] == failed);
    status.store(200, SeqCst);
    let before = origin.count();
    eventually("a closed circuit", || {
        gateway.get("/");
        gateway.metric("sluice_circuit_open", &[]) == Some(0.0)
    });
    assert!(origin.count() - before >= 3);
    let shown = gateway.admin("/api/v1/upstreams/service").json();
    let changes = shown["circuit"]["changes"].as_array().expect("changes");
    assert_eq!(shown["circuit"]["state"], "closed", "{shown}");
    assert_eq!(changes[0]["evidence"], opened["evidence"]);
    let last = changes[changes.len() - 1]["evidence"].as_str().expect("evidence");
    assert!(last.starts_with("closed after ") && last.ends_with(": 3 probes succeeded"), "{last}");
    gateway.wait_log("the closed circuit", |line| line["message"] == "the circuit of the upstream is closed");
    for _ in 0..40 {
        assert_eq!(gateway.get("/").status, 200);
    }
}

#[test]
fn clients_that_leave_and_what_the_gateway_refuses_are_no_failures() {
    let gate = Arc::new(std::sync::Mutex::new(()));
    let held = gate.lock().expect("the gate");
    let origin = Origin::serve({
        let gate = gate.clone();
        move |request| {
            if request.target == "/hold" {
                drop(gate.lock());
            }
            Reply::text("ok")
        }
    });
    let gateway = gateway(
        &config(&[&origin.url()], "failures = 2, of = 4")
            .replace("[routes.all]", "limits = { max_requests = 8 }\n[routes.all]"),
    );
    let hold = |count: usize| -> Vec<_> {
        let before = origin.count();
        let clients: Vec<_> = (0..count)
            .map(|_| {
                let mut client = gateway.client();
                client.send(client.format("GET", "/hold", &[], b""));
                client
            })
            .collect();
        eventually("requests that are held", || origin.count() == before + count);
        clients
    };
    let clients = hold(8);
    for _ in 0..10 {
        assert_eq!(gateway.get("/").status, 503);
        assert_eq!(kind_of_last_within(&gateway), "upstream-busy");
    }
    drop(clients);
    eventually("room", || gateway.get("/").status == 200);
    let mut upload = gateway.client();
    for _ in 0..6 {
        upload.send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc");
        upload = gateway.client();
    }
    let broken = || gateway.access().iter().filter(|line| line["method"] == "POST").count();
    eventually("six broken uploads", || broken() == 6);
    assert_eq!(gateway.metric("sluice_circuit_opens_total", &[]), Some(0.0));
    assert_eq!(gateway.get("/").status, 200);
    drop(held);
}

fn kind_of_last_within(gateway: &Gateway) -> String {
    eventually("a line", || gateway.access().last().is_some_and(|line| line["error"].is_string()));
    kind_of_last(gateway)
}

#[test]
fn what_an_open_circuit_answers() {
    let dead = format!("http://{}", nobody());
    let breaker = "failures = 2, of = 2, open = \"1h\", respond = { status = 200, headers = { x-stale = \"yes\" }, body = \"closed for today\" }";
    let fixed = gateway(&config(&[&dead], breaker));
    let mut client = fixed.client();
    assert_eq!([client.get("/").status, client.get("/").status], [502, 502]);
    let answer = client.get("/");
    assert_eq!((answer.status, answer.text().as_str()), (200, "closed for today"));
    assert_eq!(answer.header("x-stale"), Some("yes"));
    fixed.wait_access("why", |line| line["error"] == "circuit-open" && line["status"] == 200);

    let other = Origin::named("other");
    let breaker = "failures = 2, of = 2, open = \"1h\", fallback = \"other\"";
    let toml = config(&[&dead], breaker) + &format!("[upstreams.other]\nendpoints = [\"{}\"]\n", other.url());
    let gateway = gateway(&toml);
    let mut client = gateway.client();
    assert_eq!([client.get("/").status, client.get("/").status], [502, 502]);
    assert_eq!(client.get("/").text(), "other");
    gateway.wait_access("its upstream", |line| line["upstream"] == "other");

    for (fallback, message) in
        [("nobody", "unknown upstream `nobody`"), ("service", "an upstream can't be its own fallback")]
    {
        let breaker = format!("fallback = \"{fallback}\"");
        let refused = setup().refused(&with_base(&config(&[&dead], &breaker)));
        assert!(refused.stderr.contains(message), "{}", refused.stderr);
    }
}

#[test]
fn grpc_clients_get_a_status_that_says_to_try_again() {
    let gateway = gateway(&config(&[&format!("http://{}", nobody())], "failures = 1, of = 1, open = \"1h\""));
    let headers = [("content-type", "application/grpc")];
    gateway.request("POST", "/", &headers, b"");
    let refused = gateway.request("POST", "/", &headers, b"");
    assert_eq!((refused.status, refused.header("grpc-status")), (200, Some("14")));
}

#[test]
fn an_endpoint_can_have_a_circuit_of_its_own() {
    let status = Arc::new(AtomicU16::new(500));
    let (bad, good) = (origin(&status), Origin::named("good"));
    let breaker = "per = \"endpoint\", failures = 4, of = 5, open = \"200ms\", max_open = \"400ms\", half_open = 1, status_codes = [500]";
    let gateway = gateway(&config(&[&bad.url(), &good.url()], breaker));
    let mut client = gateway.client();
    for _ in 0..8 {
        client.get("/");
    }
    let out = gateway.wait_log("the endpoint is out", |line| line["reason"] == "circuit-open");
    assert_eq!(out["evidence"], "open for 200ms: 4 of the last 5 failed, the last: status 500");
    let (seen, since) = (bad.count(), Instant::now());
    for _ in 0..6 {
        // All but a probe go to the other one.
        client.get("/");
    }
    let probes = 1 + since.elapsed().as_millis() as usize / 200;
    assert!(bad.count() - seen <= probes, "{} requests, {probes} probes", bad.count() - seen);
    status.store(200, SeqCst);
    eventually("a closed circuit", || {
        client.get("/");
        gateway.metric("sluice_endpoint_healthy", &[("endpoint", &bad.address().to_string())]) == Some(1.0)
    });
    let seen = bad.count();
    for _ in 0..6 {
        client.get("/");
    }
    assert_eq!(bad.count() - seen, 3);
}

/// Over HTTP/1.1, which has trailers as well.
fn grpc(message: &str, status: u8) -> Vec<u8> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n\r\n";
    format!("{head}{message}0\r\ngrpc-status: {status}\r\n\r\n").into_bytes()
}

#[test]
fn bodies_that_break_off_and_statuses_in_trailers_are_failures() {
    for per in ["upstream", "endpoint"] {
        let well = Arc::new(AtomicU16::new(0));
        let origin = Origin::serve({
            let well = well.clone();
            move |request| match (request.target.as_str(), well.load(SeqCst)) {
                (_, 1) => Reply::Raw(grpc("", 0)),
                ("/trailers", _) => Reply::Raw(grpc("", 14)),
                ("/message", _) => Reply::Raw(grpc("1\r\nx\r\n", 14)),
                ("/client", _) => Reply::Raw(grpc("1\r\nx\r\n", 5)),
                ("/left", _) => Reply::script(|conn| {
                    conn.write("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf");
                    conn.wait_for_close();
                }),
                (_, _) => Reply::script(|conn| conn.write("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")),
            }
        });
        let breaker = format!("per = \"{per}\", failures = 3, of = 4, open = \"200ms\", half_open = 1");
        for (target, cause) in
            [("/trailers", "grpc-status 14"), ("/message", "grpc-status 14"), ("/broken", "a body that broke off")]
        {
            well.store(0, SeqCst);
            let gateway = gateway(&config(&[&origin.url()], &breaker));
            let ask = |target: &str| gateway.client().try_request("GET", target, &[], b"");
            (0..6).for_each(|_| _ = ask("/client"));
            for _ in 0..6 {
                let mut leaves = gateway.client();
                leaves.send(leaves.format("GET", "/left", &[], b""));
                leaves.read_head();
            }
            eventually("the upstream to hear that they have left", || origin.open() <= 1);
            (0..3).for_each(|_| _ = ask(target));
            let opened = format!("open for 200ms: 3 of the last 4 failed, the last: {cause}");
            gateway.wait_log("an open circuit", |line| line["evidence"] == opened.as_str());
            if target == "/trailers" {
                // A probe of gRPC is no success before its status is known.
                eventually("a probe that failed", || {
                    _ = ask(target);
                    gateway.metric("sluice_circuit_opens_total", &[]) != Some(1.0) || per == "endpoint"
                });
            }
            well.store(1, SeqCst);
            eventually("a closed circuit", || {
                _ = ask(target);
                gateway.metric("sluice_circuit_open", &[]) != Some(1.0)
                    && gateway.metric("sluice_endpoint_healthy", &[]) == Some(1.0)
            });
        }
    }
}

#[test]
fn the_next_priority_serves_while_a_circuit_is_open() {
    let status = Arc::new(AtomicU16::new(503));
    let (bad, good, backup) = (origin(&status), Origin::named("good"), Origin::named("backup"));
    let gateway = gateway(&format!(
        "[upstreams.u]\nendpoints = [\"{}\", \"{}\", {{ url = \"{}\", priority = 1 }}]\n\
         circuit_breaker = {{ per = \"endpoint\", failures = 1, of = 1, open = \"1h\" }}\n\
         [routes.all]\nmatch = {{ path = \"/**\" }}\nupstream = \"u\"\n",
        bad.url(),
        good.url(),
        backup.url(),
    ));
    let mut client = gateway.client();
    eventually("an open circuit", || {
        client.get("/");
        gateway.metric("sluice_endpoint_out", &[("reason", "circuit-open")]) == Some(1.0)
    });
    let before = [bad.count(), good.count(), backup.count()];
    (0..400).for_each(|_| drop(client.get("/")));
    let seen = [bad.count(), good.count(), backup.count()];
    assert_eq!(seen[0], before[0]);
    // Half of the first priority is available, so 70 % of the requests stay there.
    let of_backup = seen[2] - before[2];
    assert!((80..160).contains(&of_backup), "{of_backup} of 400");
}

#[test]
fn with_all_endpoints_open_nothing_is_sent() {
    let status = Arc::new(AtomicU16::new(503));
    let (a, b) = (origin(&status), origin(&status));
    let breaker = "per = \"endpoint\", failures = 2, of = 2, open = \"1h\"";
    let gateway = gateway(&config(&[&a.url(), &b.url()], breaker));
    let mut client = gateway.client();
    for _ in 0..4 {
        client.get("/");
    }
    let refused = client.get("/");
    assert_eq!((refused.status, refused.header("retry-after").is_some()), (503, true));
    assert_eq!((a.count(), b.count()), (2, 2));
    gateway.wait_access("why", |line| line["error"] == "circuit-open");
    // Without a circuit breaker nothing keeps them out.
    gateway.reload(&with_base(&config(&[&a.url(), &b.url()], "").replace("circuit_breaker = {  }\n", "")));
    status.store(200, SeqCst);
    assert_eq!(gateway.get("/").status, 200);
    assert_eq!(gateway.metric("sluice_endpoint_healthy", &[]), Some(2.0));
}

#[test]
fn failures_of_a_while_and_their_share() {
    let status = Arc::new(AtomicU16::new(200));
    let origin = origin(&status);
    let breaker = "failures = 5, window = \"1h\", failure_percent = 40, open = \"1h\"";
    let gateway = gateway(&config(&[&origin.url()], breaker));
    let mut client = gateway.client();
    let mut ask = |code: u16, count: usize| {
        status.store(code, SeqCst);
        (0..count).filter(|_| client.get("/").status == 503 && code == 200).count()
    };
    assert_eq!(ask(200, 12), 0);
    assert_eq!(ask(502, 7), 0);
    assert_eq!(ask(200, 1), 0, "7 of 19 are less than 40 percent");
    assert_eq!(ask(502, 2), 0);
    assert_eq!(ask(200, 3), 3, "9 of 22");
    let refused = setup().refused(&with_base(&config(&[&origin.url()], "of = 20, window = \"10s\"")));
    assert!(refused.stderr.contains("has both `of` and `window`"), "{}", refused.stderr);
    let refused = setup().refused(&with_base(&config(&[&origin.url()], "failures = 21")));
    assert!(refused.stderr.contains("21 `failures` of the last 20 are not possible"), "{}", refused.stderr);
}

#[test]
fn an_open_circuit_outlives_a_reload() {
    let status = Arc::new(AtomicU16::new(503));
    let origin = origin(&status);
    let toml = |half_open: u32| {
        with_base(&config(&[&origin.url()], &format!("failures = 2, of = 2, open = \"1h\", half_open = {half_open}")))
    };
    let gateway = setup().start(&toml(1));
    let mut client = gateway.client();
    for _ in 0..3 {
        client.get("/");
    }
    assert_eq!(origin.count(), 2);
    gateway.reload(&toml(2));
    status.store(200, SeqCst);
    assert_eq!((client.get("/").status, gateway.get("/").status), (503, 503));
    assert_eq!(origin.count(), 2);
}

#[test]
fn a_circuit_breaker_that_comes_back_is_closed() {
    let status = Arc::new(AtomicU16::new(503));
    let origin = origin(&status);
    // Something else keeps the state of the upstream.
    let limited = "limits = { max_requests = 100 }\n[routes.all]";
    let with =
        with_base(&config(&[&origin.url()], "failures = 2, of = 2, open = \"1h\"").replace("[routes.all]", limited));
    let without = with.replace("circuit_breaker = { failures = 2, of = 2, open = \"1h\" }\n", "");
    let per_endpoint = with.replace("failures = 2", "per = \"endpoint\", failures = 2");
    let gateway = setup().start(&with);
    let mut client = gateway.client();
    for other in [&without, &per_endpoint] {
        status.store(503, SeqCst);
        let before = origin.count();
        (0..3).for_each(|_| assert_eq!(client.get("/").status, 503));
        assert_eq!(origin.count(), before + 2, "the third is refused");
        status.store(200, SeqCst);
        gateway.reload(other);
        assert_eq!(gateway.get("/").status, 200);
        gateway.reload(&with);
        client = gateway.client();
        assert_eq!(client.get("/").status, 200);
    }
    let closed =
        gateway.wait_log("the closed circuit", |line| line["message"] == "the circuit of the upstream is closed");
    assert_eq!(closed["evidence"], "the configuration has no circuit breaker for it any more");
}
