//! The four limiter algorithms in memory, on the harness's clock.

use std::collections::HashMap;

use crate::limiter::{Algorithm, Limit, Standing};

/// Counters by key and shape of the limit.
#[derive(Debug, Default)]
pub(crate) struct Limiter(HashMap<(String, u8, u64, u64, u64), Counter>);

#[derive(Debug, Clone, Copy, Default)]
struct Counter {
    /// Buckets: when the bucket is full again (µs). Windows: the number of the window.
    at: u64,
    now: u64,
    before: u64,
}

impl Limiter {
    pub(crate) fn take(&mut self, now_us: u64, limits: &[Limit], cost: u64) -> Vec<Standing> {
        let decided: Vec<(Standing, Counter)> = limits
            .iter()
            .map(|limit| decide(self.0.get(&key(limit)).copied().unwrap_or_default(), limit, now_us, cost))
            .collect();
        let all = decided.iter().all(|(standing, _)| standing.allowed);
        limits
            .iter()
            .zip(decided)
            .map(|(limit, (standing, counter))| {
                if all {
                    self.0.insert(key(limit), counter);
                    standing
                } else {
                    let current = self.0.get(&key(limit)).copied().unwrap_or_default();
                    let (now, _) = decide(current, limit, now_us, 0);
                    Standing { remaining: now.remaining, reset_ms: now.reset_ms, ..standing }
                }
            })
            .collect()
    }
}

fn key(limit: &Limit) -> (String, u8, u64, u64, u64) {
    (limit.key.clone(), limit.algorithm as u8, limit.amount, limit.window_ms, limit.burst)
}

/// The standing after taking `cost`, and the counter that would be stored.
fn decide(counter: Counter, limit: &Limit, now_us: u64, cost: u64) -> (Standing, Counter) {
    let window = limit.window_ms * 1000;
    match limit.algorithm {
        Algorithm::TokenBucket | Algorithm::LeakyBucket => {
            let capacity = match (limit.algorithm, limit.burst) {
                (Algorithm::TokenBucket, 0) => limit.amount,
                (Algorithm::TokenBucket, burst) => burst,
                (_, burst) => burst.saturating_add(1),
            };
            let interval = window as f64 / limit.amount as f64;
            let full_at = counter.at.max(now_us);
            let next = full_at + (interval * cost as f64).round() as u64;
            let limit_at = now_us + (interval * capacity as f64).round() as u64;
            let allowed = next <= limit_at;
            let at = if allowed { next } else { full_at };
            let remaining = ((limit_at - at.min(limit_at)) as f64 / interval + 1e-6).floor() as u64;
            let standing = Standing {
                allowed,
                remaining,
                reset_ms: (at - now_us).div_ceil(1000),
                retry_after_ms: if allowed { 0 } else { (next - limit_at).div_ceil(1000) },
            };
            (standing, Counter { at, ..counter })
        }
        Algorithm::FixedWindow | Algorithm::SlidingWindow => {
            let number = now_us / window;
            let (count, before) = match number - counter.at.min(number) {
                0 => (counter.now, counter.before),
                1 => (0, counter.now),
                _ => (0, 0),
            };
            let left = window - now_us % window;
            let sliding = limit.algorithm == Algorithm::SlidingWindow;
            let weighted = if sliding { (before as f64 * left as f64 / window as f64).ceil() as u64 } else { 0 };
            let used = weighted + count;
            let allowed = used + cost <= limit.amount;
            let count = if allowed { count + cost } else { count };
            let standing = Standing {
                allowed,
                remaining: limit.amount.saturating_sub(weighted + count),
                reset_ms: left.div_ceil(1000),
                retry_after_ms: if allowed { 0 } else { left.div_ceil(1000) },
            };
            (standing, Counter { at: number, now: count, before })
        }
    }
}
