//! What a request asks for: authority and normalised path, or why it is ambiguous. The same path is routed, shown to filters
//! and forwarded, so that no two of them can read it differently.

use std::borrow::Cow;
use std::cell::RefCell;
use std::net::Ipv6Addr;

use http::header::HOST;
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Version};

use super::path::normalise_path;

/// The target of a request.
#[derive(Debug, Clone)]
pub struct Target {
    /// Lower-case, without user information; the port only where the client named one.
    pub authority: Authority,
    /// From the absolute form or `:scheme`. It is the client's word, not a fact about the connection.
    pub scheme: Option<Scheme>,
    /// The path is normalised (see [`super::path::normalise_path`]); the query is as it came.
    pub target: PathAndQuery,
}

/// Why a request target is refused. All are the client's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("the method CONNECT is not served")]
    Connect,
    #[error("the asterisk form of the request target is not served")]
    Asterisk,
    #[error("the scheme is neither http nor https")]
    Scheme,
    #[error("no host")]
    MissingHost,
    #[error("more than one host field")]
    RepeatedHost,
    #[error("the host is not valid")]
    InvalidHost,
    #[error("the host field contradicts the authority")]
    ContradictoryHost,
    #[error("a percent sign without two hexadecimal digits in the path")]
    PercentEncoding,
    #[error("a zero byte in the path")]
    ZeroByte,
    #[error("a character in the path that is not allowed")]
    PathCharacter,
    #[error("a dot segment behind an encoded separator in the path")]
    EncodedTraversal,
    #[error("the path does not start with a slash")]
    RelativePath,
}

impl Target {
    /// Reads the target of a request head. `default` stands in for the host where HTTP/1.0 lets the client leave it out.
    pub fn from_request(parts: &Parts, default: &Authority, known: &KnownHost) -> Result<Target, TargetError> {
        if parts.method == Method::CONNECT {
            return Err(TargetError::Connect);
        }
        let uri = &parts.uri;
        if uri.path() == "*" {
            return Err(TargetError::Asterisk);
        }
        let scheme = match uri.scheme() {
            // RFC 9112 §3.2.3: the authority form (`GET x`) is only for CONNECT.
            None if uri.authority().is_some() && parts.version < Version::HTTP_2 => {
                return Err(TargetError::RelativePath);
            }
            None => None,
            Some(s) if *s == Scheme::HTTP || *s == Scheme::HTTPS => Some(s.clone()),
            Some(_) => return Err(TargetError::Scheme),
        };
        let mut hosts = parts.headers.get_all(HOST).iter();
        let host = hosts.next().map(|value| known.parse(value.as_bytes())).transpose()?;
        // RFC 9112 §3.2: more than one Host line is a 400; in HTTP/2 it would have to equal `:authority` twice.
        if hosts.next().is_some() {
            return Err(TargetError::RepeatedHost);
        }
        let named = uri.authority().map(|authority| known.parse(authority.as_str().as_bytes())).transpose()?;
        let authority = if parts.version >= Version::HTTP_2 {
            match (named, host) {
                // RFC 9113 §8.3.1: a Host field that differs from `:authority` makes the request malformed.
                (Some(named), Some(host)) if named != host => return Err(TargetError::ContradictoryHost),
                (Some(authority), _) | (None, Some(authority)) => authority,
                (None, None) => return Err(TargetError::MissingHost),
            }
        } else {
            match (named, host) {
                // RFC 9112 §3.2: HTTP/1.1 without Host is a 400, also in absolute form.
                (_, None) if parts.version == Version::HTTP_11 => return Err(TargetError::MissingHost),
                // RFC 9112 §3.2.2 lets the absolute form win over Host, and §3.2 has the client send the same in both. Who forwards
                // one that does not leaves it to the next server which host it sees.
                (Some(named), Some(host)) if named != host => return Err(TargetError::ContradictoryHost),
                (Some(named), _) => named,
                (None, Some(host)) => host,
                // RFC 9112 §3.3: a server may use its own name when HTTP/1.0 gives none.
                (None, None) => default.clone(),
            }
        };
        // RFC 9113 §8.3.1: only the absolute form of HTTP/1 may leave out an empty path.
        if parts.version >= Version::HTTP_2 && uri.path_and_query().is_some_and(|path| !path.as_str().starts_with('/'))
        {
            return Err(TargetError::RelativePath);
        }
        Ok(Target { authority, scheme, target: normalise_target(uri.path_and_query())? })
    }

    /// The host for routing: without port and without the dot that makes a name absolute.
    pub fn host(&self) -> &str {
        routing_host(&self.authority)
    }
}

