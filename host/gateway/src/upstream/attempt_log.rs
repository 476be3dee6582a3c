//! The attempts of one request, one record each: what the access log, the metrics and `route.failures` know of them.

use std::rc::Rc;
use std::time::Duration;

use smallvec::SmallVec;

use super::address::Address;
use super::error::UpstreamErrorKind;
use super::verdict::grpc_status;
use crate::exchange::ResponseHead;

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// It has not ended, or the client left before.
    Pending,
    /// The response head came.
    Response,
    /// The response head came, and the route's policy wanted another attempt.
    Retried,
    /// The server had closed the idle connection; the request went out again on another one.
    Stale,
    Failed(UpstreamErrorKind),
}

impl AttemptOutcome {
    /// As metrics show it.
    pub fn name(self) -> &'static str {
        match self {
            AttemptOutcome::Pending => "pending",
            AttemptOutcome::Response => "response",
            AttemptOutcome::Retried => "retried-response",
            AttemptOutcome::Stale => "stale-connection",
            AttemptOutcome::Failed(kind) => kind.name(),
        }
    }
}

/// One attempt to get a response. The texts are this worker's own, so that counting references to them is cheap.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub upstream: Rc<str>,
    /// `host:port`, `unix:/path`, or the name of the builtin. `None`: there was none to choose.
    pub endpoint: Option<Rc<str>>,
    pub outcome: AttemptOutcome,
    /// It has failed, and that says nothing against the endpoint.
    pub is_blameless: bool,
    /// Time taken to connect; `None` when a connection was open already.
    pub connect: Option<Duration>,
    /// From sending the request to its response head.
    pub first_byte: Option<Duration>,
    /// Of an attempt that brought no response, or none that was passed on; boxed since it is rare.
    pub failure: Option<Box<AttemptFailure>>,
}

/// Where and why an attempt has failed.
#[derive(Debug, Clone)]
pub struct AttemptFailure {
    /// The address of the endpoint that was chosen; `None` where its name had none.
    pub address: Option<Address>,
    pub reason: String,
    /// Of a response that was not passed on.
    pub answer: Option<Answer>,
}

/// What a response head says of how the request has ended.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    pub status: u16,
    /// The status of gRPC.
    pub grpc: Option<u8>,
}

impl Answer {
    pub fn of(head: &ResponseHead) -> Self {
        Answer { status: head.status.as_u16(), grpc: grpc_status(&head.headers) }
    }
}

impl Attempt {
    pub fn new(upstream: Rc<str>, endpoint: Option<Rc<str>>) -> Self {
        let (connect, first_byte, failure) = (None, None, None);
        Attempt {
            upstream,
            endpoint,
            outcome: AttemptOutcome::Pending,
            is_blameless: false,
            connect,
            first_byte,
            failure,
        }
    }
}

/// All attempts of one request, oldest first. The first one needs no memory of its own.
#[derive(Debug, Clone, Default)]
pub struct AttemptLog(SmallVec<[Attempt; 1]>);

impl AttemptLog {
    /// Adds an attempt that begins now.
    pub fn begin(&mut self, upstream: &Rc<str>, endpoint: Option<Rc<str>>) -> &mut Attempt {
        self.0.push(Attempt::new(Rc::clone(upstream), endpoint));
        self.0.last_mut().expect("an attempt was pushed")
    }

    /// The last attempt, if it went to this upstream.
    pub fn last_at(&self, upstream: &str) -> Option<&Attempt> {
        self.last().filter(|attempt| *attempt.upstream == *upstream)
    }

    pub fn last(&self) -> Option<&Attempt> {
        self.0.last()
    }

    /// How a request has ended at this upstream, where its last attempt says so: `None` if the client has left, or the gateway itself has refused
    /// it. A retry that got no connection says nothing, so the attempt before counts.
    pub fn ending_at(&self, upstream: &str) -> Option<Result<Answer, UpstreamErrorKind>> {
        let is_unsent = |attempt: &&Attempt| {
            attempt.is_blameless && attempt.outcome == AttemptOutcome::Failed(UpstreamErrorKind::Busy)
        };
        let last = self.0.iter().rev().find(|attempt| !is_unsent(attempt))?;
        match last.outcome {
            _ if *last.upstream != *upstream || last.is_blameless => None,
            AttemptOutcome::Failed(kind) => Some(Err(kind)),
            AttemptOutcome::Retried => last.failure.as_ref()?.answer.map(Ok),
            AttemptOutcome::Pending | AttemptOutcome::Response | AttemptOutcome::Stale => None,
        }
    }

    pub fn last_mut(&mut self) -> Option<&mut Attempt> {
        self.0.last_mut()
    }

    /// The attempts that brought no response, or none that was passed on, with their failures.
    pub fn failed(&self) -> impl Iterator<Item = (&Attempt, &AttemptFailure)> {
        self.0.iter().filter_map(|attempt| Some((attempt, attempt.failure.as_deref()?)))
    }

    /// How often an endpoint was asked.
    pub fn count(&self) -> usize {
        self.0.iter().filter(|attempt| attempt.endpoint.is_some()).count()
    }
}
