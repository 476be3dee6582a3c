//! Groups of small guests: which member decides, and what is left of the others.

use super::*;
use crate::config::model::{AnyOf, TryNextOn};

/// A filter that answers with this status.
fn answers(maker: &Maker, name: &str, status: u16) -> Step<Arc<Filter>> {
    refuses(maker, name, "", status)
}

/// A filter that edits the request and answers with this status. None of its later hooks may be called.
fn refuses(maker: &Maker, name: &str, edit: &str, status: u16) -> Step<Arc<Filter>> {
    let hook = format!("{edit} (call $set-status (i32.const {status}) (i32.const 64)) {RESPOND}");
    let hooks = [(Hook::OnRequest, &*hook), (Hook::OnRequestBody, "unreachable"), (Hook::OnResponse, "unreachable")];
    Step::Filter(maker.filter(name, FailurePolicy::Closed, &hooks))
}

/// A filter that makes the method `PUT` and lets the request pass. Its response hook sets this status.
fn puts(maker: &Maker, name: &str, code: u16) -> Step<Arc<Filter>> {
    let hooks = [(Hook::OnRequest, &*format!("{PUT} {CONTINUE}")), (Hook::OnResponse, &*status(code))];
    Step::Filter(maker.filter(name, FailurePolicy::Closed, &hooks))
}

/// A filter that lets the request pass, and none of whose later hooks may be called.
fn passes(maker: &Maker, name: &str) -> Step<Arc<Filter>> {
    let hooks = [(Hook::OnRequest, CONTINUE), (Hook::OnResponse, "unreachable")];
    Step::Filter(maker.filter(name, FailurePolicy::Closed, &hooks))
}

fn traps(maker: &Maker, name: &str, policy: FailurePolicy) -> Step<Arc<Filter>> {
    Step::Filter(maker.filter(name, policy, &[(Hook::OnRequest, TRAP), (Hook::OnResponse, "unreachable")]))
}

fn any_of(members: Vec<Step<Arc<Filter>>>) -> Step<Arc<Filter>> {
    any_of_with(members, &[401], false)
}

fn any_of_with(members: Vec<Step<Arc<Filter>>>, try_next_on: &[u16], optional: bool) -> Step<Arc<Filter>> {
    Step::AnyOf(AnyOf { members, try_next_on: TryNextOn(try_next_on.to_vec()), optional })
}

/// What came of a request.
struct Came {
    outcome: RequestOutcome,
    traversal: Traversal,
    /// The status after the response hooks.
    status: u16,
    method: Method,
}

fn request(steps: Vec<Step<Arc<Filter>>>) -> Came {
    request_with(steps, Body(b"", 0))
}

fn request_with(steps: Vec<Step<Arc<Filter>>>, mut body: Body) -> Came {
    let pipeline = WorkerFilters::new(1 << 20).pipeline(&Pipeline::new(&steps).unwrap());
    run(async {
        let mut traversal = Traversal::new(exchange());
        let upstream = traversal.exchange().response.take();
        let outcome = pipeline.on_request(&mut traversal, &mut body).await;
        if matches!(outcome, RequestOutcome::Continue) {
            traversal.exchange().response = upstream;
        }
        assert!(traversal.exchange().journal.is_empty(), "later calls begin with an empty journal");
        let method = traversal.exchange().request.method.clone();
        let ended = pipeline.on_response(&mut traversal, &mut Body(b"", 0)).await;
        assert!(matches!(ended, ResponseOutcome::Continue), "{ended:?}");
        let status = traversal.exchange().response.as_ref().map_or(0, |response| response.status.as_u16());
        Came { outcome, traversal, status, method }
    })
}

#[test]
fn the_first_member_that_lets_the_request_pass_decides() {
    let maker = Maker::new();
    let never = Step::Filter(maker.filter("never", FailurePolicy::Closed, &[(Hook::OnRequest, "unreachable")]));
    let came = request(vec![any_of(vec![answers(&maker, "a", 401), puts(&maker, "b", 299), never])]);
    assert!(matches!(came.outcome, RequestOutcome::Continue), "{:?}", came.outcome);
    assert_eq!((came.method, came.status), (Method::PUT, 299));
}

