//! Why a host function refused, and the error of a hook: the same type, so that `?` works in a hook.

use std::fmt;

use crate::bindings::sluice::filter::types;

/// Why a call was refused, or why a hook fails. A hook that returns it is rolled back, the text goes to the gateway's
/// log, and the filter's failure policy decides about the exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The function has no meaning in this hook.
    WrongHook,
    /// The operator has not granted this; the text names the missing grant.
    NotGranted(String),
    /// An argument is malformed or forbidden.
    Invalid(String),
    /// More than this limit, in bytes or items.
    TooLarge(u64),
    /// Something that the call needs can't be reached now.
    Unavailable(String),
    /// The deadline of the call passed.
    Timeout,
    /// Anything else.
    Other(String),
}

impl Error {
    /// An error of the filter's own.
    #[must_use]
    pub fn new(reason: impl fmt::Display) -> Self {
        Self::Other(reason.to_string())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongHook => f.write_str("this function has no meaning in this hook"),
            Self::NotGranted(grant) => write!(f, "not granted: {grant}"),
            Self::Invalid(what) => write!(f, "invalid: {what}"),
            Self::TooLarge(limit) => write!(f, "over the limit of {limit}"),
            Self::Unavailable(what) => write!(f, "unavailable: {what}"),
            Self::Timeout => f.write_str("the deadline of the call passed"),
            Self::Other(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for Error {}

impl From<types::Error> for Error {
    #[cold]
    fn from(error: types::Error) -> Self {
        match error {
            types::Error::WrongHook => Self::WrongHook,
            types::Error::NotGranted(grant) => Self::NotGranted(grant),
            types::Error::Invalid(what) => Self::Invalid(what),
            types::Error::TooLarge(limit) => Self::TooLarge(limit),
            types::Error::Unavailable(what) => Self::Unavailable(what),
            types::Error::Timeout => Self::Timeout,
            types::Error::Other(reason) => Self::Other(reason),
        }
    }
}

impl From<serde_json::Error> for Error {
    #[cold]
    fn from(error: serde_json::Error) -> Self {
        Self::Other(format!("JSON: {error}"))
    }
}

impl From<std::str::Utf8Error> for Error {
    fn from(error: std::str::Utf8Error) -> Self {
        Self::new(error)
    }
}

impl From<std::string::FromUtf8Error> for Error {
    fn from(error: std::string::FromUtf8Error) -> Self {
        Self::new(error)
    }
}

impl From<String> for Error {
    fn from(reason: String) -> Self {
        Self::Other(reason)
    }
}

impl From<&str> for Error {
    fn from(reason: &str) -> Self {
        Self::Other(reason.to_owned())
    }
}
