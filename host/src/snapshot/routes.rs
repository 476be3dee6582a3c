//! Routes of the configuration → the router and what each route does with a request.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::config::model as config;
use crate::exchange::RouteFacts;
use crate::route::{
    FieldSpec, HostPattern, MatchSpec, PathPattern, PathRewrite, Redirect, RouteSpec, Router, Template, ValuePattern,
};
use crate::telemetry::{Metrics, RouteId};

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
    /// The largest request body, in bytes.
    pub max_body: u64,
    /// Whether a request may switch protocols.
    pub upgrade: bool,
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

/// The `Host` that the upstream gets.
pub enum HostPolicy {
    Keep,
    Upstream,
    Fixed(Authority),
}

/// `None` is no deadline.
pub struct Timeouts {
    /// From the request head to the response head.
    pub request: Option<Duration>,
    /// One attempt to connect.
    pub connect: Duration,
    /// From the end of the request to the response head.
    pub first_byte: Option<Duration>,
    /// Between two parts of a body.
    pub idle: Option<Duration>,
}

/// Builds the router. Errors are texts that name the route.
pub(super) fn router(routes: &[config::Route]) -> Result<Router, Vec<String>> {
    let mut errors = Vec::new();
    let mut specs = Vec::with_capacity(routes.len());
    for route in routes {
        let matches = route.matches.iter().map(match_spec).collect::<Result<Vec<_>, _>>();
        match matches {
            Ok(matches) => {
                specs.push(RouteSpec { name: route.name.clone().into(), matches, priority: route.priority.into() })
            }
            Err(error) => errors.push(format!("routes.{}.match: {error}", route.name)),
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    Router::build(specs).map_err(|errors| errors.into_iter().map(|e| format!("routes: {e}")).collect())
}

fn match_spec(found: &config::RouteMatch) -> Result<MatchSpec, String> {
    let hosts = found
        .hosts
        .iter()
        .map(|host| match host {
            config::HostPattern::Exact(name) => HostPattern::parse(name),
            config::HostPattern::Subdomains(name) => HostPattern::parse(&format!("*.{name}")),
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| e.to_string())?;
    let path = match &found.path {
        config::PathMatch::Any => PathPattern::parse("/**"),
        config::PathMatch::Pattern(text) => PathPattern::parse(text),
        config::PathMatch::Regex(text) => PathPattern::regex(text),
    };
    Ok(MatchSpec {
        hosts,
        path: path.map_err(|e| e.to_string())?,
        methods: found.methods.clone(),
        headers: found.headers.iter().map(|(name, value)| field(name.as_str(), value)).collect(),
        query: found.query.iter().map(|(name, value)| field(name, value)).collect(),
        cookies: found.cookies.iter().map(|(name, value)| field(name, value)).collect(),
        client_ip: found.client_ip.clone(),
    })
}

fn field(name: &str, value: &config::ValueMatch) -> FieldSpec {
    let value = match value {
        config::ValueMatch::Exact(text) => ValuePattern::Exact(text.clone()),
        config::ValueMatch::Regex(text) => ValuePattern::Regex(text.clone()),
        config::ValueMatch::Present => ValuePattern::Present,
    };
    FieldSpec { name: name.to_owned(), value }
}

/// Everything but the match. `upstream` finds the index of an upstream by name.
pub(super) fn route(
    route: &config::Route,
    pipeline: usize,
    upstream: impl Fn(&str) -> Option<usize>,
    metrics: &Metrics,
) -> Result<Route, String> {
    let at = |error: &dyn std::fmt::Display| format!("routes.{}: {error}", route.name);
    let mut names = Vec::new();
    let action = match &route.action {
        config::Action::Forward(targets) => Action::Forward(
            targets
                .iter()
                .map(|(name, weight)| {
                    names.push(name.clone().into());
                    upstream(name)
                        .map(|index| (index, *weight))
                        .ok_or_else(|| at(&format!("unknown upstream `{name}`")))
                })
                .collect::<Result<_, _>>()?,
        ),
        config::Action::Redirect(to) => Action::Redirect {
            status: to.status,
            to: Redirect {
                scheme: to.scheme.map(scheme),
                host: to.host.clone(),
                port: to.port,
                path: match &to.path {
                    Some(path) => Some(PathRewrite::Template(Template::parse(path).map_err(|e| at(&e))?)),
                    None => None,
                },
                drop_query: false,
            },
        },
        config::Action::Respond(answer) => Action::Respond {
            status: answer.status,
            headers: answer.headers.iter().cloned().collect(),
            body: Bytes::from(answer.body.clone()),
        },
    };
    let rewrite = match &route.rewrite {
        None => None,
        Some(config::Rewrite::Path(path)) => Some(PathRewrite::Template(Template::parse(path).map_err(|e| at(&e))?)),
        Some(config::Rewrite::Prefix { from, to }) => {
            let from = from.as_deref().or_else(|| route.matches.first().and_then(|m| m.literal_prefix()));
            let prefix = from.unwrap_or("/").to_owned();
            Some(PathRewrite::ReplacePrefix { prefix, with: to.clone() })
        }
    };
    let host = match &route.host {
        config::HostPolicy::Keep => HostPolicy::Keep,
        config::HostPolicy::Upstream => HostPolicy::Upstream,
        config::HostPolicy::Fixed(name) => HostPolicy::Fixed(name.parse().map_err(|e| at(&e))?),
    };
    Ok(Route {
        facts: Arc::new(RouteFacts { name: route.name.clone().into(), upstreams: names }),
        metrics: metrics.route(&route.name),
        action,
        rewrite,
        host,
        pipeline,
        timeouts: Timeouts {
            request: route.timeouts.request,
            connect: route.timeouts.connect,
            first_byte: route.timeouts.first_byte,
            idle: route.timeouts.idle,
        },
        max_body: route.limits.body.map_or(u64::MAX, |size| size.0),
        upgrade: route.upgrade,
    })
}

fn scheme(scheme: config::Scheme) -> Scheme {
    match scheme {
        config::Scheme::Http => Scheme::HTTP,
        config::Scheme::Https => Scheme::HTTPS,
    }
}

/// The value of a `Host` field.
pub(crate) fn host_value(authority: &Authority) -> HeaderValue {
    HeaderValue::try_from(authority.as_str()).expect("an authority is visible ASCII")
}
