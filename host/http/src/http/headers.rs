//! Header fields by their role: those that end at this hop, frame the message, carry credentials or can't be trailers.

use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

use super::lookalikes::has_underscore;

/// Fields that carry credentials: hidden from filters unless granted.
pub const CREDENTIALS: [HeaderName; 8] = [
    header::AUTHORIZATION,
    header::PROXY_AUTHORIZATION,
    header::COOKIE,
    header::SET_COOKIE,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-auth-token"),
    HeaderName::from_static("x-amz-security-token"),
];

/// Which kinds of fields a head has, of those that the gateway itself looks at. One pass over the names finds them: most heads have
/// none, and a look-up by hash for each name would cost more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeaderClasses(u8);

impl HeaderClasses {
    /// What ends at this hop.
    pub const HOP_BY_HOP: HeaderClasses = HeaderClasses(1);
    /// What tells who the client is.
    pub const FORWARDING: HeaderClasses = HeaderClasses(2);
    /// What belongs to W3C Trace Context.
    pub const TRACE: HeaderClasses = HeaderClasses(4);
    /// `content-encoding`.
    pub const CODING: HeaderClasses = HeaderClasses(8);
    /// Names with an underscore.
    pub const UNDERSCORE: HeaderClasses = HeaderClasses(16);
    /// `expect`.
    pub const EXPECT: HeaderClasses = HeaderClasses(32);
    /// A `content-type` of gRPC.
    pub const GRPC: HeaderClasses = HeaderClasses(64);
    /// `cdn-loop`.
    pub const LOOP: HeaderClasses = HeaderClasses(128);

    pub fn of(headers: &HeaderMap) -> HeaderClasses {
        let class = |classes, (name, value): (&HeaderName, _)| {
            classes
                | match has_underscore(name.as_str().as_bytes()) {
                    true => HeaderClasses::UNDERSCORE.0,
                    false => HeaderClasses::class(name.as_str(), value).0,
                }
        };
        HeaderClasses(headers.iter().fold(0, class))
    }

    pub fn has(self, kind: HeaderClasses) -> bool {
        self.0 & kind.0 != 0
    }

    fn class(name: &str, value: &HeaderValue) -> HeaderClasses {
        // Most names are told from all of these by their first letter.
        match (name.as_bytes().first(), name) {
            (Some(b'c'), "content-type") if is_grpc(value.as_bytes()) => HeaderClasses::GRPC,
            (Some(b'c'), "content-encoding") => HeaderClasses::CODING,
            (Some(b'e'), "expect") => HeaderClasses::EXPECT,
            (Some(b'c'), "cdn-loop") => HeaderClasses::LOOP,
            (Some(b't'), "traceparent" | "tracestate") => HeaderClasses::TRACE,
            (Some(b'c' | b'h' | b'k' | b'p' | b't' | b'u'), _) if is_hop_by_hop(name) => HeaderClasses::HOP_BY_HOP,
            (Some(b'c' | b'f' | b't' | b'x'), _) if is_forwarding(name) => HeaderClasses::FORWARDING,
            _ => HeaderClasses(0),
        }
    }
}

/// Whether a field is one by which gateways tell upstreams who the user is. A credential is the user's own word.
pub(super) fn is_identity(name: &str) -> bool {
    IDENTITY.iter().any(|prefix| name.starts_with(prefix))
        && !CREDENTIALS.iter().any(|credential| credential.as_str() == name)
}

const IDENTITY: [&str; 3] = ["x-user-", "x-auth-", "x-consumer-"];

/// `application/grpc`, alone or with the format of its messages (`application/grpc+proto`). `application/grpc-web` is another protocol.
fn is_grpc(content_type: &[u8]) -> bool {
    // RFC 9110 §8.3.1: types have no case, and there may be blanks before a parameter.
    let split = content_type.split_at_checked(b"application/grpc".len());
    split.is_some_and(|(first, rest)| {
        first.eq_ignore_ascii_case(b"application/grpc")
            && matches!(rest.first(), None | Some(b'+' | b';' | b' ' | b'\t'))
    })
}

/// Whether a field is one by which a proxy tells who the client is: `Forwarded`, all `X-Forwarded-*` (also the certificate and the
/// prefix, which upstreams trust as much), the client's certificate (RFC 9440), and the single-address fields of other products.
pub fn is_forwarding(name: &str) -> bool {
    name.starts_with("x-forwarded-")
        || matches!(
            name,
            "forwarded"
                | "x-forwarded"
                | "x-real-ip"
                | "x-client-ip"
                | "x-cluster-client-ip"
                | "x-original-forwarded-for"
                | "x-envoy-external-address"
                | "true-client-ip"
                | "cf-connecting-ip"
                | "fastly-client-ip"
                | "client-cert"
                | "client-cert-chain"
        )
}

