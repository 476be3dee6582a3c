//! The TLS side of a listener, ready to use. A listener may authenticate clients in different ways by server name; each way is a policy.

use std::pin::Pin;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::ClientHello;

use super::PendingChallenges;
use super::by_name::ByName;
use super::resolver::ByServerName;
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

#[derive(Debug)]
struct Policy {
    config: Arc<ServerConfig>,
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
    pub(super) fn add(&mut self, auth: Option<&ClientAuth>, config: Arc<ServerConfig>) {
        for host in auth.iter().flat_map(|auth| &auth.hosts) {
            *self.by_host.entry(&host.to_string()) = PolicyIndex(self.policies.len());
        }
        self.policies.push(Policy { config, forward: auth.is_some_and(|auth| auth.forward) });
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
        let certificates = Arc::clone(self.certificates.missing(name)?);
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        Some(Box::pin(async move { certificates.want(&name).await }))
    }

    /// The configuration of a policy of this listener.
    pub fn config(&self, policy: PolicyIndex) -> &Arc<ServerConfig> {
        &self.policies[policy.0].config
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
