//! The field `Cache-Status`: RFC 9211.

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use sfv::{ItemSerializer, KeyRef, RefBareItem, StringRef, TokenRef};

use crate::freshness::Reason;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Why a request went to the upstream (RFC 9211 §2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forward {
    /// The cache does not handle it.
    Bypass,
    /// Its method does.
    Method,
    /// Nothing is stored for its key.
    UriMiss,
    /// Nothing that is stored for its key has matching selecting fields.
    VaryMiss,
    /// There is something, but the request asks for another one.
    Request,
    /// It is stale, or has to be validated.
    Stale,
}

impl Forward {
    /// The reason of a decision that leads to the upstream. `varies`: responses are stored for the key, but not for these selecting fields.
    pub fn of(reason: Reason, varies: bool) -> Forward {
        match reason {
            Reason::Missing if varies => Forward::VaryMiss,
            Reason::Missing => Forward::UriMiss,
            Reason::Request => Forward::Request,
            Reason::Fresh | Reason::Stale | Reason::Purged | Reason::NoCache => Forward::Stale,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Forward::Bypass => "bypass",
            Forward::Method => "method",
            Forward::UriMiss => "uri-miss",
            Forward::VaryMiss => "vary-miss",
            Forward::Request => "request",
            Forward::Stale => "stale",
        }
    }
}

/// How a request was handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handling {
    /// From the store alone (RFC 9211 §2.1).
    Hit,
    Forwarded {
        why: Forward,
        /// What the upstream answered, where the client gets another status: a 304 that validated, an error that a stale response hides.
        status: Option<StatusCode>,
        /// The response was stored (§2.5).
        stored: bool,
        /// It shared the request of another one (§2.6).
        collapsed: bool,
    },
}

/// One member of the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheStatus<'a> {
    pub handling: Handling,
    /// §2.4: seconds until the response is stale; below zero since when it is.
    pub ttl: Option<i64>,
    /// §2.7.
    pub key: Option<&'a str>,
    /// §2.8: words of ours, for people.
    pub detail: Option<&'a str>,
}

impl CacheStatus<'_> {
    /// RFC 9211 §2: a cache adds itself at the end, after those that are nearer to the origin. `name` says which cache this is.
    pub fn append(&self, name: &str, headers: &mut HeaderMap) {
        if let Some(value) = self.member(name).and_then(|member| HeaderValue::try_from(member).ok()) {
            headers.append(CACHE_STATUS, value);
        }
    }

    /// `None` for a name that a structured field can't have.
    fn member(&self, name: &str) -> Option<String> {
        let name: RefBareItem<'_> = match TokenRef::from_str(name) {
            Ok(token) => token.into(),
            Err(_) => StringRef::from_str(name).ok()?.into(),
        };
        let mut item = ItemSerializer::new().bare_item(name);
        let key = |name: &'static str| KeyRef::from_str(name).expect("a constant that is a key");
        match self.handling {
            Handling::Hit => item = item.parameter(key("hit"), true),
            Handling::Forwarded { why, status, stored, collapsed } => {
                let why = TokenRef::from_str(why.as_str()).expect("a constant that is a token");
                item = item.parameter(key("fwd"), why);
                if let Some(status) = status {
                    item = item.parameter(key("fwd-status"), sfv::Integer::from(status.as_u16()));
                }
                if stored {
                    item = item.parameter(key("stored"), true);
                }
                if collapsed {
                    item = item.parameter(key("collapsed"), true);
                }
            }
        }
        // An integer of a structured field has 15 digits; no lifetime comes near.
        if let Some(ttl) = self.ttl.and_then(|ttl| sfv::Integer::try_from(ttl).ok()) {
            item = item.parameter(key("ttl"), ttl);
        }
        for (name, text) in [("key", self.key), ("detail", self.detail)] {
            // A string has ASCII only; what has more is left out.
            if let Some(text) = text.and_then(|text| StringRef::from_str(text).ok()) {
                item = item.parameter(key(name), text);
            }
        }
        Some(item.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarded(why: Forward) -> CacheStatus<'static> {
        let handling = Handling::Forwarded { why, status: None, stored: false, collapsed: false };
        CacheStatus { handling, ttl: None, key: None, detail: None }
    }

    #[test]
    fn members_of_the_field() {
        // RFC 9211 §2 and its examples.
        let hit = CacheStatus { handling: Handling::Hit, ttl: Some(376), key: None, detail: None };
        let validated = Handling::Forwarded {
            why: Forward::Stale,
            status: Some(StatusCode::NOT_MODIFIED),
            stored: true,
            collapsed: true,
        };
        let table = [
            ("sluice", hit, "sluice;hit;ttl=376"),
            ("sluice", CacheStatus { ttl: Some(-412), ..hit }, "sluice;hit;ttl=-412"),
            ("edge 1", hit, "\"edge 1\";hit;ttl=376"),
            ("sluice", forwarded(Forward::UriMiss), "sluice;fwd=uri-miss"),
            ("sluice", CacheStatus { handling: validated, ..hit }, {
                "sluice;fwd=stale;fwd-status=304;stored;collapsed;ttl=376"
            }),
            ("sluice", CacheStatus { key: Some("a\"b"), detail: Some("no-store"), ..forwarded(Forward::Bypass) }, {
                "sluice;fwd=bypass;key=\"a\\\"b\";detail=\"no-store\""
            }),
            ("sluice", CacheStatus { detail: Some("\u{fc}"), ..hit }, "sluice;hit;ttl=376"),
            ("sluice", CacheStatus { ttl: Some(i64::MAX), ..hit }, "sluice;hit"),
        ];
        for (name, status, expected) in table {
            assert_eq!(status.member(name).as_deref(), Some(expected));
        }
    }

    #[test]
    fn it_is_added_after_those_of_other_caches() {
        let mut headers = HeaderMap::from_iter([(CACHE_STATUS, HeaderValue::from_static("origin;hit"))]);
        forwarded(Forward::Method).append("sluice", &mut headers);
        forwarded(Forward::Method).append("\u{fc}", &mut headers);
        let lines: Vec<_> = headers.get_all(CACHE_STATUS).iter().collect();
        assert_eq!(lines, ["origin;hit", "sluice;fwd=method"]);
    }

    #[test]
    fn reasons_have_their_words() {
        let table = [
            (Reason::Missing, false, "uri-miss"),
            (Reason::Missing, true, "vary-miss"),
            (Reason::Stale, false, "stale"),
            (Reason::Purged, true, "stale"),
            (Reason::NoCache, false, "stale"),
            (Reason::Request, false, "request"),
        ];
        for (reason, varies, expected) in table {
            assert_eq!(Forward::of(reason, varies).as_str(), expected, "{reason:?}");
        }
    }
}
