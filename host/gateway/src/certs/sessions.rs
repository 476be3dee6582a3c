//! TLS sessions that clients can resume: their tickets, and the cache for clients without tickets (TLS 1.2).

use std::sync::Arc;

use aws_lc_rs::error::Unspecified;
use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, ProducesTickets, ServerSessionMemoryCache, StoresServerSessions};
use sha2::{Digest, Sha256};

use super::TlsPolicy;
use super::tickets::Tickets;
use crate::config::model::{ClientAuth, ClientAuthMode, SessionTickets, TlsVersion};

/// Sessions kept for clients without tickets, for each scope.
const CACHED_SESSIONS: usize = 256;

/// Where a session can be resumed: everything that decides who is let in and how. A resumed session skips the checks of the handshake,
/// so a session that began under one policy must never go on under another: a client that was not asked for a certificate, or that showed
/// one of other authorities. The gateway's own certificates don't belong here: who resumes does not see one, and has checked it when the
/// session began (rustls resumes a session only for the same server name).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Scope([u8; 32]);

impl Scope {
    pub(super) fn of(policy: &TlsPolicy<'_>, auth: Option<&ClientAuth>) -> Self {
        let TlsPolicy { listener, settings, .. } = policy;
        let mut hash = Sha256::new();
        // The length says where each text ends. Gateways that share tickets have to find the same scope.
        let mut add = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        add(listener.as_bytes());
        add(&[settings.min_version, settings.max_version].map(|version| match version {
            TlsVersion::Tls12 => 2,
            TlsVersion::Tls13 => 3,
        }));
        if let Some(auth) = auth {
            add(&[match auth.mode {
                ClientAuthMode::Required => 0,
                ClientAuthMode::Optional => 1,
            }]);
            add(auth.ca.text.as_bytes());
            add(auth.crl.as_ref().map_or("", |lists| &lists.text).as_bytes());
        }
        Scope(hash.finalize().into())
    }
}

/// The sessions of one scope. Clones are the same sessions.
#[derive(Clone)]
pub(super) struct Sessions {
    tickets: Arc<dyn ProducesTickets>,
    cache: Arc<dyn StoresServerSessions>,
}

impl Sessions {
    pub(super) fn new(settings: &SessionTickets, scope: Scope) -> Result<Self, Unspecified> {
        let tickets = Arc::new(Tickets::new(settings, scope.0)?);
        Ok(Sessions { tickets, cache: ServerSessionMemoryCache::new(CACHED_SESSIONS) })
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
