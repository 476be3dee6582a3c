//! A plugin with the config, limits and grants of one filter: what the pools of all workers make instances of.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tracing::{debug, info};

use super::image::{Image, Opened};
use super::instance::Instance;
use super::plugin::Plugin;
use super::warm::{Spares, by_cost};
use crate::call::cpu::thread_time;
use crate::call::services::FilterServices;
use crate::call::state::{FilterShared, HostResources};
use crate::exchange::{Candidate, Candidates, Exchange, RequestHead, ResponseHead, ResponseSource, RouteFacts};
use crate::filter::stats::Account;
use crate::filter::{
    BodyInterest, CallMode, FilterError, FilterLimits, FilterStats, Grants, Hook, HookSet, Interests, LoadError, Mode,
    Phase,
};
use crate::load::Runtime;
use sluice_services::log_limit;
use sluice_services::state::Place;
use sluice_services::{KeySet, Services};

/// How long one hook is tried at load. Its CPU time has a limit of its own.
const REHEARSAL: Duration = Duration::from_secs(2);
/// A hook that overran its CPU time is tried again with so many times as much, and with no more than [`MAX_PATIENCE`]: whether it took
/// a little too long depends on the machine, and whether it ends does not.
const PATIENCE: u32 = 20;
const MAX_PATIENCE: Duration = Duration::from_secs(1);
/// How often a hook is tried once more before it is called slow.
const AGAIN: usize = 2;

/// How a filter uses a plugin.
pub struct ProgramSpec {
    /// The filter's name.
    pub name: Arc<str>,
    /// Its config: the JSON text of its table.
    pub config: String,
    pub mode: Mode,
    pub limits: FilterLimits,
    pub grants: Grants,
    /// The plugin's name: counters and values are private to it.
    pub plugin: Arc<str>,
    pub services: Arc<Services>,
    /// The file of the plugin, of which fresh instances are given an image; without it each is configured.
    pub component: Option<Arc<[u8]>>,
}

/// A filter that has taken its config in a trial.
pub struct Program {
    pub(crate) plugin: Arc<Plugin>,
    pub(crate) shared: Arc<FilterShared>,
    pub(crate) account: Arc<Account>,
    /// Of a fresh filter, if one could be made.
    pub(crate) image: Option<Image>,
    /// Instances that were made ahead of need.
    pub(crate) spares: Spares,
    /// CPU time of making an instance, the least that was seen.
    cost: Duration,
    interests: Interests,
    /// What an operator should know of the trial.
    warnings: Vec<String>,
    /// Hooks that failed in the trial through the filter's own fault, and how.
    failures: Vec<String>,
    /// Held so that instances on workers find them and never wait for a fetch.
    key_sets: Vec<Arc<KeySet>>,
}

impl Runtime {
    /// Compiles, links and describes a component. Slow: not for a worker, and not within an async runtime.
    pub fn load(self: &Arc<Self>, bytes: &[u8]) -> Result<Arc<Plugin>, LoadError> {
        self.load_for("plugin", bytes, CallMode::Auto)
    }

    /// The same, for calls of this kind. The log has the name while it is compiled.
    pub fn load_for(self: &Arc<Self>, name: &str, bytes: &[u8], mode: CallMode) -> Result<Arc<Plugin>, LoadError> {
        self.load_in(name, bytes, mode, None)
    }

