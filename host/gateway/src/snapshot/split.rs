//! The upstreams of a route and how its requests are shared out among them: by turn, or so that a caller stays where it is while weights
//! change. The weights can be replaced while the snapshot serves; all workers see new ones at once.
//!
//! A caller of a sticky split has one of [`SLOTS`] slots, and each slot an upstream. Which one is weighted rendezvous hashing: the slot
//! draws a number for each upstream, from the upstream's name alone, and takes the one whose number is the best for its weight. So a slot
//! only ever moves to an upstream whose weight has grown in relation to that of the one it leaves. Nothing of it depends on a worker, a
//! process or a machine: all arithmetic is on integers.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::config::model::Name;
pub use crate::config::model::{HashKey, Sticky};

/// The places that callers are spread over. A share of a ten-thousandth is the least that a sticky split can tell apart.
pub const SLOTS: u16 = 10_000;

/// The upstreams of a route with their weights.
pub struct Split {
    /// At least one, by index in the snapshot, in the order of the configuration.
    pub targets: Vec<usize>,
    pub sticky: Option<Sticky>,
    names: Vec<Arc<str>>,
    weights: ArcSwap<Weights>,
}

/// The weights of the targets, in their order.
struct Weights {
    each: Vec<u32>,
    total: u64,
    /// The place of each slot's upstream among the targets; empty unless the split is sticky.
    slots: Box<[u16]>,
}

impl Split {
    /// Each target is an index, a name and a weight; the sum of the weights is above 0.
    pub(super) fn new(targets: Vec<(usize, Arc<str>, u32)>, sticky: Option<Sticky>) -> Self {
        let weights = targets.iter().map(|(_, _, weight)| *weight).collect();
        let (targets, names): (Vec<usize>, Vec<Arc<str>>) =
            targets.into_iter().map(|(index, name, _)| (index, name)).unzip();
        let weights = Weights::new(weights, &names, sticky.is_some());
        Split { targets, sticky, names, weights: ArcSwap::from_pointee(weights) }
    }

    /// The names of the upstreams with the weights that hold now.
    pub fn weights(&self) -> Vec<(Arc<str>, u32)> {
        self.names.iter().cloned().zip(self.weights.load().each.iter().copied()).collect()
    }

    /// Replaces the weights, given in the order of [`Split::weights`]. Requests that are chosen for from now on, on any worker, use them.
    pub fn set_weights(&self, weights: Vec<u32>) {
        debug_assert_eq!(weights.len(), self.names.len());
        self.weights.store(Arc::new(Weights::new(weights, &self.names, self.sticky.is_some())));
    }

    /// Whether other weights hold than these of a configuration.
    pub fn differs_from(&self, written: &[(Name, u32)]) -> bool {
        let weights = self.weights.load();
        let known = || self.names.iter().zip(&weights.each);
        written.iter().any(|(name, weight)| known().all(|(known, now)| **known != **name || now != weight))
    }

    /// The upstream, by index in the snapshot, of a caller in this slot.
    pub fn of_slot(&self, slot: u16) -> usize {
        let weights = self.weights.load();
        let place = weights.slots.get(usize::from(slot % SLOTS)).map_or(0, |place| usize::from(*place));
        self.targets.get(place).copied().unwrap_or_default()
    }

    /// The upstream, by index in the snapshot, at a fraction (of 2^64) of the way through the weights.
    pub fn at(&self, fraction: u64) -> usize {
        let weights = self.weights.load();
        let mut at = ((u128::from(fraction) * u128::from(weights.total)) >> 64) as u64;
        for (target, weight) in self.targets.iter().zip(&weights.each) {
            match at.checked_sub(u64::from(*weight)) {
                None => return *target,
                Some(rest) => at = rest,
            }
        }
        self.targets.first().copied().unwrap_or_default()
    }
}

impl Weights {
    fn new(each: Vec<u32>, names: &[Arc<str>], sticky: bool) -> Self {
        let total = each.iter().map(|weight| u64::from(*weight)).sum();
        let slots = if sticky && names.len() > 1 { slots(&each, names) } else { Box::default() };
        Weights { each, total, slots }
    }
}

/// The place of each slot's upstream.
fn slots(weights: &[u32], names: &[Arc<str>]) -> Box<[u16]> {
    let names: Vec<u64> = names.iter().map(|name| hash(name.as_bytes())).collect();
    let best = |slot: u16| {
        let slot = mix(u64::from(slot) + 1);
        let mut best: Option<(usize, u64, u32)> = None;
        for (place, (name, weight)) in names.iter().zip(weights).enumerate().filter(|(_, (_, weight))| **weight > 0) {
            let drawn = log_distance(mix(name ^ slot));
            // drawn / weight is exponentially distributed with the weight as its rate, so the least one is this upstream's in
            // proportion to its weight.
            let is_less = |(_, least, of): (usize, u64, u32)| {
                u128::from(drawn) * u128::from(of) < u128::from(least) * u128::from(*weight)
            };
            if best.is_none_or(is_less) {
                best = Some((place, drawn, *weight));
            }
        }
        best.map_or(0, |(place, ..)| u16::try_from(place).unwrap_or_default())
    };
    (0..SLOTS).map(best).collect()
}

/// The slot of a caller that is known by this value.
pub fn slot(value: &[u8]) -> u16 {
    slot_at(hash(value))
}

