//! HTTP/2 at both ends: a client over clear text or TLS, and an origin.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::rt::{Executor, ReadBufCursor};
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// The one body type of the tests.
pub type Body = BoxBody<Bytes, io::Error>;

/// A body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// A response with its body read.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Bytes,
    pub trailers: Option<http::HeaderMap>,
}

impl Answer {
    /// The first value of a field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|v| v.to_str().expect("text"))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One HTTP/2 connection and the runtime that drives it while a call waits.
pub struct H2 {
    runtime: Runtime,
    sender: SendRequest<Body>,
    authority: String,
    scheme: &'static str,
}

impl H2 {
    /// By prior knowledge.
    pub fn connect(address: SocketAddr) -> H2 {
        let runtime = runtime();
        let sender = runtime.block_on(async {
            let tcp = TcpStream::connect(address).await.unwrap();
            tcp.set_nodelay(true).unwrap();
            handshake(Io(tcp)).await.expect("an HTTP/2 connection")
        });
        H2 { runtime, sender, authority: address.to_string(), scheme: "http" }
    }

    /// Over TLS, with ALPN as the config says.
    pub fn connect_tls(address: SocketAddr, name: &str, config: Arc<ClientConfig>) -> H2 {
        let runtime = runtime();
        let sender = runtime.block_on(async {
            let tcp = TcpStream::connect(address).await.unwrap();
            tcp.set_nodelay(true).unwrap();
            let server = rustls_pki_types::ServerName::try_from(name.to_string()).unwrap();
            let tls = tokio_rustls::TlsConnector::from(config).connect(server, tcp).await.expect("a TLS handshake");
            assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]), "the protocol that ALPN chose");
            handshake(Io(tls)).await.expect("an HTTP/2 connection")
        });
        H2 { runtime, sender, authority: name.to_string(), scheme: "https" }
    }

    /// A request builder with the target filled in.
    pub fn builder(&self, method: &str, target: &str) -> http::request::Builder {
        Request::builder().method(method).uri(format!("{}://{}{target}", self.scheme, self.authority))
    }

    /// Sends a request and reads the whole response.
    #[track_caller]
    pub fn send(&mut self, request: Request<Body>) -> Answer {
        self.try_send(request).expect("a response over HTTP/2")
    }

    /// The same, where the stream may be reset.
    pub fn try_send(&mut self, request: Request<Body>) -> Result<Answer, hyper::Error> {
        let sending = self.sender.send_request(request);
        self.runtime.block_on(async { read(sending.await?).await })
    }

    /// Sends several requests at once on this connection.
    pub fn send_all(&mut self, requests: Vec<Request<Body>>) -> Vec<Result<Answer, hyper::Error>> {
        let mut sender = self.sender.clone();
        self.runtime.block_on(async move {
            let mut tasks = Vec::new();
            for request in requests {
                if let Err(error) = sender.ready().await {
                    tasks.push(tokio::task::spawn(async move { Err(error) }));
                    continue;
                }
                let sending = sender.send_request(request);
                tasks.push(tokio::task::spawn(async move { read(sending.await?).await }));
            }
            let mut answers = Vec::new();
            for task in tasks {
                answers.push(task.await.expect("a task of the test"));
            }
            answers
        })
    }

    /// `GET` without extras.
    #[track_caller]
    pub fn get(&mut self, target: &str) -> Answer {
        let request = self.builder("GET", target).body(full("")).unwrap();
        self.send(request)
    }

    /// Drives a future on the runtime of the connection, with a sender of it.
    pub fn run<F: Future>(&self, work: impl FnOnce(SendRequest<Body>) -> F) -> F::Output {
        self.runtime.block_on(work(self.sender.clone()))
    }
}

/// Reads a whole response.
pub async fn read(response: Response<Incoming>) -> Result<Answer, hyper::Error> {
    let (parts, body) = response.into_parts();
    let collected = body.collect().await?;
    let trailers = collected.trailers().cloned();
    Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body: collected.to_bytes(), trailers })
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn handshake<T>(io: Io<T>) -> hyper::Result<SendRequest<Body>>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = hyper::client::conn::http2::Builder::new(Tasks).handshake(io).await?;
    tokio::spawn(connection);
    Ok(sender)
}

type Handled = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// An HTTP/2 origin on a thread of its own; it lives as long as the test process.
pub struct H2Origin {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl H2Origin {
    /// Answers each request by an async function, over clear text (prior knowledge) or TLS.
    pub fn serve<F>(
        tls: Option<Arc<ServerConfig>>,
        handler: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    ) -> H2Origin
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::start(local(), tls, Options::default(), handler)
    }

