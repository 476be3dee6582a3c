//! The smallest fair reverse proxy on hyper: the floor under a gateway that leaves HTTP to it, for the comparison. One event loop for
//! each worker, with a listening socket and a pool of HTTP/1.1 connections to the origin of its own. It keeps `Host`, appends
//! `X-Forwarded-For` and drops `Connection`; it has no routes, limits, timeouts, metrics or second tries.

use std::cell::RefCell;
use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONNECTION, HOST, HeaderName, HeaderValue};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::spawn_local;
use tokio_rustls::TlsAcceptor;

/// As the gateway does.
#[global_allocator]
static ALLOCATOR: sluice::allocator::Allocator = sluice::allocator::Allocator;

const FORWARDED: HeaderName = HeaderName::from_static("x-forwarded-for");

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mode, port, origin, workers, files @ ..] = &arguments[..] else {
        return Err("usage: bare-hyper plain|tls|h2 PORT ORIGIN-PORT WORKERS [CERTIFICATE KEY]".into());
    };
    let tls = match (&**mode, files) {
        ("plain", _) => None,
        ("tls", [certificate, key]) => Some(acceptor(certificate, key, &["http/1.1"])?),
        ("h2", [certificate, key]) => Some(acceptor(certificate, key, &["h2", "http/1.1"])?),
        _ => return Err(format!("cannot serve `{mode}` with {} files", files.len()).into()),
    };
    let (address, origin) = (loopback(port)?, loopback(origin)?);
    let mut threads = Vec::new();
    for _ in 0..workers.parse()? {
        let (socket, tls) = (listen(address)?, tls.clone());
        threads.push(std::thread::spawn(move || work(socket, origin, tls)));
    }
    for thread in threads {
        thread.join().map_err(|_| "a worker panicked")??;
    }
    Ok(())
}

fn loopback(port: &str) -> Result<SocketAddr, Failure> {
    Ok((Ipv4Addr::LOCALHOST, port.parse()?).into())
}

fn acceptor(certificate: &str, key: &str, protocols: &[&str]) -> Result<TlsAcceptor, Failure> {
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<_, _>>()?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

fn work(socket: std::net::TcpListener, origin: SocketAddr, tls: Option<TlsAcceptor>) -> io::Result<()> {
    let _keeping = sluice::allocator::Keeping::new();
    let runtime = Builder::new_current_thread().enable_io().build_local(LocalOptions::default())?;
    runtime.block_on(async move {
        let listener = TcpListener::from_std(socket)?;
        let pool = Rc::new(Pool { origin, idle: RefCell::default() });
        loop {
            let (socket, peer) = listener.accept().await?;
            spawn_local(serve(socket, peer, tls.clone(), Rc::clone(&pool)));
        }
    })
}

/// Serves a client until it leaves; whatever goes wrong on its connection ends that one only.
async fn serve(socket: TcpStream, peer: SocketAddr, tls: Option<TlsAcceptor>, pool: Rc<Pool>) -> Result<(), Failure> {
    socket.set_nodelay(true)?;
    let client = HeaderValue::try_from(peer.ip().to_string())?;
    let service = service_fn(move |request| forward(request, client.clone(), Rc::clone(&pool)));
    let Some(tls) = tls else {
        return Ok(http1::Builder::new().serve_connection(TokioIo::new(socket), service).await?);
    };
    let stream = tls.accept(socket).await?;
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        Ok(http2::Builder::new(Local).serve_connection(TokioIo::new(stream), service).await?)
    } else {
        Ok(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await?)
    }
}

async fn forward(
    mut request: Request<Incoming>,
    client: HeaderValue,
    pool: Rc<Pool>,
) -> Result<Response<Answer>, Infallible> {
    let answered = match prepare(&mut request, client) {
        Ok(()) => send(request, pool).await,
        Err(error) => Err(error),
    };
    Ok(answered.unwrap_or_else(|_| {
        let mut response = Response::new(Answer { body: None, lent: None });
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        response
    }))
}

/// Makes of a client's request, of whatever version, one in HTTP/1.1 for an origin.
fn prepare(request: &mut Request<Incoming>, client: HeaderValue) -> Result<(), Failure> {
    let uri = std::mem::take(request.uri_mut()).into_parts();
    if let Some(authority) = uri.authority {
        request.headers_mut().insert(HOST, HeaderValue::from_str(authority.as_str())?);
    }
    *request.uri_mut() = uri.path_and_query.map(Uri::from).unwrap_or_default();
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    headers.remove(CONNECTION);
    let forwarded = match headers.get(FORWARDED) {
        Some(before) => HeaderValue::from_bytes(&[before.as_bytes(), b", ", client.as_bytes()].concat())?,
        None => client,
    };
    headers.insert(FORWARDED, forwarded);
    Ok(())
}

async fn send(request: Request<Incoming>, pool: Rc<Pool>) -> Result<Response<Answer>, Failure> {
    let mut connection = pool.connection().await?;
    let mut response = connection.send_request(request).await?;
    response.headers_mut().remove(CONNECTION);
    Ok(response.map(|body| {
        let mut answer = Answer { body: Some(body), lent: Some((connection, pool)) };
        if answer.is_end_stream() {
            answer.give_back();
        }
        answer
    }))
}

/// A worker's connections to the origin that nobody uses.
struct Pool {
    origin: SocketAddr,
    idle: RefCell<Vec<SendRequest<Incoming>>>,
}

impl Pool {
    async fn connection(&self) -> Result<SendRequest<Incoming>, Failure> {
        loop {
            let Some(mut idle) = self.idle.borrow_mut().pop() else { break };
            if idle.ready().await.is_ok() {
                return Ok(idle);
            }
        }
        let socket = TcpStream::connect(self.origin).await?;
        socket.set_nodelay(true)?;
        let (connection, driver) = handshake(TokioIo::new(socket)).await?;
        spawn_local(driver);
        Ok(connection)
    }
}

/// The body of a response, which gives its connection back to the pool at its end.
struct Answer {
    body: Option<Incoming>,
    lent: Option<(SendRequest<Incoming>, Rc<Pool>)>,
}

impl Answer {
    fn give_back(&mut self) {
        if let Some((connection, pool)) = self.lent.take() {
            pool.idle.borrow_mut().push(connection);
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(context));
        if frame.is_none() || self.is_end_stream() {
            self.give_back();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Incoming::size_hint)
    }
}

/// Runs hyper's tasks of an HTTP/2 connection on the worker that has the connection.
#[derive(Clone)]
struct Local;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, task: F) {
        spawn_local(task);
    }
}
