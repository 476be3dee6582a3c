//! How long a stored response may be used: RFC 9111 §4.2, what a request asks for (§5.2.1), and stale responses (§4.2.4, RFC 5861).

use std::time::{Duration, SystemTime};

use http::StatusCode;
use http::header::HeaderMap;

use crate::directives::{MaxStale, RequestDirectives, ResponseDirectives, Scope};
use crate::fields::{self, Expires};
use crate::policy::Policy;
use crate::status_codes::{is_error, is_heuristically_cacheable};

/// When a request was sent and its response head came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    pub request: SystemTime,
    pub response: SystemTime,
}

/// Where a freshness lifetime comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The response says it (RFC 9111 §4.2.1).
    Explicit,
    /// The negative caching of the policy.
    Negative,
    /// RFC 9111 §4.2.2.
    Heuristic,
    /// The default of the policy.
    Default,
    /// There is none.
    None,
}

impl Source {
    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Explicit => "response",
            Source::Negative => "negative_ttl",
            Source::Heuristic => "heuristic",
            Source::Default => "ttl",
            Source::None => "none",
        }
    }
}

/// The freshness lifetime of a response (RFC 9111 §4.2.1, §4.2.2).
pub fn lifetime(
    status: StatusCode,
    headers: &HeaderMap,
    directives: &ResponseDirectives,
    received: SystemTime,
    policy: &Policy,
) -> (Duration, Source) {
    // This cache is shared, so `s-maxage` comes first.
    if let Some(age) = directives.s_maxage.or(directives.max_age) {
        return (age, Source::Explicit);
    }
    let date = fields::date(headers);
    // RFC 9213 §2.2: `Expires` does not count beside a targeted field.
    let expires = if directives.targeted { Expires::Absent } else { fields::expires(headers) };
    match expires {
        // RFC 9110 §6.6.1: without a date that can be read, the time of receipt stands for it.
        Expires::At(time) => return (since(time, date.unwrap_or(received)), Source::Explicit),
        Expires::Past => return (Duration::ZERO, Source::Explicit),
        Expires::Absent => {}
    }
    if let Some((_, lifetime)) = policy.negative.iter().find(|(negative, _)| *negative == status) {
        return (*lifetime, Source::Negative);
    }
    if !is_heuristically_cacheable(status) && !directives.public {
        return (Duration::ZERO, Source::None);
    }
    if let (Some(heuristic), Some(modified)) = (policy.heuristic, fields::last_modified(headers)) {
        let unchanged = since(date.unwrap_or(received), modified);
        let part = unchanged.saturating_mul(u32::from(heuristic.percent.min(100))) / 100;
        return (part.min(heuristic.limit), Source::Heuristic);
    }
    match policy.default_lifetime {
        Some(lifetime) => (lifetime, Source::Default),
        None => (Duration::ZERO, Source::None),
    }
}

/// The age of a response when it came: RFC 9111 §4.2.3, `corrected_initial_age`.
pub fn initial_age(headers: &HeaderMap, times: Times, policy: &Policy) -> Duration {
    let delay = since(times.response, times.request);
    let corrected = fields::age(headers).unwrap_or_default() + delay;
    match fields::date(headers) {
        // A date has whole seconds: a part of one is no age.
        Some(date) if policy.age_from_date => corrected.max(Duration::from_secs(since(times.response, date).as_secs())),
        Some(_) | None => corrected,
    }
}

fn since(later: SystemTime, earlier: SystemTime) -> Duration {
    later.duration_since(earlier).unwrap_or_default()
}

/// Whether a response may be used when it is stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Staleness {
    /// As the client, the response and the policy say.
    Allowed,
    /// `s-maxage` implies `proxy-revalidate` (RFC 9111 §5.2.2.10). RFC 5861's directives in the same response say the opposite in so many
    /// words, and count (RFC 9111 §4: extensions can override). Nobody else may.
    ByResponse,
    /// `must-revalidate`, `proxy-revalidate` or `no-cache`.
    Never,
}

/// What is known of a stored response when it is used: its head, read once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    received: SystemTime,
    initial_age: Duration,
    lifetime: Duration,
    source: Source,
    staleness: Staleness,
    no_cache: bool,
    immutable: bool,
    has_validator: bool,
    stale_while_revalidate: Duration,
    stale_if_error: Duration,
}

