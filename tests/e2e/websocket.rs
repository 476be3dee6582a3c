//! WebSocket over HTTP/2 (RFC 8441), in all four combinations of versions, and what is refused of it.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Request, Response};
use hyper::body::Incoming;
use serde_json::json;
use sluice_harness::frames::{Ended, Frames};
use sluice_harness::h2::{Body, H2, H2Origin, Tunnel, full, within};
use sluice_harness::{Gateway, Origin, Reply, eventually};

use crate::support::{gateway, probe, route};

/// What RFC 6455 wants for a key.
fn accept(key: &str) -> String {
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes()))
}

/// An origin of HTTP/1.1 that takes the handshake and echoes, answers `/plain` as any other request, and lies about the key at `/lies`.
fn http1_origin() -> Origin {
    Origin::serve(|request| {
        if request.target == "/plain" {
            return Reply::text("no WebSocket here");
        }
        let key = if request.target == "/lies" { "x" } else { request.header("sec-websocket-key").unwrap_or_default() };
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {}\r\nsec-websocket-protocol: chat\r\n\r\n",
            accept(key)
        );
        Reply::script(move |conn| {
            conn.write(head);
            while let Ok(bytes) = conn.read_some(4096) {
                if bytes.is_empty() || conn.try_write(&bytes).is_err() {
                    return;
                }
            }
        })
    })
}

/// An origin of HTTP/2 that does the same with an extended CONNECT, and says of all other requests what they are.
async fn http2_origin(request: Request<Incoming>) -> Response<Body> {
    let protocol = request.extensions().get::<hyper::ext::Protocol>().map(|protocol| protocol.as_str().to_owned());
    let said = format!("{} {protocol:?} {:?}", request.method(), request.headers().get("sec-websocket-key"));
    if protocol.is_some() {
        tokio::spawn(async move {
            let mut tunnel = Tunnel::of(request).await;
            while let Ok(bytes) = tunnel.receive().await {
                if bytes.is_empty() || tunnel.send(&bytes).await.is_err() {
                    return tunnel.finish().await;
                }
            }
        });
    }
    Response::builder().header("x-said", said).body(full("")).expect("a response")
}

fn handshake(h2: &H2, path: &str) -> Request<Body> {
    let request =
        h2.builder("GET", path).header("sec-websocket-version", "13").header("sec-websocket-protocol", "chat");
    request.header("origin", "http://a.test").body(full("")).expect("a request")
}

/// Sends frames of many sizes and gets them back, then ends.
fn echoes(gateway: &Gateway, path: &str) {
    let h2 = H2::connect(gateway.address());
    let request = handshake(&h2, path);
    h2.run(|sender| async move {
        let mut tunnel = Tunnel::open(sender, request, "websocket").await.expect("a tunnel");
        for size in [1, 100, 10_000, 300_000] {
            let sent: Vec<u8> = (0..size).map(|n: u32| n as u8).collect();
            tunnel.send(&sent).await.expect("sent");
            let mut received = Vec::new();
            while received.len() < sent.len() {
                received.extend(tunnel.receive().await.expect("bytes"));
            }
            assert!(received == sent, "{size} bytes came back as others");
        }
        tunnel.finish().await;
        assert_eq!(tunnel.receive().await.expect("the end"), b"");
    });
}

#[test]
fn from_http2_to_http1() {
    let origin = http1_origin();
    let config = json!({"on-request": [{"do": "set-header", "name": "x-method", "value": "{method}"}]});
    let gateway = gateway(&(route(&origin.url(), &["see"]) + &probe("see", config)));
    echoes(&gateway, "/chat");
    let seen = origin.last();
    assert_eq!(
        (seen.method.as_str(), seen.target.as_str(), seen.header("upgrade")),
        ("GET", "/chat", Some("websocket"))
    );
    assert_eq!(seen.header("sec-websocket-version"), Some("13"));
    assert_eq!(seen.header("sec-websocket-key").map(str::len), Some(24), "a key of the gateway's own");
    let line = gateway.wait_access("its line", |line| line["path"] == "/chat");
    for (member, value) in [
        ("method", json!("GET")),
        ("protocol", json!("HTTP/2.0")),
        ("status", json!(101)),
        ("bytes_in", json!(310_101)),
        ("bytes_out", json!(310_101)),
        ("aborted", json!(false)),
    ] {
        assert_eq!(line[member], value, "{member} in {line}");
    }
    eventually("the origin to be let go", || origin.open() == 0);
}

