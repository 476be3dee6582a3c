//! The filter's table in `gateway.toml`.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, de};
use serde_json::Value;
use sluice_filter::{
    ClaimPath, ConfigError, CredentialPlace, Duration, Setup, consumers::ConsumerTokenVerifier, crypto::TokenVerifier,
    spellings,
};

use super::{
    keys::{ASYMMETRIC, KeySource, checked},
    revocation::Revocation,
};

/// As many verifiers as the gateway has for a filter.
const MOST_ISSUERS: usize = 64;
/// What tells the upstream who calls. The first one is about who that is.
const USUAL_HEADERS: [(&str, &str); 3] = [("x-user-id", "sub"), ("x-user-roles", "roles"), ("x-user-scopes", "scope")];

#[derive(Deserialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    #[serde(default)]
    jwks: Option<Value>,
    #[serde(default)]
    jwks_url: Option<String>,
    #[serde(default)]
    discovery: Option<Discovery>,
    #[serde(default)]
    refresh: Option<Duration>,
    #[serde(default)]
    cooldown: Option<Duration>,
    #[serde(default)]
    jwks_ca: Option<String>,
    #[serde(default)]
    pem: Option<String>,
    #[serde(default)]
    secret: Option<String>,
    #[serde(default)]
    secret_encoding: Option<String>,
    #[serde(default)]
    pub(crate) consumer_keys: bool,
    #[serde(default)]
    algorithms: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) issuer: Texts,
    #[serde(default)]
    pub(crate) audience: Texts,
    #[serde(default)]
    issuers: Vec<Issuer>,
    #[serde(default = "default_places")]
    pub(crate) places: Vec<CredentialPlace>,
    #[serde(default = "default_leeway")]
    pub(crate) leeway: Duration,
    #[serde(default = "default_required")]
    pub(crate) required_claims: Vec<ClaimPath>,
    #[serde(default)]
    typ: Option<String>,
    #[serde(default)]
    pub(crate) max_lifetime: Option<Duration>,
    #[serde(default)]
    pub(crate) certificate_bound: CertificateBound,
    #[serde(default)]
    pub(crate) revocation: Option<Revocation>,
    #[serde(default = "default_remember")]
    remember_tokens: u32,
    #[serde(default)]
    pub(crate) optional: bool,
    #[serde(default = "default_realm")]
    pub(crate) realm: String,
    #[serde(default = "default_consumer")]
    pub(crate) consumer_claim: ClaimPath,
    #[serde(default = "default_roles")]
    pub(crate) roles_claim: ClaimPath,
    #[serde(default = "default_scope")]
    pub(crate) scope_claim: ClaimPath,
    #[serde(default, rename = "headers")]
    own_headers: Option<BTreeMap<String, ClaimPath>>,
    /// `headers`, or their defaults.
    #[serde(skip)]
    pub(crate) headers: BTreeMap<String, ClaimPath>,
    #[serde(default)]
    pub(crate) strip_headers: Vec<String>,
    #[serde(default = "yes")]
    pub(crate) forward_token: bool,
    #[serde(default = "yes")]
    pub(crate) context: bool,
    #[serde(default)]
    pub(crate) rules: Vec<Rule>,
}

/// One of several issuers, with keys of its own. The keys have the meaning of those of [`Config`].
#[derive(Deserialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(deny_unknown_fields)]
struct Issuer {
    issuer: String,
    #[serde(default)]
    jwks: Option<Value>,
    #[serde(default)]
    jwks_url: Option<String>,
    #[serde(default)]
    discovery: Option<Discovery>,
    #[serde(default)]
    refresh: Option<Duration>,
    #[serde(default)]
    cooldown: Option<Duration>,
    #[serde(default)]
    jwks_ca: Option<String>,
    #[serde(default)]
    pem: Option<String>,
    #[serde(default)]
    secret: Option<String>,
    #[serde(default)]
    secret_encoding: Option<String>,
    #[serde(default)]
    algorithms: Option<Vec<String>>,
    #[serde(default)]
    audience: Option<Texts>,
    #[serde(default)]
    typ: Option<String>,
    #[serde(default)]
    consumer_prefix: Option<String>,
}

