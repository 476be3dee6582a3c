//! TLS over Unix sockets, in front of the gateway and behind it, and connections over TLS that are refused.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::version::TLS13;
use rustls::{ClientConnection, StreamOwned};
use sluice_harness::certs::Leaf;
use sluice_harness::{Certs, Client, Gateway, eventually};

use crate::support::setup;

/// A gateway with TLS on `http.sock` in its folder, that answers with what it was asked.
fn serving(leaf: &Leaf) -> Gateway {
    Gateway::start(&format!(
        "[gateway]\nworkers = 2\nreload = false\n[admin]\nbind = \"127.0.0.1:0\"\n[listeners.sock]\nbind = \"unix:http.sock\"\n\
         [listeners.sock.tls]\ncertificates = [\"main\"]\nhandshakes = {{ max_pending_per_address = 1 }}\n\
         [certificates.main]\ncert = \"{}\"\nkey = \"{}\"\n\
         [upstreams.echo]\nbuiltin = \"echo\"\n[routes.all]\nmatch = {{ path = \"/**\" }}\nupstream = \"echo\"\n",
        leaf.cert.display(),
        leaf.key.display()
    ))
}

#[test]
fn an_upstream_on_a_unix_socket_with_tls_named_in_the_route() {
    let certs = Certs::new();
    let behind = serving(&certs.leaf(&["localhost"]));
    let socket = behind.dir().join("http.sock");
    let url = format!("https://unix:{}", socket.display());
    let front = |more: &str, upstream: &str| {
        setup().start(&format!(
            "[gateway]\nworkers = 2\nreload = false\n[admin]\nbind = \"127.0.0.1:0\"\n[listeners.http]\nbind = \"127.0.0.1:0\"\n\
             {more}[routes.all]\nmatch = {{ path = \"/**\" }}\nupstream = \"{upstream}\"\nhost = \"upstream\"\n"
        ))
    };
    let ca = certs.ca();
    let trusting = format!("[defaults.upstream]\ntls = {{ ca = \"{}\" }}\n", ca.display());
    let gateway = front(&trusting, &url);
    for _ in 0..3 {
        let response = gateway.get("/x");
        assert_eq!(
            (response.status, response.json()["headers"]["host"].as_str()),
            (200, Some("localhost")),
            "{}",
            response.text()
        );
    }
    let line = behind.wait_access("the request", |line| line["path"] == "/x");
    assert_eq!((&line["client"], &line["protocol"]), (&"unix:".into(), &"HTTP/2.0".into()), "{line}");
    assert!(behind.metric("sluice_tls_handshakes_total", &[("version", "TLSv1.3")]) >= Some(1.0));
    // The certificate is verified, by the name that is given, or by `localhost`.
    assert_eq!(front("", &url).get("/").status, 502);
    let other = format!(
        "[upstreams.u]\nendpoints = [\"{url}\"]\ntls = {{ ca = \"{}\", server_name = \"other.test\" }}\n\
         health = {{ type = \"tls\", interval = \"50ms\" }}\n",
        ca.display()
    );
    let gateway = front(&other, "u");
    assert_eq!(gateway.get("/").status, 502);
    eventually("the check to fail too", || gateway.metric("sluice_endpoint_healthy", &[]) == Some(0.0));
    let good = other.replace("other.test", "localhost");
    let gateway = front(&good, "u");
    eventually("the check to pass", || {
        gateway.metric("sluice_endpoint_checks_total", &[("result", "passed")]) > Some(0.0)
    });
    assert_eq!(gateway.get("/").status, 200);
}

#[test]
fn a_unix_socket_in_clear_text_named_in_the_route() {
    let behind = Gateway::start(
        "[gateway]\nreload = false\n[listeners.sock]\nbind = \"unix:http.sock\"\n\
         [routes.all]\nmatch = { path = \"/**\" }\nrespond = { status = 200, body = \"fine\" }\n",
    );
    let url = format!("unix:{}", behind.dir().join("http.sock").display());
    let gateway = crate::support::gateway(&crate::support::route(&url, &[]));
    assert_eq!(gateway.get("/").text(), "fine");
    assert!(gateway.metric("sluice_upstream_requests_total", &[("upstream", &url)]) >= Some(1.0));
    let relative = Gateway::setup().refused(&crate::support::with_base(&crate::support::route("unix:app.sock", &[])));
    assert!(relative.stderr.contains("expected an absolute path behind `unix:`"), "{}", relative.stderr);
}

#[test]
fn a_client_of_http2_that_is_refused_over_tls_gets_a_goaway() {
    let certs = Certs::new();
    let leaf = certs.leaf(&["localhost"]);
    let gateway = Gateway::start(&format!(
        "[gateway]\nworkers = 1\nreload = false\n[admin]\nbind = \"127.0.0.1:0\"\n[listeners.https]\nbind = \"127.0.0.1:0\"\n\
         max_connections = 1\ntls = {{ certificates = [\"main\"] }}\n[certificates.main]\ncert = \"{}\"\nkey = \"{}\"\n\
         [routes.all]\nmatch = {{ path = \"/**\" }}\nrespond = {{ status = 200 }}\n",
        leaf.cert.display(),
        leaf.key.display()
    ));
    let address = gateway.address_of("https");
    let h1 = || Client::connect_tls(address, "localhost", certs.client_config(&["http/1.1"], &[&TLS13]));
    let mut held = h1().expect("the one connection");
    assert_eq!(held.get("/").status, 200);
    let refused = || {
        let socket = TcpStream::connect(address).expect("a connection");
        socket.set_read_timeout(Some(std::time::Duration::from_secs(30))).expect("a timeout");
        let config = certs.client_config(&["h2", "http/1.1"], &[&TLS13]);
        let tls =
            ClientConnection::new(Arc::clone(&config), "localhost".try_into().expect("a name")).expect("a client");
        StreamOwned::new(tls, socket)
    };
    let mut stream = refused();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").expect("a handshake");
    let mut told = Vec::new();
    stream.read_to_end(&mut told).expect("an orderly end");
    // An empty SETTINGS, then GOAWAY: stream 0, no error.
    assert_eq!(told, b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert!(h1().is_err(), "of HTTP/1.1 it is closed");
    assert!(gateway.metric("sluice_connections_refused_total", &[("listener", "https")]) >= Some(2.0));
    // There is a bound: most of a flood are closed without a handshake.
    let begun = std::time::Instant::now();
    let let_in = (0..400).filter(|_| refused().write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").is_ok()).count();
    let most = 50 * (begun.elapsed().as_secs() as usize + 2);
    assert!(let_in <= most, "{let_in} of 400 in {:?}", begun.elapsed());
    drop(held);
    eventually("the place to be free", || {
        h1().is_ok_and(|mut client| client.try_request("GET", "/", &[], b"").is_ok())
    });
}
