//! The lock of an order in a state: one gateway orders, and when it dies the lock ends soon.

use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::sharing::new_holder;
use crate::services::state::{RecordError, Records};

/// How long a lock outlives its holder.
const LIFE: Duration = Duration::from_secs(60);
const TIMES: Times =
    Times { every: Duration::from_secs(15), again: Duration::from_secs(5), believed: Duration::from_secs(45) };

/// How a lock is held.
struct Times {
    /// How often the state is told.
    every: Duration,
    /// How soon it is asked again that has not answered.
    again: Duration,
    /// How long a holder believes in its lock without an answer: less than its life, so that nobody else has it before.
    believed: Duration,
}

pub(super) struct Lock<'a> {
    records: &'a Records,
    names: Vec<String>,
    holder: String,
    /// Before the state has given it.
    since: Instant,
}

impl<'a> Lock<'a> {
    /// That of all of these. None: another gateway has one of them.
    pub(super) async fn take(
        records: &'a Records,
        what: impl IntoIterator<Item = String>,
    ) -> Result<Option<Self>, RecordError> {
        let since = Instant::now();
        let names = what.into_iter().map(|what| format!("lock:{what}")).collect();
        let lock = Lock { records, names, holder: new_holder(), since };
        Ok(records.lock(&lock.names, &lock.holder, LIFE).await?.then_some(lock))
    }

    /// Holds it until this is dropped, and ends only when it is lost. A state that is away for a moment loses nothing.
    pub(super) async fn hold(&self) {
        hold(TIMES, self.since, || self.records.hold(&self.names, &self.holder, LIFE)).await;
    }

    pub(super) async fn release(self) {
        // It ends by itself.
        let _ = self.records.unlock(&self.names, &self.holder).await;
    }
}

/// Ends when the lock is lost, or may be by the time that the next answer is there.
async fn hold<A: Future<Output = Result<bool, RecordError>>>(times: Times, mut since: Instant, ask: impl Fn() -> A) {
    let mut pause = times.every;
    loop {
        let until = since + times.believed;
        sleep_until(until.min(Instant::now() + pause)).await;
        let asked = Instant::now();
        match timeout_at(until, ask()).await {
            Ok(Ok(true)) => (since, pause) = (asked, times.every),
            Ok(Ok(false)) => return,
            Ok(Err(_)) | Err(_) if Instant::now() >= until => return,
            Ok(Err(_)) | Err(_) => pause = times.again,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const SHORT: Times = Times {
        every: Duration::from_millis(20),
        again: Duration::from_millis(10),
        believed: Duration::from_millis(60),
    };

    /// How long it was held.
    fn held<A: Future<Output = Result<bool, RecordError>>>(ask: impl Fn() -> A) -> Duration {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let since = Instant::now();
            hold(SHORT, since, ask).await;
            since.elapsed()
        })
    }

    #[test]
    fn a_lock_is_given_up_before_it_ends_in_the_state() {
        const { assert!(TIMES.believed.as_secs() + TIMES.every.as_secs() <= LIFE.as_secs()) }
        let asked = Cell::new(0);
        let silent = held(|| {
            asked.set(asked.get() + 1);
            std::future::pending()
        });
        assert!(silent >= SHORT.believed);
        assert_eq!(asked.get(), 1, "a call without an answer holds nothing up for longer");
        assert!(held(|| std::future::ready(Err(RecordError::new("s", "away")))) >= SHORT.believed);
    }

    #[test]
    fn answers_keep_it() {
        let left = Cell::new(5);
        let time = held(|| {
            left.set(left.get() - 1);
            std::future::ready(Ok(left.get() > 0))
        });
        assert_eq!(left.get(), 0);
        assert!(time >= SHORT.every * 5);
    }
}
