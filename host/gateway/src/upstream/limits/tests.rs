//! Bulkheads without sockets: exactness over threads, order, and places that are given up.

use std::sync::atomic::AtomicU32;

use super::*;

fn run(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap();
    runtime.block_on(work);
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn threads_never_exceed_the_limit_and_all_get_their_turn() {
    let bulkhead = Arc::new(Bulkhead::new(Some(3), 1000));
    let (inside, most) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                run(async {
                    let task = async || {
                        for n in 0..500 {
                            let permit = bulkhead.enter(LONG).await.expect("a turn");
                            most.fetch_max(inside.fetch_add(1, SeqCst) + 1, SeqCst);
                            if n % 3 == 0 {
                                tokio::task::yield_now().await;
                            }
                            inside.fetch_sub(1, SeqCst);
                            drop(permit);
                        }
                    };
                    tokio::join!(task(), task(), task(), task());
                });
            });
        }
    });
    assert_eq!(most.into_inner(), 3);
    let state = bulkhead.state();
    assert_eq!((state.active, state.pending, state.full, state.timed_out), (Some(0), 0, 0, 0));
}

#[test]
fn first_come_first_served_and_who_leaves_is_forgotten_at_once() {
    run(async {
        let bulkhead = Arc::new(Bulkhead::new(Some(1), 2));
        let held = bulkhead.enter(LONG).await.unwrap();
        let wait = || {
            let bulkhead = bulkhead.clone();
            tokio::task::spawn_local(async move { bulkhead.enter(LONG).await.map(drop) })
        };
        let (first, second) = (wait(), wait());
        tokio::task::yield_now().await;
        assert_eq!(bulkhead.enter(LONG).await.err(), Some(Busy::Full { limit: 1, pending: 2 }));
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        assert_eq!(bulkhead.state().pending, 1);
        let third = wait();
        tokio::task::yield_now().await;
        assert_eq!(bulkhead.state().pending, 2, "its place is free");
        drop(held);
        assert!(bulkhead.try_enter().is_none(), "nobody overtakes those who wait");
        assert_eq!((second.await.unwrap(), third.await.unwrap()), (Ok(()), Ok(())));
        assert_eq!((bulkhead.state().active, bulkhead.state().waited), (Some(0), 2));
    });
}

#[test]
fn waiting_ends() {
    run(async {
        let bulkhead = Arc::new(Bulkhead::new(Some(1), 2));
        let held = bulkhead.enter(LONG).await.unwrap();
        let patience = Duration::from_millis(5);
        assert_eq!(bulkhead.enter(patience).await.err(), Some(Busy::TimedOut(patience)));
        drop(held);
        assert!(bulkhead.try_enter().is_some());
    });
}

#[test]
fn a_changed_limit_counts_what_is_under_way() {
    run(async {
        let bulkhead = Arc::new(Bulkhead::new(Some(3), 9));
        let mut held: Vec<_> = (0..3).map(|_| bulkhead.try_enter().unwrap()).collect();
        bulkhead.set(Some(1), 9);
        let waiting = tokio::task::spawn_local({
            let bulkhead = bulkhead.clone();
            async move { bulkhead.enter(LONG).await }
        });
        tokio::task::yield_now().await;
        held.truncate(1);
        assert_eq!((bulkhead.state().active, bulkhead.state().pending), (Some(1), 1));
        bulkhead.set(Some(2), 9);
        assert!(waiting.await.unwrap().is_ok());
    });
}
