//! The gateway's side of a connection to a server: one request at a time, sent and answered within the task of its exchange.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode};
use http_body::{Body as _, Frame, SizeHint};

use super::io::{Io, Transport};
use super::reading::Reading;
use super::writing::{Writing, WrongLength};
use super::{
    ChunkError, Framing, HeadError, Limits, Message, Piece, ResponseHead, Tolerance, read_response, request_head,
};
use crate::http::body::{Body, BodyError};
use crate::http::gate::Gate;
use crate::http::headers::fill;

/// What a server may send as a head, an interim one or a trailer section.
pub const RESPONSE_LIMITS: Limits = Limits { bytes: 24 << 10, fields: 256 };
/// Interim responses (RFC 9110 §15.2) before the final one; more are an endless answer.
const MAX_INTERIM: usize = 32;

/// The progress of sending a request. It tells a server that reads nothing from a client that sends nothing.
#[derive(Debug, Default)]
pub struct Progress {
    /// The server accepts no more bytes at the moment.
    pub blocked: Cell<bool>,
    /// Counts writes.
    pub writes: Cell<u64>,
}

/// An idle open connection.
pub struct Connection(Rc<RefCell<Transport>>);

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The server closed the connection.
    #[error("the connection was closed before a response came")]
    Closed,
    #[error("the connection broke")]
    Io(#[source] io::Error),
    #[error("the response is malformed: {0}")]
    Head(#[source] HeadError),
    /// The first chunk, which came with the head.
    #[error("the body of the response is malformed: {0}")]
    Chunk(#[source] ChunkError),
    #[error("more than {MAX_INTERIM} interim responses")]
    Interim,
    /// RFC 9110 §15.2.2: a server must not switch unasked.
    #[error("another protocol, for which nobody has asked")]
    UnaskedUpgrade,
    /// The request could not be sent to its end because of its own body.
    #[error("the request broke off")]
    Body(#[source] BodyError),
    #[error(transparent)]
    Length(#[from] WrongLength),
}

/// A request that got no response.
#[derive(Debug)]
pub struct NoReply {
    pub error: SendError,
    /// Nothing of it was written, so the server can't have seen it.
    pub unsent: bool,
    /// No byte of a response came.
    pub silent: bool,
}

/// Where a connection goes when its response was read to the end and another request may follow. It is dropped when the exchange has
/// ended, that of a switch of protocols with the connection.
pub trait Keeper: Unpin + 'static {
    fn keep(self, connection: Connection);
}

/// A response.
pub enum Reply {
    Response(Box<Response<Body>>),
    /// 101: the connection speaks another protocol from here on. It has the keeper until it is closed.
    Upgraded(Box<Response<Body>>, Box<Transport>),
}

impl Connection {
    pub fn new(io: impl Io) -> Self {
        Connection(Transport::shared(io))
    }

    /// Whether the server has neither closed the connection nor sent something unasked, as far as is known.
    pub fn is_quiet(&self) -> bool {
        self.0.borrow_mut().is_quiet()
    }

    /// Whether nothing is left over from the last exchange: no unsent part of its request and no bytes after its response, which could
    /// be taken for the next response.
    fn is_free(&self) -> bool {
        let mut transport = self.0.borrow_mut();
        transport.is_flushed() && transport.received().is_empty()
    }

    /// Sends a request whose target is in origin form and whose head has all it needs but the framing, and waits for the
    /// response, in which `tolerance` is allowed. The body is taken out of the request once the head is on its way. `gate` is opened by `100 Continue`;
    /// `progress` is kept while the response is waited for.
    pub async fn send<K: Keeper>(
        self,
        request: &mut Request<Body>,
        gate: Option<&Gate>,
        progress: Option<&Progress>,
        tolerance: Tolerance,
        keeper: K,
    ) -> Result<Reply, NoReply> {
        let mut sending = Sending::new(self, request, tolerance);
        let head = poll_fn(|cx| sending.poll_head(cx, gate, progress)).await;
        match head {
            Ok(head) => sending.reply(head, keeper).map_err(|error| NoReply { error, unsent: false, silent: false }),
            Err(error) => {
                let unsent = sending.upload.is_untouched(&sending.connection.0.borrow());
                let silent = sending.silent;
                if unsent {
                    *request.body_mut() = sending.upload.body;
                }
                Err(NoReply { error, unsent, silent })
            }
        }
    }
}

/// A request on its way.
struct Sending {
    connection: Connection,
    asks_to_upgrade: bool,
    upload: Upload,
    method: Method,
    tolerance: Tolerance,
    interim: usize,
    silent: bool,
}

impl Sending {
    fn new(connection: Connection, request: &mut Request<Body>, tolerance: Tolerance) -> Self {
        let body = std::mem::take(request.body_mut());
        let framing = match body.exact_size() {
            // RFC 9110 §7.8: who is asked to switch may go on without; a request with a body does.
            Some(0) if request.headers().contains_key(http::header::UPGRADE) => Framing::Upgrade,
            // RFC 9110 §8.6: a length of nothing is told where the method means a body.
            Some(0) if matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH) => Framing::Length(0),
            Some(0) => Framing::None,
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        };
        let root;
        let target = match request.uri().path_and_query() {
            Some(target) => target,
            None => {
                root = PathAndQuery::from_static("/");
                &root
            }
        };
        let mut transport = connection.0.borrow_mut();
        request_head(transport.out(), request.method(), target, request.headers(), framing);
        // The server may close while the write is deferred. Bytes that arrive before the request do not answer it.
        transport.ask();
        drop(transport);
        let upload = Upload { body, writing: Writing::new(framing), taken: false, broken: false };
        let asks_to_upgrade = framing == Framing::Upgrade;
        Sending {
            connection,
            asks_to_upgrade,
            upload,
            method: request.method().clone(),
            tolerance,
            interim: 0,
            silent: true,
        }
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        gate: Option<&Gate>,
        progress: Option<&Progress>,
    ) -> Poll<Result<ResponseHead, SendError>> {
        let transport = &mut *self.connection.0.borrow_mut();
        // Checked before any of the body is taken: afterwards the request could not go out on another connection.
        if !self.upload.writing.has_ended() && self.upload.is_untouched(transport) && transport.has_said(cx) {
            return Poll::Ready(Err(SendError::Closed));
        }
        loop {
            let sending = self.upload.poll(transport, cx);
            if let Some(progress) = progress {
                let blocked = !self.upload.broken && !transport.is_flushed() && !transport.is_write_deferred();
                progress.blocked.set(blocked);
                progress.writes.set(transport.writes());
            }
            if let Poll::Ready(Err(error)) = sending {
                return Poll::Ready(Err(error));
            }
            // Bytes that arrive before the first write are no response. The writer looks for them, which registers this task's waker.
            if transport.is_unasked() {
                return Poll::Pending;
            }
            match ready!(transport.poll_fill(cx)) {
                Ok(0) => return Poll::Ready(Err(SendError::Closed)),
                Ok(_) => self.silent = false,
                Err(error) => return Poll::Ready(Err(SendError::Io(error))),
            }
            while let Some(head) = read_response(transport.received(), RESPONSE_LIMITS, &self.method, self.tolerance)
                .map_err(SendError::Head)?
            {
                match head.status {
                    StatusCode::SWITCHING_PROTOCOLS if !self.asks_to_upgrade || !transport.is_flushed() => {
                        return Poll::Ready(Err(SendError::UnaskedUpgrade));
                    }
                    StatusCode::SWITCHING_PROTOCOLS => return Poll::Ready(Ok(head)),
                    status if !status.is_informational() => return Poll::Ready(Ok(head)),
                    _ => {}
                }
                self.interim += 1;
                if self.interim > MAX_INTERIM {
                    return Poll::Ready(Err(SendError::Interim));
                }
                if let Some(gate) = gate.filter(|_| head.status == StatusCode::CONTINUE) {
                    gate.open();
                }
            }
        }
    }

    fn reply<K: Keeper>(self, head: ResponseHead, keeper: K) -> Result<Reply, SendError> {
        let ResponseHead { status, version, headers, body, persistent } = head;
        let Sending { connection, upload, .. } = self;
        let response = |body| {
            let mut response = Box::write(Box::new_uninit(), Response::new(body));
            *response.status_mut() = status;
            *response.version_mut() = version;
            fill(response.headers_mut(), headers);
            response
        };
        if status == StatusCode::SWITCHING_PROTOCOLS {
            let mut transport = connection.0.replace(Transport::new(tokio::io::empty()));
            transport.guard(keeper);
            return Ok(Reply::Upgraded(response(Body::Empty), Box::new(transport)));
        }
        let mut reading = Reading::new(body, RESPONSE_LIMITS, Message::Response);
        let first = reading.first(connection.0.borrow_mut().received()).map_err(SendError::Chunk)?;
        let uploading = !upload.is_over(&connection.0.borrow());
        let persistent = persistent && !upload.broken;
        if reading.is_done() && !uploading {
            if persistent && connection.is_free() {
                keeper.keep(connection);
            }
            return Ok(Reply::Response(response(match first {
                Some(Piece::Data(data)) => Body::full(data),
                Some(Piece::End(trailers)) => Body::with_trailers(Bytes::new(), trailers),
                None => Body::Empty,
            })));
        }
        let rest = ResponseBody {
            connection: Some(connection),
            keeper: Some(keeper),
            reading,
            persistent,
            upload: uploading.then(|| Box::new(upload)),
            first,
        };
        Ok(Reply::Response(response(Body::stream(rest))))
    }
}

/// A request body on its way.
struct Upload {
    body: Body,
    writing: Writing,
    /// A part of the body was taken.
    taken: bool,
    /// The server accepts no more bytes; it may have responded all the same.
    broken: bool,
}

impl Upload {
    /// Whether the request can go out on another connection as if nothing had happened.
    fn is_untouched(&self, transport: &Transport) -> bool {
        transport.is_unasked() && !self.taken
    }

    /// Whether nothing of it is left to be written.
    fn is_over(&self, transport: &Transport) -> bool {
        self.broken || self.writing.has_ended() && transport.is_flushed()
    }

    /// Writes the head and as much of the body as there is. An error is the body's own.
    fn poll(&mut self, transport: &mut Transport, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        loop {
            if self.broken {
                return Poll::Ready(Ok(()));
            }
            let over = self.writing.has_ended();
            if !over && !transport.is_full() {
                let polled = Pin::new(&mut self.body).poll_frame(cx);
                self.taken |= polled.is_ready();
                match polled {
                    Poll::Ready(Some(Ok(frame))) => {
                        self.writing.frame(transport, frame)?;
                        continue;
                    }
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(SendError::Body(error))),
                    Poll::Ready(None) => {
                        self.writing.end(transport, None)?;
                        continue;
                    }
                    Poll::Pending => {
                        let _ = self.poll_write(transport, cx)?;
                        return Poll::Pending;
                    }
                }
            }
            if over {
                // A body of known length is not polled after its last byte.
                self.body = Body::Empty;
            }
            if transport.is_flushed() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_write(transport, cx))?;
        }
    }

    fn poll_write(&mut self, transport: &mut Transport, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let written = if self.writing.has_ended() { transport.poll_finish(cx) } else { transport.poll_flush(cx) };
        match ready!(written) {
            Ok(()) => Poll::Ready(Ok(())),
            // A server may answer before it has read the request, and close (RFC 9112 §9.6): its answer may be there.
            Err(_) if !transport.is_unasked() => {
                self.broken = true;
                Poll::Ready(Ok(()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Err(SendError::Closed)),
            Err(error) => Poll::Ready(Err(SendError::Io(error))),
        }
    }
}

/// The body of a response. The last byte returns the connection to its keeper.
struct ResponseBody<K: Keeper> {
    connection: Option<Connection>,
    keeper: Option<K>,
    reading: Reading,
    persistent: bool,
    /// The rest of the request, where the server has answered before its end.
    upload: Option<Box<Upload>>,
    /// What arrived with the head.
    first: Option<Piece>,
}

impl<K: Keeper> ResponseBody<K> {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, BodyError>> {
        if let Some(piece) = self.first.take() {
            return Poll::Ready(Ok(piece));
        }
        let Some(connection) = &self.connection else { return Poll::Ready(Ok(Piece::End(None))) };
        let transport = &mut *connection.0.borrow_mut();
        if let Some(upload) = &mut self.upload {
            match upload.poll(transport, cx) {
                Poll::Ready(Ok(())) => {
                    self.persistent &= !upload.broken;
                    self.upload = None;
                }
                Poll::Ready(Err(SendError::Body(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(BodyError::UpstreamAborted(Box::new(error)))),
                Poll::Pending => {}
            }
        }
        loop {
            match self.reading.next(transport.received()) {
                Ok(Some(piece)) => return Poll::Ready(Ok(piece)),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(BodyError::Protocol(Box::new(error)))),
            }
            match ready!(transport.poll_fill(cx)) {
                Ok(0) if matches!(self.reading, Reading::UntilClose) => {
                    self.reading = Reading::Done;
                    self.persistent = false;
                    return Poll::Ready(Ok(Piece::End(None)));
                }
                Ok(0) => return Poll::Ready(Err(BodyError::UpstreamAborted(Box::new(SendError::Closed)))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(BodyError::UpstreamAborted(Box::new(error)))),
            }
        }
    }

    /// The last byte was read.
    fn end(&mut self) {
        let (Some(connection), Some(keeper)) = (self.connection.take(), self.keeper.take()) else { return };
        if self.persistent && self.upload.is_none() && connection.is_free() {
            keeper.keep(connection);
        }
    }
}

impl<K: Keeper> http_body::Body for ResponseBody<K> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let piece = ready!(this.poll_piece(cx));
        let frame = match piece {
            Ok(Piece::Data(data)) => Some(Ok(Frame::data(data))),
            Ok(Piece::End(None)) => None,
            Ok(Piece::End(Some(trailers))) => Some(Ok(Frame::trailers(trailers))),
            Err(error) => {
                this.connection = None;
                this.keeper = None;
                Some(Err(error))
            }
        };
        if this.reading.is_done() && this.first.is_none() {
            this.end();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && (self.reading.is_done() || self.connection.is_none())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.first {
            Some(Piece::Data(whole)) if self.reading.is_done() => SizeHint::with_exact(whole.len() as u64),
            Some(_) | None => self.reading.size_hint(),
        }
    }
}
