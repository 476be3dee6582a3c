//! Requests that are sent again: when, where, how often, and what comes of their bodies.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_harness::load::flood;
use sluice_harness::origin::nobody;
use sluice_harness::tools::{Server, need, run_script};
use sluice_harness::{Gateway, Origin, Reply, eventually};

use crate::support::{gateway as gateway_of, probe, route};

/// A route with this retry table to these endpoints, and with retries enough where the table says nothing else.
fn retrying(retry: &str, urls: &[String]) -> String {
    let own = retry.trim_start_matches("{").trim_end_matches("}").trim();
    let retry = match retry.contains("budget") {
        true => retry.to_owned(),
        false => format!("{{ budget = {{ min_per_second = 1000 }}, {own} }}"),
    };
    format!("[upstreams.u]\nendpoints = {urls:?}\n{}retry = {retry}\n", route("u", &[]))
}

fn before(retry: &str, origins: &[&Origin]) -> Gateway {
    gateway_of(&retrying(retry, &origins.iter().map(|origin| origin.url()).collect::<Vec<_>>()))
}

fn answering(status: u16) -> Origin {
    Origin::serve(move |_| Reply::Full(status, vec![("x-from".into(), "broken".into())], b"sorry".to_vec()))
}

fn retries(gateway: &Gateway, reason: &str) -> f64 {
    gateway.metric("sluice_upstream_retries_total", &[("upstream", "u"), ("reason", reason)]).unwrap_or(0.0)
}

fn denied(gateway: &Gateway, cause: &str) -> f64 {
    gateway.metric("sluice_upstream_retries_denied_total", &[("upstream", "u"), ("cause", cause)]).unwrap_or(0.0)
}

/// As many requests as make sure that each of two endpoints had its turn.
const TURNS: usize = 6;

#[test]
fn a_gateway_error_is_replaced_by_the_answer_of_another_endpoint() {
    for status in [502, 503, 504] {
        let (broken, good) = (answering(status), Origin::named("good"));
        let gateway = before("{}", &[&broken, &good]);
        for _ in 0..TURNS {
            assert_eq!(gateway.get("/").text(), "good", "{status}");
        }
        assert!(broken.count() >= 2, "it was asked, too");
        assert_eq!(retries(&gateway, "gateway-error"), broken.count() as f64);
        let line = gateway.wait_access("a retried request", |line| line["attempts"] == 2);
        let failed = &line["failed_attempts"][0];
        assert_eq!((&failed["outcome"], &line["status"]), (&json!("retried-response"), &json!(200)), "{line}");
        assert_eq!(failed["reason"], json!(format!("answered {status}")), "{line}");
    }
}

