//! Sessions that clients resume: at another gateway, after a change of secrets, and nowhere else.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, SupportedProtocolVersion};
use sluice_harness::certs::Leaf;
use sluice_harness::{Certs, Client, Gateway, eventually};

const ONE: &str = "one secret, of thirty-two bytes or more";
const TWO: &str = "another one, of thirty-two bytes or more";

fn gateway(leaf: &Leaf, tls: &str) -> Gateway {
    Gateway::start(&toml(leaf, tls))
}

fn toml(leaf: &Leaf, tls: &str) -> String {
    format!(
        "[gateway]\nworkers = 2\nreload = false\n[admin]\nbind = \"127.0.0.1:0\"\n[listeners.https]\nbind = \"127.0.0.1:0\"\n\
         tls = {{ certificates = [\"main\"]{tls} }}\n[certificates.main]\ncert = \"{}\"\nkey = \"{}\"\n\
         [routes.all]\nmatch = {{ path = \"/**\" }}\nrespond = {{ status = 200, body = \"ok\" }}\n",
        leaf.cert.display(),
        leaf.key.display()
    )
}

fn shared(secrets: &[&str]) -> String {
    format!(", session_tickets = {{ secrets = {secrets:?}, rotation = \"1h\" }}")
}

const VERSIONS: [&[&SupportedProtocolVersion]; 2] = [&[&TLS12], &[&TLS13]];

/// How the handshake of one more connection goes.
fn connect(gateway: &Gateway, config: &Arc<ClientConfig>) -> HandshakeKind {
    let mut client = Client::connect_tls(gateway.address_of("https"), "localhost", Arc::clone(config)).expect("TLS");
    // The tickets of TLS 1.3 come behind the handshake.
    assert_eq!(client.get("/").status, 200);
    client.tls().and_then(|tls| tls.handshake_kind()).expect("it is over")
}

#[test]
fn a_session_of_one_gateway_is_resumed_by_the_other() {
    let certs = Certs::new();
    let leaf = certs.leaf(&["localhost"]);
    let secrets = shared(&[ONE]);
    let (one, other) = (gateway(&leaf, &secrets), gateway(&leaf, &secrets));
    let (rotated, stranger) = (gateway(&leaf, &shared(&[TWO, ONE])), gateway(&leaf, ""));
    for versions in VERSIONS {
        let client = || certs.client_config(&["http/1.1"], versions);
        let known = client();
        assert_eq!(connect(&one, &known), HandshakeKind::Full);
        assert_eq!(connect(&other, &known), HandshakeKind::Resumed, "{versions:?}");
        assert_eq!(connect(&rotated, &known), HandshakeKind::Resumed, "the secret is the older one: {versions:?}");
        assert_eq!(connect(&one, &known), HandshakeKind::Full, "the newer one is not known here: {versions:?}");
        let known = client();
        assert_eq!(connect(&one, &known), HandshakeKind::Full);
        assert_eq!(connect(&stranger, &known), HandshakeKind::Full, "without the secret: {versions:?}");
    }
    let resumed = other.metric("sluice_tls_handshakes_total", &[("resumed", "true")]);
    assert_eq!(resumed, Some(2.0));
}

#[test]
fn a_shared_secret_carries_no_client_past_another_policy() {
    let (certs, others) = (Certs::new(), Certs::new());
    let leaf = certs.leaf(&["localhost"]);
    let shown = certs.leaf(&["a client"]);
    let asking = |certs: &Certs, mode: &str| {
        let ca = certs.ca();
        gateway(&leaf, &format!("{}, client_auth = {{ ca = \"{}\", mode = \"{mode}\" }}", shared(&[ONE]), ca.display()))
    };
    let (one, same) = (asking(&certs, "optional"), asking(&certs, "optional"));
    let (strict, foreign) = (asking(&certs, "required"), asking(&others, "optional"));
    let open = gateway(&leaf, &shared(&[ONE]));
    let showing = certs.client_config_showing(&shown, &["http/1.1"]);
    assert_eq!(connect(&one, &showing), HandshakeKind::Full);
    assert_eq!(connect(&same, &showing), HandshakeKind::Resumed);
    assert_eq!(connect(&strict, &showing), HandshakeKind::Full);
    let showing = certs.client_config_showing(&shown, &["http/1.1"]);
    assert_eq!(connect(&one, &showing), HandshakeKind::Full);
    assert_eq!(connect(&open, &showing), HandshakeKind::Full);
    // A full handshake, in which the certificate is not one of its authorities.
    let showing = certs.client_config_showing(&shown, &["http/1.1"]);
    assert_eq!(connect(&one, &showing), HandshakeKind::Full);
    let refused = Client::connect_tls(foreign.address_of("https"), "localhost", showing)
        .and_then(|mut client| client.try_request("GET", "/", &[], b""));
    assert!(refused.is_err(), "{refused:?}");
    // Who was not asked for a certificate is asked where it is required.
    for versions in VERSIONS {
        let without = certs.client_config(&["http/1.1"], versions);
        assert_eq!(connect(&open, &without), HandshakeKind::Full);
        let refused = Client::connect_tls(strict.address_of("https"), "localhost", without)
            .and_then(|mut client| client.try_request("GET", "/", &[], b""));
        assert!(refused.is_err(), "{refused:?}");
    }
}

