//! One HTTP/1.1 client connection. Its task reads, handles and answers one request after the other.

use std::error::Error as StdError;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::{Buf, Bytes};
use http::{Method, Response, StatusCode, Version};
use http_body::Body as _;
use tokio::sync::oneshot;
use tokio::task::coop::unconstrained;

use super::activity::{Activity, Expiry, Patience};
use super::clock::Clock;
use super::connection::End;
use super::worker::Shared;
use super::{CloseConnection, ConnectionInfo, Refusal, Service};
use crate::coarse;
use crate::deadline::{self, Deadline};
use crate::http1::{
    Departure, Framing, Incoming, Limits, RequestHead, RequestLine, Transport, Writing, read_request, response_head,
};

/// How long a client may take to read the response and stop sending before the connection is closed (RFC 9112 §9.6).
const LINGER: Duration = Duration::from_secs(1);
/// Bytes it may send meanwhile: more than can be in flight at once.
const LINGER_BYTES: usize = 64 << 20;
/// The bytes of the empty lines that may stand before a request.
const EMPTY_LINES: usize = 4;

/// A client that closes its side in the middle of a response can't be asked whether it still reads. It counts as gone when the upstream was
/// silent for this long, too.
const DOUBT: Duration = Duration::from_secs(5);
/// How every response begins.
const STATUS_LINE_START: &[u8] = b"HTTP/1.1 ";

/// What comes next on a connection.
enum Next {
    Head(RequestHead),
    /// The client has closed, the connection was idle too long, or the worker drains.
    Over,
    Refused(Box<Refusal>),
}

/// What becomes of a connection after a response (RFC 9112 §9.3).
#[derive(Clone, Copy, PartialEq, Eq)]
enum AfterResponse {
    /// Another request may follow.
    Persist,
    Close,
}

struct Connection<S: Service> {
    incoming: Rc<Incoming>,
    info: Rc<ConnectionInfo>,
    activity: Rc<Activity>,
    clock: Clock,
    limits: Limits,
    /// A request was answered.
    served: bool,
    /// The client has got [`STATUS_LINE_START`] of the response to come.
    announced: bool,
    /// When a client counts as gone that may have left, unless something can be written before.
    doubt: Option<Deadline>,
    /// Whether the worker knows that this task is to be woken when it drains.
    listening: bool,
    worker: Rc<Shared<S>>,
}

impl<S: Service> Drop for Connection<S> {
    fn drop(&mut self) {
        // The body of the request may still be read in another task, which would keep the socket open.
        drop(self.incoming.borrow().end());
    }
}

/// Serves a connection to its end. A connection is idle most of its life, so it keeps only what waits for the next request. An exchange
/// has its own allocation while it lasts; the next exchange of the worker reuses that memory while it is cached.
pub(super) fn serve<S: Service>(
    transport: Transport,
    activity: Rc<Activity>,
    info: ConnectionInfo,
    patience: Patience,
    worker: Rc<Shared<S>>,
) -> impl Future<Output = Result<(), End>> + 'static {
    let limits = Limits { bytes: info.settings.max_head_bytes, fields: info.settings.max_headers };
    let mut connection = Connection {
        incoming: Incoming::new(transport, limits),
        info: Rc::new(info),
        clock: Clock::new(Rc::clone(&activity), patience),
        activity,
        limits,
        served: false,
        announced: false,
        doubt: None,
        listening: false,
        worker,
    };
    async move {
        let worker = Rc::clone(&connection.worker);
        let mut drain = pin!(worker.draining.begun());
        loop {
            match connection.next(drain.as_mut()).await? {
                Next::Head(head) => {
                    // Built in place: `Box::pin` would copy the future from the stack for each request.
                    let exchange = Box::into_pin(Box::write(Box::new_uninit(), connection.exchange(head)));
                    if exchange.await? == AfterResponse::Close {
                        return Ok(());
                    }
                }
                Next::Over => {
                    Box::pin(connection.close(false)).await;
                    return Ok(());
                }
                Next::Refused(refusal) => return Box::pin(connection.refuse(refusal)).await,
            }
        }
    }
}

