//! Why bytes are refused. The proxy decides the status.

use http::HeaderName;

/// Why a head is refused. The connection must end, because the end of the message is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Against the grammar or the rules of framing: 400.
    #[error("{0}")]
    Malformed(&'static str),
    /// 431.
    #[error("the head is larger than the limit")]
    TooLarge,
    /// 431.
    #[error("more header fields than the limit")]
    TooManyFields,
    /// The request line alone is larger than the limit, or the target than a URI can be: 414.
    #[error("the request target is longer than the limit")]
    TargetTooLong,
    /// RFC 9112 §6.1: 501.
    #[error("a transfer coding other than chunked")]
    UnknownCoding,
    /// Neither HTTP/1.0 nor HTTP/1.1: 505.
    #[error("a version of HTTP other than 1.0 and 1.1")]
    Version,
}

/// Why a chunked body is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    #[error("{0}")]
    Malformed(&'static str),
    #[error("the trailer section is larger than the limit")]
    TrailersTooLarge,
    #[error("more trailer fields than the limit")]
    TooManyTrailers,
    #[error("the field `{0}` in trailers")]
    ForbiddenTrailer(HeaderName),
}
