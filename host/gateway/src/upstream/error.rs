//! Why an upstream gave no answer.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use http::Request;

use crate::exchange::Failure;
use crate::http::body::{Body, BodyErrorKind};

/// What went wrong, to decide on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamErrorKind {
    /// No endpoint could be chosen: none is known by the addresses that a filter gave.
    NoEndpoint,
    Dns,
    /// No endpoint took a connection.
    Connect,
    ConnectTimeout,
    Tls,
    /// The response head did not come in time.
    FirstByteTimeout,
    /// The connection broke before a response head had come.
    Reset,
    /// What came is not HTTP, or its head is too large.
    Protocol,
    /// The request could not be sent to its end because its own body failed: not the upstream's fault.
    RequestBody(BodyErrorKind),
}

/// No answer from an upstream.
pub struct UpstreamError {
    pub kind: UpstreamErrorKind,
    pub upstream: Arc<str>,
    /// The endpoint of the last attempt.
    pub endpoint: Option<Arc<str>>,
    /// The request, when nothing of it was sent: it may go elsewhere.
    pub request: Option<Box<Request<Body>>>,
    /// Otherwise its head, for whoever still reads it.
    pub spent: Option<Box<Request<Body>>>,
    /// All attempts, oldest first.
    pub failures: Vec<Failure>,
    pub(super) source: Option<Box<dyn StdError + Send + Sync>>,
}

impl UpstreamError {
    /// A built-in upstream took too long.
    pub(super) fn timed_out(upstream: Arc<str>) -> Self {
        UpstreamError {
            kind: UpstreamErrorKind::FirstByteTimeout,
            upstream,
            endpoint: None,
            request: None,
            spent: None,
            failures: Vec::new(),
            source: None,
        }
    }
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            UpstreamErrorKind::NoEndpoint => "has no endpoint to choose",
            UpstreamErrorKind::Dns => "has no address",
            UpstreamErrorKind::Connect => "does not accept connections",
            UpstreamErrorKind::ConnectTimeout => "did not accept a connection in time",
            UpstreamErrorKind::Tls => "failed the TLS handshake",
            UpstreamErrorKind::FirstByteTimeout => "did not answer in time",
            UpstreamErrorKind::Reset => "closed the connection without an answer",
            UpstreamErrorKind::Protocol => "sent a malformed answer",
            UpstreamErrorKind::RequestBody(_) => "did not get the whole request",
        };
        write!(f, "upstream `{}` {what}", self.upstream)?;
        match &self.endpoint {
            Some(endpoint) => write!(f, " (endpoint `{endpoint}`)"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, upstream, endpoint, request, spent: _, failures, source } = self;
        f.debug_struct("UpstreamError")
            .field("kind", kind)
            .field("upstream", upstream)
            .field("endpoint", endpoint)
            .field("request", &request.is_some())
            .field("failures", failures)
            .field("source", source)
            .finish()
    }
}

impl StdError for UpstreamError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// One attempt at one endpoint that failed.
pub(super) struct Attempt {
    pub(super) kind: UpstreamErrorKind,
    pub(super) source: Option<Box<dyn StdError + Send + Sync>>,
    pub(super) request: Option<Box<Request<Body>>>,
    /// Whether `request` may be sent again.
    pub(super) again: bool,
}

impl Attempt {
    pub(super) fn new(kind: UpstreamErrorKind) -> Self {
        Attempt { kind, source: None, request: None, again: false }
    }

    pub(super) fn because(kind: UpstreamErrorKind, source: impl StdError + Send + Sync + 'static) -> Self {
        Attempt { kind, source: Some(Box::new(source)), request: None, again: false }
    }

    pub(super) fn with(self, request: Box<Request<Body>>) -> Self {
        Attempt { request: Some(request), again: true, ..self }
    }

    /// With a request of which the server may have seen something.
    pub(super) fn spent(self, request: Box<Request<Body>>) -> Self {
        Attempt { request: Some(request), again: false, ..self }
    }

    /// The reason in a line.
    pub(super) fn reason(&self) -> String {
        match &self.source {
            Some(source) => crate::chain(&**source),
            None => match self.kind {
                UpstreamErrorKind::ConnectTimeout => "connect timed out".to_owned(),
                UpstreamErrorKind::FirstByteTimeout => "no response head in time".to_owned(),
                other => format!("{other:?}").to_ascii_lowercase(),
            },
        }
    }
}
