//! Why an upstream gave no answer: one failed attempt, and the whole request.

use std::error::Error as StdError;
use std::fmt;
use std::rc::Rc;

use super::health::outliers::Failure;
use super::retry::{Delivery, EndedAttempt, Repeatability};
use crate::config::model::RetryCondition;
use crate::http::body::BodyErrorKind;

/// What went wrong, to decide on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamErrorKind {
    /// No endpoint could be chosen: none is known by the addresses that a filter gave.
    NoEndpoint,
    /// All endpoints, or the upstream, have as many requests under way as they may.
    Busy,
    /// The circuits of all endpoints are open.
    CircuitOpen,
    Dns,
    /// No endpoint took a connection.
    Connect,
    ConnectTimeout,
    Tls,
    /// The response head did not come in time.
    FirstByteTimeout,
    /// The time was over that the client gives the request: not the upstream's fault.
    DeadlineExceeded,
    /// The connection broke before a response head had come.
    Reset,
    /// The server said that it has not processed the request (RFC 9113 §8.7).
    Refused,
    /// What came is not HTTP, or its head is too large.
    Protocol,
    /// A file, or the folder of them, could not be read: not for lack of it, but as disks and limits of the system fail.
    Files,
    /// The request could not be sent to its end because its own body failed: not the upstream's fault.
    RequestBody(BodyErrorKind),
}

impl UpstreamErrorKind {
    /// As metrics show it.
    pub fn name(self) -> &'static str {
        match self {
            UpstreamErrorKind::NoEndpoint => "no-endpoint",
            UpstreamErrorKind::Busy => "busy",
            UpstreamErrorKind::CircuitOpen => "circuit-open",
            UpstreamErrorKind::Dns => "dns",
            UpstreamErrorKind::Connect => "connect",
            UpstreamErrorKind::ConnectTimeout => "connect-timeout",
            UpstreamErrorKind::Tls => "tls",
            UpstreamErrorKind::FirstByteTimeout => "first-byte-timeout",
            UpstreamErrorKind::DeadlineExceeded => "deadline-exceeded",
            UpstreamErrorKind::Reset => "reset",
            UpstreamErrorKind::Refused => "refused",
            UpstreamErrorKind::Protocol => "protocol",
            UpstreamErrorKind::Files => "files",
            UpstreamErrorKind::RequestBody(_) => "request-body",
        }
    }
}

/// No answer from an upstream, after all attempts.
#[derive(Debug)]
pub struct UpstreamError {
    pub kind: UpstreamErrorKind,
    pub upstream: Rc<str>,
    /// The endpoint of the last attempt.
    pub endpoint: Option<Rc<str>>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            UpstreamErrorKind::NoEndpoint => "has no endpoint to choose",
            UpstreamErrorKind::Busy => "has no room for the request",
            UpstreamErrorKind::CircuitOpen => "has open circuits only",
            UpstreamErrorKind::Dns => "has no address",
            UpstreamErrorKind::Connect => "does not accept connections",
            UpstreamErrorKind::ConnectTimeout => "did not accept a connection in time",
            UpstreamErrorKind::Tls => "failed the TLS handshake",
            UpstreamErrorKind::FirstByteTimeout => "did not answer in time",
            UpstreamErrorKind::DeadlineExceeded => "did not answer within the client's deadline",
            UpstreamErrorKind::Reset => "closed the connection without an answer",
            UpstreamErrorKind::Refused => "refused the request",
            UpstreamErrorKind::Protocol => "sent a malformed answer",
            UpstreamErrorKind::Files => "could not read its files",
            UpstreamErrorKind::RequestBody(_) => "did not get the whole request",
        };
        write!(f, "upstream `{}` {what}", self.upstream)?;
        match &self.endpoint {
            Some(endpoint) => write!(f, " (endpoint `{endpoint}`)"),
            None => Ok(()),
        }
    }
}

impl StdError for UpstreamError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// One attempt that brought no response.
#[derive(Debug)]
pub struct AttemptError {
    pub kind: UpstreamErrorKind,
    pub(super) source: Option<Box<dyn StdError + Send + Sync>>,
    pub(super) delivery: Delivery,
    pub(super) reused_connection: bool,
    /// The endpoint is not to blame, whatever the kind says.
    pub(super) blameless: bool,
}

impl AttemptError {
    /// A failure before anything was sent.
    pub fn new(kind: UpstreamErrorKind) -> Self {
        AttemptError { kind, source: None, delivery: Delivery::Unsent, reused_connection: false, blameless: false }
    }

    /// The same with its cause.
    pub(crate) fn because(kind: UpstreamErrorKind, source: impl StdError + Send + Sync + 'static) -> Self {
        AttemptError { source: Some(Box::new(source)), ..AttemptError::new(kind) }
    }

