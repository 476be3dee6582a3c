//! The one body type that streams through the gateway. Its limits and hooks are in `wrapped`, reading a whole one into memory in
//! `buffer`, content coding in `coding`.

use std::any::Any;
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

pub use super::body_error::{BodyError, BodyErrorKind, Sender};
pub use super::buffer::{MemoryBudget, Reservation, collect};
use super::gate::Gate;
use super::headers;
use super::wrapped::Idle;
pub use super::wrapped::{Watch, Wrapped};
use crate::deadline::Deadline;

/// A message body. Frames are passed on one by one and never copied.
#[derive(Default)]
pub enum Body {
    #[default]
    Empty,
    Full {
        data: Bytes,
        trailers: Option<Box<HeaderMap>>,
    },
    Incoming(Incoming, Sender),
    /// A body that a connection of HTTP/1 reads.
    Stream(Box<dyn HttpBody<Data = Bytes, Error = BodyError> + Unpin>),
    /// What was read of a body before it turned out too large to be kept, and the rest.
    Resumed(Bytes, Box<Body>),
    /// With limits, counters or hooks around it.
    Wrapped(Box<Wrapped>),
}

impl Body {
    /// A body of known bytes.
    pub fn full(data: impl Into<Bytes>) -> Self {
        Body::with_trailers(data, None)
    }

    /// A body of known bytes with trailers after it.
    pub fn with_trailers(data: impl Into<Bytes>, trailers: Option<HeaderMap>) -> Self {
        let data = data.into();
        match trailers.filter(|t| !t.is_empty()) {
            None if data.is_empty() => Body::Empty,
            trailers => Body::Full { data, trailers: trailers.map(Box::new) },
        }
    }

    /// A body that is read elsewhere, with trailers that may be passed on.
    pub fn stream(body: impl HttpBody<Data = Bytes, Error = BodyError> + Unpin + 'static) -> Self {
        Body::Stream(Box::new(body))
    }

    /// The body of a request that a client sends.
    pub fn from_client(body: Incoming) -> Self {
        Body::incoming(body, Sender::Client)
    }

    /// The body of a response that an upstream sends.
    pub fn from_upstream(body: Incoming) -> Self {
        Body::incoming(body, Sender::Upstream)
    }

    fn incoming(body: Incoming, sender: Sender) -> Self {
        // HTTP/2 knows the end only with the frame, and trailers may follow: only what is known to be over is dropped here.
        if body.is_end_stream() { Body::Empty } else { Body::Incoming(body, sender) }
    }

    /// At most `max` bytes of data, else [`BodyError::TooLarge`] instead of the frame that goes past it.
    #[must_use]
    pub fn limited(self, max: u64) -> Self {
        self.wrap(|w| w.max = w.max.min(max))
    }

    /// At most `limit` (and a tick) of waiting for one frame, else [`BodyError::IdleTimeout`]. Counts only while the reader
    /// waits for the sender. Needs a local runtime.
    #[must_use]
    pub fn timed(self, limit: Duration) -> Self {
        self.wrap(|w| w.idle = Some(Idle { limit, progress: None, deadline: None, waiting: false }))
    }

    /// The same for two bodies of one exchange: a part of either keeps both alive, as a stream may be silent one way.
    #[must_use]
    pub fn timed_together(self, limit: Duration, progress: Rc<Cell<Instant>>) -> Self {
        self.wrap(|w| w.idle = Some(Idle { limit, progress: Some(progress), deadline: None, waiting: false }))
    }

    /// Breaks off with [`BodyError::Outlived`] `after` this time, which is what is left of `limit`. Noticed when it is read.
    #[must_use]
    pub fn outlived_after(self, limit: Duration, after: Duration) -> Self {
        self.wrap(|w| w.life = Some((Deadline::after(after), limit)))
    }

    /// Reads nothing before `gate` opens.
    #[must_use]
    pub fn held(self, gate: Rc<Gate>) -> Self {
        self.wrap(|w| w.gate = Some(gate))
    }

    /// Adds the bytes of data that pass to `count`. Counters add up: each sees all bytes.
    #[must_use]
    pub fn counted(self, count: Rc<Cell<u64>>) -> Self {
        self.layer(|w| w.count.is_some()).wrap(|w| w.count = Some(count))
    }

