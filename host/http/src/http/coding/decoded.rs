//! A body whose codings are taken off while it streams through. It reads no faster than it is read, and hands on what it has as soon as it has it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame};

use super::decoder::Decoder;
use super::{Coding, CodingError};
use crate::http::body::{Body, BodyError, MemoryBudget, Reservation};

/// The most that comes out at once.
const STEP: usize = 16 << 10;
/// So many parts in a row may hold nothing before others have their turn.
const TURN: usize = 64;

/// Takes `codings` off a body, in the order in which they were put on.
pub fn decoded(body: Body, codings: &[Coding], budget: &MemoryBudget) -> Body {
    codings.iter().rev().fold(body, |body, coding| {
        Body::stream(Decoding {
            source: body,
            coding: *coding,
            decoder: None,
            rest: Bytes::new(),
            out: Box::default(),
            may_yield: false,
            source_ended: false,
            trailers: None,
            ended: false,
            budget: budget.clone(),
        })
    })
}

struct Decoding {
    source: Body,
    coding: Coding,
    /// Made when its first bytes are here, with the charge for its memory.
    decoder: Option<(Decoder, Reservation)>,
    /// What was read of the source and is not decoded yet.
    rest: Bytes,
    out: Box<[u8]>,
    /// Something may come out of what is here. zstd takes it for an error to be asked again and again for nothing.
    may_yield: bool,
    source_ended: bool,
    trailers: Option<HeaderMap>,
    ended: bool,
    budget: MemoryBudget,
}

impl Decoding {
    /// What comes out of the bytes that are here. Empty: more of them are needed.
    fn decode(&mut self) -> Result<Bytes, BodyError> {
        if !self.may_yield {
            return Ok(Bytes::new());
        }
        let (decoder, _) = match &mut self.decoder {
            Some(decoder) => decoder,
            None if self.rest.len() < Decoder::first_bytes(self.coding) && !self.source_ended => {
                return Ok(Bytes::new());
            }
            None => {
                let (decoder, bytes) =
                    Decoder::new(self.coding, &self.rest).map_err(|error| broken(self.coding, error))?;
                self.out = vec![0; STEP].into();
                self.decoder.insert((decoder, self.budget.reserve(bytes + STEP)?))
            }
        };
        let mut filled = 0;
        while filled < STEP {
            let (read, written) =
                decoder.step(&self.rest, &mut self.out[filled..]).map_err(|error| broken(self.coding, error))?;
            self.rest.advance(read);
            filled += written;
            if read == 0 && written == 0 {
                self.may_yield = false;
                break;
            }
        }
        Ok(Bytes::copy_from_slice(&self.out[..filled]))
    }

    fn take(&mut self, data: Bytes) {
        if self.rest.is_empty() {
            self.rest = data;
        } else {
            let mut joined = BytesMut::with_capacity(self.rest.len() + data.len());
            joined.extend_from_slice(&self.rest);
            joined.extend_from_slice(&data);
            self.rest = joined.freeze();
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut turns = 0;
        loop {
            if self.ended {
                return Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
            }
            let data = self.decode()?;
            if !data.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            if self.source_ended {
                if self.decoder.as_ref().is_some_and(|(decoder, _)| !decoder.may_end()) || !self.rest.is_empty() {
                    let error = broken(self.coding, io::ErrorKind::UnexpectedEof.into());
                    return Poll::Ready(Some(Err(error)));
                }
                self.ended = true;
                continue;
            }
            turns += 1;
            if turns > TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let polled = ready!(Pin::new(&mut self.source).poll_frame(cx));
            self.may_yield = true;
            match polled {
                Some(frame) => match frame?.into_data() {
                    Ok(data) => self.take(data),
                    Err(frame) => {
                        self.trailers = frame.into_trailers().ok();
                        self.source_ended = true;
                    }
                },
                None => self.source_ended = true,
            }
        }
    }
}

fn broken(coding: Coding, source: io::Error) -> BodyError {
    BodyError::Coding(Box::new(CodingError::Malformed { coding, source }))
}

impl HttpBody for Decoding {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.get_mut().poll(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.ended && self.trailers.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::future::poll_fn;
    use std::io::Write;

    use http::HeaderValue;

    use super::*;
    use crate::http::coding::{Encoder, Level, Until};

    /// Sends these parts, one for each poll.
    struct Parts(VecDeque<Bytes>, Option<HeaderMap>);

    impl HttpBody for Parts {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            let data = self.0.pop_front().map(|data| Ok(Frame::data(data)));
            Poll::Ready(data.or_else(|| self.1.take().map(|trailers| Ok(Frame::trailers(trailers)))))
        }
    }

