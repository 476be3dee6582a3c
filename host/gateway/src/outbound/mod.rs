//! Calls of filters to other services: one or many at the same time, to granted origins, over connections that each worker
//! keeps, and to granted upstreams, as the worker sends requests to them (`upstreams`). Redirects are not followed.

mod client;
#[cfg(test)]
mod key_set_tests;
mod origins;
#[cfg(test)]
mod tests;
mod tls;
mod upstreams;

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use url::Url;

pub use self::client::OutboundClient;
pub use self::tls::Tls;
pub use self::upstreams::{UpstreamCall, UpstreamCalls, call_upstreams_by};
use crate::http::body::{Body, BodyError};
use crate::http::buffer::{MemoryBudget, collect};
use crate::http::cdn_loop::CDN_LOOP;
use crate::http::headers::{is_framing, strip_hop_by_hop};
use crate::http1::{Reply, Tolerance};
use crate::services::grants::Origin;
use crate::services::outbound::{Answers, Call, Incoming, MAX_REQUESTS, UPSTREAM, upstream_name};
use crate::services::{Grants, Reach, ServiceError};
use crate::upstream::pool::{Lease, Leased};
use crate::upstream::retry::Unprocessed;
use crate::upstream::{Resolver, head, http2};

/// The header fields of a request.
const MAX_HEADERS: usize = 256;

/// What every call is sent with.
#[derive(Clone)]
struct Network {
    tls: Tls,
    resolver: Arc<Resolver>,
    /// Answers are charged to it as they come.
    budget: MemoryBudget,
}

/// A request that was checked.
struct Outgoing {
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Bytes,
    /// Where it may go.
    reach: Reach,
}

/// Sends the calls at the same time over this worker's connections and waits for all, at most `timeout`; the answers are in
/// the order of the calls, each with its own error (`NotGranted`, `Invalid`, `TooLarge` past `max_body` bytes, `Timeout`,
/// `Unavailable` when the server can't be reached or breaks off). `TooLarge` for the whole past [`MAX_REQUESTS`].
///
/// Has to be awaited inside a local runtime. The future is `Send` although the connections are not: they live in tasks of
/// the worker, which end when the future is dropped.
async fn send(
    calls: Vec<Call>,
    timeout: Duration,
    grants: &Grants,
    network: &Network,
    max_body: usize,
) -> Result<Answers, ServiceError> {
    if calls.len() > MAX_REQUESTS {
        return Err(ServiceError::TooLarge(MAX_REQUESTS as u64));
    }
    // A year is as good as never, and timers don't take more.
    let deadline = Instant::now() + timeout.min(Duration::from_secs(365 * 86_400));
    let start = |call: Call| {
        let network = network.clone();
        Ok(Task(match Target::of(&call, grants)? {
            Target::Upstream(url) => {
                let call = upstreams::prepare(call, &url, deadline, max_body)?;
                tokio::task::spawn_local(upstreams::exchange(call, deadline))
            }
            Target::Origin(url, reach) => {
                let (method, headers) = (method(&call)?, fields(&call)?);
                let outgoing = Outgoing { method, url, headers, body: call.body, reach };
                tokio::task::spawn_local(async move {
                    let answer = tokio::time::timeout_at(deadline, exchange(outgoing, &network, max_body)).await;
                    answer.unwrap_or(Err(ServiceError::Timeout))
                })
            }
        }))
    };
    let tasks: Vec<Result<Task, ServiceError>> = calls.into_iter().map(start).collect();
    let mut answers = Vec::with_capacity(tasks.len());
    for task in tasks {
        answers.push(match task {
            Ok(mut task) => match (&mut task.0).await {
                Ok(answer) => answer,
                Err(error) => Err(ServiceError::Other(format!("the call ended early: {error}"))),
            },
            Err(refused) => Err(refused),
        });
    }
    Ok(answers)
}

/// A task that ends with its owner.
struct Task(JoinHandle<Result<Incoming, ServiceError>>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Who is called, if that is granted.
enum Target {
    Origin(Url, Reach),
    Upstream(Url),
}

impl Target {
    fn of(call: &Call, grants: &Grants) -> Result<Self, ServiceError> {
        let wrong = |e| ServiceError::Invalid(format!("`{}` is not an absolute url: {e}", call.url));
        let url = Url::parse(&call.url).map_err(wrong)?;
        if url.scheme() == UPSTREAM {
            grants.check_upstream(upstream_name(&url)?)?;
            return Ok(Target::Upstream(url));
        }
        let reach = grants.http.check(&Origin::of(&url)?)?;
        Ok(Target::Origin(url, reach))
    }
}

/// Refuses a call that would not be sent, by the rules of those that are: for who answers calls without a network.
pub fn check(call: &Call, grants: &Grants) -> Result<(), ServiceError> {
    method(call)?;
    fields(call)?;
    Target::of(call, grants).map(|_| ())
}

fn method(call: &Call) -> Result<Method, ServiceError> {
    match Method::from_bytes(call.method.as_bytes()) {
        Ok(Method::CONNECT) => Err(ServiceError::Invalid("the method CONNECT can't be used".to_owned())),
        Ok(method) => Ok(method),
        Err(_) => Err(ServiceError::Invalid(format!("`{}` is not a method", call.method))),
    }
}

/// The fields that a call is sent with.
fn fields(call: &Call) -> Result<HeaderMap, ServiceError> {
    let invalid = |what: String| ServiceError::Invalid(what);
    if call.headers.len() > MAX_HEADERS {
        return Err(ServiceError::TooLarge(MAX_HEADERS as u64));
    }
    let mut headers = HeaderMap::with_capacity(call.headers.len());
    for (name, value) in &call.headers {
        let name =
            HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid(format!("`{name}` is not a header name")))?;
        // `host` is that of the called service: another one could reach what the grant does not name.
        if is_framing(&name) {
            return Err(invalid(format!("the header `{name}` can't be set")));
        }
        let value = HeaderValue::from_str(value)
            .map_err(|_| invalid(format!("the value of `{name}` is not a header value")))?;
        headers.append(name, value);
    }
    headers.insert(CDN_LOOP, call.cdn_loop.clone());
    Ok(headers)
}

