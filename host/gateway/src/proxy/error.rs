//! The errors of an exchange and their source. `respond.rs` decides what the client reads; the log gets the `detail`.

use std::sync::Arc;
use std::time::Duration;

use crate::chain;
use crate::filter::{BodyFailure, BodySourceError, FilterError, FilterFailure};
use crate::http::body::{BodyError, BodyErrorKind};
use crate::http1::HeadError;
use crate::server::Refusal;
use crate::telemetry::ErrorSource;
use crate::upstream::FixedResponse;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The request target or `Host` is malformed or ambiguous.
    BadRequest,
    /// A host that this connection is not for: its TLS policy is another than that of the connection's server name.
    MisdirectedRequest,
    /// A method that this gateway does not forward (`CONNECT`, `TRACE` with a body …).
    MethodNotSupported,
    /// More header fields than the listener allows.
    TooManyHeaders,
    /// A request head larger than the listener allows.
    HeadTooLarge,
    /// A request line larger than that.
    TargetTooLong,
    /// A transfer coding that is not `chunked`.
    UnknownTransferCoding,
    /// A version of HTTP that is not spoken here.
    VersionNotSupported,
    /// The request head did not come in time.
    HeadTimeout,
    /// The request body is larger than the route or a filter allows.
    BodyTooLarge,
    /// A `Content-Encoding` that a filter's body can't be decoded from.
    UnsupportedCoding,
    /// The client stopped sending.
    ClientTimeout,
    /// The client went away.
    ClientAborted,
    /// The exchange has lasted as long as the route allows.
    StreamDuration,
    NoRoute,
    /// The client wants a stored response only, and there is none (RFC 9111 §5.2.1.7).
    NotStored,
    /// A `PURGE` without what the route asks for.
    PurgeForbidden,
    /// A route is for the request but for its method.
    MethodNotAllowed,
    /// The request goes in circles: gateways like this one have passed it on too often (RFC 8586).
    LoopDetected,
    /// All buffered memory is in use.
    OutOfMemory,
    /// Memory, connections or an event loop are near their bound.
    Overloaded,
    /// A filter trapped, overran a deadline or its memory, or declared an error.
    FilterFailed,
    /// All instances of a filter are busy and its queue is full.
    FilterBusy,
    /// The response is larger than a filter that fails closed takes: its limit, and no fault of the upstream.
    ResponseTooLarge,
    /// The time was over that the client gives its request.
    DeadlineExceeded,
    /// A delay that the route injects has taken what was left of the request's time.
    InjectedDelay,
    NoEndpoint,
    /// The upstream has as many requests under way as it may, and there is no room in its queue, or not in time.
    UpstreamBusy,
    /// The same of the route.
    RouteBusy,
    /// The upstream has failed too often.
    CircuitOpen,
    ConnectFailed,
    ConnectTimeout,
    /// No response head within the time allowed.
    UpstreamTimeout,
    /// The upstream closed or reset the connection before the response head.
    UpstreamReset,
    /// The upstream spoke something that is not HTTP, or not what was negotiated.
    UpstreamProtocol,
    /// The files of the upstream could not be read.
    FilesUnreadable,
    /// The response can't be decoded for a filter that fails closed.
    UpstreamBody,
}

impl Kind {
    /// As logs and metrics show it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::BadRequest => "bad-request",
            Kind::MisdirectedRequest => "misdirected-request",
            Kind::MethodNotSupported => "method-not-supported",
            Kind::TooManyHeaders => "too-many-headers",
            Kind::HeadTooLarge => "head-too-large",
            Kind::TargetTooLong => "target-too-long",
            Kind::UnknownTransferCoding => "unknown-transfer-coding",
            Kind::VersionNotSupported => "version-not-supported",
            Kind::HeadTimeout => "head-timeout",
            Kind::BodyTooLarge => "body-too-large",
            Kind::UnsupportedCoding => "unsupported-coding",
            Kind::ClientTimeout => "client-timeout",
            Kind::ClientAborted => "client-aborted",
            Kind::StreamDuration => "max-stream-duration",
            Kind::NoRoute => "no-route",
            Kind::NotStored => "not-stored",
            Kind::PurgeForbidden => "purge-forbidden",
            Kind::MethodNotAllowed => "method-not-allowed",
            Kind::LoopDetected => "loop-detected",
            Kind::OutOfMemory => "out-of-memory",
            Kind::Overloaded => "overloaded",
            Kind::FilterFailed => "filter-failed",
            Kind::FilterBusy => "filter-busy",
            Kind::ResponseTooLarge => "response-too-large",
            Kind::DeadlineExceeded => "deadline-exceeded",
            Kind::InjectedDelay => "injected-delay",
            Kind::NoEndpoint => "no-endpoint",
            Kind::UpstreamBusy => "upstream-busy",
            Kind::RouteBusy => "route-busy",
            Kind::CircuitOpen => "circuit-open",
            Kind::ConnectFailed => "connect-failed",
            Kind::ConnectTimeout => "connect-timeout",
            Kind::UpstreamTimeout => "upstream-timeout",
            Kind::UpstreamReset => "upstream-reset",
            Kind::UpstreamProtocol => "upstream-protocol",
            Kind::FilesUnreadable => "files-unreadable",
            Kind::UpstreamBody => "upstream-body",
        }
    }
}

