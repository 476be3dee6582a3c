//! Puts a coding on content that comes in parts. The algorithms are those of `flate2`, `brotli` and the zstd library; here they have one face,
//! and contexts that are used again: making one costs more than a short response.

use std::cell::RefCell;
use std::io;

use brotli::enc::StandardAlloc;
use brotli::enc::encode::{BrotliEncoderOperation, BrotliEncoderParameter, BrotliEncoderStateStruct};
use flate2::{Compress, Compression, FlushCompress, Status};
use zstd::zstd_safe::{self, CCtx, CParameter, InBuffer, OutBuffer, ResetDirective, zstd_sys};

use super::Coding;

/// The window of zstd and brotli, as a power of two. RFC 9659 allows 8 MiB, and each stream would take that memory on both sides.
const WINDOW: u32 = 18;
/// zlib's largest window, which every recipient has to support (RFC 1952).
const GZIP_WINDOW: u8 = 15;
/// The contexts of one coding that a thread keeps.
const KEPT: usize = 4;
/// The least room that an algorithm is offered.
const ROOM: usize = 4 << 10;

/// How much work is put into a coding. Each has a scale of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Level {
    pub coding: Coding,
    pub level: u32,
}

impl Level {
    /// What is worth asking for, from the fastest to the best. The levels of zstd above 19 need windows that recipients need not have.
    pub fn range(coding: Coding) -> std::ops::RangeInclusive<u32> {
        match coding {
            Coding::Gzip | Coding::Deflate => 1..=9,
            Coding::Brotli => 0..=11,
            Coding::Zstd => 1..=19,
        }
    }

    /// About the memory that an encoder takes, for content of this length or of any: windows, tables and what waits in them.
    pub fn memory(self, length: Option<u64>) -> usize {
        let whole = match self.coding {
            Coding::Gzip | Coding::Deflate => 336 << 10,
            Coding::Brotli if self.level < 5 => 1536 << 10,
            Coding::Brotli if self.level < 10 => 2560 << 10,
            Coding::Brotli => 12 << 20,
            Coding::Zstd if self.level < 4 => 2 << 20,
            Coding::Zstd => 6 << 20,
        };
        match (self.coding, length.and_then(|length| usize::try_from(length).ok())) {
            // Its tables follow the length that it is told.
            (Coding::Zstd, Some(length)) => whole.min(length.saturating_mul(36).saturating_add(256 << 10)),
            _ => whole,
        }
    }
}

/// What happens to the content that was put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Some of it may stay inside.
    Later,
    /// All of it comes out, so that a recipient can read it.
    Flushed,
    /// The content ends.
    Finished,
}

/// An algorithm failed: a bug of it or of its use here.
#[derive(Debug, thiserror::Error)]
#[error("the content could not be coded as {}", .coding.name())]
pub struct EncodeError {
    pub coding: Coding,
    #[source]
    pub source: io::Error,
}

/// One coding of one content.
pub struct Encoder {
    coding: Coding,
    state: Option<State>,
}

enum State {
    /// With its level.
    Gzip(u32, Compress),
    Zstd(CCtx<'static>),
    Brotli(Box<BrotliEncoderStateStruct<StandardAlloc>>),
}

thread_local! {
    /// Contexts of gzip with their level, and of zstd. Those of brotli can't be used again.
    static GZIP: RefCell<Vec<(u32, Compress)>> = const { RefCell::new(Vec::new()) };
    static ZSTD: RefCell<Vec<CCtx<'static>>> = const { RefCell::new(Vec::new()) };
}

impl Encoder {
    /// An encoder at this level. `length` is that of the content where it is known: what is put in has to have it.
    pub fn new(level: Level, length: Option<u64>) -> Result<Encoder, EncodeError> {
        let Level { coding, level } = level;
        let state = match coding {
            Coding::Gzip | Coding::Deflate => State::Gzip(level, gzip(level)),
            Coding::Zstd => State::Zstd(zstd(level, length).map_err(|source| EncodeError { coding, source })?),
            Coding::Brotli => State::Brotli(Box::new(brotli(level, length))),
        };
        Ok(Encoder { coding, state: Some(state) })
    }

