//! What gateways tell each other through a shared state: which challenges an authority may ask for, and that there is a new certificate. A task for each
//! state looks every second, so that no request and no handshake waits for the state.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::unix_now;
use crate::certs::{Challenge, PendingChallenges};
use crate::services::state::{self, RecordError, Records, Seen};

/// The list of pending challenges.
pub(super) const CHALLENGES: &str = "challenges";
/// The events that tell of new certificates, by their keys.
const CERTIFICATES: &str = "certificates";
/// Certificates that are looked up at a time when it is not known which of them are new.
const AT_ONCE: usize = 100;
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
    waiting: Mutex<Waiting>,
    said_away: Mutex<bool>,
}

/// Who waits for news of which certificate.
#[derive(Default)]
struct Waiting {
    by_key: HashMap<String, Arc<Notify>>,
    /// Those who are to look although nothing was told: some at a time.
    unsure: VecDeque<String>,
}

/// The news of one certificate.
pub(super) struct News {
    of: Arc<Followed>,
    key: String,
    told: Arc<Notify>,
}

impl Followed {
    pub(super) fn new(records: Records) -> Arc<Self> {
        Arc::new(Followed { records, waiting: Mutex::default(), said_away: Mutex::default() })
    }

    /// Tells of a certificate from now on. The first look is soon.
    pub(super) fn news_of(self: &Arc<Self>, key: &str) -> News {
        let told = self.waiting().add(key);
        News { of: Arc::clone(self), key: key.to_owned(), told }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks until it is dropped.
    pub(super) async fn follow(self: Arc<Self>, pending: Arc<PendingChallenges>) {
        let state: Arc<str> = self.records.state().into();
        let mut known: Option<Seen> = None;
        loop {
            match self.look(known.as_ref()).await {
                Ok((news, challenges)) => {
                    self.say_away(None);
                    pending.show_shared(&state, challenges);
                    // All look by themselves at the start.
                    let events = if known.is_none() { Some(Vec::new()) } else { news.events };
                    known = Some(news.seen);
                    self.waiting().tell(events);
                }
                // What was told before is shown still: it does no harm.
                Err(error) => self.say_away(Some(&error)),
            }
            sleep(LOOK).await;
        }
    }

    async fn look(&self, known: Option<&Seen>) -> Result<(state::News, Vec<Challenge>), RecordError> {
        let news = self.records.news(CERTIFICATES, known.unwrap_or(&Seen::default())).await?;
        let entries = self.records.entries(CHALLENGES).await?;
        let now = unix_now();
        Ok((news, pending(&entries, now)))
    }

    fn say_away(&self, error: Option<&RecordError>) {
        let mut said = self.said_away.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(error), false) = (error, *said) {
            tracing::warn!(%error, "certificates are not ordered while the state that gateways share is away; those that there are stay in use");
        }
        *said = error.is_some();
    }
}

/// The challenges that count still, those last that were told last: a host shows the last one that is for it. A gateway that dies takes nothing back.
fn pending(entries: &[Vec<u8>], now: i64) -> Vec<Challenge> {
    let told = entries.iter().take(MAX_CHALLENGES).filter_map(|entry| serde_json::from_slice::<Told>(entry).ok());
    let mut told: Vec<Told> = told.filter(|told| told.until > now).collect();
    told.sort_by_key(|told| told.until);
    told.into_iter().map(|told| told.challenge).collect()
}

impl Waiting {
    fn add(&mut self, key: &str) -> Arc<Notify> {
        let told = Arc::new(Notify::new());
        self.by_key.insert(key.to_owned(), Arc::clone(&told));
        self.unsure.push_back(key.to_owned());
        told
    }

