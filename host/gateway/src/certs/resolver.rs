//! Which certificate a client gets: by the server name that it asks for.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

#[derive(Debug)]
pub(super) struct ByServerName {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By what follows `*.`; a wildcard stands for exactly one label (RFC 9525 §6.3).
    wildcard: HashMap<String, Arc<CertifiedKey>>,
    default: Arc<CertifiedKey>,
}

impl ByServerName {
    /// Everybody gets `default`.
    pub(super) fn new(default: Arc<CertifiedKey>) -> Self {
        ByServerName { exact: HashMap::new(), wildcard: HashMap::new(), default }
    }

    /// Who asks for one of these names gets `key`. The first certificate for a name keeps it.
    pub(super) fn add(&mut self, names: &[String], key: &Arc<CertifiedKey>) {
        for name in names {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            match name.strip_prefix("*.") {
                Some(parent) => self.wildcard.entry(parent.to_owned()).or_insert_with(|| Arc::clone(key)),
                None => self.exact.entry(name).or_insert_with(|| Arc::clone(key)),
            };
        }
    }

    pub(super) fn find(&self, server_name: Option<&str>) -> &Arc<CertifiedKey> {
        // rustls hands the name over in lower case and without a trailing dot.
        let found = server_name.and_then(|name| {
            self.exact.get(name).or_else(|| name.split_once('.').and_then(|(_, parent)| self.wildcard.get(parent)))
        });
        found.unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for ByServerName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.find(hello.server_name())))
    }
}
