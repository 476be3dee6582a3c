//! How the gateway reaches what is behind it.

use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use sluice_harness::frames::Frames;
use sluice_harness::h2::{self, H2, H2Origin, full};
use sluice_harness::origin::nobody;
use sluice_harness::{Certs, Gateway, Origin, Reply, eventually};

use crate::support::{gateway, route, setup, with_base};

#[test]
fn the_next_endpoint_on_connect_failure() {
    let origin = Origin::named("alive");
    let gateway = gateway(&format!(
        "[upstreams.pair]\nendpoints = [\"http://{}\", \"{}\"]\n{}",
        nobody(),
        origin.url(),
        route("pair", &[])
    ));
    let mut client = gateway.client();
    for _ in 0..20 {
        let response = client.request("POST", "/", &[], b"kept");
        assert_eq!((response.status, response.text().as_str()), (200, "alive"));
    }
    assert_eq!(origin.last().text(), "kept", "the body survives the next attempt");
}

#[test]
fn no_endpoint_answers() {
    let gateway = gateway(&route(&format!("http://{}", nobody()), &[]));
    let response = gateway.get("/");
    assert!([502, 503].contains(&response.status), "{response:?}");
}

#[test]
fn a_dead_kept_connection_is_not_an_error() {
    // Closes after each answer without saying so: the next request finds a dead connection in the pool.
    let origin = Origin::serve(|_| {
        Reply::script(|conn| {
            conn.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        })
    });
    let gateway = gateway(&route(&origin.url(), &[]));
    let mut client = gateway.client();
    for n in 0..30 {
        assert_eq!(client.get("/").status, 200, "request {n}");
    }
}

#[test]
fn round_robin_by_weight() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let gateway = gateway(&format!(
        "[upstreams.pair]\nendpoints = [{{ url = \"{}\", weight = 3 }}, {{ url = \"{}\" }}]\n{}",
        a.url(),
        b.url(),
        route("pair", &[])
    ));
    let mut client = gateway.client();
    for _ in 0..40 {
        client.get("/");
    }
    assert_eq!((a.count(), b.count()), (30, 10));
}

#[test]
fn a_weight_of_zero_takes_an_endpoint_out() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let gateway = gateway(&format!(
        "[upstreams.pair]\nendpoints = [{{ url = \"{}\", weight = 0 }}, {{ url = \"{}\" }}]\n{}",
        a.url(),
        b.url(),
        route("pair", &[])
    ));
    for _ in 0..10 {
        assert_eq!(gateway.get("/").text(), "b");
    }
    assert_eq!(a.count(), 0);
}

/// One of two endpoints has a request under way that does not end; where do the next ones go?
#[test]
fn the_way_of_balancing() {
    for (balance, to_the_busy_one) in [("round_robin", 10), ("least_request", 0)] {
        let gate = Arc::new(Mutex::new(()));
        let held = gate.lock().expect("the gate");
        let holding = |name: &'static str| {
            let gate = gate.clone();
            Origin::serve(move |request| {
                if request.target == "/hold" {
                    drop(gate.lock());
                }
                Reply::text(name)
            })
        };
        let (a, b) = (holding("a"), holding("b"));
        let gateway = gateway(&format!(
            "[upstreams.pair]\nendpoints = [\"{}\", \"{}\"]\nbalance = \"{balance}\"\n{}",
            a.url(),
            b.url(),
            route("pair", &[])
        ));
        let mut waiting = gateway.client();
        waiting.send(waiting.format("GET", "/hold", &[], b""));
        eventually("the request that is held", || a.count() + b.count() == 1);
        let busy = if a.count() == 1 { "a" } else { "b" };
        let mut client = gateway.client();
        let seen = (0..20).filter(|_| client.get("/").text() == busy).count();
        assert_eq!(seen, to_the_busy_one, "{balance}");
        drop(held);
        assert_eq!(waiting.read_response("GET").text(), busy);
        eventually("requests to the one that is free again", || client.get("/").text() == busy);
    }
    let refused = setup().refused(&with_base("[upstreams.u]\nbuiltin = \"echo\"\nbalance = \"by_mood\"\n"));
    assert!(refused.stderr.contains("upstreams.u.balance"), "{}", refused.stderr);
}

