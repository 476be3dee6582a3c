//! Certificates that the gateway orders from an authority by ACME (RFC 8555).

use std::fmt;
use std::time::Duration;

use super::Name;
use crate::route::HostPattern;

/// An authority, and how certificates are ordered from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcmeAuthority {
    pub name: Name,
    /// The URL of its directory (RFC 8555 §7.1.1), with `https`.
    pub directory: String,
    /// URLs such as `mailto:ops@example.com`.
    pub contact: Vec<String>,
    pub external_account: Option<ExternalAccount>,
    /// PEM text of authorities that are trusted beside the system's.
    pub ca: Option<String>,
    /// How control over names is shown, in the order of preference; at least one.
    pub challenges: Vec<ChallengeKind>,
    /// There where `challenges` has `dns-01`.
    pub dns: Option<DnsCommand>,
    /// How long before its end a certificate is renewed; none: a third of its life.
    pub renew_before: Option<Duration>,
    pub key_type: KeyType,
    /// In which state certificates and accounts are shared; none: on the disk of this gateway.
    pub state: Option<Name>,
    /// Names in `Config::authorities` that are asked in its place, in this order, when it gives no certificate.
    pub fallback: Vec<Name>,
}

/// What binds an ACME account to one that the operator has with the authority (RFC 8555 §7.3.4).
#[derive(Clone, PartialEq, Eq)]
pub struct ExternalAccount {
    pub key_id: String,
    /// The key of the MAC.
    pub key: Box<[u8]>,
}

/// How control over a name is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChallengeKind {
    /// RFC 8555 §8.3.
    Http01,
    /// RFC 8737.
    TlsAlpn01,
    /// RFC 8555 §8.4.
    Dns01,
}

/// The program that changes TXT records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsCommand {
    /// The program and its first arguments; at least one.
    pub command: Vec<String>,
    pub timeout: Duration,
}

/// The kind of the key of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyType {
    EcdsaP256,
    EcdsaP384,
    Rsa2048,
}

/// A certificate that is ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcmeCertificate {
    pub name: Name,
    /// A name in `Config::authorities`.
    pub authority: Name,
    pub wanted: Wanted,
}

/// The names of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// These, in lower case, also with `*.` at the start; at least one.
    Names(Vec<String>),
    /// One certificate for each name that clients ask for and the operator's service agrees to.
    OnDemand(OnDemand),
}

/// Which names get a certificate when a client asks for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnDemand {
    /// Where to ask, with `https` or `http`: a 200 means yes.
    pub ask: String,
    /// Orders in an hour.
    pub rate: u32,
    /// Only names that fit one of these; empty: all.
    pub hosts: Vec<HostPattern>,
}

impl AcmeAuthority {
    /// What its account is known by: another directory or another external account is another account.
    pub fn account(&self) -> (&str, Option<&str>) {
        (&self.directory, self.external_account.as_ref().map(|account| &*account.key_id))
    }
}

impl fmt::Debug for ExternalAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExternalAccount").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

impl ExternalAccount {
    pub fn new(key_id: String, key: Vec<u8>) -> Self {
        ExternalAccount { key_id, key: key.into() }
    }
}

impl ChallengeKind {
    /// As it is written, and as authorities call it.
    pub fn name(self) -> &'static str {
        match self {
            ChallengeKind::Http01 => "http-01",
            ChallengeKind::TlsAlpn01 => "tls-alpn-01",
            ChallengeKind::Dns01 => "dns-01",
        }
    }
}
