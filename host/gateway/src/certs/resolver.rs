//! Which certificate a client gets: by the server name that it asks for, and by the signatures that it can verify.

use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::by_name::{ByName, normal};
use super::{ManagedCertificate, OnDemandCertificates};
use crate::route::HostPattern;

/// All signatures that a server makes.
const SCHEMES: [SignatureScheme; 10] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ECDSA_NISTP521_SHA512,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
    SignatureScheme::RSA_PKCS1_SHA256,
    SignatureScheme::RSA_PKCS1_SHA384,
    SignatureScheme::RSA_PKCS1_SHA512,
];

type Keys = Vec<Held>;

/// A certificate, or the place of one.
#[derive(Debug, Clone)]
enum Held {
    Given(Arc<CertifiedKey>),
    Managed(Arc<ManagedCertificate>),
}

/// The certificates of a listener.
#[derive(Debug)]
pub(super) struct ByServerName {
    names: ByName<Keys>,
    /// For clients whose server name fits none.
    default: Keys,
    /// The names of the first certificate.
    first: Vec<String>,
    /// For server names that fit none, before the default.
    on_demand: Vec<OnDemand>,
}

/// Certificates on demand, and the names that may get one; none: all.
#[derive(Debug)]
struct OnDemand {
    hosts: Vec<HostPattern>,
    certificates: Arc<OnDemandCertificates>,
}

impl ByServerName {
    pub(super) fn new() -> Self {
        ByServerName { names: ByName::new(), default: Vec::new(), first: Vec::new(), on_demand: Vec::new() }
    }

    /// Clients that ask for one of these names get `key`, unless they can verify an earlier one. The first certificate, and all others
    /// for the same names, also serve clients that ask for none of the names. Answers the names for which `key` is never used, because each of
    /// its signatures is one of an earlier certificate, too.
    pub(super) fn add(&mut self, names: &[String], key: &Arc<CertifiedKey>) -> Vec<String> {
        let names = self.note(names, || Held::Given(Arc::clone(key)));
        let mut unused = Vec::new();
        for name in &names {
            let keys = self.names.entry(name);
            let is_earlier = |held: &Held, scheme| matches!(held, Held::Given(earlier) if signs(earlier, scheme));
            let is_new = |scheme| signs(key, scheme) && !keys.iter().any(|earlier| is_earlier(earlier, scheme));
            if !SCHEMES.into_iter().any(is_new) {
                unused.push(name.clone());
            }
            keys.push(Held::Given(Arc::clone(key)));
        }
        unused
    }

    /// The same for what will be in a place, of which nothing is known yet but its names.
    pub(super) fn add_managed(&mut self, names: &[String], place: &Arc<ManagedCertificate>) {
        for name in self.note(names, || Held::Managed(Arc::clone(place))) {
            self.names.entry(&name).push(Held::Managed(Arc::clone(place)));
        }
    }

    /// Clients that ask for a name that none of the others is for get a certificate of these, if it fits one of `hosts`.
    pub(super) fn add_on_demand(&mut self, hosts: &[HostPattern], certificates: &Arc<OnDemandCertificates>) {
        self.on_demand.push(OnDemand { hosts: hosts.to_vec(), certificates: Arc::clone(certificates) });
    }

    /// The names in order, each once; the first certificate becomes the default.
    fn note(&mut self, names: &[String], held: impl FnOnce() -> Held) -> Vec<String> {
        let mut names: Vec<String> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        names.sort();
        names.dedup();
        if self.default.is_empty() {
            self.first.clone_from(&names);
        }
        if self.first == names {
            self.default.push(held());
        }
        names
    }

    /// The certificate for a server name and a client that verifies these signatures. If it verifies none, the handshake fails with the
    /// right alert. None: the certificate of this name is not there yet.
    pub(super) fn find(&self, server_name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let named = server_name.and_then(|name| self.names.find_by_label(name));
        if let (None, Some(name)) = (named, server_name)
            && let Some(found) = self.on_demand_for(name)
        {
            return found.key();
        }
        let keys = named.unwrap_or(&self.default);
        // One that is not ordered is the usual case, and there is nothing to choose.
        if let [Held::Given(key)] = &keys[..] {
            return Some(Arc::clone(key));
        }
        let keys: Vec<Arc<CertifiedKey>> = keys.iter().filter_map(Held::key).collect();
        let fits = |key: &&Arc<CertifiedKey>, any: bool| {
            schemes.iter().any(|scheme| (any || !is_pkcs1(*scheme)) && signs(key, *scheme))
        };
        // TLS 1.3 has no RSASSA-PKCS1-v1_5 (RFC 8446 §4.2.3), but its clients list it for the signatures of certificates.
        let found = keys.iter().find(|key| fits(key, false)).or_else(|| keys.iter().find(|key| fits(key, true)));
        found.or(keys.first()).cloned()
    }

    /// Who may get a certificate for this server name, where there is none yet, in the order in which they are asked.
    pub(super) fn missing(&self, server_name: &str) -> Vec<Arc<OnDemandCertificates>> {
        if self.on_demand.is_empty()
            || self.names.find_by_label(server_name).is_some()
            || self.on_demand_for(server_name).is_some()
        {
            return Vec::new();
        }
        let name = normal(server_name);
        let is_for = |hosts: &[HostPattern]| hosts.is_empty() || hosts.iter().any(|host| host.holds(&name));
        let fitting = self.on_demand.iter().filter(|on_demand| is_for(&on_demand.hosts));
        fitting.map(|on_demand| Arc::clone(&on_demand.certificates)).collect()
    }

    fn on_demand_for(&self, server_name: &str) -> Option<Arc<ManagedCertificate>> {
        if self.on_demand.is_empty() {
            return None;
        }
        let name = normal(server_name);
        self.on_demand.iter().find_map(|on_demand| on_demand.certificates.find(&name))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.default.is_empty() && self.on_demand.is_empty()
    }
}

impl Held {
    fn key(&self) -> Option<Arc<CertifiedKey>> {
        match self {
            Held::Given(key) => Some(Arc::clone(key)),
            Held::Managed(place) => place.key(),
        }
    }
}

fn signs(key: &CertifiedKey, scheme: SignatureScheme) -> bool {
    key.key.choose_scheme(&[scheme]).is_some()
}

fn is_pkcs1(scheme: SignatureScheme) -> bool {
    matches!(
        scheme,
        SignatureScheme::RSA_PKCS1_SHA1
            | SignatureScheme::RSA_PKCS1_SHA256
            | SignatureScheme::RSA_PKCS1_SHA384
            | SignatureScheme::RSA_PKCS1_SHA512
    )
}

impl ResolvesServerCert for ByServerName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.find(hello.server_name(), hello.signature_schemes())
    }
}
