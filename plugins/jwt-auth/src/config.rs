//! The filter's table in `gateway.toml`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};
use sluice_filter::{
    ClaimPath, ConfigError, Duration, Error, Setup,
    consumers::ConsumerTokenVerifier,
    crypto::{TokenRules, TokenVerifier},
};

/// What RFC 7518 §3.1, RFC 8037 §3.1 and RFC 9864 §2.2 name, without `none`.
const ALGORITHMS: [&str; 14] = [
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512",
    "EdDSA", "Ed25519",
];

/// The hyphens of a header's name, each of which doubles its spellings.
const MOST_HYPHENS: usize = 6;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    #[serde(default)]
    jwks: Option<Value>,
    #[serde(default)]
    jwks_url: Option<String>,
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
    #[serde(default = "default_leeway")]
    pub(crate) leeway: Duration,
    #[serde(default = "default_required")]
    pub(crate) required_claims: Vec<ClaimPath>,
    #[serde(default)]
    pub(crate) typ: Option<String>,
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
    #[serde(default = "default_headers")]
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

/// Whose tokens are good.
pub(crate) enum Tokens {
    /// Those that the keys of this filter verify.
    OfKeys(TokenVerifier),
    /// Those of consumers that have keys of their own.
    OfConsumers(ConsumerTokenVerifier),
}

/// Who may call a route with a method, beyond having a valid token.
#[derive(Deserialize)]
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
    pub(crate) public: bool,
}

