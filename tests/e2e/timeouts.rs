//! Nobody is waited for longer than the configuration says.

use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use sluice_harness::h2::{H2Origin, full};
use sluice_harness::{Certs, Gateway, Origin, Reply, eventually};

use crate::support::{gateway, route};

fn listener(timeouts: &str, upstream: &str) -> Gateway {
    Gateway::start(&format!(
        "[listeners.http]\nbind = \"127.0.0.1:0\"\ntimeouts = {timeouts}\n{}",
        route(upstream, &[])
    ))
}

/// An origin that reads the request and never answers.
fn silent() -> Origin {
    Origin::serve(|_| Reply::script(|conn| conn.wait_for_close()))
}

/// At least the timeout, and far less than the default.
#[track_caller]
fn took(start: Instant, least: Duration) {
    let took = start.elapsed();
    assert!(
        took >= least.mul_f64(0.8) && took < least + Duration::from_secs(5),
        "it took {took:?} instead of {least:?}"
    );
}

#[test]
fn a_head_that_never_ends() {
    let gateway = listener("{ header = \"300ms\" }", &Origin::named("o").url());
    let start = Instant::now();
    let mut client = gateway.client();
    client.send("GET / HTTP/1.1\r\nhost: x\r\nx-slow:");
    let answer = String::from_utf8_lossy(&client.read_to_close()).into_owned();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    took(start, Duration::from_millis(300));
}

#[test]
fn a_connection_without_a_request() {
    let gateway = listener("{ header = \"300ms\" }", &Origin::named("o").url());
    let start = Instant::now();
    gateway.client().read_to_close();
    took(start, Duration::from_millis(300));
}

#[test]
fn an_idle_connection() {
    let origin = Origin::named("o");
    let gateway = listener("{ idle = \"300ms\" }", &origin.url());
    let mut client = gateway.client();
    assert_eq!(client.get("/").status, 200);
    let start = Instant::now();
    client.expect_close();
    took(start, Duration::from_millis(300));
}

#[test]
fn a_tls_handshake_that_never_ends() {
    let certs = Certs::new();
    let leaf = certs.leaf(&["localhost"]);
    let gateway = Gateway::start(&format!(
        "[listeners.http]\nbind = \"127.0.0.1:0\"\ntls = {{ certificates = [\"c\"] }}\ntimeouts = {{ handshake = \"300ms\" }}\n[certificates.c]\ncert = \"${{file:{}}}\"\nkey = \"${{file:{}}}\"\n{}",
        leaf.cert.display(),
        leaf.key.display(),
        route(&Origin::named("o").url(), &[])
    ));
    let start = Instant::now();
    let mut client = gateway.client();
    client.send([22, 3, 1]);
    client.read_to_close();
    took(start, Duration::from_millis(300));
}

#[test]
fn an_upstream_that_never_answers() {
    let origin = silent();
    for (timeouts, least) in [("{ request = \"300ms\" }", 300), ("{ first_byte = \"400ms\" }", 400)] {
        let gateway = gateway(&format!("{}timeouts = {timeouts}\n", route(&origin.url(), &[])));
        let start = Instant::now();
        let response = gateway.get("/");
        assert_eq!(response.status, 504, "{timeouts}");
        took(start, Duration::from_millis(least));
    }
}

#[test]
fn an_address_that_never_accepts() {
    // TEST-NET-1 (RFC 5737): packets to it get lost, or the machine says at once that there is no way.
    let gateway = gateway(&format!("{}timeouts = {{ connect = \"300ms\" }}\n", route("http://192.0.2.1:81", &[])));
    let start = Instant::now();
    let response = gateway.get("/");
    assert!([502, 503, 504].contains(&response.status), "{response:?}");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[test]
fn a_body_that_stops_half_way() {
    let origin = Origin::serve(|r| {
        if r.method == "POST" {
            return Reply::text("late");
        }
        Reply::script(|conn| {
            conn.write("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf");
            conn.wait_for_close();
        })
    });
    let gateway = gateway(&format!("{}timeouts = {{ idle = \"300ms\" }}\n", route(&origin.url(), &[])));
    let start = Instant::now();
    let mut client = gateway.client();
    client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(client.try_read_response("GET").is_err(), "the response looked whole");
    took(start, Duration::from_millis(300));

    let start = Instant::now();
    let mut client = gateway.client();
    client.send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf");
    let answer = String::from_utf8_lossy(&client.read_to_close()).into_owned();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    took(start, Duration::from_millis(300));
}

#[test]
fn a_long_stream_outlives_the_request_timeout() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Arc::new(Mutex::new(wait));
    let origin = Origin::serve(move |_| {
        let wait = wait.clone();
        Reply::script(move |conn| {
            conn.write("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nfir");
            wait.lock().expect("one request").recv().expect("the word to go on");
            conn.write("st!");
        })
    });
    let gateway = gateway(&format!("{}timeouts = {{ request = \"300ms\" }}\n", route(&origin.url(), &[])));
    let mut client = gateway.client();
    client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    client.read_head();
    assert_eq!(client.read_exact(3), b"fir");
    let start = Instant::now();
    eventually("the timeout to be long over", || start.elapsed() > Duration::from_millis(900));
    go.send(()).expect("the origin waits");
    assert_eq!(client.read_exact(3), b"st!");
}

#[test]
fn a_switch_of_protocols_that_is_cut_short_is_not_the_fault_of_the_server() {
    let origin = H2Origin::connecting(None, |request| async move {
        if request.method() == http::Method::CONNECT {
            std::future::pending::<()>().await;
        }
        http::Response::new(full("well"))
    });
    let gateway = gateway(&format!(
        "[upstreams.u]\nendpoints = [\"http://{}\"]\nprotocol = \"h2c\"\n\
         outlier_detection = {{ consecutive_gateway_errors = 1, max_ejection_percent = 100 }}\n\
         [routes.ws]\nmatch = {{ path = \"/ws\" }}\nupstream = \"u\"\ntimeouts = {{ request = \"1s\" }}\n\
         fault = {{ delay = {{ duration = \"900ms\" }} }}\n{}",
        origin.address(),
        route("u", &[])
    ));
    assert_eq!(gateway.get("/").text(), "well");
    for _ in 0..2 {
        let upgrade =
            [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")];
        assert_eq!(gateway.request("GET", "/ws", &upgrade, b"").status, 504);
    }
    let upstreams = gateway.admin("/api/v1/upstreams/u").text();
    assert!(!upstreams.contains("ejected"), "{upstreams}");
}
