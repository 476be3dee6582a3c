//! What a request that may have changed something makes invalid: RFC 9111 §4.4.

use http::header::{self, HeaderMap};
use http::{Method, StatusCode};
use smallvec::SmallVec;
use url::Url;

/// RFC 9110 §9.2.1 and the registry of methods. A method that is not known may be unsafe, and so it is taken as such.
pub fn is_safe(method: &Method) -> bool {
    matches!(
        method.as_str(),
        "GET" | "HEAD" | "OPTIONS" | "TRACE" | "CONNECT" | "PROPFIND" | "QUERY" | "REPORT" | "SEARCH"
    )
}

/// Whether the stored responses of the request's target are invalid after this response: not an error, to an unsafe method.
pub fn invalidates(method: &Method, status: StatusCode) -> bool {
    !is_safe(method) && (status.is_success() || status.is_redirection())
}

/// The URIs besides the target that are invalid as well: those of `Location` and `Content-Location`, if they have the origin of the
/// target. Others must not be touched: an origin could empty the cache of another one.
pub fn others(target: &Url, response: &HeaderMap) -> SmallVec<[Url; 2]> {
    let mut found = SmallVec::new();
    for name in [header::LOCATION, header::CONTENT_LOCATION] {
        let reference = response.get(name).and_then(|value| value.to_str().ok());
        let Some(mut url) = reference.and_then(|reference| target.join(reference.trim()).ok()) else { continue };
        url.set_fragment(None);
        if url.origin() == target.origin() && url.origin().is_tuple() && url != *target && !found.contains(&url) {
            found.push(url);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn unsafe_methods_invalidate_unless_they_fail() {
        // RFC 9111 §4.4.
        let table = [
            ("POST", 200, true),
            ("PUT", 204, true),
            ("DELETE", 200, true),
            ("M-SEARCH", 200, true),
            ("post", 200, true),
            ("POST", 303, true),
            ("POST", 404, false),
            ("POST", 500, false),
            ("GET", 200, false),
            ("HEAD", 200, false),
            ("OPTIONS", 200, false),
            ("QUERY", 200, false),
        ];
        for (method, status, expected) in table {
            let method_of = Method::from_bytes(method.as_bytes()).unwrap();
            let status_of = StatusCode::from_u16(status).unwrap();
            assert_eq!(invalidates(&method_of, status_of), expected, "{method} {status}");
        }
    }

    #[test]
    fn other_uris_have_the_same_origin() {
        // RFC 9111 §4.4.
        let target = Url::parse("https://example.com/a/b?c").unwrap();
        let table: [(&str, &[&str]); 10] = [
            ("https://example.com/x", &["https://example.com/x"]),
            ("https://example.com:443/x#f", &["https://example.com/x"]),
            ("/x?y", &["https://example.com/x?y"]),
            ("x", &["https://example.com/a/x"]),
            ("../../x", &["https://example.com/x"]),
            ("https://example.org/x", &[]),
            ("http://example.com/x", &[]),
            ("https://example.com:8443/x", &[]),
            ("data:x", &[]),
            ("https://exa mple/", &[]),
        ];
        for (location, expected) in table {
            for name in [header::LOCATION, header::CONTENT_LOCATION] {
                let response = HeaderMap::from_iter([(name, HeaderValue::from_str(location).unwrap())]);
                let found: Vec<_> = others(&target, &response).iter().map(Url::to_string).collect();
                assert_eq!(found, expected, "{location}");
            }
        }
        let both = [(header::LOCATION, "/x"), (header::CONTENT_LOCATION, "/y")];
        let both = HeaderMap::from_iter(both.map(|(name, value)| (name, HeaderValue::from_static(value))));
        assert_eq!(others(&target, &both).len(), 2);
    }
}
