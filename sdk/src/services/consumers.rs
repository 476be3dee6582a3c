//! The operator's consumers, granted by `grants.consumers`: who has a credential, and what is known of the caller.

use crate::bindings::sluice::filter::consumers::ConsumerToken as Answer;
use crate::{Error, crypto::TokenRefusal, host};

/// Makes the consumer with this credential the caller of the exchange, and answers its name. Kinds: `key` (an API key), and of a client
/// certificate `sha256`, `subject`, `dns`, `uri`, `email` and `ip`.
///
/// # Errors
/// `NotGranted`; `Invalid` for another kind; `WrongHook` in `configure` and `on-complete`. As for the next two.
pub fn authenticate(kind: &str, credential: &str) -> Result<Option<String>, Error> {
    Ok(host::consumers::authenticate(kind, credential)?)
}

/// As [`passwords::authenticate`](crate::passwords::authenticate), but never waits, and knows only what was verified before.
///
/// # Errors
/// As [`authenticate`].
pub fn recall_password(username: &str, password: &[u8]) -> Result<Option<String>, Error> {
    Ok(host::consumers::recall_password(username, password)?)
}

/// Makes the consumer of this name the caller, because the filter has found out in its own way (`method`) that it is. False where there is
/// no such consumer.
///
/// # Errors
/// As [`authenticate`]; `Invalid` for a method that is no word.
pub fn vouch(name: &str, method: &str) -> Result<bool, Error> {
    Ok(host::consumers::vouch(name, method)?)
}

/// What came of a token that is said to be a consumer's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConsumerToken {
    /// Its consumer, which is not the caller before [`vouch`] has made it so, and its payload.
    Good {
        /// The name.
        consumer: String,
        /// As text. Nothing but issuer and audience was looked at.
        payload: String,
    },
    /// Why it is not good.
    Refused(TokenRefusal),
    /// No consumer has the issuer that it names.
    UnknownIssuer,
    /// It is good, but not for one of the audiences that the consumer's tokens are for.
    WrongAudience,
}

/// Verifies tokens that consumers sign with keys of their own, declared by [`crate::Setup::consumer_token_verifier`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsumerTokenVerifier(pub(crate) u32);

impl ConsumerTokenVerifier {
    /// Verifies a token with the keys of the consumer that has its issuer, and no others.
    ///
    /// # Errors
    /// `NotGranted` without `grants.consumers`; `TooLarge` past 1 MiB; `Unavailable` while the keys have not been fetched.
    pub fn verify(self, token: &[u8]) -> Result<ConsumerToken, Error> {
        Ok(match host::consumers::verify_token(self.0, token)? {
            Answer::Good(claims) => ConsumerToken::Good { consumer: claims.consumer, payload: claims.payload },
            Answer::Refused(refusal) => ConsumerToken::Refused(refusal),
            Answer::UnknownIssuer => ConsumerToken::UnknownIssuer,
            Answer::WrongAudience => ConsumerToken::WrongAudience,
        })
    }
}

/// Whether the caller is one of the operator's consumers. A name that only [`set_consumer`](crate::context::set_consumer) has given is none.
///
/// # Errors
/// `WrongHook` outside an exchange, as for all reads below.
pub fn known() -> Result<bool, Error> {
    Ok(host::consumers::known()?)
}

/// The plan of the caller.
///
/// # Errors
/// `WrongHook`.
pub fn plan() -> Result<Option<String>, Error> {
    Ok(host::consumers::plan()?)
}

/// A label of the caller.
///
/// # Errors
/// `WrongHook`.
pub fn label(name: &str) -> Result<Option<String>, Error> {
    Ok(host::consumers::label(name)?)
}

/// All labels of the caller, in the order of their names.
///
/// # Errors
/// `WrongHook`.
pub fn labels() -> Result<Vec<(String, String)>, Error> {
    Ok(host::consumers::labels()?.into_iter().map(|label| (label.name, label.value)).collect())
}

/// How the caller was found: the kind of its credential, `password`, or the method of [`vouch`].
///
/// # Errors
/// `WrongHook`.
pub fn method() -> Result<Option<String>, Error> {
    Ok(host::consumers::method()?)
}
