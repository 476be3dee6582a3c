//! What each algorithm promises of the distribution: 100,000 choices from a fixed seed, four endpoints, two workers.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::tests::{by, host, hosts, plan_at};
use super::*;
use crate::config::model::{Balance, Balancing, ConsistentHash, HashAlgorithm, HashKey, SlowStart};
use crate::upstream::endpoints::Host;

const CHOICES: usize = 100_000;
const WORKERS: u64 = 2;

fn hashing(algorithm: HashAlgorithm, bounded_load: Option<u32>) -> Balance {
    Balance::Hash(ConsistentHash { on: vec![HashKey::ClientAddress], algorithm, bounded_load })
}

/// How often each host is chosen; every worker makes its part of the choices.
fn counts(
    weights: &[u32],
    choose: impl Fn(u64, usize, &[Host], &Plan, &Dice) -> usize,
    algorithm: &Balance,
) -> Vec<usize> {
    let hosts = hosts(weights);
    let mut counts = vec![0; weights.len()];
    for worker in 0..WORKERS {
        let dice = Dice::new(42 + worker);
        let plan = plan_at(&hosts, &by(algorithm.clone()), &dice, Instant::now(), &[]);
        for n in 0..CHOICES / WORKERS as usize {
            counts[choose(worker, n, &hosts, &plan, &dice)] += 1;
        }
    }
    counts
}

/// Each has its share of the choices, up to this part of it.
fn assert_shares(counts: &[usize], weights: &[u32], within: f64, what: &str) {
    let total: u32 = weights.iter().sum();
    for (count, weight) in counts.iter().zip(weights) {
        let promised = CHOICES as f64 * f64::from(*weight) / f64::from(total);
        assert!((*count as f64 - promised).abs() <= promised * within, "{what}: {counts:?} for {weights:?}");
    }
}

#[test]
fn round_robin_least_request_and_random_keep_the_weights() {
    for weights in [[1, 1, 1, 1], [5, 3, 1, 1]] {
        for algorithm in [Balance::RoundRobin, Balance::LeastRequest, Balance::Random] {
            let one = |_, _, hosts: &[Host], plan: &Plan, dice: &Dice| {
                plan.choose(hosts, &algorithm, dice, &Left::default()).unwrap()
            };
            assert_shares(&counts(&weights, one, &algorithm), &weights, 0.02, &format!("{algorithm:?}"));
        }
    }
}

fn alone(endpoint: usize) -> Range<usize> {
    endpoint..endpoint + 1
}

fn table(hosts: &[Host], algorithm: HashAlgorithm) -> HashTable {
    HashTable::new(algorithm, hosts.iter().map(|host| (host.hash, host.weight)).collect())
}

#[test]
fn hashes_spread_keys_by_weight() {
    for (algorithm, within) in [(HashAlgorithm::Maglev, 0.02), (HashAlgorithm::RingHash, 0.1)] {
        for weights in [[1, 1, 1, 1], [5, 3, 1, 1]] {
            let table = table(&hosts(&weights), algorithm);
            let one = |worker, n, hosts: &[Host], plan: &Plan, _: &Dice| {
                let key = hash(format!("user-{worker}-{n}").as_bytes());
                plan.by_table(hosts, (&table, key), alone, None, &Left::default()).unwrap()
            };
            let counts = counts(&weights, one, &hashing(algorithm, None));
            assert_shares(&counts, &weights, within, &format!("{algorithm:?}"));
        }
    }
}

#[test]
fn few_keys_move_when_an_endpoint_leaves() {
    let (now, dice) = (Instant::now(), Dice::new(1));
    for algorithm in [HashAlgorithm::Maglev, HashAlgorithm::RingHash] {
        for count in [4, 10, 30, 100] {
            let all = hosts(&vec![1; count]);
            let fewer: Vec<Host> =
                all.iter().filter(|host| host.endpoint != 1).map(|one| host(one.endpoint, 1)).collect();
            let balancing = by(hashing(algorithm, None));
            let chosen = |hosts: &[Host]| {
                let (plan, table) = (plan_at(hosts, &balancing, &dice, now, &[]), table(hosts, algorithm));
                let one = |n| {
                    plan.by_table(hosts, (&table, hash(format!("user-{n}").as_bytes())), alone, None, &Left::default())
                };
                (0..CHOICES / 5).map(|n| hosts[one(n).unwrap()].endpoint).collect::<Vec<_>>()
            };
            let moved = chosen(&all).iter().zip(chosen(&fewer)).filter(|(before, after)| **before != *after).count();
            let most = (1.0 / count as f64 + 0.05) * (CHOICES / 5) as f64;
            assert!((moved as f64) <= most, "{algorithm:?}, {count} endpoints: {moved} keys");
        }
    }
}

