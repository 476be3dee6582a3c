//! Where the keys of tokens come from: one source for each issuer, or one for all.

use serde_json::{Value, json};
use sluice_filter::{
    ConfigError, Duration, Error, Setup,
    crypto::{TokenRules, TokenVerifier},
};

use super::config::Discovery;

/// What RFC 7518 §3.1, RFC 8037 §3.1 and RFC 9864 §2.2 name, without `none`.
pub(crate) const ALGORITHMS: [&str; 14] = [
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512",
    "EdDSA", "Ed25519",
];
/// Those of public keys.
pub(crate) const ASYMMETRIC: &[&str] = ALGORITHMS.split_at(3).1;

/// The keys of a table that say where the keys of tokens come from, and how a token is signed with them.
pub(crate) struct KeySource<'c> {
    /// Of the table, with a dot at its end; empty for the filter's own.
    pub(crate) path: String,
    pub(crate) issuer: Option<&'c str>,
    pub(crate) jwks: Option<&'c Value>,
    pub(crate) jwks_url: Option<&'c str>,
    pub(crate) discovery: Option<&'c Discovery>,
    pub(crate) refresh: Option<Duration>,
    pub(crate) cooldown: Option<Duration>,
    pub(crate) jwks_ca: Option<&'c str>,
    pub(crate) pem: Option<&'c str>,
    pub(crate) secret: Option<&'c str>,
    pub(crate) secret_encoding: Option<&'c str>,
    pub(crate) algorithms: Option<&'c [String]>,
    pub(crate) typ: Option<&'c str>,
    pub(crate) remember: u32,
}

impl<'c> KeySource<'c> {
    /// The keys that name a source, and whether they are there.
    pub(crate) fn kinds(&self) -> [(&'static str, bool); 5] {
        [
            ("jwks", self.jwks.is_some()),
            ("jwks_url", self.jwks_url.is_some()),
            ("discovery", self.discovery.is_some_and(Discovery::is_on)),
            ("pem", self.pem.is_some()),
            ("secret", self.secret.is_some()),
        ]
    }

    fn refuse<T>(&self, key: &str, why: impl std::fmt::Display) -> Result<T, ConfigError> {
        let path = if key.is_empty() { self.path.trim_end_matches('.').to_owned() } else { self.path.clone() + key };
        Err(ConfigError::new(path, why))
    }

    /// Declares the keys, and which tokens they make good.
    pub(crate) fn verifier(&self, setup: &mut Setup) -> Result<TokenVerifier, ConfigError> {
        let given: Vec<&str> = self.kinds().iter().filter(|(_, is)| *is).map(|(name, _)| *name).collect();
        let name = match given[..] {
            [name] => name,
            [] => {
                let first = "no key: give one of `jwks`, `jwks_url`, `discovery`, `pem`, `secret`";
                return self.refuse("", first);
            }
            [_, second, ..] => return self.refuse(second, format!("only one of {}", given.join(", "))),
        };
        let beside = [
            ("refresh", self.refresh.is_some()),
            ("cooldown", self.cooldown.is_some()),
            ("jwks_ca", self.jwks_ca.is_some()),
        ];
        if !matches!(name, "jwks_url" | "discovery")
            && let Some((key, _)) = beside.iter().find(|(_, is)| *is)
        {
            return self.refuse(key, "has a meaning only beside `jwks_url` and `discovery`");
        }
        if self.secret_encoding.is_some() && self.secret.is_none() {
            return self.refuse("secret_encoding", "has a meaning only beside `secret`");
        }
        let (source, fitting) = self.source()?;
        let algorithms = match self.algorithms {
            None => fitting,
            Some(named) => checked(named, &self.path, name)?,
        };
        let keys = setup.key_set(&source).or_else(|error| {
            let is_of_ca = matches!(&error, Error::Invalid(why) if why.starts_with("`ca`"));
            self.refuse(if is_of_ca { "jwks_ca" } else { name }, error)
        })?;
        let rules = TokenRules { keys, algorithms: &algorithms, typ: self.typ, remember: self.remember };
        setup.token_verifier(&rules).map_err(|error| ConfigError::new("remember_tokens", error))
    }

    /// The source as `crypto.key-set` takes it, and the algorithms that its keys are for.
    fn source(&self) -> Result<(Value, Vec<&'c str>), ConfigError> {
        if let Some(jwks) = self.jwks {
            let fitting = of_jwks(jwks).or_else(|why| self.refuse("jwks", why))?;
            return Ok((json!({ "jwks": jwks }), fitting));
        }
        if let Some(pem) = self.pem {
            return Ok((json!({ "pem": pem }), ASYMMETRIC.to_vec()));
        }
        if let Some(secret) = self.secret {
            let mut source = json!({ "secret": secret });
            if let Some(encoding) = self.secret_encoding {
                source["encoding"] = encoding.into();
            }
            return Ok((source, vec!["HS256"]));
        }
        let mut source = match (self.jwks_url, self.discovery) {
            (Some(url), _) => json!({ "jwks_url": url }),
            (None, discovery) => {
                let Some(issuer) = self.issuer else {
                    return self.refuse("discovery", "needs `issuer`: one, whose metadata is fetched");
                };
                let mut source = json!({ "issuer": issuer });
                if let Some(url) = discovery.and_then(Discovery::url) {
                    source["metadata_url"] = url.into();
                }
                source
            }
        };
        for (key, time) in [("refresh", self.refresh), ("cooldown", self.cooldown)] {
            if let Some(time) = time {
                source[key] = format!("{}ms", time.as_millis()).into();
            }
        }
        if let Some(authorities) = self.jwks_ca {
            source["ca"] = authorities.into();
        }
        Ok((source, ASYMMETRIC.to_vec()))
    }
}

/// The algorithms that a config names for a kind of keys.
pub(crate) fn checked<'a>(named: &'a [String], path: &str, kind: &str) -> Result<Vec<&'a str>, ConfigError> {
    if named.is_empty() {
        return Err(ConfigError::new(format!("{path}algorithms"), "an empty list admits nobody"));
    }
    for (i, name) in named.iter().enumerate() {
        let path = format!("{path}algorithms[{i}]");
        if !ALGORITHMS.contains(&name.as_str()) {
            return Err(ConfigError::new(
                path,
                format!("unknown algorithm `{name}`, known: {}", ALGORITHMS.join(", ")),
            ));
        }
        // A public key is no secret: an HMAC over it would be anybody's (key confusion).
        let symmetric = name.starts_with("HS");
        if (symmetric && matches!(kind, "pem" | "jwks_url" | "discovery")) || (!symmetric && kind == "secret") {
            return Err(ConfigError::new(path, format!("`{name}` can't be used with `{kind}`")));
        }
    }
    Ok(named.iter().map(String::as_str).collect())
}

/// The algorithms that the keys of a set are for.
fn of_jwks(jwks: &Value) -> Result<Vec<&'static str>, String> {
    let parsed;
    let set = match jwks {
        Value::String(text) => {
            parsed = serde_json::from_str::<Value>(text).map_err(|error| error.to_string())?;
            &parsed
        }
        other => other,
    };
    let keys = set["keys"].as_array().ok_or("no list `keys` (RFC 7517 §5)")?;
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
    if fitting.is_empty() { Err("no key that can verify a token".to_owned()) } else { Ok(fitting) }
}
