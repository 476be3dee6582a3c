//! Keeps one certificate: orders the first, looks at when to renew it, and orders the next before it ends. Whatever fails, the certificate that there is
//! stays in use, and the wait before the next order grows.

use std::sync::Arc;
use std::time::Duration;

use instant_acme::CertificateIdentifier;
use rustls_pki_types::Der;
use tokio::sync::watch;
use tokio::time::sleep;

use super::asking::Asking;
use super::authority::{Http, account, forget_account};
use super::failure::{Failure, Kind};
use super::lock::Lock;
use super::order::{Issued, Request, order};
use super::schedule::{Window, back_off, renewal};
use super::sharing::{Followed, announce};
use super::storage::{Key, Record, Storage};
use super::{Parts, unix_now};
use crate::certs::{ManagedCertificate, OnDemandCertificates, Validity, renewal_identifier};
use crate::config::model::{AcmeAuthority, KeyType};

/// Until what could not be written is written again.
const SAVE_AGAIN: i64 = 60;
/// How often an authority is asked when to renew, whatever it says, and if it says nothing (RFC 9773 §4.3).
const MIN_LOOK: Duration = Duration::from_secs(3600);
const MAX_LOOK: Duration = Duration::from_secs(24 * 3600);
const LOOK_AGAIN: Duration = Duration::from_secs(6 * 3600);
/// The clock of the system may jump, so no sleep is longer.
const LONGEST_SLEEP: i64 = 600;
/// The least time between two orders that succeed.
const PAUSE: Duration = Duration::from_secs(3600);
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
    /// By authority: nothing is ordered there before.
    blocked_until: Vec<i64>,
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
        }
    }

    /// Uses what is on disk. It blocks.
    pub(super) fn begin(&mut self) {
        if let Some(record) = self.storage.on_disk(&self.plan.key)
            && let Err(why) = self.install(record)
        {
            tracing::warn!(certificate = self.place.name(), why, "the certificate on disk can't be used");
        }
    }

    /// Keeps it until this is dropped, or until a name on demand is wanted no more.
    pub(super) async fn keep(mut self) {
        let mut changes = self.followed.as_ref().map(|followed| followed.changes());
        if self.followed.is_some() {
            // Away, or not there: then the lock is next, or a wait for the state.
            let _ = self.take_shared().await;
        }
        loop {
            let (now, due) = (unix_now(), self.due());
            self.place.note(|progress| progress.next_order = Some(due.max(now)));
            if self.unsaved.is_some_and(|at| at <= now) {
                self.save().await;
            }
            if due > now {
                if self.look_at <= now {
                    self.look().await;
                    continue;
                }
                let until = due.min(self.look_at).min(self.unsaved.unwrap_or(i64::MAX));
                self.wait(until.saturating_sub(now), &mut changes).await;
                continue;
            }
            if let (Some(group), Some(_)) = (&self.group, &self.record)
                && !group.asking.agrees(&self.plan.names[0]).await.unwrap_or(true)
            {
                tracing::info!(
                    name = self.plan.names[0],
                    "a certificate on demand is not renewed: its name is wanted no more"
                );
                return;
            }
            match self.attempt().await {
                Ok(true) => {}
                Ok(false) => self.wait(OTHER_ORDERS.as_secs() as i64, &mut changes).await,
                Err(failure) => self.failed(&failure),
            }
        }
    }

    /// Orders now, once. Answers whether there is a certificate.
    pub(super) async fn order_first(&mut self) -> bool {
        if self.followed.is_some() {
            let _ = self.take_shared().await;
        }
        if self.record.is_none()
            && let Err(failure) = self.attempt().await
        {
            self.failed(&failure);
        }
        self.record.is_some()
    }

    /// The place, if there is a certificate in it.
    pub(super) fn place_if_filled(&self) -> Option<Arc<ManagedCertificate>> {
        self.record.is_some().then(|| Arc::clone(&self.place))
    }

    fn due(&self) -> i64 {
        let wanted = match &self.record {
            Some(record) if self.is_wanted(record) => self.renew_at,
            Some(_) | None => 0,
        };
        let open = self.blocked_until.iter().copied().min().unwrap_or_default();
        wanted.max(self.wait_until).max(open)
    }

    /// Whether it is what the configuration asks for. What is not is shown until there is another one.
    fn is_wanted(&self, record: &Record) -> bool {
        let sorted = |names: &[String]| {
            let mut names = names.to_vec();
            names.sort();
            names
        };
        let is_known = self.plan.authorities.iter().any(|authority| authority.directory == record.authority);
        let is_of_kind = record.key_type == key_type_name(self.plan.key_type);
        is_known && is_of_kind && sorted(&record.names) == sorted(&self.plan.names)
    }

    /// Waits for so many seconds, or for news from the state.
    async fn wait(&mut self, seconds: i64, changes: &mut Option<watch::Receiver<Option<Vec<u8>>>>) {
        let time = Duration::from_secs(seconds.clamp(1, LONGEST_SLEEP).unsigned_abs());
        let Some(changes) = changes else { return sleep(time).await };
        tokio::select! {
            () = sleep(time) => {}
            changed = changes.changed() => {
                if changed.is_ok() {
                    let _ = self.take_shared().await;
                }
            }
        }
    }

    /// Takes what the state has, if it is another certificate than the one in use.
    async fn take_shared(&mut self) -> Result<(), Failure> {
        let found = self.storage.load::<Record>(&self.plan.key).await;
        let found = found.map_err(|error| Failure::new(Kind::State, error.to_string()))?;
        let Some(record) = found.filter(|found| Some(found) != self.record.as_ref()) else { return Ok(()) };
        if let Err(why) = self.install(record) {
            tracing::warn!(certificate = self.place.name(), why, "the certificate in the state can't be used");
            return Ok(());
        }
        tracing::info!(certificate = self.place.name(), names = ?self.plan.names, "a certificate that another gateway has ordered is in use");
        if let (Some(record), Err(error)) = (&self.record, self.save_here().await) {
            tracing::warn!(certificate = self.place.name(), names = ?record.names, error, "the certificate can't be kept on disk");
        }
        Ok(())
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

    /// Orders, unless another gateway does (`false`) or has done so.
    async fn attempt(&mut self) -> Result<bool, Failure> {
        let parts = Arc::clone(&self.parts);
        let Ok(_slot) = parts.slots.acquire().await else { return Ok(false) };
        let Some(followed) = self.followed.clone() else { return self.order().await.map(|()| true) };
        let state = |error: crate::services::state::RecordError| Failure::new(Kind::State, error.to_string());
        let lock = Lock::take(&followed.records, self.plan.key.as_str()).await.map_err(state)?;
        let Some(lock) = lock else { return Ok(false) };
        let ordered = async {
            // While this one waited for the lock.
            self.take_shared().await?;
            if self.due() > unix_now() { Ok(()) } else { self.order().await }
        };
        let result = tokio::select! {
            result = ordered => result,
            () = lock.hold() => Err(Failure::new(Kind::State, "the lock of the order was lost")),
        };
        lock.release().await;
        result.map(|()| true)
    }

    /// Orders from the first authority that gives a certificate.
    async fn order(&mut self) -> Result<(), Failure> {
        let mut last = None;
        for index in 0..self.plan.authorities.len() {
            if self.blocked_until[index] > unix_now() {
                continue;
            }
            match self.order_from(index).await {
                Ok(()) => return Ok(()),
                Err(failure) => {
                    let authority = &self.plan.authorities[index];
                    let (certificate, reason) = (self.place.name(), &failure.reason);
                    tracing::warn!(certificate, acme = %authority.name, kind = failure.kind.name(), reason, "a certificate could not be ordered");
                    self.count(failure.kind.name());
                    if let Some(wait) = failure.wait {
                        let wait = back_off(1, false, Some(wait), random());
                        self.blocked_until[index] = after(wait);
                    }
                    // That of the first says most: it is the one that is meant to work.
                    last.get_or_insert(failure);
                }
            }
        }
        Err(last.unwrap_or_else(|| Failure::new(Kind::RateLimited, "all authorities have asked for a pause")))
    }

    async fn order_from(&mut self, index: usize) -> Result<(), Failure> {
        let authority = self.plan.authorities[index].clone();
        let http = self.parts.http(&authority);
        let issued = match self.issue(&authority, &http).await {
            Err(failure) if failure.kind == Kind::NoAccount => {
                forget_account(&authority, &self.storage).await;
                self.issue(&authority, &http).await
            }
            issued => issued,
        };
        let Issued { chain, key } = issued.map_err(|failure| match failure.kind {
            Kind::RateLimited | Kind::Unreachable => Failure { wait: http.take_wait(), ..failure },
            Kind::NoAccount | Kind::Refused | Kind::Challenge | Kind::Dns | Kind::State => failure,
        })?;
        let record = Record {
            names: self.plan.names.clone(),
            authority: authority.directory.clone(),
            key_type: key_type_name(self.plan.key_type).to_owned(),
            chain,
            key,
        };
        let nonsense = |why: String| {
            Failure::new(Kind::Unreachable, format!("the authority has issued what can't be used: {why}"))
        };
        check(&record).map_err(nonsense)?;
        self.install(record).map_err(nonsense)?;
        (self.failures, self.wait_until) = (0, after(self.pause()));
        self.count("issued");
        self.place.note(|progress| progress.last_error = None);
        let expires = self.place.validity().map(|validity| validity.not_after);
        let expires = expires.and_then(|at| jiff::Timestamp::from_second(at).ok()).map(|at| at.to_string());
        tracing::info!(certificate = self.place.name(), acme = %authority.name, names = ?self.plan.names, expires, "a certificate was ordered");
        self.save().await;
        Ok(())
    }

    /// How long nothing is ordered after an order, whatever the authority suggests: an hour, or a third of a short life.
    fn pause(&self) -> Duration {
        let life = self.place.validity().map_or(0, |validity| validity.not_after.saturating_sub(validity.not_before));
        PAUSE.min(Duration::from_secs(u64::try_from(life / 3).unwrap_or_default()))
    }

    async fn issue(&self, authority: &AcmeAuthority, http: &Http) -> Result<Issued, Failure> {
        let account = account(authority, &self.storage, http).await?;
        let replaced = self.record.as_ref().filter(|record| record.authority == authority.directory);
        let replaced = replaced.and_then(|record| identifier(&record.chain));
        let request = Request {
            authority,
            names: &self.plan.names,
            key_type: self.plan.key_type,
            replaces: replaced,
            failures: self.failures,
            parts: &self.parts,
            storage: &self.storage,
        };
        order(&account, &request).await
    }

    /// Writes what is not written yet, and tells the other gateways.
    async fn save(&mut self) {
        let Some(record) = &self.record else { return };
        let mut saved = self.storage.save(&self.plan.key, record).await;
        if let (Ok(()), Some(followed)) = (&saved, &self.followed) {
            saved = announce(&followed.records).await.map_err(|error| error.to_string());
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
        let http = self.parts.http(authority);
        let asked = async {
            let account = account(authority, &self.storage, &http).await?;
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

    fn failed(&mut self, failure: &Failure) {
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

/// Whether a certificate is for the names that were ordered, and is valid now.
fn check(record: &Record) -> Result<(), String> {
    let place = ManagedCertificate::new("new");
    let Validity { not_after, .. } = place.replace(&record.chain, &record.key).map_err(|error| crate::chain(&error))?;
    let names: Vec<String> = place.names().iter().map(|name| name.to_ascii_lowercase()).collect();
    if let Some(missing) = record.names.iter().find(|name| !names.contains(name)) {
        return Err(format!("it is not for `{missing}`"));
    }
    if not_after <= unix_now() {
        return Err("it has expired".to_owned());
    }
    Ok(())
}

/// What the authority knows a certificate by.
fn identifier(chain: &str) -> Option<CertificateIdentifier<'static>> {
    let (key, serial) = renewal_identifier(chain)?;
    let bytes = |hexadecimal: String| -> Option<Vec<u8>> {
        (0..hexadecimal.len()).step_by(2).map(|at| u8::from_str_radix(hexadecimal.get(at..at + 2)?, 16).ok()).collect()
    };
    let (key, serial) = (bytes(key)?, bytes(serial)?);
    Some(CertificateIdentifier::new(Der::from_slice(&key), Der::from_slice(&serial)).into_owned())
}

fn key_type_name(key_type: KeyType) -> &'static str {
    match key_type {
        KeyType::EcdsaP256 => "ecdsa-p256",
        KeyType::EcdsaP384 => "ecdsa-p384",
        KeyType::Rsa2048 => "rsa-2048",
    }
}

fn after(wait: Duration) -> i64 {
    unix_now().saturating_add(i64::try_from(wait.as_secs()).unwrap_or(i64::MAX).saturating_add(1))
}

/// From 0 to 1.
fn random() -> f64 {
    crate::services::random::number().map_or(0.5, |number| number as f64 / u64::MAX as f64)
}