    /// Keeps `guard` until the body has ended or is dropped. Several guards are dropped in the order they were added.
    #[must_use]
    pub fn guarded(self, guard: impl Any) -> Self {
        self.wrap(|w| {
            w.guard = Some(match w.guard.take() {
                None => Box::new(guard),
                Some(first) => Box::new((first, guard)),
            });
        })
    }

    /// Has `watch` follow the body, beside those that already do.
    #[must_use]
    pub fn watched(self, watch: Box<dyn Watch>) -> Self {
        self.layer(|w| w.watch.is_some()).wrap(|w| w.watch = Some(watch))
    }

    /// Passes the trailers, if any come, through `hook`; what it answers is sent instead (an empty map: no trailers), and
    /// its error breaks the body off.
    #[must_use]
    pub fn with_trailers_hook<F, R>(self, hook: F) -> Self
    where
        F: FnOnce(HeaderMap) -> R + 'static,
        R: Future<Output = Result<HeaderMap, BodyError>> + 'static,
    {
        self.layer(|w| w.hook.is_some()).wrap(|w| w.hook = Some(Box::new(|trailers| Box::pin(hook(trailers)))))
    }

    /// Room for one more wrapping of a kind that may be there already.
    fn layer(self, taken: impl Fn(&Wrapped) -> bool) -> Self {
        match self {
            Body::Wrapped(wrapped) if taken(&wrapped) => Body::Wrapped(Wrapped::around(Body::Wrapped(wrapped))),
            other => other,
        }
    }

    fn wrap(self, set: impl FnOnce(&mut Wrapped)) -> Self {
        let mut wrapped = match self {
            Body::Wrapped(wrapped) => wrapped,
            inner => Wrapped::around(inner),
        };
        set(&mut wrapped);
        Body::Wrapped(wrapped)
    }

    /// The number of bytes that are still to come, when it is known.
    pub fn exact_size(&self) -> Option<u64> {
        self.size_hint().exact()
    }
}

impl From<Bytes> for Body {
    fn from(data: Bytes) -> Self {
        Body::full(data)
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Body::Empty => f.write_str("Empty"),
            Body::Full { data, .. } => write!(f, "Full({} bytes)", data.len()),
            Body::Incoming(_, sender) => write!(f, "Incoming({sender:?})"),
            Body::Stream(_) => f.write_str("Stream"),
            Body::Resumed(read, rest) => write!(f, "Resumed({} bytes, {rest:?})", read.len()),
            Body::Wrapped(wrapped) => write!(f, "Wrapped({:?})", wrapped.inner),
        }
    }
}

