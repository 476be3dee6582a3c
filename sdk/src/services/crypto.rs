//! Cryptography at native speed. Data is at most 1 MiB a call.

pub use crate::bindings::sluice::filter::crypto::{TokenRefusal, Verification};
use crate::{
    Error, Request,
    bindings::sluice::filter::crypto::{Bearer, Token},
    host,
};

/// A set of keys, declared by [`crate::Setup::key_set`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeySet(pub(crate) u32);

impl KeySet {
    /// Verifies a signature of an algorithm of RFC 7518 §3.1 or RFC 8037.
    ///
    /// # Errors
    /// `TooLarge` past 1 MiB, `WrongHook` in `configure`.
    pub fn verify(
        self,
        algorithm: &str,
        key_id: Option<&str>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<Verification, Error> {
        Ok(host::crypto::verify(self.0, algorithm, key_id, message, signature)?)
    }

    /// Signs with a private or secret key of the set.
    ///
    /// # Errors
    /// `Invalid` when no key of the set can sign with this algorithm.
    pub fn sign(self, algorithm: &str, key_id: Option<&str>, message: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(host::crypto::sign(self.0, algorithm, key_id, message)?)
    }
}

/// Which tokens are good: [`crate::Setup::token_verifier`].
#[derive(Debug, Clone, Copy)]
pub struct TokenRules<'a> {
    /// What they are signed with.
    pub keys: KeySet,
    /// The algorithms that are accepted, by their names as in [`KeySet::verify`].
    pub algorithms: &'a [&'a str],
    /// What `typ` has to be. Case does not count, and `application/` may be left out.
    pub typ: Option<&'a str>,
    /// How many good tokens the gateway may remember for each instance, so that it need not verify them again: at most 10,000 over
    /// all verifiers.
    pub remember: u32,
}

/// Verifies tokens, declared by [`crate::Setup::token_verifier`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenVerifier(pub(crate) u32);

impl TokenVerifier {
    /// The payload of a good token: a JSON Web Signature (RFC 7515) in compact form. Nothing of the payload was looked at.
    ///
    /// # Errors
    /// `TooLarge` past 1 MiB, `Unavailable` while the keys have not been fetched, `WrongHook` in `configure`.
    pub fn verify(self, token: &[u8]) -> Result<Result<String, TokenRefusal>, Error> {
        Ok(match host::crypto::verify_token(self.0, token)? {
            Token::Payload(payload) => Ok(payload),
            Token::Refused(refusal) => Err(refusal),
        })
    }

    /// The same for the bearer token of the request (RFC 6750 §2.1): its `authorization` field, as far as the filter may see it.
    ///
    /// # Errors
    /// As [`Self::verify`].
    pub fn verify_bearer(self, _request: &Request) -> Result<Credentials, Error> {
        Ok(match host::crypto::verify_bearer(self.0)? {
            Bearer::Missing => Credentials::Missing,
            Bearer::Repeated => Credentials::Repeated,
            Bearer::Payload(payload) => Credentials::Token(Ok(payload)),
            Bearer::Refused(refusal) => Credentials::Token(Err(refusal)),
        })
    }
}

/// The token of credentials with the scheme `Bearer`, which has no case (RFC 9110 §11.1). Spaces come before it, and no other white space
/// (RFC 6750 §2.1). None for another scheme.
#[must_use]
pub fn bearer(credentials: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = credentials.split_at_checked(6)?;
    let is_bearer = scheme.eq_ignore_ascii_case(b"bearer") && matches!(token, [] | [b' ', ..]);
    let spaces = token.iter().take_while(|byte| **byte == b' ').count();
    token.get(spaces..).filter(|_| is_bearer)
}

/// What a request has for credentials: [`TokenVerifier::verify_bearer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// No `authorization` field that the filter may see, or its scheme is another one than `Bearer`.
    Missing,
    /// More than one `authorization` field; none was looked at.
    Repeated,
    /// The payload of a good token, or why it is not good.
    Token(Result<String, TokenRefusal>),
}

/// `sha-1`, `sha-256`, `sha-384` or `sha-512`.
///
/// # Errors
/// `Invalid` for another algorithm.
pub fn hash(algorithm: &str, data: &[u8]) -> Result<Vec<u8>, Error> {
    Ok(host::crypto::hash(algorithm, data)?)
}

/// HMAC with one of these hashes.
///
/// # Errors
/// `Invalid` for another algorithm.
pub fn hmac(algorithm: &str, key: &[u8], data: &[u8]) -> Result<Vec<u8>, Error> {
    Ok(host::crypto::hmac(algorithm, key, data)?)
}

/// Compares in constant time.
///
/// # Errors
/// `TooLarge` past 1 MiB.
pub fn equal(a: &[u8], b: &[u8]) -> Result<bool, Error> {
    Ok(host::crypto::equal(a, b)?)
}
