//! Who the client is and how it reached us, as far as the proxies in between are trusted, and what the upstream is told of it.
//!
//! `X-Forwarded-For` is read before `Forwarded` (RFC 7239) when both are there: proxies that write only the older field pass the
//! newer one on as the client sent it, so the newer would be the client's word. Whether they agree does not matter then.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::header::{FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, Scheme};
use ipnet::IpNet;
use smallvec::SmallVec;

use super::headers::{HeaderClasses, is_forwarding};
use super::target::parse_authority;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Where a client is. It is shown as its IP address, or as `unix:`, as nginx writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientAddress {
    Ip(IpAddr),
    /// At the other end of a Unix socket, which has no address: all such clients look the same.
    Unix,
}

impl ClientAddress {
    /// The IP address, if it has one.
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            ClientAddress::Ip(address) => Some(address),
            ClientAddress::Unix => None,
        }
    }
}

impl From<IpAddr> for ClientAddress {
    fn from(address: IpAddr) -> Self {
        ClientAddress::Ip(address)
    }
}

impl From<Ipv4Addr> for ClientAddress {
    fn from(address: Ipv4Addr) -> Self {
        ClientAddress::Ip(address.into())
    }
}

impl From<[u8; 4]> for ClientAddress {
    fn from(octets: [u8; 4]) -> Self {
        ClientAddress::Ip(octets.into())
    }
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientAddress::Ip(address) => address.fmt(f),
            ClientAddress::Unix => f.write_str("unix:"),
        }
    }
}

/// Peers whose word on others is believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedPeers {
    pub networks: Vec<IpNet>,
    /// Whether those that come over a Unix socket are among them.
    pub unix: bool,
}

impl TrustedPeers {
    /// Whether a peer is one of them.
    pub fn contains(&self, peer: ClientAddress) -> bool {
        match peer {
            ClientAddress::Ip(address) => is_trusted(address.to_canonical(), &self.networks),
            ClientAddress::Unix => self.unix,
        }
    }
}

/// The other end of a connection; made once for each connection.
#[derive(Debug, Clone)]
pub struct Peer {
    pub address: ClientAddress,
    /// Whether it is one of the trusted proxies.
    pub trusted: bool,
    /// The address as a field has it.
    value: Option<HeaderValue>,
}

impl Peer {
    /// An IPv4 address mapped into IPv6, as a dual-stack socket gives it, becomes the IPv4 address that it is.
    pub fn new(address: impl Into<ClientAddress>, trusted: &TrustedPeers) -> Peer {
        let address = match address.into() {
            ClientAddress::Ip(address) => ClientAddress::Ip(address.to_canonical()),
            ClientAddress::Unix => ClientAddress::Unix,
        };
        let value = address
            .ip()
            .map(|address| HeaderValue::try_from(address.to_string()).expect("an address is visible ASCII"));
        Peer { address, trusted: trusted.contains(address), value }
    }
}

/// The client as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientInfo {
    pub address: ClientAddress,
    /// How the client spoke to the first trusted proxy, when that proxy said so.
    pub scheme: Option<Scheme>,
    /// What host the client named there.
    pub host: Option<Authority>,
}

/// Whether an address is in one of the networks.
fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| net.contains(&address))
}

/// Finds the client: the peer, or, behind trusted proxies, the first address from the right that is none of them. An element that is
/// no address (`unknown`, an obfuscated identifier, nonsense) ends the walk at the proxy that wrote it.
pub fn client(peer: &Peer, headers: &HeaderMap, trusted: &TrustedPeers) -> ClientInfo {
    let trusted = &*trusted.networks;
    let mut info = ClientInfo { address: peer.address, scheme: None, host: None };
    if !peer.trusted {
        return info;
    }
    if headers.contains_key(FOR) || !headers.contains_key(FORWARDED) {
        let hops = members(headers, &FOR);
        let (taken, address) = walk(hops.iter().map(|hop| parse_node(hop)), peer.address, trusted);
        info.address = address;
        info.scheme = member_of_hop(&members(headers, &PROTO), hops.len(), taken).and_then(parse_scheme);
        info.host = member_of_hop(&members(headers, &FORWARDED_HOST), hops.len(), taken).and_then(parse_host);
    } else {
        let elements = forwarded_elements(headers);
        let (taken, address) =
            walk(elements.iter().map(|e| e.node.as_deref().and_then(parse_node)), peer.address, trusted);
        info.address = address;
        let element = taken.checked_sub(1).and_then(|taken| elements.iter().rev().nth(taken));
        info.scheme = element.and_then(|e| e.proto.as_deref()).and_then(parse_scheme);
        info.host = element.and_then(|e| e.host.as_deref()).and_then(parse_host);
    }
    info
}

