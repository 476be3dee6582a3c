//! Limits that are decided here and told the store behind the request. Each counter lets through at most a stated amount that the store does
//! not know of yet, so all gateways together exceed a limit by at most that times their number. Nothing is fetched ahead and kept: what
//! a gateway has taken for itself and does not use would be missing in the others, and a small limit would be divided to nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::sleep;

use super::Store;
use super::exact::{Ask, Keys, away, decide};
use super::link::Link;
use super::store::CallError;
use crate::limiter::{CounterSpace, Lease, Limit, Owed, Report, Standings};
use crate::{Clock, ServiceError};

/// Between two reports, unless a counter is in a hurry: what comes together meanwhile is told in one round trip.
const PAUSE: Duration = Duration::from_millis(5);
/// Between two attempts, while the store has a connection and does not answer as it should.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Counters that the store is told of at the same time.
const AT_ONCE: usize = 512;

/// The counters of one plugin, as this gateway knows them.
pub struct LeasedCounters {
    store: Arc<Store>,
    keys: Keys,
    clock: Clock,
    space: CounterSpace,
    /// The last report was not answered.
    is_away: AtomicBool,
}

impl LeasedCounters {
    /// Nothing is told the store before [`Self::report`] runs.
    pub fn new(store: Arc<Store>, plugin: &str, clock: Clock, most: u64) -> Arc<Self> {
        let keys = Keys::new(&store, plugin);
        let space = CounterSpace::leased(clock.clone(), Lease::new(most));
        Arc::new(LeasedCounters { store, keys, clock, space, is_away: AtomicBool::new(false) })
    }

    /// What [`CounterSpace::take`] does, over all gateways within the bound of the lease. While the store is away, what the operator has chosen.
    pub fn take(&self, limits: &[Limit<'_>], cost: u64) -> Result<Standings, ServiceError> {
        if !self.is_away.load(Ordering::Relaxed) {
            return self.space.take(limits, cost);
        }
        // Locally it goes on from what the store has said last, and tells it when it is back.
        away(&self.store, &CallError::Away, limits, || self.space.take_within(limits, cost, false))
    }

    /// Counters that the store is to be told of.
    pub fn unreported(&self) -> usize {
        self.space.lease().map_or(0, Lease::waiting)
    }

    /// Tells the store what was taken, until nobody has the counters any more.
    pub async fn report(counters: Weak<LeasedCounters>) {
        let Some(wake) = counters.upgrade().and_then(|counters| Some(counters.space.lease()?.wake.clone())) else {
            return;
        };
        let mut pause = PAUSE;
        loop {
            wake.notified().await;
            let Some(here) = counters.upgrade() else { return };
            let Some(lease) = here.space.lease() else { return };
            // With more to tell than fits into one round there is no time to lose.
            if lease.waiting() <= AT_ONCE {
                tokio::select! {
                    () = sleep(PAUSE) => {}
                    () = lease.hurry.notified() => {}
                }
            }
            let due = lease.due(AT_ONCE);
            let answered = here.tell(lease, due).await;
            here.is_away.store(!answered, Ordering::Relaxed);
            // Taking may have stopped, so nothing else would wake it.
            if lease.waiting() > 0 {
                wake.notify_one();
            }
            if answered {
                pause = PAUSE;
                continue;
            }
            let (link, mut closed) = (Link::here(&here.store), here.store.closed());
            drop(here);
            tokio::select! {
                ((), ()) = async { tokio::join!(link.until_up(), sleep(pause)) } => {}
                _ = closed.changed() => return,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Answers whether the store has answered.
    async fn tell(&self, lease: &Lease, due: Vec<Report>) -> bool {
        let owed = due.into_iter().filter_map(|report| Some((self.space.begin(&report)?, report)));
        let told = owed.map(|(owed, report)| self.tell_of(lease, owed, report));
        join_all(told).await.into_iter().all(|answered| answered)
    }

    async fn tell_of(&self, lease: &Lease, owed: Owed, report: Report) -> bool {
        let limit = report.limit();
        match decide(&self.store, &self.keys, &[limit], owed.cost, Ask::Behind).await {
            Ok(decision) => {
                lease.set_clocks(decision.now_us, self.clock.steady_us());
                self.space.settle(report, owed, decision.limits.first().map(|(_, state)| *state));
                true
            }
            // It is there and refuses this key: its counter counts for this gateway alone, and the log says why.
            Err(CallError::Refused(_)) => {
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

impl Drop for LeasedCounters {
    fn drop(&mut self) {
        if let Some(lease) = self.space.lease() {
            lease.wake.notify_one();
        }
    }
}
