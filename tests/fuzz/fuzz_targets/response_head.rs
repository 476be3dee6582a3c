//! Heads of responses: no panic, no dependence on how bytes arrive, one reading.
#![no_main]

use bytes::BytesMut;
use http::Method;
use libfuzzer_sys::fuzz_target;
use sluice_fuzz::{assert_one_reading, feed};
use sluice_http::http1::{HeadError, Length, Limits, ResponseHead, Tolerance, read_response};

const LIMITS: Limits = Limits { bytes: 2048, fields: 80 };

fn text(outcome: &Option<(Result<ResponseHead, HeadError>, Vec<u8>)>) -> String {
    match outcome {
        // Nobody reads on behind an error.
        Some((Err(error), _)) => format!("{error:?}"),
        other => format!("{other:?}"),
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((cut, input)) = data.split_first() else { return };
    let method = if cut % 2 == 0 { Method::GET } else { Method::HEAD };
    let read = |buffer: &mut BytesMut| {
        let before = buffer.len();
        let outcome = read_response(buffer, LIMITS, &method, Tolerance::default()).transpose();
        if outcome.is_none() {
            assert_eq!(buffer.len(), before);
            assert!(before < LIMITS.bytes, "waits for a head that can't be accepted");
        }
        outcome
    };
    let whole = feed(input, [], read);
    let cut = usize::from(*cut).min(input.len());
    assert_eq!(text(&feed(input, [cut], read)), text(&whole));
    assert_eq!(text(&feed(input, 1..input.len().max(1), read)), text(&whole));

    let Some((Ok(head), rest)) = whole else { return };
    let bytes = &input[..input.len() - rest.len()];
    assert!(bytes.len() <= LIMITS.bytes);
    assert_one_reading(bytes);
    let status = head.status.as_u16();
    if method == Method::HEAD || status < 200 || status == 204 || status == 304 {
        assert_eq!(head.body, Length::Exact(0));
    }
    assert!(head.body != Length::UntilClose || !head.persistent);
});
