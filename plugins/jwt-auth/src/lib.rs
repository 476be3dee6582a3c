//! Admits callers with a valid JSON Web Token (RFC 7519) as a bearer token (RFC 6750). See README.md.

mod binding;
mod config;
mod keys;
mod refusal;
mod revocation;
mod token;

use std::cell::RefCell;

use serde_json::json;
use sluice_filter::{Claims, CredentialPlace, HeaderChange, HeaderEdit, Hook, clock, consumers, prelude::*, shortened};

use config::{Config, Rule, Tokens};
use refusal::{Refusal, challenge, invalid};
use token::{Signer, Verified};

/// The filter.
pub(crate) struct JwtAuth {
    config: Config,
    tokens: Tokens,
    /// Header names other than those of `config.headers` that a client may not send.
    stripped: Vec<String>,
    /// Where tokens are that no upstream looks for.
    hidden: Vec<CredentialPlace>,
    /// Tokens are in `authorization` and nowhere else.
    is_usual: bool,
    /// The edits that hand a caller on: `config.headers` in their order, what is stripped, and the token if it is. Kept for their
    /// names; between two calls they have no value.
    edits: RefCell<Vec<HeaderEdit>>,
}

/// Bytes of a consumer's name; a longer one is known by its hash.
const LONGEST_CONSUMER: usize = 1024;
/// Bytes of a value of the context, with its key.
const LONGEST_CLAIMS: usize = (64 << 10) - CLAIMS.len();
/// The context key of the claims.
const CLAIMS: &str = "auth.claims";

impl Filter for JwtAuth {
    type Config = Config;

    fn new(mut config: Config, setup: &mut Setup) -> Result<Self, ConfigError> {
        config.check()?;
        let stripped = config.stripped()?;
        let tokens = config.tokens(setup)?;
        // The fields of tokens that no request passes with.
        let tokens_of: Vec<&str> = match config.forward_token {
            true => Vec::new(),
            false => config.places.iter().filter_map(header_of).collect(),
        };
        let has_cookies = config.places.iter().any(|place| matches!(place, CredentialPlace::Cookie(_)));
        let read: Vec<&str> = config.places.iter().filter_map(CredentialPlace::header).collect();
        let cookies = has_cookies.then_some("cookie");
        let written: Vec<&str> = config
            .headers
            .keys()
            .chain(&config.strip_headers)
            .chain(if config.names_consumer() { &stripped[..1] } else { &[] })
            .map(String::as_str)
            .chain(tokens_of.iter().copied().chain(cookies))
            .collect();
        let mut needs = json!({ "read_headers": read, "write_headers": written });
        if config.consumer_keys {
            needs["consumers"] = true.into();
        }
        if let Some(revocation) = &config.revocation {
            needs["kv"] = json!([revocation.space]);
        }
        setup.needs(&needs)?;
        setup.hook(Hook::OnRequestBody, config.is_endpoint())?;
        setup.hook(Hook::OnResponse, config.places.iter().any(CredentialPlace::is_in_url))?;
        let names = config.headers.keys().chain(&stripped).map(String::as_str).chain(tokens_of);
        let edits = RefCell::new(names.map(HeaderEdit::remove).collect());
        let hidden = config.places.iter().filter(|place| header_of(place).is_none()).cloned().collect();
        let is_usual = matches!(&config.places[..], [CredentialPlace::Header(name)] if name == "authorization");
        Ok(Self { config, tokens, stripped, hidden, is_usual, edits })
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
            Ok(()) if self.config.is_endpoint() => revocation::take_request(request, rule),
            Ok(()) => Ok(Verdict::Continue),
            Err(Refusal::Missing) if public || self.config.optional => {
                context::offer_challenge(&challenge(&self.config.realm))?;
                self.pass_unknown(request)?;
                self.remove_hidden_tokens(request)?;
                if !self.config.forward_token {
                    self.config.places.iter().filter_map(header_of).try_for_each(|name| request.remove_header(name))?;
                }
                Ok(Verdict::Continue)
            }
            // A public route works with a stale token too, but then nobody is known, and nobody behind the gateway is to
            // take the token for a checked one.
            Err(refusal) if public => match self.config.places.iter().try_for_each(|place| place.remove(request)) {
                Ok(()) => {
                    self.pass_unknown(request)?;
                    Ok(Verdict::Continue)
                }
                Err(Error::NotGranted(_)) => refusal.answer(&self.config.realm),
                Err(error) => Err(error),
            },
            Err(refusal) => refusal.answer(&self.config.realm),
        }
    }
}