/// Whether the metadata of the issuer say where its keys are, and the URL of the metadata where it is not the usual one.
#[cfg_attr(test, derive(Debug))]
pub(crate) enum Discovery {
    Is(bool),
    At(String),
}

impl Discovery {
    pub(crate) fn is_on(&self) -> bool {
        !matches!(self, Discovery::Is(false))
    }

    pub(crate) fn url(&self) -> Option<&str> {
        match self {
            Discovery::Is(_) => None,
            Discovery::At(url) => Some(url),
        }
    }
}

/// Which tokens have to come with the client certificate that they are bound to (RFC 8705 §3).
#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
#[serde(rename_all = "lowercase")]
pub(crate) enum CertificateBound {
    /// Those that are bound to one.
    #[default]
    Optional,
    /// All: one that is not bound is refused.
    Required,
}

/// Whose tokens are good.
pub(crate) enum Tokens {
    /// Those that the keys of this filter verify.
    Own(TokenVerifier),
    /// Those of consumers that have keys of their own.
    Consumers(ConsumerTokenVerifier),
    /// Those of these issuers, each verified with the keys of the one that it names.
    Issuers(Vec<IssuerTokens>),
}

/// The tokens of one of several issuers.
pub(crate) struct IssuerTokens {
    pub(crate) issuer: String,
    /// Empty: any.
    pub(crate) audience: Vec<String>,
    /// In front of the names of its callers.
    pub(crate) consumer_prefix: String,
    pub(crate) verifier: TokenVerifier,
}

/// Who may call a route with a method, beyond having a valid token.
#[derive(Deserialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    #[serde(default)]
    pub(crate) routes: Vec<String>,
    #[serde(default)]
    pub(crate) methods: Vec<String>,
    #[serde(default)]
    pub(crate) roles: Vec<String>,
    #[serde(default)]
    pub(crate) scopes: Vec<String>,
    #[serde(default)]
    pub(crate) issuers: Vec<String>,
    #[serde(default)]
    pub(crate) public: bool,
}

