//! JSON Web Keys (RFC 7517, RFC 7518 §6, RFC 8037 §2). The types are our own: ADR 8 says why those of the `jsonwebtoken` crate are not used.

use std::borrow::Cow;

use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, ParsedPublicKey, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::MAX_TRIES;
use super::key::{Algorithm, Hash, Key, Material, RsaPublic, Secret, ec_signing, ec_verification};

/// More keys than this are no set anybody publishes, but an attack on memory.
const MAX_KEYS: usize = 256;

#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Jwk<'a> {
    #[serde(borrow)]
    kty: Cow<'a, str>,
    kid: Option<String>,
    alg: Option<Cow<'a, str>>,
    #[serde(rename = "use")]
    usage: Option<Cow<'a, str>>,
    key_ops: Option<Vec<String>>,
    crv: Option<Cow<'a, str>>,
    k: Option<Cow<'a, str>>,
    n: Option<Cow<'a, str>>,
    e: Option<Cow<'a, str>>,
    x: Option<Cow<'a, str>>,
    y: Option<Cow<'a, str>>,
    d: Option<Cow<'a, str>>,
    p: Option<Cow<'a, str>>,
    q: Option<Cow<'a, str>>,
    dp: Option<Cow<'a, str>>,
    dq: Option<Cow<'a, str>>,
    qi: Option<Cow<'a, str>>,
}

/// The usable keys of a set. A key that can't be used is left out with a line in the log; an error means that the text is
/// no set at all.
pub(super) fn parse_set(text: &[u8], set: &str) -> Result<Vec<Key>, String> {
    let parsed: Set = serde_json::from_slice(text).map_err(|e| format!("not a JWK set: {}", explain(&e)))?;
    if parsed.keys.len() > MAX_KEYS {
        return Err(format!("a JWK set of {} keys is over the limit of {MAX_KEYS}", parsed.keys.len()));
    }
    let mut keys = Vec::with_capacity(parsed.keys.len());
    for (index, value) in parsed.keys.iter().enumerate() {
        match Jwk::deserialize(value).map_err(|e| explain(&e)).and_then(|jwk| jwk.key()) {
            Ok(key) => keys.push(key),
            Err(reason) => {
                let kid = value.get("kid").and_then(serde_json::Value::as_str).unwrap_or("");
                tracing::warn!(set, index, kid, reason, "a key of a key set is left out");
            }
        }
    }
    if keys.len() > MAX_TRIES {
        tracing::info!(
            set,
            keys = keys.len(),
            tried = MAX_TRIES,
            "a signature that names no key is tried with the first keys of its algorithm only"
        );
    }
    Ok(keys)
}

