//! Whether endpoints are used: checks of the gateway's own, and outliers among those that answer.

use std::sync::atomic::{AtomicBool, AtomicU16, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use http::HeaderValue;
use http_body_util::BodyExt;
use serde_json::Value;
use sluice_harness::h2::{H2Origin, full};
use sluice_harness::origin::nobody;
use sluice_harness::wait::eventually_some;
use sluice_harness::{Certs, Gateway, Origin, Reply, eventually};

use crate::support::{BASE, gateway, route, setup, with_base};

/// An upstream `u` of these endpoints with these lines, and a route to it.
fn to(endpoints: &[&str], lines: &str) -> String {
    format!("[upstreams.u]\nendpoints = {endpoints:?}\n{lines}\n{}", route("u", &[]))
}

/// What the admin API says of an address of the upstream.
#[track_caller]
fn address(gateway: &Gateway, upstream: &str, url: &str) -> Value {
    let answer = gateway.admin(&format!("/api/v1/upstreams/{upstream}")).json();
    let endpoint = url.rsplit('/').next().expect("a host and port");
    let found = answer["addresses"].as_array().expect("addresses").iter().find(|one| one["endpoint"] == endpoint);
    found.unwrap_or_else(|| panic!("no {endpoint} in {answer}")).clone()
}

/// Waits until an address is out, and says why.
#[track_caller]
fn out(gateway: &Gateway, upstream: &str, url: &str) -> String {
    let out = eventually_some("an address that is out", || {
        Some(address(gateway, upstream, url)["out"][0].clone()).filter(|out| !out.is_null())
    });
    format!("{}: {}", out["reason"].as_str().expect("a reason"), out["evidence"].as_str().expect("evidence"))
}

#[track_caller]
fn eventually_healthy(gateway: &Gateway, upstream: &str, url: &str) {
    eventually("an address that is healthy", || address(gateway, upstream, url)["state"] == "healthy");
}

/// How many checks of an address have passed, and how many have failed.
fn checks(gateway: &Gateway, upstream: &str, url: &str) -> [u64; 2] {
    let checks = &address(gateway, upstream, url)["checks"];
    ["passed", "failed"].map(|result| checks[result].as_u64().expect("a number"))
}

/// An origin whose status can be changed, for its checks and for all else.
fn switched(name: &'static str) -> (Origin, Arc<AtomicU16>, Arc<AtomicU16>) {
    let (check, other) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicU16::new(200)));
    let (of_check, of_other) = (check.clone(), other.clone());
    let origin = Origin::serve(move |request| {
        let status = if request.target == "/healthz" { &of_check } else { &of_other };
        Reply::Full(status.load(SeqCst), Vec::new(), name.into())
    });
    (origin, check, other)
}

/// Requests for other things than the checks' that an origin got.
fn served(origin: &Origin) -> usize {
    origin.requests().iter().filter(|request| request.target != "/healthz").count()
}

