//! Limits without sockets: exactness over threads, order, places that are given up, and endpoints that are full.

use std::rc::Rc;
use std::sync::atomic::AtomicU32;

use super::*;
use crate::upstream::balance::Affinity;
use crate::upstream::endpoints::EndpointRegistry;
use crate::upstream::local::{Choice, LocalUpstream};
use crate::upstream::resolver::Resolver;
use crate::upstream::spec::{EndpointSpec, TargetSpec, Upstream, UpstreamSpec};

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

#[test]
fn who_has_no_use_for_what_has_come_passes_it_on_and_stays_where_it_stood() {
    let queue = Queue::<u32>::default();
    let join = || queue.join(3, Wanted::Any(1)).unwrap();
    let (mut first, mut second, third) = (join(), join(), join());
    queue.pop_if(SINGLE, || true).unwrap().send(1).unwrap();
    assert_eq!(first.take(), Some(1));
    queue.pop_behind(&first, SINGLE).unwrap().send(1).unwrap();
    assert_eq!(second.take(), Some(1));
    queue.pop_behind(&second, SINGLE).unwrap().send(1).unwrap();
    assert!(queue.pop_behind(&third, SINGLE).is_none(), "it ends there");
    second.wait_on();
    first.wait_on();
    assert_eq!((first.is_first(), second.is_first(), queue.waiting()), (true, false, 2));
    queue.pop_if(SINGLE, || true).unwrap().send(2).unwrap();
    assert_eq!((first.take(), second.take()), (Some(2), None));
}

#[test]
fn who_waits_for_one_target_is_passed_over_for_others_and_takes_no_place_in_their_queues() {
    let queue = Queue::<u32>::default();
    let only = |targets: &[usize]| queue.join(1, Wanted::Only(targets.into()));
    let (mut of_one, mut of_two) = (only(&[1]).unwrap(), only(&[2]).unwrap());
    assert!(only(&[1]).is_none() && only(&[1, 2]).is_none(), "full");
    let mut of_both = only(&[2, 3]).expect("nobody waits for 3");
    assert_eq!((queue.is_wanted(3), queue.is_wanted(4)), (true, false));
    assert_eq!((of_two.is_first(), of_both.is_first()), (true, false));
    assert!(queue.pop_if(4, || panic!("nobody waits for it")).is_none());
    queue.pop_if(2, || true).unwrap().send(2).unwrap();
    queue.pop_if(2, || true).unwrap().send(3).unwrap();
    assert_eq!((of_one.take(), of_two.take(), of_both.take()), (None, Some(2), Some(3)));
    drop(of_one);
    assert!(!queue.is_wanted(1) && only(&[1]).is_some());
}

#[test]
fn who_waits_for_one_target_takes_no_place_of_those_who_wait_for_any() {
    let queue = Queue::<u32>::default();
    let join = |wanted: Wanted| queue.join(1, wanted);
    let _of_one = join(Wanted::Only([1].into())).unwrap();
    let of_any = join(Wanted::Any(2)).expect("nobody waits for the other one");
    assert!(join(Wanted::Any(2)).is_none() && join(Wanted::Only([2].into())).is_none(), "one waits for either");
    drop(of_any);
    let _of_two = join(Wanted::Only([2].into())).unwrap();
    assert!(join(Wanted::Any(2)).is_none(), "both are full");
    assert!(join(Wanted::Any(3)).is_some());
}

#[test]
fn who_waits_asks_a_pool_that_nobody_else_has_asked() {
    run(async {
        let connections = Arc::new(Connections::new(Some(2), 0));
        let pools = [(); 2].map(|()| ConnectionLimits::new(None, Some(connections.clone())).unwrap());
        let mut open = Vec::new();
        let mut holders = Vec::new();
        for pool in &pools {
            open.push(pool.try_enter().unwrap());
            pool.note_idle(1);
            holders.push(pool.register().clone());
        }
        let mut waiting = [(); 2].map(|()| Box::pin(pools[0].enter(LONG)));
        for waits in &mut waiting {
            let is_pending =
                std::future::poll_fn(|cx| std::task::Poll::Ready(waits.as_mut().poll(cx).is_pending())).await;
            assert!(is_pending, "both wait");
        }
        for holder in holders {
            tokio::time::timeout(LONG, holder.asked()).await.expect("each pool was asked");
        }
        open.clear();
        for waits in waiting {
            assert!(waits.await.is_ok());
        }
    });
}

