//! Whether a request is sent again, and where. All attempts of a request share one [`Attempts`], which counts what they have used up.
//! Each decision follows from it, from the policy of the route and from how the last attempt ended alone: no clock, no I/O. How many
//! retries all requests of an upstream have is in `budget`, how long one waits in `pause`.
//!
//! By RFC 9110 §9.2.2 a request is sent again
//! - to another endpoint, or on a new connection where an open one turned out to be closed, if nothing of the request was written:
//!   any method;
//! - on another connection, if a connection that had been idle closed before any byte of the response came, and the method is
//!   idempotent and the request has no body;
//! - to another endpoint, or on another connection to this one, if the server says that it has not processed the request (RFC 9113 §8.7)
//!   and the body can be sent again: any method, a few times. An endpoint that refuses streams gets it on two connections at most;
//! - otherwise never: the upstream may have acted on it.
//!
//! A policy takes the place of this, but for connections that were found closed. It says which ends are worth another attempt, and
//! whether methods that are not idempotent may be repeated where the upstream may have acted.

mod budget;
mod pause;

use http::StatusCode;
use smallvec::SmallVec;

use crate::config::model::{RetryCondition, RetryPolicy};

pub use budget::RetryLoad;
pub use pause::{Pushback, pause, pushback};

/// What the server may have seen of a request that got no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Nothing of it was written.
    Unsent,
    /// It was written to a connection that had been idle, and that ended without a byte of a response: the server has probably closed
    /// the connection before the request reached it.
    ClosedIdle,
    /// The server said that it has not processed it, and the whole request is here again.
    Unprocessed(Unprocessed),
    /// The server may have acted on it.
    Possible,
}

/// How a server says that it has not processed a request (RFC 9113 §8.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unprocessed {
    /// It refused the stream: it has no room for it now.
    RefusedStream,
    /// It closes the connection by GOAWAY, and takes streams only up to a number that is below this one's.
    GoAway,
}

/// What a request allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeatability {
    /// RFC 9110 §9.2.2.
    pub idempotent: bool,
    pub has_body: bool,
    /// It can be sent again as a whole: it has no body, or all that has gone of it is kept.
    pub whole: bool,
}

/// How an attempt ended that may be followed by another one, as far as the decision depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedAttempt {
    pub delivery: Delivery,
    /// The connection was open before this request needed one.
    pub reused_connection: bool,
    /// What policies call it; `None` where it was not the upstream's fault.
    pub condition: Option<RetryCondition>,
    pub request: Repeatability,
}

impl EndedAttempt {
    /// An answer that a policy may want to be replaced.
    pub fn answered(condition: RetryCondition, request: Repeatability) -> Self {
        EndedAttempt { delivery: Delivery::Possible, reused_connection: false, condition: Some(condition), request }
    }

    /// Whether the upstream may have acted on the request.
    fn may_be_processed(&self) -> bool {
        match self.delivery {
            Delivery::Unsent | Delivery::Unprocessed(_) => false,
            Delivery::ClosedIdle | Delivery::Possible => true,
        }
    }
}

/// What follows an attempt that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The same endpoint, on another connection.
    SameEndpoint,
    /// Another endpoint of the same selection.
    OtherEndpoint,
    /// The filters are asked for a selection again.
    Selection,
    /// What came is the answer.
    GiveUp,
}

/// What follows, and on which terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    pub next: Next,
    /// It adds to the load of the upstream: only if the budget of all its requests has room.
    pub is_charged: bool,
    /// The next attempt waits.
    pub is_paused: bool,
    /// Why the policy is not followed further, where another attempt would have been worth it.
    pub denied: Option<Denied>,
}

impl Decision {
    /// No other attempt.
    pub const GIVE_UP: Decision = free(Next::GiveUp);
}

