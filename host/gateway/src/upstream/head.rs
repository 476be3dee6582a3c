//! The request head in the form that the connection speaks. Both forms keep what the other needs, so that a request that
//! was not sent can go out again in either.

use http::header::{EXPECT, HOST};
use http::uri::{Authority, Parts, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Uri, Version};

use super::spec::Endpoint;
use crate::http::body::Body;

/// RFC 9112 §3.2: origin form, with a `Host`.
pub(super) fn for_http1(request: &mut Request<Body>, endpoint: &Endpoint) {
    *request.version_mut() = Version::HTTP_11;
    if !request.headers().contains_key(HOST) {
        let named = request.uri().authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok());
        let host = named.unwrap_or_else(|| endpoint.host_value.clone());
        request.headers_mut().insert(HOST, host);
    }
    if request.uri().authority().is_some() {
        let mut parts = Parts::default();
        parts.path_and_query = Some(path(request.uri()));
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    }
}

/// RFC 9113 §8.3.1: `:scheme`, `:authority` and `:path` instead of `Host`. Answers false for a `Host` that can't be one.
#[must_use]
pub(super) fn for_http2(request: &mut Request<Body>, endpoint: &Endpoint) -> bool {
    let authority = match request.headers_mut().remove(HOST) {
        Some(host) => match Authority::try_from(host.as_bytes()) {
            Ok(authority) => authority,
            Err(_) => {
                request.headers_mut().insert(HOST, host);
                return false;
            }
        },
        None => request.uri().authority().unwrap_or(&endpoint.authority).clone(),
    };
    // hyper does not show interim answers of HTTP/2, so nobody could wait for one.
    request.headers_mut().remove(EXPECT);
    let mut parts = Parts::default();
    parts.scheme = Some(if endpoint.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(authority);
    parts.path_and_query = Some(path(request.uri()));
    *request.version_mut() = Version::HTTP_2;
    match Uri::from_parts(parts) {
        Ok(uri) => {
            *request.uri_mut() = uri;
            true
        }
        Err(_) => false,
    }
}

/// Takes back the name of an endpoint that a request has not reached, for one that has another.
pub(super) fn unnamed(request: &mut Request<Body>) {
    request.headers_mut().remove(HOST);
    if request.uri().authority().is_some() {
        *request.uri_mut() = Uri::from(path(request.uri()));
    }
}

fn path(uri: &Uri) -> PathAndQuery {
    match uri.path_and_query() {
        Some(path) if !path.as_str().is_empty() => path.clone(),
        _ => PathAndQuery::from_static("/"),
    }
}