#[test]
fn keys_of_tickets_rotate_and_open_for_one_more_step() {
    let certs = Certs::new();
    let leaf = certs.leaf(&["localhost"]);
    let gateway = gateway(&leaf, ", session_tickets = { rotation = \"3s\" }");
    let clients = VERSIONS.map(|versions| certs.client_config(&["http/1.1"], versions));
    for client in &clients {
        assert_eq!(connect(&gateway, client), HandshakeKind::Full);
        assert_eq!(connect(&gateway, client), HandshakeKind::Resumed, "at most one step later");
    }
    let begun = Instant::now();
    eventually("two steps to pass", || begun.elapsed() > Duration::from_secs(6));
    for client in &clients {
        assert_eq!(connect(&gateway, client), HandshakeKind::Full);
    }
}

#[test]
fn sessions_can_be_switched_off() {
    let certs = Certs::new();
    let leaf = certs.leaf(&["localhost"]);
    let gateway = gateway(&leaf, ", session_tickets = false");
    for versions in VERSIONS {
        let client = certs.client_config(&["http/1.1"], versions);
        for _ in 0..3 {
            assert_eq!(connect(&gateway, &client), HandshakeKind::Full, "{versions:?}");
        }
    }
    // A reload switches them on, and no session is older than that.
    gateway.reload(&toml(&leaf, ""));
    let client = certs.client_config(&["http/1.1"], &[&TLS13]);
    assert_eq!(connect(&gateway, &client), HandshakeKind::Full);
    assert_eq!(connect(&gateway, &client), HandshakeKind::Resumed);
}

#[test]
fn a_secret_that_can_be_guessed_is_refused_and_not_shown() {
    let certs = Certs::new();
    let leaf = certs.leaf(&["localhost"]);
    let refused = Gateway::setup().refused(&toml(&leaf, &shared(&["too short"]))).stderr;
    assert!(refused.contains("expected a secret of at least 32 bytes") && !refused.contains("too short"), "{refused}");
}

/// A client in the middle of a handshake of TLS 1.3: it has the server's flight, and has not answered it.
fn half_way(gateway: &Gateway, certs: &Certs) -> (TcpStream, ClientConnection) {
    let mut tcp = TcpStream::connect(gateway.address_of("https")).expect("a connection");
    tcp.set_nodelay(true).expect("no delay");
    tcp.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    let name = "localhost".try_into().expect("a name");
    let mut tls = ClientConnection::new(certs.client_config(&["http/1.1"], &[&TLS13]), name).expect("a client");
    tls.write_tls(&mut tcp).expect("a hello");
    while tls.is_handshaking() {
        assert_ne!(tls.read_tls(&mut tcp).expect("the flight"), 0);
        tls.process_new_packets().expect("the flight");
    }
    (tcp, tls)
}

#[test]
fn tickets_come_with_the_first_response() {
    let certs = Certs::new();
    let gateway = gateway(&certs.leaf(&["localhost"]), "");
    let (mut tcp, mut tls) = half_way(&gateway, &certs);
    tls.writer().write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("buffered");
    let mut request = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut request).expect("the end of the handshake, and a request");
    }
    tcp.write_all(&request).expect("sent at once");
    // One read has what one write has sent.
    assert_ne!(tls.read_tls(&mut tcp).expect("bytes"), 0);
    let state = tls.process_new_packets().expect("records");
    assert!(tls.tls13_tickets_received() > 0 && state.plaintext_bytes_to_read() > 0, "{state:?}");
    let mut response = vec![0; state.plaintext_bytes_to_read()];
    tls.reader().read_exact(&mut response).expect("the response");
    assert!(response.starts_with(b"HTTP/1.1 200") && response.ends_with(b"ok"), "{}", response.escape_ascii());
}

#[test]
fn a_client_that_asks_nothing_gets_its_tickets() {
    let certs = Certs::new();
    let gateway = gateway(&certs.leaf(&["localhost"]), "");
    let (mut tcp, mut tls) = half_way(&gateway, &certs);
    while tls.wants_write() {
        tls.write_tls(&mut tcp).expect("the end of the handshake");
    }
    let begun = Instant::now();
    while tls.tls13_tickets_received() == 0 {
        assert_ne!(tls.read_tls(&mut tcp).expect("tickets"), 0, "closed without them");
        tls.process_new_packets().expect("tickets");
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "they waited for {:?}", begun.elapsed());
}

#[test]
fn the_goodbye_comes_with_the_last_response() {
    let certs = Certs::new();
    let gateway = gateway(&certs.leaf(&["localhost"]), "");
    let (mut tcp, mut tls) = half_way(&gateway, &certs);
    tls.writer().write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").expect("buffered");
    let mut request = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut request).expect("the end of the handshake, and a request");
    }
    tcp.write_all(&request).expect("sent at once");
    assert_ne!(tls.read_tls(&mut tcp).expect("bytes"), 0);
    let state = tls.process_new_packets().expect("records");
    assert!(tls.tls13_tickets_received() > 0 && state.peer_has_closed(), "{state:?}");
    let mut response = String::new();
    tls.reader().read_to_string(&mut response).expect("the response");
    assert!(response.starts_with("HTTP/1.1 200") && response.ends_with("ok"), "{response}");
    assert_eq!(tls.read_tls(&mut tcp).expect("the end of the socket"), 0);
}
