//! Calls of filters to upstreams by name: they are requests to the upstream as those of routes are.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_harness::certs::Certs;
use sluice_harness::origin::nobody;
use sluice_harness::{Gateway, Origin, Reply, eventually};

use crate::support::{filter, gateway, route, setup, with_base};

const URL: &str = "upstream://users/profile?x=1";

/// A filter whose config is this, in `mode`, that may call the upstream `users`.
fn caller_in(mode: &str, config: Value) -> String {
    let lines = format!(
        "instances = {{ mode = \"{mode}\" }}\nlimits = {{ wall = \"20s\" }}\ngrants = {{ upstreams = [\"users\"] }}"
    );
    filter("a", "probe-waiting", &lines, config)
}

/// One that calls on the way in and says in `x-called` what came of it.
fn caller(call: Value) -> String {
    caller_in("reused", json!({"on-request": [call]}))
}

fn call() -> Value {
    json!({"do": "call", "url": URL, "to": "x-called"})
}

fn users(urls: &[String], lines: &str) -> String {
    format!("[upstreams.users]\nendpoints = {urls:?}\n{lines}\n")
}

/// A gateway before an origin, whose filter calls the upstream `users`.
fn calling(origin: &Origin, users: &str) -> Gateway {
    gateway(&(users.to_owned() + &route(&origin.url(), &["a"]) + &caller(call())))
}

/// What came of the call of one more request.
#[track_caller]
fn outcome(gateway: &Gateway, origin: &Origin) -> String {
    assert_eq!(gateway.get("/").status, 200);
    origin.last().header("x-called").expect("the filter calls").to_owned()
}

fn called(gateway: &Gateway, outcome: &str) -> f64 {
    gateway.metric("sluice_upstream_calls_total", &[("upstream", "users"), ("outcome", outcome)]).unwrap_or(0.0)
}

#[test]
fn calls_are_balanced_and_say_whose_they_are_in_both_modes() {
    for mode in ["reused", "fresh"] {
        let (origin, (one, other)) = (Origin::named("o"), Origin::pair("one", "other"));
        let toml = users(&[one.url(), other.url()], "")
            + &route(&origin.url(), &["a"])
            + &caller_in(mode, json!({"on-request": [call()]}));
        let gateway = gateway(&toml);
        let answers: Vec<_> = (0..8).map(|_| outcome(&gateway, &origin)).collect();
        assert_eq!((one.count(), other.count()), (4, 4), "{mode}: {answers:?}");
        assert!(answers.iter().all(|answer| answer == "200 one" || answer == "200 other"), "{answers:?}");
        let (seen, of_client) = (one.last(), origin.requests());
        assert_eq!(seen.target, "/profile?x=1");
        assert_eq!(seen.header("host"), Some(&*one.address().to_string()), "the endpoint's own");
        let parent = of_client.iter().find(|request| request.header("x-request-id") == seen.header("x-request-id"));
        let parent = parent.expect("the request that the call was made for");
        assert_eq!(seen.header("traceparent"), parent.header("traceparent"));
        assert!(seen.header("cdn-loop").is_some_and(|marks| marks.starts_with("sluice;by=")), "{seen:?}");
        assert_eq!(called(&gateway, "response"), 8.0);
        eventually("the lines", || gateway.access().len() == 8);
        assert_eq!(
            gateway.metric("sluice_upstream_requests_total", &[("upstream", "users"), ("code", "200")]),
            Some(8.0)
        );
        let routes = gateway.metric("sluice_requests_total", &[("route", "")]);
        assert_eq!(routes.unwrap_or(0.0), 0.0, "a call is no request of a route");
    }
}

