//! Limits of open connections, each one number for all workers and reloads: of an upstream, and of each of its addresses. Who needs a new
//! connection at a limit waits until one is closed. Idle connections of other workers are closed for that.

use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::{Bulkhead, BulkheadState, Busy, Permit};

/// The open connections of an upstream, or to an address.
#[derive(Debug)]
pub struct Connections {
    open: Arc<Bulkhead>,
    /// The pools that may have idle ones.
    holders: Mutex<Vec<Weak<Holder>>>,
}

/// A pool, as others ask it for its idle connections.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Holder {
    idle: AtomicU32,
    /// How many of these it was asked for since it last closed some.
    wanted: AtomicU32,
    asked: Notify,
}

/// The limits that the connections of a pool are under.
#[derive(Debug)]
pub(in crate::upstream) struct ConnectionLimits {
    address: Option<Arc<Connections>>,
    upstream: Option<Arc<Connections>>,
    holder: Arc<Holder>,
}

/// An open connection that limits count, until this is dropped.
#[derive(Debug)]
pub struct ConnectionPermit {
    address: Option<Permit>,
    upstream: Option<Permit>,
}

impl Connections {
    pub(super) fn new(limit: Option<u32>, max_pending: u32) -> Self {
        Connections { open: Arc::new(Bulkhead::new(limit, max_pending)), holders: Mutex::default() }
    }

    /// Sets other limits. What is open counts.
    pub(in crate::upstream) fn set(&self, limit: Option<u32>, max_pending: u32) {
        self.open.set(limit, max_pending);
        if self.open.is_exceeded() {
            self.holders().iter().for_each(|holder| holder.asked.notify_one());
        }
    }

    /// The same, if they are others: an address that was away during a reload has not heard of them.
    pub(super) fn keep_to(&self, limit: Option<u32>, max_pending: u32) {
        if self.open.limits() != (limit, max_pending) {
            self.set(limit, max_pending);
        }
    }

    /// Its numbers now.
    pub fn state(&self) -> BulkheadState {
        self.open.state()
    }

    fn waiting(&self) -> u32 {
        self.open.queue.waiting()
    }

    fn register(&self, holder: &Arc<Holder>) {
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        holders.retain(|other| other.strong_count() > 0);
        holders.push(Arc::downgrade(holder));
    }

    /// A permit, waited for in the queue. Also where nobody may wait for connections that are in use, idle ones are waited for: they are
    /// closed at once.
    async fn enter(&self, patience: Duration) -> Result<Permit, Busy> {
        if let Some(permit) = self.open.try_enter() {
            return Ok(permit);
        }
        let mut entering = pin!(self.open.wait(patience, self.open.max_pending().max(self.idle())));
        let mut has_asked = false;
        std::future::poll_fn(|cx| {
            let polled = entering.as_mut().poll(cx);
            // A pool with a new idle connection looks into the queue; this one looks at the pools when it has joined.
            if let (Poll::Pending, false) = (&polled, std::mem::replace(&mut has_asked, true)) {
                self.ask();
            }
            polled
        })
        .await
    }

    fn idle(&self) -> u32 {
        self.holders().iter().map(|holder| holder.idle.load(SeqCst)).sum()
    }

    /// Asks the pool with the most idle connections, of those that nobody has asked for, to close one.
    fn ask(&self) {
        let mut holders = self.holders();
        while let Some((at, _)) = holders.iter().enumerate().max_by_key(|(_, holder)| holder.left()) {
            let holder = holders.swap_remove(at);
            if holder.reserve() {
                holder.asked.notify_one();
                return;
            }
        }
    }

    fn holders(&self) -> Vec<Arc<Holder>> {
        let holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        holders.iter().filter_map(Weak::upgrade).collect()
    }
}

impl Holder {
    /// Until somebody asks for an idle connection, or the pool is gone.
    pub(in crate::upstream) async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Its idle connections that nobody has asked for.
    fn left(&self) -> u32 {
        self.idle.load(SeqCst).saturating_sub(self.wanted.load(SeqCst))
    }

