//! A set of addresses, as ranges in their order: a look-up is a binary search, whatever the prefixes are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Prefixes, merged where they touch.
#[derive(Default)]
pub(crate) struct List {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl List {
    /// The set of these texts, or what is said of the first that is none.
    pub(crate) fn new(entries: Vec<(String, String)>) -> Result<List, (String, String)> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (at, text) in entries {
            match parse(&text) {
                Ok(IpNet::V4(net)) => v4.push(net),
                Ok(IpNet::V6(net)) => v6.push(net),
                Err(why) => return Err((at, format!("`{text}` {why}"))),
            }
        }
        let mut v4: Vec<_> =
            Ipv4Net::aggregate(&v4).iter().map(|net| (net.network().to_bits(), net.broadcast().to_bits())).collect();
        let mut v6: Vec<_> =
            Ipv6Net::aggregate(&v6).iter().map(|net| (net.network().to_bits(), net.broadcast().to_bits())).collect();
        v4.sort_unstable();
        v6.sort_unstable();
        Ok(List { v4, v6 })
    }

    /// Whether an address is in the set. An IPv4 address that is written as one of IPv6 is the same address.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => covers(&self.v4, address.to_bits()),
            IpAddr::V6(address) => covers(&self.v6, address.to_bits()),
        }
    }
}

fn covers<T: Ord + Copy>(ranges: &[(T, T)], address: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= address);
    after.checked_sub(1).and_then(|at| ranges.get(at)).is_some_and(|(_, last)| *last >= address)
}

/// An address or a prefix. One with bits behind its length is a mistake more often than not. `010.0.0.0` is none: some take it for `8.0.0.0`
/// (RFC 6943 §3.1.1), and `IpNet` would read it as `10.0.0.0`.
fn parse(text: &str) -> Result<IpNet, &'static str> {
    const EXPECTED: &str = "is neither an address nor a prefix such as `10.0.0.0/8`";
    let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
    let address: IpAddr = address.parse().map_err(|_| EXPECTED)?;
    let net = match length {
        None => IpNet::from(address),
        Some(digits) => {
            let length = digits.parse().ok().filter(|length: &u8| length.to_string() == digits).ok_or(EXPECTED)?;
            IpNet::new(address, length).map_err(|_| EXPECTED)?
        }
    };
    if net.trunc() != net {
        return Err("has bits behind the length of its prefix");
    }
    match net {
        IpNet::V6(net) => Ok(unmapped(net)),
        net => Ok(net),
    }
}

/// `::ffff:10.0.0.0/104` is `10.0.0.0/8`.
fn unmapped(net: Ipv6Net) -> IpNet {
    let v4: Option<Ipv4Addr> = Ipv6Addr::to_ipv4_mapped(&net.network());
    let length = net.prefix_len().checked_sub(96);
    match v4.zip(length).and_then(|(address, length)| Ipv4Net::new(address, length).ok()) {
        Some(net) => IpNet::V4(net),
        None => IpNet::V6(net),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[&str]) -> Result<List, String> {
        List::new(entries.iter().map(|entry| (String::new(), (*entry).to_owned())).collect()).map_err(|(_, why)| why)
    }

    #[test]
    fn a_look_up_agrees_with_each_prefix_alone() {
        // A fixed sequence of prefixes and addresses (splitmix64).
        let mut state = 7_u64;
        let mut next = || {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        };
        let nets: Vec<Ipv4Net> = (0..500)
            .map(|_| Ipv4Net::new(Ipv4Addr::from_bits(next() as u32), 8 + (next() % 25) as u8).unwrap().trunc())
            .collect();
        let texts: Vec<String> = nets.iter().map(ToString::to_string).collect();
        let list = list(&texts.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
        for _ in 0..20_000 {
            let near = nets[next() as usize % nets.len()];
            let address =
                Ipv4Addr::from_bits(near.broadcast().to_bits().wrapping_add((next() % 5) as u32).wrapping_sub(2));
            assert_eq!(list.has(address.into()), nets.iter().any(|net| net.contains(&address)), "{address}");
        }
    }

    #[test]
    fn both_families_and_mapped_addresses() {
        let list =
            list(&["10.0.0.0/8", "2001:db8::/32", "192.0.2.1", "::ffff:198.51.100.0/120", "0.0.0.0/32"]).unwrap();
        let has = |text: &str| list.has(text.parse().unwrap());
        for text in [
            "10.0.0.0",
            "10.255.255.255",
            "::ffff:10.1.2.3",
            "2001:db8::",
            "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
            "192.0.2.1",
            "198.51.100.255",
            "0.0.0.0",
        ] {
            assert!(has(text), "{text}");
        }
        for text in [
            "9.255.255.255",
            "11.0.0.0",
            "2001:db7:ffff::",
            "2001:db9::",
            "192.0.2.2",
            "198.51.101.0",
            "::10.0.0.1",
            "0.0.0.1",
        ] {
            assert!(!has(text), "{text}");
        }
        let all = self::list(&["0.0.0.0/0"]).unwrap();
        assert!(all.has("255.255.255.255".parse().unwrap()) && !all.has("::1".parse().unwrap()));
    }

    #[test]
    fn what_is_no_prefix_is_refused() {
        for (text, why) in [
            ("10.0.0.1/8", "has bits behind"),
            ("10.0.0.0/33", "is neither"),
            ("10.0.0", "is neither"),
            ("10.03.0.0/16", "is neither"),
            ("010.0.0.0/8", "is neither"),
            ("10.0.0.0/08", "is neither"),
            ("10.0.0.0/+8", "is neither"),
            ("host.example", "is neither"),
            ("", "is neither"),
        ] {
            assert!(list(&[text]).err().is_some_and(|said| said.contains(why)), "{text}");
        }
    }
}
