//! Why a request is not admitted, and what is answered (RFC 6750 §3).

use std::borrow::Cow;

use sluice_filter::{Draft, crypto::TokenRefusal, prelude::*};

/// Why a request is not admitted.
pub(crate) enum Refusal {
    /// No credentials of this scheme: no error code.
    Missing,
    Malformed(&'static str),
    /// The reason for the operator, and the text for the caller.
    Token(&'static str, Cow<'static, str>),
    /// Neither a role nor the scopes that are asked for; the scopes are named.
    Forbidden(String),
    /// More than a message or the context can hold.
    TooLarge,
    /// The keys have not been fetched yet.
    NoKeys,
    /// The list of revoked tokens can't be read now.
    NoRevocations,
}

/// Seconds: the gateway fetches keys again after one second, then two, and so on.
const RETRY_AFTER: &str = "2";

impl Refusal {
    pub(crate) fn wrong_issuer() -> Refusal {
        invalid("wrong-issuer", "the issuer is not accepted")
    }

    pub(crate) fn wrong_audience() -> Refusal {
        invalid("wrong-audience", "the token is for another audience")
    }

    pub(crate) fn claim_missing(name: &str) -> Refusal {
        Refusal::Token("claim-missing", format!("the claim {} is missing", quotable(name)).into())
    }

    /// Answers the caller.
    pub(crate) fn answer(self, realm: &str) -> Result<Verdict, Error> {
        match self {
            Refusal::Missing => {
                answer("token-missing", 401, "Unauthorized", "a bearer token is needed", &challenge(realm))
            }
            Refusal::Malformed(detail) => answer(
                "bad-authorization",
                400,
                "Bad Request",
                detail,
                &format!("Bearer realm=\"{realm}\", error=\"invalid_request\", error_description=\"{detail}\""),
            ),
            Refusal::Token(reason, detail) => answer(
                reason,
                401,
                "Unauthorized",
                &detail,
                &format!("Bearer realm=\"{realm}\", error=\"invalid_token\", error_description=\"{detail}\""),
            ),
            Refusal::Forbidden(scopes) => {
                let scope = if scopes.is_empty() { String::new() } else { format!(", scope=\"{scopes}\"") };
                answer(
                    "not-allowed",
                    403,
                    "Forbidden",
                    "the token does not allow this",
                    &format!("Bearer realm=\"{realm}\", error=\"insufficient_scope\"{scope}"),
                )
            }
            Refusal::TooLarge => Problem::new(431, "Request Header Fields Too Large")
                .detail("the token or its claims are too large")
                .draft()
                .reason("token-too-large")
                .send(),
            Refusal::NoKeys => unavailable("no-keys", "tokens can't be verified yet"),
            Refusal::NoRevocations => unavailable("revocations-unavailable", "tokens can't be checked now"),
        }
    }
}

/// Answers where something that the filter needs is away.
pub(crate) fn unavailable(reason: &str, detail: &str) -> Result<Verdict, Error> {
    let draft = Problem::new(503, "Service Unavailable").detail(detail).draft().reason(reason);
    draft.header("retry-after", RETRY_AFTER).header("cache-control", "no-store").send()
}

/// What tells a caller without a token that one would help.
pub(crate) fn challenge(realm: &str) -> String {
    format!("Bearer realm=\"{realm}\"")
}

pub(crate) fn invalid(reason: &'static str, detail: &'static str) -> Refusal {
    Refusal::Token(reason, Cow::Borrowed(detail))
}

/// A text without what an `error_description` can't have (RFC 6750 §3).
fn quotable(text: &str) -> String {
    text.chars()
        .map(|letter| if matches!(letter, ' '..='~') && !matches!(letter, '"' | '\\') { letter } else { '?' })
        .collect()
}

pub(crate) fn of_token(refusal: TokenRefusal) -> Refusal {
    match refusal {
        TokenRefusal::NotCompact => invalid("not-a-token", "not a token in compact form"),
        TokenRefusal::BadHeader => invalid("bad-token-header", "the header of the token can't be read"),
        TokenRefusal::Critical => invalid("critical-extension", "the token has critical extensions"),
        TokenRefusal::WrongType => invalid("wrong-type", "the token is of another type"),
        TokenRefusal::WrongAlgorithm => invalid("wrong-algorithm", "the algorithm is not accepted"),
        TokenRefusal::UnknownKey => invalid("unknown-key", "no key fits the token"),
        TokenRefusal::BadSignature => invalid("bad-signature", "the signature is not valid"),
        TokenRefusal::BadPayload => invalid("bad-claims", "the claims can't be read"),
    }
}

fn answer(reason: &str, status: u16, title: &str, detail: &str, challenge: &str) -> Result<Verdict, Error> {
    let draft: Draft = Problem::new(status, title).detail(detail).draft().reason(reason);
    draft.header("www-authenticate", challenge).header("cache-control", "no-store").send()
}
