//! Certificates of clients: how they are verified, and who is in one.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use data_encoding::HEXLOWER;
use http::HeaderValue;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::TlsError;
use super::x509::Fields;
use crate::config::model::{ClientAuth, ClientAuthMode};

/// Bytes of a line of PEM (RFC 7468 §2).
const PEM_LINE: usize = 64;
/// A certificate that a client has shown and rustls has verified.
#[derive(Debug, Clone)]
pub struct ClientCertificate {
    /// As filters see it: JSON text.
    pub facts: Arc<str>,
    /// The field `Client-Cert` (RFC 9440 §2.2), where upstreams get it.
    pub field: Option<HeaderValue>,
}

/// Why a certificate that was verified is not taken all the same.
#[derive(Debug, thiserror::Error)]
pub enum ClientCertificateError {
    #[error("the client's certificate can't be read")]
    Malformed,
    #[error("the client's certificate has expired")]
    Expired,
}

/// What verifies the certificates of clients.
pub(super) fn verifier(
    auth: &ClientAuth,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(auth.ca.text.as_bytes()) {
        roots.add(authority.map_err(TlsError::ClientCa)?).map_err(TlsError::ClientAuthority)?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    if let Some(lists) = &auth.crl {
        let lists: Vec<CertificateRevocationListDer<'static>> =
            CertificateRevocationListDer::pem_slice_iter(lists.text.as_bytes())
                .collect::<Result<_, _>>()
                .map_err(TlsError::ClientCrl)?;
        // A list past its next update says nothing of certificates that were revoked since.
        builder = builder.with_crls(lists).enforce_revocation_expiration();
    }
    if auth.mode == ClientAuthMode::Optional {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map_err(TlsError::ClientVerifier)
}

impl ClientCertificate {
    /// Reads a certificate. A resumed session has one that was verified when the session began, so its end is looked at again.
    pub fn read(der: &CertificateDer<'_>, forward: bool) -> Result<Self, ClientCertificateError> {
        let fields = Fields::read(der).ok_or(ClientCertificateError::Malformed)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if fields.not_after < i64::try_from(now).unwrap_or(i64::MAX) {
            return Err(ClientCertificateError::Expired);
        }
        let base64 = STANDARD.encode(der);
        let facts = json!({
            "subject": fields.subject,
            "issuer": fields.issuer,
            "serial": fields.serial,
            "not_before": fields.not_before,
            "not_after": fields.not_after,
            "sha256": HEXLOWER.encode(&Sha256::digest(der)),
            "dns_names": fields.dns_names,
            "uris": fields.uris,
            "emails": fields.emails,
            "ip_addresses": fields.ip_addresses,
            "pem": pem(&base64),
        });
        // RFC 8941 §3.3.5: a byte sequence stands between colons.
        let field = forward.then(|| HeaderValue::try_from(format!(":{base64}:")));
        let field = field.transpose().map_err(|_| ClientCertificateError::Malformed)?;
        Ok(ClientCertificate { facts: facts.to_string().into(), field })
    }
}

fn pem(base64: &str) -> String {
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in base64.as_bytes().chunks(PEM_LINE) {
        out.extend(line.iter().copied().map(char::from));
        out.push('\n');
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType, SerialNumber};

    use super::*;

    fn certificate(change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().clone()
    }

    #[test]
    fn a_certificate_is_shown_with_its_names() {
        let der = certificate(|params| {
            let mut name = DistinguishedName::new();
            name.push(DnType::OrganizationName, "Acme, Inc.");
            name.push(DnType::CommonName, " alice+CN=admin");
            params.distinguished_name = name;
            params.serial_number = Some(SerialNumber::from(vec![0x0a, 0xff]));
            params.subject_alt_names = vec![
                SanType::DnsName("a.test".try_into().expect("ASCII")),
                SanType::URI("spiffe://test/a".try_into().expect("ASCII")),
                SanType::Rfc822Name("a@a.test".try_into().expect("ASCII")),
                SanType::IpAddress([192, 0, 2, 1].into()),
            ];
        });
        let read = ClientCertificate::read(&der, true).expect("a good certificate");
        let facts: serde_json::Value = serde_json::from_str(&read.facts).expect("JSON");
        assert_eq!(
            facts["subject"], r"CN=\ alice\+CN=admin,O=Acme\, Inc.",
            "no value looks like an element of its own"
        );
        assert_eq!(facts["serial"], "0aff");
        assert_eq!(facts["dns_names"], json!(["a.test"]));
        assert_eq!(facts["uris"], json!(["spiffe://test/a"]));
        assert_eq!(facts["emails"], json!(["a@a.test"]));
        assert_eq!(facts["ip_addresses"], json!(["192.0.2.1"]));
        let pem = facts["pem"].as_str().expect("text");
        assert_eq!(CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM"), der);
        assert_eq!(read.field.expect("asked for"), format!(":{}:", STANDARD.encode(&der)));
    }

    #[test]
    fn an_expired_certificate_is_refused_also_in_a_resumed_session() {
        let der = certificate(|params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
        assert!(matches!(ClientCertificate::read(&der, false), Err(ClientCertificateError::Expired)));
    }

    #[test]
    fn bytes_that_are_no_certificate_are_refused() {
        let der = CertificateDer::from(vec![0x30, 0x03, 0x02, 0x01]);
        assert!(matches!(ClientCertificate::read(&der, false), Err(ClientCertificateError::Malformed)));
    }
}
