//! Plans and algorithms on records without sockets.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::config::model::{Balance, Balancing, CircuitAnswer, CircuitBreaker, CircuitScope, FailureWindow, SlowStart};
use crate::upstream::circuit::{Cause, Outcome};
use crate::upstream::endpoints::{Host, Record};

pub(super) fn host(i: usize, weight: u32) -> Host {
    let name: Arc<str> = format!("10.0.0.{i}:80").into();
    Host {
        record: Record::alone(&name, SocketAddr::from(([10, 0, (i >> 8) as u8, i as u8], 80)).into()),
        endpoint: i,
        weight,
        share: u64::from(weight),
        level: 0,
        hash: hash(name.as_bytes()),
        address_hash: 0,
    }
}

pub(super) fn hosts(weights: &[u32]) -> Vec<Host> {
    weights.iter().enumerate().map(|(i, weight)| host(i, *weight)).collect()
}

pub(super) fn by(algorithm: Balance) -> Balancing {
    Balancing { algorithm, ..Balancing::default() }
}

pub(super) fn plan_at(hosts: &[Host], balancing: &Balancing, dice: &Dice, now: Instant, order: &[u32]) -> Plan {
    Plan::new(&Basis { hosts, balancing, fits: &|_| true, changes: 0, now, order }, dice)
}

/// Chooses as a worker does: a plan that no longer holds is replaced, and who is tried again is claimed.
pub(super) fn choose(
    hosts: &[Host],
    balancing: &Balancing,
    dice: &Dice,
    tried: &[usize],
    now: Instant,
) -> Option<usize> {
    let left = Left::without(tried.iter().copied());
    let chosen = plan_at(hosts, balancing, dice, now, &[]).choose(hosts, &balancing.algorithm, dice, &left)?;
    hosts[chosen].record.claim(now);
    Some(chosen)
}

#[test]
fn turns_are_exact_and_smooth() {
    let (now, dice) = (Instant::now(), Dice::new(1));
    for weights in [&[5, 1, 1, 0][..], &[1, 1, 1], &[3, 1], &[100, 1, 7, 7, 50]] {
        let (hosts, balancing) = (hosts(weights), by(Balance::RoundRobin));
        let total: usize = weights.iter().map(|weight| *weight as usize).sum();
        for _ in 0..20 {
            let plan = plan_at(&hosts, &balancing, &dice, now, &[]);
            let next = || plan.choose(&hosts, &Balance::RoundRobin, &dice, &Left::default()).unwrap();
            let turns: Vec<usize> = (0..total * 3).map(|_| next()).collect();
            for cycle in turns.windows(total) {
                let of = |host| cycle.iter().filter(|turn| **turn == host).count();
                let counts: Vec<usize> = (0..weights.len()).map(of).collect();
                assert!(counts.iter().zip(weights).all(|(count, weight)| *count == *weight as usize), "{counts:?}");
            }
            if weights == [5, 1, 1, 0] {
                let longest = turns.chunk_by(|one, other| one == other).map(<[usize]>::len).max().unwrap();
                assert!(longest <= 3, "no burst of five: {turns:?}");
            }
        }
    }
}

#[test]
fn workers_begin_at_random_places() {
    let now = Instant::now();
    for weights in [&[1, 1, 1, 1][..], &[5, 1, 1, 0], &[3, 1]] {
        let hosts = hosts(weights);
        let total: u32 = weights.iter().sum();
        let mut first = vec![0; weights.len()];
        for seed in 0..400 {
            let dice = Dice::new(seed);
            let plan = plan_at(&hosts, &by(Balance::RoundRobin), &dice, now, &[]);
            first[plan.choose(&hosts, &Balance::RoundRobin, &dice, &Left::default()).unwrap()] += 1;
        }
        for (first, weight) in first.iter().zip(weights) {
            let expected = f64::from(*weight) * 400.0 / f64::from(total);
            assert!((f64::from(*first) - expected).abs() < 60.0, "{weights:?}: {first} for {expected}");
        }
    }
}

#[test]
fn who_stays_keeps_its_place_in_the_turn() {
    let (now, dice, balancing) = (Instant::now(), Dice::new(1), by(Balance::RoundRobin));
    let four = hosts(&[1, 1, 1, 1]);
    for _ in 0..20 {
        let plan = plan_at(&four[..3], &balancing, &dice, now, &[]);
        let last = plan.choose(&four[..3], &Balance::RoundRobin, &dice, &Left::default()).unwrap();
        let plan = plan_at(&four, &balancing, &dice, now, &plan.order());
        let turns: Vec<_> =
            (0..2).map(|_| plan.choose(&four, &Balance::RoundRobin, &dice, &Left::default()).unwrap()).collect();
        assert!(!turns.contains(&last), "it was its turn just before: {last}, then {turns:?}");
    }
}

