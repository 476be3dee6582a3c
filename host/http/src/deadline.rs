//! Coarse deadlines of one worker: a thread-local table that one ticking task sweeps. Most requests arm a few deadlines and
//! reach none of them, so arming is a push into a vector (about 30 ns) instead of an entry in the runtime's timer wheel.

use std::cell::RefCell;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::coarse;

/// How often deadlines are checked. A deadline fires at most this plus twice [`coarse::LAG`] late, and never early.
pub const TICK: Duration = Duration::from_millis(20);
/// The ticking task ends after this many ticks without deadlines, so that an idle worker sleeps.
const IDLE_TICKS: u32 = 100;

struct Slot {
    /// By [`coarse::now_ms`].
    at: u64,
    /// Set by the ticking task, which is the only one that reads the clock.
    passed: bool,
    waker: Option<Waker>,
}

#[derive(Default)]
struct Table {
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    ticking: bool,
}

thread_local! {
    static TABLE: RefCell<Table> = RefCell::new(Table::default());
}

/// A deadline in the table of this worker, taken out when dropped. Never leaves its thread.
#[derive(Debug)]
pub struct Deadline {
    slot: u32,
    _local: PhantomData<*const ()>,
}

impl Deadline {
    /// A deadline `after` from now. Must be called within a local runtime (the ticking task is spawned there).
    pub fn after(after: Duration) -> Self {
        let at = after_now(after);
        let (slot, start) = TABLE.with_borrow_mut(|table| {
            let entry = Some(Slot { at, passed: false, waker: None });
            let slot = match table.free.pop() {
                Some(free) => {
                    table.slots[free as usize] = entry;
                    free
                }
                None => {
                    table.slots.push(entry);
                    u32::try_from(table.slots.len() - 1).expect("fewer than 2^32 deadlines fit in memory")
                }
            };
            (slot, !std::mem::replace(&mut table.ticking, true))
        });
        if start {
            tokio::task::spawn_local(tick(Ticking));
        }
        Deadline { slot, _local: PhantomData }
    }

    /// Moves the deadline to `after` from now.
    pub fn rearm(&mut self, after: Duration) {
        let at = after_now(after);
        TABLE.with_borrow_mut(|table| {
            if let Some(slot) = &mut table.slots[self.slot as usize] {
                slot.at = at;
                slot.passed = false;
            }
        });
    }

    /// Ready soon after the deadline, as [`TICK`] says. The task is woken then.
    pub fn poll_passed(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut unheld = None;
        let polled = TABLE.with_borrow_mut(|table| match &mut table.slots[self.slot as usize] {
            Some(Slot { passed: true, .. }) => Poll::Ready(()),
            Some(Slot { waker: Some(waker), .. }) if waker.will_wake(cx.waker()) => Poll::Pending,
            Some(slot) => {
                let old = slot.waker.replace(cx.waker().clone());
                // Outside the borrow: a waker may own a task whose drop comes back here.
                unheld = old;
                Poll::Pending
            }
            None => Poll::Pending,
        });
        drop(unheld);
        polled
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        // The thread may be going away, and the table with it.
        let _ = TABLE.try_with(|table| {
            let mut table = table.borrow_mut();
            let old = table.slots[self.slot as usize].take();
            table.free.push(self.slot);
            drop(table);
            drop(old);
        });
    }
}

/// Adds what the coarse clock may lag and what rounding to milliseconds cuts off, so that no deadline fires early.
fn after_now(after: Duration) -> u64 {
    let after = u64::try_from(after.saturating_add(coarse::LAG).as_millis()).unwrap_or(u64::MAX);
    coarse::now_ms().saturating_add(after).saturating_add(1)
}

/// Marks the ticking task as gone when it ends, also when the runtime drops it.
struct Ticking;

impl Drop for Ticking {
    fn drop(&mut self) {
        let _ = TABLE.try_with(|table| {
            if let Ok(mut table) = table.try_borrow_mut() {
                table.ticking = false;
            }
        });
    }
}

async fn tick(ticking: Ticking) {
    let mut idle = 0;
    let mut due = Vec::new();
    while idle < IDLE_TICKS {
        tokio::time::sleep(TICK).await;
        let now = coarse::now_ms();
        TABLE.with_borrow_mut(|table| {
            let all_free = table.free.len() == table.slots.len();
            idle = if all_free { idle + 1 } else { 0 };
            for slot in table.slots.iter_mut().flatten().filter(|slot| slot.at <= now) {
                slot.passed = true;
                due.extend(slot.waker.take());
            }
            if all_free && table.slots.len() > 1024 {
                *table = Table { ticking: true, ..Table::default() };
            }
        });
        due.drain(..).for_each(Waker::wake);
    }
    drop(ticking);
}

/// The deadline passed before the future was ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("deadline passed")]
pub struct Passed;

/// Runs a future for at most `after`. A future that is ready at once arms nothing.
pub async fn timeout<F: Future>(after: Duration, future: F) -> Result<F::Output, Passed> {
    let mut future = pin!(future);
    let mut deadline: Option<Deadline> = None;
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = Pin::as_mut(&mut future).poll(cx) {
            return Poll::Ready(Ok(output));
        }
        deadline.get_or_insert_with(|| Deadline::after(after)).poll_passed(cx).map(|()| Err(Passed))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "local")]
    async fn a_deadline_is_never_early_and_soon_after() {
        let start = std::time::Instant::now();
        assert_eq!(timeout(Duration::from_millis(60), std::future::pending::<()>()).await, Err(Passed));
        let taken = start.elapsed();
        assert!(taken >= Duration::from_millis(60) && taken < Duration::from_secs(5), "{taken:?}");
    }

    #[tokio::test(flavor = "local")]
    async fn slots_are_used_again_and_a_ready_future_takes_none() {
        assert_eq!(timeout(Duration::from_secs(9), async { 1 }).await, Ok(1));
        assert_eq!(TABLE.with_borrow(|t| t.slots.len()), 0);
        for _ in 0..10 {
            let deadlines: Vec<_> = (0..3).map(|_| Deadline::after(Duration::from_secs(9))).collect();
            drop(deadlines);
        }
        assert_eq!(TABLE.with_borrow(|t| (t.slots.len(), t.free.len())), (3, 3));
    }

    #[test]
    fn a_second_runtime_on_the_thread_ticks_again() {
        for _ in 0..2 {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build_local(tokio::runtime::LocalOptions::default())
                .unwrap();
            let outcome = runtime.block_on(timeout(Duration::from_millis(1), std::future::pending::<()>()));
            assert_eq!(outcome, Err(Passed));
        }
    }
}
