//! Routes of the configuration → the router and what each route does with a request.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, StatusCode};

use super::split::Split;
use super::{Snapshot, key};
use crate::cache::{ResponseCache, RouteCache};
pub use crate::config::model::{
    AbortWith, Compression, Criticality, DeadlinePolicy, Fault, HostPolicy, RetryCondition, RetryPolicy,
    RouteTimeouts as Timeouts, Share, Subset,
};
use crate::config::{ConfigError, Loaded, model as config};
use crate::exchange::RouteFacts;
use crate::route::{PathRewrite, Redirect, RouteError, RouteSpec, Router};
use crate::telemetry::{Metrics, RouteId, UpstreamId};
use crate::upstream::{Bulkhead, EndpointRegistry, Upstream};

/// What is done with the requests of a route.
pub struct Route {
    pub facts: Arc<RouteFacts>,
    pub metrics: RouteId,
    pub action: Action,
    pub rewrite: Option<PathRewrite>,
    pub host: HostPolicy,
    /// The index of its pipeline in the snapshot.
    pub pipeline: usize,
    pub timeouts: Timeouts,
    pub retry: Option<RetryPolicy>,
    pub deadline: Option<DeadlinePolicy>,
    /// The largest request body, in bytes.
    pub max_body: u64,
    /// Whether any upstream that its requests can go to is told of the client by a PROXY header.
    pub proxy_protocol: bool,
    /// Where the requests under way are limited.
    pub limits: Option<RequestLimits>,
    /// Which requests are refused first when the gateway is overloaded.
    pub criticality: Criticality,
    /// Whether a request may switch protocols.
    pub upgrade: bool,
    /// The endpoints that it uses of its upstreams.
    pub subset: Option<Arc<Subset>>,
    pub mirror: Option<Mirror>,
    /// Boxed, since few routes have any.
    pub fault: Option<Box<Fault>>,
    pub cache: Option<Box<RouteCache>>,
    pub compression: Option<Box<Compression>>,
    /// Whether upstreams get the bodies of requests without their coding.
    pub decompress_requests: bool,
}

/// Where a copy of requests goes, and what it may take.
pub struct Mirror {
    /// By index in the snapshot.
    pub upstream: usize,
    pub percent: Share,
    pub timeout: Duration,
    pub max_body: u64,
    pub max_requests: usize,
    /// Mirrored requests of all workers.
    pub under_way: Arc<AtomicUsize>,
}

/// How many requests of a route may be under way.
pub struct RequestLimits {
    /// The route's.
    pub name: Arc<str>,
    pub requests: Arc<Bulkhead>,
    pub queue_timeout: Duration,
    max_requests: u32,
    max_pending: u32,
}

impl RequestLimits {
    fn of(route: &config::Route, registry: &EndpointRegistry) -> Option<Self> {
        let config::RouteLimits { max_requests, max_pending_requests: max_pending, queue_timeout, .. } = route.limits;
        let (max_requests, name) = (max_requests?, Arc::from(route.name.clone()));
        let requests = registry.route(&name, || Bulkhead::new(Some(max_requests), max_pending));
        Some(RequestLimits { name, requests, queue_timeout, max_requests, max_pending })
    }

    /// They hold from now on: the route is about to be served.
    pub(super) fn apply(&self) {
        self.requests.set(Some(self.max_requests), self.max_pending);
    }
}

/// What answers.
pub enum Action {
    /// One of these upstreams.
    Forward(Split),
    Redirect {
        status: StatusCode,
        to: Redirect,
    },
    Respond {
        status: StatusCode,
        headers: HeaderMap,
        body: Bytes,
    },
}

/// Builds the router.
pub(super) fn router(loaded: &Loaded) -> Result<Router, Vec<ConfigError>> {
    let in_match = |route: &str, message: String| loaded.error_on(&key(&["routes", route, "match"]), message);
    let spec = |route: &config::Route| RouteSpec {
        name: route.name.clone().into(),
        matches: route.matches.clone(),
        priority: route.priority,
    };
    let shown = |error: RouteError| match &error {
        RouteError::NoMatch { route } => in_match(route, error.to_string()),
        RouteError::Regexes { .. } => loaded.error_on(&key(&["routes"]), error.to_string()),
        RouteError::Duplicate { first, second } => {
            let place = loaded.locate(&key(&["routes", first])).map(|place| format!(" at {place}"));
            in_match(second, format!("{error}{}", place.unwrap_or_default()))
        }
    };
    let specs = loaded.config.routes.iter().map(spec).collect();
    Router::build(specs).map_err(|errors| errors.into_iter().map(shown).collect())
}

