//! The runtime with small guests written as text: each kind of failure at each hook, in each mode, plain and on a fiber.

mod bounds;
mod fixtures;
mod images;
mod layers;
mod memoryless;
mod turns;
mod versions;

use std::io::Write;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, Method};
use sluice_harness::guest::{WIT, as_component, encode, world};
use wit_component::dummy_module;
use wit_parser::{ManglingAndAbi, Resolve};

use super::*;
use crate::backend::Code;
use crate::exchange::{Exchange, RequestHead, ResponseHead, ResponseSource, RouteFacts};
use sluice_services::outbound::Offline;
use sluice_services::{Clock, Services};

/// A component whose hooks have these bodies.
fn guest(hooks: &[(Hook, &str)], waits: bool) -> Vec<u8> {
    let named: Vec<_> = hooks.iter().map(|(hook, body)| (hook.name(), *body)).collect();
    sluice_harness::guest::guest(&named, waits)
}

/// Whether a plugin is called directly.
pub(crate) fn is_direct(plugin: &Plugin) -> bool {
    matches!(plugin.code, Code::Direct(_))
}

const CONTINUE: &str = "i32.const 0";
const RESPOND: &str = "i32.const 1";
const NONSENSE: &str = "i32.const 7";
/// Changes the method, then traps.
const TRAP: &str = "(call $set-method (i32.const 16) (i32.const 3) (i32.const 64)) unreachable";
/// Counts something, then traps, as a filter does that takes no refusal of a service.
const COUNT_AND_TRAP: &str =
    "(call $count (i32.const 16) (i32.const 3) (i32.const 0) (i32.const 0) (i64.const 1) (i32.const 64)) unreachable";
const SPIN: &str = "(loop $again (br $again)) i32.const 0";
const GROW: &str = "(loop $again (br_if $again (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable";
const FAIL: &str = "(call $set-method (i32.const 16) (i32.const 3) (i32.const 64)) (call $fail (i32.const 16) (i32.const 3)) i32.const 0";
/// Some milliseconds of work.
const LONG: &str = "(loop $again (local.set $i (i32.add (local.get $i) (i32.const 1))) (br_if $again (i32.lt_u (local.get $i) (i32.const 20000000)))) i32.const 0";
/// Traps at every call but the first of an instance.
const TRAP_LATER: &str = "(if (global.get $calls) (then unreachable)) (global.set $calls (i32.const 1)) i32.const 0";

pub(super) fn runtime() -> Arc<Runtime> {
    Runtime::new(RuntimeOptions { instances: 50, ..RuntimeOptions::default() }).unwrap()
}

pub(crate) fn limits() -> FilterLimits {
    FilterLimits { memory: 4 << 20, wall: Duration::from_secs(20), ..FilterLimits::default() }
}

pub(crate) fn spec(mode: Mode, limits: FilterLimits) -> ProgramSpec {
    ProgramSpec {
        name: "guest".into(),
        config: "{}".into(),
        mode,
        limits,
        grants: Grants::default(),
        plugin: "guest".into(),
        services: Services::new(Clock::system(), Arc::new(Offline)),
        component: None,
    }
}

pub(crate) fn program(runtime: &Arc<Runtime>, bytes: &[u8], mode: Mode, limits: FilterLimits) -> Arc<Program> {
    let plugin = runtime.load(bytes).unwrap();
    Arc::new(Program::new(plugin, ProgramSpec { component: Some(bytes.into()), ..spec(mode, limits) }).unwrap())
}

pub(super) fn exchange() -> Box<Exchange> {
    let request = RequestHead {
        method: Method::GET,
        scheme: http::uri::Scheme::HTTP,
        authority: "example.org".parse().unwrap(),
        target: "/".parse().unwrap(),
        version: http::Version::HTTP_11,
        headers: HeaderMap::new(),
    };
    let route = Arc::new(RouteFacts { name: "r".into(), upstreams: vec![], snapshot: 0 });
    let mut exchange = Exchange::new(HeaderValue::from_static("id"), [127, 0, 0, 1].into(), request, route);
    let mut response = ResponseHead::new(ResponseSource::Upstream, http::StatusCode::OK);
    response.trailers = Some(HeaderMap::new());
    exchange.response = Some(Box::new(response));
    exchange
}

pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test)
}

/// What is logged, as text.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What is logged meanwhile on this thread.
fn logged<T>(run: impl FnOnce() -> T) -> (T, String) {
    let lines = Lines::default();
    let to = lines.clone();
    let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || to.clone()).finish();
    let done = tracing::subscriber::with_default(log, run);
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    (done, text)
}

fn kind_of(result: &Result<Verdict, FilterError>) -> Option<FailureKind> {
    result.as_ref().err().map(FilterError::kind)
}

#[test]
fn the_interface_parses() {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(WIT).unwrap();
    let package = &resolve.packages[package];
    assert_eq!(package.name.to_string(), "sluice:filter@0.1.1");
    for hook in Hook::ALL {
        let interface = &resolve.interfaces[package.interfaces[hook.name()]];
        assert!(interface.docs.contents.is_some(), "{hook} is documented");
    }
}

#[test]
fn every_pair_of_hooks_loads() {
    let runtime = runtime();
    for subset in (1..1_u32 << Hook::COUNT)
        .filter(|subset| subset.count_ones() <= 2 || subset.count_ones() as usize == Hook::COUNT)
    {
        let hooks: Vec<Hook> = Hook::ALL.into_iter().filter(|hook| subset & 1 << *hook as u32 != 0).collect();
        let names: Vec<_> = hooks.iter().map(|hook| hook.name()).collect();
        let (resolve, world) = world(&names, false);
        let module = dummy_module(&resolve, world, ManglingAndAbi::Standard32);
        let plugin = runtime.load(&encode(module, &resolve, world)).unwrap();
        assert_eq!(plugin.hooks(), hooks.into_iter().collect());
        assert!(!plugin.waits());
    }
}

#[test]
fn all_imports_link_and_http_makes_a_component_wait() {
    let (resolve, world) = world(&["on-request"], true);
    let module = dummy_module(&resolve, world, ManglingAndAbi::Standard32);
    let bytes = encode(module, &resolve, world);
    // Directly: each function has the type that `wit/` gives it.
    let direct = runtime().load(&bytes).unwrap();
    if let Code::Component { why, .. } = &direct.code {
        panic!("{why}");
    }
    assert!(direct.waits());
    let component = runtime().load(&as_component(bytes)).unwrap();
    assert!(component.waits() && !is_direct(&component));
}

#[test]
fn other_imports_are_refused_by_name() {
    let text = r#"(component (import "acme:own/thing@1.0.0" (instance)))"#;
    let error = runtime().load(&wat::parse_str(text).unwrap()).err().unwrap();
    assert!(matches!(&error, LoadError::UnknownImport { import, .. } if import == "acme:own/thing@1.0.0"), "{error}");
    let error = runtime().load(&wat::parse_str("(component)").unwrap()).err().unwrap();
    assert_eq!(error.to_string(), "exports no hook of `sluice:filter@0.1`, and nothing else");
    let (resolve, world) = world(&["configure"], false);
    let module = dummy_module(&resolve, world, ManglingAndAbi::Standard32);
    let error = runtime().load(&encode(module, &resolve, world)).err().unwrap();
    assert!(error.to_string().ends_with(", only `sluice:filter/configure@0.1.1`"), "{error}");
    let error = runtime().load(&wat::parse_str("(module)").unwrap()).err().unwrap();
    assert!(matches!(error, LoadError::CoreModule));
}