impl Jwk<'_> {
    fn key(&self) -> Result<Key, String> {
        if let Some(usage) = &self.usage
            && usage != "sig"
        {
            return Err(format!("its use is `{usage}`"));
        }
        let may = |op: &str| self.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|allowed| allowed == op));
        let (verifies, signs) = (may("verify"), may("sign"));
        if !verifies && !signs {
            return Err("its key_ops allow neither verify nor sign".to_owned());
        }
        let alg = match &self.alg {
            Some(name) => Some(Algorithm::parse(name).ok_or_else(|| format!("its algorithm is `{name}`"))?),
            None => None,
        };
        let material = match &*self.kty {
            "oct" => Material::Secret(Secret::new(&bytes("k", &self.k)?)?),
            "RSA" => self.rsa()?,
            "EC" => self.ec()?,
            "OKP" => self.okp()?,
            other => return Err(format!("its type is `{other}`")),
        };
        if let Some(alg) = alg
            && !material.fits(alg)
        {
            return Err(format!("its algorithm `{}` is not one of its type", self.alg.as_deref().unwrap_or_default()));
        }
        let signs = signs && material.is_private();
        Ok(Key { kid: self.kid.clone(), alg, verifies, signs, material })
    }

    fn rsa(&self) -> Result<Material, String> {
        let (n, e) = (bytes("n", &self.n)?, bytes("e", &self.e)?);
        let public = Box::new(RsaPublic::from_components(&n, &e)?);
        // A private key without its factors (RFC 7518 §6.3.2 allows it) still verifies.
        if self.d.is_none() || self.p.is_none() {
            return Ok(Material::Rsa { public, private: None });
        }
        let components = aws_lc_rs::rsa::KeyPairComponents {
            public_key: aws_lc_rs::rsa::PublicKeyComponents { n: &n[..], e: &e[..] },
            d: &bytes("d", &self.d)?[..],
            p: &bytes("p", &self.p)?[..],
            q: &bytes("q", &self.q)?[..],
            dP: &bytes("dp", &self.dp)?[..],
            dQ: &bytes("dq", &self.dq)?[..],
            qInv: &bytes("qi", &self.qi)?[..],
        };
        let pair =
            RsaKeyPair::from_components(&components).map_err(|e| format!("an RSA key that is not valid ({e})"))?;
        Ok(Material::Rsa { public, private: Some(Box::new(pair)) })
    }

    fn ec(&self) -> Result<Material, String> {
        let (hash, length) = match self.crv.as_deref() {
            Some("P-256") => (Hash::Sha256, 32),
            Some("P-384") => (Hash::Sha384, 48),
            Some("P-521") => (Hash::Sha512, 66),
            other => return Err(format!("its curve is `{}`", other.unwrap_or_default())),
        };
        let (x, y) = (bytes("x", &self.x)?, bytes("y", &self.y)?);
        // RFC 7518 §6.2.1.2: the octets of a coordinate are the full size of the curve.
        if x.len() != length || y.len() != length {
            return Err(format!("its coordinates are not of {length} bytes"));
        }
        // SEC 1 §2.3.3: the uncompressed point.
        let point = [&[4][..], &x, &y].concat();
        let invalid = |e| format!("an EC key that is not valid ({e})");
        let public = ParsedPublicKey::new(ec_verification(hash), &point).map_err(invalid)?;
        let private = match &self.d {
            Some(_) => {
                let d = bytes("d", &self.d)?;
                let pair =
                    EcdsaKeyPair::from_private_key_and_public_key(ec_signing(hash), &d, &point).map_err(invalid)?;
                Some(Box::new(pair))
            }
            None => None,
        };
        Ok(Material::Ec { hash, public, private })
    }

    fn okp(&self) -> Result<Material, String> {
        if self.crv.as_deref() != Some("Ed25519") {
            return Err(format!("its curve is `{}`", self.crv.as_deref().unwrap_or_default()));
        }
        let x = bytes("x", &self.x)?;
        if x.len() != 32 {
            return Err("its public key is not of 32 bytes".to_owned());
        }
        let invalid = |e| format!("an Ed25519 key that is not valid ({e})");
        if self.d.is_some() {
            let pair = Ed25519KeyPair::from_seed_and_public_key(&bytes("d", &self.d)?, &x).map_err(invalid)?;
            debug_assert_eq!(pair.public_key().as_ref(), &x[..]);
            return Material::ed25519_pair(pair);
        }
        let public = ParsedPublicKey::new(&signature::ED25519, &x).map_err(invalid)?;
        Ok(Material::Ed25519 { public, private: None })
    }
}

/// What is wrong with a JSON text. The parser quotes a value of the wrong type, and here that may be a secret.
pub(super) fn explain(error: &serde_json::Error) -> String {
    let message = error.to_string();
    if !error.is_data() || message.starts_with("unknown field") || message.starts_with("missing field") {
        return message;
    }
    match error.line() {
        0 => "a value of another type".to_owned(),
        line => format!("a value of another type at line {line} column {}", error.column()),
    }
}

/// The octets of a member: base64url without padding (RFC 7515 §2).
fn bytes(name: &str, value: &Option<Cow<'_, str>>) -> Result<Vec<u8>, String> {
    let text = value.as_deref().ok_or_else(|| format!("it has no `{name}`"))?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| format!("its `{name}` is not base64url"))
}
