//! The JSON text that declares a key set (`crypto.key-set` in the WIT package).

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use rustls_pki_types::CertificateDer;
use serde::Deserialize;
use url::Url;

use super::key::{Algorithm, Key, Material, Secret};
use super::{jwk, pem};
use crate::grants::Origin;

impl RemoteSource {
    /// The URL for logs and metrics, without its query, which may hold a credential.
    pub(super) fn name(&self) -> String {
        format!("{}{}", self.origin, self.url.path())
    }
}

/// What a source declares.
pub(super) enum Source {
    Keys(Vec<Key>),
    Remote(RemoteSource),
}

/// A set that is fetched.
#[derive(Debug, Clone)]
pub(super) struct RemoteSource {
    /// Of the set; of the metadata that name it, where the set is found by its issuer.
    pub(super) url: Url,
    /// The issuer whose metadata are at `url`.
    pub(super) issuer: Option<String>,
    pub(super) origin: Origin,
    pub(super) refresh: Duration,
    pub(super) cooldown: Duration,
    /// Authorities that the server may be certified by, beside those of the system.
    pub(super) authorities: Vec<CertificateDer<'static>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    jwks: Option<serde_json::Value>,
    jwks_url: Option<String>,
    issuer: Option<String>,
    metadata_url: Option<String>,
    refresh: Option<String>,
    cooldown: Option<String>,
    ca: Option<String>,
    pem: Option<String>,
    secret: Option<String>,
    encoding: Option<String>,
    kid: Option<String>,
    alg: Option<String>,
}

/// Whether a text declares a key set. The keys themselves are not read: that takes long where there are many sets.
pub fn check(text: &str) -> Result<(), String> {
    let fields = fields(text)?;
    remote(&fields).map(drop)
}

fn fields(text: &str) -> Result<Fields, String> {
    let fields: Fields = serde_json::from_str(text)
        .map_err(|e| format!("the key set's source is not as documented: {}", jwk::explain(&e)))?;
    let kinds = [
        fields.jwks.is_some(),
        fields.jwks_url.is_some(),
        fields.issuer.is_some(),
        fields.pem.is_some(),
        fields.secret.is_some(),
    ];
    if kinds.iter().filter(|given| **given).count() != 1 {
        return Err("a key set has exactly one of `jwks`, `jwks_url`, `issuer`, `pem` and `secret`".to_owned());
    }
    let only = |given: bool, key: &str, of: &str| match given {
        true => Err(format!("`{key}` goes with {of} only")),
        false => Ok(()),
    };
    if fields.issuer.is_none() {
        only(fields.metadata_url.is_some(), "metadata_url", "`issuer`")?;
    }
    if fields.jwks_url.is_none() && fields.issuer.is_none() {
        only(fields.refresh.is_some(), "refresh", "`jwks_url` and `issuer`")?;
        only(fields.cooldown.is_some(), "cooldown", "`jwks_url` and `issuer`")?;
        only(fields.ca.is_some(), "ca", "`jwks_url` and `issuer`")?;
    }
    if fields.secret.is_none() {
        only(fields.encoding.is_some(), "encoding", "`secret`")?;
    }
    if fields.secret.is_none() && fields.pem.is_none() {
        only(fields.kid.is_some(), "kid", "`pem` and `secret`")?;
        only(fields.alg.is_some(), "alg", "`pem` and `secret`")?;
    }
    Ok(fields)
}

