//! The API under `/api/v1`: what the running gateway is made of, as JSON. Its types are the schemas of the OpenAPI document.

use std::collections::BTreeMap;
use std::time::SystemTime;

use schemars::JsonSchema;
use serde::Serialize;

use super::Context;
use super::problem::Problem;
use crate::config::model;
use crate::control::{self, Control};
use crate::filter::{FailurePolicy, Filter};
use crate::route::{MatchSpec, PathPattern};
use crate::snapshot::routes;

/// A time as RFC 3339 writes it, in UTC.
#[derive(Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(extend("format" = "date-time"))]
pub(super) struct Timestamp(String);

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        // Fails only for times that no clock shows.
        Timestamp(jiff::Timestamp::try_from(time).unwrap_or_default().to_string())
    }
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Status {
    /// The version of the gateway.
    version: &'static str,
    phase: Phase,
    /// When the process started.
    started: Timestamp,
    config_file: String,
    /// The running snapshot: 1 at the start, one more after each reload that was not refused.
    generation: u64,
    routes: usize,
    upstreams: usize,
    /// What makes the gateway refuse requests when it comes near its bound.
    overload: Vec<Resource>,
    /// None before the first.
    last_reload: Option<LastReload>,
}

/// A resource of the process that can have a bound in `gateway.overload`.
#[derive(Serialize, JsonSchema)]
struct Resource {
    /// `memory`, `connections` or `event-loop`.
    resource: &'static str,
    /// What is used of the bound; 0 without one.
    used_percent: u32,
    /// 0: no request is refused; 1: those of `sheddable` routes; 2: those of `standard` routes, too; 3: all.
    step: u8,
    /// Requests that were refused because of it.
    shed: u64,
}

/// `starting`, `serving`, or `draining` (finishing what is in flight).
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Phase {
    Starting,
    Serving,
    Draining,
}

/// How a reload went.
#[derive(Serialize, JsonSchema)]
pub(super) struct Reload {
    at: Timestamp,
    took_ms: u64,
    result: ReloadResult,
    /// Why it was refused, one line for each error.
    errors: Vec<String>,
    /// Keys that have changed but take effect only after a restart.
    restart_needed: Vec<String>,
}

/// How the last reload went, without its errors: they quote the file, and reading needs no token. The log has them.
#[derive(Serialize, JsonSchema)]
struct LastReload {
    at: Timestamp,
    took_ms: u64,
    result: ReloadResult,
    /// How many errors it was refused for.
    error_count: usize,
    /// Keys that have changed but take effect only after a restart.
    restart_needed: Vec<String>,
}

impl From<&control::Reload> for LastReload {
    fn from(reload: &control::Reload) -> Self {
        let Reload { at, took_ms, result, errors, restart_needed } = reload.into();
        LastReload { at, took_ms, result, error_count: errors.len(), restart_needed }
    }
}

/// A configuration that is `refused` leaves the running one in place.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum ReloadResult {
    Ok,
    Refused,
}

pub(super) fn status(context: &Context) -> Status {
    let snapshot = context.control.snapshot();
    Status {
        version: env!("CARGO_PKG_VERSION"),
        phase: match context.control.phase() {
            control::Phase::Starting => Phase::Starting,
            control::Phase::Serving => Phase::Serving,
            control::Phase::Draining => Phase::Draining,
        },
        started: context.started.into(),
        config_file: context.config_file.display().to_string(),
        generation: 1 + context.metrics.reloads.value(),
        routes: snapshot.routes.len(),
        upstreams: snapshot.upstreams.len(),
        overload: (context.control.overload())
            .map(|of| Resource { resource: of.resource.name(), used_percent: of.percent, step: of.step, shed: of.shed })
            .collect(),
        last_reload: context.control.last_reload().map(|reload| LastReload::from(&*reload)),
    }
}

