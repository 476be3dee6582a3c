//! Limits that are decided here and told the store behind the request. Each counter lets through at most a stated amount that the store does
//! not know of yet, so all gateways together exceed a limit by at most that times their number. Nothing is fetched ahead and kept: what
//! a gateway has taken for itself and does not use would be missing in the others, and a small limit would be divided to nothing.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::sleep;

use super::Store;
use super::exact::{Ask, Keys, away, decide};
use super::link::Link;
use super::store::CallError;
use crate::limiter::{Algorithm, CounterSpace, Lease, Limit, Owed, Report, Standings};
use crate::{Clock, ServiceError};

/// Between two reports, unless a counter is in a hurry: what comes together meanwhile is told in one round trip.
const PAUSE: Duration = Duration::from_millis(5);
/// Between two attempts, while the store has a connection and does not answer as it should.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often, while the store is away, reports of counters are dropped that owe it nothing any more.
const FORGET_EVERY: Duration = Duration::from_secs(1);
/// Counters that the store is told of at the same time.
const AT_ONCE: usize = 512;

/// The counters of one plugin, as this gateway knows them. When nobody has them any more, the store is told the rest.
pub struct LeasedCounters(Arc<Ledger>);

/// What those who take and the task that tells the store have in common.
pub(super) struct Ledger {
    store: Arc<Store>,
    keys: Keys,
    clock: Clock,
    space: CounterSpace,
    /// The last report was not answered.
    is_away: AtomicBool,
    /// Nobody takes any more.
    is_closed: watch::Sender<bool>,
}

impl LeasedCounters {
    /// Nothing is told the store before [`Ledger::report`] runs.
    pub(super) fn new(store: Arc<Store>, plugin: &str, clock: Clock, most: u64) -> Self {
        let keys = Keys::new(&store, plugin);
        let space = CounterSpace::leased(clock.clone(), Lease::new(most));
        let (is_away, is_closed) = (AtomicBool::new(false), watch::channel(false).0);
        LeasedCounters(Arc::new(Ledger { store, keys, clock, space, is_away, is_closed }))
    }

