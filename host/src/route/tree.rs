//! The index: hosts by hash, then paths segment by segment by hash, so that a lookup costs what the request is long and not what the
//! configuration is. Every entry has a rank in one total order, the least is the best; a part of the index whose best rank
//! can't win is not entered, and conditions are evaluated only for entries that could.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use regex::{RegexSet, RegexSetBuilder};

use super::build::Match;
use super::{HostPattern, PathPattern, RequestView, pattern};

/// A match in the index.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// The place in the order of precedence, 0 first.
    pub(super) rank: u32,
    /// The place in the router's list of matches.
    pub(super) at: usize,
}

/// The segments of a path that starts with a slash. `/` has one, the empty one.
pub(super) fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/').unwrap_or(path).split('/')
}

/// The outer index.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    exact: HashMap<Box<str>, Bucket, RandomState>,
    wildcard: HashMap<Box<str>, Bucket, RandomState>,
    any: Bucket,
}

impl Hosts {
    /// Entries have to come in the order of rank.
    pub(super) fn insert(&mut self, host: &HostPattern, path: &PathPattern, entry: Entry) {
        let bucket = match host {
            HostPattern::Any => &mut self.any,
            HostPattern::Exact(host) => self.exact.entry(host.clone()).or_default(),
            HostPattern::Wildcard(suffix) => self.wildcard.entry(suffix.clone()).or_default(),
        };
        bucket.insert(path, entry);
    }

    /// To be called after the last insertion.
    pub(super) fn finish(&mut self) -> Result<(), regex::Error> {
        let buckets = self.exact.values_mut().chain(self.wildcard.values_mut());
        buckets.chain([&mut self.any]).try_for_each(Bucket::finish)
    }

    pub(super) fn find(&self, view: &RequestView, segments: &[&str], matches: &[Match]) -> Option<Entry> {
        let mut walk = Walk { view, segments, matches, best: None };
        if !self.exact.is_empty()
            && let Some(bucket) = self.exact.get(view.host)
        {
            walk.bucket(bucket);
        }
        if !self.wildcard.is_empty() {
            let mut host = view.host;
            while let Some((_, suffix)) = host.split_once('.') {
                if let Some(bucket) = self.wildcard.get(suffix) {
                    walk.bucket(bucket);
                }
                host = suffix;
            }
        }
        walk.bucket(&self.any);
        walk.best
    }
}

/// The matches of one host pattern.
#[derive(Debug)]
struct Bucket {
    /// The first node is the root.
    nodes: Vec<Node>,
    patterns: Patterns,
}

/// A place in the tree, reached by a number of segments.
#[derive(Debug)]
struct Node {
    literals: HashMap<Box<str>, usize, RandomState>,
    /// The child for any non-empty segment.
    wild: Option<usize>,
    /// For paths that end here, best first.
    here: Vec<Entry>,
    /// For paths that end here or go on, best first.
    below: Vec<Entry>,
    /// The best rank of this node and all under it.
    best: u32,
}

/// The regular expressions, best first, tried in one pass.
#[derive(Debug, Default)]
struct Patterns {
    texts: Vec<String>,
    entries: Vec<Entry>,
    set: RegexSet,
}

impl Node {
    fn new(best: u32) -> Node {
        Node { literals: HashMap::default(), wild: None, here: vec![], below: vec![], best }
    }
}

impl Default for Bucket {
    fn default() -> Self {
        Bucket { nodes: vec![Node::new(u32::MAX)], patterns: Patterns::default() }
    }
}

impl Bucket {
    fn insert(&mut self, path: &PathPattern, entry: Entry) {
        let (segments, rest) = match path {
            PathPattern::Segments { segments, rest } => (segments, *rest),
            PathPattern::Regex(regex) => {
                self.patterns.texts.push(regex.as_str().to_owned());
                self.patterns.entries.push(entry);
                return;
            }
        };
        let mut at = 0;
        self.nodes[at].best = self.nodes[at].best.min(entry.rank);
        for segment in segments {
            let new = self.nodes.len();
            at = match segment {
                pattern::Segment::Literal(text) => *self.nodes[at].literals.entry(text.as_ref().into()).or_insert(new),
                pattern::Segment::Param(_) | pattern::Segment::Any => *self.nodes[at].wild.get_or_insert(new),
            };
            if at == new {
                self.nodes.push(Node::new(u32::MAX));
            }
            self.nodes[at].best = self.nodes[at].best.min(entry.rank);
        }
        let node = &mut self.nodes[at];
        if rest { node.below.push(entry) } else { node.here.push(entry) }
    }

    fn finish(&mut self) -> Result<(), regex::Error> {
        if !self.patterns.texts.is_empty() {
            // Each expression was held to the usual limit on its own; the set is as large as the operator makes it.
            let texts = std::mem::take(&mut self.patterns.texts);
            self.patterns.set = RegexSetBuilder::new(texts).size_limit(usize::MAX).build()?;
        }
        Ok(())
    }
}

/// One lookup.
struct Walk<'a> {
    view: &'a RequestView<'a>,
    segments: &'a [&'a str],
    matches: &'a [Match],
    best: Option<Entry>,
}

impl Walk<'_> {
    fn could_win(&self, rank: u32) -> bool {
        self.best.is_none_or(|best| rank < best.rank)
    }

    fn bucket(&mut self, bucket: &Bucket) {
        self.node(bucket, 0, 0);
        let patterns = &bucket.patterns;
        if patterns.entries.first().is_some_and(|entry| self.could_win(entry.rank)) {
            for index in patterns.set.matches(self.view.path) {
                if let Some(entry) = patterns.entries.get(index)
                    && self.offer(*entry)
                {
                    break;
                }
            }
        }
    }

    /// The most specific ways first: what they find spares the others.
    fn node(&mut self, bucket: &Bucket, at: usize, depth: usize) {
        let node = &bucket.nodes[at];
        if !self.could_win(node.best) {
            return;
        }
        match self.segments.get(depth) {
            None => self.entries(&node.here),
            Some(segment) => {
                if let Some(&child) = node.literals.get(*segment) {
                    self.node(bucket, child, depth + 1);
                }
                if let Some(child) = node.wild
                    && !segment.is_empty()
                {
                    self.node(bucket, child, depth + 1);
                }
            }
        }
        self.entries(&node.below);
    }

    fn entries(&mut self, entries: &[Entry]) {
        for entry in entries {
            if self.offer(*entry) {
                break;
            }
        }
    }

    /// Whether later entries of the same list are out of the question.
    fn offer(&mut self, entry: Entry) -> bool {
        if !self.could_win(entry.rank) {
            return true;
        }
        let holds = self.matches.get(entry.at).is_some_and(|found| found.holds(self.view));
        if holds {
            self.best = Some(entry);
        }
        holds
    }
}