#[test]
fn a_failing_check_takes_an_endpoint_out_and_passing_ones_bring_it_back() {
    let (a, check, _) = switched("a");
    let b = Origin::named("b");
    let health = r#"health = { path = "/healthz", interval = "50ms", unhealthy_threshold = 3, healthy_threshold = 2 }"#;
    let gateway = gateway(&to(&[&a.url(), &b.url()], health));
    eventually("checks that pass", || checks(&gateway, "u", &a.url())[0] > 1);
    assert_eq!(address(&gateway, "u", &a.url())["state"], "healthy");

    check.store(503, SeqCst);
    assert_eq!(out(&gateway, "u", &a.url()), "check-failed: 3 checks failed: GET /healthz answered 503");
    let before = served(&a);
    for _ in 0..10 {
        assert_eq!(gateway.get("/").text(), "b");
    }
    assert_eq!(served(&a), before, "an endpoint that is out gets no request");
    let endpoint = a.address().to_string();
    let line = gateway.wait_log("the event", |line| line["message"] == "the endpoint is out");
    assert_eq!((&line["reason"], &line["endpoint"]), (&"check-failed".into(), &endpoint.as_str().into()), "{line}");
    let labels = [("endpoint", endpoint.as_str()), ("reason", "check-failed")];
    assert_eq!(gateway.metric("sluice_endpoint_out", &labels), Some(1.0));
    assert_eq!(gateway.metric("sluice_endpoint_outs_total", &labels), Some(1.0));
    let labels = [("endpoint", endpoint.as_str()), ("result", "failed")];
    assert!(gateway.metric("sluice_endpoint_checks_total", &labels).is_some_and(|failed| failed >= 3.0));

    check.store(200, SeqCst);
    eventually_healthy(&gateway, "u", &a.url());
    let changes = address(&gateway, "u", &a.url())["changes"].clone();
    assert_eq!(
        (&changes[0]["change"], &changes[1]["change"], &changes[1]["evidence"]),
        (&"out".into(), &"back".into(), &"2 checks passed".into())
    );
    gateway.wait_log("the end", |line| line["message"] == "the endpoint is back" && line["reason"] == "check-failed");
    eventually("requests to it", || gateway.get("/").text() == "a");
    let labels = [("endpoint", endpoint.as_str()), ("reason", "check-failed")];
    assert_eq!(gateway.metric("sluice_endpoint_out", &labels), Some(0.0));
}

#[test]
fn an_address_gets_one_check_an_interval_for_all_routes_and_workers() {
    let times = Arc::new(Mutex::new(Vec::new()));
    let noted = times.clone();
    let origin = Origin::serve(move |request| {
        if request.target == "/healthz" {
            noted.lock().expect("the times").push(Instant::now());
        }
        Reply::text("served")
    });
    let mut config = BASE.replace("workers = 1", "workers = 2")
        + &format!(
            "[upstreams.u]\nendpoints = [\"{}\"]\n[upstreams.u.health]\npath = \"/healthz\"\ninterval = \"200ms\"\ninterval_jitter_percent = 0\n",
            origin.url()
        );
    for route in 0..8 {
        config += &format!("[routes.r{route}]\nmatch = {{ path = \"/{route}\" }}\nupstream = \"u\"\n");
    }
    let gateway = setup().start(&config);
    // Every worker and route is in use.
    for route in 0..64 {
        assert_eq!(gateway.get(&format!("/{}", route % 8)).text(), "served");
    }
    eventually("eight checks", || times.lock().expect("the times").len() >= 8);
    let times = times.lock().expect("the times").clone();
    let (first, last) = (times[0], times[7]);
    assert!(last - first >= Duration::from_millis(200 * 7 * 9 / 10), "{:?} for 7 intervals", last - first);
}

#[test]
fn a_random_part_is_added_to_the_interval() {
    let times = Arc::new(Mutex::new(Vec::new()));
    let noted = times.clone();
    let origin = Origin::serve(move |_| {
        noted.lock().expect("the times").push(Instant::now());
        Reply::text("up")
    });
    let health = r#"health = { path = "/healthz", interval = "50ms", interval_jitter_percent = 100 }"#;
    let gateway = gateway(&to(&[&origin.url()], health));
    eventually("checks", || times.lock().expect("the times").len() >= 21);
    drop(gateway);
    let times = times.lock().expect("the times").clone();
    let took = times[20] - times[0];
    assert!(took >= Duration::from_millis(20 * 50 * 11 / 10), "{took:?}");
}

