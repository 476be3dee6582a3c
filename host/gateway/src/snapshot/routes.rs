//! Routes of the configuration → the router and what each route does with a request.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, StatusCode};

use super::key;
use crate::config::model::Criticality;
pub use crate::config::model::{DeadlinePolicy, HostPolicy, RetryCondition, RetryPolicy, RouteTimeouts as Timeouts};
use crate::config::{ConfigError, Loaded, model as config};
use crate::exchange::RouteFacts;
use crate::route::{PathRewrite, Redirect, RouteError, RouteSpec, Router};
use crate::telemetry::{Metrics, RouteId};
use crate::upstream::{Bulkhead, EndpointRegistry};

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
    /// Where the requests under way are limited.
    pub limits: Option<RequestLimits>,
    /// Which requests are refused first when the gateway is overloaded.
    pub criticality: Criticality,
    /// Whether a request may switch protocols.
    pub upgrade: bool,
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
    /// One of these upstreams, by index in the snapshot, in proportion to the weights.
    Forward(Vec<(usize, u32)>),
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

/// Everything but the match. `upstream` finds the index of an upstream by name.
pub(super) fn route(
    route: &config::Route,
    pipeline: usize,
    upstream: impl Fn(&str) -> Option<usize>,
    (metrics, registry): (&Metrics, &EndpointRegistry),
) -> Result<Route, String> {
    let mut names = Vec::new();
    let action = match &route.action {
        config::Action::Forward(targets) => Action::Forward(
            targets
                .iter()
                .map(|(name, weight)| {
                    names.push(name.clone().into());
                    upstream(name).map(|index| (index, *weight)).ok_or_else(|| format!("unknown upstream `{name}`"))
                })
                .collect::<Result<_, _>>()?,
        ),
        config::Action::Redirect { status, to } => Action::Redirect { status: *status, to: to.clone() },
        config::Action::Respond { status, headers, body } => {
            Action::Respond { status: *status, headers: headers.clone(), body: body.clone() }
        }
    };
    Ok(Route {
        facts: Arc::new(RouteFacts { name: route.name.clone().into(), upstreams: names }),
        metrics: metrics.route(&route.name),
        action,
        rewrite: route.rewrite.clone(),
        host: route.host.clone(),
        pipeline,
        timeouts: route.timeouts.clone(),
        retry: route.retry.clone(),
        deadline: route.deadline.clone(),
        max_body: route.limits.body.map_or(u64::MAX, |size| size.0),
        limits: RequestLimits::of(route, registry),
        criticality: route.criticality,
        upgrade: route.upgrade,
    })
}

/// The value of a `Host` field.
pub(crate) fn host_value(authority: &Authority) -> HeaderValue {
    HeaderValue::try_from(authority.as_str()).expect("an authority is visible ASCII")
}