/// Reloads and waits for the end of it.
pub(super) async fn reload(control: Control) -> Result<Reload, Problem> {
    let reload = control.reload().await.map_err(|ended| Problem::internal(ended.to_string()))?;
    match &reload.result {
        Ok(_) => Ok(Reload::from(&*reload)),
        Err(refused) => Err(Problem::refused(refused.0.clone())),
    }
}

impl From<&control::Reload> for Reload {
    fn from(reload: &control::Reload) -> Self {
        let (result, errors, restart_needed) = match &reload.result {
            Ok(report) => (ReloadResult::Ok, Vec::new(), report.restart_needed.clone()),
            Err(refused) => (ReloadResult::Refused, refused.0.clone(), Vec::new()),
        };
        let took_ms = u64::try_from(reload.took.as_millis()).unwrap_or(u64::MAX);
        Reload { at: reload.at.into(), took_ms, result, errors, restart_needed }
    }
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Routes {
    routes: Vec<Route>,
}

#[derive(Serialize, JsonSchema)]
struct Route {
    name: String,
    /// One of these has to match.
    matches: Vec<Match>,
    action: Action,
    /// The pipeline, in the order of requests.
    filters: Vec<String>,
    /// The weights were changed here and are not those of the configuration file: the next reload ends them.
    weights_until_reload: bool,
}

/// All conditions have to hold; an empty list is no condition.
#[derive(Serialize, JsonSchema)]
struct Match {
    listeners: Vec<String>,
    scheme: Option<String>,
    /// Server names of the TLS handshake.
    sni: Vec<String>,
    hosts: Vec<String>,
    /// A pattern such as `/orders/**`, or none where `path_regex` is used.
    path: Option<String>,
    path_regex: Option<String>,
    methods: Vec<String>,
    /// The names of headers, query parameters and cookies with a condition.
    headers: Vec<String>,
    query: Vec<String>,
    cookies: Vec<String>,
    client_ip: Vec<String>,
}

/// What answers.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Action {
    /// One of these upstreams.
    Forward(Vec<WeightedUpstream>),
    /// A redirect with this status.
    Redirect { status: u16 },
    /// A fixed response with this status.
    Respond { status: u16 },
}

#[derive(Serialize, JsonSchema)]
struct WeightedUpstream {
    upstream: String,
    /// Its share among the upstreams of the route.
    weight: u32,
}

pub(super) fn routes(context: &Context) -> Routes {
    let (config, snapshot) = (context.control.config(), context.control.snapshot());
    let route = |route: &model::Route| {
        let mut shown = Route::from(route);
        let running = snapshot.routes.iter().find(|running| *running.facts.name == *route.name);
        if let (model::Action::Forward(written), Some(routes::Action::Forward(split))) =
            (&route.action, running.map(|r| &r.action))
        {
            let weights = split.weights().into_iter();
            let weights = weights.map(|(name, weight)| WeightedUpstream { upstream: name.to_string(), weight });
            shown.action = Action::Forward(weights.collect());
            shown.weights_until_reload = split.differs_from(written);
        }
        shown
    };
    Routes { routes: config.routes.iter().map(route).collect() }
}

impl From<&model::Route> for Route {
    fn from(route: &model::Route) -> Self {
        Route {
            name: route.name.to_string(),
            matches: route.matches.iter().map(Match::from).collect(),
            action: match &route.action {
                model::Action::Forward(upstreams) => Action::Forward(
                    upstreams
                        .iter()
                        .map(|(name, weight)| WeightedUpstream { upstream: name.to_string(), weight: *weight })
                        .collect(),
                ),
                model::Action::Redirect { status, .. } => Action::Redirect { status: status.as_u16() },
                model::Action::Respond { status, .. } => Action::Respond { status: status.as_u16() },
            },
            filters: route.pipeline.iter().flat_map(model::Step::filters).map(ToString::to_string).collect(),
            weights_until_reload: false,
        }
    }
}