    /// The same, with its limits and values in this place.
    pub fn load_in(
        self: &Arc<Self>,
        name: &str,
        bytes: &[u8],
        mode: CallMode,
        place: Option<Place>,
    ) -> Result<Arc<Plugin>, LoadError> {
        let mut plugin = Plugin::link(self, name, bytes, mode, place)?;
        if !plugin.code.describes() {
            return Ok(Arc::new(plugin));
        }
        let shared = Arc::new(FilterShared {
            name: "(describe)".into(),
            config: String::new(),
            mode: Mode::Fresh,
            limits: FilterLimits { memory: self.options.max_memory, ..FilterLimits::default() },
            grants: Grants::default(),
            services: None,
            budget: self.options.budget.clone(),
            exports: plugin.hooks(),
            log: Arc::default(),
            on_fiber: AtomicBool::new(plugin.waits()),
            was_cut: AtomicBool::new(false),
            observer: None,
        });
        plugin.description = block_on(async {
            let instance = Instance::create(self, &plugin.code, &shared, Box::default()).await;
            instance.map_err(not_instantiated)?.describe().await
        })?;
        Ok(Arc::new(plugin))
    }
}

impl Program {
    /// Makes a trial instance and configures it. Slow: not for a worker, and not within an async runtime.
    pub fn new(plugin: Arc<Plugin>, spec: ProgramSpec) -> Result<Program, LoadError> {
        check_limits(&spec.limits, &plugin.runtime)?;
        let account = plugin.runtime.accounts.of(&spec.name);
        let (services, granted) = (&spec.services, &spec.grants.services);
        let shared = Arc::new(FilterShared {
            services: Some(FilterServices::new(services, &spec.plugin, &spec.name, granted, plugin.place())),
            budget: plugin.runtime.options.budget.clone(),
            name: spec.name,
            config: spec.config,
            mode: spec.mode,
            limits: spec.limits,
            grants: spec.grants,
            exports: plugin.hooks(),
            log: account.log(),
            on_fiber: AtomicBool::new(plugin.waits()),
            was_cut: AtomicBool::new(false),
            observer: plugin.runtime.options.observer.clone(),
        });
        let opened = (spec.mode == Mode::Fresh).then(|| match &spec.component {
            Some(bytes) => Opened::new(&plugin, &format!("image of filter `{}`", shared.name), bytes),
            None => Err("its component is not at hand".into()),
        });
        let cost = Cell::new(Duration::MAX);
        let (interests, key_sets, image, trial) = block_on(async {
            let begun = thread_time();
            let (mut instance, opened) = trial_instance(&plugin, &shared, opened).await?;
            instance.resolve()?;
            instance.configure().await.map_err(|error| match error {
                FilterError::Refused(reason) => LoadError::Refused(reason),
                other => LoadError::Configure(other),
            })?;
            cost.set(thread_time().saturating_sub(begun));
            let state = instance.store.data_mut();
            state.flush_output();
            let (interests, key_sets) = (std::mem::take(&mut state.interests), state.resources.key_sets.clone());
            let image = match opened {
                Some(Ok(opened)) => Some(opened.image(instance).await),
                Some(Err(why)) => Some(Err(why)),
                None => None,
            };
            let image = image.and_then(|image| image.inspect_err(|reason| no_image(&shared.name, reason)).ok());
            let mut trial = rehearse(&plugin, &shared, (image.as_ref(), &cost), interests.off).await;
            trial.warnings.extend(plugin.unknown_hooks().into_iter().map(|hook| {
                format!(
                    "filter `{}`: its hook `{}` is of a later version of the interface and is never called",
                    shared.name,
                    log_limit::cut(&hook)
                )
            }));
            trial.warnings.extend(cut_interests(&shared.name, &interests));
            Ok((interests, key_sets, image, trial))
        })?;
        // Without the image that was not waited for, it would be another program.
        if plugin.runtime.interrupt().was_heeded() {
            return Err(LoadError::Interrupted);
        }
        let Trial { warnings, failures } = trial;
        let (spares, cost) = (Spares::default(), cost.get());
        Ok(Program { plugin, shared, account, image, spares, cost, interests, warnings, failures, key_sets })
    }

