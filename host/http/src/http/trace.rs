//! Request ids and W3C Trace Context: what to pass on and what to create.

use std::cell::RefCell;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::headers::HeaderClasses;

/// The field of W3C Trace Context §3.2.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The field of W3C Trace Context §3.3.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// At most this many bytes of an incoming request id are believed.
const MAX_REQUEST_ID: usize = 128;

/// The id of a request: the one that a trusted peer sent in the field `name`, if it is up to 128 visible ASCII characters, otherwise a new one.
/// Strangers don't name our log lines. The field itself is not touched.
pub fn request_id(headers: &HeaderMap, name: &HeaderName, trusted: bool) -> HeaderValue {
    if trusted {
        let mut sent = headers.get_all(name).iter();
        if let (Some(id), None) = (sent.next(), sent.next())
            && (1..=MAX_REQUEST_ID).contains(&id.len())
            && id.as_bytes().iter().all(u8::is_ascii_graphic)
        {
            return id.clone();
        }
    }
    let mut digits = [0; 32];
    hex(&random_128().to_be_bytes(), &mut digits);
    // Made for being shared: the record, the fields and the exchange each have it.
    HeaderValue::from_maybe_shared(Bytes::from_owner(digits)).expect("hexadecimal digits are visible ASCII")
}

/// Makes sure that a request carries one valid `traceparent`. A valid one is passed on as it is, since the gateway records no
/// span that could be the new parent. A missing or invalid one is replaced by the start of a new trace, and `tracestate`,
/// which means nothing without its parent, is dropped (W3C Trace Context §3.3).
///
/// A new trace is marked as sampled: unmarked, the usual parent-based samplers of the services behind would record nothing.
pub fn ensure_traceparent(headers: &mut HeaderMap, classes: HeaderClasses) {
    if classes.has(HeaderClasses::TRACE) {
        let mut sent = headers.get_all(TRACEPARENT).iter();
        if let (Some(value), None) = (sent.next(), sent.next())
            && is_traceparent(value.as_bytes())
        {
            return;
        }
        headers.remove(TRACESTATE);
    }
    let value = hex_value(&mut [0; 55], |out| {
        out.copy_from_slice(b"00-00000000000000000000000000000000-0000000000000000-01");
        // The specification excludes ids of all zeros.
        hex(&random_128().max(1).to_be_bytes(), &mut out[3..35]);
        hex(&((random_128() as u64).max(1)).to_be_bytes(), &mut out[36..52]);
    });
    headers.insert(TRACEPARENT, value);
}

/// The trace id of a valid `traceparent`.
pub fn trace_id(traceparent: &HeaderValue) -> Option<&str> {
    let value = traceparent.to_str().ok()?;
    is_traceparent(value.as_bytes()).then(|| &value[3..35])
}

/// W3C Trace Context §3.2.2: `version "-" trace-id "-" parent-id "-" flags`, lower-case hexadecimal. Versions above 00 may go on
/// after a further dash.
fn is_traceparent(value: &[u8]) -> bool {
    let is_hex = |part: &[u8]| part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let is_zero = |part: &[u8]| part.iter().all(|b| *b == b'0');
    let Some((head, tail)) = value.split_at_checked(55) else {
        return false;
    };
    let (version, trace, parent, flags) = (&head[..2], &head[3..35], &head[36..52], &head[53..]);
    let dashes = head[2] == b'-' && head[35] == b'-' && head[52] == b'-';
    let ends = tail.is_empty() || (version != b"00" && tail[0] == b'-');
    let digits = [version, trace, parent, flags].into_iter().all(is_hex);
    dashes && ends && digits && version != b"ff" && !is_zero(trace) && !is_zero(parent)
}

fn hex_value<const N: usize>(buffer: &mut [u8; N], fill: impl FnOnce(&mut [u8])) -> HeaderValue {
    fill(buffer);
    HeaderValue::from_bytes(buffer).expect("hexadecimal digits and dashes are visible ASCII")
}