#[test]
fn only_what_the_route_names_is_repeated() {
    let (broken, good) = (answering(503), Origin::named("good"));
    let gateway = before(r#"{ on = ["connect-failure"] }"#, &[&broken, &good]);
    let statuses: Vec<u16> = (0..TURNS).map(|_| gateway.get("/").status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 503).count(), TURNS / 2, "{statuses:?}");

    let gateway = gateway_of(&retrying(r#"{ on = ["reset"] }"#, &[format!("http://{}", nobody()), good.url()]));
    let statuses: Vec<u16> = (0..TURNS).map(|_| gateway.get("/").status).collect();
    assert!(statuses.contains(&502) && statuses.contains(&200), "the list says all: {statuses:?}");
    let gateway = gateway_of(&retrying("{}", &[format!("http://{}", nobody()), good.url()]));
    assert!((0..TURNS).all(|_| gateway.request("POST", "/", &[], b"x").status == 200), "nothing of it was sent");
}

#[test]
fn statuses_can_be_named() {
    let (limited, good) = (answering(429), Origin::named("good"));
    let gateway = before("{ status_codes = [429] }", &[&limited, &good]);
    assert!((0..TURNS).all(|_| gateway.get("/").status == 200));
    assert_eq!(retries(&gateway, "retriable-status-codes"), limited.count() as f64);
    let gateway = before("{}", &[&limited, &good]);
    assert!((0..TURNS).any(|_| gateway.get("/").status == 429));
}

#[test]
fn attempts_count_the_first_one_and_the_last_answer_is_the_clients() {
    let origins = [answering(503), answering(503), answering(503)];
    for attempts in [1, 2, 3] {
        let asked = || origins.iter().map(Origin::count).sum::<usize>();
        let before_it = asked();
        let gateway = before(&format!("{{ attempts = {attempts} }}"), &origins.each_ref());
        let response = gateway.get("/");
        assert_eq!((response.status, response.text().as_str()), (503, "sorry"), "whole");
        assert_eq!(response.header("x-from"), Some("broken"));
        assert_eq!(asked() - before_it, attempts, "an endpoint each");
        assert_eq!(denied(&gateway, "attempts"), 1.0);
        assert!(origins.iter().all(|origin| origin.count() <= 3), "none is asked twice while another is left");
    }
}

#[test]
fn the_only_endpoint_is_asked_again_after_a_while() {
    let asked = AtomicUsize::new(0);
    let flapping = Origin::serve(move |_| match asked.fetch_add(1, Ordering::SeqCst) % 3 {
        2 => Reply::text("up again"),
        _ => Reply::status(503),
    });
    let gateway = before("{}", &[&flapping]);
    assert_eq!(gateway.get("/").text(), "up again");
    assert_eq!((flapping.count(), flapping.connections()), (3, 1), "an answer that nobody wants costs no connection");
}

#[test]
fn a_method_that_is_not_idempotent_is_repeated_only_if_the_route_says_so() {
    let (broken, good) = (answering(503), Origin::named("good"));
    let gateway = before("{}", &[&broken, &good]);
    let statuses: Vec<u16> = (0..TURNS).map(|_| gateway.request("POST", "/", &[], b"order").status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 503).count(), TURNS / 2, "{statuses:?}");
    assert_eq!(denied(&gateway, "method"), (TURNS / 2) as f64);
    let gateway = before("{ non_idempotent = true }", &[&broken, &good]);
    for _ in 0..TURNS {
        assert_eq!(gateway.request("POST", "/", &[], b"order").text(), "good");
        assert_eq!(good.last().text(), "order");
    }
}

/// Closes the connection after it has read a request.
fn resetting() -> Origin {
    Origin::serve(|_| Reply::Close)
}

#[test]
fn a_broken_connection_is_repeated_for_idempotent_methods() {
    let (broken, good) = (resetting(), Origin::named("good"));
    let gateway = before("{}", &[&broken, &good]);
    for method in ["GET", "PUT", "DELETE"] {
        for _ in 0..TURNS {
            let body: &[u8] = if method == "GET" { b"" } else { b"content" };
            assert_eq!(gateway.request(method, "/", &[], body).text(), "good", "{method}");
            assert_eq!(good.last().body, body);
        }
    }
    assert!(retries(&gateway, "reset") >= 3.0);
    let statuses: Vec<u16> = (0..TURNS).map(|_| gateway.request("POST", "/", &[], b"x").status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 502).count(), TURNS / 2, "{statuses:?}");
}

#[test]
fn bodies_are_kept_up_to_a_size() {
    let (broken, good) = (answering(503), Origin::named("good"));
    let gateway = before(r#"{ body = "10KiB" }"#, &[&broken, &good]);
    let (fits, too_large) = (vec![b'f'; 10 << 10], vec![b'l'; (10 << 10) + 1]);
    for _ in 0..TURNS {
        assert_eq!(gateway.request("PUT", "/", &[], &fits).status, 200);
        assert_eq!(good.last().body, fits);
    }
    let statuses: Vec<u16> = (0..TURNS).map(|_| gateway.request("PUT", "/", &[], &too_large).status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 503).count(), TURNS / 2, "{statuses:?}");
    assert_eq!(denied(&gateway, "body"), (TURNS / 2) as f64);
    eventually("the memory to be given back", || gateway.metric("sluice_buffered_bytes", &[]) == Some(0.0));

    // Of chunks nobody knows the size before the end.
    for (chunks, expected) in [(10, [200, 200]), (11, [200, 503])] {
        let mut seen: Vec<u16> = (0..2)
            .map(|_| {
                let mut client = gateway.client();
                client.send("PUT / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
                for _ in 0..chunks {
                    client.send(format!("400\r\n{}\r\n", "c".repeat(1024)));
                }
                client.send("0\r\n\r\n");
                client.read_response("PUT").status
            })
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, expected, "{chunks} chunks");
        assert!(good.requests().iter().any(|request| request.body.len() == chunks * 1024));
    }
}

#[test]
fn an_endpoint_that_hangs_costs_no_more_than_the_time_of_an_attempt() {
    let (hanging, good) = (Origin::serve(|_| Reply::script(|conn| conn.wait_for_close())), Origin::named("good"));
    let gateway = before(r#"{ per_try_timeout = "200ms" }"#, &[&hanging, &good]);
    let start = Instant::now();
    for _ in 0..4 {
        assert_eq!(gateway.get("/").text(), "good");
    }
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(400) && took < Duration::from_secs(10), "{took:?}");
    assert_eq!(retries(&gateway, "reset"), 2.0);
}