/// Whether a field frames or routes the message, or belongs to this hop, so that no filter may set it. RFC 8586 §2: `cdn-loop` must not be
/// changed by what is configured.
pub fn is_framing(name: &HeaderName) -> bool {
    is_framing_name(name.as_str())
}

pub(super) fn is_framing_name(name: &str) -> bool {
    is_hop_by_hop(name) || matches!(name, "content-length" | "host" | "trailer" | "cdn-loop")
}

/// RFC 9110 §7.6.1, and `http2-settings` of the upgrade that RFC 9113 §3.1 withdrew. `trailer` is not here: it announces to
/// the next recipient what it gets, since trailers are passed on.
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection" | "keep-alive" | "proxy-connection" | "te" | "transfer-encoding" | "upgrade" | "http2-settings"
    )
}

/// Whether a field means nothing, or something dangerous, in trailers: framing, routing, authentication, request modifiers,
/// response controls and content format (RFC 9110 §6.5.1).
///
/// Also in the spelling with underscores: see [`super::lookalikes`].
pub fn is_forbidden_in_trailers(name: &HeaderName) -> bool {
    let name = name.as_str();
    match has_underscore(name.as_bytes()) {
        true => is_forbidden_trailer(&name.replace('_', "-")),
        false => is_forbidden_trailer(name),
    }
}

fn is_forbidden_trailer(name: &str) -> bool {
    is_hop_by_hop(name)
        || is_forwarding(name)
        || CREDENTIALS.iter().any(|credential| credential.as_str() == name)
        || name.starts_with("if-")
        || name.starts_with("proxy-")
        || matches!(
            name,
            "age"
                | "authorization"
                | "cache-control"
                | "client-cert"
                | "client-cert-chain"
                | "content-encoding"
                | "content-length"
                | "content-range"
                | "content-type"
                | "cookie"
                | "date"
                | "expect"
                | "expires"
                | "host"
                | "location"
                | "max-forwards"
                | "pragma"
                | "range"
                | "retry-after"
                | "set-cookie"
                | "trailer"
                | "vary"
                | "warning"
                | "www-authenticate"
        )
}

/// Puts a map in the place of an empty one, as new messages have it.
pub fn fill(place: &mut HeaderMap, map: HeaderMap) {
    let before = std::mem::replace(place, map);
    if before.capacity() == 0 {
        // It owns nothing, but finding that out piece by piece takes as long as a look-up.
        std::mem::forget(before);
    }
}

/// Removes forbidden fields from trailers that came from a peer.
pub fn strip_trailers(trailers: &mut HeaderMap) {
    let names: SmallVec<[HeaderName; 4]> =
        trailers.keys().filter(|name| is_forbidden_in_trailers(name)).cloned().collect();
    for name in names {
        trailers.remove(name);
    }
}

/// Whether a field stays although `Connection` lists it. RFC 9110 §7.6.1 forbids a sender to list fields that are meant for all
/// recipients, so such a list is malformed; honouring it would let a client erase what a proxy between it and us has
/// written (who the client is), or what filters and upstreams decide by.
fn is_protected(name: &str) -> bool {
    const PREFIXES: [&str; 6] = ["x-forwarded-", "content-", "if-", "accept", "access-control-", "sec-"];
    PREFIXES.iter().chain(&IDENTITY).any(|prefix| name.starts_with(prefix))
        || CREDENTIALS.iter().any(|credential| credential.as_str() == name)
        || matches!(
            name,
            "host"
                | "forwarded"
                | "x-real-ip"
                | "client-cert"
                | "client-cert-chain"
                | "x-request-id"
                | "traceparent"
                | "tracestate"
                | "baggage"
                | "trailer"
                | "cache-control"
                | "pragma"
                | "expect"
                | "range"
                | "date"
                | "etag"
                | "vary"
                | "age"
                | "expires"
                | "location"
                | "origin"
                | "referer"
                | "user-agent"
                | "cdn-loop"
                | "via"
                | "max-forwards"
                | "retry-after"
                | "server"
                | "strict-transport-security"
                | "www-authenticate"
                | "proxy-authenticate"
        )
}

