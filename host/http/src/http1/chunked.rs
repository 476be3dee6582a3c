//! The chunked coding (RFC 9112 §7.1), read.

use bytes::{Buf, Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName};

use super::lines::{Tolerance, find_end};
use super::{ChunkError, HeadError, Limits, fields};
use crate::http::headers::{CREDENTIALS, is_forbidden_in_trailers, is_framing};

/// Digits of a size: those of 64 bits. More could only be zeros in front.
const DIGITS: usize = 16;

/// Bytes of the extensions of one chunk.
const EXTENSION: usize = 256;

/// Bytes of all extensions of a body. Only attackers use them, to make a small body expensive.
const EXTENSIONS: usize = 4096;

/// Reads a chunked body piece by piece.
#[derive(Debug)]
pub struct Chunked {
    limits: Limits,
    message: Message,
    state: State,
    /// Bytes of extensions that may still come.
    extensions: usize,
}

/// What is expected next.
#[derive(Debug, Clone, Copy)]
enum State {
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    End,
}

/// The direction of a message. Servers are trusted more than clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    Request,
    Response,
}

/// A part of a chunked body.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// As much of the current chunk as is there, never empty.
    Data(Bytes),
    /// The body is over; the trailers that a recipient may see.
    End(Option<HeaderMap>),
}

impl Chunked {
    /// A body that has not begun. The limits are those of the trailer section. In a request, trailers that frame, route or
    /// authenticate are refused, in a response they are dropped.
    pub fn new(limits: Limits, message: Message) -> Chunked {
        Chunked { limits, message, state: State::Size, extensions: EXTENSIONS }
    }

    /// The next piece. `None`: more bytes are needed, or [`Piece::End`] was given already. An error stays.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Piece>, ChunkError> {
        loop {
            match self.state {
                State::Size => {
                    let Some(line) = size_line(buffer, self.message)? else {
                        return Ok(None);
                    };
                    self.extensions = self
                        .extensions
                        .checked_sub(line.extensions)
                        .ok_or(ChunkError::Malformed("the chunk extensions are larger than the limit"))?;
                    buffer.advance(line.end);
                    self.state = if line.size == 0 { State::Trailers } else { State::Data(line.size) };
                }
                State::Data(left) => {
                    if buffer.is_empty() {
                        return Ok(None);
                    }
                    let there = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
                    let data = buffer.split_to(there).freeze();
                    let left = left - there as u64;
                    self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                    return Ok(Some(Piece::Data(data)));
                }
                State::DataEnd => match **buffer {
                    [] | [b'\r'] => return Ok(None),
                    [b'\r', b'\n', ..] => {
                        buffer.advance(2);
                        self.state = State::Size;
                    }
                    _ => return Err(ChunkError::Malformed("chunk data that does not end where its size says")),
                },
                State::Trailers => {
                    let section = find_end(buffer, 0, self.limits, Tolerance::default()).map_err(trailer_error)?;
                    let Some(section) = section else {
                        return Ok(None);
                    };
                    let trailers = self.trailers(buffer.get(..section.end).unwrap_or_default(), section.fields)?;
                    buffer.advance(section.end);
                    self.state = State::End;
                    return Ok(Some(Piece::End(trailers)));
                }
                State::End => return Ok(None),
            }
        }
    }

    fn trailers(&self, section: &[u8], count: usize) -> Result<Option<HeaderMap>, ChunkError> {
        if count == 0 {
            return Ok(None);
        }
        let mut parsed = vec![httparse::EMPTY_HEADER; count];
        let Ok(httparse::Status::Complete((_, parsed))) = httparse::parse_headers(section, &mut parsed) else {
            return Err(trailer_error(fields::explain(section)));
        };
        let mut trailers = fields::map(count).map_err(trailer_error)?;
        for field in parsed {
            let name = fields::name(field).map_err(trailer_error)?;
            let value = fields::value(Bytes::copy_from_slice(field.value)).map_err(trailer_error)?;
            if self.message == Message::Request && is_dangerous(&name) {
                return Err(ChunkError::ForbiddenTrailer(name));
            }
            if !is_forbidden_in_trailers(&name) {
                fields::append(&mut trailers, name, value).map_err(trailer_error)?;
            }
        }
        Ok((!trailers.is_empty()).then_some(trailers))
    }
}

/// RFC 9110 §6.5.1: what would change how a request is framed, routed or authorised. No honest client sends these behind a body;
/// a server that merges trailers into the header section would act on them.
fn is_dangerous(name: &HeaderName) -> bool {
    is_framing(name) || CREDENTIALS.contains(name)
}

fn trailer_error(error: HeadError) -> ChunkError {
    match error {
        HeadError::Malformed(what) => ChunkError::Malformed(what),
        HeadError::TooManyFields => ChunkError::TooManyTrailers,
        HeadError::TooLarge | HeadError::TargetTooLong | HeadError::UnknownCoding | HeadError::Version => {
            ChunkError::TrailersTooLarge
        }
    }
}

/// A line with the size of a chunk.
struct SizeLine {
    size: u64,
    /// Bytes of its extensions.
    extensions: usize,
    /// Behind the line.
    end: usize,
}

/// RFC 9112 §7.1: `1*HEXDIG`, extensions from the first semicolon on, CRLF. White space behind the size (§7.1.1) is refused in
/// requests: parsers disagree on what stands behind it. In responses it is skipped: old servers write a size over blanks.
fn size_line(bytes: &[u8], message: Message) -> Result<Option<SizeLine>, ChunkError> {
    let mut size: u64 = 0;
    let mut digits = 0;
    for byte in bytes {
        let Some(digit) = (*byte as char).to_digit(16) else {
            break;
        };
        if digits == DIGITS {
            return Err(ChunkError::Malformed("a chunk size that is too large"));
        }
        // 16 digits fill the 64 bits and no more.
        size = size << 4 | u64::from(digit);
        digits += 1;
    }
    let rest = bytes.get(digits..).unwrap_or_default();
    if digits == 0 && !rest.is_empty() {
        return Err(ChunkError::Malformed("a chunk size that is not a hexadecimal number"));
    }
    let blanks = match message {
        Message::Request => 0,
        Message::Response => rest.iter().take(EXTENSION + 1).take_while(|byte| matches!(byte, b' ' | b'\t')).count(),
    };
    if blanks > EXTENSION {
        return Err(ChunkError::Malformed("blanks behind a chunk size that are longer than the limit"));
    }
    let rest = rest.get(blanks..).unwrap_or_default();
    let extensions = match rest {
        [] | [b'\r'] => return Ok(None),
        [b'\r', b'\n', ..] => 0,
        [b';', ..] => match extension(rest)? {
            Some(length) => length,
            None => return Ok(None),
        },
        _ => return Err(ChunkError::Malformed("a chunk size that is not a hexadecimal number")),
    };
    Ok(Some(SizeLine { size, extensions, end: digits + blanks + extensions + 2 }))
}

/// The length of the extensions that `bytes` starts with, without the CRLF behind them.
fn extension(bytes: &[u8]) -> Result<Option<usize>, ChunkError> {
    let end = bytes.iter().take(EXTENSION + 1).position(|byte| byte.is_ascii_control() && *byte != b'\t');
    if end.is_none() && bytes.len() > EXTENSION {
        return Err(ChunkError::Malformed("a chunk extension is larger than the limit"));
    }
    match end.and_then(|end| bytes.get(end..)) {
        None | Some([b'\r']) => Ok(None),
        Some([b'\r', b'\n', ..]) => Ok(end),
        Some(_) => Err(ChunkError::Malformed("a control character in a chunk extension")),
    }
}
