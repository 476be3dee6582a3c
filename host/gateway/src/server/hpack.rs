//! Finds the path of a request in a `HEADERS` frame, as far as it stands there as text (RFC 7541 §6). Only lengths are read; the tables
//! of HPACK are not followed.

use std::ops::Range;

use super::huffman;

/// RFC 9113 §4.1.
pub(super) const FRAME_HEAD: usize = 9;
/// Flags of `HEADERS` (RFC 9113 §6.2).
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// A name that is written out.
const PATH: &[u8] = b":path";

/// A string in a frame.
#[derive(Debug, Clone)]
pub(super) struct Text {
    /// Where it is, with its length in front.
    pub(super) whole: Range<usize>,
    bytes: Range<usize>,
    huffman: bool,
}

/// The path of a request, where it is written out.
#[derive(Debug, Clone)]
pub(super) struct Path {
    pub(super) text: Text,
    /// It becomes an entry of the client's table, which later requests can refer to.
    pub(super) indexed: bool,
}

/// The path in a whole `HEADERS` frame. A path whose name is an entry of the dynamic table is not found; no known client writes one so,
/// since the static table has the name.
pub(super) fn path(frame: &[u8]) -> Option<Path> {
    let flags = *frame.get(4)?;
    let mut reader = Reader { bytes: frame, at: FRAME_HEAD };
    if flags & PADDED != 0 {
        let padding = usize::from(reader.next()?);
        reader.bytes = frame.get(..frame.len().checked_sub(padding)?)?;
    }
    if flags & PRIORITY != 0 {
        reader.at += 5;
    }
    loop {
        let first = *reader.bytes.get(reader.at)?;
        let (prefix, indexed) = match first {
            0x80.. => match reader.integer(7)? {
                // The path is an entry of the static table, or regular fields have begun, behind which no path may come (RFC 9113 §8.3).
                4 | 5 | 15..=61 => return None,
                _ => continue,
            },
            0x40.. => (6, true),
            // The table gets another size.
            0x20.. => {
                reader.integer(5)?;
                continue;
            }
            _ => (4, false),
        };
        let is_path = match reader.integer(prefix)? {
            0 => {
                let name = reader.text()?;
                if !name.begins_pseudo(frame) {
                    return None;
                }
                name.is(PATH, frame)
            }
            4 | 5 => true,
            15..=61 => return None,
            _ => false,
        };
        let text = reader.text()?;
        if is_path {
            return Some(Path { text, indexed });
        }
    }
}

impl Text {
    fn coded<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        frame.get(self.bytes.clone()).unwrap_or_default()
    }

    /// Whether one of its bytes is such a one. Such bytes must have Huffman codes that begin with seven set bits.
    pub(super) fn has(&self, frame: &[u8], wanted: impl Fn(u8) -> bool) -> bool {
        let coded = self.coded(frame);
        // Without an early end the compiler looks at many bytes at once.
        let mut found = false;
        if !self.huffman {
            coded.iter().for_each(|byte| found |= wanted(*byte));
        } else if huffman::has_run(coded) {
            // What is not well coded is for the codec to refuse.
            let _ = huffman::decode(coded, |byte| found |= wanted(byte));
        }
        found
    }

    pub(super) fn decoded(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let coded = self.coded(frame);
        if !self.huffman {
            return Some(coded.to_vec());
        }
        let mut text = Vec::with_capacity(coded.len() * 8 / 5);
        huffman::decode(coded, |byte| text.push(byte)).map(|()| text)
    }

    fn is(&self, name: &[u8], frame: &[u8]) -> bool {
        match self.huffman {
            false => self.coded(frame) == name,
            true => self.decoded(frame).is_some_and(|text| text == name),
        }
    }

    /// Names of pseudo-header fields begin with a colon, whose code is 1011100.
    fn begins_pseudo(&self, frame: &[u8]) -> bool {
        match self.coded(frame).first() {
            Some(byte) if self.huffman => byte >> 1 == 0b101_1100,
            first => first == Some(&b':'),
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    /// RFC 7541 §5.1: an integer behind the first bits of a byte. The codec takes at most five bytes.
    fn integer(&mut self, prefix: u32) -> Option<usize> {
        let mask = (1 << prefix) - 1;
        let mut value = usize::from(self.next()? & mask);
        if value < usize::from(mask) {
            return Some(value);
        }
        for shift in [0, 7, 14, 21] {
            let byte = self.next()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn text(&mut self) -> Option<Text> {
        let start = self.at;
        let huffman = self.bytes.get(start)? & 0x80 != 0;
        let length = self.integer(7)?;
        let bytes = self.at..self.at + length;
        self.at = bytes.end;
        (bytes.end <= self.bytes.len()).then_some(Text { whole: start..bytes.end, bytes, huffman })
    }
}

/// Appends a string as it is.
pub(super) fn write_text(out: &mut Vec<u8>, text: &[u8]) {
    let mask = 0x7f_usize;
    if text.len() < mask {
        out.push(text.len() as u8);
    } else {
        out.push(mask as u8);
        let mut rest = text.len() - mask;
        while rest >= 0x80 {
            out.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        out.push(rest as u8);
    }
    out.extend_from_slice(text);
}
