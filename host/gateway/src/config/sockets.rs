//! Reads where a listener takes connections and who is believed at their other end.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::defaults;
use super::gateway::network;
use super::item::Item;
use super::model::{Account, BindAddress, FileMode, ProxyProtocol, UNIX, UnixName, UnixSocket};
use super::read::Table;
use crate::http::forwarded::TrustedPeers;

/// The addresses that are taken, with the key that takes each.
#[derive(Default)]
pub(super) struct Binds {
    ip: BTreeMap<SocketAddr, String>,
    unix: BTreeMap<UnixName, String>,
}

/// Reads the address of a listener, and what `unix_socket` beside it says of a Unix socket.
pub(super) fn bind(table: &Table<'_>, item: &Item<'_>, binds: &mut Binds) -> Option<BindAddress> {
    let permissions = table.optional_table("unix_socket").map(|table| (unix_socket(&table), table));
    let what = r#"an address like "0.0.0.0:8080", "[::]:8080" or "unix:/run/sluice/http.sock""#;
    if let Some(name) = item.as_str().and_then(|text| text.strip_prefix(UNIX)) {
        let Some(name) = unix_name(item, name) else {
            item.clone().parse::<()>(what, |_| None);
            return None;
        };
        if let Some(other) = binds.unix.get(&name) {
            item.fail(format!("the socket {name} is already that of `{other}`"));
        }
        binds.unix.insert(name.clone(), item.path.clone());
        let (mode, owner, group) = permissions.map_or((defaults::UNIX_SOCKET_MODE, None, None), |(read, _)| read);
        return Some(BindAddress::Unix(Box::new(UnixSocket { name, mode, owner, group })));
    }
    let address: SocketAddr = item.clone().parse(what, |text| text.parse().ok())?;
    if let Some((_, table)) = permissions {
        table.fail("`unix_socket` is for a `bind` of the form \"unix:/run/sluice/http.sock\"");
    }
    // Port 0 is a different one each time.
    if address.port() != 0 {
        if let Some(other) = binds.ip.get(&address) {
            item.fail(format!("the address {address} is already that of `{other}`"));
        } else if let Some((known, other)) = binds.ip.iter().find(|(known, _)| overlap(address, **known)) {
            item.fail(format!("the address {address} overlaps with {known} of `{other}`"));
        }
        binds.ip.insert(address, item.path.clone());
    }
    Some(BindAddress::Ip(address))
}

/// Whether the system refuses to bind one while the other is bound. `[::]` takes IPv4 as well.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let takes = |wide: SocketAddr, narrow: SocketAddr| {
        wide.ip().is_unspecified() && (wide.is_ipv6() || narrow.is_ipv4()) || wide.ip() == narrow.ip()
    };
    one.port() == other.port() && (takes(one, other) || takes(other, one))
}

/// What follows `unix:`. A relative path starts from the file that has it.
pub(super) fn unix_name(item: &Item<'_>, text: &str) -> Option<UnixName> {
    let name = match text.strip_prefix('@') {
        Some(name) => UnixName::Abstract(name.to_owned()),
        None => UnixName::Path(item.directory().join(text)),
    };
    let is_empty = matches!(text, "" | "@");
    (!is_empty && name.fits() && !text.contains('\0')).then_some(name)
}

/// Reads `[*.unix_socket]`: mode, owner and group.
fn unix_socket(table: &Table<'_>) -> (FileMode, Option<Account>, Option<Account>) {
    let mode = table
        .key(
            "mode",
            "The mode of the file of a Unix socket, in octal digits. Who can write it can connect.",
            r#""0666""#,
        )
        .or(defaults::UNIX_SOCKET_MODE, |item| item.parse(r#"a mode like "0660""#, mode));
    let owner = table
        .key(
            "owner",
            "The owner of that file: a name in `/etc/passwd`, or an id. Only root can set another one.",
            r#""www-data""#,
        )
        .get("the user of the process", |item| account(&item));
    let group = table
        .key("group", "The group of that file: a name in `/etc/group`, or an id.", r#""www-data""#)
        .get("the group of the process", |item| account(&item));
    (mode, owner, group)
}

fn mode(text: &str) -> Option<FileMode> {
    let is_octal = text.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
    u32::from_str_radix(text, 8).ok().filter(|mode| is_octal && *mode <= 0o777).map(FileMode)
}

fn account(item: &Item<'_>) -> Option<Account> {
    item.clone().parse("a name or an id", |text| match text.parse() {
        Ok(id) => Some(Account::Id(id)),
        Err(_) if text.is_empty() || text.contains(':') => None,
        Err(_) => Some(Account::Name(text.to_owned())),
    })
}

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