#[test]
fn names_are_resolved() {
    let origin = Origin::named("by name");
    let url = format!("http://localhost:{}", origin.address().port());
    let gateway = gateway(&format!("{}host = \"upstream\"\n", route(&url, &[])));
    assert_eq!(gateway.get("/").text(), "by name");
    assert_eq!(origin.last().header("host"), Some(&url["http://".len()..]));
}

#[test]
fn a_name_that_does_not_exist() {
    let gateway = gateway(&route("http://no-such-name.invalid:80", &[]));
    let response = gateway.get("/");
    assert!([502, 503].contains(&response.status), "{response:?}");
}

#[test]
fn tls_with_an_authority_of_its_own() {
    let certs = Certs::new();
    let origin = Origin::serve_tls(certs.leaf(&["localhost"]).server_config(&["http/1.1"]), |_| Reply::text("secret"));
    let url = format!("https://localhost:{}", origin.address().port());
    let config = |tls: &str| format!("[upstreams.tls]\nendpoints = [\"{url}\"]\n{tls}\n{}", route("tls", &[]));

    let trusting = gateway(&config(&format!("tls = {{ ca = \"${{file:{}}}\" }}", certs.ca().display())));
    assert_eq!(trusting.get("/").text(), "secret");
    let strict = gateway(&config(""));
    assert!([502, 503].contains(&strict.get("/").status), "an unknown authority");
    let other = Certs::new();
    let wrong = gateway(&config(&format!("tls = {{ ca = \"${{file:{}}}\" }}", other.ca().display())));
    assert!([502, 503].contains(&wrong.get("/").status), "the wrong authority");
    let careless = gateway(&config("tls = { verify = false }"));
    assert_eq!(careless.get("/").text(), "secret");
}

/// What a client remembers of a TLS server goes by its name: sessions of one, and the group that it wanted, are offered to another one, too.
#[test]
fn tls_servers_of_one_name_that_know_nothing_of_each_other() {
    let certs = Certs::new();
    let leaf = || certs.leaf(&["localhost"]);
    let configs = [
        leaf().server_config(&["http/1.1"]),
        leaf().config_with_only(rustls::crypto::aws_lc_rs::kx_group::SECP384R1),
        leaf().config_with_only(rustls::crypto::aws_lc_rs::kx_group::X25519),
        leaf().server_config(&[]),
    ];
    let origins = configs.map(|config| Origin::serve_tls(config, |_| Reply::text("o")));
    let urls = origins.each_ref().map(|origin| format!("https://localhost:{}", origin.address().port()));
    let gateway = gateway(&format!(
        "[upstreams.tls]\nendpoints = {urls:?}\ntls = {{ ca = \"${{file:{}}}\" }}\npool = {{ max_requests_per_connection = 1 }}\n{}",
        certs.ca().display(),
        route("tls", &[])
    ));
    let mut client = gateway.client();
    for n in 0..40 {
        let answer = client.get("/");
        assert_eq!(answer.status, 200, "request {n}: {answer:?}");
    }
    let each = |origin: &Origin| (5..=15).contains(&origin.count()) && origin.connections() >= origin.count();
    assert!(origins.iter().all(each), "a connection for each request");
}

#[test]
fn the_name_in_the_certificate_counts() {
    let certs = Certs::new();
    let origin = Origin::serve_tls(certs.leaf(&["inner.test"]).server_config(&[]), |_| Reply::text("inner"));
    let url = format!("https://127.0.0.1:{}", origin.address().port());
    let config = |name: &str| {
        format!(
            "[upstreams.tls]\nendpoints = [\"{url}\"]\ntls = {{ ca = \"${{file:{}}}\"{name} }}\n{}",
            certs.ca().display(),
            route("tls", &[])
        )
    };
    assert!([502, 503].contains(&gateway(&config("")).get("/").status));
    assert_eq!(gateway(&config(", server_name = \"inner.test\"")).get("/").text(), "inner");
}

async fn greet(request: http::Request<hyper::body::Incoming>) -> http::Response<h2::Body> {
    let version = format!("{:?}", request.version());
    let body = request.into_body().collect().await.expect("the body").to_bytes();
    http::Response::new(full([version.as_bytes(), b" ", &body].concat()))
}

