//! What a gateway that compresses responses has to heed: which ones it may change, and what a change does to their heads and to the
//! conditions of later requests. Pure functions of heads; the bytes are the business of `coding`.
//!
//! A coded response is another representation (RFC 9110 §8.4), so a strong entity tag of the upstream can't be its own (§8.8.3.3). It becomes a weak
//! one: the meaning is the same, the bytes are not. A client sends that tag back, and the upstream knows the strong one only. So
//! [`restore_tags`] adds it to `If-None-Match`, which compares weakly anyhow (§13.1.2), and puts it in its place in `If-Match`, which would
//! never hold (§13.1.1). `If-Range` stays as it is: a weak tag never matches there (§13.1.5), and the client gets the whole, not bytes of
//! another form.

use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap,
    HeaderValue, IF_MATCH, IF_NONE_MATCH, RANGE, VARY,
};
use http::{HeaderName, StatusCode};

use super::coding::{Coding, DIGESTS};
use super::headers::{has_token, tokens};
use super::media_types::MediaTypes;

/// Why a response is sent as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// The client wants none of the codings, or the content as it is more.
    NotAcceptable,
    /// A part was asked for. Parts are those of one form, and their client may have others already.
    Range,
    /// `no-transform` of the request (RFC 9111 §5.2.1.6) or of the response (§5.2.2.6).
    NoTransform,
    /// The request is somebody's: see the chapter on BREACH in the documents.
    Credentials,
    /// There is no content, or a part of one.
    Status,
    /// It has a coding.
    Encoded,
    /// Not a type that gets smaller.
    Type,
    Size,
    /// No room in the account of memory.
    Memory,
    /// gRPC has a compression of its own.
    Grpc,
}

impl Skip {
    /// As metrics show it.
    pub fn name(self) -> &'static str {
        match self {
            Skip::NotAcceptable => "not-acceptable",
            Skip::Range => "range",
            Skip::NoTransform => "no-transform",
            Skip::Credentials => "credentials",
            Skip::Status => "status",
            Skip::Encoded => "encoded",
            Skip::Type => "type",
            Skip::Size => "size",
            Skip::Memory => "memory",
            Skip::Grpc => "grpc",
        }
    }
}

/// How the media types of gRPC begin.
const GRPC: &[u8] = b"application/grpc";

/// Whether a request forbids a change of its response.
pub fn forbids(request: &HeaderMap) -> Option<Skip> {
    if request.contains_key(RANGE) {
        return Some(Skip::Range);
    }
    is_fixed(request).then_some(Skip::NoTransform)
}

/// Whether a message forbids a change of its content (RFC 9110 §7.7).
pub fn is_fixed(message: &HeaderMap) -> bool {
    has_token(message, &CACHE_CONTROL, "no-transform")
}

/// Why a response is not one to compress, whoever asks for it. `length` is that of its content, or of what a GET would get.
pub fn exempts(
    status: StatusCode,
    response: &HeaderMap,
    length: Option<u64>,
    (min_size, types): (u64, &MediaTypes),
) -> Option<Skip> {
    // RFC 9110 §15.3.5, §15.3.6, §15.4.5: no content; §15.3.7: a part.
    if status.is_informational() || matches!(status.as_u16(), 204 | 205 | 206 | 304) {
        return Some(Skip::Status);
    }
    if response.contains_key(CONTENT_RANGE) {
        return Some(Skip::Range);
    }
    if is_encoded(response) {
        return Some(Skip::Encoded);
    }
    if is_fixed(response) {
        return Some(Skip::NoTransform);
    }
    match response.get(CONTENT_TYPE).map(HeaderValue::as_bytes) {
        // gRPC-Web, too: its messages have a compression of their own.
        Some(grpc) if grpc.get(..GRPC.len()).is_some_and(|main| main.eq_ignore_ascii_case(GRPC)) => {
            return Some(Skip::Grpc);
        }
        Some(value) if types.has(value) => {}
        Some(_) | None => return Some(Skip::Type),
    }
    length.is_some_and(|length| length < min_size.max(1)).then_some(Skip::Size)
}

fn is_encoded(response: &HeaderMap) -> bool {
    let values = response.get_all(CONTENT_ENCODING);
    values.iter().any(|value| tokens(value.as_bytes()).any(|coding| !coding.eq_ignore_ascii_case(b"identity")))
}

