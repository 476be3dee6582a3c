//! Steady load: requests go out by the clock, whether or not those before have been answered, so that a proxy that stalls is seen in
//! the latencies. Times and order follow from the seed.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::{JoinSet, spawn_local};
use tokio_tungstenite::tungstenite::Message;

use crate::origins::{ID, Local};
use crate::phases::mix;

/// How long a client waits for the whole of an answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// Between two messages of a WebSocket.
const MESSAGES: Duration = Duration::from_millis(100);
/// WebSockets that are open at a time.
const SOCKETS: usize = 8;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Get,
    Post,
    /// A unary method.
    Grpc,
    /// The opening of a WebSocket.
    Open,
    /// A message on an open WebSocket and its echo.
    Message,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Get => "GET",
            Kind::Post => "POST",
            Kind::Grpc => "gRPC",
            Kind::Open => "WS open",
            Kind::Message => "WS message",
        }
    }
}

/// How one request ended.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) kind: Kind,
    /// Its id; a message has none.
    pub(crate) id: u64,
    pub(crate) took: Duration,
    pub(crate) error: Option<String>,
}

/// Requests a second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate(pub(crate) u32);

impl Rate {
    /// Of ten requests about six are GET, three POST, one gRPC.
    fn kind(random: u64) -> Kind {
        match random % 10 {
            0..6 => Kind::Get,
            6..9 => Kind::Post,
            _ => Kind::Grpc,
        }
    }
}

/// Where the load goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    /// HTTP/1.1 and WebSocket.
    pub(crate) http: SocketAddr,
    /// Clear HTTP/2.
    pub(crate) grpc: SocketAddr,
}

/// The clients. Their connections are kept from phase to phase, as those of real clients are.
pub(crate) struct Clients {
    target: Target,
    seed: u64,
    next_id: u64,
    idle: Rc<RefCell<Vec<http1::SendRequest<Full<Bytes>>>>>,
    grpc: Rc<tokio::sync::Mutex<Option<http2::SendRequest<Full<Bytes>>>>>,
}

impl Clients {
    pub(crate) fn new(target: Target, seed: u64, first_id: u64) -> Clients {
        Clients { target, seed, next_id: first_id, idle: Rc::default(), grpc: Rc::default() }
    }

    /// An id that no request has had.
    pub(crate) fn next_id(&self) -> u64 {
        self.next_id
    }

    /// Load for so long. Answers how each request ended that began in this time, when all have.
    pub(crate) async fn load(&mut self, path: &'static str, rate: Rate, length: Duration) -> Vec<Outcome> {
        let begun = Instant::now();
        let outcomes: Rc<RefCell<Vec<Outcome>>> = Rc::default();
        let mut running = JoinSet::new();
        for _ in 0..SOCKETS {
            let (http, first_id) = (self.target.http, self.next_id);
            self.next_id += 10_000;
            running.spawn_local(socket(http, first_id, begun + length, Rc::clone(&outcomes)));
        }
        let total = (f64::from(rate.0) * length.as_secs_f64()) as u32;
        for sent in 0..total {
            let id = self.next_id;
            self.next_id += 1;
            let random = mix(self.seed.wrapping_add(id));
            // Anywhere within its turn.
            let share = (random >> 32) as f64 / f64::from(u32::MAX);
            let at = length.mul_f64((f64::from(sent) + share) / f64::from(total));
            tokio::time::sleep_until((begun + at).into()).await;
            let (target, idle, grpc) = (self.target, Rc::clone(&self.idle), Rc::clone(&self.grpc));
            let (outcomes, kind) = (Rc::clone(&outcomes), Rate::kind(random));
            running.spawn_local(async move {
                let begun = Instant::now();
                let answer = async {
                    match kind {
                        Kind::Grpc => unary(target.grpc, &grpc, id).await,
                        _ => plain(target.http, &idle, (kind, path), id).await,
                    }
                };
                let answer = tokio::time::timeout(PATIENCE, answer).await;
                let error = answer.unwrap_or_else(|_| Err(format!("no answer in {PATIENCE:?}"))).err();
                outcomes.borrow_mut().push(Outcome { kind, id, took: begun.elapsed(), error });
            });
        }
        while let Some(ended) = running.join_next().await {
            ended.expect("a client");
        }
        outcomes.take()
    }
}

/// The error of a failed step, in words.
fn told<E: std::fmt::Display>(step: &'static str) -> impl Fn(E) -> String {
    move |error| format!("{step}: {error}")
}

async fn dial(to: SocketAddr) -> Result<TcpStream, String> {
    let tcp = TcpStream::connect(to).await.map_err(told("connect"))?;
    tcp.set_nodelay(true).map_err(told("connect"))?;
    Ok(tcp)
}