/// One exchange with the origin of the URL, whatever is granted, at an address that the request may go to. A kept connection may have been closed by the server while
/// the request was on its way; then it is sent once more on a new one, if it was not sent at all or may be sent twice
/// (RFC 9110 §9.2.2). A request that the server has refused without processing it is sent once more, too.
async fn exchange(outgoing: Outgoing, network: &Network, max_body: usize) -> Result<Incoming, ServiceError> {
    let origin = Origin::of(&outgoing.url)?;
    let unreachable = |e: String| ServiceError::Unavailable(format!("{origin}: {e}"));
    let mut repeated = false;
    loop {
        let request = request(&outgoing)?;
        let lease = origins::checkout(&origin, outgoing.reach, network).await?;
        let (pool, kept) = (lease.pool.clone(), lease.connect.is_none());
        match send_on(lease, request).await {
            Ok(response) => {
                pool.record().reached();
                let (head, body) = response.into_parts();
                return whole(&origin, (head.status, head.headers), body, max_body, &network.budget).await;
            }
            Err(failure)
                if !repeated
                    && (failure.unprocessed.is_some()
                        || kept && (!failure.sent || outgoing.method.is_idempotent())) =>
            {
                // A server that has closed one connection has often closed all.
                if failure.unprocessed != Some(Unprocessed::RefusedStream) {
                    origins::clear(&origin);
                }
                repeated = true;
            }
            Err(failure) => return Err(unreachable(failure.reason)),
        }
    }
}

/// The answer of this service once its body is in.
pub async fn whole(
    service: &impl Display,
    (status, mut headers): (StatusCode, HeaderMap),
    mut body: Body,
    max_body: usize,
    budget: &MemoryBudget,
) -> Result<Incoming, ServiceError> {
    strip_hop_by_hop(&mut headers);
    let unreachable = |e: String| ServiceError::Unavailable(format!("{service}: {e}"));
    let body = collect(&mut body, max_body as u64, budget).await.map_err(|error| match error {
        BodyError::TooLarge(limit) => ServiceError::TooLarge(limit),
        BodyError::BudgetExhausted(_) => unreachable("no memory is left for its response".to_owned()),
        error => unreachable(format!("the response broke off: {}", crate::chain(&error))),
    })?;
    Ok(Incoming { status, headers, body })
}

/// Why a request got no response.
struct Failure {
    reason: String,
    /// Whether the server may have seen it.
    sent: bool,
    /// Whether and how the server said that it has not processed it.
    unprocessed: Option<Unprocessed>,
}

impl Failure {
    fn new(reason: String, sent: bool) -> Self {
        Failure { reason, sent, unprocessed: None }
    }
}

/// Sends a request. The connection is kept once its response was read to the end.
async fn send_on(lease: Lease, request: Request<Body>) -> Result<Response<Body>, Failure> {
    let (mut lease, mut request) = (lease, request);
    let pool = lease.pool.clone();
    match lease.connection.take() {
        Some(Leased::Http1(connection)) => {
            head::for_http1(&mut request, pool.endpoint());
            match connection.send(&mut request, None, None, Tolerance::default(), lease).await {
                Ok(Reply::Response(response)) => Ok(*response),
                Ok(Reply::Upgraded(..)) => Err(Failure::new("101 without an upgrade".to_owned(), true)),
                Err(unanswered) => Err(Failure::new(crate::chain(&unanswered.error), !unanswered.unsent)),
            }
        }
        Some(Leased::Http2(session)) => {
            let mut sender = session.sender.clone();
            lease.connection = Some(Leased::Http2(session));
            if !head::for_http2(&mut request, pool.endpoint()) {
                return Err(Failure::new("the url can't be requested over HTTP/2".to_owned(), false));
            }
            match sender.try_send_request(request).await {
                Ok(response) => Ok(lease.hold(response)),
                Err(mut failure) => {
                    let unsent = failure.take_message().is_some();
                    let unprocessed = http2::unprocessed(failure.error());
                    if let Some(how) = unprocessed {
                        lease.unprocessed(how);
                    }
                    Err(Failure { unprocessed, ..Failure::new(crate::chain(failure.error()), !unsent) })
                }
            }
        }
        None => Err(Failure::new("no connection".to_owned(), false)),
    }
}

/// The request in origin form, without `Host`: that is the endpoint's.
fn request(outgoing: &Outgoing) -> Result<Request<Body>, ServiceError> {
    let mut request = Request::new(Body::full(outgoing.body.clone()));
    *request.method_mut() = outgoing.method.clone();
    *request.uri_mut() = target_uri(&outgoing.url)?;
    *request.headers_mut() = outgoing.headers.clone();
    Ok(request)
}

/// Path and query of a URL.
fn target_uri(url: &Url) -> Result<Uri, ServiceError> {
    let path = if url.path().is_empty() { "/" } else { url.path() };
    let path = match url.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let uri = Uri::builder().path_and_query(path).build();
    uri.map_err(|e| ServiceError::Invalid(format!("the url can't be requested: {e}")))
}
