//! Connections on both sides: how long they live, whose key they trust, and clients that close their side early.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::BodyExt as _;
use rustls::version::{TLS12, TLS13};
use sha2::{Digest as _, Sha256};
use sluice_harness::certs::Leaf;
use sluice_harness::frames::{Ended, Frames};
use sluice_harness::h2::{H2, H2Origin, full, until, within};
use sluice_harness::{Certs, Client, Gateway, Origin, Reply, eventually, wire};

use crate::support::{BASE, gateway, route, setup, with_base};

fn pin(leaf: &Leaf) -> String {
    let der = leaf.der();
    let certificate = webpki::EndEntityCert::try_from(&der).expect("a certificate");
    format!("sha256/{}", STANDARD.encode(Sha256::digest(certificate.subject_public_key_info())))
}

#[test]
fn a_pinned_key_is_wanted_beside_the_authority_or_alone() {
    let certs = Certs::new();
    let (leaf, next) = (certs.leaf(&["localhost"]), certs.leaf(&["next.test"]));
    let origin = Origin::serve_tls(leaf.server_config(&["http/1.1"]), |_| Reply::text("pinned"));
    let url = format!("https://localhost:{}", origin.address().port());
    let config =
        |tls: &str| format!("[upstreams.tls]\nendpoints = [\"{url}\"]\ntls = {{ {tls} }}\n{}", route("tls", &[]));
    let (right, wrong) = (pin(&leaf), pin(&next));
    let trusted = format!("ca = \"${{file:{}}}\"", certs.ca().display());

    let rotating = gateway(&config(&format!("{trusted}, pins = [\"{wrong}\", \"{right}\"]")));
    assert_eq!(rotating.get("/").text(), "pinned");
    let alone = gateway(&config(&format!("verify = false, pins = [\"{right}\"]")));
    assert_eq!(alone.get("/").text(), "pinned");
    let beside = gateway(&config(&format!("pins = [\"{right}\"]")));
    assert_eq!(beside.get("/").status, 502, "a pin does not stand for an authority");
    for tls in [format!("{trusted}, pins = [\"{wrong}\"]"), format!("verify = false, pins = [\"{wrong}\"]")] {
        let other = gateway(&config(&tls));
        assert_eq!(other.get("/").status, 502, "{tls}");
        other.wait_log("the pin that was seen", |line| {
            line["detail"].as_str().is_some_and(|detail| detail.contains(&format!("is not pinned: it is `{right}`")))
        });
    }
    let refused = setup().refused(&with_base(&config("pins = [\"sha256/AAAA\"]")));
    assert!(refused.stderr.contains("upstreams.tls.tls.pins"), "{}", refused.stderr);
}

#[test]
fn connections_to_upstreams_get_so_many_requests() {
    let pool = "pool = { max_requests_per_connection = 2 }";
    let origin = Origin::named("one");
    let gateway1 = gateway(&format!("[upstreams.u]\nendpoints = [\"{}\"]\n{pool}\n{}", origin.url(), route("u", &[])));
    let mut client = gateway1.client();
    (0..6).for_each(|_| assert_eq!(client.get("/").text(), "one"));
    assert_eq!(origin.connections(), 3);
    eventually("the connections to be closed", || origin.open() == 0);

    let origin = H2Origin::serve(None, |_| async { http::Response::new(full("two")) });
    let gateway2 = gateway(&format!(
        "[upstreams.u]\nendpoints = [\"http://{}\"]\nprotocol = \"h2c\"\n{pool}\n{}",
        origin.address(),
        route("u", &[])
    ));
    let mut client = gateway2.client();
    (0..6).for_each(|_| assert_eq!(client.get("/").text(), "two"));
    assert_eq!(origin.connections(), 3);
}

