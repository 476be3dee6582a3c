//! Keeps one certificate: orders the first, looks at when to renew it, and orders the next before it ends. Whatever fails, the certificate that there is
//! stays in use, and the wait before the next order grows.

mod ordering;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::asking::Asking;
use super::authority::account;
use super::failure::{Failure, Kind};
use super::order::LONGEST;
use super::parts::Parts;
use super::schedule::{Window, after, back_off, random, renewal};
use super::sharing::{Followed, News, announce};
use super::storage::{Key, Record, Storage, hash};
use super::unix_now;
use crate::certs::{ManagedCertificate, OnDemandCertificates};
use crate::config::model::{AcmeAuthority, KeyType};
use crate::services::state::RecordError;
use ordering::{identifier, key_type_name};

/// Until what could not be written is written again.
const SAVE_AGAIN: i64 = 60;
/// How often an authority is asked when to renew, whatever it says, and if it says nothing (RFC 9773 §4.3).
const MIN_LOOK: Duration = Duration::from_secs(3600);
const MAX_LOOK: Duration = Duration::from_secs(24 * 3600);
const LOOK_AGAIN: Duration = Duration::from_secs(6 * 3600);
/// The clock of the system may jump, so no sleep is longer.
const LONGEST_SLEEP: i64 = 600;
/// How long a gateway waits that has found another one ordering.
const OTHER_ORDERS: Duration = Duration::from_secs(2);

/// What is to be kept. Another plan is another keeper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) names: Vec<String>,
    pub(super) key: Key,
    /// The first, and those to fall back to.
    pub(super) authorities: Vec<AcmeAuthority>,
    pub(super) key_type: KeyType,
    pub(super) renew_before: Option<Duration>,
}

/// The certificates on demand that one belongs to.
#[derive(Clone)]
pub(super) struct Group {
    pub(super) certificates: Arc<OnDemandCertificates>,
    pub(super) asking: Arc<Asking>,
}

pub(super) struct Keeper {
    plan: Plan,
    place: Arc<ManagedCertificate>,
    storage: Storage,
    followed: Option<Arc<Followed>>,
    parts: Arc<Parts>,
    group: Option<Group>,
    /// What is in the place.
    record: Option<Record>,
    /// It has to be written still, and not before this.
    unsaved: Option<i64>,
    renew_at: i64,
    /// When the authority is asked next when to renew.
    look_at: i64,
    failures: u32,
    /// Nothing is ordered before.
    wait_until: i64,
    /// By authority: this certificate is not ordered there before. What holds for all certificates is in `Parts`.
    blocked_until: Vec<i64>,
    /// Whether an authority was asked for one.
    has_ordered: bool,
}

impl Plan {
    /// What of it another gateway has to have as well, so that both can use the same certificates.
    pub(super) fn variant(names: &[String], key_type: KeyType, authorities: &[AcmeAuthority]) -> String {
        let mut authorities: Vec<&str> = authorities.iter().map(|authority| &*authority.directory).collect();
        authorities.sort_unstable();
        // No name is empty, so this ends the list.
        hash(sorted(names).into_iter().chain(["", key_type_name(key_type)]).chain(authorities))
    }
}

fn sorted(names: &[String]) -> Vec<&str> {
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.sort_unstable();
    names
}

impl Keeper {
    pub(super) fn new(
        plan: Plan,
        place: Arc<ManagedCertificate>,
        (storage, followed): (Storage, Option<Arc<Followed>>),
        parts: Arc<Parts>,
        group: Option<Group>,
    ) -> Self {
        let blocked_until = vec![0; plan.authorities.len()];
        Keeper {
            plan,
            place,
            storage,
            followed,
            parts,
            group,
            record: None,
            unsaved: None,
            renew_at: 0,
            look_at: 0,
            failures: 0,
            wait_until: 0,
            blocked_until,
            has_ordered: false,
        }
    }

    /// Uses what is on disk. It blocks.
    pub(super) fn begin(&mut self) {
        let Some(record) = self.storage.on_disk::<Record>(&self.plan.key) else { return };
        // It is better to order one for the next client.
        if self.group.is_some() && record.has_expired(unix_now()) {
            return;
        }
        if let Err(why) = self.install(record) {
            tracing::warn!(certificate = self.place.name(), why, "the certificate on disk can't be used");
        }
    }

