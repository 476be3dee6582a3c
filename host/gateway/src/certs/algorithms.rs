//! Which versions, cipher suites and key exchanges a listener has.

use rustls::SupportedProtocolVersion;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{CipherSuite as Suite, SupportedCipherSuite, version};

use crate::config::model::{CipherSuite, KeyExchangeGroup, ListenerTls, TlsVersion};

/// What the listener has, the most wanted first.
pub(super) fn provider(settings: &ListenerTls) -> CryptoProvider {
    let mut provider = default_provider();
    if !settings.cipher_suites.is_empty() {
        provider.cipher_suites = settings.cipher_suites.iter().map(|suite| supported(*suite)).collect();
    }
    if !settings.key_exchange_groups.is_empty() {
        provider.kx_groups = settings.key_exchange_groups.iter().map(|group| exchange(*group)).collect();
    }
    provider
}

/// The same for clients that want AES: AES-128 first. `None`: the operator has put the suites in order.
pub(super) fn aes_provider(settings: &ListenerTls) -> Option<CryptoProvider> {
    if !settings.cipher_suites.is_empty() {
        return None;
    }
    let mut provider = provider(settings);
    // Stable, so that each strength has the order that it had.
    provider.cipher_suites.sort_by_key(|suite| !is_aes_128(suite.suite()));
    Some(provider)
}

/// Whether a client that offers these has AES before ChaCha20, which one without instructions for AES puts first.
pub(super) fn prefers_aes(offered: &[Suite]) -> bool {
    let first = offered.iter().find_map(|suite| match suite {
        Suite::TLS13_CHACHA20_POLY1305_SHA256
        | Suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
        | Suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => Some(false),
        suite if is_aes_128(*suite) => Some(true),
        Suite::TLS13_AES_256_GCM_SHA384
        | Suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
        | Suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => Some(true),
        _ => None,
    });
    first == Some(true)
}

fn is_aes_128(suite: Suite) -> bool {
    matches!(
        suite,
        Suite::TLS13_AES_128_GCM_SHA256
            | Suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | Suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
    )
}

pub(super) fn versions(settings: &ListenerTls) -> Vec<&'static SupportedProtocolVersion> {
    let all = [(TlsVersion::Tls13, &version::TLS13), (TlsVersion::Tls12, &version::TLS12)];
    all.into_iter().filter(|(version, _)| settings.speaks(*version)).map(|(_, version)| version).collect()
}

fn supported(suite: CipherSuite) -> SupportedCipherSuite {
    match suite {
        CipherSuite::Aes128GcmSha256 => cipher_suite::TLS13_AES_128_GCM_SHA256,
        CipherSuite::Aes256GcmSha384 => cipher_suite::TLS13_AES_256_GCM_SHA384,
        CipherSuite::Chacha20Poly1305Sha256 => cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        CipherSuite::EcdheEcdsaAes128GcmSha256 => cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdheEcdsaAes256GcmSha384 => cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdheEcdsaChacha20Poly1305Sha256 => cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        CipherSuite::EcdheRsaAes128GcmSha256 => cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdheRsaAes256GcmSha384 => cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdheRsaChacha20Poly1305Sha256 => cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    }
}

fn exchange(group: KeyExchangeGroup) -> &'static dyn SupportedKxGroup {
    match group {
        KeyExchangeGroup::X25519Mlkem768 => kx_group::X25519MLKEM768,
        KeyExchangeGroup::Secp256r1Mlkem768 => kx_group::SECP256R1MLKEM768,
        KeyExchangeGroup::X25519 => kx_group::X25519,
        KeyExchangeGroup::Secp256r1 => kx_group::SECP256R1,
        KeyExchangeGroup::Secp384r1 => kx_group::SECP384R1,
    }
}
