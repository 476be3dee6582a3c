//! Circuits with a clock of the test's own.

use super::*;
use crate::config::model::{CircuitAnswer, CircuitScope};

const FAILURE: Outcome = Outcome::Failure(Cause::Status(503));

fn settings(failures: u32, window: FailureWindow) -> CircuitBreaker {
    CircuitBreaker {
        failures,
        window,
        open: Duration::from_secs(10),
        max_open: Duration::from_secs(40),
        half_open: 3,
        status_codes: vec![502, 503, 504],
        per: CircuitScope::Upstream,
        answer: CircuitAnswer::Unavailable,
    }
}

fn admit(circuit: &Circuit, settings: &CircuitBreaker, now: u64) -> Admission {
    circuit.admit_at(settings, circuit.state.load(Relaxed), now)
}

fn probe(circuit: &Circuit, settings: &CircuitBreaker, now: u64) -> Probe {
    match admit(circuit, settings, now) {
        Admission::Probe(probe) => probe,
        other => panic!("no probe: {other:?}"),
    }
}

#[test]
fn it_opens_at_fifteen_failures_of_the_last_twenty() {
    let (circuit, settings) = (Circuit::default(), settings(15, FailureWindow::Last(20)));
    // Three of four: 15 of 20.
    let mut opened = Vec::new();
    for n in 0..40 {
        let outcome = if n % 4 == 0 { Outcome::Success } else { FAILURE };
        opened.extend(circuit.note_passed(&settings, outcome, 1000).map(|change| (n, change.evidence)));
    }
    assert_eq!(opened, [(19, "open for 10s: 15 of the last 20 failed, the last: status 503".to_owned())]);
    assert_eq!(admit(&circuit, &settings, 4000), Admission::Refused(Duration::from_secs(7)));
    // One failure less in each twenty never opens it.
    let circuit = Circuit::default();
    for n in 0..4000 {
        let outcome = if n % 20 < 14 { FAILURE } else { Outcome::Success };
        assert_eq!(circuit.note_passed(&settings, outcome, 1000), None);
    }
}

#[test]
fn failures_in_a_window_of_time_are_forgotten_after_it() {
    let window = FailureWindow::Time { window: Duration::from_secs(10), percent: 50 };
    let (circuit, settings) = (Circuit::default(), settings(5, window));
    for at in [0, 3000, 6000, 9000, 12_000, 15_000] {
        assert_eq!(circuit.note_passed(&settings, FAILURE, at), None, "four in any ten seconds");
    }
    for _ in 0..40 {
        circuit.note_passed(&settings, Outcome::Success, 16_000);
    }
    for _ in 0..20 {
        assert_eq!(circuit.note_passed(&settings, FAILURE, 16_000), None, "less than half of the requests");
    }
    let changes: Vec<_> = (0..20).filter_map(|_| circuit.note_passed(&settings, FAILURE, 16_500)).collect();
    assert_eq!(changes.len(), 1);
    assert!(changes[0].evidence.ends_with(" in 10s failed, the last: status 503"), "{changes:?}");
}

fn opened(settings: &CircuitBreaker) -> Circuit {
    let circuit = Circuit::default();
    let changes: Vec<_> = (0..30).filter_map(|_| circuit.note_passed(settings, FAILURE, 0)).collect();
    assert_eq!(changes.len(), 1);
    circuit
}

#[test]
fn probes_decide_and_failed_ones_double_the_time() {
    let settings = settings(15, FailureWindow::Last(20));
    let circuit = opened(&settings);
    let probes: Vec<_> = (0..3).map(|_| probe(&circuit, &settings, 10_000)).collect();
    assert_eq!(admit(&circuit, &settings, 10_001), Admission::Refused(PROBING), "three pass");
    assert_eq!(circuit.probe_succeeded(&settings, probes[0], 10_100), None);
    let change = circuit.probe_failed(&settings, probes[1], Cause::Status(502), 10_100).expect("open again");
    assert_eq!(change.evidence, "open for 20s more: a probe failed: status 502");
    assert_eq!(circuit.probe_succeeded(&settings, probes[2], 10_200), None, "of the time before");
    for (now, open) in [(30_100, 40_000), (70_100, 40_000)] {
        let one = probe(&circuit, &settings, now);
        circuit.probe_failed(&settings, one, Cause::Status(502), now);
        assert_eq!(admit(&circuit, &settings, now), Admission::Refused(Duration::from_millis(open)));
    }
    let probes: Vec<_> = (0..3).map(|_| probe(&circuit, &settings, 110_100)).collect();
    let changes: Vec<_> =
        probes.into_iter().filter_map(|probe| circuit.probe_succeeded(&settings, probe, 110_200)).collect();
    assert_eq!(changes, [Change { is_open: false, evidence: "closed after 110.2s: 3 probes succeeded".to_owned() }]);
    assert_eq!(admit(&circuit, &settings, 110_300), Admission::Pass);
    assert_eq!(circuit.note_passed(&settings, FAILURE, 110_300), None, "the old failures are forgotten");
}

