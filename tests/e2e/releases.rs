//! Releases: who stays on which side of a split, weights that move while the gateway runs, copies of requests, injected faults.

use std::time::{Duration, Instant};

use serde_json::Value;
use sluice_harness::h2::{H2, full};
use sluice_harness::{Client, Gateway, Origin, Reply, Response, eventually};

use crate::support::{BASE, gateway};

const TOKEN: &str = "a-token-of-some-length";

/// Two upstreams, `blue` and `green`, and a route for everything with these lines.
fn split(blue: &Origin, green: &Origin, route: &str) -> String {
    format!(
        "[upstreams.blue]\nendpoints = [\"{}\"]\n[upstreams.green]\nendpoints = [\"{}\"]\n\
         [routes.shop]\nmatch = {{ path = \"/**\" }}\n{route}\n",
        blue.url(),
        green.url()
    )
}

fn sides() -> (Origin, Origin) {
    (Origin::named("blue"), Origin::named("green"))
}

/// [`BASE`] with a token and this many workers.
fn base(workers: usize) -> String {
    BASE.replace("workers = 1", &format!("workers = {workers}"))
        .replace("[admin]\n", &format!("[admin]\ntoken = \"{TOKEN}\"\n"))
}

fn put_weights(gateway: &Gateway, body: &str) -> Response {
    let authorization = format!("Bearer {TOKEN}");
    Client::connect(gateway.address_of("admin")).request(
        "PUT",
        "/api/v1/routes/shop/weights",
        &[("authorization", &authorization), ("content-type", "application/json")],
        body.as_bytes(),
    )
}

/// The sides of a hundred callers by a header, each on a connection of its own and so on any worker.
fn sides_of_callers(gateway: &Gateway) -> Vec<String> {
    let caller = |i: usize| gateway.request("GET", "/", &[("x-user", &format!("user-{i}"))], b"").text();
    (0..100).map(caller).collect()
}

fn on_green(sides: &[String]) -> usize {
    sides.iter().filter(|side| *side == "green").count()
}

