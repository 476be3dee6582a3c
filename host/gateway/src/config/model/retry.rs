//! When and how a request is sent to an upstream again, and the deadlines of clients.

use std::time::Duration;

use http::StatusCode;
use http::header::HeaderName;

use super::ByteSize;

/// When a request is sent again, how often, and what that may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// In all, the first one included.
    pub attempts: u32,
    pub on: RetryConditions,
    /// The statuses of [`RetryCondition::RetriableStatusCodes`].
    pub status_codes: Vec<StatusCode>,
    /// For each attempt, from its connection to the head of the response.
    pub per_try_timeout: Option<Duration>,
    pub backoff: Backoff,
    pub budget: RetryBudget,
    /// The largest part of a request body that is kept to be sent again.
    pub body: ByteSize,
    /// Whether methods are repeated that are not idempotent.
    pub non_idempotent: bool,
    /// The longest wait that an upstream may ask for.
    pub max_retry_after: Duration,
    /// The header in which the upstream gets the number of the attempt.
    pub attempt_header: Option<HeaderName>,
}

/// How an attempt ends that is worth another one. The words are those of Envoy's `retry_on`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RetryCondition {
    /// No connection, so that nothing was sent.
    ConnectFailure,
    /// The server said that it has not processed the request (RFC 9113 §8.7).
    RefusedStream,
    /// No response: the connection broke, the response was malformed, or its head did not come in time.
    Reset,
    /// 502, 503 or 504.
    GatewayError,
    /// One of [`RetryPolicy::status_codes`].
    RetriableStatusCodes,
    // Statuses of gRPC in the head of a response.
    Cancelled,
    DeadlineExceeded,
    Internal,
    ResourceExhausted,
    Unavailable,
}

/// A set of conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryConditions(u16);

/// The random wait before an attempt: between nothing and `base`, which doubles with each attempt up to `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub base: Duration,
    pub max: Duration,
}

/// How many retries an upstream gets, compared with its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudget {
    /// Of the requests of the last ten seconds.
    pub percent: u32,
    /// In each second, however few requests there are.
    pub min_per_second: u32,
}

/// What becomes of the deadlines that clients set, and which one upstreams are told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadlinePolicy {
    /// `grpc-timeout` bounds the exchange, and the upstream gets what is left of it.
    pub grpc: bool,
    /// The header in which the upstream gets the milliseconds that are left.
    pub header: Option<HeaderName>,
    /// Whether a client's own value of this header bounds the exchange.
    pub trust_header: bool,
}

impl RetryCondition {
    pub const ALL: [RetryCondition; 10] = [
        RetryCondition::ConnectFailure,
        RetryCondition::RefusedStream,
        RetryCondition::Reset,
        RetryCondition::GatewayError,
        RetryCondition::RetriableStatusCodes,
        RetryCondition::Cancelled,
        RetryCondition::DeadlineExceeded,
        RetryCondition::Internal,
        RetryCondition::ResourceExhausted,
        RetryCondition::Unavailable,
    ];

    /// As the configuration, metrics and logs write it.
    pub const fn name(self) -> &'static str {
        match self {
            RetryCondition::ConnectFailure => "connect-failure",
            RetryCondition::RefusedStream => "refused-stream",
            RetryCondition::Reset => "reset",
            RetryCondition::GatewayError => "gateway-error",
            RetryCondition::RetriableStatusCodes => "retriable-status-codes",
            RetryCondition::Cancelled => "cancelled",
            RetryCondition::DeadlineExceeded => "deadline-exceeded",
            RetryCondition::Internal => "internal",
            RetryCondition::ResourceExhausted => "resource-exhausted",
            RetryCondition::Unavailable => "unavailable",
        }
    }

    /// The condition of a status of gRPC.
    pub fn of_grpc(status: u8) -> Option<Self> {
        match status {
            1 => Some(RetryCondition::Cancelled),
            4 => Some(RetryCondition::DeadlineExceeded),
            8 => Some(RetryCondition::ResourceExhausted),
            13 => Some(RetryCondition::Internal),
            14 => Some(RetryCondition::Unavailable),
            _ => None,
        }
    }

    /// Whether it is a status of gRPC.
    pub fn is_grpc(self) -> bool {
        match self {
            RetryCondition::ConnectFailure
            | RetryCondition::RefusedStream
            | RetryCondition::Reset
            | RetryCondition::GatewayError
            | RetryCondition::RetriableStatusCodes => false,
            RetryCondition::Cancelled
            | RetryCondition::DeadlineExceeded
            | RetryCondition::Internal
            | RetryCondition::ResourceExhausted
            | RetryCondition::Unavailable => true,
        }
    }
}

impl RetryConditions {
    pub const fn of(conditions: &[RetryCondition]) -> Self {
        let (mut set, mut at) = (0, 0);
        while at < conditions.len() {
            set |= 1 << conditions[at] as u16;
            at += 1;
        }
        RetryConditions(set)
    }

    pub fn contains(self, condition: RetryCondition) -> bool {
        self.0 & 1 << condition as u16 != 0
    }

    pub fn iter(self) -> impl Iterator<Item = RetryCondition> {
        RetryCondition::ALL.into_iter().filter(move |condition| self.contains(*condition))
    }
}
