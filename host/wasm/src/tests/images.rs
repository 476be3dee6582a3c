//! Fresh instances made of an image: they have what `configure` left, and nothing of the calls before. And filters of which there can be
//! no image.

use super::*;

/// A part of WASI.
const WASI: [&str; 3] = [
    "package wasi:random@0.2.0; interface random { get-random-u64: func() -> u64; }
     interface insecure-seed { insecure-seed: func() -> tuple<u64, u64>; }",
    "package wasi:io@0.2.0; interface streams { resource output-stream; }",
    "package wasi:cli@0.2.0;
     interface stdout { use wasi:io/streams@0.2.0.{output-stream}; get-stdout: func() -> output-stream; }",
];
const WORLD: &str = "package test:guest; world guest {
    include sluice:filter/imports@0.1.1;
    import wasi:random/random@0.2.0;
    import wasi:random/insecure-seed@0.2.0;
    import wasi:io/streams@0.2.0;
    import wasi:cli/stdout@0.2.0;
    export sluice:filter/configure@0.1.1;
    export sluice:filter/on-request@0.1.1;
}";

/// A component with a `configure` that logs `configured` and takes every config, and an `on-request`. The config lies at `$config`.
fn guest(imports: &str, configure: &str, on_request: &str) -> Vec<u8> {
    guest_of("1", imports, configure, on_request)
}

/// The same with this memory.
fn guest_of(memory: &str, imports: &str, configure: &str, on_request: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    resolve.push_dir(WIT).unwrap();
    for package in WASI {
        resolve.push_str("wasi.wit", package).unwrap();
    }
    let package = resolve.push_str("guest.wit", WORLD).unwrap();
    let world = resolve.select_world(&[package], Some("guest")).unwrap();
    let text = format!(
        r#"(module
        (import "sluice:filter/log@0.1.1" "log" (func $log (param i32 i32 i32)))
        {imports}
        (memory (export "memory") {memory})
        (data (i32.const 16) "configured")
        (global $config (mut i32) (i32.const 0))
        (global $starts (mut i32) (i32.const 0))
        (func $start (global.set $starts (i32.add (global.get $starts) (i32.const 1))))
        (start $start)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 4096)
        (func (export "sluice:filter/configure@0.1.1#configure") (param i32 i32) (result i32)
            (call $log (i32.const 2) (i32.const 16) (i32.const 10))
            (global.set $config (local.get 0))
            {configure}
            i32.const 512)
        (func (export "sluice:filter/on-request@0.1.1#on-request") (result i32) {on_request}))"#
    );
    encode(wat::parse_str(&text).unwrap(), &resolve, world)
}

/// A fresh filter of it, and what was logged at load.
fn fresh(bytes: &[u8], limits: FilterLimits) -> (Arc<Program>, String) {
    logged(|| program(&runtime(), bytes, Mode::Fresh, limits))
}

fn call(pool: &Pool) -> Result<Verdict, FilterError> {
    let called = pool.call_now(Hook::OnRequest, exchange(), 0, &mut None);
    called.map_err(drop).expect("a call at once").1
}

#[test]
fn instances_have_what_configure_left_and_nothing_of_other_calls() {
    // Traps unless memory, globals and the number of starts are as they were after `configure`; then changes all three.
    let check = "
        (if (i32.ne (i32.load8_u (global.get $config)) (i32.const 0x7b)) (then unreachable))
        (if (i32.ne (global.get $starts) (i32.const 1)) (then unreachable))
        (if (i32.ne (memory.size) (i32.const 33)) (then unreachable))
        (if (i32.ne (i32.load (i32.const 131072)) (i32.const 77)) (then unreachable))
        (if (i32.ne (i32.load (i32.const 20000)) (i32.const 0)) (then unreachable))
        (if (i32.ne (i32.load (i32.const 2162684)) (i32.const 0)) (then unreachable))
        (i32.store (i32.const 20000) (i32.const 1))
        (i32.store (i32.const 131072) (i32.const 1))
        (i32.store (i32.const 2162684) (i32.const 1))
        (i32.store8 (global.get $config) (i32.const 0))
        (global.set $config (i32.const 7))
        (global.set $starts (i32.const 2))";
    let configure = "(drop (memory.grow (i32.const 32))) (i32.store (i32.const 131072) (i32.const 77))";
    // The first two are restored, the others can't be: memory that has grown, much of it written, and an end that says nothing of the state.
    let grow = "(drop (memory.grow (i32.const 1)))";
    let write = "(memory.fill (i32.const 200000) (i32.const 1) (i32.const 1500000))";
    let beyond = "(drop (memory.grow (i32.const 8)))";
    let cases = [
        ("", 1, 33),
        (beyond, 1, 33),
        (grow, 10, 34),
        (write, 10, 33),
        ("(if (global.get $starts) (then unreachable))", 10, 33),
    ];
    for (more, started, pages) in cases {
        let ((program, calls), log) = logged(|| {
            let bytes = guest_of("1 40", "", configure, &format!("{check} {more} i32.const 1"));
            let program = program(&runtime(), &bytes, Mode::Fresh, limits());
            let pool = Pool::new(program.clone());
            let calls: Vec<_> = (0..10).map(|_| call(&pool)).collect();
            assert_eq!(program.stats().instances, u64::from(started == 1));
            (program, calls)
        });
        assert!(program.image.is_some(), "{log}");
        let traps = |result: &Result<Verdict, FilterError>| match result {
            Ok(verdict) => *verdict != Verdict::Respond,
            // That of `more`, which comes behind all checks.
            Err(_) => !more.contains("unreachable"),
        };
        assert!(!calls.iter().any(traps), "{more}: {calls:?}");
        assert_eq!(log.lines().count(), 1, "`configure` ran once: {log}");
        let stats = program.stats();
        assert_eq!((stats.started, stats.instances, stats.peak_memory), (started, 0, pages << 16), "{more}");
    }
}

