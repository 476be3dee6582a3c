//! A body that is coded while it streams through. It reads no faster than it is read, holds little, and lets out what it has as soon as its source
//! has nothing more at the moment.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use http::header::HeaderName;
use http_body::{Body as HttpBody, Frame};
use tokio::time::Sleep;

use super::{EncodeError, Encoder, Level, Until};
use crate::http::body::{Body, BodyError, Reservation};

/// What is coded in one go.
const STEP: usize = 16 << 10;
/// From this size on, what has come out is sent.
const PART: usize = 16 << 10;
/// How long one body may keep its worker to itself.
const TURN: Duration = Duration::from_millis(1);
/// How long the source may be silent before all it has sent goes out. A flush costs bytes, and a peer on a fast network pauses for less
/// between two parts.
const PAUSE: Duration = Duration::from_millis(1);

/// Fields that describe the bytes of the content, which are others now. They may come as trailers (RFC 9530 §2).
pub const DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

/// Puts a coding on content that is here.
pub fn encode_whole(content: &[u8], level: Level) -> Result<Bytes, EncodeError> {
    let mut out = Vec::with_capacity(content.len() / 4 + 64);
    Encoder::new(level, Some(content.len() as u64))?.encode(content, Until::Finished, &mut out)?;
    Ok(out.into())
}

/// The coded form of a body, as a body.
pub struct Encoding {
    source: Body,
    encoder: Encoder,
    /// What was read of the source and is not coded yet.
    rest: Bytes,
    out: Vec<u8>,
    /// The encoder may hold some of what it was given.
    holds: bool,
    /// Each part of the source goes out at once: an event of `text/event-stream` has a reader who waits for it.
    is_prompt: bool,
    pause: Option<Pin<Box<Sleep>>>,
    /// The pause has begun.
    pauses: bool,
    /// How long it has worked since others had their turn.
    turn: Duration,
    trailers: Option<HeaderMap>,
    ended: bool,
    _charge: Reservation,
}

impl Encoding {
    /// `encoder` is one for content of the length that `source` is known to have, and `charge` for its memory ([`Level::memory`]).
    pub fn new(source: Body, encoder: Encoder, is_prompt: bool, charge: Reservation) -> Encoding {
        Encoding {
            encoder,
            source,
            rest: Bytes::new(),
            out: Vec::new(),
            holds: false,
            is_prompt,
            pause: None,
            pauses: false,
            turn: Duration::ZERO,
            trailers: None,
            ended: false,
            _charge: charge,
        }
    }

    /// Codes the next step of what was read.
    fn step(&mut self) -> Result<(), EncodeError> {
        let begun = Instant::now();
        let part = self.rest.split_to(self.rest.len().min(STEP));
        // The last part ends the content, so that a short one is sent in one frame.
        let until = match self.rest.is_empty() && self.source.is_end_stream() {
            true => Until::Finished,
            false => Until::Later,
        };
        self.encoder.encode(&part, until, &mut self.out)?;
        self.ended = until == Until::Finished;
        self.holds = !self.ended;
        self.turn += begun.elapsed();
        Ok(())
    }

