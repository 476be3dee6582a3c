//! Content codings (RFC 9110 §8.4): decoding whole bodies with a limit on what comes out, since a kilobyte can hold a gigabyte. `accept` says
//! which one a client wants, `encoder` puts one on and `decoder` takes one off, and `encoded` and `decoded` do so with a body that streams through.

mod accept;
mod decoded;
mod decoder;
mod encoded;
mod encoder;

use std::io::{self, Read};

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
use http::{HeaderMap, HeaderValue};

pub use self::accept::{acceptable, preferred};
pub use self::decoded::decoded;
pub use self::encoded::DIGESTS;
pub use self::encoded::{Encoding, encode_whole};
pub use self::encoder::{EncodeError, Encoder, Level, Until};

use self::decoder::Decoder;
use super::body::{BodyError, MemoryBudget};
use super::headers::tokens;

/// More codings on top of each other than anybody needs.
const MAX_STACKED: usize = 4;

/// The largest window of zstd that is decoded, as a power of two: what RFC 9659 §3 has recipients support, and no more.
const ZSTD_WINDOW: u32 = 23;

/// One content coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Coding {
    Gzip,
    /// Decoded only: of its two forms (zlib's and the bare one), some clients can't read one and some the other.
    Deflate,
    Brotli,
    Zstd,
}

impl Coding {
    /// As the registry of HTTP has it.
    pub fn name(self) -> &'static str {
        match self {
            Coding::Gzip => "gzip",
            Coding::Deflate => "deflate",
            Coding::Brotli => "br",
            Coding::Zstd => "zstd",
        }
    }

    /// What the name of a file with it ends with.
    pub fn suffix(self) -> &'static str {
        match self {
            Coding::Gzip => ".gz",
            Coding::Deflate => ".zz",
            Coding::Brotli => ".br",
            Coding::Zstd => ".zst",
        }
    }

    /// Names have no case (RFC 9110 §8.4.1).
    fn parse(name: &[u8]) -> Option<Coding> {
        const NAMES: [(&[u8], Coding); 5] = [
            (b"gzip", Coding::Gzip),
            (b"x-gzip", Coding::Gzip),
            (b"deflate", Coding::Deflate),
            (b"br", Coding::Brotli),
            (b"zstd", Coding::Zstd),
        ];
        NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, coding)| *coding)
    }
}

/// Why a body could not be decoded.
#[derive(Debug, thiserror::Error)]
pub enum CodingError {
    #[error("unknown content coding `{0}`")]
    Unknown(String),
    #[error("more than {MAX_STACKED} content codings")]
    TooMany,
    #[error("body is not valid {coding:?}")]
    Malformed { coding: Coding, source: io::Error },
    #[error("decoded body larger than {0} bytes")]
    TooLarge(u64),
    #[error("no memory for the decoded body")]
    Budget(#[source] BodyError),
}

/// The codings of a message in the order they were applied; `identity` leaves none.
pub fn codings(headers: &HeaderMap) -> Result<Vec<Coding>, CodingError> {
    let mut found = Vec::new();
    for value in headers.get_all(CONTENT_ENCODING) {
        for name in String::from_utf8_lossy(value.as_bytes()).split(',').map(str::trim) {
            if name.is_empty() || name.eq_ignore_ascii_case("identity") {
                continue;
            }
            let unknown = || CodingError::Unknown(name.to_ascii_lowercase().chars().take(40).collect());
            found.push(Coding::parse(name.as_bytes()).ok_or_else(unknown)?);
        }
    }
    if found.len() > MAX_STACKED { Err(CodingError::TooMany) } else { Ok(found) }
}

/// Leaves in `accept-encoding` only what [`decode`] can take off again, so that an upstream sends nothing else to a
/// client whose response a filter has to read. Without the field, and by `*`, all codings are acceptable (RFC 9110 §12.5.3); only
/// `identity` is left of them. It is left, too, where a client takes only codings that are not known here.
pub fn keep_decodable(headers: &mut HeaderMap) {
    let (mut kept, mut is_enough) = (Vec::new(), false);
    for value in headers.get_all(ACCEPT_ENCODING) {
        for member in tokens(value.as_bytes()) {
            let (name, weight) = match member.iter().position(|byte| *byte == b';') {
                Some(end) => (member[..end].trim_ascii(), &member[end + 1..]),
                None => (member, &b""[..]),
            };
            if Coding::parse(name).is_some() || name.eq_ignore_ascii_case(b"identity") {
                if !kept.is_empty() {
                    kept.extend_from_slice(b", ");
                }
                kept.extend_from_slice(member);
                is_enough |= !is_zero(weight);
            }
        }
    }
    let kept = HeaderValue::try_from(kept).ok().filter(|_| is_enough);
    headers.insert(ACCEPT_ENCODING, kept.unwrap_or(HeaderValue::from_static("identity")));
}

/// Whether a weight (RFC 9110 §12.4.2) says "not acceptable".
fn is_zero(weight: &[u8]) -> bool {
    let Some((name, value)) = weight.iter().position(|byte| *byte == b'=').map(|at| weight.split_at(at)) else {
        return false;
    };
    let digits = value[1..].trim_ascii();
    name.trim_ascii().eq_ignore_ascii_case(b"q")
        && digits.first() == Some(&b'0')
        && digits.iter().all(|byte| matches!(byte, b'0' | b'.'))
}

/// Takes the codings that `content-encoding` names off a body, last first. No step yields more than `limit` bytes. What
/// comes out is charged to `budget` until it is dropped; a body without coding is answered as it is.
pub fn decode(headers: &HeaderMap, body: Bytes, limit: u64, budget: &MemoryBudget) -> Result<Bytes, CodingError> {
    let mut body = body;
    for coding in codings(headers)?.into_iter().rev() {
        let mut reservation = budget.reserve(0).map_err(CodingError::Budget)?;
        let mut grow = |bytes| reservation.grow(bytes).map_err(CodingError::Budget);
        let decoded = match coding {
            // As they are read in parts: what passes there passes here.
            Coding::Gzip | Coding::Deflate => pull(coding, Whole::new(coding, &body)?, limit, &mut grow)?,
            Coding::Brotli => pull(coding, brotli::Decompressor::new(&*body, 16 * 1024), limit, &mut grow)?,
            Coding::Zstd => pull(coding, zstd(&body)?, limit, &mut grow)?,
        };
        body = MemoryBudget::hold(decoded.into(), reservation);
    }
    Ok(body)
}

/// A whole content, for the decoder of what comes in parts.
struct Whole<'b> {
    decoder: Decoder,
    rest: &'b [u8],
}

