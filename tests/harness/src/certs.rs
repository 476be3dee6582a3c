//! Certificates made for one test: an authority and the leaves it signs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SerialNumber, SignatureAlgorithm, date_time_ymd,
};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SignatureScheme, SupportedCipherSuite, SupportedProtocolVersion,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// An authority with a folder of its own, in which it and its leaves lie as PEM files.
pub struct Certs {
    dir: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, as files.
#[derive(Debug, Clone)]
pub struct Leaf {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Certs {
    /// A new authority.
    #[allow(clippy::new_without_default, reason = "making keys is not a default")]
    pub fn new() -> Certs {
        Certs::named("a test authority")
    }

    /// A new authority of this name. A revocation list is found by it.
    pub fn named(name: &str) -> Certs {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Certs { dir, issuer }
    }

    /// A certificate for these names or addresses.
    pub fn leaf(&self, names: &[&str]) -> Leaf {
        self.leaf_for(names, &rcgen::PKCS_ECDSA_P256_SHA256)
    }

    /// The same with a key for these signatures.
    pub fn leaf_for(&self, names: &[&str], signatures: &'static SignatureAlgorithm) -> Leaf {
        let params = CertificateParams::new(names.iter().map(|n| n.to_string()).collect::<Vec<_>>()).unwrap();
        let key = KeyPair::generate_for(signatures).unwrap();
        let kind = if signatures == &rcgen::PKCS_RSA_SHA256 { "-rsa" } else { "" };
        self.sign(&format!("{}{kind}", names[0].replace('*', "any")), params, &key)
    }

    /// A certificate that has expired at the end of 2020.
    pub fn expired_leaf(&self, names: &[&str]) -> Leaf {
        let mut params = CertificateParams::new(names.iter().map(|n| n.to_string()).collect::<Vec<_>>()).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2020, 12, 31);
        self.sign(&names[0].replace('*', "any"), params, &KeyPair::generate().unwrap())
    }

    /// A certificate with all that these parameters say, in files of this name.
    pub fn sign(&self, file: &str, params: CertificateParams, key: &KeyPair) -> Leaf {
        let cert = params.signed_by(key, &self.issuer).unwrap();
        let leaf = Leaf {
            cert: self.dir.path().join(format!("{file}.pem")),
            key: self.dir.path().join(format!("{file}.key")),
        };
        std::fs::write(&leaf.cert, cert.pem()).unwrap();
        std::fs::write(&leaf.key, key.serialize_pem()).unwrap();
        leaf
    }

    /// A revocation list of the certificates with these serial numbers.
    pub fn revoke(&self, serials: &[&[u8]]) -> PathBuf {
        let revoked = |serial: &&[u8]| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let file = self.dir.path().join("ca.crl");
        std::fs::write(&file, params.signed_by(&self.issuer).unwrap().pem().unwrap()).unwrap();
        file
    }

    /// The authority's certificate.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// What a client that trusts only this authority uses.
    pub fn client_config(&self, alpn: &[&str], versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(self.roots())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|a| a.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    /// The same for a client that shows a certificate.
    pub fn client_config_showing(&self, leaf: &Leaf, alpn: &[&str]) -> Arc<ClientConfig> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots())
            .with_client_auth_cert(chain(&leaf.cert), PrivateKeyDer::from_pem_file(&leaf.key).unwrap())
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|a| a.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    /// The same for a client that verifies only these signatures of a handshake.
    pub fn client_config_verifying(
        &self,
        schemes: &[SignatureScheme],
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ClientConfig> {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        let known = provider.signature_verification_algorithms.mapping.iter();
        let mapping: Vec<_> = known.filter(|(scheme, _)| schemes.contains(scheme)).copied().collect();
        // A test makes few of them.
        provider.signature_verification_algorithms.mapping = Vec::leak(mapping);
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(self.roots())
            .with_no_client_auth();
        Arc::new(config)
    }

    /// The same with these key exchanges, for TLS 1.3.
    pub fn client_config_with(&self, groups: &[&'static dyn SupportedKxGroup]) -> Arc<ClientConfig> {
        let provider = CryptoProvider { kx_groups: groups.to_vec(), ..rustls::crypto::aws_lc_rs::default_provider() };
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(self.roots())
            .with_no_client_auth();
        Arc::new(config)
    }

    /// The same with these cipher suites, in its order.
    pub fn client_config_preferring(&self, suites: &[SupportedCipherSuite]) -> Arc<ClientConfig> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let config = ClientConfig::builder_with_provider(Arc::new(CryptoProvider {
            cipher_suites: suites.to_vec(),
            ..provider
        }))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(self.roots())
        .with_no_client_auth();
        Arc::new(config)
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        roots
    }
}

impl Leaf {
    /// What an origin with this certificate uses.
    pub fn server_config(&self, alpn: &[&str]) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain(&self.cert), PrivateKeyDer::from_pem_file(&self.key).unwrap())
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|a| a.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    /// What an origin uses that knows no key exchange but this one.
    pub fn config_with_only(&self, group: &'static dyn SupportedKxGroup) -> Arc<ServerConfig> {
        let provider = CryptoProvider { kx_groups: vec![group], ..rustls::crypto::aws_lc_rs::default_provider() };
        let config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain(&self.cert), PrivateKeyDer::from_pem_file(&self.key).unwrap())
            .unwrap();
        Arc::new(config)
    }

    /// What an origin uses that wants its clients to show a certificate of this authority.
    pub fn demanding_config(&self, authority: &Certs) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let roots = Arc::new(authority.roots());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build().unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain(&self.cert), PrivateKeyDer::from_pem_file(&self.key).unwrap())
            .unwrap();
        Arc::new(config)
    }

    /// The certificate in DER, to compare with what a server showed.
    pub fn der(&self) -> CertificateDer<'static> {
        chain(&self.cert).remove(0)
    }
}

fn chain(file: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(file).unwrap().map(|c| c.unwrap()).collect()
}
