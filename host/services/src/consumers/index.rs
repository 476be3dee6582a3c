//! Digests to numbers. A look-up does the same work whether it finds something or not, so that its time says nothing of what is there.
//!
//! The same steps are not enough: a look-up also has to find as much of what it reads in the processor's caches. Of unknown digests, more are
//! followed by the entry behind a large gap, so those that are compared with the next entry read some entries often and others never.
//! Therefore a digest that is not there is compared with an entry that it chooses itself, each of which is as likely, and the search reads
//! little enough to stay in a cache.

use std::hint::select_unpredictable;

use aws_lc_rs::constant_time::verify_slices_are_equal;

/// SHA-256 of something.
pub(super) type Digest = [u8; 32];

/// Digests in their order, each with a number. SHA-256 spreads evenly and nobody chooses one, so the first bytes tell nearly all apart.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// The first four bytes of each digest: the search reads nothing else, and those of 100,000 fit in a cache of the core.
    prefixes: Box<[u32]>,
    entries: Box<[(Digest, u32)]>,
}

/// What a look-up has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// The number of the digest. Of one that is not there, another's, always the same: so the caller can do the same work for it.
    pub(super) number: u32,
    pub(super) is_there: bool,
}

impl Found {
    /// The number, if the digest is there.
    pub(super) fn number(self) -> Option<u32> {
        self.is_there.then_some(self.number)
    }
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

    /// Looks a digest up. None in an index that is empty.
    pub(super) fn find(&self, digest: &Digest) -> Option<Found> {
        let wanted = prefix(digest);
        let at = self.prefixes.partition_point(|prefix| *prefix < wanted);
        let begins_alike = self.prefixes.get(at) == Some(&wanted);
        let first = select_unpredictable(begins_alike, at, self.stand_in(digest)?);
        // Of 100,000 digests, about one pair has the same beginning.
        let alike =
            self.prefixes.get(at + 1..).map_or(0, |rest| rest.iter().take_while(|next| **next == wanted).count());
        let (known, number) = self.entries.get(first)?;
        let mut found = Found { number: *number, is_there: verify_slices_are_equal(known, digest).is_ok() };
        for (known, number) in self.entries.get(first + 1..)?.iter().take(alike) {
            let is_it = verify_slices_are_equal(known, digest).is_ok();
            found.number = select_unpredictable(is_it, *number, found.number);
            found.is_there |= is_it;
        }
        Some(found)
    }

    /// The place of the entry that stands in for a digest if it is not there. Its last bytes choose, which say nothing of its place in the order.
    fn stand_in(&self, digest: &Digest) -> Option<usize> {
        let [.., a, b, c, d] = *digest;
        let chosen = u64::from(u32::from_be_bytes([a, b, c, d]));
        let place = (chosen * self.entries.len() as u64) >> 32;
        (!self.entries.is_empty()).then_some(place as usize)
    }

    /// All digests, with their numbers.
    pub(super) fn entries(&self) -> &[(Digest, u32)] {
        &self.entries
    }

    /// Its bytes on the heap.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.prefixes) + size_of_val(&*self.entries)
    }
}

fn prefix(digest: &Digest) -> u32 {
    let [a, b, c, d, ..] = *digest;
    u32::from_be_bytes([a, b, c, d])
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
            let found = index.find(&wanted).unwrap();
            assert_eq!(found.number(), number, "{wanted:?}");
            assert_eq!(index.find(&wanted), Some(found), "a stand-in is always the same");
            assert!(found.number < 4);
        }
        assert_eq!(Index::default().find(&digest(0, 0)), None);
        assert_eq!(Index::new(vec![(digest(9, 1), 4), (digest(3, 1), 1), (digest(9, 1), 6)]).unwrap_err(), (4, 6));
    }

    #[test]
    fn each_entry_stands_in_for_as_many_digests() {
        const ENTRIES: usize = 64;
        const LOOK_UPS: u32 = 64_000;
        let of = |number: u32| super::super::key_digest(&number.to_le_bytes());
        let index = Index::new((0..ENTRIES as u32).map(|number| (of(number), number)).collect()).unwrap();
        let mut times = [0_u32; ENTRIES];
        for number in 0..LOOK_UPS {
            let found = index.find(&of(1_000_000 + number)).unwrap();
            assert!(!found.is_there);
            times[found.number as usize] += 1;
        }
        // A thousand each is expected, with a standard deviation of 32.
        assert!(times.iter().all(|times| (850..1_150).contains(times)), "{times:?}");
    }
}
