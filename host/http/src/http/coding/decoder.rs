//! Takes a coding off content that comes in parts. However much a part holds, it comes out in steps of a bounded size.

use std::io;

use brotli::enc::StandardAlloc;
use brotli::{BrotliDecompressStream, BrotliResult, BrotliState};
use flate2::{Decompress, FlushDecompress, Status};
use zstd::zstd_safe::{self, DCtx, DParameter, InBuffer, OutBuffer};

use super::{Coding, ZSTD_WINDOW, is_zlib};

/// zlib's largest window: what a sender may use (RFC 1952).
const GZIP_WINDOW: u8 = 15;
/// What zlib takes: its window and its tables.
const GZIP_BYTES: usize = 48 << 10;
/// The least window that zstd's frames are given room for: the frames of one content may have different ones.
const LEAST_ZSTD_WINDOW: u32 = 20;
/// What zstd and brotli take beside the window.
const TABLE_BYTES: usize = 256 << 10;

/// One coding of one content.
pub(super) struct Decoder {
    state: State,
    /// Whether the content may end here: before its first byte, and behind a member or frame.
    may_end: bool,
}

enum State {
    Gzip(Decompress),
    Deflate(Decompress),
    Zstd(DCtx<'static>),
    Brotli(Box<BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>>),
}

impl Decoder {
    /// How many bytes of the content [`Self::new`] wants to see, if it has so many.
    pub(super) fn first_bytes(coding: Coding) -> usize {
        match coding {
            Coding::Gzip => 0,
            Coding::Brotli => 1,
            Coding::Deflate => 2,
            Coding::Zstd => 14,
        }
    }

    /// A decoder of content that begins with these bytes, and about the memory that it takes.
    pub(super) fn new(coding: Coding, first: &[u8]) -> io::Result<(Decoder, usize)> {
        let (state, bytes) = match coding {
            Coding::Gzip => (State::Gzip(Decompress::new_gzip(GZIP_WINDOW)), GZIP_BYTES),
            // RFC 9110 §8.4.1.2: deflate is the zlib format, and some send the bare stream.
            Coding::Deflate => (State::Deflate(Decompress::new(is_zlib(first))), GZIP_BYTES),
            Coding::Brotli => {
                let window = brotli_window(first).ok_or_else(|| invalid("a window that is too large"))?;
                let [one, two, three] = [(); 3].map(|()| StandardAlloc::default());
                (State::Brotli(Box::new(BrotliState::new(one, two, three))), (1 << window) + TABLE_BYTES)
            }
            Coding::Zstd => {
                let window = zstd_window(first).max(LEAST_ZSTD_WINDOW);
                if window > ZSTD_WINDOW {
                    return Err(invalid("a window that is too large"));
                }
                let mut context = DCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?;
                context.set_parameter(DParameter::WindowLogMax(window)).map_err(of_zstd)?;
                (State::Zstd(context), (1 << window) + TABLE_BYTES)
            }
        };
        Ok((Decoder { state, may_end: true }, bytes))
    }

    /// Whether the content may end here.
    pub(super) fn may_end(&self) -> bool {
        self.may_end
    }

