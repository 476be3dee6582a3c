//! Four endpoints that can be broken in the ways that servers break. Each speaks HTTP/1.1 (with WebSocket) on one port and gRPC over
//! clear HTTP/2 on another, and notes which requests it has received, so that a request that was processed twice is seen.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{AbortHandle, JoinHandle, spawn_local};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// How long a healthy endpoint takes for a request.
pub(crate) const SERVICE_TIME: Duration = Duration::from_millis(4);
/// The field that tells requests apart.
pub(crate) const ID: &str = "x-chaos-id";

type Body = BoxBody<Bytes, Infallible>;

/// How an endpoint behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Well,
    /// The process is gone: no listener, all connections reset.
    Killed,
    /// It takes connections and requests, and answers nothing.
    Hanging,
    /// Each answer is a 503; to gRPC `UNAVAILABLE`.
    Unavailable,
    /// Ten times as slow.
    Slow,
    /// It reads each request and resets the connection.
    Resetting,
}

/// How often each request was received, by its id. Health checks have none.
pub(crate) type Received = Arc<Mutex<HashMap<u64, u32>>>;

/// Where an endpoint listens. The addresses stay the same when it is killed and started again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Address {
    pub(crate) http: SocketAddr,
    pub(crate) grpc: SocketAddr,
}

/// One endpoint. Lives on the thread of all of them.
pub(crate) struct Endpoint {
    pub(crate) address: Address,
    mode: Rc<Cell<Mode>>,
    received: Received,
    tasks: RefCell<Vec<JoinHandle<()>>>,
}

impl Endpoint {
    /// Starts it on these ports of an address of the loopback network; 0 is a free one.
    pub(crate) fn start(ip: Ipv4Addr, ports: (u16, u16), received: &Received) -> Endpoint {
        let (http, grpc) = (listen((ip, ports.0).into()), listen((ip, ports.1).into()));
        let address =
            Address { http: http.local_addr().expect("an address"), grpc: grpc.local_addr().expect("an address") };
        let endpoint = Endpoint {
            address,
            mode: Rc::new(Cell::new(Mode::Well)),
            received: Arc::clone(received),
            tasks: RefCell::default(),
        };
        endpoint.serve(http, grpc);
        endpoint
    }

    /// Changes how it behaves from now on, also for requests that it has.
    pub(crate) async fn set(&self, mode: Mode) {
        let before = self.mode.replace(mode);
        let restarts = matches!(before, Mode::Killed | Mode::Hanging) && before != mode;
        if mode != Mode::Killed && !restarts {
            return;
        }
        // Who still waits for a hanging one has been forgotten: as after a restart.
        for task in self.tasks.take() {
            task.abort();
            // Its listener is closed when it has ended.
            let _ = task.await;
        }
        if mode != Mode::Killed {
            self.serve(listen(self.address.http), listen(self.address.grpc));
        }
    }

    fn serve(&self, http: TcpListener, grpc: TcpListener) {
        for (listener, is_grpc) in [(http, false), (grpc, true)] {
            let (mode, received) = (Rc::clone(&self.mode), Arc::clone(&self.received));
            let connections: Rc<Connections> = Rc::default();
            let task = spawn_local(async move {
                loop {
                    let Ok((tcp, _)) = listener.accept().await else { continue };
                    // A connection that is dropped is reset, as that of a killed process with unread data is.
                    let _ = SockRef::from(&tcp).set_linger(Some(Duration::ZERO));
                    let _ = tcp.set_nodelay(true);
                    connections.add(spawn_local(converse(tcp, is_grpc, mode.clone(), received.clone())).abort_handle());
                }
            });
            self.tasks.borrow_mut().push(task);
        }
    }
}

/// The connections of one listener, which end with it.
#[derive(Default)]
struct Connections(RefCell<Vec<AbortHandle>>);

impl Connections {
    fn add(&self, connection: AbortHandle) {
        let mut all = self.0.borrow_mut();
        all.retain(|known| !known.is_finished());
        all.push(connection);
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(|connection| connection.abort());
    }
}

fn listen(address: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("SO_REUSEADDR");
    socket.bind(address).expect("the port of an endpoint");
    socket.listen(1024).expect("a listener")
}

/// Why a connection is dropped in the middle.
#[derive(Debug, thiserror::Error)]
#[error("the endpoint resets the connection")]
struct Reset;

async fn converse(tcp: TcpStream, is_grpc: bool, mode: Rc<Cell<Mode>>, received: Received) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let (mode, received) = (Rc::clone(&mode), Arc::clone(&received));
        async move {
            note(&request, &received);
            match mode.get() {
                Mode::Hanging => pending().await,
                Mode::Resetting => Err(Reset),
                _ if is_grpc => Ok(grpc(request, mode.get()).await),
                _ => Ok(plain(request, &mode).await),
            }
        }
    });
    // A broken connection is what this is for.
    if is_grpc {
        let _ = http2::Builder::new(Local).serve_connection(TokioIo::new(tcp), answer).await;
    } else {
        let _ = http1::Builder::new().serve_connection(TokioIo::new(tcp), answer).with_upgrades().await;
    }
}

