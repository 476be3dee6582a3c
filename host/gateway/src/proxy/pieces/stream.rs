//! A body on its way through one filter: it reads no faster than it is read, and calls the filter with each piece.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame};

use super::super::context::SharedTraversal;
use crate::exchange::Piece;
use crate::filter::{BodySourceError, Flow, LocalPipeline, PieceOutcome, TURN, Traversal};
use crate::http::body::{Body, BodyError};
use crate::http::compression::forget_digests;

type Call = Pin<Box<dyn Future<Output = (Traversal, PieceOutcome)>>>;
type Polled = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

/// A body with one filter in it.
pub(super) struct Streamed {
    source: Body,
    flow: Flow,
    /// Whom the filter is called in. None: what is left of the body goes on unseen.
    calls: Option<(Rc<LocalPipeline>, SharedTraversal)>,
    calling: Option<Calling>,
    source_ended: bool,
    ended: bool,
    trailers: Option<HeaderMap>,
    /// How long it has worked since others had their turn.
    turn: Duration,
}

/// A call that waits, and whether it is for the last piece.
struct Calling {
    call: Call,
    is_last: bool,
}

impl Streamed {
    pub(super) fn new(source: Body, flow: Flow, pipeline: Rc<LocalPipeline>, shared: SharedTraversal) -> Streamed {
        Streamed {
            source,
            flow,
            calls: Some((pipeline, shared)),
            calling: None,
            source_ended: false,
            ended: false,
            trailers: None,
            turn: Duration::ZERO,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Polled {
        loop {
            if self.ended {
                return Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
            }
            if self.calls.is_none() {
                return self.poll_rest(cx);
            }
            if self.calling.is_none() && !self.begin_call()? {
                if self.calls.is_some() {
                    ready!(self.poll_source(cx))?;
                }
                continue;
            }
            if self.turn >= TURN {
                self.turn = Duration::ZERO;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let begun = Instant::now();
            let polled = self.poll_call(cx);
            self.turn += begun.elapsed();
            let data = ready!(polled)?;
            if !data.is_empty() {
                self.turn = Duration::ZERO;
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        }
    }

    /// Calls the filter with what has come. False: more has to come first, or the filter is not called any more.
    fn begin_call(&mut self) -> Result<bool, BodyError> {
        let piece = match self.flow.next(self.source_ended) {
            Ok(Some(piece)) => piece,
            Ok(None) => return Ok(false),
            Err(error) => {
                self.pass_unread(&error)?;
                return Ok(false);
            }
        };
        let Some((pipeline, shared)) = &self.calls else { return Ok(false) };
        let mut traversal = shared.take();
        if traversal.exchange_if_present().is_none() {
            return Err(BodyError::Filter("the exchange of the body is over".into()));
        }
        let (pipeline, of, is_last) = (Rc::clone(pipeline), self.flow.of(), piece.is_last);
        let call = Box::pin(async move {
            let outcome = pipeline.call_piece::<false>(&mut traversal, of, piece).await;
            (traversal, outcome)
        });
        self.calling = Some(Calling { call, is_last });
        Ok(true)
    }

    /// What goes on of the piece that the filter was called with.
    fn poll_call(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, BodyError>> {
        let Some(Calling { call, is_last }) = &mut self.calling else { return Poll::Ready(Ok(Bytes::new())) };
        let is_last = *is_last;
        let (traversal, outcome) = ready!(call.as_mut().poll(cx));
        self.calling = None;
        if let Some((_, shared)) = &self.calls {
            shared.replace(traversal);
        }
        Poll::Ready(match outcome {
            PieceOutcome::Said(piece) => self.follow(*piece),
            PieceOutcome::Absent(piece) => {
                self.calls = None;
                self.ended = is_last;
                Ok(piece.bytes)
            }
            PieceOutcome::Failed(failure) => Err(BodyError::Filter(Box::new(failure.error))),
        })
    }

    /// Does what the filter has said of a piece.
    fn follow(&mut self, piece: Piece) -> Result<Bytes, BodyError> {
        let (is_last, ends, passes_rest) = (piece.is_last, piece.said.ends, piece.said.passes_rest);
        let front = self.flow.settle(piece);
        if ends {
            // The connection that it comes from is of no more use.
            self.source = Body::Empty;
            self.trailers = None;
            self.flow.flush();
        }
        self.ended = is_last || ends;
        if passes_rest {
            self.calls = None;
        } else if let Err(error) = self.flow.account() {
            self.pass_unread(&error)?;
        }
        Ok(front)
    }

    /// The filter can't be called for what comes: that ends the body, or it goes on without the filter.
    fn pass_unread(&mut self, error: &BodySourceError) -> Result<(), BodyError> {
        let Some((pipeline, _)) = self.calls.take() else { return Ok(()) };
        match pipeline.passes_unread(&self.flow, error) {
            true => Ok(()),
            false => Err(BodyError::Filter(Box::new(error.clone()))),
        }
    }

    /// Reads on.
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        match ready!(Pin::new(&mut self.source).poll_frame(cx)) {
            Some(frame) => match frame?.into_data() {
                Ok(data) => {
                    self.flow.push(data);
                    self.source_ended = self.source.is_end_stream();
                }
                Err(frame) => {
                    self.trailers = frame.into_trailers().ok();
                    if let Some(trailers) = &mut self.trailers {
                        forget_digests(trailers);
                    }
                    self.source_ended = true;
                }
            },
            None => self.source_ended = true,
        }
        Poll::Ready(Ok(()))
    }

    /// What is left goes on as it is.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Polled {
        let here = self.flow.flush();
        if !here.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(here))));
        }
        if !self.source_ended {
            return Pin::new(&mut self.source).poll_frame(cx);
        }
        self.ended = true;
        Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }
}

impl HttpBody for Streamed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        self.get_mut().poll(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.ended && self.trailers.is_none()
    }
}