    /// Takes some of `input` and fills some of `out`; answers how much of each. Nothing of either: it needs more input.
    pub(super) fn step(&mut self, input: &[u8], out: &mut [u8]) -> io::Result<(usize, usize)> {
        let is_between = self.may_end;
        let (read, written, has_ended) = match &mut self.state {
            // Senders pad with zeros, and nothing follows the end of a content that has no members.
            State::Gzip(context) if is_between && context.total_in() > 0 => {
                if input.first() != Some(&0x1f) {
                    return Ok((input.len(), 0));
                }
                // RFC 1952 §2.2: members follow each other.
                *context = Decompress::new_gzip(GZIP_WINDOW);
                inflate(context, input, out)?
            }
            State::Deflate(context) if is_between && context.total_in() > 0 => return Ok((input.len(), 0)),
            State::Gzip(context) | State::Deflate(context) => inflate(context, input, out)?,
            State::Zstd(context) => {
                let mut input = InBuffer::around(input);
                let mut out = OutBuffer::around(out);
                let left = context.decompress_stream(&mut out, &mut input).map_err(of_zstd)?;
                (input.pos(), out.pos(), left == 0)
            }
            State::Brotli(state) => unbrotli(state, input, out)?,
        };
        if read > 0 || written > 0 {
            self.may_end = has_ended;
        }
        Ok((read, written))
    }
}

fn inflate(context: &mut Decompress, input: &[u8], out: &mut [u8]) -> io::Result<(usize, usize, bool)> {
    let (before_in, before_out) = (context.total_in(), context.total_out());
    let status = context.decompress(input, out, FlushDecompress::None)?;
    let read = (context.total_in() - before_in) as usize;
    let written = (context.total_out() - before_out) as usize;
    Ok((read, written, status == Status::StreamEnd))
}

fn unbrotli(
    state: &mut BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    input: &[u8],
    out: &mut [u8],
) -> io::Result<(usize, usize, bool)> {
    let (mut left, mut read) = (input.len(), 0);
    let (mut room, mut written) = (out.len(), 0);
    let result = BrotliDecompressStream(&mut left, &mut read, input, &mut room, &mut written, out, &mut 0, state);
    match result {
        BrotliResult::ResultSuccess if left > 0 && read == 0 && written == 0 => Err(invalid("bytes behind its end")),
        BrotliResult::ResultSuccess => Ok((read, written, true)),
        BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => Ok((read, written, false)),
        BrotliResult::ResultFailure => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The window of a stream of brotli, as a power of two (RFC 7932 §9.1). None for a larger one than that allows.
fn brotli_window(first: &[u8]) -> Option<u32> {
    let Some(&byte) = first.first() else { return Some(16) };
    Some(match (byte & 1, byte >> 1 & 7, byte >> 4 & 7) {
        (0, _, _) => 16,
        (_, 0, 0) => 17,
        (_, 0, 1) => return None,
        (_, 0, n) => 8 + u32::from(n),
        (_, n, _) => 17 + u32::from(n),
    })
}

/// The window of the first frame of zstd, as a power of two (RFC 8878 §3.1.1.1). 0 where these are no bytes of a frame.
fn zstd_window(first: &[u8]) -> u32 {
    let Some([descriptor, rest @ ..]) = first.strip_prefix(b"\x28\xb5\x2f\xfd") else { return 0 };
    if descriptor & 0x20 == 0 {
        let window = rest.first().copied().unwrap_or_default();
        let has_part = window & 7 != 0;
        return 10 + u32::from(window >> 3) + u32::from(has_part);
    }
    // The content is its window.
    let skipped = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let bytes = 1 << (descriptor >> 6);
    let size = rest.get(skipped..skipped + bytes).unwrap_or_default();
    let size = size.iter().rev().fold(0_u64, |size, byte| size << 8 | u64::from(*byte));
    u64::BITS - size.leading_zeros()
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn of_zstd(code: zstd_safe::ErrorCode) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, zstd_safe::get_error_name(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_read_from_the_first_bytes() {
        for window in 10..=24 {
            let mut out = Vec::new();
            let mut encoder = brotli::CompressorWriter::new(&mut out, 4096, 5, window);
            io::Write::write_all(&mut encoder, b"hello").unwrap();
            drop(encoder);
            assert_eq!(brotli_window(&out), Some(window), "{:02x}", out[0]);
        }
        assert_eq!((brotli_window(&[0x11]), brotli_window(&[])), (None, Some(16)));
        for window in [18, 21, 23] {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(window).unwrap();
            io::Write::write_all(&mut encoder, b"hello").unwrap();
            assert_eq!(zstd_window(&encoder.finish().unwrap()), window);
        }
        // The whole content is known.
        assert_eq!(zstd_window(&zstd::bulk::compress(&[1; 3000], 3).unwrap()), 12);
        assert_eq!(zstd_window(b"nonsense"), 0);
    }
}