    /// It goes live. Makes an instance for the first call of a worker, if that is worth it and there is time, and says whether. Slow: not for a
    /// worker, and not within an async runtime.
    pub fn prewarm(&self, is_time: bool) -> Result<bool, FilterError> {
        let warm = self.shared.limits.warm.unwrap_or_else(|| by_cost(self.cost));
        self.spares.go_live(warm);
        if warm == 0 || !is_time {
            return Ok(false);
        }
        self.spares.push(self.start_ahead()?);
        Ok(true)
    }

    /// An instance that has the config, made on this thread. Not within an async runtime.
    pub(crate) fn start_ahead(&self) -> Result<Box<Instance>, FilterError> {
        let started = block_on(async { Ok(self.start(Image::resources).await) });
        let mut instance = started.map_err(|error| FilterError::Instantiate(error.to_string()))??;
        instance.memory_at_first = instance.store.data().memory.bytes;
        Ok(Box::new(instance))
    }

    /// An instance that has the config, when there is no idle one. Has to be awaited within tokio.
    pub(crate) async fn start(
        &self,
        resources: impl FnOnce(&Image) -> Box<HostResources>,
    ) -> Result<Instance, FilterError> {
        if let Some(image) = &self.image {
            return image.instance(&self.shared, resources(image)).await;
        }
        let plugin = &self.plugin;
        let mut instance = Instance::create(&plugin.runtime, &plugin.code, &self.shared, Box::default()).await?;
        instance.configure().await?;
        Ok(instance)
    }

    pub fn name(&self) -> &Arc<str> {
        &self.shared.name
    }

    pub fn plugin(&self) -> &Arc<Plugin> {
        &self.plugin
    }

    /// The key sets that `configure` has declared. They are held for as long as the program is, so that its instances find them.
    pub fn key_sets(&self) -> &[Arc<KeySet>] {
        &self.key_sets
    }

    /// Whether a further hook is likely to be called for an exchange, in which the filter has position `index`, before its response is
    /// sent. Sending may take hours.
    pub(crate) fn is_called_behind(&self, hook: Hook, exchange: &Exchange, index: usize) -> bool {
        let interests = &self.interests;
        // While the body goes to the upstream, the exchange of its hooks is another one.
        if hook.phase() == Phase::RequestPiece {
            return false;
        }
        let mut behind = self.shared.exports.iter().filter(|other| other.index() > hook.index());
        behind.any(|other| {
            !interests.off.contains(other)
                && match other.phase() {
                    Phase::RequestBody => {
                        interests.request_body.is_some()
                            || exchange.request_body_wish.is_some_and(|wish| wish.filter == index)
                    }
                    Phase::ResponseBody => {
                        interests.response_body.is_some()
                            || exchange.response_body_wishes.iter().any(|wish| wish.filter == index)
                    }
                    Phase::RequestHead | Phase::Selection | Phase::ResponseHead => true,
                    Phase::RequestPiece
                    | Phase::ResponsePiece
                    | Phase::ResponseEvent
                    | Phase::ResponseTrailers
                    | Phase::Completion => false,
                }
        })
    }

    /// What `configure` declared in the trial; the same holds for every instance.
    pub fn interests(&self) -> &Interests {
        &self.interests
    }

    /// What was odd when its hooks were tried, beside failures.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Hooks that failed when they were tried, and how. Requests without anything special would fail in the same way.
    pub fn trial_failures(&self) -> &[String] {
        &self.failures
    }

    pub fn limits(&self) -> &FilterLimits {
        &self.shared.limits
    }

    /// What calls of filters of this name have cost since the start of the process.
    pub fn stats(&self) -> FilterStats {
        let mut sum = self.account.sum();
        sum.instances += self.spares.count() as u64;
        sum
    }
}

/// An instance for the trial: of the opened component, so that there can be an image of it, or else of the plugin.
async fn trial_instance<'a>(
    plugin: &Arc<Plugin>,
    shared: &Arc<FilterShared>,
    mut opened: Option<Result<Opened<'a>, String>>,
) -> Result<(Instance, Option<Result<Opened<'a>, String>>), LoadError> {
    if let Some(Ok(code)) = &opened {
        match code.instance(shared).await {
            Ok(instance) => return Ok((instance, opened)),
            Err(error) => opened = Some(Err(error.to_string())),
        }
    }
    let instance = Instance::create(&plugin.runtime, &plugin.code, shared, Box::default()).await;
    Ok((instance.map_err(not_instantiated)?, opened))
}

