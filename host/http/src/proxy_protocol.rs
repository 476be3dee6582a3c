//! The PROXY protocol, versions 1 and 2: the header in front of a connection by which a proxy says whose connection it is
//! (<https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>, cited as "PROXY"). Pure: who may send one, and for how long it is
//! waited for, is decided where the bytes are read.
//!
//! Written here because the crates that read it (`ppp`, `proxy-header`) leave the checksum to the caller, who must refuse a header
//! by it, and accept what the specification has receivers refuse.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest header that is read, with everything in it. The specification allows 64 KiB in version 2; what load balancers send is
/// a few hundred bytes, and nginx has the same bound.
pub const MAX_BYTES: usize = 4096;

/// PROXY §2.2: the first bytes of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length.
const FIXED: usize = 16;
/// PROXY §2.1: the longest line of version 1, with its end.
const MAX_LINE: usize = 107;
/// Of a type-length-value: type and length.
const TLV_HEAD: usize = 3;
const PP2_TYPE_CRC32C: u8 = 0x03;

/// Whose connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proxied {
    /// The proxy's own (`LOCAL`: a health check), or one whose addresses it does not know (`UNKNOWN`, `UNSPEC`): the addresses of the
    /// connection itself count.
    Own,
    /// Of a client over IP.
    Ip { source: SocketAddr, destination: SocketAddr },
    /// Of a client over a Unix socket, which has no address.
    Unix,
}

/// The versions of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// Why bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("the connection does not begin with a PROXY header")]
    Missing,
    #[error("the PROXY header is malformed")]
    Malformed,
    #[error("the PROXY header is longer than {MAX_BYTES} bytes")]
    TooLong,
    #[error("the checksum of the PROXY header is wrong")]
    Checksum,
}

/// Reads the header at the start of `bytes`; also answers how many bytes it has. `None`: more bytes are needed. After [`MAX_BYTES`]
/// bytes there is always an answer.
pub fn read(bytes: &[u8]) -> Result<Option<(Proxied, usize)>, HeaderError> {
    let begins_like = |start: &[u8]| bytes.iter().zip(start).all(|(byte, wanted)| byte == wanted);
    if begins_like(SIGNATURE) {
        return if bytes.len() < FIXED { Ok(None) } else { read_v2(bytes) };
    }
    if begins_like(b"PROXY ") { read_v1(bytes) } else { Err(HeaderError::Missing) }
}

/// PROXY §2.1.
fn read_v1(bytes: &[u8]) -> Result<Option<(Proxied, usize)>, HeaderError> {
    let window = &bytes[..bytes.len().min(MAX_LINE)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < MAX_LINE { Ok(None) } else { Err(HeaderError::Malformed) };
    };
    let line = std::str::from_utf8(&bytes[..end]).map_err(|_| HeaderError::Malformed)?;
    let mut words = line.split(' ').skip(1);
    let proxied = match words.next() {
        // What follows it is to be ignored.
        Some("UNKNOWN") => Proxied::Own,
        Some("TCP4") => ends(words, |text| text.parse::<Ipv4Addr>().ok().map(IpAddr::from))?,
        Some("TCP6") => ends(words, |text| text.parse::<Ipv6Addr>().ok().map(IpAddr::from))?,
        _ => return Err(HeaderError::Malformed),
    };
    Ok(Some((proxied, end + 2)))
}

fn ends<'a>(
    mut words: impl Iterator<Item = &'a str>,
    address: impl Fn(&str) -> Option<IpAddr>,
) -> Result<Proxied, HeaderError> {
    // Decimal digits without a sign and without leading zeros.
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| port.to_string() == text);
    let mut read = || {
        let (source, destination) = (address(words.next()?)?, address(words.next()?)?);
        let (from, to) = (port(words.next()?)?, port(words.next()?)?);
        words.next().is_none().then(|| ip((source, from), (destination, to)))
    };
    read().ok_or(HeaderError::Malformed)
}

