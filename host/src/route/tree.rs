//! The index: hosts by hash, then paths segment by segment by hash, so that a lookup costs what the request is long and not what the
//! configuration is. Every entry has a rank in one total order, the least is the best; a part of the index whose best rank
//! can't win is not entered, and conditions are evaluated only for entries that could.
//!
//! With many routes the time goes into cache misses, so the layout is tight: a node is one cache line, runs of literal segments
//! without a branch are one node, and hash tables hold no keys, the node that a slot leads to has its own.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};

use foldhash::fast::RandomState;
use regex::{RegexSet, RegexSetBuilder};

use super::build::Match;
use super::draft::{Draft, DraftNode};
use super::{HostPattern, RequestView};

/// A match in the index.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// The place in the order of precedence, 0 first.
    pub(super) rank: u32,
    /// The place in the router's list of matches.
    pub(super) at: u32,
    /// Whether it has conditions beside host and path.
    pub(super) conditional: bool,
}

/// The segments of a path that starts with a slash. `/` has one, the empty one.
pub(super) fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/').unwrap_or(path).split('/')
}

/// The whole index.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    /// Roots by host; the label of a root is the host.
    exact: Table,
    /// Roots by the suffix of a wildcard.
    wildcard: Table,
    any: Option<u32>,
    /// Regular expressions by root.
    patterns: HashMap<u32, Patterns>,
    hasher: RandomState,
}

/// A place in the tree.
#[derive(Debug)]
#[repr(align(64))]
struct Node {
    /// The literal segments that lead here from the parent, joined by slashes. Nothing at a wildcard's child.
    label: Box<str>,
    /// Children by the first segment of their labels.
    literals: Table,
    /// First those for paths that end here, then those for paths that end here or go on; both best first.
    entries: Box<[Entry]>,
    /// How many of the entries are for paths that end here.
    here: u32,
    /// The child for any non-empty segment; `NONE` if there is none.
    wild: u32,
    /// The best rank of this node and all under it.
    best: u32,
}

const NONE: u32 = u32::MAX;

/// An open-addressed hash table of nodes, at most half full. Slots are the hash and the node.
#[derive(Debug, Default)]
struct Table(Box<[(u32, u32)]>);

/// The regular expressions of one host, best first, tried in one pass.
#[derive(Debug)]
struct Patterns {
    entries: Vec<Entry>,
    set: RegexSet,
}

impl Table {
    fn new(nodes: &[(u32, u32)]) -> Table {
        if nodes.is_empty() {
            return Table::default();
        }
        let size = (nodes.len() * 2).next_power_of_two();
        let mut slots = vec![(0, NONE); size].into_boxed_slice();
        for &(hash, node) in nodes {
            let mut at = hash as usize & (size - 1);
            while slots[at].1 != NONE {
                at = (at + 1) & (size - 1);
            }
            slots[at] = (hash, node);
        }
        Table(slots)
    }

    /// The nodes whose key has this hash: at most one but for collisions.
    fn with_hash(&self, hash: u32) -> impl Iterator<Item = u32> {
        // A table without slots has no mask, and none is looked at.
        let mask = self.0.len().wrapping_sub(1);
        let slots = (0..self.0.len()).map(move |step| self.0[(hash as usize).wrapping_add(step) & mask]);
        slots.take_while(|slot| slot.1 != NONE).filter(move |slot| slot.0 == hash).map(|slot| slot.1)
    }
}

impl Tree {
    pub(super) fn new(draft: Draft) -> Result<Tree, regex::Error> {
        let mut tree = Tree {
            nodes: Vec::new(),
            exact: Table::default(),
            wildcard: Table::default(),
            any: None,
            patterns: HashMap::new(),
            hasher: RandomState::default(),
        };
        let (mut exact, mut wildcard) = (vec![], vec![]);
        for (host, bucket) in draft.hosts {
            let label = match &host {
                HostPattern::Any => "",
                HostPattern::Exact(name) | HostPattern::Wildcard(name) => name,
            };
            let root = tree.add(label.to_owned(), bucket.root);
            match &host {
                HostPattern::Any => tree.any = Some(root),
                HostPattern::Exact(name) => exact.push((tree.hash(name), root)),
                HostPattern::Wildcard(suffix) => wildcard.push((tree.hash(suffix), root)),
            }
            if !bucket.patterns.is_empty() {
                let (texts, entries): (Vec<_>, Vec<_>) = bucket.patterns.into_iter().unzip();
                // Each expression was held to the usual limit on its own; the set is as large as the operator makes it.
                let set = RegexSetBuilder::new(texts).size_limit(usize::MAX).build()?;
                tree.patterns.insert(root, Patterns { entries, set });
            }
        }
        tree.exact = Table::new(&exact);
        tree.wildcard = Table::new(&wildcard);
        Ok(tree)
    }

