//! Weighted round robin: in turn, exactly in proportion to the shares, and without bursts. The cost of a turn does not grow with the
//! number of hosts: those of the same share stand in a ring, and the rings take turns by when their next host is due.

use std::cell::{Cell, RefCell};
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::Dice;

/// The fractions of a step at which a ring may begin.
const PHASES: u64 = 1 << 16;

/// A worker's place in the turn.
#[derive(Debug)]
pub(super) struct Turn {
    rings: Vec<Ring>,
    /// By ring; empty where there is one.
    due: RefCell<BinaryHeap<Reverse<Due>>>,
}

/// Hosts of the same share.
#[derive(Debug)]
struct Ring {
    hosts: Vec<u32>,
    next: Cell<usize>,
}

/// When a ring has its next turn: `cycle + at / (weight · PHASES)`, of a cycle in which each host has its share of turns.
#[derive(Debug, Clone, Copy)]
struct Due {
    cycle: u64,
    at: u128,
    /// Turns of the ring in a cycle.
    weight: u64,
    ring: usize,
}

impl Turn {
    /// Of hosts with shares above 0. `order` says whose turn it would be next, as far as it is known; otherwise the place is random, so that
    /// workers do not all begin with the same host.
    pub(super) fn new(mut shares: Vec<(u32, u64)>, order: &[u32], dice: &Dice) -> Self {
        shares.sort_unstable_by_key(|(host, share)| (*share, *host));
        let divisor = shares.iter().fold(0, |divisor, (_, share)| gcd(divisor, *share)).max(1);
        let mut rings: Vec<Ring> = Vec::new();
        let mut due = BinaryHeap::new();
        let mut ring_of = vec![None; shares.iter().map(|(host, _)| *host as usize + 1).max().unwrap_or(0)];
        for same in shares.chunk_by(|(_, one), (_, other)| one == other) {
            let hosts: Vec<u32> = same.iter().map(|(host, _)| *host).collect();
            hosts.iter().for_each(|host| ring_of[*host as usize] = Some(rings.len()));
            let weight = same[0].1 / divisor * hosts.len() as u64;
            // From a place of its own: rings that begin together would have their turns in bursts.
            let at = u128::from(dice.below(PHASES));
            due.push(Reverse(Due { cycle: 0, at, weight, ring: rings.len() }));
            let next = Cell::new(dice.below(hosts.len() as u64) as usize);
            rings.push(Ring { hosts, next });
        }
        let mut left = rings.len();
        let mut is_placed = vec![false; rings.len()];
        for host in order {
            if left == 0 {
                break;
            }
            let Some(Some(ring)) = ring_of.get(*host as usize) else { continue };
            if !is_placed[*ring] {
                is_placed[*ring] = true;
                left -= 1;
                rings[*ring].next.set(rings[*ring].hosts.binary_search(host).unwrap_or(0));
            }
        }
        Turn { rings, due: RefCell::new(due) }
    }

    /// The host whose turn it is.
    pub(super) fn next(&self) -> Option<u32> {
        if let [ring] = &self.rings[..] {
            return ring.take();
        }
        let mut heap = self.due.borrow_mut();
        let mut first = heap.peek_mut()?;
        let Reverse(due) = &mut *first;
        let ring = due.ring;
        due.at += u128::from(PHASES);
        let whole = u128::from(due.weight) * u128::from(PHASES);
        if due.at >= whole {
            (due.at, due.cycle) = (due.at - whole, due.cycle + 1);
        }
        drop(first);
        self.rings[ring].take()
    }

    /// Adds the hosts of each ring, in the order of their turns from now on.
    pub(super) fn order(&self, into: &mut Vec<u32>) {
        for ring in &self.rings {
            let (before, after) = ring.hosts.split_at(ring.next.get());
            into.extend(after.iter().chain(before));
        }
    }
}

impl Ring {
    fn take(&self) -> Option<u32> {
        let at = self.next.get();
        self.next.set(if at + 1 >= self.hosts.len() { 0 } else { at + 1 });
        self.hosts.get(at).copied()
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        // a / b against c / d, without a division.
        let parts = || (self.at * u128::from(other.weight)).cmp(&(other.at * u128::from(self.weight)));
        self.cycle.cmp(&other.cycle).then_with(parts).then_with(|| self.ring.cmp(&other.ring))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