/// PROXY §2.2. `bytes` has the fixed part.
fn read_v2(bytes: &[u8]) -> Result<Option<(Proxied, usize)>, HeaderError> {
    let (command, family) = (bytes[12], bytes[13]);
    let whole = FIXED + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if !matches!(command, 0x20 | 0x21) {
        return Err(HeaderError::Malformed);
    }
    if whole > MAX_BYTES {
        return Err(HeaderError::TooLong);
    }
    let Some(header) = bytes.get(..whole) else { return Ok(None) };
    if command == 0x20 {
        // LOCAL: all that follows is to be discarded, the family included.
        return Ok(Some((Proxied::Own, whole)));
    }
    // Family and transport. A client of a datagram protocol (QUIC) has an address just the same. Receivers must refuse other pairs.
    let addresses = match family {
        0x00 => return Ok(Some((Proxied::Own, whole))),
        0x11 | 0x12 => 12,
        0x21 | 0x22 => 36,
        0x31 | 0x32 => 216,
        _ => return Err(HeaderError::Malformed),
    };
    let Some((addresses, extensions)) = header[FIXED..].split_at_checked(addresses) else {
        return Err(HeaderError::Malformed);
    };
    check_extensions(header, extensions)?;
    let port = |at: usize| u16::from_be_bytes([addresses[at], addresses[at + 1]]);
    let proxied = match addresses.len() {
        12 => {
            let address = |at: usize| Ipv4Addr::from([0, 1, 2, 3].map(|i| addresses[at + i])).into();
            ip((address(0), port(8)), (address(4), port(10)))
        }
        36 => {
            let address = |at: usize| {
                let mut octets = [0; 16];
                octets.copy_from_slice(&addresses[at..at + 16]);
                Ipv6Addr::from(octets).into()
            };
            ip((address(0), port(32)), (address(16), port(34)))
        }
        _ => Proxied::Unix,
    };
    Ok(Some((proxied, whole)))
}

fn ip((source, from): (IpAddr, u16), (destination, to): (IpAddr, u16)) -> Proxied {
    let ends = |address: IpAddr, port| SocketAddr::new(address.to_canonical(), port);
    Proxied::Ip { source: ends(source, from), destination: ends(destination, to) }
}

/// PROXY §2.2.1 and following: walks the extensions, of which only the checksum (§2.2.3) is read.
fn check_extensions(header: &[u8], mut rest: &[u8]) -> Result<(), HeaderError> {
    while !rest.is_empty() {
        let Some((head, behind)) = rest.split_at_checked(TLV_HEAD) else { return Err(HeaderError::Malformed) };
        let length = usize::from(u16::from_be_bytes([head[1], head[2]]));
        let Some((value, behind)) = behind.split_at_checked(length) else { return Err(HeaderError::Malformed) };
        if head[0] == PP2_TYPE_CRC32C {
            let Ok(told) = <[u8; 4]>::try_from(value) else { return Err(HeaderError::Malformed) };
            let at = header.len() - behind.len() - told.len();
            // It is the sum of the header with zeros in its own place.
            let with_zeros = header[..at].iter().chain(&[0; 4]).chain(behind);
            if crc32c(with_zeros) != u32::from_be_bytes(told) {
                return Err(HeaderError::Checksum);
            }
        }
        rest = behind;
    }
    Ok(())
}

/// The CRC of RFC 9260 appendix A, bit by bit: it is needed once for a connection, over some hundred bytes.
fn crc32c<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    const REFLECTED: u32 = 0x82f6_3b78;
    !bytes.fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (REFLECTED & (sum & 1).wrapping_neg()))
    })
}

/// A header, as it is written in front of a connection.
pub fn write(version: Version, proxied: Proxied) -> Vec<u8> {
    match version {
        Version::V1 => write_v1(proxied).into_bytes(),
        Version::V2 => write_v2(proxied),
    }
}

fn write_v1(proxied: Proxied) -> String {
    match pair(proxied) {
        Some((from, IpAddr::V4(source), to, IpAddr::V4(destination))) => {
            format!("PROXY TCP4 {source} {destination} {from} {to}\r\n")
        }
        Some((from, source, to, destination)) => {
            format!("PROXY TCP6 {} {} {from} {to}\r\n", mapped(source), mapped(destination))
        }
        // It has no word for a Unix socket, nor for a connection of the proxy itself.
        None => "PROXY UNKNOWN\r\n".to_owned(),
    }
}

