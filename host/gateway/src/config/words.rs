//! The words that stand for values, as they are written in a file.

use http::uri::Scheme;
use sluice_cache::policy::SetCookie;

use super::key::{Words, Written};
use super::model::{
    Balance, Builtin, CipherSuite, CircuitScope, ClientAuthMode, Criticality, Deviation, Encodings, EndpointScheme,
    FailurePolicy, HashAlgorithm, HostPolicy, HttpVersion, KeyExchangeGroup, ListenerProtocols, LookupFamily, Protocol,
    RetryCondition, RetryConditions, SameSite, SubsetFallback, TlsVersion, TrialPolicy, TryNextOn,
};
use crate::http::coding::Coding;
use crate::proxy_protocol;
use crate::telemetry::{AccessLogFormat, LogLevel};
use crate::wasm::{CallMode, Mode};

impl Words for AccessLogFormat {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("json", Self::Json), ("console", Self::Console), ("off", Self::Off)];
}

impl Words for LogLevel {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];
}

impl Words for proxy_protocol::Version {
    const WORDS: &'static [(&'static str, Self)] = &[("v1", Self::V1), ("v2", Self::V2)];
}

impl Words for TlsVersion {
    const WORDS: &'static [(&'static str, Self)] = &[("1.2", Self::Tls12), ("1.3", Self::Tls13)];
}

impl Words for CipherSuite {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("TLS_AES_256_GCM_SHA384", Self::Aes256GcmSha384),
        ("TLS_AES_128_GCM_SHA256", Self::Aes128GcmSha256),
        ("TLS_CHACHA20_POLY1305_SHA256", Self::Chacha20Poly1305Sha256),
        ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", Self::EcdheEcdsaAes256GcmSha384),
        ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", Self::EcdheEcdsaAes128GcmSha256),
        ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", Self::EcdheEcdsaChacha20Poly1305Sha256),
        ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", Self::EcdheRsaAes256GcmSha384),
        ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", Self::EcdheRsaAes128GcmSha256),
        ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", Self::EcdheRsaChacha20Poly1305Sha256),
    ];
}

impl Words for KeyExchangeGroup {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("X25519MLKEM768", Self::X25519Mlkem768),
        ("SecP256r1MLKEM768", Self::Secp256r1Mlkem768),
        ("x25519", Self::X25519),
        ("secp256r1", Self::Secp256r1),
        ("secp384r1", Self::Secp384r1),
    ];
}

impl Words for ClientAuthMode {
    const WORDS: &'static [(&'static str, Self)] = &[("required", Self::Required), ("optional", Self::Optional)];
}

impl Words for HttpVersion {
    const WORDS: &'static [(&'static str, Self)] = &[("http/1.1", Self::Http1), ("h2", Self::Http2)];
}

impl Written for ListenerProtocols {
    fn written(&self) -> String {
        let both = [(self.http1, HttpVersion::Http1), (self.h2, HttpVersion::Http2)];
        let words: Vec<String> = both.iter().filter(|(on, _)| *on).map(|(_, version)| version.written()).collect();
        format!("[{}]", words.join(", "))
    }
}

impl Written for HostPolicy {
    fn written(&self) -> String {
        match self {
            Self::Keep => r#""keep""#.to_owned(),
            Self::Upstream => r#""upstream""#.to_owned(),
            Self::Fixed(name) => format!("{:?}", name.as_str()),
        }
    }
}

impl Words for Scheme {
    const WORDS: &'static [(&'static str, Self)] = &[("http", Self::HTTP), ("https", Self::HTTPS)];
}

impl Words for Builtin {
    const WORDS: &'static [(&'static str, Self)] = &[("echo", Self::Echo), ("status", Self::Status)];
}

impl Words for Balance {
    /// All but hashing, which is a table.
    const WORDS: &'static [(&'static str, Self)] = &[
        ("round_robin", Self::RoundRobin),
        ("least_request", Self::LeastRequest),
        ("peak_ewma", Self::PeakEwma),
        ("random", Self::Random),
    ];
}

impl Words for HashAlgorithm {
    const WORDS: &'static [(&'static str, Self)] = &[("maglev", Self::Maglev), ("ring_hash", Self::RingHash)];
}

impl Words for SubsetFallback {
    const WORDS: &'static [(&'static str, Self)] =
        &[("no_fallback", Self::NoFallback), ("any_endpoint", Self::AnyEndpoint)];
}

impl Words for SameSite {
    const WORDS: &'static [(&'static str, Self)] =
        &[("lax", Self::Lax), ("strict", Self::Strict), ("none", Self::None)];
}

impl Words for EndpointScheme {
    const WORDS: &'static [(&'static str, Self)] = &[("http", Self::Http), ("https", Self::Https)];
}

impl Words for CircuitScope {
    const WORDS: &'static [(&'static str, Self)] = &[("upstream", Self::Upstream), ("endpoint", Self::Endpoint)];
}

impl Words for Criticality {
    const WORDS: &'static [(&'static str, Self)] =
        &[("sheddable", Self::Sheddable), ("standard", Self::Standard), ("critical", Self::Critical)];
}

impl Words for Protocol {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("http/1.1", Self::Http1), ("h2", Self::Http2), ("h2c", Self::H2c)];
}

impl Words for RetryCondition {
    const WORDS: &'static [(&'static str, Self)] = &{
        let (mut words, mut at) = ([("", RetryCondition::Reset); RetryCondition::ALL.len()], 0);
        while at < words.len() {
            words[at] = (RetryCondition::ALL[at].name(), RetryCondition::ALL[at]);
            at += 1;
        }
        words
    };
}

impl Written for RetryConditions {
    fn written(&self) -> String {
        let words: Vec<String> = self.iter().map(|condition| condition.written()).collect();
        format!("[{}]", words.join(", "))
    }
}

impl Written for TryNextOn {
    fn written(&self) -> String {
        format!("{:?}", self.0)
    }
}

impl Words for Deviation {
    const WORDS: &'static [(&'static str, Self)] =
        &[("bare_lf", Self::BareLf), ("repeated_content_length", Self::RepeatedContentLength)];
}

impl Words for LookupFamily {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("v4_only", Self::V4Only),
        ("v6_only", Self::V6Only),
        ("v4_preferred", Self::V4Preferred),
        ("all", Self::All),
    ];
}

impl Words for FailurePolicy {
    const WORDS: &'static [(&'static str, Self)] = &[("closed", Self::Closed), ("open", Self::Open)];
}

impl Words for TrialPolicy {
    const WORDS: &'static [(&'static str, Self)] = &[("refuse", Self::Refuse), ("warn", Self::Warn)];
}

impl Words for Mode {
    const WORDS: &'static [(&'static str, Self)] = &[("reused", Self::Reused), ("fresh", Self::Fresh)];
}

impl Words for CallMode {
    const WORDS: &'static [(&'static str, Self)] = &[("auto", Self::Auto), ("component", Self::Component)];
}

impl Words for Coding {
    /// Those that are sent, or lie beside files.
    const WORDS: &'static [(&'static str, Self)] = &[("zstd", Self::Zstd), ("br", Self::Brotli), ("gzip", Self::Gzip)];
}

impl Written for Encodings {
    fn written(&self) -> String {
        let words: Vec<String> = self.0.iter().map(Written::written).collect();
        format!("[{}]", words.join(", "))
    }
}

impl Words for SetCookie {
    const WORDS: &'static [(&'static str, Self)] =
        &[("refuse", Self::Refuse), ("omit", Self::Omit), ("store", Self::Store)];
}
