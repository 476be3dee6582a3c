//! An authority as it is spoken to: requests go over the gateway's own connections, and an account is made once and kept.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use instant_acme::{
    Account, AccountCredentials, BodyWrapper, BytesResponse, Error, ExternalAccountKey, HttpClient, NewAccount,
};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use url::Url;

use super::failure::{Failure, Kind};
use super::lock::Lock;
use super::parts::Parts;
use super::schedule::LONGEST_HEEDED;
use super::storage::{Key, Storage};
use super::unix_now;
use crate::config::model::AcmeAuthority;
use crate::outbound::{OutboundClient, Tls};
use crate::services::state::RecordError;

/// Of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// More than any answer of an authority: a directory, an order, a chain.
const MAX_ANSWER: usize = 1 << 20;

/// How long another gateway is waited for that makes the account, and how often it is looked whether it has.
const OTHER_MAKES: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The least time between two accounts that are forgotten, in seconds.
const FORGET_EVERY: i64 = 1800;

/// What requests to one authority are sent with. Clones share what it has asked for.
#[derive(Clone)]
pub(super) struct Http {
    outbound: Arc<OutboundClient>,
    tls: Tls,
    /// The `Retry-After` of its last refusal.
    wait: Arc<Mutex<Option<Duration>>>,
}

/// Why there was no answer.
#[derive(Debug)]
pub(super) struct Unanswered(String);

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unanswered {}

#[cfg(test)]
impl Unanswered {
    pub(super) fn new(why: String) -> Self {
        Unanswered(why)
    }
}

impl Http {
    pub(super) fn new(outbound: Arc<OutboundClient>, tls: Tls) -> Self {
        Http { outbound, tls, wait: Arc::default() }
    }

    /// How long the authority has asked to be left alone, since this was last asked.
    pub(super) fn take_wait(&self) -> Option<Duration> {
        self.wait.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    async fn send(self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Error> {
        let unanswered = |why: String| Error::Other(Box::new(Unanswered(why)));
        let (head, body) = request.into_parts();
        let body = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(never) => match never {},
        };
        let text = head.uri.to_string();
        let url = Url::parse(&text).ok().filter(|url| url.scheme() == "https");
        // What the directory names is not trusted to be what RFC 8555 §6.1 asks for.
        let url = url.ok_or_else(|| unanswered(format!("`{text}` is no https URL")))?;
        let call = self.outbound.request(&self.tls, (head.method, url), (head.headers, body), MAX_ANSWER);
        let answer = timeout(REQUEST_TIMEOUT, call).await;
        let answer = answer.map_err(|_| unanswered(format!("no answer within {REQUEST_TIMEOUT:?}: {text}")))?;
        let answer = answer.map_err(|error| unanswered(error.to_string()))?;
        let (asked_for, mut headers) = (retry_after(&answer.headers), answer.headers);
        // The crate adds it to the clock, which has an end.
        headers.remove(RETRY_AFTER);
        headers.extend(asked_for.map(|time| (RETRY_AFTER, HeaderValue::from(time.as_secs()))));
        // Whatever the status: an authority that refuses for a time says so.
        if !answer.status.is_success() {
            let mut wait = self.wait.lock().unwrap_or_else(PoisonError::into_inner);
            *wait = asked_for.or(*wait);
        }
        let mut response = Response::new(Full::new(answer.body));
        (*response.status_mut(), *response.headers_mut()) = (answer.status, headers);
        Ok(BytesResponse::from(response))
    }
}

/// A task that ends with who waits for it.
struct Sending(JoinHandle<Result<BytesResponse, Error>>);

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl HttpClient for Http {
    /// The connections belong to the thread, so they are used by a task of it: the future has to be `Send`.
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let mut sending = Sending(tokio::task::spawn_local(self.clone().send(request)));
        Box::pin(async move {
            let ended = |error: tokio::task::JoinError| Error::Other(Box::new(Unanswered(error.to_string())));
            (&mut sending.0).await.map_err(ended)?
        })
    }
}

/// RFC 9110 §10.2.3, and not more than is heeded.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let time = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(SystemTime::now()).unwrap_or_default(),
    };
    Some(time.min(LONGEST_HEEDED))
}

/// The account at an authority: the one that is kept, or a new one, which is kept. Of all who need it, one makes it, also among gateways that share a
/// state. A pause that the authority asks for is one of the authority.
pub(super) async fn account(
    authority: &AcmeAuthority,
    (parts, storage): (&Parts, &Storage),
    http: &Http,
) -> Result<Account, Failure> {
    let found = kept(authority, storage, http).await;
    heed(authority, parts, http);
    if let Some(account) = found? {
        return Ok(account);
    }
    let turn = parts.account_turn(&Key::account(authority));
    let _turn = turn.lock().await;
    // Said to the one before this one.
    if parts.paused_until(&authority.directory) > unix_now() {
        return Err(Failure::new(Kind::RateLimited, "the authority has asked for a pause"));
    }
    let made = kept_or_made(authority, storage, http).await;
    heed(authority, parts, http);
    made
}

