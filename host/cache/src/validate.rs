//! Validation of stored responses: RFC 9111 §4.3, and how a newer head updates a stored one (§3.2).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use sluice_http::http::headers::strip_hop_by_hop;
use smallvec::SmallVec;

use crate::directives::ResponseDirectives;
use crate::etag::EntityTag;
use crate::fields;
use crate::notes::Notes;
use crate::policy::{Policy, SetCookie};
use crate::storable::{PROXY, Received, Refusal, SET_COOKIE_2, Storable, storable_again};

/// Whether an upstream can say that a response with this head is still good.
pub fn has_validator(stored: &HeaderMap) -> bool {
    etag(stored).is_some() || fields::last_modified(stored).is_some()
}

fn etag(headers: &HeaderMap) -> Option<EntityTag<'_>> {
    EntityTag::parse(headers.get(header::ETAG)?.as_bytes())
}

/// RFC 9111 §4.3.1: makes a request one that validates the stored response. The client's own conditions and range are taken out: they are
/// evaluated against what comes of it. `If-Match` and `If-Unmodified-Since` are for the origin and stay. Returns whether there is a validator.
///
/// RFC 9110 §13.1.3: both validators are sent where there are both.
pub fn make_conditional(request: &mut HeaderMap, stored: &HeaderMap) -> bool {
    for name in [header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE, header::IF_RANGE, header::RANGE] {
        request.remove(name);
    }
    if !has_validator(stored) {
        return false;
    }
    if etag(stored).is_some() {
        copy(header::ETAG, stored, header::IF_NONE_MATCH, request);
    }
    if fields::last_modified(stored).is_some() {
        copy(header::LAST_MODIFIED, stored, header::IF_MODIFIED_SINCE, request);
    }
    true
}

fn copy(from: HeaderName, stored: &HeaderMap, to: HeaderName, request: &mut HeaderMap) {
    if let Some(value) = stored.get(from) {
        request.insert(to, value.clone());
    }
}

/// RFC 9111 §4.3.4: which of the stored responses (their heads, the most recent first) a 304 is about. None: it updates nothing, and the
/// request has to be sent again without conditions, unless they were the client's.
pub fn identify(not_modified: &HeaderMap, stored: &[&HeaderMap]) -> SmallVec<[usize; 1]> {
    let all = || stored.iter().enumerate();
    let new_tag = etag(not_modified);
    let new_time = fields::last_modified(not_modified);
    let strong_tag = new_tag.filter(EntityTag::is_strong);
    let strongly = |head: &HeaderMap| match (strong_tag, etag(head)) {
        (Some(new), Some(old)) => new.matches_strongly(&old),
        (Some(_), None) => false,
        (None, _) => new_time.is_some_and(|new| is_strong_time(head, new) && fields::last_modified(head) == Some(new)),
    };
    let strong: SmallVec<[usize; 1]> = all().filter(|(_, head)| strongly(head)).map(|(at, _)| at).collect();
    if strong_tag.is_some() || !strong.is_empty() {
        return strong;
    }
    if new_tag.is_none() && new_time.is_none() {
        // The RFC asks that the stored response has no validator either. A 304 without one to a request that named one response can be
        // about that one only, and servers leave `Last-Modified` out.
        return if stored.len() == 1 { SmallVec::from_slice(&[0]) } else { SmallVec::new() };
    }
    let weakly = |head: &HeaderMap| match (new_tag, etag(head)) {
        (Some(new), Some(old)) => new.matches_weakly(&old),
        (Some(_), None) => false,
        (None, _) => fields::last_modified(head) == new_time,
    };
    all().filter(|(_, head)| weakly(head)).map(|(at, _)| at).take(1).collect()
}

/// RFC 9110 §8.8.2.2: a time is a strong validator to a cache if the stored `Date` is at least a second after it.
fn is_strong_time(stored: &HeaderMap, modified: SystemTime) -> bool {
    fields::date(stored).is_some_and(|date| date >= modified + Duration::from_secs(1))
}

