//! Which certificate a client gets: by the server name that it asks for, and by the signatures that it can verify.

use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::by_name::ByName;

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

type Keys = Vec<Arc<CertifiedKey>>;

/// The certificates of a listener.
#[derive(Debug)]
pub(super) struct ByServerName {
    names: ByName<Keys>,
    /// For clients whose server name fits none.
    default: Keys,
    /// The names of the first certificate.
    first: Vec<String>,
}

impl ByServerName {
    pub(super) fn new() -> Self {
        ByServerName { names: ByName::new(), default: Vec::new(), first: Vec::new() }
    }

    /// Clients that ask for one of these names get `key`, unless they can verify an earlier one. The first certificate, and all others
    /// for the same names, also serve clients that ask for none of the names. Answers the names for which `key` is never used, because each of
    /// its signatures is one of an earlier certificate, too.
    pub(super) fn add(&mut self, names: &[String], key: &Arc<CertifiedKey>) -> Vec<String> {
        let mut names: Vec<String> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        names.sort();
        names.dedup();
        if self.default.is_empty() {
            self.first.clone_from(&names);
        }
        if self.first == names {
            self.default.push(Arc::clone(key));
        }
        let mut unused = Vec::new();
        for name in &names {
            let keys = self.names.entry(name);
            let is_new = |scheme| signs(key, scheme) && !keys.iter().any(|earlier| signs(earlier, scheme));
            if !SCHEMES.into_iter().any(is_new) {
                unused.push(name.clone());
            }
            keys.push(Arc::clone(key));
        }
        unused
    }

    /// The certificate for a server name and a client that verifies these signatures. If it verifies none, the handshake fails with the
    /// right alert.
    pub(super) fn find(&self, server_name: Option<&str>, schemes: &[SignatureScheme]) -> Option<&Arc<CertifiedKey>> {
        let named = server_name.and_then(|name| self.names.find_by_label(name));
        let keys = named.unwrap_or(&self.default);
        let fits = |key: &&Arc<CertifiedKey>, any: bool| {
            schemes.iter().any(|scheme| (any || !is_pkcs1(*scheme)) && signs(key, *scheme))
        };
        // TLS 1.3 has no RSASSA-PKCS1-v1_5 (RFC 8446 §4.2.3), but its clients list it for the signatures of certificates.
        keys.iter().find(|key| fits(key, false)).or_else(|| keys.iter().find(|key| fits(key, true))).or(keys.first())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.default.is_empty()
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
        self.find(hello.server_name(), hello.signature_schemes()).cloned()
    }
}