#[test]
fn an_endpoint_that_is_out_hands_its_keys_to_all_others() {
    let (now, dice) = (Instant::now(), Dice::new(1));
    for algorithm in [HashAlgorithm::Maglev, HashAlgorithm::RingHash] {
        let (all, balancing) = (hosts(&[1; 4]), by(hashing(algorithm, None)));
        let table = table(&all, algorithm);
        let chosen = || {
            let plan = plan_at(&all, &balancing, &dice, now, &[]);
            let one = |n| {
                plan.by_table(&all, (&table, hash(format!("user-{n}").as_bytes())), alone, None, &Left::default())
                    .unwrap()
            };
            (0..20_000).map(one).collect::<Vec<_>>()
        };
        let before = chosen();
        all[2].record.failed(now, now);
        let after = chosen();
        let mut taken = [0; 4];
        for (before, after) in before.iter().zip(after).filter(|(before, after)| **before != *after) {
            assert_eq!(*before, 2, "no other key moves");
            taken[after] += 1;
        }
        assert!(taken[2] == 0 && [0, 1, 3].iter().all(|host| taken[*host] > 1200), "{algorithm:?}: {taken:?}");
        // Each that was tried makes room for the next one, to the last.
        let plan = plan_at(&all, &balancing, &dice, now, &[]);
        let mut tried = Vec::new();
        while let Some(next) = plan.by_table(&all, (&table, 7), alone, None, &Left::without(tried.iter().copied())) {
            tried.push(next);
        }
        assert_eq!((tried.len(), tried.last()), (4, Some(&2)));
    }
}

#[test]
fn a_bound_on_the_load_holds_for_a_key_that_everybody_has() {
    let (now, dice) = (Instant::now(), Dice::new(1));
    for algorithm in [HashAlgorithm::Maglev, HashAlgorithm::RingHash] {
        let (all, balancing) = (hosts(&[1; 8]), by(hashing(algorithm, Some(125))));
        let (plan, table) = (plan_at(&all, &balancing, &dice, now, &[]), table(&all, algorithm));
        for n in 1..=800 {
            let chosen = plan.by_table(&all, (&table, 7), alone, Some(125), &Left::default()).unwrap();
            all[chosen].record.enter();
            let most = (f64::from(n) * 1.25 / 8.0).ceil();
            assert!(f64::from(all[chosen].record.active()) <= most, "{algorithm:?}: {most} at most after {n}");
        }
        // Without other load, it stays at its endpoint.
        let first = plan.by_table(&all, (&table, 7), alone, None, &Left::default());
        (0..8).for_each(|host| {
            while all[host].record.active() > 0 {
                all[host].record.leave()
            }
        });
        assert_eq!(plan.by_table(&all, (&table, 7), alone, Some(125), &Left::default()), first);
    }
}

#[test]
fn hashing_ignores_slow_start() {
    let (now, dice) = (Instant::now() + Duration::from_secs(100), Dice::new(1));
    let (all, algorithm) = (hosts(&[1; 4]), hashing(HashAlgorithm::Maglev, Some(125)));
    let table = table(&all, HashAlgorithm::Maglev);
    let slow_start = Some(SlowStart { window: Duration::from_secs(10), min_weight_percent: 10 });
    let balancing = Balancing { slow_start, ..by(algorithm) };
    let chosen = || {
        let plan = plan_at(&all, &balancing, &dice, now, &[]);
        plan.by_table(&all, (&table, 7), alone, Some(125), &Left::default()).unwrap()
    };
    let first = chosen();
    all.iter().for_each(|host| host.record.enter());
    all[first].record.came_back(now);
    assert_eq!(chosen(), first, "its share is the whole one");
}