fn note(request: &Request<Incoming>, received: &Received) {
    let id = request.headers().get(ID).and_then(|id| id.to_str().ok()?.parse().ok());
    if let Some(id) = id {
        *received.lock().expect("the ids").entry(id).or_default() += 1;
    }
}

/// Runs streams of HTTP/2 on this thread.
#[derive(Clone)]
pub(crate) struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

async fn work(mode: Mode) {
    tokio::time::sleep(if mode == Mode::Slow { SERVICE_TIME * 10 } else { SERVICE_TIME }).await;
}

async fn plain(mut request: Request<Incoming>, mode: &Rc<Cell<Mode>>) -> Response<Body> {
    if mode.get() == Mode::Unavailable {
        return status(StatusCode::SERVICE_UNAVAILABLE);
    }
    if let Some(key) = request.headers().get("sec-websocket-key").cloned() {
        let upgrade = hyper::upgrade::on(&mut request);
        let mode = Rc::clone(mode);
        spawn_local(async move {
            if let Ok(upgraded) = upgrade.await {
                echo_frames(TokioIo::new(upgraded), &mode).await;
            }
        });
        let mut response = status(StatusCode::SWITCHING_PROTOCOLS);
        let headers = response.headers_mut();
        headers.insert(UPGRADE, "websocket".parse().expect("a value"));
        headers.insert(CONNECTION, "upgrade".parse().expect("a value"));
        headers.insert("sec-websocket-accept", derive_accept_key(key.as_bytes()).parse().expect("a value"));
        return response;
    }
    let is_check = request.uri().path() == "/healthz";
    let reply = match *request.method() {
        Method::POST => request.into_body().collect().await.map_or_else(|_| Bytes::new(), |body| body.to_bytes()),
        _ => Bytes::from_static(&[b'x'; 1024]),
    };
    if !is_check {
        work(mode.get()).await;
    }
    Response::new(Full::new(reply).boxed())
}

fn status(code: StatusCode) -> Response<Body> {
    let mut response = Response::new(Empty::new().boxed());
    *response.status_mut() = code;
    response
}

/// Sends back what comes, byte for byte but for the mask: frames of a client are masked, those of a server are not (RFC 6455 §5.1). The
/// frames here are short and come whole.
async fn echo_frames(mut stream: TokioIo<hyper::upgrade::Upgraded>, mode: &Cell<Mode>) {
    let mut head = [0; 6];
    while stream_read(&mut stream, &mut head).await.is_some() {
        let mut payload = vec![0; usize::from(head[1] & 0x7f).min(125)];
        if stream_read(&mut stream, &mut payload).await.is_none() {
            return;
        }
        payload.iter_mut().zip(head[2..].iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        match mode.get() {
            Mode::Hanging => pending::<()>().await,
            Mode::Resetting => return,
            now => work(now).await,
        }
        let mut frame = vec![head[0], payload.len() as u8];
        frame.extend(payload);
        if stream.write_all(&frame).await.is_err() {
            return;
        }
    }
}

async fn stream_read(stream: &mut TokioIo<hyper::upgrade::Upgraded>, bytes: &mut [u8]) -> Option<()> {
    stream.read_exact(bytes).await.ok().map(drop)
}

/// An answer of a unary method: the message that came. `grpc.health.v1.Health/Check` is answered too, with `SERVING`.
async fn grpc(request: Request<Incoming>, mode: Mode) -> Response<Body> {
    let is_check = request.uri().path() == "/grpc.health.v1.Health/Check";
    let message = request.into_body().collect().await.map_or_else(|_| Bytes::new(), |body| body.to_bytes());
    if mode == Mode::Unavailable {
        let mut response = status(StatusCode::OK);
        response.headers_mut().insert(CONTENT_TYPE, "application/grpc".parse().expect("a value"));
        response.headers_mut().insert("grpc-status", "14".parse().expect("a value"));
        return response;
    }
    let message = match is_check {
        // A message of 2 bytes: field 1 (status) is 1.
        true => Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1]),
        false => {
            work(mode).await;
            message
        }
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().expect("a value"));
    let frames = [Ok(Frame::data(message)), Ok(Frame::trailers(trailers))];
    let mut response = Response::new(StreamBody::new(tokio_stream(frames)).boxed());
    response.headers_mut().insert(CONTENT_TYPE, "application/grpc".parse().expect("a value"));
    response
}

/// Frames as a stream that is ready at once.
fn tokio_stream<const N: usize>(
    frames: [Result<Frame<Bytes>, Infallible>; N],
) -> impl futures_core::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + Sync {
    struct Ready<I>(I);
    impl<I: Iterator + Unpin> futures_core::Stream for Ready<I> {
        type Item = I::Item;
        fn poll_next(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<I::Item>> {
            std::task::Poll::Ready(self.0.next())
        }
    }
    Ready(frames.into_iter())
}
