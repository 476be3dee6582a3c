//! Keys from PEM text (RFC 7468): public keys, certificates and private keys.

use aws_lc_rs::signature::{EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair};
use rustls_pki_types::pem::{self, SectionKind};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use super::key::{Hash, Material, RsaPublic, ec_signing};

/// The key of the first section that has one. A chain's further certificates belong to authorities and must not verify
/// anything here. A certificate is taken as a container: its dates and issuer are not looked at.
pub(super) fn parse(text: &str) -> Result<Material, String> {
    // The parser knows no `RSA PUBLIC KEY` label, so that one is read as what it holds.
    if let Some(der) = pkcs1_public(text)? {
        return Ok(Material::Rsa { public: Box::new(RsaPublic::from_der(&der)?), private: None });
    }
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes()) {
        let (kind, der) = section.map_err(|e| format!("the pem can't be read: {}", describe(&e)))?;
        return match kind {
            SectionKind::PublicKey => Material::from_spki(&der),
            SectionKind::Certificate => from_certificate(der),
            SectionKind::RsaPrivateKey => RsaKeyPair::from_der(&der)
                .map_err(|e| format!("an RSA private key that is not valid ({e})"))
                .and_then(Material::rsa_pair),
            SectionKind::EcPrivateKey => from_sec1(&der),
            SectionKind::PrivateKey => from_pkcs8(&der),
            _ => continue,
        };
    }
    Err("the pem has neither a key nor a certificate".to_owned())
}

/// The certificates of authorities: all of the text.
pub(super) fn authorities(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let list = list.map_err(|e| format!("the pem can't be read: {}", describe(&e)))?;
    for der in &list {
        webpki::anchor_from_trusted_cert(der).map_err(|e| format!("a certificate can't be read: {e}"))?;
    }
    if list.is_empty() { Err("the pem has no certificate".to_owned()) } else { Ok(list) }
}

fn from_certificate(der: Vec<u8>) -> Result<Material, String> {
    let der = CertificateDer::from(der);
    let certificate =
        webpki::EndEntityCert::try_from(&der).map_err(|e| format!("the certificate can't be read: {e}"))?;
    Material::from_spki(&certificate.subject_public_key_info())
}

fn from_sec1(der: &[u8]) -> Result<Material, String> {
    for hash in [Hash::Sha256, Hash::Sha384, Hash::Sha512] {
        if let Ok(pair) = EcdsaKeyPair::from_private_key_der(ec_signing(hash), der) {
            return Material::ec_pair(hash, pair);
        }
    }
    Err("an EC private key that is on none of P-256, P-384 and P-521".to_owned())
}

fn from_pkcs8(der: &[u8]) -> Result<Material, String> {
    if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
        return Material::ed25519_pair(pair);
    }
    for hash in [Hash::Sha256, Hash::Sha384, Hash::Sha512] {
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(ec_signing(hash), der) {
            return Material::ec_pair(hash, pair);
        }
    }
    match RsaKeyPair::from_pkcs8(der) {
        Ok(pair) => Material::rsa_pair(pair),
        Err(_) => {
            Err("a private key that is none of RSA (2048 bits or more), P-256, P-384, P-521 and Ed25519".to_owned())
        }
    }
}

/// The body of an `RSA PUBLIC KEY` section (PKCS#1, RFC 8017 appendix A.1.1).
fn pkcs1_public(text: &str) -> Result<Option<Vec<u8>>, String> {
    if !text.contains("-----BEGIN RSA PUBLIC KEY-----") {
        return Ok(None);
    }
    let renamed = text.replace(" RSA PUBLIC KEY-----", " PUBLIC KEY-----");
    match <(SectionKind, Vec<u8>)>::from_pem_slice(renamed.as_bytes()) {
        Ok((_, der)) => Ok(Some(der)),
        Err(e) => Err(format!("the pem can't be read: {}", describe(&e))),
    }
}

fn describe(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no end",
        pem::Error::IllegalSectionStart { .. } => "a section's first line is malformed",
        pem::Error::Base64Decode(_) => "a section is not base64",
        pem::Error::NoItemsFound => "it has no section",
        _ => "it is malformed",
    }
}
