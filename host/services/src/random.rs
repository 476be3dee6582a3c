//! Randomness from the operating system's generator, fit for secrets; and, for what filters draw in tests, one that is the same each time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::ServiceError;

/// The most bytes of one call.
pub const MAX_BYTES: u32 = 64 * 1024;

/// What filters draw from.
#[derive(Debug, Clone)]
pub enum Random {
    /// The operating system's generator.
    System,
    /// The same numbers for the same seed: for tests of filters, and for nothing that has to be secret.
    Seeded(Arc<AtomicU64>),
}

impl Random {
    /// A sequence that follows from its seed.
    pub fn seeded(seed: u64) -> Self {
        Random::Seeded(Arc::new(AtomicU64::new(seed)))
    }

    /// `length` random bytes; `TooLarge` past [`MAX_BYTES`].
    pub fn bytes(&self, length: u32) -> Result<Vec<u8>, ServiceError> {
        let Random::Seeded(state) = self else { return bytes(length) };
        if length > MAX_BYTES {
            return Err(ServiceError::TooLarge(u64::from(MAX_BYTES)));
        }
        let length = length as usize;
        let numbers = (0..length.div_ceil(8)).flat_map(|_| next(state).to_le_bytes());
        Ok(numbers.take(length).collect())
    }

    /// A random number.
    pub fn number(&self) -> Result<u64, ServiceError> {
        match self {
            Random::System => number(),
            Random::Seeded(state) => Ok(next(state)),
        }
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
fn next(state: &AtomicU64) -> u64 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut mixed = state.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

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
    fn a_seed_gives_the_same_numbers_each_time() {
        let (a, b) = (Random::seeded(7), Random::seeded(7));
        assert_eq!(a.bytes(11), b.bytes(11));
        assert_eq!(a.number(), b.number());
        assert_ne!(a.number(), Random::seeded(8).number());
        // The first number of the reference implementation for the seed 0.
        assert_eq!(Random::seeded(0).number(), Ok(0xe220_a839_7b1d_cdaf));
        assert_eq!(a.bytes(MAX_BYTES + 1), Err(ServiceError::TooLarge(65_536)));
    }

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