    /// The same over clear text, with a listener of one's own.
    pub fn on<F>(
        listener: std::net::TcpListener,
        handler: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    ) -> H2Origin
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::start(listener, None, Options::default(), handler)
    }

    /// The same over clear text, with a limit of the streams that a connection may have at a time.
    pub fn limited<F>(streams: u32, handler: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static) -> H2Origin
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::start(local(), None, Options { streams: Some(streams), ..Options::default() }, handler)
    }

    /// The same over clear text or TLS, with the setting that takes an extended CONNECT (RFC 8441).
    pub fn connecting<F>(
        tls: Option<Arc<ServerConfig>>,
        handler: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    ) -> H2Origin
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::start(local(), tls, Options { connect: true, ..Options::default() }, handler)
    }

    fn start<F>(
        listener: std::net::TcpListener,
        tls: Option<Arc<ServerConfig>>,
        options: Options,
        handler: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    ) -> H2Origin
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        let handler: Arc<dyn Fn(Request<Incoming>) -> Handled + Send + Sync> = Arc::new(move |r| Box::pin(handler(r)));
        thread::spawn(move || {
            runtime().block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                loop {
                    let Ok((tcp, _)) = listener.accept().await else { continue };
                    counted.fetch_add(1, Ordering::SeqCst);
                    let _ = tcp.set_nodelay(true);
                    let (tls, handler) = (tls.clone(), handler.clone());
                    tokio::spawn(async move {
                        match tls {
                            None => converse(Io(tcp), options, handler).await,
                            Some(config) => {
                                if let Ok(tls) = tokio_rustls::TlsAcceptor::from(config).accept(tcp).await {
                                    converse(Io(tls), options, handler).await;
                                }
                            }
                        }
                    });
                }
            });
        });
        H2Origin { address, connections }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it got.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// What an origin says in its SETTINGS.
#[derive(Debug, Clone, Copy, Default)]
struct Options {
    /// The streams that a connection may have at a time.
    streams: Option<u32>,
    /// An extended CONNECT is taken.
    connect: bool,
}

fn local() -> std::net::TcpListener {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap()
}

async fn converse<T>(io: Io<T>, options: Options, handler: Arc<dyn Fn(Request<Incoming>) -> Handled + Send + Sync>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let answer = handler(request);
        async move { Ok::<_, io::Error>(answer.await) }
    });
    let mut builder = hyper::server::conn::http2::Builder::new(Tasks);
    if options.streams.is_some() {
        builder.max_concurrent_streams(options.streams);
    }
    if options.connect {
        builder.enable_connect_protocol();
    }
    let _ = builder.serve_connection(io, service).await;
}

/// Runs hyper's tasks on the current runtime.
#[derive(Clone)]
struct Tasks;

impl<F> Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        tokio::spawn(task);
    }
}

/// A tokio stream as hyper wants it. Reads through a small buffer, so that no unsafe code is needed.
struct Io<T>(T);

impl<T: AsyncRead + Unpin> hyper::rt::Read for Io<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        mut to: ReadBufCursor<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        let mut bytes = [0; 16 << 10];
        let room = to.remaining().min(bytes.len());
        let mut buf = ReadBuf::new(&mut bytes[..room]);
        std::task::ready!(Pin::new(&mut self.get_mut().0).poll_read(cx, &mut buf))?;
        to.put_slice(buf.filled());
        std::task::Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> hyper::rt::Write for Io<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

/// A stream of HTTP/2 that carries another protocol.
pub struct Tunnel(Upgraded);

impl Tunnel {
    /// Asks for one by an extended CONNECT. The answer, if it is no success.
    pub async fn open(
        mut sender: SendRequest<Body>,
        mut request: Request<Body>,
        protocol: &str,
    ) -> Result<Tunnel, Response<Incoming>> {
        *request.method_mut() = http::Method::CONNECT;
        request.extensions_mut().insert(hyper::ext::Protocol::from(protocol));
        let mut response = within("an answer to CONNECT", sender.send_request(request)).await.expect("an answer");
        match response.status() {
            http::StatusCode::OK => Ok(Tunnel(hyper::upgrade::on(&mut response).await.expect("a stream"))),
            _ => Err(response),
        }
    }

    /// The stream of a request that a handler answers with 200.
    pub async fn of(request: Request<Incoming>) -> Tunnel {
        Tunnel(hyper::upgrade::on(request).await.expect("a stream"))
    }

    /// Sends bytes.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let n = poll_fn(|cx| hyper::rt::Write::poll_write(Pin::new(&mut self.0), cx, rest)).await?;
            rest = &rest[n..];
        }
        poll_fn(|cx| hyper::rt::Write::poll_flush(Pin::new(&mut self.0), cx)).await
    }

    /// What comes next; empty at the end.
    pub async fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = [0; 4096];
        let mut buf = hyper::rt::ReadBuf::new(&mut bytes);
        within(
            "bytes, or the end",
            poll_fn(|cx| hyper::rt::Read::poll_read(Pin::new(&mut self.0), cx, buf.unfilled())),
        )
        .await?;
        Ok(buf.filled().to_vec())
    }

    /// Ends this side.
    pub async fn finish(&mut self) {
        let _ = poll_fn(|cx| hyper::rt::Write::poll_shutdown(Pin::new(&mut self.0), cx)).await;
    }
}

/// Waits on a deadline inside async test code; the test fails when it passes.
pub async fn within<F: Future>(what: &str, work: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), work).await.unwrap_or_else(|_| panic!("did not happen: {what}"))
}

/// Polls until the condition holds while the connections go on; the test fails when it doesn't.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    within(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