fn no_image(filter: &str, reason: &str) {
    // It may quote names of the guest.
    let reason = log_limit::cut(reason);
    info!(filter, reason, "each instance of this fresh filter is started and configured: there is no image of it");
}

/// How the instances of a trial are made, and the least CPU time that making one has taken: the first pays for what all have in common.
type Made<'a> = (Option<&'a Image>, &'a Cell<Duration>);

/// What was found when the hooks of a filter were tried.
#[derive(Default)]
struct Trial {
    warnings: Vec<String>,
    failures: Vec<String>,
}

/// Calls every hook once for a synthetic exchange, with no service in reach. The message is one that any client can send, so a hook that
/// fails on it fails for requests too. Some toolchains build a component with a hook missing, and it traps when it is called. A hook that
/// was refused a service before it failed may have failed because of that, so nothing is said of it.
async fn rehearse(plugin: &Arc<Plugin>, shared: &Arc<FilterShared>, made: Made<'_>, off: HookSet) -> Trial {
    let mut trial = Trial::default();
    for hook in shared.exports.iter().filter(|hook| !off.contains(*hook)) {
        let limit = shared.limits.cpu;
        let Some(first) = rehearse_hook(plugin, shared, made, hook, limit).await else { continue };
        let patience = (limit * PATIENCE).min(MAX_PATIENCE).max(limit);
        let error = match first {
            FilterError::Deadline(_) => match rehearse_hook(plugin, shared, made, hook, patience).await {
                Some(error) => error,
                None => {
                    if is_slow(plugin, shared, made, hook).await {
                        trial.warnings.push(format!(
                            "filter `{}`: the hook {hook} {first}, when tried on an empty message",
                            shared.name
                        ));
                    }
                    continue;
                }
            },
            error => error,
        };
        trial.failures.push(format!("the hook {hook} {error}"));
    }
    trial
}

/// Whether a hook that once took too long does so each time. What else the machine does may have slowed it down that once.
async fn is_slow(plugin: &Arc<Plugin>, shared: &Arc<FilterShared>, made: Made<'_>, hook: Hook) -> bool {
    for _ in 0..AGAIN {
        let error = rehearse_hook(plugin, shared, made, hook, shared.limits.cpu).await;
        if !matches!(error, Some(FilterError::Deadline(_))) {
            return false;
        }
    }
    true
}

/// How a hook fails when it is called on an instance of its own; none where it does not fail, or not through a fault of the filter.
async fn rehearse_hook(
    plugin: &Arc<Plugin>,
    shared: &Arc<FilterShared>,
    (image, cost): Made<'_>,
    hook: Hook,
    cpu: Duration,
) -> Option<FilterError> {
    let begun = thread_time();
    let instance = match image {
        Some(image) => image.instance(shared, image.resources()).await,
        None => Instance::create(&plugin.runtime, &plugin.code, shared, Box::default()).await,
    };
    let mut instance = instance.ok()?;
    // Also for `configure`: it has said what it has to say in the trial before.
    instance.store.data_mut().is_rehearsal = true;
    if image.is_none() {
        instance.configure().await.ok()?;
    }
    cost.set(cost.get().min(thread_time().saturating_sub(begun)));
    let call = instance.rehearse(hook, synthetic_exchange(), cpu);
    let error = tokio::time::timeout(REHEARSAL, call).await.ok()?.err()?;
    let is_fault = match error {
        FilterError::Trap(_)
        | FilterError::Deadline(_)
        | FilterError::Memory(_)
        | FilterError::Table(_)
        | FilterError::BadAnswer(_) => true,
        // A filter may well declare that it can do nothing with an empty message; the rest is not of its doing.
        FilterError::Declared(_)
        | FilterError::Timeout(_)
        | FilterError::Busy { .. }
        | FilterError::NoTurn(_)
        | FilterError::OutOfMemory { .. }
        | FilterError::Refused(_)
        | FilterError::Instantiate(_) => false,
    };
    if is_fault && instance.store.data().was_refused.get() {
        debug!(filter = %shared.name, %hook, "the hook {error}, when tried on an empty message without services");
        return None;
    }
    is_fault.then_some(error)
}