/// Why there is no retry although the policy names what happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// The attempts are used up.
    Attempts,
    /// The method is not idempotent.
    Method,
    /// Too much of the body has gone.
    Body,
    /// All requests of the upstream together have used up their retries.
    Budget,
    /// The wait would be longer than the request may take.
    Deadline,
    /// The upstream asks for a longer wait than is allowed, or for none.
    RetryAfter,
    /// A filter has said so.
    Filter,
}

impl Denied {
    /// As metrics show it.
    pub fn name(self) -> &'static str {
        match self {
            Denied::Attempts => "attempts",
            Denied::Method => "method",
            Denied::Body => "body",
            Denied::Budget => "budget",
            Denied::Deadline => "deadline",
            Denied::RetryAfter => "retry-after",
            Denied::Filter => "filter",
        }
    }
}

/// What the filters have chosen, compared with their choice before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FilterChoice {
    #[default]
    NoneOrSame,
    /// They react to failures, so it is worth asking again.
    New,
}

/// The condition of an answer that the policy wants replaced, if the request allows it.
pub fn condition_of(policy: &RetryPolicy, status: StatusCode, grpc_status: Option<u8>) -> Option<RetryCondition> {
    let of_status = match status.as_u16() {
        _ if policy.status_codes.contains(&status) => Some(RetryCondition::RetriableStatusCodes),
        502..=504 => Some(RetryCondition::GatewayError),
        _ => grpc_status.and_then(RetryCondition::of_grpc),
    };
    of_status.filter(|condition| policy.on.contains(*condition))
}

/// What the attempts of one request have used up, and what they may use.
#[derive(Debug, Default)]
pub struct Attempts<'p> {
    policy: Option<&'p RetryPolicy>,
    /// The endpoints tried of this selection, in order.
    tried: SmallVec<[usize; 4]>,
    max_endpoints: usize,
    /// Attempts begun, without those on connections that were found closed.
    made: u32,
    /// How often the filters were asked.
    selections: usize,
    max_selections: usize,
    choice: FilterChoice,
    /// How often a server said that it has not processed it.
    refusals: usize,
    /// How many streams the last endpoint has refused.
    refused_here: usize,
}

/// Refusals after which a request is given up: a server that refuses again and again has no room.
const MAX_REFUSALS: usize = 3;
/// Streams that one endpoint may refuse of a request: another of its connections may have room, a third one hardly.
const MAX_REFUSED_HERE: usize = 2;

impl<'p> Attempts<'p> {
    pub fn new(policy: Option<&'p RetryPolicy>) -> Self {
        Attempts { policy, ..Attempts::default() }
    }

    /// Begins a selection. The filters may be asked again as long as they choose something else each time, `max_selections` times
    /// in all.
    pub fn select(&mut self, max_endpoints: usize, max_selections: usize, choice: FilterChoice) {
        self.tried.clear();
        self.selections += 1;
        (self.max_endpoints, self.max_selections, self.choice) = (max_endpoints, max_selections, choice);
    }

    /// The endpoints tried of this selection.
    pub fn tried(&self) -> &[usize] {
        &self.tried
    }

    /// Attempts begun, without those on connections that were found closed.
    pub fn made(&self) -> u32 {
        self.made
    }

    /// Counts an endpoint as tried.
    pub fn spend(&mut self, endpoint: usize) {
        self.tried.push(endpoint);
        self.made += 1;
        self.refused_here = 0;
    }

    /// Counts an attempt that has ended, and decides what follows. `forbidden`: a filter wants no other attempt.
    pub fn after(&mut self, ended: EndedAttempt, forbidden: bool) -> Decision {
        let EndedAttempt { delivery, reused_connection, request, .. } = ended;
        let is_stale = match delivery {
            Delivery::Unsent => reused_connection,
            Delivery::ClosedIdle => reused_connection && request.idempotent && !request.has_body,
            Delivery::Unprocessed(_) | Delivery::Possible => false,
        };
        if is_stale {
            // It says nothing about the endpoint, which has closed a connection that nobody used.
            return free(Next::SameEndpoint);
        }
        let decision = match self.policy {
            None => free(self.by_default(ended)),
            Some(policy) => self.by_policy(policy, ended),
        };
        if forbidden && decision.next != Next::GiveUp { denied(Denied::Filter) } else { decision }
    }