impl<S: Service> Connection<S> {
    /// Reads a request head.
    async fn next(&mut self, mut drain: Pin<&mut impl Future<Output = ()>>) -> Result<Next, End> {
        // Set when the worker drains.
        let mut drained: Option<Deadline> = None;
        poll_fn(|cx| {
            let mut incoming = self.incoming.borrow();
            let transport = &mut incoming.transport;
            loop {
                let begun = has_begun(transport.received());
                if begun {
                    match read_request(transport.received(), self.limits) {
                        Ok(Some(head)) => return Poll::Ready(Ok(Next::Head(head))),
                        Ok(None) => self.activity.heading(),
                        Err(error) => {
                            let line = RequestLine::of(transport.received());
                            return Poll::Ready(Ok(Next::Refused(Box::new(Refusal::Head { error, line }))));
                        }
                    }
                }
                match transport.poll_fill(cx) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Ok(Next::Over)),
                    Poll::Ready(Ok(_)) => continue,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(End::Io(error))),
                    Poll::Pending => {}
                }
                if drained.is_none() && (!self.listening || self.worker.draining.has_begun()) {
                    self.listening = true;
                    let told = pin!(unconstrained(drain.as_mut())).poll(cx);
                    drained = told.is_ready().then(|| Deadline::after(LINGER));
                }
                // A request that has begun to arrive is still answered. The first request of a new connection may be on its way.
                if let Some(drained) = drained.as_ref().filter(|_| !begun)
                    && (self.served || drained.poll_passed(cx).is_ready())
                {
                    return Poll::Ready(Ok(Next::Over));
                }
                return Poll::Ready(match ready!(self.clock.poll(cx, || self.worker.overload.closes_idle())) {
                    Expiry::Header if begun => {
                        let line = RequestLine::of(transport.received());
                        Ok(Next::Refused(Box::new(Refusal::Timeout { line })))
                    }
                    // No exchange is open, also where only empty lines have followed the last request.
                    Expiry::Idle => Ok(Next::Over),
                    Expiry::Header if self.served => Ok(Next::Over),
                    expiry => Err(End::Expired(expiry)),
                });
            }
        })
        .await
    }

    /// Handles one request, and closes the connection if no other may follow.
    async fn exchange(&mut self, head: RequestHead) -> Result<AfterResponse, End> {
        let exchanging = self.activity.begin();
        self.served = true;
        let RequestHead { parts, body, mut persistent, expects_continue, asks_to_upgrade } = head;
        let (head_only, version) = (parts.method == Method::HEAD, parts.version);
        let body = self.incoming.begin(body, expects_continue);
        let may_upgrade = asks_to_upgrade && self.incoming.borrow().is_between();
        let (upgrade, on_upgrade) = match may_upgrade {
            true => {
                let (upgrade, on_upgrade) = oneshot::channel();
                (Some(upgrade), Some(on_upgrade))
            }
            false => (None, None),
        };
        let response = {
            let (worker, info) = (Rc::clone(&self.worker), Rc::clone(&self.info));
            let mut handling = pin!(worker.service.handle(&info, parts, body, on_upgrade));
            poll_fn(|cx| match handling.as_mut().poll(cx) {
                Poll::Ready(response) => Poll::Ready(Ok(response)),
                Poll::Pending => self.poll_interrupted(cx, STATUS_LINE_START).map(Err),
            })
            .await?
        };
        persistent &= !self.worker.draining.has_begun() && response.extensions().get::<CloseConnection>().is_none();
        persistent &= !self.activity.is_spent(self.clock.patience);
        // Nothing more will come.
        persistent &= !self.activity.is_half_closed() || !self.incoming.borrow().is_between();
        // RFC 9110 §7.8: a client that asks for an upgrade must wait for the response. Data sent earlier would be read as one protocol by
        // the gateway and as another by the upstream.
        if asks_to_upgrade && !self.incoming.borrow().is_between() {
            persistent &= !self.incoming.borrow().is_read();
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                return Err(End::Early);
            }
        }
        let upgrade = upgrade.filter(|_| response.status() == StatusCode::SWITCHING_PROTOCOLS);
        let after = self.respond(response, version, head_only, persistent).await?;
        drop(exchanging);
        if let Some(upgrade) = upgrade {
            // The tunnel owns the socket from here on.
            let _ = upgrade.send(self.incoming.borrow().end());
            return Ok(AfterResponse::Close);
        }
        if after == AfterResponse::Close {
            let over = self.incoming.borrow().is_between();
            self.close(!over).await;
        }
        Ok(after)
    }

    /// Ready when the client has left, or takes no bytes for too long. `probe` is what can be written early of what comes next.
    fn poll_interrupted(&mut self, cx: &mut Context<'_>, probe: &'static [u8]) -> Poll<End> {
        loop {
            let departed = self.incoming.borrow().poll_departed(cx);
            match departed {
                Poll::Ready(Departure::HalfClosed) => {
                    self.activity.half_close();
                    if self.probe(cx, probe).is_err() {
                        return Poll::Ready(End::Gone);
                    }
                }
                Poll::Ready(Departure::Gone) => return Poll::Ready(End::Gone),
                Poll::Pending => break,
            }
        }
        match ready!(self.clock.poll(cx, || self.worker.overload.closes_idle())) {
            Expiry::Stalled => Poll::Ready(End::Expired(Expiry::Stalled)),
            // Never while an exchange is in progress.
            expiry @ (Expiry::Header | Expiry::Idle | Expiry::Age) => Poll::Ready(End::Expired(expiry)),
        }
    }

    /// Finds out whether a client that has closed its side still reads. TCP does not tell that from a client that has closed its socket, until
    /// it is sent something: then the kernel of one that has left answers with a reset. What is sent is the beginning of what will be sent
    /// anyway. A write that fails is an answer as well.
    fn probe(&mut self, cx: &mut Context<'_>, probe: &'static [u8]) -> io::Result<()> {
        let transport = &mut self.incoming.borrow().transport;
        // Other bytes that are on their way do the same.
        if !transport.is_flushed() {
            return Ok(());
        }
        if probe.is_empty() {
            self.doubt = Some(Deadline::after(DOUBT));
            return Ok(());
        }
        self.announced |= probe == STATUS_LINE_START;
        transport.out().extend_from_slice(probe);
        transport.hurry();
        match transport.poll_flush(cx) {
            Poll::Ready(written) => written,
            // It goes out with the rest.
            Poll::Pending => Ok(()),
        }
    }

    /// Writes a response.
    async fn respond<B>(
        &mut self,
        response: Box<Response<B>>,
        version: Version,
        head_only: bool,
        mut persistent: bool,
    ) -> Result<AfterResponse, End>
    where
        B: http_body::Body<Data = Bytes, Error: Into<Box<dyn StdError + Send + Sync>>>,
    {
        // Frees the box now, not when the body is sent.
        let (parts, body) = {
            let response = response;
            (*response).into_parts()
        };
        let mut body = pin!(body);
        let framing = match (parts.status, body.size_hint().exact()) {
            (StatusCode::SWITCHING_PROTOCOLS, _) => Framing::Upgrade,
            (StatusCode::NO_CONTENT, _) => Framing::None,
            (StatusCode::NOT_MODIFIED, _) => Framing::Described,
            _ if head_only => Framing::Described,
            (_, Some(length)) => Framing::Length(length),
            (_, None) if version >= Version::HTTP_11 => Framing::Chunked,
            // RFC 9112 §6.1: an HTTP/1.0 client does not know chunks.
            (_, None) => Framing::Close,
        };
        persistent &= !matches!(framing, Framing::Close);
        persistent &= self.incoming.borrow().answer();
        // A reader of the request body may still reach its end while the response is sent. Without a reader, the received bytes are
        // discarded.
        if persistent && self.incoming.borrow().is_abandoned() {
            // Unconstrained: an exhausted task budget would look like a body without data.
            persistent = unconstrained(poll_fn(|cx| Poll::Ready(self.incoming.borrow().discard(cx)))).await;
        }
        {
            let mut incoming = self.incoming.borrow();
            let out = incoming.transport.out();
            let before = out.len();
            response_head(out, version, parts.status, &parts.headers, framing, persistent, &date());
            if std::mem::take(&mut self.announced) {
                let mut head = out.split_off(before);
                head.advance(STATUS_LINE_START.len());
                out.unsplit(head);
            }
        }
        drop(parts);
        let mut writing = Writing::new(framing);
        self.doubt = None;
        let closing = !persistent && self.info.tls.is_some() && framing != Framing::Upgrade;
        let sent = poll_fn(|cx| self.poll_body(cx, body.as_mut(), &mut writing, closing)).await;
        if sent.is_err() && framing == Framing::Close {
            self.activity.break_off();
        }
        sent?;
        let persists = persistent && self.incoming.borrow().is_read();
        Ok(if persists { AfterResponse::Persist } else { AfterResponse::Close })
    }

    /// Writes what there is of a response's body. `closing`: the end of TLS goes out with its last bytes.
    fn poll_body<B>(
        &mut self,
        cx: &mut Context<'_>,
        mut body: Pin<&mut B>,
        writing: &mut Writing,
        closing: bool,
    ) -> Poll<Result<(), End>>
    where
        B: http_body::Body<Data = Bytes, Error: Into<Box<dyn StdError + Send + Sync>>>,
    {
        loop {
            // A body of known length is also polled to its end, so that its observers see the end.
            let is_complete = writing.has_ended() && (!writing.has_body() || body.is_end_stream());
            if is_complete && closing {
                self.activity.close_after_this();
            }
            let flushed = {
                let transport = &mut self.incoming.borrow().transport;
                match writing.has_ended() || transport.is_full() {
                    true => transport.poll_flush(cx),
                    false => Poll::Ready(Ok(())),
                }
            };
            match flushed {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(End::Io(error))),
                Poll::Pending => break,
            }
            if is_complete {
                // Here, since a client that reads slowly has more time for the response than for the goodbye.
                if closing && self.incoming.borrow().transport.poll_shutdown(cx).is_pending() {
                    let expiry = ready!(self.clock.poll(cx, || self.worker.overload.closes_idle()));
                    return Poll::Ready(Err(End::Expired(expiry)));
                }
                return Poll::Ready(Ok(()));
            }
            // Polled outside the borrow: the response body may be made of the request body.
            let frame = body.as_mut().poll_frame(cx);
            let transport = &mut self.incoming.borrow().transport;
            let added = match frame {
                Poll::Ready(Some(Ok(frame))) => {
                    // If it has left, its kernel says so now.
                    self.doubt = None;
                    writing.frame(transport, frame)
                }
                Poll::Ready(None) if writing.has_ended() => return Poll::Ready(Ok(())),
                Poll::Ready(None) => writing.end(transport, None),
                Poll::Ready(Some(Err(error))) => {
                    // The data before the error is still sent; the missing end tells the client that it is incomplete.
                    transport.hurry();
                    let _ = transport.poll_flush(cx);
                    return Poll::Ready(Err(End::Body(error.into())));
                }
                Poll::Pending => {
                    if let Poll::Ready(Err(error)) = transport.poll_flush(cx) {
                        return Poll::Ready(Err(End::Io(error)));
                    }
                    break;
                }
            };
            if let Err(error) = added {
                return Poll::Ready(Err(End::Body(Box::new(error))));
            }
        }
        // Until a write that is only put off there is nothing to wait for.
        if self.incoming.borrow().transport.is_write_deferred() {
            return Poll::Pending;
        }
        // RFC 9112 §7.1: the size of the next chunk may begin with zeros.
        let probe: &[u8] = if writing.is_at_chunk() { b"0" } else { b"" };
        if let Poll::Ready(end) = self.poll_interrupted(cx, probe) {
            return Poll::Ready(Err(end));
        }
        match &self.doubt {
            Some(doubt) => doubt.poll_passed(cx).map(|()| Err(End::Gone)),
            None => Poll::Pending,
        }
    }

    /// Answers a request that can't be read, and closes: what follows on the connection can't be trusted either.
    async fn refuse(&mut self, refusal: Box<Refusal>) -> Result<(), End> {
        let exchanging = self.activity.begin();
        let response = self.worker.service.refuse(&self.info, &refusal);
        self.respond(response, Version::HTTP_11, false, false).await?;
        drop(exchanging);
        self.close(true).await;
        Err(End::Refused(refusal))
    }

    /// Ends the connection. A client that may still be sending is listened to for a moment: closed at once, its unread bytes
    /// would make the kernel reset the connection, and the response be lost (RFC 9112 §9.6).
    async fn close(&self, linger: bool) {
        // From here on nobody else reads from it.
        let mut transport = self.incoming.borrow().end();
        let ending = async {
            poll_fn(|cx| transport.poll_shutdown(cx)).await?;
            let mut seen = 0;
            while linger && seen < LINGER_BYTES {
                transport.received().clear();
                match poll_fn(|cx| transport.poll_fill(cx)).await? {
                    0 => break,
                    n => seen += n,
                }
            }
            io::Result::Ok(())
        };
        // Whether the goodbye was heard makes no difference.
        let _ = deadline::timeout(LINGER, ending).await;
    }
}

/// Whether a request has begun to come. Empty lines before one are none (RFC 9112 §2.2), unless there are more than are taken.
fn has_begun(received: &[u8]) -> bool {
    received.len() > EMPTY_LINES || received.iter().any(|byte| !matches!(byte, b'\r' | b'\n'))
}

/// The time for `Date` (RFC 9110 §6.6.1), made once a second.
fn date() -> [u8; 29] {
    thread_local! {
        static LAST: std::cell::Cell<(u64, [u8; 29])> = const { std::cell::Cell::new((0, [0; 29])) };
    }
    let coarse = coarse::now_ms();
    let (until, text) = LAST.get();
    if coarse < until {
        return text;
    }
    let now = SystemTime::now().max(SystemTime::UNIX_EPOCH);
    let of_second = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.subsec_millis());
    let mut text = [b' '; 29];
    let written = httpdate::fmt_http_date(now);
    text.iter_mut().zip(written.bytes()).for_each(|(to, byte)| *to = byte);
    LAST.set((coarse + u64::from(1000 - of_second), text));
    text
}