fn write_v2(proxied: Proxied) -> Vec<u8> {
    let (command, family, addresses) = match (pair(proxied), proxied) {
        (Some((from, IpAddr::V4(source), to, IpAddr::V4(destination))), _) => {
            let addresses = [source.octets(), destination.octets()].concat();
            (0x21, 0x11, [&addresses[..], &from.to_be_bytes(), &to.to_be_bytes()].concat())
        }
        (Some((from, source, to, destination)), _) => {
            let addresses = [mapped(source).octets(), mapped(destination).octets()].concat();
            (0x21, 0x21, [&addresses[..], &from.to_be_bytes(), &to.to_be_bytes()].concat())
        }
        (None, Proxied::Unix) => (0x21, 0x31, vec![0; 216]),
        (None, Proxied::Own | Proxied::Ip { .. }) => (0x20, 0x00, Vec::new()),
    };
    // At most 216, which fits into the two bytes of the length.
    let length = (addresses.len() as u16).to_be_bytes();
    [&SIGNATURE[..], &[command, family], &length, &addresses].concat()
}

fn pair(proxied: Proxied) -> Option<(u16, IpAddr, u16, IpAddr)> {
    match proxied {
        Proxied::Ip { source, destination } => {
            Some((source.port(), source.ip().to_canonical(), destination.port(), destination.ip().to_canonical()))
        }
        Proxied::Own | Proxied::Unix => None,
    }
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(source: &str, destination: &str) -> Proxied {
        Proxied::Ip { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    /// A header of version 2.
    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        [&SIGNATURE[..], &[command, family], &(rest.len() as u16).to_be_bytes(), rest].concat()
    }

    const V4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x67, 0, 80];

    #[test]
    fn headers_of_both_versions() {
        let four = client("192.0.2.7:4711", "10.0.0.1:80");
        let six = client("[2001:db8::7]:4711", "[2001:db8::1]:443");
        let line = |text: &str| text.as_bytes().to_vec();
        let mut v6 = Vec::new();
        for address in ["2001:db8::7", "2001:db8::1"] {
            v6.extend(address.parse::<Ipv6Addr>().unwrap().octets());
        }
        v6.extend([0x12, 0x67, 1, 0xbb]);
        let alpn = [&V4[..], &[1, 0, 2], b"h2", &[0xea, 0, 0]].concat();
        for (header, want) in [
            (line("PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\r\n"), four),
            (line("PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n"), six),
            (line("PROXY TCP6 ::ffff:192.0.2.7 ::ffff:10.0.0.1 4711 80\r\n"), four),
            (line("PROXY UNKNOWN\r\n"), Proxied::Own),
            (line("PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n"), Proxied::Own),
            (v2(0x21, 0x11, &V4), four),
            (v2(0x21, 0x12, &V4), four),
            (v2(0x21, 0x21, &v6), six),
            (v2(0x21, 0x11, &alpn), four),
            (v2(0x21, 0x31, &[b'/'; 216]), Proxied::Unix),
            (v2(0x21, 0x00, b"anything"), Proxied::Own),
            (v2(0x20, 0x00, b""), Proxied::Own),
            (v2(0x20, 0xff, b"anything"), Proxied::Own),
        ] {
            let behind = [&header[..], b"GET / HTTP/1.1\r\n\r\n"].concat();
            assert_eq!(read(&behind), Ok(Some((want, header.len()))), "{header:?}");
            for cut in 0..header.len() {
                assert_eq!(read(&header[..cut]), Ok(None), "{cut} bytes of {header:?}");
            }
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let long = [&b"PROXY TCP4 "[..], &[b'1'; 120]].concat();
        let cases: &[(&[u8], HeaderError)] = &[
            (b"GET / HTTP/1.1\r\n", HeaderError::Missing),
            (b"\x16\x03\x01", HeaderError::Missing),
            (b"\r\n\r\n\r", HeaderError::Missing),
            (b"PROXI", HeaderError::Missing),
            (b"PROXY TCP5 1.1.1.1 2.2.2.2 1 2\r\n", HeaderError::Malformed),
            (b"PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n", HeaderError::Malformed),
            (b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n", HeaderError::Malformed),
            (b"PROXY TCP4  1.1.1.1 2.2.2.2 1 2\r\n", HeaderError::Malformed),
            (b"PROXY TCP4 1.1.1.01 2.2.2.2 1 2\r\n", HeaderError::Malformed),
            (b"PROXY TCP4 ::1 ::1 1 2\r\n", HeaderError::Malformed),
            (b"PROXY TCP4 1.1.1.1 2.2.2.2 +1 2\r\n", HeaderError::Malformed),
            (b"PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n", HeaderError::Malformed),
            (b"PROXY TCP4 1.1.1.1 2.2.2.2 1 65536\r\n", HeaderError::Malformed),
            (b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n\r\n", HeaderError::Malformed),
            (b"PROXY \xff\r\n", HeaderError::Malformed),
            (&long, HeaderError::Malformed),
        ];
        for (bytes, want) in cases {
            assert_eq!(read(bytes), Err(*want), "{}", String::from_utf8_lossy(bytes));
        }
        let short = [&V4[..], &[1, 0]].concat();
        let overrun = [&V4[..], &[1, 0, 9, 0]].concat();
        let sum = [&V4[..], &[3, 0, 3, 0, 0, 0]].concat();
        for (command, family, rest) in [
            (0x11, 0x11, &V4[..]),
            (0x22, 0x11, &V4),
            (0x21, 0x10, &V4),
            (0x21, 0x41, &V4),
            (0x21, 0x13, &V4),
            (0x21, 0x21, &V4),
            (0x21, 0x31, &V4),
            (0x21, 0x11, &short),
            (0x21, 0x11, &overrun),
            (0x21, 0x11, &sum),
        ] {
            assert_eq!(
                read(&v2(command, family, rest)),
                Err(HeaderError::Malformed),
                "{command:x} {family:x} {rest:?}"
            );
        }
        let mut endless = v2(0x21, 0x11, &V4);
        endless[14..16].copy_from_slice(&[0xff, 0xff]);
        assert_eq!(read(&endless), Err(HeaderError::TooLong));
    }

    #[test]
    fn the_checksum_is_checked() {
        // RFC 9260 appendix A and RFC 3720 §B.4.
        assert_eq!(crc32c(b"123456789".iter()), 0xe306_9283);
        assert_eq!(crc32c([0; 32].iter()), 0x8a91_36aa);
        let sum_at = FIXED + V4.len() + TLV_HEAD;
        let mut header = v2(0x21, 0x11, &[&V4[..], &[3, 0, 4, 0, 0, 0, 0, 4, 0, 1, 0]].concat());
        let sum = crc32c(header.iter()).to_be_bytes();
        header[sum_at..sum_at + 4].copy_from_slice(&sum);
        assert_eq!(read(&header), Ok(Some((client("192.0.2.7:4711", "10.0.0.1:80"), header.len()))));
        header[FIXED] ^= 1;
        assert_eq!(read(&header), Err(HeaderError::Checksum));
    }

    #[test]
    fn what_is_written_is_read() {
        let mixed = client("192.0.2.7:0", "[2001:db8::1]:443");
        for proxied in [client("192.0.2.7:4711", "10.0.0.1:80"), client("[::1]:1", "[::2]:2"), mixed, Proxied::Own] {
            for version in [Version::V1, Version::V2] {
                let header = write(version, proxied);
                assert_eq!(read(&header), Ok(Some((proxied, header.len()))), "{header:?}");
            }
        }
        assert_eq!(read(&write(Version::V1, Proxied::Unix)), Ok(Some((Proxied::Own, 15))));
        assert_eq!(read(&write(Version::V2, Proxied::Unix)), Ok(Some((Proxied::Unix, 232))));
        assert_eq!(write(Version::V1, mixed), b"PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 0 443\r\n");
    }
}
