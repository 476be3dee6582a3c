//! Chooses an address: a file for each algorithm. Pure functions of the records, a plan made of their states (`plan`) and random numbers. The
//! plan says who may be chosen, with which share: by state, priority, zone (`levels`; `spill` by load), subset and slow start. Algorithms choose among
//! those, in a time that does not grow with their number.

mod draw;
mod hashing;
mod least_request;
mod left;
mod levels;
mod maglev;
mod peak_ewma;
mod plan;
mod ring_hash;
mod round_robin;
mod slow_start;
mod spill;
mod sticky;

#[cfg(test)]
mod distribution_tests;
#[cfg(test)]
mod tests;

use std::cell::Cell;

pub(super) use hashing::HashTable;
pub use hashing::hash;
pub(super) use left::Left;
pub(crate) use peak_ewma::Ewma;
pub(super) use plan::{Basis, Plan};
pub(super) use sticky::Sessions;

/// What keeps a request at its endpoint, by what its upstream asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Affinity {
    /// Of the value that is hashed.
    pub(super) hash: Option<u64>,
    /// The endpoint of its session, by index.
    pub(super) session: Option<usize>,
}

impl Affinity {
    /// Of the hash of a value, and the endpoint that `LocalEndpoints::session` has found for a cookie.
    pub const fn new(hash: Option<u64>, session: Option<usize>) -> Self {
        Affinity { hash, session }
    }
}

/// Random numbers to spread requests with (splitmix64). Nothing depends on nobody guessing them.
#[derive(Debug, Clone)]
pub(crate) struct Dice(Cell<u64>);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Dice(Cell::new(seed))
    }

    /// A number below `end`; 0 if there is none.
    pub(super) fn below(&self, end: u64) -> u64 {
        self.0.set(self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        // The high half of the product (Lemire): no division, and a bias of one in 2^64 for each step of `end`.
        ((u128::from(mix(self.0.get())) * u128::from(end)) >> 64) as u64
    }
}

/// The finaliser of splitmix64.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