    /// Keeps it until this is dropped, or until a name on demand is wanted no more.
    pub(super) async fn keep(mut self) {
        let news = self.followed.as_ref().map(|followed| followed.news_of(self.plan.key.shared()));
        if self.record.is_none() {
            // Away, or not there: then the lock is next, or a wait for the state.
            let _ = self.take_shared().await;
        }
        loop {
            let (now, due) = (unix_now(), self.due());
            self.place.note(|progress| progress.next_order = Some(due.max(now)));
            if self.unsaved.is_some_and(|at| at <= now) {
                self.save_again().await;
            }
            if due > now {
                if self.look_at <= now {
                    self.look().await;
                    continue;
                }
                let until = due.min(self.look_at).min(self.unsaved.unwrap_or(i64::MAX));
                self.wait(until.saturating_sub(now), news.as_ref()).await;
                continue;
            }
            if let (Some(group), Some(_)) = (&self.group, &self.record)
                && !group.asking.agrees(&self.plan.names[0]).await.unwrap_or(true)
            {
                tracing::info!(
                    name = self.plan.names[0],
                    "a certificate on demand is not renewed: its name is wanted no more"
                );
                self.storage.delete(&self.plan.key).await;
                return;
            }
            match self.attempt().await {
                Ok(true) => {}
                Ok(false) => self.wait(OTHER_ORDERS.as_secs() as i64, news.as_ref()).await,
                Err(failure) => self.failed(&failure),
            }
        }
    }

    /// Orders the first, once: `failures` orders have failed before. If another gateway orders it, its certificate is waited for. Answers whether there is one.
    pub(super) async fn order_first(&mut self) -> bool {
        let until = Instant::now() + LONGEST;
        loop {
            match self.attempt().await {
                Ok(false) if Instant::now() < until => {
                    sleep(OTHER_ORDERS).await;
                    let _ = self.take_shared().await;
                    if self.record.is_some() {
                        break;
                    }
                }
                Ok(_) => break,
                Err(failure) => {
                    self.failed(&failure);
                    break;
                }
            }
        }
        self.record.is_some()
    }

    /// The place, if there is a certificate in it.
    pub(super) fn place_if_filled(&self) -> Option<Arc<ManagedCertificate>> {
        self.record.is_some().then(|| Arc::clone(&self.place))
    }

