//! Decisions without sockets or clocks.

use super::*;
use crate::config::defaults;
use crate::config::model::{Backoff, RetryBudget, RetryConditions};

const POST: Repeatability = Repeatability { idempotent: false, has_body: false, whole: true };
const GET: Repeatability = Repeatability { idempotent: true, ..POST };
const REFUSED: EndedAttempt = EndedAttempt {
    delivery: Delivery::Unsent,
    reused_connection: false,
    condition: Some(RetryCondition::ConnectFailure),
    request: POST,
};
const RESET: EndedAttempt =
    EndedAttempt { delivery: Delivery::Possible, condition: Some(RetryCondition::Reset), request: GET, ..REFUSED };

fn attempts(max_endpoints: usize, tried: &[usize]) -> Attempts<'static> {
    of_policy(None, max_endpoints, tried)
}

fn of_policy<'p>(policy: Option<&'p RetryPolicy>, max_endpoints: usize, tried: &[usize]) -> Attempts<'p> {
    let mut attempts = Attempts::new(policy);
    attempts.select(max_endpoints, 0, FilterChoice::NoneOrSame);
    tried.iter().for_each(|endpoint| attempts.spend(*endpoint));
    attempts
}

fn next(attempts: &mut Attempts<'_>, ended: EndedAttempt) -> Next {
    attempts.after(ended, false).next
}

#[test]
fn what_was_not_sent_goes_to_another_endpoint_whatever_the_method() {
    for request in [GET, POST] {
        assert_eq!(next(&mut attempts(3, &[1]), EndedAttempt { request, ..REFUSED }), Next::OtherEndpoint);
    }
    assert_eq!(next(&mut attempts(2, &[1, 0]), REFUSED), Next::GiveUp, "all endpoints were tried");
}

#[test]
fn a_stale_connection_costs_no_endpoint() {
    let stale = EndedAttempt { reused_connection: true, ..REFUSED };
    assert_eq!(next(&mut attempts(1, &[0]), stale), Next::SameEndpoint);
    let crossed = EndedAttempt { delivery: Delivery::ClosedIdle, request: GET, ..stale };
    assert_eq!(next(&mut attempts(1, &[0]), crossed), Next::SameEndpoint);
    assert_eq!(next(&mut attempts(9, &[0]), EndedAttempt { request: POST, ..crossed }), Next::GiveUp);
    let put = Repeatability { has_body: true, ..GET };
    assert_eq!(next(&mut attempts(9, &[0]), EndedAttempt { request: put, ..crossed }), Next::GiveUp);
}

#[test]
fn a_refused_request_is_sent_again_a_few_times() {
    let gone =
        EndedAttempt { delivery: Delivery::Unprocessed(Unprocessed::GoAway), reused_connection: true, ..REFUSED };
    let mut one = attempts(1, &[0]);
    let all = [next(&mut one, gone), next(&mut one, gone), next(&mut one, gone)];
    assert_eq!(all, [Next::SameEndpoint, Next::SameEndpoint, Next::GiveUp]);
    let at_once = EndedAttempt { reused_connection: false, ..gone };
    assert_eq!(next(&mut attempts(2, &[0]), at_once), Next::OtherEndpoint);
    assert_eq!(next(&mut attempts(1, &[0]), at_once), Next::SameEndpoint, "there is no other");
}

#[test]
fn a_refused_stream_is_tried_on_one_other_connection_and_then_at_another_endpoint() {
    let refused = EndedAttempt {
        delivery: Delivery::Unprocessed(Unprocessed::RefusedStream),
        reused_connection: true,
        ..REFUSED
    };
    let mut two = attempts(2, &[0]);
    assert_eq!([next(&mut two, refused), next(&mut two, refused)], [Next::SameEndpoint, Next::OtherEndpoint]);
    two.spend(1);
    assert_eq!(next(&mut two, refused), Next::GiveUp, "three times in all");
    let mut one = attempts(1, &[0]);
    assert_eq!([next(&mut one, refused), next(&mut one, refused)], [Next::SameEndpoint, Next::GiveUp]);
    let at_once = EndedAttempt { reused_connection: false, ..refused };
    assert_eq!(next(&mut attempts(2, &[0]), at_once), Next::OtherEndpoint);
}

#[test]
fn what_the_server_may_have_acted_on_is_not_sent_again_without_a_policy() {
    for reused_connection in [true, false] {
        let ended = EndedAttempt { reused_connection, ..RESET };
        assert_eq!(next(&mut attempts(9, &[0]), ended), Next::GiveUp);
    }
}

