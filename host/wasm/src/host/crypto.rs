//! `crypto`: what it does is in `sluice_services`; here is who may call what, and when.

use std::sync::Arc;

use http::header::AUTHORIZATION;
use wasmtime::Result as Outcome;
use wasmtime::component::{ComponentType, Lower};

use super::Interfaces;
use crate::abi::define::Define;
use crate::abi::{Bytes, Str, variant};
use crate::bindings::{Error, crypto};
use crate::call::state::{CallState, Stage};
use crate::filter::HookSet;
use sluice_services::token::{MAX_REMEMBERED, Refusal, TokenVerifier};
use sluice_services::{KeySet, Verification, crypto as native};

/// Key sets that one filter may declare, and token verifiers.
pub(super) const MAX_KEY_SETS: usize = 64;
/// Algorithms of a token verifier.
const MAX_ALGORITHMS: usize = 16;
/// Bytes of the name of an algorithm or of a type of tokens.
const MAX_NAME: usize = 256;

variant!(Token {
    0 Payload(text: Arc<str>) "payload",
    1 Refused(why: crypto::TokenRefusal) "refused",
});
variant!(Bearer {
    0 Missing "missing",
    1 Repeated "repeated",
    2 Payload(text: Arc<str>) "payload",
    3 Refused(why: crypto::TokenRefusal) "refused",
});

pub(crate) fn link(linker: &mut impl Interfaces) -> Outcome<()> {
    let mut at = linker.interface("crypto")?;
    at.function::<(Str,), _>("key-set", |state, (source,)| Ok(state.declare_key_set(source)))?;
    at.function::<(u32, Str, Option<Str>, Bytes, Bytes), _>(
        "verify",
        |state, (set, algorithm, id, message, signature)| Ok(state.verify(set, algorithm, id, message, signature)),
    )?;
    at.function::<(crypto::TokenRules,), _>("token-verifier", |state, (rules,)| Ok(state.declare_verifier(rules)))?;
    at.function::<(u32, Bytes), _>("verify-token", |state, (verifier, token)| Ok(state.verify_token(verifier, token)))?;
    at.function::<(u32,), _>("verify-bearer", |state, (verifier,)| Ok(state.verify_bearer(verifier)))?;
    at.function::<(u32, Str, Option<Str>, Bytes), _>("sign", |state, (set, algorithm, id, message)| {
        let set = state.services().and_then(|_| state.key_set_of(set));
        Ok(set.and_then(|set| Ok(set.sign(algorithm, id, message)?)))
    })?;
    at.function::<(Str, Bytes), _>("hash", |state, (algorithm, data)| {
        Ok(state.hook(HookSet::ALL).and_then(|_| Ok(native::hash(algorithm, data)?)))
    })?;
    at.function::<(Str, Bytes, Bytes), _>("hmac", |state, (algorithm, key, data)| {
        Ok(state.hook(HookSet::ALL).and_then(|_| Ok(native::hmac(algorithm, key, data)?)))
    })?;
    at.function::<(Bytes, Bytes), _>("equal", |state, (a, b)| {
        Ok(state.hook(HookSet::ALL).and_then(|_| Ok(native::equal(a, b)?)))
    })
}

impl CallState {
    fn declare_key_set(&mut self, source: &str) -> Result<u32, Error> {
        if self.stage != Stage::Configure {
            return Err(Error::WrongHook);
        }
        if self.resources.key_sets.len() >= MAX_KEY_SETS {
            return Err(Error::TooLarge(MAX_KEY_SETS as u64));
        }
        let shared = self.shared.clone();
        let services = shared.services.as_ref().ok_or(Error::WrongHook)?;
        let set = services.services.key_sets.resolve(source, &shared.grants.services.http)?;
        self.resources.key_sets.push(set);
        Ok(self.resources.key_sets.len() as u32 - 1)
    }
}

/// Refuses lists and names that no token can fit.
pub(super) fn check_names(algorithms: &[String], typ: Option<&str>) -> Result<(), Error> {
    if algorithms.len() > MAX_ALGORITHMS || algorithms.iter().any(|name| name.len() > MAX_NAME) {
        return Err(Error::Invalid(format!("more than {MAX_ALGORITHMS} algorithms, or one that is none")));
    }
    if typ.is_some_and(|typ| typ.len() > MAX_NAME) {
        return Err(Error::TooLarge(MAX_NAME as u64));
    }
    Ok(())
}

/// `crypto.token`, its payload where it is.
#[derive(ComponentType, Lower)]
#[component(variant)]
pub(crate) enum Token {
    #[component(name = "payload")]
    Payload(Arc<str>),
    #[component(name = "refused")]
    Refused(crypto::TokenRefusal),
}

/// `crypto.bearer`, likewise.
#[derive(ComponentType, Lower)]
#[component(variant)]
pub(crate) enum Bearer {
    #[component(name = "missing")]
    Missing,
    #[component(name = "repeated")]
    Repeated,
    #[component(name = "payload")]
    Payload(Arc<str>),
    #[component(name = "refused")]
    Refused(crypto::TokenRefusal),
}

