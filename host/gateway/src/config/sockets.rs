//! Reads where a listener takes connections and who is believed at their other end.

use super::defaults;
use super::gateway::network;
use super::item::Item;
use super::model::ProxyProtocol;
use super::read::Table;
use crate::http::forwarded::TrustedPeers;

/// How peers over Unix sockets are written, as in nginx.
const UNIX: &str = "unix:";

/// A list of networks, and `unix:`.
pub(super) fn trusted_peers(item: Item<'_>) -> Option<TrustedPeers> {
    let mut unix = false;
    let networks = item.list(|item| {
        if item.as_str() == Some(UNIX) {
            unix = true;
            return Some(None);
        }
        network(item.taking(r#"an address or network like "10.0.0.0/8", or "unix:""#)).map(Some)
    })?;
    Some(TrustedPeers { networks: networks.into_iter().flatten().collect(), unix })
}

/// Reads `[listeners.*.proxy_protocol]`.
pub(super) fn proxy_protocol(table: &Table<'_>) -> Option<ProxyProtocol> {
    let trusted = table
        .key(
            "trusted",
            "The addresses of the proxies that send a PROXY header, version 1 or 2: each of their connections must begin with one. `unix:` stands for those over a Unix socket. Connections of others are served by their own address.",
            r#"["10.0.0.0/8"]"#,
        )
        .require(trusted_peers);
    let timeout = table
        .key("timeout", "From the connection to the end of its PROXY header.", r#""2s""#)
        .or(defaults::PROXY_PROTOCOL_TIMEOUT, Item::duration);
    Some(ProxyProtocol { trusted: trusted?, timeout })
}