#[test]
fn a_filter_of_which_there_can_be_no_image_is_configured_for_each_call_and_that_is_said() {
    let stdout = r#"(import "wasi:cli/stdout@0.2.0" "get-stdout" (func $stdout (result i32)))
        (import "wasi:io/streams@0.2.0" "[resource-drop]output-stream" (func $drop (param i32)))"#;
    let random = r#"(import "wasi:random/random@0.2.0" "get-random-u64" (func $random (result i64)))"#;
    let seed = r#"(import "wasi:random/insecure-seed@0.2.0" "insecure-seed" (func $seed (param i32)))"#;
    let cases = [
        (stdout, "(drop (call $stdout))", CONTINUE, "it holds 1 handles of the gateway"),
        (random, "(drop (call $random))", CONTINUE, "`configure` drew random numbers"),
        ("", "", "(data.drop 0) i32.const 0", "unsupported `data.drop` instruction"),
        ("", "(drop (memory.grow (i32.const 260)))", CONTINUE, "bytes of memory, more than 16777216"),
        // And for comparison.
        (stdout, "(call $drop (call $stdout))", CONTINUE, ""),
        (random, "", "(drop (call $random)) i32.const 0", ""),
        (seed, "(call $seed (i32.const 1024))", CONTINUE, ""),
    ];
    for (imports, configure, hook, reason) in cases {
        let (program, log) = fresh(&guest(imports, configure, hook), FilterLimits { memory: 32 << 20, ..limits() });
        assert_eq!(program.image.is_none(), !reason.is_empty(), "{log}");
        assert!(log.contains(reason), "{log}");
        let said = log.lines().filter(|line| line.contains("there is no image of it"));
        assert_eq!(said.count(), usize::from(!reason.is_empty()), "{log}");
        let (result, log) = logged(|| run(async { Pool::new(program).call(Hook::OnRequest, exchange(), 0).await.1 }));
        assert!(result.is_ok(), "{result:?}");
        assert_eq!(log.contains("configured"), !reason.is_empty(), "{log}");
    }
}

#[test]
fn a_component_that_is_not_called_directly_has_no_image() {
    let (program, log) = fresh(&as_component(guest("", "", CONTINUE)), limits());
    assert!(program.image.is_none() && log.contains("it is not called directly: "), "{log}");
}

#[test]
fn a_memory_that_is_full_has_an_image() {
    let (program, log) = fresh(&guest_of("1 1", "", "", CONTINUE), limits());
    assert!(program.image.is_some(), "{log}");
    assert!(call(&Pool::new(program)).is_ok());
}

#[test]
fn limits_hold_for_instances_of_an_image() {
    let three_mib = "(drop (memory.grow (i32.const 47)))";
    let grow = "(if (i32.eq (memory.grow (i32.const 17)) (i32.const -1)) (then unreachable)) i32.const 0";
    for (hook, kind) in [(grow, FailureKind::Memory), (SPIN, FailureKind::Deadline), ("unreachable", FailureKind::Trap)]
    {
        let (program, log) = fresh(&guest("", three_mib, hook), limits());
        assert!(program.image.is_some(), "{log}");
        let pool = Pool::new(program.clone());
        for _ in 0..2 {
            pool.program().shared.on_fiber.store(false, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(kind_of(&call(&pool)), Some(kind));
        }
        assert_eq!(program.stats().peak_memory, 3 << 20);
    }
}

#[test]
fn what_the_config_says_does_not_get_to_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let options = RuntimeOptions { instances: 10, cache: Some(cache.clone()), ..RuntimeOptions::default() };
    let runtime = Runtime::new(options).unwrap();
    let component: Arc<[u8]> = guest("", "", CONTINUE).into();
    for secret in ["first-secret", "second-secret"] {
        let spec = ProgramSpec {
            config: format!("{{\"secret\":\"{secret}\"}}"),
            component: Some(component.clone()),
            ..spec(Mode::Fresh, limits())
        };
        let program = Program::new(runtime.load(&component).unwrap(), spec).unwrap();
        assert!(program.image.is_some());
    }
    let files: Vec<_> = std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 2, "the component, and the one that lets itself be read");
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        assert!(memchr::memmem::find(&bytes, b"configured").is_some());
        assert!(memchr::memmem::find(&bytes, b"-secret").is_none());
    }
}
