//! Lists of addresses: no panic for any list, and the same answers as each line gives alone to a naive reader.
#![no_main]

#[path = "../../../plugins/ip-filter/src/lib.rs"]
mod plugin;

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use sluice_filter::Verdict;
use sluice_filter::testing::{Exchange, Harness};

/// As 128 bits, IPv4 where RFC 4291 §2.5.5.2 maps it.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Whether an address is in the prefix of a line that was accepted.
fn is_in(line: &str, address: IpAddr) -> bool {
    let (net, length) = line.split_once('/').map_or((line, None), |(net, length)| (net, Some(length)));
    let net: IpAddr = net.parse().expect("an address");
    let length = length.map_or(128, |length| {
        let length: u32 = length.parse().expect("a length");
        if net.is_ipv4() { length + 96 } else { length }
    });
    let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
    // A prefix that holds all mapped addresses and others is one of IPv6.
    let is_v4 = address.to_canonical().is_ipv4();
    let of_v4 = net.to_canonical().is_ipv4() && length >= 96;
    is_v4 == of_v4 && bits(net) & mask == bits(address) & mask
}

fuzz_target!(|data: &[u8]| {
    let Some((bytes, text)) = data.split_first_chunk::<16>() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let Ok(filter) = Harness::<plugin::IpFilter>::new(serde_json::json!({ "deny": text })) else { return };
    let lines = || text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).filter(|l| !l.is_empty());
    // The one of the input, and those about the first line.
    let near = lines().next().and_then(|line| line.split('/').next()?.parse::<IpAddr>().ok()).map(bits);
    let mut addresses = vec![IpAddr::from(*bytes), IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]])];
    if let Some(near) = near {
        let about = [near, near.wrapping_add(1), near.wrapping_sub(1), near ^ (1 << (bytes[0] % 128))];
        addresses.extend(about.map(|bits| IpAddr::V6(bits.into()).to_canonical()));
    }
    for address in addresses {
        let mut exchange = Exchange::get("/");
        exchange.request.client_address = address.to_string();
        let verdict = filter.on_request(&mut exchange).expect("no failure");
        let is_denied = lines().any(|line| is_in(line, address));
        assert_eq!(verdict == Verdict::Respond, is_denied, "{address}");
    }
});