#[test]
fn two_upstreams_are_asked_at_the_same_time() {
    let (origin, fast) = (Origin::named("o"), Origin::named("fast"));
    let (seen, waits) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    // Each answers only once the other one was asked.
    let slow = Origin::serve({
        let (seen, waits) = (seen.clone(), waits.clone());
        move |_| {
            waits.store(true, SeqCst);
            eventually("the other call", || seen.load(SeqCst));
            Reply::text("profile")
        }
    });
    let orders = Origin::serve(move |_| {
        seen.store(true, SeqCst);
        eventually("the first call", || waits.load(SeqCst));
        Reply::text("orders")
    });
    let config = json!({"on-request": [{"do": "call", "to": "x-called",
        "urls": ["upstream://users/a", "upstream://orders", format!("{}/c", fast.url()), "upstream://strangers/"]}]});
    let grants = format!("grants = {{ upstreams = [\"users\", \"orders\"], http = [\"{}\"] }}", fast.url());
    let toml = users(&[slow.url()], "")
        + &format!("[upstreams.orders]\nendpoints = [\"{}\"]\n", orders.url())
        + &route(&origin.url(), &["a"])
        + &filter("a", "probe-waiting", &grants, config);
    let expected = "200 profile | 200 orders | 200 fast | not-granted: grants.upstreams = [\"strangers\"]";
    assert_eq!(outcome(&gateway(&toml), &origin), expected);
    assert_eq!(orders.last().target, "/");
}

#[test]
fn an_endpoint_that_takes_no_connection_is_passed_over() {
    let (origin, good) = (Origin::named("o"), Origin::named("good"));
    let gateway = calling(&origin, &users(&[format!("http://{}", nobody()), good.url()], ""));
    for _ in 0..6 {
        assert_eq!(outcome(&gateway, &origin), "200 good");
    }
    assert_eq!(called(&gateway, "response"), 6.0);
    assert!(
        gateway
            .metric("sluice_upstream_attempt_failures_total", &[("upstream", "users")])
            .is_some_and(|failed| failed >= 1.0)
    );
}

#[test]
fn the_defaults_of_routes_say_what_is_repeated() {
    let origin = Origin::named("o");
    let (broken, good) = (Origin::serve(|_| Reply::status(503)), Origin::named("good"));
    let urls = [broken.url(), good.url()];
    let without = calling(&origin, &users(&urls, ""));
    eventually("the broken one", || outcome(&without, &origin).starts_with("503"));
    let retry = "[defaults.route]\nretry = { budget = { min_per_second = 1000 } }\n";
    let with = calling(&origin, &(users(&urls, "") + retry));
    for _ in 0..6 {
        assert_eq!(outcome(&with, &origin), "200 good");
    }
    let labels = [("upstream", "users"), ("reason", "gateway-error")];
    assert!(with.metric("sluice_upstream_retries_total", &labels).is_some_and(|retries| retries >= 2.0));
}

#[test]
fn a_circuit_is_that_of_the_upstream() {
    let origin = Origin::named("o");
    let service = Origin::serve(|_| Reply::status(503));
    let breaker = "circuit_breaker = { failures = 3, of = 3, open = \"1h\" }";
    let own = "[routes.users]\nmatch = { path = \"/users\" }\nupstream = \"users\"\npipeline = []\n";
    let gateway = calling(&origin, &(users(&[service.url()], breaker) + own));
    for _ in 0..3 {
        assert!(outcome(&gateway, &origin).starts_with("503"));
    }
    assert_eq!(outcome(&gateway, &origin), "unavailable: the circuit of upstream `users` is open");
    assert_eq!((service.count(), called(&gateway, "unavailable")), (3, 1.0));
    // Calls have opened it, and it is open for requests of routes.
    assert_eq!(gateway.get("/users").status, 503);
    assert_eq!(service.count(), 3);
}

#[test]
fn how_little_time_a_call_has_says_nothing_of_the_upstream() {
    let origin = Origin::named("o");
    let service = Origin::serve(|_| {
        std::thread::sleep(Duration::from_millis(300));
        Reply::text("late")
    });
    let lines = "circuit_breaker = { failures = 1, of = 1, open = \"1h\" }\noutlier_detection = { consecutive_gateway_errors = 1 }";
    let short = json!({"do": "call", "url": URL, "to": "x-called", "timeout-ms": 20});
    let toml = users(&[service.url()], lines) + &route(&origin.url(), &["a"]) + &caller(short);
    let gateway = gateway(&toml);
    for _ in 0..3 {
        assert_eq!(outcome(&gateway, &origin), "timeout");
    }
    assert_eq!(gateway.metric("sluice_circuit_open", &[("upstream", "users")]), Some(0.0));
    assert_eq!(service.count(), 3, "its endpoint was asked each time");
}