#[test]
fn a_member_that_refuses_leaves_nothing_behind() {
    let maker = Maker::new();
    let pass = Step::Filter(maker.filter("pass", FailurePolicy::Closed, &[(Hook::OnRequest, CONTINUE)]));
    let came = request(vec![any_of(vec![refuses(&maker, "edits", PUT, 401), pass.clone()])]);
    assert_eq!((came.method, came.status), (Method::GET, 200));
    assert!(!came.traversal.exchange.unwrap().response_body_replaced);

    // A branch goes as a whole: its first filter had let the request pass.
    let first = Step::Filter(maker.filter(
        "first",
        FailurePolicy::Closed,
        &[(Hook::OnRequest, &format!("{PUT} {CONTINUE}")), (Hook::OnResponse, "unreachable")],
    ));
    let branch = Step::AllOf(vec![first, answers(&maker, "second", 401)]);
    let came = request(vec![any_of(vec![branch, pass])]);
    assert!(matches!(came.outcome, RequestOutcome::Continue), "{:?}", came.outcome);
    assert_eq!((came.method, came.status), (Method::GET, 200));
}

#[test]
fn when_all_refuse_their_answers_become_one() {
    let maker = Maker::new();
    let before = puts(&maker, "before", 298);
    let group = any_of_with(vec![answers(&maker, "a", 403), answers(&maker, "b", 401)], &[401, 403], false);
    let came = request(vec![before, group, passes(&maker, "after")]);
    assert!(matches!(came.outcome, RequestOutcome::Refused { by: 2 }), "{:?}", came.outcome);
    assert_eq!((came.status, came.method), (298, Method::PUT), "the filters before the group see the response");
    let response = came.traversal.exchange.unwrap().response.unwrap();
    assert_eq!(response.origin, ResponseSource::Filter);

    let of = |statuses: [u16; 2]| {
        let members = vec![answers(&maker, "a", statuses[0]), answers(&maker, "b", statuses[1])];
        request(vec![any_of_with(members, &[401, 403, 404], false)]).status
    };
    assert_eq!([of([401, 403]), of([403, 401]), of([404, 403])], [401, 401, 404]);
}

#[test]
fn an_answer_that_is_not_listed_is_final() {
    let maker = Maker::new();
    let came = request(vec![any_of(vec![answers(&maker, "a", 401), answers(&maker, "b", 403), passes(&maker, "c")])]);
    assert!(matches!(came.outcome, RequestOutcome::Respond { by: 1 }), "{:?}", came.outcome);
    assert_eq!(came.status, 403);
    // The filters of its branch that had let the request pass see its answer.
    let branch = Step::AllOf(vec![puts(&maker, "first", 297), answers(&maker, "second", 403)]);
    let came = request(vec![any_of(vec![branch, passes(&maker, "other")])]);
    assert!(matches!(came.outcome, RequestOutcome::Respond { by: 1 }), "{:?}", came.outcome);
    assert_eq!(came.status, 297);
}

#[test]
fn groups_nest_and_each_has_its_own_statuses() {
    let maker = Maker::new();
    let inner = || any_of_with(vec![refuses(&maker, "a", PUT, 403), answers(&maker, "b", 403)], &[403], false);
    let pass = || Step::Filter(maker.filter("pass", FailurePolicy::Closed, &[(Hook::OnRequest, CONTINUE)]));
    let branch = |inner| Step::AllOf(vec![pass(), inner]);
    let came = request(vec![any_of_with(vec![branch(inner()), pass()], &[403], false)]);
    assert!(matches!(came.outcome, RequestOutcome::Continue), "{:?}", came.outcome);
    assert_eq!(came.method, Method::GET);
    let came = request(vec![any_of(vec![branch(inner()), passes(&maker, "after")])]);
    assert!(matches!(came.outcome, RequestOutcome::Refused { by: 1 }), "the outer group does not list 403");
    assert_eq!(came.status, 403);
}

#[test]
fn a_member_that_fails_closed_ends_the_request() {
    let maker = Maker::new();
    let came = request(vec![any_of(vec![traps(&maker, "bad", FailurePolicy::Closed), passes(&maker, "next")])]);
    assert!(matches!(&came.outcome, RequestOutcome::Failed(failure) if &*failure.filter == "bad"));
    assert_eq!(came.method, Method::GET);
}

#[test]
fn a_member_that_fails_open_neither_refuses_nor_lets_pass() {
    let maker = Maker::new();
    let open = || traps(&maker, "bad", FailurePolicy::Open);
    let came = request(vec![any_of(vec![open(), answers(&maker, "next", 401)])]);
    assert!(matches!(came.outcome, RequestOutcome::Refused { by: 1 }), "{:?}", came.outcome);
    let came = request(vec![any_of(vec![answers(&maker, "first", 401), open()])]);
    assert!(matches!(came.outcome, RequestOutcome::Refused { by: 0 }), "{:?}", came.outcome);
    let came = request(vec![any_of(vec![Step::AllOf(vec![open(), open()]), open()])]);
    assert!(matches!(came.outcome, RequestOutcome::Continue), "as a pipeline without these filters");
}

