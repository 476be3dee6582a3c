//! HTTP/2 towards servers: the handshake, how many streams a server allows, and the requests that a server says it has not processed.

use std::cell::{Cell, RefCell};
use std::error::Error as StdError;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::connect::ConnectError;
use super::retry::Unprocessed;
use crate::http::body::Body;
use crate::http1;

/// What one slow reader pins of a session …
const STREAM_WINDOW: u32 = 128 * 1024;
/// … which is never more than its share, so that it does not stop its neighbours.
const SESSION_WINDOW: u32 = STREAM_WINDOW * MAX_STREAMS;
/// Streams in one session, also where the server allows more; more open another one.
pub(super) const MAX_STREAMS: u32 = 100;
/// How long the server's first frame, its SETTINGS (RFC 9113 §3.4), is waited for. Before it, nobody knows how many streams it allows.
const SETTINGS_WAIT: Duration = Duration::from_secs(1);
/// The number of streams that a server allows which has not said so. No server can say it: a setting has 32 bits.
const UNSAID: usize = usize::MAX - 1;
/// How long the answer to a ping is waited for.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// The size of a response head by RFC 9113 §6.5.2, which adds 32 bytes for each field: whatever HTTP/1 may send fits in.
const HEAD_SIZE: usize = http1::RESPONSE_LIMITS.bytes + 32 * http1::RESPONSE_LIMITS.fields;

/// A connection of HTTP/2. Its driver runs as a task of this worker until both sides are done.
pub struct Session {
    pub sender: http2::SendRequest<Body>,
    pub settings: ServerSettings,
}

/// What the server has said in its SETTINGS, as far as is known. It is asked each time: a server may change it at any time, and nobody is
/// woken for that.
pub struct ServerSettings(Weak<RefCell<dyn Settings>>);

impl ServerSettings {
    /// How many streams it allows at a time. None where the connection has ended.
    pub(super) fn streams(&self) -> u32 {
        let allowed = self.0.upgrade().and_then(|connection| Some(connection.try_borrow().ok()?.stream_limit()));
        u32::try_from(allowed.unwrap_or_default()).map_or(MAX_STREAMS, |allowed| allowed.min(MAX_STREAMS))
    }

    /// Whether it takes an extended CONNECT (RFC 8441 §3).
    pub(super) fn extended_connect(&self) -> bool {
        let connection = self.0.upgrade();
        connection
            .is_some_and(|connection| connection.try_borrow().is_ok_and(|connection| connection.extended_connect()))
    }
}

trait Settings {
    fn stream_limit(&self) -> usize;
    fn extended_connect(&self) -> bool;
}

impl<T> Settings for http2::Connection<TokioIo<T>, Body, SessionExecutor>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    fn stream_limit(&self) -> usize {
        self.current_max_send_streams()
    }

    fn extended_connect(&self) -> bool {
        self.is_extended_connect_protocol_enabled()
    }
}

/// Opens a session and learns how many streams it may have. With `ping_interval`, a session that has open streams and was silent for
/// this long is pinged, and ends if there is no answer.
pub(super) async fn handshake<T>(stream: T, ping_interval: Option<Duration>) -> Result<Session, ConnectError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let executor = SessionExecutor::default();
    let (sender, mut connection) = http2::Builder::new(executor.clone())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(SESSION_WINDOW)
        .initial_max_send_streams(UNSAID)
        .max_header_list_size(HEAD_SIZE as u32)
        .keep_alive_interval(ping_interval)
        .keep_alive_timeout(PING_TIMEOUT)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(ConnectError::Http)?;
    let settings = std::future::poll_fn(|cx| {
        executor.reading.wait(cx);
        let polled = Pin::new(&mut connection).poll(cx);
        match polled {
            _ if connection.current_max_send_streams() != UNSAID => Poll::Ready(Ok(())),
            Poll::Ready(ended) => Poll::Ready(ended.map_err(ConnectError::Http).and(Err(ConnectError::Closed))),
            Poll::Pending => Poll::Pending,
        }
    });
    // A server that says nothing yet may still answer requests.
    tokio::time::timeout(SETTINGS_WAIT, settings).await.unwrap_or(Ok(()))?;
    executor.reading.0.take();
    if connection.current_max_send_streams() == 0 {
        return Err(ConnectError::NoStreams);
    }
    // It ends with its driver: the sender learns of the end by that.
    let connection = Rc::new(RefCell::new(connection));
    let shared: Rc<RefCell<dyn Settings>> = connection.clone();
    let settings = ServerSettings(Rc::downgrade(&shared));
    drop(shared);
    tokio::task::spawn_local(async move {
        let _ = std::future::poll_fn(|cx| Pin::new(&mut *connection.borrow_mut()).poll(cx)).await;
    });
    Ok(Session { sender, settings })
}

/// Whether and how the server has said that it has not processed a request.
pub(crate) fn unprocessed(error: &hyper::Error) -> Option<Unprocessed> {
    let error = protocol_error(error).filter(|error| error.is_remote())?;
    match error.reason() {
        _ if error.is_go_away() => Some(Unprocessed::GoAway),
        Some(h2::Reason::REFUSED_STREAM) => Some(Unprocessed::RefusedStream),
        _ => None,
    }
}

/// Whether the server broke the rules of HTTP/2, or sent a head of more than [`HEAD_SIZE`]: the two can't be told apart.
pub(super) fn is_malformed(error: &hyper::Error) -> bool {
    protocol_error(error).is_some_and(h2::Error::is_library)
}

fn protocol_error(error: &hyper::Error) -> Option<&h2::Error> {
    error.source().and_then(|source| source.downcast_ref())
}

/// A response that was given up because of [`is_malformed`].
#[derive(Debug, thiserror::Error)]
#[error("the response is malformed, or its head is larger than {HEAD_SIZE} bytes")]
pub(super) struct MalformedResponse(#[source] pub(super) hyper::Error);

/// Runs hyper's tasks of one session on this worker.
#[derive(Clone, Default)]
struct SessionExecutor {
    /// The first task reads the connection.
    has_reader: Rc<Cell<bool>>,
    reading: Reading,
}

/// Who is woken when something may have been read.
#[derive(Clone, Default)]
struct Reading(Rc<Cell<Option<Waker>>>);

impl Reading {
    fn wait(&self, cx: &Context<'_>) {
        self.0.set(Some(cx.waker().clone()));
    }
}

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for SessionExecutor {
    fn execute(&self, future: F) {
        if self.has_reader.replace(true) {
            tokio::task::spawn_local(future);
            return;
        }
        let reading = self.reading.clone();
        tokio::task::spawn_local(async move {
            let mut future = pin!(future);
            std::future::poll_fn(|cx| {
                let polled = future.as_mut().poll(cx);
                if let Some(waiting) = reading.0.take() {
                    waiting.wake();
                }
                polled
            })
            .await;
        });
    }
}