    /// What [`CounterSpace::take`] does, over all gateways within the bound of the lease. While the store is away, what the operator has chosen.
    pub fn take(&self, limits: &[Limit<'_>], cost: u64) -> Result<Standings, ServiceError> {
        self.0.take(limits, cost, true)
    }

    /// The same for what has been used already, as by a response that is there: the limits hold, but not the bound of the lease.
    pub fn take_used(&self, limits: &[Limit<'_>], cost: u64) -> Result<Standings, ServiceError> {
        self.0.take(limits, cost, false)
    }

    pub(super) fn ledger(&self) -> &Arc<Ledger> {
        &self.0
    }
}

impl Drop for LeasedCounters {
    fn drop(&mut self) {
        self.0.is_closed.send_replace(true);
    }
}

impl Ledger {
    fn take(&self, limits: &[Limit<'_>], cost: u64, bound: bool) -> Result<Standings, ServiceError> {
        if !self.is_away.load(Ordering::Relaxed) {
            return self.space.take_within(limits, cost, bound);
        }
        // Locally it goes on from what the store has said last, and tells it when it is back.
        away(&self.store, &CallError::Away, limits, || self.space.take_within(limits, cost, false))
    }

    /// Counters that the store is to be told of.
    pub(super) fn unreported(&self) -> usize {
        self.space.lease().map_or(0, Lease::unreported)
    }

    /// Waits until the store has been told everything, at most until then; not at all for a store that is away.
    pub(super) fn flush(&self, until: Instant) {
        if let Some(lease) = self.space.lease()
            && !self.is_away.load(Ordering::Relaxed)
        {
            lease.hurry.notify_one();
            lease.wait_until_told(until.saturating_duration_since(Instant::now()));
        }
    }

    /// Tells the store what was taken, until nobody has the counters any more and it knows all of it. Of a store that is away then, nothing more is expected.
    pub(super) async fn report(self: Arc<Self>) {
        let Some(lease) = self.space.lease() else { return };
        let mut closed = self.is_closed.subscribe();
        let mut pause = PAUSE;
        loop {
            tokio::select! {
                () = lease.wake.notified() => {}
                _ = closed.wait_for(|closed| *closed) => {}
            }
            // With more to tell than fits into one round there is no time to lose.
            if lease.waiting() <= AT_ONCE {
                tokio::select! {
                    () = sleep(PAUSE) => {}
                    () = lease.hurry.notified() => {}
                    _ = closed.wait_for(|closed| *closed) => {}
                }
            }
            let due = lease.due(AT_ONCE);
            let answered = match self.tell(lease, due).await {
                Some(answered) => answered,
                // With nothing to tell it is not known to be back, and while it is away, `closed` takes nothing that could be told.
                None if self.is_away.load(Ordering::Relaxed) => self.takes_a_write().await,
                None => true,
            };
            lease.told();
            self.is_away.store(!answered, Ordering::Relaxed);
            if *closed.borrow() && (!answered || lease.unreported() == 0) {
                return;
            }
            // Taking may have stopped, so nothing else would wake it, and while the store is away it may not go on before it has answered.
            if lease.waiting() > 0 || !answered {
                lease.wake.notify_one();
            }
            if answered {
                pause = PAUSE;
                continue;
            }
            let (link, least) = (Link::here(&self.store), pause);
            let mut up = pin!(async { tokio::join!(link.until_up(), sleep(least)) });
            loop {
                self.forget(lease);
                tokio::select! {
                    ((), ()) = &mut up => break,
                    () = sleep(FORGET_EVERY) => {}
                    _ = closed.wait_for(|closed| *closed) => return,
                }
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Callers may make up keys, whose counters expire. What is told of them is bounded by the number of counters.
    fn forget(&self, lease: &Lease) {
        if lease.waiting() > AT_ONCE + 2 * self.space.counters() {
            lease.forget(|report| self.space.owes(report));
        }
    }

    /// Answers whether the store has answered; none where there was nothing to tell.
    async fn tell(&self, lease: &Lease, due: Vec<Report>) -> Option<bool> {
        let owed = due.into_iter().filter_map(|report| Some((self.space.begin(&report)?, report)));
        let told = owed.map(|(owed, report)| self.tell_of(lease, owed, report));
        join_all(told).await.into_iter().reduce(|all, answered| all && answered)
    }

    /// Whether the store does for a counter that is over at once what it is to do for the others: it may answer, and refuse to write.
    async fn takes_a_write(&self) -> bool {
        let probe = Limit { key: "", algorithm: Algorithm::FixedWindow, amount: 1, window_ms: 1, burst: 0 };
        let answer = decide(&self.store, &self.keys, &[probe], 1, Ask::Behind, &[]).await;
        matches!(answer, Ok(_) | Err(CallError::WrongType(_)))
    }

    async fn tell_of(&self, lease: &Lease, owed: Owed, report: Report) -> bool {
        let limit = report.limit();
        let begun_us = self.clock.steady_us();
        match decide(&self.store, &self.keys, &[limit], owed.cost, Ask::Behind, &[]).await {
            Ok(decision) => {
                // An answer may be ten seconds late, and the store has read its clock somewhere on the way: so this is wrong by five at most.
                lease.set_clocks(decision.now_us, begun_us.midpoint(self.clock.steady_us()));
                self.space.settle(report, owed, decision.limits.first().map(|(_, state)| *state));
                true
            }
            // Something else has this key: its counter counts for this gateway alone, and the log says why.
            Err(CallError::WrongType(_)) => {
                self.space.settle(report, owed, None);
                true
            }
            // It may have been told all the same, and is told again: the limit is rather met too early.
            Err(_) => {
                self.space.put_off(report);
                false
            }
        }
    }
}