/// The slot at a fraction (of 2^64) of all of them.
pub fn slot_at(fraction: u64) -> u16 {
    ((u128::from(fraction) * u128::from(SLOTS)) >> 64) as u16
}

/// FNV-1a, finished so that all bits depend on all bytes. Callers would change sides if it changed.
fn hash(bytes: &[u8]) -> u64 {
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)))
}

/// The finaliser of splitmix64.
pub(super) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// -log2(x / 2^64) with 32 bits of fraction. Of floating point, another machine may round another digit.
fn log_distance(x: u64) -> u64 {
    let x = x.max(1);
    let whole = x.leading_zeros();
    let mut mantissa = x << whole;
    let mut fraction = 0u64;
    for _ in 0..32 {
        // A number from 1 to 2, with 63 bits of fraction; its square tells the next bit of its logarithm.
        let square = (u128::from(mantissa) * u128::from(mantissa)) >> 63;
        let carry = square >> 64 != 0;
        mantissa = if carry { (square >> 1) as u64 } else { square as u64 };
        fraction = fraction << 1 | u64::from(carry);
    }
    (u64::from(whole + 1) << 32) - fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(weights: &[(&str, u32)], sticky: bool) -> Split {
        let targets = weights.iter().enumerate().map(|(index, (name, weight))| (index, Arc::from(*name), *weight));
        let sticky = sticky.then(|| Sticky { by: vec![HashKey::Consumer], max_age: None });
        Split::new(targets.collect(), sticky)
    }

    fn sides(split: &Split) -> Vec<usize> {
        (0..SLOTS).map(|slot| split.of_slot(slot)).collect()
    }

    #[test]
    fn a_logarithm_is_what_it_is() {
        for x in [1u64, 2, 3, 1 << 32, 0xdead_beef_1234_5678, u64::MAX] {
            let expected = 64.0 - (x as f64).log2();
            let found = log_distance(x) as f64 / f64::from(1u32 << 16) / f64::from(1u32 << 16);
            assert!((found - expected).abs() < 1e-6, "{x}: {found} instead of {expected}");
        }
    }

    #[test]
    fn slots_follow_the_weights() {
        for weights in [&[("a", 90), ("b", 10)][..], &[("a", 1), ("b", 1), ("c", 2)], &[("a", 99), ("b", 1), ("c", 0)]]
        {
            let total: u32 = weights.iter().map(|(_, weight)| weight).sum();
            let sides = sides(&split(weights, true));
            for (index, (_, weight)) in weights.iter().enumerate() {
                let share = sides.iter().filter(|side| **side == index).count() as f64 / f64::from(SLOTS);
                let promised = f64::from(*weight) / f64::from(total);
                assert!((share - promised).abs() < 0.015, "{weights:?}: {share} instead of {promised}");
                assert!(*weight > 0 || share == 0.0, "{weights:?}");
            }
        }
    }

    #[test]
    fn an_upstream_that_grows_only_takes_and_all_others_keep_what_is_left() {
        let split = split(&[("a", 60), ("b", 30), ("c", 10)], true);
        for (grown, weights) in [(2, vec![50, 30, 20]), (2, vec![5, 3, 92]), (1, vec![5, 90, 5])] {
            let before = {
                // The others in proportion to each other as they will be.
                let mut start = weights.clone();
                start[grown] = 1;
                split.set_weights(start);
                sides(&split)
            };
            split.set_weights(weights.clone());
            let moved = before.iter().zip(sides(&split)).filter(|(before, after)| **before != *after);
            assert!(moved.clone().count() > 0);
            assert!(moved.clone().all(|(_, after)| after == grown), "{weights:?}");
        }
        let written = [("c", 10), ("a", 60), ("b", 30)].map(|(name, weight)| (Name::from(name), weight));
        assert!(split.differs_from(&written));
        split.set_weights(vec![60, 30, 10]);
        assert!(!split.differs_from(&written));
    }

    #[test]
    fn two_sides_that_move_step_by_step() {
        let split = split(&[("blue", 100), ("green", 0)], true);
        let mut before = sides(&split);
        for green in [1, 5, 10, 25, 50, 75, 99, 100] {
            split.set_weights(vec![100 - green, green]);
            let after = sides(&split);
            assert!(before.iter().zip(&after).all(|(before, after)| before == after || *after == 1), "{green}");
            before = after;
        }
        assert!(before.iter().all(|side| *side == 1));
    }

    #[test]
    fn the_order_of_the_file_and_the_process_make_no_difference() {
        let (one, other) = (split(&[("a", 70), ("b", 30)], true), split(&[("b", 30), ("a", 70)], true));
        assert!(sides(&one).iter().zip(sides(&other)).all(|(one, other)| *one == 1 - other));
        // Callers would change their sides with a new version of the gateway.
        assert_eq!(["ada", "grace", ""].map(|caller| slot(caller.as_bytes())), [4892, 4764, 9576]);
        assert_eq!((0..8).map(|slot| one.of_slot(slot)).collect::<Vec<_>>(), [1, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn turns_follow_the_weights_exactly() {
        let split = split(&[("a", 3), ("b", 1), ("c", 0)], false);
        let step = (u64::MAX / 400) + 1;
        let count = |target| (0..400).filter(|turn| split.at(turn * step) == target).count();
        assert_eq!([0, 1, 2].map(count), [300, 100, 0]);
    }
}