#[test]
fn a_failed_host_is_left_out_then_tried_by_one_request() {
    for algorithm in [Balance::RoundRobin, Balance::LeastRequest, Balance::PeakEwma, Balance::Random] {
        let (hosts, dice, balancing) = (hosts(&[1, 1]), Dice::new(3), by(algorithm));
        let start = Instant::now();
        hosts[0].record.failed(start, start);
        assert!((0..10).all(|_| choose(&hosts, &balancing, &dice, &[], start) == Some(1)));
        let later = start + Duration::from_secs(60);
        let trials = (0..40).filter(|_| choose(&hosts, &balancing, &dice, &[], later) == Some(0)).count();
        // By its latency it comes last, until that has decayed.
        assert!(trials == 1 || trials == 0 && balancing.algorithm == Balance::PeakEwma, "{trials}: {balancing:?}");
    }
}

#[test]
fn a_plan_holds_until_a_pause_is_over() {
    let (now, dice, balancing) = (Instant::now(), Dice::new(1), by(Balance::RoundRobin));
    let hosts = hosts(&[1, 1]);
    let plan = plan_at(&hosts, &balancing, &dice, now, &[]);
    let no_clock = || panic!("nothing depends on the time");
    assert!(plan.holds(0, no_clock) && !plan.holds(1, no_clock), "only a change of state ends it");
    hosts[0].record.failed(now, now);
    let plan = plan_at(&hosts, &balancing, &dice, now, &[]);
    assert!(plan.holds(0, || now) && !plan.is_available(0));
    assert!(!plan.holds(0, || now + Duration::from_secs(1)));
    plan.expire();
    assert!(!plan.holds(0, || now));
}

#[test]
fn when_all_are_down_all_are_tried_once() {
    let (now, dice) = (Instant::now(), Dice::new(5));
    for algorithm in [Balance::RoundRobin, Balance::LeastRequest, Balance::PeakEwma, Balance::Random] {
        let (hosts, balancing) = (hosts(&[3, 1, 0]), by(algorithm));
        hosts.iter().for_each(|host| host.record.failed(now, now));
        let mut tried = Vec::new();
        while let Some(next) = choose(&hosts, &balancing, &dice, &tried, now) {
            tried.push(next);
        }
        assert_eq!(tried.last(), Some(&2), "without weight it is the last one");
        tried.sort_unstable();
        assert_eq!(tried, [0, 1, 2]);
        assert_eq!(choose(&[], &balancing, &dice, &[], now), None);
    }
}

#[test]
fn the_less_busy_of_two_for_its_weight() {
    let (now, dice, balancing) = (Instant::now(), Dice::new(7), by(Balance::LeastRequest));
    let held = hosts(&[1, 1]);
    held[0].record.enter();
    assert!((0..100).all(|_| choose(&held, &balancing, &dice, &[], now) == Some(1)));
    // Requests that never end pile up in proportion to the weights.
    let all = hosts(&[3, 1]);
    let plan = plan_at(&all, &balancing, &dice, now, &[]);
    for _ in 0..400 {
        all[plan.choose(&all, &Balance::LeastRequest, &dice, &Left::default()).unwrap()].record.enter();
    }
    assert!((299..=301).contains(&all[0].record.active()), "{}", all[0].record.active());
    // It is the second best of every two that it is one of.
    let five = hosts(&[1; 5]);
    five[2].record.enter();
    let chosen = |_| choose(&five, &balancing, &dice, &[], now) == Some(2);
    assert_eq!((0..2000).filter(|turn| chosen(*turn)).count(), 0);
    // One that nearly all draws hit.
    let skewed = hosts(&[1_000_000, 1]);
    skewed[0].record.enter();
    assert!((0..50).all(|_| choose(&skewed, &balancing, &dice, &[], now) == Some(1)));
    let with_none = hosts(&[1, 1, 0]);
    let choose = |tried: &[usize]| choose(&with_none, &balancing, &dice, tried, now);
    assert_eq!((choose(&[0]), choose(&[0, 1]), choose(&[0, 1, 2])), (Some(1), Some(2), None));
}