#[test]
fn the_body_hook_of_a_member_counts_too() {
    let maker = Maker::new();
    let edits = format!("{PUT} (call $want-body (i64.const 100) (i32.const 64)) {CONTINUE}");
    let checks = |policy, body: &str| {
        Step::Filter(maker.filter("checks", policy, &[(Hook::OnRequest, &edits), (Hook::OnRequestBody, body)]))
    };
    let refusal = format!("(call $set-status (i32.const 401) (i32.const 64)) {RESPOND}");
    let next = || Step::Filter(maker.filter("next", FailurePolicy::Closed, &[(Hook::OnRequest, CONTINUE)]));
    let body = || Body(b"0123456789", 0);
    // It names the caller by the head, and then finds that the body is not what was signed.
    let came = request_with(vec![any_of(vec![checks(FailurePolicy::Closed, &refusal), next()])], body());
    assert!(matches!(came.outcome, RequestOutcome::Continue), "{:?}", came.outcome);
    assert_eq!(came.method, Method::GET);
    let exchange = came.traversal.exchange.unwrap();
    assert!(exchange.request_body_wish.is_none() && exchange.request_body.is_some());
    // Or fails at the body: what it did at the head is no consent.
    let came = request_with(vec![any_of(vec![checks(FailurePolicy::Open, "unreachable"), next()])], body());
    assert!(matches!(came.outcome, RequestOutcome::Continue), "{:?}", came.outcome);
    assert_eq!(came.method, Method::GET);
    let came = request_with(
        vec![any_of(vec![checks(FailurePolicy::Open, "unreachable"), answers(&maker, "next", 401)])],
        body(),
    );
    assert!(matches!(came.outcome, RequestOutcome::Refused { by: 1 }), "{:?}", came.outcome);
}

#[test]
fn an_optional_group_lets_everybody_pass_without_an_edit() {
    let maker = Maker::new();
    let members = vec![refuses(&maker, "a", PUT, 401), answers(&maker, "b", 401)];
    let came = request(vec![any_of_with(members, &[401], true)]);
    assert!(matches!(came.outcome, RequestOutcome::Continue), "{:?}", came.outcome);
    assert_eq!((came.method, came.status), (Method::GET, 200));
    let came = request(vec![any_of_with(vec![answers(&maker, "a", 403)], &[401], true)]);
    assert!(matches!(came.outcome, RequestOutcome::Respond { by: 0 }), "a final answer stays final");
}

#[test]
fn sandboxes_of_a_branch_that_refuses_go_back_to_their_pool() {
    let maker = Maker::new();
    let hooks = [(Hook::OnRequest, CONTINUE), (Hook::OnResponse, "unreachable")];
    let fresh = maker.filter_in(Mode::Fresh, "fresh", FailurePolicy::Closed, &hooks);
    let pass = Step::Filter(maker.filter("pass", FailurePolicy::Closed, &[(Hook::OnRequest, CONTINUE)]));
    let branch = Step::AllOf(vec![Step::Filter(fresh), answers(&maker, "refuses", 401)]);
    let steps = vec![any_of(vec![branch, pass])];
    let pipeline = WorkerFilters::new(1 << 20).pipeline(&Pipeline::new(&steps).unwrap());
    run(async {
        let mut traversal = Traversal::new(exchange());
        let outcome = pipeline.on_request(&mut traversal, &mut Body(b"", 0)).await;
        assert!(matches!(outcome, RequestOutcome::Continue), "{outcome:?}");
        assert!(traversal.exchange().sandboxes.is_empty());
    });
}

#[test]
fn a_member_that_can_not_refuse_is_not_accepted() {
    let maker = Maker::new();
    let only_response = Step::Filter(maker.filter("late", FailurePolicy::Closed, &[(Hook::OnResponse, CONTINUE)]));
    let steps = [any_of(vec![answers(&maker, "a", 401), Step::AllOf(vec![only_response])])];
    let error = Pipeline::new(&steps).err().unwrap();
    assert_eq!(
        error.to_string(),
        "a member of `any_of` never refuses, as `late` has no hook for requests: every request would pass"
    );
}
