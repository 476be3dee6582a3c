//! Upstreams against real servers on this machine.

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::header::{EXPECT, HOST};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::attempt_log::Attempt;
use super::connect::LocalExecutor;
use super::retry::{Attempts, Delivery, FilterChoice, Next, Repeatability};
use super::*;
use crate::http::body::Body;
use crate::http::buffer::{MemoryBudget, collect};

const TIMEOUTS: Timeouts =
    Timeouts { connect: Duration::from_secs(5), first_byte: Duration::from_secs(5), until: None, whole: None };
const REPEATABLE: Repeatability = Repeatability { idempotent: true, has_body: false, whole: true };
static BUDGET: LazyLock<MemoryBudget> = LazyLock::new(|| MemoryBudget::new(1 << 20));

/// An HTTP server that answers with what it saw: version, `Host` or `:authority`, path, body.
struct Origin {
    port: u16,
    connections: Rc<Cell<usize>>,
}

async fn saw(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    let host = parts.headers.get(HOST).map(|h| h.to_str().unwrap().to_owned());
    let host = host.or(parts.uri.authority().map(|a| a.to_string())).unwrap_or_default();
    let body = collect(&mut Body::from_client(body), 1 << 20, &MemoryBudget::new(1 << 20)).await.unwrap();
    let path = parts.uri.path();
    Ok(Response::new(Body::full(format!("{:?} {host} {path} {}", parts.version, String::from_utf8_lossy(&body)))))
}

impl Origin {
    async fn new(http2: bool, tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Rc::new(Cell::new(0));
        let counter = connections.clone();
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.set(counter.get() + 1);
                let tls = tls.clone();
                tokio::task::spawn_local(async move {
                    match tls {
                        None => serve(stream, http2).await,
                        Some(tls) => {
                            let Ok(stream) = tls.accept(stream).await else { return };
                            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                            serve(stream, http2).await;
                        }
                    }
                });
            }
        });
        Origin { port, connections }
    }
}

async fn serve<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static>(stream: T, http2: bool) {
    let io = TokioIo::new(stream);
    let _ = if http2 {
        hyper::server::conn::http2::Builder::new(LocalExecutor).serve_connection(io, service_fn(saw)).await
    } else {
        hyper::server::conn::http1::Builder::new().serve_connection(io, service_fn(saw)).await
    };
}

/// A server that plays a script on each connection.
async fn script<F, R>(play: F) -> u16
where
    F: Fn(usize, TcpStream) -> R + 'static,
    R: Future<Output = ()> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::task::spawn_local(async move {
        for connection in 0.. {
            let Ok((stream, _)) = listener.accept().await else { return };
            tokio::task::spawn_local(play(connection, stream));
        }
    });
    port
}

/// Reads until `end` has come; `None` when the peer closed before.
async fn read_until(stream: &mut TcpStream, end: &str) -> Option<String> {
    let mut text = String::new();
    while !text.ends_with(end) {
        let mut byte = [0];
        if stream.read(&mut byte).await.ok()? == 0 {
            return None;
        }
        text.push(byte[0] as char);
    }
    Some(text)
}

async fn dead_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

fn spec(ports: &[u16], scheme: &str) -> UpstreamSpec {
    let endpoints = ports.iter().map(|port| EndpointSpec::from_url(&format!("{scheme}://localhost:{port}")).unwrap());
    UpstreamSpec::new("orders", TargetSpec::Endpoints(endpoints.collect()))
}

fn local(spec: UpstreamSpec) -> Rc<LocalUpstream> {
    let upstream = Upstream::new(spec, &EndpointRegistry::new(), &Resolver::new(&[], None), None);
    LocalUpstream::new(Arc::new(upstream.unwrap()), None)
}

fn idle_count(upstream: &LocalUpstream) -> usize {
    upstream.endpoints().pools().map(|pool| pool.idle_count()).sum()
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).header(HOST, "shop.example").body(Body::Empty).unwrap()
}