/// The length that a head announces.
pub fn announced_length(response: &HeaderMap) -> Option<u64> {
    response.get(CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

/// Makes of a head that of the coded response.
pub fn mark(response: &mut HeaderMap, coding: Coding) {
    response.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    response.remove(CONTENT_LENGTH);
    // Ranges are those of the upstream's form.
    response.remove(ACCEPT_RANGES);
    forget_digests(response);
    weaken(response);
}

/// Takes away what describes the bytes of the content, which are others now.
pub fn forget_digests(head: &mut HeaderMap) {
    for name in &DIGESTS {
        head.remove(name);
    }
}

/// Makes the entity tag a weak one. What is no entity tag goes.
pub fn weaken(response: &mut HeaderMap) {
    match response.get(ETAG).and_then(weakened) {
        None => return,
        Some(Some(weak)) => response.insert(ETAG, weak),
        Some(None) => response.remove(ETAG),
    };
}

/// What becomes of an entity tag of other bytes: none if it may stay, or the weak one if it is a tag.
pub fn weakened(tag: &HeaderValue) -> Option<Option<HeaderValue>> {
    match tag.as_bytes() {
        [b'W', b'/', ..] => None,
        strong @ [b'"', ..] => Some(HeaderValue::from_bytes(&[b"W/", strong].concat()).ok()),
        _ => Some(None),
    }
}

/// Says that another `Accept-Encoding` gets another response (RFC 9110 §12.5.5).
pub fn vary(response: &mut HeaderMap) {
    if !has_token(response, &VARY, "accept-encoding") && !has_token(response, &VARY, "*") {
        response.append(VARY, HeaderValue::from_static("accept-encoding"));
    }
}

/// Whether a client has a weak tag that may be one of [`weaken`].
pub fn has_weak_tag(request: &HeaderMap) -> bool {
    request.get_all(IF_NONE_MATCH).iter().any(|value| weak_tags(value.as_bytes()).next().is_some())
}

/// Gives an upstream the tags that [`weaken`] may have changed: in `If-None-Match` beside the weak ones, in `If-Match` in their place.
pub fn restore_tags(request: &mut HeaderMap) {
    change(request, &IF_NONE_MATCH, |value| {
        let mut restored = value.to_vec();
        for weak in weak_tags(value) {
            let strong = &value[weak.start + 2..weak.end];
            restored.extend_from_slice(b", ");
            restored.extend_from_slice(strong);
        }
        restored
    });
    change(request, &IF_MATCH, |value| {
        let (mut restored, mut at) = (Vec::with_capacity(value.len()), 0);
        for weak in weak_tags(value) {
            restored.extend_from_slice(&value[at..weak.start]);
            at = weak.start + 2;
        }
        restored.extend_from_slice(&value[at..]);
        restored
    });
}

fn change(request: &mut HeaderMap, name: &HeaderName, restore: impl Fn(&[u8]) -> Vec<u8>) {
    if !request.get_all(name).iter().any(|value| weak_tags(value.as_bytes()).next().is_some()) {
        return;
    }
    let values: Vec<HeaderValue> = request.get_all(name).iter().cloned().collect();
    request.remove(name);
    for value in values {
        // What is made of a value of a field is one.
        request.append(name, HeaderValue::from_bytes(&restore(value.as_bytes())).unwrap_or(value));
    }
}

/// Where the weak tags of a list are. A comma and `W/` may stand inside the quotes of a tag (RFC 9110 §8.8.3).
fn weak_tags(list: &[u8]) -> impl Iterator<Item = std::ops::Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while let Some(quote) = list.get(at..)?.iter().position(|byte| *byte == b'"').map(|found| at + found) {
            let end = list.get(quote + 1..)?.iter().position(|byte| *byte == b'"').map(|found| quote + found + 2)?;
            at = end;
            let before = list.get(..quote)?.strip_suffix(b"W/");
            if before.is_some_and(|before| matches!(before.last(), None | Some(b',' | b' ' | b'\t'))) {
                return Some(quote - 2..end);
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::super::media_types::Pattern;
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let fields =
            fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let mut map = HeaderMap::new();
        fields.for_each(|(name, value)| {
            map.append(name, value);
        });
        map
    }

    fn text() -> MediaTypes {
        MediaTypes::new(vec![Pattern::parse("text/*").unwrap()])
    }

    const TEXT: (&str, &str) = ("content-type", "text/plain");

    #[test]
    fn which_responses_stay_as_they_are() {
        for (status, fields, length, expected, why) in [
            (200, &[TEXT][..], Some(1000), None, "text"),
            (200, &[TEXT], None, None, "of any length"),
            (404, &[TEXT], Some(1000), None, "of any status with content"),
            (200, &[TEXT], Some(99), Some(Skip::Size), "too short"),
            (200, &[TEXT], Some(0), Some(Skip::Size), "nothing"),
            (100, &[TEXT], None, Some(Skip::Status), "RFC 9110 §15.2"),
            (204, &[TEXT], None, Some(Skip::Status), "RFC 9110 §15.3.5"),
            (205, &[TEXT], None, Some(Skip::Status), "RFC 9110 §15.3.6"),
            (206, &[TEXT], Some(1000), Some(Skip::Status), "RFC 9110 §15.3.7"),
            (304, &[TEXT], None, Some(Skip::Status), "RFC 9110 §15.4.5"),
            (200, &[TEXT, ("content-range", "bytes 0-9/10")], Some(1000), Some(Skip::Range), "RFC 9110 §14.4"),
            (200, &[TEXT, ("content-encoding", "gzip")], Some(1000), Some(Skip::Encoded), "RFC 9110 §8.4"),
            (200, &[TEXT, ("content-encoding", "unknown")], Some(1000), Some(Skip::Encoded), "whatever it is"),
            (200, &[TEXT, ("content-encoding", "identity")], Some(1000), None, "no coding"),
            (
                200,
                &[TEXT, ("cache-control", "max-age=1, No-Transform")],
                Some(1000),
                Some(Skip::NoTransform),
                "RFC 9111 §5.2.2.6",
            ),
            (200, &[("content-type", "image/png")], Some(1000), Some(Skip::Type), "compressed already"),
            (200, &[], Some(1000), Some(Skip::Type), "of no type"),
            (200, &[("content-type", "application/grpc-web+proto")], None, Some(Skip::Grpc), "gRPC"),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(exempts(status, &map(fields), length, (100, &text())), expected, "{fields:?}: {why}");
        }
        assert_eq!(forbids(&map(&[("range", "bytes=0-1")])), Some(Skip::Range));
        assert_eq!(forbids(&map(&[("cache-control", "no-transform")])), Some(Skip::NoTransform), "RFC 9111 §5.2.1.6");
        assert_eq!(forbids(&map(&[("cache-control", "no-cache")])), None);
    }

    #[test]
    fn the_head_of_a_coded_response() {
        let mut head = map(&[
            TEXT,
            ("content-length", "1000"),
            ("accept-ranges", "bytes"),
            ("content-digest", "sha-256=:AA==:"),
            ("repr-digest", "sha-256=:AA==:"),
            ("digest", "sha-256=AA=="),
            ("content-md5", "AA=="),
            ("etag", "\"one\""),
            ("x-other", "1"),
        ]);
        mark(&mut head, Coding::Brotli);
        vary(&mut head);
        let expected = map(&[
            TEXT,
            ("content-encoding", "br"),
            ("etag", "W/\"one\""),
            ("x-other", "1"),
            ("vary", "accept-encoding"),
        ]);
        assert_eq!(head, expected);
    }

    #[test]
    fn vary_says_it_once() {
        for (before, after) in [
            (&[][..], &["accept-encoding"][..]),
            (&["origin"], &["origin", "accept-encoding"]),
            (&["Origin, Accept-Encoding"], &["Origin, Accept-Encoding"]),
            (&["*"], &["*"]),
        ] {
            let mut head = HeaderMap::new();
            before.iter().for_each(|value| {
                head.append(VARY, HeaderValue::from_static(value));
            });
            vary(&mut head);
            assert_eq!(head.get_all(VARY).iter().collect::<Vec<_>>(), after.to_vec());
        }
    }

    /// RFC 9110 §8.8.1: a weak validator for another form.
    #[test]
    fn tags_are_weakened() {
        for (before, after) in
            [("\"a\"", Some("W/\"a\"")), ("W/\"a\"", Some("W/\"a\"")), ("unquoted", None), ("\"\"", Some("W/\"\""))]
        {
            let mut head = map(&[("etag", before)]);
            weaken(&mut head);
            assert_eq!(head.get(ETAG).map(|value| value.to_str().unwrap()), after, "{before}");
        }
    }

    #[test]
    fn conditions_get_the_tag_of_the_upstream() {
        for (before, in_none_match, in_match) in [
            ("\"a\"", "\"a\"", "\"a\""),
            ("*", "*", "*"),
            ("W/\"a\"", "W/\"a\", \"a\"", "\"a\""),
            ("W/\"a\", \"b\",W/\"c,d\"", "W/\"a\", \"b\",W/\"c,d\", \"a\", \"c,d\"", "\"a\", \"b\",\"c,d\""),
            ("\"x, W/\", W/\"y\"", "\"x, W/\", W/\"y\", \"y\"", "\"x, W/\", \"y\""),
            ("W/\"unclosed", "W/\"unclosed", "W/\"unclosed"),
            ("W/", "W/", "W/"),
            ("W/W/\"a\"", "W/W/\"a\"", "W/W/\"a\""),
        ] {
            let mut request = map(&[("if-none-match", before), ("if-match", before)]);
            assert_eq!(has_weak_tag(&request), in_none_match != before, "{before}");
            restore_tags(&mut request);
            assert_eq!(request[IF_NONE_MATCH], in_none_match, "{before}");
            assert_eq!(request[IF_MATCH], in_match, "{before}");
        }
    }
}
