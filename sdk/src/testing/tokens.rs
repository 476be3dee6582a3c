//! Token verifiers of the harness. They need the feature `testing`, as the key sets do.

use super::keys::KeySet;
use crate::bindings::sluice::filter::{
    crypto::{Token, TokenRules},
    types::Error,
};

/// The token of credentials with the scheme `Bearer`, in whatever case.
pub(crate) fn bearer(credentials: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = credentials.split_at_checked(6)?;
    let is_bearer = scheme.eq_ignore_ascii_case(b"bearer") && matches!(token, [] | [b' ', ..]);
    let spaces = token.iter().take_while(|byte| **byte == b' ').count();
    token.get(spaces..).filter(|_| is_bearer)
}

#[cfg(not(feature = "testing"))]
pub(crate) fn verify(_: &TokenRules, keys: &KeySet, token: &[u8]) -> Result<Token, Error> {
    // Says what is missing.
    keys.verify("", None, token, &[]).map(|_| Token::Payload(String::new()))
}

#[cfg(feature = "testing")]
pub(crate) fn verify(rules: &TokenRules, keys: &KeySet, token: &[u8]) -> Result<Token, Error> {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use serde::{
        Deserialize,
        de::{Deserializer, IgnoredAny},
    };

    use crate::bindings::sluice::filter::crypto::{TokenRefusal, Verification};

    #[derive(Deserialize)]
    struct Head {
        alg: String,
        kid: Option<String>,
        #[serde(default, deserialize_with = "present")]
        crit: bool,
        typ: Option<String>,
    }
    fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| true)
    }
    let bare = |typ: &str| {
        let typ = typ.to_ascii_lowercase();
        typ.strip_prefix("application/").unwrap_or(&typ).to_owned()
    };
    let refused = |refusal| Ok(Token::Refused(refusal));
    let parts: Vec<&[u8]> = token.split(|byte| *byte == b'.').collect();
    let [head, payload, signature] = parts[..] else { return refused(TokenRefusal::NotCompact) };
    if payload.is_empty() || signature.is_empty() {
        return refused(TokenRefusal::NotCompact);
    }
    let decode = |part: &[u8]| URL_SAFE_NO_PAD.decode(part).ok();
    let (Some(decoded), Some(bytes)) = (decode(head), decode(signature)) else {
        return refused(TokenRefusal::NotCompact);
    };
    if decoded.trim_ascii_start().first() != Some(&b'{') {
        return refused(TokenRefusal::BadHeader);
    }
    let Ok(known) = serde_json::from_slice::<Head>(&decoded) else { return refused(TokenRefusal::BadHeader) };
    if known.crit {
        return refused(TokenRefusal::Critical);
    }
    if let Some(wanted) = &rules.typ
        && known.typ.as_deref().map(bare) != Some(bare(wanted))
    {
        return refused(TokenRefusal::WrongType);
    }
    if !rules.algorithms.contains(&known.alg) {
        return refused(TokenRefusal::WrongAlgorithm);
    }
    let signed = &token[..head.len() + 1 + payload.len()];
    match keys.verify(&known.alg, known.kid.as_deref(), signed, &bytes)? {
        Verification::Valid => Ok(match decode(payload).map(String::from_utf8) {
            None => Token::Refused(TokenRefusal::NotCompact),
            Some(Err(_)) => Token::Refused(TokenRefusal::BadPayload),
            Some(Ok(text)) => Token::Payload(text),
        }),
        Verification::Invalid => refused(TokenRefusal::BadSignature),
        Verification::UnknownKey => refused(TokenRefusal::UnknownKey),
    }
}