impl Stored {
    pub fn new(
        status: StatusCode,
        headers: &HeaderMap,
        directives: &ResponseDirectives,
        times: Times,
        policy: &Policy,
    ) -> Stored {
        let (lifetime, source) = lifetime(status, headers, directives, times.response, policy);
        let no_cache = directives.no_cache == Scope::Whole;
        let staleness = match directives {
            _ if no_cache || directives.must_revalidate || directives.proxy_revalidate => Staleness::Never,
            _ if directives.s_maxage.is_some() => Staleness::ByResponse,
            _ => Staleness::Allowed,
        };
        let window = |said: Option<Duration>, default| match staleness {
            Staleness::Never => Duration::ZERO,
            Staleness::ByResponse => said.unwrap_or_default(),
            Staleness::Allowed => said.unwrap_or(default),
        };
        Stored {
            received: times.response,
            initial_age: initial_age(headers, times, policy),
            lifetime,
            source,
            staleness,
            no_cache,
            immutable: directives.immutable,
            has_validator: crate::validate::has_validator(headers),
            stale_while_revalidate: window(directives.stale_while_revalidate, policy.stale_while_revalidate),
            stale_if_error: window(directives.stale_if_error, policy.stale_if_error),
        }
    }

    /// RFC 9111 §4.2.3: `current_age`. A clock that was set back makes nothing younger than when it came.
    pub fn age(&self, now: SystemTime) -> Duration {
        self.initial_age.saturating_add(since(now, self.received))
    }

    pub fn lifetime(&self) -> Duration {
        self.lifetime
    }

    pub fn source(&self) -> Source {
        self.source
    }

    /// How long it may be sent while another is fetched, and in place of an error, after it is stale.
    pub fn stale_windows(&self) -> (Duration, Duration) {
        (self.stale_while_revalidate, self.stale_if_error)
    }

    pub fn received(&self) -> SystemTime {
        self.received
    }

    pub fn has_validator(&self) -> bool {
        self.has_validator
    }

    /// The time after which it is of no use but to be validated: no hit comes from it, not even a stale one by itself.
    pub fn useful_for(&self) -> Duration {
        self.lifetime.saturating_add(self.stale_while_revalidate.max(self.stale_if_error))
    }

    fn staleness(&self, age: Duration) -> Duration {
        age.saturating_sub(self.lifetime)
    }
}

/// What to do with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Send the stored response.
    Fresh,
    /// Send the stored response, which is stale: the client allows it (`max-stale`).
    Stale,
    /// Send the stored response, which is stale, and validate it meanwhile (RFC 5861 §3).
    StaleWhileRevalidate,
    /// Ask the upstream whether the stored response is still good (RFC 9111 §4.3).
    Revalidate,
    /// Ask the upstream for a response.
    Fetch,
    /// Answer 504: the client wants a stored response only (RFC 9111 §5.2.1.7), and there is none for it.
    GatewayTimeout,
}

impl Decision {
    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Decision::Fresh => "serve",
            Decision::Stale => "serve-stale",
            Decision::StaleWhileRevalidate => "serve-stale-and-revalidate",
            Decision::Revalidate => "revalidate",
            Decision::Fetch => "fetch",
            Decision::GatewayTimeout => "gateway-timeout",
        }
    }
}

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It is fresh.
    Fresh,
    /// Nothing is stored.
    Missing,
    /// It is stale.
    Stale,
    /// It was purged softly.
    Purged,
    /// The response has `no-cache`.
    NoCache,
    /// The request asks for another one: `no-cache`, `max-age` or `min-fresh`.
    Request,
}

impl Reason {
    /// For logs and `Cache-Status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Fresh => "fresh",
            Reason::Missing => "missing",
            Reason::Stale => "stale",
            Reason::Purged => "purged",
            Reason::NoCache => "no-cache",
            Reason::Request => "request",
        }
    }
}

/// A decision with its reason, for `Age`, `Cache-Status` and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reuse {
    pub decision: Decision,
    pub reason: Reason,
    /// The age of the stored response; zero where there is none.
    pub age: Duration,
    /// Seconds until it is stale; below zero since when it is.
    pub ttl: i64,
}

/// A stored response that the request selects, and since when it is marked as stale, if it is: by a soft purge, or by a HEAD.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    pub stored: &'a Stored,
    pub marked_stale: Option<SystemTime>,
}