#[test]
fn a_caller_stays_on_its_side_on_every_worker_and_gateway_while_weights_move() {
    let (blue, green) = sides();
    let route = "upstreams = { blue = 80, green = 20 }\nsticky = { by = \"header:x-user\" }";
    let config = base(2) + &split(&blue, &green, route);
    let (one, other) = (Gateway::start(&config), Gateway::start(&config));
    let few = sides_of_callers(&one);
    assert!((8..=36).contains(&on_green(&few)), "{} of 100", on_green(&few));
    assert_eq!(sides_of_callers(&one), few);
    assert_eq!(sides_of_callers(&other), few, "another gateway has the same callers on each side");
    one.reload(&config.replace("blue = 80, green = 20", "blue = 50, green = 50"));
    let half = sides_of_callers(&one);
    assert!(on_green(&half) > on_green(&few));
    assert!(few.iter().zip(&half).all(|(before, after)| before == after || after == "green"), "nobody goes back");
    assert_eq!(put_weights(&one, r#"{"weights": {"blue": 80, "green": 20}}"#).status, 200);
    assert_eq!(sides_of_callers(&one), few, "and who has moved comes back to where it was");
}

#[test]
fn a_caller_is_known_by_a_parameter_of_the_query_or_of_the_path() {
    let (blue, green) = sides();
    let route = "upstreams = { blue = 1, green = 1 }\nsticky = { by = [\"query:user\", \"param:user\"] }";
    let gateway = gateway(&split(&blue, &green, route).replace("\"/**\"", "\"/of/{user}\""));
    let of = |target: &dyn Fn(usize) -> String| -> Vec<String> {
        (0..40).map(|user| gateway.get(&target(user)).text()).collect()
    };
    let by_path = of(&|user| format!("/of/{user}"));
    assert!((5..=35).contains(&on_green(&by_path)), "{by_path:?}");
    assert_eq!(of(&|user| format!("/of/x?user={user}")), by_path, "the query goes first, and has the same values");
    assert_eq!(of(&|user| format!("/of/{user}?a=b")), by_path);
}

#[test]
fn a_caller_without_a_key_gets_a_cookie() {
    let (blue, green) = sides();
    let route = "upstreams = { blue = 1, green = 1 }\nsticky = { by = [\"header:x-user\", \"cookie:release\"], max_age = \"7d\" }";
    let gateway = gateway(&split(&blue, &green, route));
    let mut browsers = Vec::new();
    for _ in 0..40 {
        let first = gateway.get("/");
        let cookie = first.header("set-cookie").expect("a cookie").to_owned();
        let (pair, attributes) = cookie.split_once(';').expect("attributes");
        assert_eq!(attributes, " Path=/; HttpOnly; SameSite=Lax; Max-Age=604800");
        assert!(
            pair.strip_prefix("release=").and_then(|slot| slot.parse().ok()).is_some_and(|slot: u32| slot < 10_000)
        );
        browsers.push((first.text(), pair.to_owned()));
    }
    // Their slots are by chance.
    assert!((5..=35).contains(&on_green(&browsers.iter().map(|(side, _)| side.clone()).collect::<Vec<_>>())));
    for (side, cookie) in &browsers {
        let again = gateway.request("GET", "/", &[("cookie", &format!("a=b; {cookie}"))], b"");
        assert_eq!((&again.text(), again.header("set-cookie")), (side, None), "{cookie}");
    }
    let known = gateway.request("GET", "/", &[("x-user", "ada")], b"");
    assert_eq!(known.header("set-cookie"), None, "it has another key");
}

#[test]
fn weights_move_at_once_by_the_admin_api_and_the_file_wins_at_the_next_reload() {
    let (blue, green) = sides();
    let config = base(2) + &split(&blue, &green, "upstreams = { blue = 1, green = 0 }");
    let gateway = Gateway::start(&config);
    let all = |side: &str| (0..20).all(|_| gateway.get("/").text() == side);
    assert!(all("blue"));
    let done = put_weights(&gateway, r#"{"weights": {"blue": 0, "green": 1}}"#);
    let answer = done.json();
    assert_eq!((done.status, &answer["saved"], &answer["before"]["blue"]), (200, &false.into(), &1.into()), "{answer}");
    assert!(answer["note"].as_str().is_some_and(|note| note.contains("until the next reload")), "{answer}");
    assert!(all("green"), "on all workers, with the first request");
    let shown = gateway.admin("/api/v1/routes").json();
    let route = &shown["routes"][0];
    assert_eq!((&route["action"]["forward"][1]["weight"], &route["weights_until_reload"]), (&1.into(), &true.into()));
    let event = |message: &str| gateway.log().into_iter().find(|line| line["message"] == message);
    let changed = event("weights changed").expect("an event");
    assert_eq!((&changed["route"], &changed["by"]), (&"shop".into(), &"127.0.0.1".into()), "{changed}");
    assert_eq!((&changed["before"], &changed["after"]), (&"blue=1 green=0".into(), &"blue=0 green=1".into()));
    gateway.reload(&config);
    assert!(all("blue"));
    assert!(event("weights of the file hold again").is_some());
    assert_eq!(put_weights(&gateway, "{}").status, 400);
}

#[test]
fn weights_are_saved_with_the_comments_unless_the_file_has_changed() {
    let (blue, green) = sides();
    let lines = "upstreams = { blue = 100, green = 0 }   # a release by hand";
    let config = base(1) + &split(&blue, &green, lines);
    let gateway = Gateway::start(&config);
    let file = gateway.dir().join("gateway.toml");
    let read = || std::fs::read_to_string(&file).expect("the file");
    let saved = put_weights(&gateway, r#"{"weights": {"blue": 25, "green": 75}, "save": true}"#);
    assert_eq!((saved.status, &saved.json()["saved"]), (200, &true.into()), "{}", saved.text());
    let written = config.replace("blue = 100, green = 0", "blue = 25, green = 75");
    assert_eq!(read(), written);
    let weight = || gateway.admin("/api/v1/routes").json()["routes"][0]["action"]["forward"][1]["weight"].clone();
    assert_eq!(weight(), 75);
    assert_eq!(gateway.admin("/api/v1/routes").json()["routes"][0]["weights_until_reload"], false);
    gateway.reload(&written);
    assert_eq!(weight(), 75);
    // Once more, since saving has left the file as it is known here.
    assert_eq!(put_weights(&gateway, r#"{"weights": {"blue": 0, "green": 100}, "save": true}"#).status, 200);
    assert_eq!(put_weights(&gateway, r#"{"weights": {"blue": 25, "green": 75}, "save": true}"#).status, 200);
    // Others without saving them, also those that the file had at the last reload.
    let until_reload = || gateway.admin("/api/v1/routes").json()["routes"][0]["weights_until_reload"].clone();
    for (weights, differ) in [("{\"blue\": 100, \"green\": 0}", true), ("{\"blue\": 25, \"green\": 75}", false)] {
        assert_eq!(put_weights(&gateway, &format!("{{\"weights\": {weights}}}")).status, 200);
        assert_eq!(until_reload(), differ, "{weights}");
    }
    assert_eq!(put_weights(&gateway, r#"{"weights": {"blue": 0, "green": 100}, "save": true}"#).status, 200);
    assert_eq!(put_weights(&gateway, r#"{"weights": {"blue": 25, "green": 75}}"#).status, 200);
    assert_eq!(until_reload(), true, "they were those of the file when it was loaded");
    assert_eq!(put_weights(&gateway, r#"{"weights": {"blue": 25, "green": 75}, "save": true}"#).status, 200);

    let edited = format!("{written}# somebody else is at work\n");
    gateway.write("gateway.toml", &edited);
    let refused = put_weights(&gateway, r#"{"weights": {"blue": 100, "green": 0}, "save": true}"#);
    assert_eq!((refused.status, read()), (409, edited), "{}", refused.text());
    assert_eq!(weight(), 75, "what can't be saved is not done");
}

#[test]
fn saved_weights_outlive_a_reload_that_has_begun_before() {
    let (blue, green) = sides();
    // A reload of many upstreams takes a while.
    let many: String = (0..300).map(|i| format!("[upstreams.u{i}]\nendpoints = [\"http://127.0.0.1:1\"]\n")).collect();
    let gateway = Gateway::start(&(base(1) + &split(&blue, &green, "upstreams = { blue = 1, green = 0 }") + &many));
    let weight = || gateway.admin("/api/v1/routes").json()["routes"][0]["action"]["forward"][1]["weight"].clone();
    for green in 1..=20 {
        let authorization = format!("Bearer {TOKEN}");
        let admin = Client::connect(gateway.address_of("admin"));
        std::thread::scope(|scope| {
            let headers = [("authorization", authorization.as_str())];
            let reload = scope.spawn(move || {
                let mut admin = admin;
                admin.request("POST", "/api/v1/reload", &headers, b"").status
            });
            let save = format!("{{\"weights\": {{\"blue\": 1, \"green\": {green}}}, \"save\": true}}");
            let saved = put_weights(&gateway, &save);
            assert_eq!(saved.status, 200, "{}", saved.text());
            assert_eq!(reload.join().expect("no panic"), 200);
        });
        assert_eq!(weight(), green);
    }
}

/// An origin that answers with what it got, and the one that gets the copies.
fn mirrored(lines: &str, shadow: Origin) -> (Origin, Origin, Gateway) {
    let live = Origin::serve(|request| Reply::text(request.text()));
    let gateway =
        gateway(&split(&live, &shadow, &format!("upstream = \"blue\"\nmirror = {{ upstream = \"green\"{lines} }}")));
    (live, shadow, gateway)
}

fn copies(gateway: &Gateway, outcome: &str) -> f64 {
    gateway.metric("sluice_mirrored_requests_total", &[("route", "shop"), ("outcome", outcome)]).unwrap_or_default()
}

#[test]
fn a_copy_of_each_request_goes_to_the_mirror() {
    let (live, shadow, gateway) = mirrored("", Origin::named("shadow"));
    let chunked =
        "POST /chunked HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n";
    let mut client = gateway.client();
    client.send(chunked);
    assert_eq!(client.read_response("POST").text(), "abcdef");
    assert_eq!(gateway.request("PUT", "/x?y=1", &[("host", "a.test"), ("x-a", "1")], b"body").text(), "body");
    assert_eq!(gateway.get("/empty").status, 200);
    eventually("the copies", || copies(&gateway, "response") == 3.0);
    let mut got = shadow.requests();
    got.sort_by(|a, b| a.target.cmp(&b.target));
    let shown: Vec<_> = got.iter().map(|r| (&*r.method, &*r.target, r.text())).collect();
    let expected = [("POST", "/chunked", "abcdef"), ("GET", "/empty", ""), ("PUT", "/x?y=1", "body")];
    assert_eq!(shown, expected.map(|(method, target, body)| (method, target, body.to_owned())));
    assert!(got.iter().all(|request| request.header("x-sluice-mirror") == Some("shop")), "they are marked");
    assert_eq!((got[2].header("host"), got[2].header("x-a")), (Some("a.test"), Some("1")));
    assert!(live.requests().iter().all(|request| request.header("x-sluice-mirror").is_none()));
}

#[test]
fn a_copy_is_whole_where_the_client_speaks_http2() {
    let (live, shadow, gateway) = mirrored("", Origin::named("shadow"));
    let body = vec![b'x'; 100_000];
    let mut client = H2::connect(gateway.address());
    let request = client.builder("POST", "/").body(full(body.clone())).expect("a request");
    assert_eq!((client.send(request).status, live.count()), (200, 1));
    eventually("the copy", || copies(&gateway, "response") == 1.0);
    assert_eq!(shadow.last().body, body);
}

#[test]
fn a_share_of_requests_is_mirrored() {
    let (_live, shadow, gateway) = mirrored(", percent = 25", Origin::named("shadow"));
    let mut client = gateway.client();
    assert!((0..400).all(|_| client.get("/").status == 200));
    eventually("the copies", || copies(&gateway, "response") as usize == shadow.count());
    assert!((50..=160).contains(&shadow.count()), "{} of 400", shadow.count());
}

#[test]
fn a_mirror_that_hangs_or_is_away_neither_delays_nor_fails_a_request() {
    let hangs = Origin::serve(|_| Reply::script(|connection| connection.wait_for_close()));
    let (_live, _shadow, gateway) = mirrored(", timeout = \"2s\", max_requests = 2", hangs);
    let begun = Instant::now();
    let mut client = gateway.client();
    assert!((0..20).all(|_| client.get("/").status == 200));
    assert!(begun.elapsed() < Duration::from_secs(20), "none has waited for its copy");
    eventually("those in flight end", || copies(&gateway, "timeout") >= 2.0);
    assert!(copies(&gateway, "max-requests") >= 1.0, "others were not sent");

    let away = Origin::named("away");
    let (_live, away, gateway) = mirrored("", away);
    drop(away);
    assert_eq!(gateway.get("/").status, 200);
    eventually("it failed", || copies(&gateway, "failed") == 1.0);
    assert_eq!(gateway.metric("sluice_errors_total", &[("route", "shop")]), None);
}

#[test]
fn a_request_with_a_large_body_is_not_mirrored() {
    let (_live, shadow, gateway) = mirrored(", max_body = 10", Origin::named("shadow"));
    let chunked = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nb\r\n12345678901\r\n0\r\n\r\n";
    let mut client = gateway.client();
    client.send(chunked);
    assert_eq!(client.read_response("POST").text(), "12345678901", "it is passed on all the same");
    assert_eq!(gateway.request("POST", "/", &[], &[b'x'; 11]).status, 200);
    assert_eq!(gateway.request("POST", "/", &[], b"1234567890").status, 200);
    eventually("what became of them", || (copies(&gateway, "max-body"), copies(&gateway, "response")) == (2.0, 1.0));
    assert_eq!(shadow.count(), 1);
    eventually("nothing is kept", || gateway.metric("sluice_buffered_bytes", &[]) == Some(0.0));
}

fn faulty(fault: &str) -> (Origin, Gateway) {
    let origin = Origin::serve(|_| Reply::text("x".repeat(2000)));
    let gateway = gateway(&format!(
        "[upstreams.blue]\nendpoints = [\"{}\"]\n[routes.shop]\nmatch = {{ path = \"/**\" }}\nupstream = \"blue\"\n{fault}\n",
        origin.url()
    ));
    (origin, gateway)
}

fn injected(gateway: &Gateway, fault: &str) -> f64 {
    gateway.metric("sluice_faults_injected_total", &[("route", "shop"), ("fault", fault)]).unwrap_or_default()
}

fn faults_in_log(gateway: &Gateway) -> Value {
    let mut found = Value::Null;
    eventually("the line", || {
        found = gateway.access().last().map(|line| line["faults"].clone()).unwrap_or_default();
        !found.is_null()
    });
    found
}

#[test]
fn an_abort_answers_for_the_upstream_but_not_against_it() {
    let (origin, gateway) = faulty("fault = { abort = { status = 503 } }");
    let response = gateway.get("/");
    assert_eq!((response.status, response.text()), (503, "fault injected\n".into()));
    assert_eq!((origin.count(), injected(&gateway, "abort")), (0, 1.0));
    assert_eq!(faults_in_log(&gateway), serde_json::json!(["abort"]));
    assert_eq!(gateway.metric("sluice_errors_total", &[]), None, "it is no error of anybody");
    assert_eq!(gateway.metric("sluice_upstream_attempt_failures_total", &[]), None);

    let (_origin, gateway) = faulty("fault = { abort = { grpc_status = 14 } }");
    let response = gateway.get("/");
    let of = |name| response.header(name);
    assert_eq!((response.status, of("grpc-status"), of("content-type")), (200, Some("14"), Some("application/grpc")));
}

#[test]
fn a_delay_is_waited_for_and_bounded_by_the_time_of_the_request() {
    let (_origin, gateway) = faulty("fault = { delay = { duration = \"300ms\" } }");
    let begun = Instant::now();
    assert_eq!(gateway.get("/").status, 200);
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!((injected(&gateway, "delay"), faults_in_log(&gateway)), (1.0, serde_json::json!(["delay"])));

    let (origin, gateway) = faulty("fault = { delay = { duration = \"1h\" } }\ntimeouts = { request = \"200ms\" }");
    assert_eq!((gateway.get("/").status, origin.count()), (504, 0));
    let error = gateway.metric("sluice_errors_total", &[("side", "gateway"), ("kind", "injected-delay")]);
    assert_eq!(error, Some(1.0), "the upstream is not to blame");
}

#[test]
fn a_slow_body_comes_at_its_rate() {
    let (_origin, gateway) = faulty("fault = { slow_body = { bytes_per_second = 5000 } }");
    let begun = Instant::now();
    assert_eq!(gateway.get("/").body.len(), 2000);
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    assert_eq!((injected(&gateway, "slow_body"), faults_in_log(&gateway)), (1.0, serde_json::json!(["slow_body"])));
}

#[test]
fn only_requests_with_a_header_get_a_fault() {
    for (condition, faulty_value) in [("\"yes\"", "yes"), ("{ regex = \"y.*\" }", "yeah"), ("{ present = true }", "")] {
        let (_origin, gateway) =
            faulty(&format!("fault = {{ headers = {{ x-fault = {condition} }}, abort = {{ status = 500 }} }}"));
        let status = |headers: &[(&str, &str)]| gateway.request("GET", "/", headers, b"").status;
        assert_eq!((status(&[]), status(&[("x-fault", faulty_value)])), (200, 500), "{condition}");
    }
}

#[test]
fn only_a_share_of_requests_gets_a_fault() {
    let (_origin, gateway) = faulty(
        "fault = { delay = { duration = \"1ms\", percent = 50 }, abort = { status = 500, percent = 25 }, \
         slow_body = { bytes_per_second = \"1GiB\", percent = 50 } }",
    );
    let mut client = gateway.client();
    let aborted = (0..400).filter(|_| client.get("/").status == 500).count();
    assert!((60..=140).contains(&aborted), "{aborted} of 400");
    let (delayed, slow) = (injected(&gateway, "delay") as usize, injected(&gateway, "slow_body") as usize);
    assert!((140..=260).contains(&delayed), "{delayed} of 400");
    assert!((100..=200).contains(&slow), "{slow} of {}", 400 - aborted);
}