#[test]
fn an_open_circuit_may_have_an_answer_of_its_own_or_another_upstream() {
    let (origin, backup) = (Origin::named("o"), Origin::named("backup"));
    let service = Origin::serve(|_| Reply::status(503));
    let with = |answer: &str| {
        users(&[service.url()], &format!("circuit_breaker = {{ failures = 1, of = 1, open = \"1h\", {answer} }}"))
    };
    let fixed = calling(&origin, &with("respond = { status = 203, body = \"later\" }"));
    assert!(outcome(&fixed, &origin).starts_with("503"));
    assert_eq!(outcome(&fixed, &origin), "203 later");
    let other = format!("[upstreams.backup]\nendpoints = [\"{}\"]\n", backup.url());
    let falling = calling(&origin, &(with("fallback = \"backup\"") + &other));
    assert!(outcome(&falling, &origin).starts_with("503"));
    assert_eq!(outcome(&falling, &origin), "200 backup");
}

#[test]
fn a_full_upstream_takes_no_call_and_that_counts_against_nobody() {
    let origin = Origin::named("o");
    let gate = Arc::new(Mutex::new(()));
    let service = Origin::serve({
        let gate = gate.clone();
        move |request| {
            if request.target == "/users" {
                drop(gate.lock());
            }
            Reply::text("served")
        }
    });
    let lines = "limits = { max_requests = 1, max_pending_requests = 0 }\ncircuit_breaker = { failures = 1, of = 1 }\n\
                 outlier_detection = { consecutive_gateway_errors = 1 }";
    let own = "[routes.users]\nmatch = { path = \"/users\" }\nupstream = \"users\"\npipeline = []\n";
    let gateway = calling(&origin, &(users(&[service.url()], lines) + own));
    let held = gate.lock();
    let mut client = gateway.client();
    client.send(client.format("GET", "/users", &[], b""));
    eventually("the upstream is full", || service.count() == 1);
    for _ in 0..3 {
        let refused = outcome(&gateway, &origin);
        assert!(refused.starts_with("unavailable: ") && refused.contains("`users` has its 1 requests"), "{refused}");
    }
    assert_eq!((gateway.metric("sluice_circuit_open", &[("upstream", "users")]), service.count()), (Some(0.0), 1));
    drop(held);
    assert_eq!(client.read_response("GET").text(), "served");
    assert_eq!(outcome(&gateway, &origin), "200 served");
    // A call gives its place back.
    assert_eq!(outcome(&gateway, &origin), "200 served");
}

#[test]
fn a_call_is_over_in_time() {
    let origin = Origin::named("o");
    let (hold, held) = (Arc::new(Mutex::new(())), Instant::now());
    let slow = Origin::serve({
        let hold = hold.clone();
        move |_| {
            drop(hold.lock());
            Reply::text("late")
        }
    });
    let _waiting = hold.lock();
    let short = json!({"do": "call", "url": URL, "to": "x-called", "timeout-ms": 150});
    let own = gateway(&(users(&[slow.url()], "") + &route(&origin.url(), &["a"]) + &caller(short)));
    assert_eq!(outcome(&own, &origin), "timeout");
    assert_eq!(called(&own, "timeout"), 1.0);
    // What the exchange has left is less than what the filter would give the call.
    let timeouts = "timeouts = { request = \"300ms\" }\n";
    let of_exchange = gateway(&(users(&[slow.url()], "") + &route(&origin.url(), &["a"]) + timeouts + &caller(call())));
    assert_eq!(of_exchange.get("/").status, 408, "nothing is left for the upstream of the route");
    assert_eq!(called(&of_exchange, "timeout"), 1.0);
    assert!(held.elapsed() < Duration::from_secs(10), "{:?}", held.elapsed());
}

#[test]
fn a_client_that_leaves_ends_the_call_and_gives_its_place_back() {
    let (origin, hold) = (Origin::named("o"), Arc::new(Mutex::new(())));
    let service = Origin::serve({
        let hold = hold.clone();
        move |_| {
            drop(hold.lock());
            Reply::text("served")
        }
    });
    let held = hold.lock();
    let lines = "limits = { max_requests = 1, max_pending_requests = 0 }\ncircuit_breaker = { failures = 1, of = 1 }";
    let gateway = calling(&origin, &users(&[service.url()], lines));
    let mut client = gateway.client();
    client.send(client.format("GET", "/", &[], b""));
    let active = || gateway.metric("sluice_limit_active_requests", &[("scope", "upstream"), ("name", "users")]);
    eventually("the call is under way", || service.count() == 1 && active() == Some(1.0));
    drop(client);
    eventually("the place is free", || active() == Some(0.0));
    drop(held);
    assert_eq!(
        gateway.metric("sluice_circuit_open", &[("upstream", "users")]),
        Some(0.0),
        "that says nothing of the upstream"
    );
    assert_eq!(outcome(&gateway, &origin), "200 served");
}

