//! Rendezvous hashing: the same key leads to the same endpoint, and a change of the set moves only the keys of what changed.

use std::cmp::Ordering;
use std::time::Instant;

use super::mix;
use crate::upstream::endpoints::Host;

/// The host of a key that was not tried yet: of the endpoint with the best score its best address. An address that may not be tried
/// now hands its keys to their second best.
pub(in crate::upstream) fn by_hash(hosts: &[Host], key: &str, tried: &[usize], now: Instant) -> Option<usize> {
    let key = hash(key.as_bytes());
    let score = |host: &Host| {
        let mixed = mix(key ^ host.hash);
        // Weighted rendezvous: -weight / ln(u) with u uniform in (0, 1).
        let uniform = ((mixed >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        -f64::from(host.weight) / uniform.ln()
    };
    let rank = |host: &Host| (host.record.may_try(now), score(host), mix(key ^ host.address_hash));
    let (chosen, host) = hosts
        .iter()
        .enumerate()
        .filter(|(i, _)| !tried.contains(i))
        .max_by(|(_, a), (_, b)| rank(a).partial_cmp(&rank(b)).unwrap_or(Ordering::Equal))?;
    host.record.claim(now);
    Some(chosen)
}

/// A hash that is the same in every process and version (FNV-1a, mixed): gateways side by side agree on it.
pub(in crate::upstream) fn hash(bytes: &[u8]) -> u64 {
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)))
}
