//! How an upstream's requests are spread over its endpoints.

use std::time::Duration;

use http::HeaderName;

use super::Secret;
use crate::config::defaults;

/// How a request finds its endpoint when nobody has chosen one for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balancing {
    pub algorithm: Balance,
    /// A priority of which less than this percentage of the weight is available uses all its endpoints; 0: never.
    pub panic_threshold: u32,
    pub slow_start: Option<SlowStart>,
    pub zone: Option<ZonePreference>,
    pub subset_fallback: SubsetFallback,
    pub sticky: Option<StickySession>,
}

/// The algorithm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Balance {
    /// In proportion to the weights.
    RoundRobin,
    /// Of two drawn by weight, the one with fewer requests under way for its weight.
    LeastRequest,
    /// Of two drawn by weight, the one with the lower product of latency and requests under way for its weight.
    PeakEwma,
    /// By chance, in proportion to the weights.
    Random,
    /// The same value leads to the same endpoint.
    Hash(ConsistentHash),
}

/// Which values lead to the same endpoint, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsistentHash {
    /// At least one; the first that a request has counts.
    pub on: Vec<HashKey>,
    pub algorithm: HashAlgorithm,
    /// The most requests under way of an endpoint, in percent of its fair share.
    pub bounded_load: Option<u32>,
}

/// A value of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    ClientAddress,
    Consumer,
    Header(HeaderName),
    Cookie(String),
    Query(String),
    PathParameter(String),
}

/// How a hash finds its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashAlgorithm {
    Maglev,
    RingHash,
}

/// How an endpoint that is new, or back, gets its full share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlowStart {
    pub window: Duration,
    /// Its share at the beginning.
    pub min_weight_percent: u32,
}

/// Endpoints of the gateway's own zone come first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZonePreference {
    /// The gateway's own.
    pub local: String,
    /// The label that has an endpoint's.
    pub label: String,
    /// With so many requests under way for each address of it, it is full: others take the rest. None: never.
    pub spill_above: Option<u32>,
}

/// What a request to a subset without endpoints gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubsetFallback {
    NoFallback,
    AnyEndpoint,
}

/// A session that stays at its endpoint by a cookie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StickySession {
    pub cookie: String,
    /// What the cookie is signed with; none: a key of the process.
    pub key: Option<Secret>,
    pub path: String,
    pub max_age: Option<Duration>,
    pub http_only: bool,
    pub same_site: SameSite,
    /// None: where the client has come by https.
    pub secure: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameSite {
    Lax,
    Strict,
    None,
}

impl Default for Balancing {
    fn default() -> Self {
        Self {
            algorithm: defaults::BALANCE,
            panic_threshold: defaults::PANIC_THRESHOLD,
            slow_start: None,
            zone: None,
            subset_fallback: defaults::SUBSET_FALLBACK,
            sticky: None,
        }
    }
}

impl HashKey {
    /// Reads `ip`, `consumer`, `header:NAME`, `cookie:NAME`, `query:NAME` or `param:NAME`.
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            None => match text {
                "ip" => Some(Self::ClientAddress),
                "consumer" => Some(Self::Consumer),
                _ => None,
            },
            Some((_, "")) => None,
            Some(("header", name)) => name.parse().ok().map(Self::Header),
            Some(("cookie", name)) => is_token(name).then(|| Self::Cookie(name.to_owned())),
            Some(("query", name)) => Some(Self::Query(name.to_owned())),
            Some(("param", name)) => Some(Self::PathParameter(name.to_owned())),
            Some(_) => None,
        }
    }
}

/// Whether a text can be the name of a cookie (RFC 6265 §4.1.1).
pub fn is_token(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_requests() {
        assert_eq!(HashKey::parse("header:X-User"), Some(HashKey::Header(HeaderName::from_static("x-user"))));
        assert_eq!(HashKey::parse("cookie:release"), Some(HashKey::Cookie("release".into())));
        assert_eq!(HashKey::parse("param:id"), Some(HashKey::PathParameter("id".into())));
        for wrong in ["", "user", "header:", "header:a b", "cookie:", "cookie:a;b", "consumer:x", "query:"] {
            assert_eq!(HashKey::parse(wrong), None, "{wrong}");
        }
    }
}
