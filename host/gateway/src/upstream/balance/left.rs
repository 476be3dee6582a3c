//! Which hosts a choice may fall on: those that the request has not tried, and of them those that have room, where somebody asks for it.

use smallvec::SmallVec;

/// The hosts that are left to choose from.
#[derive(Clone, Default)]
pub(in crate::upstream) struct Left<'a> {
    /// A bit for each host; those beyond its end are untried.
    tried: SmallVec<[u64; 4]>,
    /// Asked once or twice of each host.
    has_room: Option<&'a dyn Fn(usize) -> bool>,
}

impl<'a> Left<'a> {
    /// All but these.
    pub(in crate::upstream) fn without(tried: impl IntoIterator<Item = usize>) -> Self {
        let mut left = Left::default();
        for host in tried {
            let word = host / 64;
            if left.tried.len() <= word {
                left.tried.resize(word + 1, 0);
            }
            left.tried[word] |= 1 << (host % 64);
        }
        left
    }

    /// Those of them that have room. One that has none is better than one that is out, or has no weight: then the choice falls on nobody.
    pub(in crate::upstream) fn with_room(self, has_room: &'a dyn Fn(usize) -> bool) -> Self {
        Left { has_room: Some(has_room), ..self }
    }

    /// Whether nothing bounds the choice.
    pub(in crate::upstream) fn are_all(&self) -> bool {
        !self.has_tried() && self.has_room.is_none()
    }

    pub(in crate::upstream) fn has_tried(&self) -> bool {
        !self.tried.is_empty()
    }

    pub(super) fn is_untried(&self, host: usize) -> bool {
        self.tried.get(host / 64).is_none_or(|word| word >> (host % 64) & 1 == 0)
    }

    /// Whether anybody asks for room.
    pub(super) fn must_have_room(&self) -> bool {
        self.has_room.is_some()
    }

    pub(in crate::upstream) fn contain(&self, host: usize) -> bool {
        self.is_untried(host) && self.has_room.is_none_or(|has_room| has_room(host))
    }
}