/// One text or a list of them.
#[derive(Default)]
pub(crate) struct Texts(pub(crate) Vec<String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> serde::de::Visitor<'de> for OneOrMany {
            type Value = Texts;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string or a list of strings")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Texts, E> {
                Ok(Texts(vec![text.to_owned()]))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Texts, A::Error> {
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

impl Config {
    /// Declares the keys and which tokens are good.
    pub(crate) fn tokens(&self, setup: &mut Setup) -> Result<Tokens, ConfigError> {
        if self.consumer_keys {
            return self.tokens_of_consumers(setup).map(Tokens::OfConsumers);
        }
        self.tokens_of_keys(setup).map(Tokens::OfKeys)
    }

    /// Those that consumers sign with keys of their own.
    fn tokens_of_consumers(&self, setup: &mut Setup) -> Result<ConsumerTokenVerifier, ConfigError> {
        let beside = [
            ("jwks", self.jwks.is_some()),
            ("jwks_url", self.jwks_url.is_some()),
            ("pem", self.pem.is_some()),
            ("secret", self.secret.is_some()),
        ];
        if let Some((key, _)) = beside.iter().find(|(_, is)| *is) {
            return Err(ConfigError::new(
                *key,
                "has no meaning beside `consumer_keys`: each consumer has keys of its own",
            ));
        }
        // A secret is one that both sides have: it has to be named.
        let algorithms = match &self.algorithms {
            None => ALGORITHMS[3..].to_vec(),
            Some(named) => self.checked(named, "consumer_keys")?,
        };
        let verifier = setup.consumer_token_verifier(&algorithms, self.typ.as_deref());
        verifier.map_err(|error| ConfigError::new("algorithms", error))
    }

    fn tokens_of_keys(&self, setup: &mut Setup) -> Result<TokenVerifier, ConfigError> {
        let given = [
            ("jwks", self.jwks.is_some()),
            ("jwks_url", self.jwks_url.is_some()),
            ("pem", self.pem.is_some()),
            ("secret", self.secret.is_some()),
        ];
        let given: Vec<&str> = given.iter().filter(|(_, is)| *is).map(|(name, _)| *name).collect();
        let name = match given[..] {
            [name] => name,
            [] => return Err(ConfigError::new("", "no key: give one of `jwks`, `jwks_url`, `pem`, `secret`")),
            [_, second, ..] => return Err(ConfigError::new(second, format!("only one of {}", given.join(", ")))),
        };
        if self.jwks_url.is_none() {
            let beside = [
                ("refresh", self.refresh.is_some()),
                ("cooldown", self.cooldown.is_some()),
                ("jwks_ca", self.jwks_ca.is_some()),
            ];
            for (key, is) in beside {
                if is {
                    return Err(ConfigError::new(key, "has a meaning only beside `jwks_url`"));
                }
            }
        }
        let (source, fitting): (Value, Vec<&str>) = match (&self.jwks, &self.jwks_url, &self.pem, &self.secret) {
            (Some(jwks), ..) => (json!({ "jwks": jwks }), of_jwks(jwks)?),
            (_, Some(url), ..) => {
                let mut source = json!({ "jwks_url": url });
                if let Some(refresh) = self.refresh {
                    source["refresh"] = format!("{}ms", refresh.as_millis()).into();
                }
                if let Some(cooldown) = self.cooldown {
                    source["cooldown"] = format!("{}ms", cooldown.as_millis()).into();
                }
                if let Some(authorities) = &self.jwks_ca {
                    source["ca"] = authorities.as_str().into();
                }
                (source, ALGORITHMS[3..].to_vec())
            }
            (_, _, Some(pem), _) => (json!({ "pem": pem }), ALGORITHMS[3..].to_vec()),
            (_, _, _, secret) => {
                let mut source = json!({ "secret": secret });
                if let Some(encoding) = &self.secret_encoding {
                    source["encoding"] = encoding.as_str().into();
                }
                (source, vec!["HS256"])
            }
        };
        let algorithms = match &self.algorithms {
            None => fitting,
            Some(named) => self.checked(named, name)?,
        };
        let keys = setup.key_set(&source).map_err(|error| {
            let is_of_ca = matches!(&error, Error::Invalid(why) if why.starts_with("`ca`"));
            ConfigError::new(if is_of_ca { "jwks_ca" } else { name }, error)
        })?;
        let rules =
            TokenRules { keys, algorithms: &algorithms, typ: self.typ.as_deref(), remember: self.remember_tokens };
        setup.token_verifier(&rules).map_err(|error| ConfigError::new("remember_tokens", error))
    }

    /// The headers that a client may not send, beside those that are set: `strip_headers`, and what an upstream that folds
    /// `_` and `-` would take for one of either.
    pub(crate) fn stripped(&self) -> Result<Vec<String>, ConfigError> {
        let mut stripped: Vec<String> = Vec::new();
        for (name, key) in self
            .headers
            .keys()
            .map(|name| (name, "headers"))
            .chain(self.strip_headers.iter().map(|n| (n, "strip_headers")))
        {
            if name.bytes().filter(|b| matches!(b, b'-' | b'_')).count() > MOST_HYPHENS {
                return Err(ConfigError::new(key, format!("`{name}` has more than {MOST_HYPHENS} `-` or `_`")));
            }
            for spelling in spellings(name) {
                let is_set = self.headers.keys().any(|header| header.eq_ignore_ascii_case(&spelling));
                if !is_set && !stripped.contains(&spelling) {
                    stripped.push(spelling);
                }
            }
        }
        Ok(stripped)
    }

    fn checked<'a>(&self, named: &'a [String], key: &str) -> Result<Vec<&'a str>, ConfigError> {
        if named.is_empty() {
            return Err(ConfigError::new("algorithms", "an empty list admits nobody"));
        }
        for (i, name) in named.iter().enumerate() {
            let path = format!("algorithms[{i}]");
            if !ALGORITHMS.contains(&name.as_str()) {
                return Err(ConfigError::new(
                    path,
                    format!("unknown algorithm `{name}`, known: {}", ALGORITHMS.join(", ")),
                ));
            }
            // A public key is no secret: an HMAC over it would be anybody's (key confusion).
            let symmetric = name.starts_with("HS");
            if (symmetric && matches!(key, "pem" | "jwks_url")) || (!symmetric && key == "secret") {
                return Err(ConfigError::new(path, format!("`{name}` can't be used with `{key}`")));
            }
        }
        Ok(named.iter().map(String::as_str).collect())
    }

    /// Checks what serde can't.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if self.secret_encoding.is_some() && self.secret.is_none() {
            return Err(ConfigError::new("secret_encoding", "has a meaning only beside `secret`"));
        }
        if self.realm.bytes().any(|b| !(b' '..=b'~').contains(&b) || b == b'"' || b == b'\\') {
            return Err(ConfigError::new("realm", "printable ASCII without quotes and backslashes"));
        }
        for (i, rule) in self.rules.iter().enumerate() {
            if rule.public && !(rule.roles.is_empty() && rule.scopes.is_empty()) {
                return Err(ConfigError::new(
                    format!("rules[{i}].public"),
                    "a public rule can't ask for roles or scopes",
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

/// A name with `-` and `_` at all places that have either: those that CGI (RFC 3875 §4.1.18) takes for the same header.
fn spellings(name: &str) -> Vec<String> {
    name.to_ascii_lowercase().chars().fold(vec![String::new()], |begun, letter| {
        let letters: &[char] = if matches!(letter, '-' | '_') { &['-', '_'] } else { &[letter] };
        begun.iter().flat_map(|begin| letters.iter().map(move |letter| format!("{begin}{letter}"))).collect()
    })
}

fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\')
}

/// The algorithms that the keys of a set are for.
fn of_jwks(jwks: &Value) -> Result<Vec<&'static str>, ConfigError> {
    let parsed;
    let set = match jwks {
        Value::String(text) => {
            parsed = serde_json::from_str::<Value>(text).map_err(|error| ConfigError::new("jwks", error))?;
            &parsed
        }
        other => other,
    };
    let keys = set["keys"].as_array().ok_or_else(|| ConfigError::new("jwks", "no list `keys` (RFC 7517 §5)"))?;
    let mut fitting = Vec::new();
    for key in keys {
        let text = |name: &str| key[name].as_str();
        let of_type: &[&'static str] = match (text("kty"), text("crv")) {
            (Some("oct"), _) => &ALGORITHMS[..3],
            (Some("RSA"), _) => &ALGORITHMS[3..9],
            (Some("EC"), Some("P-256")) => &["ES256"],
            (Some("EC"), Some("P-384")) => &["ES384"],
            (Some("EC"), Some("P-521")) => &["ES512"],
            (Some("OKP"), _) => &ALGORITHMS[12..],
            _ => &[],
        };
        for name in of_type {
            // The key's `alg` may have the older name of its algorithm, or the newer one.
            let is_named = |alg: &str| alg == *name || (of_type.contains(&alg) && text("kty") == Some("OKP"));
            if text("alg").is_none_or(is_named) && !fitting.contains(name) {
                fitting.push(*name);
            }
        }
    }
    if fitting.is_empty() { Err(ConfigError::new("jwks", "no key that can verify a token")) } else { Ok(fitting) }
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

fn default_headers() -> BTreeMap<String, ClaimPath> {
    [("x-user-id", "sub"), ("x-user-roles", "roles"), ("x-user-scopes", "scope")]
        .map(|(header, name)| (header.to_owned(), claim(name)))
        .into()
}

const fn yes() -> bool {
    true
}
