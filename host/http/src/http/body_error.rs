//! Why a body did not come to its end, and whose fault that is.

use std::error::Error as StdError;
use std::time::Duration;

/// Which peer sends a body, for the blame when it breaks off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    Client,
    Upstream,
}

/// What a connection said.
pub(crate) type Cause = Box<dyn StdError + Send + Sync>;

/// Why a body did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the client broke off its body")]
    ClientAborted(#[source] Cause),
    #[error("the upstream broke off its body")]
    UpstreamAborted(#[source] Cause),
    #[error("body larger than {0} bytes")]
    TooLarge(u64),
    #[error("no byte of the body for {} ms", .0.as_millis())]
    IdleTimeout(Duration),
    #[error("the exchange has lasted longer than {} ms", .0.as_millis())]
    Outlived(Duration),
    #[error("no memory left in the budget of {0} bytes for buffered bodies")]
    BudgetExhausted(usize),
    #[error("malformed body")]
    Protocol(#[source] Cause),
    /// A filter with the failure policy `closed` failed after the head was sent.
    #[error("a filter failed while the message was sent")]
    Filter(#[source] Cause),
    /// A content coding could not be put on it, or taken off it.
    #[error("the content coding of the body")]
    Coding(#[source] Cause),
}

/// A [`BodyError`] without its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyErrorKind {
    ClientAborted,
    UpstreamAborted,
    TooLarge,
    IdleTimeout,
    Outlived,
    BudgetExhausted,
    Protocol,
    Filter,
    Coding,
}

impl BodyError {
    /// What went wrong, to decide on.
    pub fn kind(&self) -> BodyErrorKind {
        match self {
            BodyError::ClientAborted(_) => BodyErrorKind::ClientAborted,
            BodyError::UpstreamAborted(_) => BodyErrorKind::UpstreamAborted,
            BodyError::TooLarge(_) => BodyErrorKind::TooLarge,
            BodyError::IdleTimeout(_) => BodyErrorKind::IdleTimeout,
            BodyError::Outlived(_) => BodyErrorKind::Outlived,
            BodyError::BudgetExhausted(_) => BodyErrorKind::BudgetExhausted,
            BodyError::Protocol(_) => BodyErrorKind::Protocol,
            BodyError::Filter(_) => BodyErrorKind::Filter,
            BodyError::Coding(_) => BodyErrorKind::Coding,
        }
    }

    pub(super) fn of(sender: Sender, error: hyper::Error) -> Self {
        // Broken chunks are parse errors wrapped as I/O errors of these kinds; everything else is a peer that went away.
        let malformed = error.is_parse()
            || error.source().and_then(|s| s.downcast_ref::<std::io::Error>()).is_some_and(|io| {
                matches!(io.kind(), std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData)
            });
        match sender {
            _ if malformed => BodyError::Protocol(Box::new(error)),
            Sender::Client => BodyError::ClientAborted(Box::new(error)),
            Sender::Upstream => BodyError::UpstreamAborted(Box::new(error)),
        }
    }
}