impl From<&MatchSpec> for Match {
    fn from(found: &MatchSpec) -> Self {
        let path = found.path.to_string();
        let (path, path_regex) = match found.path {
            PathPattern::Segments { .. } => (Some(path), None),
            PathPattern::Regex(_) => (None, Some(path)),
        };
        Match {
            listeners: found.listeners.iter().map(ToString::to_string).collect(),
            scheme: found.scheme.as_ref().map(ToString::to_string),
            sni: found.sni.iter().map(ToString::to_string).collect(),
            hosts: found.hosts.iter().map(ToString::to_string).collect(),
            path,
            path_regex,
            methods: found.methods.iter().map(ToString::to_string).collect(),
            headers: found.headers.iter().map(|field| field.name.to_string()).collect(),
            query: found.query.iter().map(|field| field.name.clone()).collect(),
            cookies: found.cookies.iter().map(|field| field.name.clone()).collect(),
            client_ip: found.client_ip.iter().map(ToString::to_string).collect(),
        }
    }
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Plugins {
    plugins: Vec<Plugin>,
}

#[derive(Serialize, JsonSchema)]
struct Plugin {
    /// Its name in the configuration.
    name: String,
    /// What the component says of itself.
    version: Option<String>,
    description: Option<String>,
    /// Of the component file, in hexadecimal.
    sha256: String,
    /// The hooks that the component exports.
    hooks: Vec<&'static str>,
    /// The filters that use it.
    filters: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Filters {
    filters: Vec<FilterStatus>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Filter")]
struct FilterStatus {
    name: String,
    plugin: String,
    /// The hooks at which it is called.
    hooks: Vec<&'static str>,
    on_error: OnError,
    /// Live instances, on all workers.
    instances: u64,
    /// Calls since it was loaded, of all hooks.
    calls: u64,
    /// Calls without a verdict.
    failures: u64,
}

/// What happens to a request when the filter fails: it is refused, or goes on as if the filter were not there.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum OnError {
    Closed,
    Open,
}

pub(super) fn plugins(context: &Context) -> Plugins {
    let mut found: BTreeMap<String, Plugin> = BTreeMap::new();
    each_filter(context, |filter| {
        let plugin = found.entry(filter.plugin_name().to_string()).or_insert_with(|| {
            let plugin = filter.plugin();
            let about = plugin.description();
            Plugin {
                name: filter.plugin_name().to_string(),
                version: about.version.clone(),
                description: about.description.clone(),
                sha256: plugin.sha256(),
                hooks: plugin.hooks().iter().map(|hook| hook.name()).collect(),
                filters: Vec::new(),
            }
        });
        plugin.filters.push(filter.name().to_string());
    });
    Plugins { plugins: found.into_values().collect() }
}

pub(super) fn filters(context: &Context) -> Filters {
    let mut filters = Vec::new();
    each_filter(context, |filter| {
        let stats = filter.stats();
        filters.push(FilterStatus {
            name: filter.name().to_string(),
            plugin: filter.plugin_name().to_string(),
            hooks: filter.hooks().iter().map(|hook| hook.name()).collect(),
            on_error: match filter.failure() {
                FailurePolicy::Closed => OnError::Closed,
                FailurePolicy::Open => OnError::Open,
            },
            instances: stats.instances,
            calls: stats.hooks.iter().map(|hook| hook.calls).sum(),
            failures: stats.hooks.iter().flat_map(|hook| hook.failures).sum(),
        });
    });
    Filters { filters }
}

/// Each filter of the pipelines once, by name.
fn each_filter(context: &Context, visit: impl FnMut(&Filter)) {
    let snapshot = context.control.snapshot();
    let filters: BTreeMap<&str, &Filter> = snapshot
        .pipelines
        .iter()
        .flat_map(|pipeline| pipeline.filters())
        .map(|filter| (&**filter.name(), &**filter))
        .collect();
    filters.into_values().for_each(visit);
}