    /// With what the server may have seen of the request.
    pub(super) fn delivered(self, delivery: Delivery) -> Self {
        AttemptError { delivery, ..self }
    }

    /// With whether the connection was open before.
    pub(super) fn on_reused_connection(self, reused_connection: bool) -> Self {
        AttemptError { reused_connection, ..self }
    }

    /// With the endpoint not to blame for it.
    pub(crate) fn blameless(self) -> Self {
        AttemptError { blameless: true, ..self }
    }

    /// Whether it says nothing against the endpoint, whatever its kind.
    pub(super) fn is_blameless(&self) -> bool {
        // A server may close an idle connection at any time, also while a request is on its way.
        let was_closed = self.reused_connection && matches!(self.delivery, Delivery::Unsent | Delivery::ClosedIdle);
        self.blameless || was_closed && self.kind == UpstreamErrorKind::Reset
    }

    /// Whether the gateway itself had no connection for it, after it has waited for one.
    pub fn is_without_connection(&self) -> bool {
        self.kind == UpstreamErrorKind::Busy && self.blameless
    }

    /// How the endpoint has failed; `None` where it has not, or where that is known already: that it takes no connections.
    pub(super) fn failure(&self) -> Option<Failure> {
        match self.kind {
            _ if self.is_blameless() => None,
            UpstreamErrorKind::FirstByteTimeout => Some(Failure::Timeout),
            UpstreamErrorKind::Reset => Some(Failure::Reset),
            UpstreamErrorKind::Protocol => Some(Failure::Malformed),
            UpstreamErrorKind::NoEndpoint
            | UpstreamErrorKind::Busy
            | UpstreamErrorKind::CircuitOpen
            | UpstreamErrorKind::Dns
            | UpstreamErrorKind::Connect
            | UpstreamErrorKind::ConnectTimeout
            | UpstreamErrorKind::Tls
            | UpstreamErrorKind::DeadlineExceeded
            | UpstreamErrorKind::Refused
            | UpstreamErrorKind::Files
            | UpstreamErrorKind::RequestBody(_) => None,
        }
    }

    /// Whether the server may have acted on the request.
    pub fn may_have_been_processed(&self) -> bool {
        matches!(self.delivery, Delivery::Possible | Delivery::ClosedIdle)
    }

    /// What the retry decision needs of it.
    pub fn ended(&self, request: Repeatability) -> EndedAttempt {
        let AttemptError { delivery, reused_connection, .. } = *self;
        EndedAttempt { delivery, reused_connection, condition: self.condition(), request }
    }

    /// What retry policies call it.
    pub fn condition(&self) -> Option<RetryCondition> {
        match (self.kind, self.delivery) {
            (UpstreamErrorKind::Refused, _) => Some(RetryCondition::RefusedStream),
            (UpstreamErrorKind::Dns | UpstreamErrorKind::Connect, _)
            | (UpstreamErrorKind::ConnectTimeout | UpstreamErrorKind::Tls, _)
            | (UpstreamErrorKind::Reset | UpstreamErrorKind::Protocol, Delivery::Unsent) => {
                Some(RetryCondition::ConnectFailure)
            }
            (UpstreamErrorKind::FirstByteTimeout | UpstreamErrorKind::Reset | UpstreamErrorKind::Protocol, _) => {
                Some(RetryCondition::Reset)
            }
            (UpstreamErrorKind::NoEndpoint | UpstreamErrorKind::Busy | UpstreamErrorKind::CircuitOpen, _)
            | (UpstreamErrorKind::DeadlineExceeded, _)
            | (UpstreamErrorKind::Files | UpstreamErrorKind::RequestBody(_), _) => None,
        }
    }

    /// The error of the request, whose last attempt this was.
    pub fn of(self, upstream: &Rc<str>, endpoint: Option<&Rc<str>>) -> UpstreamError {
        let (upstream, endpoint) = (Rc::clone(upstream), endpoint.map(Rc::clone));
        UpstreamError { kind: self.kind, upstream, endpoint, source: self.source }
    }

    /// The reason in a line.
    pub fn reason(&self) -> String {
        match &self.source {
            Some(source) => crate::chain(&**source),
            None => match self.kind {
                UpstreamErrorKind::ConnectTimeout => "connect timed out".to_owned(),
                UpstreamErrorKind::FirstByteTimeout => "no response head in time".to_owned(),
                UpstreamErrorKind::DeadlineExceeded => "no response head within the client's deadline".to_owned(),
                other => format!("{other:?}").to_ascii_lowercase(),
            },
        }
    }
}
