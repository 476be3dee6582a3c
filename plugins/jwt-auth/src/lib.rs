//! Admits callers with a valid JSON Web Token (RFC 7519) as a bearer token (RFC 6750). See README.md.

mod claims;
mod config;

use std::{borrow::Cow, cell::RefCell};

use serde_json::json;
use sluice_filter::{
    Draft, HeaderChange, HeaderEdit, clock,
    consumers::{self, ConsumerToken},
    crypto::{Credentials, TokenRefusal, bearer},
    prelude::*,
    shortened,
};

use claims::Claims;
use config::{Config, Rule, Tokens};

/// The filter.
struct JwtAuth {
    config: Config,
    tokens: Tokens,
    /// Header names other than those of `config.headers` that a client may not send.
    stripped: Vec<String>,
    /// The edits that hand a caller on: `config.headers` in their order, what is stripped, and the token if it is. Kept for their
    /// names; between two calls they have no value.
    edits: RefCell<Vec<HeaderEdit>>,
}

/// Why a request is not admitted (RFC 6750 §3.1).
enum Refusal {
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
}

/// Bytes of a consumer's name; a longer one is known by its hash.
const LONGEST_CONSUMER: usize = 1024;
/// Bytes of a value of the context, with its key.
const LONGEST_CLAIMS: usize = (64 << 10) - CLAIMS.len();
/// Seconds: the gateway fetches keys again after one second, then two, and so on.
const RETRY_AFTER: &str = "2";
/// The context key of the claims.
const CLAIMS: &str = "auth.claims";

impl Filter for JwtAuth {
    type Config = Config;

    fn new(config: Config, setup: &mut Setup) -> Result<Self, ConfigError> {
        config.check()?;
        let stripped = config.stripped()?;
        let tokens = config.tokens(setup)?;
        let token = if config.forward_token { None } else { Some("authorization") };
        let written: Vec<&str> =
            config.headers.keys().chain(&config.strip_headers).map(String::as_str).chain(token).collect();
        let mut needs = json!({ "read_headers": ["authorization"], "write_headers": written });
        if config.consumer_keys {
            needs["consumers"] = true.into();
        }
        setup.needs(&needs)?;
        let names = config.headers.keys().chain(&stripped).map(String::as_str).chain(token);
        let edits = RefCell::new(names.map(HeaderEdit::remove).collect());
        Ok(Self { config, tokens, stripped, edits })
    }

    fn describe() -> Describe {
        Describe {
            schema: Some(include_str!("../schema.json")),
            grants: Some(r#"{"read_headers": ["authorization"]}"#),
            docs: Some(include_str!("../README.md")),
            authenticates: true,
        }
    }
}

impl OnRequest for JwtAuth {
    fn on_request(&self, request: &Request) -> Result<Verdict, Error> {
        let rule = self.rule(request)?;
        let public = rule.is_some_and(|rule| rule.public);
        match self.admit(request, rule)? {
            Ok(()) => Ok(Verdict::Continue),
            Err(Refusal::Missing) if public || self.config.optional => {
                self.pass_unknown(request)?;
                if !self.config.forward_token {
                    request.remove_header("authorization")?;
                }
                Ok(Verdict::Continue)
            }
            // A public route works with a stale token too, but then nobody is known, and nobody behind the gateway is to
            // take the token for a checked one.
            Err(refusal) if public => match request.remove_header("authorization") {
                Ok(()) => {
                    self.pass_unknown(request)?;
                    Ok(Verdict::Continue)
                }
                Err(Error::NotGranted(_)) => self.refuse(refusal),
                Err(error) => Err(error),
            },
            Err(refusal) => self.refuse(refusal),
        }
    }
}

impl JwtAuth {
    /// The first rule that fits the route and the method.
    fn rule(&self, request: &Request) -> Result<Option<&Rule>, Error> {
        let rules = &self.config.rules;
        if rules.is_empty() {
            return Ok(None);
        }
        let needs = |by: fn(&Rule) -> bool| rules.iter().any(by);
        let route = if needs(|rule| !rule.routes.is_empty()) { request.route().name()? } else { String::new() };
        let method = if needs(|rule| !rule.methods.is_empty()) { request.method()? } else { String::new() };
        Ok(rules.iter().find(|rule| {
            (rule.routes.is_empty() || rule.routes.contains(&route))
                && (rule.methods.is_empty()
                    || rule.methods.contains(&method)
                    // RFC 9110 §9.3.2: HEAD is GET without the content, so that it must not be a way around a rule for GET.
                    || (method == "HEAD" && rule.methods.iter().any(|one| one == "GET")))
        }))
    }

