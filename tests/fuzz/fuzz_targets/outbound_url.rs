//! Where calls may go: no panic, one class for all forms of an address, no private address in the reach of a public name, and no URL
//! that names another upstream or origin than is granted.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libfuzzer_sys::fuzz_target;
use sluice_services::addresses::{is_private_name, special};
use sluice_services::outbound::upstream_name;
use sluice_services::{Origin, Origins, Reach};
use url::Url;

fn address(v4: Ipv4Addr, v6: Ipv6Addr) {
    // What the standard library knows, and what it doesn't promise yet.
    let is_special =
        v4.is_loopback() || v4.is_private() || v4.is_link_local() || v4.is_unspecified() || v4.is_multicast();
    let class = special(IpAddr::V4(v4));
    assert!(class.is_some() || !is_special, "{v4}");
    // Each way to write it as one of IPv6 (RFC 4291, RFC 6052, RFC 3056) leads to the same place.
    let [a, b, c, d] = v4.octets().map(u16::from);
    let (high, low) = (a << 8 | b, c << 8 | d);
    for form in [
        Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, high, low),
        Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
        Ipv6Addr::new(0x2002, high, low, v6.segments()[3], 0, 0, 0, v6.segments()[7]),
    ] {
        assert_eq!(special(IpAddr::V6(form)), class, "{form}");
    }
    let is_special = v6.is_loopback() || v6.is_unspecified() || v6.is_multicast() || v6.is_unique_local();
    let class = special(IpAddr::V6(v6));
    assert!(class.is_some() || !is_special && !v6.is_unicast_link_local(), "{v6}");
    for address in [IpAddr::V4(v4), IpAddr::V6(v6)] {
        assert_eq!(Reach::Public.allows(address), special(address).is_none());
        assert!(!Reach::Loopback.allows(address) || address.to_canonical().is_loopback());
    }
}

fn url(text: &str) {
    is_private_name(text);
    let Ok(url) = Url::parse(text) else { return };
    if let Ok(name) = upstream_name(&url) {
        assert!(!name.is_empty() && !name.contains(['/', '?', '#', '@']), "{name}");
        assert!(url.port().is_none() && url.username().is_empty());
    }
    let Ok(origin) = Origin::of(&url) else { return };
    assert!(url.username().is_empty() && url.password().is_none());
    // What is granted is what is called: the text of an origin reads as the same one.
    let granted = Origins::parse([origin.to_string().as_str()]).expect("an origin reads as one");
    let reach = granted.check(&origin).expect("it is granted");
    assert_eq!(reach == Reach::Any, origin.host.parse::<IpAddr>().is_ok(), "{origin}");
    let other = Origin { port: origin.port ^ 1, ..origin };
    assert!(granted.check(&other).is_err());
}

fuzz_target!(|data: &[u8]| {
    if let Some((bytes, _)) = data.split_first_chunk::<16>() {
        let v6 = Ipv6Addr::from(*bytes);
        let [a, b, c, d, ..] = *bytes;
        address(Ipv4Addr::new(a, b, c, d), v6);
    }
    if let Ok(text) = std::str::from_utf8(data) {
        url(text);
    }
});