#[test]
fn a_key_is_found_in_few_steps_where_few_may_be_chosen() {
    let (now, dice, count) = (Instant::now(), Dice::new(1), 2000);
    for algorithm in [HashAlgorithm::Maglev, HashAlgorithm::RingHash] {
        let (all, balancing) = (hosts(&vec![1; count]), by(hashing(algorithm, None)));
        let (table, fits) = (table(&all, algorithm), |host: &Host| host.endpoint < 2);
        let basis = Basis { hosts: &all, balancing: &balancing, fits: &fits, changes: 0, now, order: &[] };
        let plan = Plan::new(&basis, &dice);
        let mut chosen = [0; 2];
        for n in 0..400 {
            let (key, steps) = (hash(format!("user-{n}").as_bytes()), Cell::new(0));
            let hosts_of = |endpoint: usize| {
                steps.set(steps.get() + 1);
                alone(endpoint)
            };
            let find = || plan.by_table(&all, (&table, key), hosts_of, None, &Left::default()).unwrap();
            let host = find();
            assert!(steps.get() <= 512, "{algorithm:?}: {steps:?}");
            assert_eq!(find(), host, "the same each time");
            chosen[host] += 1;
        }
        assert!(chosen.iter().all(|count| *count > 100), "{algorithm:?}: {chosen:?}");
    }
}

#[test]
fn the_keys_of_filters_stay_and_weights_count() {
    let (now, dice) = (Instant::now(), Dice::new(1));
    let by_key = |n: usize, hosts: &[Host]| {
        let plan = plan_at(hosts, &by(Balance::RoundRobin), &dice, now, &[]);
        plan.by_score(hosts, hash(format!("user-{n}").as_bytes()), &Left::default()).unwrap()
    };
    let all = hosts(&[1, 1, 1, 1]);
    let moved = (0..1000)
        .filter(|n| {
            let (before, after) = (by_key(*n, &all), by_key(*n, &all[..3]));
            assert!(before == 3 || before == after, "only the keys of the endpoint that went move");
            before != after
        })
        .count();
    assert!((200..300).contains(&moved), "{moved}");
    let weighted = hosts(&[3, 1]);
    let first = (0..4000).filter(|n| by_key(*n, &weighted) == 0).count();
    assert!((2800..3200).contains(&first), "{first}");
    let two = hosts(&[1, 1]);
    let first = by_key(7, &two);
    two[first].record.failed(now, now);
    assert_ne!(by_key(7, &two), first);
    // The addresses of one endpoint share its keys.
    let two = [Host { address_hash: 1, ..host(0, 1) }, Host { address_hash: 2, ..host(0, 1) }];
    let first = (0..1000).filter(|n| by_key(*n, &two) == 0).count();
    assert!((400..600).contains(&first), "{first}");
}

/// Two workers whose requests take 1 ms, and 10 ms at one endpoint, with up to 20 of them under way.
#[test]
fn peak_ewma_avoids_a_slow_endpoint() {
    let hosts = hosts(&[1; 4]);
    let mut counts = [0; 4];
    let dices = [Dice::new(42), Dice::new(43)];
    let plans: Vec<Plan> =
        dices.iter().map(|dice| plan_at(&hosts, &by(Balance::PeakEwma), dice, Instant::now(), &[])).collect();
    let latency = |host: usize| if host == 3 { 10_000 } else { 1000 };
    // By the time at which they end, in microseconds; a request begins every 50.
    let mut under_way: VecDeque<(u64, usize)> = VecDeque::new();
    for n in 0..CHOICES {
        let now = 1_000_000 + n as u64 * 50;
        under_way.retain(|(end, host)| {
            if *end <= now {
                hosts[*host].record.leave();
                hosts[*host].record.ewma().note(Duration::from_micros(latency(*host)), end / 1000);
            }
            *end > now
        });
        let chosen = plans[n % 2].by_latency(&hosts, &dices[n % 2], now / 1000).unwrap();
        counts[chosen] += 1;
        hosts[chosen].record.enter();
        under_way.push_back((now + latency(chosen), chosen));
    }
    assert!(counts[3] > 0 && counts[3] < CHOICES / 20, "{counts:?}");
}