/// Larger bodies than the operator allows.
fn cut_interests(filter: &str, interests: &Interests) -> impl Iterator<Item = String> {
    let bodies = [("request", &interests.request_body), ("response", &interests.response_body)];
    let cut =
        bodies.into_iter().filter_map(|(kind, interest)| Some((kind, interest.as_ref()?))).filter(|(_, i)| i.is_cut());
    cut.map(move |(kind, BodyInterest { asked_bytes, max_bytes, .. })| {
        format!("filter `{filter}` asks for {kind} bodies of up to {asked_bytes} bytes, and its `limits.body` allows {max_bytes}: larger ones are refused")
    })
}

fn synthetic_exchange() -> Box<Exchange> {
    let request = RequestHead {
        method: http::Method::GET,
        scheme: http::uri::Scheme::HTTP,
        authority: http::uri::Authority::from_static("localhost"),
        target: http::uri::PathAndQuery::from_static("/"),
        version: http::Version::HTTP_11,
        headers: http::HeaderMap::new(),
    };
    let name: Arc<str> = "(trial)".into();
    let route = Arc::new(RouteFacts { name: name.clone(), upstreams: vec![name.clone()], snapshot: 0 });
    let id = http::HeaderValue::from_static("trial");
    let mut exchange = Exchange::new(id, std::net::Ipv4Addr::LOCALHOST.into(), request, route);
    // A route that chooses an upstream has one.
    let endpoint = Candidate {
        upstream: name,
        address: "127.0.0.1:80".into(),
        weight: 1,
        healthy: true,
        active: 0,
        latency_us: 0,
        labels: Arc::default(),
        out: Vec::new(),
        ewma_us: 0,
    };
    exchange.candidates = Candidates::fixed(vec![endpoint]);
    let mut response = ResponseHead::new(ResponseSource::Gateway, http::StatusCode::OK);
    response.body = Some(bytes::Bytes::new());
    response.trailers = Some(http::HeaderMap::new());
    exchange.response = Some(Box::new(response));
    exchange.request_body = Some(bytes::Bytes::new());
    exchange
}

fn not_instantiated(error: FilterError) -> LoadError {
    LoadError::Instantiate(match error {
        FilterError::Instantiate(text) => text,
        other => other.to_string(),
    })
}

/// Limits that the engine's pool can't hold are refused, not cut.
fn check_limits(limits: &FilterLimits, runtime: &Runtime) -> Result<(), LoadError> {
    let options = &runtime.options;
    if limits.memory > options.max_memory {
        return Err(LoadError::Limit(format!("memory {} is over {}", limits.memory, options.max_memory)));
    }
    if limits.table_elements > options.max_table_elements {
        let (asked, most) = (limits.table_elements, options.max_table_elements);
        return Err(LoadError::Limit(format!("table elements {asked} is over {most}")));
    }
    if limits.max_instances == 0 {
        return Err(LoadError::Limit("at least one instance is needed".into()));
    }
    Ok(())
}

/// Runs a trial on this thread.
fn block_on<T>(trial: impl Future<Output = Result<T, LoadError>>) -> Result<T, LoadError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.map_err(|e| LoadError::Instantiate(format!("no runtime for the trial: {e}")))?;
    runtime.block_on(trial)
}
