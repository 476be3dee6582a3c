//! Reads `[upstreams]`.

use url::Url;

use super::defaults;
use super::gateway::host_name;
use super::item::Item;
use super::model::*;
use super::read::{Level, Table};
use super::tree::join;
use crate::services::Origin;

/// What an upstream can have in common with others: what is left out of it comes from its group, then from `[defaults.upstream]`.
pub(super) struct Shared {
    balance: Balance,
    protocol: Protocol,
    tls: UpstreamTls,
    pool: Pool,
    dns: DnsPolicy,
    tolerate: Vec<Deviation>,
}

/// Reads an upstream, here with the tables that it inherits from.
pub(super) fn upstream(name: &str, table: &Table<'_>) -> Option<Upstream> {
    let endpoints = table
        .key(
            "endpoints",
            "The addresses that serve it: URLs without a path, or tables with a `url`.",
            r#"["http://10.0.0.1:3000", { url = "http://10.0.0.2:3000", weight = 2 }]"#,
        )
        .get("-", endpoints);
    let builtin = table
        .key(
            "builtin",
            "In place of endpoints a service inside the gateway, for demos and tests: `echo` answers with what it received, `status` with the status that the path names.",
            r#""echo""#,
        )
        .get("-", Item::word);
    let Shared { balance, protocol, tls, pool, dns, tolerate } = shared(table, endpoints.as_deref());
    let service = match (table.has("endpoints"), table.has("builtin")) {
        (true, false) => Service::Endpoints(endpoints?),
        (false, true) => Service::Builtin(builtin?),
        _ => {
            table.fail("needs either `endpoints` or `builtin`");
            return None;
        }
    };
    Some(Upstream { name: Name::from(name), service, balance, protocol, tls, pool, dns, tolerate })
}

pub(super) fn shared(table: &Table<'_>, endpoints: Option<&[Endpoint]>) -> Shared {
    Shared {
        balance: table
            .key(
                "balance",
                "How an endpoint is chosen: in turn by weight, or of two drawn by weight the one with fewer requests under way.",
                r#""least_request""#,
            )
            .word_or(defaults::BALANCE),
        protocol: table
            .key(
                "protocol",
                "What is spoken to the endpoints. `auto` negotiates on https and is `http/1.1` on http; `h2c` is HTTP/2 without TLS.",
                r#""h2""#,
            )
            .or(defaults::PROTOCOL, |item| protocol(table, item, endpoints)),
        tls: tls(&table.table("tls")),
        pool: pool(&table.table("pool")),
        dns: dns(&table.table("dns")),
        tolerate: table
            .key(
                "tolerate",
                "What its servers may do over HTTP/1 that is a 502 otherwise: end lines of a head with a line feed alone (`bare_lf`), repeat the same `Content-Length` (`repeated_content_length`).",
                r#"["bare_lf"]"#,
            )
            .or(Vec::new(), |item| item.list(Item::word)),
    }
}

/// The upstream that a route names by its only address. For the rest it is as upstreams are by default.
pub(super) fn anonymous<'r>(item: &Item<'r>, defaults: Option<Level<'r>>) -> Option<Upstream> {
    let origin = origin(item.clone())?;
    let scheme = if origin.https { "https" } else { "http" };
    let endpoint = Endpoint { origin, weight: defaults::ENDPOINT_WEIGHT, labels: Vec::new() };
    let name = format!("{scheme}://{}", endpoint.authority());
    let endpoints = vec![endpoint];
    let mut table = Table::new(item.reader, &[], item.place, join("upstreams", &name));
    table.inherit(defaults);
    let Shared { balance, protocol, tls, pool, dns, tolerate } = shared(&table, Some(&endpoints));
    let service = Service::Endpoints(endpoints);
    Some(Upstream { name: Name::from(name.as_str()), service, balance, protocol, tls, pool, dns, tolerate })
}

/// Reads `http://host:port` or `https://host:port`, without more.
pub(super) fn origin(item: Item<'_>) -> Option<Origin> {
    item.check(r#"an origin like "http://host:port""#, |text| {
        let wrong = || format!("expected an origin like \"http://host:port\", found {text:?}");
        let url = Url::parse(text).map_err(|_| wrong())?;
        let origin = Origin::of(&url).map_err(|_| wrong())?;
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        if bare && origin.port != 0 { Ok(origin) } else { Err(wrong()) }
    })
}

fn endpoints(item: Item<'_>) -> Option<Vec<Endpoint>> {
    let mut endpoints: Vec<Endpoint> = Vec::new();
    let list = item.clone().taking("a list of origins or tables");
    for item in item.items() {
        let Some(endpoint) = endpoint(&item) else { continue };
        let same =
            |other: &Endpoint| (&other.origin.host, other.origin.port) == (&endpoint.origin.host, endpoint.origin.port);
        if endpoints.iter().any(same) {
            item.fail(format!("the endpoint {} is listed twice", endpoint.authority()));
        }
        endpoints.push(endpoint);
    }
    if list.is_empty_list() {
        list.fail("expected at least one endpoint");
    } else if !endpoints.is_empty() && endpoints.iter().all(|endpoint| endpoint.weight == 0) {
        list.fail("at least one endpoint needs a weight above 0");
    }
    Some(endpoints)
}