#[test]
fn failures_count_as_latency_and_peaks_decay() {
    let (ewma, took) = (Ewma::default(), Duration::from_millis(2));
    assert_eq!(ewma.at(0), 0.0);
    ewma.note(took, 1000);
    assert!((ewma.at(1000) - 2000.0).abs() < 1.0);
    ewma.note(Duration::from_millis(50), 1001);
    assert!((ewma.at(1001) - 50_000.0).abs() < 1.0, "a peak counts at once");
    (0..100).for_each(|n| ewma.note(took, 1001 + n * 200));
    assert!((2000.0..9000.0).contains(&ewma.at(21_000)), "and decays with time: {}", ewma.at(21_000));
    assert!(ewma.at(200_000) < 1.0, "also without requests");
    // It fails fast: one failure of many is borne, a row is not.
    let failing = Ewma::default();
    failing.note(took, 1000);
    failing.note_failure(Duration::from_micros(100), 1000);
    assert!((failing.at(1000) - 4000.0).abs() < 1.0);
    (0..20).for_each(|_| failing.note_failure(Duration::from_micros(100), 1000));
    assert!(failing.at(1000) >= 9e6);
    failing.note(took, 999);
    assert!(failing.at(999) >= 9e6, "a clock that is behind a little");
    assert!(failing.at(1000 + 30 * 24 * 3_600_000) < 1.0, "and one of a month later");
}

#[test]
fn other_levels_make_up_for_what_is_out() {
    let (now, dice) = (Instant::now(), Dice::new(9));
    let mut all = hosts(&[1; 6]);
    all[4].level = 2;
    all[5].level = 2;
    let share_of_backup = |algorithm: Balance| {
        let balancing = by(algorithm);
        let plan = plan_at(&all, &balancing, &dice, now, &[]);
        (0..10_000).filter(|_| plan.choose(&all, &balancing.algorithm, &dice, &Left::default()).unwrap() >= 4).count()
    };
    assert_eq!(share_of_backup(Balance::RoundRobin), 0);
    // Two of four: 1.4 times half of the requests can stay.
    all[..2].iter().for_each(|host| host.record.failed(now, now));
    for algorithm in [Balance::RoundRobin, Balance::LeastRequest, Balance::Random] {
        assert!((2800..3200).contains(&share_of_backup(algorithm)));
    }
    all[..4].iter().for_each(|host| host.record.failed(now, now));
    assert_eq!(share_of_backup(Balance::RoundRobin), 10_000);
    // What was tried is not left alone because the level has no other.
    assert!(choose(&all, &by(Balance::Random), &dice, &[4, 5], now).is_some_and(|host| host < 4));
}

#[test]
fn an_open_circuit_counts_as_out_until_its_probes_may_pass() {
    let (now, dice, balancing) = (Instant::now(), Dice::new(9), by(Balance::RoundRobin));
    let breaker = CircuitBreaker {
        failures: 1,
        window: FailureWindow::Last(1),
        open: Duration::from_secs(60),
        max_open: Duration::from_secs(60),
        half_open: 1,
        status_codes: vec![503],
        per: CircuitScope::Endpoint,
        answer: CircuitAnswer::Unavailable,
    };
    let mut all = hosts(&[1; 4]);
    all[2].level = 2;
    all[3].level = 2;
    let open = |host: &Host| {
        let outcome = Outcome::Failure(Cause::Status(503));
        let change = host.record.circuit().note(&breaker, None, outcome).expect("it opens");
        host.record.circuit_changed(change.is_open, change.evidence);
    };
    let backups = |now: Instant| {
        let plan = plan_at(&all, &balancing, &dice, now, &[]);
        let chosen = |_: &u32| plan.choose(&all, &balancing.algorithm, &dice, &Left::default()).unwrap() >= 2;
        ((0..10_000).filter(chosen).count(), plan.is_in_panic())
    };
    open(&all[0]);
    assert!((2800..3200).contains(&backups(now).0), "half of the first level: {:?}", backups(now));
    open(&all[1]);
    assert_eq!(backups(now), (10_000, false));
    // Too few are left, but panic takes none back: they would be refused.
    open(&all[2]);
    assert_eq!(backups(now), (10_000, false));
    let plan = plan_at(&all, &balancing, &dice, now, &[]);
    assert_eq!([0, 1, 2, 3].map(|host| plan.is_available(host)), [false, false, false, true]);
    // Half open it is available, until its probe is under way.
    let later = Instant::now() + Duration::from_secs(60);
    assert!(plan.holds(0, || now) && !plan.holds(0, || later));
    assert_eq!(backups(later), (0, false));
}

