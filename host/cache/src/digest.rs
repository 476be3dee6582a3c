//! A keyed hash of parts that can't run into each other: what keys, variants and tags are kept as.

use std::hash::Hasher as _;

use siphasher::sip128::{Hasher128 as _, SipHasher13};

/// The secret of the hash. Gateways that share a store share it. Whoever does not know it can't make two keys collide; by chance, 128 bits
/// do not.
#[derive(Clone)]
pub struct Secret([u8; 16]);

impl Secret {
    pub fn new(random: [u8; 16]) -> Secret {
        Secret(random)
    }

    /// `domain` keeps hashes for different uses apart.
    pub(crate) fn digest(&self, domain: u8) -> Digest {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write(&[domain]);
        Digest { hasher }
    }
}

/// The parts written so far. Each begins with its kind, and texts with their length, in one byte order: what was written can be read
/// back in one way only, so no two lists of parts are the same bytes.
pub(crate) struct Digest {
    hasher: SipHasher13,
}

impl Digest {
    pub(crate) fn part(&mut self, text: &[u8]) {
        self.number(b'p', text.len());
        self.hasher.write(text);
    }

    /// A part that is not there is none that is empty.
    pub(crate) fn optional(&mut self, text: Option<&[u8]>) {
        match text {
            Some(text) => self.part(text),
            None => self.number(b'n', 0),
        }
    }

    /// Ends a list of parts of any length.
    pub(crate) fn count(&mut self, parts: usize) {
        self.number(b'c', parts);
    }

    fn number(&mut self, kind: u8, number: usize) {
        self.hasher.write(&[kind]);
        self.hasher.write(&(number as u64).to_le_bytes());
    }

    pub(crate) fn finish(&self) -> [u64; 2] {
        let hash = self.hasher.finish128();
        [hash.h1, hash.h2]
    }

    /// Half of it, for tables where a collision costs a fetch and no more.
    pub(crate) fn finish_short(&self) -> u64 {
        self.hasher.finish128().h1
    }
}