#[test]
fn connections_to_upstreams_end_with_their_age() {
    let pool = "pool = { max_connection_age = \"100ms\" }";
    let one = Origin::named("one");
    let two = H2Origin::serve(None, |_| async { http::Response::new(full("two")) });
    let gateway = gateway(&format!(
        "[upstreams.u]\nendpoints = [\"{}\"]\n{pool}\n[upstreams.v]\nendpoints = [\"http://{}\"]\nprotocol = \"h2c\"\n{pool}\n\
         [routes.v]\nmatch = {{ path = \"/v\" }}\nupstream = \"v\"\n{}",
        one.url(),
        two.address(),
        route("u", &[])
    ));
    let mut client = gateway.client();
    // As long as requests come, the connection is not idle.
    eventually("younger connections", || {
        assert_eq!((client.get("/").text().as_str(), client.get("/v").text().as_str()), ("one", "two"));
        one.connections() >= 3 && two.connections() >= 3
    });
    eventually("an old connection that is idle to be closed", || one.open() == 0);
}

/// [`BASE`] with more of its listener.
fn listener(lines: &str, rest: &str) -> String {
    BASE.replace("[listeners.http]\n", &format!("[listeners.http]\n{lines}\n")) + rest
}

#[test]
fn a_client_gets_so_many_requests_on_a_connection() {
    let origin = Origin::named("o");
    let gateway = Gateway::start(&listener("max_requests_per_connection = 3", &route(&origin.url(), &[])));
    let mut client = gateway.client();
    let last: Vec<bool> = (0..3).map(|_| client.get("/").header("connection") == Some("close")).collect();
    assert_eq!(last, [false, false, true]);
    client.expect_close();

    let mut h2 = H2::connect(gateway.address());
    (0..3).for_each(|_| assert_eq!(h2.get("/").status, 200));
    h2.run(|sender| async move { until("the end of the connection", || sender.is_closed()).await });
}

#[test]
fn an_idle_connection_ends_with_its_age() {
    let origin = Origin::named("o");
    let aged =
        |age: &str| Gateway::start(&listener(&format!("max_connection_age = \"{age}\""), &route(&origin.url(), &[])));
    let gateway = aged("100ms");
    let mut client = gateway.client();
    assert_eq!(client.get("/").status, 200);
    client.expect_close();
    let gateway = aged("1s");
    let mut client = gateway.client();
    let mut answered = 0;
    // It may also be closed between two requests.
    while let Ok(response) = client.try_request("GET", "/", &[], b"") {
        answered += 1;
        if response.header("connection").is_some() {
            client.expect_close();
            break;
        }
    }
    assert!(answered > 1, "the first request of a connection does not end it");
}

#[test]
fn streams_may_end_after_the_age_of_their_connection() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Arc::new(Mutex::new(gate));
    let origin = Origin::serve(move |request| match request.target.as_str() {
        "/slow" => {
            let _ = gate.lock().expect("the gate").recv();
            Reply::text("slow")
        }
        "/endless" => Reply::script(|conn| {
            conn.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n");
            conn.wait_for_close();
        }),
        _ => Reply::text("fast"),
    });
    let lines = "max_connection_age = \"100ms\"\nmax_connection_age_grace = \"1m\"";
    let patient = Gateway::start(&listener(lines, &route(&origin.url(), &[])));
    let mut frames = Frames::connect(patient.address());
    let head: [(&[u8], &[u8]); 4] =
        [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/slow")];
    frames.headers(1, &head, true);
    assert_eq!(frames.wait(1), Ended::Connection(0), "the GOAWAY comes while the stream is open");
    go.send(()).expect("the origin waits");
    while frames.wait(1) != Ended::Response(200) {}
    drop((frames, patient));

    let hasty = Gateway::start(&listener(&lines.replace("1m", "100ms"), &route(&origin.url(), &[])));
    let h2 = H2::connect(hasty.address());
    let request = h2.builder("GET", "/endless").body(full("")).expect("a request");
    h2.run(|mut sender| async move {
        let response = within("a head", sender.send_request(request)).await.expect("a head");
        let body = within("the end", response.into_body().collect()).await;
        assert!(body.is_err(), "the connection is closed after the grace: {body:?}");
    });
    eventually("the gateway to hang up on the origin", || origin.open() == 0);
}

/// An origin that answers a path when it is told to: with a body of a length, in chunks, or until it closes.
struct Slow {
    origin: Origin,
    go: mpsc::Sender<()>,
}

