//! Routes, and requests for them.

use sluice::route::{HostPattern, MatchSpec, PathPattern, RouteSpec, Router};

/// A mix as gateways have it: a host for each ten routes, prefixes, exact paths, parameters, and a default.
pub(crate) fn router(count: usize) -> Router {
    let mut specs = Vec::with_capacity(count);
    for n in 0..count - 1 {
        let path = match n % 3 {
            0 => format!("/api/v1/service-{n}/**"),
            1 => format!("/api/v1/service-{n}/health"),
            _ => format!("/api/v1/service-{n}/items/{{id}}"),
        };
        let mut wanted = MatchSpec::new(PathPattern::parse(&path).expect("a pattern"));
        let host = match n % 2 {
            0 => HostPattern::parse(&format!("host-{}.example.org", n / 10)),
            _ => HostPattern::parse("*.example.org"),
        };
        wanted.hosts = vec![host.expect("a host")];
        specs.push(RouteSpec { name: format!("route-{n}").into(), matches: vec![wanted], priority: 0 });
    }
    let default = MatchSpec::new(PathPattern::parse("/**").expect("a pattern"));
    specs.push(RouteSpec { name: "default".into(), matches: vec![default], priority: 0 });
    Router::build(specs).expect("the routes differ")
}

/// Hosts and paths that fit one of so many routes each.
pub(crate) fn requests(count: usize) -> Vec<(String, String)> {
    let mut requests = Vec::with_capacity(1024);
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    while requests.len() < 1024 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let n = usize::try_from(seed % (count as u64 - 1)).expect("small");
        let rest = ["/a/b", "/health", "/items/4711"][n % 3];
        requests.push((format!("host-{}.example.org", n / 10), format!("/api/v1/service-{n}{rest}")));
    }
    requests
}