    fn hash(&self, text: &str) -> u32 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(text.as_bytes());
        hasher.finish() as u32
    }

    fn add(&mut self, label: String, draft: DraftNode) -> u32 {
        let at = self.nodes.len();
        let here = draft.here.len();
        let entries: Box<[Entry]> = draft.here.into_iter().chain(draft.below).collect();
        let mut best = entries.iter().map(|entry| entry.rank).min().unwrap_or(u32::MAX);
        let (here, wild) = (index(here), NONE);
        self.nodes.push(Node { label: label.into(), literals: Table::default(), entries, here, wild, best });
        let mut literals = Vec::with_capacity(draft.literals.len());
        for (first, mut child) in draft.literals {
            let hash = self.hash(&first);
            let mut label = first.into_string();
            while let Some((segment, only)) = child.take_only_literal() {
                label.push('/');
                label.push_str(&segment);
                child = only;
            }
            let child = self.add(label, child);
            best = best.min(self.nodes[child as usize].best);
            literals.push((hash, child));
        }
        if let Some(child) = draft.wild {
            let child = self.add(String::new(), *child);
            best = best.min(self.nodes[child as usize].best);
            self.nodes[at].wild = child;
        }
        self.nodes[at].literals = Table::new(&literals);
        self.nodes[at].best = best;
        index(at)
    }

    /// The best match.
    pub(super) fn find(&self, view: &RequestView, matches: &[Match]) -> Option<Entry> {
        let mut walk = Walk { tree: self, view, matches, best: None };
        walk.host(&self.exact, view.host);
        if !self.wildcard.0.is_empty() {
            let mut host = view.host;
            while let Some((_, suffix)) = host.split_once('.') {
                walk.host(&self.wildcard, suffix);
                host = suffix;
            }
        }
        if let Some(root) = self.any {
            walk.root(root);
        }
        walk.best
    }
}

pub(super) fn index(at: usize) -> u32 {
    u32::try_from(at).expect("a configuration of four thousand million matches does not fit in memory")
}

/// One lookup.
struct Walk<'a> {
    tree: &'a Tree,
    view: &'a RequestView<'a>,
    matches: &'a [Match],
    best: Option<Entry>,
}

impl Walk<'_> {
    fn could_win(&self, rank: u32) -> bool {
        self.best.is_none_or(|best| rank < best.rank)
    }

    fn host(&mut self, table: &Table, host: &str) {
        if table.0.is_empty() {
            return;
        }
        for root in table.with_hash(self.tree.hash(host)) {
            if *self.tree.nodes[root as usize].label == *host {
                return self.root(root);
            }
        }
    }

    fn root(&mut self, root: u32) {
        let path = self.view.path;
        self.node(root, Some(path.strip_prefix('/').unwrap_or(path)));
        if self.tree.patterns.is_empty() {
            return;
        }
        if let Some(patterns) = self.tree.patterns.get(&root)
            && patterns.entries.first().is_some_and(|entry| self.could_win(entry.rank))
        {
            for at in patterns.set.matches(path) {
                if patterns.entries.get(at).is_some_and(|entry| self.offer(*entry)) {
                    break;
                }
            }
        }
    }

    /// Looks at a node with what is left of the path: `None` at its end, `""` for one empty segment. The most specific ways go
    /// first: what they find spares the others.
    fn node(&mut self, at: u32, rest: Option<&str>) {
        let node = &self.tree.nodes[at as usize];
        if !self.could_win(node.best) {
            return;
        }
        let (here, below) = node.entries.split_at(node.here as usize);
        match rest {
            None => self.entries(here),
            Some(rest) if !node.literals.0.is_empty() || node.wild != NONE => {
                let (segment, after) = match rest.split_once('/') {
                    Some((segment, after)) => (segment, Some(after)),
                    None => (rest, None),
                };
                if !node.literals.0.is_empty() {
                    for child in node.literals.with_hash(self.tree.hash(segment)) {
                        if let Some(after) = after_label(rest, &self.tree.nodes[child as usize].label) {
                            self.node(child, after);
                            break;
                        }
                    }
                }
                if node.wild != NONE && !segment.is_empty() {
                    self.node(node.wild, after);
                }
            }
            Some(_) => {}
        }
        self.entries(below);
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
        let holds = !entry.conditional || self.matches.get(entry.at as usize).is_some_and(|m| m.holds(self.view));
        if holds {
            self.best = Some(entry);
        }
        holds
    }
}

/// What follows whole segments; the outer `None` if the path does not start with them.
fn after_label<'a>(rest: &'a str, label: &str) -> Option<Option<&'a str>> {
    let after = rest.strip_prefix(label)?;
    if after.is_empty() { Some(None) } else { after.strip_prefix('/').map(Some) }
}
