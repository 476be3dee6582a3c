//! Reads `[gateway]`, `[telemetry]`, `[admin]`, `[listeners]` and `[certificates]`.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use http::header::HeaderName;
use ipnet::IpNet;

use super::defaults;
use super::item::Item;
use super::model::*;
use super::read::Table;
use crate::route;

/// Bytes of the admin token: shorter ones can be guessed.
const MIN_TOKEN: usize = 16;

/// The addresses that are taken, with the key that takes each.
pub(super) type Binds = HashMap<SocketAddr, String>;

pub(super) fn gateway(table: &Table<'_>) -> Gateway {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let workers = table.or("workers", cores, |item| item.integer(1..=1024u16).map(usize::from));
    Gateway {
        workers: NonZeroUsize::new(workers).unwrap_or(NonZeroUsize::MIN),
        shutdown_timeout: table.or("shutdown_timeout", defaults::SHUTDOWN_TIMEOUT, Item::duration),
        plugin_dir: table.get("plugin_dir", path).unwrap_or_else(|| table.directory().join(defaults::PLUGIN_DIR)),
        cache_dir: table.get("cache_dir", path),
        max_buffered_memory: table.or("max_buffered_memory", defaults::MAX_BUFFERED_MEMORY, Item::size),
        max_connections: table.or("max_connections", defaults::MAX_CONNECTIONS, |item| item.integer(1..=10_000_000)),
        reload: table.or("reload", defaults::RELOAD, Item::boolean),
        request_id_header: table.or(
            "request_id_header",
            HeaderName::from_static(defaults::REQUEST_ID_HEADER),
            header_name,
        ),
        nameservers: table.or("nameservers", Vec::new(), |item| item.list(nameserver)),
    }
}

