//! The one timer of an HTTP/1.1 connection: it strikes when something has lasted too long.

use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

use super::activity::{Activity, Expiry, Patience};

/// The one timer of a connection.
pub(super) struct Clock {
    activity: Rc<Activity>,
    pub(super) patience: Patience,
    timer: Pin<Box<Sleep>>,
    /// Whether the timer knows whom to wake: the connection's task, which is always the same.
    armed: bool,
}

impl Clock {
    pub(super) fn new(activity: Rc<Activity>, patience: Patience) -> Self {
        let first = activity.check(patience).unwrap_or_else(|_| Instant::now());
        Clock { activity, patience, timer: Box::pin(sleep_until(first)), armed: false }
    }

    /// Ready when something has lasted too long. Idle connections may have to go before their time.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, closes_idle: impl Fn() -> bool) -> Poll<Expiry> {
        if self.armed && !self.timer.is_elapsed() {
            return Poll::Pending;
        }
        loop {
            // Unconstrained: a timer that is not polled because the task budget is exhausted would wake nobody.
            let passed = pin!(unconstrained(self.timer.as_mut())).poll(cx);
            self.armed = passed.is_pending();
            ready!(passed);
            match self.activity.check_crowded(self.patience, &closes_idle) {
                Ok(next) => self.timer.as_mut().reset(next),
                Err(expiry) => return Poll::Ready(expiry),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(flavor = "local")]
    async fn a_clock_that_was_asked_without_budget_strikes() {
        let limit = Duration::from_millis(30);
        let mut clock = Clock::new(
            Rc::new(Activity::new()),
            Patience { header: limit, idle: limit, age: u64::MAX, grace: limit, requests: u32::MAX },
        );
        poll_fn(|cx| {
            while tokio::task::coop::has_budget_remaining() {
                let _ = pin!(tokio::task::consume_budget()).poll(cx);
            }
            assert!(clock.poll(cx, || false).is_pending());
            Poll::Ready(())
        })
        .await;
        let struck = tokio::time::timeout(Duration::from_secs(9), poll_fn(|cx| clock.poll(cx, || false))).await;
        assert_eq!(struck, Ok(Expiry::Header));
    }
}
