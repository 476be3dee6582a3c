//! What the targets share: feeding bytes in parts, and a second opinion on what was accepted.

use bytes::BytesMut;

/// The outcome of reading `input` cut at `cuts`. `read` says how it ended, or `None` for more bytes; what it left in the buffer
/// and what was not fed is given back with it.
pub fn feed<T>(
    input: &[u8],
    cuts: impl IntoIterator<Item = usize>,
    mut read: impl FnMut(&mut BytesMut) -> Option<T>,
) -> Option<(T, Vec<u8>)> {
    let mut buffer = BytesMut::new();
    let mut from = 0;
    for to in cuts.into_iter().chain([input.len()]) {
        buffer.extend_from_slice(&input[from..to]);
        from = to;
        if let Some(outcome) = read(&mut buffer) {
            buffer.extend_from_slice(&input[from..]);
            return Some((outcome, buffer.to_vec()));
        }
    }
    None
}

/// Checks, without any of the code under test, that a head which was accepted has one reading: every line ends in CRLF and has
/// nothing that ends a line elsewhere, every field has a token before its colon, and one field at most frames the body.
pub fn assert_one_reading(head: &[u8]) {
    let text = head.strip_suffix(b"\r\n\r\n").expect("a head ends with an empty line");
    let mut lines = text.split(|b| *b == b'\n').peekable();
    let mut first = true;
    let mut framed = 0;
    while let Some(line) = lines.next() {
        let line = if lines.peek().is_some() { line.strip_suffix(b"\r").expect("CRLF") } else { line };
        assert!(!line.is_empty(), "an empty line inside");
        assert!(line.iter().all(|b| *b == b'\t' || *b >= b' ' && *b != 0x7f), "a control character");
        if std::mem::take(&mut first) {
            continue;
        }
        let colon = line.iter().position(|b| *b == b':').expect("a colon");
        let name = line[..colon].to_ascii_lowercase();
        assert!(!name.is_empty());
        assert!(name.iter().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b)), "a token");
        let value = line[colon + 1..].trim_ascii();
        match &*name {
            b"content-length" => {
                assert!(!value.is_empty() && value.iter().all(u8::is_ascii_digit));
                framed += 1;
            }
            b"transfer-encoding" => {
                assert!(value.eq_ignore_ascii_case(b"chunked"));
                framed += 1;
            }
            _ => {}
        }
    }
    assert!(framed <= 1, "framed twice");
}
