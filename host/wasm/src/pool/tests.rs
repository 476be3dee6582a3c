//! What a pool keeps of its instances, and how it replaces them.

use super::make::Making;
use super::*;
use crate::filter::FilterLimits;
use crate::tests::{exchange, limits, program, run, runtime};

fn pool(hook: &str, waits: bool) -> Rc<Pool> {
    let bytes = sluice_harness::guest::guest(&[("on-request", hook)], waits);
    Rc::new(Pool::new(program(&runtime(), &bytes, Mode::Reused, limits())))
}

#[test]
fn memory_that_a_guest_begins_with_does_not_make_it_large() {
    let pool = pool("i32.const 0", false);
    let mut instance = run(pool.start()).unwrap();
    assert_eq!(instance.memory_at_first, 64 << 10);
    for (at_first, large) in [(64 << 10, true), (LARGE + 1, false)] {
        instance.memory_at_first = at_first;
        instance.store.data_mut().memory.bytes = 2 * LARGE + 1;
        assert_eq!(is_large(&instance), large);
    }
}

#[test]
fn a_call_that_may_start_no_instance_takes_one_that_becomes_idle() {
    let pool = pool("i32.const 0", false);
    run(async {
        let now = Instant::now();
        let instance = Box::new(pool.start().await.unwrap());
        pool.pace(|pace| {
            pace.lose(now);
            pace.begin(now, true).unwrap();
            pace.end(Duration::ZERO, Duration::from_secs(3600));
        });
        let starved = Rc::clone(&pool);
        let minute = Duration::from_secs(60);
        let waiter = tokio::task::spawn_local(async move { starved.start_within(now + minute, minute).await.is_ok() });
        tokio::task::yield_now().await;
        assert_eq!((waiter.is_finished(), pool.inner.starved.get()), (false, 1));
        drop(pool.inner.put_back(instance, now));
        assert!(waiter.await.unwrap());
        assert_eq!((pool.program().stats().started, pool.inner.starved.get()), (1, 0));
    });
}

#[test]
fn calls_that_come_while_an_instance_is_made_wait_for_it() {
    let pool = pool("i32.const 0", false);
    run(async {
        let minute = Duration::from_secs(60);
        let making = Making::new(&pool.inner);
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let pool = Rc::clone(&pool);
                tokio::task::spawn_local(async move {
                    let instance = pool.start_within(Instant::now() + minute, minute).await.unwrap();
                    drop(pool.inner.put_back(instance, Instant::now()));
                })
            })
            .collect();
        tokio::task::yield_now().await;
        assert_eq!((pool.program().stats().started, pool.inner.starved.get()), (0, 3));
        // It was given up: another one makes one, which serves the rest.
        drop(making);
        for waiter in waiters {
            waiter.await.unwrap();
        }
        assert_eq!((pool.program().stats().started, pool.inner.starved.get()), (1, 0));
    });
}

#[test]
fn an_abandoned_call_has_lost_its_instance() {
    let pool = pool("(loop $again (br $again)) i32.const 0", true);
    run(async {
        let called = Rc::clone(&pool);
        let call = tokio::task::spawn_local(async move { called.call(Hook::OnRequest, exchange(), 0).await.1 });
        tokio::task::yield_now().await;
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
        assert_eq!(
            pool.pace(|pace| pace.begin(Instant::now(), true)),
            Ok(Some(Duration::ZERO)),
            "the next replaces it"
        );
    });
}

/// A pool that keeps one instance ready beside those in use, and has one that was made at load.
fn warm(bytes: &[u8], mode: Mode, most: usize) -> Rc<Pool> {
    let limits = FilterLimits { warm: Some(1), max_instances: most, ..limits() };
    let program = program(&runtime(), bytes, mode, limits);
    assert!(program.prewarm(true).unwrap());
    assert_eq!((program.stats().instances, program.stats().started), (1, 0));
    Rc::new(Pool::new(program))
}

/// Lets the task that makes instances come to its end.
async fn until_made(pool: &Pool) {
    tokio::task::yield_now().await;
    while pool.inner.is_replenishing.get() {
        tokio::task::yield_now().await;
    }
}