pub(super) type Polled = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        match &mut *self {
            Body::Empty => Poll::Ready(None),
            Body::Full { data, trailers } => {
                if !data.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(std::mem::take(data)))));
                }
                Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(*trailers))))
            }
            Body::Incoming(body, sender) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(frame.map(|frame| match frame {
                    Ok(mut frame) => {
                        if let Some(trailers) = frame.trailers_mut() {
                            headers::strip_trailers(trailers);
                        }
                        Ok(frame)
                    }
                    Err(error) => Err(BodyError::of(*sender, error)),
                }))
            }
            Body::Stream(body) => Pin::new(&mut **body).poll_frame(cx),
            Body::Resumed(read, rest) => {
                if !read.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(std::mem::take(read)))));
                }
                Pin::new(&mut **rest).poll_frame(cx)
            }
            Body::Wrapped(wrapped) => wrapped.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Full { data, trailers } => data.is_empty() && trailers.is_none(),
            Body::Incoming(body, _) => body.is_end_stream(),
            Body::Stream(body) => body.is_end_stream(),
            Body::Resumed(read, rest) => read.is_empty() && rest.is_end_stream(),
            Body::Wrapped(wrapped) => wrapped.ended || (wrapped.hooked.is_none() && wrapped.inner.is_end_stream()),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            // Trailers need the chunked coding in HTTP/1 (RFC 9112 §7.1.2), so the length is not promised then.
            Body::Full { data, trailers: Some(_) } => {
                let mut hint = SizeHint::new();
                hint.set_lower(data.len() as u64);
                hint
            }
            Body::Full { data, trailers: None } => SizeHint::with_exact(data.len() as u64),
            Body::Incoming(body, _) => body.size_hint(),
            Body::Stream(body) => body.size_hint(),
            Body::Resumed(read, rest) => {
                let (read, rest) = (read.len() as u64, rest.size_hint());
                let mut hint = SizeHint::new();
                hint.set_lower(rest.lower().saturating_add(read));
                if let Some(upper) = rest.upper() {
                    hint.set_upper(upper.saturating_add(read));
                }
                hint
            }
            Body::Wrapped(wrapped) if wrapped.ended => SizeHint::with_exact(0),
            Body::Wrapped(wrapped) => wrapped.inner.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    async fn next(body: &mut Body) -> Option<Result<Frame<Bytes>, BodyError>> {
        std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
    }

    fn trailers(name: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(http::HeaderName::from_static(name), http::HeaderValue::from_static("1"))])
    }

    #[derive(Clone, Default)]
    struct Log(Rc<RefCell<Vec<String>>>);

    impl Watch for Log {
        fn data(&mut self, bytes: usize) {
            self.0.borrow_mut().push(format!("data {bytes}"));
        }
        fn end(&mut self, outcome: Result<(), &BodyError>) {
            self.0.borrow_mut().push(format!("end {}", outcome.map_or_else(ToString::to_string, |()| "ok".into())));
        }
    }

    impl Drop for Log {
        fn drop(&mut self) {
            self.0.borrow_mut().push("drop".into());
        }
    }

    #[tokio::test(flavor = "local")]
    async fn sizes_and_ends_are_known_through_the_wrapping() {
        let count = Rc::new(Cell::new(0));
        let mut body = Body::full("hello").limited(5).counted(count.clone());
        assert_eq!((body.exact_size(), body.is_end_stream()), (Some(5), false));
        assert_eq!(next(&mut body).await.unwrap().unwrap().into_data().unwrap(), "hello");
        assert!(body.is_end_stream());
        assert_eq!(count.get(), 5);
        assert!(Body::full("").is_end_stream());
        assert_eq!(Body::with_trailers("x", Some(trailers("a"))).exact_size(), None);
    }

    #[tokio::test(flavor = "local")]
    async fn the_watch_sees_the_end_and_the_guard_is_dropped_with_it() {
        let log = Log::default();
        let guard = Rc::new(());
        let mut body = Body::full("abc").watched(Box::new(log.clone())).guarded(guard.clone());
        next(&mut body).await.unwrap().unwrap();
        assert_eq!(Rc::strong_count(&guard), 1, "the guard goes with the last byte, not with the body");
        assert_eq!(*log.0.borrow(), ["data 3", "end ok", "drop"]);
        drop(body);

        let log = Log::default();
        drop(Body::full("abc").watched(Box::new(log.clone())));
        assert_eq!(*log.0.borrow(), ["drop"], "a reader that leaves is seen as a drop without end");

        let log = Log::default();
        let mut body = Body::full("abcd").limited(3).watched(Box::new(log.clone()));
        assert!(matches!(next(&mut body).await, Some(Err(BodyError::TooLarge(3)))));
        assert!(next(&mut body).await.is_none());
        assert_eq!(*log.0.borrow(), ["end body larger than 3 bytes", "drop"]);
    }

    #[tokio::test(flavor = "local")]
    async fn trailers_pass_through_the_hook() {
        let mut body = Body::with_trailers("x", Some(trailers("a"))).with_trailers_hook(|mut map| async move {
            tokio::task::yield_now().await;
            map.insert("b", http::HeaderValue::from_static("2"));
            Ok(map)
        });
        next(&mut body).await.unwrap().unwrap();
        assert!(!body.is_end_stream());
        let map = next(&mut body).await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!((map.len(), body.is_end_stream()), (2, true));

        let mut body =
            Body::with_trailers("", Some(trailers("a"))).with_trailers_hook(|_| async { Ok(HeaderMap::new()) });
        assert!(next(&mut body).await.is_none(), "an empty map sends no trailers");
    }
}
