//! The checks of an upstream: a task for each address, which is checked once an interval for all workers and routes. When it was last
//! checked is in its record, so that a reload makes no check early.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};

use super::probe;
use crate::config::model::HealthCheck;
use crate::upstream::balance::Dice;
use crate::upstream::endpoints::Record;
use crate::upstream::spec::{Endpoint, Upstream};

/// Checks of one upstream at the same time. More of them wait, so that a thousand endpoints that hang do not take all open files.
const AT_ONCE: usize = 256;
/// The first checks of many addresses are spread over this, or over the interval if that is shorter.
const FIRST_CHECKS: Duration = Duration::from_secs(1);
/// The shortest time to the next check of an address whose first one has failed.
const DOUBT: Duration = Duration::from_millis(100);

/// What the tasks of one upstream share.
struct Shared {
    upstream: Arc<Upstream>,
    check: HealthCheck,
    turns: Semaphore,
    dice: Dice,
}

/// One address that is checked.
struct Target {
    record: Arc<Record>,
    endpoint: Arc<Endpoint>,
    /// Its place among all, in parts of the whole: where in an interval its checks begin.
    place: f64,
}

/// Checks the addresses of an upstream, also those that it gets later. Ends when it is dropped.
pub(super) async fn run(upstream: Arc<Upstream>) {
    let Some(check) = upstream.spec().health.clone() else { return };
    let dice = Dice::new(RandomState::new().hash_one(&**upstream.name()));
    let shared = Rc::new(Shared { upstream, check, turns: Semaphore::new(AT_ONCE), dice });
    let set = Arc::clone(shared.upstream.set());
    let mut tasks = JoinSet::new();
    let mut running: HashMap<*const Record, (Arc<Endpoint>, AbortHandle)> = HashMap::new();
    loop {
        let mut changed = pin!(set.changed());
        // Before the look: a change after it is not missed.
        changed.as_mut().enable();
        let members = set.members();
        let mut before = std::mem::take(&mut running);
        for (at, host) in members.hosts.iter().enumerate() {
            let endpoint = &members.endpoints[host.endpoint].endpoint;
            let known = before.remove(&Arc::as_ptr(&host.record));
            let kept = known.filter(|(known, task)| {
                let same = Arc::ptr_eq(known, endpoint);
                if !same {
                    task.abort();
                }
                same
            });
            let task = kept.unwrap_or_else(|| {
                let place = at as f64 / members.hosts.len() as f64;
                let target = Target { record: host.record.clone(), endpoint: endpoint.clone(), place };
                (endpoint.clone(), tasks.spawn_local(watch(shared.clone(), target)))
            });
            running.insert(Arc::as_ptr(&host.record), task);
        }
        before.into_values().for_each(|(_, task)| task.abort());
        drop(members);
        loop {
            tokio::select! {
                () = &mut changed => break,
                Some(ended) = tasks.join_next() => {
                    // Only a bug ends one by itself: it ends them all, and is told of as that of a background task.
                    if let Err(error) = ended && error.is_panic() {
                        std::panic::resume_unwind(error.into_panic());
                    }
                }
            }
        }
    }
}

/// Checks one address again and again.
async fn watch(shared: Rc<Shared>, Target { record, endpoint, place }: Target) {
    let Shared { upstream, check, turns, .. } = &*shared;
    let (mut gap, mut spread) = match record.since_check(Instant::now()) {
        Some(since) => (shared.gap(&record).saturating_sub(since), Duration::ZERO),
        None => (check.interval.min(FIRST_CHECKS).mul_f64(place), check.interval.mul_f64(place)),
    };
    loop {
        tokio::time::sleep(gap).await;
        let Ok(turn) = turns.acquire().await else { return };
        let begun = Instant::now();
        record.check(begun);
        // Requests do this where there are any.
        upstream.set().refresh(begun);
        match &record.key().address {
            Some(address) => {
                let outcome = probe::probe(&endpoint, address, check).await;
                if outcome.is_ok() && check.port.is_none() {
                    // Requests would find that out after their pause.
                    record.reached();
                }
                record.checked(check, outcome.as_ref().err().map(|error| error as _));
            }
            // That a name has no address now says nothing of a server. The set tells of one.
            None => drop(tokio::time::timeout(check.timeout, upstream.set().locate(&endpoint)).await),
        }
        drop(turn);
        gap = shared.gap(&record).saturating_sub(begun.elapsed());
        if !record.is_in_doubt() {
            // Once: the checks began close together, and go on spread over the interval.
            gap += std::mem::take(&mut spread);
        }
    }
}

impl Shared {
    /// From the beginning of one check to that of the next one.
    fn gap(&self, record: &Record) -> Duration {
        let HealthCheck { interval, interval_jitter_percent, .. } = self.check;
        if record.is_in_doubt() {
            return interval.min(DOUBT.max(interval / 10));
        }
        let jitter = interval * interval_jitter_percent / 100;
        let micros = u64::try_from(jitter.as_micros()).unwrap_or(u64::MAX);
        interval + Duration::from_micros(self.dice.below(micros.saturating_add(1)))
    }
}