/// Keeps the pause that an authority has asked for.
pub(super) fn heed(authority: &AcmeAuthority, parts: &Parts, http: &Http) {
    if let Some(wait) = http.take_wait() {
        parts.pause(&authority.directory, wait);
    }
}

/// The account that is kept.
async fn kept(authority: &AcmeAuthority, storage: &Storage, http: &Http) -> Result<Option<Account>, Failure> {
    let kept = storage.load::<AccountCredentials>(&Key::account(authority)).await;
    let Some(kept) = kept.map_err(|error| Failure::new(Kind::State, error.to_string()))? else { return Ok(None) };
    let builder = Account::builder_with_http(Box::new(http.clone()));
    builder.from_credentials(kept).await.map(Some).map_err(|error| Failure::of(&error))
}

/// The one that somebody else has made meanwhile, or a new one.
async fn kept_or_made(authority: &AcmeAuthority, storage: &Storage, http: &Http) -> Result<Account, Failure> {
    let state = |error: RecordError| Failure::new(Kind::State, error.to_string());
    let until = Instant::now() + OTHER_MAKES;
    loop {
        if let Some(account) = kept(authority, storage, http).await? {
            return Ok(account);
        }
        let Some(shared) = storage.shared() else { return make(authority, storage, http).await };
        let Some(lock) = Lock::take(shared, [Key::account(authority).shared().to_owned()]).await.map_err(state)? else {
            if Instant::now() >= until {
                return Err(Failure::new(
                    Kind::State,
                    "another gateway makes the account, and does not come to an end",
                ));
            }
            sleep(LOOK_AGAIN).await;
            continue;
        };
        let made = async {
            // Before this one had the lock.
            match kept(authority, storage, http).await? {
                Some(account) => Ok(account),
                None => make(authority, storage, http).await,
            }
        };
        let made = tokio::select! {
            made = made => made,
            () = lock.hold() => Err(Failure::new(Kind::State, "the lock of the account was lost")),
        };
        lock.release().await;
        return made;
    }
}

async fn make(authority: &AcmeAuthority, storage: &Storage, http: &Http) -> Result<Account, Failure> {
    let external = (authority.external_account.as_ref())
        .map(|account| ExternalAccountKey::new(account.key_id.clone(), &account.key));
    let contact: Vec<&str> = authority.contact.iter().map(String::as_str).collect();
    let wanted = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let builder = Account::builder_with_http(Box::new(http.clone()));
    let made = builder.create(&wanted, authority.directory.clone(), external.as_ref()).await;
    let (account, credentials) = made.map_err(|error| Failure::of(&error))?;
    tracing::info!(acme = %authority.name, account = account.id(), "an account was made at the authority");
    if let Err(error) = storage.save(&Key::account(authority), &credentials, None).await {
        tracing::warn!(acme = %authority.name, error, "the account at the authority can't be kept; the next order makes another one");
    }
    Ok(account)
}

/// Forgets an account that the authority does not take any more. Answers whether another one may do: one that somebody else has made meanwhile, or a new
/// one. An authority that takes none of them is not asked for one after the other.
pub(super) async fn forget_account(
    authority: &AcmeAuthority,
    (parts, storage): (&Parts, &Storage),
    account: &str,
) -> bool {
    let key = Key::account(authority);
    let turn = parts.account_turn(&key);
    let mut forgotten = turn.lock().await;
    // The crate's type does not show its identifier.
    let kept = storage.load::<serde_json::Value>(&key).await.ok().flatten();
    if kept.is_none_or(|kept| kept["id"] != account) {
        return true;
    }
    if forgotten.is_some_and(|at| at.saturating_add(FORGET_EVERY) > unix_now()) {
        return false;
    }
    *forgotten = Some(unix_now());
    tracing::warn!(acme = %authority.name, account, "the authority does not know the account any more: the next order makes another one");
    storage.delete(&key).await;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let of = |value: &'static str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value.parse().expect("it"))]));
        assert_eq!(of("120"), Some(Duration::from_secs(120)));
        assert!(of("Fri, 31 Dec 2100 23:59:59 GMT").is_some_and(|wait| wait.as_secs() > 3600));
        assert_eq!(of("Fri, 31 Dec 1999 23:59:59 GMT"), Some(Duration::ZERO));
        for endless in ["18446744073709551615", "Fri, 31 Dec 9999 23:59:59 GMT"] {
            assert_eq!(of(endless), Some(LONGEST_HEEDED), "{endless}");
        }
        assert_eq!([of("soon"), of("-1"), of("")], [None, None, None]);
    }
}
