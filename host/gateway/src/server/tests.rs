//! Workers with real sockets: protocols, limits, timeouts, draining.

mod sizes;
mod tls;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Instant;

use http::{Request, Version};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::TokioIo;

use super::*;
use crate::telemetry::Metrics;

const PATIENCE: Duration = Duration::from_secs(10);

/// Answers with what it knows of the connection. `/slow` waits until it is let go, `/panic` panics.
struct Facts {
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    waiting: AtomicUsize,
    open: AtomicBool,
    drained: AtomicUsize,
}

impl Service for Facts {
    type Body = Full<Bytes>;

    async fn handle(
        &self,
        connection: &Rc<ConnectionInfo>,
        head: Box<request::Parts>,
        _: Body,
        _: Option<OnUpgrade>,
    ) -> Box<Response<Full<Bytes>>> {
        match head.uri.path() {
            "/panic" => panic!("asked for"),
            "/slow" => {
                self.gate.waiting.fetch_add(1, SeqCst);
                while !self.gate.open.load(SeqCst) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            _ => {}
        }
        let tls = connection.tls.as_ref();
        let text = format!(
            "{:?} trusted={} peer={} listener={} sni={:?} alpn={:?}",
            head.version,
            connection.peer.trusted,
            connection.peer.address,
            connection.listener,
            tls.and_then(|tls| tls.sni.as_deref()),
            tls.and_then(|tls| tls.alpn.as_deref()).map(String::from_utf8_lossy),
        );
        Box::new(Response::new(Full::new(text.into())))
    }

    fn refuse(&self, _: &Rc<ConnectionInfo>, refusal: &Refusal) -> Box<Response<Full<Bytes>>> {
        let mut response = Box::new(Response::new(Full::new(refusal.to_string().into())));
        *response.status_mut() = http::StatusCode::BAD_REQUEST;
        response
    }

    fn note_refused(&self, _: &Rc<ConnectionInfo>, _: &H2Refusal, _: bool) {}

    async fn drained(&self) {
        self.gate.drained.fetch_add(1, SeqCst);
    }
}

struct Gateway {
    workers: Workers,
    address: SocketAddr,
    table: ListenerTable,
    metrics: Arc<Metrics>,
    gate: Arc<Gate>,
}

fn settings() -> ListenerSettings {
    ListenerSettings {
        http1: true,
        h2: true,
        tls: None,
        handshakes: Default::default(),
        hsts: None,
        trusted_proxies: TrustedPeers::default(),
        proxy_protocol: None,
        max_connections: 100,
        lifetime: ConnectionLifetime::default(),
        header_timeout: PATIENCE,
        idle_timeout: PATIENCE,
        handshake_timeout: PATIENCE,
        max_head_bytes: 16 * 1024,
        max_headers: 100,
        max_streams: 100,
    }
}

fn table(settings: ListenerSettings, max_connections: usize) -> Listeners {
    Listeners { settings: vec![("web".into(), Arc::new(settings))], max_connections }
}

fn gateway(workers: usize, settings: ListenerSettings) -> Gateway {
    let table: ListenerTable = Arc::new(ArcSwap::from_pointee(table(settings, 1000)));
    let (metrics, gate) = (Metrics::new(), Arc::<Gate>::default());
    let listeners = vec![ListenerSpec { name: "web".into(), bind: BindAddress::Ip(([127, 0, 0, 1], 0).into()) }];
    let start = WorkerSettings {
        workers,
        listeners,
        table: Arc::clone(&table),
        metrics: Arc::clone(&metrics),
        overload: Overload::new(Default::default()),
    };
    let shared = Arc::clone(&gate);
    let workers = Workers::start(start, move |_, _| Rc::new(Facts { gate: Arc::clone(&shared) }));
    let workers = workers.expect("the workers start");
    let Some((_, &BindAddress::Ip(address))) = workers.addresses().next() else { panic!("no address") };
    Gateway { workers, address, table, metrics, gate }
}

impl Gateway {
    fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address).expect("a connection");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket
    }

    fn metric(&self, line: &str) -> bool {
        self.metrics.render().lines().any(|found| found == line)
    }
}

