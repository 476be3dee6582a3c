//! One key and the algorithms it fits. The type of the key decides (RFC 8725 §3.1): a signature algorithm is never used with
//! a key of another type, whatever a token says.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, ParsedPublicKey, RsaKeyPair};

/// A signature algorithm of RFC 7518 §3.1, RFC 8037 or RFC 9864.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Hs(Hash),
    Rs(Hash),
    Ps(Hash),
    Es(Hash),
    EdDsa,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

impl Algorithm {
    /// The algorithm of this name; names are case-sensitive (RFC 7515 §4.1.1), and `none` is no algorithm.
    pub(super) fn parse(name: &str) -> Option<Self> {
        // RFC 9864 §2.2: the same algorithm, by the name that says the curve too. No other curve is supported.
        if name == "EdDSA" || name == "Ed25519" {
            return Some(Algorithm::EdDsa);
        }
        let (family, bits) = name.split_at_checked(2)?;
        let hash = match bits {
            "256" => Hash::Sha256,
            "384" => Hash::Sha384,
            "512" => Hash::Sha512,
            _ => return None,
        };
        match family {
            "HS" => Some(Algorithm::Hs(hash)),
            "RS" => Some(Algorithm::Rs(hash)),
            "PS" => Some(Algorithm::Ps(hash)),
            "ES" => Some(Algorithm::Es(hash)),
            _ => None,
        }
    }
}

/// A key of a set.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) kid: Option<String>,
    /// The only algorithm the key may be used with, if its source names one.
    pub(super) alg: Option<Algorithm>,
    pub(super) verifies: bool,
    pub(super) signs: bool,
    pub(super) material: Material,
}

#[derive(Debug)]
pub(super) enum Material {
    Secret(Box<Secret>),
    Rsa { public: Box<RsaPublic>, private: Option<Box<RsaKeyPair>> },
    Ec { hash: Hash, public: ParsedPublicKey, private: Option<Box<EcdsaKeyPair>> },
    Ed25519 { public: ParsedPublicKey, private: Option<Box<Ed25519KeyPair>> },
}

/// A secret, prepared for the hashes it is long enough for.
pub(super) struct Secret {
    sha256: hmac::Key,
    sha384: Option<hmac::Key>,
    sha512: Option<hmac::Key>,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// RFC 7518 §3.2: the secret has to be at least as long as the hash. A short one can be guessed offline from any token.
    pub(super) fn new(bytes: &[u8]) -> Result<Box<Self>, String> {
        if bytes.len() < 32 {
            return Err(format!("a secret of {} bytes is too short: HS256 needs 32 (RFC 7518 §3.2)", bytes.len()));
        }
        Ok(Box::new(Secret {
            sha256: hmac::Key::new(hmac::HMAC_SHA256, bytes),
            sha384: (bytes.len() >= 48).then(|| hmac::Key::new(hmac::HMAC_SHA384, bytes)),
            sha512: (bytes.len() >= 64).then(|| hmac::Key::new(hmac::HMAC_SHA512, bytes)),
        }))
    }

    fn key(&self, hash: Hash) -> Option<&hmac::Key> {
        match hash {
            Hash::Sha256 => Some(&self.sha256),
            Hash::Sha384 => self.sha384.as_ref(),
            Hash::Sha512 => self.sha512.as_ref(),
        }
    }
}

/// An RSA key, parsed once for each algorithm: parsing costs more than some verifications.
#[derive(Debug)]
pub(super) struct RsaPublic {
    pkcs1: [ParsedPublicKey; 3],
    pss: [ParsedPublicKey; 3],
}

