//! What one call can take of the gateway: time between waits, header fields, bytes handed over, lines.

use super::*;
use crate::bindings::Error;
use crate::call::state::{CallState, Stage};
use crate::exchange::HeaderEdit;
use crate::host::fields::Fields;
use crate::host::request::FIELDS;
use crate::host::response;

/// Sends nothing, again and again: each call returns at once, with an empty list or (tried at load) refused.
const SEND: &str =
    "(loop $again (call $send (i32.const 64) (i32.const 0) (i32.const 1000) (i32.const 128)) (br $again)) i32.const 0";

#[test]
fn a_guest_that_only_sends_is_stopped_by_both_deadlines() {
    let runtime = runtime();
    let bytes = guest(&[(Hook::OnRequest, SEND)], true);
    let second = Duration::from_secs(1);
    let cases = [
        (FailureKind::Deadline, FilterLimits { wall: 60 * second, ..limits() }),
        (FailureKind::Timeout, FilterLimits { cpu: 60 * second, wall: Duration::from_millis(20), ..limits() }),
    ];
    for (kind, limits) in cases {
        let program = program(&runtime, &bytes, Mode::Reused, limits);
        run(async {
            let result = Pool::new(program).call(Hook::OnRequest, exchange(), 0).await.1;
            assert_eq!(kind_of(&result), Some(kind), "{result:?}");
        });
    }
}

#[test]
fn a_guest_hands_over_so_much_at_once() {
    let runtime = runtime();
    // The host refuses such a method, which the guest ignores.
    let hand_over = |length: u32, limits| {
        let hook = format!(
            "(drop (memory.grow (i32.const 60)))
             (call $set-method (i32.const 16) (i32.const {length}) (i32.const 64)) i32.const 0"
        );
        let program = program(&runtime, &guest(&[(Hook::OnRequest, &hook)], false), Mode::Reused, limits);
        run(async { Pool::new(program).call(Hook::OnRequest, exchange(), 0).await.1 })
    };
    let two_mib = 2 << 20;
    let bodies = |max_body| FilterLimits { max_body, cpu: Duration::from_secs(10), ..limits() };
    assert!(hand_over(two_mib, bodies(0)).is_ok());
    let over = hand_over(two_mib + 1, bodies(0)).unwrap_err();
    assert!(matches!(&over, FilterError::Trap(why) if why.contains("too much data")), "{over:?}");
    assert!(hand_over(two_mib + 1, bodies(1)).is_ok());
}

/// An instance's state in `on-request`.
fn state() -> CallState {
    let runtime = runtime();
    let program = program(&runtime, &guest(&[(Hook::OnRequest, CONTINUE)], false), Mode::Reused, limits());
    let mut state = CallState::new(program.shared.clone(), runtime.ticker.clone(), Box::default());
    state.exchange = Some(exchange());
    begin(&mut state);
    state
}

fn begin(state: &mut CallState) {
    state.begin(Stage::Hook(Hook::OnRequest), false, Duration::from_secs(1));
}

#[test]
fn a_call_sets_so_many_header_fields() {
    let mut state = state();
    let set = |state: &mut CallState, name: &str, value: &str| {
        let edit = HeaderEdit::Set(value.parse().unwrap());
        (FIELDS.edit)(state, name.parse().unwrap(), edit)
    };
    let names = (0..1_000).take_while(|n| set(&mut state, &format!("x-{n}"), "1").is_ok()).count();
    assert_eq!(names, 256);
    assert!(matches!(set(&mut state, "x-more", "1"), Err(Error::TooLarge(256))));
    let long = "v".repeat(60 << 10);
    begin(&mut state);
    for _ in 0..4 {
        set(&mut state, "x-1", &long).unwrap();
    }
    assert!(matches!(set(&mut state, "x-1", &long), Err(Error::TooLarge(0x4_0000))));
    (FIELDS.edit)(&mut state, "x-1".parse().unwrap(), HeaderEdit::Remove).unwrap();
    begin(&mut state);
    assert!(set(&mut state, "x-1", &long).is_ok(), "the next call has its own");
    assert!(matches!(state.set_method(&"M".repeat(65)), Err(Error::TooLarge(64))));
}

#[test]
fn edits_are_taken_back_to_where_they_began() {
    let mut state = state();
    let set = |state: &mut CallState, of: Fields, name: &str| {
        (of.edit)(state, name.parse().unwrap(), HeaderEdit::Set("1".parse().unwrap())).unwrap();
    };
    let lengths = |state: &CallState| {
        let exchange = state.exchange.as_ref().unwrap();
        (exchange.request.headers.len(), exchange.draft.as_ref().map_or(0, |draft| draft.headers.len()))
    };
    set(&mut state, FIELDS, "x-a");
    set(&mut state, response::FIELDS, "x-a");
    let before = state.before_edits().unwrap();
    let bytes = state.field_bytes;
    for of in [FIELDS, response::FIELDS] {
        set(&mut state, of, "x-b");
        (of.edit)(&mut state, "x-a".parse().unwrap(), HeaderEdit::Remove).unwrap();
        set(&mut state, of, "x-c");
    }
    assert_eq!(lengths(&state), (2, 2));
    state.take_back_edits(before);
    assert_eq!((lengths(&state), state.field_bytes), ((1, 1), bytes));
    assert!(state.exchange.as_ref().unwrap().request.headers.contains_key("x-a"));
}

#[test]
fn the_rest_of_a_line_belongs_to_the_exchange_that_wrote_it() {
    let mut state = state();
    let ((), text) = logged(|| {
        state.write_output(false, b"whole\nhalf");
        state.flush_output();
        state.exchange = None;
        state.flush_output();
        state.write_output(false, b"later\n");
    });
    let found: Vec<_> = text.lines().map(|line| line.contains("request_id=\"id\"")).collect();
    assert_eq!(found, [true, true, false], "{text}");
    assert!(text.contains("half") && !text.contains("halflater"), "{text}");
}
