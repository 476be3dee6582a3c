//! TLS towards upstreams: trust, client certificates, ALPN.

use std::fmt;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::digest::{SHA256, digest};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::config::model::Pin;

/// How a server is trusted and who we are to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSpec {
    /// Certificates to trust, as PEM, instead of the system's.
    pub ca_pem: Option<String>,
    /// The name that the certificate must have and that SNI says, instead of the endpoint's host.
    pub server_name: Option<String>,
    /// False trusts any certificate.
    pub verify: bool,
    /// Public keys of which the certificate has to have one; empty for any.
    pub pins: Vec<Pin>,
    pub client: Option<ClientCertificate>,
}

impl Default for TlsSpec {
    fn default() -> Self {
        TlsSpec { ca_pem: None, server_name: None, verify: true, pins: Vec::new(), client: None }
    }
}

/// A certificate chain and its private key, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    pub chain_pem: String,
    pub key_pem: String,
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientCertificate")
    }
}

/// Why there is no TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("no certificate in the {0}")]
    NoCertificate(&'static str),
    #[error("the PEM of the {what} does not parse: {source}")]
    Pem { what: &'static str, source: rustls_pki_types::pem::Error },
    #[error("the {what} is not usable: {source}")]
    Unusable { what: &'static str, source: rustls::Error },
}

/// A configuration that offers the protocols of `alpn`, most wanted first.
pub fn client_config(spec: &TlsSpec, alpn: &[&[u8]]) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|source| TlsError::Unusable { what: "list of TLS versions", source })?;
    let verifier: Arc<dyn ServerCertVerifier> = if !spec.verify {
        Arc::new(TrustAny(provider))
    } else {
        let roots = match &spec.ca_pem {
            Some(pem) => Arc::new(custom_roots(pem)?),
            None => system_roots(),
        };
        WebPkiServerVerifier::builder_with_provider(roots, provider).build().map_err(|error| TlsError::Unusable {
            what: "trusted CA",
            source: rustls::Error::General(error.to_string()),
        })?
    };
    let verifier = match spec.pins.is_empty() {
        true => verifier,
        false => Arc::new(Pinned { verifier, pins: spec.pins.clone() }),
    };
    let trusting = versions.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match &spec.client {
        None => trusting.with_no_client_auth(),
        Some(client) => {
            let chain = certificates("client certificate", &client.chain_pem)?;
            let key = PrivateKeyDer::from_pem_slice(client.key_pem.as_bytes())
                .map_err(|source| TlsError::Pem { what: "client key", source })?;
            trusting
                .with_client_auth_cert(chain, key)
                .map_err(|source| TlsError::Unusable { what: "client certificate", source })?
        }
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

fn certificates(what: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsError::Pem { what, source })?;
    if found.is_empty() { Err(TlsError::NoCertificate(what)) } else { Ok(found) }
}

fn custom_roots(pem: &str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("trusted CA", pem)? {
        roots.add(certificate).map_err(|source| TlsError::Unusable { what: "trusted CA", source })?;
    }
    Ok(roots)
}

/// The system's roots, read once; Mozilla's where the system has none (a bare container).
fn system_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let load = || {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        Arc::new(roots)
    };
    ROOTS.get_or_init(load).clone()
}

/// Takes any certificate; still checks that the server holds its key.
#[derive(Debug)]
struct TrustAny(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Takes what another verifier takes, if the server's own certificate has one of these public keys.
#[derive(Debug)]
struct Pinned {
    verifier: Arc<dyn ServerCertVerifier>,
    pins: Vec<Pin>,
}

/// The server's key is none of those that are pinned.
#[derive(Debug, thiserror::Error)]
#[error("the public key of the server's certificate is not pinned: it is `{0}`")]
struct NotPinned(Pin);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        let seen = pin_of(end_entity)?;
        match self.pins.contains(&seen) {
            true => Ok(verified),
            false => Err(rustls::Error::Other(OtherError(Arc::new(NotPinned(seen))))),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

fn pin_of(certificate: &CertificateDer<'_>) -> Result<Pin, rustls::Error> {
    let parsed = webpki::EndEntityCert::try_from(certificate)
        .map_err(|_| rustls::Error::InvalidCertificate(rustls::CertificateError::BadEncoding))?;
    let hash = digest(&SHA256, &parsed.subject_public_key_info());
    let hash = hash.as_ref().try_into().expect("SHA-256 has 32 bytes");
    Ok(Pin(hash))
}
