//! What ACME authorities may ask the gateway for now: the tokens of `http-01` (RFC 8555 §8.3) and the certificates of `tls-alpn-01` (RFC 8737).
//! Who orders adds a challenge and takes it back; a request or handshake looks it up. Without orders under way there is nothing here.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::ClientHello;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};

/// RFC 8737 §6.2.
const ACME_TLS: &[u8] = b"acme-tls/1";
/// What precedes a token in a path (RFC 8555 §8.3).
const PREFIX: &str = "/.well-known/acme-challenge/";

/// One question that an authority may ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Challenge {
    /// `GET /.well-known/acme-challenge/TOKEN` of this host.
    Http { host: String, token: String, key_authorization: String },
    /// A handshake for this host that offers `acme-tls/1`; `digest` is the SHA-256 of the key authorisation.
    TlsAlpn { host: String, digest: [u8; 32] },
}

/// Why a challenge can't be shown.
#[derive(Debug, thiserror::Error)]
pub enum ChallengeError {
    #[error("its certificate can't be made: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("its certificate can't be used: {0}")]
    Tls(#[from] rustls::Error),
}

/// The challenges of this gateway, and those of others that share a state with it.
#[derive(Default)]
pub struct PendingChallenges {
    all: Mutex<Vec<Entry>>,
    shown: ArcSwap<Shown>,
}

struct Entry {
    challenge: Challenge,
    /// Those of other gateways are replaced as a whole.
    shared_by: Option<Arc<str>>,
    /// That of `tls-alpn-01`.
    config: Option<Arc<ServerConfig>>,
}

/// The same to look up.
#[derive(Default)]
struct Shown {
    /// Key authorisations by token, with their hosts.
    tokens: HashMap<String, (String, String)>,
    /// By host.
    configs: HashMap<String, Arc<ServerConfig>>,
}

/// A challenge of this gateway. It is taken back when this is dropped.
#[must_use = "a challenge is taken back when this is dropped"]
pub struct Shows {
    pending: Arc<PendingChallenges>,
    challenge: Challenge,
}

impl PendingChallenges {
    /// Shows a challenge until the answer is dropped.
    pub fn show(self: &Arc<Self>, challenge: Challenge) -> Result<Shows, ChallengeError> {
        let entry = Entry::new(challenge.clone(), None)?;
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(entry);
        self.publish(&all);
        Ok(Shows { pending: Arc::clone(self), challenge })
    }

    /// Shows these of other gateways, in place of those that this state told of before. Those that can't be shown are left out.
    pub fn show_shared(&self, state: &Arc<str>, challenges: Vec<Challenge>) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let is_of = |entry: &Entry| entry.shared_by.as_ref() == Some(state);
        let known: Vec<&Challenge> = all.iter().filter(|entry| is_of(entry)).map(|entry| &entry.challenge).collect();
        if known.len() == challenges.len() && known.iter().all(|known| challenges.contains(known)) {
            return;
        }
        all.retain(|entry| !is_of(entry));
        all.extend(challenges.into_iter().filter_map(|challenge| Entry::new(challenge, Some(Arc::clone(state))).ok()));
        self.publish(&all);
    }

    /// The answer to a request for this path of this host, in lower case and without a port, if it is for a pending challenge.
    pub fn key_authorization(&self, host: &str, path: &str) -> Option<String> {
        let token = path.strip_prefix(PREFIX)?;
        let shown = self.shown.load();
        let (of, key_authorization) = shown.tokens.get(token)?;
        (of == host).then(|| key_authorization.clone())
    }

    /// What a handshake goes on with that asks for a pending challenge.
    pub fn config(&self, hello: &ClientHello<'_>) -> Option<Arc<ServerConfig>> {
        let shown = self.shown.load();
        if shown.configs.is_empty() {
            return None;
        }
        // RFC 8737 §3: this and no other protocol.
        let mut offered = hello.alpn()?;
        if offered.next() != Some(ACME_TLS) || offered.next().is_some() {
            return None;
        }
        shown.configs.get(&hello.server_name()?.to_ascii_lowercase()).cloned()
    }

