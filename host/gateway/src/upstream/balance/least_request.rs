//! The less busy of two.

use super::Dice;
use super::draw::Weighted;
use crate::upstream::endpoints::Host;

/// Of two hosts drawn at random in proportion to their shares, the one with fewer active requests for its share. Two are enough to keep
/// away from one that is slow, and unlike the least of all they don't send everybody to the one that has just come back.
pub(super) fn least_request(hosts: &[Host], among: &Weighted, dice: &Dice) -> Option<u32> {
    let (first, second) = among.two(dice)?;
    let Some(second) = second else { return Some(first.host) };
    let active = |host: u32| hosts.get(host as usize).map_or(0, |host| u128::from(host.record.active()));
    // `a / share of a < b / share of b`, without a division; of two equals the first, so that idle ones get their share.
    let (one, other) = (active(first.host) * u128::from(second.share), active(second.host) * u128::from(first.share));
    Some(if other < one { second.host } else { first.host })
}
