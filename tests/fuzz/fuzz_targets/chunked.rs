//! Chunked bodies: no panic, no dependence on how bytes arrive, and the same data as a naive decoder finds.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use sluice_fuzz::feed;
use sluice_http::http1::{ChunkError, Chunked, Limits, Message, Piece};

const LIMITS: Limits = Limits { bytes: 1024, fields: 20 };

type Outcome = Result<(Vec<u8>, Vec<(String, Vec<u8>)>), ChunkError>;

fn reader(message: Message) -> impl FnMut(&mut BytesMut) -> Option<Outcome> {
    let mut body = Chunked::new(LIMITS, message);
    let mut data = Vec::new();
    move |buffer| {
        loop {
            match body.next(buffer) {
                Ok(None) => return None,
                Ok(Some(Piece::Data(piece))) => {
                    assert!(!piece.is_empty());
                    data.extend_from_slice(&piece);
                }
                Ok(Some(Piece::End(trailers))) => {
                    assert_eq!(body.next(buffer), Ok(None));
                    let trailers = trailers.iter().flatten();
                    let trailers = trailers.map(|(n, v)| (n.to_string(), v.as_bytes().to_vec())).collect();
                    return Some(Ok((std::mem::take(&mut data), trailers)));
                }
                Err(error) => {
                    assert_eq!(body.next(buffer), Err(error.clone()));
                    return Some(Err(error));
                }
            }
        }
    }
}

fn text(outcome: &Option<(Outcome, Vec<u8>)>) -> String {
    match outcome {
        Some((Err(error), _)) => format!("{error:?}"),
        other => format!("{other:?}"),
    }
}

/// The data of a good body and where its trailers begin.
fn naive(mut body: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut data = Vec::new();
    loop {
        let end = body.windows(2).position(|pair| pair == b"\r\n").expect("a line");
        let line = std::str::from_utf8(body[..end].split(|b| *b == b';').next().unwrap()).expect("digits");
        let line = line.trim_end_matches([' ', '\t']);
        assert!(line.bytes().all(|b| b.is_ascii_hexdigit()));
        let size = usize::from_str_radix(line, 16).expect("a size");
        body = &body[end + 2..];
        if size == 0 {
            return (data, body);
        }
        data.extend_from_slice(&body[..size]);
        body = body[size..].strip_prefix(b"\r\n").expect("an end");
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((cut, input)) = bytes.split_first() else { return };
    let message = if cut % 2 == 0 { Message::Request } else { Message::Response };
    let whole = feed(input, [], reader(message));
    let cut = usize::from(*cut).min(input.len());
    assert_eq!(text(&feed(input, [cut], reader(message))), text(&whole));
    assert_eq!(text(&feed(input, 1..input.len().max(1), reader(message))), text(&whole));

    let Some((Ok((data, trailers)), rest)) = whole else { return };
    let body = &input[..input.len() - rest.len()];
    let (naive, section) = naive(body);
    assert_eq!(data, naive);
    assert!(section.ends_with(b"\r\n"));
    assert!(section.len() <= LIMITS.bytes);
    for name in ["content-length", "transfer-encoding", "host", "connection"] {
        assert!(trailers.iter().all(|(trailer, _)| trailer != name));
    }
});
