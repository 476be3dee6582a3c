//! Certificates for names that clients ask for: the operator's service is asked, then one is ordered, once for all who wait. Everything a client can cause is
//! bounded: names that are looked at together, orders in an hour, and refusals that are remembered, each for longer than the one before.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::keeper::{Group, Keeper, Plan};
use super::parts::Parts;
use super::sharing::Followed;
use super::storage::{Key, Storage};
use super::unix_now;
use crate::certs::{ManagedCertificate, Want};

/// Names that are asked for or ordered at a time.
const MAX_UNDER_WAY: usize = 64;
/// How long a refusal holds that is none of an authority, and how many are remembered.
const REFUSED_FOR: Duration = Duration::from_secs(60);
const MAX_REFUSED: usize = 10_000;

/// The certificates of one `on_demand`.
pub(super) struct OnDemandKeeper {
    /// For each name, with the name and its key in it.
    plan: Plan,
    storage: Storage,
    followed: Option<Arc<Followed>>,
    parts: Arc<Parts>,
    group: Group,
    /// From disk.
    kept: Vec<(String, Keeper)>,
}

/// What is shared by the work for all names.
struct State {
    /// Who waits for a name.
    waiting: HashMap<String, Vec<oneshot::Sender<()>>>,
    refused: HashMap<String, Refusal>,
    budget: Budget,
}

/// Why a name has no certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Refusal {
    /// Nothing is done for it before.
    until: Instant,
    /// Orders in a row that have failed. They are remembered beyond that time.
    failures: u32,
}

/// Orders that are left of an hour's: a bucket that fills evenly.
struct Budget {
    per_hour: f64,
    left: f64,
    at: Instant,
}

impl Budget {
    fn new(per_hour: u32, now: Instant) -> Self {
        Budget { per_hour: per_hour.into(), left: per_hour.into(), at: now }
    }

    /// One was not needed.
    fn give_back(&mut self) {
        self.left = (self.left + 1.0).min(self.per_hour);
    }

    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * self.per_hour / 3600.0).min(self.per_hour);
        self.at = now;
        let is_left = self.left >= 1.0;
        if is_left {
            self.left -= 1.0;
        }
        is_left
    }
}

impl OnDemandKeeper {
    pub(super) fn new(
        plan: Plan,
        (storage, followed): (Storage, Option<Arc<Followed>>),
        parts: Arc<Parts>,
        group: Group,
    ) -> Self {
        OnDemandKeeper { plan, storage, followed, parts, group, kept: Vec::new() }
    }

    /// Uses what is on disk. It blocks.
    pub(super) fn begin(&mut self) {
        let name = self.group.certificates.name().to_owned();
        for host in self.storage.hosts_on_disk(&name, crate::certs::MAX_ON_DEMAND) {
            if !self.group.asking.may_ask(&host) {
                continue;
            }
            let mut keeper = self.keeper(&host);
            keeper.begin();
            if let Some(place) = keeper.place_if_filled()
                && self.group.certificates.insert(&host, place)
            {
                self.kept.push((host, keeper));
            }
        }
        // What is not on disk, since that was full, has no keeper any more: the next client has it ordered again.
        let kept: HashSet<&String> = self.kept.iter().map(|(host, _)| host).collect();
        for (host, _) in self.group.certificates.all().iter().filter(|(host, _)| !kept.contains(host)) {
            self.group.certificates.remove(host);
        }
    }

    fn keeper(&self, host: &str) -> Keeper {
        let name = self.group.certificates.name();
        let names = vec![host.to_owned()];
        let key = Key::on_demand(name, host, &Plan::variant(&names, self.plan.key_type, &self.plan.authorities));
        let plan = Plan { names, key, ..self.plan.clone() };
        // A reload finds what it has.
        let place = self.group.certificates.find(host).unwrap_or_else(|| ManagedCertificate::new(host));
        let (storage, followed) = (self.storage.clone(), self.followed.clone());
        Keeper::new(plan, place, (storage, followed), Arc::clone(&self.parts), Some(self.group.clone()))
    }

    /// Serves those who want a certificate, until this is dropped.
    pub(super) async fn keep(mut self) {
        let now = Instant::now();
        let budget = Budget::new(self.group.asking.rate(), now);
        let state = State { waiting: HashMap::new(), refused: HashMap::new(), budget };
        let state = Rc::new(RefCell::new(state));
        let mut tasks = JoinSet::new();
        for (host, keeper) in std::mem::take(&mut self.kept) {
            let certificates = Arc::clone(&self.group.certificates);
            tasks.spawn_local(async move {
                keeper.keep().await;
                certificates.remove(&host);
            });
        }
        let this = Rc::new(self);
        loop {
            tokio::select! {
                want = this.group.certificates.next_want() => {
                    let Some(Want { host, done }) = want else { return };
                    if this.is_new(&state, &host, done) {
                        let (this, state) = (Rc::clone(&this), Rc::clone(&state));
                        tasks.spawn_local(async move { this.serve(&state, host).await });
                    }
                }
                Some(_) = tasks.join_next() => {}
            }
        }
    }

    /// Whether work for this name has to begin. Who waits is told by dropping `done`.
    fn is_new(&self, state: &RefCell<State>, host: &str, done: oneshot::Sender<()>) -> bool {
        let mut state = state.borrow_mut();
        let now = Instant::now();
        if self.group.certificates.find(host).is_some() || !self.group.asking.may_ask(host) {
            return false;
        }
        if let Some(waiting) = state.waiting.get_mut(host) {
            waiting.push(done);
            return false;
        }
        if state.refused.get(host).is_some_and(|refusal| refusal.until > now) || state.waiting.len() >= MAX_UNDER_WAY {
            return false;
        }
        state.waiting.insert(host.to_owned(), vec![done]);
        true
    }