/// An error with what the log should say about it.
#[derive(Debug, Clone)]
pub struct ProxyError {
    pub kind: Kind,
    /// For the log only: it may name endpoints, filters and their messages.
    pub detail: String,
    /// The filter that failed, or whose wish for a body could not be fulfilled.
    pub filter: Option<Arc<str>>,
    /// What the answer says besides.
    pub advice: Option<Box<Advice>>,
}

/// What a client is told, where that is not the same for all errors of a kind.
#[derive(Debug, Clone)]
pub struct Advice {
    /// When to try again.
    pub retry_after: Duration,
    /// The answer in place of problem details.
    pub respond: Option<Arc<FixedResponse>>,
}

impl ProxyError {
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        ProxyError { kind, detail: detail.into(), filter: None, advice: None }
    }

    pub fn advised(self, advice: Advice) -> Self {
        ProxyError { advice: Some(Box::new(advice)), ..self }
    }

    fn of_filter(filter: &Arc<str>, kind: Kind, detail: String) -> Self {
        ProxyError { kind, detail, filter: Some(Arc::clone(filter)), advice: None }
    }

    pub fn source(&self) -> ErrorSource {
        match self.kind {
            Kind::BadRequest
            | Kind::MisdirectedRequest
            | Kind::MethodNotSupported
            | Kind::TooManyHeaders
            | Kind::HeadTooLarge
            | Kind::TargetTooLong
            | Kind::UnknownTransferCoding
            | Kind::VersionNotSupported
            | Kind::HeadTimeout
            | Kind::BodyTooLarge
            | Kind::UnsupportedCoding
            | Kind::ClientTimeout
            | Kind::ClientAborted
            | Kind::StreamDuration
            | Kind::NoRoute
            | Kind::NotStored
            | Kind::PurgeForbidden
            | Kind::MethodNotAllowed
            | Kind::LoopDetected
            | Kind::DeadlineExceeded => ErrorSource::Client,
            Kind::OutOfMemory | Kind::Overloaded | Kind::RouteBusy | Kind::InjectedDelay => ErrorSource::Gateway,
            Kind::FilterFailed | Kind::FilterBusy | Kind::ResponseTooLarge => ErrorSource::Filter,
            Kind::NoEndpoint
            | Kind::UpstreamBusy
            | Kind::CircuitOpen
            | Kind::ConnectFailed
            | Kind::ConnectTimeout
            | Kind::UpstreamTimeout
            | Kind::UpstreamReset
            | Kind::UpstreamProtocol
            | Kind::FilesUnreadable
            | Kind::UpstreamBody => ErrorSource::Upstream,
        }
    }

    /// A refused request head.
    pub fn refused(refusal: &Refusal) -> Self {
        let kind = match refusal {
            Refusal::Head { error: HeadError::Malformed(_), .. } => Kind::BadRequest,
            Refusal::Head { error: HeadError::TooLarge, .. } => Kind::HeadTooLarge,
            Refusal::Head { error: HeadError::TooManyFields, .. } => Kind::TooManyHeaders,
            Refusal::Head { error: HeadError::TargetTooLong, .. } => Kind::TargetTooLong,
            Refusal::Head { error: HeadError::UnknownCoding, .. } => Kind::UnknownTransferCoding,
            Refusal::Head { error: HeadError::Version, .. } => Kind::VersionNotSupported,
            Refusal::Timeout { .. } => Kind::HeadTimeout,
        };
        ProxyError::new(kind, refusal.to_string())
    }

    /// A failed call of a filter that fails closed.
    pub fn filter(failure: &FilterFailure) -> Self {
        let kind = match failure.error {
            FilterError::Busy { .. } | FilterError::NoTurn(_) => Kind::FilterBusy,
            FilterError::OutOfMemory { .. } => Kind::OutOfMemory,
            FilterError::Trap(_)
            | FilterError::Deadline(_)
            | FilterError::Timeout(_)
            | FilterError::Memory(_)
            | FilterError::Table(_)
            | FilterError::Declared(_)
            | FilterError::Refused(_)
            | FilterError::Instantiate(_)
            | FilterError::BadAnswer(_) => Kind::FilterFailed,
        };
        let detail = format!("filter `{}` at {}: {}", failure.filter, failure.hook, chain(&failure.error));
        ProxyError::of_filter(&failure.filter, kind, detail)
    }

    /// A request body that a filter asked for and that could not be buffered.
    pub fn unbuffered_request(failure: &BodyFailure) -> Self {
        ProxyError::of_filter(
            &failure.filter,
            unread_request_kind(&failure.error),
            format!("request body for filter `{}`: {}", failure.filter, failure.error),
        )
    }

    /// A request body whose coding could not be taken off for the upstream.
    pub fn undecoded_request(error: &BodySourceError) -> Self {
        ProxyError::new(unread_request_kind(error), format!("request body: {error}"))
    }

    /// The same for a response body.
    pub fn unbuffered_response(failure: &BodyFailure) -> Self {
        let kind = match &failure.error {
            BodySourceError::TooLarge(_) => Kind::ResponseTooLarge,
            BodySourceError::Coding(_) => Kind::UpstreamBody,
            BodySourceError::Aborted(kind, _) => response_body_kind(*kind),
            BodySourceError::Budget => Kind::OutOfMemory,
        };
        ProxyError::of_filter(
            &failure.filter,
            kind,
            format!("response body for filter `{}`: {}", failure.filter, failure.error),
        )
    }

    /// An exchange that has lasted as long as its route allows.
    pub fn outlived(limit: Duration) -> Self {
        ProxyError::new(Kind::StreamDuration, format!("the exchange has lasted longer than {limit:?}"))
    }

    /// A response body that broke off on its way to the client.
    pub fn response_body(error: &BodyError) -> Self {
        ProxyError::new(response_body_kind(error.kind()), format!("response body: {}", chain(error)))
    }
}

