//! The arithmetic of the four algorithms, on a state of 24 bytes. It is exact: times are whole microseconds and shares of a
//! token are counted in units of 1/window, in 128 bits, where no product of two arguments can overflow unnoticed.

use super::limiter::{Algorithm, Limit, Standing};

/// The state of a counter. What the fields hold depends on the algorithm; all zero is a counter that was never used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct State {
    /// Buckets: when `level` was right. Windows: the start of the current window. Microseconds since the Unix epoch.
    at: u64,
    /// Buckets: the high and low half of the level, what was taken and has not been refilled yet, in units of a token
    /// divided by the window in microseconds. Windows: the counts of the current and of the former window.
    a: u64,
    b: u64,
}

impl State {
    /// One that a store has kept: the level of a bucket, or the counts of the current and of the former window.
    pub(super) fn new(algorithm: Algorithm, at: u64, a: u128, b: u64) -> Self {
        match algorithm {
            Algorithm::TokenBucket | Algorithm::LeakyBucket => State::with_level(at, a),
            Algorithm::FixedWindow | Algorithm::SlidingWindow => State { at, a: saturate(a), b },
        }
    }

    /// Whether it is of a time after `now`.
    pub(super) fn is_after(&self, now: u64) -> bool {
        self.at > now
    }

    fn level(&self) -> u128 {
        u128::from(self.a) << 64 | u128::from(self.b)
    }

    fn with_level(at: u64, level: u128) -> Self {
        State { at, a: (level >> 64) as u64, b: level as u64 }
    }
}

/// The state brought up to `now`. Time that goes back stands still.
pub(super) fn advance(limit: &Limit<'_>, state: State, now: u64) -> State {
    let window = window_us(limit);
    match limit.algorithm {
        Algorithm::TokenBucket | Algorithm::LeakyBucket => {
            let elapsed = now.saturating_sub(state.at);
            let refilled = u128::from(elapsed) * u128::from(limit.amount);
            State::with_level(state.at.max(now), state.level().saturating_sub(refilled))
        }
        Algorithm::FixedWindow | Algorithm::SlidingWindow => {
            let start = now - now % window;
            if start <= state.at {
                state
            } else if start - state.at == window {
                State { at: start, a: 0, b: state.a }
            } else {
                State { at: start, a: 0, b: 0 }
            }
        }
    }
}

/// The state after `cost` was taken; only for a cost that was allowed.
pub(super) fn charge(limit: &Limit<'_>, state: State, cost: u64) -> State {
    match limit.algorithm {
        Algorithm::TokenBucket | Algorithm::LeakyBucket => {
            let cost = u128::from(cost) * u128::from(window_us(limit));
            State::with_level(state.at, state.level().saturating_add(cost))
        }
        Algorithm::FixedWindow | Algorithm::SlidingWindow => State { a: state.a.saturating_add(cost), ..state },
    }
}

/// How the limit stands for a call of this cost, with a state that was brought up to now.
pub(super) fn standing(limit: &Limit<'_>, state: &State, cost: u64, now: u64) -> Standing {
    match limit.algorithm {
        Algorithm::TokenBucket | Algorithm::LeakyBucket => bucket(limit, state, cost),
        Algorithm::FixedWindow => fixed(limit, state, cost, now),
        Algorithm::SlidingWindow => sliding(limit, state, cost, now),
    }
}

/// What of the costs that were taken still counts, with a state that was brought up to now.
pub(super) fn live(limit: &Limit<'_>, state: &State) -> u64 {
    match limit.algorithm {
        Algorithm::TokenBucket | Algorithm::LeakyBucket => {
            saturate(state.level().div_ceil(u128::from(window_us(limit))))
        }
        Algorithm::FixedWindow | Algorithm::SlidingWindow => state.a,
    }
}

