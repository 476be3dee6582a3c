//! Tests of counters in memory.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::space::{SWEEP_FROM, shard_of};
use super::*;
use crate::rate::State;

fn limit(key: &str, algorithm: Algorithm, amount: u64, window_ms: u64) -> Limit<'_> {
    Limit { key, algorithm, amount, window_ms, burst: 0 }
}

const ALL: [Algorithm; 4] =
    [Algorithm::TokenBucket, Algorithm::LeakyBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow];

#[test]
fn all_limits_or_none() {
    let (clock, _) = Clock::manual(0);
    let limiter = Limiter::new(clock);
    let wide = limit("a", Algorithm::FixedWindow, 100, 1000);
    let narrow = limit("b", Algorithm::FixedWindow, 2, 1000);
    for left in [1, 0] {
        let standings = limiter.take("p", &[wide, narrow], 1).unwrap();
        assert!(standings.iter().all(|s| s.allowed));
        assert_eq!(standings[1].remaining, left);
    }
    let standings = limiter.take("p", &[wide, narrow], 1).unwrap();
    assert_eq!((standings[0].allowed, standings[1].allowed), (true, false));
    assert_eq!((standings[0].remaining, standings[1].retry_after_ms), (98, 1000));
    // Looking takes nothing; another plugin has its own counters.
    assert_eq!(limiter.take("p", &[wide], 0).unwrap()[0].remaining, 98);
    assert_eq!(limiter.take("q", &[wide], 0).unwrap()[0].remaining, 100);
}

#[test]
fn a_counter_named_twice_is_charged_once() {
    let (clock, _) = Clock::manual(0);
    let limiter = Limiter::new(clock);
    let one = limit("a", Algorithm::FixedWindow, 3, 1000);
    let standings = limiter.take("p", &[one, one], 1).unwrap();
    assert_eq!((standings[0].remaining, standings[1].remaining), (2, 2));
    assert_eq!(limiter.space("p").counters(), 1);
}

#[test]
fn arguments_out_of_range_are_refused() {
    let limiter = Limiter::new(Clock::manual(0).0);
    let ok = limit("a", Algorithm::TokenBucket, 1, 1);
    let invalid = |limit| matches!(limiter.take("p", &[limit], 1), Err(ServiceError::Invalid(_)));
    assert!(invalid(Limit { amount: 0, ..ok }));
    assert!(invalid(Limit { window_ms: 0, ..ok }));
    assert!(invalid(Limit { window_ms: MAX_WINDOW_MS + 1, ..ok }));
    assert_eq!(limiter.take("p", &[ok; 17], 1), Err(ServiceError::TooLarge(16)));
    let long = "k".repeat(MAX_KEY + 1);
    assert!(invalid(Limit { key: &long, ..ok }));
    assert!(limiter.take("p", &[], 1).unwrap().is_empty());
}

