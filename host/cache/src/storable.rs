//! Whether a shared cache may store a response, and what of its head: RFC 9111 §3.

use http::header::{self, HeaderMap, HeaderName};
use http::{Method, StatusCode};
use sluice_http::http::headers::{CREDENTIALS, strip_hop_by_hop};
use smallvec::SmallVec;

use crate::directives::{RequestDirectives, ResponseDirectives, Scope};
use crate::fields::{self, Vary};
use crate::freshness::{Source, Stored, Times};
use crate::policy::{Policy, SetCookie};
use crate::status_codes::{is_heuristically_cacheable, is_never_stored, is_understood};
use crate::validate::http_date;

/// A response head and the request that it answers, as they passed between gateway and upstream.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    pub method: &'a Method,
    pub request: &'a HeaderMap,
    pub status: StatusCode,
    pub response: &'a HeaderMap,
    pub times: Times,
}

/// A response that may be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storable {
    pub stored: Stored,
    /// The fields of the request that select it (RFC 9111 §4.1).
    pub vary: SmallVec<[HeaderName; 2]>,
    omitted: SmallVec<[HeaderName; 4]>,
}

/// Why a response is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the method is not GET")]
    Method,
    #[error("the status is not stored")]
    Status,
    #[error("the request has no-store")]
    RequestNoStore,
    #[error("the response has no-store")]
    NoStore,
    #[error("must-understand, and the status is not understood")]
    NotUnderstood,
    #[error("the response is private")]
    Private,
    #[error("the request has Authorization, and the response does not allow to share it")]
    Authorization,
    #[error("the request has credentials, and the response has no freshness of its own")]
    Credentials,
    #[error("the response sets a cookie")]
    SetCookie,
    #[error("the response varies by too much")]
    Vary,
    #[error("the response has too many tags")]
    Tags,
    #[error("the response has no freshness, and no default applies")]
    NoFreshness,
    #[error("the response is stale and can't be validated")]
    Useless,
}

/// Whether a request can be answered from the cache at all, and its response be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Bypass {
    /// RFC 9111 §4: all but GET and HEAD are written through.
    #[error("the method is neither GET nor HEAD")]
    Method,
    /// RFC 9110 §9.3.1: content in a GET has no meaning, but an upstream may give it one that the key does not have.
    #[error("the request has content")]
    Content,
    /// Another protocol follows.
    #[error("the request asks for an upgrade")]
    Upgrade,
}

/// RFC 9111 §2 and §4. `has_content`: the request has content, whatever its length.
pub fn looks_up(method: &Method, headers: &HeaderMap, has_content: bool) -> Result<(), Bypass> {
    match *method {
        Method::GET | Method::HEAD if has_content => Err(Bypass::Content),
        Method::GET | Method::HEAD if headers.contains_key(header::UPGRADE) => Err(Bypass::Upgrade),
        Method::GET | Method::HEAD => Ok(()),
        _ => Err(Bypass::Method),
    }
}

/// RFC 9111 §3: the response to a GET may be stored, and is of use. Whether its content is complete shows later:
/// [`crate::store::Draft::finish`].
pub fn storable(received: Received, policy: &Policy) -> Result<Storable, Refusal> {
    storable_as(received, &ResponseDirectives::of(received.response), policy)
}

/// The same, with other directives than those of the response: a route or a filter can say how long it is fresh.
pub fn storable_as(received: Received, directives: &ResponseDirectives, policy: &Policy) -> Result<Storable, Refusal> {
    let storable = storable_again(received, directives, policy)?;
    let source = storable.stored.source();
    let implied = matches!(source, Source::Negative | Source::Heuristic | Source::Default);
    match implied && !policy.implied_with_credentials && has_credentials(received.request) {
        true => Err(Refusal::Credentials),
        false => Ok(storable),
    }
}

/// RFC 9440, and what Envoy writes: the certificate of the client, as the upstream gets it.
pub const CLIENT_CERTIFICATE: [HeaderName; 2] =
    [HeaderName::from_static("client-cert"), HeaderName::from_static("x-forwarded-client-cert")];

/// Whether the response to a request may be for one client, whatever it says of itself.
pub fn has_credentials(request: &HeaderMap) -> bool {
    CREDENTIALS.iter().chain(&CLIENT_CERTIFICATE).any(|name| request.contains_key(name))
}