#[test]
fn every_failure_at_every_hook_costs_one_exchange() {
    let runtime = runtime();
    let cases = [
        (TRAP, FailureKind::Trap),
        (SPIN, FailureKind::Deadline),
        (GROW, FailureKind::Memory),
        (FAIL, FailureKind::Declared),
        (NONSENSE, FailureKind::BadAnswer),
    ];
    for (body, kind) in cases {
        // The hooks under test fail in turn, and after each the next one has to find a good instance.
        let hooks: Vec<_> = Hook::ALL.into_iter().map(|hook| (hook, body)).collect();
        let ways = [(false, true), (true, true), (false, false), (true, false)];
        for (waits, direct) in ways {
            let bytes = if direct { guest(&hooks, waits) } else { as_component(guest(&hooks, waits)) };
            for mode in [Mode::Reused, Mode::Fresh] {
                let program = program(&runtime, &bytes, mode, limits());
                assert_eq!(is_direct(&program.plugin), direct);
                assert_eq!(program.image.is_some(), direct && mode == Mode::Fresh);
                run(async {
                    let pool = Pool::new(program.clone());
                    for hook in Hook::ALL {
                        let (mut exchange, result) = pool.call(hook, exchange(), 0).await;
                        if kind == FailureKind::BadAnswer && !hook.has_verdict() {
                            assert!(result.is_ok());
                            continue;
                        }
                        assert_eq!(kind_of(&result), Some(kind), "{hook} {mode:?} {waits} {direct}: {result:?}");
                        exchange.roll_back();
                        assert_eq!(exchange.request.method, Method::GET, "edits are taken back");
                        assert!(exchange.journal.is_empty());
                    }
                    let stats = program.stats();
                    let failures: u64 = stats.hooks.iter().map(|hook| hook.failures[kind as usize]).sum();
                    assert!(failures >= 4, "{kind:?} is counted: {stats:?}");
                });
            }
        }
    }
}

#[test]
fn an_instance_that_trapped_is_never_used_again() {
    let program = program(&runtime(), &guest(&[(Hook::OnRequest, TRAP_LATER)], false), Mode::Reused, limits());
    run(async {
        let pool = Pool::new(program.clone());
        for round in 0..3 {
            assert!(pool.call(Hook::OnRequest, exchange(), 0).await.1.is_ok(), "round {round}");
            let trapped = pool.call(Hook::OnRequest, exchange(), 0).await.1;
            assert_eq!(kind_of(&trapped), Some(FailureKind::Trap), "the instance was reused");
        }
        assert_eq!((program.stats().started, program.stats().instances), (3, 0));
    });
    let account = program.stats();
    assert_eq!(account.hooks[0].calls, 6, "counters outlive the pool");
}

#[test]
fn hooks_are_tried_at_load_and_those_that_trap_are_told() {
    let hooks: Vec<_> = Hook::ALL.into_iter().map(|hook| (hook, TRAP)).collect();
    let program = program(&runtime(), &guest(&hooks, true), Mode::Reused, limits());
    assert_eq!(program.stats(), FilterStats::default(), "the trial is on nobody's account");
    let failures = program.trial_failures();
    assert_eq!(failures.len(), Hook::COUNT, "{failures:?}");
    for (failure, hook) in failures.iter().zip(Hook::ALL) {
        let start = format!("the hook {hook} trapped: wasm trap: wasm `unreachable` instruction executed");
        assert!(failure.starts_with(&start), "{failure}");
    }
    assert_eq!(program.warnings(), [""; 0]);
}

#[test]
fn a_hook_that_does_not_end_in_the_trial_is_a_failure_and_a_slow_one_a_warning() {
    let limits = || FilterLimits { cpu: Duration::from_millis(2), ..limits() };
    let tried = |hook| program(&runtime(), &guest(&[(Hook::OnRequest, hook)], false), Mode::Reused, limits());
    let slow = tried(LONG);
    let warning = "filter `guest`: the hook on-request used more than its 2ms of CPU time (`limits.cpu`, `limits.cpu_per_mib`), when tried on an empty message";
    assert_eq!((slow.warnings(), slow.trial_failures()), (&[warning.to_owned()][..], &[][..]));
    let endless = tried(SPIN);
    let failure = "the hook on-request used more than its 40ms of CPU time (`limits.cpu`, `limits.cpu_per_mib`)";
    assert_eq!((endless.warnings(), endless.trial_failures()), (&[][..], &[failure.to_owned()][..]));
}

#[test]
fn a_trap_for_want_of_a_service_in_the_trial_is_no_failure() {
    let hooks: Vec<_> = Hook::ALL.into_iter().map(|hook| (hook, COUNT_AND_TRAP)).collect();
    let program = program(&runtime(), &guest(&hooks, false), Mode::Reused, limits());
    assert_eq!((program.warnings(), program.trial_failures()), (&[][..], &[][..]));
}