    fn take_out(&mut self) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.out).into()))))
    }

    /// Waits for a moment, unless each part is in a hurry. Nothing has come meanwhile.
    fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_prompt {
            return Poll::Ready(());
        }
        let pause = self.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(PAUSE)));
        if !std::mem::replace(&mut self.pauses, true) {
            pause.as_mut().reset(tokio::time::Instant::now() + PAUSE);
        }
        ready!(pause.as_mut().poll(cx));
        self.pauses = false;
        Poll::Ready(())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            if !self.out.is_empty() && (self.ended || self.out.len() >= PART) {
                return self.take_out();
            }
            if self.ended {
                return Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
            }
            if !self.rest.is_empty() {
                if self.turn >= TURN {
                    self.turn = Duration::ZERO;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                self.step().map_err(broken)?;
                continue;
            }
            match Pin::new(&mut self.source).poll_frame(cx) {
                Poll::Ready(Some(frame)) => {
                    self.pauses = false;
                    match frame?.into_data() {
                        Ok(data) => self.rest = data,
                        Err(frame) => {
                            self.trailers = frame.into_trailers().ok().map(without_digests);
                            self.finish().map_err(broken)?;
                        }
                    }
                }
                Poll::Ready(None) => self.finish().map_err(broken)?,
                Poll::Pending if self.holds || !self.out.is_empty() => {
                    // The source was asked, so the turn is another one.
                    self.turn = Duration::ZERO;
                    ready!(self.poll_pause(cx));
                    self.encoder.encode(&[], Until::Flushed, &mut self.out).map_err(broken)?;
                    self.holds = false;
                    if !self.out.is_empty() {
                        return self.take_out();
                    }
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn finish(&mut self) -> Result<(), EncodeError> {
        self.encoder.encode(&[], Until::Finished, &mut self.out)?;
        self.ended = true;
        Ok(())
    }
}

fn without_digests(mut trailers: HeaderMap) -> HeaderMap {
    for name in &DIGESTS {
        trailers.remove(name);
    }
    trailers
}

fn broken(error: EncodeError) -> BodyError {
    BodyError::Coding(Box::new(error))
}

impl HttpBody for Encoding {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.get_mut().poll(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.ended && self.out.is_empty() && self.trailers.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::future::poll_fn;

    use http::HeaderValue;
    use http::header::CONTENT_ENCODING;

    use super::*;
    use crate::http::body::MemoryBudget;
    use crate::http::coding::{Coding, decode};

    const ALL: [Coding; 3] = [Coding::Gzip, Coding::Brotli, Coding::Zstd];

    /// Answers these, one after the other.
    type Polled = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

    struct Script(VecDeque<Polled>);

    impl HttpBody for Script {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            self.0.pop_front().unwrap_or(Poll::Ready(None))
        }
    }

    fn data(bytes: impl Into<Bytes>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(Some(Ok(Frame::data(bytes.into()))))
    }

    fn encoder(coding: Coding, length: Option<u64>) -> Encoder {
        Encoder::new(Level { coding, level: 3 }, length).unwrap()
    }

    fn encoding(
        coding: Coding,
        is_prompt: bool,
        script: impl IntoIterator<Item = Poll<Option<Result<Frame<Bytes>, BodyError>>>>,
    ) -> Encoding {
        let charge = MemoryBudget::new(1 << 20).reserve(1).unwrap();
        let source = Body::stream(Script(script.into_iter().collect()));
        Encoding::new(source, encoder(coding, None), is_prompt, charge)
    }

    fn decoded(coding: Coding, content: impl Into<Bytes>) -> Bytes {
        let headers = HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static(coding.name()))]);
        decode(&headers, content.into(), u64::MAX, &MemoryBudget::new(1 << 30)).unwrap()
    }

    async fn next(body: &mut Encoding) -> Option<Result<Frame<Bytes>, BodyError>> {
        poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
    }

    async fn next_now(body: &mut Encoding) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        poll_fn(|cx| Poll::Ready(Pin::new(&mut *body).poll_frame(cx))).await
    }

    #[tokio::test(flavor = "local")]
    async fn a_short_body_is_one_frame() {
        for coding in ALL {
            let charge = MemoryBudget::new(1 << 20).reserve(1).unwrap();
            let source = Body::full("hello hello");
            let mut body = Encoding::new(source, encoder(coding, Some(11)), false, charge);
            let frame = next(&mut body).await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(decoded(coding, frame), "hello hello");
            assert!(body.is_end_stream());
            assert!(next(&mut body).await.is_none());
        }
    }

    #[tokio::test(flavor = "local")]
    async fn an_event_leaves_at_once() {
        for coding in ALL {
            let script = [data("data: 1\n\n"), Poll::Pending, data("data: 2\n\n"), Poll::Pending, data("data: 3\n\n")];
            let mut body = encoding(coding, true, script);
            let mut got = Vec::new();
            for _ in 0..2 {
                let Poll::Ready(Some(Ok(frame))) = next_now(&mut body).await else {
                    panic!("{coding:?} holds it back")
                };
                got.extend_from_slice(frame.data_ref().unwrap());
            }
            while let Some(frame) = next(&mut body).await {
                got.extend_from_slice(frame.unwrap().data_ref().unwrap());
            }
            assert_eq!(decoded(coding, got), "data: 1\n\ndata: 2\n\ndata: 3\n\n");
        }
    }

    #[tokio::test(flavor = "local")]
    async fn what_a_silent_source_has_sent_leaves_after_a_moment() {
        for coding in ALL {
            // The pause begins again with each part.
            let script = [data("a"), Poll::Pending, data("b"), Poll::Pending, Poll::Pending, Poll::Pending];
            let mut body = encoding(coding, false, script);
            assert!(next_now(&mut body).await.is_pending());
            assert!(next_now(&mut body).await.is_pending());
            let frame = tokio::time::timeout(Duration::from_secs(5), next(&mut body)).await.expect("it leaves");
            assert!(frame.unwrap().unwrap().data_ref().is_some_and(|data| !data.is_empty()));
        }
    }

    #[tokio::test(flavor = "local")]
    async fn others_get_their_turn_and_little_is_held() {
        for coding in ALL {
            let content: Vec<u8> = (0..1_000_000_u32).flat_map(|at| (at / 7).to_le_bytes()).collect();
            let mut body = encoding(coding, false, [data(content.clone())]);
            let (mut got, mut turns) = (Vec::new(), 0);
            loop {
                match next_now(&mut body).await {
                    Poll::Pending => turns += 1,
                    Poll::Ready(Some(frame)) => {
                        let frame = frame.unwrap().into_data().unwrap();
                        assert!(frame.len() <= 512 << 10, "{coding:?} {}", frame.len());
                        got.extend_from_slice(&frame);
                    }
                    Poll::Ready(None) => break,
                }
            }
            assert!(turns > 1, "{coding:?} {turns}");
            assert_eq!(decoded(coding, got), content);
        }
    }

    #[tokio::test(flavor = "local")]
    async fn trailers_stay_but_for_digests_and_errors_pass() {
        let trailers: HeaderMap = [("x-sum", "1"), ("content-digest", "sha-256=:AA==:"), ("digest", "x")]
            .into_iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let script = [data("hello"), Poll::Ready(Some(Ok(Frame::trailers(trailers))))];
        let mut body = encoding(Coding::Gzip, false, script);
        assert_eq!(decoded(Coding::Gzip, next(&mut body).await.unwrap().unwrap().into_data().unwrap()), "hello");
        assert!(!body.is_end_stream());
        let trailers = next(&mut body).await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(trailers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-sum"]);
        assert!(next(&mut body).await.is_none());

        let script = [data("hello"), Poll::Ready(Some(Err(BodyError::UpstreamAborted("gone".into()))))];
        let mut body = encoding(Coding::Gzip, false, script);
        assert!(matches!(next(&mut body).await, Some(Err(BodyError::UpstreamAborted(_)))));
    }
}
