//! An address that takes no connections: a pause that doubles with each failure, and one request that tries it again after that.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The pause after the first failure in a row; it doubles with each one …
pub(crate) const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// … up to this.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Times are in milliseconds of the records' clock.
#[derive(Debug, Default)]
pub(super) struct Unreachable {
    /// A [`Failing`] as one word, so that its parts change together; 0 when it takes connections.
    failing: AtomicU64,
    /// When the last failure that counts was noted.
    last_failure: AtomicU64,
    /// When the first of the failures in a row was noted.
    since: AtomicU64,
}

/// Failures to connect in a row, and when the next trial may go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Failing {
    failures: u16,
    /// 48 bits are 8,900 years.
    retry_at: u64,
}

/// What comes of trying an address again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trial {
    /// It need not be tried: it takes connections.
    Needless,
    /// The caller tries it. The others wait for what comes of that, as after a failure.
    First,
    /// Another one is trying it, or it is too early.
    No,
}

impl Failing {
    fn of(word: u64) -> Self {
        Failing { failures: (word >> 48) as u16, retry_at: word & ((1 << 48) - 1) }
    }

    fn word(self) -> u64 {
        u64::from(self.failures) << 48 | self.retry_at
    }

    /// Paused from now on.
    fn paused(self, now: u64) -> Self {
        let doublings = self.failures.saturating_sub(1).min(5);
        let pause = (FIRST_PAUSE * (1 << doublings)).min(LONGEST_PAUSE);
        Failing { retry_at: now + pause.as_millis() as u64, ..self }
    }
}

impl Unreachable {
    pub(super) fn may_try(&self, now: u64) -> bool {
        let word = self.failing.load(Relaxed);
        word == 0 || Failing::of(word).retry_at <= now
    }

    /// When it may be tried again.
    pub(super) fn retry_at(&self) -> Option<u64> {
        let word = self.failing.load(Relaxed);
        (word != 0).then(|| Failing::of(word).retry_at)
    }

    /// Whether the caller is the one that tries it now.
    pub(super) fn claim(&self, now: u64) -> Trial {
        let word = self.failing.load(Relaxed);
        if word == 0 {
            return Trial::Needless;
        }
        let failing = Failing::of(word);
        if failing.retry_at > now {
            return Trial::No;
        }
        match self.failing.compare_exchange(word, failing.paused(now).word(), Relaxed, Relaxed) {
            Ok(_) => Trial::First,
            Err(_) => Trial::No,
        }
    }

    /// It took a connection. Answers what there is to tell if it took none before.
    pub(super) fn reached(&self, now: u64) -> String {
        let before = Failing::of(self.failing.swap(0, Relaxed));
        let down = Duration::from_millis(now.saturating_sub(self.since.load(Relaxed)));
        match before.failures {
            0 | 1 => format!("takes connections again, after {down:?}"),
            failures => format!("takes connections again, after {down:?} and {failures} failures"),
        }
    }

    /// It took no connection. Failures that overlap are one: how many requests were waiting for a dead address says nothing about how long
    /// it will be dead. Answers what there is to tell of one that counts.
    pub(super) fn not_reached(&self, begun: u64, now: u64) -> Option<String> {
        let note = |word: u64| {
            let before = Failing::of(word);
            if before.failures > 0 && begun < self.last_failure.load(Relaxed) {
                return None;
            }
            if before.failures == 0 {
                self.since.store(now, Relaxed);
            }
            Some(Failing { failures: before.failures.saturating_add(1), ..before }.paused(now).word())
        };
        self.failing.fetch_update(Relaxed, Relaxed, note).ok()?;
        self.last_failure.store(now, Relaxed);
        Some("takes no connections".to_owned())
    }
}