/// One text or a list of them.
#[derive(Default, Clone)]
#[cfg_attr(test, derive(Debug))]
pub(crate) struct Texts(pub(crate) Vec<String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> de::Visitor<'de> for OneOrMany {
            type Value = Texts;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Texts, E> {
                Ok(Texts(vec![text.to_owned()]))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Texts, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                }
                Ok(Texts(texts))
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

/// What `Config` and `Issuer` have in common.
macro_rules! key_source {
    ($table:expr, $path:expr, $issuer:expr, $typ:expr, $remember:expr) => {
        KeySource {
            path: $path,
            issuer: $issuer,
            jwks: $table.jwks.as_ref(),
            jwks_url: $table.jwks_url.as_deref(),
            discovery: $table.discovery.as_ref(),
            refresh: $table.refresh,
            cooldown: $table.cooldown,
            jwks_ca: $table.jwks_ca.as_deref(),
            pem: $table.pem.as_deref(),
            secret: $table.secret.as_deref(),
            secret_encoding: $table.secret_encoding.as_deref(),
            algorithms: $table.algorithms.as_deref(),
            typ: $typ,
            remember: $remember,
        }
    };
}

impl Config {
    /// Declares the keys and which tokens are good.
    pub(crate) fn tokens(&self, setup: &mut Setup) -> Result<Tokens, ConfigError> {
        if self.consumer_keys {
            return self.tokens_of_consumers(setup).map(Tokens::Consumers);
        }
        if !self.issuers.is_empty() {
            return self.tokens_of_issuers(setup).map(Tokens::Issuers);
        }
        self.own_keys().verifier(setup).map(Tokens::Own)
    }

    fn own_keys(&self) -> KeySource<'_> {
        let issuer = if let [issuer] = &self.issuer.0[..] { Some(issuer.as_str()) } else { None };
        key_source!(self, String::new(), issuer, self.typ.as_deref(), self.remember_tokens)
    }

    /// Refuses keys of the filter's own where each of others has some.
    fn refuse_own_keys(&self, why: &str) -> Result<(), ConfigError> {
        match self.own_keys().kinds().iter().find(|(_, is)| *is) {
            Some((key, _)) => Err(ConfigError::new(*key, why)),
            None => Ok(()),
        }
    }

    /// Those that consumers sign with keys of their own.
    fn tokens_of_consumers(&self, setup: &mut Setup) -> Result<ConsumerTokenVerifier, ConfigError> {
        self.refuse_own_keys("has no meaning beside `consumer_keys`: each consumer has keys of its own")?;
        if !self.issuers.is_empty() {
            return Err(ConfigError::new("issuers", "has no meaning beside `consumer_keys`"));
        }
        // A secret is one that both sides have: it has to be named.
        let algorithms = match &self.algorithms {
            None => ASYMMETRIC.to_vec(),
            Some(named) => checked(named, "", "consumer_keys")?,
        };
        let verifier = setup.consumer_token_verifier(&algorithms, self.typ.as_deref());
        verifier.map_err(|error| ConfigError::new("algorithms", error))
    }

    /// Those of several issuers.
    fn tokens_of_issuers(&self, setup: &mut Setup) -> Result<Vec<IssuerTokens>, ConfigError> {
        self.refuse_own_keys("has no meaning beside `issuers`: each issuer has keys of its own")?;
        for (key, is) in [("issuer", !self.issuer.0.is_empty()), ("algorithms", self.algorithms.is_some())] {
            if is {
                return Err(ConfigError::new(key, "has no meaning beside `issuers`: it is a key of each of them"));
            }
        }
        if self.issuers.len() > MOST_ISSUERS {
            return Err(ConfigError::new("issuers", format!("expected at most {MOST_ISSUERS}")));
        }
        // All of them together remember as many as one does.
        let remember = self.remember_tokens / self.issuers.len() as u32;
        let mut tokens: Vec<IssuerTokens> = Vec::with_capacity(self.issuers.len());
        for (at, issuer) in self.issuers.iter().enumerate() {
            let path = format!("issuers[{at}].");
            if tokens.iter().any(|other| other.issuer == issuer.issuer) {
                return Err(ConfigError::new(path + "issuer", format!("`{}` is listed twice", issuer.issuer)));
            }
            let typ = issuer.typ.as_deref().or(self.typ.as_deref());
            let verifier = key_source!(issuer, path, Some(&issuer.issuer), typ, remember).verifier(setup)?;
            tokens.push(IssuerTokens {
                issuer: issuer.issuer.clone(),
                audience: issuer.audience.clone().unwrap_or_else(|| self.audience.clone()).0,
                consumer_prefix: issuer.consumer_prefix.clone().unwrap_or_else(|| format!("{} ", issuer.issuer)),
                verifier,
            });
        }
        Ok(tokens)
    }

    /// Whether the filter answers the requests that it admits: they change the list of revoked tokens.
    pub(crate) fn is_endpoint(&self) -> bool {
        self.revocation.as_ref().is_some_and(|revocation| revocation.endpoint)
    }

    /// The headers that a client may not send, beside those that are set: `strip_headers`, and what an upstream that folds
    /// `_` and `-` would take for one of either.
    pub(crate) fn stripped(&self) -> Result<Vec<String>, ConfigError> {
        let mut stripped: Vec<String> = Vec::new();
        // The first is that of the consumer, if there is one.
        let usual = if self.names_consumer() { &USUAL_HEADERS[..] } else { &[] };
        for (name, key) in usual
            .iter()
            .map(|(name, _)| (*name, "headers"))
            .chain(self.headers.keys().map(|name| (&**name, "headers")))
            .chain(self.strip_headers.iter().map(|name| (&**name, "strip_headers")))
        {
            let Some(spellings) = spellings(name) else {
                return Err(ConfigError::new(key, format!("`{name}` has more than 6 `-` or `_`")));
            };
            for spelling in spellings {
                let is_set = self.headers.keys().any(|header| header.eq_ignore_ascii_case(&spelling));
                if !is_set && !stripped.contains(&spelling) {
                    stripped.push(spelling);
                }
            }
        }
        Ok(stripped)
    }

    /// Whether the upstream is told the name of the consumer, and nothing of what its token says: whoever signs their own tokens decides about
    /// all of that, so that the claims of one can have the name of another.
    pub(crate) fn names_consumer(&self) -> bool {
        self.consumer_keys && self.own_headers.is_none()
    }

    /// Checks what serde can't, and fills in what depends on more than one key.
    pub(crate) fn check(&mut self) -> Result<(), ConfigError> {
        self.headers = match &self.own_headers {
            Some(headers) => headers.clone(),
            None if self.consumer_keys => BTreeMap::new(),
            None => USUAL_HEADERS.map(|(header, name)| (header.to_owned(), claim(name))).into(),
        };
        let has_several = self.consumer_keys || self.issuers.len() > 1;
        if self.places.is_empty() {
            return Err(ConfigError::new("places", "expected at least one place, such as `header:authorization`"));
        }
        if let Some(revocation) = &self.revocation {
            revocation.check("revocation")?;
        }
        if self.realm.bytes().any(|b| !(b' '..=b'~').contains(&b) || b == b'"' || b == b'\\') {
            return Err(ConfigError::new("realm", "printable ASCII without quotes and backslashes"));
        }
        for (i, rule) in self.rules.iter().enumerate() {
            if rule.public && !(rule.roles.is_empty() && rule.scopes.is_empty() && rule.issuers.is_empty()) {
                return Err(ConfigError::new(
                    format!("rules[{i}].public"),
                    "a public rule can't ask for roles, scopes or issuers",
                ));
            }
            let is_known = |name: &String| self.issuers.iter().any(|issuer| issuer.issuer == *name);
            if let Some(j) = rule.issuers.iter().position(|name| !self.issuers.is_empty() && !is_known(name)) {
                let path = format!("rules[{i}].issuers[{j}]");
                return Err(ConfigError::new(path, format!("`{}` is none of `issuers`", rule.issuers[j])));
            }
            // Each of several decides what its tokens say of roles and scopes.
            if has_several && self.is_endpoint() && !rule.public && rule.issuers.is_empty() {
                return Err(ConfigError::new(
                    format!("rules[{i}].issuers"),
                    "expected the issuers whose tokens may revoke the tokens of all",
                ));
            }
            // The endpoint asks for roles or scopes in any case.
            if self.is_endpoint() && !rule.issuers.is_empty() && rule.roles.is_empty() && rule.scopes.is_empty() {
                return Err(ConfigError::new(
                    format!("rules[{i}]"),
                    "expected `roles` or `scopes`: the issuer alone does not say who may revoke tokens",
                ));
            }
            if let Some(j) = rule.methods.iter().position(|method| !is_method(method)) {
                return Err(ConfigError::new(
                    format!("rules[{i}].methods[{j}]"),
                    format!("`{}` is not a method; methods have upper-case letters", rule.methods[j]),
                ));
            }
            if let Some(j) = rule.scopes.iter().position(|scope| !is_scope(scope)) {
                return Err(ConfigError::new(format!("rules[{i}].scopes[{j}]"), "not a scope (RFC 6749 §3.3)"));
            }
        }
        Ok(())
    }
}

