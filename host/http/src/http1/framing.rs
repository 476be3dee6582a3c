//! How long a body is and whether another message may follow it: all of RFC 9112 §6 and §9.3 that is decided by a head.

use http::header::HeaderName;
use http::{Method, StatusCode, Version};

use super::{HeadError, Tolerance};
use crate::http::headers::tokens;

/// How a body is delimited (RFC 9112 §6.3). No body is `Exact(0)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    Exact(u64),
    Chunked,
    UntilClose,
}

/// What the fields of one head say about its framing and its connection.
#[derive(Debug, Default)]
pub(super) struct Described {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    continues: bool,
    upgrade: bool,
    tolerance: Tolerance,
}

impl Described {
    pub(super) fn new(tolerance: Tolerance) -> Self {
        Described { tolerance, ..Described::default() }
    }

    /// Takes note of a field. Refuses whatever two recipients could read in two ways. `false`: the field says nothing else.
    pub(super) fn note(&mut self, name: &HeaderName, value: &[u8]) -> Result<bool, HeadError> {
        let name = name.as_str();
        if name == "content-length" {
            // RFC 9112 §6.3: equal repeated lengths may be merged. A sender that repeats them is broken or an attacker, so this has
            // to be allowed.
            let length = length(value)?;
            match self.length.replace(length) {
                None => {}
                Some(before) if before == length && self.tolerance.repeated_content_length => return Ok(false),
                Some(_) => return Err(HeadError::Malformed("more than one content-length")),
            }
        } else if name == "transfer-encoding" {
            if self.chunked {
                return Err(HeadError::Malformed("more than one transfer-encoding"));
            }
            only_chunked(value)?;
            self.chunked = true;
        } else if name == "connection" {
            let mut more = false;
            for option in tokens(value) {
                if option.eq_ignore_ascii_case(b"close") {
                    self.close = true;
                } else if option.eq_ignore_ascii_case(b"keep-alive") {
                    self.keep_alive = true;
                } else {
                    more = true;
                }
            }
            return Ok(more);
        } else if name == "expect" {
            self.continues |= value.eq_ignore_ascii_case(b"100-continue");
        } else if name == "upgrade" {
            self.upgrade = true;
        }
        Ok(true)
    }

    /// The body of a request.
    pub(super) fn request(&self, version: Version) -> Result<Length, HeadError> {
        Ok(self.framed(version)?.unwrap_or(Length::Exact(0)))
    }

    /// The body of a response, and whether the connection can be used again.
    pub(super) fn response(
        &self,
        version: Version,
        status: StatusCode,
        method: &Method,
    ) -> Result<(Length, bool), HeadError> {
        let framed = self.framed(version)?;
        let claims_content = !matches!(framed, None | Some(Length::Exact(0)));
        let persistent = self.persistent(version);
        if status.is_informational() {
            // RFC 9110 §8.6, RFC 9112 §6.1: neither field. A length of nothing is common and harmless.
            if claims_content {
                return Err(HeadError::Malformed("an interim response with content"));
            }
            return Ok((Length::Exact(0), persistent && status != StatusCode::SWITCHING_PROTOCOLS));
        }
        if status == StatusCode::NO_CONTENT {
            // RFC 9112 §6.3: whatever the fields say, there is no content. A sender that claims some may send it all the same.
            return Ok((Length::Exact(0), persistent && !claims_content));
        }
        if *method == Method::HEAD || status == StatusCode::NOT_MODIFIED {
            return Ok((Length::Exact(0), persistent));
        }
        Ok(match framed {
            Some(length) => (length, persistent),
            None => (Length::UntilClose, false),
        })
    }

    /// RFC 9112 §9.3.
    pub(super) fn persistent(&self, version: Version) -> bool {
        !self.close && (version == Version::HTTP_11 || self.keep_alive)
    }

    /// Whether the client waits for a `100 Continue`. RFC 9110 §10.1.1: only in HTTP/1.1, and only where a body follows.
    pub(super) fn expects_continue(&self, version: Version, body: Length) -> bool {
        self.continues && version == Version::HTTP_11 && body != Length::Exact(0)
    }

    /// Whether the sender names another protocol (RFC 9110 §7.8).
    pub(super) fn asks_to_upgrade(&self) -> bool {
        self.upgrade
    }

    fn framed(&self, version: Version) -> Result<Option<Length>, HeadError> {
        if !self.chunked {
            return Ok(self.length.map(Length::Exact));
        }
        // RFC 9112 §6.1: HTTP/1.0 has no transfer codings; who forwarded this did not read them either.
        if version == Version::HTTP_10 {
            return Err(HeadError::Malformed("transfer-encoding in HTTP/1.0"));
        }
        // RFC 9112 §6.3: an attempt at smuggling.
        if self.length.is_some() {
            return Err(HeadError::Malformed("both content-length and transfer-encoding"));
        }
        Ok(Some(Length::Chunked))
    }
}

/// RFC 9110 §8.6: `1*DIGIT`. What does not fit into 63 bits overflows in most other servers.
fn length(value: &[u8]) -> Result<u64, HeadError> {
    if value.is_empty() {
        return Err(HeadError::Malformed("an empty content-length"));
    }
    let mut length: i64 = 0;
    for byte in value {
        if !byte.is_ascii_digit() {
            return Err(HeadError::Malformed("a content-length that is not a number"));
        }
        length = length
            .checked_mul(10)
            .and_then(|tens| tens.checked_add(i64::from(byte - b'0')))
            .ok_or(HeadError::Malformed("a content-length that is too large"))?;
    }
    Ok(length.unsigned_abs())
}

/// RFC 9112 §6.1 and §7: `chunked`, in whatever case, and nothing else.
fn only_chunked(value: &[u8]) -> Result<(), HeadError> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let mut codings = value.split(|b| *b == b',').map(<[u8]>::trim_ascii);
    if codings.clone().any(|coding| HeaderName::from_bytes(coding).is_err()) {
        // An empty member, a parameter, quotes.
        return Err(HeadError::Malformed("a transfer-encoding that is not a list of codings"));
    }
    let last = codings.next_back();
    if codings.any(|coding| coding.eq_ignore_ascii_case(b"chunked")) {
        return Err(match last {
            Some(last) if last.eq_ignore_ascii_case(b"chunked") => HeadError::Malformed("chunked more than once"),
            _ => HeadError::Malformed("chunked is not the last coding"),
        });
    }
    Err(HeadError::UnknownCoding)
}