fn endpoint(item: &Item<'_>) -> Option<Endpoint> {
    if !item.is_table() {
        return Some(Endpoint { origin: origin(item.clone())?, weight: defaults::ENDPOINT_WEIGHT, labels: Vec::new() });
    }
    let table = item.clone().table()?;
    let url = table.key("url", "The address.", r#""https://orders.internal""#).require(origin);
    let weight = table
        .key("weight", "Its share of the requests; 0 takes it out.", "2")
        .or(defaults::ENDPOINT_WEIGHT, |item| item.integer(0..=1_000_000));
    let labels = table.table("labels").named("A label that filters can choose by.", r#""eu-west""#).into_iter();
    let mut labels: Vec<_> = labels.filter_map(|(name, item)| Some((name, item.string()?))).collect();
    // Their order means nothing, so that another one is no other endpoint.
    labels.sort();
    Some(Endpoint { origin: url?, weight, labels })
}

fn protocol(table: &Table<'_>, item: Item<'_>, endpoints: Option<&[Endpoint]>) -> Option<Protocol> {
    let protocol = item.clone().word()?;
    let any = |https| endpoints.is_some_and(|list| list.iter().any(|endpoint| endpoint.origin.https == https));
    if protocol == Protocol::Http2 && any(false) {
        table.fail_at(&item, "`h2` is for https endpoints; over http it is `h2c`");
    }
    if protocol == Protocol::H2c && any(true) {
        table.fail_at(&item, "`h2c` is for http endpoints; over https it is `h2`");
    }
    Some(protocol)
}

fn tls(table: &Table<'_>) -> UpstreamTls {
    let ca = table
        .key("ca", "The authorities to trust in place of the system's.", r#""certs/ca.pem""#)
        .get("the system's authorities", |item| item.pem("CERTIFICATE"));
    let server_name = table
        .key("server_name", "The name to ask for and to find in the certificate.", r#""orders.internal""#)
        .get("the endpoint's host", host_name);
    let verify =
        table.key("verify", "Whether the certificate is verified.", "false").or(defaults::VERIFY, Item::boolean);
    let cert = table
        .key("cert", "The certificate chain that the gateway shows.", r#""certs/gateway.pem""#)
        .get("none", |item| item.pem("CERTIFICATE"));
    let key = table
        .key("key", "The private key of that certificate.", r#""certs/gateway.key""#)
        .get("none", |item| item.pem("PRIVATE KEY"));
    if table.has("cert") != table.has("key") {
        table.fail("`cert` and `key` go together");
    }
    let client = cert.zip(key).map(|(cert, key)| ClientCertificate { cert, key: Secret::from(key) });
    UpstreamTls { ca, server_name, verify, client }
}

fn pool(table: &Table<'_>) -> Pool {
    Pool {
        max_idle: table
            .key("max_idle", "Idle connections that each worker keeps to each endpoint.", "64")
            .or(defaults::MAX_IDLE, |item| item.integer(0..=100_000)),
        idle_timeout: table
            .key(
                "idle_timeout",
                "How long an idle connection is kept. It should be less than what the servers allow.",
                r#""30s""#,
            )
            .or(defaults::POOL_IDLE_TIMEOUT, Item::duration),
        ping_interval: table
            .key(
                "ping_interval",
                "How long an HTTP/2 connection with open streams may be silent before it is pinged, or `off`. gRPC servers close a connection that is pinged more than once in 5 minutes.",
                r#""10m""#,
            )
            .or(defaults::PING_INTERVAL, Item::timeout),
    }
}

fn dns(table: &Table<'_>) -> DnsPolicy {
    let min = table
        .key("min_ttl", "How long an answer of the DNS is used at least.", r#""5s""#)
        .or(defaults::MIN_TTL, Item::duration);
    let max = table
        .key("max_ttl", "How long an answer of the DNS is used at most.", r#""1m""#)
        .or(defaults::MAX_TTL, Item::duration);
    if min > max {
        table.fail("`min_ttl` is above `max_ttl`");
    }
    let max_stale = table
        .key(
            "max_stale",
            "How long an answer stays in use after that while the name servers fail. Their answer that there is no address ends it at once.",
            r#""1h""#,
        )
        .or(defaults::MAX_STALE, Item::duration);
    let lookup_family = table
        .key(
            "lookup_family",
            "Which addresses of a name are used: all; IPv6 and only without it IPv4 (`auto`); IPv4 and only without it IPv6 (`v4_preferred`); or one kind.",
            r#""v4_only""#,
        )
        .word_or(defaults::LOOKUP_FAMILY);
    DnsPolicy { min_ttl: min, max_ttl: max, max_stale, lookup_family }
}
