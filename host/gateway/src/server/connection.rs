//! One client connection: choice of protocol, HTTP/2 with its settings, timeouts and graceful end. The handshake of TLS and HTTP/1.1
//! have files of their own.

use std::error::Error as StdError;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use http::uri::Authority;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, sleep_until, timeout};

use super::activity::{Activity, Expiry, Patience, Watched};
use super::aliases::Aliases;
use super::gather::Gathered;
use super::handshake::over_tls;
use super::handshakes::Handshakes;
use super::malformed::AnswersMalformed;
use super::proxied::behind_proxy;
use super::unread::{Tracked, Unread};
use super::worker::{PanicProbe, Shared};
use super::{ConnectionInfo, Ends, GoAway, ListenerSettings, Refusal, Service, extended_connect, http1};
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
    /// Those of the listener, on all workers.
    pub(super) handshakes: Arc<Handshakes>,
}

impl Accepted {
    /// How long to wait for a PROXY header, where its peer has to send one.
    fn proxy_header_timeout(&self) -> Option<Duration> {
        let protocol = self.settings.proxy_protocol.as_ref()?;
        protocol.trusted.contains(self.ends.peer()).then_some(protocol.timeout)
    }

    pub(super) fn split(self) -> (Watched, ConnectionInfo) {
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

pub(super) fn serving<S: Service>(
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
    let unread = Unread::new(Arc::clone(&info.counters));
    let mut builder = http2::Builder::new(Local { worker: Rc::clone(&worker), unread: Rc::clone(&unread) });
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
    let service =
        exchanges(Rc::clone(&worker), Rc::clone(&info), Rc::clone(&activity), Rc::clone(&aliases), Rc::clone(&unread));
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
        drive(connection, finish, end_turn, refused, Limits { activity, unread, patience }, &worker).await
    }
}

/// The connection's service: each call is one exchange, from its head to the last byte of the response.
fn exchanges<S: Service>(
    worker: Rc<Shared<S>>,
    info: Rc<ConnectionInfo>,
    activity: Rc<Activity>,
    aliases: Rc<Aliases>,
    unread: Rc<Unread>,
) -> impl Fn(Request<Incoming>) -> ResponseFuture<S> {
    move |mut request| {
        let exchanging = activity.begin();
        aliases.restore(request.uri_mut());
        let on_upgrade = match *request.method() == Method::CONNECT {
            true => extended_connect::take(&mut request, &activity),
            false => None,
        };
        let (worker, info, unread) = (Rc::clone(&worker), Rc::clone(&info), Rc::clone(&unread));
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let response = worker.service.handle(&info, Box::new(parts), Body::from_client(body), on_upgrade).await;
            if response.extensions().get::<GoAway>().is_some() {
                exchanging.dismiss();
            }
            Ok((*response).map(|body| Tracked::new(body, unread, exchanging)))
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

/// How long a connection of HTTP/2 and its streams are waited for.
struct Limits {
    activity: Rc<Activity>,
    unread: Rc<Unread>,
    patience: Patience,
}

/// Polls a connection until it ends, telling it to finish when the worker drains, the connection idles, is given up, or has had its time or
/// its requests. `end_turn` writes what a poll has gathered.
async fn drive<C: Future<Output = hyper::Result<()>>, S: Service>(
    mut connection: Pin<Box<C>>,
    mut finish: impl FnMut(Pin<&mut C>),
    mut end_turn: impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>>,
    mut refused: impl FnMut(H2Refusal, bool),
    limits: Limits,
    worker: &Shared<S>,
) -> Result<(), End> {
    let Limits { activity, unread, patience } = limits;
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
                (Ok(next), _) => {
                    let unread = unread.give_up(patience.idle, activity.is_blocked());
                    timer.as_mut().reset([cut, unread].into_iter().flatten().fold(next, Instant::min));
                }
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
    unread: Rc<Unread>,
}

impl<S: Service> Clone for Local<S> {
    fn clone(&self) -> Self {
        Local { worker: Rc::clone(&self.worker), unread: Rc::clone(&self.unread) }
    }
}

impl<S: Service, F: Future + 'static> hyper::rt::Executor<F> for Local<S> {
    fn execute(&self, future: F) {
        let probe = PanicProbe::new(self.worker.metrics.clone());
        let stream = self.unread.stream(future);
        tokio::task::spawn_local(async move {
            let _probe = probe;
            stream.await;
        });
    }
}
