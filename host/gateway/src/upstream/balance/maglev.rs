//! Maglev hashing (Eisenbud and others, NSDI 2016): a table in which each endpoint fills slots by an order of preference of its own. It
//! spreads evenly; a change of the endpoints moves few keys but theirs.

use super::mix;

/// The size of the table, a prime: the paper's and Envoy's.
const SIZE: usize = 65_537;

/// The table of endpoints, given as hash and weight: for each slot the place of its endpoint in this list.
pub(super) fn table(endpoints: &[(u64, u32)]) -> Vec<u32> {
    let total: u64 = endpoints.iter().map(|(_, weight)| u64::from(*weight)).sum();
    if total == 0 {
        return Vec::new();
    }
    let mut fillers: Vec<Filler> = (0..)
        .zip(endpoints)
        .filter(|(_, (_, weight))| *weight > 0)
        .map(|(place, (hash, weight))| Filler::new(place, *hash, SIZE as u64 * u64::from(*weight) / total))
        .collect();
    // What rounding has left, to the first ones; the order of the list must not matter for the same endpoints.
    fillers.sort_unstable_by_key(|filler| filler.hash);
    let given: u64 = fillers.iter().map(|filler| filler.quota).sum();
    let count = fillers.len().max(1) as u64;
    for (i, filler) in (0..).zip(&mut fillers) {
        let rest = (SIZE as u64).saturating_sub(given);
        filler.quota += rest / count + u64::from(i < rest % count);
    }
    let mut table = vec![u32::MAX; SIZE];
    let mut left = SIZE;
    while left > 0 && !fillers.is_empty() {
        fillers.retain_mut(|filler| {
            if left == 0 || filler.quota == 0 {
                return false;
            }
            let slot = filler.free_slot(&table);
            table[slot] = filler.place;
            filler.quota -= 1;
            left -= 1;
            true
        });
    }
    table
}

/// An endpoint while the table is filled.
struct Filler {
    place: u32,
    hash: u64,
    slot: usize,
    skip: usize,
    /// Slots that it still gets.
    quota: u64,
}

impl Filler {
    fn new(place: u32, hash: u64, quota: u64) -> Self {
        let slot = (mix(hash) % SIZE as u64) as usize;
        let skip = (mix(hash ^ 0x9e37_79b9_7f4a_7c15) % (SIZE as u64 - 1)) as usize + 1;
        // Whoever has weight gets a slot.
        Filler { place, hash, slot, skip, quota: quota.max(1) }
    }

    /// The next free one in its order, which visits all since the size is a prime.
    fn free_slot(&mut self, table: &[u32]) -> usize {
        while table[self.slot] != u32::MAX {
            self.slot = (self.slot + self.skip) % SIZE;
        }
        self.slot
    }
}