pub(super) fn telemetry(table: &Table<'_>) -> Telemetry {
    let logs = [
        ("auto", AccessLog::Auto),
        ("json", AccessLog::Json),
        ("console", AccessLog::Console),
        ("off", AccessLog::Off),
    ];
    let levels = [
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
    Telemetry {
        access_log: table.or("access_log", defaults::ACCESS_LOG, |item| item.choice(&logs)),
        log_level: table.or("log_level", defaults::LOG_LEVEL, |item| item.choice(&levels)),
    }
}

pub(super) fn admin(table: &Table<'_>, binds: &mut Binds) -> Option<Admin> {
    let bind = table.require("bind", |item| bind(&item, binds));
    let token = table.get("token", token);
    Some(Admin { bind: bind?, token })
}

pub(super) fn listener(
    name: &str,
    table: &Table<'_>,
    max_connections: u32,
    certificates: &BTreeSet<String>,
    binds: &mut Binds,
) -> Option<Listener> {
    let bind = table.require("bind", |item| bind(&item, binds));
    let tls = table.optional_table("tls").map(|tls| {
        let names = tls.require("certificates", |item| item.filled(|item| item.reference("certificate", certificates)));
        let versions = [("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)];
        let min_version = tls.or("min_version", defaults::MIN_TLS, |item| item.choice(&versions));
        names.map(|certificates| ListenerTls { certificates, min_version })
    });
    let protocols = table.get("protocols", |item| {
        let words = [("http/1.1", true), ("h2", false)];
        let list = item.filled(|item| item.choice(&words))?;
        Some(ListenerProtocols { http1: list.contains(&true), h2: list.contains(&false) })
    });
    let trusted_proxies = table.or("trusted_proxies", Vec::new(), |item| item.list(network));
    let max_connections = table.or("max_connections", max_connections, |item| item.integer(1..=10_000_000));
    let timeouts = table.table("timeouts");
    let limits = table.table("limits");
    let timeouts = ListenerTimeouts {
        header: timeouts.or("header", defaults::HEADER_TIMEOUT, Item::duration),
        idle: timeouts.or("idle", defaults::CLIENT_IDLE_TIMEOUT, Item::duration),
        handshake: timeouts.or("handshake", defaults::HANDSHAKE_TIMEOUT, Item::duration),
    };
    let limits = ListenerLimits {
        head: limits.or("head", defaults::HEAD_LIMIT, |item| item.size_within(ByteSize(1 << 10)..=ByteSize(16 << 20))),
        headers: limits.or("headers", defaults::HEADERS_LIMIT, |item| item.integer(1..=10_000)),
        streams: limits.or("streams", defaults::STREAMS_LIMIT, |item| item.integer(1..=100_000)),
    };
    Some(Listener {
        name: Name::from(name),
        bind: bind?,
        tls: match tls {
            Some(tls) => Some(tls?),
            None => None,
        },
        protocols: protocols.unwrap_or(ListenerProtocols { http1: true, h2: true }),
        trusted_proxies,
        max_connections,
        timeouts,
        limits,
    })
}

pub(super) fn certificate(name: &str, table: &Table<'_>) -> Option<Certificate> {
    let cert = table.require("cert", |item| item.pem("CERTIFICATE"));
    let key = table.require("key", |item| item.pem("PRIVATE KEY"));
    let hosts = table.or("hosts", Vec::new(), |item| item.list(host_pattern));
    Some(Certificate { name: Name::from(name), cert: cert?, key: Secret::from(key?), hosts })
}

fn bind(item: &Item<'_>, binds: &mut Binds) -> Option<SocketAddr> {
    let address: SocketAddr =
        item.clone().parse(r#"an address like "0.0.0.0:8080" or "[::]:8080""#, |text| text.parse().ok())?;
    // Port 0 is a different one each time.
    if address.port() != 0
        && let Some(other) = binds.insert(address, item.path.clone())
    {
        item.fail(format!("the address {address} is already that of `{other}`"));
    }
    Some(address)
}

/// A bearer token (RFC 6750 §2.1).
fn token(item: Item<'_>) -> Option<Secret> {
    let token = item.clone().secret()?;
    let fits = token.expose().len() >= MIN_TOKEN && token.expose().bytes().all(|byte| byte.is_ascii_graphic());
    if !fits {
        item.fail(format!("expected a token of at least {MIN_TOKEN} visible ASCII characters"));
    }
    fits.then_some(token)
}

fn nameserver(item: Item<'_>) -> Option<SocketAddr> {
    item.parse(r#"an address like "10.0.0.53", "10.0.0.53:5353" or "[::1]:53""#, |text| {
        let usual = || text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, defaults::NAMESERVER_PORT));
        let address: Option<SocketAddr> = text.parse().ok().or_else(usual);
        address.filter(|address| {
            let is_scoped = matches!(address, SocketAddr::V6(v6) if v6.scope_id() != 0);
            address.port() != 0 && !is_scoped
        })
    })
}

pub(super) fn network(item: Item<'_>) -> Option<IpNet> {
    item.parse(r#"an address or network like "10.0.0.0/8""#, |text| {
        let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
        text.parse::<IpNet>().ok().map(|net| net.trunc()).or_else(address)
    })
}

pub(super) fn header_name(item: Item<'_>) -> Option<HeaderName> {
    item.parse("a header name", |text| text.parse().ok())
}

pub(super) fn host_pattern(item: Item<'_>) -> Option<HostPattern> {
    let pattern = item.clone().check(route::HostPattern::parse)?;
    match pattern {
        route::HostPattern::Exact(host) => Some(HostPattern::Exact(host.into())),
        route::HostPattern::Wildcard(host) => Some(HostPattern::Subdomains(host.into())),
        route::HostPattern::Any => {
            item.fail("leave the key out to take every host");
            None
        }
    }
}

/// A path, relative to the directory of the file that names it.
pub(super) fn path(item: Item<'_>) -> Option<PathBuf> {
    let text = item.clone().parse("a path", |text| (!text.is_empty()).then(|| text.to_owned()))?;
    Some(item.directory().join(Path::new(&text)))
}