    /// Goes on after so many orders that have failed.
    pub(super) fn after_failures(self, failures: u32) -> Self {
        Keeper { failures, ..self }
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    pub(super) fn has_ordered(&self) -> bool {
        self.has_ordered
    }

    /// When it is ordered, in seconds since the Unix epoch.
    pub(super) fn due(&self) -> i64 {
        let wanted = match &self.record {
            Some(record) if self.is_wanted(record) => self.renew_at,
            Some(_) | None => 0,
        };
        let open = (0..self.plan.authorities.len()).map(|index| self.open_at(index)).min().unwrap_or_default();
        wanted.max(self.wait_until).max(open)
    }

    /// When an authority may be asked for this certificate.
    fn open_at(&self, index: usize) -> i64 {
        let of_all = self.parts.paused_until(&self.plan.authorities[index].directory);
        of_all.max(self.blocked_until[index])
    }

    /// Whether it is what the configuration asks for. What is not is shown until there is another one.
    fn is_wanted(&self, record: &Record) -> bool {
        let is_known = self.plan.authorities.iter().any(|authority| authority.directory == record.authority);
        let is_of_kind = record.key_type == key_type_name(self.plan.key_type);
        is_known && is_of_kind && sorted(&record.names) == sorted(&self.plan.names)
    }

    /// Waits for so many seconds, or for news from the state.
    async fn wait(&mut self, seconds: i64, news: Option<&News>) {
        let time = Duration::from_secs(seconds.clamp(1, LONGEST_SLEEP).unsigned_abs());
        let Some(news) = news else { return sleep(time).await };
        tokio::select! {
            () = sleep(time) => {}
            () = news.next() => {
                let _ = self.take_shared().await;
            }
        }
    }

    /// Takes what the state has, if it is better than the one in use. A state that has none gets this one: it may have lost its data.
    pub(super) async fn take_shared(&mut self) -> Result<(), Failure> {
        let Some(followed) = self.followed.clone() else { return Ok(()) };
        let state = |error: RecordError| Failure::new(Kind::State, error.to_string());
        let Some(found) = self.storage.load::<Record>(&self.plan.key).await.map_err(state)? else {
            let own = self.record.as_ref().filter(|own| self.unsaved.is_none() && self.is_good(own));
            if let Some(own) = own
                && self.storage.add_shared(&self.plan.key, own, own.life(unix_now())).await.map_err(state)?
            {
                announce(&followed.records, self.plan.key.shared()).await.map_err(state)?;
            }
            return Ok(());
        };
        if Some(&found) == self.record.as_ref() || !self.is_better(&found) {
            return Ok(());
        }
        if let Err(why) = self.install(found) {
            tracing::warn!(certificate = self.place.name(), why, "the certificate in the state can't be used");
            return Ok(());
        }
        self.unsaved = None;
        tracing::info!(certificate = self.place.name(), names = ?self.plan.names, "a certificate that another gateway has ordered is in use");
        if let (Some(record), Err(error)) = (&self.record, self.save_here().await) {
            tracing::warn!(certificate = self.place.name(), names = ?record.names, error, "the certificate can't be kept on disk");
        }
        Ok(())
    }

    /// Whether it is what the configuration asks for, and can be used.
    fn is_good(&self, record: &Record) -> bool {
        self.is_wanted(record) && !record.has_expired(unix_now())
    }

    /// Whether what the state has is to take the place of the one in use.
    fn is_better(&self, found: &Record) -> bool {
        let own = self.record.as_ref().filter(|own| self.is_wanted(own));
        self.is_good(found) && own.is_none_or(|own| found.comes_after(own, self.unsaved.is_none()))
    }

    async fn save_here(&self) -> Result<(), String> {
        match &self.record {
            Some(record) => self.storage.save_here(&self.plan.key, record).await,
            None => Ok(()),
        }
    }

    /// Puts a certificate into its place. What can't be used leaves the one before.
    fn install(&mut self, record: Record) -> Result<(), String> {
        let validity = self.place.replace(&record.chain, &record.key).map_err(|error| crate::chain(&error))?;
        self.place.note(|progress| progress.authority = Some(record.authority.clone()));
        self.renew_at = renewal(validity, self.plan.renew_before, random());
        self.look_at = 0;
        self.record = Some(record);
        Ok(())
    }

    /// Writes what could not be written, unless there is a later one meanwhile.
    async fn save_again(&mut self) {
        let _ = self.take_shared().await;
        if self.unsaved.is_some() {
            self.save().await;
        }
    }

    /// Writes what is not written yet, and tells the other gateways.
    async fn save(&mut self) {
        let Some(record) = &self.record else { return };
        let mut saved = self.storage.save(&self.plan.key, record, Some(record.life(unix_now()))).await;
        if let (Ok(()), Some(followed)) = (&saved, &self.followed) {
            saved = announce(&followed.records, self.plan.key.shared()).await.map_err(|error| error.to_string());
        }
        self.unsaved = saved.is_err().then(|| unix_now().saturating_add(SAVE_AGAIN));
        if let Err(error) = saved {
            tracing::warn!(
                certificate = self.place.name(),
                error,
                "a new certificate is in use but can't be kept: a restart would lose it. It is tried again every minute"
            );
        }
    }

    /// Asks the authority of the certificate when it is to be renewed (RFC 9773).
    async fn look(&mut self) {
        self.look_at = after(LOOK_AGAIN);
        let Some(record) = &self.record else { return };
        let authority = self.plan.authorities.iter().find(|authority| authority.directory == record.authority);
        let (Some(authority), Some(identifier)) = (authority, identifier(&record.chain)) else {
            tracing::debug!(certificate = self.place.name(), "nobody can be asked when to renew it");
            return;
        };
        let open = self.parts.paused_until(&authority.directory);
        if open > unix_now() {
            self.look_at = open;
            return;
        }
        let http = self.parts.http(authority);
        let asked = async {
            let account = account(authority, (&self.parts, &self.storage), &http).await?;
            account.renewal_info(&identifier).await.map_err(|error| Failure::of(&error))
        };
        let (info, again) = match asked.await {
            Ok(answer) => answer,
            // Many authorities know nothing of it, and the usual time holds.
            Err(failure) => {
                let (certificate, why) = (self.place.name(), failure.reason);
                tracing::debug!(certificate, why, "the authority does not say when to renew");
                return;
            }
        };
        self.look_at = after(again.clamp(MIN_LOOK, MAX_LOOK));
        let window = info.suggested_window;
        let window = Window { start: window.start.unix_timestamp(), end: window.end.unix_timestamp() };
        let wanted = window.pick(random());
        tracing::debug!(certificate = self.place.name(), renew_at = wanted, "the authority has said when to renew");
        let usual = self.place.validity().map(|validity| renewal(validity, self.plan.renew_before, 0.0));
        // What the operator has asked for is the latest.
        self.renew_at = match (self.plan.renew_before, usual) {
            (Some(_), Some(usual)) => wanted.min(usual),
            (_, _) => wanted,
        };
    }

    pub(super) fn failed(&mut self, failure: &Failure) {
        self.failures = self.failures.saturating_add(1);
        let wait = back_off(self.failures, failure.kind.is_counted(), failure.wait, random());
        self.wait_until = after(wait);
        if failure.kind == Kind::State {
            self.count(failure.kind.name());
        }
        self.place.note(|progress| progress.last_error = Some(failure.reason.clone()));
        tracing::info!(
            certificate = self.place.name(),
            failures = self.failures,
            wait_s = wait.as_secs(),
            "it is ordered again later"
        );
    }

    fn count(&self, result: &'static str) {
        let count = |progress: &mut crate::certs::Progress| *progress.orders.entry(result).or_default() += 1;
        self.place.note(count);
        if let Some(group) = &self.group {
            group.certificates.note(count);
        }
    }
}
