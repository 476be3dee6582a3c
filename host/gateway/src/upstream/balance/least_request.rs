//! The less busy of two.

use std::time::Instant;

use super::{Dice, best_class};
use crate::upstream::endpoints::Host;

/// Of two hosts drawn at random in proportion to their shares, the one with fewer active requests for its share. Two are enough to keep
/// away from one that is slow, and unlike the least of all they don't send everybody to the one that has just come back.
pub(in crate::upstream) fn least_request(hosts: &[Host], dice: &Dice, tried: &[usize], now: Instant) -> Option<usize> {
    best_class(hosts, tried, now, |fits| {
        let (first, one) = drawn(hosts, dice, fits)?;
        let Some((second, other)) = drawn(hosts, dice, |i, host| i != first && fits(i, host)) else {
            return Some(first);
        };
        // `a / share of a < b / share of b`, without a division; of two equals the first, so that idle ones get their share.
        let load = |of: &Host, beside: &Host| u128::from(of.record.active()) * u128::from(beside.portion());
        Some(if load(other, one) < load(one, other) { second } else { first })
    })
}

/// One of those that fit, at random in proportion to the shares.
fn drawn<'h>(hosts: &'h [Host], dice: &Dice, fits: impl Fn(usize, &Host) -> bool) -> Option<(usize, &'h Host)> {
    let fitting = || hosts.iter().enumerate().filter(|(i, host)| fits(*i, host));
    let total: u64 = fitting().map(|(_, host)| host.portion()).sum();
    let mut at = dice.below(total);
    fitting().find(|(_, host)| match at.checked_sub(host.portion()) {
        None => true,
        Some(rest) => {
            at = rest;
            false
        }
    })
}
