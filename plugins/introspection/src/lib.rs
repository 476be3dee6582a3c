//! Admits callers with a token that its issuer says is active (RFC 7662). See README.md.

mod cache;
mod config;
mod server;

use sluice_filter::{
    Claims, Confirmation, CredentialPlace, Hook, Throttle, clock, consumers, crypto::bearer, prelude::*, shortened,
};

use cache::Known;
use config::{Config, header_of};
use server::Answer;

/// The context key of the claims.
const CLAIMS: &str = "auth.claims";
/// Bytes of a consumer's name; a longer one is known by its hash.
const LONGEST_CONSUMER: usize = 1024;
/// Bytes of a token.
const LONGEST_TOKEN: usize = 8 << 10;

pub(crate) struct Introspection {
    config: Config,
}

/// Why a request is not admitted.
enum Refusal {
    Missing,
    Malformed(&'static str),
    /// The server says that the token is not active: it may be a guess.
    Inactive,
    /// The reason for the operator, and the text for the caller.
    Token(&'static str, &'static str),
    /// A scope is missing.
    Forbidden,
    /// The caller is no consumer of the operator's.
    Stranger,
    /// The server can't be asked now.
    Unavailable,
}

impl Filter for Introspection {
    type Config = Config;

    fn new(config: Config, setup: &mut Setup) -> Result<Self, ConfigError> {
        config.check()?;
        setup.needs(&config.needs()?)?;
        setup.hook(Hook::OnResponse, config.places.iter().any(CredentialPlace::is_in_url))?;
        Ok(Self { config })
    }

    fn describe() -> Describe {
        Describe {
            schema: Some(include_str!("../schema.json")),
            docs: Some(include_str!("../README.md")),
            authenticates: true,
            ..Describe::default()
        }
    }
}

impl OnRequest for Introspection {
    fn on_request(&self, request: &Request) -> Result<Verdict, Error> {
        if let Some(refusal) = self.slow_down(request, Throttle::refused)? {
            return Ok(refusal);
        }
        match self.admit(request)? {
            Ok(()) => {
                self.remove_tokens(request)?;
                Ok(Verdict::Continue)
            }
            Err(Refusal::Missing) if self.config.optional => {
                context::offer_challenge(&self.challenge())?;
                self.remove_tokens(request)?;
                Ok(Verdict::Continue)
            }
            Err(Refusal::Inactive) => match self.slow_down(request, Throttle::attempt)? {
                Some(refusal) => Ok(refusal),
                None => self.refuse(&Refusal::Inactive),
            },
            Err(refusal) => self.refuse(&refusal),
        }
    }
}

impl OnResponse for Introspection {
    /// The page of a URL with a token must not send that URL on, nor be kept for others (RFC 6750 §2.3).
    fn on_response(&self, response: &Response) -> Result<Verdict, Error> {
        if state::get_bytes()?.is_some() {
            response.set_header("referrer-policy", "no-referrer")?;
            if response.header("cache-control")?.is_none() {
                response.set_header("cache-control", "private")?;
            }
        }
        Ok(Verdict::Continue)
    }
}

/// RFC 9110 §9.2.1: what changes nothing may go by an old answer.
pub(crate) fn changes_nothing(request: &Request) -> Result<bool, Error> {
    Ok(matches!(&*request.method()?, "GET" | "HEAD" | "OPTIONS" | "TRACE"))
}

/// One of the two questions to a [`Throttle`].
type Ask = fn(&Throttle, &Request, Option<&str>) -> Result<Option<u64>, Error>;

impl Introspection {
    /// The refusal of an address from which too many tokens were not active.
    fn slow_down(&self, request: &Request, ask: Ask) -> Result<Option<Verdict>, Error> {
        let Some(throttle) = &self.config.throttle else { return Ok(None) };
        match ask(throttle, request, None) {
            Ok(None) => Ok(None),
            Ok(Some(seconds)) => Throttle::refuse(seconds).map(Some),
            Err(error @ (Error::Unavailable(_) | Error::Timeout)) => Throttle::undecided(&error).map(Some),
            Err(error) => Err(error),
        }
    }

