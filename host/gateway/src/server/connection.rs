//! One client connection: handshake, choice of protocol, HTTP/2 with its settings, timeouts and graceful end. HTTP/1.1 has a file
//! of its own.

use std::error::Error as StdError;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::uri::Authority;
use http::{Method, Request, Response};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pin_project_lite::pin_project;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::activity::{Activity, Exchanging, Expiry, Patience, Watched};
use super::aliases::Aliases;
use super::gather::Gathered;
use super::malformed::AnswersMalformed;
use super::proxied::behind_proxy;
use super::worker::{PanicProbe, Shared};
use super::{ConnectionInfo, Ends, GoAway, ListenerSettings, Refusal, Service, TlsInfo, extended_connect, http1};
use crate::certs::{ClientCertificate, TlsContext};
use crate::http::body::Body;
use crate::http::forwarded::Peer;
use crate::http::target::KnownHost;
use crate::http1::{Io, Transport};
use crate::telemetry::{H2Refusal, H2RefusalKind, ListenerCounters, watch_h2_refusals};

/// RFC 9113 §3.4.
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a connection may take to end after it was told to.
const LINGER: Duration = Duration::from_secs(1);
/// Flow-control windows: large enough for a fast client far away, small enough for many streams at once.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes that hyper may buffer of a response that the client does not read.
const WRITE_BUFFER: usize = 32 * 1024;
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_PATIENCE: Duration = Duration::from_secs(20);
/// Streams that a client may reset before they were served, and the gateway may reset for errors of the client, before the
/// connection is ended (CVE-2023-44487, "rapid reset", and its kin).
const MAX_RESETS: usize = 64;

/// A connection until its protocol is known. `None`: it ended before, for a reason that is counted already or is none.
pub(super) type Opening = Pin<Box<dyn Future<Output = Result<Option<Serving>, End>>>>;
/// A connection whose protocol is known, served to its end.
pub(super) type Serving = Pin<Box<dyn Future<Output = Result<(), End>>>>;

/// Serves the connection to its end. The protocol detection and each protocol have their own allocation: a connection lives long, and
/// one future would keep the size of the largest of them.
pub(super) fn serve<S: Service>(accepted: Accepted, worker: Rc<Shared<S>>) -> impl Future<Output = ()> + 'static {
    let probe = PanicProbe::new(worker.metrics.clone());
    let counters = Arc::clone(accepted.socket.counters());
    let peer = accepted.ends.peer_socket();
    let opening = match accepted.proxy_header_timeout() {
        Some(limit) => Box::pin(behind_proxy(accepted, limit, worker)),
        None => open(accepted, worker),
    };
    async move {
        let _probe = probe;
        let ended = match opening.await {
            Ok(Some(serving)) => serving.await,
            Ok(None) => Ok(()),
            Err(end) => Err(end),
        };
        if let Err(end) = ended {
            count_end(&counters, peer, &end);
        }
    }
}

/// Begins with the first byte of the client's.
pub(super) fn open<S: Service>(accepted: Accepted, worker: Rc<Shared<S>>) -> Opening {
    match accepted.settings.tls.clone() {
        Some(context) => Box::pin(over_tls(accepted, context, worker)),
        None => Box::pin(plain(accepted, worker)),
    }
}

/// A new connection, before its protocol is known.
pub(super) struct Accepted {
    pub(super) socket: Watched,
    pub(super) ends: Ends,
    /// The listener's name.
    pub(super) listener: Arc<str>,
    pub(super) settings: Arc<ListenerSettings>,
}

impl Accepted {
    /// How long to wait for a PROXY header, where its peer has to send one.
    fn proxy_header_timeout(&self) -> Option<Duration> {
        let protocol = self.settings.proxy_protocol.as_ref()?;
        protocol.trusted.contains(self.ends.peer()).then_some(protocol.timeout)
    }

    fn split(self) -> (Watched, ConnectionInfo) {
        let (local, ports) = match self.ends {
            Ends::Ip { peer, local } => {
                let authority = local.to_string().parse().expect("a socket address is an authority");
                (authority, Some((peer.port(), local)))
            }
            Ends::Unix => (Authority::from_static("localhost"), None),
        };
        let info = ConnectionInfo {
            peer: Peer::new(self.ends.peer(), &self.settings.trusted_proxies),
            ports,
            local,
            known_host: KnownHost::default(),
            listener: self.listener,
            settings: self.settings,
            counters: Arc::clone(self.socket.counters()),
            tls: None,
        };
        (self.socket, info)
    }
}