/// Walks from the right; answers how many elements were believed and the address of the last of them.
fn walk(
    hops: impl DoubleEndedIterator<Item = Option<IpAddr>>,
    peer: ClientAddress,
    trusted: &[IpNet],
) -> (usize, ClientAddress) {
    let mut at = (0, peer);
    for hop in hops.rev() {
        let Some(address) = hop else { break };
        at = (at.0 + 1, ClientAddress::Ip(address));
        if !is_trusted(address, trusted) {
            break;
        }
    }
    at
}

/// The member of `x-forwarded-proto` or `-host` that belongs to the hop `taken` from the right. Proxies that append keep the lists
/// as long as `x-forwarded-for`; where the lengths differ only the last, written by the peer, is worth believing.
fn member_of_hop<'a>(members: &[&'a str], hops: usize, taken: usize) -> Option<&'a str> {
    let back = if members.len() == hops { taken.max(1) } else { 1 };
    members.len().checked_sub(back).and_then(|at| members.get(at)).copied()
}

/// Members of all lines of a list field, in order. A line that is not ASCII counts as one member that is no address.
fn members<'a>(headers: &'a HeaderMap, name: &HeaderName) -> SmallVec<[&'a str; 4]> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|line| line.to_str().unwrap_or("?").split(','))
        .map(str::trim)
        .filter(|member| !member.is_empty())
        .collect()
}

fn parse_scheme(text: &str) -> Option<Scheme> {
    match text {
        _ if text.eq_ignore_ascii_case("https") || text.eq_ignore_ascii_case("wss") => Some(Scheme::HTTPS),
        _ if text.eq_ignore_ascii_case("http") || text.eq_ignore_ascii_case("ws") => Some(Scheme::HTTP),
        _ => None,
    }
}

fn parse_host(text: &str) -> Option<Authority> {
    parse_authority(text.as_bytes()).ok()
}

/// RFC 7239 §6: an address, in brackets if IPv6, with or without a port; and a bare IPv6 address, as `X-Forwarded-For` has it.
fn parse_node(text: &str) -> Option<IpAddr> {
    let address = text.parse::<IpAddr>().ok().or_else(|| {
        if let Ok(socket) = text.parse::<SocketAddr>() {
            return Some(socket.ip());
        }
        // The port may be obfuscated too: `_` and letters.
        let (host, _port) = match text.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => text.split_once(':')?,
        };
        host.parse().ok()
    })?;
    Some(address.to_canonical())
}

/// One element of `Forwarded`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Element {
    node: Option<String>,
    proto: Option<String>,
    host: Option<String>,
}

/// Reads `Forwarded` (RFC 7239 §4). Where its syntax breaks, everything to the left of the break in that line is unreliable, and so is
/// the line: it counts as one element without an address.
fn forwarded_elements(headers: &HeaderMap) -> Vec<Element> {
    let mut elements = Vec::new();
    for line in headers.get_all(FORWARDED) {
        match line.to_str().ok().and_then(parse_forwarded) {
            Some(parsed) => elements.extend(parsed),
            None => elements.push(Element::default()),
        }
    }
    elements
}

/// What the elements of `Forwarded` say of the target, host and scheme, as they stand there. A line that can't be read is told as it is, in the
/// place of a host: others may read something in it.
pub fn forwarded_targets(headers: &HeaderMap) -> Vec<(Option<String>, Option<String>)> {
    let mut targets = Vec::new();
    for line in headers.get_all(FORWARDED) {
        match line.to_str().ok().and_then(parse_forwarded) {
            Some(elements) => targets.extend(elements.into_iter().map(|element| (element.host, element.proto))),
            None => targets.push((Some(line.as_bytes().escape_ascii().to_string()), None)),
        }
    }
    targets
}