/// A request with a response that does not come in one read.
fn long() -> Request<Body> {
    Request::post("/").header(HOST, "shop.example").body(Body::full(vec![b'x'; 256 << 10])).unwrap()
}

/// A response with the attempts that led to it.
struct Reply {
    response: UpstreamResponse,
    attempts: Vec<Attempt>,
}

impl Reply {
    fn last(&self) -> &Attempt {
        self.attempts.last().unwrap()
    }

    /// The endpoints that took no request.
    fn failed(&self) -> Vec<&str> {
        let failed = self.attempts.iter().filter(|attempt| matches!(attempt.outcome, AttemptOutcome::Failed(_)));
        failed.map(|attempt| &**attempt.endpoint.as_ref().unwrap()).collect()
    }
}

async fn send(upstream: &LocalUpstream, request: Request<Body>) -> Result<Reply, AttemptError> {
    let mut outgoing = OutgoingRequest::new(Box::new(request), TIMEOUTS, &BUDGET);
    send_chosen(upstream, &mut outgoing, Choice::Balanced(Affinity::default())).await
}

async fn send_within(upstream: &LocalUpstream, request: Request<Body>, limits: Timeouts) -> AttemptError {
    let mut outgoing = OutgoingRequest::new(Box::new(request), limits, &BUDGET);
    send_chosen(upstream, &mut outgoing, Choice::Balanced(Affinity::default())).await.err().unwrap()
}

/// Attempts as a route makes them that no filter chooses for.
async fn send_chosen(
    upstream: &LocalUpstream,
    request: &mut OutgoingRequest<'_>,
    choice: Choice<'_>,
) -> Result<Reply, AttemptError> {
    let (mut allowed, mut attempts, mut next) = (Attempts::default(), Vec::new(), Next::OtherEndpoint);
    let mut last = AttemptError::new(UpstreamErrorKind::NoEndpoint);
    let endpoints = upstream.endpoints();
    allowed.select(upstream.max_endpoints(&endpoints), 0, FilterChoice::NoneOrSame);
    loop {
        match next {
            Next::SameEndpoint => {}
            Next::OtherEndpoint => match upstream.choose(&endpoints, choice, None, allowed.tried()) {
                Some(endpoint) => allowed.spend(endpoint),
                None => return Err(last),
            },
            Next::Selection | Next::GiveUp => return Err(last),
        }
        let endpoint = *allowed.tried().last().unwrap();
        let mut attempt = Attempt::new(upstream.name().clone(), Some(upstream.endpoint_name(&endpoints, endpoint)));
        let outcome = upstream.attempt(&endpoints, endpoint, request, &mut attempt).await;
        match outcome {
            Ok(response) => {
                attempts.push(attempt);
                return Ok(Reply { response, attempts });
            }
            Err(error) => last = error,
        }
        next = allowed.after(last.ended(request.repeatability()), false).next;
        if next == Next::SameEndpoint {
            attempt.outcome = AttemptOutcome::Stale;
        } else {
            request.leave_endpoint();
        }
        attempts.push(attempt);
    }
}

async fn text(mut reply: Reply) -> String {
    let bytes = collect(&mut reply.response.body, 1 << 20, &MemoryBudget::new(1 << 20)).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test(flavor = "local")]
async fn connections_are_used_again_and_heads_are_in_origin_form() {
    let origin = Origin::new(false, None).await;
    let upstream = local(spec(&[origin.port], "http"));
    for turn in 0..10 {
        let mut request = get("http://other.example/a");
        *request.body_mut() = Body::full("hi");
        let sent = send(&upstream, request).await.unwrap();
        assert_eq!(sent.last().connect.is_some(), turn == 0);
        assert_eq!(text(sent).await, "HTTP/1.1 shop.example /a hi");
    }
    let sent = send(&upstream, long()).await.unwrap();
    assert_eq!(upstream.candidates()[0].active, 1, "active until the last byte has come");
    text(sent).await;
    let bare = Request::get("/b").body(Body::Empty).unwrap();
    let sent = send(&upstream, bare).await.unwrap();
    assert_eq!(text(sent).await, format!("HTTP/1.1 localhost:{} /b ", origin.port));
    assert_eq!((origin.connections.get(), idle_count(&upstream)), (1, 1));
    let seen = &upstream.candidates()[0];
    assert!(seen.healthy && seen.active == 0 && seen.latency_us > 0);
}