fn unread_request_kind(error: &BodySourceError) -> Kind {
    match error {
        BodySourceError::TooLarge(_) => Kind::BodyTooLarge,
        BodySourceError::Coding(_) => Kind::UnsupportedCoding,
        BodySourceError::Aborted(kind, _) => request_body_kind(*kind),
        BodySourceError::Budget => Kind::OutOfMemory,
    }
}

/// What a broken request body means.
pub(super) fn request_body_kind(kind: BodyErrorKind) -> Kind {
    match kind {
        BodyErrorKind::ClientAborted => Kind::ClientAborted,
        BodyErrorKind::TooLarge => Kind::BodyTooLarge,
        BodyErrorKind::IdleTimeout => Kind::ClientTimeout,
        BodyErrorKind::Outlived => Kind::StreamDuration,
        BodyErrorKind::BudgetExhausted => Kind::OutOfMemory,
        BodyErrorKind::Protocol => Kind::BadRequest,
        BodyErrorKind::Filter => Kind::FilterFailed,
        BodyErrorKind::Coding => Kind::UnsupportedCoding,
        BodyErrorKind::UpstreamAborted => Kind::UpstreamReset,
    }
}

fn response_body_kind(kind: BodyErrorKind) -> Kind {
    match kind {
        BodyErrorKind::UpstreamAborted => Kind::UpstreamReset,
        BodyErrorKind::TooLarge => Kind::UpstreamBody,
        BodyErrorKind::IdleTimeout => Kind::UpstreamTimeout,
        BodyErrorKind::Outlived => Kind::StreamDuration,
        BodyErrorKind::BudgetExhausted => Kind::OutOfMemory,
        BodyErrorKind::Protocol => Kind::UpstreamProtocol,
        BodyErrorKind::Filter => Kind::FilterFailed,
        BodyErrorKind::Coding => Kind::UpstreamBody,
        BodyErrorKind::ClientAborted => Kind::ClientAborted,
    }
}
