//! The index: hosts by hash, then paths segment by segment by hash, so that a lookup costs what the request is long and not what the
//! configuration is. Every entry has a rank in one total order, the least is the best; a part of the index whose best rank
//! can't win is not entered, and conditions are evaluated only for entries that could.
//!
//! With many routes the time goes into cache misses, so the layout is tight: runs of literal segments without a branch are one node; hash
//! tables hold no keys, since the node that a slot leads to has its own; and labels, slots and entries of all nodes lie in one
//! allocation for each kind, in the order of a walk.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::ops::Range;

use foldhash::fast::RandomState;
use regex::{RegexSet, RegexSetBuilder};

use super::build::Match;
use super::draft::{Draft, DraftNode};
use super::{HostPattern, RequestView};

/// A match in the index.
#[derive(Debug, Clone, Copy)]
pub(super) struct RankedMatch {
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
    labels: String,
    slots: Vec<Slot>,
    entries: Vec<RankedMatch>,
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
#[derive(Debug, Clone, Copy)]
struct Node {
    /// The literal segments that lead here from the parent, joined by slashes; the host at a root. Nothing at a wildcard's child.
    label: Span,
    /// Children by the first segment of their labels.
    literals: Table,
    /// For paths that end here, best first.
    here: Span,
    /// For paths that end here or go on, best first.
    below: Span,
    /// The child for any non-empty segment; `NONE` if there is none.
    wild: u32,
    /// The best rank of this node and all under it.
    best: u32,
}

/// A part of one of the tree's allocations.
#[derive(Debug, Clone, Copy, Default)]
struct Span {
    start: u32,
    len: u32,
}

const NONE: u32 = u32::MAX;

/// An open-addressed hash table of nodes, at most half full: a power of two of slots, or none.
#[derive(Debug, Clone, Copy, Default)]
struct Table(Span);

#[derive(Debug, Clone, Copy)]
struct Slot {
    hash: u32,
    /// `NONE` if the slot is empty.
    node: u32,
}

/// The regular expressions of one host, best first, tried in one pass.
#[derive(Debug)]
struct Patterns {
    entries: Vec<RankedMatch>,
    set: RegexSet,
}

impl Span {
    fn range(self) -> Range<usize> {
        self.start as usize..self.start as usize + self.len as usize
    }
}

impl Table {
    fn is_empty(self) -> bool {
        self.0.len == 0
    }
}

impl Tree {
    pub(super) fn new(draft: Draft) -> Result<Tree, regex::Error> {
        let mut tree = Tree {
            nodes: Vec::new(),
            labels: String::new(),
            slots: Vec::new(),
            entries: Vec::new(),
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
            let root = tree.add(label, bucket.root);
            match &host {
                HostPattern::Any => tree.any = Some(root),
                HostPattern::Exact(name) => exact.push(Slot { hash: tree.hash(name), node: root }),
                HostPattern::Wildcard(suffix) => wildcard.push(Slot { hash: tree.hash(suffix), node: root }),
            }
            if !bucket.patterns.is_empty() {
                let (texts, entries): (Vec<_>, Vec<_>) = bucket.patterns.into_iter().unzip();
                // Each expression was held to the usual limit on its own; the set is as large as the operator makes it.
                let set = RegexSetBuilder::new(texts).size_limit(usize::MAX).build()?;
                tree.patterns.insert(root, Patterns { entries, set });
            }
        }
        tree.exact = tree.add_table(&exact);
        tree.wildcard = tree.add_table(&wildcard);
        Ok(tree)
    }

    fn hash(&self, text: &str) -> u32 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(text.as_bytes());
        hasher.finish() as u32
    }

    fn add(&mut self, label: &str, draft: DraftNode) -> u32 {
        let at = self.nodes.len();
        let label = Span { start: index(self.labels.len()), len: push(&mut self.labels, label) };
        let mut best = draft.here.iter().chain(&draft.below).map(|entry| entry.rank).min().unwrap_or(u32::MAX);
        let (here, below) = (self.add_entries(&draft.here), self.add_entries(&draft.below));
        self.nodes.push(Node { label, literals: Table::default(), here, below, wild: NONE, best });
        let mut literals = Vec::with_capacity(draft.literals.len());
        for (first, mut child) in draft.literals {
            let hash = self.hash(&first);
            let mut label = first.into_string();
            while let Some((segment, only)) = child.take_only_literal() {
                label.push('/');
                label.push_str(&segment);
                child = only;
            }
            let node = self.add(&label, child);
            best = best.min(self.nodes[node as usize].best);
            literals.push(Slot { hash, node });
        }
        if let Some(child) = draft.wild {
            let child = self.add("", *child);
            best = best.min(self.nodes[child as usize].best);
            self.nodes[at].wild = child;
        }
        self.nodes[at].literals = self.add_table(&literals);
        self.nodes[at].best = best;
        index(at)
    }

