//! Digests to numbers. A look-up takes the same steps whether it finds something or not, so that its time says nothing of what is there.

use aws_lc_rs::constant_time::verify_slices_are_equal;

/// SHA-256 of something.
pub(super) type Digest = [u8; 32];

/// Digests in their order, each with a number. SHA-256 spreads evenly and nobody chooses one, so the first bytes tell nearly all apart.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// The first eight bytes of each digest: the search reads nothing else, and these fit in a cache.
    prefixes: Box<[u64]>,
    entries: Box<[(Digest, u32)]>,
}

impl Index {
    /// The index of these, or the numbers of two that have the same digest.
    pub(super) fn new(mut entries: Vec<(Digest, u32)>) -> Result<Index, (u32, u32)> {
        entries.sort_unstable();
        if let Some(pair) = entries.array_windows().find(|[a, b]| a.0 == b.0) {
            return Err((pair[0].1, pair[1].1));
        }
        let prefixes = entries.iter().map(|(digest, _)| prefix(digest)).collect();
        Ok(Index { prefixes, entries: entries.into() })
    }

    /// The number of a digest.
    pub(super) fn find(&self, digest: &Digest) -> Option<u32> {
        let wanted = prefix(digest);
        let mut at = self.prefixes.partition_point(|prefix| *prefix < wanted);
        // Past the end is the last entry, so that there is one to compare with. Two digests with the same beginning are 2^64 apart.
        at = at.min(self.entries.len().saturating_sub(1));
        let (mut found, mut number) = (false, 0);
        for (known, of_known) in self.entries.get(at..)?.iter().take(1 + self.twins(at, wanted)) {
            let is_it = verify_slices_are_equal(known, digest).is_ok();
            found |= is_it;
            number = if is_it { *of_known } else { number };
        }
        found.then_some(number)
    }

    /// How many digests after this one have the same beginning.
    fn twins(&self, at: usize, wanted: u64) -> usize {
        self.prefixes.get(at + 1..).map_or(0, |rest| rest.iter().take_while(|prefix| **prefix == wanted).count())
    }

    /// Its bytes on the heap.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.prefixes) + size_of_val(&*self.entries)
    }
}

fn prefix(digest: &Digest) -> u64 {
    let [first @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = *digest;
    u64::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(first: u8, last: u8) -> Digest {
        let mut digest = [7; 32];
        (digest[0], digest[31]) = (first, last);
        digest
    }

    #[test]
    fn what_is_there_is_found_and_nothing_else() {
        let index =
            Index::new(vec![(digest(9, 1), 0), (digest(3, 1), 1), (digest(3, 2), 2), (digest(250, 0), 3)]).unwrap();
        for (wanted, number) in [
            (digest(9, 1), Some(0)),
            (digest(3, 1), Some(1)),
            (digest(3, 2), Some(2)),
            (digest(250, 0), Some(3)),
            (digest(3, 3), None),
            (digest(0, 0), None),
            (digest(255, 0), None),
            (digest(100, 0), None),
        ] {
            assert_eq!(index.find(&wanted), number, "{wanted:?}");
        }
        assert_eq!(Index::default().find(&digest(0, 0)), None);
        assert_eq!(Index::new(vec![(digest(9, 1), 4), (digest(3, 1), 1), (digest(9, 1), 6)]).unwrap_err(), (4, 6));
    }
}
