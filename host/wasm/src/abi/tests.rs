//! What hostile guests hand over and answer: it costs them the call, on the worker's stack and on a fiber, and is the same failure where
//! wasmtime runs the component.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use wit_parser::Resolve;

use crate::filter::{FailureKind, FilterError, FilterLimits, Hook, LoadError, Mode, Verdict};
use crate::load::Runtime;
use crate::pool::Pool;
use crate::pool::program::{Program, ProgramSpec};
use crate::tests::{exchange, is_direct, limits, program, run, runtime, spec};
use sluice_harness::guest::{WIT, as_component, encode, world};

/// What a guest imports.
const HEAD: &str = r#"
    (import "sluice:filter/log@0.1.1" "log" (func $log (param i32 i32 i32)))
    (import "sluice:filter/request@0.1.1" "set-header" (func $set-header (param i32 i32 i32 i32 i32)))
    (import "sluice:filter/request@0.1.1" "header" (func $header (param i32 i32 i32)))
    (import "sluice:filter/request@0.1.1" "headers" (func $headers (param i32)))
    (import "sluice:filter/request@0.1.1" "method" (func $method (param i32)))
    (import "sluice:filter/request@0.1.1" "set-query" (func $set-query (param i32 i32 i32 i32)))
    (import "sluice:filter/request@0.1.1" "set-body" (func $set-body (param i32 i32 i32)))
    (import "sluice:filter/request@0.1.1" "edit-headers" (func $edit-headers (param i32 i32 i32)))
    (import "sluice:filter/response@0.1.1" "status" (func $status (param i32)))
    (import "sluice:filter/response@0.1.1" "set-status" (func $set-status (param i32 i32)))
    (import "sluice:filter/context@0.1.1" "set" (func $set (param i32 i32 i32 i64 i32 i32)))
    (import "sluice:filter/context@0.1.1" "get-path" (func $get-path (param i32 i32 i32 i32 i32)))
    (import "sluice:filter/limiter@0.1.1" "take" (func $take (param i32 i32 i64 i32)))
"#;
/// Its memory: `PUT` lies at 16, bytes that are no text at 32.
const MEMORY: &str = r#"
    (memory (export "memory") 1)
    (data (i32.const 16) "PUT")
    (data (i32.const 32) "\ff\fe\80")
    (global $calls (mut i32) (i32.const 0))
"#;
/// A `realloc` that always answers the same good address.
const GOOD: &str = "i32.const 4096";

