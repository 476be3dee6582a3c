//! How an instance is made when a call needs one: in its turn, or not at all where another one becomes idle before.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::instance::Instance;
use super::risk::{AtRisk, Counted};
use super::{Inner, Pool};
use crate::filter::FilterError;
use crate::filter::stats::Live;

/// An instance without an image that is being made. One is made at a time: a reused one may serve all that wait, and where configuring takes long, each
/// would have its own long after the first could have served it.
pub(super) struct Making<'a>(&'a Inner);

impl<'a> Making<'a> {
    pub(super) fn new(inner: &'a Inner) -> Making<'a> {
        inner.is_making.set(true);
        Making(inner)
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.0.is_making.set(false);
        self.0.came_idle.notify_one();
    }
}

impl Pool {
    /// Makes an instance, in its turn if it replaces one that has failed, or takes one that is idle before that.
    pub(super) async fn start_within(&self, end: Instant, allowed: Duration) -> Result<Box<Instance>, FilterError> {
        let inner = &self.inner;
        let timeout = || FilterError::Timeout(allowed);
        if inner.program.image.is_none() {
            inner.counters.waited();
        }
        let starved = Counted::new(&inner.starved);
        let expected = loop {
            if let Some(instance) = inner.idle.borrow_mut().pop() {
                if !self.is_reused() {
                    // It will not come back: the next one that waits makes its own.
                    inner.came_idle.notify_one();
                }
                return Ok(instance);
            }
            let now = Instant::now();
            if now >= end {
                // It may have been told what was meant for another that waits.
                inner.came_idle.notify_one();
                return Err(timeout());
            }
            if inner.is_making.get() {
                let _ = tokio::time::timeout_at(end.into(), inner.came_idle.notified()).await;
                continue;
            }
            match self.pace(|pace| pace.begin(now, self.is_reused())) {
                Ok(expected) => break expected,
                Err(at) => {
                    // Either way, it is looked at again what there is.
                    let _ = tokio::time::timeout_at(at.min(end).into(), inner.came_idle.notified()).await;
                }
            }
        };
        drop(starved);
        let risk = AtRisk::new(self, expected, true);
        let making = inner.program.image.is_none().then(|| Making::new(inner));
        let instance = within(end, &risk.busy, self.start()).await.unwrap_or_else(|| Err(timeout()))?;
        drop(making);
        risk.survives();
        Ok(Box::new(instance))
    }

    pub(super) async fn start(&self) -> Result<Instance, FilterError> {
        let inner = &self.inner;
        let mut instance = inner.program.start(|image| self.resources(image)).await?;
        instance.live = Some(Live::new(&inner.counters));
        instance.memory_at_first = instance.store.data().memory.bytes;
        Ok(instance)
    }

    /// An instance of the image, if there is one and none of its functions can wait.
    #[cold]
    pub(super) fn start_now(&self) -> Option<Result<Box<Instance>, FilterError>> {
        let inner = &self.inner;
        let image = inner.program.image.as_ref().filter(|image| !image.waits())?;
        let instance = image.instance_now(&inner.program.shared, self.resources(image));
        Some(instance.map(|mut instance| {
            instance.live = Some(Live::new(&inner.counters));
            instance.memory_at_first = instance.store.data().memory.bytes;
            Box::new(instance)
        }))
    }
}

/// Awaits until a point in time, and adds the time for which the future held the thread to `busy`. `None`: the time has passed.
pub(super) async fn within<F: Future>(end: Instant, busy: &Cell<Duration>, future: F) -> Option<F::Output> {
    let mut timed = pin!(timed(busy, future));
    // Most calls are over at the first poll: they need no timer.
    let first = poll_fn(|cx| Poll::Ready(timed.as_mut().poll(cx))).await;
    match first {
        Poll::Ready(output) => Some(output),
        Poll::Pending => tokio::time::timeout_at(end.into(), timed).await.ok(),
    }
}

/// Awaits, and adds the time for which the future held the thread to `busy`.
pub(super) async fn timed<F: Future>(busy: &Cell<Duration>, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let start = Instant::now();
        let poll = future.as_mut().poll(cx);
        busy.set(busy.get() + start.elapsed());
        poll
    })
    .await
}
