//! What a request or a response says about caching, read from its fields: RFC 9111 §5, RFC 5861, RFC 8246, RFC 9213.
//!
//! Values that restrict are recognised however they are written. Values that permit must be well-formed. Where a directive stands
//! twice or directives conflict, the most restrictive one counts (RFC 9111 §4.2.1).

mod list;
mod targeted;

use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName};
use sluice_http::http::headers::tokens;
use smallvec::SmallVec;

use list::{Argument, Directives};

/// RFC 9111 §1.2.2: the greatest number of seconds that counts. Larger ones mean this one.
const LARGEST: u64 = 1 << 31;

/// More field names than this in one argument, and the directive is taken as one without an argument.
const MOST_FIELDS: usize = 32;

/// How much of a response `no-cache` or `private` is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Scope {
    #[default]
    Absent,
    /// The qualified form: these fields only.
    Fields(SmallVec<[HeaderName; 2]>),
    Whole,
}

impl Scope {
    fn widen(&mut self, other: Scope) {
        match (&mut *self, other) {
            (_, Scope::Absent) | (Scope::Whole, Scope::Fields(_) | Scope::Whole) => {}
            (Scope::Fields(mine), Scope::Fields(more)) if mine.len() + more.len() <= MOST_FIELDS => mine.extend(more),
            (Scope::Absent, other) => *self = other,
            (Scope::Fields(_), Scope::Fields(_) | Scope::Whole) => *self = Scope::Whole,
        }
    }

    /// The fields of the qualified form.
    pub fn fields(&self) -> &[HeaderName] {
        match self {
            Scope::Fields(names) => names,
            Scope::Absent | Scope::Whole => &[],
        }
    }
}

/// `max-stale` of a request (RFC 9111 §5.2.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxStale {
    Any,
    For(Duration),
}

/// The directives of a request (RFC 9111 §5.2.1). They are advice: what is malformed says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestDirectives {
    pub no_cache: bool,
    pub no_store: bool,
    pub no_transform: bool,
    pub only_if_cached: bool,
    pub max_age: Option<Duration>,
    pub max_stale: Option<MaxStale>,
    pub min_fresh: Option<Duration>,
    /// RFC 5861 §4: also a directive of requests.
    pub stale_if_error: Option<Duration>,
}

impl RequestDirectives {
    pub fn of(headers: &HeaderMap) -> RequestDirectives {
        let mut found = RequestDirectives::default();
        let mut controlled = false;
        for value in headers.get_all(header::CACHE_CONTROL) {
            controlled = true;
            for (name, argument) in Directives::of(value.as_bytes()) {
                found.read(name, &argument);
            }
        }
        // RFC 9111 §5.4: the field of HTTP/1.0 says the same as `no-cache`, where there is no `Cache-Control`.
        if !controlled && let Some(pragma) = headers.get(header::PRAGMA) {
            found.no_cache = tokens(pragma.as_bytes()).any(|token| token.eq_ignore_ascii_case(b"no-cache"));
        }
        found
    }

    fn read(&mut self, name: &[u8], argument: &Argument) {
        let seconds = argument.seconds();
        match &*lower(name) {
            b"no-cache" => self.no_cache = true,
            b"no-store" => self.no_store = true,
            b"no-transform" => self.no_transform = true,
            b"only-if-cached" => self.only_if_cached = true,
            b"max-age" => self.max_age = least(self.max_age, seconds),
            b"min-fresh" => self.min_fresh = self.min_fresh.max(seconds),
            b"stale-if-error" => self.stale_if_error = least(self.stale_if_error, seconds),
            b"max-stale" => {
                let stale = match argument {
                    Argument::None => Some(MaxStale::Any),
                    _ => seconds.map(MaxStale::For),
                };
                self.max_stale = match (self.max_stale, stale) {
                    (Some(MaxStale::For(one)), Some(MaxStale::For(other))) => Some(MaxStale::For(one.min(other))),
                    (Some(MaxStale::Any) | None, Some(stale)) => Some(stale),
                    (before, None | Some(MaxStale::Any)) => before,
                };
            }
            _ => {}
        }
    }
}

