//! Why a host function refused: the cases of the WIT `types.error` that do not depend on the hook.

/// A refusal. Nothing has changed when a service answers one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// The operator has not granted this; the text names the missing grant as `gateway.toml` writes it.
    #[error("not granted: {0}")]
    NotGranted(String),
    /// An argument is malformed or forbidden.
    #[error("{0}")]
    Invalid(String),
    /// More than this many bytes or items.
    #[error("more than the limit of {0}")]
    TooLarge(u64),
    /// What the call needs can't be reached now.
    #[error("{0}")]
    Unavailable(String),
    /// The deadline of the call passed.
    #[error("the deadline passed")]
    Timeout,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl ServiceError {
    /// Of a key of more bytes than are taken.
    pub(super) fn long_key(key: &str, most: usize) -> ServiceError {
        ServiceError::Invalid(format!("a key of {} bytes: {most} are the most", key.len()))
    }
}