    fn add_entries(&mut self, entries: &[RankedMatch]) -> Span {
        let start = index(self.entries.len());
        self.entries.extend_from_slice(entries);
        Span { start, len: index(entries.len()) }
    }

    fn add_table(&mut self, nodes: &[Slot]) -> Table {
        if nodes.is_empty() {
            return Table::default();
        }
        let (start, size) = (self.slots.len(), (nodes.len() * 2).next_power_of_two());
        self.slots.resize(start + size, Slot { hash: 0, node: NONE });
        let slots = &mut self.slots[start..];
        for slot in nodes {
            let mut at = slot.hash as usize & (size - 1);
            while slots[at].node != NONE {
                at = (at + 1) & (size - 1);
            }
            slots[at] = *slot;
        }
        Table(Span { start: index(start), len: index(size) })
    }

    /// The nodes of a table whose key has this hash: at most one but for collisions.
    fn with_hash(&self, table: Table, hash: u32) -> impl Iterator<Item = u32> {
        let slots = &self.slots[table.0.range()];
        // A table without slots has no mask, and none is looked at.
        let mask = slots.len().wrapping_sub(1);
        let probed = (0..slots.len()).map(move |step| slots[(hash as usize).wrapping_add(step) & mask]);
        probed.take_while(|slot| slot.node != NONE).filter(move |slot| slot.hash == hash).map(|slot| slot.node)
    }

    fn label(&self, node: u32) -> &str {
        &self.labels[self.nodes[node as usize].label.range()]
    }

    /// The best match.
    pub(super) fn find(&self, view: &RequestView, matches: &[Match]) -> Option<RankedMatch> {
        let mut walk = Walk { tree: self, view, matches, best: None };
        walk.host(self.exact, view.host);
        if !self.wildcard.is_empty() {
            let mut host = view.host;
            while let Some((_, suffix)) = host.split_once('.') {
                walk.host(self.wildcard, suffix);
                host = suffix;
            }
        }
        if let Some(root) = self.any {
            walk.root(root);
        }
        walk.best
    }
}

fn push(labels: &mut String, label: &str) -> u32 {
    labels.push_str(label);
    index(label.len())
}

/// An index or length in 32 bits.
pub(super) fn index(at: usize) -> u32 {
    u32::try_from(at).expect("a configuration of four thousand million matches does not fit in memory")
}

/// One lookup.
struct Walk<'a> {
    tree: &'a Tree,
    view: &'a RequestView<'a>,
    matches: &'a [Match],
    best: Option<RankedMatch>,
}

impl Walk<'_> {
    fn could_win(&self, rank: u32) -> bool {
        self.best.is_none_or(|best| rank < best.rank)
    }

    fn host(&mut self, table: Table, host: &str) {
        if table.is_empty() {
            return;
        }
        let tree = self.tree;
        let root = tree.with_hash(table, tree.hash(host)).find(|root| tree.label(*root) == host);
        if let Some(root) = root {
            self.root(root);
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
        let tree = self.tree;
        let node = &tree.nodes[at as usize];
        if !self.could_win(node.best) {
            return;
        }
        match rest {
            None => self.entries(node.here),
            Some(rest) if !node.literals.is_empty() || node.wild != NONE => {
                let (segment, after) = match rest.split_once('/') {
                    Some((segment, after)) => (segment, Some(after)),
                    None => (rest, None),
                };
                if !node.literals.is_empty() {
                    let mut children = tree.with_hash(node.literals, tree.hash(segment));
                    let child = children.find_map(|child| Some((child, after_label(rest, tree.label(child))?)));
                    if let Some((child, after)) = child {
                        self.node(child, after);
                    }
                }
                if node.wild != NONE && !segment.is_empty() {
                    self.node(node.wild, after);
                }
            }
            Some(_) => {}
        }
        self.entries(node.below);
    }

    fn entries(&mut self, entries: Span) {
        for entry in &self.tree.entries[entries.range()] {
            if self.offer(*entry) {
                break;
            }
        }
    }

    /// Whether later entries of the same list are out of the question.
    fn offer(&mut self, entry: RankedMatch) -> bool {
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
