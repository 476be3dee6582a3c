//! Which addresses a call to a granted origin may go to. A name says nothing of where it leads, and whoever answers for it can change that at
//! any time (DNS rebinding): so the addresses are checked, at each try, and not the name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::grants::Origin;

/// Where the calls to an origin may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reach {
    /// Addresses of the Internet.
    Public,
    /// The origin is `localhost`: this machine.
    Loopback,
    /// Any: the origin is granted as an address, or with `allow_private`, or the operator's own configuration names it.
    Any,
}

impl Reach {
    pub(crate) const ALL: [Reach; 3] = [Reach::Public, Reach::Loopback, Reach::Any];

    /// What the operator allows by granting an origin.
    pub(crate) fn of(origin: &Origin, allow_private: bool) -> Reach {
        match allow_private || origin.host.parse::<IpAddr>().is_ok() {
            true => Reach::Any,
            false if origin.host == "localhost" => Reach::Loopback,
            false => Reach::Public,
        }
    }

    /// Whether a call may go to this address.
    pub fn allows(self, address: IpAddr) -> bool {
        match self {
            Reach::Public => special(address).is_none(),
            Reach::Loopback => address.to_canonical().is_loopback(),
            Reach::Any => true,
        }
    }
}

/// What an address is for if it is none of the Internet, by the registries of IANA (RFC 6890).
pub fn special(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => special_v4(v4),
        IpAddr::V6(v6) => special_v6(v6),
    }
}

fn special_v4(address: Ipv4Addr) -> Option<&'static str> {
    match address.octets() {
        [0, ..] => Some("unspecified"),
        // Azure's, although it is an address of the Internet otherwise.
        [169, 254, 169, 254] | [168, 63, 129, 16] => Some("metadata"),
        // RFC 6598.
        [100, 64..=127, ..] => Some("carrier NAT"),
        // RFC 6890, RFC 2544 and RFC 1112.
        [192, 0, 0, _] | [198, 18..=19, ..] | [240..=254, ..] => Some("reserved"),
        _ if address.is_loopback() => Some("loopback"),
        _ if address.is_private() => Some("private"),
        _ if address.is_link_local() => Some("link-local"),
        _ if address.is_multicast() => Some("multicast"),
        _ if address.is_broadcast() => Some("broadcast"),
        _ if address.is_documentation() => Some("documentation"),
        _ => None,
    }
}

fn special_v6(address: Ipv6Addr) -> Option<&'static str> {
    if let Some(v4) = embedded(address) {
        return special_v4(v4);
    }
    match address.segments() {
        // Of Amazon and of Google.
        [0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254] | [0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254] => Some("metadata"),
        // RFC 8215: what it leads to is known to the network alone. RFC 4380: Teredo.
        [0x0064, 0xff9b, 1, ..] | [0x2001, 0, ..] => Some("tunnel"),
        // RFC 3879, RFC 6666, RFC 3849 and RFC 9637.
        [0xfec0..=0xfeff, ..] => Some("site-local"),
        [0x0100, 0, 0, 0, ..] => Some("reserved"),
        // RFC 5180, RFC 4843, RFC 7343 and RFC 9602.
        [0x2001, 2, 0, ..] | [0x2001, 0x10..=0x2f, ..] | [0x5f00, ..] => Some("reserved"),
        [0x2001, 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] => Some("documentation"),
        _ if address.is_unspecified() => Some("unspecified"),
        _ if address.is_loopback() => Some("loopback"),
        _ if address.is_unique_local() => Some("private"),
        _ if address.is_unicast_link_local() => Some("link-local"),
        _ if address.is_multicast() => Some("multicast"),
        _ => None,
    }
}

/// The IPv4 address that an IPv6 address leads to: mapped (RFC 4291), compatible, translated (RFC 2765), NAT64 (RFC 6052) or 6to4 (RFC 3056).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let of = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        // `::` and `::1` have names of their own.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x0064, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => Some(of(high, low)),
        _ => None,
    }
}

