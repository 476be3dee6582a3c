//! Finds the token of a request, and whose keys verify it.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use sluice_filter::{
    CredentialPlace, Error, Request,
    consumers::ConsumerToken,
    crypto::{Credentials, TokenRefusal, bearer},
};

use super::{
    config::{IssuerTokens, Tokens},
    refusal::{Refusal, invalid, of_token},
};

/// More than one `authorization` field.
const SEVERAL_FIELDS: &str = "more than one authorization header";
/// One could be checked here, and another one used behind the gateway (RFC 6750 §3.1).
const SEVERAL_TOKENS: &str = "more than one token";

/// A token whose signature is good.
pub(crate) struct Verified<'t> {
    /// Its payload.
    pub(crate) text: String,
    pub(crate) signer: Signer<'t>,
    /// Whether it came in the URL.
    pub(crate) is_of_url: bool,
}

/// By whose keys a token was found good.
pub(crate) enum Signer<'t> {
    /// Those of the filter.
    Filter,
    /// Those of the issuer that the token names.
    Issuer(&'t IssuerTokens),
    /// Those of this consumer, which has the issuer that the token names.
    Consumer(String),
}

/// The good token of a request. `is_usual`: the only place is `authorization`.
pub(crate) fn verified<'t>(
    tokens: &'t Tokens,
    places: &[CredentialPlace],
    is_usual: bool,
    request: &Request,
) -> Result<Result<Verified<'t>, Refusal>, Error> {
    // The usual case: the gateway reads the field itself.
    if let Tokens::Own(verifier) = tokens
        && is_usual
    {
        return Ok(match verifier.verify_bearer(request)? {
            Credentials::Missing => Err(Refusal::Missing),
            Credentials::Repeated => Err(Refusal::Malformed(SEVERAL_FIELDS)),
            Credentials::Token(Ok(text)) => Ok(Verified { text, signer: Signer::Filter, is_of_url: false }),
            Credentials::Token(Err(refusal)) => Err(of_token(refusal)),
        });
    }
    let Found { token, is_of_url } = match find(places, request)? {
        Ok(found) => found,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let (verifier, signer) = match tokens {
        Tokens::Consumers(verifier) => {
            return Ok(match verifier.verify(&token)? {
                ConsumerToken::Good { consumer, payload } => {
                    Ok(Verified { text: payload, signer: Signer::Consumer(consumer), is_of_url })
                }
                ConsumerToken::Refused(refusal) => Err(of_token(refusal)),
                ConsumerToken::UnknownIssuer => Err(Refusal::wrong_issuer()),
                ConsumerToken::WrongAudience => Err(Refusal::wrong_audience()),
            });
        }
        Tokens::Own(verifier) => (verifier, Signer::Filter),
        Tokens::Issuers(issuers) => match issuer_of(&token) {
            Ok(named) => match issuers.iter().find(|one| one.issuer == named) {
                Some(issuer) => (&issuer.verifier, Signer::Issuer(issuer)),
                None => return Ok(Err(Refusal::wrong_issuer())),
            },
            Err(refusal) => return Ok(Err(refusal)),
        },
    };
    Ok(match verifier.verify(&token)? {
        Ok(text) => Ok(Verified { text, signer, is_of_url }),
        Err(refusal) => Err(of_token(refusal)),
    })
}

/// A token, of which nothing is known yet.
struct Found {
    token: Vec<u8>,
    is_of_url: bool,
}

/// The one token that a request has in these places. The same token twice is one; an empty value is none, but in `authorization`.
fn find(places: &[CredentialPlace], request: &Request) -> Result<Result<Found, Refusal>, Error> {
    let mut found: Option<Found> = None;
    for place in places {
        let is_of_url = place.is_in_url();
        let tokens: Vec<Vec<u8>> = match place {
            CredentialPlace::Header(name) if name == "authorization" => {
                let fields = request.header_bytes(name)?;
                if fields.len() > 1 {
                    return Ok(Err(Refusal::Malformed(SEVERAL_FIELDS)));
                }
                fields.iter().filter_map(|field| bearer(field)).map(<[u8]>::to_vec).collect()
            }
            place => {
                let values = place.values(request)?.into_iter().filter(|value| !value.is_empty());
                values.map(|value| bearer(value.as_bytes()).unwrap_or(value.as_bytes()).to_vec()).collect()
            }
        };
        for token in tokens {
            match &mut found {
                None => found = Some(Found { token, is_of_url }),
                Some(first) if first.token == token => first.is_of_url |= is_of_url,
                Some(_) => return Ok(Err(Refusal::Malformed(SEVERAL_TOKENS))),
            }
        }
    }
    Ok(found.ok_or(Refusal::Missing))
}

/// What decides about the keys that verify a token.
#[derive(Deserialize)]
struct Issued<'t> {
    #[serde(borrow)]
    iss: Option<Cow<'t, str>>,
}

/// The issuer that a token says it is of. It is not verified yet: it chooses the keys that are tried, and no others ever are.
fn issuer_of(token: &[u8]) -> Result<String, Refusal> {
    let mut parts = token.split(|byte| *byte == b'.');
    let payload = parts.nth(1).and_then(|payload| URL_SAFE_NO_PAD.decode(payload).ok());
    let payload = payload.ok_or_else(|| of_token(TokenRefusal::NotCompact))?;
    // An array would be read as the members in order. A member given twice is an error.
    let issued = (payload.trim_ascii_start().first() == Some(&b'{'))
        .then(|| serde_json::from_slice::<Issued<'_>>(&payload).ok())
        .flatten()
        .ok_or_else(|| invalid("bad-claims", "the claims can't be read"))?;
    issued.iss.map(Cow::into_owned).ok_or_else(Refusal::wrong_issuer)
}