    /// What tells a caller without a token that one would help.
    fn challenge(&self) -> String {
        format!("Bearer realm=\"{}\"", self.config.realm)
    }

    fn admit(&self, request: &Request) -> Result<Result<(), Refusal>, Error> {
        let token = match self.token(request)? {
            Ok(token) => token,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let found = match cache::find(&self.config, request, &token) {
            // The store is away, and the operator wants nothing to pass then.
            Err(error @ (Error::Unavailable(_) | Error::Timeout)) => {
                log::warn(&format!("what is known of tokens can't be read: {error}"));
                Known::Nothing
            }
            found => found?,
        };
        let text = match found {
            Known::Answer(Answer::Active(text)) => text,
            Known::Answer(Answer::Inactive) => return Ok(Err(Refusal::Inactive)),
            Known::Stale(text) if changes_nothing(request)? => text,
            Known::Stale(_) | Known::Nothing => return Ok(Err(Refusal::Unavailable)),
        };
        // It was read before it was kept.
        let Some(claims) = Claims::parse(&text) else { return Ok(Err(Refusal::Unavailable)) };
        if let Err(refusal) = self.check(&claims, request)? {
            return Ok(Err(refusal));
        }
        let Ok(consumer) = claims.name(&self.config.consumer_claim) else {
            return Ok(Err(Refusal::Token("bad-claims", "the number that names the caller is not exact")));
        };
        drop(claims);
        if self.config.known_consumers {
            let is_known = consumer.map_or(Ok(false), |name| consumers::vouch(&name, "introspection"))?;
            if !is_known {
                return Ok(Err(Refusal::Stranger));
            }
        } else if let Some(name) = consumer {
            context::set_consumer(&shortened(name, LONGEST_CONSUMER)?)?;
        }
        context::set_json(CLAIMS, text)?;
        Ok(Ok(()))
    }

    /// The one token of the request. The same token twice is one.
    fn token(&self, request: &Request) -> Result<Result<String, Refusal>, Error> {
        let mut found: Option<String> = None;
        let mut is_of_url = false;
        for place in &self.config.places {
            let is_authorization = header_of(place) == Some("authorization");
            let values = place.values(request)?;
            if is_authorization && values.len() > 1 {
                return Ok(Err(Refusal::Malformed("more than one authorization header")));
            }
            for value in values {
                let token = match bearer(value.as_bytes()) {
                    Some(token) => String::from_utf8_lossy(token).into_owned(),
                    None if is_authorization || value.is_empty() => continue,
                    None => value,
                };
                is_of_url |= place.is_in_url();
                match &found {
                    None => found = Some(token),
                    Some(first) if *first == token => {}
                    // One could be asked about here, and another one used behind the gateway.
                    Some(_) => return Ok(Err(Refusal::Malformed("more than one token"))),
                }
            }
        }
        let Some(token) = found else { return Ok(Err(Refusal::Missing)) };
        // What no token can be is not asked about (RFC 6750 §2.1).
        let body = token.trim_end_matches('=');
        let is_token = !body.is_empty()
            && token.len() <= LONGEST_TOKEN
            && body.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte));
        if !is_token {
            return Ok(Err(Refusal::Token("not-a-token", "not a bearer token")));
        }
        if is_of_url {
            state::set_bytes(&[1])?;
        }
        Ok(Ok(token))
    }