#[test]
fn h2c_upstreams() {
    let origin = H2Origin::serve(None, greet);
    let gateway = gateway(&format!(
        "[upstreams.h2]\nendpoints = [\"http://{}\"]\nprotocol = \"h2c\"\n{}",
        origin.address(),
        route("h2", &[])
    ));
    let mut client = gateway.client();
    for _ in 0..5 {
        assert_eq!(client.request("POST", "/", &[], b"hello").text(), "HTTP/2.0 hello");
    }
    assert_eq!(origin.connections(), 1, "one connection carries all streams");
}

#[test]
fn a_silent_http2_connection_is_pinged_if_configured() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let gateway = gateway(&format!(
        "[upstreams.h2]\nendpoints = [\"http://{}\"]\nprotocol = \"h2c\"\npool = {{ ping_interval = \"50ms\" }}\n{}",
        listener.local_addr().expect("an address"),
        route("h2", &[])
    ));
    let mut client = gateway.client();
    client.send(client.format("GET", "/", &[], b""));
    let mut server = Frames::accept(&listener);
    (0..3).for_each(|_| server.answer_ping());
    server.answer(1);
    assert_eq!(client.read_response("GET").status, 200);
}

/// All of them at the same time: none waits for another.
#[test]
fn more_streams_than_a_server_allows_need_more_connections() {
    let together = Arc::new(tokio::sync::Barrier::new(7));
    let origin = H2Origin::limited(2, move |_| {
        let together = together.clone();
        async move {
            together.wait().await;
            http::Response::new(full("together"))
        }
    });
    let gateway = gateway(&format!(
        "[upstreams.h2]\nendpoints = [\"http://{}\"]\nprotocol = \"h2c\"\n{}",
        origin.address(),
        route("h2", &[])
    ));
    let mut client = H2::connect(gateway.address());
    let request = || client.builder("GET", "/").body(full("")).expect("a request");
    let requests = (0..7).map(|_| request()).collect();
    for answer in client.send_all(requests) {
        assert_eq!(answer.expect("an answer").text(), "together");
    }
    assert!(origin.connections() >= 4);
}

#[test]
fn workers_together_spread_requests_evenly() {
    let origins: Vec<Origin> = ["a", "b", "c", "d"].map(Origin::named).into();
    let urls: Vec<String> = origins.iter().map(Origin::url).collect();
    let toml = with_base(&format!("[upstreams.four]\nendpoints = {urls:?}\n{}", route("four", &[])));
    let gateway = setup().start(&toml.replace("workers = 1", "workers = 8"));
    for _ in 0..160 {
        gateway.get("/");
    }
    let counts: Vec<usize> = origins.iter().map(Origin::count).collect();
    assert!(counts.iter().all(|count| (30..=50).contains(count)), "{counts:?}");
}

