//! A certificate that is replaced while it is in use: one that the gateway orders. A snapshot holds the place, and who orders puts a certificate
//! into it; handshakes from then on show the new one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::sign::CertifiedKey;

use super::{CertificateSource, TlsError, Validity, read};

/// How the orders for a certificate go, to be shown to an operator.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// The authority that has issued the certificate in use, by its URL.
    pub authority: Option<String>,
    /// When it is ordered next, in seconds since the Unix epoch.
    pub next_order: Option<i64>,
    /// Why the last order has failed, if it has.
    pub last_error: Option<String>,
    /// Orders since the start of the process, by what came of them.
    pub orders: BTreeMap<&'static str, u64>,
}

/// The place of a certificate. Before the first is in it, handshakes for its names are refused.
pub struct ManagedCertificate {
    /// As in the configuration.
    name: Box<str>,
    current: ArcSwapOption<Issued>,
    progress: Mutex<Progress>,
}

/// A certificate that an authority has issued.
struct Issued {
    key: Arc<CertifiedKey>,
    validity: Validity,
    names: Vec<String>,
}

impl ManagedCertificate {
    /// An empty place.
    pub fn new(name: &str) -> Arc<Self> {
        Arc::new(ManagedCertificate { name: name.into(), current: ArcSwapOption::empty(), progress: Mutex::default() })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Shows this chain from now on, both as PEM text. What can't be used is refused and leaves the certificate before it in place.
    pub fn replace(&self, chain: &str, key: &str) -> Result<Validity, TlsError> {
        let source = CertificateSource { name: &self.name, chain, key, hosts: &[] };
        let certificate = read(&source, &default_provider())?;
        let validity = Validity::of_chain(chain).ok_or_else(|| TlsError::Empty(self.name.to_string()))?;
        self.current.store(Some(Arc::new(Issued { key: certificate.key, validity, names: certificate.names })));
        Ok(validity)
    }

    /// From when to when the certificate in it is valid.
    pub fn validity(&self) -> Option<Validity> {
        self.current.load().as_ref().map(|issued| issued.validity)
    }

    /// The names in the certificate.
    pub fn names(&self) -> Vec<String> {
        self.current.load().as_ref().map(|issued| issued.names.clone()).unwrap_or_default()
    }

    /// How its orders go.
    pub fn progress(&self) -> Progress {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes how its orders go.
    pub fn note(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn key(&self) -> Option<Arc<CertifiedKey>> {
        self.current.load().as_ref().map(|issued| Arc::clone(&issued.key))
    }
}

impl fmt::Debug for ManagedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManagedCertificate").field("name", &self.name).finish_non_exhaustive()
    }
}