#[test]
fn a_response_that_has_begun_is_never_repeated() {
    let breaking =
        Origin::serve(|_| Reply::script(|conn| conn.write("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")));
    let gateway = before("{}", &[&breaking]);
    let mut client = gateway.client();
    client.send(client.format("GET", "/", &[], b""));
    assert!(client.try_read_response("GET").is_err(), "the response looked whole");
    assert_eq!(breaking.count(), 1);
}

/// Over the longest possible wait of all attempts. What is random has a spread of far less than the difference.
#[test]
fn further_attempts_wait() {
    let took = |backoff: &str| {
        let broken = answering(503);
        let retry =
            format!("{{ attempts = 60, backoff = {backoff}, budget = {{ percent = 100, min_per_second = 1000 }} }}");
        let gateway = before(&retry, &[&broken]);
        let start = Instant::now();
        assert_eq!(gateway.get("/").status, 503);
        assert_eq!(broken.count(), 60);
        start.elapsed()
    };
    let usual = took(r#"{ base = "1ms", max = "1ms" }"#);
    for long in [r#"{ base = "50ms", max = "50ms" }"#, r#"{ base = "1ms", max = "50ms" }"#] {
        let long = took(long);
        assert!(long > usual && long > Duration::from_millis(500), "{long:?} and {usual:?}");
    }
}

#[test]
fn an_upstream_may_ask_for_a_wait() {
    let (busy, good) =
        (Origin::serve(|request| Reply::status(503).with("retry-after", &request.target[1..])), Origin::named("good"));
    let gateway = before(r#"{ max_retry_after = "2s" }"#, &[&busy, &good]);
    let start = Instant::now();
    assert_eq!((gateway.get("/1").text(), gateway.get("/1").text()), ("good".into(), "good".into()));
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    let answers = [gateway.get("/3"), gateway.get("/3")];
    let passed: Vec<_> = answers.iter().filter(|answer| answer.status == 503).collect();
    assert!(passed.len() == 1 && passed[0].header("retry-after") == Some("3"), "{answers:?}");
    assert_eq!(denied(&gateway, "retry-after"), 1.0);

    let timeouts = format!("{}timeouts = {{ request = \"500ms\" }}\n", retrying("{}", &[busy.url()]));
    let gateway = gateway_of(&timeouts);
    assert_eq!(gateway.get("/1").status, 503, "the request may not take so long");
    assert_eq!(denied(&gateway, "deadline"), 1.0);
}

#[test]
fn the_upstream_is_told_the_number_of_the_attempt() {
    let (broken, good) = (answering(503), Origin::named("good"));
    let gateway = before(r#"{ attempt_header = "x-envoy-attempt-count" }"#, &[&broken, &good]);
    for _ in 0..TURNS {
        gateway.request("GET", "/", &[("x-envoy-attempt-count", "99")], b"");
    }
    let numbers = |origin: &Origin| -> Vec<String> {
        let requests = origin.requests();
        requests.iter().map(|request| request.header("x-envoy-attempt-count").unwrap_or("-").to_owned()).collect()
    };
    assert!(numbers(&broken).iter().all(|number| number == "1"), "{:?}", numbers(&broken));
    let (first, second): (Vec<_>, Vec<_>) = numbers(&good).into_iter().partition(|number| number == "1");
    assert!(first.len() == TURNS / 2 && second.iter().all(|number| number == "2"), "{first:?} {second:?}");
}

/// Many clients, two workers, all endpoints failing, reloads in between: the upstream gets its requests and the budget of retries.
#[test]
fn a_budget_bounds_what_retries_add() {
    let broken = [Origin::serve(|_| Reply::status(503)), Origin::serve(|_| Reply::status(503))];
    let config = |budget: &str, reload: usize| {
        format!(
            "[gateway]\nworkers = 2\nreload = false\n[listeners.http]\nbind = \"127.0.0.1:0\"\n[admin]\nbind = \"127.0.0.1:0\"\n[upstreams.u]\nendpoints = {:?}\npool = {{ max_idle = {} }}\n{}retry = {{ backoff = {{ base = \"1ms\" }}, budget = {budget} }}\n",
            broken.each_ref().map(Origin::url),
            64 + reload,
            route("u", &[])
        )
    };
    for (budget, share, each_second) in
        [("{ percent = 20, min_per_second = 3 }", 0.2, 3.0), ("{ percent = 0, min_per_second = 0 }", 0.0, 0.0)]
    {
        let asked = || broken.iter().map(Origin::count).sum::<usize>();
        let gateway = Gateway::setup().start(&config(budget, 0));
        let (before_it, start, mut offered) = (asked(), Instant::now(), 0);
        for reload in 1..=3 {
            let report = flood(gateway.address(), 8, 400, "/", &[]);
            assert_eq!((report.count(503), report.total()), (400, 400), "{:?}", report.statuses);
            offered += 400;
            gateway.reload(&config(budget, reload));
        }
        let seconds = start.elapsed().as_secs_f64() + 1.0;
        let sent = (asked() - before_it) as f64;
        let most = offered as f64 * (1.0 + share) + each_second * seconds;
        assert!(sent <= most, "{sent} attempts for {offered} requests in {seconds:.1} s, with {budget}");
        let least = offered as f64 * (1.0 + share * 0.8);
        assert!(sent >= least, "{sent} attempts for {offered} requests: the budget is used");
        assert!(denied(&gateway, "budget") > 0.0);
    }
    let gateway = Gateway::setup().start(&config("{ percent = 0, min_per_second = 1000000 }", 0));
    let asked = || broken.iter().map(Origin::count).sum::<usize>();
    let before_it = asked();
    flood(gateway.address(), 8, 200, "/", &[]);
    assert_eq!(asked() - before_it, 600, "three attempts each");
}

#[test]
fn a_retry_table_is_inherited_key_by_key() {
    let (broken, good) = (answering(503), Origin::named("good"));
    let config = |own: &str| {
        format!(
            "[defaults.route]\nretry = {{ attempts = 2, non_idempotent = true }}\n[upstreams.u]\nendpoints = {:?}\n{}{own}",
            [broken.url(), good.url()],
            route("u", &[])
        )
    };
    let gateway = gateway_of(&config(""));
    assert!((0..TURNS).all(|_| gateway.request("POST", "/", &[], b"x").status == 200));
    let gateway = gateway_of(&config("retry = { attempts = 1 }\n"));
    assert!((0..TURNS).any(|_| gateway.request("POST", "/", &[], b"x").status == 503));
}

#[test]
fn a_filter_sees_answers_that_are_not_passed_on_and_may_forbid_another_attempt() {
    let (broken, good) = (answering(503), Origin::named("good"));
    let config = |hook: Value| {
        let retry = format!(
            "retry = {{ on = [\"gateway-error\"], budget = {{ min_per_second = 100 }} }}\n{}",
            probe("f", json!({"select-upstream": hook}))
        );
        let endpoints = [broken.url(), good.url()];
        gateway_of(&format!("[upstreams.u]\nendpoints = {endpoints:?}\n{}{retry}", route("u", &["f"])))
    };
    let gateway = config(json!([
        {"do": "retries", "to": "next"},
        {"do": "failed-attempts", "to": "failed"},
        {"do": "choose-another"},
    ]));
    assert!((0..TURNS).all(|_| gateway.get("/").status == 200), "the filter goes on to another endpoint");
    gateway.wait_log("what is left", |line| {
        line.to_string().contains("next: RetryState { attempt: 1, left: 2, budget: Some(")
    });
    gateway.wait_log("the answer", |line| {
        let line = line.to_string();
        line.contains("failed: [FailedAttempt {") && line.contains("status: Some(503)") && line.contains("sent: true")
    });
    let gateway = config(json!([{"do": "no-retry"}]));
    let statuses: Vec<u16> = (0..TURNS).map(|_| gateway.get("/").status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 503).count(), TURNS / 2, "{statuses:?}");
    assert_eq!(denied(&gateway, "filter"), (TURNS / 2) as f64);
}

#[test]
fn a_real_client_of_grpc_sees_no_error_that_another_attempt_repairs() {
    let Some([python]) = need(["python"]) else { return };
    let (_server, port) = Server::script(&python, "grpc_retry_server.py");
    let gateway = gateway_of(&format!(
        "[upstreams.grpc]\nendpoints = [\"http://127.0.0.1:{port}\"]\nprotocol = \"h2c\"\n{}retry = {{ attempts = 4, on = [\"unavailable\", \"resource-exhausted\"], budget = {{ min_per_second = 100 }} }}\ndeadline = {{ grpc = true }}\n",
        route("grpc", &[])
    ));
    assert_eq!(run_script(&python, "grpc_retry_client.py", &[&gateway.address().to_string()]).trim(), "fine");
    for reason in ["unavailable", "resource-exhausted"] {
        let count = gateway.metric("sluice_upstream_retries_total", &[("upstream", "grpc"), ("reason", reason)]);
        assert!(count.is_some_and(|count| count >= 2.0), "{reason}");
    }
}
