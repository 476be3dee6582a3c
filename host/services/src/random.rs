//! Randomness from the operating system's generator, fit for secrets.

use super::ServiceError;

/// The most bytes of one call.
pub const MAX_BYTES: u32 = 64 * 1024;

/// `length` random bytes; `TooLarge` past [`MAX_BYTES`].
pub fn bytes(length: u32) -> Result<Vec<u8>, ServiceError> {
    if length > MAX_BYTES {
        return Err(ServiceError::TooLarge(u64::from(MAX_BYTES)));
    }
    let mut bytes = vec![0; length as usize];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| no_randomness())?;
    Ok(bytes)
}

/// A random number.
pub fn number() -> Result<u64, ServiceError> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| no_randomness())?;
    Ok(u64::from_ne_bytes(bytes))
}

/// 32 random bytes, for a key or a salt.
pub(crate) fn bytes_32() -> [u8; 32] {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).expect("a system without random numbers can't run TLS either");
    bytes
}

fn no_randomness() -> ServiceError {
    ServiceError::Unavailable("the system's random generator failed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_the_asked_length_and_differ() {
        assert_eq!(bytes(0), Ok(Vec::new()));
        let (a, b) = (bytes(32).unwrap(), bytes(32).unwrap());
        assert_eq!(a.len(), 32);
        assert_ne!(a, b);
        assert_ne!(number().unwrap(), number().unwrap());
        assert_eq!(bytes(MAX_BYTES).unwrap().len(), 65_536);
        assert_eq!(bytes(MAX_BYTES + 1), Err(ServiceError::TooLarge(65_536)));
    }
}
