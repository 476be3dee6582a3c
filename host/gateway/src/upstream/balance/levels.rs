//! How the load is divided between priorities, and between the gateway's own zone and the others within each: as Envoy does it, by the
//! share of each level that is available.

/// A level that is available by this many percent of what it needs for all requests gets them all: 72 % of its endpoints are enough.
const OVERPROVISIONING: u64 = 140;

/// The endpoints of one level, by the sum of their shares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Level {
    pub(super) whole: u64,
    pub(super) available: u64,
}

/// What a level gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Load {
    /// In proportion to the others.
    pub(super) part: u64,
    /// Too little of it is available: all its endpoints are used.
    pub(super) is_in_panic: bool,
}

/// The loads of levels in their order, of which each has a share above 0.
pub(super) fn loads(levels: &[Level], panic_threshold: u32) -> Vec<Load> {
    let health = |level: &Level| {
        (u128::from(level.available) * u128::from(OVERPROVISIONING) / u128::from(level.whole.max(1))).min(100) as u64
    };
    let healths: Vec<u64> = levels.iter().map(health).collect();
    let all = healths.iter().sum::<u64>().min(100);
    let mut left = 100;
    let is_in_panic = |level: &Level| {
        all < 100 && u128::from(level.available) * 100 < u128::from(level.whole) * u128::from(panic_threshold)
    };
    let mut loads: Vec<Load> = (levels.iter().zip(&healths))
        .map(|(level, health)| {
            let part = match all {
                // Nothing is available: by size, for what panic makes of it.
                0 => level.whole,
                _ => (health * 100 / all).min(left),
            };
            left -= part.min(left);
            Load { part, is_in_panic: is_in_panic(level) }
        })
        .collect();
    // What rounding has left.
    if all > 0
        && let Some(first) = loads.iter_mut().find(|load| load.part > 0)
    {
        first.part += left;
    }
    loads
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(levels: &[(u64, u64)], panic_threshold: u32) -> Vec<(u64, bool)> {
        let levels: Vec<Level> =
            levels.iter().map(|(available, whole)| Level { whole: *whole, available: *available }).collect();
        loads(&levels, panic_threshold).iter().map(|load| (load.part, load.is_in_panic)).collect()
    }

    /// The examples of Envoy's documentation of priority levels.
    #[test]
    fn a_level_makes_up_for_what_is_missing_before_it() {
        assert_eq!(parts(&[(100, 100), (100, 100)], 50), [(100, false), (0, false)]);
        assert_eq!(parts(&[(72, 100), (100, 100)], 50), [(100, false), (0, false)]);
        assert_eq!(parts(&[(71, 100), (100, 100)], 50), [(99, false), (1, false)]);
        assert_eq!(parts(&[(50, 100), (100, 100)], 50), [(70, false), (30, false)]);
        assert_eq!(parts(&[(25, 100), (100, 100)], 50), [(35, false), (65, false)]);
        assert_eq!(parts(&[(0, 100), (100, 100)], 50), [(0, false), (100, false)], "no panic: the next one has enough");
        assert_eq!(parts(&[(50, 100), (50, 100)], 50), [(70, false), (30, false)]);
        assert_eq!(parts(&[(20, 100), (20, 100)], 50), [(50, true), (50, true)], "in proportion where all are short");
        assert_eq!(parts(&[(5, 100), (65, 100)], 50), [(8, true), (92, false)]);
    }

    #[test]
    fn panic_begins_below_the_threshold() {
        assert_eq!(parts(&[(50, 100)], 50), [(100, false)]);
        assert_eq!(parts(&[(49, 100)], 50), [(100, true)]);
        assert_eq!(parts(&[(1, 100)], 0), [(100, false)], "never");
        assert_eq!(parts(&[(0, 100), (0, 300)], 50), [(100, true), (300, true)]);
    }
}
