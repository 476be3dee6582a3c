//! Draws by weight in constant time, however many there are to draw from.

use super::Dice;

/// Draws of one pair that may hit the same host before the others are looked through.
const ATTEMPTS: usize = 8;

/// Hosts with their shares, prepared for draws: Walker's alias method, in whole numbers, so that shares are exact.
#[derive(Debug)]
pub(super) struct Weighted {
    entries: Vec<Entry>,
    total: u64,
    /// All shares are the same: one number decides.
    is_even: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) host: u32,
    /// The entry that gets the rest of this one's place.
    alias: u32,
    /// Of the total, how much of its place is its own.
    own: u64,
    pub(super) share: u64,
}

impl Weighted {
    /// Of hosts with shares above 0.
    pub(super) fn new(shares: impl Iterator<Item = (u32, u64)>) -> Self {
        let mut entries: Vec<Entry> = shares.map(|(host, share)| Entry { host, alias: 0, own: 0, share }).collect();
        let total = entries.iter().map(|entry| entry.share).sum();
        let is_even = entries.windows(2).all(|pair| pair[0].share == pair[1].share);
        if !is_even {
            fill(&mut entries, total);
        }
        Weighted { entries, total, is_even }
    }

    /// The sum of the shares.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// One of them, by share.
    pub(super) fn one(&self, dice: &Dice) -> Option<&Entry> {
        let entry = self.entries.get(dice.below(self.entries.len() as u64) as usize)?;
        if self.is_even || dice.below(self.total) < entry.own {
            return Some(entry);
        }
        self.entries.get(entry.alias as usize)
    }

    /// Two different ones, the second by share among the rest; one if there is no other.
    pub(super) fn two(&self, dice: &Dice) -> Option<(&Entry, Option<&Entry>)> {
        let first = self.one(dice)?;
        if self.entries.len() == 1 {
            return Some((first, None));
        }
        for _ in 0..ATTEMPTS {
            let second = self.one(dice)?;
            if second.host != first.host {
                return Some((first, Some(second)));
            }
        }
        let others = || self.entries.iter().filter(|entry| entry.host != first.host);
        let mut at = dice.below(self.total - first.share);
        let second = others().find(|entry| match at.checked_sub(entry.share) {
            None => true,
            Some(rest) => {
                at = rest;
                false
            }
        });
        Some((first, second))
    }
}

/// Cuts all shares into places of equal size, each with parts of at most two entries (Vose).
fn fill(entries: &mut [Entry], total: u64) {
    let count = entries.len() as u64;
    let (mut small, mut large) = (Vec::new(), Vec::new());
    for (i, entry) in (0..).zip(entries.iter_mut()) {
        entry.own = entry.share * count;
        if entry.own < total { small.push(i) } else { large.push(i) }
    }
    while let (Some(&poor), Some(&rich)) = (small.last(), large.last()) {
        small.pop();
        let missing = total - entries[poor as usize].own;
        entries[poor as usize].alias = rich;
        let rest = &mut entries[rich as usize].own;
        *rest -= missing;
        if *rest < total {
            large.pop();
            small.push(rich);
        }
    }
    // In whole numbers none is left but those that fill their place.
    for i in small.into_iter().chain(large) {
        entries[i as usize].own = total;
    }
}
