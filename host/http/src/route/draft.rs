//! The tree while it grows: one node for each segment, plain maps, no thought of speed.

use std::collections::{BTreeMap, HashMap};

use super::tree::RankedMatch;
use super::{HostPattern, PathPattern, pattern};

/// What is known of every host pattern.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) hosts: Vec<(HostPattern, DraftBucket)>,
    known: HashMap<HostPattern, usize>,
}

/// The matches of one host pattern.
#[derive(Debug, Default)]
pub(super) struct DraftBucket {
    pub(super) root: DraftNode,
    /// Regular expressions, best first.
    pub(super) patterns: Vec<(String, RankedMatch)>,
}

/// A place that a number of segments leads to.
#[derive(Debug, Default)]
pub(super) struct DraftNode {
    pub(super) literals: BTreeMap<Box<str>, DraftNode>,
    pub(super) wild: Option<Box<DraftNode>>,
    /// For paths that end here, best first.
    pub(super) here: Vec<RankedMatch>,
    /// For paths that end here or go on, best first.
    pub(super) below: Vec<RankedMatch>,
}

impl Draft {
    /// Entries have to come in the order of rank.
    pub(super) fn insert(&mut self, host: &HostPattern, path: &PathPattern, entry: RankedMatch) {
        let at = *self.known.entry(host.clone()).or_insert_with(|| {
            self.hosts.push((host.clone(), DraftBucket::default()));
            self.hosts.len() - 1
        });
        let bucket = &mut self.hosts[at].1;
        match path {
            PathPattern::Regex(regex) => bucket.patterns.push((regex.as_str().to_owned(), entry)),
            PathPattern::Segments { segments, rest } => {
                let mut node = &mut bucket.root;
                for segment in segments {
                    node = match segment {
                        pattern::Segment::Literal(text) => node.literals.entry(text.as_ref().into()).or_default(),
                        pattern::Segment::Param(_) | pattern::Segment::Any => node.wild.get_or_insert_default(),
                    };
                }
                if rest.is_any() { node.below.push(entry) } else { node.here.push(entry) }
            }
        }
    }
}

impl DraftNode {
    /// The one child of a node that is nothing but the way to it.
    pub(super) fn take_only_literal(&mut self) -> Option<(Box<str>, DraftNode)> {
        let only = self.literals.len() == 1 && self.wild.is_none() && self.here.is_empty() && self.below.is_empty();
        if only { self.literals.pop_first() } else { None }
    }
}
