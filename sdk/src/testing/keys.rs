//! Key sets of the harness. The algorithms need the feature `testing`; without it only the sources are read.

use serde_json::Value;

use crate::bindings::sluice::filter::{crypto::Verification, types::Error};

/// A set of keys.
#[derive(Debug)]
pub(crate) struct KeySet(
    #[cfg_attr(not(feature = "testing"), allow(dead_code, reason = "read by the algorithms"))] Vec<Key>,
);

#[derive(Debug)]
#[cfg_attr(not(feature = "testing"), allow(dead_code, reason = "read by the algorithms"))]
struct Key {
    id: Option<String>,
    algorithm: Option<String>,
    material: Material,
}

#[derive(Debug)]
#[cfg_attr(not(feature = "testing"), allow(dead_code, reason = "read by the algorithms"))]
enum Material {
    Secret(Vec<u8>),
    /// A public key in its SubjectPublicKeyInfo.
    Spki(Vec<u8>),
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// A curve's name and an uncompressed point.
    Ec(String, Vec<u8>),
    Ed25519(Vec<u8>),
    /// A private key in PKCS#8.
    Pkcs8(Vec<u8>),
}

impl KeySet {
    /// Reads a source as `crypto.key-set` describes it. A URL gives a set without keys: nothing is fetched here.
    pub(crate) fn parse(source: &str) -> Result<Self, String> {
        let source: Value = serde_json::from_str(source).map_err(|error| error.to_string())?;
        let text = |name: &str| source[name].as_str();
        let named =
            |material| Key { id: text("kid").map(str::to_owned), algorithm: text("alg").map(str::to_owned), material };
        if let Some(secret) = text("secret") {
            let bytes = match text("encoding") {
                None => secret.as_bytes().to_vec(),
                Some("base64") => base64(secret).ok_or("secret: not base64")?,
                Some(other) => return Err(format!("unknown encoding `{other}`")),
            };
            return Ok(Self(vec![named(Material::Secret(bytes))]));
        }
        if let Some(pem) = text("pem") {
            let private = pem.contains("PRIVATE KEY-----");
            let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
            let der = base64(&body).filter(|der| !der.is_empty()).ok_or("pem: not a PEM block")?;
            return Ok(Self(vec![named(if private { Material::Pkcs8(der) } else { Material::Spki(der) })]));
        }
        if text("jwks_url").is_some() {
            return Ok(Self(Vec::new()));
        }
        let set = match &source["jwks"] {
            Value::String(text) => serde_json::from_str(text).map_err(|error| format!("jwks: {error}"))?,
            other => other.clone(),
        };
        let keys = set["keys"].as_array().ok_or("jwks: no list `keys`")?;
        Ok(Self(keys.iter().filter_map(jwk).collect()))
    }
}

fn jwk(key: &Value) -> Option<Key> {
    let bytes = |name: &str| base64(key[name].as_str()?);
    let material = match key["kty"].as_str()? {
        "oct" => Material::Secret(bytes("k")?),
        "RSA" => Material::Rsa { n: bytes("n")?, e: bytes("e")? },
        "EC" => {
            let point = [vec![4], bytes("x")?, bytes("y")?].concat();
            Material::Ec(key["crv"].as_str()?.to_owned(), point)
        }
        "OKP" => Material::Ed25519(bytes("x")?),
        _ => return None,
    };
    Some(Key {
        id: key["kid"].as_str().map(str::to_owned),
        algorithm: key["alg"].as_str().map(str::to_owned),
        material,
    })
}

/// Decodes either alphabet of base64, with or without padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0u32, 0u32);
    for c in text.trim_end_matches('=').bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Some(out)
}

#[cfg(not(feature = "testing"))]
mod algorithms {
    use super::*;

    fn absent<T>() -> Result<T, Error> {
        Err(Error::Unavailable("cryptography in the harness needs the feature `testing` of sluice-filter".to_owned()))
    }

    impl KeySet {
        pub(crate) fn verify(&self, _: &str, _: Option<&str>, _: &[u8], _: &[u8]) -> Result<Verification, Error> {
            absent()
        }

        pub(crate) fn sign(&self, _: &str, _: Option<&str>, _: &[u8]) -> Result<Vec<u8>, Error> {
            absent()
        }
    }

    pub(crate) fn hash(_: &str, _: &[u8]) -> Result<Vec<u8>, Error> {
        absent()
    }

    pub(crate) fn hmac(_: &str, _: &[u8], _: &[u8]) -> Result<Vec<u8>, Error> {
        absent()
    }
}

#[cfg(feature = "testing")]
mod algorithms {
    use aws_lc_rs::{
        digest, hmac as mac,
        rand::SystemRandom,
        signature::{self as sig, UnparsedPublicKey, VerificationAlgorithm},
    };

    use super::*;

    fn mac_algorithm(name: &str) -> Option<mac::Algorithm> {
        Some(match name {
            "HS256" | "sha-256" => mac::HMAC_SHA256,
            "HS384" | "sha-384" => mac::HMAC_SHA384,
            "HS512" | "sha-512" => mac::HMAC_SHA512,
            "sha-1" => mac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            _ => return None,
        })
    }

