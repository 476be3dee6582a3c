//! What caches have to know of status codes (RFC 9110 §15, RFC 6585, RFC 5861 §4).

use http::StatusCode;

/// RFC 9110 §15.1. 206 is missing: this cache does not store parts.
pub fn is_heuristically_cacheable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// RFC 9111 §3: the final statuses whose caching this cache implements.
pub fn is_understood(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200..=205 | 300..=303 | 307 | 308 | 400..=406 | 409..=411 | 414 | 415 | 422 | 500..=505)
}

/// Statuses that no cache or not this one stores, whatever the response says.
///
/// RFC 6585 forbids 428, 429, 431 and 511. RFC 9110 has the rest say something of one request that is not in the key: its conditions
/// (412), its content (413), its range (416), its expectation (417), its connection (408, 421, 425, 426). 206 and 304 are parts of
/// another response.
pub fn is_never_stored(status: StatusCode) -> bool {
    status.is_informational()
        || matches!(status.as_u16(), 206 | 304 | 408 | 412 | 413 | 416 | 417 | 421 | 425 | 426 | 428 | 429 | 431 | 511)
}

/// RFC 5861 §4: the statuses that are errors to `stale-if-error`.
pub fn is_error(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}
