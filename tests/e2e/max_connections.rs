//! Limits of open connections to upstreams: exact over all workers, handed over between them, and nobody's fault.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sluice_harness::h2::{H2Origin, full};
use sluice_harness::load::flood;
use sluice_harness::{Client, Gateway, Origin, Reply, eventually};

use crate::support::{gateway, route, setup, with_base};

/// A server that counts its open connections exactly: before it counts a new one, it looks which of the others were closed.
struct Counting {
    address: SocketAddr,
    most: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
}

impl Counting {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        listener.set_nonblocking(true).expect("a socket");
        let server = Counting { address, most: Arc::default(), open: Arc::default(), ended: Arc::default() };
        let (most, now, ended) = (server.most.clone(), server.open.clone(), server.ended.clone());
        std::thread::spawn(move || {
            let mut open: Vec<(TcpStream, Vec<u8>)> = Vec::new();
            while !ended.load(SeqCst) {
                if let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true).expect("a socket");
                    open.retain(|(stream, _)| is_open(stream));
                    open.push((stream, Vec::new()));
                    most.fetch_max(open.len(), SeqCst);
                }
                open.retain_mut(|(stream, received)| is_open(stream) && answer(stream, received));
                now.store(open.len(), SeqCst);
                std::thread::yield_now();
            }
        });
        server
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.ended.store(true, SeqCst);
    }
}