/// RFC 9110 §9.1: a token that has a case. No registered method has small letters, so that a rule with some would never fit.
fn is_method(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\')
}

impl<'de> Deserialize<'de> for Discovery {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl de::Visitor<'_> for Either {
            type Value = Discovery;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a boolean or the URL of the metadata")
            }
            fn visit_bool<E: de::Error>(self, is: bool) -> Result<Discovery, E> {
                Ok(Discovery::Is(is))
            }
            fn visit_str<E: de::Error>(self, url: &str) -> Result<Discovery, E> {
                Ok(Discovery::At(url.to_owned()))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

fn default_places() -> Vec<CredentialPlace> {
    vec![CredentialPlace::Header("authorization".to_owned())]
}

fn default_leeway() -> Duration {
    Duration::from_secs(30)
}

const fn default_remember() -> u32 {
    1000
}

fn claim(name: &str) -> ClaimPath {
    ClaimPath::new([name]).expect("a name that is not empty")
}

fn default_required() -> Vec<ClaimPath> {
    vec![claim("exp")]
}

fn default_realm() -> String {
    "gateway".to_owned()
}

fn default_consumer() -> ClaimPath {
    claim("sub")
}

fn default_roles() -> ClaimPath {
    claim("roles")
}

fn default_scope() -> ClaimPath {
    claim("scope")
}

const fn yes() -> bool {
    true
}