pub(super) fn parse(text: &str) -> Result<Source, String> {
    let fields = fields(text)?;
    if let Some(remote) = remote(&fields)? {
        return Ok(Source::Remote(remote));
    }
    if let Some(jwks) = fields.jwks {
        let keys = match jwks {
            serde_json::Value::String(text) => jwk::parse_set(text.as_bytes(), "inline")?,
            value => jwk::parse_set(value.to_string().as_bytes(), "inline")?,
        };
        if keys.is_empty() {
            return Err("`jwks` has no key that can be used; the log says why".to_owned());
        }
        return Ok(Source::Keys(keys));
    }
    let material = match (&fields.pem, &fields.secret) {
        (Some(text), _) => pem::parse(text)?,
        (None, secret) => Material::Secret(Secret::new(&decode(secret.as_deref().unwrap_or_default(), &fields)?)?),
    };
    let alg = match &fields.alg {
        Some(name) => {
            let alg = Algorithm::parse(name).ok_or_else(|| format!("unknown algorithm `{name}`"))?;
            if !material.fits(alg) {
                return Err(match &material {
                    Material::Secret(_) if matches!(alg, Algorithm::Hs(_)) => {
                        format!(
                            "the secret is too short for `{name}`: it has to be as long as the hash (RFC 7518 §3.2)"
                        )
                    }
                    _ => format!("`{name}` is not an algorithm of this key's type"),
                });
            }
            Some(alg)
        }
        None => None,
    };
    let signs = material.is_private();
    Ok(Source::Keys(vec![Key { kid: fields.kid, alg, verifies: true, signs, material }]))
}

fn decode(secret: &str, fields: &Fields) -> Result<Vec<u8>, String> {
    match fields.encoding.as_deref() {
        None | Some("text") => Ok(secret.as_bytes().to_vec()),
        Some("base64") => [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD]
            .iter()
            .find_map(|alphabet| alphabet.decode(secret).ok())
            .ok_or_else(|| "the secret is not base64".to_owned()),
        Some(other) => Err(format!("unknown encoding `{other}` of a secret: it is `text` or `base64`")),
    }
}

/// The part of a source that is fetched, if it is.
fn remote(fields: &Fields) -> Result<Option<RemoteSource>, String> {
    let (key, url) = match (&fields.jwks_url, &fields.issuer, &fields.metadata_url) {
        (Some(url), ..) => ("jwks_url", url.clone()),
        (None, Some(_), Some(url)) => ("metadata_url", url.clone()),
        (None, Some(issuer), None) => ("issuer", metadata_url(issuer)?),
        (None, None, _) => return Ok(None),
    };
    let url = Url::parse(&url).map_err(|e| format!("`{key}` is not a url: {e}"))?;
    let origin = Origin::of(&url).map_err(|e| format!("`{key}`: {e}"))?;
    let time = |key: &str, value: &Option<String>, default: Duration| match value.as_deref() {
        None => Ok(default),
        Some(text) => match duration(text) {
            Some(time) if time >= Duration::from_secs(1) => Ok(time),
            Some(_) => Err(format!("`{key}` of `{text}` is under a second")),
            None => Err(format!("`{key}` of `{text}` is not a time such as `30s` or `5m`")),
        },
    };
    let refresh = time("refresh", &fields.refresh, Duration::from_secs(300))?;
    let cooldown = time("cooldown", &fields.cooldown, Duration::from_secs(5))?.min(refresh);
    let authorities = match &fields.ca {
        None => Vec::new(),
        Some(_) if !origin.https => return Err("`ca` has a meaning for an https url only".to_owned()),
        Some(text) => pem::authorities(text).map_err(|why| format!("`ca`: {why}"))?,
    };
    let issuer = fields.issuer.clone();
    Ok(Some(RemoteSource { url, issuer, origin, refresh, cooldown, authorities }))
}

/// Where the metadata of an issuer are (OpenID Connect Discovery 1.0 §4).
fn metadata_url(issuer: &str) -> Result<String, String> {
    if issuer.contains(['?', '#']) {
        return Err("`issuer` has a query or a fragment: then its metadata need `metadata_url`".to_owned());
    }
    Ok(format!("{}/.well-known/openid-configuration", issuer.strip_suffix('/').unwrap_or(issuer)))
}

