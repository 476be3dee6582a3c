//! What a pool keeps of its instances, and how it replaces them.

use super::*;
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