    fn by_default(&mut self, ended: EndedAttempt) -> Next {
        match ended.delivery {
            Delivery::Unprocessed(unprocessed) => self.after_refusal(unprocessed, ended.reused_connection),
            Delivery::Unsent if self.tried.len() < self.max_endpoints => Next::OtherEndpoint,
            Delivery::Unsent => self.without_endpoint(),
            Delivery::ClosedIdle | Delivery::Possible => Next::GiveUp,
        }
    }

    fn by_policy(&mut self, policy: &RetryPolicy, ended: EndedAttempt) -> Decision {
        let Some(condition) = ended.condition.filter(|condition| policy.on.contains(*condition)) else {
            return Decision::GIVE_UP;
        };
        let EndedAttempt { delivery, request, .. } = ended;
        if self.made >= policy.attempts {
            return denied(Denied::Attempts);
        }
        if ended.may_be_processed() {
            // Calls of gRPC are POSTs: who names a status of gRPC says that the calls may be repeated after it.
            if !request.idempotent && !policy.non_idempotent && !condition.is_grpc() {
                return denied(Denied::Method);
            }
            if !request.whole {
                return denied(Denied::Body);
            }
        }
        let has_other = self.tried.len() < self.max_endpoints;
        let next = match delivery {
            Delivery::Unprocessed(unprocessed) => self.after_refusal(unprocessed, ended.reused_connection),
            _ if has_other => Next::OtherEndpoint,
            _ => self.without_endpoint(),
        };
        if next == Next::SameEndpoint {
            self.made += 1;
        }
        // What was not processed has cost nobody much, and an endpoint that has not been asked may answer at once.
        let is_cheap = match delivery {
            Delivery::Unsent | Delivery::Unprocessed(Unprocessed::GoAway) => true,
            Delivery::Unprocessed(Unprocessed::RefusedStream) | Delivery::ClosedIdle | Delivery::Possible => false,
        };
        let is_paused = !(has_other || next == Next::SameEndpoint) || ended.may_be_processed();
        match next {
            Next::GiveUp => denied(Denied::Attempts),
            next => Decision { next, is_charged: !is_cheap, is_paused, denied: None },
        }
    }

    /// The decision where the server says that it has not processed the request.
    fn after_refusal(&mut self, unprocessed: Unprocessed, reused_connection: bool) -> Next {
        self.refusals += 1;
        self.refused_here += usize::from(unprocessed == Unprocessed::RefusedStream);
        let is_done_here = self.refused_here >= MAX_REFUSED_HERE;
        let prefers_other = is_done_here || !reused_connection;
        match self.tried.len() < self.max_endpoints {
            _ if self.refusals >= MAX_REFUSALS => Next::GiveUp,
            true if prefers_other => Next::OtherEndpoint,
            false if is_done_here => self.without_endpoint(),
            _ => Next::SameEndpoint,
        }
    }

    /// The decision where the selection has no endpoint left. With a policy all of them may be tried once more, but for the last one if
    /// there is another: it has just failed.
    pub fn without_endpoint(&mut self) -> Next {
        if self.choice == FilterChoice::New && self.selections < self.max_selections {
            return Next::Selection;
        }
        if self.policy.is_none() || self.tried.is_empty() {
            return Next::GiveUp;
        }
        match (self.tried.len(), self.tried.last().copied()) {
            (2.., Some(last)) => self.tried = SmallVec::from_slice(&[last]),
            _ => self.tried.clear(),
        }
        Next::OtherEndpoint
    }
}

/// Another attempt that costs the upstream nothing, or none.
const fn free(next: Next) -> Decision {
    Decision { next, is_charged: false, is_paused: false, denied: None }
}

fn denied(why: Denied) -> Decision {
    Decision { denied: Some(why), ..free(Next::GiveUp) }
}

#[cfg(test)]
mod tests;
