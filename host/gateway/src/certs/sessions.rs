//! TLS sessions that clients can resume: the keys of their tickets, and the cache for clients without tickets (TLS 1.2).

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{NoServerSessionStorage, ProducesTickets, ServerSessionMemoryCache, StoresServerSessions};
use rustls::{Error, ServerConfig};
use sha2::{Digest, Sha256};

use super::TlsPolicy;
use crate::config::model::{ClientAuth, ClientAuthMode, TlsVersion};

/// Sessions kept for clients without tickets, for each scope.
const CACHED_SESSIONS: usize = 256;

/// Where a session can be resumed: everything that decides who is let in and how. A resumed session skips the checks of the handshake,
/// so a session that began under one policy must never go on under another: a client that was not asked for a certificate, or that showed
/// one of other authorities. The gateway's own certificates don't belong here: who resumes does not see one, and has checked it when the
/// session began (rustls resumes a session only for the same server name).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Scope {
    listener: Box<str>,
    min_version: TlsVersion,
    /// The hash of how clients authenticate, where they do.
    client_auth: Option<[u8; 32]>,
}

impl Scope {
    pub(super) fn of(policy: &TlsPolicy<'_>, auth: Option<&ClientAuth>) -> Self {
        Scope { listener: policy.listener.into(), min_version: policy.min_version, client_auth: auth.map(hash) }
    }
}

fn hash(auth: &ClientAuth) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update([match auth.mode {
        ClientAuthMode::Required => 0,
        ClientAuthMode::Optional => 1,
    }]);
    // The length says where the authorities end.
    hasher.update(auth.ca.len().to_be_bytes());
    hasher.update(&auth.ca);
    if let Some(lists) = &auth.crl {
        hasher.update(lists);
    }
    hasher.finalize().into()
}

/// The sessions of one scope. Clones are the same sessions.
#[derive(Clone)]
pub(super) struct Sessions {
    /// It changes its key every six hours and takes the one before for six more.
    tickets: Arc<dyn ProducesTickets>,
    cache: Arc<dyn StoresServerSessions>,
}

impl Sessions {
    pub(super) fn new() -> Result<Self, Error> {
        Ok(Sessions { tickets: Ticketer::new()?, cache: ServerSessionMemoryCache::new(CACHED_SESSIONS) })
    }

    pub(super) fn apply(&self, config: &mut ServerConfig) {
        config.ticketer = Arc::clone(&self.tickets);
        config.session_storage = Arc::clone(&self.cache);
    }

    /// Whether a configuration has them, that of a snapshot or of an open connection.
    pub(super) fn are_used(&self) -> bool {
        Arc::strong_count(&self.tickets) > 1
    }
}

/// Clients shake hands in full each time.
pub(super) fn resume_nothing(config: &mut ServerConfig) {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
}