    /// Takes all of `input` and adds what comes out of it to `out`.
    pub fn encode(&mut self, input: &[u8], until: Until, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let encoded = match &mut self.state {
            Some(State::Gzip(_, context)) => encode_gzip(context, input, until, out),
            Some(State::Zstd(context)) => encode_zstd(context, input, until, out),
            Some(State::Brotli(context)) => encode_brotli(context, input, until, out),
            None => Err(io::Error::other("the content has ended")),
        };
        if until == Until::Finished && encoded.is_ok() {
            self.give_back();
        }
        encoded.map_err(|source| EncodeError { coding: self.coding, source })
    }

    /// Keeps the context for another content.
    fn give_back(&mut self) {
        match self.state.take() {
            Some(State::Gzip(level, context)) => GZIP.with_borrow_mut(|kept| {
                // The oldest goes: its level may be one of the past.
                if kept.len() == KEPT {
                    kept.remove(0);
                }
                kept.push((level, context));
            }),
            Some(State::Zstd(context)) => ZSTD.with_borrow_mut(|kept| {
                if kept.len() < KEPT {
                    kept.push(context);
                }
            }),
            Some(State::Brotli(_)) | None => {}
        }
    }
}

fn gzip(level: u32) -> Compress {
    let kept = GZIP.with_borrow_mut(|kept| {
        let at = kept.iter().rposition(|(of, _)| *of == level)?;
        Some(kept.remove(at).1)
    });
    match kept {
        Some(mut context) => {
            context.reset();
            context
        }
        None => Compress::new_gzip(Compression::new(level), GZIP_WINDOW),
    }
}

fn zstd(level: u32, length: Option<u64>) -> io::Result<CCtx<'static>> {
    let kept = ZSTD.with_borrow_mut(Vec::pop);
    let mut context = kept.or_else(CCtx::try_create).ok_or(io::ErrorKind::OutOfMemory)?;
    context.reset(ResetDirective::SessionAndParameters).map_err(of_zstd)?;
    let level = i32::try_from(level).unwrap_or(i32::MAX);
    context.set_parameter(CParameter::CompressionLevel(level)).map_err(of_zstd)?;
    context.set_parameter(CParameter::WindowLog(WINDOW)).map_err(of_zstd)?;
    // Else the tables of high levels are made for gigabytes.
    context.set_parameter(CParameter::SrcSizeHint(1 << WINDOW)).map_err(of_zstd)?;
    context.set_pledged_src_size(length).map_err(of_zstd)?;
    Ok(context)
}

fn of_zstd(code: zstd_safe::ErrorCode) -> io::Error {
    io::Error::other(zstd_safe::get_error_name(code))
}

fn brotli(level: u32, length: Option<u64>) -> BrotliEncoderStateStruct<StandardAlloc> {
    let mut context = BrotliEncoderStateStruct::new(StandardAlloc::default());
    context.set_parameter(BrotliEncoderParameter::BROTLI_PARAM_QUALITY, level);
    context.set_parameter(BrotliEncoderParameter::BROTLI_PARAM_LGWIN, WINDOW);
    if let Some(length) = length.and_then(|length| u32::try_from(length).ok()) {
        context.set_parameter(BrotliEncoderParameter::BROTLI_PARAM_SIZE_HINT, length);
    }
    context
}