    /// Asks for one of them, if there is one: who waits next asks another pool for its own.
    fn reserve(&self) -> bool {
        let more = |wanted| (wanted < self.idle.load(SeqCst)).then_some(wanted + 1);
        self.wanted.fetch_update(SeqCst, SeqCst, more).is_ok()
    }

    fn end(&self) {
        self.idle.store(0, SeqCst);
        self.asked.notify_one();
    }
}

impl ConnectionLimits {
    pub(super) fn new(address: Option<Arc<Connections>>, upstream: Option<Arc<Connections>>) -> Option<Self> {
        if address.is_none() && upstream.is_none() {
            return None;
        }
        Some(ConnectionLimits { address, upstream, holder: Arc::default() })
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Connections>> {
        self.address.iter().chain(&self.upstream)
    }

    /// Begins to be asked for idle connections.
    pub(in crate::upstream) fn register(&self) -> &Arc<Holder> {
        self.all().for_each(|connections| connections.register(&self.holder));
        &self.holder
    }

    /// The pool is gone.
    pub(in crate::upstream) fn end(&self) {
        self.holder.end();
    }

    /// Whether connections under the one count under the other.
    pub(in crate::upstream) fn are(&self, other: &Self) -> bool {
        let same = |one: &Option<Arc<Connections>>, other: &Option<Arc<Connections>>| match (one, other) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        };
        same(&self.address, &other.address) && same(&self.upstream, &other.upstream)
    }

    /// Requests that wait for a connection under these limits.
    pub(in crate::upstream) fn waiting(&self) -> u32 {
        self.all().map(|connections| connections.waiting()).sum()
    }

    /// Whether more connections are open than a limit allows that was lowered.
    pub(in crate::upstream) fn are_exceeded(&self) -> bool {
        self.all().any(|connections| connections.open.is_exceeded())
    }

    /// Whether an idle connection has to be closed: others wait, or there are too many.
    pub(in crate::upstream) fn claim_idle(&self) -> bool {
        self.waiting() > 0 || self.are_exceeded()
    }

    /// So many connections are idle. Before it asks [`Self::waiting`], a pool says what would be.
    pub(in crate::upstream) fn note_idle(&self, idle: usize) {
        self.holder.idle.store(idle as u32, SeqCst);
    }

    /// The pool closes what it was asked for.
    pub(in crate::upstream) fn note_asked(&self) {
        self.holder.wanted.store(0, SeqCst);
    }

    /// A permit, if there is one and nobody waits for it.
    pub(in crate::upstream) fn try_enter(&self) -> Option<ConnectionPermit> {
        let enter = |connections: &Option<Arc<Connections>>| match connections {
            None => Some(None),
            Some(connections) => connections.open.try_enter().map(Some),
        };
        Some(ConnectionPermit { address: enter(&self.address)?, upstream: enter(&self.upstream)? })
    }

    /// A permit, waited for.
    pub(in crate::upstream) async fn enter(&self, patience: Duration) -> Result<ConnectionPermit, Busy> {
        let begun = Instant::now();
        let address = match &self.address {
            None => None,
            Some(connections) => Some(connections.enter(patience).await?),
        };
        let upstream = match &self.upstream {
            None => None,
            Some(connections) => Some(connections.enter(patience.saturating_sub(begun.elapsed())).await?),
        };
        Ok(ConnectionPermit { address, upstream })
    }

    /// Whether a permit is for a connection under these limits.
    pub(in crate::upstream) fn fit(&self, permit: &ConnectionPermit) -> bool {
        let fits = |connections: &Option<Arc<Connections>>, permit: &Option<Permit>| match (connections, permit) {
            (Some(connections), Some(Permit(of))) => Arc::ptr_eq(&connections.open, of),
            (None, None) => true,
            _ => false,
        };
        fits(&self.address, &permit.address) && fits(&self.upstream, &permit.upstream)
    }
}
