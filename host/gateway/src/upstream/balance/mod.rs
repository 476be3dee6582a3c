//! Chooses an address: a file for each way. Pure functions of the records, the worker's cursors and random numbers, and the time they are
//! given; what they note is who has the trial of an address that had failed.

mod hashing;
mod least_request;
mod round_robin;

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::time::Instant;

use super::endpoints::Host;

pub(super) use hashing::{by_hash, hash};
pub(super) use least_request::least_request;
pub(super) use round_robin::{Cursors, round_robin};

impl Host {
    /// Its share among those of its class. Without any weight in the class they are equal.
    fn portion(&self) -> u64 {
        self.share.max(1)
    }
}

/// What `choose` finds in the best class of hosts that has any: those that were not tried yet by this request and may be tried, else
/// any, those with weight before those without.
fn best_class(
    hosts: &[Host],
    tried: &[usize],
    now: Instant,
    choose: impl Fn(&dyn Fn(usize, &Host) -> bool) -> Option<usize>,
) -> Option<usize> {
    let may_try: [fn(&Host) -> bool; 2] = [|host| host.weight > 0, |_| true];
    for class in may_try {
        // Each worker that is faster to a trial takes one host out of the class, so this ends.
        while let Some(chosen) = choose(&|i, host| !tried.contains(&i) && class(host) && host.record.may_try(now)) {
            if hosts.get(chosen)?.record.claim(now) {
                return Some(chosen);
            }
        }
    }
    let chosen = may_try.iter().find_map(|class| choose(&|i, host| !tried.contains(&i) && class(host)))?;
    hosts.get(chosen)?.record.claim(now);
    Some(chosen)
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