impl RsaPublic {
    /// From modulus and exponent, big-endian. RFC 7518 §3.3: at least 2048 bits.
    pub(super) fn from_components(n: &[u8], e: &[u8]) -> Result<Self, String> {
        let (n, e) = (without_zeros(n), without_zeros(e));
        let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
        if !(2048..=8192).contains(&bits) {
            return Err(format!("an RSA key of {bits} bits is not in 2048 … 8192"));
        }
        let components = rsa::PublicKeyComponents { n, e };
        let parse = |parameters| {
            components.to_parsed_public_key(parameters).map_err(|e| format!("an RSA key that is not valid ({e})"))
        };
        Ok(RsaPublic {
            pkcs1: [
                parse(&signature::RSA_PKCS1_2048_8192_SHA256)?,
                parse(&signature::RSA_PKCS1_2048_8192_SHA384)?,
                parse(&signature::RSA_PKCS1_2048_8192_SHA512)?,
            ],
            pss: [
                parse(&signature::RSA_PSS_2048_8192_SHA256)?,
                parse(&signature::RSA_PSS_2048_8192_SHA384)?,
                parse(&signature::RSA_PSS_2048_8192_SHA512)?,
            ],
        })
    }

    /// From PKCS#1 or SubjectPublicKeyInfo.
    pub(super) fn from_der(der: &[u8]) -> Result<Self, String> {
        let key = rsa::PublicKey::from_der(der).map_err(|e| format!("an RSA key that is not valid ({e})"))?;
        Self::from_key(&key)
    }

    pub(super) fn from_key(key: &rsa::PublicKey) -> Result<Self, String> {
        Self::from_components(
            key.modulus().big_endian_without_leading_zero(),
            key.exponent().big_endian_without_leading_zero(),
        )
    }
}

fn without_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|b| **b == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}

fn pick<T>([sha256, sha384, sha512]: &[T; 3], hash: Hash) -> &T {
    match hash {
        Hash::Sha256 => sha256,
        Hash::Sha384 => sha384,
        Hash::Sha512 => sha512,
    }
}

/// The fixed-length (r‖s) form of JOSE (RFC 7518 §3.4); each curve goes with one hash.
pub(super) fn ec_verification(hash: Hash) -> &'static signature::EcdsaVerificationAlgorithm {
    match hash {
        Hash::Sha256 => &signature::ECDSA_P256_SHA256_FIXED,
        Hash::Sha384 => &signature::ECDSA_P384_SHA384_FIXED,
        Hash::Sha512 => &signature::ECDSA_P521_SHA512_FIXED,
    }
}

pub(super) fn ec_signing(hash: Hash) -> &'static signature::EcdsaSigningAlgorithm {
    match hash {
        Hash::Sha256 => &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
        Hash::Sha384 => &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
        Hash::Sha512 => &signature::ECDSA_P521_SHA512_FIXED_SIGNING,
    }
}

impl Material {
    /// A private RSA key with its public half.
    pub(super) fn rsa_pair(pair: RsaKeyPair) -> Result<Self, String> {
        let public = Box::new(RsaPublic::from_key(pair.public_key())?);
        Ok(Material::Rsa { public, private: Some(Box::new(pair)) })
    }

    /// A private EC key with its public half.
    pub(super) fn ec_pair(hash: Hash, pair: EcdsaKeyPair) -> Result<Self, String> {
        let public = ParsedPublicKey::new(ec_verification(hash), pair.public_key().as_ref())
            .map_err(|e| format!("an EC key that is not valid ({e})"))?;
        Ok(Material::Ec { hash, public, private: Some(Box::new(pair)) })
    }

    /// A private Ed25519 key with its public half.
    pub(super) fn ed25519_pair(pair: Ed25519KeyPair) -> Result<Self, String> {
        let public = ParsedPublicKey::new(&signature::ED25519, pair.public_key().as_ref())
            .map_err(|e| format!("an Ed25519 key that is not valid ({e})"))?;
        Ok(Material::Ed25519 { public, private: Some(Box::new(pair)) })
    }

    /// A public key from SubjectPublicKeyInfo.
    pub(super) fn from_spki(der: &[u8]) -> Result<Self, String> {
        if let Ok(public) = ParsedPublicKey::new(&signature::ED25519, der)
            && public.as_der().is_ok_and(|spki| spki.as_ref() == der)
        {
            return Ok(Material::Ed25519 { public, private: None });
        }
        for hash in [Hash::Sha256, Hash::Sha384, Hash::Sha512] {
            if let Ok(public) = ParsedPublicKey::new(ec_verification(hash), der) {
                return Ok(Material::Ec { hash, public, private: None });
            }
        }
        let public = Box::new(RsaPublic::from_der(der).map_err(|e| {
            if e.contains("bits") {
                e
            } else {
                "a public key that is none of RSA, P-256, P-384, P-521 and Ed25519".to_owned()
            }
        })?);
        Ok(Material::Rsa { public, private: None })
    }

