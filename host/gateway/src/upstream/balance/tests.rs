//! The ways of choosing, on records without sockets.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::upstream::endpoints::Record;

fn host(i: usize, weight: u32) -> Host {
    let name: Arc<str> = format!("10.0.0.{i}:80").into();
    Host {
        record: Record::alone(&name, ([10, 0, 0, i as u8], 80).into()),
        endpoint: i,
        weight,
        share: u64::from(weight),
        hash: hash(name.as_bytes()),
        address_hash: 0,
    }
}

fn hosts(weights: &[u32]) -> Vec<Host> {
    weights.iter().enumerate().map(|(i, weight)| host(i, *weight)).collect()
}

/// Cursors at the beginning of the turn.
fn from_the_start(hosts: &[Host]) -> Cursors {
    let none = Cursors::random(&[], &Dice::new(0));
    none.carried(&[], hosts)
}

fn counts(weights: &[u32], turns: usize, choose: impl Fn(usize, &[Host], &Cursors) -> usize) -> Vec<usize> {
    let hosts = hosts(weights);
    let cursors = from_the_start(&hosts);
    let mut counts = vec![0; weights.len()];
    for turn in 0..turns {
        counts[choose(turn, &hosts, &cursors)] += 1;
    }
    counts
}

#[test]
fn weights_are_kept_exactly_and_smoothly() {
    let now = Instant::now();
    assert_eq!(counts(&[5, 1, 1, 0], 700, |_, h, c| round_robin(h, c, &[], now).unwrap()), [500, 100, 100, 0]);
    let hosts = hosts(&[5, 1, 1]);
    let cursors = from_the_start(&hosts);
    let order: Vec<_> = (0..7).map(|_| round_robin(&hosts, &cursors, &[], now).unwrap()).collect();
    assert_eq!(order, [0, 0, 1, 0, 2, 0, 0], "no burst of five");
}

#[test]
fn workers_begin_at_random_places_and_keep_the_weights() {
    let now = Instant::now();
    for weights in [&[1, 1, 1, 1][..], &[5, 1, 1, 0], &[3, 1]] {
        let hosts = hosts(weights);
        let total: u32 = weights.iter().sum();
        let mut first = vec![0; weights.len()];
        for seed in 0..200 {
            let cursors = Cursors::random(&hosts, &Dice::new(seed));
            let mut counts = vec![0; weights.len()];
            for turn in 0..total {
                let chosen = round_robin(&hosts, &cursors, &[], now).unwrap();
                counts[chosen] += 1;
                first[chosen] += u32::from(turn == 0);
            }
            assert_eq!(counts, weights, "from any place one turn gives each its share");
        }
        for (first, weight) in first.iter().zip(weights) {
            let expected = f64::from(*weight) * 200.0 / f64::from(total);
            assert!((f64::from(*first) - expected).abs() < 30.0, "{weights:?}: {first} for {expected}");
        }
    }
}

#[test]
fn who_stays_keeps_its_place_in_the_turn() {
    let now = Instant::now();
    let before = hosts(&[1, 1, 1]);
    let cursors = from_the_start(&before);
    assert_eq!(round_robin(&before, &cursors, &[], now), Some(0));
    let same = |i: usize, weight| Host { record: before[i].record.clone(), ..host(i, weight) };
    let after = [same(0, 1), same(1, 1), same(2, 1), host(3, 1)];
    let cursors = cursors.carried(&before, &after);
    assert_ne!(round_robin(&after, &cursors, &[], now), Some(0), "it was its turn just before");
    // What a heavy one owes is not paid with the small change of a light one.
    let before = hosts(&[1_000_000, 1]);
    let cursors = from_the_start(&before);
    round_robin(&before, &cursors, &[], now);
    let after = [Host { record: before[0].record.clone(), ..host(0, 1) }, host(1, 1)];
    let cursors = cursors.carried(&before, &after);
    let first = (0..20).filter(|_| round_robin(&after, &cursors, &[], now) == Some(0)).count();
    assert!((8..=12).contains(&first), "{first}");
}

#[test]
fn a_failed_host_is_left_out_then_tried_by_one_request() {
    let hosts = hosts(&[1, 1]);
    let cursors = from_the_start(&hosts);
    let start = Instant::now();
    hosts[0].record.failed(start, start);
    assert!((0..10).all(|_| round_robin(&hosts, &cursors, &[], start) == Some(1)));
    let later = start + Duration::from_secs(1);
    let trials = (0..10).filter(|_| round_robin(&hosts, &cursors, &[], later) == Some(0)).count();
    assert_eq!(trials, 1, "half open");
}

