//! The content of a stored response: shared pieces of memory that hits send as they are.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

/// Complete content. Clones share it.
#[derive(Debug, Clone)]
pub struct Body {
    pieces: Pieces,
    len: u64,
}

/// Most bodies are one piece, and need no list.
#[derive(Debug, Clone)]
enum Pieces {
    One(Bytes),
    Many(Arc<[Bytes]>),
}

impl Body {
    pub fn pieces(&self) -> &[Bytes] {
        match &self.pieces {
            Pieces::One(piece) => std::slice::from_ref(piece),
            Pieces::Many(pieces) => pieces,
        }
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pieces of a part of it, without a copy. What lies beyond its end is left out.
    pub fn slice(&self, part: Range<u64>) -> impl Iterator<Item = Bytes> {
        let mut start = 0;
        self.pieces().iter().filter_map(move |piece| {
            let end = start + piece.len() as u64;
            let (from, to) = (part.start.max(start), part.end.min(end));
            let inner = (from < to).then(|| piece.slice((from - start) as usize..(to - start) as usize));
            start = end;
            inner
        })
    }

    pub(crate) fn heap_size(&self) -> usize {
        let list = match &self.pieces {
            Pieces::One(_) => 0,
            Pieces::Many(pieces) => size_of_val(&**pieces) + 2 * size_of::<usize>(),
        };
        self.pieces().iter().map(Bytes::len).sum::<usize>() + list
    }
}

/// Pieces that grow to this size and no more.
const PIECE: usize = 64 * 1024;

/// Collects content that comes in parts. It copies them: parts of buffers of a connection would hold the whole buffers in memory, for as
/// long as the response is stored.
#[derive(Debug)]
pub struct BodyBuilder {
    done: Vec<Bytes>,
    open: Vec<u8>,
    len: u64,
    most: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the content is larger than the cache stores")]
pub struct BodyTooLarge;

impl BodyBuilder {
    /// `expected` is the announced length, if there is one; `most` the length that is stored at most.
    pub fn new(expected: Option<u64>, most: u64) -> Result<BodyBuilder, BodyTooLarge> {
        if expected.is_some_and(|expected| expected > most) {
            return Err(BodyTooLarge);
        }
        Ok(BodyBuilder { done: Vec::new(), open: Vec::with_capacity(Self::room(expected.unwrap_or(0))), len: 0, most })
    }

    fn room(expected: u64) -> usize {
        usize::try_from(expected).map_or(PIECE, |expected| expected.min(PIECE))
    }

    /// After an error the builder is of no use.
    pub fn push(&mut self, mut part: &[u8]) -> Result<(), BodyTooLarge> {
        self.len += part.len() as u64;
        if self.len > self.most {
            return Err(BodyTooLarge);
        }
        while !part.is_empty() {
            let (now, later) = part.split_at(part.len().min(PIECE - self.open.len()));
            let wanted = self.open.len() + now.len();
            if wanted > self.open.capacity() {
                // A piece keeps all its capacity, so that this never passes a piece.
                let capacity = wanted.max(2 * self.open.capacity()).min(PIECE);
                self.open.reserve_exact(capacity - self.open.len());
            }
            self.open.extend_from_slice(now);
            part = later;
            if self.open.len() == PIECE {
                self.done.push(std::mem::take(&mut self.open).into());
            }
        }
        Ok(())
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The memory that it takes is that of the content.
    pub fn finish(self) -> Body {
        let BodyBuilder { mut done, open, len, .. } = self;
        let last = Bytes::from(open.into_boxed_slice());
        let pieces = match done.is_empty() {
            true => Pieces::One(last),
            false => {
                done.extend((!last.is_empty()).then_some(last));
                Pieces::Many(done.into())
            }
        };
        Body { pieces, len }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(length: usize, step: usize) -> Body {
        let content: Vec<u8> = (0..length).map(|at| at as u8).collect();
        let mut builder = BodyBuilder::new(None, u64::MAX).unwrap();
        content.chunks(step).for_each(|part| builder.push(part).unwrap());
        builder.finish()
    }

    fn joined(parts: impl Iterator<Item = Bytes>) -> Vec<u8> {
        parts.flat_map(|part| part.to_vec()).collect()
    }

    #[test]
    fn content_comes_back_whole_and_in_parts() {
        for (length, step) in [(0, 1), (1, 1), (1000, 7), (PIECE, 1000), (PIECE + 1, PIECE), (3 * PIECE + 5, 10_000)] {
            let body = body(length, step);
            let content: Vec<u8> = (0..length).map(|at| at as u8).collect();
            assert_eq!(body.len(), length as u64);
            assert_eq!(joined(body.pieces().iter().cloned()), content);
            let all = length as u64;
            for part in [0..all, 0..0, 1..all, all / 2..all, all / 3..all / 2, 0..u64::MAX, all..u64::MAX] {
                let expected = &content[(part.start as usize).min(length)
                    ..(part.end.min(all) as usize).max(part.start as usize).min(length)];
                assert_eq!(joined(body.slice(part.clone())), expected, "{length} {part:?}");
            }
        }
    }

    #[test]
    fn pieces_take_no_more_memory_than_their_content() {
        for step in [1, 1000, 9000, PIECE] {
            let mut builder = BodyBuilder::new(None, u64::MAX).unwrap();
            for _ in 0..2 * PIECE / step + 1 {
                builder.push(&vec![7; step]).unwrap();
                assert!(builder.open.capacity() <= PIECE, "{step}: {}", builder.open.capacity());
            }
        }
    }

    #[test]
    fn content_beyond_the_bound_is_refused() {
        assert_eq!(BodyBuilder::new(Some(11), 10).err(), Some(BodyTooLarge));
        let mut builder = BodyBuilder::new(None, 10).unwrap();
        assert_eq!(builder.push(&[0; 10]), Ok(()));
        assert_eq!(builder.push(&[0; 1]), Err(BodyTooLarge));
        // An announced length takes no more memory than a piece before the content is there.
        assert!(BodyBuilder::new(Some(u64::MAX), u64::MAX).unwrap().open.capacity() <= PIECE);
    }
}