/// The directives of a response (RFC 9111 §5.2.2) that count for this cache.
///
/// A number of seconds that is there and can't be read is zero: RFC 9111 §4.2.1 encourages caches to consider such a response stale.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResponseDirectives {
    /// They come from `CDN-Cache-Control`: `Cache-Control` and `Expires` do not count then (RFC 9213 §2.2).
    pub targeted: bool,
    pub max_age: Option<Duration>,
    pub s_maxage: Option<Duration>,
    pub no_cache: Scope,
    pub no_store: bool,
    pub private: Scope,
    pub public: bool,
    pub must_revalidate: bool,
    pub proxy_revalidate: bool,
    pub must_understand: bool,
    pub no_transform: bool,
    /// RFC 8246.
    pub immutable: bool,
    /// RFC 5861 §3.
    pub stale_while_revalidate: Option<Duration>,
    /// RFC 5861 §4.
    pub stale_if_error: Option<Duration>,
}

/// RFC 9213 §3.1.
const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");

impl ResponseDirectives {
    /// RFC 9213 §2.2: a targeted field that is valid and not empty takes the place of `Cache-Control`.
    pub fn of(headers: &HeaderMap) -> ResponseDirectives {
        if headers.contains_key(CDN_CACHE_CONTROL)
            && let Some(directives) = targeted::parse(headers, &CDN_CACHE_CONTROL)
        {
            return directives;
        }
        let mut found = ResponseDirectives::default();
        for value in headers.get_all(header::CACHE_CONTROL) {
            for (name, argument) in Directives::of(value.as_bytes()) {
                found.read(name, &argument);
            }
        }
        found
    }

    fn read(&mut self, name: &[u8], argument: &Argument) {
        let restrict = |before| least(before, Some(argument.seconds().unwrap_or(Duration::ZERO)));
        // A directive that permits something has no argument, or it is not that directive.
        let plain = matches!(argument, Argument::None);
        match &*lower(name) {
            b"max-age" => self.max_age = restrict(self.max_age),
            b"s-maxage" => self.s_maxage = restrict(self.s_maxage),
            b"stale-while-revalidate" => self.stale_while_revalidate = restrict(self.stale_while_revalidate),
            b"stale-if-error" => self.stale_if_error = restrict(self.stale_if_error),
            b"no-cache" => self.no_cache.widen(argument.scope()),
            b"private" => self.private.widen(argument.scope()),
            b"no-store" => self.no_store = true,
            b"must-revalidate" => self.must_revalidate = true,
            b"proxy-revalidate" => self.proxy_revalidate = true,
            b"no-transform" => self.no_transform = true,
            b"must-understand" => self.must_understand |= plain,
            b"public" => self.public |= plain,
            b"immutable" => self.immutable |= plain,
            _ => {}
        }
    }

    /// Whether the response says by itself that it may be stored: RFC 9111 §3, but for `Expires` and the status.
    pub fn allows_storing(&self) -> bool {
        self.public || self.max_age.is_some() || self.s_maxage.is_some()
    }

    /// RFC 9111 §3.5: the directives that let a shared cache store the response to a request with `Authorization`.
    pub fn allows_authorized(&self) -> bool {
        self.public || self.must_revalidate || self.s_maxage.is_some()
    }
}

/// The longest name of a directive that this cache knows is `stale-while-revalidate`.
fn lower(name: &[u8]) -> SmallVec<[u8; 24]> {
    name.iter().take(24).map(u8::to_ascii_lowercase).collect()
}

fn least(before: Option<Duration>, now: Option<Duration>) -> Option<Duration> {
    match (before, now) {
        (Some(before), Some(now)) => Some(before.min(now)),
        (before, now) => before.or(now),
    }
}

/// RFC 9111 §1.2.2: digits, of any number. Nothing else is a number of seconds.
pub(crate) fn delta_seconds(digits: &[u8]) -> Option<Duration> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |sum: u64, digit: &u8| (sum * 10 + u64::from(digit - b'0')).min(LARGEST);
    Some(Duration::from_secs(digits.iter().fold(0, digit)))
}

/// The fields of a qualified `no-cache` or `private`. A list that can't be read is about the whole response.
fn scope_of(names: &[u8]) -> Scope {
    let mut fields = SmallVec::new();
    for name in tokens(names) {
        match HeaderName::from_bytes(name) {
            Ok(name) if fields.len() < MOST_FIELDS => fields.push(name),
            _ => return Scope::Whole,
        }
    }
    if fields.is_empty() { Scope::Whole } else { Scope::Fields(fields) }
}

#[cfg(test)]
mod tests;