    fn publish(&self, all: &[Entry]) {
        let mut shown = Shown::default();
        for entry in all {
            match (&entry.challenge, &entry.config) {
                (Challenge::Http { host, token, key_authorization }, _) => {
                    shown.tokens.insert(token.clone(), (host.clone(), key_authorization.clone()));
                }
                (Challenge::TlsAlpn { host, .. }, Some(config)) => {
                    shown.configs.insert(host.clone(), Arc::clone(config));
                }
                (Challenge::TlsAlpn { .. }, None) => {}
            }
        }
        self.shown.store(Arc::new(shown));
    }
}

impl Entry {
    fn new(challenge: Challenge, shared_by: Option<Arc<str>>) -> Result<Self, ChallengeError> {
        let config = match &challenge {
            Challenge::Http { .. } => None,
            Challenge::TlsAlpn { host, digest } => Some(answering(host, digest)?),
        };
        Ok(Entry { challenge, shared_by, config })
    }
}

impl Drop for Shows {
    fn drop(&mut self) {
        let mut all = self.pending.all.lock().unwrap_or_else(PoisonError::into_inner);
        let own = |entry: &Entry| entry.shared_by.is_none() && entry.challenge == self.challenge;
        if let Some(at) = all.iter().position(own) {
            all.remove(at);
        }
        self.pending.publish(&all);
    }
}

/// RFC 8737 §3: a self-signed certificate for the host with the digest in a critical extension, and no protocol but this.
fn answering(host: &str, digest: &[u8; 32]) -> Result<Arc<ServerConfig>, ChallengeError> {
    let mut params = CertificateParams::new([host.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(default_provider());
    // Not compared with its certificate: webpki refuses the critical extension.
    let pair = CertifiedKey::new(vec![certificate.der().clone()], provider.key_provider.load_private_key(key)?);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
    config.alpn_protocols = vec![ACME_TLS.to_vec()];
    Ok(Arc::new(config))
}

impl fmt::Debug for PendingChallenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingChallenges").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(host: &str, token: &str) -> Challenge {
        Challenge::Http { host: host.to_owned(), token: token.to_owned(), key_authorization: format!("{token}.print") }
    }

    #[test]
    fn a_token_is_answered_for_its_host_and_while_it_is_pending() {
        let pending = Arc::new(PendingChallenges::default());
        let path = "/.well-known/acme-challenge/abc";
        assert_eq!(pending.key_authorization("a.test", path), None);
        let shows = pending.show(http("a.test", "abc")).expect("shown");
        assert_eq!(pending.key_authorization("a.test", path).as_deref(), Some("abc.print"));
        assert_eq!(pending.key_authorization("b.test", path), None, "a foreign host");
        assert_eq!(pending.key_authorization("a.test", "/.well-known/acme-challenge/abd"), None, "a foreign token");
        assert_eq!(pending.key_authorization("a.test", "/abc"), None);
        drop(shows);
        assert_eq!(pending.key_authorization("a.test", path), None);
    }

    #[test]
    fn those_of_other_gateways_replace_what_their_state_told_before() {
        let pending = Arc::new(PendingChallenges::default());
        let _own = pending.show(http("own.test", "o")).expect("shown");
        let (one, two) = (Arc::from("one"), Arc::from("two"));
        pending.show_shared(&one, vec![http("a.test", "a")]);
        pending.show_shared(&two, vec![http("b.test", "b")]);
        pending.show_shared(&one, vec![http("c.test", "c")]);
        let shown = |host: &str, token: &str| {
            pending.key_authorization(host, &format!("/.well-known/acme-challenge/{token}")).is_some()
        };
        assert_eq!([shown("a.test", "a"), shown("b.test", "b"), shown("c.test", "c")], [false, true, true]);
        pending.show_shared(&one, Vec::new());
        assert!(!shown("c.test", "c") && shown("b.test", "b") && shown("own.test", "o"));
    }

    #[test]
    fn a_certificate_is_made_for_each_handshake_challenge() {
        let pending = Arc::new(PendingChallenges::default());
        let shows = pending.show(Challenge::TlsAlpn { host: "a.test".to_owned(), digest: [7; 32] }).expect("shown");
        assert_eq!(pending.shown.load().configs.len(), 1);
        drop(shows);
        assert!(pending.shown.load().configs.is_empty());
    }
}