/// The handshake. `None`: it failed.
pub(super) async fn over_tls<S: Service>(
    accepted: Accepted,
    context: Arc<TlsContext>,
    worker: Rc<Shared<S>>,
) -> Result<Option<Serving>, End> {
    let peer = accepted.ends.peer_socket().map(tracing::field::display);
    let (socket, mut info) = accepted.split();
    let failure: String = match timeout(info.settings.handshake_timeout, handshake(socket, &context)).await {
        Ok(Ok(None)) => return Ok(None),
        Ok(Ok(Some((mut stream, tls)))) => {
            let (socket, _) = stream.get_mut();
            let h2 = tls.alpn.as_deref() == Some(b"h2") || !info.settings.http1;
            info.tls = Some(Box::new(tls));
            let activity = if h2 { socket.speak_h2() } else { Rc::clone(socket.activity()) };
            return Ok(Some(serving(h2, stream, activity, info, worker)));
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "timeout".into(),
    };
    info.counters.tls_failures.add(1);
    tracing::debug!(peer, listener = &*info.listener, error = failure, "TLS handshake failed");
    Ok(None)
}

/// The server name chooses the policy before the handshake goes on under it. `None`: it was the question of an ACME authority, and is answered.
async fn handshake(socket: Watched, context: &TlsContext) -> io::Result<Option<(TlsStream<Watched>, TlsInfo)>> {
    // Each step has memory of its own, so that only that of the step at hand is held.
    let hello = Box::pin(LazyConfigAcceptor::new(Acceptor::default(), socket)).await?;
    if let Some(config) = context.challenge(&hello.client_hello()) {
        let mut stream = Box::pin(hello.into_stream(config)).await?;
        // RFC 8737 §3: nothing follows the handshake.
        stream.shutdown().await?;
        return Ok(None);
    }
    if let Some(wait) = context.missing_certificate(hello.client_hello().server_name()) {
        wait.await;
    }
    let policy = context.policy(hello.client_hello().server_name());
    let rest = Box::pin(hello.into_stream(Arc::clone(context.config(policy))));
    let stream = rest.await?;
    let (_, session) = stream.get_ref();
    let shown = session.peer_certificates().and_then(|chain| chain.first());
    let client_certificate = shown.map(|leaf| ClientCertificate::read(leaf, context.forwards(policy)));
    let tls = TlsInfo {
        sni: session.server_name().map(str::to_owned),
        alpn: session.alpn_protocol().map(<[u8]>::to_vec),
        version: match session.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "unknown",
        },
        policy,
        client_certificate: client_certificate.transpose().map_err(io::Error::other)?.map(Box::new),
    };
    Ok(Some((stream, tls)))
}

/// Detects the protocol by the first bytes. `None`: the client sent nothing until the worker had drained.
pub(super) async fn plain<S: Service>(accepted: Accepted, worker: Rc<Shared<S>>) -> Result<Option<Serving>, End> {
    let (mut socket, info) = accepted.split();
    let h2 = match (info.settings.http1, info.settings.h2) {
        (true, false) => false,
        (false, _) => true,
        (true, true) => {
            // The first request of a new connection may be on its way.
            let sniffed = async {
                tokio::select! {
                    biased;
                    found = timeout(info.settings.header_timeout, has_preface(&mut socket)) => Some(found),
                    () = drained(&worker) => None,
                }
            };
            match sniffed.await {
                Some(Ok(Ok(found))) => found,
                Some(Ok(Err(error))) => return Err(End::Io(error)),
                Some(Err(_)) => return Err(End::Expired(Expiry::Header)),
                // Nothing was asked yet, so nothing is lost.
                None => return Ok(None),
            }
        }
    };
    let activity = if h2 { socket.speak_h2() } else { Rc::clone(socket.activity()) };
    Ok(Some(serving(h2, socket, activity, info, worker)))
}

/// Ready when the worker drains, and a connection that says nothing has had its time.
pub(super) async fn drained<S: Service>(worker: &Shared<S>) {
    worker.draining.begun().await;
    tokio::time::sleep(LINGER).await;
}