/// The host of an authority that [`parse_authority`] has read, for routing: without port and without the dot that makes a name
/// absolute.
pub fn routing_host(authority: &Authority) -> &str {
    let text = authority.as_str();
    let end = match text.strip_prefix('[') {
        Some(_) => memchr::memchr(b']', text.as_bytes()).map(|at| at + 1),
        None => memchr::memchr(b':', text.as_bytes()),
    };
    let host = end.and_then(|end| text.get(..end)).unwrap_or(text);
    host.strip_suffix('.').unwrap_or(host)
}

/// The host that was read last, for a connection that asks for the same one again and again.
#[derive(Debug, Default)]
pub struct KnownHost(RefCell<Option<Authority>>);

impl KnownHost {
    fn parse(&self, text: &[u8]) -> Result<Authority, TargetError> {
        if let Some(known) = &*self.0.borrow()
            // What has been read is in its one form, and reads as itself.
            && known.as_str().as_bytes() == text
        {
            return Ok(known.clone());
        }
        let authority = parse_authority(text)?;
        self.0.replace(Some(authority.clone()));
        Ok(authority)
    }
}

fn normalise_target(target: Option<&PathAndQuery>) -> Result<PathAndQuery, TargetError> {
    let Some(target) = target else {
        return Ok(PathAndQuery::from_static("/"));
    };
    let path = match normalise_path(target.path())? {
        // The empty path of an absolute form reads as "/" from `path()` but not from `as_str()`, which starts with the query.
        Cow::Borrowed(path) if target.as_str().starts_with('/') => {
            debug_assert_eq!(path, target.path());
            return Ok(target.clone());
        }
        path => path,
    };
    let whole = match target.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.into_owned(),
    };
    PathAndQuery::try_from(whole).map_err(|_| TargetError::PathCharacter)
}

/// Reads `host [":" port]` (RFC 9110 §7.2) and lower-cases it. Names are held to letters, digits, `-`, `_`, `~` and single dots:
/// RFC 3986 §3.2.2 allows more, no resolver does, and the rest is how requests are smuggled past host rules. An empty port is
/// dropped; user information (RFC 9110 §4.2.4) is refused.
pub fn parse_authority(text: &[u8]) -> Result<Authority, TargetError> {
    let text = std::str::from_utf8(text).map_err(|_| TargetError::InvalidHost)?;
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or(TargetError::InvalidHost)?;
            address.parse::<Ipv6Addr>().map_err(|_| TargetError::InvalidHost)?;
            let port = match after.strip_prefix(':') {
                None if after.is_empty() => None,
                None => return Err(TargetError::InvalidHost),
                port => port,
            };
            (&text[..address.len() + 2], port)
        }
        None => {
            let (host, port) = match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            };
            if !is_host_name(host) {
                return Err(TargetError::InvalidHost);
            }
            (host, port)
        }
    };
    let kept = match port {
        None => text,
        Some("") => host,
        Some(port) => {
            let digits = port.bytes().all(|b| b.is_ascii_digit());
            if !digits || !port.parse::<u16>().is_ok_and(|number| number > 0) {
                return Err(TargetError::InvalidHost);
            }
            text
        }
    };
    let authority = if kept.bytes().any(|b| b.is_ascii_uppercase()) {
        Authority::try_from(kept.to_ascii_lowercase())
    } else {
        Authority::try_from(kept)
    };
    authority.map_err(|_| TargetError::InvalidHost)
}