    fn rsa(name: &str) -> Option<&'static sig::RsaParameters> {
        Some(match name {
            "RS256" => &sig::RSA_PKCS1_2048_8192_SHA256,
            "RS384" => &sig::RSA_PKCS1_2048_8192_SHA384,
            "RS512" => &sig::RSA_PKCS1_2048_8192_SHA512,
            "PS256" => &sig::RSA_PSS_2048_8192_SHA256,
            "PS384" => &sig::RSA_PSS_2048_8192_SHA384,
            "PS512" => &sig::RSA_PSS_2048_8192_SHA512,
            _ => return None,
        })
    }

    fn ec(name: &str) -> Option<(&'static str, &'static dyn VerificationAlgorithm)> {
        Some(match name {
            "ES256" => ("P-256", &sig::ECDSA_P256_SHA256_FIXED),
            "ES384" => ("P-384", &sig::ECDSA_P384_SHA384_FIXED),
            "ES512" => ("P-521", &sig::ECDSA_P521_SHA512_FIXED),
            _ => return None,
        })
    }

    impl Key {
        /// Whether the signature is good, or none when the key does not fit the algorithm.
        fn verify(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> Option<bool> {
            match &self.material {
                Material::Secret(secret) if algorithm.starts_with("HS") => {
                    let key = mac::Key::new(mac_algorithm(algorithm)?, secret);
                    Some(mac::verify(&key, message, signature).is_ok())
                }
                Material::Rsa { n, e } => {
                    let key = sig::RsaPublicKeyComponents { n, e };
                    Some(key.verify(rsa(algorithm)?, message, signature).is_ok())
                }
                Material::Ec(curve, point) => {
                    let (wanted, parameters) = ec(algorithm)?;
                    (curve == wanted)
                        .then(|| UnparsedPublicKey::new(parameters, point).verify(message, signature).is_ok())
                }
                Material::Ed25519(point) if algorithm == "EdDSA" => {
                    Some(UnparsedPublicKey::new(&sig::ED25519, point).verify(message, signature).is_ok())
                }
                Material::Spki(der) => {
                    let parameters: &'static dyn VerificationAlgorithm = match algorithm {
                        "EdDSA" => &sig::ED25519,
                        name => match (rsa(name), ec(name)) {
                            (Some(parameters), _) => parameters,
                            (_, Some((_, parameters))) => parameters,
                            _ => return None,
                        },
                    };
                    Some(UnparsedPublicKey::new(parameters, der).verify(message, signature).is_ok())
                }
                Material::Secret(_) | Material::Ed25519(_) | Material::Pkcs8(_) => None,
            }
        }

        fn fits(&self, algorithm: &str, key_id: Option<&str>) -> bool {
            let same_id = key_id.is_none() || self.id.is_none() || self.id.as_deref() == key_id;
            same_id && self.algorithm.as_deref().is_none_or(|own| own == algorithm)
        }
    }

    impl KeySet {
        pub(crate) fn verify(
            &self,
            algorithm: &str,
            key_id: Option<&str>,
            message: &[u8],
            signature: &[u8],
        ) -> Result<Verification, Error> {
            let fitting = self.0.iter().filter(|key| key.fits(algorithm, key_id));
            let mut tried = fitting.filter_map(|key| key.verify(algorithm, message, signature)).peekable();
            if tried.peek().is_none() {
                return Ok(Verification::UnknownKey);
            }
            Ok(if tried.any(|good| good) { Verification::Valid } else { Verification::Invalid })
        }

        pub(crate) fn sign(&self, algorithm: &str, key_id: Option<&str>, message: &[u8]) -> Result<Vec<u8>, Error> {
            let unfit = || Error::Invalid(format!("no key of the set can sign with `{algorithm}`"));
            let key = self.0.iter().find(|key| key.fits(algorithm, key_id)).ok_or_else(unfit)?;
            match &key.material {
                Material::Secret(secret) => {
                    let key = mac::Key::new(mac_algorithm(algorithm).ok_or_else(unfit)?, secret);
                    Ok(mac::sign(&key, message).as_ref().to_vec())
                }
                Material::Pkcs8(der) if algorithm == "ES256" => {
                    let pair = sig::EcdsaKeyPair::from_pkcs8(&sig::ECDSA_P256_SHA256_FIXED_SIGNING, der)
                        .map_err(|error| Error::Invalid(error.to_string()))?;
                    let signature =
                        pair.sign(&SystemRandom::new(), message).map_err(|error| Error::Invalid(error.to_string()))?;
                    Ok(signature.as_ref().to_vec())
                }
                _ => Err(unfit()),
            }
        }
    }

    pub(crate) fn hash(algorithm: &str, data: &[u8]) -> Result<Vec<u8>, Error> {
        let algorithm = match algorithm {
            "sha-1" => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            "sha-256" => &digest::SHA256,
            "sha-384" => &digest::SHA384,
            "sha-512" => &digest::SHA512,
            other => return Err(Error::Invalid(format!("algorithm `{other}`"))),
        };
        Ok(digest::digest(algorithm, data).as_ref().to_vec())
    }

    pub(crate) fn hmac(algorithm: &str, key: &[u8], data: &[u8]) -> Result<Vec<u8>, Error> {
        let invalid = || Error::Invalid(format!("algorithm `{algorithm}`"));
        let key = mac::Key::new(mac_algorithm(algorithm).ok_or_else(invalid)?, key);
        Ok(mac::sign(&key, data).as_ref().to_vec())
    }
}

pub(crate) use algorithms::{hash, hmac};
