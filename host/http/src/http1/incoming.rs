//! The gateway's side of a client connection. The writer of the response and the reader of the request body share the socket. The body
//! may be read in another task of the worker, such as one that feeds an HTTP/2 upstream, so each side wakes the other.

use std::cell::{RefCell, RefMut};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::io::Transport;
use super::reading::Reading;
use super::{Length, Limits, Message, Piece};
use crate::http::body::{Body, BodyError};

/// RFC 9110 §15.2.1.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// Bytes of an unwanted request body that are read to keep the connection.
const DISCARD: usize = 256 << 10;
/// Bytes read ahead of an unwanted body to notice that the client has left.
const AHEAD: usize = 64 << 10;

/// A client connection of HTTP/1. It stays on its worker, and no borrow outlives a poll.
pub struct Incoming {
    inner: RefCell<Inner>,
}

/// What is borrowed.
pub struct Inner {
    pub transport: Transport,
    reading: Reading,
    limits: Limits,
    expects: Expects,
    /// Counts requests, so that a body that outlives its own never reads another's.
    request: u32,
    /// A response is on its way.
    answering: bool,
    /// The body of the request can't be read to its end.
    failed: bool,
    /// Nobody reads the body of the request any more.
    abandoned: bool,
    /// The client has closed its side behind a whole request.
    half_closed: bool,
    /// Who waits for the body.
    reader: Option<Waker>,
    /// Who waits for the client to leave, while somebody else reads the body.
    watcher: Option<Waker>,
}

/// How a client departs that is owed a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// It sends no more, and may still read (RFC 9112 §9.6). Told once for each connection.
    HalfClosed,
    /// It reads nothing any more.
    Gone,
}

/// What the client waits for before it sends the body (RFC 9110 §10.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expects {
    Nothing,
    /// `100 Continue`, once somebody wants the body.
    Continue,
    /// The final response came first: the client may send the body or another request.
    Anything,
}

impl Incoming {
    pub fn new(transport: Transport, limits: Limits) -> Rc<Self> {
        Rc::new(Incoming {
            inner: RefCell::new(Inner {
                transport,
                reading: Reading::Done,
                limits,
                expects: Expects::Nothing,
                request: 0,
                answering: false,
                failed: false,
                abandoned: false,
                half_closed: false,
                reader: None,
                watcher: None,
            }),
        })
    }

    /// The socket and its buffers, for the time of a poll.
    pub fn borrow(&self) -> RefMut<'_, Inner> {
        self.inner.borrow_mut()
    }

    /// A request begins whose head was read: its body.
    pub fn begin(self: &Rc<Self>, length: Length, expects_continue: bool) -> Body {
        let mut inner = self.borrow();
        let inner = &mut *inner;
        inner.reading = Reading::new(length, inner.limits, Message::Request);
        inner.request = inner.request.wrapping_add(1);
        inner.expects = Expects::Nothing;
        (inner.answering, inner.failed, inner.abandoned) = (false, false, false);
        if let Some(whole) = inner.reading.whole(inner.transport.received()) {
            return Body::full(whole);
        }
        if inner.reading.is_done() {
            return Body::Empty;
        }
        if expects_continue {
            inner.expects = Expects::Continue;
        }
        Body::stream(RequestBody { connection: Rc::clone(self), request: inner.request })
    }
}

impl Inner {
    /// Whether the request was read to its end.
    pub fn is_read(&self) -> bool {
        self.reading.is_done()
    }

    /// Whether the body has an unread rest that nobody will read.
    pub fn is_abandoned(&self) -> bool {
        self.abandoned && !self.is_read()
    }

    /// Whether the request was read to its end, and nothing has come behind it.
    pub fn is_between(&mut self) -> bool {
        self.is_read() && self.transport.received().is_empty()
    }

    /// Begins the final response; no interim response may follow. Returns whether it is known what the client sends next. It is not
    /// known if the client was never told to send its body.
    pub fn answer(&mut self) -> bool {
        self.answering = true;
        if self.expects == Expects::Continue {
            self.expects = Expects::Anything;
        }
        self.expects == Expects::Nothing
    }

    /// Ends the request: whoever still reads its body gets an error. The socket is the caller's.
    pub fn end(&mut self) -> Transport {
        self.failed |= !self.is_read();
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        std::mem::replace(&mut self.transport, Transport::new(tokio::io::empty()))
    }

