//! Chunked bodies and trailers that are read.

use super::*;

#[test]
fn blanks_behind_a_chunk_size_are_skipped_in_responses_and_refused_in_requests() {
    let rows: &[(&[u8], &str)] = &[
        (b"3     \r\nabc\r\n0     \r\n\r\n", "abc | "),
        (b"3\t\r\nabc\r\n0 \t;a=b\r\n\r\n", "abc | "),
        (b"3 ", "more"),
        (b"3 \r", "more"),
        (b" 3\r\nabc\r\n0\r\n\r\n", "a chunk size that is not a hexadecimal number"),
        (b"3 3\r\nabc\r\n0\r\n\r\n", "a chunk size that is not a hexadecimal number"),
        (b"3 \nabc\r\n0\r\n\r\n", "a chunk size that is not a hexadecimal number"),
    ];
    check(rows, |input| chunked(input, Message::Response));
    let refused = "a chunk size that is not a hexadecimal number";
    let rows: &[&[u8]] = &[b"3 \r\nabc\r\n0\r\n\r\n", b"3\t\r\nabc\r\n0\r\n\r\n", b"3 ;a\r\nabc\r\n0\r\n\r\n"];
    check(&rows.iter().map(|row| (row, refused)).collect::<Vec<_>>(), |input| chunked(input, Message::Request));
    let padded = [&b"3"[..], &[b' '; 300], b"\r\nabc\r\n0\r\n\r\n"].concat();
    check(&[(&padded, "blanks behind a chunk size that are longer than the limit")], |input| {
        chunked(input, Message::Response)
    });
}

