//! Slow start: the share of an address that is new, or back after it was out, grows with time from a small part to the whole.

use crate::config::model::SlowStart;

/// A share grows in so many steps: each takes a new plan.
const STEPS: u64 = 100;

/// Slow start at one time.
pub(super) struct Warming {
    settings: Option<SlowStart>,
    now_ms: u64,
}

impl Warming {
    pub(super) fn new(settings: Option<SlowStart>, now_ms: u64) -> Self {
        Warming { settings, now_ms }
    }

    /// The share of an address that is up since then, and when it grows next. Shares are comparable with each other only.
    pub(super) fn share(&self, share: u64, up_since_ms: u64) -> (u64, Option<u64>) {
        let Some(SlowStart { window, min_weight_percent }) = self.settings else { return (share, None) };
        let window = (window.as_millis() as u64).max(1);
        let up = self.now_ms.saturating_sub(up_since_ms);
        if up >= window {
            return (share * STEPS, None);
        }
        let step = up * STEPS / window;
        let least = u64::from(min_weight_percent) * STEPS / 100;
        let next = up_since_ms + ((step + 1) * window).div_ceil(STEPS);
        (share * step.max(least).max(1), Some(next))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_share_grows_from_its_minimum_to_the_whole() {
        let settings = SlowStart { window: Duration::from_secs(10), min_weight_percent: 10 };
        let percent = |up: u64| Warming::new(Some(settings), 1000 + up).share(1, 1000).0 * 100 / STEPS;
        assert_eq!([0, 500, 2000, 5000, 9900, 10_000, 90_000].map(percent), [10, 10, 20, 50, 99, 100, 100]);
        let next = |up: u64| Warming::new(Some(settings), 1000 + up).share(1, 1000).1;
        assert_eq!((next(0), next(100), next(10_000)), (Some(1100), Some(1200), None));
        assert_eq!(Warming::new(None, 0).share(7, 0), (7, None));
    }
}
