//! Header names with underscores. Many servers read `_` and `-` in a name as the same (CGI, RFC 3875 §4.1.18, and what took its names from
//! there: WSGI, Rack, PHP), so such a name can stand for another field.

use http::header::{HeaderMap, HeaderName};
use smallvec::SmallVec;

use super::headers::{is_forwarding, is_framing_name, is_identity};

/// Removes fields that such servers would take for another: `X_Forwarded_For` for what this gateway says of the client.
/// Removed is a name with `_` whose spelling with `-` is one of a field that frames the message, that a proxy writes, that says who the
/// user is, or that the head has as well. Also from a trusted proxy: none writes them, and many pass them on.
pub fn strip_lookalikes(headers: &mut HeaderMap, id_header: &HeaderName) {
    let is_lookalike = |name: &&HeaderName| {
        has_underscore(name.as_str().as_bytes()) && {
            let meant = name.as_str().replace('_', "-");
            is_framing_name(&meant)
                || is_forwarding(&meant)
                || meant == id_header.as_str().replace('_', "-") && *name != id_header
                || is_identity(&meant)
                || headers.contains_key(&*meant)
        }
    };
    let doomed: SmallVec<[HeaderName; 4]> = headers.keys().filter(is_lookalike).cloned().collect();
    for name in doomed {
        headers.remove(name);
    }
}

/// The names with an underscore that a client has sent, if there are any.
pub fn underscored(headers: &HeaderMap) -> Option<Box<[HeaderName]>> {
    let names: Vec<_> = headers.keys().filter(|name| has_underscore(name.as_str().as_bytes())).cloned().collect();
    (!names.is_empty()).then(|| names.into())
}

/// The same once filters have set fields: removes what the client has sent with `_` where its spelling with `-` is there now. What a filter
/// has set stays.
pub fn strip_shadowed(headers: &mut HeaderMap, of_client: &[HeaderName]) {
    for name in of_client {
        if headers.contains_key(name.as_str().replace('_', "-")) {
            headers.remove(name);
        }
    }
}

/// Removes what a client sends in the place of a name of ours that has an underscore.
pub fn strip_twin(headers: &mut HeaderMap, ours: &HeaderName) {
    if has_underscore(ours.as_str().as_bytes()) {
        headers.remove(ours.as_str().replace('_', "-"));
    }
}

/// Eight bytes at a time: it is asked of every name of every head.
#[inline]
pub(super) fn has_underscore(name: &[u8]) -> bool {
    const EACH: u64 = u64::from_ne_bytes([1; 8]);
    const UNDERSCORES: u64 = u64::from_ne_bytes([b'_'; 8]);
    let in_eight = |bytes: &[u8; 8]| {
        // A byte is zero where there was an underscore.
        let zeros = u64::from_ne_bytes(*bytes) ^ UNDERSCORES;
        zeros.wrapping_sub(EACH) & !zeros & (EACH << 7) != 0
    };
    match name.last_chunk() {
        // The last eight overlap what stands before them.
        Some(last) => name.as_chunks().0.iter().any(in_eight) || in_eight(last),
        None => name.contains(&b'_'),
    }
}

#[cfg(test)]
mod tests {
    use http::header::HeaderValue;

    use super::super::headers::HeaderClasses;
    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(n, v)| (HeaderName::from_bytes(n.as_bytes()).unwrap(), HeaderValue::from_str(v).unwrap()))
            .collect()
    }

    #[test]
    fn a_name_with_underscores_stands_for_no_field_that_others_trust() {
        let left = |names: &[&str]| {
            let mut headers = map(&names.iter().map(|name| (*name, "1")).collect::<Vec<_>>());
            assert!(HeaderClasses::of(&headers).has(HeaderClasses::UNDERSCORE), "{names:?}");
            strip_lookalikes(&mut headers, &HeaderName::from_static("x-request-id"));
            headers.keys().map(|name| name.as_str().to_owned()).collect::<Vec<_>>()
        };
        for name in [
            "x_forwarded_for",
            "x_forwarded-proto",
            "x-forwarded_host",
            "x_real_ip",
            "true_client_ip",
            "x_request_id",
            "x_user_id",
            "content_length",
            "transfer_encoding",
            "keep_alive",
        ] {
            assert_eq!(left(&[name]), [""; 0], "{name}");
        }
        for name in ["api_key", "x_api_key", "x_auth_token", "_", "a_b", "x_tenant", "seven_b", "eight__8"] {
            assert_eq!(left(&[name]), [name]);
        }
        assert_eq!(left(&["x_tenant", "x-tenant"]), ["x-tenant"], "one of two that would become one");
        let of_client = underscored(&map(&[("x_tenant", "1"), ("a_b", "1"), ("x-user-id", "1")])).expect("two of them");
        let mut set = map(&[("x_user_id", "1"), ("x-user-id", "1"), ("x_tenant", "1"), ("x-tenant", "2")]);
        strip_shadowed(&mut set, &of_client);
        let left = map(&[("x_user_id", "1"), ("x-user-id", "1"), ("x-tenant", "2")]);
        assert_eq!(set, left, "what a filter has set stays");
        assert_eq!(underscored(&map(&[("x-a", "1")])), None);
        let mut set = map(&[("x-request-id", "forged"), ("x_request_id", "ours")]);
        strip_twin(&mut set, &HeaderName::from_static("x_request_id"));
        assert_eq!(set, map(&[("x_request_id", "ours")]));
        assert!(!HeaderClasses::of(&map(&[("accept-encoding", ""), ("te", "")])).has(HeaderClasses::UNDERSCORE));
    }
}