#[test]
fn the_answer_of_a_call_is_bounded() {
    let (origin, large) = (Origin::named("o"), Origin::serve(|_| Reply::text("x".repeat(2000))));
    let lines = "limits = { http_body = \"1KiB\" }\ngrants = { upstreams = [\"users\"] }";
    let toml = users(&[large.url()], "") + &route(&origin.url(), &["a"]);
    let gateway = gateway(&(toml + &filter("a", "probe-waiting", lines, json!({"on-request": [call()]}))));
    assert_eq!(outcome(&gateway, &origin), "too-large: 1024");
    assert_eq!(called(&gateway, "too-large"), 1.0);
}

#[test]
fn the_tls_of_the_upstream_is_used() {
    let origin = Origin::named("o");
    let certs = Certs::new();
    let tls =
        Origin::serve_tls(certs.leaf(&["users.internal"]).server_config(&["http/1.1"]), |_| Reply::text("private"));
    let with = |lines: String| calling(&origin, &users(&[tls.url().replace("http://", "https://")], &lines));
    let ca = certs.ca().display().to_string();
    let trusted = with(format!("tls = {{ ca = \"${{file:{ca}}}\", server_name = \"users.internal\" }}"));
    assert_eq!(outcome(&trusted, &origin), "200 private");
    let refused = outcome(&with(String::new()), &origin);
    assert!(refused.starts_with("unavailable: "), "{refused}");
}

#[test]
fn a_call_that_comes_back_to_the_gateway_is_made_once() {
    let origin = Origin::named("o");
    let own = nobody();
    let loops = json!({"on-request": [{"do": "call", "url": "upstream://users/", "to": "x-called"}]});
    let toml = with_base(
        &(users(&[format!("http://{own}")], "") + &route(&origin.url(), &["a"]) + &caller_in("reused", loops)),
    );
    let gateway = setup().start(&toml.replacen("127.0.0.1:0", &own.to_string(), 1));
    assert_eq!(outcome(&gateway, &origin), "200 o");
    // The request, and the call for it, in which the filter calls nobody.
    let seen = origin.requests();
    assert_eq!(seen.len(), 2);
    assert!(seen[0].header("x-called").is_some_and(|v| v.starts_with("invalid: this filter")), "{:?}", seen[0]);
}

#[test]
fn what_is_not_granted_or_no_name_is_not_sent() {
    let (origin, service) = (Origin::named("o"), Origin::named("service"));
    let cases = [
        ("upstream://others/", "not-granted: grants.upstreams = [\"others\"]"),
        ("upstream://USERS/", "not-granted: grants.upstreams = [\"USERS\"]"),
        ("upstream:///", "invalid: "),
        ("upstream:users", "invalid: "),
        ("upstream://users:80/", "invalid: "),
        ("upstream://me@users/", "invalid: "),
        ("http://users/", "not-granted: grants.http = [\"http://users\"]"),
    ];
    let config = json!({"on-request": [{"do": "call", "to": "x-called", "urls": cases.map(|(url, _)| url)}]});
    let others = format!("[upstreams.others]\nendpoints = [\"{}\"]\n", service.url());
    let toml = users(&[service.url()], "") + &others + &route(&origin.url(), &["a"]) + &caller_in("reused", config);
    let outcomes = outcome(&gateway(&toml), &origin);
    for (outcome, (url, expected)) in outcomes.split(" | ").zip(cases) {
        assert!(outcome.starts_with(expected), "{url}: {outcome}");
    }
    assert_eq!((outcomes.split(" | ").count(), service.connections()), (cases.len(), 0));
}

