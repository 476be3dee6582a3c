//! Calls with a body, which take turns, and the instances that they make large.

use super::*;

#[test]
fn a_fresh_instance_that_has_become_large_does_not_wait_for_its_exchange() {
    let grow = "(drop (memory.grow (i32.const 80))) i32.const 0";
    let hooks = [(Hook::OnRequest, grow), (Hook::OnResponse, CONTINUE)];
    let limits = FilterLimits { memory: 32 << 20, ..limits() };
    let program = program(&runtime(), &guest(&hooks, false), Mode::Fresh, limits);
    run(async {
        let (exchange, result) = Pool::new(program).call(Hook::OnRequest, exchange(), 1).await;
        assert!(result.is_ok() && exchange.sandboxes.is_empty(), "{result:?}");
    });
}

#[test]
fn the_turn_of_a_body_is_waited_for_when_the_filter_has_room() {
    let limits = FilterLimits { cpu: Duration::from_secs(60), max_instances: 1, ..limits() };
    let hooks = [(Hook::OnRequest, SPIN), (Hook::OnResponse, RESPOND)];
    let program = program(&runtime(), &guest(&hooks, true), Mode::Reused, limits);
    run(async {
        let pool = Rc::new(Pool::new(program));
        let call = tokio::task::spawn_local({
            let pool = pool.clone();
            async move { pool.call(Hook::OnRequest, exchange(), 0).await.1 }
        });
        tokio::task::yield_now().await;
        let taken = Rc::new(std::cell::Cell::new(false));
        let second = tokio::task::spawn_local({
            let (pool, taken) = (pool.clone(), taken.clone());
            async move { pool.call_in_turn(Hook::OnResponse, exchange(), 0, async { taken.set(true) }).await.1 }
        });
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        assert!(!taken.get(), "it would keep others from theirs");
        call.abort();
        assert_eq!(second.await.unwrap().unwrap(), Verdict::Respond);
        assert!(taken.get());
    });
}

#[test]
fn a_call_whose_turn_does_not_come_has_taken_no_instance() {
    let limits = FilterLimits { wall: Duration::from_millis(20), ..limits() };
    let program = program(&runtime(), &guest(&[(Hook::OnRequest, CONTINUE)], false), Mode::Reused, limits);
    run(async {
        let pool = Pool::new(program.clone());
        let never = std::future::pending::<()>();
        let (_, result) = pool.call_in_turn(Hook::OnRequest, exchange(), 0, never).await;
        assert!(matches!(result, Err(FilterError::NoTurn(_))), "{result:?}");
        assert!(pool.call(Hook::OnRequest, exchange(), 0).await.1.is_ok());
        assert_eq!((program.stats().started, program.stats().instances), (1, 1));
    });
}