/// Removes what ends at this hop from a request or response head (RFC 9110 §7.6.1): the fields of the connection and those that
/// `Connection` lists. `TE: trailers` is put back, since trailers are passed on and gRPC asks for them.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let mut doomed: SmallVec<[HeaderName; 8]> =
        headers.keys().filter(|name| is_hop_by_hop(name.as_str())).cloned().collect();
    let trailers = headers.contains_key(header::TE) && has_token(headers, &header::TE, "trailers");
    if doomed.contains(&header::CONNECTION) {
        for value in headers.get_all(header::CONNECTION) {
            for option in tokens(value.as_bytes()) {
                if let Ok(name) = HeaderName::from_bytes(option)
                    && !is_protected(name.as_str())
                    && headers.contains_key(&name)
                    && !doomed.contains(&name)
                {
                    doomed.push(name);
                }
            }
        }
    }
    for name in doomed {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// The same for a response head. RFC 9110 §15.5.22: a 426 names the protocols that the server wants, so its `Upgrade` is for the client at the
/// end as well.
pub fn strip_hop_by_hop_of_response(status: StatusCode, headers: &mut HeaderMap) {
    let wanted: SmallVec<[HeaderValue; 1]> = match status {
        _ if status.as_u16() == 426 => headers.get_all(header::UPGRADE).iter().cloned().collect(),
        _ => SmallVec::new(),
    };
    strip_hop_by_hop(headers);
    for protocols in wanted {
        headers.append(header::UPGRADE, protocols);
    }
}

/// The protocol that a client asks to switch to (RFC 9110 §7.8): `Upgrade` named by `Connection`, one protocol. `h2c` is no
/// answer: RFC 9113 §3.1 withdrew it, and passing it on would tunnel requests past the routes. To be read before
/// [`strip_hop_by_hop`].
pub fn upgrade_requested(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut values = headers.get_all(header::UPGRADE).iter();
    let value = values.next()?;
    let mut protocols = tokens(value.as_bytes());
    let protocol = protocols.next()?;
    let alone = values.next().is_none() && protocols.next().is_none();
    (alone && !protocol.eq_ignore_ascii_case(b"h2c") && has_token(headers, &header::CONNECTION, "upgrade"))
        .then(|| value.clone())
}

/// Whether a list field has a member, whatever its case; parameters (`trailers;q=1`) are not looked at.
pub fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers.get_all(name).iter().any(|value| {
        tokens(value.as_bytes()).any(|member| {
            let end = member.iter().position(|b| *b == b';').unwrap_or(member.len());
            member[..end].trim_ascii().eq_ignore_ascii_case(token.as_bytes())
        })
    })
}