/// When the counter is as good as new: microseconds since the Unix epoch.
pub(super) fn expires(algorithm: Algorithm, amount: u64, window: u64, state: &State) -> u64 {
    match algorithm {
        Algorithm::TokenBucket | Algorithm::LeakyBucket => {
            state.at.saturating_add(saturate(state.level().div_ceil(u128::from(amount))))
        }
        Algorithm::FixedWindow => state.at.saturating_add(window),
        Algorithm::SlidingWindow => state.at.saturating_add(window.saturating_mul(2)),
    }
}

/// Token bucket and GCRA differ in their capacity only: a virtual-scheduling GCRA with tolerance *t* is a bucket of 1 + *t*
/// that drains at the even rate.
fn bucket(limit: &Limit<'_>, state: &State, cost: u64) -> Standing {
    let window = u128::from(window_us(limit));
    // 64 bits of tokens times 45 bits of microseconds: far from 128.
    let (full, level, wanted) = (u128::from(capacity(limit)) * window, state.level(), u128::from(cost) * window);
    let excess = level.saturating_add(wanted).saturating_sub(full);
    let drain = |units: u128| to_ms(units.div_ceil(u128::from(limit.amount)));
    Standing {
        allowed: excess == 0,
        remaining: saturate(full.saturating_sub(level) / window),
        reset_ms: drain(level),
        retry_after_ms: if wanted > full { u64::MAX } else { drain(excess) },
    }
}

/// The most that the limit allows at once.
pub(super) fn capacity(limit: &Limit<'_>) -> u64 {
    match (limit.algorithm, limit.burst) {
        (Algorithm::TokenBucket, 0) => limit.amount,
        (Algorithm::TokenBucket, burst) => burst,
        (Algorithm::LeakyBucket, burst) => burst.saturating_add(1),
        (Algorithm::FixedWindow | Algorithm::SlidingWindow, _) => limit.amount,
    }
}

fn fixed(limit: &Limit<'_>, state: &State, cost: u64, now: u64) -> Standing {
    let left = limit.amount.saturating_sub(state.a);
    let end_ms = to_ms(until(state.at, window_us(limit), now));
    let allowed = cost <= left;
    Standing {
        allowed,
        remaining: left,
        reset_ms: if state.a == 0 { 0 } else { end_ms },
        retry_after_ms: match allowed {
            true => 0,
            false if cost > limit.amount => u64::MAX,
            false => end_ms,
        },
    }
}

/// The former window counts for the share of it that the sliding window still covers.
fn sliding(limit: &Limit<'_>, state: &State, cost: u64, now: u64) -> Standing {
    let window = u128::from(window_us(limit));
    let rest = until(state.at, window_us(limit), now).min(window);
    let (current, former, cost) = (u128::from(state.a), u128::from(state.b), u128::from(cost));
    let full = u128::from(limit.amount) * window;
    let used = former * rest + current * window;
    let allowed = used + cost * window <= full;
    // How long before the end of a window its former one, of this count, leaves room for `free`.
    let covered = |count: u128, free: u128| free.checked_div(count).unwrap_or(window).min(window);
    let retry = if allowed {
        0
    } else if u128::from(limit.amount) < cost {
        return Standing {
            allowed,
            remaining: saturate(full.saturating_sub(used) / window),
            reset_ms: reset(state, rest, window),
            retry_after_ms: u64::MAX,
        };
    } else {
        match full.checked_sub((current + cost) * window) {
            Some(free) => rest - covered(former, free).min(rest),
            None => rest + window - covered(current, full - cost * window),
        }
    };
    Standing {
        allowed,
        remaining: saturate(full.saturating_sub(used) / window),
        reset_ms: reset(state, rest, window),
        retry_after_ms: to_ms(retry),
    }
}

fn reset(state: &State, rest: u128, window: u128) -> u64 {
    match (state.a, state.b) {
        (0, 0) => 0,
        (0, _) => to_ms(rest),
        _ => to_ms(rest + window),
    }
}