#[test]
fn the_answer_over_http2_is_one_of_http2() {
    let origin = http1_origin();
    let gateway = gateway(&route(&origin.url(), &[]));
    let h2 = H2::connect(gateway.address());
    let mut request = handshake(&h2, "/chat");
    *request.method_mut() = http::Method::CONNECT;
    request.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
    let response =
        h2.run(|mut sender| async move { within("an answer", sender.send_request(request)).await.expect("an answer") });
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers().get("sec-websocket-protocol").map(|value| value.as_bytes()), Some(&b"chat"[..]));
    for name in ["upgrade", "connection", "sec-websocket-accept", "sec-websocket-key"] {
        assert!(!response.headers().contains_key(name), "{name}");
    }
}

#[test]
fn from_both_versions_to_http2() {
    let origin = H2Origin::connecting(None, http2_origin);
    let config = format!(
        "[upstreams.h2]\nendpoints = [\"http://{}\"]\nprotocol = \"h2c\"\n{}",
        origin.address(),
        route("h2", &[])
    );
    let gateway = gateway(&config);
    echoes(&gateway, "/chat");
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    let mut client = gateway.client();
    client.send(format!(
        "GET /chat HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: {key}\r\n\r\n"
    ));
    let head = client.read_head();
    assert!(head.start.contains(" 101 "), "{head:?}");
    assert_eq!(head.header("upgrade"), Some("websocket"));
    assert_eq!(head.header("sec-websocket-accept"), Some(&*accept(key)), "made by the gateway");
    assert_eq!(head.header("x-said"), Some("CONNECT Some(\"websocket\") None"));
    client.send(b"over two versions");
    assert_eq!(client.read_exact(17), b"over two versions");
    client.finish();
    client.expect_close();
    assert_eq!(gateway.get("/other").header("x-said"), Some("GET None None"));
    assert_eq!(origin.connections(), 1, "all of them share a connection");
}