fn ask(socket: &mut TcpStream, path: &str) {
    write!(socket, "GET {path} HTTP/1.1\r\nhost: a.test\r\n\r\n").expect("a request");
}

/// Reads one response with a `content-length`.
fn answer(socket: &mut TcpStream) -> String {
    let mut read = Vec::new();
    let mut byte = [0];
    while !read.ends_with(b"\r\n\r\n") {
        assert_eq!(socket.read(&mut byte).expect("a response"), 1, "closed after {:?}", String::from_utf8_lossy(&read));
        read.push(byte[0]);
    }
    let head = String::from_utf8(read).expect("text");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    let mut body = vec![0; length.parse().expect("a number")];
    socket.read_exact(&mut body).expect("a body");
    head + &String::from_utf8(body).expect("text")
}

fn is_closed(socket: &mut TcpStream) -> bool {
    matches!(socket.read(&mut [0; 64]), Ok(0) | Err(_))
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never came: {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

#[derive(Clone)]
struct Spawn;

impl<F: Future + 'static> hyper::rt::Executor<F> for Spawn {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .expect("a runtime");
    runtime.block_on(future)
}

async fn h2_get(io: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static) -> (Version, String) {
    let (mut client, connection) =
        hyper::client::conn::http2::handshake::<_, _, Empty<Bytes>>(Spawn, TokioIo::new(io)).await.expect("HTTP/2");
    tokio::task::spawn_local(connection);
    let request = Request::get("http://a.test/").body(Empty::new()).expect("a request");
    let response = client.send_request(request).await.expect("a response");
    let version = response.version();
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    (version, String::from_utf8(body.to_vec()).expect("text"))
}

#[test]
fn both_protocols_are_spoken_on_a_plain_listener() {
    let gateway = gateway(2, settings());
    let mut socket = gateway.connect();
    for _ in 0..2 {
        ask(&mut socket, "/");
        assert!(answer(&mut socket).ends_with("HTTP/1.1 trusted=false peer=127.0.0.1 listener=web sni=None alpn=None"));
    }
    let (version, body) =
        block_on(async { h2_get(tokio::net::TcpStream::connect(gateway.address).await.expect("a connection")).await });
    assert_eq!(version, Version::HTTP_2);
    assert!(body.starts_with("HTTP/2.0 "), "{body}");
    assert!(gateway.metric(r#"sluice_connections_total{listener="web"} 2"#));
}

#[test]
fn a_head_may_come_byte_by_byte() {
    let gateway = gateway(1, settings());
    let mut socket = gateway.connect();
    for byte in b"PRI" {
        socket.write_all(&[*byte]).expect("a byte");
    }
    socket.write_all(b"NT / HTTP/1.1\r\nhost: a.test\r\n\r\n").expect("the rest");
    assert!(answer(&mut socket).starts_with("HTTP/1.1 200"));
}

#[test]
fn half_a_next_request_does_not_hold_back_an_answer() {
    let gateway = gateway(1, settings());
    let mut socket = gateway.connect();
    socket.write_all(b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\nGET / HT").expect("one request and a half");
    assert!(answer(&mut socket).starts_with("HTTP/1.1 200"));
    socket.write_all(b"TP/1.1\r\nhost: a.test\r\n\r\n").expect("the other half");
    assert!(answer(&mut socket).starts_with("HTTP/1.1 200"));
}

#[test]
fn a_reload_reaches_new_connections() {
    let gateway = gateway(1, settings());
    let networks = vec!["127.0.0.0/8".parse().expect("a net")];
    let trusted_proxies = TrustedPeers { networks, unix: false };
    let trusting = ListenerSettings { trusted_proxies, ..settings() };
    gateway.table.store(Arc::new(table(trusting, 1000)));
    let mut socket = gateway.connect();
    ask(&mut socket, "/");
    assert!(answer(&mut socket).contains("trusted=true"));
    gateway.table.store(Arc::new(Listeners { settings: Vec::new(), max_connections: 1000 }));
    let mut socket = gateway.connect();
    ask(&mut socket, "/");
    assert!(answer(&mut socket).contains("trusted=true"), "a listener that has left the file goes on as it was");
}

#[test]
fn connections_over_a_limit_are_closed_at_once() {
    for (of_listener, of_process) in [(1, 1000), (1000, 1)] {
        let gateway = gateway(1, settings());
        let limited = ListenerSettings { max_connections: of_listener, ..settings() };
        gateway.table.store(Arc::new(table(limited, of_process)));
        let mut first = gateway.connect();
        ask(&mut first, "/");
        answer(&mut first);
        let mut second = gateway.connect();
        assert!(is_closed(&mut second));
        ask(&mut first, "/");
        answer(&mut first);
        assert!(gateway.metric(r#"sluice_connections_refused_total{listener="web"} 1"#));
        drop(first);
        eventually("a free place", || gateway.workers.connections() == 0);
        let mut third = gateway.connect();
        ask(&mut third, "/");
        answer(&mut third);
    }
}

#[test]
fn slow_heads_and_idle_connections_are_closed() {
    let short = Duration::from_millis(50);
    let gateway1 = gateway(1, ListenerSettings { header_timeout: short, ..settings() });
    assert!(is_closed(&mut gateway1.connect()), "who has asked nothing is told nothing");
    let mut socket = gateway1.connect();
    socket.write_all(b"GET / HTTP/1.1\r\nhost:").expect("a start");
    assert!(answer(&mut socket).ends_with("request head timeout"));
    assert!(is_closed(&mut socket));
    // Between two requests the idle timeout holds, and the header timeout again from the first byte of the next.
    let mut socket = gateway1.connect();
    ask(&mut socket, "/");
    answer(&mut socket);
    std::thread::park_timeout(3 * short);
    ask(&mut socket, "/");
    answer(&mut socket);
    socket.write_all(b"G").expect("a byte");
    assert!(answer(&mut socket).ends_with("request head timeout"));
    assert!(is_closed(&mut socket));

    let gateway2 = gateway(1, ListenerSettings { idle_timeout: short, ..settings() });
    let mut socket = gateway2.connect();
    ask(&mut socket, "/");
    answer(&mut socket);
    assert!(is_closed(&mut socket));
    block_on(async {
        let io = tokio::net::TcpStream::connect(gateway2.address).await.expect("a connection");
        let (_client, connection) =
            hyper::client::conn::http2::handshake::<_, _, Empty<Bytes>>(Spawn, TokioIo::new(io)).await.expect("HTTP/2");
        let ended = tokio::time::timeout(PATIENCE, connection).await;
        ended.expect("an idle connection ends").expect("in order");
    });
}

#[test]
fn an_exchange_outlives_the_idle_and_header_timeouts() {
    let short = Duration::from_millis(30);
    let gateway = gateway(1, ListenerSettings { header_timeout: short, idle_timeout: short, ..settings() });
    let mut socket = gateway.connect();
    ask(&mut socket, "/slow");
    eventually("the request", || gateway.gate.waiting.load(SeqCst) == 1);
    std::thread::park_timeout(5 * short);
    gateway.gate.open.store(true, SeqCst);
    assert!(answer(&mut socket).starts_with("HTTP/1.1 200"));
}

#[test]
fn a_panic_costs_its_connection_only() {
    let gateway = gateway(1, settings());
    let mut neighbour = gateway.connect();
    ask(&mut neighbour, "/");
    answer(&mut neighbour);
    let mut socket = gateway.connect();
    ask(&mut socket, "/panic");
    assert!(is_closed(&mut socket));
    ask(&mut neighbour, "/");
    answer(&mut neighbour);
    assert!(gateway.metric("sluice_panics_total 1"));
}

#[test]
fn draining_finishes_what_is_in_flight() {
    let gateway = gateway(2, settings());
    let mut idle = gateway.connect();
    ask(&mut idle, "/");
    answer(&mut idle);
    let mut fresh = gateway.connect();
    let mut busy = gateway.connect();
    ask(&mut busy, "/slow");
    eventually("the request", || gateway.gate.waiting.load(SeqCst) == 1);
    gateway.workers.drain();
    assert!(is_closed(&mut idle));
    assert!(is_closed(&mut fresh));
    eventually("a closed listener", || TcpStream::connect(gateway.address).is_err());
    assert!(!gateway.workers.are_done());
    gateway.gate.open.store(true, SeqCst);
    let response = answer(&mut busy);
    assert!(response.starts_with("HTTP/1.1 200"));
    assert!(response.contains("connection: close\r\n"), "{response}");
    assert!(is_closed(&mut busy));
    eventually("the end", || gateway.workers.are_done());
    assert_eq!(gateway.gate.drained.load(SeqCst), 2);
    assert_eq!(gateway.workers.stop(), 0);
}

#[test]
fn draining_lets_http2_streams_finish() {
    let gateway = gateway(1, settings());
    block_on(async {
        let io = tokio::net::TcpStream::connect(gateway.address).await.expect("a connection");
        let (mut client, connection) =
            hyper::client::conn::http2::handshake::<_, _, Empty<Bytes>>(Spawn, TokioIo::new(io)).await.expect("HTTP/2");
        let connection = tokio::task::spawn_local(connection);
        let request = Request::get("http://a.test/slow").body(Empty::new()).expect("a request");
        let response = tokio::task::spawn_local(client.send_request(request));
        while gateway.gate.waiting.load(SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        gateway.workers.drain();
        while TcpStream::connect(gateway.address).is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        gateway.gate.open.store(true, SeqCst);
        let response = response.await.expect("no panic").expect("a response");
        assert_eq!(response.status(), 200);
        drop(response);
        connection.await.expect("no panic").expect("the connection ends in order");
    });
    eventually("the end", || gateway.workers.are_done());
}

#[test]
fn stopping_cuts_what_does_not_end() {
    let gateway = gateway(1, settings());
    let mut busy = gateway.connect();
    ask(&mut busy, "/slow");
    eventually("the request", || gateway.gate.waiting.load(SeqCst) == 1);
    gateway.workers.drain();
    assert_eq!(gateway.workers.stop(), 1);
    assert!(is_closed(&mut busy));
}

#[test]
fn heads_over_the_limits_are_refused() {
    let gateway = gateway(1, ListenerSettings { max_head_bytes: 8192, max_headers: 20, ..settings() });
    let long = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(10_000));
    let many = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(30));
    let target = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "y".repeat(10_000));
    for (head, error) in
        [(long, HeadError::TooLarge), (many, HeadError::TooManyFields), (target, HeadError::TargetTooLong)]
    {
        let mut socket = gateway.connect();
        socket.write_all(head.as_bytes()).expect("a request");
        assert!(answer(&mut socket).ends_with(&error.to_string()));
        assert!(is_closed(&mut socket));
    }
}

#[test]
fn workers_say_which_address_is_taken() {
    let gateway = gateway(1, settings());
    let again = WorkerSettings {
        workers: 1,
        listeners: vec![ListenerSpec { name: "web".into(), bind: BindAddress::Ip(gateway.address) }],
        table: Arc::clone(&gateway.table),
        metrics: Metrics::new(),
        overload: Overload::new(Default::default()),
    };
    let gate = Arc::<Gate>::default();
    let error = Workers::start(again, move |_, _| Rc::new(Facts { gate: Arc::clone(&gate) }));
    let error = error.map(|_| ()).expect_err("taken").to_string();
    assert_eq!(error, format!("listener `web` cannot bind {}", gateway.address));
}
