//! The one of two that would answer sooner, by a moving average of its latency that jumps to each peak and decays with time (as in Finagle
//! and linkerd). A failure counts as latency, or an endpoint that fails fast would look like the best one.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::Dice;
use super::draw::{Entry, Weighted};
use crate::upstream::endpoints::Host;

/// In this time a latency loses its weight to a factor of e.
const DECAY: Duration = Duration::from_secs(10);
/// The least and the most that a failure counts as. In between it doubles the average: one failure of many is borne, a row of them is not.
const FAILURE: (f32, f32) = (1e3, 10e6);
/// The clock of another worker may be as far ahead of that of this one.
const BEHIND_MS: u32 = 60_000;
/// The load of an address that has requests and no latency yet: it gets more when one of them is answered.
const UNKNOWN: f64 = 1e12;

/// The average of one address in microseconds, and when it was noted: one word, so that they change together. Of two notes at the same
/// instant one may be lost.
#[derive(Debug, Default)]
pub(crate) struct Ewma(AtomicU64);

impl Ewma {
    /// Notes a latency. Times are milliseconds of any one clock.
    pub(in crate::upstream) fn note(&self, took: Duration, now_ms: u64) {
        self.observe(micros(took), now_ms);
    }

    /// Notes a failure, which took so long.
    pub(in crate::upstream) fn note_failure(&self, took: Duration, now_ms: u64) {
        let (least, most) = FAILURE;
        let doubled = (self.at(now_ms) * 2.0).clamp(least, most);
        self.observe(micros(took).max(doubled), now_ms);
    }

    /// The average, in microseconds; 0 when nothing was noted.
    pub(in crate::upstream) fn at(&self, now_ms: u64) -> f32 {
        let (average, weight) = self.decayed(now_ms);
        average * weight
    }

    fn observe(&self, latency: f32, now_ms: u64) {
        let (average, weight) = self.decayed(now_ms);
        let after = if latency >= average { latency } else { average * weight + latency * (1.0 - weight) };
        let word = u64::from(after.max(1.0).to_bits()) << 32 | u64::from(now_ms as u32);
        self.0.store(word, Relaxed);
    }

    /// The average as it was noted, and the weight that it still has.
    fn decayed(&self, now_ms: u64) -> (f32, f32) {
        let word = self.0.load(Relaxed);
        if word == 0 {
            return (0.0, 0.0);
        }
        // Modulo 2^32: right for 49 days, and after that only too high.
        let passed = match (now_ms as u32).wrapping_sub(word as u32) {
            behind if behind > u32::MAX - BEHIND_MS => 0,
            passed => passed,
        };
        (f32::from_bits((word >> 32) as u32), (-(passed as f32) / DECAY.as_millis() as f32).exp())
    }
}

fn micros(took: Duration) -> f32 {
    took.as_secs_f32() * 1e6
}

/// Of two hosts drawn at random in proportion to their shares, the one with the lower load for its share.
pub(super) fn peak_ewma(hosts: &[Host], among: &Weighted, dice: &Dice, now_ms: u64) -> Option<u32> {
    let (first, second) = among.two(dice)?;
    let Some(second) = second else { return Some(first.host) };
    let load = |entry: &Entry| {
        let Some(host) = hosts.get(entry.host as usize) else { return f64::MAX };
        let (latency, active) = (f64::from(host.record.ewma().at(now_ms)), f64::from(host.record.active()));
        let load = if latency == 0.0 && active > 0.0 { UNKNOWN + active } else { latency * (active + 1.0) };
        load / entry.share as f64
    };
    Some(if load(second) < load(first) { second.host } else { first.host })
}