impl Slow {
    fn new() -> Slow {
        let (go, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let wait = move || {
            let _ = gate.lock().expect("the gate").recv_timeout(Duration::from_secs(30));
        };
        let origin = Origin::serve(move |request| {
            let (wait, target) = (wait.clone(), request.target.clone());
            match target.as_str() {
                "/head" => {
                    wait();
                    Reply::text("after a while")
                }
                "/chunks" => Reply::script(move |conn| {
                    conn.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
                    conn.write(wire::chunk(b"after "));
                    wait();
                    conn.write(wire::chunk(b"a while"));
                    wait();
                    conn.write("0\r\n\r\n");
                }),
                "/length" => Reply::script(move |conn| {
                    conn.write("HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\nafter ");
                    wait();
                    conn.write("a while");
                }),
                "/silent" => Reply::script(|conn| {
                    conn.wait_for_close();
                }),
                "/stuck" => Reply::script(|conn| {
                    conn.write("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome");
                    conn.wait_for_close();
                }),
                _ => Reply::text("at once"),
            }
        });
        Slow { origin, go }
    }
}

/// What the gateway has sent, without reading it.
fn peeked(client: &Client) -> Vec<u8> {
    let mut bytes = [0; 64];
    let n = client.writer().peek(&mut bytes).expect("bytes from the gateway");
    bytes[..n].to_vec()
}

#[test]
fn a_client_that_sends_no_more_is_served_to_the_end() {
    let Slow { origin, go } = Slow::new();
    let go = || go.send(()).expect("the origin waits");
    let gateway = gateway(&route(&origin.url(), &[]));
    // Before the response: the beginning of the status line shows that the gateway has noticed.
    let mut client = gateway.client();
    client.send("GET /head HTTP/1.1\r\nhost: x\r\n\r\n");
    client.finish();
    assert_eq!(peeked(&client), b"HTTP/1.1 ");
    go();
    let response = client.read_response("GET");
    assert_eq!((response.status, response.text().as_str()), (200, "after a while"));
    client.expect_close();
    // Within chunks: a zero, which belongs to the size of the next one.
    let mut client = gateway.client();
    client.send("GET /chunks HTTP/1.1\r\nhost: x\r\n\r\n");
    client.read_head();
    assert_eq!(client.read_chunk().as_deref(), Some(&b"after "[..]));
    client.finish();
    assert_eq!(peeked(&client), b"0");
    go();
    assert_eq!(client.read_chunk().as_deref(), Some(&b"a while"[..]));
    go();
    assert_eq!(client.read_chunk(), None);
    assert_eq!(client.read_to_close(), b"\r\n");
    // Within a body of known length.
    let mut client = gateway.client();
    client.send("GET /length HTTP/1.1\r\nhost: x\r\n\r\n");
    client.finish();
    go();
    assert_eq!(client.read_response("GET").text(), "after a while");
    client.expect_close();
    for path in ["/head", "/chunks", "/length"] {
        let line = gateway.wait_access("its line", |line| line["path"] == path);
        assert_eq!(line["aborted"], false, "{line}");
    }
    // With further requests behind it.
    let mut client = gateway.client();
    client.send("GET /head HTTP/1.1\r\nhost: x\r\n\r\nGET /second HTTP/1.1\r\nhost: x\r\n\r\nGET /head HTTP/1.1\r\nhost: x\r\n\r\n");
    client.finish();
    go();
    assert_eq!(client.read_response("GET").text(), "after a while");
    assert_eq!(client.read_response("GET").text(), "at once");
    go();
    let last = client.read_response("GET");
    assert_eq!((last.text().as_str(), last.header("connection")), ("after a while", Some("close")));
    client.expect_close();
}

#[test]
fn a_client_that_ends_its_side_of_tls_is_served_to_the_end() {
    let Slow { origin, go } = Slow::new();
    let certs = Certs::new();
    let leaf = certs.leaf(&["localhost"]);
    let toml = listener(
        "tls = { certificates = [\"a\"] }",
        &format!(
            "[certificates.a]\ncert = \"{}\"\nkey = \"{}\"\n{}",
            leaf.cert.display(),
            leaf.key.display(),
            route(&origin.url(), &[])
        ),
    );
    let gateway = Gateway::start(&toml);
    for version in [&TLS12, &TLS13] {
        for target in ["/head", "/length"] {
            let config = certs.client_config(&["http/1.1"], &[version]);
            let mut client = Client::connect_tls(gateway.address(), "localhost", config).expect("a handshake");
            client.send(format!("GET {target} HTTP/1.1\r\nhost: localhost\r\n\r\n"));
            client.finish_tls();
            client.finish();
            go.send(()).expect("the origin waits");
            assert_eq!(client.read_response("GET").text(), "after a while", "{version:?} {target}");
        }
    }
}

#[test]
fn a_client_that_has_left_is_noticed() {
    let Slow { origin, go: _go } = Slow::new();
    let gateway = gateway(&route(&origin.url(), &[]));
    // Closed before the response: a half-closed client would have got the beginning of a status line.
    let mut client = gateway.client();
    client.send("GET /silent HTTP/1.1\r\nhost: x\r\n\r\n");
    eventually("the request at the origin", || origin.open() == 1);
    drop(client);
    eventually("the gateway to hang up on the origin", || origin.open() == 0);
    // Closed within a chunked body: it would have got the beginning of a chunk.
    let mut client = gateway.client();
    client.send("GET /chunks HTTP/1.1\r\nhost: x\r\n\r\n");
    client.read_head();
    assert_eq!(client.read_chunk().as_deref(), Some(&b"after "[..]));
    drop(client);
    eventually("the client to be missed", || gateway.access().iter().any(|line| line["path"] == "/chunks"));
    // Reset within a body of known length, or closed and silence.
    for reset in [true, false] {
        let mut client = gateway.client();
        client.send("GET /stuck HTTP/1.1\r\nhost: x\r\n\r\n");
        if reset {
            // The kernel resets a connection that is closed with unread bytes.
            client.writer().peek(&mut [0]).expect("a byte of the response");
        } else {
            client.read_head();
            client.read_exact(4);
        }
        drop(client);
        eventually("the client to be missed", || {
            gateway.access().iter().filter(|line| line["path"] == "/stuck").count() == if reset { 1 } else { 2 }
        });
    }
    let left = gateway.access();
    assert!(left.iter().all(|line| line["error"] == "client-aborted"), "{left:?}");
    assert_eq!(gateway.get("/").text(), "at once");
}

#[test]
fn an_exchange_ends_with_its_longest_life() {
    let origin = Origin::serve(|request| match request.target.as_str() {
        "/silent" => Reply::script(|conn| conn.wait_for_close()),
        "/ws" => Reply::script(|conn| {
            conn.write("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
            while conn.try_write(b"tick").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        }),
        _ => Reply::script(|conn| {
            conn.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
            while conn.try_write(wire::chunk(b"tick")).is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        }),
    });
    let gateway = gateway(&format!("{}timeouts = {{ max_stream_duration = \"300ms\" }}\n", route(&origin.url(), &[])));
    let error = |path: &str| {
        let line = gateway.wait_access("the line", |line| line["path"] == path);
        (line["status"].as_u64(), line["error"].clone(), line["aborted"].as_bool())
    };
    let ended = serde_json::json!("max-stream-duration");
    // Parts come all the time, so that no other limit ends it.
    let mut client = gateway.client();
    client.send("GET /endless HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(client.try_read_response("GET").is_err(), "broken off");
    assert_eq!(error("/endless"), (Some(200), ended.clone(), Some(true)));
    let mut client = gateway.client();
    client.send("GET /ws HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
    client.read_head();
    assert!(client.read_to_close().starts_with(b"ticktick"));
    assert_eq!(error("/ws"), (Some(101), ended.clone(), Some(true)));
    assert_eq!(gateway.get("/silent").status, 504);
    assert_eq!(error("/silent"), (Some(504), ended.clone(), Some(false)));
    let mut h2 = H2::connect(gateway.address());
    let request = |path: &str| h2.builder("POST", path).header("content-type", "application/grpc");
    let (endless, silent) = (request("/endless2"), request("/silent"));
    let answer = h2.send(silent.body(full("")).expect("a request"));
    assert_eq!((answer.status, answer.header("grpc-status")), (200, Some("4")), "DEADLINE_EXCEEDED");
    assert!(h2.try_send(endless.body(full("")).expect("a request")).is_err(), "reset");
    assert_eq!(error("/endless2"), (Some(200), ended, Some(true)));
    eventually("the origin to be let go", || origin.open() == 0);
}