impl Candidate<'_> {
    /// How long it has been stale: since the end of its lifetime or since it was marked, whichever came first.
    fn staleness(&self, age: Duration, now: SystemTime) -> Duration {
        let marked = self.marked_stale.map(|marked| since(now, marked));
        self.stored.staleness(age).max(marked.unwrap_or_default())
    }

    fn expires_in(&self, age: Duration, now: SystemTime) -> i64 {
        let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        match self.stored.lifetime.checked_sub(age) {
            Some(left) if self.marked_stale.is_none() => seconds(left),
            Some(_) | None => -seconds(self.staleness(age, now)),
        }
    }
}

/// RFC 9111 §4: whether a stored response may be used for a request.
pub fn reuse(request: &RequestDirectives, candidate: Option<Candidate>, now: SystemTime, policy: &Policy) -> Reuse {
    let Some(candidate) = candidate else {
        let decision = if request.only_if_cached { Decision::GatewayTimeout } else { Decision::Fetch };
        return Reuse { decision, reason: Reason::Missing, age: Duration::ZERO, ttl: 0 };
    };
    let age = candidate.stored.age(now);
    let (decision, reason) = decide(request, candidate, age, now, policy);
    Reuse { decision, reason, age, ttl: candidate.expires_in(age, now) }
}

fn decide(
    request: &RequestDirectives,
    candidate: Candidate,
    age: Duration,
    now: SystemTime,
    policy: &Policy,
) -> (Decision, Reason) {
    let (stored, marked_stale) = (candidate.stored, candidate.marked_stale.is_some());
    let upstream = |reason| match reason {
        _ if request.only_if_cached => (Decision::GatewayTimeout, reason),
        _ if stored.has_validator => (Decision::Revalidate, reason),
        _ => (Decision::Fetch, reason),
    };
    let asks = policy.request_directives;
    if stored.no_cache {
        return upstream(Reason::NoCache);
    }
    if asks && request.no_cache {
        return upstream(Reason::Request);
    }
    let fresh = !marked_stale && stored.lifetime > age;
    let too_old = asks && request.max_age.is_some_and(|most| age > most);
    if fresh {
        let left = stored.lifetime - age;
        // RFC 8246 §2: a reload (`max-age=0`) of what does not change while it is fresh is answered from here.
        let refused = (too_old && !stored.immutable) || (asks && request.min_fresh.is_some_and(|least| left < least));
        return if refused { upstream(Reason::Request) } else { (Decision::Fresh, Reason::Fresh) };
    }
    let reason = if marked_stale { Reason::Purged } else { Reason::Stale };
    if too_old || (asks && request.min_fresh.is_some()) {
        return upstream(reason);
    }
    let staleness = candidate.staleness(age, now);
    let accepted = asks
        && !marked_stale
        && stored.staleness == Staleness::Allowed
        && request.max_stale.is_some_and(|most| match most {
            MaxStale::Any => true,
            MaxStale::For(most) => staleness <= most,
        });
    if accepted {
        return (Decision::Stale, reason);
    }
    if !stored.stale_while_revalidate.is_zero() && staleness <= stored.stale_while_revalidate {
        return (Decision::StaleWhileRevalidate, reason);
    }
    upstream(reason)
}

/// Why there is no good response from the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No response came, or the gateway did not ask: no connection, a timeout, an open circuit, a full limit, a spent retry budget.
    NoResponse,
    Status(StatusCode),
}

/// What to do when a request for which a response is stored has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// Send the stored response, whatever its age.
    ServeStale { age: Duration, ttl: i64 },
    /// Send the error. RFC 9111 §5.2.2.2: also where the gateway is disconnected and `must-revalidate` forbids a stale response.
    PassOn,
}

/// RFC 5861 §4 and RFC 9111 §4.2.4, §4.3.3.
pub fn on_error(
    request: &RequestDirectives,
    candidate: Candidate,
    failure: Failure,
    now: SystemTime,
    policy: &Policy,
) -> OnError {
    let stored = candidate.stored;
    let failed = match failure {
        Failure::NoResponse => true,
        Failure::Status(status) => is_error(status),
    };
    let age = stored.age(now);
    let asked = match request.stale_if_error {
        Some(asked) if policy.request_directives && stored.staleness == Staleness::Allowed => asked,
        Some(_) | None => Duration::ZERO,
    };
    let window = stored.stale_if_error.max(asked);
    if failed && !stored.no_cache && !window.is_zero() && candidate.staleness(age, now) <= window {
        OnError::ServeStale { age, ttl: candidate.expires_in(age, now) }
    } else {
        OnError::PassOn
    }
}

#[cfg(test)]
mod tests;
