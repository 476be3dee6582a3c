//! What the operator decides where the RFCs leave it open.

use std::time::Duration;

use http::StatusCode;

/// The choices of one route. The default adds nothing to what responses say of themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// RFC 9111 §4.2.2: freshness from `Last-Modified`, where a response has no explicit one.
    pub heuristic: Option<Heuristic>,
    /// The freshness of responses with a heuristically cacheable status that have neither explicit nor heuristic freshness.
    pub default_lifetime: Option<Duration>,
    /// Negative caching: the freshness of responses with these statuses that have no explicit one.
    pub negative: Vec<(StatusCode, Duration)>,
    /// RFC 5861 §3, for responses that do not say.
    pub stale_while_revalidate: Duration,
    /// RFC 5861 §4, for responses that do not say.
    pub stale_if_error: Duration,
    /// Whether heuristic, default and negative freshness also count for the response to a request with a cookie, an API key or other
    /// credentials. Such a response may be one user's, and nothing in it says that it may be shared (cache deception).
    pub implied_with_credentials: bool,
    pub set_cookie: SetCookie,
    /// Whether `no-cache`, `max-age`, `min-fresh`, `max-stale`, `stale-if-error` of requests and `Pragma` count (RFC 9111 §5.2.1: a
    /// cache may implement them). They let any client have the upstream work. `no-store` and `only-if-cached` always count.
    pub request_directives: bool,
    /// RFC 9111 §4.2.3: also take the age from `Date`, for upstreams behind old caches that send no `Age`. It needs clocks that agree.
    pub age_from_date: bool,
    pub normalise: Normalise,
}

/// A part of the time since `Last-Modified`, up to a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heuristic {
    /// RFC 9111 §4.2.2: a typical setting is 10.
    pub percent: u8,
    pub limit: Duration,
}

/// What becomes of a response with `Set-Cookie`. RFC 9111 §7.3: the field by itself does not forbid to store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SetCookie {
    /// It is not stored.
    #[default]
    Refuse,
    /// It is stored without the field.
    Omit,
    /// It is stored with the field, and each hit sets the cookie.
    Store,
}

/// Which fields of requests are brought to a common form before they are compared (RFC 9111 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Normalise {
    /// `Accept-Encoding` becomes the set of codings that the client takes.
    pub accept_encoding: bool,
    /// `Accept-Language` is compared by preference, without case and order, and a stored response in the language that the client wants
    /// most is one for it.
    pub accept_language: bool,
}

impl Default for Normalise {
    fn default() -> Self {
        Normalise { accept_encoding: true, accept_language: false }
    }
}
