//! Heads of requests: no panic, no dependence on how bytes arrive, one reading.
#![no_main]

use bytes::BytesMut;
use http::uri::Authority;
use libfuzzer_sys::fuzz_target;
use sluice_fuzz::{assert_one_reading, feed};
use sluice_http::http::path::normalise_path;
use sluice_http::http::target::{KnownHost, Target};
use sluice_http::http1::{HeadError, Length, Limits, RequestHead, read_request};

const LIMITS: Limits = Limits { bytes: 2048, fields: 80 };

fn read(buffer: &mut BytesMut) -> Option<Result<RequestHead, HeadError>> {
    let before = buffer.len();
    let outcome = read_request(buffer, LIMITS).transpose();
    if outcome.is_none() {
        assert_eq!(buffer.len(), before);
        assert!(before < LIMITS.bytes, "waits for a head that can't be accepted");
    }
    outcome
}

fn text(outcome: &Option<(Result<RequestHead, HeadError>, Vec<u8>)>) -> String {
    match outcome {
        // Nobody reads on behind an error.
        Some((Err(error), _)) => format!("{error:?}"),
        other => format!("{other:?}"),
    }
}

/// Percent-decoded, where that can be done, and in lower case.
fn decoded(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let pair = text.get(at + 1..at + 3).filter(|_| text[at] == b'%').and_then(|pair| std::str::from_utf8(pair).ok());
        let byte = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok());
        bytes.push(byte.unwrap_or(text[at]).to_ascii_lowercase());
        at += if byte.is_some() { 3 } else { 1 };
    }
    bytes
}

fuzz_target!(|data: &[u8]| {
    let Some((cut, input)) = data.split_first() else { return };
    let whole = feed(input, [], read);
    let cut = usize::from(*cut).min(input.len());
    assert_eq!(text(&feed(input, [cut], read)), text(&whole));
    assert_eq!(text(&feed(input, 1..input.len().max(1), read)), text(&whole));

    let Some((Ok(head), rest)) = whole else { return };
    let mut bytes = &input[..input.len() - rest.len()];
    assert!(bytes.len() <= LIMITS.bytes);
    while let Some(behind) = bytes.strip_prefix(b"\r\n") {
        bytes = behind;
    }
    assert_one_reading(bytes);
    assert_ne!(head.body, Length::UntilClose);
    let line = bytes.split(|b| *b == b'\r').next().unwrap();
    let words: Vec<_> = line.split(|b| *b == b' ').collect();
    assert_eq!(words.len(), 3);
    assert_eq!(words[0], head.parts.method.as_str().as_bytes());
    // Nothing of the target was dropped. `Uri` puts the slash of an empty path in its place.
    // Some of it may have been percent-encoded.
    let (uri, sent) = (head.parts.uri.to_string(), decoded(words[1]));
    assert!(
        decoded(uri.as_bytes()) == sent
            || decoded(uri.replacen("/?", "?", 1).as_bytes()) == sent
            || decoded(uri.trim_end_matches('/').as_bytes()) == sent,
        "{uri}"
    );
    if let Ok(target) = Target::from_request(&head.parts, &Authority::from_static("default"), &KnownHost::default()) {
        let path = target.target.path();
        assert_eq!(normalise_path(path).as_deref(), Ok(path));
    }
});