    fn admit(&self, request: &Request, rule: Option<&Rule>) -> Result<Result<(), Refusal>, Error> {
        let Verified { text, consumer } = match self.verified(request) {
            Ok(Ok(verified)) => verified,
            Ok(Err(refusal)) => return Ok(Err(refusal)),
            Err(Error::Unavailable(_)) => return Ok(Err(Refusal::NoKeys)),
            Err(Error::TooLarge(_)) => return Ok(Err(Refusal::TooLarge)),
            Err(error) => return Err(error),
        };
        let Some(claims) = Claims::parse(&text) else {
            return Ok(Err(invalid("bad-claims", "the claims can't be read")));
        };
        if let Err(refusal) = self.check(&claims) {
            return Ok(Err(refusal));
        }
        if let Some(rule) = rule
            && let Err(refusal) = self.allowed(rule, &claims)
        {
            return Ok(Err(refusal));
        }
        if self.config.context && text.len() > LONGEST_CLAIMS {
            return Ok(Err(Refusal::TooLarge));
        }
        if let Err(refusal) = self.hand_on(request, &claims, consumer.as_deref())? {
            return Ok(Err(refusal));
        }
        drop(claims);
        if self.config.context {
            context::set_json(CLAIMS, text)?;
        }
        Ok(Ok(()))
    }

    /// The payload of the request's token, if that is a good one.
    fn verified(&self, request: &Request) -> Result<Result<Verified, Refusal>, Error> {
        let verifier = match &self.tokens {
            Tokens::OfConsumers(verifier) => verifier,
            Tokens::OfKeys(verifier) => {
                return Ok(match verifier.verify_bearer(request)? {
                    Credentials::Missing => Err(Refusal::Missing),
                    Credentials::Repeated => Err(Refusal::Malformed(SEVERAL)),
                    Credentials::Token(Ok(text)) => Ok(Verified { text, consumer: None }),
                    Credentials::Token(Err(refusal)) => Err(token_refusal(refusal)),
                });
            }
        };
        let fields = request.header_bytes("authorization")?;
        let [field] = fields.as_slice() else {
            return Ok(Err(if fields.is_empty() { Refusal::Missing } else { Refusal::Malformed(SEVERAL) }));
        };
        let Some(token) = bearer(field) else { return Ok(Err(Refusal::Missing)) };
        Ok(match verifier.verify(token)? {
            ConsumerToken::Good { consumer, payload } => Ok(Verified { text: payload, consumer: Some(consumer) }),
            ConsumerToken::Refused(refusal) => Err(token_refusal(refusal)),
            ConsumerToken::UnknownIssuer => Err(invalid("wrong-issuer", "the issuer is not accepted")),
            ConsumerToken::WrongAudience => Err(invalid("wrong-audience", "the token is for another audience")),
        })
    }

    fn check(&self, claims: &Claims<'_>) -> Result<(), Refusal> {
        let config = &self.config;
        if let Some(name) = config.required_claims.iter().find(|name| !claims.has(name)) {
            return Err(Refusal::Token(
                "claim-missing",
                format!("the claim {} is missing", quotable(name.as_str())).into(),
            ));
        }
        let (Ok(expires), Ok(begins)) = (claims.date("exp"), claims.date("nbf")) else {
            return Err(invalid("bad-claims", "exp or nbf is no date"));
        };
        if expires.is_some() || begins.is_some() {
            let now = clock::now_us() as f64 / 1e6;
            let leeway = config.leeway.as_secs_f64();
            if expires.is_some_and(|expires| now >= expires + leeway) {
                return Err(invalid("token-expired", "the token has expired"));
            }
            if begins.is_some_and(|begins| now + leeway < begins) {
                return Err(invalid("token-not-yet-valid", "the token is not valid yet"));
            }
        }
        let issuers = &config.issuer.0;
        if !issuers.is_empty() && !claims.text("iss").is_some_and(|issuer| issuers.iter().any(|one| one == issuer)) {
            return Err(invalid("wrong-issuer", "the issuer is not accepted"));
        }
        let audiences = &config.audience.0;
        if !audiences.is_empty() && !claims.any("aud", |audience| audiences.iter().any(|one| one == audience)) {
            return Err(invalid("wrong-audience", "the token is for another audience"));
        }
        Ok(())
    }