async fn plain(
    to: SocketAddr,
    idle: &RefCell<Vec<http1::SendRequest<Full<Bytes>>>>,
    (kind, path): (Kind, &str),
    id: u64,
) -> Result<(), String> {
    let body = if kind == Kind::Post { format!("{id:0>512}") } else { String::new() };
    let mut request = Request::builder()
        .method(kind.name())
        .uri(path)
        .header("host", "app.test")
        .header(ID, id)
        .body(Full::new(Bytes::from(body.clone())))
        .map_err(told("request"))?;
    loop {
        let kept = idle.borrow_mut().pop();
        let is_new = kept.is_none();
        let mut sender = match kept {
            Some(sender) => sender,
            None => {
                let tcp = dial(to).await?;
                let (sender, connection) = http1::handshake(TokioIo::new(tcp)).await.map_err(told("connect"))?;
                spawn_local(async move {
                    // What goes wrong is told by the request.
                    let _ = connection.await;
                });
                sender
            }
        };
        let response = match sender.try_send_request(request).await {
            Ok(response) => response,
            Err(mut failed) => match failed.take_message().filter(|_| !is_new) {
                // The proxy had closed an idle connection, and nothing was sent.
                Some(unsent) => {
                    request = unsent;
                    continue;
                }
                None => return Err(format!("send: {}", failed.into_error())),
            },
        };
        let status = response.status();
        let read = response.into_body().collect().await.map_err(told("body"))?.to_bytes();
        if !status.is_success() {
            return Err(format!("{status}"));
        }
        let is_whole = if kind == Kind::Post { read == body } else { read.len() == 1024 };
        if !is_whole {
            return Err(format!("{} bytes of another body", read.len()));
        }
        if sender.ready().await.is_ok() {
            idle.borrow_mut().push(sender);
        }
        return Ok(());
    }
}

async fn unary(
    to: SocketAddr,
    kept: &tokio::sync::Mutex<Option<http2::SendRequest<Full<Bytes>>>>,
    id: u64,
) -> Result<(), String> {
    let sender = {
        let mut kept = kept.lock().await;
        if kept.as_ref().is_none_or(|sender| sender.is_closed()) {
            let tcp = dial(to).await?;
            let (sender, connection) = http2::handshake(Local, TokioIo::new(tcp)).await.map_err(told("connect"))?;
            spawn_local(async move {
                let _ = connection.await;
            });
            *kept = Some(sender);
        }
        kept.clone()
    };
    let mut sender = sender.ok_or("no connection")?;
    let mut message = vec![0, 0, 0, 0, 20];
    message.extend(format!("{id:0>20}").bytes());
    let request = Request::post(format!("http://{to}/rpc.Items/Get"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header(ID, id)
        .body(Full::new(Bytes::from(message.clone())))
        .map_err(told("request"))?;
    let response: Response<Incoming> = sender.send_request(request).await.map_err(told("send"))?;
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(told("body"))?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    let status = trailers.get("grpc-status").or_else(|| head.headers.get("grpc-status"));
    match status.map(|status| status.as_bytes()) {
        Some(b"0") if body.to_bytes() == message => Ok(()),
        Some(code) => Err(format!("grpc-status {}", String::from_utf8_lossy(code))),
        None => Err(format!("{} without a grpc-status", head.status)),
    }
}

/// Keeps one WebSocket open, and opens the next when it breaks. A message that is not echoed is lost with its socket.
async fn socket(to: SocketAddr, first_id: u64, until: Instant, outcomes: Rc<RefCell<Vec<Outcome>>>) {
    let note = |kind, id, begun: Instant, error| {
        outcomes.borrow_mut().push(Outcome { kind, id, took: begun.elapsed(), error });
    };
    let mut id = first_id;
    while Instant::now() < until {
        id += 1;
        let begun = Instant::now();
        let opened = tokio::time::timeout(PATIENCE, open(to, id)).await;
        let mut stream = match opened.unwrap_or_else(|_| Err(format!("no answer in {PATIENCE:?}"))) {
            Ok(stream) => stream,
            Err(error) => {
                note(Kind::Open, id, begun, Some(error));
                tokio::time::sleep(MESSAGES).await;
                continue;
            }
        };
        note(Kind::Open, id, begun, None);
        while Instant::now() < until {
            let begun = Instant::now();
            let echo = async {
                stream.send(Message::text("a message")).await.map_err(told("send"))?;
                match stream.next().await.ok_or("closed".to_owned())?.map_err(told("receive"))? {
                    Message::Text(text) if text == "a message" => Ok(()),
                    other => Err(format!("no echo but {other:?}")),
                }
            };
            match tokio::time::timeout(PATIENCE, echo).await.unwrap_or_else(|_| Err("no echo".to_owned())) {
                Ok(()) => note(Kind::Message, 0, begun, None),
                Err(error) => {
                    note(Kind::Message, 0, begun, Some(error));
                    break;
                }
            }
            tokio::time::sleep(MESSAGES).await;
        }
    }
}

async fn open(to: SocketAddr, id: u64) -> Result<tokio_tungstenite::WebSocketStream<TcpStream>, String> {
    let request = Request::get("ws://app.test/app/socket")
        .header("host", "app.test")
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header(ID, id)
        .body(())
        .map_err(told("request"))?;
    let tcp = dial(to).await?;
    let (stream, _) = tokio_tungstenite::client_async(request, tcp).await.map_err(told("open"))?;
    Ok(stream)
}