impl Whole<'_> {
    fn new(coding: Coding, content: &[u8]) -> Result<Whole<'_>, CodingError> {
        let (decoder, _) = Decoder::new(coding, content).map_err(|source| CodingError::Malformed { coding, source })?;
        Ok(Whole { decoder, rest: content })
    }
}

impl Read for Whole<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let (read, written) = self.decoder.step(self.rest, out)?;
            self.rest = self.rest.get(read..).unwrap_or_default();
            match (read, written) {
                (0, 0) if self.rest.is_empty() && self.decoder.may_end() => return Ok(0),
                (0, 0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                (_, 0) => {}
                (_, written) => return Ok(written),
            }
        }
    }
}

fn zstd(body: &[u8]) -> Result<impl Read, CodingError> {
    let malformed = |source| CodingError::Malformed { coding: Coding::Zstd, source };
    let mut decoder = zstd::stream::read::Decoder::with_buffer(body).map_err(malformed)?;
    decoder.window_log_max(ZSTD_WINDOW).map_err(malformed)?;
    Ok(decoder)
}

/// RFC 1950 §2.2: method 8 and a check sum over the first two bytes.
fn is_zlib(body: &[u8]) -> bool {
    match body {
        [cmf, flg, ..] => cmf & 0x0f == 8 && (u16::from(*cmf) << 8 | u16::from(*flg)) % 31 == 0,
        _ => false,
    }
}