    /// Any of the roles and all of the scopes.
    fn allowed(&self, rule: &Rule, claims: &Claims<'_>) -> Result<(), Refusal> {
        if !rule.roles.is_empty() {
            let roles = claims.words(&self.config.roles_claim);
            if !rule.roles.iter().any(|role| roles.contains(&role.as_str())) {
                return Err(Refusal::Forbidden(rule.scopes.join(" ")));
            }
        }
        if !rule.scopes.is_empty() {
            let scopes = claims.words(&self.config.scope_claim);
            if !rule.scopes.iter().all(|scope| scopes.contains(&scope.as_str())) {
                return Err(Refusal::Forbidden(rule.scopes.join(" ")));
            }
        }
        Ok(())
    }

    /// Tells the upstream and the filters after this one who calls. Nothing has changed where that can't be told.
    fn hand_on(
        &self,
        request: &Request,
        claims: &Claims<'_>,
        signer: Option<&str>,
    ) -> Result<Result<(), Refusal>, Error> {
        let Ok(consumer) = claims.name(&self.config.consumer_claim) else {
            return Ok(Err(invalid("bad-claims", "the number that names the caller is not exact")));
        };
        let mut edits = self.edits.borrow_mut();
        let mut fits = true;
        for (edit, claim) in edits.iter_mut().zip(self.config.headers.values()) {
            if let Some(value) = claims.header(claim) {
                // Encoded, or without the blanks around it, it could be taken for another caller's.
                fits &= value.trim_ascii().len() == value.len()
                    && !value.bytes().any(|byte| (byte < b' ' && byte != b'\t') || byte == 0x7f);
                edit.change = HeaderChange::Set(value);
            }
        }
        let edited = if fits { request.edit_headers(&edits) } else { Ok(()) };
        edits.iter_mut().for_each(|edit| edit.change = HeaderChange::Remove);
        match edited {
            Ok(()) if fits => {}
            Ok(()) => {
                return Ok(Err(invalid(
                    "bad-claims",
                    "a claim has control characters or blanks around it and can't be a header",
                )));
            }
            Err(Error::TooLarge(_)) => return Ok(Err(Refusal::TooLarge)),
            Err(error) => return Err(error),
        }
        if let Some(signer) = signer {
            // It may have gone since the token was verified.
            let is_known = consumers::vouch(signer, "jwt")?;
            return Ok(if is_known { Ok(()) } else { Err(invalid("wrong-issuer", "the issuer is not accepted")) });
        }
        if let Some(consumer) = consumer {
            context::set_consumer(&shortened(consumer, LONGEST_CONSUMER)?)?;
        }
        Ok(Ok(()))
    }

    /// Removes what a client without a token may not claim to be.
    fn pass_unknown(&self, request: &Request) -> Result<(), Error> {
        for header in self.config.headers.keys() {
            request.remove_header(header)?;
        }
        self.strip(request)
    }

    /// Removes what no client may say.
    fn strip(&self, request: &Request) -> Result<(), Error> {
        self.stripped.iter().try_for_each(|header| request.remove_header(header))
    }

    fn refuse(&self, refusal: Refusal) -> Result<Verdict, Error> {
        let realm = &self.config.realm;
        match refusal {
            Refusal::Missing => {
                let challenge = format!("Bearer realm=\"{realm}\"");
                answer("token-missing", 401, "Unauthorized", "a bearer token is needed", &challenge)
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
            Refusal::NoKeys => {
                let problem = Problem::new(503, "Service Unavailable").detail("tokens can't be verified yet");
                problem
                    .draft()
                    .reason("no-keys")
                    .header("retry-after", RETRY_AFTER)
                    .header("cache-control", "no-store")
                    .send()
            }
        }
    }
}

const SEVERAL: &str = "more than one authorization header";

/// A good token's payload, and the consumer that has signed it with keys of its own.
struct Verified {
    text: String,
    consumer: Option<String>,
}

fn invalid(reason: &'static str, detail: &'static str) -> Refusal {
    Refusal::Token(reason, Cow::Borrowed(detail))
}

/// A text without what an `error_description` can't have (RFC 6750 §3).
fn quotable(text: &str) -> String {
    text.chars()
        .map(|letter| if matches!(letter, ' '..='~') && !matches!(letter, '"' | '\\') { letter } else { '?' })
        .collect()
}

fn token_refusal(refusal: TokenRefusal) -> Refusal {
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

sluice_filter::export!(JwtAuth: OnRequest);

#[cfg(test)]
mod tests;
