//! Certificates, verification of clients and TLS sessions. They live in a store that outlives snapshots: after a reload clients resume
//! their sessions, and a certificate that has not changed is not read again. The handshake itself is part of the connection.

mod algorithms;
mod by_name;
mod challenges;
mod client;
mod context;
mod expiry;
mod hsts;
mod managed;
mod on_demand;
mod resolver;
mod sessions;
mod tickets;
mod x509;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use aws_lc_rs::error::Unspecified;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::{ResolvesServerCert, VerifierBuilderError};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};

use crate::config::model::{ClientAuth, ListenerTls, SessionTickets};
use crate::route::HostPattern;
use by_name::ByName;
use context::Configs;
use resolver::ByServerName;
use sessions::{Scope, Sessions};

pub use challenges::{Challenge, ChallengeError, PendingChallenges, Shows};
pub use client::{ClientCertificate, ClientCertificateError};
pub use context::{PolicyIndex, TlsContext};
pub use expiry::{ChainValidity, Validity};
pub use hsts::HstsPolicies;
pub use managed::{ManagedCertificate, Progress};
pub use on_demand::{MAX_CERTIFICATES as MAX_ON_DEMAND, OnDemandCertificates, Want};

/// A certificate chain with its key, as PEM text.
#[derive(Clone, Copy)]
pub struct CertificateSource<'a> {
    pub name: &'a str,
    pub chain: &'a str,
    pub key: &'a str,
    /// `example.org` or `*.example.org`; empty means the names in the certificate.
    pub hosts: &'a [String],
}

/// A certificate of a listener that is ordered, among those that are configured.
#[derive(Clone, Copy)]
pub struct OrderedCertificate<'a> {
    /// Its index in the listener's list of all certificates.
    pub at: usize,
    pub place: &'a OrderedPlace,
    /// `example.org` or `*.example.org`; empty for those on demand.
    pub names: &'a [String],
    /// The names that may get one on demand; empty for all.
    pub hosts: &'a [HostPattern],
}

/// Where an ordered certificate is put. Clones are the same place.
#[derive(Debug, Clone)]
pub enum OrderedPlace {
    One(Arc<ManagedCertificate>),
    /// Those for names that clients ask for.
    OnDemand(Arc<OnDemandCertificates>),
}

impl OrderedPlace {
    /// Whether both are the same place.
    pub fn is(&self, other: &OrderedPlace) -> bool {
        match (self, other) {
            (OrderedPlace::One(one), OrderedPlace::One(other)) => Arc::ptr_eq(one, other),
            (OrderedPlace::OnDemand(one), OrderedPlace::OnDemand(other)) => Arc::ptr_eq(one, other),
            (OrderedPlace::One(_), OrderedPlace::OnDemand(_)) | (OrderedPlace::OnDemand(_), OrderedPlace::One(_)) => {
                false
            }
        }
    }
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
    #[error("`client_auth.ca` is not PEM")]
    ClientCa(#[source] rustls_pki_types::pem::Error),
    #[error("`client_auth.ca`: malformed certificate: {0}")]
    ClientAuthority(rustls::Error),
    #[error("`client_auth.crl` is not PEM")]
    ClientCrl(#[source] rustls_pki_types::pem::Error),
    #[error("`client_auth`: clients cannot be verified: {0}")]
    ClientVerifier(VerifierBuilderError),
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
    #[error("no keys for session tickets can be made")]
    Tickets(#[from] Unspecified),
}

/// How a listener speaks TLS.
#[derive(Clone, Copy)]
pub struct TlsPolicy<'a> {
    /// The listener's name. Sessions of one listener are not resumed on another one.
    pub listener: &'a str,
    /// The first certificate serves clients whose server name fits none. Of several for one name, the first that a client can verify.
    pub certificates: &'a [CertificateSource<'a>],
    /// Its `certificates` are these.
    pub settings: &'a ListenerTls,
    pub http1: bool,
    pub h2: bool,
}

/// What all snapshots share.
#[derive(Default)]
pub struct CertStore {
    shared: Mutex<Shared>,
    challenges: Arc<PendingChallenges>,
    /// Those that are ordered, by name: a reload finds them with what is in them.
    ordered: Mutex<Ordered>,
}

#[derive(Default)]
struct Ordered {
    one: HashMap<String, Weak<ManagedCertificate>>,
    on_demand: HashMap<String, Weak<OnDemandCertificates>>,
}

#[derive(Default)]
struct Shared {
    sessions: HashMap<(Scope, SessionTickets), Sessions>,
    /// By the hash of chain and key.
    certificates: HashMap<[u8; 32], Certificate>,
}

/// A certificate that was read.
#[derive(Clone)]
struct Certificate {
    key: Arc<CertifiedKey>,
    /// The names in it.
    names: Vec<String>,
}

impl CertStore {
    /// The challenges that authorities may ask for now.
    pub fn challenges(&self) -> &Arc<PendingChallenges> {
        &self.challenges
    }

