//! Consistent hashing: the same key leads to the same endpoint, and a change of the set moves few keys but those of what changed. Tables are
//! built when a set is published, once for all workers; without one (the keys of filters) each host is scored.

use std::cmp::Ordering;

use super::{maglev, mix, ring_hash};
use crate::config::model::HashAlgorithm;
use crate::upstream::endpoints::Host;

/// Slots anywhere in a table that are looked at before all of them are.
const PROBES: u64 = 64;

/// The endpoints of a set in the order that each key prefers.
#[derive(Debug)]
pub(in crate::upstream) struct HashTable {
    /// The points of a ring; empty for a table of slots of the same size.
    points: Vec<u64>,
    /// For each point or slot the index of its endpoint.
    endpoints: Vec<u32>,
}

impl HashTable {
    /// Of endpoints, given as hash of their name and weight. Where none has weight they are equal.
    pub(in crate::upstream) fn new(algorithm: HashAlgorithm, mut endpoints: Vec<(u64, u32)>) -> Self {
        if endpoints.iter().all(|(_, weight)| *weight == 0) {
            endpoints.iter_mut().for_each(|(_, weight)| *weight = 1);
        }
        match algorithm {
            HashAlgorithm::Maglev => HashTable { points: Vec::new(), endpoints: maglev::table(&endpoints) },
            HashAlgorithm::RingHash => {
                let (points, endpoints) = ring_hash::points(&endpoints).into_iter().unzip();
                HashTable { points, endpoints }
            }
        }
    }

    /// The endpoints of a key: first the one that it belongs to, then those for when that can't be used, the same each time. In the end all
    /// were there.
    pub(super) fn from(&self, key: u64) -> impl Iterator<Item = usize> {
        let length = self.endpoints.len();
        let slot = move |key: u64| ((u128::from(key) * length as u128) >> 64) as usize;
        let start = match self.points.is_empty() {
            true => slot(key),
            false => self.points.partition_point(|point| *point < key),
        };
        let (before, after) = self.endpoints.split_at(start.min(length));
        let around = after.iter().chain(before);
        // Slots side by side are not independent of each other, so that one neighbour would get more than the others. Points are.
        let probes = if self.points.is_empty() && length > 0 { PROBES } else { 0 };
        let probed = (1..=probes).map(move |n| &self.endpoints[slot(mix(key.wrapping_add(n)))]);
        let first = around.clone().take(1);
        first.chain(probed).chain(around.skip(1)).map(|endpoint| *endpoint as usize)
    }
}

/// Of these hosts the one with the best score for a key, by the rendezvous of its endpoint and then of its address.
pub(super) fn rendezvous<'h>(hosts: impl Iterator<Item = (usize, &'h Host)>, key: u64) -> Option<usize> {
    let score = |host: &Host| {
        let mixed = mix(key ^ host.hash);
        // Weighted rendezvous: -weight / ln(u) with u uniform in (0, 1).
        let uniform = ((mixed >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        (-f64::from(host.weight) / uniform.ln(), mix(key ^ host.address_hash))
    };
    let scored = hosts.map(|(i, host)| (i, score(host)));
    scored.max_by(|(_, a), (_, b)| a.partial_cmp(b).unwrap_or(Ordering::Equal)).map(|(i, _)| i)
}

/// A hash that is the same in every process and version (FNV-1a, mixed): gateways side by side agree on it.
pub fn hash(bytes: &[u8]) -> u64 {
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)))
}