/// With a limit of one for each endpoint, as metrics of the requests under way show it as well.
#[test]
fn a_tunnel_over_http1_has_its_place_at_the_endpoint_until_it_ends() {
    let origin = http1_origin();
    let gateway = gateway(&format!(
        "[upstreams.chat]\nendpoints = [\"{}\"]\nlimits = {{ per_endpoint = {{ max_requests = 1 }} }}\n{}",
        origin.url(),
        route("chat", &[])
    ));
    let open = || {
        let mut client = gateway.client();
        client.send(
            "GET /chat HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        );
        let start = client.read_head().start;
        (client, start)
    };
    let active = || gateway.metric("sluice_endpoint_active_requests", &[("upstream", "chat")]);
    let (mut first, start) = open();
    assert!(start.contains(" 101 "), "{start}");
    first.send(b"through");
    assert_eq!(first.read_exact(7), b"through");
    assert_eq!(active(), Some(1.0));
    let (second, start) = open();
    assert!(start.contains(" 503 "), "{start}");
    gateway.wait_access("why", |line| line["error"] == "upstream-busy");
    drop((first, second));
    eventually("the tunnel to be over", || active() == Some(0.0));
    let (_third, start) = open();
    assert!(start.contains(" 101 "), "{start}");
    assert_eq!(origin.connections(), 2);
}

#[test]
fn an_http2_server_without_the_setting_gets_the_request_alone() {
    let origin = H2Origin::serve(None, http2_origin);
    let gateway = gateway(&format!(
        "[upstreams.h2]\nendpoints = [\"http://{}\"]\nprotocol = \"h2c\"\n{}",
        origin.address(),
        route("h2", &[])
    ));
    let response = gateway.request("GET", "/", &[("connection", "upgrade"), ("upgrade", "websocket")], b"");
    assert_eq!((response.status, response.header("x-said")), (200, Some("GET None None")));
    assert_eq!(refused(&gateway, "/", "websocket"), 501, "a success would open a stream");
}

/// The status of an extended CONNECT that is refused.
#[track_caller]
fn refused(gateway: &Gateway, path: &str, protocol: &str) -> u16 {
    let h2 = H2::connect(gateway.address());
    let request = handshake(&h2, path);
    let answer = h2.run(|sender| Tunnel::open(sender, request, protocol));
    answer.err().expect("no tunnel").status().as_u16()
}

#[test]
fn what_is_no_websocket_is_refused() {
    let origin = http1_origin();
    let gateway = gateway(&format!(
        "{}[routes.no]\nmatch = {{ path = \"/no\" }}\nupstream = \"{}\"\nupgrade = false\n\
         [routes.here]\nmatch = {{ path = \"/here\" }}\nrespond = {{ status = 200, body = \"here\" }}\n\
         [routes.away]\nmatch = {{ path = \"/away\" }}\nredirect = {{ host = \"b.test\" }}\n",
        route(&origin.url(), &[]),
        origin.url()
    ));
    for (path, protocol, status) in [
        ("/chat", "connect-udp", 501),
        ("/no", "websocket", 501),
        ("/here", "websocket", 501),
        ("/plain", "websocket", 501),
        ("/lies", "websocket", 502),
        ("/away", "websocket", 302),
    ] {
        assert_eq!(refused(&gateway, path, protocol), status, "{path} {protocol}");
    }
    assert_eq!(
        origin.requests().iter().map(|r| r.target.as_str()).collect::<Vec<_>>(),
        ["/plain", "/lies"],
        "nothing else went on"
    );
    let line = gateway.wait_access("the refusal", |line| line["path"] == "/plain");
    assert_eq!((&line["error"], &line["error_side"]), (&json!("method-not-supported"), &json!("client")));

    // Also where the answer would be 200 because the request says that it is gRPC.
    let mut frames = Frames::connect(gateway.address());
    let connect: [(&[u8], &[u8]); 6] = [
        (b":method", b"CONNECT"),
        (b":protocol", b"connect-udp"),
        (b":scheme", b"http"),
        (b":authority", b"a"),
        (b":path", b"/"),
        (b"content-type", b"application/grpc"),
    ];
    frames.headers(1, &connect, false);
    assert_ne!(frames.wait(1), Ended::Response(200));
    frames.headers(
        3,
        &[(b":method", b"CONNECT"), (b":authority", b"a:1"), (b"content-type", b"application/grpc")],
        false,
    );
    assert_ne!(frames.wait(3), Ended::Response(200), "nor to a plain CONNECT");
}

#[test]
fn an_idle_tunnel_ends_and_keeps_its_connection_until_then() {
    let origin = http1_origin();
    let toml = crate::support::BASE
        .replace("[listeners.http]\n", "[listeners.http]\ntimeouts = { idle = \"200ms\" }\n")
        + &format!("{}timeouts = {{ idle = \"1s\" }}\n", route(&origin.url(), &[]));
    let gateway = Gateway::start(&toml);
    let h2 = H2::connect(gateway.address());
    let request = handshake(&h2, "/chat");
    let begun = std::time::Instant::now();
    h2.run(|sender| async move {
        let mut tunnel = Tunnel::open(sender, request, "websocket").await.expect("a tunnel");
        // The connection has no other exchange, and its own idle timeout is shorter.
        while tunnel.receive().await.is_ok_and(|bytes| !bytes.is_empty()) {}
    });
    assert!(begun.elapsed() >= std::time::Duration::from_secs(1), "{:?}", begun.elapsed());
    let line = gateway.wait_access("its line", |line| line["path"] == "/chat");
    assert_eq!(line["error"], "client-timeout", "{line}");
}
