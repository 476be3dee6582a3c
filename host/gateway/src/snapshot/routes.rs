//! Routes of the configuration → the router and what each route does with a request.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, InvalidUri, Scheme};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::key;
use crate::config::{ConfigError, Loaded, model as config};
use crate::exchange::RouteFacts;
use crate::route::{
    FieldSpec, HostPattern, MatchSpec, PathPattern, PathRewrite, Redirect, RouteError, RouteSpec, Router, Template,
    ValuePattern,
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

/// Builds the router.
pub(super) fn router(loaded: &Loaded) -> Result<Router, Vec<ConfigError>> {
    let routes = &loaded.config.routes;
    let in_match = |route: &str, message: String| loaded.error_on(&key(&["routes", route, "match"]), message);
    let mut errors = Vec::new();
    let mut specs = Vec::with_capacity(routes.len());
    for route in routes {
        let matches = route.matches.iter().map(match_spec).collect::<Result<Vec<_>, _>>();
        match matches {
            Ok(matches) => {
                specs.push(RouteSpec { name: route.name.clone().into(), matches, priority: route.priority.into() })
            }
            Err(error) => errors.push(in_match(&route.name, error)),
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let shown = |error: RouteError| match &error {
        RouteError::NoMatch { route } | RouteError::Regex { route, .. } | RouteError::HeaderName { route, .. } => {
            in_match(route, error.to_string())
        }
        RouteError::Regexes { .. } => loaded.error_on(&key(&["routes"]), error.to_string()),
        RouteError::Duplicate { first, second } => {
            let place = loaded.locate(&key(&["routes", first])).map(|place| format!(" at {place}"));
            in_match(second, format!("{error}{}", place.unwrap_or_default()))
        }
    };
    Router::build(specs).map_err(|errors| errors.into_iter().map(shown).collect())
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
        config::Action::Redirect(to) => Action::Redirect {
            status: to.status,
            to: Redirect {
                scheme: to.scheme.map(scheme),
                host: to.host.clone(),
                port: to.port,
                path: match &to.path {
                    Some(path) => Some(PathRewrite::Template(Template::parse(path).map_err(|e| e.to_string())?)),
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
        Some(config::Rewrite::Path(path)) => {
            Some(PathRewrite::Template(Template::parse(path).map_err(|e| e.to_string())?))
        }
        Some(config::Rewrite::Prefix { from, to }) => {
            let from = from.as_deref().or_else(|| route.matches.first().and_then(|m| m.literal_prefix()));
            let prefix = from.unwrap_or("/").to_owned();
            Some(PathRewrite::ReplacePrefix { prefix, with: to.clone() })
        }
    };
    let host = match &route.host {
        config::HostPolicy::Keep => HostPolicy::Keep,
        config::HostPolicy::Upstream => HostPolicy::Upstream,
        config::HostPolicy::Fixed(name) => HostPolicy::Fixed(name.parse().map_err(|e: InvalidUri| e.to_string())?),
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