    /// The place of the ordered certificate of this name: the one that is in use, or a new one.
    pub fn managed(&self, name: &str) -> Arc<ManagedCertificate> {
        let mut ordered = self.ordered.lock().unwrap_or_else(PoisonError::into_inner);
        known_or(&mut ordered.one, name, ManagedCertificate::new)
    }

    /// The places of the certificates on demand of this name, in the same way.
    pub fn on_demand(&self, name: &str) -> Arc<OnDemandCertificates> {
        let mut ordered = self.ordered.lock().unwrap_or_else(PoisonError::into_inner);
        known_or(&mut ordered.on_demand, name, OnDemandCertificates::new)
    }

    /// The TLS side of a listener. One configuration serves all workers, so a ticket of one is good at every other.
    pub fn context(&self, policy: TlsPolicy<'_>) -> Result<Arc<TlsContext>, TlsError> {
        self.context_with(policy, &[])
    }

    /// The same with certificates that are ordered, in the order of the listener's list.
    pub fn context_with(
        &self,
        policy: TlsPolicy<'_>,
        ordered: &[OrderedCertificate<'_>],
    ) -> Result<Arc<TlsContext>, TlsError> {
        let provider = Arc::new(algorithms::provider(policy.settings));
        let aes_provider = algorithms::aes_provider(policy.settings).map(Arc::new);
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let mut resolver = ByServerName::new();
        let mut warnings = Vec::new();
        let mut known: ByName<Option<Arc<str>>> = ByName::new();
        let mut know = |name: &str| {
            known.entry(name).get_or_insert_with(|| Arc::from(name.to_ascii_lowercase()));
        };
        let (mut given, mut ordered) = (policy.certificates.iter(), ordered.iter().peekable());
        for at in 0.. {
            if let Some(OrderedCertificate { place, names, hosts, .. }) = ordered.next_if(|ordered| ordered.at == at) {
                names.iter().for_each(|name| know(name));
                match place {
                    OrderedPlace::One(place) => resolver.add_managed(names, place),
                    OrderedPlace::OnDemand(certificates) => resolver.add_on_demand(hosts, certificates),
                }
                continue;
            }
            let Some(source) = given.next() else { break };
            let Certificate { key, names } = shared.certificate(source, &provider)?;
            let names = if source.hosts.is_empty() { &names } else { source.hosts };
            names.iter().for_each(|name| know(name));
            for host in resolver.add(names, &key) {
                warnings.push(format!(
                    "certificate `{}` is never used for `{host}`: an earlier one has a key of the same kind",
                    source.name
                ));
            }
        }
        if resolver.is_empty() {
            return Err(TlsError::NoCertificate);
        }
        let by_name = Arc::new(resolver);
        let resolver: Arc<dyn ResolvesServerCert> = Arc::clone(&by_name) as _;
        let mut context = TlsContext::new(known, warnings, by_name, Arc::clone(&self.challenges));
        let client_auth = &policy.settings.client_auth;
        let default = client_auth.iter().find(|auth| auth.hosts.is_empty());
        let named = client_auth.iter().filter(|auth| !auth.hosts.is_empty());
        for auth in std::iter::once(default).chain(named.map(Some)) {
            // A resumed session skips the lists: also one that has run out since (rustls verifies nothing then).
            let resumes = auth.is_none_or(|auth| auth.crl.is_none());
            let tickets = policy.settings.session_tickets.as_ref().filter(|_| resumes);
            let sessions = tickets.map(|tickets| shared.sessions(Scope::of(&policy, auth), tickets)).transpose()?;
            let config = |provider, order| server_config(&policy, auth, provider, order, &resolver, sessions.as_ref());
            let order = if aes_provider.is_some() { Order::Client } else { Order::Gateway };
            let first = config(&provider, order)?;
            let aes = aes_provider.as_ref().map(|provider| config(provider, Order::Gateway)).transpose()?;
            context.add(auth, Configs { first, aes });
        }
        Ok(Arc::new(context))
    }
}

/// Whether a certificate can be shown with its key.
pub fn check_certificate(source: &CertificateSource<'_>) -> Result<(), TlsError> {
    read(source, &default_provider()).map(drop)
}

/// Whether clients can be verified by these authorities and revocation lists.
pub fn check_client_auth(auth: &ClientAuth) -> Result<(), TlsError> {
    client::verifier(auth, &Arc::new(default_provider())).map(drop)
}

/// What an authority knows a certificate by when it says when to renew it (RFC 9773 §4.1): the identifier of the authority's key and the serial
/// number, both in hexadecimal. `None`: the first certificate of the chain does not have them.
pub fn renewal_identifier(chain: &str) -> Option<(String, String)> {
    let leaf = CertificateDer::from_pem_slice(chain.as_bytes()).ok()?;
    let fields = x509::Fields::read(&leaf)?;
    (!fields.authority_key.is_empty()).then_some((fields.authority_key, fields.serial))
}

fn known_or<T>(known: &mut HashMap<String, Weak<T>>, name: &str, make: impl FnOnce(&str) -> Arc<T>) -> Arc<T> {
    known.retain(|_, one| one.strong_count() > 0);
    if let Some(one) = known.get(name).and_then(Weak::upgrade) {
        return one;
    }
    let made = make(name);
    known.insert(name.to_owned(), Arc::downgrade(&made));
    made
}

/// Whose order of cipher suites decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Client,
    Gateway,
}

/// The configuration for the server names of one way to authenticate clients.
fn server_config(
    policy: &TlsPolicy<'_>,
    auth: Option<&ClientAuth>,
    provider: &Arc<CryptoProvider>,
    order: Order,
    resolver: &Arc<dyn ResolvesServerCert>,
    sessions: Option<&Sessions>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&algorithms::versions(policy.settings))
        .map_err(TlsError::Setup)?;
    let builder = match auth {
        Some(auth) => builder.with_client_cert_verifier(client::verifier(auth, provider)?),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::clone(resolver));
    match sessions {
        Some(sessions) => sessions.apply(&mut config),
        None => sessions::resume_nothing(&mut config),
    }
    config.ignore_client_order = order == Order::Gateway;
    config.max_early_data_size = 0;
    // RFC 7301 §3.2: a client that offers only protocols that we don't list is turned away in the handshake.
    config.alpn_protocols = [(policy.h2, "h2"), (policy.http1, "http/1.1"), (policy.http1, "http/1.0")]
        .iter()
        .filter(|(on, _)| *on)
        .map(|(_, name)| name.as_bytes().to_vec())
        .collect();
    Ok(Arc::new(config))
}