#[test]
fn chunked_bodies() {
    let size = "a chunk size that is not a hexadecimal number";
    let end = "chunk data that does not end where its size says";
    let extension = "a control character in a chunk extension";
    let rows: &[(&[u8], &str)] = &[
        // RFC 9112 §7.1
        (b"0\r\n\r\n", " | "),
        (b"3\r\nabc\r\n0\r\n\r\nGET", "abc | GET"),
        (b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", "abcde | "),
        (b"a\r\n0123456789\r\n000\r\n\r\n", "0123456789 | "),
        (b"A\r\n0123456789\r\n0\r\n\r\n", "0123456789 | "),
        (b"0000000000000003\r\nabc\r\n0\r\n\r\n", "abc | "),
        (b"2\r\n\r\n\r\n0\r\n\r\n", "\\r\\n | "),
        (b"ffffffffffffffff\r\nabc", "more"),
        (b"3\r\nab", "more"),
        (b"00000000000000003\r\nabc\r\n0\r\n\r\n", "a chunk size that is too large"),
        (b"10000000000000003\r\nabc\r\n0\r\n\r\n", "a chunk size that is too large"),
        (b"\r\nabc\r\n", size),
        (b"+3\r\nabc\r\n0\r\n\r\n", size),
        (b"-3\r\nabc\r\n0\r\n\r\n", size),
        (b"0x3\r\nabc\r\n0\r\n\r\n", size),
        (b"3_\r\nabc\r\n0\r\n\r\n", size),
        (b" 3\r\nabc\r\n0\r\n\r\n", size),
        (b"g\r\n", size),
        (b"3,3\r\n", size),
        (b"3\0\r\nabc\r\n0\r\n\r\n", size),
        (b"\xef\xbc\x93\r\nabc\r\n", size),
        (b"3\nabc\r\n0\r\n\r\n", size),
        (b"3\rabc\r\n0\r\n\r\n", size),
        (b"3\r\r\nabc\r\n0\r\n\r\n", size),
        (b"3\r\nabcd\r\n0\r\n\r\n", end),
        (b"3\r\nabc\n0\r\n\r\n", end),
        (b"3\r\nabc\r0\r\n\r\n", end),
        (b"3\r\nabc0\r\n\r\n", end),
        (b"3\r\nabc\r\r\n0\r\n\r\n", end),
        (b"3\r\nab\r\n0\r\n\r\n", end),
        // §7.1.1
        (b"3;a\r\nabc\r\n0;b=c\r\n\r\n", "abc | "),
        (b"3;a=\"b c\" ; d\t\r\nabc\r\n0\r\n\r\n", "abc | "),
        (b"3;a\nabc\r\n0\r\n\r\n", extension),
        (b"3;a\rb\r\nabc\r\n0\r\n\r\n", extension),
        (b"3;a\0\r\nabc\r\n0\r\n\r\n", extension),
        (b"3;a\x7f\r\nabc\r\n0\r\n\r\n", extension),
        (b"3;\n\r\nabc\r\n0\r\n\r\n", extension),
        // §7.1.2
        (b"0\r\nX-A: b\r\nx-a:c\r\n\r\nGET", " x-a=b x-a=c | GET"),
        (b"0\r\nx-a: b\r\nvary: c\r\n\r\n", " x-a=b | "),
        (b"0\r\nvary: c\r\n\r\n", " | "),
        (b"0\r\nx: a\n\r\n", FEED),
        (b"0\r\n\n", FEED),
        (b"0\n\r\n", size),
        (b"0\r\nx: a\r\n\n", FEED),
        (b"0\r\nx : a\r\n\r\n", "white space before the colon of a field"),
        (b"0\r\nx: a\r\n b\r\n\r\n", "a folded field line"),
        (b"0\r\n b\r\n\r\n", "a folded field line"),
        (b"0\r\nx: a\0\r\n\r\n", CONTROL),
        (b"0\r\nx: a\rb\r\n\r\n", "a carriage return in a field value"),
        (b"0\r\n\r\r\n\r\n", "a field line without a colon"),
        (b"0\r\nx\r\n\r\n", "a field line without a colon"),
        (b"0\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n", "a field line without a colon"),
    ];
    for message in [Message::Request, Message::Response] {
        check(rows, |input| chunked(input, message));
    }
}

#[test]
fn trailers_that_frame_route_or_authenticate() {
    for name in [
        "authorization",
        "connection",
        "content-length",
        "cookie",
        "host",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-api-key",
    ] {
        let body = format!("0\r\nx: y\r\n{name}: 1\r\n\r\n");
        assert_eq!(chunked(body.as_bytes(), Message::Request), format!("the field `{name}` in trailers"));
        assert_eq!(chunked(body.as_bytes(), Message::Response), " x=y | ");
    }
}

#[test]
fn limits_of_chunks() {
    let large = "a chunk extension is larger than the limit";
    let with = |length: usize| [b"0;", &*vec![b'a'; length - 1], b"\r\n\r\n"].concat();
    assert_eq!(chunked(&with(256), Message::Request), " | ");
    assert_eq!(chunked(&with(257), Message::Request), large);
    assert_eq!(chunked(&with(300), Message::Request), large);
    let chunk = [&b"1;"[..], &[b'a'; 255][..], b"\r\nx\r\n"].concat();
    let sixteen = chunk.repeat(16);
    let mut body = Chunked::new(LIMITS, Message::Request);
    let mut buffer = BytesMut::from(&*[&*sixteen, b"0\r\n\r\n"].concat());
    for _ in 0..16 {
        assert!(matches!(body.next(&mut buffer), Ok(Some(Piece::Data(_)))));
    }
    assert_eq!(body.next(&mut buffer), Ok(Some(Piece::End(None))));
    let mut body = Chunked::new(LIMITS, Message::Request);
    let mut buffer = BytesMut::from(&*[&*sixteen, b"0;\r\n\r\n"].concat());
    for _ in 0..16 {
        assert!(matches!(body.next(&mut buffer), Ok(Some(Piece::Data(_)))));
    }
    let sum = Err(ChunkError::Malformed("the chunk extensions are larger than the limit"));
    assert_eq!(body.next(&mut buffer), sum);
    assert_eq!(body.next(&mut buffer), sum);

    let mut trailers = b"0\r\n".to_vec();
    for _ in 0..11 {
        trailers.extend_from_slice(b"a: b\r\n");
    }
    assert_eq!(chunked(&trailers, Message::Request), "more trailer fields than the limit");
    let trailers = [&b"0\r\nx: "[..], &[b'a'; 1100][..]].concat();
    assert_eq!(chunked(&trailers, Message::Request), "the trailer section is larger than the limit");
}
