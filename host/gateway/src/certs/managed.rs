//! A certificate that is replaced while it is in use: one that the gateway orders. A snapshot holds the place, and who orders puts a certificate
//! into it; handshakes from then on show the new one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::sign::CertifiedKey;

use super::{CertificateSource, ChainValidity, TlsError, Validity, read};

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
    validity: ChainValidity,
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

    /// Shows this chain from now on, both as PEM text. What can't be used is refused and leaves the certificate before it in place. Answers
    /// the validity of the certificate itself.
    pub fn replace(&self, chain: &str, key: &str) -> Result<Validity, TlsError> {
        let source = CertificateSource { name: &self.name, chain, key, hosts: &[] };
        let certificate = read(&source, &default_provider())?;
        let validity = ChainValidity::of(chain).ok_or_else(|| TlsError::Empty(self.name.to_string()))?;
        self.current.store(Some(Arc::new(Issued { key: certificate.key, validity, names: certificate.names })));
        Ok(validity.leaf)
    }

    /// From when to when the certificate in it is valid, whatever is above it in its chain.
    pub fn validity(&self) -> Option<Validity> {
        self.chain_validity().map(|validity| validity.leaf)
    }

    /// The same with its chain.
    pub fn chain_validity(&self) -> Option<ChainValidity> {
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

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SerialNumber};
    use rustls::SignatureScheme;

    use super::super::{OnDemandCertificates, renewal_identifier, resolver::ByServerName};
    use super::*;
    use crate::route::HostPattern;

    /// A certificate of an authority, and its key.
    fn issued(names: &[&str]) -> (String, String) {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.serial_number = Some(SerialNumber::from(0x87_65_43_21));
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().expect("a key");
        (params.signed_by(&key, &issuer).expect("a certificate").pem(), key.serialize_pem())
    }

    const SCHEMES: [SignatureScheme; 1] = [SignatureScheme::ECDSA_NISTP256_SHA256];

    #[test]
    fn handshakes_show_what_is_in_the_place_and_are_refused_before() {
        let place = ManagedCertificate::new("site");
        let mut resolver = ByServerName::new();
        resolver.add_managed(&["a.test".to_owned(), "*.b.test".to_owned()], &place);
        let shown = |name| resolver.find(name, &SCHEMES).map(|key| key.cert[0].clone());
        assert_eq!((shown(Some("a.test")), shown(None)), (None, None));
        for _ in 0..2 {
            let (chain, key) = issued(&["a.test", "*.b.test"]);
            let validity = place.replace(&chain, &key).expect("it is good");
            assert_eq!(place.validity(), Some(validity));
            let now = place.key().expect("a key").cert[0].clone();
            for name in [Some("a.test"), Some("x.b.test"), Some("other.test"), None] {
                assert_eq!(shown(name), Some(now.clone()), "{name:?}");
            }
        }
        let before = shown(None);
        assert!(place.replace("nonsense", "nonsense").is_err());
        assert_eq!(shown(None), before, "the last good one stays");
    }

    #[test]
    fn certificates_on_demand_are_for_names_that_no_other_is_for() {
        let (place, on_demand) = (ManagedCertificate::new("site"), OnDemandCertificates::new("any"));
        let mut resolver = ByServerName::new();
        resolver.add_managed(&["a.test".to_owned()], &place);
        let is_missing = |resolver: &ByServerName, name| !resolver.missing(name).is_empty();
        assert!(!is_missing(&resolver, "b.test"), "there are none on demand");
        resolver.add_on_demand(&[], &on_demand);
        assert!(!is_missing(&resolver, "A.test") && is_missing(&resolver, "b.test"));
        let (chain, key) = issued(&["b.test"]);
        let one = ManagedCertificate::new("b.test");
        one.replace(&chain, &key).expect("it is good");
        assert!(on_demand.insert("b.test", one));
        assert!(!is_missing(&resolver, "B.test."));
        assert!(resolver.find(Some("B.test"), &SCHEMES).is_some());
        assert!(resolver.find(Some("c.test"), &SCHEMES).is_none());
        on_demand.remove("b.test");
        assert!(is_missing(&resolver, "b.test"));
    }

    #[test]
    fn each_on_demand_is_asked_for_the_names_that_fit_its_hosts() {
        let mut resolver = ByServerName::new();
        for (name, hosts) in [("a", &["*.a.test", "both.test"][..]), ("b", &["*.B.test", "both.test"]), ("all", &[])] {
            let hosts: Vec<_> = hosts.iter().map(|host| HostPattern::parse(host).expect("a pattern")).collect();
            resolver.add_on_demand(&hosts, &OnDemandCertificates::new(name));
        }
        let missing = |server_name| -> Vec<String> {
            resolver.missing(server_name).iter().map(|certificates| certificates.name().to_owned()).collect()
        };
        assert_eq!(missing("x.a.test"), ["a", "all"]);
        assert_eq!(missing("X.b.Test."), ["b", "all"]);
        assert_eq!(missing("both.test"), ["a", "b", "all"]);
        assert_eq!(missing("other.test"), ["all"]);
    }

    #[test]
    fn an_authority_knows_a_certificate_by_its_key_and_serial() {
        let (chain, _) = issued(&["a.test"]);
        let (key, serial) = renewal_identifier(&chain).expect("both");
        // RFC 9773 §4.1: with the zero that makes it a positive number.
        assert_eq!((key.len(), &*serial), (40, "0087654321"));
        assert_eq!(renewal_identifier("nonsense"), None);
    }
}