/// A component with this `realloc` (`$size` is what it is asked for), further functions (imported ones first), and hooks.
fn guest(realloc: &str, more: &str, hooks: &[(Hook, &str)]) -> Vec<u8> {
    let mut text = format!(
        "(module {HEAD} {more} {MEMORY}
        (func (export \"cabi_realloc\") (param i32 i32 i32) (param $size i32) (result i32) {realloc})"
    );
    for (hook, body) in hooks {
        text.push_str(&format!(
            "(func (export \"sluice:filter/{hook}@0.1.1#{hook}\") (result i32) {body} i32.const 0)"
        ));
    }
    text.push(')');
    let names: Vec<_> = hooks.iter().map(|(hook, _)| hook.name()).collect();
    let (resolve, world) = world(&names, true);
    encode(wat::parse_str(&text).unwrap(), &resolve, world)
}

/// How a call of each program ends: called directly on the worker's stack, directly on a fiber, as a component, and that on a fiber.
fn ends(runtime: &Arc<Runtime>, bytes: &[u8], of: &FilterLimits) -> [Result<Verdict, FilterError>; 4] {
    [(true, false), (true, true), (false, false), (false, true)].map(|(direct, on_fiber)| {
        let bytes = if direct { bytes.to_vec() } else { as_component(bytes.to_vec()) };
        let program = program(runtime, &bytes, Mode::Reused, of.clone());
        assert_eq!(is_direct(&program.plugin), direct);
        run(async {
            let pool = Pool::new(program.clone());
            let result = call(&pool, &program, on_fiber, Hook::OnRequest, 200).await;
            let after = call(&pool, &program, on_fiber, Hook::OnResponse, 200).await;
            assert!(matches!(after, Ok(Verdict::Continue)), "the next one is served: {after:?}");
            result
        })
    })
}

/// Calls a hook for a message with some fields and this status.
async fn call(pool: &Pool, program: &Program, on_fiber: bool, hook: Hook, status: u16) -> Result<Verdict, FilterError> {
    program.shared.on_fiber.store(on_fiber, Ordering::Relaxed);
    let mut exchange = exchange();
    exchange.request.headers.insert("x-a", HeaderValue::from_static("1"));
    exchange.request.headers.insert("x-empty", HeaderValue::from_static(""));
    exchange.response.as_mut().unwrap().status = StatusCode::from_u16(status).unwrap();
    let (exchange, result) = pool.call(hook, exchange, 0).await;
    assert_eq!(exchange.request.headers["x-a"], "1");
    result
}

/// All four calls end like this.
#[track_caller]
fn all_end(runtime: &Arc<Runtime>, what: &str, realloc: &str, more: &str, body: &str, kind: Option<FailureKind>) {
    let hooks = [(Hook::OnRequest, body), (Hook::OnResponse, "")];
    let limits = FilterLimits { cpu: Duration::from_millis(300), ..limits() };
    let ends = ends(runtime, &guest(realloc, more, &hooks), &limits);
    for end in &ends {
        assert_eq!(end.as_ref().err().map(FilterError::kind), kind, "{what}: {ends:?}");
    }
}

const TRAP: Option<FailureKind> = Some(FailureKind::Trap);
/// What a number is that stands for no case.
const BAD: Option<FailureKind> = Some(FailureKind::BadAnswer);

#[test]
fn texts_and_bytes_that_lie_nowhere_end_the_call() {
    let runtime = runtime();
    let name = |at: &str, length: &str| {
        format!("(call $set-header (i32.const {at}) (i32.const {length}) (i32.const 16) (i32.const 3) (i32.const 64))")
    };
    let cases = [
        ("behind the end", name("0xfffffff0", "64"), TRAP),
        ("across the end", name("65530", "10"), TRAP),
        ("longer than memory", name("16", "65536"), TRAP),
        ("as long as can be", name("16", "0xffffffff"), TRAP),
        ("round the address space", name("0xffffffff", "0xffffffff"), TRAP),
        ("empty and nowhere", name("0xffffffff", "0"), TRAP),
        ("empty and just behind the end", name("65537", "0"), TRAP),
        ("empty at the end", name("65536", "0"), None),
        ("up to the end", name("65533", "3"), None),
        ("no text", name("32", "2"), TRAP),
        ("half a character", name("34", "1"), TRAP),
        ("bytes nowhere", "(call $set-body (i32.const 65535) (i32.const 2) (i32.const 64))".into(), TRAP),
        ("a logged text nowhere", "(call $log (i32.const 2) (i32.const 65535) (i32.const 2))".into(), TRAP),
    ];
    for (what, body, kind) in cases {
        all_end(&runtime, what, GOOD, "", &body, kind);
    }
}

#[test]
fn lists_that_lie_nowhere_or_askew_end_the_call() {
    let runtime = runtime();
    let edits =
        |at: &str, length: &str| format!("(call $edit-headers (i32.const {at}) (i32.const {length}) (i32.const 64))");
    let limits = |at: &str, length: &str| {
        format!("(call $take (i32.const {at}) (i32.const {length}) (i64.const 1) (i32.const 64))")
    };
    // The one element of a list at 1024 is this text.
    let path = |text: &str, length: &str| {
        format!(
            "(i32.store (i32.const 1024) (i32.const {text})) (i32.store (i32.const 1028) (i32.const {length}))
             (call $get-path (i32.const 16) (i32.const 3) (i32.const 1024) (i32.const 1) (i32.const 64))"
        )
    };
    let cases = [
        ("askew", edits("1026", "1"), TRAP),
        ("askew and empty", edits("1026", "0"), TRAP),
        ("askew for its elements only", limits("1028", "1"), TRAP),
        ("across the end", edits("1024", "4000"), TRAP),
        ("so long that its bytes are as many as there are addresses", edits("1024", "0x0ccccccd"), TRAP),
        ("as long as can be", edits("1024", "0xffffffff"), TRAP),
        ("so long that its bytes wrap to none", limits("1024", "0x20000000"), TRAP),
        ("empty and nowhere", edits("0xfffffffc", "0"), TRAP),
        ("empty at the end", edits("65536", "0"), None),
        ("an element nowhere", path("65535", "2"), TRAP),
        ("an element that is no text", path("32", "2"), TRAP),
        ("an element round the address space", path("0xffffffff", "2"), TRAP),
        ("an ordinary element", path("16", "3"), None),
    ];
    for (what, body, kind) in cases {
        all_end(&runtime, what, GOOD, "", &body, kind);
    }
}

#[test]
fn numbers_that_stand_for_no_case_end_the_call() {
    let runtime = runtime();
    let query =
        |case: &str| format!("(call $set-query (i32.const {case}) (i32.const 16) (i32.const 3) (i32.const 64))");
    let fact = |case: &str, value: &str, length: &str| {
        format!(
            "(call $set (i32.const 16) (i32.const 3) (i32.const {case}) (i64.const {value}) (i32.const {length}) (i32.const 64))"
        )
    };
    let log = |level: &str| format!("(call $log (i32.const {level}) (i32.const 16) (i32.const 3))");
    let change = |case: &str| {
        format!(
            "(i32.store (i32.const 1024) (i32.const 16)) (i32.store (i32.const 1028) (i32.const 3))
             (i32.store (i32.const 1032) (i32.const {case}))
             (i32.store (i32.const 1036) (i32.const 16)) (i32.store (i32.const 1040) (i32.const 3))
             (call $edit-headers (i32.const 1024) (i32.const 1) (i32.const 64))"
        )
    };
    let limit = |algorithm: &str| {
        format!(
            "(i32.store (i32.const 1024) (i32.const 16)) (i32.store (i32.const 1028) (i32.const 3))
             (i32.store (i32.const 1032) (i32.const {algorithm}))
             (i64.store (i32.const 1040) (i64.const 1)) (i64.store (i32.const 1048) (i64.const 1))
             (call $take (i32.const 1024) (i32.const 1) (i64.const 1) (i32.const 64))"
        )
    };
    let status = |status: &str| {
        format!(
            "(call $set-status (i32.const {status}) (i32.const 64))
             (if (i32.load8_u (i32.const 64)) (then unreachable))"
        )
    };
    let cases = [
        ("a number of two bytes, of which the low ones count", status("0x7fff00c8"), None),
        ("the same, which is refused", status("0x7fff0001"), TRAP),
        ("an option", query("2"), BAD),
        ("an option, far off", query("0xffffffff"), BAD),
        ("an option with more than a byte", query("0x100"), BAD),
        ("no option", query("0"), None),
        ("an enum", log("5"), BAD),
        ("an enum, far off", log("0xffffffff"), BAD),
        ("the last of an enum", log("4"), None),
        ("a variant", fact("6", "16", "3"), BAD),
        ("a variant, far off", fact("0x80000000", "16", "3"), BAD),
        ("a text, of whose address only the low half counts", fact("0", "0xffffffff00000010", "3"), None),
        ("a text nowhere", fact("0", "65535", "3"), TRAP),
        ("texts askew", fact("4", "1026", "1"), TRAP),
        ("a boolean is anything but zero", fact("3", "0xff00", "0"), None),
        ("a number", fact("1", "0xffffffffffffffff", "0xffffffff"), None),
        ("a variant in memory", change("3"), BAD),
        ("a variant in memory, of which a byte counts", change("0xffffff00"), None),
        ("the last of a variant in memory", change("2"), None),
        ("an enum in memory", limit("4"), BAD),
        ("an enum in memory, of which a byte counts", limit("0x7f03"), None),
    ];
    for (what, body, kind) in cases {
        all_end(&runtime, what, GOOD, "", &body, kind);
    }
}

#[test]
fn answers_that_are_wanted_nowhere_or_askew_end_the_call() {
    let runtime = runtime();
    let method = |at: &str| format!("(call $method (i32.const {at}))");
    let header = |at: &str| format!("(call $header (i32.const 16) (i32.const 3) (i32.const {at}))");
    let cases = [
        // A result with an error has a number of eight bytes.
        ("askew", method("68"), TRAP),
        ("askew by one", header("65"), TRAP),
        ("behind the end", method("0xfffffff8"), TRAP),
        ("just behind the end", method("65536"), TRAP),
        ("across the end", method("65528"), TRAP),
        ("across the end, though not with this answer", method("65520"), TRAP),
        ("up to the end", method("65512"), None),
    ];
    for (what, body, kind) in cases {
        all_end(&runtime, what, GOOD, "", &body, kind);
    }
}

#[test]
fn room_that_is_none_ends_the_call() {
    let runtime = runtime();
    let spin = "(loop $again (br $again)) i32.const 0";
    let deep = "(func $deep (param i32) (result i32) (i32.add (call $deep (local.get 0)) (i32.const 1)))";
    let text = "(call $method (i32.const 64))";
    let list = "(call $headers (i32.const 64))";
    let cases = [
        ("behind the end", "i32.const 0xfffffff0", text, TRAP),
        ("across the end", "i32.const 65534", text, TRAP),
        ("up to the end", "i32.const 65533", text, None),
        ("round the address space", "i32.const 0xffffffff", text, TRAP),
        ("a list across the end", "i32.const 65520", list, TRAP),
        ("a list askew", "i32.const 4098", list, TRAP),
        ("a trap", "unreachable", text, TRAP),
        ("no end", spin, text, Some(FailureKind::Deadline)),
        ("no end of the stack", "(call $deep (i32.const 1))", text, TRAP),
        ("a call of the gateway", "(call $log (i32.const 2) (i32.const 16) (i32.const 3)) i32.const 4096", text, TRAP),
        ("a call that asks for room itself", "(call $method (i32.const 64)) i32.const 4096", text, TRAP),
        ("memory that is made", "(i32.mul (memory.grow (i32.const 1)) (i32.const 65536))", text, None),
        (
            "memory that is refused",
            "(i32.mul (memory.grow (i32.const 10000)) (i32.const 65536))",
            text,
            Some(FailureKind::Memory),
        ),
    ];
    for (what, realloc, body, kind) in cases {
        all_end(&runtime, what, realloc, deep, body, kind);
    }
}

#[test]
fn a_guest_is_asked_for_room_for_nothing_too() {
    // What is empty may be given back by its owner, who has to have made it.
    let counts = "(global.set $calls (i32.add (global.get $calls) (i32.const 1))) i32.const 4096";
    // Two fields, one with an empty value: one list and four texts.
    let body = "(call $headers (i32.const 64)) (if (i32.ne (global.get $calls) (i32.const 5)) (then unreachable))";
    // Also when it is tried on a message without fields.
    let body = format!("(if (i32.eqz (global.get $calls)) (then {body}))");
    all_end(&runtime(), "five", counts, "", &body, None);
    let nowhere = "(if (result i32) (local.get $size) (then (i32.const 4096)) (else (i32.const 65537)))";
    all_end(&runtime(), "nowhere", nowhere, "", "(call $headers (i32.const 64))", TRAP);
}

#[test]
fn a_post_return_can_t_call_the_gateway() {
    let more = "(func (export \"cabi_post_sluice:filter/on-request@0.1.1#on-request\") (param i32)
        (call $log (i32.const 2) (i32.const 16) (i32.const 3)))";
    all_end(&runtime(), "post-return", GOOD, more, "", TRAP);
}

#[test]
fn answers_of_configure_are_looked_at_where_they_may_lie() {
    let runtime = runtime();
    let load = |at: u32, case: u32, direct: bool| {
        let text = format!(
            "(module (memory (export \"memory\") 1)
            (func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) i32.const 4096)
            (func (export \"sluice:filter/configure@0.1.1#configure\") (param i32 i32) (result i32)
                (i32.store (i32.const {at}) (i32.const {case})) i32.const {at})
            (func (export \"sluice:filter/on-request@0.1.1#on-request\") (result i32) i32.const 0))"
        );
        let (resolve, world) = world(&["configure", "on-request"], false);
        let bytes = encode(wat::parse_str(&text).unwrap(), &resolve, world);
        let plugin = runtime.load(&if direct { bytes } else { as_component(bytes) }).unwrap();
        assert_eq!(is_direct(&plugin), direct);
        let spec: ProgramSpec = spec(Mode::Reused, limits());
        match Program::new(plugin, spec) {
            Ok(_) => None,
            Err(LoadError::Configure(error)) => Some(error.kind()),
            Err(error) => panic!("{error}"),
        }
    };
    for direct in [true, false] {
        assert_eq!(load(64, 0, direct), None);
        assert_eq!(load(66, 0, direct), TRAP, "askew, {direct}");
        assert_eq!(load(65532, 0, direct), TRAP, "across the end, {direct}");
        assert_eq!(load(64, 2, direct), BAD, "no case, {direct}");
    }
}

#[test]
fn a_start_function_can_call_what_needs_no_memory() {
    let runtime = runtime();
    let loads = |body: &str, direct: bool| {
        let text = format!(
            "(module
            (import \"sluice:filter/log@0.1.1\" \"enabled\" (func $enabled (param i32) (result i32)))
            (import \"sluice:filter/log@0.1.1\" \"log\" (func $log (param i32 i32 i32)))
            (memory (export \"memory\") 1)
            (func $start {body})
            (start $start)
            (func (export \"sluice:filter/on-request@0.1.1#on-request\") (result i32) i32.const 0))"
        );
        let (resolve, world) = world(&["on-request"], true);
        let bytes = encode(wat::parse_str(&text).unwrap(), &resolve, world);
        let plugin = runtime.load(&if direct { bytes } else { as_component(bytes) }).unwrap();
        assert_eq!(is_direct(&plugin), direct);
        match Program::new(plugin, spec(Mode::Reused, limits())) {
            Ok(_) => true,
            Err(LoadError::Instantiate(_)) => false,
            Err(error) => panic!("{error}"),
        }
    };
    for direct in [true, false] {
        assert!(loads("(drop (call $enabled (i32.const 4)))", direct), "{direct}");
        assert!(!loads("(call $log (i32.const 2) (i32.const 16) (i32.const 3))", direct), "{direct}");
        assert!(!loads("(drop (call $enabled (i32.const 5)))", direct), "{direct}");
    }
}

#[test]
fn handles_are_never_zero_which_some_guests_take_for_none() {
    let packages = [
        "package wasi:io@0.2.0;
         interface poll { resource pollable; }
         interface streams { resource input-stream; resource output-stream; }",
        "package wasi:cli@0.2.0;
         interface stdin { use wasi:io/streams@0.2.0.{input-stream}; get-stdin: func() -> input-stream; }
         interface stderr { use wasi:io/streams@0.2.0.{output-stream}; get-stderr: func() -> output-stream; }",
        "package wasi:clocks@0.2.0;
         interface monotonic-clock {
             use wasi:io/poll@0.2.0.{pollable};
             subscribe-duration: func(when: u64) -> pollable;
         }",
        "package test:guest;
         world guest {
             import sluice:filter/log@0.1.1;
             import wasi:cli/stdin@0.2.0;
             import wasi:cli/stderr@0.2.0;
             import wasi:clocks/monotonic-clock@0.2.0;
             export sluice:filter/on-request@0.1.1;
         }",
    ];
    let mut resolve = Resolve::default();
    resolve.push_dir(WIT).unwrap();
    let [.., package] = packages.map(|package| resolve.push_str("guest.wit", package).unwrap());
    let world = resolve.select_world(&[package], Some("guest")).unwrap();
    // A module that nobody needs the memory of would not be called directly: hence the log.
    let text = r#"(module
        (import "sluice:filter/log@0.1.1" "log" (func $log (param i32 i32 i32)))
        (import "wasi:cli/stdin@0.2.0" "get-stdin" (func $stdin (result i32)))
        (import "wasi:cli/stderr@0.2.0" "get-stderr" (func $stderr (result i32)))
        (import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration" (func $subscribe (param i64) (result i32)))
        (memory (export "memory") 1)
        (func (export "sluice:filter/on-request@0.1.1#on-request") (result i32)
            (if (i32.eqz (call $stdin)) (then unreachable))
            (if (i32.eqz (call $stderr)) (then unreachable))
            (if (i32.eqz (call $subscribe (i64.const 1))) (then unreachable))
            i32.const 0)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 4096))"#;
    let bytes = encode(wat::parse_str(text).unwrap(), &resolve, world);
    let runtime = runtime();
    for (bytes, direct) in [(bytes.clone(), true), (as_component(bytes), false)] {
        let program = program(&runtime, &bytes, Mode::Reused, limits());
        assert_eq!(is_direct(&program.plugin), direct, "{:?}", program.plugin.not_direct());
        let result = run(async { Pool::new(program.clone()).call(Hook::OnRequest, exchange(), 0).await.1 });
        assert!(result.is_ok(), "{direct}: {result:?}");
    }
}

/// Whether a neighbour has many turns while a call on a fiber lasts.
fn a_neighbour_runs(realloc: &str, more: &str, body: &str) -> bool {
    let bytes = guest(realloc, more, &[(Hook::OnRequest, body)]);
    let limits = FilterLimits { cpu: Duration::from_secs(10), ..limits() };
    let program = program(&runtime(), &bytes, Mode::Reused, limits);
    run(async {
        let pool = Pool::new(program.clone());
        let neighbour = tokio::task::spawn_local(async {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        });
        assert!(call(&pool, &program, true, Hook::OnRequest, 200).await.is_ok());
        neighbour.is_finished()
    })
}

#[test]
fn only_where_a_function_of_the_gateway_waits_for_it_a_guest_holds_the_worker() {
    let long = "(local $i i32) (loop $again (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br_if $again (i32.lt_u (local.get $i) (i32.const 200000000))))";
    let more = format!("(func (export \"cabi_post_sluice:filter/on-request@0.1.1#on-request\") (param i32) {long})");
    assert!(a_neighbour_runs(GOOD, &more, ""), "a post-return");
    let realloc = format!("{long} {GOOD}");
    assert!(!a_neighbour_runs(&realloc, "", "(call $method (i32.const 64))"), "room for an answer");
}

/// As deep as the status of the response says, there is a call whose answer needs room; making it goes as deep as can be.
fn use_up_the_stack_twice(import: &str, bottom: &str, fibers: &[bool]) {
    const STEP: u32 = 16;
    let deep = format!(
        "{import} (func $deep (param i32) (result i32)
            (if (result i32) (i32.eqz (local.get 0)) (then (i32.const 4096))
                (else (i32.or (call $deep (i32.sub (local.get 0) (i32.const 1))) (i32.const 0)))))
        (func $down (param i32)
            (if (i32.eqz (local.get 0)) (then {bottom})
                (else (call $down (i32.sub (local.get 0) (i32.const 1)))
                    (global.set $calls (i32.add (global.get $calls) (i32.const 1))))))"
    );
    let body = format!(
        "(call $status (i32.const 64))
         (call $down (i32.mul (i32.sub (i32.load16_u (i32.const 72)) (i32.const 200)) (i32.const {STEP})))"
    );
    let hooks = [(Hook::OnRequest, ""), (Hook::OnResponse, &*body)];
    let flat = guest(GOOD, &deep, &hooks);
    let bottomless = guest("(call $deep (i32.const -1))", &deep, &hooks);
    let runtime = runtime();
    let limits = FilterLimits { cpu: Duration::from_secs(5), ..limits() };
    for direct in [true, false] {
        let load = |bytes: &Vec<u8>| {
            let bytes = if direct { bytes.clone() } else { as_component(bytes.clone()) };
            program(&runtime, &bytes, Mode::Reused, limits.clone())
        };
        let (flat, bottomless) = (load(&flat), load(&bottomless));
        for on_fiber in fibers.iter().copied() {
            run(async {
                let ends = async |of: &Arc<Program>, pool: &Pool, status| {
                    call(pool, of, on_fiber, Hook::OnResponse, status).await.err().map(|error| error.kind())
                };
                let (flat_pool, pool) = (Pool::new(flat.clone()), Pool::new(bottomless.clone()));
                let (mut good, mut bad) = (200, 900);
                while bad - good > 1 {
                    let middle = u16::midpoint(good, bad);
                    match ends(&flat, &flat_pool, middle).await {
                        None => good = middle,
                        Some(kind) => {
                            assert_eq!(kind, FailureKind::Trap);
                            bad = middle;
                        }
                    }
                }
                assert!((201..899).contains(&good), "the end of the stack is met: {good}");
                for status in good - 20..=bad + 1 {
                    assert_eq!(ends(&bottomless, &pool, status).await, TRAP, "{status} {direct} {on_fiber}");
                }
            });
        }
    }
}

#[test]
fn a_stack_that_is_used_up_twice_is_a_trap() {
    use_up_the_stack_twice("", "(call $method (i32.const 64))", &[false, true]);
}

#[test]
fn a_stack_that_is_used_up_twice_around_a_function_that_waits_is_a_trap() {
    let import = r#"(import "sluice:filter/http@0.1.1" "send" (func $send (param i32 i32 i32 i32)))"#;
    let send = "(call $send (i32.const 1024) (i32.const 0) (i32.const 1000) (i32.const 64))";
    use_up_the_stack_twice(import, send, &[true]);
}
