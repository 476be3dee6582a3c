//! Bodies on their way through the pipeline: streaming until a filter asks for the whole, then buffered and decoded once.

use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body as _;

use crate::deadline;
use crate::filter::{BodySource, BodySourceError};
use crate::http::body::{Body, BodyError};
use crate::http::buffer::{MemoryBudget, collect};
use crate::http::coding::{self, Coding, CodingError};
use crate::http::headers::HeaderClasses;

/// The body of a message of either direction.
#[derive(Default)]
pub(super) struct MessageBody {
    body: Body,
    /// `content-encoding`, as the sender wrote it if it did: filters may edit the head before the body is wanted.
    codings: Option<Box<HeaderMap>>,
    /// When the whole has to be in memory, if a filter wants it.
    until: Option<Instant>,
}

impl MessageBody {
    /// `headers` are those of the body, if they may tell of a coding.
    pub(super) fn new(body: Body, headers: Option<&HeaderMap>) -> Self {
        let mut codings = None::<Box<HeaderMap>>;
        for value in headers.into_iter().flat_map(|headers| headers.get_all(http::header::CONTENT_ENCODING)) {
            codings.get_or_insert_default().append(http::header::CONTENT_ENCODING, value.clone());
        }
        MessageBody { body, codings, until: None }
    }

    /// Bounds how long buffering may take in all: single bytes at long intervals are no idling.
    pub(super) fn within(self, until: Option<Instant>) -> Self {
        MessageBody { until, ..self }
    }

    /// Whether there is nothing to read.
    pub(super) fn is_empty(&self) -> bool {
        self.body.is_end_stream()
    }

    /// The content codings, in the order in which they were put on.
    pub(super) fn codings(&self) -> Result<Vec<Coding>, CodingError> {
        self.codings.as_ref().map_or_else(|| Ok(Vec::new()), |headers| coding::codings(headers))
    }

    /// Whether it may have a content coding.
    pub(super) fn is_coded(&self) -> bool {
        self.codings.is_some()
    }

    /// What is passed on when no filter has replaced it: byte for byte what came in.
    pub(super) fn take(&mut self) -> Body {
        std::mem::take(&mut self.body)
    }

    /// Drops the bytes of a body that is here as a whole, when a filter has replaced them.
    pub(super) fn release(&mut self) {
        if matches!(self.body, Body::Full { .. }) {
            self.body = Body::Empty;
        }
    }

    /// The body as the pipeline buffers it. What is buffered counts against `budget`.
    pub(super) fn source<'a>(&'a mut self, budget: &'a MemoryBudget) -> Bufferable<'a> {
        Bufferable { message: self, budget }
    }
}

/// The headers, if they tell of a coding.
pub(super) fn coded(headers: &HeaderMap, classes: HeaderClasses) -> Option<&HeaderMap> {
    classes.has(HeaderClasses::CODING).then_some(headers)
}

/// A body that filters can ask for.
pub(super) struct Bufferable<'a> {
    message: &'a mut MessageBody,
    budget: &'a MemoryBudget,
}

impl BodySource for Bufferable<'_> {
    fn is_empty(&self) -> bool {
        self.message.body.is_end_stream()
    }

    fn check_coding(&self) -> Result<(), BodySourceError> {
        self.message.codings().map(|_| ()).map_err(|error| BodySourceError::Coding(crate::chain(&error)))
    }

    async fn buffer(&mut self, max_bytes: u64) -> Result<Bytes, BodySourceError> {
        let MessageBody { body, codings, until } = &mut *self.message;
        let whole = collect(body, max_bytes, self.budget);
        let raw = match until.map(|until| until.saturating_duration_since(Instant::now())) {
            None => whole.await,
            Some(left) => deadline::timeout(left, whole).await.unwrap_or(Err(BodyError::IdleTimeout(left))),
        };
        let raw = raw.map_err(source_error)?;
        let Some(codings) = codings else { return Ok(raw) };
        coding::decode(codings, raw, max_bytes, self.budget).map_err(|error| match error {
            CodingError::TooLarge(limit) => BodySourceError::TooLarge(limit),
            CodingError::Budget(_) => BodySourceError::Budget,
            other => BodySourceError::Coding(crate::chain(&other)),
        })
    }
}

fn source_error(error: BodyError) -> BodySourceError {
    match error {
        BodyError::TooLarge(limit) => BodySourceError::TooLarge(limit),
        BodyError::BudgetExhausted(_) => BodySourceError::Budget,
        BodyError::ClientAborted(_)
        | BodyError::UpstreamAborted(_)
        | BodyError::IdleTimeout(_)
        | BodyError::Outlived(_)
        | BodyError::Protocol(_)
        | BodyError::Filter(_)
        | BodyError::Coding(_) => BodySourceError::Aborted(error.kind(), crate::chain(&error)),
    }
}
