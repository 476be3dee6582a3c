//! x
use http::header::{self, HeaderMap};
pub fn has_validator(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ETAG) || crate::fields::last_modified(headers).is_some()
}
