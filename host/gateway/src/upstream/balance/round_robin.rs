//! Smooth weighted round robin: in turn, in proportion to the shares, and without bursts.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::{Dice, best_class};
use crate::upstream::endpoints::{Host, Record};

/// Steps times hosts that finding a random place may take.
const START_WORK: usize = 1 << 16;

/// Where a worker is in the turn of its hosts: for each a number that grows by its share each turn, and falls by the sum of the shares
/// when it is chosen.
#[derive(Debug)]
pub(in crate::upstream) struct Cursors(Vec<Cell<i64>>);

impl Cursors {
    /// At a random place, so that workers do not all begin with the same host.
    pub(in crate::upstream) fn random(hosts: &[Host], dice: &Dice) -> Self {
        let cursors = Cursors(vec![Cell::new(0); hosts.len()]);
        let weighty = || hosts.iter().filter(|host| host.weight > 0).map(share);
        if hosts.windows(2).all(|pair| pair[0].share == pair[1].share) {
            // In turn: the place can be told without walking there.
            let steps = dice.below(hosts.len() as u64) as i64;
            let total: i64 = hosts.iter().map(share).sum();
            for ((i, host), cursor) in (0..).zip(hosts).zip(&cursors.0) {
                cursor.set(steps * share(host) - if i < steps { total } else { 0 });
            }
            return cursors;
        }
        let cycle = weighty().sum::<i64>() / weighty().fold(0, gcd).max(1);
        let most = (START_WORK / hosts.len().max(1)) as u64;
        for _ in 0..dice.below(cycle.unsigned_abs().min(most)) {
            cursors.smooth(hosts, |_, host| host.weight > 0);
        }
        cursors
    }

    /// For hosts that take the place of others: who stays keeps its place in the turn.
    pub(in crate::upstream) fn carried(&self, before: &[Host], hosts: &[Host]) -> Self {
        let known: HashMap<*const Record, i64> =
            before.iter().zip(&self.0).map(|(host, cursor)| (Arc::as_ptr(&host.record), cursor.get())).collect();
        let sum = |hosts: &[Host]| hosts.iter().map(share).sum::<i64>().max(1);
        let (old, new) = (i128::from(sum(before)), i128::from(sum(hosts)));
        // To the scale of the new shares: beside small ones, what a large one owes would keep it waiting for very long.
        let place =
            |host: &Host| known.get(&Arc::as_ptr(&host.record)).map_or(0, |cursor| i128::from(*cursor) * new / old);
        let places: Vec<i128> = hosts.iter().map(place).collect();
        let mean = places.iter().sum::<i128>() / (places.len().max(1) as i128);
        // Only differences count; around 0 they stay small over any number of changes.
        Cursors(places.into_iter().map(|place| Cell::new(i64::try_from(place - mean).unwrap_or(0))).collect())
    }

    fn smooth(&self, hosts: &[Host], fits: impl Fn(usize, &Host) -> bool) -> Option<usize> {
        let mut total = 0;
        let mut best: Option<(usize, &Cell<i64>)> = None;
        for ((i, host), cursor) in hosts.iter().enumerate().zip(&self.0).filter(|((i, host), _)| fits(*i, host)) {
            total += share(host);
            cursor.set(cursor.get() + share(host));
            if best.is_none_or(|(_, best)| cursor.get() > best.get()) {
                best = Some((i, cursor));
            }
        }
        let (i, cursor) = best?;
        cursor.set(cursor.get() - total);
        Some(i)
    }
}

fn share(host: &Host) -> i64 {
    host.portion().cast_signed()
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The next host that was not tried yet.
pub(in crate::upstream) fn round_robin(
    hosts: &[Host],
    cursors: &Cursors,
    tried: &[usize],
    now: Instant,
) -> Option<usize> {
    if let ([host], []) = (hosts, tried) {
        host.record.claim(now);
        return Some(0);
    }
    best_class(hosts, tried, now, |fits| cursors.smooth(hosts, fits))
}
