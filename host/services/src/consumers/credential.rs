//! Credentials of consumers. They are looked up by SHA-256 digests: keys stay secret, and one kind of index finds them all.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use aws_lc_rs::digest::{self, Context, SHA256};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use data_encoding::HEXLOWER;

use super::index::Digest;
use crate::crypto::from_hex;

/// The longest credential that is looked up, in bytes.
pub(super) const MAX_CREDENTIAL: usize = 16 << 10;

/// The longest issuer of tokens, in bytes.
const MAX_ISSUER: usize = 2048;

/// What kind of credential it is, by the words of `consumers.authenticate` in the WIT package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialKind {
    Key,
    Sha256,
    Subject,
    Dns,
    Uri,
    Email,
    Ip,
}

impl CredentialKind {
    const ALL: [CredentialKind; 7] = [
        CredentialKind::Key,
        CredentialKind::Sha256,
        CredentialKind::Subject,
        CredentialKind::Dns,
        CredentialKind::Uri,
        CredentialKind::Email,
        CredentialKind::Ip,
    ];

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<CredentialKind> {
        CredentialKind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            CredentialKind::Key => "key",
            CredentialKind::Sha256 => "sha256",
            CredentialKind::Subject => "subject",
            CredentialKind::Dns => "dns",
            CredentialKind::Uri => "uri",
            CredentialKind::Email => "email",
            CredentialKind::Ip => "ip",
        }
    }

    /// The digest under which a credential of this kind, as somebody has shown it, may be found.
    pub(super) fn digest(self, shown: &str) -> Digest {
        match self {
            CredentialKind::Key => key_digest(shown.as_bytes()),
            CredentialKind::Dns => named(self, &shown.to_ascii_lowercase()),
            CredentialKind::Ip => match shown.parse::<IpAddr>() {
                Ok(address) => named(self, &address.to_canonical().to_string()),
                Err(_) => named(self, shown),
            },
            CredentialKind::Sha256 => named(self, &shown.to_ascii_lowercase()),
            CredentialKind::Subject | CredentialKind::Uri | CredentialKind::Email => named(self, shown),
        }
    }
}

/// The digest of an API key, as the configuration has it.
pub fn key_digest(key: &[u8]) -> Digest {
    to_array(digest::digest(&SHA256, key))
}

/// The hash of an API key, as the configuration has it.
pub fn key_hash(key: &[u8]) -> String {
    format!("sha256:{}", HEXLOWER.encode(&key_digest(key)))
}

/// A new API key: 32 random bytes in 43 letters and digits that need no escape in a URL or header (RFC 4648 §5).
pub fn new_key() -> String {
    URL_SAFE_NO_PAD.encode(crate::random::bytes_32())
}

/// No kind's text is another's.
fn named(kind: CredentialKind, text: &str) -> Digest {
    let mut context = Context::new(&SHA256);
    context.update(kind.name().as_bytes());
    context.update(b":");
    context.update(text.as_bytes());
    to_array(context.finish())
}

/// The digest of a user name.
pub(super) fn user_digest(name: &str) -> Digest {
    key_digest(name.as_bytes())
}

fn to_array(digest: digest::Digest) -> Digest {
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// A credential as the configuration has it.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// SHA-256 of an API key.
    Key(Digest),
    /// Something that a verified certificate has.
    Certificate(CredentialKind, String),
    /// A user name and the hash of its password, in PHC format.
    Password(String, String),
    /// Keys that sign its tokens.
    Token(TokenKeys),
}

/// The keys of an issuer of tokens.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenKeys {
    /// The `iss` of its tokens.
    pub issuer: String,
    /// `aud` names one of these; none: any.
    pub audiences: Vec<String>,
    /// As for `crypto.key-set` in the WIT package.
    pub source: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credential::Key(_) => f.write_str("Key(…)"),
            Credential::Certificate(kind, text) => write!(f, "Certificate({}:{text})", kind.name()),
            Credential::Password(name, _) => write!(f, "Password({name}, …)"),
            Credential::Token(keys) => write!(f, "Token({}, …)", keys.issuer),
        }
    }
}