#[test]
fn a_fresh_instance_remembers_nothing() {
    let program = program(&runtime(), &guest(&[(Hook::OnRequest, TRAP_LATER)], false), Mode::Fresh, limits());
    run(async {
        let pool = Pool::new(program);
        for _ in 0..5 {
            assert!(pool.call(Hook::OnRequest, exchange(), 0).await.1.is_ok());
        }
    });
}

#[test]
fn a_fresh_instance_serves_the_hooks_of_one_exchange() {
    // Traps where it is not the second call of its instance.
    let second = "(if (i32.eqz (global.get $calls)) (then unreachable)) i32.const 0";
    let hooks = [(Hook::OnRequest, TRAP_LATER), (Hook::OnResponse, second)];
    for waits in [false, true] {
        let program =
            program(&runtime(), &guest(&hooks, waits), Mode::Fresh, FilterLimits { max_instances: 3, ..limits() });
        run(async {
            let pool = Pool::new(program.clone());
            let mut open = Vec::new();
            for _ in 0..5 {
                let (exchange, result) = pool.call(Hook::OnRequest, exchange(), 1).await;
                assert!(result.is_ok(), "{result:?}");
                open.push(exchange);
            }
            let waiting = open.iter().filter(|exchange| exchange.sandboxes.len() == 1).count();
            assert_eq!(waiting, 3, "so many wait at most");
            let mut ends = Vec::new();
            for exchange in open {
                let (exchange, result) = pool.call(Hook::OnResponse, exchange, 1).await;
                assert!(exchange.sandboxes.is_empty());
                ends.push(result.is_ok());
            }
            assert_eq!(ends, [true, true, true, false, false]);
            let (exchange, _) = pool.call(Hook::OnRequest, exchange(), 1).await;
            assert_eq!(exchange.sandboxes.len(), 1, "again there is room");
            let before = program.stats().instances;
            drop(exchange);
            assert_eq!(program.stats().instances, before - 1, "it goes with its exchange");
            let (mut exchange, _) = pool.call(Hook::OnRequest, self::exchange(), 1).await;
            pool.take_back(exchange.sandboxes.remove(0).1);
            let stats = program.stats();
            assert!(pool.call(Hook::OnRequest, exchange, 1).await.1.is_ok(), "restored");
            assert_eq!(program.stats().started, stats.started);
        });
    }
}

#[test]
fn reused_instances_are_renewed_after_their_uses() {
    let limits = FilterLimits { uses: 1, ..limits() };
    let program = program(&runtime(), &guest(&[(Hook::OnRequest, TRAP_LATER)], false), Mode::Reused, limits);
    run(async {
        let pool = Pool::new(program);
        for _ in 0..5 {
            assert!(pool.call(Hook::OnRequest, exchange(), 0).await.1.is_ok());
        }
    });
}

#[test]
fn a_filter_that_overran_is_called_on_a_fiber_and_lets_others_run() {
    let limits = FilterLimits { cpu: Duration::from_secs(10), ..limits() };
    let program = program(&runtime(), &guest(&[(Hook::OnRequest, LONG)], false), Mode::Reused, limits);
    run(async {
        let pool = Rc::new(Pool::new(program.clone()));
        assert!(!program.shared.on_fiber.load(std::sync::atomic::Ordering::Relaxed));
        assert!(pool.call(Hook::OnRequest, exchange(), 0).await.1.is_ok());
        assert!(program.shared.on_fiber.load(std::sync::atomic::Ordering::Relaxed));
        let neighbour = tokio::task::spawn_local(async {
            let mut turns = 0;
            loop {
                tokio::task::yield_now().await;
                turns += 1;
                if turns == 3 {
                    return Instant::now();
                }
            }
        });
        assert!(pool.call(Hook::OnRequest, exchange(), 0).await.1.is_ok());
        assert!(neighbour.is_finished(), "a neighbour had three turns during one long call");
    });
}

