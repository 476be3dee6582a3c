//! What all orders of this gateway are made with, and what they know of each other: how many are under way and for which names, which authorities
//! have asked for a pause, and whose turn it is to make an account.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::sync::{Notify, Semaphore};

use super::authority::Http;
use super::schedule::{after, back_off, random};
use super::storage::Key;
use crate::certs::PendingChallenges;
use crate::config::model::AcmeAuthority;
use crate::outbound::{OutboundClient, Tls};

/// Orders that are under way at a time.
const ORDERS: usize = 4;

/// What all orders are made with.
pub(super) struct Parts {
    pub(super) outbound: Arc<OutboundClient>,
    pub(super) challenges: Arc<PendingChallenges>,
    pub(super) slots: Semaphore,
    /// By the text of the authorities that are trusted beside the system's.
    tls: Mutex<HashMap<Option<String>, Tls>>,
    names: Names,
    /// By directory: nothing is asked there before this time.
    pauses: Mutex<HashMap<String, i64>>,
    accounts: Mutex<HashMap<Key, AccountTurn>>,
}

/// The turn to make or to forget an account. In it is when one was forgotten last.
pub(super) type AccountTurn = Arc<tokio::sync::Mutex<Option<i64>>>;

/// The names of orders that are under way. A host shows one certificate of `tls-alpn-01` at a time, so orders that share a name follow each other.
#[derive(Default)]
struct Names {
    taken: Mutex<HashSet<String>>,
    freed: Notify,
}

/// The turn of an order. Its names are free again when this is dropped.
pub(super) struct Turn<'a> {
    of: &'a Names,
    names: &'a [String],
}

impl Parts {
    pub(super) fn new(outbound: Arc<OutboundClient>, challenges: Arc<PendingChallenges>) -> Self {
        Parts {
            outbound,
            challenges,
            slots: Semaphore::new(ORDERS),
            tls: Mutex::default(),
            names: Names::default(),
            pauses: Mutex::default(),
            accounts: Mutex::default(),
        }
    }

    pub(super) fn http(&self, authority: &AcmeAuthority) -> Http {
        Http::new(Arc::clone(&self.outbound), self.tls(authority.ca.as_ref()))
    }

    /// The system's authorities and these. The roots are read once for each.
    pub(super) fn tls(&self, ca: Option<&String>) -> Tls {
        let mut known = lock(&self.tls);
        let make = || {
            let extra = ca.into_iter().flat_map(|pem| CertificateDer::pem_slice_iter(pem.as_bytes()));
            Tls::with_authorities(extra.filter_map(Result::ok).collect())
        };
        known.entry(ca.cloned()).or_insert_with(make).clone()
    }

    /// Waits until no other order for one of these names is under way.
    pub(super) async fn turn<'a>(&'a self, names: &'a [String]) -> Turn<'a> {
        self.names.turn(names).await
    }

    /// When the authority of this directory may be asked again; 0 if it has said nothing.
    pub(super) fn paused_until(&self, directory: &str) -> i64 {
        lock(&self.pauses).get(directory).copied().unwrap_or_default()
    }

    /// Keeps the pause that the authority of this directory has asked for.
    pub(super) fn pause(&self, directory: &str, wait: Duration) {
        let until = after(back_off(1, false, Some(wait), random()));
        let mut pauses = lock(&self.pauses);
        let known = pauses.entry(directory.to_owned()).or_default();
        *known = until.max(*known);
    }

    pub(super) fn account_turn(&self, key: &Key) -> AccountTurn {
        Arc::clone(lock(&self.accounts).entry(key.clone()).or_default())
    }
}

impl Names {
    async fn turn<'a>(&'a self, names: &'a [String]) -> Turn<'a> {
        loop {
            let mut freed = pin!(self.freed.notified());
            // Before the look: else it could be told in between.
            freed.as_mut().enable();
            if self.take(names) {
                return Turn { of: self, names };
            }
            freed.await;
        }
    }

    /// All of them or none.
    fn take(&self, names: &[String]) -> bool {
        let mut taken = lock(&self.taken);
        let are_free = !names.iter().any(|name| taken.contains(name));
        if are_free {
            taken.extend(names.iter().cloned());
        }
        are_free
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut taken = lock(&self.of.taken);
        for name in self.names {
            taken.remove(name);
        }
        drop(taken);
        self.of.freed.notify_waiters();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn orders_that_share_a_name_follow_each_other() {
        let names = Names::default();
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let (both, one, other) = (list(&["a.test", "b.test"]), list(&["b.test"]), list(&["c.test"]));
        let mut context = Context::from_waker(Waker::noop());
        let mut turns = [&both, &one, &other].map(|list| Box::pin(names.turn(list)));
        let mut poll = |at: usize| Pin::new(&mut turns[at]).poll(&mut context);
        let Poll::Ready(first) = poll(0) else { panic!("all are free") };
        assert!(poll(1).is_pending(), "b.test is under way");
        assert!(poll(2).is_ready());
        drop(first);
        assert!(poll(1).is_ready());
    }
}
