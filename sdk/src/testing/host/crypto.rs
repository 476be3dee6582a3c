//! Key sets, tokens and hashes of the harness.

use super::*;
use crate::bindings::sluice::filter::crypto::Verification;
pub(crate) use crate::bindings::sluice::filter::crypto::{Bearer, Token, TokenRules};
use crate::testing::{keys, tokens};

pub(crate) fn key_set(source: &str) -> Result<u32, Error> {
    during(&[Phase::Configure], |world| {
        let set = keys::KeySet::parse(source).map_err(Error::Invalid)?;
        world.services.key_sets.push(set);
        Ok(world.services.key_sets.len() as u32 - 1)
    })
}

pub(crate) fn verify(
    key_set: u32,
    algorithm: &str,
    key_id: Option<&str>,
    message: &[u8],
    signature: &[u8],
) -> Result<Verification, Error> {
    in_exchange(|world| match world.services.key_sets.get(key_set as usize) {
        Some(set) => set.verify(algorithm, key_id, message, signature),
        None => Err(Error::Invalid(format!("key set {key_set}"))),
    })
}

pub(crate) fn token_verifier(rules: &TokenRules) -> Result<u32, Error> {
    during(&[Phase::Configure], |world| {
        if rules.remember > 10_000 {
            return Err(Error::TooLarge(10_000));
        }
        if rules.key_set as usize >= world.services.key_sets.len() {
            return Err(Error::Invalid(format!("key set {}", rules.key_set)));
        }
        world.services.token_rules.push(rules.clone());
        Ok(world.services.token_rules.len() as u32 - 1)
    })
}

pub(crate) fn verify_token(verifier: u32, token: &[u8]) -> Result<Token, Error> {
    in_exchange(|world| {
        let rules = world.services.token_rules.get(verifier as usize);
        let rules = rules.ok_or_else(|| Error::Invalid(format!("token verifier {verifier}")))?;
        let keys = world.services.key_sets.get(rules.key_set as usize);
        let keys = keys.ok_or_else(|| Error::Invalid(format!("key set {}", rules.key_set)))?;
        tokens::verify(rules, keys, token)
    })
}

pub(crate) fn verify_bearer(verifier: u32) -> Result<Bearer, Error> {
    in_exchange(|world| {
        let rules = world.services.token_rules.get(verifier as usize);
        rules.map(drop).ok_or_else(|| Error::Invalid(format!("token verifier {verifier}")))
    })?;
    let credentials = match <[_; 1]>::try_from(request::header_bytes("authorization")?) {
        Ok([credentials]) => credentials,
        Err(none) if none.is_empty() => return Ok(Bearer::Missing),
        Err(_) => return Ok(Bearer::Repeated),
    };
    let Some(token) = tokens::bearer(&credentials) else { return Ok(Bearer::Missing) };
    Ok(match verify_token(verifier, token)? {
        Token::Payload(payload) => Bearer::Payload(payload),
        Token::Refused(refusal) => Bearer::Refused(refusal),
    })
}

pub(crate) fn sign(key_set: u32, algorithm: &str, key_id: Option<&str>, message: &[u8]) -> Result<Vec<u8>, Error> {
    in_exchange(|world| match world.services.key_sets.get(key_set as usize) {
        Some(set) => set.sign(algorithm, key_id, message),
        None => Err(Error::Invalid(format!("key set {key_set}"))),
    })
}

pub(crate) fn hash(algorithm: &str, data: &[u8]) -> Result<Vec<u8>, Error> {
    keys::hash(algorithm, data)
}

pub(crate) fn hmac(algorithm: &str, key: &[u8], data: &[u8]) -> Result<Vec<u8>, Error> {
    keys::hmac(algorithm, key, data)
}

pub(crate) fn equal(a: &[u8], b: &[u8]) -> Result<bool, Error> {
    Ok(a == b)
}