#[tokio::test(flavor = "local")]
async fn the_next_endpoint_serves_when_one_is_down() {
    let origin = Origin::new(false, None).await;
    let dead = dead_port().await;
    let upstream = local(spec(&[dead, origin.port], "http"));
    // Wherever the turn begins, it comes to the one that is down.
    let mut sent = send(&upstream, get("/")).await.unwrap();
    while sent.failed().is_empty() {
        sent = send(&upstream, get("/")).await.unwrap();
    }
    assert_eq!(sent.last().endpoint.as_deref(), Some(&*format!("localhost:{}", origin.port)));
    assert_eq!(sent.failed(), [format!("localhost:{dead}")]);
    assert_eq!(sent.attempts[0].outcome, AttemptOutcome::Failed(UpstreamErrorKind::Connect));
    assert_eq!(upstream.candidates().iter().map(|c| c.healthy).collect::<Vec<_>>(), [false, true]);
    for _ in 0..5 {
        let sent = send(&upstream, get("/")).await.unwrap();
        assert!(sent.failed().is_empty(), "an endpoint that is down is left out");
    }
    let wanted = [format!("localhost:{dead}"), "unknown:1".to_owned(), format!("localhost:{}", origin.port)];
    let mut request = OutgoingRequest::new(Box::new(get("/")), TIMEOUTS, &BUDGET);
    let sent = send_chosen(&upstream, &mut request, Choice::Addresses(&wanted)).await.unwrap();
    assert_eq!(sent.failed().len(), 1, "a list is taken in its order");
}

#[tokio::test(flavor = "local")]
async fn an_endpoint_that_was_not_reached_leaves_no_name() {
    let endpoints = local(spec(&[1, 2], "http")).endpoints();
    // `localhost` has two addresses.
    let [first, second] = [endpoints.endpoint(0), endpoints.endpoint(2)];
    for http2 in [false, true] {
        let mut request = Request::get("/a?b").body(Body::Empty).unwrap();
        if http2 {
            assert!(head::for_http2(&mut request, first));
        } else {
            head::for_http1(&mut request, first);
            assert_eq!(request.headers()[HOST], "localhost:1");
        }
        head::unnamed(&mut request);
        head::for_http1(&mut request, second);
        assert_eq!(
            (&request.headers()[HOST], request.uri()),
            (&"localhost:2".parse().unwrap(), &"/a?b".parse().unwrap())
        );
    }
}

#[tokio::test(flavor = "local")]
async fn a_name_that_came_back_from_http2_is_kept() {
    let origin = Origin::new(false, None).await;
    let (dead, alive) = (dead_port().await, origin.port);
    let upstream = local(spec(&[dead, alive], "http"));
    let mut request = get("/");
    assert!(head::for_http2(&mut request, upstream.endpoints().endpoint(0)) && !request.headers().contains_key(HOST));
    let wanted = [dead, alive].map(|port| format!("localhost:{port}"));
    let mut outgoing = OutgoingRequest::new(Box::new(request), TIMEOUTS, &BUDGET);
    let sent = send_chosen(&upstream, &mut outgoing, Choice::Addresses(&wanted)).await.unwrap();
    assert_eq!((sent.failed().len(), &*text(sent).await), (1, "HTTP/1.1 shop.example / "));
}