/// A stored response that an upstream has confirmed.
#[derive(Debug)]
pub struct Freshened {
    /// The head for the client whose request validated it. The 304 may set a cookie for that one alone, and its `Age` is that of the response.
    pub head: HeaderMap,
    /// How the response is stored from now on ([`Storable::head`] of `head`), or why it no longer may be.
    pub storable: Result<Storable, Refusal>,
}

/// RFC 9111 §4.3.4: a stored response with its head updated from a 304. `received` has the 304 and the request that validated.
/// `notes` are those of the stored response.
pub fn freshen(
    status: StatusCode,
    stored: &HeaderMap,
    notes: Option<&Arc<Notes>>,
    received: Received,
    policy: &Policy,
) -> Freshened {
    let mut head = stored.clone();
    let mut new = received.response.clone();
    // RFC 9110 §6.6.1: what has no date has the one of its receipt.
    if !new.contains_key(header::DATE) {
        new.insert(header::DATE, http_date(received.times.response));
    }
    update(&mut head, &new);
    let again = |response: &HeaderMap| {
        let received = Received { status, method: &Method::GET, response, ..received };
        storable_again(received, &Notes::directives(notes, ResponseDirectives::of(response)), policy)
    };
    let storable = if policy.set_cookie == SetCookie::Store {
        again(&head)
    } else {
        // The stored response itself set none.
        let mut without = head.clone();
        without.remove(header::SET_COOKIE);
        without.remove(SET_COOKIE_2);
        again(&without).map(Storable::without_cookies)
    };
    Freshened { head, storable }
}

pub(crate) fn http_date(time: SystemTime) -> HeaderValue {
    // A clock before 1970 or after 9999 is none.
    let earliest = SystemTime::UNIX_EPOCH;
    let latest = earliest + Duration::from_secs(253_402_300_799);
    let text = httpdate::fmt_http_date(time.clamp(earliest, latest));
    HeaderValue::try_from(text).expect("a date is visible ASCII")
}

/// RFC 9111 §3.2: fields of the newer head take the place of stored ones, but for those that are not stored, and those that say how the
/// stored content is to be read.
pub fn update(stored: &mut HeaderMap, newer: &HeaderMap) {
    const OF_CONTENT: [HeaderName; 3] = [header::CONTENT_LENGTH, header::CONTENT_ENCODING, header::CONTENT_RANGE];
    let mut newer = newer.clone();
    strip_hop_by_hop(&mut newer);
    for name in OF_CONTENT.iter().chain(&PROXY).chain(&[header::TE, header::UPGRADE]) {
        newer.remove(name);
    }
    for name in newer.keys() {
        stored.remove(name);
        for value in newer.get_all(name) {
            // Two heads together may have more names than a map takes: beyond that, the stored ones stay as they are.
            if stored.try_append(name.clone(), value.clone()).is_err() {
                return;
            }
        }
    }
}

/// What the response to a HEAD says of a stored response to a GET of the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadUpdate {
    /// It is the same: its head is updated ([`freshen`] does so).
    Update,
    /// It is another one: the stored response is stale.
    Outdated,
    /// Nothing.
    Nothing,
}

/// RFC 9111 §4.3.5. `length` is that of the stored content.
pub fn head_update(stored: &HeaderMap, length: u64, status: StatusCode, response: &HeaderMap) -> HeadUpdate {
    if status != StatusCode::OK {
        return HeadUpdate::Nothing;
    }
    let same = |name: HeaderName| response.get(&name).is_none_or(|value| stored.get(&name) == Some(value));
    let of_length = |value: &HeaderValue| value.to_str().is_ok_and(|value| value.parse() == Ok(length));
    let same_length = response.get(header::CONTENT_LENGTH).is_none_or(of_length);
    match same(header::ETAG) && same(header::LAST_MODIFIED) && same_length {
        true => HeadUpdate::Update,
        false => HeadUpdate::Outdated,
    }
}

#[cfg(test)]
mod tests;