/// Whether the client begins with the HTTP/2 preface. What was read is read again by the codec.
async fn has_preface(socket: &mut Watched) -> io::Result<bool> {
    // Allocated with the first bytes: a client may be silent for long.
    let mut read = BytesMut::new();
    let found = poll_fn(|cx| {
        loop {
            let seen = read.len().min(PREFACE.len());
            if read[..seen] != PREFACE[..seen] {
                return Poll::Ready(Ok(false));
            }
            if seen == PREFACE.len() {
                return Poll::Ready(Ok(true));
            }
            let mut room = [0; 4096];
            let mut room = ReadBuf::new(&mut room);
            ready!(Pin::new(&mut *socket).poll_read(cx, &mut room))?;
            if room.filled().is_empty() {
                return Poll::Ready(Ok(false));
            }
            read.extend_from_slice(room.filled());
        }
    });
    let found: io::Result<bool> = found.await;
    socket.unread(read.freeze());
    found
}

fn serving<S: Service>(
    h2: bool,
    io: impl Io,
    activity: Rc<Activity>,
    info: ConnectionInfo,
    worker: Rc<Shared<S>>,
) -> Serving {
    let patience = Patience::of(&info.settings);
    match h2 {
        true => Box::pin(serve_h2(io, activity, info, patience, worker)),
        false => Box::pin(http1::serve(Transport::new(io), activity, info, patience, worker)),
    }
}

fn serve_h2<S: Service>(
    io: impl Io,
    activity: Rc<Activity>,
    info: ConnectionInfo,
    patience: Patience,
    worker: Rc<Shared<S>>,
) -> impl Future<Output = Result<(), End>> + 'static {
    let mut builder = http2::Builder::new(Local { worker: Rc::clone(&worker) });
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(info.settings.max_streams)
        .max_header_list_size(u32::try_from(info.settings.max_head_bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(WRITE_BUFFER)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(MAX_RESETS)
        .enable_connect_protocol()
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_PATIENCE);
    let info = Rc::new(info);
    let io = Gathered::new(io);
    let framed = AnswersMalformed::new(io.clone());
    let answers = framed.answers();
    let aliases = framed.aliases();
    let service = exchanges(Rc::clone(&worker), Rc::clone(&info), Rc::clone(&activity), Rc::clone(&aliases));
    let connection = Box::pin(builder.serve_connection(TokioIo::new(framed), service_fn(service)));
    async move {
        let refused = |refusal: H2Refusal, failed: bool| {
            // What was refused in the turn that the connection failed in was not written any more.
            let answered = !failed && (refusal.kind == H2RefusalKind::TooLarge || answers.get());
            worker.service.note_refused(&info, &refusal, answered);
        };
        let finish = |connection: Pin<&mut _>| http2::Connection::graceful_shutdown(connection);
        let end_turn = |cx: &mut Context<'_>| {
            aliases.end_turn();
            io.poll_end_turn(cx)
        };
        drive(connection, finish, end_turn, refused, activity, patience, &worker).await
    }
}

/// The connection's service: each call is one exchange, from its head to the last byte of the response.
fn exchanges<S: Service>(
    worker: Rc<Shared<S>>,
    info: Rc<ConnectionInfo>,
    activity: Rc<Activity>,
    aliases: Rc<Aliases>,
) -> impl Fn(Request<Incoming>) -> ResponseFuture<S> {
    move |mut request| {
        let exchanging = activity.begin();
        aliases.restore(request.uri_mut());
        let on_upgrade = match *request.method() == Method::CONNECT {
            true => extended_connect::take(&mut request, &activity),
            false => None,
        };
        let (worker, info) = (Rc::clone(&worker), Rc::clone(&info));
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let response = worker.service.handle(&info, Box::new(parts), Body::from_client(body), on_upgrade).await;
            if response.extensions().get::<GoAway>().is_some() {
                exchanging.dismiss();
            }
            Ok((*response).map(|body| Tracked { body, exchanging }))
        })
    }
}

type ResponseFuture<S> =
    Pin<Box<dyn Future<Output = Result<Response<Tracked<<S as Service>::Body>>, std::convert::Infallible>>>>;