    async fn serve(&self, state: &RefCell<State>, host: String) {
        let _served = Served { by: self, state, host: &host };
        let first = self.first(state, &host).await;
        let keeper = state.borrow_mut().settle(&host, first);
        if let Some(keeper) = keeper {
            keeper.keep().await;
            self.group.certificates.remove(&host);
        }
    }

    /// The first certificate of a name, if it gets one.
    async fn first(&self, state: &RefCell<State>, host: &str) -> Result<Keeper, Refusal> {
        let certificate = self.group.certificates.name();
        let failures = state.borrow().refused.get(host).map_or(0, |refusal| refusal.failures);
        let refused = || Refusal { until: Instant::now() + REFUSED_FOR, failures };
        if self.group.certificates.is_full() {
            self.count("full");
            tracing::warn!(certificate, host, "no certificate on demand: there are as many as there may be");
            return Err(refused());
        }
        match self.group.asking.agrees(host).await {
            Some(true) => {}
            Some(false) => {
                self.count("not_wanted");
                tracing::debug!(host, "a name gets no certificate on demand");
                return Err(refused());
            }
            None => {
                self.count("not_answered");
                tracing::warn!(certificate, host, "nobody has said whether a name gets a certificate on demand");
                return Err(refused());
            }
        }
        let mut keeper = self.keeper(host).after_failures(failures);
        if let Err(failure) = keeper.take_shared().await {
            tracing::warn!(certificate, host, reason = failure.reason, "no certificate on demand: the state is away");
            keeper.failed(&failure);
            return Err(Refusal::of(&keeper));
        }
        if keeper.place_if_filled().is_none() {
            self.order(state, &mut keeper, host).await?;
        }
        let Some(place) = keeper.place_if_filled() else { return Err(Refusal::of(&keeper)) };
        if !self.group.certificates.insert(host, place) {
            return Err(refused());
        }
        Ok(keeper)
    }

    /// Orders the first certificate of a name, if an authority may be asked and something is left of the hour's orders.
    async fn order(&self, state: &RefCell<State>, keeper: &mut Keeper, host: &str) -> Result<(), Refusal> {
        if keeper.due() > unix_now() {
            self.count("rate_limited");
            return Err(Refusal::of(keeper));
        }
        if !state.borrow_mut().budget.take(Instant::now()) {
            self.count("over_rate");
            let certificate = self.group.certificates.name();
            tracing::warn!(
                certificate,
                host,
                "no certificate on demand: as many as `rate` says were ordered in this hour"
            );
            return Err(Refusal { until: Instant::now() + REFUSED_FOR, failures: keeper.failures() });
        }
        let has_one = keeper.order_first().await;
        if !keeper.has_ordered() {
            state.borrow_mut().budget.give_back();
        }
        if has_one { Ok(()) } else { Err(Refusal::of(keeper)) }
    }

    fn count(&self, result: &'static str) {
        self.group.certificates.note(|progress| *progress.orders.entry(result).or_default() += 1);
    }
}

/// The work for a name. A panic ends it, and the next client begins it anew.
struct Served<'a> {
    by: &'a OnDemandKeeper,
    state: &'a RefCell<State>,
    host: &'a str,
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            if let Ok(mut state) = self.state.try_borrow_mut() {
                state.waiting.remove(self.host);
            }
            self.by.group.certificates.remove(self.host);
        }
    }
}

impl Refusal {
    /// Until it may be ordered again.
    fn of(keeper: &Keeper) -> Self {
        let wait = keeper.due().saturating_sub(unix_now()).max(1).unsigned_abs();
        Refusal { until: Instant::now() + Duration::from_secs(wait), failures: keeper.failures() }
    }
}

impl State {
    /// What waits for a name ends here: there is a certificate, or there will be none.
    fn settle(&mut self, host: &str, first: Result<Keeper, Refusal>) -> Option<Keeper> {
        self.waiting.remove(host);
        match first {
            Ok(keeper) => {
                self.refused.remove(host);
                Some(keeper)
            }
            Err(refusal) => {
                self.refuse(host.to_owned(), refusal, Instant::now());
                None
            }
        }
    }

    fn refuse(&mut self, host: String, refusal: Refusal, now: Instant) {
        if self.refused.len() >= MAX_REFUSED {
            self.refused.retain(|_, refusal| refusal.until > now);
        }
        // More names than can be remembered are asked for again.
        if self.refused.len() < MAX_REFUSED {
            self.refused.insert(host, refusal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_s_orders_come_back_evenly() {
        let start = Instant::now();
        let mut budget = Budget::new(60, start);
        assert_eq!((0..100).filter(|_| budget.take(start)).count(), 60);
        let later = |seconds| start + Duration::from_secs(seconds);
        assert!(!budget.take(later(59)));
        assert!(budget.take(later(60)) && !budget.take(later(60)));
        assert_eq!((0..100).filter(|_| budget.take(later(100_000))).count(), 60, "never more than an hour's");
        budget.give_back();
        assert!(budget.take(later(100_000)) && !budget.take(later(100_000)));
    }

    #[test]
    fn refusals_are_bounded() {
        let now = Instant::now();
        let mut state = State { waiting: HashMap::new(), refused: HashMap::new(), budget: Budget::new(1, now) };
        let refusal = Refusal { until: now + REFUSED_FOR, failures: 1 };
        for number in 0..MAX_REFUSED + 10 {
            state.refuse(format!("{number}.test"), refusal, now);
        }
        assert_eq!(state.refused.len(), MAX_REFUSED);
        state.refuse("later.test".to_owned(), refusal, refusal.until);
        assert_eq!(state.refused.len(), 1);
    }
}
