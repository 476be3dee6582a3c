//! TLS towards clients: certificates by server name, ALPN, versions. The handshake itself is part of the connection.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::{Ticketer, default_provider};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::model::TlsVersion;

/// A certificate chain with its key, as PEM text.
#[derive(Clone, Copy)]
pub struct CertificateSource<'a> {
    pub name: &'a str,
    pub chain: &'a str,
    pub key: &'a str,
    /// `example.org` or `*.example.org`; empty means the names in the certificate.
    pub hosts: &'a [String],
}

/// Why no TLS configuration could be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("certificate `{0}`: chain is not PEM")]
    Chain(String, #[source] rustls_pki_types::pem::Error),
    #[error("certificate `{0}`: no certificate in the chain")]
    Empty(String),
    #[error("certificate `{0}`: key is not PEM")]
    Key(String, #[source] rustls_pki_types::pem::Error),
    #[error("certificate `{0}`: chain and key cannot be used together: {1}")]
    Pair(String, rustls::Error),
    #[error("certificate `{0}`: malformed certificate: {1}")]
    Certificate(String, webpki::Error),
    #[error("no certificate")]
    NoCertificate,
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
}

/// The TLS side of a listener. The first certificate serves clients whose server name fits none.
pub fn server_config(
    certificates: &[CertificateSource<'_>],
    http1: bool,
    h2: bool,
    min_version: TlsVersion,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(default_provider());
    let mut resolver: Option<ByServerName> = None;
    for source in certificates {
        let (key, names) = load(source, &provider)?;
        let resolver = resolver.get_or_insert_with(|| ByServerName {
            exact: HashMap::new(),
            wildcard: HashMap::new(),
            default: Arc::clone(&key),
        });
        for name in names {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            // The first certificate for a name keeps it.
            match name.strip_prefix("*.") {
                Some(parent) => resolver.wildcard.entry(parent.to_owned()).or_insert_with(|| Arc::clone(&key)),
                None => resolver.exact.entry(name).or_insert_with(|| Arc::clone(&key)),
            };
        }
    }
    let resolver = resolver.ok_or(TlsError::NoCertificate)?;
    let versions: &[&rustls::SupportedProtocolVersion] = match min_version {
        TlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(TlsError::Setup)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    // One configuration serves all workers, so a ticket of one is good at every other.
    config.ticketer = Ticketer::new().map_err(TlsError::Setup)?;
    config.max_early_data_size = 0;
    // RFC 7301 §3.2: a client that offers only protocols that we don't list is turned away in the handshake.
    config.alpn_protocols = [(h2, "h2"), (http1, "http/1.1")]
        .iter()
        .filter(|(on, _)| *on)
        .map(|(_, name)| name.as_bytes().to_vec())
        .collect();
    Ok(Arc::new(config))
}

fn load(
    source: &CertificateSource<'_>,
    provider: &rustls::crypto::CryptoProvider,
) -> Result<(Arc<CertifiedKey>, Vec<String>), TlsError> {
    let name = || source.name.to_owned();
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(source.chain.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::Chain(name(), error))?;
    let names = match chain.first() {
        None => return Err(TlsError::Empty(name())),
        Some(_) if !source.hosts.is_empty() => source.hosts.to_vec(),
        Some(leaf) => {
            let leaf = webpki::EndEntityCert::try_from(leaf).map_err(|error| TlsError::Certificate(name(), error))?;
            leaf.valid_dns_names().map(str::to_owned).collect()
        }
    };
    let key = PrivateKeyDer::from_pem_slice(source.key.as_bytes()).map_err(|error| TlsError::Key(name(), error))?;
    let pair = CertifiedKey::from_der(chain, key, provider).map_err(|error| TlsError::Pair(name(), error))?;
    Ok((Arc::new(pair), names))
}

#[derive(Debug)]
struct ByServerName {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By what follows `*.`; a wildcard stands for exactly one label (RFC 9525 §6.3).
    wildcard: HashMap<String, Arc<CertifiedKey>>,
    default: Arc<CertifiedKey>,
}

impl ByServerName {
    fn find(&self, server_name: Option<&str>) -> &Arc<CertifiedKey> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn bad_pems_name_their_certificate() {
        let (chain, _) = pair(&["a.test"]);
        let (_, other_key) = pair(&["b.test"]);
        let make = |chain: &str, key: &str| {
            let source = CertificateSource { name: "main", chain, key, hosts: &[] };
            server_config(&[source], true, true, TlsVersion::Tls12).map(|_| ()).expect_err("refused").to_string()
        };
        assert_eq!(make("", &other_key), "certificate `main`: no certificate in the chain");
        assert_eq!(make(&chain, "nonsense"), "certificate `main`: key is not PEM");
        assert!(make(&chain, &other_key).starts_with("certificate `main`: chain and key cannot be used together"));
        let none = server_config(&[], true, true, TlsVersion::Tls12).map(|_| ()).expect_err("refused");
        assert_eq!(none.to_string(), "no certificate");
    }

    #[test]
    fn names_choose_exactly_then_by_wildcard_then_the_first() {
        let provider = default_provider();
        let certificate = |names: &[&str]| {
            let (chain, key) = pair(names);
            let (key, names) = load(&CertificateSource { name: "c", chain: &chain, key: &key, hosts: &[] }, &provider)
                .expect("a pair");
            (key, names)
        };
        let (first, names) = certificate(&["first.test"]);
        assert_eq!(names, ["first.test"]);
        let (wild, names) = certificate(&["*.wild.test"]);
        assert_eq!(names, ["*.wild.test"]);
        let resolver = ByServerName {
            exact: HashMap::from([("first.test".into(), Arc::clone(&first))]),
            wildcard: HashMap::from([("wild.test".into(), Arc::clone(&wild))]),
            default: Arc::clone(&first),
        };
        assert!(Arc::ptr_eq(resolver.find(Some("a.wild.test")), &wild));
        assert!(Arc::ptr_eq(resolver.find(Some("a.b.wild.test")), &first), "one label only");
        assert!(Arc::ptr_eq(resolver.find(Some("wild.test")), &first));
        assert!(Arc::ptr_eq(resolver.find(None), &first));
    }
}