impl CallState {
    fn key_set_of(&self, number: u32) -> Result<&Arc<KeySet>, Error> {
        let set = usize::try_from(number).ok().and_then(|number| self.resources.key_sets.get(number));
        set.ok_or_else(|| Error::Invalid(format!("there is no key set {number}")))
    }

    fn verify(
        &self,
        set: u32,
        algorithm: &str,
        id: Option<&str>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<crypto::Verification, Error> {
        self.services()?;
        Ok(match self.key_set_of(set)?.verify(algorithm, id, message, signature)? {
            Verification::Valid => crypto::Verification::Valid,
            Verification::Invalid => crypto::Verification::Invalid,
            Verification::UnknownKey => crypto::Verification::UnknownKey,
        })
    }

    fn declare_verifier(&mut self, rules: crypto::TokenRules) -> Result<u32, Error> {
        if self.stage != Stage::Configure {
            return Err(Error::WrongHook);
        }
        if self.resources.verifiers.len() >= MAX_KEY_SETS {
            return Err(Error::TooLarge(MAX_KEY_SETS as u64));
        }
        let remembered =
            self.resources.verifiers.iter().fold(rules.remember, |sum, other| sum.saturating_add(other.remembers()));
        if remembered > MAX_REMEMBERED {
            return Err(Error::TooLarge(MAX_REMEMBERED.into()));
        }
        check_names(&rules.algorithms, rules.typ.as_deref())?;
        let set = Arc::clone(self.key_set_of(rules.key_set)?);
        self.resources.verifiers.push(TokenVerifier::new(set, rules.algorithms, rules.typ, rules.remember));
        Ok(self.resources.verifiers.len() as u32 - 1)
    }

    fn verifier(&self, number: u32) -> Result<&TokenVerifier, Error> {
        self.services()?;
        let verifier = usize::try_from(number).ok().and_then(|number| self.resources.verifiers.get(number));
        verifier.ok_or_else(|| Error::Invalid(format!("there is no token verifier {number}")))
    }

    fn verify_token(&self, number: u32, token: &[u8]) -> Result<Token, Error> {
        Ok(match self.verifier(number)?.verify(token)? {
            Ok(payload) => Token::Payload(payload),
            Err(refusal) => Token::Refused(told(refusal)),
        })
    }

    fn verify_bearer(&self, number: u32) -> Result<Bearer, Error> {
        let verifier = self.verifier(number)?;
        if !self.shared.grants.read.allows(&AUTHORIZATION) {
            return Ok(Bearer::Missing);
        }
        let mut fields = self.exchange(HookSet::ALL)?.request.headers.get_all(AUTHORIZATION).iter();
        let Some(credentials) = fields.next() else { return Ok(Bearer::Missing) };
        if fields.next().is_some() {
            return Ok(Bearer::Repeated);
        }
        let Some(token) = bearer(credentials.as_bytes()) else { return Ok(Bearer::Missing) };
        Ok(match verifier.verify(token)? {
            Ok(payload) => Bearer::Payload(payload),
            Err(refusal) => Bearer::Refused(told(refusal)),
        })
    }
}

/// The token of credentials with the scheme `Bearer`, which has no case (RFC 9110 §11.1).
fn bearer(credentials: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = credentials.split_at_checked(6)?;
    match token {
        _ if !scheme.eq_ignore_ascii_case(b"bearer") => None,
        [] => Some(token),
        // RFC 6750 §2.1: spaces, and no other white space.
        [b' ', ..] => token.get(token.iter().take_while(|byte| **byte == b' ').count()..),
        _ => None,
    }
}

pub(super) fn told(refusal: Refusal) -> crypto::TokenRefusal {
    match refusal {
        Refusal::NotCompact => crypto::TokenRefusal::NotCompact,
        Refusal::BadHeader => crypto::TokenRefusal::BadHeader,
        Refusal::Critical => crypto::TokenRefusal::Critical,
        Refusal::WrongType => crypto::TokenRefusal::WrongType,
        Refusal::WrongAlgorithm => crypto::TokenRefusal::WrongAlgorithm,
        Refusal::UnknownKey => crypto::TokenRefusal::UnknownKey,
        Refusal::BadSignature => crypto::TokenRefusal::BadSignature,
        Refusal::BadPayload => crypto::TokenRefusal::BadPayload,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_of_a_bearer() {
        let rows: [(&[u8], Option<&[u8]>); 9] = [
            (b"Bearer a.b.c", Some(b"a.b.c")),
            (b"bEARER   a", Some(b"a")),
            (b"Bearer", Some(b"")),
            (b"Bearer ", Some(b"")),
            (b"Bearer \ta", Some(b"\ta")),
            (b"Bearera", None),
            (b"Bearer\ta", None),
            (b"Basic a", None),
            (b"Bea", None),
        ];
        for (credentials, token) in rows {
            assert_eq!(bearer(credentials), token, "{credentials:?}");
        }
    }
}
