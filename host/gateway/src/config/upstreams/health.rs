//! Reads `[upstreams.*.health]`.

use std::ops::RangeInclusive;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method};

use crate::config::defaults;
use crate::config::item::Item;
use crate::config::key::{Words, Written};
use crate::config::model::{Discovery, Endpoint, EndpointAddress, HealthCheck, HttpProbe, Probe, Protocol, Statuses};
use crate::config::read::Table;
use crate::config::routes::{header_name, method};
use crate::http::headers::is_framing;

/// Over TLS the endpoint would be told to speak HTTP/1.1.
const GRPC_OVER_HTTP1: &str =
    "checks of the type `grpc` are HTTP/2, and `protocol = \"http/1.1\"` allows none with https endpoints";

/// The kinds of checks, as they are written.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Http,
    Grpc,
    Tcp,
    Tls,
    Off,
}

impl Words for Kind {
    const WORDS: &'static [(&'static str, Self)] =
        &[("http", Self::Http), ("grpc", Self::Grpc), ("tcp", Self::Tcp), ("tls", Self::Tls), ("off", Self::Off)];
}

impl Written for Statuses {
    fn written(&self) -> String {
        let written = |range: &RangeInclusive<u16>| match (range.start(), range.end()) {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("\"{first}-{last}\""),
        };
        format!("[{}]", self.0.iter().map(written).collect::<Vec<_>>().join(", "))
    }
}

