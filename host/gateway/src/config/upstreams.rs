//! Reads `[upstreams]`.

use std::collections::BTreeMap;

use url::Url;

use super::defaults;
use super::gateway::host_pattern;
use super::item::Item;
use super::model::*;
use super::read::Table;

pub(super) fn upstream(name: &str, table: &Table<'_>) -> Option<Upstream> {
    let endpoints = table.get("endpoints", |item| {
        let mut endpoints: Vec<Endpoint> = Vec::new();
        let list = item.clone();
        for item in item.items() {
            let Some(endpoint) = endpoint(&item) else { continue };
            let same = |other: &Endpoint| other.host == endpoint.host && other.port == endpoint.port;
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
    });
    let builtins = [("echo", Builtin::Echo), ("status", Builtin::Status)];
    let builtin = table.get("builtin", |item| item.choice(&builtins));
    let ways = [("round_robin", Balance::RoundRobin), ("least_request", Balance::LeastRequest)];
    let balance = table.or("balance", defaults::BALANCE, |item| item.choice(&ways));
    let protocol = table.or("protocol", UpstreamProtocol::Auto, |item| protocol(&item, endpoints.as_deref()));
    let tls = tls(&table.table("tls"));
    let pool = pool(&table.table("pool"));
    let dns = dns(&table.table("dns"));
    let service = match (table.has("endpoints"), table.has("builtin")) {
        (true, false) => Service::Endpoints(endpoints?),
        (false, true) => Service::Builtin(builtin?),
        _ => {
            table.fail("needs either `endpoints` or `builtin`");
            return None;
        }
    };
    Some(Upstream { name: Name::from(name), service, balance, protocol, tls, pool, dns })
}

/// The upstream that a route names by its only address.
pub(super) fn anonymous(item: &Item<'_>) -> Option<Upstream> {
    let (scheme, host, port) = item.clone().check(origin)?;
    let endpoint = Endpoint { scheme, host, port, weight: defaults::ENDPOINT_WEIGHT, labels: BTreeMap::new() };
    Some(Upstream {
        name: Name::from(format!("{scheme}://{}", endpoint.authority()).as_str()),
        service: Service::Endpoints(vec![endpoint]),
        balance: defaults::BALANCE,
        protocol: UpstreamProtocol::Auto,
        tls: UpstreamTls { ca: None, server_name: None, verify: defaults::VERIFY, client: None },
        pool: Pool { max_idle: defaults::MAX_IDLE, idle_timeout: defaults::POOL_IDLE_TIMEOUT },
        dns: Dns { min_ttl: defaults::MIN_TTL, max_ttl: defaults::MAX_TTL },
    })
}

/// Reads `http://host:port` or `https://host:port`, without more. The host is lower-case, an IPv6 address without brackets.
pub(super) fn origin(text: &str) -> Result<(Scheme, String, u16), String> {
    let wrong = || format!("expected an origin like \"http://host:port\", found {text:?}");
    let url = Url::parse(text).map_err(|_| wrong())?;
    let scheme = match url.scheme() {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => return Err(wrong()),
    };
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    if !bare || !url.username().is_empty() || url.password().is_some() || url.port() == Some(0) {
        return Err(wrong());
    }
    let host = url.host_str().ok_or_else(wrong)?.trim_start_matches('[').trim_end_matches(']');
    Ok((scheme, host.to_owned(), url.port().unwrap_or(scheme.default_port())))
}

fn endpoint(item: &Item<'_>) -> Option<Endpoint> {
    if !item.is_table() {
        let (scheme, host, port) = item.clone().check(origin)?;
        return Some(Endpoint { scheme, host, port, weight: defaults::ENDPOINT_WEIGHT, labels: BTreeMap::new() });
    }
    let table = item.clone().table()?;
    let url = table.require("url", |item| item.check(origin));
    let weight = table.or("weight", defaults::ENDPOINT_WEIGHT, |item| item.integer(0..=1_000_000));
    let labels = table.table("labels").named().into_iter();
    let labels = labels.filter_map(|(name, item)| Some((name, item.string()?))).collect();
    let (scheme, host, port) = url?;
    Some(Endpoint { scheme, host, port, weight, labels })
}

fn protocol(item: &Item<'_>, endpoints: Option<&[Endpoint]>) -> Option<UpstreamProtocol> {
    let words = [
        ("auto", UpstreamProtocol::Auto),
        ("http/1.1", UpstreamProtocol::Http1),
        ("h2", UpstreamProtocol::H2),
        ("h2c", UpstreamProtocol::H2c),
    ];
    let protocol = item.clone().choice(&words)?;
    let any = |scheme| endpoints.is_some_and(|list| list.iter().any(|endpoint| endpoint.scheme == scheme));
    if protocol == UpstreamProtocol::H2 && any(Scheme::Http) {
        item.fail("`h2` is for https endpoints; over http it is `h2c`");
    }
    if protocol == UpstreamProtocol::H2c && any(Scheme::Https) {
        item.fail("`h2c` is for http endpoints; over https it is `h2`");
    }
    Some(protocol)
}

fn tls(table: &Table<'_>) -> UpstreamTls {
    let ca = table.get("ca", |item| item.pem("CERTIFICATE"));
    let server_name = table.get("server_name", |item| match host_pattern(item.clone())? {
        HostPattern::Exact(name) => Some(name),
        HostPattern::Subdomains(_) => {
            item.expected("a host name");
            None
        }
    });
    let verify = table.or("verify", defaults::VERIFY, Item::boolean);
    let cert = table.get("cert", |item| item.pem("CERTIFICATE"));
    let key = table.get("key", |item| item.pem("PRIVATE KEY"));
    if table.has("cert") != table.has("key") {
        table.fail("`cert` and `key` go together");
    }
    let client = cert.zip(key).map(|(cert, key)| ClientCertificate { cert, key: Secret::from(key) });
    UpstreamTls { ca, server_name, verify, client }
}

fn pool(table: &Table<'_>) -> Pool {
    Pool {
        max_idle: table.or("max_idle", defaults::MAX_IDLE, |item| item.integer(0..=100_000)),
        idle_timeout: table.or("idle_timeout", defaults::POOL_IDLE_TIMEOUT, Item::duration),
    }
}

fn dns(table: &Table<'_>) -> Dns {
    let min_ttl = table.or("min_ttl", defaults::MIN_TTL, Item::duration);
    let max_ttl = table.or("max_ttl", defaults::MAX_TTL, Item::duration);
    if min_ttl > max_ttl {
        table.fail("`min_ttl` is above `max_ttl`");
    }
    Dns { min_ttl, max_ttl }
}
