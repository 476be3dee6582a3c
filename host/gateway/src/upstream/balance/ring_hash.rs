//! A hash ring, as of ketama: each endpoint has points on it in proportion to its weight, and a key belongs to the next point. A change of
//! the endpoints moves the keys of what changed only.

use super::mix;

/// Up to so many endpoints, the heaviest has so many points. A number that depended on each endpoint would move keys of all others when
/// one comes or goes.
const TIERS: [(usize, u64); 4] = [(16, 4096), (64, 1024), (4096, 128), (usize::MAX, 16)];

/// The points of endpoints, given as hash and weight, in order: each with the place of its endpoint in this list.
pub(super) fn points(endpoints: &[(u64, u32)]) -> Vec<(u64, u32)> {
    let with_weight = || (0..).zip(endpoints).filter(|(_, (_, weight))| *weight > 0);
    let Some(heaviest) = with_weight().map(|(_, (_, weight))| u64::from(*weight)).max() else { return Vec::new() };
    let endpoint_count = with_weight().count();
    let most = TIERS.iter().find(|(up_to, _)| endpoint_count <= *up_to).map_or(1, |(_, points)| *points);
    let mut points = Vec::with_capacity(endpoint_count * most as usize);
    for (place, (hash, weight)) in with_weight() {
        let count = (most * u64::from(*weight) / heaviest).max(1);
        points.extend((0..count).map(|n| (mix(hash ^ mix(n.wrapping_add(0x9e37_79b9_7f4a_7c15))), place)));
    }
    // Of two at the same point the one that is first by hash, whatever their order in the list is.
    points.sort_unstable_by_key(|(point, place)| (*point, endpoints[*place as usize].0));
    points
}