#[test]
fn an_address_that_was_away_hears_of_a_changed_limit_when_it_is_back() {
    let (registry, resolver) = (EndpointRegistry::new(), Resolver::new(&[], None));
    let upstream = |hosts: &[&str], limit: u32| {
        let endpoints = hosts.iter().map(|host| EndpointSpec::from_url(host).unwrap()).collect();
        let mut spec = UpstreamSpec::new("u", TargetSpec::Endpoints(endpoints));
        spec.limits.per_endpoint.max_connections = Some(limit);
        let upstream = Arc::new(Upstream::new(spec, &registry, &resolver, None).unwrap());
        upstream.apply_limits();
        upstream
    };
    let limit_of = |upstream: &Arc<Upstream>| {
        let record = upstream.set().members().hosts[0].record.clone();
        let _limits = upstream.connection_limits(&record);
        (record.connections().unwrap().state().limit, record)
    };
    let (limit, _in_use) = limit_of(&upstream(&["http://10.0.0.1", "http://10.0.0.2"], 5));
    assert_eq!(limit, Some(5));
    upstream(&["http://10.0.0.2"], 3);
    assert_eq!(limit_of(&upstream(&["http://10.0.0.1", "http://10.0.0.2"], 3)).0, Some(3));
}

/// An upstream of these endpoints, each of which takes one request at a time.
fn limited(endpoints: &[&str]) -> (Arc<Upstream>, Rc<LocalUpstream>) {
    let endpoints = endpoints.iter().map(|url| EndpointSpec::from_url(url).unwrap()).collect();
    let mut spec = UpstreamSpec::new("u", TargetSpec::Endpoints(endpoints));
    spec.limits.per_endpoint.max_requests = Some(1);
    let (registry, resolver) = (EndpointRegistry::new(), Resolver::new(&[], None));
    let upstream = Arc::new(Upstream::new(spec, &registry, &resolver, None).unwrap());
    (upstream.clone(), LocalUpstream::new(upstream, None))
}

const BALANCED: Choice<'static> = Choice::Balanced(Affinity::new(None, None));

#[test]
fn the_trial_of_an_address_is_not_lost_to_a_request_that_has_no_room_there() {
    let (_upstream, local) = limited(&["http://10.0.0.1"]);
    let (endpoints, now) = (local.endpoints(), Instant::now());
    let record = endpoints.record(0);
    let long_ago = now.checked_sub(Duration::from_secs(60)).unwrap();
    record.failed(long_ago, long_ago);
    // The clock of records begins with the first of them, which may be this one.
    while !record.may_try(Instant::now()) {
        std::thread::yield_now();
    }
    let now = Instant::now();
    assert!(record.try_occupy(1));
    for choice in [BALANCED, Choice::Key("a"), Choice::Addresses(&["10.0.0.1:80".to_owned()])] {
        let refused = local.admit_now(&endpoints, Eligible { choice, subset: None, tried: &[] }).err();
        assert!(matches!(refused, Some(Unadmitted::Busy(_))), "{refused:?}");
        assert!(record.may_try(now));
    }
    record.vacate();
    assert!(local.admit_now(&endpoints, Eligible { choice: BALANCED, subset: None, tried: &[] }).is_ok());
    assert!(!record.may_try(now), "this is the trial");
}

#[test]
fn what_is_full_leaves_no_request_to_what_is_out() {
    let (_upstream, local) = limited(&["http://10.0.0.1", "http://10.0.0.2", "http://10.0.0.3"]);
    let (endpoints, now) = (local.endpoints(), Instant::now());
    endpoints.record(1).failed(now, now);
    let admit = |tried: &[usize]| local.admit_now(&endpoints, Eligible { choice: BALANCED, subset: None, tried });
    let held: Vec<_> = (0..2).map(|_| admit(&[]).unwrap()).collect();
    let mut hosts: Vec<usize> = held.iter().map(|(host, _)| *host).collect();
    hosts.sort_unstable();
    assert_eq!(hosts, [0, 2], "what has room is found");
    assert!(matches!(admit(&[]).err(), Some(Unadmitted::Busy(_))));
    assert_eq!(admit(&[0, 2]).unwrap().0, 1, "nothing else is left");
    drop(held);
    assert!(admit(&[]).is_ok());
}