fn pull(
    coding: Coding,
    mut from: impl Read,
    limit: u64,
    grow: &mut dyn FnMut(usize) -> Result<(), CodingError>,
) -> Result<Vec<u8>, CodingError> {
    let mut out = Vec::new();
    let mut chunk = [0; 16 * 1024];
    loop {
        match from.read(&mut chunk) {
            Ok(0) => return Ok(out),
            Ok(read) => {
                if (out.len() + read) as u64 > limit {
                    return Err(CodingError::TooLarge(limit));
                }
                grow(read)?;
                out.extend_from_slice(chunk.get(..read).unwrap_or_default());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(CodingError::Malformed { coding, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn headers(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static(value))])
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(data: &[u8]) -> Vec<u8> {
        zstd::encode_all(data, 3).unwrap()
    }

    fn brotli(data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        brotli::CompressorWriter::new(&mut out, 4096, 5, 20).write_all(data).unwrap();
        out
    }

    fn run(coding: &'static str, data: impl Into<Bytes>) -> Result<Bytes, CodingError> {
        decode(&headers(coding), data.into(), 1000, &MemoryBudget::new(1 << 20))
    }

    #[test]
    fn every_coding_is_taken_off() {
        let text = b"hello hello hello";
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        zlib.write_all(text).unwrap();
        let mut raw = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        raw.write_all(text).unwrap();
        assert_eq!(run("gzip", gzip(text)).unwrap(), &text[..]);
        assert_eq!(run("X-GZIP", [gzip(&text[..5]), gzip(&text[5..])].concat()).unwrap(), &text[..]);
        // As in parts: nothing follows the end.
        assert_eq!(run("gzip", [&*gzip(text), b"\0\0\0", b"more"].concat()).unwrap(), &text[..]);
        assert_eq!(run("deflate", zlib.finish().unwrap()).unwrap(), &text[..]);
        assert_eq!(run("deflate", raw.finish().unwrap()).unwrap(), &text[..]);
        assert_eq!(run("br", brotli(text)).unwrap(), &text[..]);
        assert_eq!(run("zstd", [zstd(&text[..5]), zstd(&text[5..])].concat()).unwrap(), &text[..]);
        assert_eq!(run("gzip, identity, br", brotli(&gzip(text))).unwrap(), &text[..]);
        assert_eq!(run("identity", &text[..]).unwrap(), &text[..]);
    }

    #[test]
    fn only_what_can_be_decoded_is_offered() {
        let offered = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(ACCEPT_ENCODING, HeaderValue::from_static(value));
            }
            keep_decodable(&mut headers);
            headers.get_all(ACCEPT_ENCODING).iter().map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        for (accepted, expected) in [
            (&["gzip, deflate, br, zstd, compress"][..], "gzip, deflate, br, zstd"),
            (&["dcz;q=1, GZIP;q=0.5", "br"], "GZIP;q=0.5, br"),
            (&["compress"], "identity"),
            (&["compress, *;q=0"], "identity"),
            (&["*"], "identity"),
            (&["identity;q=0, compress"], "identity"),
            (&["gzip;q=0.000, *"], "identity"),
            (&["gzip;q=0.001, identity; q=0"], "gzip;q=0.001, identity; q=0"),
            (&[""], "identity"),
            (&[], "identity"),
        ] {
            assert_eq!(offered(accepted), [expected], "of {accepted:?}");
        }
    }

    #[test]
    fn bombs_stop_at_the_limit_and_at_the_budget() {
        let bomb = vec![0; 8 << 20];
        for (coding, body) in [
            ("gzip", gzip(&bomb)),
            ("br", brotli(&bomb)),
            ("zstd", zstd(&bomb)),
            ("gzip, gzip", gzip(&gzip(&bomb))),
            ("gzip, zstd", zstd(&gzip(&bomb))),
        ] {
            let outcome = run(coding, body);
            assert!(matches!(outcome, Err(CodingError::TooLarge(1000))), "{coding}: {outcome:?}");
        }
        let budget = MemoryBudget::new(100_000);
        let outcome = decode(&headers("gzip"), gzip(&bomb).into(), u64::MAX, &budget);
        assert!(matches!(outcome, Err(CodingError::Budget(_))));
        assert_eq!(budget.used(), 0);
    }

    /// RFC 9659 §3: a frame may ask for a window that costs memory before it has shown any content.
    #[test]
    fn a_window_that_is_too_large_is_refused() {
        for (window, is_fine) in [(23, true), (24, false), (27, false)] {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(window).unwrap();
            encoder.write_all(b"hello").unwrap();
            assert_eq!(run("zstd", encoder.finish().unwrap()).is_ok(), is_fine, "{window}");
        }
    }

    #[test]
    fn what_is_broken_or_unknown_is_told() {
        let whole = gzip(b"hello hello hello");
        let cut = whole[..whole.len() - 9].to_vec();
        assert!(matches!(run("gzip", cut), Err(CodingError::Malformed { coding: Coding::Gzip, .. })));
        assert!(matches!(run("br", vec![1, 2, 3]), Err(CodingError::Malformed { coding: Coding::Brotli, .. })));
        assert!(matches!(run("zstd", vec![1, 2, 3]), Err(CodingError::Malformed { coding: Coding::Zstd, .. })));
        let cut = zstd(b"hello hello hello");
        assert!(matches!(run("zstd", cut[..cut.len() - 2].to_vec()), Err(CodingError::Malformed { .. })));
        assert!(matches!(run("gzip, Compress", vec![]), Err(CodingError::Unknown(name)) if name == "compress"));
        assert!(matches!(run("br,br,br,br,br", vec![]), Err(CodingError::TooMany)));
    }
}