#[test]
fn filters_are_asked_again_while_they_choose_something_else() {
    let mut attempts = Attempts::default();
    attempts.select(1, 2, FilterChoice::New);
    attempts.spend(0);
    assert_eq!(next(&mut attempts, REFUSED), Next::Selection);
    attempts.select(1, 2, FilterChoice::New);
    assert!(attempts.tried().is_empty(), "a selection may have the same endpoints");
    assert_eq!(attempts.without_endpoint(), Next::GiveUp, "twice in all");
    let mut attempts = Attempts::default();
    attempts.select(1, 2, FilterChoice::NoneOrSame);
    assert_eq!(attempts.without_endpoint(), Next::GiveUp, "the same choice would fail again");
}

fn policy() -> RetryPolicy {
    RetryPolicy {
        attempts: defaults::RETRY_ATTEMPTS,
        on: defaults::RETRY_ON,
        status_codes: vec![StatusCode::TOO_MANY_REQUESTS],
        per_try_timeout: None,
        backoff: Backoff { base: defaults::BACKOFF_BASE, max: defaults::BACKOFF_MAX },
        budget: RetryBudget { percent: 20, min_per_second: 3 },
        body: defaults::RETRY_BODY,
        non_idempotent: false,
        max_retry_after: defaults::MAX_RETRY_AFTER,
        attempt_header: None,
    }
}

#[test]
fn a_policy_repeats_what_it_names_at_endpoints_that_have_not_failed() {
    let policy = policy();
    let mut two = of_policy(Some(&policy), 2, &[0]);
    let first = two.after(RESET, false);
    assert_eq!(first, Decision { next: Next::OtherEndpoint, is_charged: true, is_paused: true, denied: None });
    two.spend(1);
    assert_eq!(
        (next(&mut two, RESET), two.tried()),
        (Next::OtherEndpoint, &[1][..]),
        "not the one that has just failed"
    );
    two.spend(0);
    assert_eq!(two.after(RESET, false).denied, Some(Denied::Attempts), "three in all");
    let mut one = of_policy(Some(&policy), 1, &[0]);
    assert_eq!((next(&mut one, RESET), one.tried()), (Next::OtherEndpoint, &[][..]), "there is no other");
}

#[test]
fn a_policy_leaves_alone_what_may_have_been_processed_and_must_not_be_twice() {
    let mut policy = policy();
    let post = EndedAttempt { request: POST, ..RESET };
    assert_eq!(of_policy(Some(&policy), 2, &[0]).after(post, false).denied, Some(Denied::Method));
    let gone = Repeatability { has_body: true, whole: false, ..GET };
    let put = EndedAttempt { request: gone, ..RESET };
    assert_eq!(of_policy(Some(&policy), 2, &[0]).after(put, false).denied, Some(Denied::Body));
    assert_eq!(of_policy(Some(&policy), 2, &[0]).after(RESET, true).denied, Some(Denied::Filter));
    let unavailable = EndedAttempt::answered(RetryCondition::Unavailable, POST);
    assert_eq!(next(&mut of_policy(Some(&policy), 2, &[0]), unavailable), Next::GiveUp, "not named");
    policy.on = RetryConditions::of(&[RetryCondition::Unavailable]);
    assert_eq!(next(&mut of_policy(Some(&policy), 2, &[0]), unavailable), Next::OtherEndpoint);
    assert_eq!(next(&mut of_policy(Some(&policy), 2, &[0]), REFUSED), Next::GiveUp, "the list says all");
    policy = RetryPolicy { non_idempotent: true, ..self::policy() };
    assert_eq!(next(&mut of_policy(Some(&policy), 2, &[0]), post), Next::OtherEndpoint);
}

#[test]
fn another_endpoint_for_what_was_not_sent_is_neither_charged_nor_paused() {
    let policy = policy();
    let free = Decision { next: Next::OtherEndpoint, is_charged: false, is_paused: false, denied: None };
    assert_eq!(of_policy(Some(&policy), 2, &[0]).after(REFUSED, false), free);
    let again = of_policy(Some(&policy), 1, &[0]).after(REFUSED, false);
    assert_eq!(again, Decision { is_paused: true, ..free }, "the same one after a while");
    let stale = EndedAttempt { reused_connection: true, ..REFUSED };
    let mut one = of_policy(Some(&policy), 1, &[0]);
    for _ in 0..5 {
        assert_eq!(next(&mut one, stale), Next::SameEndpoint, "no attempt of the policy");
    }
}

#[test]
fn answers_are_known_by_their_status() {
    let policy = RetryPolicy { on: RetryConditions::of(&RetryCondition::ALL), ..policy() };
    let of = |status: u16, grpc| condition_of(&policy, StatusCode::from_u16(status).unwrap(), grpc);
    assert_eq!([of(502, None), of(503, None), of(504, None)], [Some(RetryCondition::GatewayError); 3]);
    assert_eq!((of(429, None), of(500, None)), (Some(RetryCondition::RetriableStatusCodes), None));
    assert_eq!((of(200, Some(14)), of(200, Some(0))), (Some(RetryCondition::Unavailable), None));
    let few = self::policy();
    assert_eq!(condition_of(&few, StatusCode::OK, Some(14)), None);
}