/// Eight digits at a time: a request has some fifty new ones.
fn hex(bytes: &[u8], out: &mut [u8]) {
    for (four, digits) in bytes.chunks_exact(4).zip(out.chunks_exact_mut(8)) {
        let mut spread = four.iter().fold(0, |all, byte| all << 8 | u64::from(*byte));
        // A byte for each digit: the halves apart, then their halves, and so on.
        spread = (spread | spread << 16) & 0x0000_ffff_0000_ffff;
        spread = (spread | spread << 8) & 0x00ff_00ff_00ff_00ff;
        spread = (spread | spread << 4) & 0x0f0f_0f0f_0f0f_0f0f;
        // 1 in each byte that is a letter.
        let letters = (spread + 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101;
        spread += 0x3030_3030_3030_3030 + letters * u64::from(b'a' - b'0' - 10);
        digits.copy_from_slice(&spread.to_be_bytes());
    }
}

/// xoshiro256++, seeded once per thread by the operating system: unique ids at a few nanoseconds and no system call each. Ids are
/// labels, not secrets; whoever sees several may guess the next, and gains nothing by it.
struct Generator([u64; 4]);

impl Generator {
    fn seeded() -> Self {
        loop {
            let mut seed = [0_u64; 4];
            for word in &mut seed {
                *word = getrandom::u64().expect("the operating system gives random numbers");
            }
            // All zeros is the one state that the generator never leaves.
            if seed != [0; 4] {
                return Generator(seed);
            }
        }
    }

    fn next(&mut self) -> u64 {
        let s = &mut self.0;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }
}

fn random_128() -> u128 {
    thread_local! {
        static GENERATOR: RefCell<Generator> = RefCell::new(Generator::seeded());
    }
    GENERATOR.with_borrow_mut(|generator| (u128::from(generator.next()) << 64) | u128::from(generator.next()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: HeaderName = HeaderName::from_static("x-request-id");

    #[test]
    fn digits_are_those_of_the_standard_library() {
        for _ in 0..1000 {
            let number = random_128();
            let mut digits = [0; 32];
            hex(&number.to_be_bytes(), &mut digits);
            assert_eq!(std::str::from_utf8(&digits).unwrap(), format!("{number:032x}"));
        }
    }

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn only_a_trusted_peer_names_a_request() {
        let with = |id: &str| HeaderMap::from_iter([(NAME, HeaderValue::from_str(id).unwrap())]);
        assert_eq!(request_id(&with("abc-1"), &NAME, true), "abc-1");
        assert_eq!(request_id(&with(&"a".repeat(128)), &NAME, true).len(), 128);
        let mut twice = with("a");
        twice.append(NAME, HeaderValue::from_static("b"));
        let long = with(&"a".repeat(129));
        for (headers, trusted) in
            [(with("abc-1"), false), (with(""), true), (with("a b"), true), (long, true), (twice, true)]
        {
            let id = request_id(&headers, &NAME, trusted);
            assert_eq!(id.len(), 32);
            assert!(id.as_bytes().iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
            assert_ne!(id, request_id(&headers, &NAME, trusted));
        }
    }

    fn ensure(headers: &mut HeaderMap) {
        ensure_traceparent(headers, HeaderClasses::of(headers));
    }

    #[test]
    fn a_valid_trace_is_passed_on_and_another_replaced() {
        let after = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(TRACESTATE, HeaderValue::from_static("vendor=1"));
            headers.insert(TRACEPARENT, HeaderValue::from_str(value).unwrap());
            ensure(&mut headers);
            assert!(is_traceparent(headers[TRACEPARENT].as_bytes()));
            (headers[TRACEPARENT] == value, headers.contains_key(TRACESTATE))
        };
        assert_eq!(after(VALID), (true, true));
        assert_eq!(after(&VALID.replacen("00-", "01-", 1)), (true, true));
        assert_eq!(after(&format!("{}-more", VALID.replacen("00-", "01-", 1))), (true, true));
        for invalid in [
            "",
            "00",
            &VALID.to_uppercase(),
            &VALID.replacen("00-", "ff-", 1),
            &format!("{VALID}-more"),
            &format!("{}more", VALID.replacen("00-", "01-", 1)),
            &VALID.replace("4bf92f3577b34da6a3ce929d0e0e4736", "00000000000000000000000000000000"),
            &VALID.replace("00f067aa0ba902b7", "0000000000000000"),
            &VALID.replace('-', "_"),
        ] {
            assert_eq!(after(invalid), (false, false), "{invalid}");
        }
        let mut none = HeaderMap::new();
        ensure(&mut none);
        assert!(is_traceparent(none[TRACEPARENT].as_bytes()));
    }
}