/// Why a text is no credential. It never quotes the text, which may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadCredential {
    #[error(
        "expected `sha256:` and the 64 hexadecimal digits of the key's hash, as `sluice hash key` prints it; keys themselves are not written here"
    )]
    Key,
    #[error(
        "expected `sha256:`, `subject:`, `dns:`, `uri:`, `email:` or `ip:`, and what the client certificate has to have"
    )]
    Certificate,
    #[error("expected a hash of Argon2id in PHC format (`$argon2id$v=19$…`), as `sluice hash password` prints it")]
    Password,
    #[error("expected a hash of Argon2id with at most 256 MiB of memory, 16 passes and 16 lanes")]
    Cost,
    #[error("expected a user name of 1 to 256 bytes without a colon and control characters (RFC 7617 §2)")]
    UserName,
    #[error("expected an issuer of 1 to 2048 bytes without control characters: the `iss` of the tokens")]
    Issuer,
    #[error("{0}")]
    TokenKeys(String),
}

impl Credential {
    /// `sha256:` and hexadecimal digits.
    pub fn key(text: &str) -> Result<Credential, BadCredential> {
        let digest = text.strip_prefix("sha256:").and_then(from_hex).ok_or(BadCredential::Key)?;
        Ok(Credential::Key(digest))
    }

    /// A kind and a text, such as `dns:client.acme.example`.
    pub fn certificate(text: &str) -> Result<Credential, BadCredential> {
        let (kind, value) = text.split_once(':').ok_or(BadCredential::Certificate)?;
        let kind = CredentialKind::from_name(kind).filter(|kind| *kind != CredentialKind::Key);
        let kind = kind.filter(|_| !value.is_empty()).ok_or(BadCredential::Certificate)?;
        let fits = match kind {
            CredentialKind::Sha256 => from_hex(value).is_some(),
            CredentialKind::Ip => IpAddr::from_str(value).is_ok(),
            _ => value.len() <= MAX_CREDENTIAL,
        };
        if !fits {
            return Err(BadCredential::Certificate);
        }
        Ok(Credential::Certificate(kind, value.to_owned()))
    }

    /// A user name and the hash of its password.
    pub fn password(user: &str, hash: &str) -> Result<Credential, BadCredential> {
        let is_name = (1..=256).contains(&user.len()) && !user.contains(|c: char| c == ':' || c.is_control());
        if !is_name {
            return Err(BadCredential::UserName);
        }
        crate::passwords::check_hash(hash)?;
        Ok(Credential::Password(user.to_owned(), hash.to_owned()))
    }

    /// An issuer, the audiences of its tokens and the source of its keys, which is not read before a token comes.
    pub fn token(issuer: String, audiences: Vec<String>, source: String) -> Result<Credential, BadCredential> {
        if !(1..=MAX_ISSUER).contains(&issuer.len()) || issuer.contains(char::is_control) {
            return Err(BadCredential::Issuer);
        }
        crate::keyset::check_source(&source).map_err(BadCredential::TokenKeys)?;
        Ok(Credential::Token(TokenKeys { issuer, audiences, source }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_own_texts() {
        assert_ne!(CredentialKind::Dns.digest("a.example"), CredentialKind::Uri.digest("a.example"));
        assert_eq!(CredentialKind::Dns.digest("A.example"), CredentialKind::Dns.digest("a.example"));
        assert_eq!(CredentialKind::Ip.digest("::ffff:10.0.0.1"), CredentialKind::Ip.digest("10.0.0.1"));
    }

    #[test]
    fn credentials_are_read() {
        let digits = "9F86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        assert_eq!(Credential::key(&format!("sha256:{digits}")), Ok(Credential::Key(key_digest(b"test"))));
        for text in ["test", "sha256:", "sha256:9f86", &format!("sha512:{digits}"), &format!("sha256:{digits}0")] {
            assert_eq!(Credential::key(text), Err(BadCredential::Key), "{text}");
        }
        for text in ["dns:a.example", "uri:spiffe://a/b", "ip:10.0.0.1", "subject:CN=a:b", &format!("sha256:{digits}")]
        {
            assert!(Credential::certificate(text).is_ok(), "{text}");
        }
        for text in ["", "dns:", "dns", "key:x", "ip:10.0.0", "sha256:12", "cn:x"] {
            assert_eq!(Credential::certificate(text), Err(BadCredential::Certificate), "{text}");
        }
        assert_eq!(Credential::password("a:b", ""), Err(BadCredential::UserName));
    }
}