fn parse_forwarded(line: &str) -> Option<Vec<Element>> {
    let mut elements = vec![];
    let mut element = Element::default();
    let mut empty = true;
    let mut rest = line.trim();
    loop {
        rest = rest.trim_start();
        let end = rest.find(['=', ';', ',']).unwrap_or(rest.len());
        if rest[end..].starts_with('=') {
            let name = rest[..end].trim_end();
            let (value, after) = parse_value(&rest[end + 1..])?;
            let slot = match name {
                _ if name.eq_ignore_ascii_case("for") => Some(&mut element.node),
                _ if name.eq_ignore_ascii_case("proto") => Some(&mut element.proto),
                _ if name.eq_ignore_ascii_case("host") => Some(&mut element.host),
                _ => None,
            };
            // RFC 7239 §4: each parameter at most once in an element.
            if let Some(slot) = slot
                && slot.replace(value).is_some()
            {
                return None;
            }
            empty = false;
            rest = after.trim_start();
        } else {
            if !rest[..end].trim().is_empty() {
                return None;
            }
            rest = &rest[end..];
        }
        match rest.as_bytes().first() {
            Some(b';') => {}
            Some(b',') | None => {
                if !std::mem::replace(&mut empty, true) {
                    elements.push(std::mem::take(&mut element));
                }
                if rest.is_empty() {
                    return Some(elements);
                }
            }
            Some(_) => return None,
        }
        rest = &rest[1..];
    }
}

/// A token or a quoted string (RFC 9110 §5.6.4) and what follows it. Colons are let through in tokens: many write `for=1.2.3.4:80`.
fn parse_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([';', ',', ' ', '\t', '"']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            _ => value.push(c),
        }
    }
    None
}

/// Writes what the upstream is told. From a stranger all such fields are removed first; a trusted proxy's are kept and continued.
/// `classes` are those of the head as it came. `scheme` and `authority` are those of the request as it reached this gateway.
///
/// `Forwarded` is continued where a trusted proxy began it and never begun: an upstream that reads both would have two sources for
/// one fact, and the older one is what upstreams read. A peer without an address adds nothing to a chain: a word in its place, such as
/// `unknown`, would end the walk of the next reader.
pub fn apply(headers: &mut HeaderMap, classes: HeaderClasses, peer: &Peer, scheme: &Scheme, authority: &Authority) {
    if !peer.trusted {
        if classes.has(HeaderClasses::FORWARDING) {
            let doomed: SmallVec<[HeaderName; 4]> =
                headers.keys().filter(|name| is_forwarding(name.as_str())).cloned().collect();
            for name in doomed {
                headers.remove(name);
            }
        }
        if let Some(value) = &peer.value {
            headers.insert(FOR, value.clone());
        }
        headers.insert(PROTO, proto(scheme));
        insert_host(headers, authority);
        return;
    }
    if let Some(value) = &peer.value {
        let chain = match headers.contains_key(FOR) {
            true => {
                let mut chain = Vec::new();
                for line in headers.get_all(FOR) {
                    chain.extend_from_slice(line.as_bytes());
                    chain.extend_from_slice(b", ");
                }
                chain.extend_from_slice(value.as_bytes());
                HeaderValue::try_from(chain).unwrap_or_else(|_| value.clone())
            }
            false => value.clone(),
        };
        headers.insert(FOR, chain);
    }
    if !headers.contains_key(PROTO) {
        headers.insert(PROTO, proto(scheme));
    }
    if !headers.contains_key(FORWARDED_HOST) {
        insert_host(headers, authority);
    }
    if headers.contains_key(FORWARDED) {
        // RFC 7239 §6: IPv6 goes in brackets and quotes; the host may have a port, so it is quoted as well.
        let node = match peer.address {
            ClientAddress::Ip(IpAddr::V4(v4)) => v4.to_string(),
            ClientAddress::Ip(IpAddr::V6(v6)) => format!("\"[{v6}]\""),
            ClientAddress::Unix => return,
        };
        if let Ok(value) = HeaderValue::try_from(format!("for={node};host=\"{authority}\";proto={scheme}")) {
            headers.append(FORWARDED, value);
        }
    }
}

