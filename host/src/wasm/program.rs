//! A plugin with the config, limits and grants of one filter: what the pools of all workers make instances of.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tracing::debug;

use super::component::{self, Plugin};
use super::engine::Runtime;
use super::host::services::FilterServices;
use super::instance::Instance;
use super::state::FilterShared;
use super::stats::{Account, FilterStats};
use super::{FilterError, FilterLimits, Grants, HookSet, Interests, LoadError, Mode};
use crate::exchange::{Exchange, Origin, RequestHead, ResponseHead, RouteFacts};
use crate::services::log_limit::LogLimit;
use crate::services::{KeySet, Services};

/// How long one hook is tried at load.
const REHEARSAL: Duration = Duration::from_millis(200);

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
}

/// A filter that has taken its config in a trial.
pub struct Program {
    pub(super) plugin: Arc<Plugin>,
    pub(super) shared: Arc<FilterShared>,
    pub(super) account: Arc<Account>,
    interests: Interests,
    /// What an operator should know of the trial.
    warnings: Vec<String>,
    /// Held so that instances on workers find them and never wait for a fetch.
    _key_sets: Vec<Arc<KeySet>>,
}

impl Runtime {
    /// Compiles, links and describes a component. Slow: not for a worker, and not within an async runtime.
    pub fn load(self: &Arc<Self>, bytes: &[u8]) -> Result<Arc<Plugin>, LoadError> {
        let linked = Arc::new(component::link(self, bytes)?);
        if linked.exports.describe.is_none() {
            return Ok(linked);
        }
        let shared = Arc::new(FilterShared {
            name: "(describe)".into(),
            config: String::new(),
            mode: Mode::Fresh,
            limits: FilterLimits { memory: self.options.max_memory, ..FilterLimits::default() },
            grants: Grants::default(),
            services: None,
            exports: linked.exports.set(),
            log: LogLimit::default(),
            overran: AtomicBool::new(false),
        });
        let description = block_on(async {
            let mut instance = Instance::create(&linked, &shared).await.map_err(not_instantiated)?;
            instance.describe().await
        })?;
        let mut plugin = Arc::into_inner(linked).expect("the instance that shared it is gone");
        plugin.description = description;
        Ok(Arc::new(plugin))
    }
}

impl Program {
    /// Makes a trial instance and configures it. Slow: not for a worker, and not within an async runtime.
    pub fn new(plugin: Arc<Plugin>, spec: ProgramSpec) -> Result<Program, LoadError> {
        check_limits(&spec.limits, &plugin.runtime)?;
        let account = plugin.runtime.accounts.of(&spec.name);
        let shared = Arc::new(FilterShared {
            services: Some(FilterServices::new(&spec.services, &spec.plugin, &spec.name, &spec.grants.services)),
            name: spec.name,
            config: spec.config,
            mode: spec.mode,
            limits: spec.limits,
            grants: spec.grants,
            exports: plugin.exports.set(),
            log: LogLimit::default(),
            overran: AtomicBool::new(false),
        });
        let (interests, key_sets, warnings) = block_on(async {
            let mut instance = Instance::create(&plugin, &shared).await.map_err(not_instantiated)?;
            instance.resolve()?;
            instance.store.data_mut().is_trial = true;
            instance.configure().await.map_err(|error| match error {
                FilterError::Refused(reason) => LoadError::Refused(reason),
                other => LoadError::Configure(other),
            })?;
            let state = instance.store.data_mut();
            let (interests, key_sets) = (std::mem::take(&mut state.interests), std::mem::take(&mut state.key_sets));
            let warnings = rehearse(&plugin, &shared, interests.off).await;
            Ok((interests, key_sets, warnings))
        })?;
        Ok(Program { plugin, shared, account, interests, warnings, _key_sets: key_sets })
    }

    pub fn name(&self) -> &Arc<str> {
        &self.shared.name
    }

    pub fn plugin(&self) -> &Arc<Plugin> {
        &self.plugin
    }

    /// What `configure` declared in the trial; the same holds for every instance.
    pub fn interests(&self) -> &Interests {
        &self.interests
    }

    /// What was odd when its hooks were tried.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    pub fn limits(&self) -> &FilterLimits {
        &self.shared.limits
    }

    /// What calls of filters of this name have cost since the start of the process.
    pub fn stats(&self) -> FilterStats {
        self.account.sum()
    }
}

/// Calls every hook once for an exchange that is none, with no service in reach, and answers what is odd. Some toolchains build a
/// component with a hook missing, and it traps when it is called; since a good hook may trap on an empty message as well, that is
/// said and not refused. One that was refused a service before may have trapped because of that, so it is not even said.
async fn rehearse(plugin: &Arc<Plugin>, shared: &Arc<FilterShared>, off: HookSet) -> Vec<String> {
    let mut odd = Vec::new();
    for hook in shared.exports.iter().filter(|hook| !off.contains(*hook)) {
        let Ok(mut instance) = Instance::create(plugin, shared).await else { break };
        // Also for `configure`: it has said what it has to say in the trial before.
        instance.store.data_mut().is_rehearsal = true;
        if instance.configure().await.is_err() {
            break;
        }
        let call = instance.call_on_fiber(hook, nobodys_exchange(), 0);
        let Ok(Err(error @ FilterError::Trap(_))) = tokio::time::timeout(REHEARSAL, call).await else { continue };
        let filter = &shared.name;
        if instance.store.data().was_refused.get() {
            debug!(%filter, %hook, "the hook {error}, when tried on an empty message without services");
        } else {
            odd.push(format!(
                "filter `{filter}`: the hook {hook} {error}, when tried on an empty message: is it implemented?"
            ));
        }
    }
    odd
}

fn nobodys_exchange() -> Box<Exchange> {
    let request = RequestHead {
        method: http::Method::GET,
        scheme: http::uri::Scheme::HTTP,
        authority: http::uri::Authority::from_static("localhost"),
        target: http::uri::PathAndQuery::from_static("/"),
        version: http::Version::HTTP_11,
        headers: http::HeaderMap::new(),
    };
    let route = Arc::new(RouteFacts { name: "(trial)".into(), upstreams: Vec::new() });
    let id = http::HeaderValue::from_static("trial");
    let mut exchange = Exchange::new(id, std::net::Ipv4Addr::LOCALHOST.into(), request, route);
    let mut response = ResponseHead::new(Origin::Gateway, http::StatusCode::OK);
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