#[test]
fn a_probe_without_a_result_leaves_its_place_to_another_request() {
    let settings = settings(15, FailureWindow::Last(20));
    let circuit = opened(&settings);
    let first = probe(&circuit, &settings, 10_000);
    for _ in 0..2 {
        probe(&circuit, &settings, 10_000);
    }
    circuit.give_back(first);
    probe(&circuit, &settings, 10_001);
    assert_eq!(admit(&circuit, &settings, 10_001), Admission::Refused(PROBING));
    // Probes that never end are no longer waited for.
    let later = probe(&circuit, &settings, 20_000);
    circuit.give_back(first);
    assert_eq!((later.until, circuit.state()), (30_000, "half-open"));
    for _ in 0..2 {
        probe(&circuit, &settings, 20_000);
    }
    assert_eq!(admit(&circuit, &settings, 20_001), Admission::Refused(PROBING), "no place is given back twice");
}

#[test]
fn answers_that_take_longer_than_it_is_open_close_it() {
    let settings = settings(15, FailureWindow::Last(20));
    let circuit = opened(&settings);
    // Each answer takes a time and a half.
    let first = probe(&circuit, &settings, 10_000);
    let second = probe(&circuit, &settings, 20_000);
    assert_eq!(circuit.probe_succeeded(&settings, first, 25_000), None);
    let third = probe(&circuit, &settings, 30_000);
    assert_eq!(circuit.probe_succeeded(&settings, second, 35_000), None);
    assert!(circuit.probe_succeeded(&settings, third, 45_000).is_some());
    assert_eq!(circuit.state(), "closed");
    // A late failure counts as well, but none of an earlier half-open time.
    let circuit = opened(&settings);
    let first = probe(&circuit, &settings, 10_000);
    probe(&circuit, &settings, 20_000);
    assert!(circuit.probe_failed(&settings, first, Cause::Status(502), 25_000).is_some());
    probe(&circuit, &settings, 45_000);
    assert_eq!(circuit.probe_failed(&settings, first, Cause::Status(502), 45_000), None);
}

#[test]
fn a_removed_one_closes_and_stays_closed() {
    let settings = settings(15, FailureWindow::Last(20));
    let circuit = opened(&settings);
    assert!(!circuit.configure(Some(settings.window)) && circuit.state() == "open", "it outlives a reload");
    assert!(circuit.configure(None) && circuit.state() == "closed");
    for _ in 0..40 {
        assert_eq!(circuit.note_passed(&settings, FAILURE, 1000), None, "a request of before");
    }
    assert!(!circuit.configure(Some(settings.window)));
    assert_eq!(circuit.note_passed(&settings, FAILURE, 1000), None, "it counts anew");
    // What was counted before the first reload counts on.
    let circuit = Circuit::default();
    (0..14).for_each(|_| _ = circuit.note_passed(&settings, FAILURE, 1000));
    circuit.configure(Some(settings.window));
    (0..5).for_each(|_| _ = circuit.note_passed(&settings, Outcome::Success, 1000));
    assert!(circuit.note_passed(&settings, FAILURE, 1000).is_some());
}

#[test]
fn threads_let_no_more_probes_pass_than_allowed() {
    let settings = settings(15, FailureWindow::Last(20));
    let circuit = opened(&settings);
    let is_probe = || matches!(admit(&circuit, &settings, 10_000), Admission::Probe(_));
    let probes: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| (0..100).filter(|_| is_probe()).count())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(probes, 3);
}

#[test]
fn only_the_upstream_s_own_failures_count() {
    let settings = settings(15, FailureWindow::Last(20));
    assert_eq!(Outcome::of_error(UpstreamErrorKind::Busy), None);
    assert_eq!(
        Outcome::of_error(UpstreamErrorKind::RequestBody(crate::http::body::BodyErrorKind::ClientAborted)),
        None
    );
    assert!(Outcome::of_error(UpstreamErrorKind::Reset).is_some());
    assert_eq!(Outcome::of_status(&settings, 500, None), Outcome::Success);
    assert_eq!(Outcome::of_status(&settings, 503, None), FAILURE);
    assert_eq!(Outcome::of_status(&settings, 200, Some(14)), Outcome::Failure(Cause::Grpc(14)));
    assert_eq!(Outcome::of_status(&settings, 200, Some(3)), Outcome::Success);
}

#[test]
fn it_refuses_all_while_it_is_open_and_while_all_its_probes_are_under_way() {
    let (circuit, settings) = (Circuit::default(), settings(1, FailureWindow::Last(1)));
    assert_eq!(circuit.refuses_until(), None);
    assert!(circuit.note_passed(&settings, FAILURE, 0).is_some());
    assert_eq!(circuit.refuses_until(), Some(10_000));
    let probes: Vec<Probe> = (0..2).map(|_| probe(&circuit, &settings, 10_000)).collect();
    assert_eq!(circuit.refuses_until(), None, "one more may pass");
    let last = probe(&circuit, &settings, 10_000);
    assert_eq!((circuit.refuses_until(), circuit.state()), (Some(20_000), "half-open"));
    assert!(circuit.give_back(last));
    assert_eq!(circuit.refuses_until(), None);
    probe(&circuit, &settings, 10_000);
    assert_eq!(circuit.probe_succeeded(&settings, probes[0], 11_000), None);
    assert_eq!(circuit.refuses_until(), Some(20_000), "one that has succeeded makes no room");
    assert!(circuit.probe_failed(&settings, probes[1], Cause::Status(503), 12_000).is_some());
    assert_eq!(circuit.refuses_until(), Some(32_000), "twice the open time");
    assert!(!circuit.give_back(last), "it is of another time");
}