fn is_open(stream: &TcpStream) -> bool {
    match stream.peek(&mut [0]) {
        Ok(n) => n > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

/// Answers the request that has come, if it is whole.
fn answer(stream: &mut TcpStream, received: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 4096];
    match stream.read(&mut buffer) {
        Ok(n) => received.extend_from_slice(&buffer[..n]),
        Err(error) => return error.kind() == ErrorKind::WouldBlock,
    }
    if !received.ends_with(b"\r\n\r\n") {
        return true;
    }
    received.clear();
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").is_ok()
}

fn limited(limits: &str, url: &str) -> String {
    format!("[upstreams.u]\nendpoints = [\"{url}\"]\nlimits = {{ {limits} }}\n{}", route("u", &[]))
}

fn open(gateway: &Gateway) -> f64 {
    gateway.metric("sluice_limit_open_connections", &[]).unwrap_or_default()
}

fn pending(gateway: &Gateway) -> f64 {
    gateway.metric("sluice_limit_pending_connections", &[]).unwrap_or_default()
}

#[test]
fn open_connections_never_exceed_the_limit_over_workers_and_reloads() {
    for scope in ["", "per_endpoint."] {
        let server = Counting::start();
        let toml = |limit: usize| {
            let limits = format!("{scope}max_connections = {limit}, max_pending_requests = 64, queue_timeout = \"1m\"");
            with_base(&limited(&limits, &format!("http://{}", server.address))).replace("workers = 1", "workers = 2")
        };
        let gateway = setup().start(&toml(5));
        let report = std::thread::scope(|scope| {
            let load = scope.spawn(|| flood(gateway.address(), 32, 2000, "/", &[]));
            eventually("the limit", || server.most.load(SeqCst) == 5);
            gateway.reload(&toml(3));
            eventually("connections beyond the new limit to end", || {
                server.most.store(0, SeqCst);
                open(&gateway) <= 3.0 && server.open.load(SeqCst) <= 3
            });
            server.most.store(0, SeqCst);
            load.join().expect("the load")
        });
        assert_eq!(report.count(200), 2000, "{scope}: {:?}", report.statuses);
        assert!(server.most.load(SeqCst) <= 3, "{scope}: {:?}", server.most);
        assert_eq!(pending(&gateway), 0.0);
        assert!(gateway.metric("sluice_limit_connection_waits_total", &[]) > Some(0.0));
    }
}

#[test]
fn idle_connections_of_a_worker_do_not_keep_another_one_waiting() {
    for scope in ["", "per_endpoint."] {
        let origin = Origin::named("ok");
        let toml =
            with_base(&limited(&format!("{scope}max_connections = 1, {scope}queue_timeout = \"30s\""), &origin.url()));
        let gateway = setup().start(&toml.replace("workers = 1", "workers = 2"));
        let mut clients: Vec<Client> = (0..16).map(|_| gateway.client()).collect();
        let mut longest = Duration::ZERO;
        for _ in 0..3 {
            for client in &mut clients {
                let begun = Instant::now();
                assert_eq!(client.get("/").status, 200);
                longest = longest.max(begun.elapsed());
            }
        }
        // It takes a millisecond or two. Without being asked for, a connection is idle for a minute.
        assert!(longest < Duration::from_secs(10), "{longest:?}");
        assert!(origin.connections() > 1, "both workers have had it");
        assert_eq!(open(&gateway), 1.0);
    }
}

#[test]
fn workers_take_turns_with_the_one_connection_of_http2() {
    let server = H2Origin::serve(None, |_| async { http::Response::new(full("ok")) });
    let limits =
        "protocol = \"h2c\"\nlimits = { max_connections = 1, max_pending_requests = 32, queue_timeout = \"1m\" }";
    let url = format!("http://{}", server.address());
    let toml = with_base(&format!("[upstreams.u]\nendpoints = [\"{url}\"]\n{limits}\n{}", route("u", &[])));
    let gateway = setup().start(&toml.replace("workers = 1", "workers = 2"));
    let mut clients: Vec<Client> = (0..16).map(|_| gateway.client()).collect();
    for client in &mut clients {
        assert_eq!(client.get("/").text(), "ok", "idle ones are handed over");
    }
    let report = flood(gateway.address(), 32, 500, "/", &[]);
    assert_eq!(report.count(200), 500, "{:?}", report.statuses);
    assert!(server.connections() > 1, "both workers have had it");
    assert_eq!((open(&gateway), pending(&gateway)), (1.0, 0.0));
}

#[test]
fn a_request_waits_for_a_connection_and_takes_the_one_that_is_free() {
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock().expect("the gate");
    let origin = Origin::serve({
        let gate = gate.clone();
        move |_| {
            drop(gate.lock());
            Reply::text("ok")
        }
    });
    let limits = "per_endpoint = { max_connections = 1, max_pending_requests = 1, queue_timeout = \"1m\" }";
    let gateway = gateway(&limited(limits, &origin.url()));
    let ask = || {
        let mut client = gateway.client();
        client.send(client.format("GET", "/", &[], b""));
        client
    };
    let mut first = ask();
    eventually("the first request", || origin.count() == 1);
    let leaving = ask();
    eventually("one that waits", || pending(&gateway) == 1.0);
    assert_eq!(gateway.get("/").status, 503, "the queue is full");
    gateway.wait_access("why", |line| line["error"] == "upstream-busy");
    drop(leaving);
    eventually("its place to be free", || pending(&gateway) == 0.0);
    let mut second = ask();
    eventually("one that waits", || pending(&gateway) == 1.0);
    drop(held);
    assert_eq!([first.read_response("GET").status, second.read_response("GET").status], [200, 200]);
    assert_eq!((origin.connections(), open(&gateway)), (1, 1.0), "it is handed on");
    let listed = gateway.admin("/api/v1/upstreams/u").json();
    assert_eq!(listed["connection_limits"][0]["max_connections"], 1, "{listed}");
    assert_eq!(listed["connection_limits"][0]["open"], 1, "{listed}");
}

#[test]
fn a_tunnel_counts_and_a_full_limit_is_not_the_fault_of_the_endpoint() {
    let origin = Origin::serve(|request| match request.header("upgrade") {
        Some(_) => Reply::script(|conn| {
            conn.write(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
            );
            conn.wait_for_close();
        }),
        None => Reply::text("ok"),
    });
    let breaker = "circuit_breaker = { failures = 1, of = 1, open = \"1h\" }\noutlier_detection = { consecutive_gateway_errors = 1 }";
    let toml = limited("max_connections = 1, queue_timeout = \"50ms\", max_pending_requests = 1", &origin.url());
    let gateway = gateway(
        &toml
            .replace("[routes", &format!("{breaker}\n[routes"))
            .replace("pipeline = []", "pipeline = []\nretry = { backoff = { base = \"1ms\" } }"),
    );
    let mut tunnel = gateway.client();
    tunnel.send(
        "GET / HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    let start = tunnel.read_head().start;
    assert!(start.contains(" 101 "), "{start}");
    assert_eq!(open(&gateway), 1.0);
    for _ in 0..3 {
        assert_eq!(gateway.get("/").status, 503);
    }
    assert_eq!(gateway.metric("sluice_limit_connections_refused_total", &[]), Some(3.0));
    assert_eq!(gateway.metric("sluice_endpoint_healthy", &[]), Some(1.0));
    drop(tunnel);
    eventually("its place to be free", || open(&gateway) == 0.0);
    assert_eq!(gateway.get("/").status, 200, "no circuit is open, no endpoint ejected");
}