impl OnRequestBody for JwtAuth {
    fn on_request_body(&self, request: &Request) -> Result<Verdict, Error> {
        match &self.config.revocation {
            Some(revocation) => revocation.change(request, &self.config.issuer.0, self.config.leeway),
            None => Ok(Verdict::Continue),
        }
    }
}

impl OnResponse for JwtAuth {
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
        let config = &self.config;
        let Verified { text, signer, is_of_url } =
            match token::verified(&self.tokens, &config.places, self.is_usual, request) {
                Ok(Ok(verified)) => verified,
                Ok(Err(refusal)) => return Ok(Err(refusal)),
                Err(Error::Unavailable(_)) => return Ok(Err(Refusal::NoKeys)),
                Err(Error::TooLarge(_)) => return Ok(Err(Refusal::TooLarge)),
                Err(error) => return Err(error),
            };
        let Some(claims) = Claims::parse(&text) else {
            return Ok(Err(invalid("bad-claims", "the claims can't be read")));
        };
        if let Err(refusal) = self.check(&claims, &signer) {
            return Ok(Err(refusal));
        }
        if let Err(refusal) = binding::check(&claims, config.certificate_bound, request)? {
            return Ok(Err(refusal));
        }
        if let Some(revocation) = &config.revocation {
            match revocation.is_revoked(&claims) {
                Ok(false) => {}
                Ok(true) => return Ok(Err(invalid("token-revoked", "the token has been revoked"))),
                Err(error @ (Error::Unavailable(_) | Error::Timeout)) => {
                    log::warn(&format!("the list of revoked tokens can't be read: {error}"));
                    return Ok(Err(Refusal::NoRevocations));
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(rule) = rule
            && let Err(refusal) = self.allowed(rule, &claims)
        {
            return Ok(Err(refusal));
        }
        if config.context && text.len() > LONGEST_CLAIMS {
            return Ok(Err(Refusal::TooLarge));
        }
        if let Err(refusal) = self.hand_on(request, &claims, &signer)? {
            return Ok(Err(refusal));
        }
        drop(claims);
        self.remove_hidden_tokens(request)?;
        if is_of_url {
            state::set_bytes(&[1])?;
        }
        if config.context {
            context::set_json(CLAIMS, text)?;
        }
        Ok(Ok(()))
    }

    fn check(&self, claims: &Claims<'_>, signer: &Signer<'_>) -> Result<(), Refusal> {
        let config = &self.config;
        if let Some(name) = config.required_claims.iter().find(|name| !claims.has(name)) {
            return Err(Refusal::claim_missing(name.as_str()));
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
        if let Some(longest) = config.max_lifetime {
            check_lifetime(claims, expires, longest.as_secs_f64(), config.leeway.as_secs_f64())?;
        }
        let (issuers, audiences) = match signer {
            Signer::Issuer(issuer) => (std::slice::from_ref(&issuer.issuer), &issuer.audience),
            Signer::Filter | Signer::Consumer(_) => (&config.issuer.0[..], &config.audience.0),
        };
        if !issuers.is_empty() && !claims.text("iss").is_some_and(|issuer| issuers.iter().any(|one| one == issuer)) {
            return Err(Refusal::wrong_issuer());
        }
        if !audiences.is_empty() && !claims.any("aud", |audience| audiences.iter().any(|one| one == audience)) {
            return Err(Refusal::wrong_audience());
        }
        Ok(())
    }

    /// Any of the issuers, any of the roles and all of the scopes.
    fn allowed(&self, rule: &Rule, claims: &Claims<'_>) -> Result<(), Refusal> {
        if !rule.issuers.is_empty() && !claims.text("iss").is_some_and(|one| rule.issuers.iter().any(|i| i == one)) {
            return Err(Refusal::Forbidden(rule.scopes.join(" ")));
        }
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
        signer: &Signer<'_>,
    ) -> Result<Result<(), Refusal>, Error> {
        let Ok(consumer) = claims.name(&self.config.consumer_claim) else {
            return Ok(Err(invalid("bad-claims", "the number that names the caller is not exact")));
        };
        let mut edits = self.edits.borrow_mut();
        let mut fits = true;
        for (edit, claim) in edits.iter_mut().zip(self.config.headers.values()) {
            match claims.header(claim) {
                Ok(Some(value)) => edit.change = HeaderChange::Set(value),
                Ok(None) => {}
                Err(_) => fits = false,
            }
        }
        if let Signer::Consumer(name) = signer
            && self.config.names_consumer()
            && let Some(edit) = edits.first_mut()
        {
            if name.bytes().any(|byte| byte.is_ascii_control()) || name.trim_ascii().len() != name.len() {
                // An upstream may take a request without the header for one from inside.
                log::warn(&format!("the consumer {name:?} is refused: its name can't be a header"));
                fits = false;
            } else {
                edit.change = HeaderChange::Set(name.clone());
            }
        }
        let edited = if fits { request.edit_headers(&edits) } else { Ok(()) };
        edits.iter_mut().for_each(|edit| edit.change = HeaderChange::Remove);
        match edited {
            Ok(()) if fits => {}
            Ok(()) => {
                return Ok(Err(invalid(
                    "bad-claims",
                    "a claim, or the name of the caller, has control characters, commas or blanks around it and can't be a header",
                )));
            }
            Err(Error::TooLarge(_)) => return Ok(Err(Refusal::TooLarge)),
            Err(error) => return Err(error),
        }
        let prefix = match signer {
            Signer::Consumer(name) => {
                // It may have gone since the token was verified.
                let is_known = consumers::vouch(name, "jwt")?;
                return Ok(if is_known { Ok(()) } else { Err(Refusal::wrong_issuer()) });
            }
            Signer::Issuer(issuer) => issuer.consumer_prefix.as_str(),
            Signer::Filter => "",
        };
        if let Some(mut consumer) = consumer {
            // Also to insert nothing moves the text, by calls of the engine.
            if !prefix.is_empty() {
                consumer.insert_str(0, prefix);
            }
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

    /// Takes tokens out of the places where no upstream looks for one, and out of the URL.
    fn remove_hidden_tokens(&self, request: &Request) -> Result<(), Error> {
        self.hidden.iter().try_for_each(|place| place.remove(request))
    }
}

/// The header of a place that is one.
fn header_of(place: &CredentialPlace) -> Option<&str> {
    match place {
        CredentialPlace::Header(name) => Some(name),
        _ => None,
    }
}

/// Refuses a token that is good for too long, and one that does not say for how long.
fn check_lifetime(claims: &Claims<'_>, expires: Option<f64>, longest: f64, leeway: f64) -> Result<(), Refusal> {
    let Ok(issued) = claims.date("iat") else { return Err(invalid("bad-claims", "iat is no date")) };
    let expires = expires.ok_or_else(|| Refusal::claim_missing("exp"))?;
    let issued = issued.ok_or_else(|| Refusal::claim_missing("iat"))?;
    // A time of issue that has not come yet would make any lifetime a short one.
    if issued > clock::now_us() as f64 / 1e6 + leeway {
        return Err(invalid("token-not-yet-valid", "the token is issued in the future"));
    }
    if expires - issued > longest {
        return Err(invalid("lifetime-too-long", "the token is valid for too long"));
    }
    Ok(())
}

sluice_filter::export!(JwtAuth: OnRequest, OnRequestBody, OnResponse);

#[cfg(test)]
mod tests;
