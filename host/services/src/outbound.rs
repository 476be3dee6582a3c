//! Outbound calls as filters and key sets see them. Who sends them has connections, and so is not in this crate.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use url::Url;

use crate::grants::Grants;
use crate::{KeySet, ServiceError};

/// The requests of one call.
pub const MAX_REQUESTS: usize = 16;

/// A request as a filter gives it.
#[derive(Debug, Clone)]
pub struct Call {
    pub method: String,
    /// Absolute, `http` or `https`, or `upstream` with the name of an upstream as its host.
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    /// The field `CDN-Loop` that it is sent with.
    pub cdn_loop: HeaderValue,
    /// The exchange that it is made for; there for calls to upstreams.
    pub made_for: Option<Arc<CallContext>>,
}

/// What an upstream may have to know of the exchange that a call is made for.
#[derive(Debug, Clone)]
pub struct CallContext {
    /// The number of the snapshot that the exchange began with: its upstreams are called.
    pub snapshot: u64,
    pub client: Option<IpAddr>,
    pub consumer: Option<Arc<str>>,
    pub request_id: HeaderValue,
    /// `traceparent` and `tracestate`.
    pub trace: Vec<(HeaderName, HeaderValue)>,
}

/// The scheme of calls to upstreams.
pub const UPSTREAM: &str = "upstream";

/// The upstream that a URL of this scheme names.
///
/// # Errors
/// `Invalid` where it names none, or says more than a name.
pub fn upstream_name(url: &Url) -> Result<&str, ServiceError> {
    let invalid =
        |why: &str| ServiceError::Invalid(format!("`{url}` is not of the form `upstream://NAME/path`: {why}"));
    if !url.username().is_empty() || url.password().is_some() {
        return Err(ServiceError::Invalid("the url has user information".to_owned()));
    }
    if url.port().is_some() {
        return Err(invalid("the upstream knows its ports"));
    }
    url.host_str().filter(|name| !name.is_empty()).ok_or_else(|| invalid("it names no upstream"))
}

/// The answer to a call, without hop-by-hop fields.
#[derive(Debug, Clone)]
pub struct Incoming {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// The answers to the calls of one [`Outbound::send`], each with its own error, in their order.
pub type Answers = Vec<Result<Incoming, ServiceError>>;

/// What needs the network: calls of filters, and key sets that have a URL.
pub trait Outbound: Send + Sync {
    /// Sends the calls at the same time and waits for all, at most `timeout`. An answer is `NotGranted`, `Invalid`, `TooLarge` past
    /// `max_body` bytes, `Timeout`, or `Unavailable` when the server can't be reached or breaks off, or the upstream takes no request now.
    /// The whole is `TooLarge` past [`MAX_REQUESTS`].
    fn send<'a>(
        &'a self,
        calls: Vec<Call>,
        timeout: Duration,
        grants: &'a Grants,
        max_body: usize,
    ) -> Pin<Box<dyn Future<Output = Result<Answers, ServiceError>> + Send + 'a>>;

    /// Runs [`keyset::keep_fresh`](crate::keyset::keep_fresh) for a set in the background.
    fn keep_fresh(&self, set: &Arc<KeySet>) -> Result<(), ServiceError>;
}

/// No network: for tools that only look at plugins, and for tests.
#[derive(Debug, Default)]
pub struct Offline;

impl Offline {
    fn error() -> ServiceError {
        ServiceError::Unavailable("there is no network".to_owned())
    }
}

impl Outbound for Offline {
    fn send<'a>(
        &'a self,
        calls: Vec<Call>,
        _: Duration,
        _: &'a Grants,
        _: usize,
    ) -> Pin<Box<dyn Future<Output = Result<Answers, ServiceError>> + Send + 'a>> {
        Box::pin(async move { Ok(calls.into_iter().map(|_| Err(Offline::error())).collect()) })
    }

    fn keep_fresh(&self, _: &Arc<KeySet>) -> Result<(), ServiceError> {
        Err(Offline::error())
    }
}
