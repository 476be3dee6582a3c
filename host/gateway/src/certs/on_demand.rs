//! Certificates for names that clients ask for and nobody has configured. A handshake for such a name waits, within the listener's limit for
//! handshakes, until there is a certificate or it is known that there will be none. Who orders them gets the names through a bounded queue.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};

use super::{ManagedCertificate, Progress};

/// Handshakes that wait for a certificate at a time; more are refused at once.
const MAX_WAITING: usize = 256;
/// Certificates that are held. A name beyond that gets none.
pub const MAX_CERTIFICATES: usize = 10_000;

/// The certificates of one `on_demand`.
pub struct OnDemandCertificates {
    name: Box<str>,
    known: RwLock<HashMap<String, Arc<ManagedCertificate>>>,
    waiting: Semaphore,
    /// Whether somebody looks at the queue, or will soon.
    attended: AtomicBool,
    wants: mpsc::Sender<Want>,
    /// The other end. A task that follows another one takes it over.
    queue: Mutex<mpsc::Receiver<Want>>,
    /// How orders for all names go together.
    progress: std::sync::Mutex<Progress>,
}

/// A name that a client has asked for.
pub struct Want {
    /// In lower case.
    pub host: String,
    /// To be dropped or sent when it is known whether there is a certificate.
    pub done: oneshot::Sender<()>,
}

impl OnDemandCertificates {
    /// None yet.
    pub fn new(name: &str) -> Arc<Self> {
        let (wants, queue) = mpsc::channel(MAX_WAITING);
        let (waiting, queue) = (Semaphore::new(MAX_WAITING), Mutex::new(queue));
        Arc::new(OnDemandCertificates {
            name: name.into(),
            known: RwLock::default(),
            waiting,
            attended: AtomicBool::new(true),
            wants,
            queue,
            progress: Default::default(),
        })
    }

    /// The next name that a client asks for.
    pub async fn next_want(&self) -> Option<Want> {
        self.queue.lock().await.recv().await
    }

    /// Says whether somebody orders certificates. If nobody does, no handshake waits for one.
    pub fn attend(&self, attended: bool) {
        self.attended.store(attended, Ordering::Release);
        if let (false, Ok(mut queue)) = (attended, self.queue.try_lock()) {
            while queue.try_recv().is_ok() {}
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The certificate of a name, in lower case.
    pub fn find(&self, host: &str) -> Option<Arc<ManagedCertificate>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(host).cloned()
    }

    /// Whether there are as many as there may be.
    pub fn is_full(&self) -> bool {
        self.count() >= MAX_CERTIFICATES
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.known.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Every name with its certificate.
    pub fn all(&self) -> Vec<(String, Arc<ManagedCertificate>)> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|(host, certificate)| (host.clone(), Arc::clone(certificate))).collect()
    }

    /// Holds a certificate for a name. `false`: there are as many as there may be.
    pub fn insert(&self, host: &str, certificate: Arc<ManagedCertificate>) -> bool {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_CERTIFICATES && !known.contains_key(host) {
            return false;
        }
        known.insert(host.to_owned(), certificate);
        true
    }

    pub fn remove(&self, host: &str) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).remove(host);
    }

    /// How orders for all names go together.
    pub fn progress(&self) -> Progress {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes how they go.
    pub fn note(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits until a name has a certificate or is known to get none. The caller bounds the time.
    pub async fn want(&self, host: &str) {
        let Ok(_waits) = self.waiting.try_acquire() else { return };
        if !self.attended.load(Ordering::Acquire) {
            return;
        }
        let (done, settled) = oneshot::channel();
        if self.wants.try_send(Want { host: host.to_owned(), done }).is_ok() {
            // An error is that it was dropped, and says the same.
            let _ = settled.await;
        }
    }
}

impl fmt::Debug for OnDemandCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnDemandCertificates").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn no_handshake_waits_where_nobody_orders() {
        let certificates = OnDemandCertificates::new("any");
        let mut context = Context::from_waker(Waker::noop());
        let mut early = pin!(certificates.want("a.test"));
        assert!(early.as_mut().poll(&mut context).is_pending());
        certificates.attend(false);
        assert!(early.poll(&mut context).is_ready());
        assert!(pin!(certificates.want("a.test")).poll(&mut context).is_ready());
        certificates.attend(true);
        assert!(pin!(certificates.want("a.test")).poll(&mut context).is_pending());
    }

    #[test]
    fn certificates_have_a_bound() {
        let certificates = OnDemandCertificates::new("any");
        let place = ManagedCertificate::new("any");
        for number in 0..MAX_CERTIFICATES {
            assert!(!certificates.is_full());
            assert!(certificates.insert(&number.to_string(), Arc::clone(&place)));
        }
        assert!(certificates.is_full() && !certificates.insert("more", Arc::clone(&place)));
        assert!(certificates.insert("7", place), "one that is there is replaced");
        certificates.remove("7");
        assert!(!certificates.is_full());
    }
}
