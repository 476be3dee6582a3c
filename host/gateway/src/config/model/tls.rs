//! How listeners speak TLS.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Certificate, Config, Listener, Name, Secret};
use crate::config::defaults;
use crate::route::HostPattern;

/// How a listener speaks TLS.
#[derive(Debug, Clone)]
pub struct ListenerTls {
    /// Names in `Config::certificates` or `Config::acme_certificates`, at least one. The first serves clients whose server name fits none.
    pub certificates: Vec<Name>,
    /// Not above `max_version`.
    pub min_version: TlsVersion,
    pub max_version: TlsVersion,
    /// The most wanted first; empty for the usual ones. Otherwise each version that is spoken has one.
    pub cipher_suites: Vec<CipherSuite>,
    /// The most wanted first; empty for the usual ones. Otherwise TLS 1.2, where it is spoken, has one.
    pub key_exchange_groups: Vec<KeyExchangeGroup>,
    /// None: no session is resumed.
    pub session_tickets: Option<SessionTickets>,
    /// Whether and how clients authenticate. At most one is without hosts, and no host is in two.
    pub client_auth: Vec<ClientAuth>,
    pub handshakes: HandshakeLimits,
    /// What hosts say of HTTPS. At most one is without hosts, and no host is in two.
    pub hsts: Vec<Hsts>,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

/// A cipher suite, by its name at IANA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CipherSuite {
    Aes128GcmSha256,
    Aes256GcmSha384,
    Chacha20Poly1305Sha256,
    EcdheEcdsaAes128GcmSha256,
    EcdheEcdsaAes256GcmSha384,
    EcdheEcdsaChacha20Poly1305Sha256,
    EcdheRsaAes128GcmSha256,
    EcdheRsaAes256GcmSha384,
    EcdheRsaChacha20Poly1305Sha256,
}

/// A group for the key exchange, by its name at IANA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyExchangeGroup {
    X25519Mlkem768,
    Secp256r1Mlkem768,
    X25519,
    Secp256r1,
    Secp384r1,
}

/// How the sessions of clients are kept in tickets (RFC 5077, RFC 8446 §4.6.1).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SessionTickets {
    /// Keys are made of the first; tickets of all are taken. Empty: of chance, so that no other gateway takes them.
    pub secrets: Vec<Secret>,
    /// How long a key makes tickets. It takes them for as long again.
    pub rotation: Duration,
}

/// How clients authenticate by a certificate (mutual TLS).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientAuth {
    /// The server names that it is for; empty for all that no other is for.
    pub hosts: Vec<HostPattern>,
    /// The authorities.
    pub ca: Pem,
    /// Revocation lists.
    pub crl: Option<Pem>,
    pub mode: ClientAuthMode,
    /// Whether upstreams get the certificate.
    pub forward: bool,
}

/// Whether a client has to show a certificate. One that it shows has to be good in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuthMode {
    Required,
    Optional,
}

/// What one client address may have of handshakes at a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HandshakeLimits {
    /// Under way at a time.
    pub max_pending: Option<u32>,
    /// Begun in a second, on average.
    pub rate: Option<u32>,
    /// Begun at once.
    pub burst: u32,
}

/// What a host says of HTTPS to browsers (RFC 6797).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hsts {
    /// Empty for all that no other is for.
    pub hosts: Vec<HostPattern>,
    pub max_age: Duration,
    pub include_subdomains: bool,
    pub preload: bool,
}

/// PEM text, and where it is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pem {
    pub text: String,
    /// The file that has it; none where the configuration has the text itself.
    pub file: Option<PathBuf>,
}

impl From<&str> for Pem {
    fn from(text: &str) -> Self {
        Pem { text: text.to_owned(), file: None }
    }
}

impl CipherSuite {
    /// The one version that it is for.
    pub fn version(self) -> TlsVersion {
        match self {
            Self::Aes128GcmSha256 | Self::Aes256GcmSha384 | Self::Chacha20Poly1305Sha256 => TlsVersion::Tls13,
            Self::EcdheEcdsaAes128GcmSha256
            | Self::EcdheEcdsaAes256GcmSha384
            | Self::EcdheEcdsaChacha20Poly1305Sha256
            | Self::EcdheRsaAes128GcmSha256
            | Self::EcdheRsaAes256GcmSha384
            | Self::EcdheRsaChacha20Poly1305Sha256 => TlsVersion::Tls12,
        }
    }
}

impl KeyExchangeGroup {
    /// Whether TLS 1.2 has it.
    pub fn is_for_tls12(self) -> bool {
        match self {
            Self::X25519 | Self::Secp256r1 | Self::Secp384r1 => true,
            Self::X25519Mlkem768 | Self::Secp256r1Mlkem768 => false,
        }
    }
}