#[test]
fn when_all_are_down_all_are_tried_once() {
    let now = Instant::now();
    let hosts = hosts(&[3, 1, 0]);
    let cursors = from_the_start(&hosts);
    hosts.iter().for_each(|host| host.record.failed(now, now));
    let mut tried = Vec::new();
    while let Some(next) = round_robin(&hosts, &cursors, &tried, now) {
        tried.push(next);
    }
    tried.sort_unstable();
    assert_eq!(tried, [0, 1, 2]);
    assert_eq!(round_robin(&[], &cursors, &[], now), None);
}

#[test]
fn the_less_busy_of_two_for_its_weight() {
    let (now, dice) = (Instant::now(), Dice::new(7));
    let shares = counts(&[3, 1, 0], 4000, |_, h, _| least_request(h, &dice, &[], now).unwrap());
    assert!((2800..3200).contains(&shares[0]) && shares[2] == 0, "idle ones by weight: {shares:?}");
    let held = hosts(&[1, 1]);
    held[0].record.enter();
    assert!((0..100).all(|_| least_request(&held, &dice, &[], now) == Some(1)));
    // Requests that never end pile up in proportion to the weights.
    let all = hosts(&[3, 1]);
    for _ in 0..400 {
        all[least_request(&all, &dice, &[], now).unwrap()].record.enter();
    }
    assert!((299..=301).contains(&all[0].record.active()), "{}", all[0].record.active());
    // It is the second best of every two that it is one of.
    let five = hosts(&[1; 5]);
    five[2].record.enter();
    let mut counts = [0; 5];
    (0..1000).for_each(|_| counts[least_request(&five, &dice, &[], now).unwrap()] += 1);
    assert!(counts[2] == 0 && counts.iter().filter(|n| **n > 180).count() == 4, "{counts:?}");
}

#[test]
fn the_less_busy_of_those_that_may_be_tried() {
    let (now, dice) = (Instant::now(), Dice::new(7));
    let all = hosts(&[1, 1, 1]);
    all[1].record.failed(now, now);
    [0, 2].iter().for_each(|i| all[*i].record.enter());
    let choose = |tried: &[usize], at| least_request(&all, &dice, tried, at);
    assert!((0..50).all(|_| choose(&[], now) != Some(1)), "idle because it is down");
    assert_eq!((choose(&[0], now), choose(&[0, 2], now), choose(&[0, 1, 2], now)), (Some(2), Some(1), None));
    let later = now + Duration::from_secs(30);
    let trials = (0..50).filter(|_| choose(&[], later) == Some(1)).count();
    assert_eq!(trials, 1, "half open");
    assert_eq!(least_request(&[], &dice, &[], now), None);
    assert_eq!(least_request(&hosts(&[0]), &dice, &[], now), Some(0), "all that there is");
}

#[test]
fn keys_stay_and_weights_count() {
    let now = Instant::now();
    let by_key = |turn: usize, h: &[Host]| by_hash(h, &format!("user-{turn}"), &[], now).unwrap();
    let all = hosts(&[1, 1, 1, 1]);
    let moved = (0..1000)
        .filter(|turn| {
            let before = by_key(*turn, &all);
            let after = by_key(*turn, &all[..3]);
            assert!(before == 3 || before == after, "only the keys of the endpoint that went move");
            before != after
        })
        .count();
    assert!((200..300).contains(&moved), "{moved}");
    let shares = counts(&[3, 1], 4000, |turn, h, _| by_key(turn, h));
    assert!((2800..3200).contains(&shares[0]), "{shares:?}");
    let two = hosts(&[1, 1]);
    let first = by_key(7, &two);
    two[first].record.failed(now, now);
    assert_ne!(by_key(7, &two), first);
    assert_eq!(by_hash(&two, "user-7", &[1 - first], now), Some(first), "all that is left");
    // The addresses of one endpoint share its keys.
    let two = [Host { address_hash: 1, ..host(0, 1) }, Host { address_hash: 2, ..host(0, 1) }];
    let shares = (0..1000).filter(|turn| by_key(*turn, &two) == 0).count();
    assert!((400..600).contains(&shares), "{shares}");
}