#[test]
fn calls_queue_for_an_instance_and_too_many_are_refused() {
    let limits = FilterLimits { cpu: Duration::from_secs(10), max_instances: 1, queue: 1, ..limits() };
    let program = program(&runtime(), &guest(&[(Hook::OnRequest, LONG)], false), Mode::Reused, limits);
    run(async {
        let pool = Rc::new(Pool::new(program.clone()));
        pool.call(Hook::OnRequest, exchange(), 0).await.1.unwrap();
        let call = || {
            let pool = pool.clone();
            tokio::task::spawn_local(async move { pool.call(Hook::OnRequest, exchange(), 0).await.1 })
        };
        let (first, second, third) = (call(), call(), call());
        assert!(first.await.unwrap().is_ok());
        assert_eq!(kind_of(&third.await.unwrap()), Some(FailureKind::Busy));
        assert!(second.await.unwrap().is_ok(), "the one in the queue had its turn");
        assert_eq!(program.stats().started, 1);
    });
}

#[test]
fn a_call_past_its_wall_deadline_gives_the_exchange_back() {
    let limits = FilterLimits { cpu: Duration::from_secs(60), wall: Duration::from_millis(20), ..limits() };
    let program = program(&runtime(), &guest(&[(Hook::OnRequest, SPIN)], true), Mode::Reused, limits);
    run(async {
        let pool = Pool::new(program);
        let (exchange, result) = pool.call(Hook::OnRequest, exchange(), 0).await;
        assert_eq!(kind_of(&result), Some(FailureKind::Timeout));
        assert_eq!(exchange.request.method, Method::GET);
    });
}

#[test]
fn an_abandoned_call_gives_its_place_back() {
    let limits = FilterLimits { cpu: Duration::from_secs(60), max_instances: 1, ..limits() };
    let program = program(
        &runtime(),
        &guest(&[(Hook::OnRequest, SPIN), (Hook::OnResponse, RESPOND)], true),
        Mode::Reused,
        limits,
    );
    run(async {
        let pool = Rc::new(Pool::new(program));
        let call = tokio::task::spawn_local({
            let pool = pool.clone();
            async move { pool.call(Hook::OnRequest, exchange(), 0).await.1 }
        });
        tokio::task::yield_now().await;
        call.abort();
        let (_, result) = pool.call(Hook::OnResponse, exchange(), 0).await;
        assert_eq!(result.unwrap(), Verdict::Respond);
    });
}

#[test]
fn compiled_components_are_kept_and_damage_is_survived() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let options = || RuntimeOptions { instances: 10, cache: Some(cache.clone()), ..RuntimeOptions::default() };
    let bytes = guest(&[(Hook::OnRequest, CONTINUE)], false);
    Runtime::new(options()).unwrap().load(&bytes).unwrap();
    let files: Vec<_> = std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1);
    let good = std::fs::read(&files[0]).unwrap();
    Runtime::new(options()).unwrap().load(&bytes).unwrap();
    for damage in [&good[..good.len() / 2], b"", &[0_u8; 100]] {
        std::fs::write(&files[0], damage).unwrap();
        Runtime::new(options()).unwrap().load(&bytes).unwrap();
        assert_eq!(std::fs::read(&files[0]).unwrap(), good, "it was compiled and kept again");
    }
}

#[test]
fn a_compiler_that_can_t_be_used_is_done_without_and_its_refusal_is_told() {
    let bytes = guest(&[(Hook::OnRequest, CONTINUE)], false);
    let load = |compiler| {
        let options = RuntimeOptions { instances: 10, compiler: Some(compiler), ..RuntimeOptions::default() };
        Runtime::new(options).unwrap().load(&bytes).map(drop)
    };
    // None that can be started, and one that hands back what is no code.
    for compiler in [["/no/such/program", ""], ["head", "-c100"]] {
        assert!(load(compiler).is_ok(), "{compiler:?}");
    }
    let refusal = load(["ls", "/no/such/file"]).unwrap_err().to_string();
    assert!(refusal.starts_with("does not compile: ls: "), "{refusal}");
    let compile = |bytes: &[u8]| {
        let input = [&(bytes.len() as u64).to_le_bytes()[..], bytes].concat();
        let mut compiled = Vec::new();
        compile_piped(std::io::Cursor::new(input), &mut compiled, || {}).map(|()| compiled)
    };
    assert!(compile(&bytes).unwrap().len() > bytes.len());
    assert!(compile(b"\0asm").is_err());
}