    /// Wakes those who wait for these, and some of those who are to look anyway. Without events, all are to look.
    fn tell(&mut self, events: Option<Vec<String>>) {
        match events {
            Some(keys) => keys.iter().filter_map(|key| self.by_key.get(key)).for_each(|told| told.notify_one()),
            None => self.unsure = self.by_key.keys().cloned().collect(),
        }
        let some = self.unsure.len().min(AT_ONCE);
        for key in self.unsure.drain(..some) {
            if let Some(told) = self.by_key.get(&key) {
                told.notify_one();
            }
        }
    }
}

impl News {
    /// Waits until there may be another certificate.
    pub(super) async fn next(&self) {
        self.told.notified().await;
    }
}

impl Drop for News {
    fn drop(&mut self) {
        let mut waiting = self.of.waiting();
        // After a reload, another one may wait for the same.
        if waiting.by_key.get(&self.key).is_some_and(|told| Arc::ptr_eq(told, &self.told)) {
            waiting.by_key.remove(&self.key);
        }
    }
}

/// Tells the other gateways of a challenge.
pub(super) async fn tell(records: &Records, entry: &str, challenge: &Challenge) -> Result<(), RecordError> {
    let until = unix_now().saturating_add(i64::try_from(LIFE.as_secs()).unwrap_or(i64::MAX));
    let told = serde_json::to_vec(&Told { until, challenge: challenge.clone() }).unwrap_or_default();
    records.put_entry(CHALLENGES, entry, &told, LIFE).await
}

/// Tells them that there is a new certificate under this key.
pub(super) async fn announce(records: &Records, key: &str) -> Result<(), RecordError> {
    records.tell(CERTIFICATES, key).await
}

/// A name that nobody else has.
pub(super) fn new_holder() -> String {
    let part = || crate::services::random::number().expect("a system without random numbers can't run TLS either");
    format!("{:016x}{:016x}", part(), part())
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    /// Whether it was told.
    fn is_told(told: &Notify) -> bool {
        pin!(told.notified()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn the_challenge_that_was_told_last_is_shown() {
        let told = |digest, until| {
            let challenge = Challenge::TlsAlpn { host: "a.test".to_owned(), digest: [digest; 32] };
            serde_json::to_vec(&Told { until, challenge }).expect("JSON")
        };
        let of = |entries: &[Vec<u8>]| {
            let digest = |challenge| if let Challenge::TlsAlpn { digest, .. } = challenge { digest[0] } else { 0 };
            pending(entries, 100).into_iter().map(digest).collect::<Vec<_>>()
        };
        let (over, dead, live) = (told(1, 100), told(2, 1000), told(3, 1060));
        assert_eq!(of(&[live.clone(), over.clone(), dead.clone()]), [2, 3], "in whatever order the state has them");
        assert_eq!(of(&[dead, b"{".to_vec(), live, over]), [2, 3]);
    }

    #[test]
    fn only_who_waits_for_a_certificate_is_told_of_it() {
        let mut waiting = Waiting::default();
        let [one, other] = ["one", "other"].map(|key| waiting.add(key));
        waiting.tell(Some(Vec::new()));
        assert!(is_told(&one) && is_told(&other), "each looks once by itself");
        waiting.tell(Some(vec!["one".to_owned(), "unknown".to_owned()]));
        assert_eq!((is_told(&one), is_told(&other)), (true, false));
        waiting.tell(None);
        assert!(is_told(&one) && is_told(&other), "nobody knows what was missed");
    }

    #[test]
    fn not_all_look_at_once() {
        let mut waiting = Waiting::default();
        let all: Vec<_> = (0..AT_ONCE * 2 + 1).map(|number| waiting.add(&number.to_string())).collect();
        let mut look = |events| {
            waiting.tell(events);
            all.iter().filter(|told| is_told(told)).count()
        };
        let none = || Some(Vec::new());
        assert_eq!([look(none()), look(none()), look(none()), look(none())], [AT_ONCE, AT_ONCE, 1, 0]);
        assert_eq!([look(None), look(none())], [AT_ONCE, AT_ONCE]);
    }
}