/// Whether a name is one that leads to a private address as a rule: it has no dot, or ends as names of private networks do.
pub fn is_private_name(host: &str) -> bool {
    const ENDINGS: [&str; 9] =
        [".internal", ".local", ".localhost", ".lan", ".intranet", ".corp", ".private", ".home.arpa", ".svc"];
    let host = host.strip_suffix('.').unwrap_or(host);
    host.parse::<IpAddr>().is_err()
        && host != "localhost"
        && (!host.contains('.') || ENDINGS.iter().any(|ending| host.ends_with(ending)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_of_addresses_is_known_in_each_form() {
        let cases = [
            ("0.0.0.0", Some("unspecified")),
            ("0.1.2.3", Some("unspecified")),
            ("127.0.0.1", Some("loopback")),
            ("127.255.255.254", Some("loopback")),
            ("10.0.0.1", Some("private")),
            ("172.16.0.1", Some("private")),
            ("172.31.255.255", Some("private")),
            ("172.32.0.1", None),
            ("192.168.0.1", Some("private")),
            ("100.64.0.1", Some("carrier NAT")),
            ("100.100.100.200", Some("carrier NAT")),
            ("100.128.0.1", None),
            ("169.254.1.1", Some("link-local")),
            ("169.254.169.254", Some("metadata")),
            ("168.63.129.16", Some("metadata")),
            ("192.0.0.192", Some("reserved")),
            ("192.0.2.1", Some("documentation")),
            ("198.18.0.1", Some("reserved")),
            ("224.0.0.1", Some("multicast")),
            ("240.0.0.1", Some("reserved")),
            ("255.255.255.255", Some("broadcast")),
            ("8.8.8.8", None),
            ("::", Some("unspecified")),
            ("::1", Some("loopback")),
            ("::ffff:127.0.0.1", Some("loopback")),
            ("::ffff:169.254.169.254", Some("metadata")),
            ("::10.0.0.1", Some("private")),
            ("::ffff:0:10.0.0.1", Some("private")),
            ("64:ff9b::10.0.0.1", Some("private")),
            ("64:ff9b::8.8.8.8", None),
            ("64:ff9b:1::8.8.8.8", Some("tunnel")),
            ("2002:7f00:1::", Some("loopback")),
            ("2002:808:808::1", None),
            ("2001::1", Some("tunnel")),
            ("2001:db8::1", Some("documentation")),
            ("100::1", Some("reserved")),
            ("fc00::1", Some("private")),
            ("fdff::1", Some("private")),
            ("fd00:ec2::254", Some("metadata")),
            ("fe80::1", Some("link-local")),
            ("fec0::1", Some("site-local")),
            ("ff02::1", Some("multicast")),
            ("2606:4700::1111", None),
        ];
        for (text, class) in cases {
            let address = text.parse().unwrap();
            assert_eq!(special(address), class, "{text}");
            assert_eq!(Reach::Public.allows(address), class.is_none(), "{text}");
            assert!(Reach::Any.allows(address), "{text}");
            assert_eq!(
                Reach::Loopback.allows(address),
                class == Some("loopback") && !text.starts_with("2002"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_grant_reaches_what_it_names() {
        let reach = |host: &str, private| Reach::of(&Origin { https: true, host: host.to_owned(), port: 443 }, private);
        assert_eq!(reach("auth.example", false), Reach::Public);
        assert_eq!(reach("auth.example", true), Reach::Any);
        assert_eq!(reach("localhost", false), Reach::Loopback);
        assert_eq!(reach("a.localhost", false), Reach::Public);
        assert_eq!(reach("10.0.0.1", false), Reach::Any);
        assert_eq!(reach("::1", false), Reach::Any);
    }

    #[test]
    fn names_of_private_networks() {
        for (name, is_private) in [
            ("auth", true),
            ("auth.internal", true),
            ("auth.ns.svc", true),
            ("auth.example.com", false),
            ("internal.example", false),
            ("localhost", false),
            ("10.0.0.1", false),
            ("::1", false),
        ] {
            assert_eq!(is_private_name(name), is_private, "{name}");
        }
    }
}