#[tokio::test(flavor = "local")]
async fn a_request_comes_back_when_nobody_took_it() {
    let dead = [dead_port().await, dead_port().await];
    let upstream = local(spec(&dead, "http"));
    let mut request = get("/");
    *request.body_mut() = Body::full("kept");
    let mut request = OutgoingRequest::new(Box::new(request), TIMEOUTS, &BUDGET);
    let error = send_chosen(&upstream, &mut request, Choice::Balanced(Affinity::default())).await.err().unwrap();
    assert_eq!(error.kind, UpstreamErrorKind::Connect);
    assert!(error.reason().contains("refused"), "{}", error.reason());
    assert!(upstream.candidates().iter().all(|candidate| !candidate.healthy), "both were tried");
    let mut body = request.into_request().into_body();
    assert_eq!(collect(&mut body, 9, &MemoryBudget::new(9)).await.unwrap(), "kept");
    let unknown = ["unknown:1".to_owned()];
    let mut request = OutgoingRequest::new(Box::new(get("/")), TIMEOUTS, &BUDGET);
    let error = send_chosen(&upstream, &mut request, Choice::Addresses(&unknown)).await.err().unwrap();
    assert_eq!(error.kind, UpstreamErrorKind::NoEndpoint);
}

#[tokio::test(flavor = "local")]
async fn a_connection_that_died_idle_costs_no_request() {
    let port = script(|_, mut stream| async move {
        read_until(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    })
    .await;
    let upstream = local(spec(&[port], "http"));
    for turn in 0..20 {
        let body = if turn % 2 == 0 { Body::Empty } else { Body::full("body") };
        let request = Request::post("/").body(body).unwrap();
        assert_eq!(text(send(&upstream, request).await.unwrap()).await, "ok");
        // The server's close arrives; it is noticed when the connection is to be used again.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "local")]
async fn what_was_sent_is_repeated_only_when_that_is_harmless() {
    // The first connection answers once and closes after it has read the second request; later ones just answer.
    let play = |connection, mut stream: TcpStream| async move {
        for turn in 0.. {
            if read_until(&mut stream, "\r\n\r\n").await.is_none() || connection == 0 && turn == 1 {
                return;
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        }
    };
    for (method, harmless) in [("GET", true), ("POST", false)] {
        let upstream = local(spec(&[script(play).await], "http"));
        assert_eq!(text(send(&upstream, get("/")).await.unwrap()).await, "ok");
        upstream.endpoints().pools().for_each(|pool| pool.age(Duration::from_secs(1)));
        let request = Request::builder().method(method).uri("/").body(Body::Empty).unwrap();
        match send(&upstream, request).await {
            Ok(sent) => {
                assert!(harmless && sent.attempts[0].outcome == AttemptOutcome::Stale && sent.attempts.len() == 2);
                assert_eq!(text(sent).await, "ok");
            }
            Err(error) => assert!(!harmless && error.kind == UpstreamErrorKind::Reset, "{error:?}"),
        }
    }
}

#[tokio::test(flavor = "local")]
async fn http2_by_prior_knowledge_shares_one_connection() {
    let origin = Origin::new(true, None).await;
    let upstream = local(UpstreamSpec { protocol: Protocol::H2c, ..spec(&[origin.port], "http") });
    let tasks: Vec<_> = (0..20)
        .map(|i| {
            let upstream = upstream.clone();
            tokio::task::spawn_local(async move {
                let mut request = get(&format!("/{i}"));
                *request.body_mut() = Body::full("b");
                (i, text(send(&upstream, request).await.unwrap()).await)
            })
        })
        .collect();
    for task in tasks {
        let (i, seen) = task.await.unwrap();
        assert_eq!(seen, format!("HTTP/2.0 shop.example /{i} b"));
    }
    assert_eq!(origin.connections.get(), 1);
    assert_eq!(upstream.candidates()[0].active, 0);
}

fn certified() -> (String, tokio_rustls::TlsAcceptor) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (made.cert.pem(), tokio_rustls::TlsAcceptor::from(Arc::new(config)))
}

#[tokio::test(flavor = "local")]
async fn tls_is_verified_and_alpn_decides() {
    let (ca, acceptor) = certified();
    let origin = Origin::new(false, Some(acceptor)).await;
    let with = |protocol, tls| local(UpstreamSpec { protocol, tls, ..spec(&[origin.port], "https") });
    let trusted = TlsSpec { ca_pem: Some(ca), ..TlsSpec::default() };
    let sent = send(&with(Protocol::Auto, trusted.clone()), get("/")).await.unwrap();
    assert_eq!(text(sent).await, "HTTP/2.0 shop.example / ");
    let sent = send(&with(Protocol::Http1, trusted.clone()), get("/")).await.unwrap();
    assert_eq!(text(sent).await, "HTTP/1.1 shop.example / ");

    let error = send(&with(Protocol::Auto, TlsSpec::default()), get("/")).await.err().unwrap();
    assert_eq!(error.kind, UpstreamErrorKind::Tls, "unknown issuer");
    let other = TlsSpec { server_name: Some("other.example".into()), ..trusted };
    let error = send(&with(Protocol::Auto, other), get("/")).await.err().unwrap();
    assert_eq!(error.kind, UpstreamErrorKind::Tls, "wrong name");
    let blind = TlsSpec { verify: false, ..TlsSpec::default() };
    assert!(send(&with(Protocol::Auto, blind), get("/")).await.is_ok());
}

#[tokio::test(flavor = "local")]
async fn a_silent_server_is_given_up() {
    let port = script(|_, mut stream| async move {
        read_until(&mut stream, "never").await;
    })
    .await;
    let upstream = local(spec(&[port], "http"));
    let timeouts = Timeouts { first_byte: Duration::from_millis(30), ..TIMEOUTS };
    let error = send_within(&upstream, get("/"), timeouts).await;
    assert_eq!(error.kind, UpstreamErrorKind::FirstByteTimeout);
    assert_eq!(error.ended(REPEATABLE).delivery, Delivery::Possible);
    assert_eq!((idle_count(&upstream), upstream.candidates()[0].active), (0, 0));
}

#[tokio::test(flavor = "local")]
async fn a_broken_upload_is_not_blamed_on_the_upstream() {
    let origin = Origin::new(false, None).await;
    let upstream = local(spec(&[origin.port], "http"));
    let mut request = get("/");
    *request.body_mut() = Body::full("too much").limited(3);
    let error = send(&upstream, request).await.err().unwrap();
    let kind = crate::http::body::BodyErrorKind::TooLarge;
    assert_eq!(error.kind, UpstreamErrorKind::RequestBody(kind), "{error:?}");
}

fn expecting() -> Request<Body> {
    Request::post("/").header(EXPECT, "100-continue").body(Body::full("the body")).unwrap()
}

#[tokio::test(flavor = "local")]
async fn a_body_waits_for_100_continue() {
    let port = script(|_, mut stream| async move {
        read_until(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        read_until(&mut stream, "the body").await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        read_until(&mut stream, "never").await;
    })
    .await;
    let upstream = local(spec(&[port], "http"));
    assert_eq!(text(send(&upstream, expecting()).await.unwrap()).await, "ok");
    assert_eq!(idle_count(&upstream), 1);
}

#[tokio::test(flavor = "local")]
async fn a_refused_body_is_never_sent() {
    let (told, rest) = tokio::sync::oneshot::channel();
    let told = Rc::new(Cell::new(Some(told)));
    let port = script(move |_, mut stream| {
        let told = told.clone();
        async move {
            read_until(&mut stream, "\r\n\r\n").await;
            stream.write_all(b"HTTP/1.1 417 No\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            if let Some(told) = told.take() {
                told.send(rest).unwrap();
            }
        }
    })
    .await;
    let upstream = local(spec(&[port], "http"));
    let sent = send(&upstream, expecting()).await.unwrap();
    assert_eq!(sent.response.head.status, StatusCode::EXPECTATION_FAILED);
    assert_eq!(text(sent).await, "no");
    assert!(rest.await.unwrap().is_empty());
}

#[tokio::test(flavor = "local")]
async fn a_server_that_reads_nothing_is_not_waited_for_as_long_as_the_request_lasts() {
    let (keep, kept) = tokio::sync::oneshot::channel::<()>();
    let kept = Rc::new(std::cell::RefCell::new(Some(kept)));
    let port = script(move |_, stream| {
        let kept = kept.borrow_mut().take();
        async move {
            // The socket stays open and unread until the test is over.
            if let Some(kept) = kept {
                let _ = kept.await;
            }
            drop(stream);
        }
    })
    .await;
    let upstream = local(spec(&[port], "http"));
    let mut request = get("/");
    // Two parts, of which the socket does not even take the first.
    let part = Body::full(vec![b'x'; 32 << 20]);
    *request.body_mut() = Body::Resumed(vec![b'x'; 32 << 20].into(), Box::new(part));
    let timeouts = Timeouts { first_byte: Duration::from_millis(50), ..TIMEOUTS };
    let error = send_within(&upstream, request, timeouts).await;
    assert_eq!(error.kind, UpstreamErrorKind::FirstByteTimeout);
    drop(keep);
}

#[tokio::test(flavor = "local")]
async fn an_upgraded_connection_is_handed_over() {
    let port = script(|_, mut stream| async move {
        let head = read_until(&mut stream, "\r\n\r\n").await.unwrap();
        assert!(head.contains("upgrade: echo"));
        stream.write_all(b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n").await.unwrap();
        let mut four = [0; 4];
        stream.read_exact(&mut four).await.unwrap();
        stream.write_all(&four).await.unwrap();
    })
    .await;
    let upstream = local(spec(&[port], "http"));
    let request = Request::get("/").header("connection", "upgrade").header("upgrade", "echo").body(Body::Empty);
    let sent = send(&upstream, request.unwrap()).await.unwrap();
    assert_eq!(sent.response.head.status, StatusCode::SWITCHING_PROTOCOLS);
    let mut upgraded = sent.response.upgraded.unwrap();
    upgraded.write_all(b"ping").await.unwrap();
    let mut four = [0; 4];
    upgraded.read_exact(&mut four).await.unwrap();
    assert_eq!(&four, b"ping");
}

#[tokio::test(flavor = "local")]
async fn idle_connections_are_bounded_in_number_and_time() {
    let origin = Origin::new(false, None).await;
    let mut spec = spec(&[origin.port], "http");
    (spec.max_idle, spec.idle_timeout) = (2, Duration::from_millis(50));
    let upstream = local(spec);
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(send(&upstream, long()).await.unwrap());
    }
    for sent in open {
        text(sent).await;
    }
    assert_eq!((origin.connections.get(), idle_count(&upstream)), (4, 2));
    while idle_count(&upstream) > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(send(&upstream, get("/")).await.unwrap().last().connect.is_some());
}

#[tokio::test(flavor = "local")]
async fn builtins_need_no_server() {
    let upstream = local(UpstreamSpec::new("demo", TargetSpec::Echo));
    let sent = send(&upstream, get("/x")).await.unwrap();
    assert_eq!((sent.last().endpoint.as_deref(), sent.response.head.status), (Some("echo"), StatusCode::OK));
    assert!(text(sent).await.starts_with("{\n  \"method\": \"GET\",\n  \"path\": \"/x\""));
    let upstream = local(UpstreamSpec::new("demo", TargetSpec::Status));
    assert_eq!(send(&upstream, get("/status/418")).await.unwrap().response.head.status, StatusCode::IM_A_TEAPOT);
}
