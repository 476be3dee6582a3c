//! The body of a message as a pipeline needs it: buffered once, when the first filter asks.

use std::sync::Arc;

use bytes::Bytes;

use crate::http::body::BodyErrorKind;
use crate::wasm::UnreadReason;

/// A body that can be buffered. What was read stays with the source, so that a body that turned out too large for a filter
/// can still be passed on.
pub trait BodySource {
    /// Whether it is known that the message has no body.
    fn is_empty(&self) -> bool;

    /// Whether the content codings that it has can be taken off.
    fn check_coding(&self) -> Result<(), BodySourceError> {
        Ok(())
    }

    /// The whole body without its content coding, if it has at most `max_bytes`.
    fn buffer(&mut self, max_bytes: u64) -> impl Future<Output = Result<Bytes, BodySourceError>>;
}

/// A body that a filter asked for and that could not be buffered.
#[derive(Debug, Clone)]
pub struct BodyFailure {
    pub filter: Arc<str>,
    pub error: BodySourceError,
}

/// Why a body could not be buffered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodySourceError {
    #[error("the body has more than {0} bytes")]
    TooLarge(u64),
    /// An unknown content coding, or content that isn't what its coding says.
    #[error("the body can't be decoded: {0}")]
    Coding(String),
    /// The peer broke off or was too slow.
    #[error("the body did not arrive: {1}")]
    Aborted(BodyErrorKind, String),
    /// The gateway's budget for buffered bodies is used up.
    #[error("no room to buffer the body")]
    Budget,
}

impl BodySourceError {
    /// How it is counted for the filter; `None` where the peer broke off.
    pub(super) fn reason(&self) -> Option<UnreadReason> {
        match self {
            BodySourceError::TooLarge(_) => Some(UnreadReason::TooLarge),
            BodySourceError::Coding(_) => Some(UnreadReason::Coding),
            BodySourceError::Aborted(..) => None,
            BodySourceError::Budget => Some(UnreadReason::OutOfMemory),
        }
    }
}