/// How filters call upstreams: a route without match and filters that leads to all of them.
pub(super) fn calls(
    calls: &config::Calls,
    snapshot: u64,
    pipeline: usize,
    upstreams: &[(Arc<Upstream>, UpstreamId)],
    metrics: &Metrics,
) -> Route {
    let names = upstreams.iter().map(|(upstream, _)| Arc::clone(upstream.name()));
    let facts = RouteFacts { name: Arc::from(""), upstreams: names.clone().collect(), snapshot };
    Route {
        facts: Arc::new(facts),
        metrics: metrics.route(""),
        action: Action::Forward(Split::new(names.enumerate().map(|(index, name)| (index, name, 1)).collect(), None)),
        rewrite: None,
        host: HostPolicy::Upstream,
        pipeline,
        timeouts: calls.timeouts.clone(),
        retry: calls.retry.clone(),
        deadline: None,
        max_body: u64::MAX,
        proxy_protocol: false,
        limits: None,
        criticality: Criticality::Standard,
        upgrade: false,
        subset: None,
        mirror: None,
        fault: None,
        cache: None,
        compression: None,
        decompress_requests: false,
    }
}

/// Everything but the match. `upstream` finds the index of an upstream by name.
pub(super) fn route(
    route: &config::Route,
    pipeline: usize,
    (upstreams, upstream): (&[config::Upstream], impl Fn(&str) -> Option<usize>),
    (metrics, registry, cache): (&Metrics, &EndpointRegistry, &Arc<ResponseCache>),
    (snapshot, before): (u64, Option<&Snapshot>),
) -> Result<Route, String> {
    let mut names: Vec<Arc<str>> = Vec::new();
    let upstream = |name: &config::Name| upstream(name).ok_or_else(|| format!("unknown upstream `{name}`"));
    let action = match &route.action {
        config::Action::Forward(targets) => {
            let targets = targets.iter().map(|(name, weight)| {
                names.push(name.clone().into());
                Ok((upstream(name)?, name.clone().into(), *weight))
            });
            Action::Forward(Split::new(targets.collect::<Result<_, String>>()?, route.sticky.clone()))
        }
        config::Action::Redirect { status, to } => Action::Redirect { status: *status, to: to.clone() },
        config::Action::Respond { status, headers, body } => {
            Action::Respond { status: *status, headers: headers.clone(), body: body.clone() }
        }
    };
    Ok(Route {
        facts: Arc::new(RouteFacts { name: route.name.clone().into(), upstreams: names, snapshot }),
        metrics: metrics.route(&route.name),
        action,
        rewrite: route.rewrite.clone(),
        host: route.host.clone(),
        pipeline,
        timeouts: route.timeouts.clone(),
        retry: route.retry.clone(),
        deadline: route.deadline.clone(),
        max_body: route.limits.body.map_or(u64::MAX, |size| size.0),
        proxy_protocol: is_told_of_clients(route, upstreams),
        limits: RequestLimits::of(route, registry),
        criticality: route.criticality,
        upgrade: route.upgrade,
        subset: route.subset.clone().map(Arc::new),
        mirror: match &route.mirror {
            Some(mirror) => Some(Mirror {
                upstream: upstream(&mirror.upstream)?,
                percent: mirror.percent,
                timeout: mirror.timeout,
                max_body: mirror.max_body.0,
                max_requests: mirror.max_requests as usize,
                under_way: before.and_then(|before| under_way(before, &route.name)).unwrap_or_default(),
            }),
            None => None,
        },
        fault: route.fault.clone().map(Box::new),
        compression: route.compression.clone().map(Box::new),
        decompress_requests: route.decompress_requests,
        cache: route.cache.clone().map(|config| Box::new(RouteCache { shared: Arc::clone(cache), config })),
    })
}

/// Whether an upstream of the route, a fallback of one, or the mirror gets a PROXY header.
fn is_told_of_clients(route: &config::Route, upstreams: &[config::Upstream]) -> bool {
    let config::Action::Forward(targets) = &route.action else { return false };
    let known = |name: &config::Name| upstreams.iter().find(|upstream| upstream.name == *name);
    let fallback = |upstream: &config::Upstream| match &upstream.circuit_breaker.as_ref()?.answer {
        config::CircuitAnswer::Fallback(name) => known(name),
        config::CircuitAnswer::Respond(_) | config::CircuitAnswer::Unavailable => None,
    };
    let of_route = targets.iter().filter_map(|(name, _)| known(name));
    let mut all = of_route
        .flat_map(|upstream| [Some(upstream), fallback(upstream)])
        .chain([route.mirror.as_ref().and_then(|mirror| known(&mirror.upstream))])
        .flatten();
    all.any(|upstream| upstream.proxy_protocol.is_some())
}

/// The counter of the copies that a route has under way: a reload leaves them alone.
fn under_way(before: &Snapshot, route: &str) -> Option<Arc<AtomicUsize>> {
    let known = before.routes.iter().find(|known| *known.facts.name == *route)?;
    known.mirror.as_ref().map(|mirror| Arc::clone(&mirror.under_way))
}

/// The value of a `Host` field.
pub(crate) fn host_value(authority: &Authority) -> HeaderValue {
    HeaderValue::try_from(authority.as_str()).expect("an authority is visible ASCII")
}
