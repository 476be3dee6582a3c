//! Checks and ejections by the records alone, without sockets but for probes.

use std::time::{Duration, Instant};

use super::*;
use crate::config::model::Probe;

const CHECK: HealthCheck = HealthCheck {
    probe: Probe::Tcp,
    interval: Duration::from_secs(5),
    interval_jitter_percent: 0,
    timeout: Duration::from_secs(1),
    healthy_threshold: 2,
    unhealthy_threshold: 3,
    port: None,
};

fn policy() -> OutlierDetection {
    OutlierDetection { max_ejection_time: Duration::from_secs(70), ..OutlierDetection::default() }
}

#[test]
fn an_address_is_unchecked_then_in_doubt_then_out_and_back() {
    let health = Health::default();
    let fails = |health: &Health| health.checked(&CHECK, Some(&"GET /healthz answered 503"));
    assert!(health.is_healthy() && !health.is_in_doubt(), "what was not checked yet is used");
    assert!(fails(&health).is_none() && health.is_in_doubt() && health.is_healthy(), "one check takes nothing out");
    assert!(health.checked(&CHECK, None).is_none() && !health.is_in_doubt());
    assert!(fails(&health).is_none() && fails(&health).is_none());
    assert!(!health.is_in_doubt(), "checks that once passed are not hurried");
    let told = fails(&health).expect("the third in a row");
    assert_eq!((told.is_out, told.evidence.as_str()), (true, "3 checks failed: GET /healthz answered 503"));
    assert!(!health.may_try(Instant::now()), "no request tries what a check will");
    assert!(fails(&health).is_none(), "told once");
    assert!(
        health.checked(&CHECK, None).is_none() && fails(&health).is_none() && health.checked(&CHECK, None).is_none()
    );
    let told = health.checked(&CHECK, None).expect("the second in a row");
    assert_eq!((told.is_out, told.evidence.as_str()), (false, "2 checks passed"));
    assert!(health.is_healthy());
    assert_eq!((health.outs(), health.checks()), ([0, 1, 0, 0], [4, 6]));
}

#[test]
fn ejections_grow_and_shrink_and_end_by_themselves() {
    let (health, start) = (Health::default(), Instant::now());
    let mut now = start;
    for takes in [30, 60, 70, 70] {
        let told = health.eject(&policy(), "5 gateway errors in a row", now).expect("ejected");
        assert_eq!(told.evidence, format!("ejected for {takes}s: 5 gateway errors in a row"));
        assert!(!health.may_try(now) && health.is_ejected(now) && health.end_ejection(now).is_none());
        now += Duration::from_secs(takes);
        assert!(health.may_try(now) && !health.is_ejected(now), "as soon as its time is over");
        assert!(health.end_ejection(now).is_some() && health.is_healthy());
    }
    for _ in 0..9 {
        health.relax_ejection();
    }
    let told = health.eject(&policy(), "again", now).expect("ejected");
    assert_eq!(told.evidence, "ejected for 30s: again");
}

#[test]
fn each_reason_stands_for_itself() {
    let (health, now) = (Health::default(), Instant::now());
    health.not_reached(now, now).expect("out");
    health.eject(&policy(), "slow", now).expect("out");
    assert_eq!(health.reasons().collect::<Vec<_>>(), [Reason::Unreachable, Reason::Ejected]);
    health.reached().expect("it takes connections");
    assert!(!health.is_healthy() && !health.may_try(now), "still ejected");
    health.forget(Reason::Ejected).expect("nobody would end it");
    assert!(health.is_healthy() && health.evidence().is_empty());
    assert_eq!(health.history().len(), 4);
}

#[test]
fn failures_in_a_row_end_with_a_success() {
    let health = Health::default();
    assert_eq!((health.failed(true, Stage::Head), health.failed(true, Stage::Head)), ((1, 1), (2, 2)));
    assert!(health.is_healthy(), "counting is not being out");
    assert_eq!(health.failed(false, Stage::Head), (0, 3), "a 500 is no gateway error");
    // Those behind a good head are a row of their own, which the next good head does not end.
    assert_eq!(health.failed(true, Stage::Body), (1, 1));
    health.well();
    assert_eq!((health.failed(true, Stage::Head), health.failed(true, Stage::Body)), ((1, 1), (2, 2)));
    health.ended_well();
    assert_eq!((health.failed(true, Stage::Head), health.failed(true, Stage::Body)), ((2, 2), (1, 1)));
}

#[test]
fn the_history_is_bounded_and_keeps_why_it_is_out() {
    let (health, now) = (Health::default(), Instant::now());
    health.eject(&policy(), "the first", now).expect("out");
    for _ in 0..20 {
        health.not_reached(now, now).expect("out");
        health.reached().expect("back");
    }
    assert_eq!(health.history().len(), 16);
    let [out] = &health.evidence()[..] else { panic!("one reason") };
    assert_eq!(out.evidence, "ejected for 30s: the first");
}

#[test]
fn a_success_between_the_parts_of_a_failure_leaves_a_way_back() {
    let (health, now) = (Health::default(), Instant::now());
    // Another failure has taken it out. One more is counted; before it takes the address out as well, a success puts it back.
    health.not_reached(now, now).expect("out");
    let evidence = health.unreachable.not_reached(millis(now), millis(now)).expect("it counts");
    health.reached().expect("back");
    health.take_out(Reason::Unreachable, evidence).expect("out");
    assert!(health.may_try(now) && health.claim(now) == Trial::Needless, "nobody waits for a trial");
    health.reached().expect("back by the next success");
    assert!(health.is_healthy());
}

#[test]
fn the_end_of_an_ejection_is_not_that_of_the_next_one() {
    const ROUNDS: u64 = 2_000;
    let (health, start, round) = (Health::default(), Instant::now(), std::sync::Barrier::new(2));
    // In each round one thread ejects the address again, and the other, a request, ends the ejection before.
    let at = |round: u64| start + Duration::from_secs(3600) * u32::try_from(round).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0..ROUNDS {
                round.wait();
                health.end_ejection(at(i));
                round.wait();
            }
        });
        for i in 0..ROUNDS {
            round.wait();
            health.end_ejection(at(i));
            health.eject(&policy(), "slow", at(i));
            round.wait();
            assert!(health.is_ejected(at(i)), "round {i}");
        }
    });
    assert_eq!(health.outs()[Reason::Ejected as usize], ROUNDS, "each of them is told");
}
