//! What is known of one address, as metrics and the admin API show it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::record::Record;
use super::responses::CLASSES;
use crate::upstream::address::Address;
use crate::upstream::health::{Reason, StateChange};

/// What is known of one address.
#[derive(Debug, Clone)]
pub struct EndpointState {
    /// `host:port` or `unix:/path`, as written.
    pub endpoint: Arc<str>,
    /// `None` while no address of the name is known.
    pub address: Option<Address>,
    /// Whether nothing is known that speaks against it.
    pub healthy: bool,
    /// Since when its state is what it is.
    pub since: SystemTime,
    /// Requests under way.
    pub active: u32,
    /// Time to first byte, moving average; `None` when nothing was measured.
    pub latency: Option<Duration>,
    /// Responses by the class of their status, from 1xx on.
    pub responses: [u64; CLASSES],
    /// Why it is out: the change by which it went out, for each reason.
    pub out: Vec<StateChange>,
    /// How often it went out, by reason.
    pub outs: [u64; Reason::COUNT],
    /// Checks that have passed, and that have failed.
    pub checks: [u64; 2],
    /// Its last changes of state, oldest first.
    pub history: Vec<StateChange>,
}

impl Record {
    pub(crate) fn state(&self) -> EndpointState {
        let (key, health, latency) = (self.key(), self.health(), self.latency_us());
        let history = health.history();
        EndpointState {
            endpoint: Arc::clone(&key.endpoint),
            address: key.address.clone(),
            healthy: self.is_healthy(),
            since: history.last().map_or(self.created(), |change| change.at),
            active: self.active(),
            latency: (latency > 0).then(|| Duration::from_micros(latency)),
            responses: self.responses(),
            out: health.evidence(),
            outs: health.outs(),
            checks: health.checks(),
            history,
        }
    }
}