#[test]
fn exactly_the_amount_passes_under_contention() {
    let limiter = Limiter::new(Clock::manual(1_000_000_000).0);
    for algorithm in ALL {
        let hour = Limit { burst: 999, ..limit("k", algorithm, 1_000, 3_600_000) };
        // A second limit, in changing order, would deadlock if locks were taken as listed.
        let other = limit("o", algorithm, u64::MAX, 3_600_000);
        let other = Limit { burst: u64::MAX, ..other };
        let hour = if algorithm == Algorithm::TokenBucket { Limit { burst: 0, ..hour } } else { hour };
        let passed = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (limiter, passed) = (&limiter, &passed);
                scope.spawn(move || {
                    let limits = if thread % 2 == 0 { [hour, other] } else { [other, hour] };
                    for _ in 0..25_000 {
                        if limiter.take("p", &limits, 1).unwrap().iter().all(|s| s.allowed) {
                            passed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(passed.load(Ordering::Relaxed), 1_000, "{algorithm:?}");
    }
}

#[test]
fn expired_counters_go_and_a_full_space_refuses_new_ones() {
    let (clock, time) = Clock::manual(0);
    let space = CounterSpace::new(clock, 10_000);
    let mut refused = 0;
    for i in 0..12_000 {
        let key = i.to_string();
        refused += usize::from(space.take(&[limit(&key, Algorithm::FixedWindow, 5, 1000)], 1).is_err());
    }
    assert_eq!((space.counters(), refused), (10_000, 2_000));
    // Known counters still work, and after the window there is room again.
    assert!(space.take(&[limit("7", Algorithm::FixedWindow, 5, 1000)], 1).is_ok());
    time.store(2_000_000, Ordering::Release);
    for i in 0..50_000 {
        time.fetch_add(1_000, Ordering::AcqRel);
        let key = format!("n{i}");
        space.take(&[limit(&key, Algorithm::FixedWindow, 5, 1000)], 1).unwrap();
    }
    // 1,000 are alive at a time; what is there is bounded by it, not by the 50,000 that were.
    assert!(space.counters() <= 64 * SWEEP_FROM + 4_000, "{}", space.counters());
}

#[test]
fn room_is_found_in_the_shards_of_other_keys() {
    // One counter in all: wherever the old key lies, each new one has to find it.
    let (clock, time) = Clock::manual(0);
    let space = CounterSpace::new(clock, 1);
    for i in 0..500 {
        let (key, next) = (format!("k{i}"), format!("k{}", i + 1));
        space.take(&[limit(&key, Algorithm::FixedWindow, 5, 1000)], 1).unwrap();
        assert!(space.take(&[limit(&next, Algorithm::FixedWindow, 5, 1000)], 1).is_err());
        time.fetch_add(1_000_000, Ordering::AcqRel);
    }
    assert_eq!(space.counters(), 1);
}

/// What is counted is the work, not the time.
#[test]
fn a_refused_key_looks_at_less_than_a_counter() {
    for algorithm in ALL {
        let (clock, time) = Clock::manual(0);
        let space = CounterSpace::new(clock, 6_400);
        let take = |key: String, window_ms| space.take(&[limit(&key, algorithm, 5, window_ms)], 1);
        // Windows of different length: later, something expires all the time.
        for i in 0..6_400_u64 {
            take(format!("old{i}"), 100_000 + i * 200).unwrap();
        }
        let before = space.looked_at.load(Ordering::Relaxed);
        let refused = (0..20_000).filter(|i| take(format!("new{i}"), 100_000).is_err()).count();
        let looked_at = space.looked_at.load(Ordering::Relaxed) - before;
        assert_eq!(refused, 20_000);
        assert!(looked_at <= 6_400, "{algorithm:?}: {looked_at} looks at counters that are all alive");
        // Seconds in which counters expire and more new ones come than there is room for.
        time.store(300_000_000, Ordering::Release);
        let before = space.looked_at.load(Ordering::Relaxed);
        let served = (0..50_000).filter(|i| {
            time.fetch_add(100, Ordering::AcqRel);
            take(format!("later{i}"), 1_000_000).is_ok()
        });
        let served = served.count();
        let looked_at = space.looked_at.load(Ordering::Relaxed) - before;
        assert!((100..50_000).contains(&served), "{algorithm:?}: {served}");
        assert!(looked_at < 50_000, "{algorithm:?}: {looked_at} looks in 50,000 calls");
    }
}

#[test]
fn a_clock_that_goes_back_does_no_harm() {
    for algorithm in ALL {
        let (clock, time) = Clock::manual(10_000_000);
        let limiter = Limiter::new(clock);
        let one =
            Limit { burst: if algorithm == Algorithm::LeakyBucket { 4 } else { 0 }, ..limit("k", algorithm, 5, 1000) };
        for step in 0..50 {
            time.store(if step % 2 == 0 { 10_000_000 } else { 1_000 }, Ordering::Release);
            let allowed = limiter.take("p", &[one], 1).unwrap()[0].allowed;
            assert_eq!(allowed, step < 5, "{algorithm:?} step {step}");
        }
    }
}

/// A space of leased counters with a manual clock.
fn leased(most: u64) -> (CounterSpace, Arc<std::sync::atomic::AtomicU64>) {
    let (clock, time) = Clock::manual(1_000_000_000);
    (CounterSpace::leased(clock, Lease::new(most)), time)
}

#[test]
fn a_lease_lets_through_its_bound_and_one_request_of_any_cost() {
    let (space, _) = leased(3);
    let limit = [limit("k", Algorithm::FixedWindow, 100, 60_000)];
    let passes = |cost| space.take(&limit, cost).unwrap()[0].allowed;
    assert!(passes(2) && passes(1) && !passes(1));
    let report = space.lease().unwrap().due(9).pop().unwrap();
    let owed = space.begin(&report).unwrap();
    assert_eq!(owed.cost, 3);
    // The others have taken 90.
    let theirs = State::new(Algorithm::FixedWindow, 960_000_000, 90, 0);
    space.settle(report, owed, Some(theirs));
    assert!(passes(5), "alone, more than the bound");
    assert!(!passes(3), "two are left");
}

#[test]
fn a_counter_named_twice_is_told_once() {
    let (space, _) = leased(10);
    let twice = [
        Limit { burst: 9, ..limit("k", Algorithm::TokenBucket, 5, 1_000) },
        limit("k", Algorithm::TokenBucket, 5, 1_000),
    ];
    space.take(&twice, 2).unwrap();
    let due = space.lease().unwrap().due(9);
    let owed: Vec<u64> = due.iter().filter_map(|report| Some(space.begin(report)?.cost)).collect();
    assert_eq!(owed, [2]);
}

#[test]
fn after_a_long_time_without_the_store_it_is_told_what_still_counts() {
    for algorithm in ALL {
        let (space, time) = leased(1);
        let limit = [limit("k", algorithm, 10, 1_000)];
        // An hour of a caller that keeps within its limit.
        for _ in 0..3_600 {
            assert!(space.take_within(&limit, 1, false).unwrap()[0].allowed, "{algorithm:?}");
            time.fetch_add(1_000_000, Ordering::AcqRel);
        }
        time.fetch_sub(900_000, Ordering::AcqRel);
        let report = space.lease().unwrap().due(1).pop().unwrap();
        let owed = space.begin(&report).map_or(0, |owed| owed.cost);
        assert!(owed <= 1, "{algorithm:?}: {owed}");
    }
}

/// Callers make up keys while the store is away, and their counters expire.
#[test]
fn what_is_told_of_counters_that_are_gone_is_forgotten() {
    let (space, time) = leased(5);
    let lease = space.lease().unwrap();
    for i in 0..10_000 {
        let key = format!("k{i}");
        space.take_within(&[limit(&key, Algorithm::FixedWindow, 5, 1_000)], 1, false).unwrap();
        time.fetch_add(1_000, Ordering::AcqRel);
    }
    // Twice the same: it was told, and has taken since.
    let stays = [limit("stays", Algorithm::FixedWindow, 5, 600_000)];
    space.take_within(&stays, 1, false).unwrap();
    let report = lease.due(20_000).pop().unwrap();
    lease.told();
    for i in 0..10_000 {
        let key = format!("later{i}");
        space.take_within(&[limit(&key, Algorithm::FixedWindow, 5, 1_000)], 1, false).unwrap();
        time.fetch_add(1_000, Ordering::AcqRel);
    }
    space.put_off(report);
    assert_eq!(lease.unreported(), 10_001);
    lease.forget(|report| space.owes(report));
    assert!(lease.unreported() <= space.counters(), "{} of {}", lease.unreported(), space.counters());
    assert!(lease.unreported() < 10_000);
    // One that is alive is still told.
    let due = lease.due(20_000);
    let told = due.iter().filter(|report| report.limit().key == "stays");
    assert_eq!(told.filter_map(|report| Some(space.begin(report)?.cost)).collect::<Vec<_>>(), [1]);
}

#[test]
fn a_store_whose_clock_was_wrong_once_closes_no_counter() {
    const HOUR_US: u64 = 3_600_000_000;
    for algorithm in ALL {
        let (space, time) = leased(100);
        let lease = space.lease().unwrap();
        let here = time.load(Ordering::Acquire);
        let limit = [Limit { burst: 4, ..limit("k", algorithm, 5, 1_000) }];
        let take = |limit: &[Limit<'_>]| space.take(limit, 1).unwrap()[0].allowed;
        lease.set_clocks(here + HOUR_US, here);
        while take(&limit) {}
        lease.set_clocks(here, here);
        time.fetch_add(2_000_000, Ordering::AcqRel);
        assert!(take(&limit), "{algorithm:?}");
    }
}

/// Who knows keys that meet in one process, or for one plugin, knows nothing of another.
#[test]
fn keys_do_not_meet_in_the_same_shards_of_two_spaces() {
    let [one, other] = [(); 2].map(|()| CounterSpace::new(Clock::manual(0).0, 1));
    let meet = (0..6_400).filter(|i| {
        let key = format!("k{i}");
        let limit = limit(&key, Algorithm::FixedWindow, 5, 1_000);
        shard_of(one.hash(&limit)) == shard_of(other.hash(&limit))
    });
    let meet = meet.count();
    assert!(meet < 400, "{meet} of 6,400 where 100 would be chance");
}