#[test]
fn instances_are_made_before_the_first_call_and_behind_those_that_trap() {
    let pool = warm(&sluice_harness::guest::guest(&[("on-request", "unreachable")], false), Mode::Reused, 64);
    run(async {
        for _ in 0..5 {
            let (_, result) = pool.call(Hook::OnRequest, exchange(), 0).await;
            assert!(matches!(result, Err(FilterError::Trap(_))), "{result:?}");
            until_made(&pool).await;
            assert_eq!(pool.inner.idle.borrow().len(), 2);
        }
    });
    let stats = pool.program().stats();
    // The first was made at load. Behind it there was none, and behind each other one.
    assert_eq!((stats.waits, stats.started, stats.prewarmed, stats.instances), (0, 7, 7, 2));
}

#[test]
fn instances_that_serve_one_exchange_are_made_before_it_comes() {
    let once = "(if (global.get $calls) (then unreachable)) (global.set $calls (i32.const 1)) i32.const 0";
    let bytes = sluice_harness::guest::as_component(sluice_harness::guest::guest(&[("on-request", once)], false));
    let pool = warm(&bytes, Mode::Fresh, 64);
    assert!(pool.program().image.is_none());
    run(async {
        for _ in 0..5 {
            assert!(pool.call(Hook::OnRequest, exchange(), 0).await.1.is_ok());
            until_made(&pool).await;
        }
        // More at once than there are: the others make their own, one after the other.
        let calls: Vec<_> = (0..6)
            .map(|_| {
                let pool = Rc::clone(&pool);
                tokio::task::spawn_local(async move { pool.call(Hook::OnRequest, exchange(), 0).await.1 })
            })
            .collect();
        for call in calls {
            assert!(call.await.unwrap().is_ok());
        }
        until_made(&pool).await;
    });
    let stats = pool.program().stats();
    assert!(stats.waits <= 4 && stats.instances == 2, "{stats:?}");
}

#[test]
fn no_more_instances_are_kept_ready_than_there_may_be() {
    let pool = warm(&sluice_harness::guest::guest(&[("on-request", "i32.const 0")], false), Mode::Reused, 1);
    run(async {
        assert!(pool.call(Hook::OnRequest, exchange(), 0).await.1.is_ok());
        until_made(&pool).await;
    });
    assert_eq!(pool.program().stats().started, 1);
}

#[test]
fn instances_are_made_ahead_within_the_time_for_replacing_them_and_for_no_pool_that_is_gone() {
    let pool = warm(&sluice_harness::guest::guest(&[("on-request", "unreachable")], false), Mode::Reused, 64);
    run(async {
        let now = Instant::now();
        pool.pace(|pace| {
            pace.lose(now);
            pace.begin(now, true).unwrap();
            pace.end(Duration::ZERO, Duration::from_secs(3600));
        });
        assert!(pool.call(Hook::OnRequest, exchange(), 0).await.1.is_err());
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(pool.inner.is_replenishing.get());
        assert_eq!(pool.program().stats().started, 1, "the time is used up");
        assert_eq!(Rc::strong_count(&pool.inner), 1, "the task does not keep what nobody calls any more");
    });
}

#[test]
fn an_instance_whose_successor_is_not_ready_serves_on_for_a_while() {
    let bytes = sluice_harness::guest::guest(&[("on-request", "i32.const 0")], false);
    let limits = FilterLimits { warm: Some(1), uses: 3, ..limits() };
    let program = program(&runtime(), &bytes, Mode::Reused, limits);
    assert!(program.prewarm(true).unwrap());
    let pool = Rc::new(Pool::new(program));
    run(async {
        let call = || pool.call(Hook::OnRequest, exchange(), 0);
        // Nothing here lets the task run that takes what was made ahead.
        for calls in 1..=5 {
            assert!(call().await.1.is_ok());
            assert_eq!(pool.inner.idle.borrow().len(), usize::from(calls < 5), "after {calls} calls");
        }
        until_made(&pool).await;
        for _ in 0..20 {
            for _ in 0..3 {
                assert!(call().await.1.is_ok());
            }
            // With a successor it is dropped after as many as it may have.
            assert_eq!(pool.inner.idle.borrow().len(), 1);
            until_made(&pool).await;
        }
    });
    assert_eq!(pool.program().stats().waits, 0);
}