#[test]
fn a_grant_names_an_upstream_that_there_is_and_stays_within_the_plugin_s() {
    let base = users(&["http://127.0.0.1:9".into()], "")
        + "[upstreams.orders]\nbuiltin = \"echo\"\n"
        + &route("users", &["a"]);
    let with = |plugin: &str, grants: &str| {
        let lines = format!("grants = {{ upstreams = {grants} }}");
        let plugin = format!("[plugins.probe-waiting]\n{plugin}\n");
        with_base(&(base.clone() + &plugin + &filter("a", "probe-waiting", &lines, json!({}))))
    };
    let unknown = setup().refused(&with("", "[\"user\"]"));
    assert!(
        unknown.stderr.contains("filters.a.grants.upstreams[0]: unknown upstream `user`, did you mean `users`?"),
        "{}",
        unknown.stderr
    );
    let more = setup().refused(&with("grants = { upstreams = [\"users\"] }", "[\"users\", \"orders\"]"));
    let expected = "filters.a.grants.upstreams[1]: the grants of the plugin do not include `orders`";
    assert!(more.stderr.contains(expected), "{}", more.stderr);
}

#[test]
fn the_grant_of_a_plugin_is_for_its_filters() {
    let (origin, service) = (Origin::named("o"), Origin::named("service"));
    let plugin = "[plugins.probe-waiting]\ngrants = { upstreams = [\"users\"] }\n";
    let toml = users(&[service.url()], "") + &route(&origin.url(), &["a"]) + plugin;
    let toml = toml + &filter("a", "probe-waiting", "", json!({"on-request": [call()]}));
    assert_eq!(outcome(&gateway(&toml), &origin), "200 service");
}

#[test]
fn an_exchange_calls_the_upstreams_that_it_began_with() {
    let (origin, (before, after)) = (Origin::named("o"), Origin::pair("before", "after"));
    let (hold, asked) = (Arc::new(Mutex::new(())), Arc::new(AtomicBool::new(false)));
    let gatekeeper = Origin::serve({
        let (hold, asked) = (hold.clone(), asked.clone());
        move |_| {
            asked.store(true, SeqCst);
            drop(hold.lock());
            Reply::text("go")
        }
    });
    // The second call of the exchange is made after the reload.
    let config =
        json!({"on-request": [{"do": "call", "url": format!("{}/", gatekeeper.url()), "to": "x-waited"}, call()]});
    let lines = format!(
        "limits = {{ wall = \"20s\" }}\ngrants = {{ upstreams = [\"users\"], http = [\"{}\"] }}",
        gatekeeper.url()
    );
    let toml = |service: &Origin| {
        with_base(
            &(users(&[service.url()], "")
                + &route(&origin.url(), &["a"])
                + &filter("a", "probe-waiting", &lines, config.clone())),
        )
    };
    let gateway = setup().start(&toml(&before));
    let held = hold.lock();
    let mut client = gateway.client();
    client.send(client.format("GET", "/", &[], b""));
    eventually("the first call", || asked.load(SeqCst));
    gateway.reload(&toml(&after));
    drop(held);
    assert_eq!(client.read_response("GET").status, 200);
    assert_eq!(origin.last().header("x-called"), Some("200 before"));
    assert_eq!(outcome(&gateway, &origin), "200 after");
}

#[test]
fn hooks_of_responses_and_of_the_end_call_too() {
    let (origin, service) =
        (Origin::named("o"), Origin::serve(|request| Reply::text(format!("got {}", request.target))));
    let step = |path: &str| json!({"do": "call", "url": format!("upstream://users/{path}"), "to": "x-called"});
    let config = json!({"on-response": [step("response")], "on-complete": [step("complete")]});
    let gateway =
        gateway(&(users(&[service.url()], "") + &route(&origin.url(), &["a"]) + &caller_in("reused", config)));
    assert_eq!(gateway.get("/").header("x-called"), Some("200 got /response"));
    eventually("the call at the end", || service.count() == 2);
    assert_eq!(service.last().target, "/complete");
}

#[test]
fn built_in_upstreams_are_called_too_and_bodies_go_along() {
    let origin = Origin::named("o");
    let call =
        json!({"do": "call", "url": "upstream://users/say?x", "method": "POST", "body": "hello", "to": "x-called"});
    let toml = "[upstreams.users]\nbuiltin = \"echo\"\n".to_owned() + &route(&origin.url(), &["a"]) + &caller(call);
    let answer = outcome(&gateway(&toml), &origin);
    let (status, seen) = answer.split_once(' ').expect("a status and a body");
    let seen: Value = serde_json::from_str(seen).expect("what the built-in upstream has received");
    assert_eq!((status, &seen["method"], &seen["body"]), ("200", &json!("POST"), &json!("hello")), "{seen}");
}