impl Shared {
    /// The sessions of a scope: those that are in use, or new ones.
    fn sessions(&mut self, scope: Scope, tickets: &SessionTickets) -> Result<Sessions, TlsError> {
        let key = (scope, tickets.clone());
        self.sessions.retain(|known, sessions| *known == key || sessions.are_used());
        if let Some(known) = self.sessions.get(&key) {
            return Ok(known.clone());
        }
        let made = Sessions::new(tickets, scope)?;
        self.sessions.insert(key, made.clone());
        Ok(made)
    }

    /// A certificate as it is known, or read now.
    fn certificate(
        &mut self,
        source: &CertificateSource<'_>,
        provider: &CryptoProvider,
    ) -> Result<Certificate, TlsError> {
        let hash = hash(source);
        self.certificates.retain(|known, certificate| *known == hash || Arc::strong_count(&certificate.key) > 1);
        if let Some(known) = self.certificates.get(&hash) {
            return Ok(known.clone());
        }
        let read = read(source, provider)?;
        self.certificates.insert(hash, read.clone());
        Ok(read)
    }
}

fn hash(source: &CertificateSource<'_>) -> [u8; 32] {
    let mut hasher = Sha256::new();
    // The length says where the chain ends.
    hasher.update(source.chain.len().to_be_bytes());
    hasher.update(source.chain);
    hasher.update(source.key);
    hasher.finalize().into()
}

fn read(source: &CertificateSource<'_>, provider: &CryptoProvider) -> Result<Certificate, TlsError> {
    let name = || source.name.to_owned();
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(source.chain.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::Chain(name(), error))?;
    let Some(leaf) = chain.first() else { return Err(TlsError::Empty(name())) };
    let leaf = webpki::EndEntityCert::try_from(leaf).map_err(|error| TlsError::Certificate(name(), error))?;
    let names = leaf.valid_dns_names().map(str::to_owned).collect();
    let key = PrivateKeyDer::from_pem_slice(source.key.as_bytes()).map_err(|error| TlsError::Key(name(), error))?;
    let pair = CertifiedKey::from_der(chain, key, provider).map_err(|error| TlsError::Pair(name(), error))?;
    Ok(Certificate { key: Arc::new(pair), names })
}

#[cfg(test)]
mod tests;
