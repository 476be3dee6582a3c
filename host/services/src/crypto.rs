//! Hashes, HMAC and comparison at native speed. Keys for signatures are in `keyset`.

use aws_lc_rs::{constant_time, digest, hmac};
use data_encoding::HEXLOWER_PERMISSIVE;

use super::ServiceError;

/// The most bytes of data in one call.
pub const MAX_DATA: usize = 1024 * 1024;

/// The digest of `data` with `sha-1`, `sha-256`, `sha-384` or `sha-512`.
pub fn hash(algorithm: &str, data: &[u8]) -> Result<Vec<u8>, ServiceError> {
    check_size(data)?;
    let algorithm = match algorithm {
        "sha-1" => &digest::SHA1_FOR_LEGACY_USE_ONLY,
        "sha-256" => &digest::SHA256,
        "sha-384" => &digest::SHA384,
        "sha-512" => &digest::SHA512,
        other => return Err(unknown(other)),
    };
    Ok(digest::digest(algorithm, data).as_ref().to_vec())
}

/// A SHA-256 digest from its 64 hexadecimal digits.
pub fn from_hex(text: &str) -> Option<[u8; 32]> {
    HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?.try_into().ok()
}

/// HMAC (RFC 2104) of `data` with one of the hashes of [`hash`].
pub fn hmac(algorithm: &str, key: &[u8], data: &[u8]) -> Result<Vec<u8>, ServiceError> {
    check_size(key)?;
    check_size(data)?;
    let algorithm = match algorithm {
        "sha-1" => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        "sha-256" => hmac::HMAC_SHA256,
        "sha-384" => hmac::HMAC_SHA384,
        "sha-512" => hmac::HMAC_SHA512,
        other => return Err(unknown(other)),
    };
    Ok(hmac::sign(&hmac::Key::new(algorithm, key), data).as_ref().to_vec())
}

/// Whether the bytes are equal, in a time that depends on the lengths only.
pub fn equal(a: &[u8], b: &[u8]) -> Result<bool, ServiceError> {
    check_size(a)?;
    check_size(b)?;
    Ok(constant_time::verify_slices_are_equal(a, b).is_ok())
}

/// Refuses more than [`MAX_DATA`].
pub(super) fn check_size(data: &[u8]) -> Result<(), ServiceError> {
    if data.len() > MAX_DATA {
        return Err(ServiceError::TooLarge(MAX_DATA as u64));
    }
    Ok(())
}

fn unknown(algorithm: &str) -> ServiceError {
    ServiceError::Invalid(format!("`{algorithm}` is none of sha-1, sha-256, sha-384 and sha-512"))
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    #[test]
    fn known_digests() {
        let cases = [
            ("sha-1", "a9993e364706816aba3e25717850c26c9cd0d89d"),
            ("sha-256", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        ];
        for (algorithm, digest) in cases {
            assert_eq!(HEXLOWER.encode(&hash(algorithm, b"abc").unwrap()), digest);
        }
        assert_eq!(hash("sha-384", b"").unwrap().len(), 48);
        assert_eq!(hash("sha-512", b"").unwrap().len(), 64);
        assert!(matches!(hash("md5", b""), Err(ServiceError::Invalid(_))));
    }

    #[test]
    fn rfc_4231_case_2() {
        let tag = hmac("sha-256", b"Jefe", b"what do ya want for nothing?").unwrap();
        assert_eq!(HEXLOWER.encode(&tag), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        assert!(matches!(hmac("none", b"", b""), Err(ServiceError::Invalid(_))));
    }

    #[test]
    fn equality_and_sizes() {
        assert_eq!(equal(b"a", b"a"), Ok(true));
        assert_eq!(equal(b"a", b"b"), Ok(false));
        assert_eq!(equal(b"a", b"ab"), Ok(false));
        let large = vec![0; MAX_DATA + 1];
        assert_eq!(equal(&large, b""), Err(ServiceError::TooLarge(1_048_576)));
        assert_eq!(hash("sha-1", &large), Err(ServiceError::TooLarge(1_048_576)));
        assert_eq!(hmac("sha-1", b"", &large), Err(ServiceError::TooLarge(1_048_576)));
    }
}
