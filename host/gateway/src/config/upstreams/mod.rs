//! Reads `[upstreams]`; a file for each of its tables.

mod balancing;
mod circuit;
mod discovery;
mod dns;
mod endpoints;
mod files;
mod health;
mod limits;
mod outlier;
mod pool;
mod tls;

use super::defaults;
use super::item::Item;
use super::model::*;
use super::read::{Level, Table};
use super::tree::join;
use crate::proxy_protocol;

pub(super) use balancing::hash_keys;
pub(super) use endpoints::origin;
pub(super) use limits::count;
pub(super) use tls::identity;

/// Own keys of an upstream that are about several endpoints, or about what is known of them.
const OF_ENDPOINTS: [&str; 8] =
    ["balance", "panic_threshold", "subset_fallback", "slow_start", "zone", "sticky", "health", "outlier_detection"];

/// What an upstream can have in common with others: what is left out of it comes from its group, then from `[defaults.upstream]`.
pub(super) struct Shared {
    balancing: Balancing,
    protocol: Protocol,
    tls: UpstreamTls,
    pool: Pool,
    dns: DnsPolicy,
    proxy_protocol: Option<proxy_protocol::Version>,
    tolerate: Vec<Deviation>,
    circuit_breaker: Option<CircuitBreaker>,
    limits: UpstreamLimits,
    health: Option<HealthCheck>,
    outlier_detection: Option<OutlierDetection>,
}

impl Shared {
    /// The upstream of this name, which has this.
    fn of(self, name: Name, service: Service) -> Upstream {
        let Shared {
            balancing,
            protocol,
            tls,
            pool,
            dns,
            proxy_protocol,
            tolerate,
            health,
            outlier_detection,
            circuit_breaker,
            limits,
        } = self;
        Upstream {
            name,
            service,
            balancing,
            protocol,
            tls,
            pool,
            dns,
            proxy_protocol,
            tolerate,
            health,
            outlier_detection,
            circuit_breaker,
            limits,
        }
    }
}

/// Reads an upstream, here with the tables that it inherits from.
pub(super) fn upstream(name: &str, table: &Table<'_>) -> Option<Upstream> {
    let endpoints = table
        .key(
            "endpoints",
            "The addresses that serve it: URLs without a path, `unix:` and the path of a socket, or tables with a `url`.",
            r#"["http://10.0.0.1:3000", { url = "unix:/run/app.sock", weight = 2 }]"#,
        )
        .get("-", endpoints::read);
    let builtin = table
        .key(
            "builtin",
            "In place of endpoints a service inside the gateway, for demos and tests: `echo` answers with what it received, `status` with the status that the path names.",
            r#""echo""#,
        )
        .get("-", Item::word);
    let files = table
        .key(
            "files",
            "In place of endpoints a folder of files that the gateway serves itself: its path, or a table.",
            r#""public""#,
        )
        .get("-", files::read);
    let shared = shared(table, endpoints.as_deref());
    let discovery = table.optional_table("discovery").map(|table| discovery::read(&table));
    let service = match (table.has("endpoints"), discovery, table.has("builtin"), table.has("files")) {
        (true, None, false, false) => Service::Endpoints(endpoints?),
        (false, Some(discovery), false, false) => {
            let discovery = discovery?;
            discovery::check_protocol(table, &discovery, shared.protocol);
            if let Some(health) = &shared.health {
                health::check_discovery(table, health, &discovery, shared.protocol);
            }
            Service::Discovery(discovery)
        }
        (false, None, true, false) => {
            refuse_keys_of_endpoints(table, "builtin");
            Service::Builtin(builtin?)
        }
        (false, None, false, true) => {
            refuse_keys_of_endpoints(table, "files");
            Service::Files(files?)
        }
        _ => {
            table.fail("needs exactly one of `endpoints`, `discovery`, `builtin` and `files`");
            return None;
        }
    };
    Some(shared.of(Name::from(name), service))
}

fn refuse_keys_of_endpoints(table: &Table<'_>, kind: &str) {
    for key in OF_ENDPOINTS.into_iter().filter(|key| table.has_own(key)) {
        table.fail(format!("`{key}` means nothing to a `{kind}` upstream, which has no endpoints"));
    }
}

pub(super) fn shared(table: &Table<'_>, endpoints: Option<&[Endpoint]>) -> Shared {
    let balancing = balancing::read(table);
    let protocol = table
        .key(
            "protocol",
            "What is spoken to the endpoints. `auto` negotiates on https and is `http/1.1` on http; `h2c` is HTTP/2 without TLS.",
            r#""h2""#,
        )
        .or(defaults::PROTOCOL, |item| protocol(table, item, endpoints));
    Shared {
        balancing,
        protocol,
        tls: tls::read(&table.table("tls")),
        pool: pool::read(&table.table("pool")),
        dns: dns::read(&table.table("dns")),
        proxy_protocol: table
            .key(
                "proxy_protocol",
                "Tells the endpoints the client's address by a PROXY header, version 1 or 2, in front of each connection. A connection then serves one request.",
                r#""v2""#,
            )
            .get("no header", Item::word),
        tolerate: table
            .key(
                "tolerate",
                "What its servers may do over HTTP/1 that is a 502 otherwise: end lines of a head with a line feed alone (`bare_lf`), repeat the same `Content-Length` (`repeated_content_length`).",
                r#"["bare_lf"]"#,
            )
            .or(Vec::new(), |item| item.list(Item::word)),
        circuit_breaker: table.optional_table("circuit_breaker").map(|table| circuit::read(&table)),
        limits: limits::read(&table.table("limits")),
        health: health::read(table, endpoints, protocol),
        outlier_detection: outlier::read(table),
    }
}

/// The upstream that a route names by its only address. For the rest it is as upstreams are by default.
pub(super) fn anonymous<'r>(item: &Item<'r>, defaults: Option<Level<'r>>) -> Option<Upstream> {
    let endpoint = Endpoint::new(endpoints::address(item.clone())?);
    let name = endpoint.url();
    let endpoints = vec![endpoint];
    let mut table = Table::new(item.reader, &[], item.place, join("upstreams", &name));
    table.inherit(defaults);
    let shared = shared(&table, Some(&endpoints));
    Some(shared.of(Name::from(name.as_str()), Service::Endpoints(endpoints)))
}

fn protocol(table: &Table<'_>, item: Item<'_>, endpoints: Option<&[Endpoint]>) -> Option<Protocol> {
    let protocol = item.clone().word()?;
    let any = |https| endpoints.is_some_and(|list| list.iter().any(|endpoint| endpoint.is_https() == https));
    if protocol == Protocol::Http2 && any(false) {
        table.fail_at(&item, "`h2` is for https endpoints; over http it is `h2c`");
    }
    if protocol == Protocol::H2c && any(true) {
        table.fail_at(&item, "`h2c` is for http endpoints; over https it is `h2`");
    }
    Some(protocol)
}
