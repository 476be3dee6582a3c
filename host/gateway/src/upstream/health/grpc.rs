//! The messages of the gRPC health protocol (`grpc.health.v1`): few enough fields to write and read them here.

use bytes::{BufMut, Bytes, BytesMut};

/// The most of a response that is read. The message itself has two bytes.
pub(super) const MAX_RESPONSE: usize = 1024;

/// The one status that is a good one (`HealthCheckResponse.ServingStatus`).
pub(super) const SERVING: u64 = 1;

/// A `HealthCheckRequest` for a service, with its length before it as gRPC frames messages.
pub(super) fn request(service_name: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service_name.is_empty() {
        // Field 1, of the wire type 2 (a length and bytes).
        message.put_u8(1 << 3 | 2);
        put_varint(&mut message, service_name.len() as u64);
        message.put_slice(service_name.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(&message);
    framed.freeze()
}

/// The `status` of a framed `HealthCheckResponse`; 0, which is UNKNOWN, where the message has none. `None`: it is none.
pub(super) fn status(framed: &[u8]) -> Option<u64> {
    let (head, mut message) = framed.split_at_checked(5)?;
    let [compressed, length @ ..] = head else { return None };
    let length: [u8; 4] = length.try_into().ok()?;
    if *compressed != 0 || u32::from_be_bytes(length) as usize != message.len() {
        return None;
    }
    let mut status = 0;
    while !message.is_empty() {
        let key = varint(&mut message)?;
        match (key >> 3, key & 7) {
            (1, 0) => status = varint(&mut message)?,
            // Fields that nobody knows yet are passed over.
            (_, 0) => {
                varint(&mut message)?;
            }
            (_, 1) => message = message.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            (_, 5) => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn put_varint(out: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

fn varint(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        number |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_name_their_service() {
        assert_eq!(request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(request("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = request(&"x".repeat(200));
        assert_eq!(long[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 0x01]);
    }

    #[test]
    fn statuses_are_read_and_nonsense_is_none() {
        let framed = |message: &[u8]| [&[0, 0, 0, 0, message.len() as u8][..], message].concat();
        assert_eq!(status(&framed(&[0x08, 1])), Some(SERVING));
        assert_eq!(status(&framed(&[0x08, 2])), Some(2));
        assert_eq!(status(&framed(&[])), Some(0), "a default value is left out");
        assert_eq!(status(&framed(&[0x12, 2, 9, 9, 0x08, 1])), Some(SERVING), "an unknown field");
        for nonsense in [&[][..], &[0, 0, 0, 0], &[1, 0, 0, 0, 2, 8, 1], &[0, 0, 0, 0, 9, 8, 1]] {
            assert_eq!(status(nonsense), None, "{nonsense:?}");
        }
        for broken in
            [&[0x08][..], &[0x08, 0x80], &[0x0a, 9], &[0x0b], &[0xff; 12], &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff]]
        {
            assert_eq!(status(&framed(broken)), None, "{broken:?}");
        }
    }
}
