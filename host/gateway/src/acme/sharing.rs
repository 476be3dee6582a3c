//! What gateways tell each other through a shared state: which challenges an authority may ask for, and that there is a new certificate. A task for each
//! state looks every second, so that no request and no handshake waits for the state.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::sleep;

use super::unix_now;
use crate::certs::{Challenge, PendingChallenges};
use crate::services::state::{RecordError, Records};

/// The list of pending challenges.
pub(super) const CHALLENGES: &str = "challenges";
/// The number that grows with each new certificate.
const VERSION: &str = "version";
/// How often the state is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Until all gateways have seen what one has told.
pub(super) const DISTRIBUTION: Duration = Duration::from_millis(2500);
/// The longest life of a challenge: that of an order.
const LIFE: Duration = Duration::from_secs(20 * 60);
/// Challenges that are taken from others; more are an error of somebody.
const MAX_CHALLENGES: usize = 1000;

/// A challenge as it is told.
#[derive(Serialize, Deserialize)]
struct Told {
    /// Seconds since the Unix epoch.
    until: i64,
    challenge: Challenge,
}

/// What a gateway follows of a state.
pub(super) struct Followed {
    pub(super) records: Records,
    /// Another value with each certificate that some gateway has put there.
    version: watch::Sender<Option<Vec<u8>>>,
    said_away: Mutex<bool>,
}

impl Followed {
    pub(super) fn new(records: Records) -> Arc<Self> {
        Arc::new(Followed { records, version: watch::Sender::new(None), said_away: Mutex::default() })
    }

    /// Changes when there is a new certificate in the state.
    pub(super) fn changes(&self) -> watch::Receiver<Option<Vec<u8>>> {
        self.version.subscribe()
    }

    /// Looks until it is dropped.
    pub(super) async fn follow(self: Arc<Self>, pending: Arc<PendingChallenges>) {
        let state: Arc<str> = self.records.state().into();
        loop {
            match self.look().await {
                Ok((version, challenges)) => {
                    self.say_away(None);
                    pending.show_shared(&state, challenges);
                    self.version.send_if_modified(|known| {
                        let is_new = *known != version;
                        *known = version;
                        is_new
                    });
                }
                // What was told before is shown still: it does no harm.
                Err(error) => self.say_away(Some(&error)),
            }
            sleep(LOOK).await;
        }
    }

    async fn look(&self) -> Result<(Option<Vec<u8>>, Vec<Challenge>), RecordError> {
        let version = self.records.get(VERSION).await?;
        let entries = self.records.entries(CHALLENGES).await?;
        let now = unix_now();
        let told = entries.iter().take(MAX_CHALLENGES).filter_map(|entry| serde_json::from_slice::<Told>(entry).ok());
        Ok((version, told.filter(|told| told.until > now).map(|told| told.challenge).collect()))
    }

    fn say_away(&self, error: Option<&RecordError>) {
        let mut said = self.said_away.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(error), false) = (error, *said) {
            tracing::warn!(%error, "certificates are not ordered while the state that gateways share is away; those that there are stay in use");
        }
        *said = error.is_some();
    }
}

/// Tells the other gateways of a challenge.
pub(super) async fn tell(records: &Records, entry: &str, challenge: &Challenge) -> Result<(), RecordError> {
    let until = unix_now().saturating_add(i64::try_from(LIFE.as_secs()).unwrap_or(i64::MAX));
    let told = serde_json::to_vec(&Told { until, challenge: challenge.clone() }).unwrap_or_default();
    records.put_entry(CHALLENGES, entry, &told, LIFE).await
}

/// Tells them that there is a new certificate.
pub(super) async fn announce(records: &Records) -> Result<(), RecordError> {
    records.increment(VERSION).await
}

/// A name that nobody else has.
pub(super) fn new_holder() -> String {
    let part = || crate::services::random::number().expect("a system without random numbers can't run TLS either");
    format!("{:016x}{:016x}", part(), part())
}
