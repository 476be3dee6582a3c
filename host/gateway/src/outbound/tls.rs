//! How outbound calls verify their servers.

use std::sync::{Arc, OnceLock};

use rustls::{ClientConfig, RootCertStore};

/// The TLS settings of outbound calls, shared by all workers. The roots are read when the first https call is made.
#[derive(Clone)]
pub struct Tls {
    config: Arc<OnceLock<Arc<ClientConfig>>>,
    /// Authorities beside the system's.
    extra: Arc<Vec<rustls_pki_types::CertificateDer<'static>>>,
}

impl Tls {
    /// The system's roots, or Mozilla's where the system has none.
    pub fn system() -> Self {
        Self::with_authorities(Vec::new())
    }

    /// The system's roots and these. A certificate that can't be read is left out with a line in the log.
    pub fn with_authorities(extra: Vec<rustls_pki_types::CertificateDer<'static>>) -> Self {
        Tls { config: Arc::default(), extra: Arc::new(extra) }
    }

    /// The settings; ALPN offers HTTP/2 and HTTP/1.1.
    pub(super) fn config(&self) -> Arc<ClientConfig> {
        self.config.get_or_init(|| Arc::new(build(&self.extra))).clone()
    }
}

fn build(extra: &[rustls_pki_types::CertificateDer<'static>]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let (_, unusable) = roots.add_parsable_certificates(extra.iter().cloned());
    if unusable > 0 {
        tracing::warn!(unusable, "authorities for outbound calls can't be read");
    }
    let native = rustls_native_certs::load_native_certs();
    let (added, _) = roots.add_parsable_certificates(native.certs);
    if added == 0 {
        tracing::info!("the system has no root certificates; outbound calls use Mozilla's");
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for both versions of TLS")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}
