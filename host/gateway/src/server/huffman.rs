//! Reads the Huffman code of HPACK (RFC 7541 §5.2 and appendix B).

/// The bits of the code of each byte. The code is canonical, so the lengths define it: codes of one length follow each other in the order of
/// their bytes, and those of the next length come behind them.
#[rustfmt::skip]
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];
const LONGEST: usize = 30;

/// The codes of one length.
#[derive(Clone, Copy)]
struct Row {
    first: u32,
    count: u32,
    /// Where their bytes begin in [`Code::bytes`].
    start: usize,
}

struct Code {
    rows: [Row; LONGEST + 1],
    /// All bytes, in the order of their codes.
    bytes: [u8; 256],
    /// By the next 8 bits: the byte of a code of at most so many bits, and how many it has. 0: the code is longer.
    short: [(u8, u8); 256],
}

static CODE: Code = code();

const fn code() -> Code {
    let mut code =
        Code { rows: [Row { first: 0, count: 0, start: 0 }; LONGEST + 1], bytes: [0; 256], short: [(0, 0); 256] };
    let (mut next, mut place, mut length) = (0, 0, 1);
    while length <= LONGEST {
        next <<= 1;
        code.rows[length] = Row { first: next, count: 0, start: place };
        let mut byte = 0;
        while byte < 256 {
            if LENGTHS[byte] as usize == length {
                code.bytes[place] = byte as u8;
                let mut rest = 0;
                while length <= 8 && rest < 1 << (8 - length) {
                    code.short[((next as usize) << (8 - length)) + rest] = (byte as u8, length as u8);
                    rest += 1;
                }
                code.rows[length].count += 1;
                place += 1;
                next += 1;
            }
            byte += 1;
        }
        length += 1;
    }
    code
}

/// Gives each byte of a coded string to `each`. `None`: it is not well coded.
pub(super) fn decode(coded: &[u8], mut each: impl FnMut(u8)) -> Option<()> {
    let mut coded = coded.iter();
    // The next bits, from the highest on, and how many there are.
    let (mut bits, mut count) = (0_u64, 0_u32);
    loop {
        while count <= 56
            && let Some(byte) = coded.next()
        {
            bits |= u64::from(*byte) << (56 - count);
            count += 8;
        }
        let (byte, length) = match CODE.short[usize::from(bits.to_be_bytes()[0])] {
            (_, 0) => long(bits)?,
            short => short,
        };
        if u32::from(length) > count {
            // RFC 7541 §5.2: the padding is shorter than a byte, and its bits are set.
            return (count < 8 && bits.leading_ones() == count).then_some(());
        }
        each(byte);
        bits <<= length;
        count -= u32::from(length);
    }
}

#[cold]
fn long(bits: u64) -> Option<(u8, u8)> {
    CODE.rows.iter().zip(0_u8..).skip(9).find_map(|(row, length)| {
        let code = u32::try_from(bits >> (64 - length)).ok()?;
        let nth = code.checked_sub(row.first).filter(|nth| *nth < row.count)?;
        Some((CODE.bytes[row.start + nth as usize], length))
    })
}

/// Whether a coded string has seven set bits in a row. The codes of most bytes that are common in paths do not begin with them, so one
/// without such a run needs no decoding. Costs about two instructions a byte.
pub(super) fn has_run(coded: &[u8]) -> bool {
    let run = |window: [u8; 8]| {
        let bits = u64::from_be_bytes(window);
        let two = bits & bits << 1;
        let four = two & two << 2;
        four & four << 3 != 0
    };
    let mut rest = coded;
    // A run has a part in at most two bytes, so windows overlap by one.
    while let Some(window) = rest.first_chunk() {
        if run(*window) {
            return true;
        }
        rest = &rest[7..];
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    run(last)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The code of a byte, and its length.
    fn code_of(byte: u8) -> (u32, u8) {
        let length = LENGTHS[usize::from(byte)];
        let row = CODE.rows[usize::from(length)];
        let nth = CODE.bytes[row.start..].iter().position(|b| *b == byte).unwrap();
        (row.first + u32::try_from(nth).unwrap(), length)
    }

    pub(in crate::server) fn encode(text: &[u8]) -> Vec<u8> {
        let mut bits: Vec<bool> = Vec::new();
        for byte in text {
            let (code, length) = code_of(*byte);
            bits.extend((0..length).rev().map(|n| code >> n & 1 == 1));
        }
        bits.resize(bits.len().next_multiple_of(8), true);
        bits.chunks(8).map(|byte| byte.iter().fold(0, |all, bit| all << 1 | u8::from(*bit))).collect()
    }

    fn decoded(coded: &[u8]) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        decode(coded, |byte| text.push(byte)).map(|()| text)
    }

    #[test]
    fn the_code_is_that_of_the_appendix() {
        for (byte, code, length) in [
            (b'0', 0x0, 5),
            (b't', 0x9, 5),
            (b' ', 0x14, 6),
            (b'z', 0x7b, 7),
            (b'&', 0xf8, 8),
            (b'"', 0x3f9, 10),
            (b'>', 0xffb, 12),
            (b'<', 0x7ffc, 15),
            (b'`', 0x7ffd, 15),
            (b'\\', 0x7fff0, 19),
            (0x80, 0xfffe6, 20),
            (0xff, 0x3ff_ffee, 26),
            (b'\n', 0x3fff_fffc, 30),
            (22, 0x3fff_fffe, 30),
        ] {
            assert_eq!(code_of(byte), (code, length), "{byte}");
        }
        // RFC 7541 §C.4.1.
        let example = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(decoded(&example).unwrap(), b"www.example.com");
        assert_eq!(encode(b"www.example.com"), example);
    }

    #[test]
    fn strings_are_decoded() {
        let all: Vec<u8> = (0..=255).collect();
        for start in 0..=all.len() {
            for text in [&all[start..], &all[..start]] {
                assert_eq!(decoded(&encode(text)).unwrap(), text);
            }
        }
        for bad in [&[0xff][..], &[0xff; 4], &[0xff, 0xff], &[0x00], &[0x1f, 0x00]] {
            assert_eq!(decoded(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn runs_are_found_wherever_they_are() {
        for length in 0..20 {
            for at in 0..(length * 8_usize).saturating_sub(6) {
                let mut coded = vec![0_u8; length];
                (at..at + 7).for_each(|bit| coded[bit / 8] |= 0x80 >> (bit % 8));
                assert!(has_run(&coded), "{at} of {length}");
                coded[(at + 3) / 8] &= !(0x80 >> ((at + 3) % 8));
                assert!(!has_run(&coded), "{at} of {length}");
            }
        }
        assert!(!has_run(&encode(b"/api/v1/users/12345/orders-and.more_of_it")));
        for byte in *b"\"<>`\\\x80\xff" {
            assert!(has_run(&encode(&[b'/', byte])), "{byte}");
        }
    }
}