#[test]
fn a_new_host_begins_with_a_small_share() {
    let (dice, window) = (Dice::new(2), Duration::from_secs(100));
    let hosts = hosts(&[1, 1]);
    let settings = SlowStart { window, min_weight_percent: 10 };
    for algorithm in [Balance::RoundRobin, Balance::Random] {
        let balancing = Balancing { slow_start: Some(settings), ..by(algorithm) };
        let share = |now: Instant| {
            let plan = plan_at(&hosts, &balancing, &dice, now, &[]);
            (0..11_000)
                .filter(|_| plan.choose(&hosts, &balancing.algorithm, &dice, &Left::default()).unwrap() == 0)
                .count()
        };
        let start = Instant::now() + 3 * window;
        hosts[0].record.came_back(start);
        assert!((900..1100).contains(&share(start)), "{}", share(start));
        assert!(
            (3400..3950).contains(&share(start + window / 2)),
            "a half beside a whole one: {}",
            share(start + window / 2)
        );
        assert!((5300..5700).contains(&share(start + window)));
    }
}

#[test]
fn a_thousand_that_are_full_are_looked_at_once() {
    let (hosts, now, dice) = (hosts(&[1; 1000]), Instant::now(), Dice::new(1));
    for algorithm in [Balance::RoundRobin, Balance::LeastRequest, Balance::PeakEwma, Balance::Random] {
        let plan = plan_at(&hosts, &by(algorithm.clone()), &dice, now, &[]);
        let looked_at = Cell::new(0);
        let has_room = |host: usize| {
            looked_at.set(looked_at.get() + 1);
            host == 1000
        };
        let left = Left::without([5]).with_room(&has_room);
        assert_eq!(plan.choose(&hosts, &algorithm, &dice, &left), None);
        assert_eq!(looked_at.take(), 999);
        assert_eq!(plan.by_score(&hosts, 7, &left), None);
        assert_eq!(looked_at.take(), 999);
        // The one that has room is found, wherever it is.
        let has_room = |host: usize| host == 700;
        let left = Left::without([5]).with_room(&has_room);
        assert_eq!(plan.choose(&hosts, &algorithm, &dice, &left), Some(700));
    }
}

#[test]
fn other_levels_take_what_is_full_and_what_has_no_weight_does_not() {
    let (now, dice) = (Instant::now(), Dice::new(1));
    let mut all = hosts(&[1, 1, 0, 1]);
    all[1].level = 2;
    all[3].record.failed(now, now);
    let plan = plan_at(&all, &by(Balance::RoundRobin), &dice, now, &[]);
    let choose = |full: &[usize]| {
        let has_room = |host: usize| !full.contains(&host);
        plan.choose(&all, &Balance::RoundRobin, &dice, &Left::default().with_room(&has_room))
    };
    assert_eq!((choose(&[]), choose(&[0]), choose(&[0, 1])), (Some(0), Some(1), None));
    let worth = |plan: &Plan| {
        let class = plan.worth_waiting_for(&Left::default()).unwrap();
        (0..4).map(|host| plan.is_as_good_as(host, class)).collect::<Vec<_>>()
    };
    assert_eq!(worth(&plan), [true, true, false, false]);
    // Without another one it is the best.
    all[..2].iter().for_each(|host| host.record.failed(now, now));
    let plan = plan_at(&all, &by(Balance::RoundRobin), &dice, now, &[]);
    assert_eq!(worth(&plan), [false, false, true, false]);
}

#[test]
fn a_plan_of_many_that_start_slowly_holds_for_a_while() {
    let (now, dice) = (Instant::now() + Duration::from_secs(100), Dice::new(1));
    let hosts = hosts(&[1; 100]);
    for (host, ms) in hosts.iter().zip(0..) {
        host.record.came_back(now - Duration::from_millis(ms));
    }
    let slow_start = Some(SlowStart { window: Duration::from_secs(10), min_weight_percent: 10 });
    let plan = plan_at(&hosts, &Balancing { slow_start, ..by(Balance::RoundRobin) }, &dice, now, &[]);
    let holds_after = |ms| plan.holds(0, || now + Duration::from_millis(ms));
    assert!(holds_after(49) && !holds_after(51));
}