/// A whole number with a unit of `ms`, `s`, `m`, `h` or `d`.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    let ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    // A year is as good as never, and timers don't take more.
    Some(Duration::from_millis(number.checked_mul(ms)?.min(365 * 86_400_000)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let cases = [
            ("5m", Some(300_000)),
            ("1500ms", Some(1_500)),
            ("1d", Some(86_400_000)),
            ("5", None),
            ("m", None),
            ("-1s", None),
            ("1 s", None),
        ];
        for (text, ms) in cases {
            assert_eq!(duration(text), ms.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn sources_that_are_refused() {
        let cases = [
            ("{}", "exactly one of"),
            ("nonsense", "not as documented"),
            (r#""a secret""#, "documented: a value of another type at line 1"),
            (r#"{"secret": 7}"#, "documented: a value of another type at line 1"),
            (r#"{"jwks": "\"a secret\""}"#, "set: a value of another type at line 1"),
            (r#"{"secrets": "x"}"#, "unknown field"),
            (r#"{"secret": "x", "pem": "y"}"#, "exactly one of"),
            (r#"{"secret": "short"}"#, "too short"),
            (r#"{"secret": "0123456789abcdef0123456789abcdef", "alg": "HS512"}"#, "too short for `HS512`"),
            (
                r#"{"secret": "0123456789abcdef0123456789abcdef", "alg": "RS256"}"#,
                "not an algorithm of this key's type",
            ),
            (r#"{"secret": "0123456789abcdef0123456789abcdef", "alg": "none"}"#, "unknown algorithm `none`"),
            (r#"{"secret": "!", "encoding": "base64"}"#, "not base64"),
            (r#"{"secret": "x", "encoding": "hex"}"#, "unknown encoding `hex`"),
            (r#"{"secret": "x", "refresh": "5m"}"#, "`refresh` goes with `jwks_url` and `issuer`"),
            (r#"{"issuer": "https://a", "jwks_url": "https://a/b"}"#, "exactly one of"),
            (r#"{"issuer": "a"}"#, "`issuer` is not a url"),
            (r#"{"issuer": "https://a?b"}"#, "a query or a fragment"),
            (r#"{"issuer": "a", "metadata_url": "ftp://a"}"#, "`metadata_url`: the scheme `ftp`"),
            (r#"{"jwks_url": "https://a/b", "metadata_url": "https://a"}"#, "`metadata_url` goes with `issuer` only"),
            (r#"{"jwks": {"keys": []}, "kid": "a"}"#, "`kid` goes with"),
            (r#"{"jwks": {"keys": []}}"#, "no key that can be used"),
            (r#"{"jwks": {"keys": [{"kty": "oct", "k": "YQ"}]}}"#, "no key that can be used"),
            (r#"{"jwks": "[]"}"#, "not a JWK set"),
            (r#"{"pem": "no pem"}"#, "neither a key nor a certificate"),
            (r#"{"jwks_url": "ftp://a/b"}"#, "neither http nor https"),
            (r#"{"jwks_url": "https://u@a/b"}"#, "user information"),
            (r#"{"jwks_url": "https://a/b", "refresh": "10ms"}"#, "under a second"),
            (r#"{"jwks_url": "https://a/b", "cooldown": "soon"}"#, "not a time"),
            (r#"{"jwks_url": "https://a/b", "ca": "x"}"#, "`ca`: the pem has no certificate"),
            (r#"{"jwks_url": "http://a/b", "ca": "x"}"#, "an https url only"),
            (r#"{"pem": "x", "ca": "x"}"#, "`ca` goes with `jwks_url` and `issuer` only"),
        ];
        for (text, expected) in cases {
            match parse(text) {
                Ok(_) => panic!("{text} was accepted"),
                Err(message) => assert!(message.contains(expected), "{text}: {message}"),
            }
        }
    }

    #[test]
    fn an_issuer_has_its_metadata_at_a_known_place() {
        for (issuer, url) in [
            ("https://a.test", "https://a.test/.well-known/openid-configuration"),
            ("https://a.test/", "https://a.test/.well-known/openid-configuration"),
            ("https://a.test:8443/tenant/", "https://a.test:8443/tenant/.well-known/openid-configuration"),
        ] {
            let text = serde_json::json!({ "issuer": issuer }).to_string();
            let Ok(Source::Remote(remote)) = parse(&text) else { panic!("{issuer}") };
            assert_eq!((remote.url.as_str(), remote.issuer.as_deref()), (url, Some(issuer)));
        }
    }

    #[test]
    fn a_secret_may_be_bytes() {
        for secret in ["AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"] {
            let text = format!(r#"{{"secret": "{secret}", "encoding": "base64", "alg": "HS256", "kid": "a"}}"#);
            assert!(matches!(parse(&text), Ok(Source::Keys(keys)) if keys.len() == 1));
        }
    }
}
