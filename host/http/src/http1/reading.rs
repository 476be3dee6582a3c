//! A body as it is read from a connection, by either side.

use bytes::{Bytes, BytesMut};
use http_body::SizeHint;

use super::{ChunkError, Chunked, Length, Limits, Message, Piece};

/// How much of a body is still to be read.
#[derive(Debug, Default)]
pub(super) enum Reading {
    #[default]
    Done,
    Exact(u64),
    Chunked(Box<Chunked>),
    UntilClose,
}

impl Reading {
    pub(super) fn new(length: Length, limits: Limits, message: Message) -> Self {
        match length {
            Length::Exact(0) => Reading::Done,
            Length::Exact(length) => Reading::Exact(length),
            Length::Chunked => Reading::Chunked(Box::new(Chunked::new(limits, message))),
            Length::UntilClose => Reading::UntilClose,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self, Reading::Done)
    }

    /// The next part that was received. `None`: more has to come. After [`Piece::End`] the body is done.
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Piece>, ChunkError> {
        let piece = match self {
            Reading::Done => return Ok(Some(Piece::End(None))),
            Reading::Exact(_) | Reading::UntilClose if buffer.is_empty() => return Ok(None),
            Reading::Exact(left) => {
                let data = match usize::try_from(*left) {
                    Ok(left) if left < buffer.len() => buffer.split_to(left),
                    _ => buffer.split(),
                };
                *left -= data.len() as u64;
                if *left == 0 {
                    *self = Reading::Done;
                }
                Piece::Data(data.freeze())
            }
            Reading::UntilClose => Piece::Data(buffer.split().freeze()),
            Reading::Chunked(chunked) => match chunked.next(buffer)? {
                Some(Piece::End(trailers)) => {
                    *self = Reading::Done;
                    Piece::End(trailers)
                }
                other => return Ok(other),
            },
        };
        Ok(Some(piece))
    }

    /// The whole body, if its length was told and all of it is here.
    pub(super) fn whole(&mut self, buffer: &mut BytesMut) -> Option<Bytes> {
        let Reading::Exact(length) = self else { return None };
        let length = usize::try_from(*length).ok().filter(|length| *length <= buffer.len())?;
        *self = Reading::Done;
        Some(buffer.split_to(length).freeze())
    }

    /// What there is with the head: the whole body if its length was told and all of it is here, or the first chunk. A body that is
    /// malformed from the start is found before its head is passed on.
    pub(super) fn first(&mut self, buffer: &mut BytesMut) -> Result<Option<Piece>, ChunkError> {
        match self {
            Reading::Chunked(_) => self.next(buffer),
            Reading::Done | Reading::Exact(_) | Reading::UntilClose => Ok(self.whole(buffer).map(Piece::Data)),
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Reading::Done => SizeHint::with_exact(0),
            Reading::Exact(left) => SizeHint::with_exact(*left),
            Reading::Chunked(_) | Reading::UntilClose => SizeHint::default(),
        }
    }
}