    /// Whether an active token is good for this request.
    fn check(&self, claims: &Claims<'_>, request: &Request) -> Result<Result<(), Refusal>, Error> {
        let config = &self.config;
        let refuse = |reason, detail| Ok(Err(Refusal::Token(reason, detail)));
        let (Ok(expires), Ok(begins)) = (claims.date("exp"), claims.date("nbf")) else {
            return refuse("bad-claims", "exp or nbf is no date");
        };
        let now = clock::now_us() as f64 / 1e6;
        if expires.is_some_and(|expires| now >= expires) {
            return refuse("token-expired", "the token has expired");
        }
        if begins.is_some_and(|begins| now < begins) {
            return refuse("token-not-yet-valid", "the token is not valid yet");
        }
        if let Some(issuer) = &config.issuer
            && claims.text("iss") != Some(issuer)
        {
            return refuse("wrong-issuer", "the issuer is not accepted");
        }
        if let Some(audience) = &config.audience
            && !claims.any("aud", |one| one == audience)
        {
            return refuse("wrong-audience", "the token is for another audience");
        }
        // A token that needs a proof must not be used as if it needed none (RFC 9449 §7.1).
        if claims.text("token_type").is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
            return refuse("wrong-type", "the token is no bearer token");
        }
        match claims.confirmation() {
            Confirmation::None => {}
            Confirmation::Certificate(thumbprint) => {
                let Some(certificate) = request.client_certificate()? else {
                    return refuse("certificate-missing", "the token needs the client certificate that it is bound to");
                };
                if certificate.thumbprint().as_deref() != Some(thumbprint) {
                    return refuse("wrong-certificate", "the token is bound to another client certificate");
                }
            }
            _ => return refuse("bound-otherwise", "the token is bound to a key that can't be shown here"),
        }
        let scopes = claims.words(&config.scope_claim);
        let is_allowed = config.scopes.iter().all(|scope| scopes.contains(&scope.as_str()));
        Ok(if is_allowed { Ok(()) } else { Err(Refusal::Forbidden) })
    }

    /// Takes the token out of the places where no upstream looks for one, and out of the headers if it is not forwarded.
    fn remove_tokens(&self, request: &Request) -> Result<(), Error> {
        let is_removed = |place: &&CredentialPlace| !self.config.forward_token || header_of(place).is_none();
        self.config.places.iter().filter(is_removed).try_for_each(|place| place.remove(request))
    }

    fn refuse(&self, refusal: &Refusal) -> Result<Verdict, Error> {
        let answer = |reason: &str, status: u16, title: &str, detail: &str, error: &str| {
            let challenge = match error {
                "" => self.challenge(),
                error => format!("Bearer realm=\"{}\", error={error}", self.config.realm),
            };
            let draft = Problem::new(status, title).detail(detail).draft().reason(reason);
            draft.header("www-authenticate", &challenge).header("cache-control", "no-store").send()
        };
        match refusal {
            Refusal::Missing => answer("token-missing", 401, "Unauthorized", "a bearer token is needed", ""),
            Refusal::Malformed(detail) => {
                let error = format!("\"invalid_request\", error_description=\"{detail}\"");
                answer("bad-authorization", 400, "Bad Request", detail, &error)
            }
            Refusal::Inactive => self.refuse(&Refusal::Token("token-inactive", "the token is not active")),
            Refusal::Token(reason, detail) => {
                let error = format!("\"invalid_token\", error_description=\"{detail}\"");
                answer(reason, 401, "Unauthorized", detail, &error)
            }
            Refusal::Forbidden => {
                let error = format!("\"insufficient_scope\", scope=\"{}\"", self.config.scopes.join(" "));
                answer("not-allowed", 403, "Forbidden", "the token does not allow this", &error)
            }
            Refusal::Stranger => {
                let problem = Problem::new(403, "Forbidden").detail("the caller is not known here");
                problem.draft().reason("consumer-unknown").header("cache-control", "no-store").send()
            }
            Refusal::Unavailable => {
                let problem = Problem::new(503, "Service Unavailable").detail("tokens can't be checked now");
                let draft = problem.draft().reason("introspection-unavailable").header("retry-after", "2");
                draft.header("cache-control", "no-store").send()
            }
        }
    }
}

sluice_filter::export!(Introspection: OnRequest, OnResponse);

#[cfg(test)]
mod tests;