/// Why a connection ended badly.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("{0}")]
    Http(hyper::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the request was refused: {0}")]
    Refused(Box<Refusal>),
    #[error("{}", .0.reason())]
    Expired(Expiry),
    #[error("the client left before its response was complete")]
    Gone,
    #[error("the client sent data before the upgrade was confirmed")]
    Early,
    #[error("the response broke off: {0}")]
    Body(Box<dyn StdError + Send + Sync>),
}

/// Polls a connection until it ends, telling it to finish when the worker drains, the connection idles, is given up, or has had its time or
/// its requests. `end_turn` writes what a poll has gathered.
async fn drive<C: Future<Output = hyper::Result<()>>, S: Service>(
    mut connection: Pin<Box<C>>,
    mut finish: impl FnMut(Pin<&mut C>),
    mut end_turn: impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>>,
    mut refused: impl FnMut(H2Refusal, bool),
    activity: Rc<Activity>,
    patience: Patience,
    worker: &Shared<S>,
) -> Result<(), End> {
    let mut drain = pin!(worker.draining.begun());
    let first = activity.check(patience).unwrap_or_else(|_| Instant::now());
    let mut timer = pin!(sleep_until(first));
    let mut finishing = false;
    let mut expired = None;
    // When a connection that has had its time is closed, whatever goes on on it.
    let mut cut = None;
    poll_fn(move |cx| {
        loop {
            let polled = watch_h2_refusals(
                || connection.as_mut().poll(cx),
                |polled, refusal| refused(refusal, matches!(polled, Poll::Ready(Err(_)))),
            );
            if let Poll::Ready(result) = polled {
                // A last GOAWAY, as far as the socket takes it.
                let _ = end_turn(cx);
                return Poll::Ready(result.map_err(End::Http));
            }
            if let Poll::Ready(Err(error)) = end_turn(cx) {
                return Poll::Ready(Err(End::Io(error)));
            }
            if !finishing && (activity.is_dismissed() || drain.as_mut().poll(cx).is_ready()) {
                finishing = true;
                finish(connection.as_mut());
                continue;
            }
            if !finishing && activity.is_spent(patience) {
                finishing = true;
                let at = Instant::now() + patience.grace;
                cut = Some(at);
                let next = timer.deadline();
                timer.as_mut().reset(next.min(at));
                finish(connection.as_mut());
                continue;
            }
            ready!(timer.as_mut().poll(cx));
            if cut.is_some_and(|at| at <= Instant::now()) {
                return Poll::Ready(Err(End::Expired(Expiry::Age)));
            }
            match (activity.check_crowded(patience, || worker.overload.closes_idle()), expired) {
                (Ok(next), _) => timer.as_mut().reset(cut.map_or(next, |at| next.min(at))),
                // An idle connection has no open exchange: it is asked to end, then cut.
                (Err(Expiry::Idle), None) => {
                    expired = Some(Expiry::Idle);
                    timer.as_mut().reset(Instant::now() + LINGER);
                    finishing = true;
                    finish(connection.as_mut());
                }
                (Err(Expiry::Idle), Some(_)) => return Poll::Ready(Ok(())),
                (Err(expiry), _) => return Poll::Ready(Err(End::Expired(expiry))),
            }
        }
    })
    .await
}

fn count_end(counters: &ListenerCounters, peer: Option<SocketAddr>, end: &End) {
    counters.connection_errors.add(1);
    let cause = match end {
        End::Http(error) => error.source().map(ToString::to_string),
        _ => None,
    };
    let peer = peer.map(tracing::field::display);
    tracing::debug!(peer, error = %end, cause, "connection ended");
}

/// Runs the streams of an HTTP/2 connection on this worker.
struct Local<S: Service> {
    worker: Rc<Shared<S>>,
}

impl<S: Service> Clone for Local<S> {
    fn clone(&self) -> Self {
        Local { worker: Rc::clone(&self.worker) }
    }
}

impl<S: Service, F: Future + 'static> hyper::rt::Executor<F> for Local<S> {
    fn execute(&self, future: F) {
        let probe = PanicProbe::new(self.worker.metrics.clone());
        tokio::task::spawn_local(async move {
            let _probe = probe;
            future.await;
        });
    }
}

pin_project! {
    /// A response body that ends its exchange when it is dropped.
    struct Tracked<B> {
        #[pin]
        body: B,
        exchanging: Exchanging,
    }
}

impl<B: http_body::Body<Data = Bytes>> http_body::Body for Tracked<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
