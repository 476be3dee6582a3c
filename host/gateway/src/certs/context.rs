//! The TLS side of a listener, ready to use. A listener may authenticate clients in different ways by server name; each way is a policy.

use std::pin::Pin;
use std::sync::Arc;

use rustls::server::ClientHello;
use rustls::{CipherSuite, ServerConfig};

use super::by_name::{ByName, normal};
use super::resolver::ByServerName;
use super::{PendingChallenges, algorithms};
use crate::config::model::ClientAuth;

/// The configurations of a listener, one for each policy.
#[derive(Debug)]
pub struct TlsContext {
    /// The first holds for all server names that no other is for.
    policies: Vec<Policy>,
    by_host: ByName<PolicyIndex>,
    /// The names that certificates are for.
    known: ByName<Option<Arc<str>>>,
    warnings: Vec<String>,
    certificates: Arc<ByServerName>,
    challenges: Arc<PendingChallenges>,
}

/// One of the policies of a listener.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PolicyIndex(usize);

/// The configurations of a policy, by who chooses the cipher suite.
#[derive(Debug)]
pub(super) struct Configs {
    /// For clients whose first choice is ChaCha20: they have no instructions for AES. Of a list of an operator's own, the one for all.
    pub(super) first: Arc<ServerConfig>,
    /// For the others: AES-128 comes before AES-256, as its key schedule takes a fraction of the time. None: the operator has listed the suites.
    pub(super) aes: Option<Arc<ServerConfig>>,
}

#[derive(Debug)]
struct Policy {
    configs: Configs,
    /// Whether upstreams get the certificates of clients.
    forward: bool,
}

impl TlsContext {
    pub(super) fn new(
        known: ByName<Option<Arc<str>>>,
        warnings: Vec<String>,
        certificates: Arc<ByServerName>,
        challenges: Arc<PendingChallenges>,
    ) -> Self {
        TlsContext { policies: Vec::new(), by_host: ByName::new(), known, warnings, certificates, challenges }
    }

    /// The name in the configuration or in a certificate that a server name fits.
    pub fn known_name(&self, server_name: &str) -> Option<&Arc<str>> {
        self.known.find_by_label(server_name)?.as_ref()
    }

    /// Adds a policy; the first one is for all server names that no other is for.
    pub(super) fn add(&mut self, auth: Option<&ClientAuth>, configs: Configs) {
        for host in auth.iter().flat_map(|auth| &auth.hosts) {
            *self.by_host.entry(&host.to_string()) = PolicyIndex(self.policies.len());
        }
        self.policies.push(Policy { configs, forward: auth.is_some_and(|auth| auth.forward) });
    }

    /// The policy for a server name or, in a request, for its host.
    pub fn policy(&self, host: Option<&str>) -> PolicyIndex {
        if self.policies.len() == 1 {
            return PolicyIndex::default();
        }
        host.and_then(|host| self.by_host.find_by_suffix(host)).copied().unwrap_or_default()
    }

    /// What a handshake goes on with, and then ends, that asks for a challenge of an ACME authority.
    pub fn challenge(&self, hello: &ClientHello<'_>) -> Option<Arc<ServerConfig>> {
        self.challenges.config(hello)
    }

    /// What waits for the certificate of a server name that may get one on demand. The caller bounds the time.
    pub fn missing_certificate(&self, server_name: Option<&str>) -> Option<Pin<Box<impl Future<Output = ()> + use<>>>> {
        let name = server_name?;
        let candidates = self.certificates.missing(name);
        if candidates.is_empty() {
            return None;
        }
        let name = normal(name);
        Some(Box::pin(async move {
            for certificates in candidates {
                certificates.want(&name).await;
                if certificates.find(&name).is_some() {
                    return;
                }
            }
        }))
    }

    /// The configuration of a policy of this listener for a client that offers these cipher suites.
    pub fn config(&self, policy: PolicyIndex, offered: &[CipherSuite]) -> &Arc<ServerConfig> {
        let Configs { first, aes } = &self.policies[policy.0].configs;
        aes.as_ref().filter(|_| algorithms::prefers_aes(offered)).unwrap_or(first)
    }

    /// Whether upstreams get the certificates that clients show under this policy.
    pub fn forwards(&self, policy: PolicyIndex) -> bool {
        self.policies[policy.0].forward
    }

    /// What an operator should know.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}
