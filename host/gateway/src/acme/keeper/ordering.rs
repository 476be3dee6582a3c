//! One order of a keeper, in its turn: under the lock of the gateways that share a state, and from the first authority that gives a certificate.

use std::sync::Arc;
use std::time::Duration;

use instant_acme::{Account, CertificateIdentifier};
use rustls_pki_types::Der;

use super::Keeper;
use crate::acme::authority::{account, forget_account, heed};
use crate::acme::failure::{Failure, Kind};
use crate::acme::lock::Lock;
use crate::acme::order::{Issued, Request, order};
use crate::acme::schedule::{after, back_off, random};
use crate::acme::storage::Record;
use crate::acme::unix_now;
use crate::certs::{ManagedCertificate, Validity, renewal_identifier};
use crate::config::model::{AcmeAuthority, KeyType};
use crate::services::state::RecordError;

/// The least time between two orders that succeed.
const PAUSE: Duration = Duration::from_secs(3600);

impl Keeper {
    /// Orders, unless another gateway does (`false`) or has done so.
    pub(super) async fn attempt(&mut self) -> Result<bool, Failure> {
        let (parts, names) = (Arc::clone(&self.parts), self.plan.names.clone());
        let _turn = parts.turn(&names).await;
        let Ok(_slot) = parts.slots.acquire().await else { return Ok(false) };
        let Some(followed) = self.followed.clone() else { return self.order().await.map(|()| true) };
        let state = |error: RecordError| Failure::new(Kind::State, error.to_string());
        // By each of their names: gateways show one certificate of `tls-alpn-01` for a host at a time, as well.
        let what = names.iter().map(|name| format!("names/{name}"));
        let lock = Lock::take(&followed.records, what).await.map_err(state)?;
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
            if self.open_at(index) > unix_now() {
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
        let last = last.unwrap_or_else(|| Failure::new(Kind::RateLimited, "all authorities have asked for a pause"));
        // The pause is that authority's, and known. The others may be asked before.
        Err(Failure { wait: None, ..last })
    }

    async fn order_from(&mut self, index: usize) -> Result<(), Failure> {
        let authority = self.plan.authorities[index].clone();
        let parts = Arc::clone(&self.parts);
        let http = parts.http(&authority);
        self.has_ordered = true;
        let used = (&*parts, &self.storage);
        let first = account(&authority, used, &http).await?;
        let issued = match self.issue(&authority, &first).await {
            Err(failure) if failure.kind == Kind::NoAccount => {
                if !forget_account(&authority, used, first.id()).await {
                    return Err(Failure { kind: Kind::Refused, ..failure });
                }
                let second = account(&authority, used, &http).await?;
                self.issue(&authority, &second).await
            }
            issued => issued,
        };
        let Issued { chain, key } = issued.map_err(|failure| match failure.kind {
            // A limit that an order meets may be one of its names: other certificates are none of its business.
            Kind::RateLimited => Failure { wait: http.take_wait(), ..failure },
            Kind::NoAccount => Failure { kind: Kind::Refused, ..failure },
            Kind::Unreachable => {
                heed(&authority, &parts, &http);
                failure
            }
            Kind::Refused | Kind::Challenge | Kind::Dns | Kind::State => failure,
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
        // Where the lock ends meanwhile, it is saved later.
        self.unsaved = Some(0);
        self.save().await;
        Ok(())
    }

    /// How long nothing is ordered after an order, whatever the authority suggests: an hour, or a third of a short life.
    fn pause(&self) -> Duration {
        let life = self.place.validity().map_or(0, |validity| validity.not_after.saturating_sub(validity.not_before));
        PAUSE.min(Duration::from_secs(u64::try_from(life / 3).unwrap_or_default()))
    }

    async fn issue(&self, authority: &AcmeAuthority, account: &Account) -> Result<Issued, Failure> {
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
        order(account, &request).await
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
pub(super) fn identifier(chain: &str) -> Option<CertificateIdentifier<'static>> {
    let (key, serial) = renewal_identifier(chain)?;
    let bytes = |hexadecimal: String| -> Option<Vec<u8>> {
        (0..hexadecimal.len()).step_by(2).map(|at| u8::from_str_radix(hexadecimal.get(at..at + 2)?, 16).ok()).collect()
    };
    let (key, serial) = (bytes(key)?, bytes(serial)?);
    Some(CertificateIdentifier::new(Der::from_slice(&key), Der::from_slice(&serial)).into_owned())
}

pub(super) fn key_type_name(key_type: KeyType) -> &'static str {
    match key_type {
        KeyType::EcdsaP256 => "ecdsa-p256",
        KeyType::EcdsaP384 => "ecdsa-p384",
        KeyType::Rsa2048 => "rsa-2048",
    }
}