/// The same for a response that is stored already, and that the upstream has confirmed: it is the one for this client, too, so credentials
/// do not matter where they are not those of RFC 9111 §3.5.
pub(crate) fn storable_again(
    received: Received,
    directives: &ResponseDirectives,
    policy: &Policy,
) -> Result<Storable, Refusal> {
    let Received { method, request, status, response, times } = received;
    if *method != Method::GET {
        return Err(Refusal::Method);
    }
    if is_never_stored(status) {
        return Err(Refusal::Status);
    }
    if RequestDirectives::of(request).no_store {
        return Err(Refusal::RequestNoStore);
    }
    may_be_shared(directives, request, status)?;
    let omitted = omitted(directives, response, policy)?;
    let Vary::Fields(vary) = fields::vary(response) else { return Err(Refusal::Vary) };
    if fields::tags(response).is_err() {
        return Err(Refusal::Tags);
    }
    let stored = Stored::new(status, response, directives, times, policy);
    let allowed = directives.allows_storing()
        || (response.contains_key(header::EXPIRES) && !directives.targeted)
        || stored.source() == Source::Negative
        || is_heuristically_cacheable(status);
    // Default freshness is for those who ask for it: without it, a response that says nothing of caching is left alone.
    let says_something = stored.source() != Source::None || directives.public || directives.no_cache == Scope::Whole;
    if !allowed || !says_something {
        return Err(Refusal::NoFreshness);
    }
    if !stored.has_validator() && stored.useful_for() <= stored.age(times.response) {
        return Err(Refusal::Useless);
    }
    Ok(Storable { stored, vary, omitted })
}

fn may_be_shared(directives: &ResponseDirectives, request: &HeaderMap, status: StatusCode) -> Result<(), Refusal> {
    // RFC 9111 §5.2.2.3: `must-understand` takes the place of `no-store` for a status that is understood.
    if directives.must_understand && !is_understood(status) {
        return Err(Refusal::NotUnderstood);
    }
    if directives.no_store && !directives.must_understand {
        return Err(Refusal::NoStore);
    }
    if directives.private == Scope::Whole {
        return Err(Refusal::Private);
    }
    // RFC 9111 §3.5.
    if request.contains_key(header::AUTHORIZATION) && !directives.allows_authorized() {
        return Err(Refusal::Authorization);
    }
    Ok(())
}

pub(crate) const SET_COOKIE_2: HeaderName = HeaderName::from_static("set-cookie2");

/// The fields that are not stored besides those of the connection.
fn omitted(
    directives: &ResponseDirectives,
    response: &HeaderMap,
    policy: &Policy,
) -> Result<SmallVec<[HeaderName; 4]>, Refusal> {
    let qualified = directives.no_cache.fields().iter().chain(directives.private.fields());
    let mut omitted: SmallVec<[HeaderName; 4]> = qualified.cloned().collect();
    for cookie in [header::SET_COOKIE, SET_COOKIE_2] {
        if response.contains_key(&cookie) && !omitted.contains(&cookie) {
            match policy.set_cookie {
                SetCookie::Refuse => return Err(Refusal::SetCookie),
                SetCookie::Omit => omitted.push(cookie),
                SetCookie::Store => {}
            }
        }
    }
    Ok(omitted)
}

/// RFC 9111 §3.1: fields about the client's proxy.
pub(crate) const PROXY: [HeaderName; 3] =
    [header::PROXY_AUTHENTICATE, HeaderName::from_static("proxy-authentication-info"), header::PROXY_AUTHORIZATION];

impl Storable {
    /// The same, of a head with cookies that are for one client.
    pub(crate) fn without_cookies(mut self) -> Storable {
        self.omitted.extend([header::SET_COOKIE, SET_COOKIE_2]);
        self
    }

    /// RFC 9111 §3.1: the head that is stored. `Age` is left out: each hit gets its own. RFC 9110 §6.6.1: it has a date.
    pub fn head(&self, response: &HeaderMap) -> HeaderMap {
        let mut head = response.clone();
        strip_hop_by_hop(&mut head);
        for name in [header::TE, header::UPGRADE, header::AGE] {
            head.remove(name);
        }
        for name in PROXY.iter().chain(&self.omitted) {
            head.remove(name);
        }
        if !head.contains_key(header::DATE) {
            head.insert(header::DATE, http_date(self.stored.received()));
        }
        head
    }
}

/// The length of the content that a head announces. One that can't be read is that of no content, so that nothing is stored.
pub fn announced_length(head: &HeaderMap) -> Option<u64> {
    let length = head.get(header::CONTENT_LENGTH)?;
    Some(length.to_str().ok().and_then(|length| length.parse().ok()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