    async fn read(mut body: Body) -> Result<(Vec<Bytes>, bool), BodyError> {
        let (mut data, mut has_trailers) = (Vec::new(), false);
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            match frame?.into_data() {
                Ok(part) => data.push(part),
                Err(_) => has_trailers = true,
            }
        }
        Ok((data, has_trailers))
    }

    fn coded(coding: Coding, content: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        if coding == Coding::Deflate {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(content).unwrap();
            return encoder.finish().unwrap();
        }
        Encoder::new(Level { coding, level: 1 }, None).unwrap().encode(content, Until::Finished, &mut out).unwrap();
        out
    }

    fn parts(bytes: &[u8], size: usize) -> Body {
        let trailers = HeaderMap::from_iter([(http::header::VARY, HeaderValue::from_static("x"))]);
        Body::stream(Parts(bytes.chunks(size).map(Bytes::copy_from_slice).collect(), Some(trailers)))
    }

    const ALL: [Coding; 4] = [Coding::Gzip, Coding::Deflate, Coding::Brotli, Coding::Zstd];

    #[tokio::test(flavor = "local")]
    async fn every_coding_is_taken_off_wherever_it_is_split() {
        let content: Vec<u8> = (0..100_000_u32).flat_map(|n| n.to_le_bytes()).collect();
        let budget = MemoryBudget::new(64 << 20);
        for coding in ALL {
            let whole = coded(coding, &content);
            for size in [1, 7, 16 << 10, 1 << 20] {
                let body = decoded(parts(&whole, size), &[coding], &budget);
                let (data, has_trailers) = read(body).await.unwrap();
                assert!(data.concat() == content && has_trailers, "{coding:?} in parts of {size}");
                assert!(data.iter().all(|part| part.len() <= STEP));
            }
            let cut = decoded(parts(&whole[..whole.len() - 3], 1000), &[coding], &budget);
            assert!(matches!(read(cut).await, Err(BodyError::Coding(_))), "{coding:?} cut");
            let empty = decoded(Body::stream(Parts(VecDeque::new(), None)), &[coding], &budget);
            assert_eq!(read(empty).await.unwrap(), (vec![], false), "{coding:?}");
        }
        let stacked = coded(Coding::Brotli, &coded(Coding::Gzip, &content));
        let body = decoded(parts(&stacked, 100), &[Coding::Gzip, Coding::Brotli], &budget);
        assert!(read(body).await.unwrap().0.concat() == content);
        let members = [coded(Coding::Gzip, &content[..10]), coded(Coding::Gzip, &content[10..]), vec![0; 9]].concat();
        assert!(read(decoded(parts(&members, 11), &[Coding::Gzip], &budget)).await.unwrap().0.concat() == content);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test(flavor = "local")]
    async fn what_was_flushed_comes_out_at_once() {
        let budget = MemoryBudget::new(64 << 20);
        for coding in [Coding::Gzip, Coding::Brotli, Coding::Zstd] {
            let mut encoder = Encoder::new(Level { coding, level: 1 }, None).unwrap();
            let mut flushed = Vec::new();
            encoder.encode(b"data: one\n\n", Until::Flushed, &mut flushed).unwrap();
            struct Stuck(Option<Bytes>);
            impl HttpBody for Stuck {
                type Data = Bytes;
                type Error = BodyError;
                fn poll_frame(
                    mut self: Pin<&mut Self>,
                    _: &mut Context<'_>,
                ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
                    self.0.take().map_or(Poll::Pending, |data| Poll::Ready(Some(Ok(Frame::data(data)))))
                }
            }
            let mut body = decoded(Body::stream(Stuck(Some(flushed.into()))), &[coding], &budget);
            let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), "data: one\n\n", "{coding:?}");
        }
    }

    #[tokio::test(flavor = "local")]
    async fn a_bomb_comes_out_in_small_steps() {
        let bomb = vec![0; 64 << 20];
        let budget = MemoryBudget::new(64 << 20);
        for coding in ALL {
            let mut body = decoded(Body::full(coded(coding, &bomb)), &[coding], &budget);
            for _ in 0..10 {
                let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.unwrap().unwrap();
                assert!(frame.into_data().unwrap().len() <= STEP, "{coding:?}");
            }
        }
        let small = MemoryBudget::new(10_000);
        let body = decoded(Body::full(coded(Coding::Gzip, b"hello")), &[Coding::Gzip], &small);
        assert!(matches!(read(body).await, Err(BodyError::BudgetExhausted(_))));
    }
}
