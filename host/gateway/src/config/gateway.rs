//! Reads `[gateway]`, `[telemetry]`, `[admin]`, `[listeners]` and `[certificates]`.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::StatusCode;
use http::header::HeaderName;
use ipnet::IpNet;

use super::defaults;
use super::item::Item;
use super::listener_tls;
use super::model::*;
use super::overload;
use super::read::Table;
use super::sockets::{Binds, bind, proxy_protocol, trusted_peers};
use crate::http::forwarded::TrustedPeers;
use crate::route::{HostPattern, PathPattern};
use crate::wasm::CompileLimits;

/// Bytes of the admin token: shorter ones can be guessed.
const MIN_TOKEN: usize = 16;

pub(super) fn gateway(table: &Table<'_>) -> Gateway {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let workers = table
        .key("workers", "Worker threads, each with its own sockets, connections and filter instances.", "4")
        .get("one for each core", |item| item.integer(1..=1024u16).map(usize::from));
    Gateway {
        workers: NonZeroUsize::new(workers.unwrap_or(cores)).unwrap_or(NonZeroUsize::MIN),
        shutdown_delay: table
            .key(
                "shutdown_delay",
                "How long the gateway goes on as before after SIGTERM, except that `/readyz` answers 503: time for load balancers to send new connections elsewhere.",
                r#""10s""#,
            )
            .or(defaults::SHUTDOWN_DELAY, Item::timeout),
        shutdown_timeout: table
            .key(
                "shutdown_timeout",
                "How long requests in flight may take to finish after SIGTERM and `shutdown_delay`.",
                r#""1m""#,
            )
            .or(defaults::SHUTDOWN_TIMEOUT, Item::duration),
        plugin_dir: table
            .key(
                "plugin_dir",
                "The folder of plugins. `NAME.wasm` in it is used before the plugin of that name that ships with the gateway.",
                r#""/etc/sluice/plugins""#,
            )
            .or(table.directory().join(defaults::PLUGIN_DIR), path),
        cache_dir: table
            .key("cache_dir", "The folder where compiled plugins are kept.", r#""/var/cache/sluice""#)
            .get("`sluice` in the user's cache directory", path),
        state_dir: table
            .key(
                "state_dir",
                "The folder where endpoints that a source has told, and certificates that were ordered, are kept for the next start.",
                r#""/var/lib/sluice""#,
            )
            .get("`sluice` in the user's state directory", path),
        consumer_files: table
            .key(
                "consumer_files",
                "Files with more consumers than `[consumers]` has, a JSON object in each line. A changed file is in use at once, without a reload.",
                r#"["consumers.jsonl"]"#,
            )
            .get("none", |item| item.list(path))
            .unwrap_or_default(),
        compile: compile_limits(&table.table("compile")),
        max_buffered_memory: table
            .key(
                "max_buffered_memory",
                "How much memory bodies that are held for filters, and what filters keep, may take, for all requests together.",
                r#""1GiB""#,
            )
            .or(defaults::MAX_BUFFERED_MEMORY, Item::size),
        max_filtered_bodies: table
            .key(
                "max_filtered_bodies",
                "How large the bodies together may be that the filters of a worker work on at once. A larger body is alone.",
                r#""32MiB""#,
            )
            .or(defaults::MAX_FILTERED_BODIES, Item::size),
        max_connections: table
            .key("max_connections", "Open connections from clients, on all listeners together.", "20000")
            .or(defaults::MAX_CONNECTIONS, |item| item.integer(1..=10_000_000)),
        overload: overload::read(&table.table("overload")),
        reload: table
            .key("reload", "Whether changed files are loaded. SIGHUP always loads them.", "false")
            .or(defaults::RELOAD, Item::boolean),
        request_id_header: table
            .key("request_id_header", "The header that carries the id of a request.", r#""x-correlation-id""#)
            .or(HeaderName::from_static(defaults::REQUEST_ID_HEADER), header_name),
        nameservers: table
            .key(
                "nameservers",
                "The DNS servers to ask; an empty list stands for those of the system. The port is 53 unless given.",
                r#"["10.0.0.53", "[::1]:5353"]"#,
            )
            .or(Vec::new(), |item| item.list(nameserver)),
    }
}

/// What the compilation of one plugin may take.
fn compile_limits(table: &Table<'_>) -> CompileLimits {
    let default = CompileLimits::default();
    CompileLimits {
        memory: table
            .key("memory", "The memory of the process that compiles a plugin.", r#""2GiB""#)
            .or(ByteSize(default.memory), |item| item.size_within(ByteSize(64 << 20)..=ByteSize(64 << 30)))
            .0,
        timeout: table
            .key("timeout", "How long a plugin may take to compile.", r#""10m""#)
            .or(default.timeout, |item| item.duration_up_to(Duration::from_secs(3600))),
        threads: table
            .key("threads", "The threads that compile a plugin. More are faster and need more memory.", "4")
            .or(default.threads, |item| item.integer(1..=256u16).map(usize::from)),
    }
}

pub(super) fn telemetry(table: &Table<'_>) -> Telemetry {
    Telemetry {
        access_log: table
            .key(
                "access_log",
                "The form of the access log on standard output. `auto` is `console` on a terminal and `json` elsewhere.",
                r#""json""#,
            )
            .word_or(defaults::ACCESS_LOG),
        log_level: table
            .key("log_level", "The least important lines of the operational log that are written.", r#""debug""#)
            .word_or(defaults::LOG_LEVEL),
    }
}

pub(super) fn admin(table: &Table<'_>, binds: &mut Binds) -> Option<Admin> {
    let bind = table
        .key(
            "bind",
            "The address of the admin listener: `/metrics`, `/healthz`, `/readyz` and the admin API. There is none without this table. `unix:` and a path, or `@` and a name, is a Unix socket.",
            r#""127.0.0.1:9901""#,
        )
        .require(|item| bind(table, &item, binds));
    let token = table
        .key(
            "token",
            "The bearer token that a request to the admin API needs which changes something. Without one, no request can.",
            r#""${env:ADMIN_TOKEN}""#,
        )
        .get("none", token);
    let ready_when_expired = table
        .key(
            "ready_when_expired",
            "Whether `/readyz` says ready though all certificates of a listener have expired.",
            "true",
        )
        .or(defaults::READY_WHEN_EXPIRED, Item::boolean);
    Some(Admin { bind: bind?, token, ready_when_expired })
}

pub(super) fn listener(
    name: &str,
    table: &Table<'_>,
    max_connections: u32,
    certificates: &BTreeSet<String>,
    tls_listeners: &BTreeSet<String>,
    binds: &mut Binds,
) -> Option<Listener> {
    let bind = table
        .key(
            "bind",
            "The address and port that clients connect to, or a Unix socket: `unix:` and the path of its file, or `@` and a name without a file (abstract).",
            r#""0.0.0.0:8080""#,
        )
        .require(|item| bind(table, &item, binds));
    let tls = table.optional_table("tls").map(|tls| listener_tls::read(&tls, certificates));
    let https_redirect = table
        .key(
            "https_redirect",
            "Whether requests are redirected to https, whatever routes there are: `true`, or a table of settings.",
            "true",
        )
        .get("false", |item| https_redirect(item, tls_listeners))
        .flatten();
    if https_redirect.is_some() && table.has("tls") {
        table.fail("`https_redirect` is for a listener without `tls`: here it would lead back to itself");
    }
    let protocols = table
        .key(
            "protocols",
            "The protocols that are spoken. Without TLS a client uses HTTP/2 by prior knowledge; with TLS it chooses by ALPN.",
            r#"["http/1.1"]"#,
        )
        .or(ListenerProtocols::default(), |item| {
            let list = item.filled(Item::word)?;
            Some(ListenerProtocols {
                http1: list.contains(&HttpVersion::Http1),
                h2: list.contains(&HttpVersion::Http2),
            })
        });
    let trusted_proxies = table
        .key(
            "trusted_proxies",
            "The addresses of proxies whose `Forwarded` and `X-Forwarded-*` headers are believed. `unix:` stands for those over a Unix socket.",
            r#"["10.0.0.0/8"]"#,
        )
        .or(TrustedPeers::default(), trusted_peers);
    let proxy_protocol = table.optional_table("proxy_protocol").map(|table| proxy_protocol(&table));
    let max_connections = table.key("max_connections", "Open connections of this listener.", "5000").or_as(
        "gateway.max_connections",
        max_connections,
        |item| item.integer(1..=10_000_000),
    );
    let lifetime = connection_lifetime(table);
    let timeouts = listener_timeouts(&table.table("timeouts"));
    let limits = listener_limits(&table.table("limits"));
    Some(Listener {
        name: Name::from(name),
        bind: bind?,
        tls: match tls {
            Some(tls) => Some(tls?),
            None => None,
        },
        https_redirect,
        protocols,
        trusted_proxies,
        proxy_protocol: match proxy_protocol {
            Some(protocol) => Some(protocol?),
            None => None,
        },
        max_connections,
        lifetime,
        timeouts,
        limits,
    })
}

/// `Some(None)` is `false`.
fn https_redirect(item: Item<'_>, tls_listeners: &BTreeSet<String>) -> Option<Option<HttpsRedirect>> {
    let except = || PathPattern::parse(defaults::HTTPS_REDIRECT_EXCEPT).ok().into_iter().collect();
    let item = item.taking("true, false or a table");
    if !item.is_table() {
        let on = item.clone().boolean()?;
        if on && tls_listeners.len() > 1 {
            item.fail(r#"there are several listeners with TLS: name one, as `{ listener = "…" }`"#);
        }
        return Some(on.then(|| HttpsRedirect {
            listener: sole(tls_listeners),
            port: None,
            status: defaults::HTTPS_REDIRECT_STATUS,
            except: except(),
            hosts: Vec::new(),
        }));
    }
    let table = item.table()?;
    let listener = table
        .key("listener", "The listener with TLS to go to.", r#""https""#)
        .get("the only one with TLS", |item| item.reference("listener with TLS", tls_listeners));
    let port = table
        .key("port", "The port to go to, where clients see another one than that listener's.", "443")
        .get("that of the listener", |item| item.integer(1..=u16::MAX));
    let status = table
        .key("status", "The status of the redirect.", "301")
        .or(defaults::HTTPS_REDIRECT_STATUS, |item| redirect_status(&item));
    let except = table
        .key("except", "The paths that are served without TLS.", r#"["/.well-known/acme-challenge/**", "/healthz"]"#)
        .get(r#"["/.well-known/acme-challenge/**"]"#, |item| {
            item.list(|item| item.check("a path pattern", PathPattern::parse))
        })
        .unwrap_or_else(except);
    let hosts = table
        .key("hosts", "The hosts that are redirected, also with `*.` at the start.", r#"["shop.example.com"]"#)
        .get("all", |item| item.filled(host_pattern));
    if !table.has("listener") && !table.has("port") && tls_listeners.len() > 1 {
        table.fail("there are several listeners with TLS: name one as `listener`");
    }
    let listener = listener.or_else(|| sole(tls_listeners));
    Some(Some(HttpsRedirect { listener, port, status, except, hosts: hosts.unwrap_or_default() }))
}

fn sole(names: &BTreeSet<String>) -> Option<Name> {
    let mut names = names.iter();
    names.next().filter(|_| names.next().is_none()).map(|name| Name::from(&**name))
}

/// A status of a redirect.
pub(super) fn redirect_status(item: &Item<'_>) -> Option<StatusCode> {
    let what = "301, 302, 303, 307 or 308";
    let status = item.clone().taking(what).integer(301..=308u16)?;
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        item.expected(what);
    }
    StatusCode::from_u16(status).ok()
}

fn connection_lifetime(table: &Table<'_>) -> ConnectionLifetime {
    ConnectionLifetime {
        max_age: table
            .key(
                "max_connection_age",
                "How long a client's connection is given requests, or `off`. Each has up to a tenth less, so that they do not end together. Over HTTP/1.1 the next response says `Connection: close`, over HTTP/2 a GOAWAY is sent.",
                r#""1h""#,
            )
            .or(defaults::MAX_CONNECTION_AGE, Item::timeout),
        grace: table
            .key(
                "max_connection_age_grace",
                "How long the streams of an HTTP/2 connection may go on after its GOAWAY. Then it is closed.",
                r#""5m""#,
            )
            .or(defaults::MAX_CONNECTION_AGE_GRACE, Item::duration),
        max_requests: table
            .key(
                "max_requests_per_connection",
                "How many requests a client's connection is given before it ends in the same way.",
                "10000",
            )
            .get("no limit", |item| item.integer(1..=u32::MAX)),
    }
}

fn listener_timeouts(table: &Table<'_>) -> ListenerTimeouts {
    ListenerTimeouts {
        header: table
            .key(
                "header",
                "From the first byte of a request's head (of the first request: from the connection) to the end of the head.",
                r#""5s""#,
            )
            .or(defaults::HEADER_TIMEOUT, Item::duration),
        idle: table
            .key("idle", "Between two requests of a connection.", r#""2m""#)
            .or(defaults::CLIENT_IDLE_TIMEOUT, Item::duration),
        handshake: table
            .key("handshake", "For the TLS handshake.", r#""5s""#)
            .or(defaults::HANDSHAKE_TIMEOUT, Item::duration),
    }
}

fn listener_limits(table: &Table<'_>) -> ListenerLimits {
    ListenerLimits {
        head: table
            .key("head", "The request line and the headers of a request together.", r#""64KiB""#)
            .or(defaults::HEAD_LIMIT, |item| item.size_within(ByteSize(1 << 10)..=ByteSize(16 << 20))),
        headers: table
            .key("headers", "Header fields of a request.", "200")
            .or(defaults::HEADERS_LIMIT, |item| item.integer(1..=10_000)),
        streams: table
            .key("streams", "Concurrent HTTP/2 streams of a connection.", "250")
            .or(defaults::STREAMS_LIMIT, |item| item.integer(1..=100_000)),
    }
}

/// A certificate whose text is configured; none where it is ordered.
pub(super) fn certificate(name: &str, table: &Table<'_>) -> Option<Certificate> {
    const MISSING: &str = "none; needed without `acme`";
    let cert = table
        .key("cert", "The certificate chain, the server's own certificate first.", r#""certs/main.pem""#)
        .get(MISSING, |item| item.pem_of_listener("CERTIFICATE"));
    let key = table
        .key("key", "The private key of the certificate.", r#""${env:TLS_KEY}""#)
        .get(MISSING, |item| item.pem_of_listener("PRIVATE KEY"));
    let hosts = table
        .key(
            "hosts",
            "The server names that it is for, also with `*.` at the start.",
            r#"["example.com", "*.example.com"]"#,
        )
        .get("the names in the certificate", |item| item.list(host_pattern));
    if table.has("acme") {
        return None;
    }
    for key in ["cert", "key"].into_iter().filter(|key| !table.has(key)) {
        table.fail(format!("the key `{key}` is missing"));
    }
    let Pem { text: key, file: key_file } = key?;
    let hosts = hosts.unwrap_or_default();
    Some(Certificate { name: Name::from(name), cert: cert?, key: Secret::from(key), key_file, hosts })
}

/// A bearer token (RFC 6750 §2.1).
pub(super) fn token(item: Item<'_>) -> Option<Secret> {
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
    let pattern = item.clone().check(r#"a host name, also with "*." at the start"#, HostPattern::parse)?;
    if pattern == HostPattern::Any {
        item.fail("leave the key out to take every host");
        return None;
    }
    Some(pattern)
}

/// A host name without a wildcard.
pub(super) fn host_name(item: Item<'_>) -> Option<String> {
    match host_pattern(item.clone().taking("a host name"))? {
        HostPattern::Exact(host) => Some(host.into()),
        HostPattern::Wildcard(_) | HostPattern::Any => {
            item.expected("a host name");
            None
        }
    }
}

/// A path, relative to the directory of the file that names it.
pub(super) fn path(item: Item<'_>) -> Option<PathBuf> {
    let text = item.clone().parse("a path", |text| (!text.is_empty()).then(|| text.to_owned()))?;
    Some(item.directory().join(Path::new(&text)))
}