    /// Whether a key of this type can be used with the algorithm.
    pub(super) fn fits(&self, algorithm: Algorithm) -> bool {
        match (self, algorithm) {
            (Material::Secret(secret), Algorithm::Hs(hash)) => secret.key(hash).is_some(),
            (Material::Rsa { .. }, Algorithm::Rs(_) | Algorithm::Ps(_)) => true,
            (Material::Ec { hash, .. }, Algorithm::Es(wanted)) => *hash == wanted,
            (Material::Ed25519 { .. }, Algorithm::EdDsa) => true,
            _ => false,
        }
    }

    /// Whether there is what signing needs.
    pub(super) fn is_private(&self) -> bool {
        match self {
            Material::Secret(_) => true,
            Material::Rsa { private, .. } => private.is_some(),
            Material::Ec { private, .. } => private.is_some(),
            Material::Ed25519 { private, .. } => private.is_some(),
        }
    }
}

impl Key {
    pub(super) fn fits(&self, algorithm: Algorithm) -> bool {
        self.alg.is_none_or(|only| only == algorithm) && self.material.fits(algorithm)
    }

    /// Whether the signature is good; a key that does not fit answers false.
    pub(super) fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        if !self.fits(algorithm) {
            return false;
        }
        let public = match (&self.material, algorithm) {
            (Material::Secret(secret), Algorithm::Hs(hash)) => {
                return secret.key(hash).is_some_and(|key| hmac::verify(key, message, signature).is_ok());
            }
            (Material::Rsa { public, .. }, Algorithm::Rs(hash)) => pick(&public.pkcs1, hash),
            (Material::Rsa { public, .. }, Algorithm::Ps(hash)) => pick(&public.pss, hash),
            (Material::Ec { public, .. }, Algorithm::Es(_)) => public,
            (Material::Ed25519 { public, .. }, Algorithm::EdDsa) => public,
            _ => return false,
        };
        public.verify_sig(message, signature).is_ok()
    }

    /// The signature, or `None` when the key does not fit, is public or failed.
    pub(super) fn sign(&self, algorithm: Algorithm, message: &[u8]) -> Option<Vec<u8>> {
        if !self.fits(algorithm) {
            return None;
        }
        let random = SystemRandom::new();
        match (&self.material, algorithm) {
            (Material::Secret(secret), Algorithm::Hs(hash)) => {
                Some(hmac::sign(secret.key(hash)?, message).as_ref().to_vec())
            }
            (Material::Rsa { private, .. }, Algorithm::Rs(_) | Algorithm::Ps(_)) => {
                let pair = private.as_ref()?;
                let padding: &'static dyn signature::RsaEncoding = match algorithm {
                    Algorithm::Rs(Hash::Sha256) => &signature::RSA_PKCS1_SHA256,
                    Algorithm::Rs(Hash::Sha384) => &signature::RSA_PKCS1_SHA384,
                    Algorithm::Rs(Hash::Sha512) => &signature::RSA_PKCS1_SHA512,
                    Algorithm::Ps(Hash::Sha256) => &signature::RSA_PSS_SHA256,
                    Algorithm::Ps(Hash::Sha384) => &signature::RSA_PSS_SHA384,
                    Algorithm::Ps(Hash::Sha512) => &signature::RSA_PSS_SHA512,
                    _ => return None,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, message, &mut signature).ok()?;
                Some(signature)
            }
            (Material::Ec { private, .. }, Algorithm::Es(_)) => {
                Some(private.as_ref()?.sign(&random, message).ok()?.as_ref().to_vec())
            }
            (Material::Ed25519 { private, .. }, Algorithm::EdDsa) => {
                Some(private.as_ref()?.try_sign(message).ok()?.as_ref().to_vec())
            }
            _ => None,
        }
    }
}