fn encode_gzip(context: &mut Compress, mut input: &[u8], until: Until, out: &mut Vec<u8>) -> io::Result<()> {
    let flush = match until {
        Until::Later => FlushCompress::None,
        Until::Flushed => FlushCompress::Sync,
        Until::Finished => FlushCompress::Finish,
    };
    loop {
        out.reserve(ROOM.max(input.len() / 2));
        let before = context.total_in();
        let status = context.compress_vec(input, out, flush)?;
        input = input.get((context.total_in() - before) as usize..).unwrap_or_default();
        // Room that is left says that nothing waits for it.
        let has_room = out.len() < out.capacity();
        match (status, until) {
            (Status::StreamEnd, _) => return Ok(()),
            (Status::Ok | Status::BufError, Until::Later | Until::Flushed) if input.is_empty() && has_room => {
                return Ok(());
            }
            (Status::BufError, _) if has_room => return Err(io::ErrorKind::InvalidData.into()),
            (Status::Ok | Status::BufError, _) => {}
        }
    }
}

fn encode_zstd(context: &mut CCtx<'static>, input: &[u8], until: Until, out: &mut Vec<u8>) -> io::Result<()> {
    let end = match until {
        Until::Later => zstd_sys::ZSTD_EndDirective::ZSTD_e_continue,
        Until::Flushed => zstd_sys::ZSTD_EndDirective::ZSTD_e_flush,
        Until::Finished => zstd_sys::ZSTD_EndDirective::ZSTD_e_end,
    };
    let mut input = InBuffer::around(input);
    loop {
        out.reserve(ROOM.max((input.src.len() - input.pos()) / 2));
        let filled = out.len();
        let left =
            context.compress_stream2(&mut OutBuffer::around_pos(out, filled), &mut input, end).map_err(of_zstd)?;
        let is_taken = input.pos() == input.src.len();
        if is_taken && (left == 0 || until == Until::Later) {
            return Ok(());
        }
    }
}