#[test]
fn what_a_check_asks_for_and_where() {
    let (serving, checked) = (Origin::named("serving"), Origin::named("checked"));
    let gateway = gateway(&to(
        &[&serving.url()],
        &format!(
            "[upstreams.u.health]\nport = {}\nmethod = \"OPTIONS\"\npath = \"/healthz?deep=1\"\nhost = \"orders.internal\"\nheaders = {{ x-probe = \"yes\" }}",
            checked.address().port()
        ),
    ));
    eventually("a check", || checked.count() >= 1);
    let request = checked.last();
    assert_eq!((request.method.as_str(), request.target.as_str()), ("OPTIONS", "/healthz?deep=1"));
    assert_eq!((request.header("host"), request.header("x-probe")), (Some("orders.internal"), Some("yes")));
    assert_eq!(request.header("user-agent"), Some("sluice-health-check"));
    assert_eq!(serving.count(), 0);
    assert_eq!(gateway.get("/").text(), "serving");
}

#[test]
fn which_responses_are_good() {
    let says = |status: u16, text: &'static str| Origin::serve(move |_| Reply::Full(status, Vec::new(), text.into()));
    let cases = [
        ("usual", says(204, ""), "", None),
        ("redirect", says(302, ""), "", Some("GET /healthz answered 302")),
        ("allowed", says(302, ""), r#"expected_statuses = [200, "300-399"]"#, None),
        ("other", says(204, ""), r#"expected_statuses = [200, "300-399"]"#, Some("GET /healthz answered 204")),
        ("up", says(200, "status: up"), r#"body_contains = "up""#, None),
        (
            "down",
            says(200, "status: down"),
            r#"body_contains = "up""#,
            Some("GET /healthz answered without the expected text"),
        ),
    ];
    let mut config = route("usual", &[]);
    for (name, origin, lines, _) in &cases {
        config += &format!(
            "[upstreams.{name}]\nendpoints = [\"{}\"]\n[upstreams.{name}.health]\npath = \"/healthz\"\ninterval = \"50ms\"\nunhealthy_threshold = 1\n{lines}\n",
            origin.url()
        );
    }
    let gateway = gateway(&config);
    for (name, origin, _, failure) in &cases {
        match failure {
            Some(failure) => {
                assert_eq!(out(&gateway, name, &origin.url()), format!("check-failed: 1 check failed: {failure}"));
            }
            None => {
                eventually(name, || checks(&gateway, name, &origin.url())[0] >= 2);
                assert_eq!(checks(&gateway, name, &origin.url())[1], 0, "{name}");
            }
        }
    }
}

#[test]
fn checks_of_tcp_and_tls() {
    let certs = Certs::new();
    let plain = Origin::named("plain");
    let secret = Origin::serve_tls(certs.leaf(&["127.0.0.1"]).server_config(&[]), |_| Reply::text("secret"));
    let (other, dead) = (Certs::new(), format!("http://{}", nobody()));
    let url = format!("https://{}", secret.address());
    let upstream = |name: &str, url: &str, kind: &str, ca: &Certs| {
        format!(
            "[upstreams.{name}]\nendpoints = [\"{url}\"]\ntls = {{ ca = \"${{file:{}}}\" }}\nhealth = {{ type = \"{kind}\", interval = \"50ms\", unhealthy_threshold = 1 }}\n",
            ca.ca().display()
        )
    };
    let gateway = gateway(
        &[
            upstream("open", &plain.url(), "tcp", &certs),
            upstream("closed", &dead, "tcp", &certs),
            upstream("known", &url, "tls", &certs),
            upstream("unknown", &url, "tls", &other),
            route("open", &[]),
        ]
        .concat(),
    );
    for (name, url) in [("open", &plain.url()), ("known", &url)] {
        eventually(name, || checks(&gateway, name, url)[0] >= 2);
        assert_eq!(checks(&gateway, name, url)[1], 0, "{name}");
    }
    assert!(out(&gateway, "closed", &dead).contains("refused"), "{}", out(&gateway, "closed", &dead));
    let why = out(&gateway, "unknown", &url);
    assert!(why.starts_with("check-failed: 1 check failed: TLS handshake failed"), "{why}");
    assert_eq!(plain.count() + secret.count(), 0, "a connection is all that is tried");
    let refused = setup().refused(&with_base(&to(&[&plain.url()], r#"health = { type = "tls" }"#)));
    assert!(refused.stderr.contains("upstreams.u.health") && refused.stderr.contains("https"), "{}", refused.stderr);
}

#[test]
fn checks_by_the_protocol_of_grpc() {
    let origin = H2Origin::serve(None, |request| async move {
        let path = request.uri().path().to_owned();
        let asked = request.into_body().collect().await.expect("the request").to_bytes();
        assert_eq!(path, "/grpc.health.v1.Health/Check");
        let status = if asked.ends_with(b"shop.Orders") { 1 } else { 2 };
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let message = full(vec![0, 0, 0, 0, 2, 8, status]).with_trailers(std::future::ready(Some(Ok(trailers))));
        let mut response = http::Response::new(message.boxed());
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        response
    });
    let url = format!("http://{}", origin.address());
    let upstream = |name: &str, service: &str| {
        format!(
            "[upstreams.{name}]\nendpoints = [\"{url}\"]\nprotocol = \"h2c\"\nhealth = {{ type = \"grpc\", service_name = \"{service}\", interval = \"50ms\", unhealthy_threshold = 1 }}\n"
        )
    };
    let web = Origin::named("web");
    let gateway = gateway(
        &[
            upstream("orders", "shop.Orders"),
            upstream("carts", "shop.Carts"),
            format!(
                "[upstreams.web]\nendpoints = [\"{}\"]\nhealth = {{ type = \"grpc\", unhealthy_threshold = 1 }}\n",
                web.url()
            ),
            route("orders", &[]),
        ]
        .concat(),
    );
    eventually("checks that pass", || checks(&gateway, "orders", &url)[0] >= 2);
    assert_eq!(out(&gateway, "carts", &url), "check-failed: 1 check failed: the service is NOT_SERVING");
    assert!(out(&gateway, "web", &web.url()).starts_with("check-failed: 1 check failed: "), "a server of HTTP/1");
}

#[test]
fn a_check_that_hangs_fails_by_its_timeout_and_holds_up_no_other() {
    let hangs = Origin::serve(|request| match request.target.as_str() {
        "/healthz" => Reply::script(|conn| conn.wait_for_close()),
        _ => Reply::text("hangs"),
    });
    let well = Origin::named("well");
    let health = r#"health = { path = "/healthz", interval = "50ms", timeout = "300ms", unhealthy_threshold = 2 }"#;
    let gateway = gateway(&to(&[&hangs.url(), &well.url()], health));
    assert_eq!(out(&gateway, "u", &hangs.url()), "check-failed: 2 checks failed: no result after 300ms");
    let [_, failed] = checks(&gateway, "u", &hangs.url());
    let [passed, _] = checks(&gateway, "u", &well.url());
    assert!(passed > failed, "{passed} checks beside {failed} that hung");
    assert_eq!(gateway.get("/").text(), "well");
    eventually("the connections of checks to be closed", || well.open() <= 1);
}

#[test]
fn an_endpoint_that_flaps_stays_in_and_a_slow_one_too() {
    let turn = AtomicBool::new(false);
    let flaps = Origin::serve(move |_| Reply::status(if turn.fetch_xor(true, SeqCst) { 503 } else { 200 }));
    let (_keep, never) = mpsc::channel::<()>();
    let never = Mutex::new(never);
    let slow = Origin::serve(move |_| {
        let _ = never.lock().expect("a server of one thread").recv_timeout(Duration::from_millis(30));
        Reply::text("slow")
    });
    let health = r#"health = { path = "/healthz", interval = "50ms", unhealthy_threshold = 2 }"#;
    let gateway = gateway(&to(&[&flaps.url(), &slow.url()], health));
    eventually("many checks", || checks(&gateway, "u", &flaps.url())[1] >= 6);
    for origin in [&flaps, &slow] {
        let known = address(&gateway, "u", &origin.url());
        assert_eq!(
            (&known["state"], known["changes"].as_array().map(Vec::len)),
            (&"healthy".into(), Some(0)),
            "{known}"
        );
    }
}

#[test]
fn if_all_are_out_requests_go_to_them_as_if_none_were() {
    let (a, check, _) = switched("a");
    check.store(500, SeqCst);
    let health = r#"health = { path = "/healthz", interval = "50ms", unhealthy_threshold = 1 }"#;
    let gateway = gateway(&to(&[&a.url()], health));
    out(&gateway, "u", &a.url());
    assert_eq!(gateway.get("/").text(), "a");
}

#[test]
fn a_check_that_passes_finds_an_address_reachable_again() {
    let dead = nobody();
    let url = format!("http://{dead}");
    let health = r#"health = { type = "tcp", interval = "50ms", unhealthy_threshold = 1000 }"#;
    let gateway = gateway(&to(&[&url], health));
    assert!([502, 503].contains(&gateway.get("/").status));
    assert_eq!(out(&gateway, "u", &url), "unreachable: takes no connections");
    let _listening = std::net::TcpListener::bind(dead).expect("the port is still free");
    // No request tries it.
    eventually_healthy(&gateway, "u", &url);
}

#[test]
fn a_reload_makes_no_check_early_and_ends_those_that_it_takes_away() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let health = r#"health = { path = "/healthz", interval = "1h" }"#;
    let gateway = gateway(&to(&[&a.url()], health));
    eventually("a first check at once", || a.count() == 1);
    for weight in 1..5 {
        let both = format!(
            "[upstreams.u]\nendpoints = [\"{}\", {{ url = \"{}\", weight = {weight} }}]\n{health}\n{}",
            a.url(),
            b.url(),
            route("u", &[])
        );
        gateway.reload(&with_base(&both));
        eventually("a check of what is new", || b.count() >= 1);
    }
    assert_eq!((a.count(), b.count()), (1, 1), "one check an hour, whatever is reloaded");

    let (c, check, _) = switched("c");
    check.store(500, SeqCst);
    let often = r#"health = { path = "/healthz", interval = "50ms", unhealthy_threshold = 1 }"#;
    gateway.reload(&with_base(&to(&[&c.url()], often)));
    out(&gateway, "u", &c.url());
    // The defaults' checks can be switched off.
    let defaults = format!("[defaults.upstream]\n{often}\n");
    gateway.reload(&with_base(&(defaults + &to(&[&c.url()], r#"health = { type = "off" }"#))));
    eventually_healthy(&gateway, "u", &c.url());
    let before = c.count();
    assert_eq!(gateway.get("/").text(), "c");
    assert_eq!(c.count(), before + 1, "no check any more");
}

#[test]
fn gateway_errors_in_a_row_eject_an_endpoint_for_a_time_that_grows() {
    let (a, _, status) = switched("a");
    let b = Origin::named("b");
    status.store(503, SeqCst);
    let detection = r#"outlier_detection = { consecutive_gateway_errors = 3, interval = "1s", base_ejection_time = "300ms", max_ejection_time = "500ms" }"#;
    // Each worker sees some of the errors, and they count together.
    let two = BASE.replace("workers = 1", "workers = 2");
    let gateway = setup().start(&format!("{two}{}", to(&[&a.url(), &b.url()], detection)));
    let mut errors = 0;
    let why = eventually_some("an ejection", || {
        errors += usize::from(gateway.get("/").status == 503);
        let change = address(&gateway, "u", &a.url())["changes"][0]["evidence"].clone();
        change.as_str().map(str::to_owned)
    });
    assert_eq!(why, "ejected for 300ms: 3 gateway errors in a row, the last was the status 503");
    assert_eq!(errors, 3);
    eventually("the second ejection, as long as one may be", || {
        gateway.get("/");
        let changes = address(&gateway, "u", &a.url())["changes"].to_string();
        changes.contains("ejected for 500ms: 3 gateway errors in a row")
    });
    gateway.wait_log("the end of one", |line| line["message"] == "the endpoint is back" && line["reason"] == "ejected");
    status.store(200, SeqCst);
    eventually("requests to it", || gateway.get("/").text() == "a");
    eventually_healthy(&gateway, "u", &a.url());
    let labels = [("endpoint", a.address().to_string()), ("reason", "ejected".to_owned())];
    let labels = labels.each_ref().map(|(name, value)| (*name, value.as_str()));
    assert!(gateway.metric("sluice_endpoint_outs_total", &labels).is_some_and(|outs| outs >= 2.0));
}

#[test]
fn server_errors_in_a_row_eject_only_where_told_so() {
    for (rule, ejects) in [("consecutive_5xx = 4", true), ("consecutive_5xx = 0", false)] {
        let (a, _, status) = switched("a");
        let b = Origin::named("b");
        status.store(500, SeqCst);
        let detection = format!("outlier_detection = {{ consecutive_gateway_errors = 2, {rule} }}");
        let gateway = gateway(&to(&[&a.url(), &b.url()], &detection));
        let mut client = gateway.client();
        for _ in 0..20 {
            client.get("/");
        }
        assert_eq!(a.count(), if ejects { 4 } else { 10 }, "{rule}");
        if ejects {
            let why = "ejected: ejected for 30s: 4 server errors in a row, the last was the status 500";
            assert_eq!(out(&gateway, "u", &a.url()), why);
        }
    }
}

#[test]
fn how_an_endpoint_can_fail() {
    let grpc = || {
        Reply::Full(
            200,
            vec![("content-type".into(), "application/grpc".into()), ("grpc-status".into(), "14".into())],
            vec![],
        )
    };
    let trailers = b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n\r\n0\r\ngrpc-status: 4\r\n\r\n";
    let cases = [
        ("trailers", Origin::serve(|_| Reply::Raw(trailers.to_vec())), "DEADLINE_EXCEEDED of gRPC"),
        ("hangs", Origin::serve(|_| Reply::script(|conn| conn.wait_for_close())), "no response in time"),
        ("closes", Origin::serve(|_| Reply::Close), "a connection that broke"),
        ("babbles", Origin::serve(|_| Reply::Raw(b"nonsense\r\n\r\n".to_vec())), "a malformed response"),
        ("grpc", Origin::serve(move |_| grpc()), "UNAVAILABLE of gRPC"),
        ("gateway", Origin::serve(|_| Reply::status(502)), "the status 502"),
    ];
    let mut config = String::new();
    for (name, origin, _) in &cases {
        // The others have the time that a busy machine needs.
        let first_byte = if *name == "hangs" { "50ms" } else { "10s" };
        config += &format!(
            "[upstreams.{name}]\nendpoints = [\"{}\"]\noutlier_detection = {{ consecutive_gateway_errors = 2, max_ejection_percent = 100 }}\n[routes.{name}]\nmatch = {{ path = \"/{name}\" }}\nupstream = \"{name}\"\ntimeouts = {{ first_byte = \"{first_byte}\" }}\n",
            origin.url()
        );
    }
    let gateway = gateway(&config);
    for (name, origin, failure) in &cases {
        let target = format!("/{name}");
        gateway.request("POST", &target, &[], b"x");
        assert_eq!(address(&gateway, name, &origin.url())["state"], "healthy", "{name}: one failure");
        gateway.request("POST", &target, &[], b"x");
        let why = format!("ejected: ejected for 30s: 2 gateway errors in a row, the last was {failure}");
        assert_eq!(out(&gateway, name, &origin.url()), why, "{name}");
    }
}

#[test]
fn what_comes_behind_a_good_head_counts_too() {
    let broken = || Reply::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf".to_vec());
    let message = |status: u8| {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n\r\n";
        Reply::Raw(format!("{head}5\r\n\0\0\0\0\0\r\n0\r\ngrpc-status: {status}\r\n\r\n").into_bytes())
    };
    let origin = Origin::serve(move |request| match request.target.as_str() {
        "/broken" => Reply::script(move |conn| {
            let Reply::Raw(bytes) = broken() else { unreachable!() };
            conn.write(bytes);
        }),
        "/hold" => Reply::script(|conn| {
            conn.write("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf");
            conn.wait_for_close();
        }),
        "/internal" => message(13),
        "/invalid" => message(3),
        _ => Reply::text("well"),
    });
    let detection = "outlier_detection = { consecutive_gateway_errors = 3, consecutive_5xx = 4, max_ejection_percent = 100, base_ejection_time = \"1ms\" }";
    let gateway = gateway(&to(&[&origin.url()], detection));
    let ejections = || gateway.metric("sluice_endpoint_outs_total", &[("reason", "ejected")]).unwrap_or_default();
    let broken = |times: usize| {
        for _ in 0..times {
            assert!(gateway.client().try_request("GET", "/broken", &[], b"").is_err());
        }
    };
    let evidence = |expected: &str| {
        gateway.wait_log("the ejection", |line| {
            line["evidence"].as_str().is_some_and(|evidence| evidence.ends_with(expected))
        });
    };
    broken(2);
    assert_eq!(gateway.get("/").text(), "well");
    broken(2);
    assert_eq!(ejections(), 0.0, "a good one was between them");
    // A client that leaves in the middle of a body is neither good nor bad.
    for _ in 0..4 {
        let mut leaves = gateway.client();
        leaves.send(leaves.format("GET", "/hold", &[], b""));
        assert_eq!(leaves.read_head().second_word(), "200");
        drop(leaves);
        eventually("the upstream to hear of it", || origin.open() == 0);
    }
    assert_eq!(ejections(), 0.0);
    broken(1);
    evidence("3 gateway errors in a row, the last was a body that broke off");
    // Statuses of gRPC behind a message.
    for _ in 0..4 {
        gateway.request("POST", "/invalid", &[], b"x");
    }
    assert_eq!(ejections(), 1.0, "an error of the caller");
    for _ in 0..4 {
        gateway.request("POST", "/internal", &[], b"x");
    }
    evidence("4 server errors in a row, the last was INTERNAL of gRPC");
}

#[test]
fn what_clients_do_ejects_nobody() {
    let origin = Origin::serve(|request| match request.target.as_str() {
        "/hold" => Reply::script(|conn| conn.wait_for_close()),
        _ => Reply::text("well"),
    });
    let detection = "outlier_detection = { consecutive_gateway_errors = 1, max_ejection_percent = 100 }";
    let gateway = gateway(&to(&[&origin.url()], detection));
    for held in 1..=5 {
        let mut leaves = gateway.client();
        leaves.send(leaves.format("GET", "/hold", &[], b""));
        eventually("the request", || origin.count() == held);
        drop(leaves);
        // A body that its client does not send to the end.
        let mut breaks = gateway.client();
        breaks.send("POST /half HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nhalf");
        drop(breaks);
    }
    eventually("the gateway to give them up", || origin.open() == 0);
    assert_eq!(gateway.get("/").text(), "well");
    let known = address(&gateway, "u", &origin.url());
    assert_eq!((&known["state"], known["changes"].as_array().map(Vec::len)), (&"healthy".into(), Some(0)), "{known}");
}

#[test]
fn no_more_are_ejected_than_may_be() {
    let origins: Vec<Origin> = (0..4).map(|_| Origin::serve(|_| Reply::status(503))).collect();
    let urls: Vec<String> = origins.iter().map(Origin::url).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let detection = "outlier_detection = { consecutive_gateway_errors = 1, max_ejection_percent = 50 }";
    let gateway = gateway(&to(&urls, detection));
    let mut client = gateway.client();
    for _ in 0..40 {
        assert_eq!(client.get("/").status, 503);
    }
    assert_eq!(gateway.metric("sluice_endpoint_out", &[("reason", "ejected")]), Some(2.0));
    assert_eq!(gateway.metric("sluice_endpoint_outs_total", &[("reason", "ejected")]), Some(2.0));
}

#[test]
fn a_success_rate_below_the_others_ejects() {
    let (b, c) = (Origin::named("b"), Origin::named("c"));
    let turn = AtomicBool::new(false);
    let a = Origin::serve(move |_| Reply::status(if turn.fetch_xor(true, SeqCst) { 500 } else { 200 }));
    let detection = r#"outlier_detection = { consecutive_gateway_errors = 0, interval = "1s", success_rate_minimum_hosts = 3, success_rate_request_volume = 10, success_rate_stdev_factor = 1000 }"#;
    let gateway = gateway(&to(&[&a.url(), &b.url(), &c.url()], detection));
    let mut client = gateway.client();
    let evidence = eventually_some("an ejection", || {
        for _ in 0..30 {
            client.get("/");
        }
        address(&gateway, "u", &a.url())["out"][0]["evidence"].as_str().map(str::to_owned)
    });
    assert!(
        evidence.starts_with("ejected for 30s: ") && evidence.contains("requests failed: a success rate of"),
        "{evidence}"
    );
    for other in [&b, &c] {
        assert_eq!(address(&gateway, "u", &other.url())["state"], "healthy");
    }
}

#[test]
fn a_latency_far_above_the_others_ejects() {
    let (b, c) = (Origin::named("b"), Origin::named("c"));
    let (_keep, never) = mpsc::channel::<()>();
    let never = Mutex::new(never);
    let a = Origin::serve(move |_| {
        let _ = never.lock().expect("one request at a time").recv_timeout(Duration::from_millis(100));
        Reply::text("a")
    });
    let detection = r#"outlier_detection = { interval = "1s", success_rate_request_volume = 3, latency_factor = 3 }"#;
    let gateway = gateway(&to(&[&a.url(), &b.url(), &c.url()], detection));
    let mut client = gateway.client();
    let evidence = eventually_some("an ejection", || {
        client.get("/");
        address(&gateway, "u", &a.url())["out"][0]["evidence"].as_str().map(str::to_owned)
    });
    assert!(evidence.starts_with("ejected for 30s: it takes ") && evidence.contains("(median)"), "{evidence}");
}

#[test]
fn an_ejection_outlives_good_checks_and_reloads_but_not_its_rule() {
    // It says that it is well, and fails every request.
    let (lies, _, status) = switched("lies");
    status.store(503, SeqCst);
    let (b, c) = (Origin::named("b"), Origin::named("c"));
    let health = r#"health = { path = "/healthz", interval = "50ms" }"#;
    let both = format!(
        "{health}\noutlier_detection = {{ consecutive_gateway_errors = 1, base_ejection_time = \"1h\", max_ejection_time = \"2h\" }}"
    );
    let gateway = gateway(&to(&[&lies.url(), &b.url()], &both));
    eventually("its error", || gateway.get("/").status == 503);
    let why = out(&gateway, "u", &lies.url());
    assert_eq!(why, "ejected: ejected for 3600s: 1 gateway error in a row, the last was the status 503");
    let [passed, _] = checks(&gateway, "u", &lies.url());
    eventually("more checks that pass", || checks(&gateway, "u", &lies.url())[0] >= passed + 3);
    gateway.reload(&with_base(&to(&[&lies.url(), &c.url()], &both)));
    assert_eq!(out(&gateway, "u", &lies.url()), why, "one endpoint changes, another one stays out");
    for _ in 0..5 {
        assert_eq!(gateway.get("/").text(), "c");
    }
    gateway.reload(&with_base(&to(&[&lies.url(), &c.url()], health)));
    eventually_healthy(&gateway, "u", &lies.url());
}