/// Whether a text is a host name as [`parse_authority`] takes it: at most 255 bytes, no empty label but the last.
pub fn is_host_name(host: &str) -> bool {
    let mut label = 0;
    for byte in host.bytes() {
        match byte {
            b'.' if label == 0 => return false,
            b'.' => label = 0,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => label += 1,
            _ => return false,
        }
    }
    !host.is_empty() && host.len() <= 255
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(version: Version, method: &str, uri: &str, hosts: &[&str]) -> Result<(String, String), TargetError> {
        let mut request = http::Request::builder().version(version).method(method).uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let target = Target::from_request(&parts, &Authority::from_static("default:8080"), &KnownHost::default())?;
        Ok((target.authority.to_string(), target.target.to_string()))
    }

    #[test]
    fn the_authority_comes_from_where_the_rfc_says() {
        use TargetError::*;
        let (v10, v11, v2) = (Version::HTTP_10, Version::HTTP_11, Version::HTTP_2);
        type Row<'a> = (Version, &'a str, &'a [&'a str], Result<&'a str, TargetError>);
        let table: &[Row] = &[
            (v11, "/", &["Example.ORG:8080"], Ok("example.org:8080")),
            (v11, "/", &[], Err(MissingHost)),
            (v11, "/", &["a", "a"], Err(RepeatedHost)),
            (v11, "/", &[""], Err(InvalidHost)),
            (v11, "/", &["a:80:80"], Err(InvalidHost)),
            (v11, "/", &["[::1"], Err(InvalidHost)),
            (v11, "/", &["a:http"], Err(InvalidHost)),
            (v11, "/", &["a b"], Err(InvalidHost)),
            (v11, "/", &["user@a"], Err(InvalidHost)),
            (v11, "//a.example/x", &["b.example"], Ok("b.example")),
            (v11, "http://A.example/x", &["a.Example"], Ok("a.example")),
            (v11, "http://a.example:/x", &["a.example"], Ok("a.example")),
            (v11, "http://a.example/x", &["b.example"], Err(ContradictoryHost)),
            (v11, "http://a.example:80/x", &["a.example"], Err(ContradictoryHost)),
            (v11, "http://a.example/x", &["a.example."], Err(ContradictoryHost)),
            (v11, "http://a.example/x", &[""], Err(InvalidHost)),
            (v11, "http://a.example@b.example/x", &["b.example"], Err(InvalidHost)),
            (v11, "http://user:80@a.example/x", &["a.example"], Err(InvalidHost)),
            (v11, "http://@a.example/x", &["a.example"], Err(InvalidHost)),
            (v11, "a.example:80", &["a.example:80"], Err(RelativePath)),
            (v11, "a.example", &["a.example"], Err(RelativePath)),
            (v11, "*x", &["a.example"], Err(RelativePath)),
            (v11, "*", &["a.example"], Err(Asterisk)),
            (v11, "http://*/", &["*"], Err(InvalidHost)),
            (v10, "http://a.example/x", &["b.example"], Err(ContradictoryHost)),
            (v10, "/", &["a", "b"], Err(RepeatedHost)),
            (v10, "/", &["a:80:80"], Err(InvalidHost)),
            (v11, "http://a.example/x", &[], Err(MissingHost)),
            (v11, "http://a.example/x", &["b", "c"], Err(RepeatedHost)),
            (v11, "http://user@a.example/x", &["a.example"], Err(InvalidHost)),
            (v11, "ftp://a.example/x", &["a.example"], Err(Scheme)),
            (v10, "/", &[], Ok("default:8080")),
            (v10, "http://a.example/x", &[], Ok("a.example")),
            (v2, "https://a.example/x", &[], Ok("a.example")),
            (v2, "https://a.example/x", &["A.example"], Ok("a.example")),
            (v2, "https://a.example/x", &["b.example"], Err(ContradictoryHost)),
            (v2, "/x", &["b.example"], Ok("b.example")),
            (v2, "/x", &[], Err(MissingHost)),
            (v2, "https://a.example?x", &[], Err(RelativePath)),
        ];
        for (version, uri, hosts, want) in table {
            let got = target(*version, "GET", uri, hosts).map(|t| t.0);
            assert_eq!(got.as_deref().map_err(|e| *e), *want, "{version:?} {uri} {hosts:?}");
        }
        assert_eq!(target(v11, "CONNECT", "a.example:443", &["a.example"]), Err(Connect));
        assert_eq!(target(v11, "OPTIONS", "*", &["a.example"]), Err(Asterisk));
    }

    #[test]
    fn hosts_are_checked() {
        for (text, want) in [
            ("a", Some("a")),
            ("a.b:", Some("a.b")),
            ("a_b.example.", Some("a_b.example.")),
            ("127.0.0.1:1", Some("127.0.0.1:1")),
            ("[::1]:443", Some("[::1]:443")),
            ("[2001:DB8::1]", Some("[2001:db8::1]")),
            ("a:65535", Some("a:65535")),
            ("a:65536", None),
            ("a:0", None),
            ("a:+1", None),
            ("a:1:2", None),
            ("[::1", None),
            ("[::1]x", None),
            ("[::1%25eth0]", None),
            ("[v1.x]", None),
            ("::1", None),
            (".a", None),
            ("a..b", None),
            ("a b", None),
            ("a/b", None),
            ("a,b", None),
            ("a@b", None),
            ("a%2eb", None),
            ("ä", None),
        ] {
            let got = parse_authority(text.as_bytes()).ok().map(|a| a.to_string());
            assert_eq!(got.as_deref(), want, "{text}");
        }
        let target = target_of("example.org.:80");
        assert_eq!(target.host(), "example.org");
    }

    fn target_of(host: &str) -> Target {
        let (parts, ()) = http::Request::builder().header(HOST, host).body(()).unwrap().into_parts();
        Target::from_request(&parts, &Authority::from_static("x"), &KnownHost::default()).unwrap()
    }

    #[test]
    fn the_query_stays_as_it_came() {
        let v11 = Version::HTTP_11;
        assert_eq!(target(v11, "GET", "/a/../b?x=%zz/../y", &["h"]).unwrap().1, "/b?x=%zz/../y");
        assert_eq!(target(v11, "GET", "http://h?q", &["h"]).unwrap().1, "/?q");
        assert_eq!(target(v11, "GET", "/a?b", &["h"]).unwrap().1, "/a?b");
    }
}