pub(super) fn read(upstream: &Table<'_>, endpoints: Option<&[Endpoint]>, protocol: Protocol) -> Option<HealthCheck> {
    let table = upstream.optional_table("health")?;
    let kind = table
        .key(
            "type",
            "What a check does: an HTTP request; the gRPC health protocol over HTTP/2; a TCP connection; a TLS handshake. `off`: there are no checks, whatever the defaults say.",
            r#""grpc""#,
        )
        .word_or(Kind::Http);
    let http = http(&table);
    let service_name = table
        .key(
            "service_name",
            "The service that a check of gRPC asks for; empty for the whole server.",
            r#""shop.Orders""#,
        )
        .or(String::new(), Item::string);
    let interval = table
        .key("interval", "From the beginning of a check of an address to the next one.", r#""10s""#)
        .or(defaults::CHECK_INTERVAL, Item::duration);
    let interval_jitter_percent = table
        .key("interval_jitter_percent", "How much of the interval is added to it at random, at most.", "20")
        .or(defaults::CHECK_JITTER_PERCENT, |item| item.integer(0..=100));
    let timeout = table
        .key("timeout", "How long a check may take, the connection included.", r#""500ms""#)
        .or(defaults::CHECK_TIMEOUT, Item::duration);
    let healthy_threshold = table
        .key("healthy_threshold", "Checks that have to pass in a row before an address is used again.", "3")
        .or(defaults::HEALTHY_THRESHOLD, |item| item.integer(1..=1000));
    let unhealthy_threshold = table
        .key("unhealthy_threshold", "Checks that have to fail in a row before an address is out.", "2")
        .or(defaults::UNHEALTHY_THRESHOLD, |item| item.integer(1..=1000));
    let port = table
        .key("port", "The port that checks connect to.", "8081")
        .get("the endpoint's port", |item| item.integer(1..=u16::MAX));
    let is_unix = |endpoint: &Endpoint| matches!(endpoint.address, EndpointAddress::Unix { .. });
    if port.is_some() && endpoints.is_some_and(|list| list.iter().any(is_unix)) {
        table.fail("has a `port`, and an endpoint that is a Unix socket has none");
    }
    let probe = match kind {
        Kind::Http => {
            if http.method == Method::HEAD && http.body_contains.is_some() {
                table.fail("has a `body_contains`, and the `method` HEAD gets no body");
            }
            Probe::Http(http)
        }
        Kind::Grpc => {
            if protocol == Protocol::Http1
                && endpoints.is_some_and(|list| list.iter().any(|endpoint| endpoint.is_https()))
            {
                table.fail(GRPC_OVER_HTTP1);
            }
            Probe::Grpc { service_name, host: http.host }
        }
        Kind::Tcp => Probe::Tcp,
        Kind::Tls => {
            if endpoints.is_some_and(|list| list.iter().any(|endpoint| !endpoint.is_https())) {
                table.fail("checks of the type `tls` are for https endpoints");
            }
            Probe::Tls
        }
        Kind::Off => return None,
    };
    if interval < defaults::SHORTEST_INTERVAL {
        table.fail(format!("an `interval` is at least {:?}", defaults::SHORTEST_INTERVAL));
    }
    let means = |key| match kind {
        Kind::Http => key != "service_name",
        Kind::Grpc => matches!(key, "service_name" | "host"),
        Kind::Tcp | Kind::Tls | Kind::Off => false,
    };
    for key in ["path", "method", "host", "headers", "expected_statuses", "body_contains", "service_name"] {
        if table.has_own(key) && !means(key) {
            table.fail(format!("`{key}` means nothing to checks of this type"));
        }
    }
    Some(HealthCheck {
        probe,
        interval,
        interval_jitter_percent,
        timeout,
        healthy_threshold,
        unhealthy_threshold,
        port,
    })
}

/// Refuses checks that the endpoints of a source can't pass. Those of a file each have a scheme: it is seen when they are checked.
pub(super) fn check_discovery(table: &Table<'_>, check: &HealthCheck, discovery: &Discovery, protocol: Protocol) {
    let https = match discovery {
        Discovery::File(_) => return,
        Discovery::Consul(_) | Discovery::Srv(_) => discovery.may_be_https(),
    };
    match check.probe {
        Probe::Tls if !https => {
            table.fail("checks of the type `tls` are for https endpoints: say `scheme = \"https\"` in `discovery`");
        }
        Probe::Grpc { .. } if https && protocol == Protocol::Http1 => table.fail(GRPC_OVER_HTTP1),
        Probe::Http(_) | Probe::Grpc { .. } | Probe::Tcp | Probe::Tls => {}
    }
}

fn http(table: &Table<'_>) -> HttpProbe {
    let path = table
        .key("path", "The path and query that a check asks for.", r#""/healthz""#)
        .or(PathAndQuery::from_static(defaults::CHECK_PATH), path);
    let method = table.key("method", "The method of that request.", r#""HEAD""#).or(defaults::CHECK_METHOD, method);
    let host =
        table.key("host", "The `Host` that it names.", r#""orders.internal""#).get("the endpoint's host", |item| {
            let authority =
                |text: &str| text.parse::<http::uri::Authority>().ok().filter(|at| !at.as_str().contains('@'));
            item.parse(r#"a host like "orders.internal""#, |text| HeaderValue::from_str(authority(text)?.as_str()).ok())
        });
    let mut headers = HeaderMap::new();
    for (name, item) in table.table("headers").named("A header of that request.", r#""sluice""#) {
        let value = item.clone().parse("a header value", |text| HeaderValue::from_str(text).ok());
        let name = header_name(&item, &name);
        if let Some(name) = name.as_ref().filter(|name| is_framing(name)) {
            item.fail(format!("`{name}` is set by the gateway itself"));
        }
        if let Some((name, mut value)) = name.zip(value) {
            // It may be a credential: nothing that shows the configuration shows it.
            value.set_sensitive(true);
            headers.append(name, value);
        }
    }
    let expected_statuses = table
        .key("expected_statuses", "The statuses of a good response.", r#"[200, "300-399"]"#)
        .or(Statuses(vec![defaults::CHECK_STATUSES]), |item| item.filled(statuses).map(Statuses));
    let body_contains = table
        .key("body_contains", "What has to be in the first 64 KiB of the body of a good response.", r#""\"up\"""#)
        .get("the body is not read", Item::string);
    HttpProbe { method, path, host, headers, expected_statuses, body_contains }
}

impl Written for PathAndQuery {
    fn written(&self) -> String {
        format!("{:?}", self.as_str())
    }
}

fn path(item: Item<'_>) -> Option<PathAndQuery> {
    item.parse(r#"a path like "/healthz""#, |text| text.parse().ok().filter(|_| text.starts_with('/')))
}

/// A status, or a range of them.
fn statuses(item: Item<'_>) -> Option<RangeInclusive<u16>> {
    const WHAT: &str = r#"a status like 200 or a range like "200-299""#;
    let item = item.taking(WHAT);
    if item.as_str().is_none() {
        return item.integer(100..=599).map(|status| status..=status);
    }
    item.parse(WHAT, |text| {
        let (first, last) = text.split_once('-')?;
        let range = first.parse().ok()?..=last.parse().ok()?;
        (100 <= *range.start() && range.start() <= range.end() && *range.end() <= 599).then_some(range)
    })
}
