//! Key sets, tokens and hashes of the harness: the gateway's own code, without a network.

use sluice_services::{Origins, TokenVerifier, Verification as Found, crypto as native, token::Refusal};

use super::*;
use crate::bindings::sluice::filter::crypto::Verification;
pub(crate) use crate::bindings::sluice::filter::crypto::{Bearer, Token, TokenRefusal, TokenRules};

/// Tokens that a verifier may remember.
const MOST_REMEMBERED: u32 = 10_000;

pub(crate) fn key_set(source: &str) -> Result<u32, Error> {
    during(&[Phase::Configure], |world| {
        // A set that is never fetched needs no grant.
        let json: serde_json::Value = serde_json::from_str(source).unwrap_or_default();
        let origins = Origins::parse(json["jwks_url"].as_str().map(http::origin))?;
        let set = world.services.gateway.key_sets.resolve(source, &origins)?;
        world.services.key_sets.push(set);
        Ok(world.services.key_sets.len() as u32 - 1)
    })
}

fn keys(world: &World, number: u32) -> Result<&Arc<sluice_services::KeySet>, Error> {
    let set = world.services.key_sets.get(number as usize);
    set.ok_or_else(|| Error::Invalid(format!("key set {number}")))
}

pub(crate) fn verify(
    key_set: u32,
    algorithm: &str,
    key_id: Option<&str>,
    message: &[u8],
    signature: &[u8],
) -> Result<Verification, Error> {
    in_exchange(|world| {
        Ok(match keys(world, key_set)?.verify(algorithm, key_id, message, signature)? {
            Found::Valid => Verification::Valid,
            Found::Invalid => Verification::Invalid,
            Found::UnknownKey => Verification::UnknownKey,
        })
    })
}

pub(crate) fn token_verifier(rules: &TokenRules) -> Result<u32, Error> {
    during(&[Phase::Configure], |world| {
        if rules.remember > MOST_REMEMBERED {
            return Err(Error::TooLarge(MOST_REMEMBERED.into()));
        }
        let set = Arc::clone(keys(world, rules.key_set)?);
        let TokenRules { algorithms, typ, remember, .. } = rules.clone();
        world.services.verifiers.push(TokenVerifier::new(set, algorithms, typ, remember));
        Ok(world.services.verifiers.len() as u32 - 1)
    })
}

pub(crate) fn verify_token(verifier: u32, token: &[u8]) -> Result<Token, Error> {
    in_exchange(|world| {
        let found = world.services.verifiers.get(verifier as usize);
        let found = found.ok_or_else(|| Error::Invalid(format!("token verifier {verifier}")))?;
        Ok(match found.verify(token)? {
            Ok(payload) => Token::Payload(payload.to_string()),
            Err(refusal) => Token::Refused(to_guest(refusal)),
        })
    })
}

pub(crate) fn verify_bearer(verifier: u32) -> Result<Bearer, Error> {
    in_exchange(|world| {
        let found = world.services.verifiers.get(verifier as usize);
        found.map(drop).ok_or_else(|| Error::Invalid(format!("token verifier {verifier}")))
    })?;
    let credentials = match <[_; 1]>::try_from(request::header_bytes("authorization")?) {
        Ok([credentials]) => credentials,
        Err(none) if none.is_empty() => return Ok(Bearer::Missing),
        Err(_) => return Ok(Bearer::Repeated),
    };
    let Some(token) = crate::crypto::bearer(&credentials) else { return Ok(Bearer::Missing) };
    Ok(match verify_token(verifier, token)? {
        Token::Payload(payload) => Bearer::Payload(payload),
        Token::Refused(refusal) => Bearer::Refused(refusal),
    })
}

pub(super) fn to_guest(refusal: Refusal) -> TokenRefusal {
    match refusal {
        Refusal::NotCompact => TokenRefusal::NotCompact,
        Refusal::BadHeader => TokenRefusal::BadHeader,
        Refusal::Critical => TokenRefusal::Critical,
        Refusal::WrongType => TokenRefusal::WrongType,
        Refusal::WrongAlgorithm => TokenRefusal::WrongAlgorithm,
        Refusal::UnknownKey => TokenRefusal::UnknownKey,
        Refusal::BadSignature => TokenRefusal::BadSignature,
        Refusal::BadPayload => TokenRefusal::BadPayload,
    }
}

pub(crate) fn sign(key_set: u32, algorithm: &str, key_id: Option<&str>, message: &[u8]) -> Result<Vec<u8>, Error> {
    in_exchange(|world| Ok(keys(world, key_set)?.sign(algorithm, key_id, message)?))
}

pub(crate) fn hash(algorithm: &str, data: &[u8]) -> Result<Vec<u8>, Error> {
    Ok(native::hash(algorithm, data)?)
}

pub(crate) fn hmac(algorithm: &str, key: &[u8], data: &[u8]) -> Result<Vec<u8>, Error> {
    Ok(native::hmac(algorithm, key, data)?)
}

pub(crate) fn equal(a: &[u8], b: &[u8]) -> Result<bool, Error> {
    Ok(native::equal(a, b)?)
}