/// The members of a comma-separated list without quoted strings, trimmed; empty ones are left out (RFC 9110 §5.6.1).
pub fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(n, v)| (HeaderName::from_bytes(n.as_bytes()).unwrap(), HeaderValue::from_str(v).unwrap()))
            .collect()
    }

    fn stripped(fields: &[(&str, &str)]) -> Vec<String> {
        let mut headers = map(fields);
        strip_hop_by_hop(&mut headers);
        let mut left: Vec<_> = headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        left.sort();
        left
    }

    #[test]
    fn the_first_letter_of_a_name_hides_nothing() {
        let hop = "connection keep-alive proxy-connection te transfer-encoding upgrade http2-settings";
        let forwarding = "forwarded x-forwarded x-forwarded-prefix x-real-ip x-client-ip x-cluster-client-ip x-original-forwarded-for \
            x-envoy-external-address true-client-ip cf-connecting-ip fastly-client-ip client-cert client-cert-chain";
        let kinds = [
            (hop, HeaderClasses::HOP_BY_HOP),
            (forwarding, HeaderClasses::FORWARDING),
            ("traceparent tracestate", HeaderClasses::TRACE),
            ("content-encoding", HeaderClasses::CODING),
            ("content-type date host server x-request-id", HeaderClasses(0)),
        ];
        for (names, kind) in kinds {
            for name in names.split_whitespace() {
                assert_eq!(HeaderClasses::of(&map(&[(name, "")])), kind, "{name}");
                assert_eq!(is_hop_by_hop(name), kind == HeaderClasses::HOP_BY_HOP, "{name}");
                assert_eq!(is_forwarding(name), kind == HeaderClasses::FORWARDING, "{name}");
            }
        }
    }

    #[test]
    fn grpc_is_told_from_its_neighbours() {
        let is_grpc = |value| HeaderClasses::of(&map(&[("content-type", value)])).has(HeaderClasses::GRPC);
        for value in
            ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8", "Application/GRPC ;a=b"]
        {
            assert!(is_grpc(value), "{value}");
        }
        for value in ["application/grpc-web", "application/grpc-web+proto", "application/json", "application/grp", ""] {
            assert!(!is_grpc(value), "{value}");
        }
    }

    #[test]
    fn what_belongs_to_the_connection_ends_here() {
        // RFC 9110 §7.6.1
        assert_eq!(
            stripped(&[
                ("connection", "close, X-Hop"),
                ("connection", "x-other,,"),
                ("keep-alive", "timeout=5"),
                ("proxy-connection", "keep-alive"),
                ("transfer-encoding", "chunked"),
                ("upgrade", "h2c"),
                ("http2-settings", "AAMAAABkAAQAAP__"),
                ("te", "gzip"),
                ("x-hop", "1"),
                ("x-other", "1"),
                ("x-end", "1"),
                ("trailer", "grpc-status"),
            ]),
            ["trailer: grpc-status", "x-end: 1"]
        );
        assert_eq!(stripped(&[("accept", "*/*")]), ["accept: */*"]);
    }

    #[test]
    fn only_a_426_keeps_its_upgrade() {
        let fields = [("connection", "upgrade, x-hop"), ("upgrade", "a/1, b"), ("upgrade", "c"), ("x-hop", "1")];
        for status in [StatusCode::OK, StatusCode::SWITCHING_PROTOCOLS, StatusCode::BAD_REQUEST] {
            let mut headers = map(&fields);
            strip_hop_by_hop_of_response(status, &mut headers);
            assert!(headers.is_empty(), "{status}");
        }
        let mut headers = map(&fields);
        strip_hop_by_hop_of_response(StatusCode::UPGRADE_REQUIRED, &mut headers);
        assert_eq!(headers, map(&[("upgrade", "a/1, b"), ("upgrade", "c")]));
    }

    #[test]
    fn te_keeps_only_trailers() {
        assert_eq!(stripped(&[("te", "gzip;q=0.5, Trailers")]), ["te: trailers"]);
        assert_eq!(stripped(&[("te", "trailers"), ("connection", "te")]), ["te: trailers"]);
    }

    #[test]
    fn connection_names_no_protected_field() {
        let fields =
            ["host", "content-length", "authorization", "cookie", "x-forwarded-for", "x-user-id", "x-request-id"];
        for name in fields {
            assert_eq!(stripped(&[("connection", name), (name, "1")]), [format!("{name}: 1")]);
        }
    }

    #[test]
    fn an_upgrade_needs_both_fields_and_one_protocol() {
        let asks = |fields: &[(&str, &str)]| upgrade_requested(&map(fields)).is_some();
        assert!(asks(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]));
        assert!(!asks(&[("connection", "keep-alive"), ("upgrade", "websocket")]));
        assert!(!asks(&[("connection", "upgrade")]));
        assert!(!asks(&[("connection", "upgrade, http2-settings"), ("upgrade", "H2C")]));
        assert!(!asks(&[("connection", "upgrade"), ("upgrade", "websocket, h2c")]));
        assert!(!asks(&[("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "h2c")]));
    }

    #[test]
    fn kinds_of_fields_are_noted() {
        let classes = |names: &[&str]| {
            let fields: Vec<_> = names.iter().map(|name| (*name, "1")).collect();
            let classes = HeaderClasses::of(&map(&fields));
            [HeaderClasses::HOP_BY_HOP, HeaderClasses::FORWARDING, HeaderClasses::TRACE, HeaderClasses::CODING]
                .map(|kind| classes.has(kind))
        };
        assert_eq!(classes(&["accept", "host", "x-a"]), [false; 4]);
        assert_eq!(classes(&["accept", "te"]), [true, false, false, false]);
        assert_eq!(classes(&["x-forwarded-port", "accept"]), [false, true, false, false]);
        assert_eq!(classes(&["x-real-ip"]), [false, true, false, false]);
        assert_eq!(classes(&["tracestate"]), [false, false, true, false]);
        assert_eq!(classes(&["upgrade", "forwarded", "traceparent", "content-encoding"]), [true; 4]);
    }

    #[test]
    fn roles_of_fields() {
        let name = |n: &'static str| HeaderName::from_static(n);
        for n in ["connection", "content-length", "host", "te", "trailer", "transfer-encoding", "upgrade"] {
            assert!(is_framing(&name(n)), "{n}");
            assert!(is_forbidden_in_trailers(&name(n)), "{n}");
        }
        for n in ["content-type", "x-trace", "grpc-status"] {
            assert!(!is_framing(&name(n)), "{n}");
        }
        let mut trailers = map(&[
            ("grpc-status", "0"),
            ("set-cookie", "a=b"),
            ("if-match", "x"),
            ("server-timing", "x"),
            ("x_sum", "1"),
        ]);
        for name in ["x-real-ip", "x_real_ip", "x_forwarded_for", "forwarded", "content_length"] {
            trailers.insert(name, HeaderValue::from_static("1"));
        }
        strip_trailers(&mut trailers);
        assert_eq!(trailers.len(), 3);
    }
}