fn encode_brotli(
    context: &mut BrotliEncoderStateStruct<StandardAlloc>,
    input: &[u8],
    until: Until,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    let operation = match until {
        Until::Later => BrotliEncoderOperation::BROTLI_OPERATION_PROCESS,
        Until::Flushed => BrotliEncoderOperation::BROTLI_OPERATION_FLUSH,
        Until::Finished => BrotliEncoderOperation::BROTLI_OPERATION_FINISH,
    };
    let (mut left, mut at) = (input.len(), 0);
    loop {
        // What comes out stays inside of it, and is taken from there.
        let went_well = context.compress_stream(
            operation,
            &mut left,
            input,
            &mut at,
            &mut 0,
            &mut [],
            &mut 0,
            &mut None,
            &mut |_, _, _, _| (),
        );
        if !went_well {
            return Err(io::ErrorKind::InvalidData.into());
        }
        while context.has_more_output() {
            let mut size = 0;
            // What lies behind it is of no meaning.
            let output = context.take_output(&mut size);
            out.extend_from_slice(output.get(..size).unwrap_or_default());
        }
        if left == 0 && (until != Until::Finished || context.is_finished()) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;
    use http::header::{CONTENT_ENCODING, HeaderValue};

    use super::*;
    use crate::http::body::MemoryBudget;
    use crate::http::coding::decode;

    const ALL: [Coding; 3] = [Coding::Gzip, Coding::Brotli, Coding::Zstd];

    fn decoded(coding: Coding, content: Vec<u8>) -> Vec<u8> {
        let headers = HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static(coding.name()))]);
        decode(&headers, Bytes::from(content), u64::MAX, &MemoryBudget::new(1 << 30)).unwrap().to_vec()
    }

    /// Text that is neither random nor all the same.
    fn text(length: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 16
        };
        let words: Vec<String> = (0..200).map(|_| format!("word{} ", next() % 10_000)).collect();
        let mut text = String::new();
        while text.len() < length {
            text.push_str(&words[next() as usize % words.len()]);
        }
        text.truncate(length);
        text.into_bytes()
    }

    #[test]
    fn every_coding_comes_back_at_every_level_and_in_parts_of_any_size() {
        for coding in ALL {
            for level in Level::range(coding) {
                for (length, part) in [(0, 1), (1, 1), (5_000, 700), (150_000, 16 << 10), (400_000, 100_000)] {
                    let is_slow = coding == Coding::Brotli && level > 9;
                    if length > 5_000 && (is_slow || level > 6 && level < *Level::range(coding).end()) {
                        continue;
                    }
                    let content = text(length);
                    for known in [None, Some(length as u64)] {
                        let mut encoder = Encoder::new(Level { coding, level }, known).unwrap();
                        let mut out = Vec::new();
                        for part in content.chunks(part) {
                            encoder.encode(part, Until::Later, &mut out).unwrap();
                        }
                        encoder.encode(&[], Until::Finished, &mut out).unwrap();
                        assert!(length < 5_000 || out.len() < length / 2, "{coding:?} {level} {length} {}", out.len());
                        assert_eq!(decoded(coding, out), content, "{coding:?} {level} {length}");
                        assert!(encoder.encode(b"more", Until::Later, &mut Vec::new()).is_err());
                    }
                }
            }
        }
    }

    #[test]
    fn what_was_flushed_can_be_read() {
        for coding in ALL {
            let mut encoder = Encoder::new(Level { coding, level: 3 }, None).unwrap();
            let (mut out, mut content) = (Vec::new(), Vec::new());
            for part in text(3_000).chunks(300) {
                let before = out.len();
                encoder.encode(part, Until::Flushed, &mut out).unwrap();
                assert!(out.len() > before, "{coding:?}");
                content.extend_from_slice(part);
                assert_eq!(readable(coding, &out), content, "{coding:?}");
                encoder.encode(&[], Until::Flushed, &mut out).unwrap();
            }
        }
    }

    /// What a recipient can read of content that has not ended.
    fn readable(coding: Coding, begun: &[u8]) -> Vec<u8> {
        use std::io::Read;
        let mut out = Vec::new();
        let mut from: Box<dyn Read> = match coding {
            Coding::Gzip | Coding::Deflate => Box::new(flate2::bufread::GzDecoder::new(begun)),
            Coding::Brotli => Box::new(::brotli::Decompressor::new(begun, 4096)),
            Coding::Zstd => Box::new(::zstd::stream::read::Decoder::with_buffer(begun).unwrap()),
        };
        // Byte for byte: what follows the last one is an error.
        let mut byte = [0];
        while from.read_exact(&mut byte).is_ok() {
            out.push(byte[0]);
        }
        out
    }

    #[test]
    fn contexts_are_used_again_and_are_few() {
        for _ in 0..3 {
            let mut encoders: Vec<_> =
                (0..2 * KEPT).map(|_| Encoder::new(Level { coding: Coding::Gzip, level: 4 }, None).unwrap()).collect();
            for encoder in &mut encoders {
                let mut out = Vec::new();
                encoder.encode(b"hello hello hello", Until::Finished, &mut out).unwrap();
                assert_eq!(decoded(Coding::Gzip, out), b"hello hello hello");
            }
            assert_eq!(GZIP.with_borrow(Vec::len), KEPT);
        }
        // One whose content broke off is not used again.
        let mut broken = Encoder::new(Level { coding: Coding::Zstd, level: 3 }, None).unwrap();
        broken.encode(b"half", Until::Later, &mut Vec::new()).unwrap();
        drop(broken);
        assert_eq!(ZSTD.with_borrow(Vec::len), 0);
    }

    #[test]
    fn the_memory_of_zstd_is_within_its_estimate() {
        let mut wrong = Vec::new();
        for level in Level::range(Coding::Zstd) {
            for known in [None, Some(3_000), Some(50_000), Some(1_000_000)] {
                let level = Level { coding: Coding::Zstd, level };
                let mut encoder = Encoder::new(level, known).unwrap();
                encoder.encode(&text(2_000), Until::Later, &mut Vec::new()).unwrap();
                let Some(State::Zstd(context)) = &encoder.state else { panic!("not zstd") };
                let (takes, estimate) = (context.sizeof(), level.memory(known));
                if takes > estimate {
                    wrong.push((level.level, known, takes, estimate));
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:?}");
    }
}
