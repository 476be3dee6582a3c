//! Limits, counters and hooks around a body; made by the methods of [`Body`].

use std::any::Any;
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::HeaderMap;
use http_body::{Body as _, Frame};

use super::body::{Body, BodyError, Polled};
use super::gate::Gate;
use crate::deadline::Deadline;

/// An observer of a body, for logs and metrics. It is dropped with the body; a drop without `end` means that the reader left first.
pub trait Watch: 'static {
    /// A data frame of `bytes` bytes was handed on.
    fn data(&mut self, bytes: usize);
    /// The trailers were handed on.
    fn trailers(&mut self, _: &HeaderMap) {}
    /// The last frame was handed on, or the body failed. Called at most once.
    fn end(&mut self, outcome: Result<(), &BodyError>);
}

pub(super) type HookFuture = Pin<Box<dyn Future<Output = Result<HeaderMap, BodyError>>>>;

/// A body with limits, counters and hooks; made by the methods of [`Body`].
pub struct Wrapped {
    pub(super) inner: Body,
    pub(super) max: u64,
    pub(super) seen: u64,
    pub(super) idle: Option<Idle>,
    /// When it breaks off, and the limit that says so.
    pub(super) life: Option<(Deadline, Duration)>,
    pub(super) gate: Option<Rc<Gate>>,
    pub(super) count: Option<Rc<Cell<u64>>>,
    pub(super) watch: Option<Box<dyn Watch>>,
    pub(super) hook: Option<Box<dyn FnOnce(HeaderMap) -> HookFuture>>,
    pub(super) hooked: Option<HookFuture>,
    pub(super) ended: bool,
    /// Dropped last, after the watch.
    pub(super) guard: Option<Box<dyn Any>>,
}

pub(super) struct Idle {
    pub(super) limit: Duration,
    /// When a part last came, in this body or in the one of the other direction.
    pub(super) progress: Option<Rc<Cell<Instant>>>,
    /// Armed at the first wait and kept; moved when a later wait begins.
    pub(super) deadline: Option<Deadline>,
    pub(super) waiting: bool,
}

impl Wrapped {
    pub(super) fn around(inner: Body) -> Box<Self> {
        Box::write(
            Box::new_uninit(),
            Wrapped {
                inner,
                max: u64::MAX,
                seen: 0,
                idle: None,
                life: None,
                gate: None,
                count: None,
                watch: None,
                hook: None,
                hooked: None,
                ended: false,
                guard: None,
            },
        )
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Some((deadline, limit)) = &self.life
            && deadline.poll_passed(cx).is_ready()
        {
            let error = BodyError::Outlived(*limit);
            self.end(Err(&error));
            return Poll::Ready(Some(Err(error)));
        }
        let frame = match self.poll_inner(cx) {
            Poll::Pending => match self.poll_idle(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(error) => Some(Err(error)),
            },
            Poll::Ready(frame) => frame,
        };
        if let Some(idle) = &mut self.idle {
            idle.waiting = false;
            if let Some(progress) = &idle.progress {
                progress.set(Instant::now());
            }
        }
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    let bytes = data.len();
                    if let Some(count) = &self.count {
                        count.set(count.get() + bytes as u64);
                    }
                    if let Some(watch) = &mut self.watch {
                        watch.data(bytes);
                    }
                } else if let (Some(watch), Some(trailers)) = (&mut self.watch, frame.trailers_ref()) {
                    watch.trailers(trailers);
                }
                // A body whose end is known is not polled again.
                if frame.is_trailers() || self.inner.is_end_stream() {
                    self.end(Ok(()));
                }
            }
            Some(Err(error)) => self.end(Err(error)),
            None => self.end(Ok(())),
        }
        Poll::Ready(frame)
    }

    /// The next frame after gate, size limit and trailers hook.
    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Polled {
        if let Some(gate) = &self.gate {
            ready!(gate.poll_open(cx));
            self.gate = None;
        }
        if self.hooked.is_none() {
            let frame = match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                other => return Poll::Ready(other),
            };
            if let Some(data) = frame.data_ref() {
                self.seen = self.seen.saturating_add(data.len() as u64);
                if self.seen > self.max {
                    return Poll::Ready(Some(Err(BodyError::TooLarge(self.max))));
                }
            }
            match self.hook.take_if(|_| frame.is_trailers()) {
                None => return Poll::Ready(Some(Ok(frame))),
                Some(hook) => match frame.into_trailers() {
                    Ok(trailers) => self.hooked = Some(hook(trailers)),
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
            }
        }
        let Some(hooked) = &mut self.hooked else { return Poll::Ready(None) };
        let trailers = ready!(hooked.as_mut().poll(cx));
        self.hooked = None;
        Poll::Ready(match trailers {
            Ok(trailers) if trailers.is_empty() => None,
            Ok(trailers) => Some(Ok(Frame::trailers(trailers))),
            Err(error) => Some(Err(error)),
        })
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        // A hook and a gate have their own deadlines, and the sender did not cause the wait.
        let Some(idle) = self.idle.as_mut().filter(|_| self.hooked.is_none() && self.gate.is_none()) else {
            return Poll::Pending;
        };
        let deadline = match &mut idle.deadline {
            None => idle.deadline.insert(Deadline::after(idle.limit)),
            Some(deadline) => {
                if !idle.waiting {
                    deadline.rearm(idle.limit);
                }
                deadline
            }
        };
        idle.waiting = true;
        loop {
            ready!(deadline.poll_passed(cx));
            let silent = idle.progress.as_ref().map_or(idle.limit, |progress| progress.get().elapsed());
            if silent >= idle.limit {
                return Poll::Ready(BodyError::IdleTimeout(idle.limit));
            }
            deadline.rearm(idle.limit - silent);
        }
    }

    fn end(&mut self, outcome: Result<(), &BodyError>) {
        self.ended = true;
        self.idle = None;
        self.life = None;
        if let Some(mut watch) = self.watch.take() {
            watch.end(outcome);
        }
        self.guard = None;
        if outcome.is_err() {
            self.inner = Body::Empty;
        }
    }
}

impl Drop for Wrapped {
    fn drop(&mut self) {
        // A body that is known to be over needs not be read: HEAD, 204, content-length 0.
        if !self.ended && self.hooked.is_none() && self.inner.is_end_stream() {
            self.end(Ok(()));
        }
    }
}