fn proto(scheme: &Scheme) -> HeaderValue {
    HeaderValue::from_static(if *scheme == Scheme::HTTPS { "https" } else { "http" })
}

fn insert_host(headers: &mut HeaderMap, authority: &Authority) {
    // The Host field is nearly always the authority: then its bytes are shared.
    let shared = headers.get(HOST).filter(|host| host.as_bytes() == authority.as_str().as_bytes()).cloned();
    if let Some(value) = shared.or_else(|| HeaderValue::from_str(authority.as_str()).ok()) {
        headers.insert(FORWARDED_HOST, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets() -> TrustedPeers {
        let networks = ["10.0.0.0/8", "fd00::/8"].iter().map(|n| n.parse().unwrap()).collect();
        TrustedPeers { networks, unix: false }
    }

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(n, v)| (HeaderName::from_bytes(n.as_bytes()).unwrap(), HeaderValue::from_str(v).unwrap()))
            .collect()
    }

    fn apply_all(headers: &mut HeaderMap, peer: &Peer, scheme: &Scheme, authority: &Authority) {
        apply(headers, HeaderClasses::of(headers), peer, scheme, authority);
    }

    fn peer(address: &str) -> Peer {
        Peer::new(address.parse::<IpAddr>().unwrap(), &nets())
    }

    #[test]
    fn the_client_is_the_first_stranger_from_the_right() {
        type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);
        let table: &[Row] = &[
            ("192.0.2.1", &[("x-forwarded-for", "198.51.100.1")], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("::ffff:10.0.0.1", &[("x-forwarded-for", "198.51.100.1")], "198.51.100.1"),
            ("10.0.0.1", &[("x-forwarded-for", "6.6.6.6, 198.51.100.1, 10.0.0.2")], "198.51.100.1"),
            (
                "10.0.0.1",
                &[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "198.51.100.1,10.2.2.2")],
                "198.51.100.1",
            ),
            ("10.0.0.1", &[("x-forwarded-for", "10.0.0.3, 10.0.0.2")], "10.0.0.3"),
            ("10.0.0.1", &[("x-forwarded-for", "6.6.6.6, unknown, 10.0.0.2")], "10.0.0.2"),
            ("10.0.0.1", &[("x-forwarded-for", "6.6.6.6, _hidden")], "10.0.0.1"),
            ("10.0.0.1", &[("x-forwarded-for", "198.51.100.1:4711")], "198.51.100.1"),
            ("10.0.0.1", &[("x-forwarded-for", "2001:db8::1, fd00::2")], "2001:db8::1"),
            ("10.0.0.1", &[("x-forwarded-for", "[2001:db8::1]:99")], "2001:db8::1"),
            ("10.0.0.1", &[("x-forwarded-for", "::ffff:198.51.100.1")], "198.51.100.1"),
            // RFC 7239 §4, §6
            ("10.0.0.1", &[("forwarded", "for=198.51.100.1")], "198.51.100.1"),
            ("10.0.0.1", &[("forwarded", "For=\"[2001:db8::1]:99\";proto=https, for=10.0.0.7")], "2001:db8::1"),
            ("10.0.0.1", &[("forwarded", "for=6.6.6.6"), ("forwarded", "for=198.51.100.1:_p")], "198.51.100.1"),
            ("10.0.0.1", &[("forwarded", "for=6.6.6.6, for=_secret")], "10.0.0.1"),
            ("10.0.0.1", &[("forwarded", "for=6.6.6.6, for=\"10.0.0.9")], "10.0.0.1"),
            ("10.0.0.1", &[("forwarded", "for=\"a,for=6.6.6.6\", for=198.51.100.1")], "198.51.100.1"),
            ("10.0.0.1", &[("forwarded", "for=6.6.6.6;for=198.51.100.1")], "10.0.0.1"),
            ("10.0.0.1", &[("forwarded", "for=6.6.6.6"), ("x-forwarded-for", "198.51.100.1")], "198.51.100.1"),
        ];
        for (from, fields, want) in table {
            let got = client(&peer(from), &map(fields), &nets());
            assert_eq!(got.address.to_string(), *want, "{from} {fields:?}");
        }
    }

    #[test]
    fn scheme_and_host_come_from_the_same_hop() {
        let told = |fields: &[(&str, &str)]| {
            let info = client(&peer("10.0.0.1"), &map(fields), &nets());
            (
                info.scheme.map(|s| s.to_string()).unwrap_or_default(),
                info.host.map(|h| h.to_string()).unwrap_or_default(),
            )
        };
        let two = ("x-forwarded-for", "198.51.100.1, 10.0.0.2");
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(told(&[two, ("x-forwarded-proto", "https"), ("x-forwarded-host", "A.b")]), pair("https", "a.b"));
        assert_eq!(told(&[two, ("x-forwarded-proto", "HTTPS, http")]), pair("https", ""));
        let spoofed = ("x-forwarded-for", "6.6.6.6, 198.51.100.1, 10.0.0.2");
        assert_eq!(told(&[spoofed, ("x-forwarded-proto", "https, http, https")]), pair("http", ""));
        assert_eq!(told(&[spoofed, ("x-forwarded-proto", "https, http")]), pair("http", ""));
        assert_eq!(told(&[two, ("x-forwarded-proto", "gopher"), ("x-forwarded-host", "a b")]), pair("", ""));
        assert_eq!(told(&[("x-forwarded-proto", "https")]), pair("https", ""));
        let element = "for=198.51.100.1;proto=https;host=\"a.b:81\", for=10.0.0.2;proto=http";
        assert_eq!(told(&[("forwarded", element)]), pair("https", "a.b:81"));
        let stranger = client(&peer("192.0.2.1"), &map(&[("x-forwarded-proto", "https")]), &nets());
        assert_eq!(stranger.scheme, None);
    }

    #[test]
    fn a_stranger_starts_a_new_chain() {
        let mut headers = map(&[
            ("host", "a.example"),
            ("forwarded", "for=6.6.6.6"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil"),
            ("x-forwarded-port", "1"),
            ("x-forwarded-client-cert", "x"),
            ("x-real-ip", "6.6.6.6"),
        ]);
        apply_all(&mut headers, &peer("2001:db8::1"), &Scheme::HTTP, &Authority::from_static("a.example"));
        let want = [
            ("host", "a.example"),
            ("x-forwarded-for", "2001:db8::1"),
            ("x-forwarded-host", "a.example"),
            ("x-forwarded-proto", "http"),
        ];
        assert_eq!(headers, map(&want));
    }

    #[test]
    fn a_trusted_chain_is_continued() {
        let mut headers = map(&[
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-for", "198.51.100.1"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=198.51.100.1"),
            ("x-real-ip", "198.51.100.1"),
        ]);
        apply_all(&mut headers, &peer("fd00::1"), &Scheme::HTTP, &Authority::from_static("a.example:81"));
        assert_eq!(headers["x-forwarded-for"], "6.6.6.6, 198.51.100.1, fd00::1");
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["x-forwarded-host"], "a.example:81");
        assert_eq!(headers["x-real-ip"], "198.51.100.1");
        let forwarded: Vec<_> = headers.get_all(FORWARDED).iter().collect();
        assert_eq!(forwarded, ["for=198.51.100.1", "for=\"[fd00::1]\";host=\"a.example:81\";proto=http"]);
    }

    #[test]
    fn a_peer_over_a_unix_socket_has_no_address() {
        let fields = [("x-forwarded-for", "198.51.100.1"), ("forwarded", "for=198.51.100.1")];
        let told = |unix: bool, fields: &[(&str, &str)]| {
            let trusted = TrustedPeers { unix, ..nets() };
            let (peer, mut headers) = (Peer::new(ClientAddress::Unix, &trusted), map(fields));
            let found = client(&peer, &headers, &trusted).address.to_string();
            apply_all(&mut headers, &peer, &Scheme::HTTP, &Authority::from_static("a.example"));
            let field = |name| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
            (found, field(FOR), field(FORWARDED))
        };
        assert_eq!(told(false, &fields), ("unix:".to_owned(), None, None), "a stranger");
        let kept = (Some("198.51.100.1".to_owned()), Some("for=198.51.100.1".to_owned()));
        assert_eq!(told(true, &fields), ("198.51.100.1".to_owned(), kept.0, kept.1));
        assert_eq!(told(true, &[]), ("unix:".to_owned(), None, None));
    }
}
