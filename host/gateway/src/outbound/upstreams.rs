//! Calls of filters to upstreams by name. An upstream is more than an address: balancing, limits, circuits and retries belong to the worker's
//! requests to it. So a call is handed to whoever sends these, who says on each worker's thread that it takes calls.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http::header::CONTENT_LENGTH;
use tokio::time::Instant;
use url::Url;

use super::{fields, method, target_uri};
use crate::http::body::Body;
use crate::services::ServiceError;
use crate::services::outbound::{Call, CallContext, Incoming, upstream_name};

/// How much longer than its time a call may take. The time is kept where it shows who is late, and that looks at it every few milliseconds.
const GRACE: Duration = Duration::from_millis(50);

thread_local! {
    static UPSTREAMS: RefCell<Option<Weak<dyn UpstreamCalls>>> = RefCell::default();
}

/// A request for an upstream that was checked.
pub struct UpstreamCall {
    pub upstream: Box<str>,
    /// In origin form, without `Host`: that is the endpoint's.
    pub request: Request<Body>,
    pub made_for: Arc<CallContext>,
    /// When the answer has to be there, and how long that was from the start.
    pub until: std::time::Instant,
    /// The most bytes of the answer's body.
    pub max_body: usize,
}

/// Sends requests to the upstreams of one worker.
pub trait UpstreamCalls {
    /// Sends it as a request of a route. `Timeout`, `TooLarge`, or `Unavailable` where the upstream takes no request or gives no answer.
    fn call(self: Rc<Self>, call: UpstreamCall) -> Pin<Box<dyn Future<Output = Result<Incoming, ServiceError>>>>;
}

/// From now on, calls of this thread go this way.
pub fn call_upstreams_by(calls: Weak<dyn UpstreamCalls>) {
    UPSTREAMS.set(Some(calls));
}

pub(super) fn prepare(call: Call, url: &Url, deadline: Instant, max_body: usize) -> Result<UpstreamCall, ServiceError> {
    let upstream = upstream_name(url)?.into();
    let (method, headers, uri) = (method(&call)?, fields(&call)?, target_uri(url)?);
    let Some(made_for) = call.made_for else {
        return Err(ServiceError::Invalid(format!("`{}` is not of the form `upstream://NAME/path`", call.url)));
    };
    let length = call.body.len();
    let mut request = Request::new(Body::full(call.body));
    (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method, uri, headers);
    if length > 0 {
        request.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    Ok(UpstreamCall { upstream, request, made_for, until: deadline.into_std(), max_body })
}

pub(super) async fn exchange(call: UpstreamCall, deadline: Instant) -> Result<Incoming, ServiceError> {
    let Some(calls) = UPSTREAMS.with_borrow(|known| known.as_ref().and_then(Weak::upgrade)) else {
        return Err(ServiceError::Unavailable("upstreams are called by requests only".to_owned()));
    };
    let answer = tokio::time::timeout_at(deadline + GRACE, calls.call(call)).await;
    answer.unwrap_or(Err(ServiceError::Timeout))
}