#[test]
fn deviations_of_old_servers_can_be_tolerated() {
    for (deviation, response) in [
        ("bare_lf", "HTTP/1.1 200 OK\ncontent-length: 2\nx-a: b\n\nok"),
        ("bare_lf", "HTTP/1.1 200 OK\r\ncontent-length: 2\nx-a: b\r\n\nok"),
        ("repeated_content_length", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-a: b\r\ncontent-length: 2\r\n\r\nok"),
    ] {
        let origin = Origin::serve(|_| Reply::Raw(response.into()));
        let config = |tolerate: &str| {
            format!(
                "[upstreams.old]\nendpoints = [\"{}\"]\ntolerate = [{tolerate}]\n{}",
                origin.url(),
                route("old", &[])
            )
        };
        assert_eq!(gateway(&config("")).get("/").status, 502, "{response:?}");
        let tolerant = gateway(&config(&format!("{deviation:?}")));
        let mut client = tolerant.client();
        for _ in 0..2 {
            let answer = client.get("/");
            assert_eq!((answer.status, answer.text().as_str(), answer.header("x-a")), (200, "ok", Some("b")));
        }
    }
    let lengths =
        Origin::serve(|_| Reply::Raw("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok".into()));
    let all = "tolerate = [\"bare_lf\", \"repeated_content_length\"]";
    let config = format!("[upstreams.old]\nendpoints = [\"{}\"]\n{all}\n{}", lengths.url(), route("old", &[]));
    assert_eq!(gateway(&config).get("/").status, 502, "two lengths that differ");
}

#[test]
fn h2_upstreams_over_tls_by_alpn() {
    let certs = Certs::new();
    let origin = H2Origin::serve(Some(certs.leaf(&["localhost"]).server_config(&["h2", "http/1.1"])), greet);
    for protocol in ["auto", "h2"] {
        let gateway = gateway(&format!(
            "[upstreams.h2]\nendpoints = [\"https://localhost:{}\"]\nprotocol = \"{protocol}\"\ntls = {{ ca = \"${{file:{}}}\" }}\n{}",
            origin.address().port(),
            certs.ca().display(),
            route("h2", &[])
        ));
        assert_eq!(gateway.request("POST", "/", &[], b"hello").text(), "HTTP/2.0 hello", "{protocol}");
    }
}

#[test]
fn grpc_passes_with_its_trailers() {
    let origin = H2Origin::serve(None, |request| async move {
        assert_eq!(request.headers()["te"], "trailers");
        let body = request.into_body().collect().await.expect("the body").to_bytes();
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        let body = Full::new(body).with_trailers(std::future::ready(Some(Ok(trailers))));
        let body = body.map_err(|never| match never {}).boxed();
        http::Response::builder().header("content-type", "application/grpc").body(body).expect("a response")
    });
    let gateway = gateway(&format!(
        "[upstreams.grpc]\nendpoints = [\"http://{}\"]\nprotocol = \"h2c\"\n{}",
        origin.address(),
        route("grpc", &[])
    ));
    let mut client = H2::connect(gateway.address());
    let request = client
        .builder("POST", "/echo.Echo/Say")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(full("\0\0\0\0\x02hi"))
        .expect("a request");
    let answer = client.send(request);
    assert_eq!((answer.status, &answer.body[..]), (200, &b"\0\0\0\0\x02hi"[..]));
    assert_eq!(answer.trailers.expect("trailers")["grpc-status"], "0");
}

#[test]
fn the_built_in_upstreams() {
    let gateway = gateway(
        r#"
[upstreams.mirror]
builtin = "echo"
[upstreams.codes]
builtin = "status"
[routes.echo]
match = { path = "/echo/**" }
upstream = "mirror"
[routes.status]
match = { path = "/status/**" }
upstream = "codes"
rewrite = { strip_prefix = "/status" }
"#,
    );
    let seen = gateway.request("POST", "/echo/a?b=c", &[("x-mine", "1")], b"hello").json();
    assert_eq!((&seen["method"], &seen["path"], &seen["body"]), (&"POST".into(), &"/echo/a".into(), &"hello".into()));
    assert_eq!((&seen["query"]["b"], &seen["headers"]["x-mine"]), (&"c".into(), &"1".into()));
    assert_eq!(gateway.get("/status/418").status, 418);
}

#[test]
fn idle_connections_are_let_go() {
    let origin = Origin::named("o");
    let gateway = gateway(&format!(
        "[upstreams.one]\nendpoints = [\"{}\"]\npool = {{ idle_timeout = \"200ms\" }}\n{}",
        origin.url(),
        route("one", &[])
    ));
    assert_eq!(gateway.get("/").status, 200);
    eventually("the idle connection to be closed", || origin.open() == 0);
    assert_eq!(gateway.get("/").status, 200);
    assert_eq!(origin.connections(), 2);
}

#[test]
fn idle_connections_are_bounded() {
    let origin = Origin::named("o");
    let gateway = Gateway::start(&with_base(&format!(
        "[upstreams.one]\nendpoints = [\"{}\"]\npool = {{ max_idle = 2 }}\n{}",
        origin.url(),
        route("one", &[])
    )));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| gateway.get("/"));
        }
    });
    eventually("the connections over the bound to be closed", || origin.open() <= 2);
}

#[test]
fn client_certificates() {
    let certs = Certs::new();
    let leaf = certs.leaf(&["localhost"]);
    let client = certs.leaf(&["the-gateway"]);
    let origin = Origin::serve_tls(leaf.demanding_config(&certs), |_| Reply::text("known"));
    let config = |lines: &str| {
        format!(
            "[upstreams.tls]\nendpoints = [\"https://localhost:{}\"]\ntls = {{ ca = \"${{file:{}}}\"{lines} }}\n{}",
            origin.address().port(),
            certs.ca().display(),
            route("tls", &[])
        )
    };
    assert!([502, 503].contains(&gateway(&config("")).get("/").status));
    let lines =
        format!(", cert = \"${{file:{}}}\", key = \"${{file:{}}}\"", client.cert.display(), client.key.display());
    assert_eq!(gateway(&config(&lines)).get("/").text(), "known");
}