/// Microseconds until the window that began at `start` ends.
fn until(start: u64, window: u64, now: u64) -> u128 {
    (u128::from(start) + u128::from(window)).saturating_sub(u128::from(now))
}

fn window_us(limit: &Limit<'_>) -> u64 {
    limit.window_ms.saturating_mul(1_000).max(1)
}

fn to_ms(us: u128) -> u64 {
    saturate(us.div_ceil(1_000))
}

fn saturate(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(algorithm: Algorithm, amount: u64, window_ms: u64, burst: u64) -> Limit<'static> {
        Limit { key: "k", algorithm, amount, window_ms, burst }
    }

    /// Takes at these times (ms) and answers what passed and the last standing.
    fn run(limit: &Limit<'_>, calls: &[(u64, u64)]) -> (Vec<bool>, Standing) {
        let mut state = State::default();
        let mut passed = Vec::new();
        let mut last = None;
        for &(ms, cost) in calls {
            let now = ms * 1_000;
            state = advance(limit, state, now);
            let standing = standing(limit, &state, cost, now);
            if standing.allowed {
                state = charge(limit, state, cost);
            }
            passed.push(standing.allowed);
            last = Some(standing);
        }
        (passed, last.unwrap())
    }

    #[test]
    fn algorithms_table() {
        use Algorithm::*;
        let s =
            |allowed, remaining, reset_ms, retry_after_ms| Standing { allowed, remaining, reset_ms, retry_after_ms };
        // 10 in a second: the standing of the last call is as it was before that call took anything.
        let cases = [
            (limit(TokenBucket, 10, 1000, 0), vec![(0, 10), (0, 1)], s(false, 0, 1000, 100)),
            (limit(TokenBucket, 10, 1000, 0), vec![(0, 10), (250, 3)], s(false, 2, 750, 50)),
            (limit(TokenBucket, 10, 1000, 0), vec![(0, 10), (5000, 10)], s(true, 10, 0, 0)),
            (limit(TokenBucket, 10, 1000, 20), vec![(0, 20), (500, 5)], s(true, 5, 1500, 0)),
            (limit(TokenBucket, 10, 1000, 0), vec![(0, 11)], s(false, 10, 0, u64::MAX)),
            (limit(LeakyBucket, 10, 1000, 0), vec![(0, 1), (99, 1)], s(false, 0, 1, 1)),
            (limit(LeakyBucket, 10, 1000, 0), vec![(0, 1), (100, 1)], s(true, 1, 0, 0)),
            (limit(LeakyBucket, 10, 1000, 2), vec![(0, 3), (50, 1)], s(false, 0, 250, 50)),
            (limit(FixedWindow, 10, 1000, 0), vec![(300, 10), (999, 1)], s(false, 0, 1, 1)),
            (limit(FixedWindow, 10, 1000, 0), vec![(999, 10), (1000, 10)], s(true, 10, 0, 0)),
            (limit(FixedWindow, 10, 1000, 0), vec![(0, 11)], s(false, 10, 0, u64::MAX)),
            (limit(SlidingWindow, 10, 1000, 0), vec![(500, 10), (1250, 3)], s(false, 2, 750, 50)),
            (limit(SlidingWindow, 10, 1000, 0), vec![(500, 10), (1250, 2)], s(true, 2, 750, 0)),
            (limit(SlidingWindow, 10, 1000, 0), vec![(500, 10), (600, 5)], s(false, 0, 1400, 900)),
            (limit(SlidingWindow, 10, 1000, 0), vec![(500, 10), (3000, 10)], s(true, 10, 0, 0)),
            (limit(SlidingWindow, 10, 1000, 0), vec![(0, 11)], s(false, 10, 0, u64::MAX)),
        ];
        for (limit, calls, expected) in cases {
            let (_, last) = run(&limit, &calls);
            assert_eq!(last, expected, "{:?} {calls:?}", limit.algorithm);
        }
    }

    /// A small generator of test numbers; its runs can be repeated.
    struct Numbers(u64);
    impl Numbers {
        fn next(&mut self, below: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % below
        }
    }

    #[test]
    fn in_any_span_at_most_capacity_and_refill_pass() {
        for seed in 0..300 {
            let mut numbers = Numbers(seed);
            let (amount, window_ms) = (1 + numbers.next(50), 1 + numbers.next(2_000));
            let limit = match seed % 2 {
                0 => limit(Algorithm::TokenBucket, amount, window_ms, numbers.next(20)),
                _ => limit(Algorithm::LeakyBucket, amount, window_ms, numbers.next(20)),
            };
            let capacity = standing(&limit, &State::default(), 0, 0).remaining;
            let (mut state, mut now, mut taken) = (State::default(), 1_000, Vec::new());
            for _ in 0..200 {
                now += numbers.next(window_ms * 200);
                let cost = 1 + numbers.next(4);
                state = advance(&limit, state, now);
                let before = standing(&limit, &state, cost, now);
                if before.allowed {
                    state = charge(&limit, state, cost);
                    taken.push((now, cost));
                } else if before.retry_after_ms < u64::MAX {
                    // The promise of retry-after holds, and not a whole millisecond earlier.
                    let at = |ms: u64| {
                        standing(&limit, &advance(&limit, state, now + ms * 1_000), cost, now + ms * 1_000).allowed
                    };
                    assert!(at(before.retry_after_ms) && !at(before.retry_after_ms - 1));
                }
            }
            for (i, &(from, _)) in taken.iter().enumerate() {
                let mut sum = 0;
                for &(to, cost) in &taken[i..] {
                    sum += cost;
                    let refill = u128::from(to - from) * u128::from(amount);
                    assert!(
                        u128::from(sum) * u128::from(window_us(&limit))
                            <= u128::from(capacity) * u128::from(window_us(&limit)) + refill
                    );
                }
            }
        }
    }

    #[test]
    fn windows_never_pass_more_than_the_amount_and_keep_their_retry_promise() {
        for seed in 0..300 {
            let mut numbers = Numbers(seed);
            let (amount, window_ms) = (1 + numbers.next(50), 1 + numbers.next(500));
            let algorithm = if seed % 2 == 0 { Algorithm::FixedWindow } else { Algorithm::SlidingWindow };
            let limit = limit(algorithm, amount, window_ms, 0);
            let (mut state, mut now, mut in_window) = (State::default(), 0, (0, 0));
            for _ in 0..300 {
                now += numbers.next(window_ms * 100);
                let cost = 1 + numbers.next(3);
                state = advance(&limit, state, now);
                let before = standing(&limit, &state, cost, now);
                let window = now / window_us(&limit);
                if before.allowed {
                    state = charge(&limit, state, cost);
                    in_window = if in_window.0 == window { (window, in_window.1 + cost) } else { (window, cost) };
                    assert!(in_window.1 <= amount);
                } else if before.retry_after_ms < u64::MAX {
                    let then = now + before.retry_after_ms * 1_000;
                    assert!(
                        standing(&limit, &advance(&limit, state, then), cost, then).allowed,
                        "{limit:?} {state:?} {before:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let window_ms = super::super::limiter::MAX_WINDOW_MS;
        for algorithm in
            [Algorithm::TokenBucket, Algorithm::LeakyBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow]
        {
            for amount in [1, u64::MAX] {
                for burst in [0, u64::MAX] {
                    let limit = limit(algorithm, amount, window_ms, burst);
                    let mut state = State::default();
                    for now in [0, 1, u64::MAX / 2, u64::MAX - 1, u64::MAX] {
                        for cost in [0, 1, u64::MAX] {
                            state = advance(&limit, state, now);
                            if standing(&limit, &state, cost, now).allowed {
                                state = charge(&limit, state, cost);
                            }
                            assert!(expires(algorithm, amount, window_ms * 1_000, &state) >= state.at);
                        }
                    }
                }
            }
        }
    }
}
