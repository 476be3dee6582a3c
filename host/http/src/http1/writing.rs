//! A body as it is written to a connection, by either side: framed as its head has announced.

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

use super::io::Transport;
use super::{Framing, chunk_head, last_chunk};

/// A body whose length is not what its head has announced: the message can't be ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body is not as long as its head says")]
pub struct WrongLength;

/// What is still to be written of a body.
#[derive(Debug)]
pub struct Writing {
    kind: Kind,
    ended: bool,
}

#[derive(Debug)]
enum Kind {
    /// Nothing may follow the head.
    Bodiless,
    Exact(u64),
    Chunked,
    UntilClose,
}

impl Writing {
    /// For a body that was announced by `framing`.
    pub fn new(framing: Framing) -> Self {
        let kind = match framing {
            Framing::None | Framing::Described | Framing::Upgrade => Kind::Bodiless,
            Framing::Length(length) => Kind::Exact(length),
            Framing::Chunked => Kind::Chunked,
            Framing::Close => Kind::UntilClose,
        };
        let ended = matches!(kind, Kind::Bodiless | Kind::Exact(0));
        Writing { kind, ended }
    }

    /// Whether the last byte was added.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether a body is sent at all.
    pub fn has_body(&self) -> bool {
        !matches!(self.kind, Kind::Bodiless)
    }

    /// Whether the next thing to be written is a chunk.
    pub fn is_at_chunk(&self) -> bool {
        matches!(self.kind, Kind::Chunked) && !self.ended
    }

    /// Adds a frame. Only while `transport` is not full.
    pub fn frame(&mut self, transport: &mut Transport, frame: Frame<Bytes>) -> Result<(), WrongLength> {
        match frame.into_data() {
            Ok(data) if data.is_empty() => Ok(()),
            Ok(data) => self.data(transport, data),
            Err(frame) => match frame.into_trailers() {
                Ok(trailers) => self.end(transport, Some(&trailers)),
                Err(_) => Ok(()),
            },
        }
    }

    fn data(&mut self, transport: &mut Transport, data: Bytes) -> Result<(), WrongLength> {
        match &mut self.kind {
            Kind::Bodiless => return Err(WrongLength),
            Kind::Exact(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(WrongLength)?;
                self.ended = *left == 0;
                transport.push(data, b"");
            }
            Kind::Chunked => {
                chunk_head(transport.out(), data.len());
                transport.push(data, b"\r\n");
            }
            Kind::UntilClose => transport.push(data, b""),
        }
        Ok(())
    }

    /// Adds the end. Only while `transport` is not full.
    pub fn end(&mut self, transport: &mut Transport, trailers: Option<&HeaderMap>) -> Result<(), WrongLength> {
        if std::mem::replace(&mut self.ended, true) {
            return Ok(());
        }
        match self.kind {
            // What was announced has not come.
            Kind::Exact(_) => Err(WrongLength),
            Kind::Chunked => {
                last_chunk(transport.out(), trailers);
                Ok(())
            }
            Kind::Bodiless | Kind::UntilClose => Ok(()),
        }
    }
}
