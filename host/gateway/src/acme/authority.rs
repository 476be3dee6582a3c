//! An authority as it is spoken to: requests go over the gateway's own connections, and an account is made once and kept.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use instant_acme::{
    Account, AccountCredentials, BodyWrapper, BytesResponse, Error, ExternalAccountKey, HttpClient, NewAccount,
};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use url::Url;

use super::failure::{Failure, Kind};
use super::storage::{Key, Storage};
use crate::config::model::AcmeAuthority;
use crate::outbound::{OutboundClient, Tls};

/// Of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// More than any answer of an authority: a directory, an order, a chain.
const MAX_ANSWER: usize = 1 << 20;

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
        // Whatever the status: an authority that refuses for a time says so.
        if !answer.status.is_success() {
            let mut wait = self.wait.lock().unwrap_or_else(PoisonError::into_inner);
            *wait = retry_after(&answer.headers).or(*wait);
        }
        let mut response = Response::new(Full::new(answer.body));
        (*response.status_mut(), *response.headers_mut()) = (answer.status, answer.headers);
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

/// RFC 9110 §10.2.3.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match value.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(SystemTime::now()).ok(),
    }
}

/// The account at an authority: the one that is kept, or a new one, which is kept.
pub(super) async fn account(authority: &AcmeAuthority, storage: &Storage, http: &Http) -> Result<Account, Failure> {
    let builder = || Account::builder_with_http(Box::new(http.clone()));
    let key = Key::account(authority);
    let kept = storage.load::<AccountCredentials>(&key).await;
    if let Some(kept) = kept.map_err(|error| Failure::new(Kind::State, error.to_string()))? {
        return builder().from_credentials(kept).await.map_err(|error| Failure::of(&error));
    }
    let external = (authority.external_account.as_ref())
        .map(|account| ExternalAccountKey::new(account.key_id.clone(), &account.key));
    let contact: Vec<&str> = authority.contact.iter().map(String::as_str).collect();
    let wanted = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let made = builder().create(&wanted, authority.directory.clone(), external.as_ref()).await;
    let (account, credentials) = made.map_err(|error| Failure::of(&error))?;
    tracing::info!(acme = %authority.name, account = account.id(), "an account was made at the authority");
    if let Err(error) = storage.save(&key, &credentials).await {
        tracing::warn!(acme = %authority.name, error, "the account at the authority can't be kept; the next order makes another one");
    }
    Ok(account)
}

/// Forgets an account that the authority does not know any more.
pub(super) async fn forget_account(authority: &AcmeAuthority, storage: &Storage) {
    tracing::warn!(acme = %authority.name, "the authority does not know the account any more: the next order makes another one");
    storage.delete(&Key::account(authority)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let of = |value: &'static str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value.parse().expect("it"))]));
        assert_eq!(of("120"), Some(Duration::from_secs(120)));
        assert!(of("Fri, 31 Dec 2100 23:59:59 GMT").is_some_and(|wait| wait.as_secs() > 3600));
        assert_eq!(of("Fri, 31 Dec 1999 23:59:59 GMT"), None);
        assert_eq!([of("soon"), of("-1"), of("")], [None, None, None]);
    }
}
