//! Admits callers with a valid JSON Web Token (RFC 7519) as a bearer token (RFC 6750). See README.md.

mod config;
mod token;

use std::{borrow::Cow, cell::RefCell};

use sluice_filter::{
    Draft, HeaderChange, HeaderEdit, clock,
    crypto::{KeySet, Verification},
    prelude::*,
};

use config::{Config, Rule};
use token::{Accepted, Claims, Compact, Heads};

/// The filter.
struct JwtAuth {
    config: Config,
    keys: KeySet,
    algorithms: Vec<String>,
    /// Header names other than those of `config.headers` that a client may not send.
    stripped: Vec<String>,
    /// JOSE headers that were accepted: an issuer uses the same one again and again.
    heads: Heads,
    /// The edits that hand a caller on: `config.headers` in their order, what is stripped, and the token if it is. Kept for their
    /// names; between two calls they have no value.
    edits: RefCell<Vec<HeaderEdit>>,
}

/// Why a request is not admitted (RFC 6750 §3.1).
enum Refusal {
    /// No credentials of this scheme: no error code.
    Missing,
    Malformed(&'static str),
    Token(Cow<'static, str>),
    /// Neither a role nor the scopes that are asked for; the scopes are named.
    Forbidden(String),
}

impl Filter for JwtAuth {
    type Config = Config;

    fn new(config: Config, setup: &mut Setup) -> Result<Self, ConfigError> {
        config.check()?;
        let stripped = config.stripped()?;
        let (keys, algorithms) = config.keys(setup)?;
        let token = if config.forward_token { None } else { Some("authorization") };
        let names = config.headers.keys().chain(&stripped).map(String::as_str).chain(token);
        let edits = RefCell::new(names.map(HeaderEdit::remove).collect());
        Ok(Self { config, keys, algorithms, stripped, heads: Heads::default(), edits })
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
        // As bytes: a value that is not UTF-8 is one, too, and the upstream may read it.
        let mut credentials = request.header_bytes("authorization")?;
        if credentials.len() > 1 {
            return Ok(Err(Refusal::Malformed("more than one authorization header")));
        }
        let Some(credentials) = credentials.pop() else { return Ok(Err(Refusal::Missing)) };
        // What stands in for bytes that are not UTF-8 is in no token, and so makes the token a bad one.
        let credentials = String::from_utf8_lossy(&credentials);
        let (scheme, token) = credentials.split_once(' ').unwrap_or((&credentials, ""));
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Ok(Err(Refusal::Missing));
        }
        let text = match self.verified(token.trim_start_matches(' '))? {
            Ok(text) => text,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let Some(claims) = Claims::parse(&text) else { return Ok(Err(invalid("the claims are no JSON object"))) };
        if let Err(refusal) = self.check(&claims) {
            return Ok(Err(refusal));
        }
        if let Some(rule) = rule
            && let Err(refusal) = self.allowed(rule, &claims)
        {
            return Ok(Err(refusal));
        }
        self.hand_on(request, &claims)?;
        drop(claims);
        if self.config.context {
            context::set_json("auth.claims", text)?;
        }
        Ok(Ok(()))
    }

    /// The payload of a token whose signature is good.
    fn verified(&self, token: &str) -> Result<Result<String, Refusal>, Error> {
        let Some(compact) = Compact::parse(token) else {
            return Ok(Err(invalid("not a token in compact form")));
        };
        let head = match self.heads.find(compact.head) {
            Some(known) => known,
            None => match self.accepted(&compact) {
                Ok(accepted) => self.heads.keep(compact.head, accepted),
                Err(refusal) => return Ok(Err(refusal)),
            },
        };
        Ok(match self.keys.verify(&head.alg, head.kid.as_deref(), compact.signed, &compact.signature)? {
            Verification::Valid => compact.claims_text().ok_or_else(|| invalid("the claims can't be read")),
            Verification::Invalid => Err(invalid("the signature is not valid")),
            Verification::UnknownKey => Err(invalid("no key fits the token")),
        })
    }

    /// What a JOSE header says, if tokens with it are accepted. It depends on nothing but the header and the config.
    fn accepted(&self, compact: &Compact<'_>) -> Result<Accepted, Refusal> {
        let head = compact.head().ok_or_else(|| invalid("the header of the token can't be read"))?;
        // RFC 7515 §4.1.11: an extension that is not understood makes the token invalid, and none is understood here.
        if head.crit {
            return Err(invalid("the token has critical extensions"));
        }
        if let Some(wanted) = &self.config.typ
            && !head.typ.as_deref().is_some_and(|typ| same_type(typ, wanted))
        {
            return Err(invalid("the token is of another type"));
        }
        if !self.algorithms.contains(&head.alg) {
            return Err(invalid("the algorithm is not accepted"));
        }
        Ok(Accepted { alg: head.alg, kid: head.kid })
    }

    fn check(&self, claims: &Claims<'_>) -> Result<(), Refusal> {
        let config = &self.config;
        if let Some(name) = config.required_claims.iter().find(|name| !claims.has(name)) {
            return Err(Refusal::Token(format!("the claim {name} is missing").into()));
        }
        let (Ok(expires), Ok(begins)) = (claims.date("exp"), claims.date("nbf")) else {
            return Err(invalid("exp or nbf is no date"));
        };
        if expires.is_some() || begins.is_some() {
            let now = clock::now_us() as f64 / 1e6;
            let leeway = config.leeway.as_secs_f64();
            if expires.is_some_and(|expires| now >= expires + leeway) {
                return Err(invalid("the token has expired"));
            }
            if begins.is_some_and(|begins| now + leeway < begins) {
                return Err(invalid("the token is not valid yet"));
            }
        }
        let issuers = &config.issuer.0;
        if !issuers.is_empty() && !claims.text("iss").is_some_and(|issuer| issuers.iter().any(|one| *one == issuer)) {
            return Err(invalid("the issuer is not accepted"));
        }
        let audiences = &config.audience.0;
        if !audiences.is_empty() && !claims.any("aud", |audience| audiences.iter().any(|one| one == audience)) {
            return Err(invalid("the token is for another audience"));
        }
        Ok(())
    }

    /// Any of the roles and all of the scopes.
    fn allowed(&self, rule: &Rule, claims: &Claims<'_>) -> Result<(), Refusal> {
        if !rule.roles.is_empty() {
            let roles = claims.words(&self.config.roles_claim);
            if !rule.roles.iter().any(|role| roles.contains(role)) {
                return Err(Refusal::Forbidden(rule.scopes.join(" ")));
            }
        }
        if !rule.scopes.is_empty() {
            let scopes = claims.words(&self.config.scope_claim);
            if !rule.scopes.iter().all(|scope| scopes.contains(scope)) {
                return Err(Refusal::Forbidden(rule.scopes.join(" ")));
            }
        }
        Ok(())
    }

    /// Tells the upstream and the filters after this one who calls.
    fn hand_on(&self, request: &Request, claims: &Claims<'_>) -> Result<(), Error> {
        let mut edits = self.edits.borrow_mut();
        for (edit, claim) in edits.iter_mut().zip(self.config.headers.values()) {
            if let Some(value) = claims.header(claim) {
                edit.change = HeaderChange::Set(value.into_owned());
            }
        }
        let edited = request.edit_headers(&edits);
        edits.iter_mut().for_each(|edit| edit.change = HeaderChange::Remove);
        edited?;
        if let Some(consumer) = claims.text(&self.config.consumer_claim) {
            context::set_consumer(&consumer)?;
        }
        Ok(())
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
                answer(401, "Unauthorized", "a bearer token is needed", &format!("Bearer realm=\"{realm}\""))
            }
            Refusal::Malformed(detail) => answer(
                400,
                "Bad Request",
                detail,
                &format!("Bearer realm=\"{realm}\", error=\"invalid_request\", error_description=\"{detail}\""),
            ),
            Refusal::Token(detail) => answer(
                401,
                "Unauthorized",
                &detail,
                &format!("Bearer realm=\"{realm}\", error=\"invalid_token\", error_description=\"{detail}\""),
            ),
            Refusal::Forbidden(scopes) => {
                let scope = if scopes.is_empty() { String::new() } else { format!(", scope=\"{scopes}\"") };
                answer(
                    403,
                    "Forbidden",
                    "the token does not allow this",
                    &format!("Bearer realm=\"{realm}\", error=\"insufficient_scope\"{scope}"),
                )
            }
        }
    }
}

fn invalid(detail: &'static str) -> Refusal {
    Refusal::Token(Cow::Borrowed(detail))
}

/// RFC 7515 §4.1.9: `application/` may be left out, and media types have no case.
fn same_type(typ: &str, wanted: &str) -> bool {
    let bare = |text: &str| text.to_ascii_lowercase().trim_start_matches("application/").to_owned();
    bare(typ) == bare(wanted)
}

fn answer(status: u16, title: &str, detail: &str, challenge: &str) -> Result<Verdict, Error> {
    let draft: Draft = Problem::new(status, title).detail(detail).draft();
    draft.header("www-authenticate", challenge).header("cache-control", "no-store").send()
}

sluice_filter::export!(JwtAuth: OnRequest);

#[cfg(test)]
mod tests;