    /// Discards the received part of an unwanted body. Returns whether the body has ended.
    pub fn discard(&mut self, cx: &mut Context<'_>) -> bool {
        let mut seen = 0;
        while self.abandoned && !self.failed && !self.is_read() {
            match self.reading.next(self.transport.received()) {
                Ok(Some(Piece::Data(data))) => seen += data.len(),
                Ok(Some(Piece::End(_))) => {}
                Ok(None) if seen < DISCARD => match self.transport.poll_fill(cx) {
                    Poll::Ready(Ok(n)) if n > 0 => {}
                    _ => return false,
                },
                Ok(None) | Err(_) => return false,
            }
        }
        self.is_read()
    }

    /// Ready when the client closes the connection, or its side of it, while it is owed a response. A client that ends its side within its
    /// request has left.
    pub fn poll_departed(&mut self, cx: &mut Context<'_>) -> Poll<Departure> {
        if !self.is_read() && !self.abandoned {
            // The reader of the body notices, and wakes this task at the end of the body.
            if !self.watcher.as_ref().is_some_and(|watcher| watcher.will_wake(cx.waker())) {
                self.watcher = Some(cx.waker().clone());
            }
            return Poll::Pending;
        }
        if self.half_closed {
            return self.transport.poll_broken(cx).map(|()| Departure::Gone);
        }
        let most = if self.is_read() { 0 } else { AHEAD };
        while self.transport.received().len() <= most {
            match ready!(self.transport.poll_fill(cx)) {
                Ok(n) if n > 0 => {}
                Ok(_) if self.is_read() => {
                    self.half_closed = true;
                    return Poll::Ready(Departure::HalfClosed);
                }
                Ok(_) | Err(_) => return Poll::Ready(Departure::Gone),
            }
        }
        Poll::Pending
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, BodyError>> {
        loop {
            match self.reading.next(self.transport.received()) {
                Ok(Some(piece)) => return Poll::Ready(Ok(piece)),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(BodyError::Protocol(Box::new(error)))),
            }
            match self.expects {
                Expects::Nothing => {}
                Expects::Continue => {
                    self.expects = Expects::Nothing;
                    self.transport.out().extend_from_slice(CONTINUE);
                }
                // What comes next is not known to be the body.
                Expects::Anything => return Poll::Pending,
            }
            if !self.answering && !self.transport.is_flushed() {
                // Whether it can be written at once or not, the body is what is waited for.
                let _ = self.transport.poll_flush(cx);
            }
            match ready!(self.transport.poll_fill(cx)) {
                Ok(0) => return Poll::Ready(Err(broken("the connection was closed within the body"))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(BodyError::ClientAborted(Box::new(error)))),
            }
        }
    }

    fn wake_watcher(&mut self, cx: Option<&Context<'_>>) {
        if let Some(watcher) = self.watcher.take()
            && !cx.is_some_and(|cx| watcher.will_wake(cx.waker()))
        {
            watcher.wake();
        }
    }
}

fn broken(what: &'static str) -> BodyError {
    BodyError::ClientAborted(Box::new(io::Error::new(io::ErrorKind::UnexpectedEof, what)))
}

/// The body of one request.
struct RequestBody {
    connection: Rc<Incoming>,
    request: u32,
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut inner = self.connection.borrow();
        if inner.request != self.request || inner.failed {
            return Poll::Ready(Some(Err(broken("the request is over"))));
        }
        if inner.is_read() {
            return Poll::Ready(None);
        }
        let Poll::Ready(piece) = inner.poll_piece(cx) else {
            if !inner.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
                inner.reader = Some(cx.waker().clone());
            }
            return Poll::Pending;
        };
        inner.failed = piece.is_err();
        if inner.failed || inner.is_read() {
            inner.wake_watcher(Some(cx));
        }
        Poll::Ready(match piece {
            Ok(Piece::Data(data)) => Some(Ok(Frame::data(data))),
            Ok(Piece::End(None)) => None,
            Ok(Piece::End(Some(trailers))) => Some(Ok(Frame::trailers(trailers))),
            Err(error) => Some(Err(error)),
        })
    }

    // May be called while the connection is borrowed, as may the body's drop.
    fn is_end_stream(&self) -> bool {
        self.connection.inner.try_borrow().is_ok_and(|inner| inner.request == self.request && inner.is_read())
    }

    fn size_hint(&self) -> SizeHint {
        self.connection.inner.try_borrow().map(|inner| inner.reading.size_hint()).unwrap_or_default()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Ok(mut inner) = self.connection.inner.try_borrow_mut()
            && inner.request == self.request
        {
            inner.abandoned = true;
            inner.reader = None;
            inner.wake_watcher(None);
        }
    }
}