impl Default for ListenerTls {
    /// As without any key.
    fn default() -> Self {
        let tickets = SessionTickets { secrets: Vec::new(), rotation: defaults::TICKET_ROTATION };
        ListenerTls {
            certificates: Vec::new(),
            min_version: defaults::MIN_TLS,
            max_version: defaults::MAX_TLS,
            cipher_suites: Vec::new(),
            key_exchange_groups: Vec::new(),
            session_tickets: defaults::SESSION_TICKETS.then_some(tickets),
            client_auth: Vec::new(),
            handshakes: HandshakeLimits::default(),
            hsts: Vec::new(),
        }
    }
}

impl ListenerTls {
    /// Whether a version is spoken.
    pub fn speaks(&self, version: TlsVersion) -> bool {
        (self.min_version..=self.max_version).contains(&version)
    }
}

impl Config {
    /// The files with what listeners show and verify: certificates, keys, authorities and revocation lists.
    pub fn tls_files(&self) -> impl Iterator<Item = &Path> {
        let own = self.certificates.iter().flat_map(|Certificate { cert, key_file, .. }| [&cert.file, key_file]);
        let tls = self.listeners.iter().filter_map(|listener| listener.tls.as_ref());
        let clients = tls.flat_map(|tls| &tls.client_auth);
        let of_clients = clients.flat_map(|auth| std::iter::once(&auth.ca).chain(&auth.crl).map(|pem| &pem.file));
        own.chain(of_clients).filter_map(Option::as_deref)
    }

    /// Reads these files again, with `read`. A certificate, or a way to authenticate clients, whose files can't be read or which `check`
    /// refuses stays as it was, and the others do not wait for it. Answers why those stay.
    pub fn read_tls_files(
        &mut self,
        mut read: impl FnMut(&Path) -> Result<String, String>,
        check: impl Fn(ReadAgain<'_>) -> Result<(), String>,
    ) -> Vec<String> {
        let mut refused = Vec::new();
        for certificate in &mut self.certificates {
            let again = certificate.read_again(&mut read);
            let put = put(certificate, again, |again| check(ReadAgain::Certificate(again)));
            refused.extend(put.err());
        }
        for Listener { name, tls, .. } in &mut self.listeners {
            for auth in tls.iter_mut().flat_map(|tls| &mut tls.client_auth) {
                let again = auth.read_again(&mut read);
                let put = put(auth, again, |again| check(ReadAgain::Clients(again)));
                refused.extend(put.err().map(|why| format!("listeners.{name}.tls: {why}")));
            }
        }
        refused
    }
}

/// What has another text than before.
#[derive(Debug, Clone, Copy)]
pub enum ReadAgain<'a> {
    Certificate(&'a Certificate),
    Clients(&'a ClientAuth),
}

impl Certificate {
    /// The same with what its files have now; none if that is what they had.
    fn read_again(&self, mut read: impl FnMut(&Path) -> Result<String, String>) -> Result<Option<Self>, String> {
        let named = |why| format!("certificate `{}`: {why}", self.name);
        let cert = changed(self.cert.file.as_deref(), &self.cert.text, &mut read).map_err(named)?;
        let key = changed(self.key_file.as_deref(), self.key.expose(), &mut read).map_err(named)?;
        if cert.is_none() && key.is_none() {
            return Ok(None);
        }
        let mut again = self.clone();
        if let Some(text) = cert {
            again.cert.text = text;
        }
        if let Some(text) = key {
            again.key = Secret::from(text);
        }
        Ok(Some(again))
    }
}

impl ClientAuth {
    /// The same with what its files have now; none if that is what they had.
    fn read_again(&self, mut read: impl FnMut(&Path) -> Result<String, String>) -> Result<Option<Self>, String> {
        let mut again = self.clone();
        let mut differs = false;
        for pem in std::iter::once(&mut again.ca).chain(&mut again.crl) {
            if let Some(text) = changed(pem.file.as_deref(), &pem.text, &mut read)? {
                pem.text = text;
                differs = true;
            }
        }
        Ok(differs.then_some(again))
    }
}

/// Puts what is new in the place of what was, if it is good.
fn put<T>(
    place: &mut T,
    new: Result<Option<T>, String>,
    check: impl FnOnce(&T) -> Result<(), String>,
) -> Result<(), String> {
    if let Some(new) = new? {
        check(&new)?;
        *place = new;
    }
    Ok(())
}

/// The text of a file, if it is another one than before.
fn changed(
    file: Option<&Path>,
    before: &str,
    mut read: impl FnMut(&Path) -> Result<String, String>,
) -> Result<Option<String>, String> {
    let now = file.map(&mut read).transpose()?;
    // `${file:…}` leaves the newline at the end out.
    Ok(now.filter(|now| now.trim_end() != before.trim_end()))
}
